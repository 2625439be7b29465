//! Log matching: if two logs contain an entry with the same index and term, they are the same up to it (Raft paper,
//! figure 3 and section 5.3); leader completeness: a committed entry is in the logs of all later leaders (section 5.4).
//!
//! Looks into the log of every running member now and then. What one of them calls committed is canonical from then on:
//! bytes at a committed index never differ from it, on any member, at any time. Of what is not committed, every entry that
//! was seen is remembered by its index and leader: under the same ones there is never another.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;
use quorate_keyspace::view::digest_of;
use quorate_storage::wal::GroupLog;

use crate::machine::Machine;
use crate::story::Story;

use super::election_safety::{Elections, Reign};
use super::membership::{Members, configuration};

pub const NAME: &str = "log matching";
pub const COMPLETENESS: &str = "leader completeness";

#[derive(Default)]
pub struct Logs {
    /// Digest and leader of every committed entry that was seen, by index.
    committed: BTreeMap<u64, (u128, Reign)>,
    /// Digest of every entry that was seen, committed or not.
    seen: BTreeMap<(u64, Reign), u128>,
    /// The first entry of a member's log that was not compared yet, by machine and life.
    compared: BTreeMap<(usize, u64), u64>,
}

/// Term and leader, from the head of an entry's bytes (raft/src/entry.rs).
fn reign_of(bytes: &[u8]) -> Option<Reign> {
    let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some((number(2)?, number(10)?))
}

/// Entries of a member's log, without meeting what its own reads are to meet.
fn read(machine: &Machine, log: &GroupLog, range: RangeInclusive<u64>) -> io::Result<Vec<(u64, Bytes)>> {
    machine.disk.lock().unharmed(|| log.read(range))
}

impl Logs {
    /// The configurations in the part of a member's log that was not compared yet.
    pub fn changes(&self, machine: &Machine) -> Vec<(u64, Reign)> {
        let Some(wal) = machine.wal.lock().clone() else { return Vec::new() };
        let log = wal.group(1);
        let from = self.compared.get(&(machine.number, machine.life())).copied().unwrap_or(0);
        let Some(last) = log.last_index().filter(|last| *last >= from) else { return Vec::new() };
        let entries = read(machine, &log, from..=last).unwrap_or_default();
        let changes = entries.iter().filter(|(_, bytes)| configuration(bytes).is_some());
        changes.filter_map(|(index, bytes)| Some((*index, reign_of(bytes)?))).collect()
    }

    /// Compares what a member has committed since the last look.
    pub fn look(
        &mut self,
        machine: &Machine,
        committed: u64,
        elections: &Elections,
        members: &mut Members,
        story: &Story,
    ) {
        let Some(wal) = machine.wal.lock().clone() else { return };
        let log = wal.group(1);
        let from = self.compared.get(&(machine.number, machine.life())).copied().unwrap_or(0);
        let last = log.last_index().unwrap_or(committed).max(committed);
        // A snapshot that is being installed counts as committed before the log in front of it is cut: what is in the log
        // meanwhile may be a tail that never was committed.
        let installs = log.last_index() < Some(committed);
        let Ok(entries) = read(machine, &log, from..=last) else { return };
        for (index, bytes) in entries {
            let digest = digest_of(&bytes);
            let Some(reign) = reign_of(&bytes) else { continue };
            if *self.seen.entry((index, reign)).or_insert(digest) != digest {
                story.broken(NAME, format!("machine {} has another entry {index} of {reign:?}", machine.number));
            }
            if index > committed || installs {
                continue;
            }
            if let Some((_, before)) = index.checked_sub(1).and_then(|before| self.committed.get(&before)) {
                elections.follows(index, *before, reign, story);
            }
            members.committed(index, reign, &bytes);
            let (known, _) = *self.committed.entry(index).or_insert((digest, reign));
            if known != digest {
                story.broken(NAME, format!("machine {} has another entry at committed index {index}", machine.number));
            }
            self.compared.insert((machine.number, machine.life()), index + 1);
        }
    }

    /// A member leads: its log must hold all that was committed under earlier leaders.
    pub fn leads(&self, machine: &Machine, reign: Reign, story: &Story) {
        let Some(wal) = machine.wal.lock().clone() else { return };
        let log = wal.group(1);
        let first = log.first_index().unwrap_or(u64::MAX).max(1);
        let newest = self.committed.iter().rfind(|(_, (_, at))| *at < reign);
        let Some((newest, _)) = newest else { return };
        let last = log.last_index().or(log.purged().map(|(upto, _)| upto)).unwrap_or(0);
        if last < *newest {
            let text =
                format!("machine {} leads as {reign:?} with a log up to {last}; {newest} is committed", machine.number);
            story.broken(COMPLETENESS, text);
            return;
        }
        let from = first.max(newest.saturating_sub(50));
        let Ok(entries) = read(machine, &log, from..=*newest) else { return };
        for (index, bytes) in entries {
            if self.committed.get(&index).is_some_and(|(known, _)| *known != digest_of(&bytes)) {
                let text = format!("machine {} leads as {reign:?} without the committed entry {index}", machine.number);
                story.broken(COMPLETENESS, text);
                return;
            }
        }
    }
}
