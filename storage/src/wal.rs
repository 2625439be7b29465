//! The write-ahead log: one stream of records for all Raft groups of a node, synced before anything is acknowledged.
//!
//! # What it promises
//!
//! * When `done` says `Ok`, the operation and all given before it are on disk and survive a power cut. (With another
//!   [`SyncPolicy`] than the default, entries that were acknowledged survive a kill of the process, and `sync.rs` tells
//!   what a power cut may take.)
//! * After a crash the log is what it was after some operation, the last acknowledged one or a later one: never a hole,
//!   never something that was truncated, never an older vote.
//! * Bytes that read back differently from how they were written are an error with file and offset; they are never
//!   served, and never silently dropped if they had been acknowledged (`wal/recovery.rs` tells how it knows).
//! * The first write or sync that fails ends the log: every later call fails. Nothing is retried.
//!
//! # How it works
//!
//! A call changes the state in memory (`state.rs`, under one lock) and joins the queue; an entry can be read from then on.
//! One thread (`thread.rs`, around the plain struct [`WalDriver`]) takes what waits from all groups, writes it as one batch
//! with one write and one sync, and calls back in order. Batches go to preallocated files of zeros (`segment.rs`) in the
//! format of `format.rs`; the next file is made ready by a second thread before it is needed.
//!
//! A committed mark asks for no sync: it rides along, or is written when the log idles.
//!
//! A purge forgets entries. Segments that hold no wanted entry any more are used again from the oldest on, after the
//! votes and marks of all groups were written anew at the end of the log, together with the number of the oldest segment
//! that still counts (the base), and synced. Recovery reads from the base on.
//!
//! This module must never know what an entry means, and must never call back under its lock.

mod background;
#[cfg(test)]
mod crash_tests;
mod driver;
mod error;
mod format;
mod inspect;
mod recovery;
mod segment;
mod state;
mod stats;
mod sync;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
mod thread;

use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

pub use driver::WalDriver;
pub use error::WalError;
pub use inspect::{Damage, Inspection, LostEntries};
pub use recovery::{Recovered, RecoveredGroup};
pub use stats::{BYTES_BOUNDS, Buckets, LATENCY_BOUNDS_US, OPS_BOUNDS, WalStats};
pub use sync::SyncPolicy;

use crate::disk::Disk;
use format::{BLOCK_BYTES, Kind, LEAST_SEGMENT_BYTES, RECORD_HEADER_BYTES};
use segment::{Maker, Segment};
use state::{Found, GroupState, Slot, State};
use stats::Counters;
use sync::{Policy, Syncer};
use thread::Threads;

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
    /// When entries are synced; see [`Wal::set_sync_policy`].
    pub sync: SyncPolicy,
    /// A number that no client can know, mixed into every checksum of a new log; drawn at random if `None`.
    pub salt: Option<u64>,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes: 8 << 20,
            batch_bytes: 4 << 20,
            queue_bytes: 256 << 20,
            spare_segments: 2,
            idle_after: Duration::from_millis(50),
            sync: SyncPolicy::Always,
            salt: None,
        }
    }
}

/// What the handles and the driver share.
struct Shared {
    config: WalConfig,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    salt: u64,
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// The queue got shorter.
    room: Condvar,
    /// Tells a driver that is not our thread.
    wake: Option<Box<dyn Fn() + Send + Sync>>,
    counters: Counters,
    policy: Policy,
    /// The disk had no room for the next segment when it was last tried.
    no_room: AtomicBool,
    /// And little is left of the segment that is being written.
    tight: AtomicBool,
}

impl Shared {
    /// Ends the log. Gives the error that callers get from now on.
    fn fail(&self, error: WalError) -> WalError {
        let mut state = self.state.lock();
        if let Some(first) = &state.failed {
            return first.clone();
        }
        tracing::error!(%error, "the write-ahead log has failed");
        let failed = WalError::Failed(Arc::new(error));
        state.failed = Some(failed.clone());
        failed
    }

    /// Tells everybody who waits in the queue that the log has failed or is closed.
    fn fail_queue(&self) {
        let (ops, error) = {
            let mut state = self.state.lock();
            let error = state.failed.clone().unwrap_or(WalError::Closed);
            (state.take(usize::MAX), error)
        };
        self.room.notify_all();
        for done in ops.into_iter().filter_map(|op| op.done) {
            done(Err(error.clone().into()));
        }
    }

    fn notify(&self) {
        self.work.notify_one();
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    /// Why no operation is taken now, if none is.
    fn refusal(state: &State) -> Option<WalError> {
        state.failed.clone().or_else(|| state.closing.then_some(WalError::Closed))
    }
}

/// Closes the log when the last handle goes.
struct Handle {
    shared: Arc<Shared>,
    threads: Option<Threads>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to know about a failure calls `close`.
        let _ = self.close();
    }
}

impl Handle {
    fn close(&self) -> Result<(), WalError> {
        self.shared.state.lock().closing = true;
        self.shared.notify();
        if let Some(threads) = &self.threads {
            threads.join();
        }
        self.shared.state.lock().failed.clone().map_or(Ok(()), Err)
    }
}

/// A handle to the log; clones are cheap and share it. The last one dropped closes it.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("dir", &self.handle.shared.dir).finish_non_exhaustive()
    }
}

/// The log of one group: what a Raft storage needs, with entries as opaque bytes.
///
/// Every operation takes effect in memory before the call returns (an appended entry can be read at once) and on disk
/// in the order of the calls. `done` is called when it is durable.
#[derive(Clone)]
pub struct GroupLog {
    handle: Arc<Handle>,
    group: u64,
}

impl fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLog").field("group", &self.group).finish_non_exhaustive()
    }
}

fn prepare(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: WalConfig,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
) -> Result<(Arc<Shared>, driver::Position, Recovered), WalError> {
    // Offsets in a segment are kept in 32 bits.
    let segment_bytes = config.segment_bytes.clamp(LEAST_SEGMENT_BYTES, 1 << 30) / BLOCK_BYTES * BLOCK_BYTES;
    let config = WalConfig { segment_bytes, batch_bytes: config.batch_bytes.min(1 << 30), ..config };
    let opened = recovery::open(&disk, dir, &config)?;
    let shared = Shared {
        disk,
        dir: dir.to_owned(),
        salt: opened.salt,
        state: Mutex::new(opened.state),
        work: Condvar::new(),
        room: Condvar::new(),
        wake,
        counters: Counters::new(),
        policy: Policy::new(config.sync),
        no_room: AtomicBool::new(false),
        tight: AtomicBool::new(false),
        config,
    };
    Ok((Arc::new(shared), opened.position, opened.recovered))
}

impl Wal {
    /// Opens the log in `dir`, or starts one if there is none, and starts its threads.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if something that was acknowledged cannot be read back.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, config: WalConfig) -> Result<(Self, Recovered), WalError> {
        let (shared, position, recovered) = prepare(disk, dir, config, None)?;
        let threads =
            Threads::start(&shared, position).map_err(|error| WalError::io("start a thread for", dir, error))?;
        let handle = Handle { shared, threads: Some(threads) };
        Ok((Self { handle: Arc::new(handle) }, recovered))
    }

    /// As [`Wal::open`], without any thread: `wake` is called whenever there is work for the driver.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_manual(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: WalConfig,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(Self, WalDriver, Recovered), WalError> {
        let (shared, position, recovered) = prepare(disk, dir, config, Some(wake))?;
        let driver = WalDriver::new(Arc::clone(&shared), Maker::inline(), Syncer::inline(), position);
        let handle = Handle { shared, threads: None };
        Ok((Self { handle: Arc::new(handle) }, driver, recovered))
    }

    /// A number drawn when this log was made: by it, all its segments are told from those of any other log.
    #[must_use]
    pub fn salt(&self) -> u64 {
        self.handle.shared.salt
    }

    /// The log of one group. Unknown groups are empty.
    #[must_use]
    pub fn group(&self, group: u64) -> GroupLog {
        GroupLog { handle: Arc::clone(&self.handle), group }
    }

    /// Writes and syncs what waits, then stops. Later operations get [`WalError::Closed`]; reads still work. With a
    /// manual driver it only stops taking operations: [`WalDriver::close`] does the rest.
    ///
    /// # Errors
    /// If the log has failed, before or now.
    pub fn close(&self) -> Result<(), WalError> {
        self.handle.close()
    }

    /// The failure that ended this log, if one did. The member must stop then.
    #[must_use]
    pub fn failed(&self) -> Option<WalError> {
        self.handle.shared.state.lock().failed.clone()
    }

    /// False if the disk had no room for the next segment when it was last tried: take no more proposals then. It is
    /// tried again and again; what is accepted meanwhile still has the rest of the segment that is being written. What
    /// has no place there either waits in the queue until there is room: nothing fails.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.handle.shared.no_room.load(Relaxed)
    }

    /// Changes when entries are synced, from now on. What was acknowledged under a looser policy is synced soon.
    pub fn set_sync_policy(&self, policy: SyncPolicy) {
        self.handle.shared.policy.set(policy);
        self.handle.shared.notify();
    }

    /// Counters for metrics.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        let shared = &self.handle.shared;
        let stats = shared.counters.read();
        let state = shared.state.lock();
        WalStats {
            queue_bytes: state.queue_bytes as u64,
            cache_bytes: state.cache_bytes as u64,
            entries: state.entries(),
            ..stats
        }
    }
}

impl GroupLog {
    /// The group's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.group
    }

    /// Gives an operation to the log, or tells `done` at once why not.
    fn submit(&self, done: Done, act: impl FnOnce(&mut State, Done) -> Result<(), (WalError, Done)>) {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        // A caller that is faster than the disk waits here, but the thread that would make room must not.
        while state.queue_bytes > shared.config.queue_bytes
            && Shared::refusal(&state).is_none()
            && self.handle.threads.as_ref().is_some_and(|threads| !threads.is_current())
        {
            shared.room.wait(&mut state);
        }
        let outcome = match Shared::refusal(&state) {
            Some(error) => Err((error, done)),
            None => act(&mut state, done),
        };
        drop(state);
        match outcome {
            Ok(()) => shared.notify(),
            Err((error, done)) => done(Err(error.into())),
        }
    }

    /// Appends entries. Indexes must follow each other and the last entry, or the purge mark if there is no entry (a log
    /// with neither takes any index); otherwise `done` gets [`WalError::Refused`] and nothing changed.
    ///
    /// The entries stay in memory as they are given while they are cached: one that is a slice of a larger buffer keeps
    /// all of the buffer.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) {
        let batch_bytes = self.handle.shared.config.batch_bytes;
        self.submit(done, |state, done| state.append(self.group, entries, batch_bytes, done));
    }

    /// Saves the vote.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.submit(done, |state, done| {
            if let Err(error) = state::check_bytes(self.group, &vote) {
                return Err((error, done));
            }
            state.vote(self.group, vote, done);
            Ok(())
        });
    }

    /// Saves the committed mark. Costs no sync: it reaches the disk with the next batch, or when the log idles.
    ///
    /// # Errors
    /// If the log has failed or is closed.
    pub fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        if let Some(error) = Shared::refusal(&state) {
            return Err(error.into());
        }
        state::check_bytes(self.group, &committed)?;
        let first = state.is_queue_empty();
        state.committed(self.group, committed);
        drop(state);
        // Behind other operations it needs no attention of its own.
        if first {
            shared.notify();
        }
        Ok(())
    }

    /// Removes all entries behind `index`, or all entries if `None`.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) {
        let from = index.map_or(0, |index| index.saturating_add(1));
        self.submit(done, |state, done| {
            state.truncate(self.group, from, done);
            Ok(())
        });
    }

    /// Removes all entries up to and including `upto`, which may lie behind the last entry: the log is then empty and
    /// goes on at `upto + 1`. `mark` is kept with it. What the entries said must be durable elsewhere before. A purge
    /// below the one before changes nothing.
    pub fn purge(&self, upto: u64, mark: Bytes, done: Done) {
        self.submit(done, |state, done| {
            if let Err(error) = state::check_bytes(self.group, &mark) {
                return Err((error, done));
            }
            state.purge(self.group, upto, mark, done);
            Ok(())
        });
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
    pub fn read_limited(&self, range: impl RangeBounds<u64>, limit_bytes: u64) -> io::Result<Vec<(u64, Bytes)>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => *to,
            Bound::Excluded(0) => return Ok(Vec::new()),
            Bound::Excluded(end) => end - 1,
            Bound::Unbounded => u64::MAX,
        };
        let shared = &self.handle.shared;
        let found = {
            let state = shared.state.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone().into());
            }
            state.find(self.group, from, to, limit_bytes)
        };
        let cached = found.iter().filter(|(_, found)| matches!(found, Found::Cached(_))).count() as u64;
        shared.counters.cache_hits.fetch_add(cached, Relaxed);
        shared.counters.cache_misses.fetch_add(found.len() as u64 - cached, Relaxed);
        Ok(self.fetch(found)?)
    }

    /// Reads what is on disk; neighbours with one read.
    fn fetch(&self, found: Vec<(u64, Found)>) -> Result<Vec<(u64, Bytes)>, WalError> {
        const MAX_READ_BYTES: usize = 1 << 20;
        let mut out = Vec::with_capacity(found.len());
        let mut run: Vec<(u64, Slot)> = Vec::new();
        let mut run_segment: Option<Arc<Segment>> = None;
        for (index, found) in found {
            let (segment, slot) = match found {
                Found::Cached(entry) => {
                    self.fetch_run(run_segment.as_deref(), &mut run, &mut out)?;
                    out.push((index, entry));
                    continue;
                }
                Found::OnDisk(Some(segment), slot) => (segment, slot),
                Found::OnDisk(None, slot) => {
                    let path = self.handle.shared.dir.join(segment::file_name(slot.segment));
                    let what = format!("the segment of entry {index} of group {} is gone", self.group);
                    return Err(WalError::Corrupt { path, offset: u64::from(slot.offset), what });
                }
            };
            let same = run_segment.as_ref().is_some_and(|last| last.seq == segment.seq);
            let near = run.first().is_some_and(|(_, first)| {
                slot.offset > first.offset && (slot.offset - first.offset + slot.bytes) as usize <= MAX_READ_BYTES
            });
            if !(same && near) {
                self.fetch_run(run_segment.as_deref(), &mut run, &mut out)?;
            }
            run_segment = Some(segment);
            run.push((index, slot));
        }
        self.fetch_run(run_segment.as_deref(), &mut run, &mut out)?;
        Ok(out)
    }

    fn fetch_run(
        &self,
        segment: Option<&Segment>,
        run: &mut Vec<(u64, Slot)>,
        out: &mut Vec<(u64, Bytes)>,
    ) -> Result<(), WalError> {
        let (Some(segment), Some((_, first)), Some((_, last))) = (segment, run.first(), run.last()) else {
            return Ok(());
        };
        let start = first.offset;
        let mut bytes = vec![0; (last.offset - start + last.bytes) as usize + RECORD_HEADER_BYTES];
        let read = segment.file.read_at(&mut bytes, u64::from(start));
        read.map_err(|error| WalError::io("read", &segment.path, error))?;
        let bytes = Bytes::from(bytes);
        for (index, slot) in run.drain(..) {
            let at = (slot.offset - start) as usize;
            let record = format::decode_record(self.handle.shared.salt, segment.seq, &bytes[at..])
                .filter(|record| (record.kind, record.group, record.index) == (Kind::Entry, self.group, index));
            let Some(record) = record else {
                let what = format!("entry {index} of group {} does not read back as it was written", self.group);
                return Err(WalError::Corrupt { path: segment.path.clone(), offset: u64::from(slot.offset), what });
            };
            out.push((index, bytes.slice_ref(record.payload)));
        }
        Ok(())
    }

    fn with<T>(&self, look: impl FnOnce(&GroupState) -> Option<T>) -> Option<T> {
        self.handle.shared.state.lock().groups.get(&self.group).and_then(look)
    }

    /// The last vote given to [`GroupLog::save_vote`], or recovered.
    #[must_use]
    pub fn vote(&self) -> Option<Bytes> {
        self.with(|group| group.marks.vote.clone())
    }

    /// The last mark given to [`GroupLog::save_committed`], or recovered.
    #[must_use]
    pub fn committed(&self) -> Option<Bytes> {
        self.with(|group| group.marks.committed.clone())
    }

    /// The purge mark: up to which index, and the caller's bytes.
    #[must_use]
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.with(|group| group.marks.purged.clone())
    }

    /// Index of the first entry.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        self.with(GroupState::first_index)
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        self.with(GroupState::last_index)
    }

    /// The last entry; `None` if there is none (the purge mark then tells where the log stands).
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        let Some(last) = self.last_index() else { return Ok(None) };
        Ok(self.read(last..)?.pop())
    }

    /// Bytes of this group's entries from the first to the last: what a checkpoint would let go.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.with(|group| Some(group.bytes)).unwrap_or(0)
    }

    /// Bytes of this group's entries behind an index; of all without one.
    #[must_use]
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        self.with(|group| Some(group.bytes_after(index))).unwrap_or(0)
    }

    /// As [`Wal::failed`].
    #[must_use]
    pub fn failed(&self) -> Option<WalError> {
        self.handle.shared.state.lock().failed.clone()
    }

    /// As [`Wal::has_room`].
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.handle.shared.no_room.load(Relaxed)
    }

    /// True also without room, as long as more than a quarter of the segment that is being written is left: enough for
    /// small things that must go on. The rest is for votes and marks.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        self.has_room() || !self.handle.shared.tight.load(Relaxed)
    }

    /// Has everything that was given before synced, whatever the policy; `done` is called when it is on disk.
    pub fn sync(&self, done: Done) {
        self.submit(done, |state, done| {
            state.sync(self.group, done);
            Ok(())
        });
    }

    /// When entries are synced.
    #[must_use]
    pub fn sync_policy(&self) -> SyncPolicy {
        self.handle.shared.policy.get()
    }

    /// Counters of the whole log.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        Wal { handle: Arc::clone(&self.handle) }.stats()
    }
}
