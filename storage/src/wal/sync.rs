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
use std::sync::mpsc;
use std::time::{Duration, Instant};

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
    fn run(self) -> Synced {
        let Job { segment, number, begun } = self;
        let result = segment.file.sync_data();
        Synced { segment, number, begun, took: begun.elapsed(), result }
    }
}

/// Who syncs in the background.
pub(super) enum Syncer {
    /// The caller, at once: for a driver that must not have threads.
    Inline(Option<Synced>),
    /// A thread, so that batches go on being written meanwhile.
    Thread { jobs: mpsc::Sender<Job>, done: mpsc::Receiver<Synced>, since: Option<Instant> },
}

impl Syncer {
    pub(super) fn thread(notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (give, done) = mpsc::channel();
        std::thread::Builder::new().name("wal-sync".into()).spawn(move || {
            for job in todo {
                if give.send(job.run()).is_err() {
                    return;
                }
                notify();
            }
        })?;
        Ok(Self::Thread { jobs, done, since: None })
    }

    pub(super) fn start(&mut self, segment: Arc<Segment>, number: u64) {
        let begun = Instant::now();
        let job = Job { segment, number, begun };
        match self {
            Self::Inline(result) => *result = Some(job.run()),
            Self::Thread { jobs, since, .. } => *since = jobs.send(job).is_ok().then_some(begun),
        }
    }

    /// Since when one is under way.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        match self {
            Self::Inline(result) => result.as_ref().map(|synced| synced.begun),
            Self::Thread { since, .. } => *since,
        }
    }

    /// What the last one came to, if it is done; with `wait`, when it is done.
    pub(super) fn take(&mut self, wait: bool) -> Option<Synced> {
        match self {
            Self::Inline(result) => result.take(),
            Self::Thread { since: None, .. } => None,
            Self::Thread { done, since, .. } => {
                let synced = if wait { done.recv().ok() } else { done.try_recv().ok() };
                if synced.is_some() || wait {
                    *since = None;
                }
                synced
            }
        }
    }
}
