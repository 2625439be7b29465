//! The write-ahead log: one stream of records for all Raft groups of a node.

mod error;
mod stats;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use error::WalError;
pub use stats::{BYTES_BOUNDS, Buckets, LATENCY_BOUNDS_US, OPS_BOUNDS, WalStats};

use crate::disk::Disk;

/// Told when an operation is durable, or why it never will be. Called on the log's thread, in the order in which the
/// operations were given: it must be short and must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How a log is laid out and how much memory it may use.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// Size of a segment file. A batch that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory, shared by all groups.
    pub cache_bytes: usize,
    /// A batch takes no further operation once it holds this many bytes.
    pub batch_bytes: usize,
    /// Callers that give more than this ahead of the disk are made to wait (never with [`Wal::open_manual`]).
    pub queue_bytes: usize,
    /// Segment files kept for use again beyond the one that is always ready.
    pub spare_segments: usize,
    /// After so long without work, marks that needed no sync are written: they prove that what is before them had
    /// been synced.
    pub idle_after: Duration,
    /// A number that no client can know, mixed into every checksum of a new log; drawn at random if `None`.
    pub salt: Option<u64>,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            queue_bytes: 256 << 20,
            spare_segments: 2,
            idle_after: Duration::from_millis(50),
            salt: None,
        }
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that has a record in it.
    pub groups: BTreeMap<u64, RecoveredGroup>,
    /// Bytes of live segments that were read.
    pub bytes: u64,
    /// Batches that were read.
    pub batches: u64,
    /// Where a tail was cut off that had never been acknowledged: file name and offset.
    pub cut: Option<(String, u64)>,
}

/// What a log held of one group when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last committed mark that reached the disk; never ahead of the entries.
    pub committed: Option<Bytes>,
    /// The purge mark: up to which index (inclusive) entries are gone, and the caller's bytes for it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first and the last entry.
    pub entries: Option<(u64, u64)>,
}

/// A handle to the log; clones are cheap and share it. The last one dropped closes it.
#[derive(Clone)]
pub struct Wal {}

/// The log of one group: what openraft's storage needs, with entries as opaque bytes.
///
/// Every operation takes effect in memory before the call returns (an appended entry can be read at once) and on disk
/// in the order of the calls. `done` is called when it is durable.
#[derive(Clone)]
pub struct GroupLog {}

/// The log's engine when somebody else than its own thread drives it (see [`Wal::open_manual`]).
pub struct WalDriver {}

impl WalDriver {
    /// Writes what waits as one batch, syncs it if anything in it asks for that, calls back. False if nothing waited.
    /// Errors go to the callbacks and poison the log.
    pub fn run_once(&mut self) -> bool {
        false
    }

    /// To be called after some time without work (see [`WalConfig::idle_after`]).
    pub fn idle(&mut self) {}
}

impl Wal {
    /// Opens the log in `dir`, or starts one if there is none, and starts its thread.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if something that was acknowledged cannot be read back; see the module for the rule.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _config: WalConfig,
    ) -> Result<(Self, Recovered), WalError> {
        Err(WalError::Closed)
    }

    /// As [`Wal::open`], without a thread: `wake` is called whenever there is work for the driver.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_manual(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _config: WalConfig,
        _wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(Self, WalDriver, Recovered), WalError> {
        Err(WalError::Closed)
    }

    /// The log of one group. Unknown groups are empty.
    #[must_use]
    pub fn group(&self, _group: u64) -> GroupLog {
        GroupLog {}
    }

    /// Writes and syncs what waits, then stops. Later calls get [`WalError::Closed`].
    ///
    /// # Errors
    /// If the log has failed, before or now.
    pub fn close(&self) -> Result<(), WalError> {
        Err(WalError::Closed)
    }

    /// The failure that ended this log, if one did. The member must stop then.
    #[must_use]
    pub fn failed(&self) -> Option<WalError> {
        None
    }

    /// False if the disk had no room for the next segment when it was last tried: take no more proposals then.
    #[must_use]
    pub fn has_room(&self) -> bool {
        true
    }

    /// Counters for metrics.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        WalStats::default()
    }
}

impl GroupLog {
    /// The group's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        0
    }

    /// Appends entries. Indexes must follow each other and the last entry (an empty log takes any index behind the
    /// purge mark); otherwise `done` gets [`WalError::Refused`] and nothing changed.
    pub fn append(&self, _entries: Vec<(u64, Bytes)>, done: Done) {
        done(Err(WalError::Closed.into()));
    }

    /// Saves the vote.
    pub fn save_vote(&self, _vote: Bytes, done: Done) {
        done(Err(WalError::Closed.into()));
    }

    /// Saves the committed mark. Costs no sync: it reaches the disk with the next batch, or when the log idles.
    ///
    /// # Errors
    /// If the log has failed or is closed.
    pub fn save_committed(&self, _committed: Bytes) -> io::Result<()> {
        Err(WalError::Closed.into())
    }

    /// Removes all entries behind `index`, or all entries if `None`.
    pub fn truncate_after(&self, _index: Option<u64>, done: Done) {
        done(Err(WalError::Closed.into()));
    }

    /// Removes all entries up to and including `upto`, which may lie behind the last entry: the log is then empty and
    /// goes on at `upto + 1`. `mark` is kept with it. What the entries said must be durable elsewhere before.
    pub fn purge(&self, _upto: u64, _mark: Bytes, done: Done) {
        done(Err(WalError::Closed.into()));
    }

    /// The entries of the range that exist, in order, from the cache or from disk, each with its index so that a gap at
    /// either end can be seen. Blocks on the disk if they are not cached.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] (with file and offset) if an entry does not read back as it was written.
    pub fn read(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<(u64, Bytes)>> {
        self.read_limited(range, u64::MAX)
    }

    /// As [`GroupLog::read`], but stops before the sum of the bytes passes `limit_bytes`; the first entry is always
    /// given.
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn read_limited(
        &self,
        _range: impl RangeBounds<u64>,
        _limit_bytes: u64,
    ) -> io::Result<Vec<(u64, Bytes)>> {
        Err(WalError::Closed.into())
    }

    /// The last vote given to [`GroupLog::save_vote`].
    #[must_use]
    pub fn vote(&self) -> Option<Bytes> {
        None
    }

    /// The last mark given to [`GroupLog::save_committed`].
    #[must_use]
    pub fn committed(&self) -> Option<Bytes> {
        None
    }

    /// The purge mark: up to which index, and the caller's bytes.
    #[must_use]
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        None
    }

    /// Index of the first entry.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        None
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        None
    }

    /// The last entry; `None` if there is none (the purge mark then tells where the log stands).
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        Ok(None)
    }

    /// Bytes of this group's entries from the first to the last: what a checkpoint would let go.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        0
    }

    /// Counters of the whole log.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        WalStats::default()
    }
}
