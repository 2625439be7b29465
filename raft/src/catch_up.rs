//! What a member may show of its own state after a start.
//!
//! Which entries are committed, a member that comes back learns from the leader: the mark on its own disk trails behind
//! by the last entries, and the last entry that it has applied and shown may not have been in its own log yet. Until then
//! a read of its own state would miss what the same member has shown before it stopped. Reads that go through the leader
//! are not concerned; they wait for more than this.
//!
//! A new member has nothing to show before it has applied what made it a member: an empty state would look like a group
//! that holds nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};

use crate::group::{Group, Inner};
use crate::runtime::{self, Instant};
use crate::types::{LogId, Vote};

/// How often a reader that waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether a member has applied all that was committed when it first heard of its leader after its start.
pub(crate) struct CatchUp {
    done: AtomicBool,
    /// One more than the index up to which a leader has committed; 0: none has said so yet.
    heard: AtomicU64,
    /// Nobody waits longer: with no leader to ask, what there is, is better than nothing.
    until: Instant,
}

impl CatchUp {
    pub(crate) fn new(until: Instant) -> Self {
        Self { done: AtomicBool::new(false), heard: AtomicU64::new(0), until }
    }

    /// A leader says how far it has committed. It knows all that others have committed before it only once an entry of
    /// its own term is.
    pub(crate) fn heard(&self, vote: &Vote, committed: Option<&LogId>) {
        let own = committed.filter(|id| id.committed_leader_id() == vote.leader_id());
        if let Some(id) = own
            && !self.done.load(Relaxed)
        {
            self.heard.fetch_max(id.index() + 1, Relaxed);
        }
    }

    fn look(&self, inner: &Inner) -> bool {
        let applied = inner.machine.applied().last;
        let heard = self.heard.load(Relaxed);
        let told = heard > 0 && applied.as_ref().is_some_and(|id| id.index() + 1 >= heard);
        (told || leads(inner, applied.as_ref()) || self.is_late()) && is_taken_in(inner)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// It leads, and has applied an entry of its own term.
fn leads(inner: &Inner, applied: Option<&LogId>) -> bool {
    let metrics = inner.raft.metrics();
    let now = metrics.borrow_watched();
    now.state.is_leader() && applied.is_some_and(|id| id.committed_leader_id() == now.vote.leader_id())
}

/// It has applied the configuration that has it in it.
fn is_taken_in(inner: &Inner) -> bool {
    let metrics = inner.raft.metrics();
    let members = metrics.borrow_watched().committed_membership_config.clone();
    let named = members.nodes().any(|(id, _)| *id == inner.me.member);
    named && inner.machine.applied_index() >= members.log_id().as_ref().map(|at| at.index())
}

impl Group {
    /// Waits after a start until this member has applied all that it may have shown before, for as long as it takes
    /// to find a leader twice; later it returns at once. For reads of this member's own state, which promise no more.
    /// False: it has not been taken into the group yet, and has nothing to show.
    pub async fn caught_up(&self) -> bool {
        #[cfg(madsim)]
        if mutants::on(Mutant::NoCatchUp) {
            return true;
        }
        let catch_up = &self.inner.catch_up;
        while !catch_up.done.load(Relaxed) {
            if catch_up.look(&self.inner) {
                catch_up.done.store(true, Relaxed);
            } else if catch_up.is_late() {
                return false;
            } else {
                runtime::sleep(LOOK_AGAIN).await;
            }
        }
        true
    }
}
