//! Counters of one group, and its events: bumped where things happen, read by status.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_storage::checkpoint::CheckpointError;
use tokio::sync::broadcast;

use crate::events::Event;
use crate::runtime::Instant;
use crate::status::Histogram;

/// Events that a slow listener may fall behind.
const EVENTS: usize = 256;

/// The least time between two lines of the log about the same trouble.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A snapshot that was refused for want of room makes the disk count as full for so long. It is offered again sooner.
const FULL_FOR: Duration = Duration::from_secs(10);

/// Trouble that is told again only after a while, unless it is of another kind.
pub(crate) struct Seldom<K>(Option<(K, Instant)>);

impl<K> Default for Seldom<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> Seldom<K> {
    pub(crate) fn is_due(&mut self, kind: K) -> bool {
        let now = Instant::now();
        let due = self.0.as_ref().is_none_or(|(told, at)| *told != kind || now - *at >= TELL_EVERY);
        if due {
            self.0 = Some((kind, now));
        }
        due
    }
}

/// Those that were turned away, and why: each is told seldom, however many there are and however often they come.
#[derive(Default)]
pub(crate) struct TurnedAway(BTreeMap<(String, String), Seldom<()>>);

impl TurnedAway {
    /// More than these are forgotten, all at once: whoever comes under ever new names must not take memory.
    const MOST: usize = 256;

    pub(crate) fn is_due(&mut self, who: &str, why: &str) -> bool {
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.entry((who.to_owned(), why.to_owned())).or_default().is_due(())
    }
}

/// Errors of the checkpoint store, told seldom.
type ErrorsTold = Mutex<Seldom<Discriminant<CheckpointError>>>;

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
    /// Why the last one could not be written.
    pub(crate) checkpoint_error: Mutex<Option<CheckpointError>>,
    checkpoint_told: ErrorsTold,
    /// When a snapshot was last refused because the disk has no room for it.
    pub(crate) snapshot_refused: Mutex<Option<Instant>>,
    snapshot_told: ErrorsTold,
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
            checkpoint_error: Mutex::new(None),
            checkpoint_told: ErrorsTold::default(),
            snapshot_refused: Mutex::new(None),
            snapshot_told: ErrorsTold::default(),
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
        *self.checkpoint_error.lock() = None;
        *self.checkpoint_told.lock() = Seldom::default();
    }

    pub(crate) fn checkpoint_failed(&self, group: u64, error: &CheckpointError) {
        if self.checkpoint_told.lock().is_due(discriminant(error)) {
            tracing::error!(group, %error, "a checkpoint could not be written; it is tried again");
        }
        *self.checkpoint_error.lock() = Some(error.clone());
        self.checkpoint_failed.store(true, Relaxed);
        // Last: whoever counts failures asks for the error then.
        self.checkpoint_failures.fetch_add(1, SeqCst);
    }

    pub(crate) fn snapshot_refused(&self, group: u64, error: &CheckpointError) {
        *self.snapshot_refused.lock() = Some(Instant::now());
        if self.snapshot_told.lock().is_due(discriminant(error)) {
            tracing::error!(group, %error, "a snapshot was refused and is taken when the disk has room");
        }
    }

    /// The disk had no room for a checkpoint or a snapshot when that was last tried.
    pub(crate) fn is_short_of_room(&self) -> bool {
        let checkpoint = matches!(*self.checkpoint_error.lock(), Some(CheckpointError::NoRoom(_)));
        checkpoint || self.snapshot_refused.lock().as_ref().is_some_and(|at| at.elapsed() < FULL_FOR)
    }

    pub(crate) fn snapshot_installed(&self, index: u64, bytes: u64) {
        self.snapshots_received.fetch_add(1, Relaxed);
        *self.snapshot_refused.lock() = None;
        *self.snapshot_told.lock() = Seldom::default();
        self.emit(Event::SnapshotInstalled { index, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_again_and_again_is_told_once_a_minute_for_each_reason() {
        let mut told = TurnedAway::default();
        let seen = [("1.2.3.4", "secret"), ("1.2.3.4", "group"), ("1.2.3.5", "group")];
        for (who, why) in seen {
            assert!(told.is_due(who, why));
        }
        for (who, why) in seen.into_iter().cycle().take(30) {
            assert!(!told.is_due(who, why), "{who} {why}");
        }
        for n in 0..10_000 {
            told.is_due(&n.to_string(), "");
        }
        assert!(told.0.len() <= TurnedAway::MOST);
    }
}
