//! The keyspace as a group's state machine: the lock around it, the clock and the chance that its entries carry.
//!
//! Applying needs no clock: all it knows of time is in the entry. Nothing here touches a socket or a file.

#[cfg(not(madsim))]
mod loader;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use quorate_keyspace::entry::{Stamp, encode_entry};
use quorate_keyspace::view as keyspace_view;
use quorate_keyspace::{Corrupt, Keyspace, Moment};
use quorate_raft::{ApplyError, Change, Restore, StateMachine, View};
use tokio::time::Instant;

use crate::env::Env;
use crate::metrics::Metrics;

fn failed(error: Corrupt) -> ApplyError {
    ApplyError { words: error.to_string(), of_other_version: matches!(error, Corrupt::Version { .. }) }
}

/// The keyspace behind its lock.
pub struct Engine {
    keyspace: RwLock<Keyspace>,
    env: Arc<dyn Env>,
    metrics: Arc<Metrics>,
    /// The latest time that was given to a read or a stamp. The wall clock may step back; what was read as past due
    /// must not come alive again for it.
    latest_ms: AtomicU64,
}

impl Engine {
    /// An empty keyspace.
    ///
    /// Its secret hash seed is drawn here; a member that joins or restarts takes the group's from a snapshot.
    pub fn new(keyspace: Keyspace, env: Arc<dyn Env>, metrics: Arc<Metrics>) -> Self {
        Self { keyspace: RwLock::new(keyspace), env, metrics, latest_ms: AtomicU64::new(0) }
    }

    /// Looks at the keyspace under the shared lock. Keep it short: entries wait to be applied.
    pub fn with<T>(&self, look: impl FnOnce(&Keyspace) -> T) -> T {
        look(&self.keyspace.read())
    }

    /// See [`Keyspace::damage`].
    pub fn damage(&self, db: u16, key: &[u8]) -> bool {
        self.keyspace.write().damage(db, key)
    }

    /// The time at which reads see the keyspace and proposals are stamped: the wall clock, but never before what it
    /// was last time. (The keyspace itself never goes back before its last stamp.)
    pub fn now_ms(&self) -> u64 {
        let wall = self.env.wall_ms();
        wall.max(self.latest_ms.fetch_max(wall, Ordering::Relaxed))
    }

    /// The moment for a batch of reads.
    pub fn moment(&self) -> Moment {
        Moment::new(self.now_ms(), self.env.random())
    }
}

impl StateMachine for Engine {
    fn encode_batch(&self, units: &[Bytes], out: &mut BytesMut) {
        let stamp = Stamp { time_ms: self.now_ms(), seed: self.env.random() };
        encode_entry(stamp, units, out);
    }

    fn apply(&self, entry: &Bytes, want_replies: bool) -> Result<Vec<Bytes>, ApplyError> {
        let began = Instant::now();
        let (replies, garbage) = {
            let mut keyspace = self.keyspace.write();
            let replies = keyspace.apply(entry, want_replies).map_err(failed)?;
            (replies, keyspace.take_garbage())
        };
        if let Some(garbage) = garbage {
            throw_away(garbage);
        }
        self.metrics.apply.record(began.elapsed().as_nanos() as u64);
        Ok(replies)
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(KeyspaceView(self.keyspace.read().view()))
    }

    fn restore(&self, header: &[u8], fast: bool) -> Result<Box<dyn Restore>, ApplyError> {
        let restore = keyspace_view::Restore::new(header).map_err(failed)?;
        // The simulator has one thread.
        #[cfg(not(madsim))]
        if fast {
            return loader::restore(restore);
        }
        let _ = fast;
        Ok(Box::new(KeyspaceRestore(restore)))
    }

    fn install(&self, view: Arc<dyn View>) {
        let view = view.as_any().downcast_ref::<KeyspaceView>().expect("a view that this engine restored");
        let keyspace = Keyspace::from_view(&view.0);
        // Freeing millions of keys takes a while.
        let old = std::mem::replace(&mut *self.keyspace.write(), keyspace);
        throw_away(old);
    }
}

/// Frees what was removed where nobody waits for it: neither entries behind the lock nor the thread of consensus.
#[cfg(not(madsim))]
fn throw_away(garbage: impl Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(garbage))),
        // Nobody waits yet.
        Err(_) => drop(garbage),
    }
}

/// The simulator has one thread.
#[cfg(madsim)]
fn throw_away(garbage: impl Send + 'static) {
    drop(garbage);
}

/// Keys in each database of a view that an engine has made.
pub(crate) fn keys_by_database(view: &dyn View) -> Vec<u64> {
    let view = view.as_any().downcast_ref::<KeyspaceView>();
    view.map_or_else(Vec::new, |view| view.0.keys_by_database().collect())
}

pub(crate) struct KeyspaceView(pub(crate) keyspace_view::View);

impl View for KeyspaceView {
    fn header(&self) -> Vec<u8> {
        self.0.header()
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_> {
        Box::new(self.0.chunks())
    }

    fn revision(&self) -> u64 {
        self.0.revision()
    }

    fn changes(&self, since: u64) -> Box<dyn Iterator<Item = Change> + '_> {
        Box::new(self.0.changes(since).map(|change| Change { ids: change.ids, chunks: change.chunks }))
    }

    fn encode(&self, chunk: u128, out: &mut Vec<u8>) {
        self.0.encode(chunk, out);
    }

    fn digest(&self, chunk: u128, buffer: &mut Vec<u8>) -> u128 {
        self.0.encode(chunk, buffer);
        keyspace_view::digest_of(buffer)
    }

    fn release(&mut self, upto: u128) {
        self.0.release(upto);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct KeyspaceRestore(keyspace_view::Restore);

impl Restore for KeyspaceRestore {
    fn add(&mut self, chunk: u128, bytes: &[u8]) -> Result<(), ApplyError> {
        self.0.add(chunk, bytes).map_err(failed)
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn View>, ApplyError> {
        let view = self.0.finish().map_err(failed)?;
        Ok(Arc::new(KeyspaceView(view)))
    }
}
