//! Membership: at most one change is under way, each step keeps the majorities of before and after in touch, and whoever
//! was removed has no power any more (Raft paper, section 6; Ongaro's dissertation, section 4.1, and its later
//! correction: no change before an entry of the leader's own term is committed).
//!
//! * Between two committed configurations that follow each other lies one step: into a joint configuration that differs
//!   by one voter, out of it (or on into the next one, over the set that both share), or no voter at all.
//! * The log of a leader never holds two configurations of its own term beyond what it knows to be committed.
//! * A member whose removal is committed is never elected under a later term, and no entry of it is committed then.
//!
//! The steps are judged in the end, in the order of the log, from all committed entries that were seen on any member.

use std::collections::{BTreeMap, BTreeSet};

use crate::story::Story;

use super::election_safety::Reign;

pub const NAME: &str = "membership";

/// The kind of an entry that holds a configuration (raft/src/entry.rs), and the bytes before what it holds.
const CONFIGURATION: u8 = 3;
const HEAD: usize = 26;

/// Who votes, and who is there at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// One set, or two that decide together.
    pub voters: Vec<BTreeSet<u64>>,
    pub members: BTreeSet<u64>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// The configuration in an entry's bytes, if it is one (raft/src/wire.rs).
pub fn configuration(entry: &[u8]) -> Option<Configuration> {
    if entry.get(1) != Some(&CONFIGURATION) {
        return None;
    }
    let mut bytes = Bytes(entry.get(HEAD..)?);
    let mut voters = Vec::new();
    for _ in 0..bytes.u32()? {
        let count = bytes.u32()?;
        voters.push((0..count).map(|_| bytes.u64()).collect::<Option<BTreeSet<u64>>>()?);
    }
    let mut members = BTreeSet::new();
    for _ in 0..bytes.u32()? {
        members.insert(bytes.u64()?);
        // Three addresses, whether it wants a vote, and its incarnation.
        for _ in 0..3 {
            let length = bytes.u32()? as usize;
            bytes.take(length)?;
        }
        bytes.take(1 + 16)?;
    }
    bytes.0.is_empty().then_some(Configuration { voters, members })
}

/// All committed entries that were seen: under whom, and the configuration that they hold.
#[derive(Default)]
pub struct Members {
    committed: BTreeMap<u64, (Reign, Option<Configuration>)>,
}

impl Members {
    pub fn committed(&mut self, index: u64, reign: Reign, bytes: &[u8]) {
        self.committed.entry(index).or_insert_with(|| (reign, configuration(bytes)));
    }

    /// A leader's log, as it was before the leader said how much of it is committed.
    pub fn under_way(&self, machine: usize, log: &[(u64, Reign)], committed: u64, reign: Reign, story: &Story) {
        let open: Vec<u64> = log.iter().filter(|(at, by)| *at > committed && *by == reign).map(|(at, _)| *at).collect();
        if open.len() > 1 {
            let text = format!("machine {machine} leads as {reign:?} with changes under way at {open:?}");
            story.broken(NAME, text);
        }
    }

    /// The steps from one configuration to the next, and what became of those who were removed.
    pub fn check(&self, elected: &BTreeSet<Reign>, story: &Story) {
        if let Err(text) = self.judge(elected) {
            story.broken(NAME, text);
        }
    }

    pub fn judge(&self, elected: &BTreeSet<Reign>) -> Result<(), String> {
        let mut before: Option<&Configuration> = None;
        let mut removed: BTreeMap<u64, (u64, Reign)> = BTreeMap::new();
        let mut last = None;
        for (index, (reign, found)) in &self.committed {
            if last.is_some_and(|last| last + 1 != *index) {
                // Some entries were cut off before anybody looked.
                before = None;
            }
            last = Some(*index);
            if let Some((at, by)) = removed.get(&reign.1)
                && reign > by
            {
                return Err(format!("entry {index} is of {reign:?}, and that member was removed at {at}"));
            }
            let Some(now) = found else { continue };
            if let Some(before) = before {
                step(before, now).map_err(|why| format!("entry {index}: {why}: {before:?}, then {now:?}"))?;
                for id in before.members.difference(&now.members) {
                    removed.insert(*id, (*index, *reign));
                }
            }
            before = Some(now);
        }
        for reign in elected {
            if let Some((at, by)) = removed.get(&reign.1)
                && reign > by
            {
                return Err(format!("{reign:?} was elected, and that member was removed at {at} by {by:?}"));
            }
        }
        Ok(())
    }
}

/// One step from a configuration to the next one.
fn step(before: &Configuration, after: &Configuration) -> Result<(), &'static str> {
    let one_apart = |a: &BTreeSet<u64>, b: &BTreeSet<u64>| a.symmetric_difference(b).count() <= 1;
    match (&before.voters[..], &after.voters[..]) {
        (a, b) if a == b => Ok(()),
        // Out of a joint configuration also straight into the next one, when a new leader finds one that was left half
        // done: whoever decides before and after needs a majority of the set that both share.
        ([a] | [_, a], [b, c]) if a == b => {
            if one_apart(b, c) {
                Ok(())
            } else {
                Err("more than one voter changes")
            }
        }
        ([_, b], [c]) if b == c => Ok(()),
        _ => Err("this is more than one step"),
    }
}
