//! What a member may show of its own state after a restart.
//!
//! Which entries of its log are committed, a member that comes back learns from the leader: the mark on its own disk
//! trails behind by the last entries. Until then a read of its own state would miss what the same member has shown
//! before it stopped. Reads that go through the leader are not concerned; they wait for more than this.
//!
//! A new member has nothing to show before it has applied what made it a member: an empty state would look like a group
//! that holds nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};

use crate::group::{Group, Inner};
use crate::runtime::{self, Instant};

/// How often a reader that waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether a member has applied again all that it may have shown before it was started.
pub(crate) struct CatchUp {
    done: AtomicBool,
    /// The last entry in the log when it was started: it has shown nothing beyond.
    found: Option<u64>,
    /// Nobody waits longer: with no leader to ask, what there is, is better than nothing.
    until: Instant,
}

impl CatchUp {
    pub(crate) fn new(found: Option<u64>, until: Instant) -> Self {
        Self { done: AtomicBool::new(false), found, until }
    }

    fn look(&self, inner: &Inner) -> bool {
        // A leader may have cut off what was never committed.
        let again = inner.machine.applied_index() >= self.found.min(inner.log.last_index());
        (again || self.is_late()) && is_taken_in(inner)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }
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
