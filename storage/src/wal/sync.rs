//! When what was written is synced: redis.conf's `appendfsync`.
//!
//! | policy | an operation is acknowledged | what a loss of power may take |
//! |---|---|---|
//! | always | when it is synced | nothing |
//! | everysec | when it is written | entries of the last second (of two, when the disk is slow) |
//! | no | when it is written | entries that the system has not written by itself |
//!
//! Votes, truncations and purge marks are synced before they are acknowledged whatever the policy: a forgotten vote
//! would break Raft's rules and not only lose writes. A kill of the process alone takes nothing under any policy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::background::{Background, Work};
use super::segment::Segment;

/// So long an acknowledged entry may wait for its sync under [`SyncPolicy::EverySecond`].
pub(super) const SYNC_EVERY: Duration = Duration::from_secs(1);
/// A sync in the background that takes longer than this holds up the log: what a loss of power may take stays bounded.
pub(super) const SYNC_PATIENCE: Duration = Duration::from_secs(2);

/// When entries are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before they are acknowledged.
    #[default]
    Always,
    /// At most a second after they were acknowledged, beside the writing.
    EverySecond,
    /// When the system sees fit, and where the log itself needs it.
    Never,
}

const POLICIES: [SyncPolicy; 3] = [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never];

/// The policy in force; it may change while the log runs.
pub(super) struct Policy(AtomicU8);

impl Policy {
    pub(super) fn new(policy: SyncPolicy) -> Self {
        Self(AtomicU8::new(policy as u8))
    }

    pub(super) fn get(&self) -> SyncPolicy {
        POLICIES.get(usize::from(self.0.load(Relaxed))).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, policy: SyncPolicy) {
        self.0.store(policy as u8, Relaxed);
    }
}

/// A sync of a segment that holds batches up to a number.
pub(super) struct Job {
    segment: Arc<Segment>,
    number: u64,
    begun: Instant,
}

/// What came of it.
pub(super) struct Synced {
    pub(super) segment: Arc<Segment>,
    /// Every batch up to this one was written before it began.
    pub(super) number: u64,
    pub(super) begun: Instant,
    pub(super) took: Duration,
    pub(super) result: io::Result<()>,
}

impl Job {
    pub(super) fn new(segment: Arc<Segment>, number: u64) -> Self {
        Self { segment, number, begun: Instant::now() }
    }
}

impl Work for Job {
    type Outcome = Synced;

    fn run(self) -> Synced {
        let Job { segment, number, begun } = self;
        let result = segment.file.sync_data();
        Synced { segment, number, begun, took: begun.elapsed(), result }
    }
}

/// Syncs beside the log, so that batches go on being written meanwhile.
pub(super) type Syncer = Background<Job>;
