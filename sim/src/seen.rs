//! How often what the swarm is for has happened: kinds of faults, and what came of them.
//!
//! It must never decide anything in a run. Afterwards it does: a swarm in which the chief things do not happen any more
//! has gone blind, and that is a failure like another one.

use std::collections::BTreeMap;
use std::fmt;

pub const POWER_CUTS: &str = "power cuts";
pub const LOSSES: &str = "power cuts that lost something";
pub const TORN_TAILS: &str = "torn tails";
pub const FLIPS: &str = "bits turned";
pub const FLIPS_FOUND: &str = "turned bits found";
pub const SNAPSHOTS: &str = "snapshots installed";
pub const LOADING: &str = "LOADING answered";
pub const ADDED: &str = "members added";
pub const PROMOTED: &str = "members promoted";
pub const REMOVED: &str = "members removed";
pub const LEADERS_REMOVED: &str = "leaders removed";
pub const SENT_AGAIN: &str = "writes sent again";

/// What a run of so many seeds can't do without: by chance alone none of it would be missing in a thousand runs.
const CHIEF: &[(u64, &str)] =
    &[(20, LOSSES), (20, LOADING), (30, SNAPSHOTS), (30, REMOVED), (150, TORN_TAILS), (200, FLIPS_FOUND)];

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Seen(BTreeMap<String, usize>);

impl Seen {
    pub fn of(counts: BTreeMap<String, usize>) -> Self {
        Self(counts)
    }

    pub fn counts(&self) -> &BTreeMap<String, usize> {
        &self.0
    }

    pub fn note(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(what.to_owned(), 1)),
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// What should have happened in so many seeds and has not; and what so few seeds say nothing of.
    pub fn missing(&self, seeds: u64) -> (Vec<&'static str>, Vec<&'static str>) {
        let absent = CHIEF.iter().filter(|(_, what)| !self.0.contains_key(*what));
        let (due, early): (Vec<_>, Vec<_>) = absent.partition(|(from, _)| seeds >= *from);
        let names = |rows: Vec<&(u64, &'static str)>| rows.into_iter().map(|(_, what)| *what).collect();
        (names(due), names(early))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&counts.join(", "))
    }
}
