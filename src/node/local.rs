//! What the admin service and INFO tell of this process beside its group.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use quorate_raft::{Member, Node};
use quorate_storage::wal::Buckets;

use crate::admin::Local;
use crate::engine::Engine;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::metrics::text::Page;
use crate::server::facts::StorageFacts;
use crate::session::registry::Clients;

/// See [`Local`].
pub(super) struct LocalFacts {
    pub(super) group: String,
    pub(super) addresses: Member,
    pub(super) started: Instant,
    pub(super) engine: Arc<Engine>,
    pub(super) clients: Arc<Clients>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) env: Arc<dyn Env>,
    /// Known once the data is loaded.
    pub(super) node: OnceLock<Node>,
}

/// When the last checkpoint was taken, for INFO's persistence section.
#[derive(Default)]
pub(super) struct LastCheckpoint {
    at_s: AtomicU64,
}

impl LastCheckpoint {
    /// A checkpoint is on disk.
    pub(super) fn note(&self, at_s: u64) {
        self.at_s.store(at_s, Relaxed);
    }
}

/// Log and checkpoint, as INFO shows them.
pub(super) fn storage_facts(node: &Node, last: &LastCheckpoint) -> StorageFacts {
    let wal = node.wal_stats();
    StorageFacts {
        log_bytes: wal.live_bytes,
        log_segments: wal.live_segments,
        fsyncs: wal.sync_us.count(),
        fsync_us: wal.sync_us.sum,
        sync_pending: wal.unsynced_batches > 0,
        delayed_fsyncs: wal.delayed_syncs,
        last_checkpoint_s: last.at_s.load(Relaxed),
        has_room: node.has_room(),
        failed: wal.sync_failures > 0,
        ..StorageFacts::default()
    }
}

impl Local for LocalFacts {
    fn group(&self) -> String {
        self.group.clone()
    }

    fn addresses(&self) -> Member {
        self.addresses.clone()
    }

    fn now_ms(&self) -> u64 {
        self.env.wall_ms()
    }

    fn started(&self) -> Instant {
        self.started
    }

    fn keys(&self) -> u64 {
        self.engine.with(|keyspace| (0..keyspace.databases()).map(|db| keyspace.dbsize(db)).sum())
    }

    fn disk_failure(&self) -> Option<String> {
        (self.node.get()?.wal_stats().sync_failures > 0).then(|| "a sync of the log has failed".to_owned())
    }

    fn metrics(&self, page: &mut Page) {
        self.metrics.clients.set(self.clients.count() as u64);
        self.metrics.write(page);
        let now = self.env.wall_ms();
        let databases = self.engine.with(|keyspace| {
            let all = 0..keyspace.databases();
            all.map(|db| (db, keyspace.keyspace_info(db, now))).filter(|(_, info)| info.keys > 0).collect::<Vec<_>>()
        });
        let label = |db: &u16| vec![("db", db.to_string())];
        let keys = databases.iter().map(|(db, info)| (label(db), info.keys as f64));
        page.gauges("quorate_db_keys", "Keys in a database", keys);
        let expiring = databases.iter().map(|(db, info)| (label(db), info.expires as f64));
        page.gauges("quorate_db_keys_expiring", "Keys of a database that have a time to live", expiring);
        let Some(node) = self.node.get() else { return };
        let wal = node.wal_stats();
        bounded_histogram(page, "quorate_log_sync_seconds", "Time of one sync of the log", &wal.sync_us, 1e-6);
        bounded_histogram(
            page,
            "quorate_log_batch_bytes",
            "Bytes written by one sync of the log",
            &wal.batch_bytes,
            1.0,
        );
        bounded_histogram(page, "quorate_log_batch_operations", "Operations in one sync", &wal.batch_ops, 1.0);
        page.gauge("quorate_log_bytes", "Bytes of the log that are needed", wal.live_bytes as f64);
        page.gauge("quorate_log_disk_bytes", "Bytes of the log's files", wal.disk_bytes as f64);
        page.gauge("quorate_log_segments", "Files of the log that are in use", wal.live_segments as f64);
        let bytes = node.checkpoint_disk_bytes() as f64;
        page.gauge("quorate_checkpoint_bytes", "Bytes that the checkpoint takes on disk", bytes);
        let room = f64::from(node.has_room());
        page.gauge("quorate_log_has_room", "0 while the disk has no room for the log: no writes are taken then", room);
        page.gauge("quorate_log_queue_bytes", "Bytes that wait for the log", wal.queue_bytes as f64);
        page.gauge(
            "quorate_log_unsynced_batches",
            "Batches of acknowledged writes that are not synced yet (appendfsync everysec or no)",
            wal.unsynced_batches as f64,
        );
        page.counter("quorate_log_sync_failures_total", "Syncs of the log that failed", wal.sync_failures);
    }
}

/// The storage room counts values up to each bound, and those above the last.
fn bounded_histogram(page: &mut Page, name: &str, help: &str, of: &Buckets, scale: f64) {
    let mut below = 0;
    let bounds = of.bounds.iter().zip(&of.counts);
    let cumulated: Vec<(f64, u64)> = bounds
        .map(|(bound, count)| {
            below += count;
            (*bound as f64 * scale, below)
        })
        .collect();
    page.buckets(name, help, &cumulated, of.sum as f64 * scale, of.count());
}
