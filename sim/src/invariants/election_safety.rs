//! Election safety: at most one leader can be elected in a given term (Raft paper, figure 3 and section 5.2).
//!
//! Two sources: what members say when they begin to lead, and the (term, leader) that every entry in every log carries.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::story::Story;

pub const NAME: &str = "election safety";

#[derive(Default)]
pub struct Elections {
    leaders: Mutex<BTreeMap<u64, u64>>,
}

impl Elections {
    /// That member leads, or led, in that term.
    pub fn leads(&self, term: u64, member: u64, story: &Story) {
        let first = *self.leaders.lock().entry(term).or_insert(member);
        if first != member {
            story.broken(NAME, format!("members {first} and {member} both led in term {term}"));
        }
    }

    /// How many terms had a leader.
    pub fn count(&self) -> usize {
        self.leaders.lock().len()
    }
}
