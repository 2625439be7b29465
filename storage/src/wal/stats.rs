//! Counters of the log for metrics: atomics that the log thread bumps and anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets for the latency of a sync, in microseconds; one more bucket takes the rest.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600, 1_638_400];

/// Upper bounds of the buckets for the size of a batch, in bytes; one more bucket takes the rest.
pub const BYTES_BOUNDS: [u64; 10] =
    [1 << 10, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24];

/// Upper bounds of the buckets for the number of operations in a batch; one more bucket takes the rest.
pub const OPS_BOUNDS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 512];

/// What a histogram held at one moment. `counts` has one element more than `bounds`; none is cumulative.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Buckets {
    /// Inclusive upper bounds.
    pub bounds: &'static [u64],
    /// How many values fell into each bucket.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

impl Buckets {
    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What the log has done since it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalStats {
    /// Latency of each sync, in microseconds.
    pub sync_us: Buckets,
    /// Bytes of each batch as written, padding included.
    pub batch_bytes: Buckets,
    /// Operations in each batch.
    pub batch_ops: Buckets,
    /// Syncs that failed; more than none means that the log is poisoned.
    pub sync_failures: u64,
    /// Batches with acknowledged entries that are not synced yet; none with `SyncPolicy::Always`.
    pub unsynced_batches: u64,
    /// Syncs in the background that took so long that the log waited for them.
    pub delayed_syncs: u64,
    /// Segment files that hold live records, the one being written among them.
    pub live_segments: u64,
    /// Segment files that wait to be used or used again.
    pub spare_segments: u64,
    /// Bytes of all segment files on disk.
    pub disk_bytes: u64,
    /// Bytes from the oldest live segment to the end of the log: what a restart has to read.
    pub live_bytes: u64,
    /// Segments used again since the log was opened.
    pub recycled: u64,
    /// Bytes that wait in the queue to be written.
    pub queue_bytes: u64,
    /// Bytes of entries in the cache.
    pub cache_bytes: u64,
    /// Entries read from the cache.
    pub cache_hits: u64,
    /// Entries that had to be read from disk.
    pub cache_misses: u64,
    /// Entries in the index, of all groups.
    pub entries: u64,
}

#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [AtomicU64; N],
    over: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub(crate) fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; N], over: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.over, |at| &self.counts[at]).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn read(&self) -> Buckets {
        let counts = self.counts.iter().chain([&self.over]).map(|count| count.load(Relaxed)).collect();
        Buckets { bounds: self.bounds, counts, sum: self.sum.load(Relaxed) }
    }
}

/// The live counters behind [`WalStats`].
#[derive(Debug)]
pub(crate) struct Counters {
    sync_us: Histogram<14>,
    batch_bytes: Histogram<10>,
    batch_ops: Histogram<9>,
    pub(crate) sync_failures: AtomicU64,
    pub(crate) unsynced_batches: AtomicU64,
    pub(crate) delayed_syncs: AtomicU64,
    pub(crate) live_segments: AtomicU64,
    pub(crate) spare_segments: AtomicU64,
    pub(crate) disk_bytes: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) recycled: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) cache_misses: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sync_us: Histogram::new(&LATENCY_BOUNDS_US),
            batch_bytes: Histogram::new(&BYTES_BOUNDS),
            batch_ops: Histogram::new(&OPS_BOUNDS),
            sync_failures: zero(),
            unsynced_batches: zero(),
            delayed_syncs: zero(),
            live_segments: zero(),
            spare_segments: zero(),
            disk_bytes: zero(),
            live_bytes: zero(),
            recycled: zero(),
            cache_hits: zero(),
            cache_misses: zero(),
        }
    }

    pub(crate) fn synced(&self, took: Duration) {
        self.sync_us.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn wrote(&self, bytes: u64, ops: u64) {
        self.batch_bytes.add(bytes);
        self.batch_ops.add(ops);
    }

    /// All but the fields that live under the log's lock.
    pub(crate) fn read(&self) -> WalStats {
        WalStats {
            sync_us: self.sync_us.read(),
            batch_bytes: self.batch_bytes.read(),
            batch_ops: self.batch_ops.read(),
            sync_failures: self.sync_failures.load(Relaxed),
            unsynced_batches: self.unsynced_batches.load(Relaxed),
            delayed_syncs: self.delayed_syncs.load(Relaxed),
            live_segments: self.live_segments.load(Relaxed),
            spare_segments: self.spare_segments.load(Relaxed),
            disk_bytes: self.disk_bytes.load(Relaxed),
            live_bytes: self.live_bytes.load(Relaxed),
            recycled: self.recycled.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            ..WalStats::default()
        }
    }
}
