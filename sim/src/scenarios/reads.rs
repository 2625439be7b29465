//! What reads may show: never what is old already, never nothing where there is something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use quorate::resp::Reply;
use tokio::time::sleep;

use crate::history::{Act, Outcome, Ret};

use super::Ended;
use super::script::{EXPIRING, NOTES, Stage, expect, say, text_of};

/// The leader stands still, another one is elected and written to; a read waits at the old one's door meanwhile.
pub async fn a_leader_that_slept_serves_no_stale_read(s: Stage) -> Ended {
    for extra in [0, 1, 7, 30, 200, 2000] {
        let old = s.leader().await?;
        let mut reader = s.client(old);
        reader.write(NOTES).await?;
        s.pause(old)?;
        let next = s.leader_besides(old).await?;
        let kept = s.client(next).write(NOTES).await?;
        let read = tokio::spawn(async move { reader.read(NOTES).await });
        s.wait(5 + extra).await;
        s.resume(old)?;
        let found = read.await.map_err(|error| error.to_string())??;
        expect(found.contains(&kept), format!("{kept} was acknowledged before the read: {found}"))?;
    }
    Ok(())
}

/// A voter promises its leader not to elect another one for a while. Its restart must not end that promise.
pub async fn a_restarted_voter_keeps_the_lease_that_it_granted(s: Stage) -> Ended {
    let mut elected = 0;
    let mut granted = 0;
    for round in 0..8 {
        // Always the same three parts: only the voter is ever restarted.
        let (old, voter, other) = (1, 2, 3);
        s.hand_over(old).await?;
        s.client(old).write(NOTES).await?;
        // The other one hears nothing of the leader, and would be elected if the voter let it.
        s.cut(&[old], &[other])?;
        s.wait(900 + 70 * round).await;
        s.kill(voter)?;
        s.cut(&[old], &[voter])?;
        s.start(voter)?;
        let (newest, over) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
        let (known, stop, mut reader) = (newest.clone(), over.clone(), s.client(old).with_patience(60));
        let reads = tokio::spawn(async move {
            let mut answered = 0;
            while !stop.load(Relaxed) {
                let kept = known.lock().clone();
                if let Outcome::Done(rets) = reader.ask(NOTES, Act::Get).await {
                    let found = text_of(&rets);
                    expect(found.contains(&kept), format!("{kept} was acknowledged before the read: {found}"))?;
                    answered += 1;
                }
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, String>(answered)
        });
        // Not before another one leads: what is passed on to the old one waits there until the lease is over.
        let next = s.leader_besides(old).await?;
        let mut writer = s.client(next).with_patience(40);
        for _ in 0..60 {
            if let (text, Outcome::Done(_)) = writer.try_write(NOTES).await {
                *newest.lock() = text;
                elected += 1;
                break;
            }
        }
        s.wait(600).await;
        over.store(true, Relaxed);
        granted += usize::from(reads.await.map_err(|error| error.to_string())?? > 0);
        s.mend()?;
        s.serves(voter).await?;
        s.wait(300).await;
    }
    expect(granted >= 6, format!("the old leader answered reads behind the kill in only {granted} rounds"))?;
    expect(elected >= 6, format!("another leader was elected and written to only {elected} times"))
}

/// From the moment a port opens it shows everything, or says that it can't yet. Never nothing.
pub async fn a_restart_never_shows_an_empty_store(s: Stage) -> Ended {
    let mut writer = s.client(1);
    let kept = writer.write(NOTES).await?;
    for round in 0..4 {
        for machine in s.numbers() {
            if round % 2 == 0 { s.kill(machine)? } else { s.cut_power(machine)? }
        }
        for machine in s.numbers() {
            s.start(machine)?;
        }
        look_everywhere(&s, &kept).await?;
    }
    Ok(())
}

/// As above, when the leader dies in the middle of a change of the membership.
pub async fn a_change_with_a_crash_never_shows_an_empty_store(s: Stage) -> Ended {
    let kept = s.client(1).write(NOTES).await?;
    for round in 0..3 {
        let leader = s.leader().await?;
        let (new, _) = s.taken_in_by(leader).await?;
        s.wait(7 * round).await;
        if round % 2 == 0 {
            s.kill(leader)?
        } else {
            s.cut_power(leader)?
        }
        s.start(leader)?;
        look_everywhere(&s, &kept).await?;
        s.until("the new one votes", || {
            new.start();
            new.is_on() && new.votes()
        })
        .await?;
    }
    Ok(())
}

/// On every machine at once, as a client of the group and as a reader of the member's own state.
async fn look_everywhere(s: &Stage, kept: &str) -> Ended {
    let mut tasks = Vec::new();
    for machine in s.numbers() {
        for local in [false, true] {
            let (stage, kept) = (s.clone(), kept.to_owned());
            tasks.push(tokio::spawn(async move { look(stage, machine, local, &kept).await }));
        }
    }
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn look(s: Stage, machine: usize, local: bool, kept: &str) -> Ended {
    let name = crate::history::key_name(NOTES, 0);
    let mut shown = 0;
    for _ in 0..60 {
        let mut connection = s.connection(machine).await?;
        if local && say(&mut connection, &["READONLY"]).await.is_err() {
            continue;
        }
        if let Ok(reply) = say(&mut connection, &["GET", &name]).await {
            match &reply {
                Reply::Bulk(text) if String::from_utf8_lossy(text).contains(kept) => shown += 1,
                reply if reply.error().is_some() => {}
                other => {
                    return Err(format!("machine {machine} (local: {local}) answered {other:?} after its restart"));
                }
            }
        }
        sleep(Duration::from_millis(7)).await;
    }
    expect(shown > 0, format!("machine {machine} (local: {local}) never answered the read"))
}

/// The time of the group is the leader's, and does not go back when one with a slower clock takes over.
pub async fn what_has_expired_stays_gone_under_a_slower_clock(s: Stage) -> Ended {
    let leader = s.leader().await?;
    for (number, skew) in s.others(leader).into_iter().zip([-600_000_000, -5_000_000]) {
        s.machine(number)?.skew_us.store(skew, Relaxed);
    }
    s.machine(leader)?.skew_us.store(600_000_000, Relaxed);
    s.wait(100).await;
    let mut here = s.client(leader);
    let set = here.ask(EXPIRING, Act::SetPx("short;".into(), 200)).await;
    expect(set == Outcome::Done(vec![Ret::Done]), format!("SET answered {set}"))?;
    let long = here.ask(EXPIRING + 1, Act::SetPx("long;".into(), 3_000_000)).await;
    expect(long == Outcome::Done(vec![Ret::Done]), format!("SET answered {long}"))?;
    s.wait(300).await;
    let gone = here.ask(EXPIRING, Act::Get).await;
    expect(gone == Outcome::Done(vec![Ret::Nil]), format!("after its time it is {gone}"))?;
    let mut left = i64::MAX;
    for machine in s.numbers() {
        // A write takes the leader's time into the log; what comes behind it is never earlier.
        let now = s.leader().await?;
        s.client(now).write(NOTES).await?;
        s.hand_over(machine).await?;
        let mut there = s.client(machine);
        let gone = there.ask(EXPIRING, Act::Get).await;
        expect(gone == Outcome::Done(vec![Ret::Nil]), format!("under another leader it is alive again: {gone}"))?;
        let Outcome::Done(rets) = there.ask(EXPIRING + 1, Act::Pttl).await else { return Err("no PTTL".into()) };
        let Ret::Int(now) = rets[0] else { return Err(format!("PTTL answered {}", rets[0])) };
        expect(now >= 0 && now <= left, format!("a time to live went from {left} to {now} ms"))?;
        left = now;
    }
    Ok(())
}

/// The clock of a leader leaps ahead and it stamps an entry; whoever leads next has a right clock, by which keys that are
/// past due in the group's time still have minutes to live. They are gone, and that is told at once.
pub async fn keys_past_due_by_the_groups_time_alone_hold_nobody_up(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let mut here = s.client(leader);
    let set = here.ask(EXPIRING, Act::SetPx("minutes;".into(), 300_000)).await;
    expect(set == Outcome::Done(vec![Ret::Done]), format!("SET answered {set}"))?;
    s.machine(leader)?.skew_us.store(600_000_000, Relaxed);
    here.write(NOTES).await?;
    // Before it has them removed by itself.
    s.pause(leader)?;
    let next = s.leader_besides(leader).await?;
    for machine in s.others(leader) {
        let gone = s.client(machine).ask(EXPIRING, Act::Get).await;
        expect(gone == Outcome::Done(vec![Ret::Nil]), format!("machine {machine} under {next}: {gone}"))?;
    }
    s.resume(leader)
}

/// A member that installs a snapshot jumps ahead; whoever reads from it alone must never see it go back.
pub async fn local_reads_never_go_back_while_a_snapshot_comes(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let behind = s.others(leader)[0];
    let mut writer = s.client(leader);
    let mut reads = 0;
    for _ in 0..3 {
        let installed = s.told(behind, "installed a snapshot");
        let log = |number| Ok::<_, String>(s.machine(number)?.wal.lock().as_ref().map(|wal| wal.group(1)));
        let had = log(behind)?.and_then(|log| log.last_index()).unwrap_or(0);
        s.kill(behind)?;
        let mut writes = 0;
        // Until what it lacks is in no log any more.
        while writes < 25 || log(leader)?.and_then(|log| log.first_index()).is_none_or(|first| first <= had + 1) {
            writes += 1;
            expect(writes < 400, "the log was never cut")?;
            writer.write(NOTES).await?;
            s.wait(50).await;
        }
        s.start(behind)?;
        let mut reader = s.client(behind).with_patience(300);
        let mut before = String::new();
        let mut rounds = 0;
        while s.told(behind, "installed a snapshot") == installed || rounds < 40 {
            rounds += 1;
            expect(rounds < 4000, "no snapshot came")?;
            if let Outcome::Done(rets) = reader.local_read(NOTES).await {
                let now = text_of(&rets);
                expect(now.starts_with(&before), format!("it was {before} and is {now}"))?;
                before = now;
                reads += 1;
            }
            s.wait(3).await;
        }
    }
    expect(reads > 100, format!("only {reads} local reads were answered"))
}
