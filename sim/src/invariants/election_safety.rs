//! Election safety: at most one leader can be elected in a given term (Raft paper, figure 3 and section 5.2).
//!
//! What the paper calls a term is a pair here: openraft's "advanced" leader ids are (term, member), ordered. Two members
//! may lead one after the other under the same first number, if the later one has the greater id; for the paper these
//! are two terms. So what must hold is: a pair belongs to one member (it names it), a member says that it leads only
//! under a pair that names it, and along the committed log pairs never go back, which they would if two leaders had
//! been acknowledged by majorities under one pair or out of order.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::story::Story;

pub const NAME: &str = "election safety";

/// (term, member).
pub type Reign = (u64, u64);

#[derive(Default)]
pub struct Elections {
    reigns: Mutex<BTreeSet<Reign>>,
}

impl Elections {
    /// That member leads in that term.
    pub fn leads(&self, term: u64, member: u64) {
        self.reigns.lock().insert((term, member));
    }

    /// Two committed entries that follow each other.
    pub fn follows(&self, index: u64, before: Reign, after: Reign, story: &Story) {
        if after < before {
            story.broken(NAME, format!("the committed entry {index} is of {after:?}, the one before it of {before:?}"));
        }
    }

    /// Under which reigns somebody was elected.
    pub fn reigns(&self) -> BTreeSet<Reign> {
        self.reigns.lock().clone()
    }

    /// How many leaders were elected.
    pub fn count(&self) -> usize {
        self.reigns.lock().len()
    }
}
