//! Disks and power: what was acknowledged stays, what is damaged is refused.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_storage::checkpoint::Rows as _;
use quorate_storage::disk::Disk;

use crate::history::{Act, Outcome};
use crate::machine::Machine;
use crate::story::Lane;

use super::Ended;
use super::script::{NOTES, Stage, expect};

/// Bytes of a snapshot that holds nearly all of what was written.
const LARGE: u64 = 400_000;

/// The leader may not find another entry at a committed index of a follower that restarts.
pub async fn a_follower_that_restarts_keeps_what_is_committed(s: Stage) -> Ended {
    let mut kept = Vec::new();
    for round in 0..8 {
        let leader = s.leader().await?;
        kept.push(s.client(leader).write(NOTES).await?);
        let follower = s.others(leader)[round % 2];
        s.machine(follower)?.disk.lock().cut_power_after(round as u64);
        s.wait(20).await;
        s.cut_power(follower)?;
        s.wait(50).await;
        s.start(follower)?;
        s.serves(follower).await?;
        s.hand_over(follower).await?;
        s.client(follower).must_find(NOTES, &kept).await?;
    }
    Ok(())
}

/// Entries arrive while a snapshot is on its way and being installed; none may be missing behind it.
pub async fn entries_behind_an_installed_snapshot_leave_no_gap(s: Stage) -> Ended {
    let mut kept = Vec::new();
    for round in 0..4 {
        let leader = s.leader().await?;
        let behind = s.others(leader)[round % 2];
        let installed = s.told(behind, "installed a snapshot");
        s.kill(behind)?;
        for _ in 0..25 {
            kept.push(s.client(leader).write(NOTES).await?);
            s.wait(60).await;
        }
        s.start(behind)?;
        s.until("it installs a snapshot", || s.told(behind, "installed a snapshot") > installed).await?;
        kept.push(s.client(leader).write(NOTES).await?);
        if round % 2 == 1 {
            s.cut_power(behind)?;
            s.start(behind)?;
        }
        s.serves(behind).await?;
        s.hand_over(behind).await?;
        s.client(behind).must_find(NOTES, &kept).await?;
    }
    Ok(())
}

/// Half a megabyte in pieces of 512 bytes over a slow network, while the log behind it is cut again and again.
pub async fn a_snapshot_slower_than_any_timeout_arrives(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let behind = s.others(leader)[0];
    // The last vote was given a moment ago: until that step is complete the group can't do without anybody.
    s.wait(1000).await;
    s.kill(behind)?;
    let mut writer = s.client(leader);
    for object in 0..120 {
        let value = format!("{}.{object};{}", "big", "x".repeat(4000));
        let set = writer.ask(1000 + object, Act::Set(value)).await;
        expect(matches!(set, Outcome::Done(_)), format!("SET answered {set}"))?;
    }
    s.wait(1500).await;
    let began = s.run.story.now();
    s.start(behind)?;
    let large = |number: usize, words: &str| {
        let told = s.run.story.found(Lane::Member(number), words);
        let bytes = |text: &str| text.split(' ').filter_map(|word| word.parse::<u64>().ok()).max().unwrap_or(0);
        told.into_iter().filter(|(at, text)| *at > began && bytes(text) > LARGE).map(|(at, _)| at).collect::<Vec<_>>()
    };
    while large(behind, "installed a snapshot").is_empty() {
        writer.write(NOTES).await?;
        s.wait(30).await;
        expect((s.run.story.now() - began).as_secs() < 100, "it was not there after 100 s")?;
    }
    let took = large(behind, "installed a snapshot")[0] - began;
    let patience = Duration::from_millis(2 * s.run.plan.tuning.election_ms);
    expect(took > patience, format!("it took only {took:?}, and an election {patience:?}"))?;
    let sent = large(leader, "sent a snapshot").len();
    expect(sent <= 2, format!("it was sent {sent} times"))?;
    let kept = writer.write(NOTES).await?;
    s.serves(behind).await?;
    s.hand_over(behind).await?;
    s.client(behind).must_find(NOTES, &[kept]).await
}

/// The power goes at every operation of a checkpoint and of the purge behind it, one after the other.
pub async fn a_power_cut_at_any_step_of_a_checkpoint_loses_nothing(s: Stage) -> Ended {
    let mut kept = Vec::new();
    for step in 0..24u64 {
        let leader = s.leader().await?;
        kept.push(s.client(leader).write(NOTES).await?);
        let number = 1 + step as usize % 3;
        let machine = s.machine(number)?;
        if step % 2 == 0 {
            machine.rows.lock().cut_power_after(step * 2);
        } else {
            machine.disk.lock().cut_power_after(step);
        }
        let asked = s.clone();
        // It may well die of it.
        tokio::spawn(async move { asked.admin(number, quorate::admin::api::Request::Snapshot).await });
        s.wait(60).await;
        s.cut_power(number)?;
        s.wait(30).await;
        s.start(number)?;
        s.serves(number).await?;
    }
    let done = s.run.story.count(Lane::Run, "answered: done");
    expect((3..22).contains(&done), format!("{done} of 24 checkpoints were complete before the power went"))?;
    for machine in s.numbers() {
        s.client(machine).must_find(NOTES, &kept).await?;
    }
    Ok(())
}

/// The power goes at every operation of the rows that a received snapshot is written to.
pub async fn a_power_cut_while_a_snapshot_is_installed_loses_nothing(s: Stage) -> Ended {
    let mut kept = Vec::new();
    let mut before = 0;
    for step in 0..16u64 {
        let leader = s.leader().await?;
        let behind = s.others(leader)[step as usize % 2];
        let machine = s.machine(behind)?;
        s.kill(behind)?;
        let checkpoints = s.told(leader, "checkpoint up to");
        for _ in 0..12 {
            kept.push(s.client(leader).write(NOTES).await?);
            s.wait(60).await;
        }
        s.until("the log is cut", || s.told(leader, "checkpoint up to") >= checkpoints + 2).await?;
        let installed = s.told(behind, "installed a snapshot");
        machine.rows.lock().cut_power_after(step * 3);
        s.start(behind)?;
        // It gets it, or ends by itself when the rows fail.
        s.until("a snapshot comes", || machine.failure().is_some() || s.told(behind, "installed") > installed).await?;
        s.wait(5 * (step % 4)).await;
        before += usize::from(machine.failure().is_some());
        s.cut_power(behind)?;
        s.start(behind)?;
        s.serves(behind).await?;
        s.hand_over(behind).await?;
        s.client(behind).must_find(NOTES, &kept).await?;
    }
    expect(before >= 4, format!("the power went in the middle of {before} of 16 snapshots"))
}

/// What the disk was writing when the power went was never acknowledged: the member goes on without it.
pub async fn a_torn_tail_is_cut_off(s: Stage) -> Ended {
    let mut kept = Vec::new();
    let mut rounds = 0;
    while s.numbers().iter().all(|number| s.told(*number, "cut a torn tail") == 0) || rounds < 6 {
        rounds += 1;
        expect(rounds < 60, "no power cut tore the log's tail")?;
        let leader = s.leader().await?;
        kept.push(s.client(leader).write(NOTES).await?);
        let number = 1 + rounds % 3;
        // Records of many sectors are torn more easily than small ones.
        let mut writer = s.client(leader).with_patience(300);
        let large = tokio::spawn(async move {
            let value = format!("large;{}", "x".repeat(9000));
            writer.ask(1000 + rounds, Act::Set(value)).await
        });
        s.wait(3).await;
        s.machine(number)?.disk.lock().cut_power_after(rounds as u64 % 4);
        s.wait(20).await;
        s.cut_power(number)?;
        s.start(number)?;
        s.serves(number).await?;
        large.await.map_err(|error| error.to_string())?;
    }
    let leader = s.leader().await?;
    s.client(leader).must_find(NOTES, &kept).await
}

/// A bit turns in the entry that holds this text.
fn flip(machine: &Machine, text: &str) -> Ended {
    let disk = machine.disk.lock().clone();
    let dir = Path::new("/data/wal");
    let found = disk.list(dir).unwrap_or_default().into_iter().find_map(|name| {
        let path = dir.join(name);
        let bytes = disk.contents(&path).ok()?;
        let at = bytes.windows(text.len()).position(|part| part == text.as_bytes())?;
        Some((path, at as u64))
    });
    let (path, at) = found.ok_or_else(|| format!("{text} is not in the log"))?;
    machine.ruined.store(true, Relaxed);
    machine.tell(crate::story::Kind::Fault, format!("a bit of {} turns, at {at}", path.display()));
    disk.flip_bit(&path, at, 3).map_err(|error| error.to_string())
}

/// A bit that turned in the middle of the log: the member says so and stays down, the others go on.
pub async fn a_flipped_bit_is_refused(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let mut kept = Vec::new();
    for _ in 0..60 {
        kept.push(s.client(leader).write(NOTES).await?);
    }
    let number = s.others(leader)[0];
    let machine = s.machine(number)?;
    s.kill(number)?;
    flip(&machine, &kept[30])?;
    s.start(number)?;
    s.until("it refuses", || machine.failure().is_some()).await?;
    let why = machine.failure().unwrap_or_default();
    expect(machine.needs_replacement(&why), format!("it ended with: {why}"))?;
    kept.push(s.client(leader).write(NOTES).await?);
    s.client(leader).must_find(NOTES, &kept).await
}

/// Entries for a follower that was away come from the leader's disk. If it reads badly it must not send what it read.
pub async fn a_leader_that_cannot_read_its_log_sends_nothing_wrong(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let (away, third) = (s.others(leader)[0], s.others(leader)[1]);
    let mut kept = vec![s.client(leader).write(NOTES).await?];
    s.kill(away)?;
    for _ in 0..80 {
        kept.push(s.client(leader).write(NOTES).await?);
    }
    let machine = s.machine(leader)?;
    flip(&machine, &kept[40])?;
    s.start(away)?;
    s.until("it stops", || machine.failure().is_some()).await?;
    let why = machine.failure().unwrap_or_default();
    expect(machine.needs_replacement(&why), format!("it ended with: {why}"))?;
    s.serves(away).await?;
    for number in [away, third] {
        s.client(number).must_find(NOTES, &kept).await?;
    }
    Ok(())
}

/// No room: refused for certain, and taken again when there is room. A failed sync: nothing is acknowledged by it, and
/// the member stops, for what the disk holds now nobody knows.
pub async fn a_full_disk_refuses_and_a_failed_sync_stops(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let machine = s.machine(leader)?;
    let mut here = s.client(leader);
    let mut kept = vec![here.write(NOTES).await?];
    let used = machine.used_bytes();
    machine.disk.lock().set_capacity(Some(used));
    let mut refused = None;
    for object in 0..400 {
        let value = format!("full.{object};{}", "x".repeat(2000));
        match here.ask(1000 + object, Act::Set(value)).await {
            Outcome::Failed(words) if words.starts_with("MISCONF") => {
                refused = Some(words);
                break;
            }
            Outcome::Done(_) => {}
            other => return Err(format!("on a full disk SET answered {other}")),
        }
    }
    expect(refused.is_some(), "a full disk refused nothing")?;
    machine.disk.lock().set_capacity(None);
    kept.push(here.write(NOTES).await?);

    let leader = s.leader().await?;
    let machine = s.machine(leader)?;
    machine.faulty_disk.store(true, Relaxed);
    machine.disk.lock().fail_sync_after(0);
    let mut there = s.client(s.others(leader)[0]);
    kept.push(there.write(NOTES).await?);
    s.until("it stops", || machine.failure().is_some()).await?;
    let next = s.leader_besides(leader).await?;
    kept.push(s.client(next).write(NOTES).await?);
    s.cut_power(leader)?;
    s.start(leader)?;
    s.serves(leader).await?;
    s.hand_over(leader).await?;
    s.client(leader).must_find(NOTES, &kept).await
}

/// A checkpoint that turns out to be damaged while its member runs: the member has all in memory, and writes it anew
/// before the log behind it is cut any further. A sync of it that fails stops the member, and the next start heals it.
pub async fn a_damaged_checkpoint_of_a_running_member_is_written_anew(s: Stage) -> Ended {
    let leader = s.leader().await?;
    let behind = s.others(leader)[0];
    let machine = s.machine(behind)?;
    let mut here = s.client(leader);
    let mut kept = Vec::new();
    let checkpoints = || s.told(behind, "checkpoint up to");
    for round in 0..4 {
        let before = checkpoints();
        while checkpoints() < before + 2 {
            kept.push(here.write(NOTES).await?);
        }
        machine.rows.lock().lose();
        s.until("it is written anew", || !machine.rows.lock().is_lost()).await?;
        let before = checkpoints();
        s.until("another is complete", || checkpoints() > before || machine.rows.lock().len() > 4).await?;
        while checkpoints() == before {
            kept.push(here.write(NOTES).await?);
        }
        if round % 2 == 0 {
            s.cut_power(behind)?;
        } else {
            s.kill(behind)?;
        }
        s.start(behind)?;
        s.serves(behind).await?;
    }
    machine.rows.lock().fail_sync_after(0);
    while machine.failure().is_none() {
        kept.push(here.write(NOTES).await?);
    }
    let why = machine.failure().unwrap_or_default();
    expect(why.contains("the disk has failed under the checkpoints"), format!("it ended with: {why}"))?;
    s.start(behind)?;
    s.serves(behind).await?;
    s.hand_over(leader).await?;
    s.client(behind).must_find(NOTES, &kept).await
}
