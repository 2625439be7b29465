//! The writer of the log, as a plain struct: it takes operations, writes them as one batch, syncs, calls back; it moves
//! to the next segment and lets old ones go. A thread drives it in a server; a simulator may drive it as a task.
//!
//! Nothing is ever retried: the first write or sync that fails ends the log, since after a failed sync nobody can know
//! which bytes are on disk. That goes for the file that is made ready for later too: a disk that fails there fails. Only
//! a disk that is full is waited for.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::background::Work as _;
use super::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchBuilder, BatchNumbers, Kind, RECORD_HEADER_BYTES, blocks};
use super::segment::{Job, Maker, Segment};
use super::state::{Marks, Op, What};
use super::sync::{self, SYNC_EVERY, SYNC_PATIENCE, SyncPolicy, Syncer};
use super::{Shared, WalError};
use crate::disk::is_no_space;

/// A segment at or above the base.
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    /// Entries in it that are still wanted.
    pub(super) entries: u64,
    /// Bytes of it that hold batches.
    pub(super) used: u64,
}

/// Entries that were removed before they were written: they count until the removal is written too.
struct Orphans {
    segment: u64,
    entries: u64,
    /// Operations before this one must be on disk.
    before_op: u64,
}

/// Where the log stands after recovery: the next batch goes to `end` of the newest live segment.
pub(super) struct Position {
    pub(super) live: BTreeMap<u64, Live>,
    pub(super) active: Arc<Segment>,
    pub(super) end: u64,
    pub(super) next: Option<Arc<Segment>>,
    pub(super) free: VecDeque<Arc<Segment>>,
    pub(super) marks: BTreeMap<u64, Marks>,
    pub(super) number: u64,
    pub(super) base: u64,
    pub(super) chain: u32,
}

/// The log's engine when somebody else than its own thread drives it (see [`Wal::open_manual`](super::Wal::open_manual)).
pub struct WalDriver {
    shared: Arc<Shared>,
    builder: BatchBuilder,
    maker: Maker,
    syncer: Syncer,
    at: Position,
    /// Every batch up to this one is durable.
    synced: u64,
    /// The active segment has bytes that were not synced.
    dirty: bool,
    /// Since when acknowledged entries wait for their sync; never with [`SyncPolicy::Always`].
    owing: Option<Instant>,
    /// What waits has no room on the disk.
    held: bool,
    /// A batch that was written later says that all before it was synced.
    sealed: bool,
    orphans: VecDeque<Orphans>,
}

/// Bytes of all records of a batch.
fn body_bytes(ops: &[Op]) -> usize {
    let records = ops.iter().map(|op| match &op.what {
        What::Append(entries) => (entries.len(), entries.iter().map(|(_, entry)| entry.len()).sum()),
        What::Truncate { .. } => (1, 0),
        What::Sync => (0, 0),
        What::Vote(bytes) | What::Committed(bytes) | What::Purge { mark: bytes, .. } => (1, bytes.len()),
    });
    records.map(|(count, bytes): (usize, usize)| count * RECORD_HEADER_BYTES + bytes).sum()
}

/// Bytes of the records that say a group's marks anew.
fn marks_bytes(marks: &Marks) -> usize {
    let marks = [&marks.vote, &marks.committed, &marks.purged.as_ref().map(|(_, mark)| mark.clone())];
    marks.into_iter().flatten().map(|mark| RECORD_HEADER_BYTES + mark.len()).sum()
}

/// For each operation of a batch, where in the segment its entries begin.
type Offsets = Vec<Vec<u32>>;

impl WalDriver {
    pub(super) fn new(shared: Arc<Shared>, maker: Maker, syncer: Syncer, at: Position) -> Self {
        let mut driver = Self {
            builder: BatchBuilder::new(shared.salt),
            shared,
            maker,
            syncer,
            synced: at.number,
            at,
            dirty: false,
            owing: None,
            held: false,
            sealed: true,
            orphans: VecDeque::new(),
        };
        if let Err(error) = driver.prepare() {
            driver.end(error);
        }
        driver.count();
        driver
    }

    /// Writes what waits as one batch, syncs it if anything in it asks for that, calls back. False if nothing waited
    /// that can't wait longer, or if there is no room for it on the disk: then it goes on waiting. Errors go to the callbacks and poison the log.
    pub fn run_once(&mut self) -> bool {
        let ops = {
            let mut state = self.shared.state.lock();
            if state.urgent == 0 || state.failed.is_some() {
                return false;
            }
            state.take(self.shared.config.batch_bytes)
        };
        let room = self.has_room_for(&ops);
        self.held = matches!(room, Ok(false));
        if !matches!(room, Ok(true)) {
            self.shared.state.lock().put_back(ops);
            return self.unless_failed(room);
        }
        self.shared.room.notify_all();
        self.write_ops(ops, true);
        self.pay(false);
        true
    }

    /// To be called after some time without work (see [`WalConfig::idle_after`](super::WalConfig::idle_after)): writes
    /// the marks that wait, and with them the proof that all before was synced.
    pub fn idle(&mut self) {
        // First: if a sync fails here, nothing more may be written, least of all that it was made good.
        self.pay(true);
        let mut state = self.shared.state.lock();
        if state.failed.is_some() {
            return;
        }
        let ops = state.take(self.shared.config.batch_bytes);
        drop(state);
        if ops.is_empty() && (self.sealed || self.is_owing()) {
            let polled = self.poll_maker(false).map(|()| true);
            self.unless_failed(polled);
            return;
        }
        let room = self.has_room_for(&ops);
        if matches!(room, Ok(true)) {
            let sync = ops.iter().any(Op::is_urgent);
            self.write_ops(ops, sync);
        } else {
            self.shared.state.lock().put_back(ops);
            self.unless_failed(room);
        }
    }

    /// What is said, or false and the end of the log.
    fn unless_failed(&self, outcome: Result<bool, WalError>) -> bool {
        outcome.unwrap_or_else(|error| {
            self.end(error);
            false
        })
    }

    /// Ends the log, and tells whoever waits.
    fn end(&self, error: WalError) {
        self.shared.fail(error);
        self.shared.fail_queue();
    }

    /// Writes and syncs all that waits, and the proof of it. To be called after [`Wal::close`](super::Wal::close).
    pub fn close(&mut self) {
        while self.run_once() {}
        self.idle();
        if self.shared.state.lock().failed.is_some() || self.at.number == 0 {
            return;
        }
        // Even what needed no sync gets one, and the proof of it: behind an orderly stop all damage can be told from a
        // torn write.
        let synced = if self.dirty { self.sync() } else { Ok(()) };
        let room = synced.and_then(|()| self.has_room_for(&[]));
        if self.unless_failed(room) {
            self.write_ops(Vec::new(), true);
        }
    }

    /// True if what waits could not be written for want of room.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// True if there is nothing that idling would do.
    pub(super) fn is_at_rest(&self) -> bool {
        self.sealed && self.at.next.is_some() && !self.is_owing() && self.syncer.busy_since().is_none()
    }

    /// True if all is written that idling would write, but for a segment that can't be made.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed && !self.is_owing()
    }

    /// True if acknowledged entries are to be synced soon.
    fn is_owing(&self) -> bool {
        self.owing.is_some() && self.shared.policy.get() != SyncPolicy::Never
    }

    /// Sees to the syncs that acknowledged entries wait for.
    fn pay(&mut self, idle: bool) {
        if self.owing.is_none() && self.syncer.busy_since().is_none() {
            return;
        }
        if let Err(error) = self.try_pay(idle) {
            self.end(error);
        }
        self.count();
    }

    fn try_pay(&mut self, idle: bool) -> Result<(), WalError> {
        self.take_synced(false)?;
        if !self.is_owing() || self.shared.state.lock().failed.is_some() {
            return Ok(());
        }
        if let Some(begun) = self.syncer.busy_since() {
            if begun.elapsed() >= SYNC_PATIENCE {
                // Rather slow than more to lose.
                self.shared.counters.delayed_syncs.fetch_add(1, Relaxed);
                self.take_synced(true)?;
            }
            return Ok(());
        }
        if self.shared.policy.get() == SyncPolicy::Always {
            // It was a looser one a moment ago.
            return self.sync();
        }
        if idle || self.owing.is_some_and(|since| since.elapsed() >= SYNC_EVERY) {
            self.syncer.start(sync::Job::new(Arc::clone(&self.at.active), self.at.number));
            self.take_synced(false)?;
        }
        Ok(())
    }

    /// Takes note of a sync in the background that is over; with `wait`, of one that is under way.
    fn take_synced(&mut self, wait: bool) -> Result<(), WalError> {
        let Some(synced) = self.syncer.take(wait) else { return Ok(()) };
        if let Err(error) = synced.result {
            self.shared.counters.sync_failures.fetch_add(1, Relaxed);
            return Err(WalError::io("sync", &synced.segment.path, error));
        }
        self.shared.counters.synced(synced.took);
        self.synced = self.synced.max(synced.number);
        self.dirty &= self.at.number > self.synced;
        // What was written since it began waits for the next one.
        self.owing = self.owing.filter(|_| self.dirty).map(|since| since.max(synced.begun));
        Ok(())
    }

    fn write_ops(&mut self, mut ops: Vec<Op>, sync: bool) {
        let lazy = self.shared.policy.get() != SyncPolicy::Always;
        let sync = sync && (!lazy || ops.is_empty() || ops.iter().any(Op::needs_sync));
        let last_op = ops.last().map_or(0, |op| op.id);
        let outcome = self.write_batch(&ops, sync).map_err(|error| self.shared.fail(error));
        // Before anybody hears of it: whoever has asked for a sync may look at once.
        self.count_owing();
        for done in ops.iter_mut().filter_map(|op| op.done.take()) {
            done(outcome.clone().map_err(io::Error::from));
        }
        let after = if sync && outcome.is_ok() { self.reclaim(last_op) } else { Ok(()) };
        if let Err(error) = outcome.and(after).and_then(|()| self.poll_maker(false)) {
            self.end(error);
        }
        self.count();
    }

    /// One batch: one write and, with `sync`, one sync.
    fn write_batch(&mut self, ops: &[Op], sync: bool) -> Result<(), WalError> {
        self.make_room(body_bytes(ops))?;
        self.builder.begin(self.at.active.seq);
        let start = self.at.end;
        let offsets: Offsets = ops.iter().map(|op| self.push(op, start)).collect();
        self.write_built(sync)?;
        if !sync && ops.iter().any(Op::is_urgent) {
            self.owing.get_or_insert_with(Instant::now);
        }
        self.sealed = ops.is_empty() || ops.iter().all(|op| !op.is_urgent());
        self.shared.counters.wrote(self.at.end - start, ops.len() as u64);
        self.note(ops, &offsets);
        Ok(())
    }

    /// Encodes one operation and gives the offsets in the segment of its entries.
    fn push(&mut self, op: &Op, start: u64) -> Vec<u32> {
        let group = op.group;
        let marks = self.at.marks.entry(group).or_default();
        match &op.what {
            What::Append(entries) => {
                let place = |(index, entry): &(u64, bytes::Bytes)| {
                    start as u32 + self.builder.push(Kind::Entry, group, *index, entry)
                };
                return entries.iter().map(place).collect();
            }
            What::Truncate { from } => self.builder.push(Kind::Truncate, group, *from, &[]),
            What::Sync => return Vec::new(),
            What::Vote(vote) => {
                marks.vote = Some(vote.clone());
                self.builder.push(Kind::Vote, group, 0, vote)
            }
            What::Committed(committed) => {
                marks.committed = Some(committed.clone());
                self.builder.push(Kind::Committed, group, 0, committed)
            }
            What::Purge { upto, mark } => {
                marks.purged = Some((*upto, mark.clone()));
                self.builder.push(Kind::Purge, group, *upto, mark)
            }
        };
        Vec::new()
    }

    /// Writes the batch in the builder at the end of the active segment.
    fn write_built(&mut self, sync: bool) -> Result<(), WalError> {
        let numbers =
            BatchNumbers { number: self.at.number + 1, synced: self.synced, base: self.at.base, chain: self.at.chain };
        let segment = &self.at.active;
        let (bytes, crc) = self.builder.finish(numbers);
        segment.file.write_at(bytes, self.at.end).map_err(|error| WalError::io("write", &segment.path, error))?;
        self.at.end += bytes.len() as u64;
        self.at.number += 1;
        self.at.chain = crc;
        self.dirty = true;
        if let Some(live) = self.at.live.get_mut(&segment.seq) {
            live.used = self.at.end;
        }
        if sync { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        // The system tells of a failure once: a sync beside this one must not hear what this one should have heard.
        self.take_synced(true)?;
        let segment = &self.at.active;
        let start = Instant::now();
        if let Err(error) = segment.file.sync_data() {
            self.shared.counters.sync_failures.fetch_add(1, Relaxed);
            return Err(WalError::io("sync", &segment.path, error));
        }
        self.shared.counters.synced(start.elapsed());
        self.synced = self.at.number;
        self.dirty = false;
        self.owing = None;
        Ok(())
    }

    /// Tells the state where the entries are, and counts them.
    fn note(&mut self, ops: &[Op], offsets: &Offsets) {
        let seq = self.at.active.seq;
        let mut entries = 0;
        let mut state = self.shared.state.lock();
        for (op, offsets) in ops.iter().zip(offsets) {
            let orphans = state.located(op, seq, offsets);
            entries += offsets.len() as u64;
            if orphans > 0 {
                self.orphans.push_back(Orphans { segment: seq, entries: orphans, before_op: state.next_op });
            }
        }
        state.trim_cache();
        drop(state);
        if let Some(live) = self.at.live.get_mut(&seq) {
            live.entries += entries;
        }
        for (segment, entries) in ops.iter().flat_map(|op| &op.releases) {
            self.release(*segment, *entries);
        }
    }

    fn release(&mut self, segment: u64, entries: u64) {
        if let Some(live) = self.at.live.get_mut(&segment) {
            live.entries = live.entries.saturating_sub(entries);
        }
    }

    /// Whether a batch of these operations would find room. Nothing of it is written yet, so a disk that is full is no
    /// failure here: it may have room later. Any other trouble is.
    fn has_room_for(&mut self, ops: &[Op]) -> Result<bool, WalError> {
        self.has_room_for_bytes(body_bytes(ops))
    }

    fn has_room_for_bytes(&mut self, body: usize) -> Result<bool, WalError> {
        let need = blocks((BATCH_HEADER_BYTES + body) as u64);
        if self.at.end + need <= self.at.active.bytes {
            return Ok(true);
        }
        self.poll_maker(true)?;
        if self.at.next.is_none() {
            let made = self.job().run();
            self.take_made(made)?;
        }
        let Some(next) = &self.at.next else { return Ok(false) };
        if BLOCK_BYTES + need <= next.bytes {
            return Ok(true);
        }
        match next.file.allocate(BLOCK_BYTES + need) {
            Ok(()) => Ok(true),
            Err(error) if is_no_space(&error) => {
                self.shared.no_room.store(true, Relaxed);
                Ok(false)
            }
            Err(error) => Err(WalError::io("allocate", &next.path, error)),
        }
    }

    /// Makes sure that a batch with so many bytes of records fits the active segment, or moves on to the next one.
    fn make_room(&mut self, body: usize) -> Result<(), WalError> {
        let need = blocks((BATCH_HEADER_BYTES + body) as u64);
        if self.at.end + need <= self.at.active.bytes {
            return Ok(());
        }
        if self.dirty {
            // A sync of the next file would not cover this one.
            self.sync()?;
        }
        self.poll_maker(true)?;
        let mut next = match self.at.next.take() {
            Some(next) => next,
            // There was no room at the last attempt.
            None => Arc::new(self.job().run()?),
        };
        if BLOCK_BYTES + need > next.bytes {
            let bytes = BLOCK_BYTES + need;
            next.file.allocate(bytes).map_err(|error| WalError::io("allocate", &next.path, error))?;
            let Segment { seq, path, file, .. } = &*next;
            next = Arc::new(Segment { seq: *seq, path: path.clone(), file: Arc::clone(file), bytes });
        }
        self.at.live.insert(next.seq, Live { segment: Arc::clone(&next), entries: 0, used: BLOCK_BYTES });
        self.shared.state.lock().segments.insert(next.seq, Arc::clone(&next));
        self.at.active = next;
        self.at.end = BLOCK_BYTES;
        self.prepare()
    }

    fn job(&mut self) -> Job {
        let config = &self.shared.config;
        // A reader may still hold one; then it is left for later.
        let usable = |free: &Arc<Segment>| Arc::strong_count(free) == 1 && free.bytes == config.segment_bytes;
        let reuse = match self.at.free.front() {
            Some(free) if usable(free) => self.at.free.pop_front(),
            _ => None,
        };
        if reuse.is_some() {
            self.shared.counters.recycled.fetch_add(1, Relaxed);
        }
        Job {
            disk: Arc::clone(&self.shared.disk),
            dir: self.shared.dir.clone(),
            seq: self.at.active.seq + 1,
            salt: self.shared.salt,
            bytes: config.segment_bytes,
            reuse,
        }
    }

    /// Starts to make the segment after the active one, so that no batch has to wait for it.
    fn prepare(&mut self) -> Result<(), WalError> {
        if self.at.next.is_some() {
            return Ok(());
        }
        let job = self.job();
        self.maker.start(job);
        self.poll_maker(false)
    }

    /// Takes the segment that was made. Want of room is only noted, and it is tried again: nothing was promised on it yet.
    fn poll_maker(&mut self, wait: bool) -> Result<(), WalError> {
        match self.maker.take(wait) {
            Some(made) => self.take_made(made),
            None => {
                let again = self.at.next.is_none() && !wait && self.shared.no_room.load(Relaxed);
                if again && self.maker.busy_since().is_none() {
                    let job = self.job();
                    self.maker.start(job);
                }
                Ok(())
            }
        }
    }

    fn take_made(&mut self, made: Result<Segment, WalError>) -> Result<(), WalError> {
        match made {
            Ok(segment) => {
                self.at.next = Some(Arc::new(segment));
                if self.shared.no_room.swap(false, Relaxed) {
                    tracing::warn!("the disk has room for the log again");
                }
                Ok(())
            }
            Err(error) if error.is_no_space() => {
                if !self.shared.no_room.swap(true, Relaxed) {
                    tracing::error!(%error, "the disk has no room for the log: no writes are taken until it has");
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Lets go of the oldest segments that nobody needs: first everything that still counts of them (votes, marks) is
    /// made durable again at the end of the log together with the new base, then they may be written over.
    fn reclaim(&mut self, last_op: u64) -> Result<(), WalError> {
        while self.orphans.front().is_some_and(|orphans| orphans.before_op <= last_op + 1) {
            if let Some(orphans) = self.orphans.pop_front() {
                self.release(orphans.segment, orphans.entries);
            }
        }
        let active = self.at.active.seq;
        let needed = self.at.live.iter().find(|(seq, live)| **seq >= active || live.entries > 0);
        let base = needed.map_or(active, |(seq, _)| *seq);
        let marks = self.at.marks.values().map(marks_bytes).sum();
        if base <= self.at.base || !self.has_room_for_bytes(marks)? {
            return Ok(());
        }
        self.carry_over(base, marks)?;
        let mut state = self.shared.state.lock();
        while let Some(oldest) = self.at.live.first_entry().filter(|oldest| *oldest.key() < base) {
            let live = oldest.remove();
            state.segments.remove(&live.segment.seq);
            self.at.free.push_back(live.segment);
        }
        drop(state);
        self.drop_excess();
        Ok(())
    }

    fn carry_over(&mut self, base: u64, marks: usize) -> Result<(), WalError> {
        self.make_room(marks)?;
        self.builder.begin(self.at.active.seq);
        for (group, marks) in &self.at.marks {
            if let Some(vote) = &marks.vote {
                self.builder.push(Kind::Vote, *group, 0, vote);
            }
            if let Some(committed) = &marks.committed {
                self.builder.push(Kind::Committed, *group, 0, committed);
            }
            if let Some((upto, mark)) = &marks.purged {
                self.builder.push(Kind::Purge, *group, *upto, mark);
            }
        }
        self.at.base = base;
        self.sealed = false;
        self.write_built(true)
    }

    /// Removes old files that there is no use for. Their names may come back after a power cut: they are below the base.
    fn drop_excess(&mut self) {
        let config = &self.shared.config;
        let odd = |free: &Segment| free.bytes != config.segment_bytes;
        while self.at.free.len() > config.spare_segments || self.at.free.front().is_some_and(|free| odd(free)) {
            let Some(free) = self.at.free.pop_front() else { return };
            if let Err(error) = self.shared.disk.remove(&free.path) {
                tracing::warn!(%error, path = %free.path.display(), "an old log segment cannot be removed");
            }
        }
    }

    fn count_owing(&self) {
        let unsynced = if self.owing.is_some() { self.at.number - self.synced } else { 0 };
        self.shared.counters.unsynced_batches.store(unsynced, Relaxed);
    }

    fn count(&self) {
        let at = &self.at;
        let counters = &self.shared.counters;
        let left = at.active.bytes.saturating_sub(at.end);
        self.shared.tight.store(at.next.is_none() && left < at.active.bytes / 4, Relaxed);
        self.count_owing();
        counters.live_segments.store(at.live.len() as u64, Relaxed);
        counters.spare_segments.store((at.free.len() + usize::from(at.next.is_some())) as u64, Relaxed);
        counters.live_bytes.store(at.live.values().map(|live| live.used).sum(), Relaxed);
        let live = at.live.values().map(|live| live.segment.bytes);
        let spare = at.free.iter().chain(&at.next).map(|segment| segment.bytes);
        counters.disk_bytes.store(live.chain(spare).sum(), Relaxed);
    }
}
