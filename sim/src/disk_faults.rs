//! What the nemesis does to disks: power cuts in the middle of what they are doing, writes and syncs that fail, no room,
//! slowness, and bits that turn.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_storage::disk::Disk;
use tokio::time::sleep;

use crate::faults::start_after;
use crate::machine::Machine;
use crate::membership;
use crate::plan::Chance;
use crate::run::Run;
use crate::seen;
use crate::story::{Harm, Kind};

/// Power that is to go in the middle of a write goes after so many milliseconds at the latest.
const LONGEST_WAIT_MS: usize = 300;

/// The power of all these machines goes, in the middle of what their disks are doing: some more writes and syncs happen
/// on each, then none.
pub fn power_cut(machines: Vec<Arc<Machine>>, chance: &mut Chance) {
    if machines.is_empty() {
        return;
    }
    let afters: Vec<Duration> = machines.iter().map(|_| chance.millis(20, 2500)).collect();
    if chance.one_in(6) {
        for (machine, after) in machines.iter().zip(afters) {
            machine.kill(true);
            start_after(machine, after);
        }
        return;
    }
    let mut marks = Vec::new();
    for machine in &machines {
        let disk = machine.disk.lock().clone();
        let more = chance.below(12);
        disk.cut_power_after(more);
        marks.push(disk.operations() + more);
        if chance.one_in(4) {
            machine.rows.lock().cut_power_after(chance.below(40));
        }
    }
    tokio::spawn(async move {
        let run = machines[0].run.clone();
        for _ in 0..LONGEST_WAIT_MS {
            sleep(Duration::from_millis(1)).await;
            let busy = |(machine, mark): (&Arc<Machine>, &u64)| {
                machine.is_on() && !machine.rows.lock().is_off() && machine.disk.lock().operations() <= *mark
            };
            if run.is_healed() || !machines.iter().zip(&marks).any(busy) {
                break;
            }
        }
        for (machine, after) in machines.iter().zip(afters) {
            // It may have noticed, and ended by itself: the power is off all the same.
            if !run.is_healed() || machine.has_no_power() {
                machine.power_off();
            }
            start_after(machine, after);
        }
    });
}

pub fn slow(machine: &Arc<Machine>, chance: &mut Chance) {
    let most = chance.between(20_000, 400_000);
    machine.tell(Kind::Fault, format!("its disk takes up to {} ms for a sync", most / 1000));
    machine.sync_us.store(most, Relaxed);
    let (machine, time) = (machine.clone(), chance.millis(200, 3000));
    machine.mark_harm(Harm::Disk, time, "slow disk");
    tokio::spawn(async move {
        sleep(time).await;
        machine.sync_us.store(machine.tuning.sync_us, Relaxed);
    });
}

pub async fn trouble(run: &Run, machine: &Arc<Machine>, chance: &mut Chance) {
    let (disk, rows) = (machine.disk.lock().clone(), machine.rows.lock().clone());
    match chance.below(9) {
        0 => {
            machine.tell(Kind::Fault, "one of the next syncs of its log fails");
            machine.faulty_disk.store(true, Relaxed);
            disk.fail_sync_after(chance.below(6));
        }
        1 => {
            machine.tell(Kind::Fault, "one of the next writes of its log fails");
            machine.faulty_disk.store(true, Relaxed);
            disk.fail_write_after(chance.below(6));
        }
        2 => {
            machine.tell(Kind::Fault, "one of the next syncs of its checkpoints fails");
            rows.fail_sync_after(chance.below(3));
        }
        3 => {
            machine.tell(Kind::Fault, "one of the next rows of its checkpoints can't be written");
            rows.fail_put_after(chance.below(20));
        }
        4 => full(machine, chance),
        8 => lose(run, machine, chance).await,
        // A process that meets it while it starts could take what is durable for a torn tail.
        5 if machine.group().is_some() => {
            machine.tell(Kind::Fault, "one of the next reads of its disk gives a bit that has turned");
            machine.faulty_disk.store(true, Relaxed);
            disk.flip_read_after(chance.below(4));
        }
        _ => flip(run, machine, chance).await,
    }
    // A member that has stopped itself is started again by its supervisor.
    start_after(machine, chance.millis(500, 3000));
}

fn full(machine: &Arc<Machine>, chance: &mut Chance) {
    let room = chance.between(0, 200) << 10;
    machine.tell(Kind::Fault, format!("its disk has {room} bytes of room left"));
    let most = machine.used_bytes() + room;
    machine.disk.lock().set_capacity(Some(most));
    machine.rows.lock().set_full(true);
    let (machine, time) = (machine.clone(), chance.millis(300, 3000));
    machine.mark_harm(Harm::Disk, time, "disk nearly full");
    tokio::spawn(async move {
        sleep(time).await;
        machine.disk.lock().set_capacity(None);
        machine.rows.lock().set_full(false);
    });
}

/// A bit of the log or of a checkpoint turns, and some time later the process starts again and has to find it.
/// Acknowledged entries may be lost by that, so it happens to one machine at a time, and only in groups that can do
/// without one.
async fn flip(run: &Run, machine: &Arc<Machine>, chance: &mut Chance) {
    if !membership::can_spare_one(run).await || machine.group().is_none() || machine.has_no_power() {
        return;
    }
    let flipped = if chance.one_in(3) { flip_row(machine, chance) } else { flip_log(machine, chance) };
    let Some(place) = flipped else { return };
    machine.ruined.store(true, Relaxed);
    machine.faulty_disk.store(true, Relaxed);
    machine.flipped.store(true, Relaxed);
    run.saw(seen::FLIPS);
    machine.tell(Kind::Fault, format!("a bit of {place} turns"));
    let after = if chance.one_in(2) { Duration::ZERO } else { chance.millis(300, 3000) };
    let machine = machine.clone();
    tokio::spawn(async move {
        sleep(after).await;
        if !machine.run.is_healed() {
            machine.kill(false);
            machine.start();
        }
        membership::tend(machine).await;
    });
}

/// What checkpoints held turns out to be damaged while the process runs. It has all of it in memory and writes it anew; only
/// a crash before that is done costs it its data, so this, too, happens to one machine at a time.
async fn lose(run: &Run, machine: &Arc<Machine>, chance: &mut Chance) {
    if !membership::can_spare_one(run).await || machine.group().is_none() || machine.has_no_power() {
        return;
    }
    machine.ruined.store(true, Relaxed);
    machine.faulty_disk.store(true, Relaxed);
    machine.tell(Kind::Fault, "its checkpoints turn out to be damaged");
    machine.rows.lock().lose();
    let (machine, time) = (machine.clone(), chance.millis(300, 3000));
    tokio::spawn(async move {
        sleep(time).await;
        membership::tend(machine).await;
    });
}

fn flip_row(machine: &Machine, chance: &mut Chance) -> Option<String> {
    let rows = machine.rows.lock();
    let (row, bit) = (chance.below(rows.len() as u64) as usize, chance.next() as usize);
    rows.flip_bit(row, bit);
    (!rows.is_empty()).then(|| format!("row {row} of its checkpoints"))
}

fn flip_log(machine: &Machine, chance: &mut Chance) -> Option<String> {
    let disk = machine.disk.lock();
    let dir = Path::new("/data/wal");
    let files: Vec<_> = disk.list(dir).ok()?.into_iter().map(|name| dir.join(name)).collect();
    let bytes: Vec<Vec<u8>> = files.iter().filter_map(|path| disk.contents(path).ok()).collect();
    let (newest, end) = proven(&bytes)?;
    let file = chance.below(newest as u64 + 1) as usize;
    let used = bytes[file].iter().rposition(|byte| *byte != 0)? + 1;
    let at = chance.below(if file == newest { end } else { used } as u64);
    disk.flip_bit(&files[file], at, chance.below(8) as u8).ok()?;
    Some(format!("{}, at {at},", files[file].display()))
}

/// Up to where, in which segment, the log can tell damage from a torn write whatever a power cut takes: behind that stands
/// a batch that is durable, and says that all up to there was.
fn proven(segments: &[Vec<u8>]) -> Option<(usize, usize)> {
    const BLOCK: usize = 512;
    // The head of a batch, as storage/src/wal/format.rs has it: segment, number, and what was known to be durable.
    let number = |block: &[u8], at: usize| Some(u64::from_le_bytes(block.get(at..at + 8)?.try_into().ok()?));
    let mut batches = Vec::new();
    for (segment, bytes) in segments.iter().enumerate() {
        let own = number(bytes, 16);
        for (at, block) in bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block.starts_with(b"QWB1")) {
            if number(block, 8) == own {
                batches.push((number(block, 16)?, number(block, 24)?, segment, at * BLOCK));
            }
        }
    }
    let durable = batches.last()?.1;
    let known = batches.iter().find(|batch| batch.0 == durable)?.1;
    batches.iter().find(|batch| batch.0 > known).map(|batch| (batch.2, batch.3))
}
