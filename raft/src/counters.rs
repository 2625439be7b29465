//! Counters of one group, and its events: bumped where things happen, read by status.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::events::Event;
use crate::status::Histogram;

/// Events that a slow listener may fall behind.
const EVENTS: usize = 256;

pub(crate) struct Counters {
    pub(crate) proposals: AtomicU64,
    pub(crate) proposals_unknown: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) elections: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) batch_units: Histogram,
    pub(crate) batch_bytes: Histogram,
    pub(crate) commit_us: Histogram,
    pub(crate) apply_us: Histogram,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_failures: AtomicU64,
    pub(crate) checkpoint_us: AtomicU64,
    pub(crate) checkpoint_failed: AtomicBool,
    /// When the one that is being written was begun, in nanoseconds; zero: none is.
    pub(crate) checkpoint_since: AtomicU64,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshot_bytes_sent: AtomicU64,
    pub(crate) snapshots_received: AtomicU64,
    pub(crate) snapshot_bytes_received: AtomicU64,
    pub(crate) checks: AtomicU64,
    pub(crate) check_differences: AtomicU64,
    pub(crate) checks_undecided: AtomicU64,
    /// The position of the last check in which nobody differed, plus one.
    pub(crate) check_good: AtomicU64,
    pub(crate) damaged: AtomicBool,
    pub(crate) events: broadcast::Sender<Event>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            proposals: zero(),
            proposals_unknown: zero(),
            in_flight: zero(),
            elections: zero(),
            leader_changes: zero(),
            batch_units: Histogram::default(),
            batch_bytes: Histogram::default(),
            commit_us: Histogram::default(),
            apply_us: Histogram::default(),
            checkpoints: zero(),
            checkpoint_failures: zero(),
            checkpoint_us: zero(),
            checkpoint_failed: AtomicBool::new(false),
            checkpoint_since: zero(),
            snapshots_sent: zero(),
            snapshot_bytes_sent: zero(),
            snapshots_received: zero(),
            snapshot_bytes_received: zero(),
            checks: zero(),
            check_differences: zero(),
            checks_undecided: zero(),
            check_good: zero(),
            damaged: AtomicBool::new(false),
            events: broadcast::channel(EVENTS).0,
        }
    }
}

impl Counters {
    pub(crate) fn emit(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    pub(crate) fn checkpointed(&self, took: Duration) {
        self.checkpoints.fetch_add(1, Relaxed);
        self.checkpoint_us.store(took.as_micros() as u64, Relaxed);
        self.checkpoint_failed.store(false, Relaxed);
    }

    pub(crate) fn checkpoint_failed(&self) {
        self.checkpoint_failures.fetch_add(1, Relaxed);
        self.checkpoint_failed.store(true, Relaxed);
    }

    pub(crate) fn snapshot_installed(&self, index: u64, bytes: u64) {
        self.snapshots_received.fetch_add(1, Relaxed);
        self.emit(Event::SnapshotInstalled { index, bytes });
    }
}
