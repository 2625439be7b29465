//! Everybody who has committed the same knows the same members: a configuration is an entry of the log like any other, and
//! a snapshot holds the latest one as of its last entry (Raft paper, sections 6 and 7).
//!
//! Looks at members whose latest configuration is committed: then it follows from the index up to which they know the log
//! to be committed, and from nothing else. The first that is seen with an index is right until another one differs.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_raft::GroupStatus;

use crate::machine::Machine;
use crate::story::Story;

pub const NAME: &str = "all know the same members";

/// Ids, and whether they vote.
type Members = Vec<(u64, bool)>;

#[derive(Default)]
pub struct Known(Mutex<BTreeMap<u64, Members>>);

impl Known {
    pub fn look(&self, machine: &Machine, status: &GroupStatus, story: &Story) {
        let Some(committed) = status.committed.filter(|_| !status.membership_changing) else { return };
        let here: Members = status.members.iter().map(|member| (member.id, member.voter)).collect();
        let mut all = self.0.lock();
        let known = all.entry(committed).or_insert_with(|| here.clone());
        if *known != here {
            let text = format!(
                "machine {} has committed up to {committed} and knows the members {here:?}; another one knew {known:?}",
                machine.number
            );
            story.broken(NAME, text);
        }
    }
}
