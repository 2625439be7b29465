//! What a member may show of its own state after a restart.
//!
//! Which entries of its log are committed, a member that comes back learns from the leader: the mark on its own disk
//! trails behind by the last entries. Until then a read of its own state would miss what the same member has shown
//! before it stopped. Reads that go through the leader are not concerned; they wait for more than this.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

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
        Self { done: AtomicBool::new(found.is_none()), found, until }
    }

    fn look(&self, inner: &Inner) -> bool {
        // A leader may have cut off what was never committed.
        inner.machine.applied_index() >= self.found.min(inner.log.last_index()) || Instant::now() >= self.until
    }
}

impl Group {
    /// Waits after a restart until this member has applied all that it may have shown before, for as long as it takes
    /// to find a leader twice; later it returns at once. For reads of this member's own state, which promise no more.
    pub async fn caught_up(&self) {
        let catch_up = &self.inner.catch_up;
        while !catch_up.done.load(Relaxed) {
            if catch_up.look(&self.inner) {
                catch_up.done.store(true, Relaxed);
                return;
            }
            runtime::sleep(LOOK_AGAIN).await;
        }
    }
}
