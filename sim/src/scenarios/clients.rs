//! What clients are told: requests that are passed on, errors that are definite, connections that stay usable.

use std::time::Duration;

use quorate::resp::Reply;
use tokio::time::sleep;

use crate::history::{Act, Cmd, Outcome, Ret};
use crate::machine::Power;

use super::Ended;
use super::script::{COUNTER, NOTES, Stage, expect, say, text_of};

/// Two members that both think the other leads could send a request in circles, and each could run it.
pub async fn a_request_passed_on_during_hand_overs_runs_once(s: Stage) -> Ended {
    let mut tasks = Vec::new();
    for machine in s.numbers() {
        let stage = s.clone();
        tasks.push(tokio::spawn(async move {
            let mut caller = stage.client(machine);
            let (mut done, mut unknown) = (0, 0);
            for _ in 0..60 {
                let began = stage.run.story.now();
                match caller.ask(COUNTER, Act::Incr(1)).await {
                    Outcome::Done(_) => done += 1,
                    Outcome::Unknown(_) => unknown += 1,
                    _ => {}
                }
                let took = stage.run.story.now() - began;
                expect(took < Duration::from_secs(4), format!("an answer took {took:?}"))?;
                sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, String>((done, unknown))
        }));
    }
    for turn in 0..9 {
        let next = 1 + turn % s.numbers().len();
        // Away and back at once: whoever heard of the first only passes on to the wrong one.
        s.hand_over(next).await?;
        s.wait(40).await;
    }
    let (mut done, mut unknown) = (0, 0);
    for task in tasks {
        let (d, u) = task.await.map_err(|error| error.to_string())??;
        done += d;
        unknown += u;
    }
    let leader = s.leader().await?;
    let Outcome::Done(rets) = s.client(leader).ask(COUNTER, Act::Get).await else { return Err("no read".into()) };
    let count: i64 = text_of(&rets).parse().unwrap_or(0);
    expect(done > 100, format!("only {done} were acknowledged"))?;
    expect((done..=done + unknown).contains(&count), format!("{done} acknowledged, {unknown} unknown, {count} counted"))
}

/// An error that says "failed" must not be followed by the write.
pub async fn a_write_that_failed_never_appears(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let mut here = s.client(leader);
    let kept = here.write(NOTES).await?;
    for other in s.others(leader) {
        s.kill(other)?;
    }
    let mut failed = Vec::new();
    let mut told = Vec::new();
    for _ in 0..4 {
        let (text, outcome) = here.try_write(NOTES).await;
        expect(!matches!(outcome, Outcome::Done(_)), "one of three members acknowledged a write")?;
        told.push(outcome.to_string());
        if matches!(outcome, Outcome::Failed(_)) {
            failed.push(text);
        }
    }
    expect(!failed.is_empty(), format!("nothing was refused for certain: {told:?}"))?;
    for other in s.others(leader) {
        s.start(other)?;
    }
    s.leader().await?;
    let kept = [kept, here.write(NOTES).await?];
    s.wait(500).await;
    here.must_find(NOTES, &kept).await?;
    let found = here.read(NOTES).await?;
    expect(!failed.iter().any(|text| found.contains(text.as_str())), format!("{failed:?} had failed; there is {found}"))
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
    let mut tasks = Vec::new();
    for number in 0..8usize {
        let stage = s.clone();
        tasks.push(tokio::spawn(async move {
            let mut caller = stage.client(proxy).with_patience(1500);
            let mut done = 0;
            for _ in 0..40 {
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
    for _ in 0..2 {
        s.wait(250).await;
        let leader = s.leader().await?;
        if leader != proxy {
            s.kill(leader)?;
            s.wait(400).await;
            s.start(leader)?;
        }
    }
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
