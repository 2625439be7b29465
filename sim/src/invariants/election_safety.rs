//! Election safety: at most one leader can be elected in a given term (Raft paper, figure 3 and section 5.2).
//!
//! What the paper calls a term is a pair here: openraft's "advanced" leader ids are (term, member), ordered. Two members
//! may lead one after the other under the same first number, if the later one has the greater id; for the paper these
//! are two terms. A pair names its member, so what must hold is: nobody is elected twice under one pair, which a member
//! would be that has forgotten; what a member has promised (its vote, as it is in its log) never goes back; and along the
//! committed log pairs never go back, which they would if two leaders had been acknowledged by majorities under one pair
//! or out of order.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::story::Story;

pub const NAME: &str = "election safety";

/// (term, member).
pub type Reign = (u64, u64);

/// A machine, and which of its processes.
pub type Life = (usize, u64);

#[derive(Default)]
pub struct Elections {
    reigns: Mutex<BTreeMap<Reign, Life>>,
    /// The vote that each machine has in its log: a term, a member, and whether it was elected (raft/src/wire.rs).
    votes: Mutex<BTreeMap<usize, Vec<u8>>>,
    /// The term that each machine's log named when its process began.
    promised: Mutex<BTreeMap<usize, u64>>,
}

impl Elections {
    /// That member leads in that term.
    pub fn leads(&self, reign: Reign, life: Life, story: &Story) {
        let known = *self.reigns.lock().entry(reign).or_insert(life);
        if known != life {
            let text = format!("machine and process {life:?} lead as {reign:?}, and {known:?} did before");
            story.broken(NAME, text);
        }
    }

    /// What a machine's log says that it has voted.
    pub fn voted(&self, machine: usize, vote: &[u8], story: &Story) {
        // Numbers stand in it with the highest byte first, so that bytes are in the order of votes.
        let before = self.votes.lock().insert(machine, vote.to_vec());
        if let Some(before) = before.filter(|before| &before[..] > vote) {
            story.broken(NAME, format!("machine {machine} had voted {before:02x?}, and its vote is {vote:02x?} now"));
        }
    }

    /// A process begins, with this vote in its log.
    pub fn wakes(&self, machine: usize, vote: Option<&[u8]>, story: &Story) {
        let term = vote.and_then(|vote| vote.first_chunk()).map_or(0, |term| u64::from_be_bytes(*term));
        self.promised.lock().insert(machine, term);
        if let Some(vote) = vote {
            self.voted(machine, vote, story);
        }
    }

    /// A member says that it is in that term.
    pub fn acts(&self, machine: usize, term: u64, story: &Story) {
        let promised = self.promised.lock().get(&machine).copied().unwrap_or(0);
        if term < promised {
            let text =
                format!("machine {machine} takes part in term {term}, and had voted in {promised} before it began");
            story.broken(NAME, text);
        }
    }

    /// That machine has an empty disk, and will be somebody else.
    pub fn forget(&self, machine: usize) {
        self.votes.lock().remove(&machine);
    }

    /// Two committed entries that follow each other.
    pub fn follows(&self, index: u64, before: Reign, after: Reign, story: &Story) {
        if after < before {
            story.broken(NAME, format!("the committed entry {index} is of {after:?}, the one before it of {before:?}"));
        }
    }

    /// Under which reigns somebody was elected.
    pub fn reigns(&self) -> BTreeSet<Reign> {
        self.reigns.lock().keys().copied().collect()
    }

    /// How many leaders were elected.
    pub fn count(&self) -> usize {
        self.reigns.lock().len()
    }
}
