//! What clients are told: requests that are passed on, errors that are definite, connections that stay usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use quorate::resp::Reply;
use tokio::time::sleep;

use crate::history::{Act, Cmd, Outcome, Ret};
use crate::machine::Power;

use super::Ended;
use super::script::{NOTES, Stage, expect, say};

/// Two members that both think the other leads could send a request in circles, and each could run it.
pub async fn a_request_passed_on_during_hand_overs_runs_once(s: Stage) -> Ended {
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for machine in s.numbers().repeat(2) {
        let (stage, stop) = (s.clone(), over.clone());
        tasks.push(tokio::spawn(async move {
            let mut caller = stage.client(machine);
            let (mut done, mut unknown) = (Vec::new(), Vec::new());
            while !stop.load(Relaxed) {
                let began = stage.run.story.now();
                match caller.try_write(NOTES).await {
                    (text, Outcome::Done(_)) => done.push(text),
                    (text, Outcome::Unknown(_)) => unknown.push(text),
                    _ => {}
                }
                let took = stage.run.story.now() - began;
                expect(took < Duration::from_secs(4), format!("an answer took {took:?}"))?;
                sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, String>((done, unknown))
        }));
    }
    for turn in 0..9 {
        let (from, to) = (s.leader().await?, 1 + turn % 3);
        s.hand_over(to).await?;
        // Back at once: whoever has heard of the first change only passes on to the wrong one.
        s.hand_over(from).await?;
        if turn % 3 == 1 {
            // What was passed on is with it by then, and its answers are not back.
            s.wait(60).await;
            s.kill(from)?;
            s.leader_besides(from).await?;
            s.start(from)?;
            s.serves(from).await?;
        }
        s.wait(40).await;
    }
    over.store(true, Relaxed);
    let (mut done, mut unknown) = (Vec::new(), Vec::new());
    for task in tasks {
        let (d, u) = task.await.map_err(|error| error.to_string())??;
        done.extend(d);
        unknown.extend(u);
    }
    let leader = s.leader().await?;
    let found = s.client(leader).read(NOTES).await?;
    let times = |text: &String| found.split_inclusive(';').filter(|part| part == text).count();
    expect(done.len() > 100, format!("only {} were acknowledged", done.len()))?;
    expect(!unknown.is_empty(), "the outcome of every request was known")?;
    let wrong = done.iter().filter(|text| times(text) != 1).chain(unknown.iter().filter(|text| times(text) > 1));
    let wrong: Vec<_> = wrong.map(|text| (text, times(text))).collect();
    expect(wrong.is_empty(), format!("these are there so often: {wrong:?}"))
}

/// An error that says "failed" must not be followed by the write.
pub async fn a_write_that_failed_never_appears(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let mut here = s.client(leader);
    let kept = here.write(NOTES).await?;
    for other in s.others(leader) {
        s.kill(other)?;
    }
    let (mut failed, mut unknown) = (Vec::new(), Vec::new());
    let mut told = Vec::new();
    for _ in 0..4 {
        let (text, outcome) = here.try_write(NOTES).await;
        expect(!matches!(outcome, Outcome::Done(_)), "one of three members acknowledged a write")?;
        told.push(outcome.to_string());
        match outcome {
            Outcome::Failed(_) => failed.push(text),
            _ => unknown.push(text),
        }
    }
    expect(!failed.is_empty(), format!("nothing was refused for certain: {told:?}"))?;
    // Two of three, and this one has the longer log: it leads again, with all that had reached its log.
    let others = s.others(leader);
    s.start(others[0])?;
    let kept = [kept, here.write(NOTES).await?];
    let found = here.read(NOTES).await?;
    let none = |texts: &[String]| !texts.iter().any(|text| found.contains(text.as_str()));
    expect(none(&failed), format!("{failed:?} had failed; there is {found}"))?;
    expect(!none(&unknown), format!("nothing of unknown outcome had reached the log: {told:?}; there is {found}"))?;
    s.start(others[1])?;
    s.serves(others[1]).await?;
    s.wait(500).await;
    s.client(others[1]).must_find(NOTES, &kept).await
}

/// A transaction that can't be carried out must not leave the connection inside of MULTI.
pub async fn a_failed_exec_leaves_the_connection_usable(s: Stage) -> Ended {
    let leader = s.leader().await?;
    for machine in [leader, s.others(leader)[0]] {
        let mut connection = s.connection(machine).await?;
        let queued = say(&mut connection, &["MULTI"]).await?;
        expect(queued.error().is_none(), format!("MULTI answered {queued:?}"))?;
        say(&mut connection, &["SET", "t:a", "1"]).await?;
        let away: Vec<usize> = s.others(machine);
        for other in &away {
            s.kill(*other)?;
        }
        let exec = say(&mut connection, &["EXEC"]).await?;
        expect(exec.error().is_some(), format!("EXEC answered {exec:?} without a majority"))?;
        let discard = say(&mut connection, &["DISCARD"]).await?;
        expect(discard.error().is_some(), format!("still inside of MULTI: DISCARD answered {discard:?}"))?;
        let ping = say(&mut connection, &["PING"]).await?;
        expect(ping == Reply::Simple("PONG".into()), format!("PING answered {ping:?}"))?;
        for other in away {
            s.start(other)?;
            s.serves(other).await?;
        }
        s.leader().await?;
        let set = say(&mut connection, &["SET", "t:b", "2"]).await?;
        expect(set == Reply::Simple("OK".into()), format!("SET answered {set:?} when all was well again"))?;
    }
    Ok(())
}

/// Transactions of many clients behind one follower, while leaders die: nobody gets another one's reply.
pub async fn replies_behind_one_proxy_reach_their_clients(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let proxy = s.others(leader)[0];
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..8usize {
        let (stage, stop) = (s.clone(), over.clone());
        tasks.push(tokio::spawn(async move {
            let mut caller = stage.client(proxy).with_patience(1500);
            let mut done = 0;
            while !stop.load(Relaxed) {
                let (mine, key) = (caller.text(), (number % 3) as u8);
                let cmds = vec![Cmd { key, act: Act::Append(mine.clone()) }, Cmd { key, act: Act::Get }];
                if let Outcome::Done(rets) = caller.transaction(NOTES + 1, cmds).await {
                    let last = matches!(&rets[1], Ret::Text(text) if text.ends_with(&mine));
                    expect(last, format!("wrote {mine} and read {} in one transaction", rets[1]))?;
                    done += 1;
                }
                sleep(Duration::from_millis(15)).await;
            }
            Ok::<_, String>(done)
        }));
    }
    for round in 0..2 {
        // Whoever led has died: it may be the proxy itself that leads now, and then it passes nothing on.
        let leader = s.others(proxy)[round];
        s.hand_over(leader).await?;
        s.wait(250).await;
        expect(s.leader().await? == leader, "another one leads")?;
        s.kill(leader)?;
        s.leader_besides(leader).await?;
        s.wait(200).await;
        s.start(leader)?;
        s.serves(leader).await?;
    }
    over.store(true, Relaxed);
    let mut done = 0;
    for task in tasks {
        done += task.await.map_err(|error| error.to_string())??;
    }
    expect(done > 100, format!("only {done} transactions were answered"))
}

/// In redirect mode a follower names the leader, and does nothing itself.
pub async fn a_redirected_client_finds_the_leader(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let follower = s.others(leader)[0];
    let (text, refused) = s.client(follower).try_write(NOTES).await;
    let Outcome::Failed(words) = &refused else { return Err(format!("a follower answered a write with {refused}")) };
    let address = s.machine(leader)?.address(crate::machine::CLIENT_PORT);
    expect(words.starts_with("MOVED ") && words.ends_with(&address), format!("it said {words}; {address} leads"))?;
    let kept = s.client(leader).write(NOTES).await?;
    expect(*s.machine(follower)?.power.lock() == Power::On, "the follower is gone")?;
    let found = s.client(leader).read(NOTES).await?;
    expect(found.contains(&kept) && !found.contains(&text), format!("refused {text}, acknowledged {kept}: {found}"))
}
