//! What the log knows in memory: for each group its marks, where its entries are, the recent ones themselves; and the
//! operations that wait to be written. All of it is under one lock, and none of it does IO.
//!
//! An operation changes this state when it is given and the disk when its turn comes, so the state is ahead of the disk
//! by the queue. An entry that is not written yet is always in the cache.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::segment::Segment;
use super::{Done, RecoveredGroup, WalError};

/// The largest entry, vote or mark.
pub(super) const MAX_PAYLOAD_BYTES: usize = 1 << 30;

/// Where a record is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The operation that appended it.
    pub(super) op: u64,
    /// The segment that holds it; 0 while it waits to be written.
    pub(super) segment: u64,
    /// Where in the segment the record begins.
    pub(super) offset: u32,
    /// Bytes of the payload.
    pub(super) bytes: u32,
}

/// The marks of a group: what is carried over when an old segment is let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
}

#[derive(Debug, Default)]
pub(super) struct GroupState {
    pub(super) marks: Marks,
    /// Index of `slots[0]`.
    first: u64,
    slots: VecDeque<Slot>,
    /// The entries of the last `cached.len()` slots.
    cached: VecDeque<Bytes>,
    /// Sum of all slots' bytes.
    pub(super) bytes: u64,
}

/// How many entries of which segments are no longer needed.
pub(super) type Releases = BTreeMap<u64, u64>;

#[derive(Debug)]
pub(super) enum What {
    Append(Vec<(u64, Bytes)>),
    Truncate {
        from: u64,
    },
    Vote(Bytes),
    Committed(Bytes),
    Purge {
        upto: u64,
        mark: Bytes,
    },
    /// Nothing but the sync of what is before it.
    Sync,
}

/// An operation that waits to be written.
pub(super) struct Op {
    pub(super) id: u64,
    pub(super) group: u64,
    pub(super) what: What,
    pub(super) bytes: usize,
    /// What may be let go once this is durable.
    pub(super) releases: Releases,
    pub(super) done: Option<Done>,
}

impl Op {
    /// Committed marks can wait.
    pub(super) fn is_urgent(&self) -> bool {
        !matches!(self.what, What::Committed(_))
    }

    /// Only entries may be acknowledged before they are synced, and only where the policy says so.
    pub(super) fn needs_sync(&self) -> bool {
        !matches!(self.what, What::Committed(_) | What::Append(_))
    }
}

/// An entry as a reader finds it.
pub(super) enum Found {
    Cached(Bytes),
    /// Without a segment the index is broken, and the reader must say so.
    OnDisk(Option<Arc<Segment>>, Slot),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) groups: BTreeMap<u64, GroupState>,
    /// Segments that slots may point to.
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    queue: VecDeque<Op>,
    pub(super) queue_bytes: usize,
    pub(super) urgent: usize,
    pub(super) next_op: u64,
    cache_limit: usize,
    pub(super) cache_bytes: usize,
    /// Cached entries from the oldest to the newest; those that are gone from the cache by other ways are skipped.
    cache_order: VecDeque<(u64, u64)>,
    pub(super) failed: Option<WalError>,
    pub(super) closing: bool,
}

/// Memory of a cached entry beyond its bytes, about.
const CACHED_OVERHEAD_BYTES: usize = 64;

fn cost(entry: &Bytes) -> usize {
    entry.len() + CACHED_OVERHEAD_BYTES
}

impl GroupState {
    pub(super) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    pub(super) fn last_index(&self) -> Option<u64> {
        self.first_index().map(|first| first + self.slots.len() as u64 - 1)
    }

    /// Where the next entry must go, if it is known.
    pub(super) fn next_index(&self) -> Option<u64> {
        let last = self.last_index().or(self.marks.purged.as_ref().map(|(upto, _)| *upto));
        last.map(|last| last.saturating_add(1))
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Index of the first cached entry.
    fn first_cached(&self) -> u64 {
        self.first + (self.slots.len() - self.cached.len()) as u64
    }

    /// Adds a slot whose entry is on disk already.
    pub(super) fn push_on_disk(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        self.bytes += u64::from(slot.bytes);
        self.slots.push_back(slot);
    }

    /// Removes entries from `from` on. Gives their slots' segments and the bytes freed in the cache.
    pub(super) fn truncate(&mut self, from: u64, releases: &mut Releases) -> usize {
        let mut freed = 0;
        while self.last_index().is_some_and(|last| last >= from) {
            if let Some(entry) = self.cached.pop_back() {
                freed += cost(&entry);
            }
            let slot = self.slots.pop_back();
            self.release(slot, releases);
        }
        freed
    }

    /// Removes entries up to `upto`, and remembers it.
    pub(super) fn purge(&mut self, upto: u64, mark: Bytes, releases: &mut Releases) -> usize {
        if self.marks.purged.as_ref().is_some_and(|(old, _)| *old > upto) {
            return 0;
        }
        self.marks.purged = Some((upto, mark));
        let mut freed = 0;
        while self.first_index().is_some_and(|first| first <= upto) {
            if self.cached.len() == self.slots.len()
                && let Some(entry) = self.cached.pop_front()
            {
                freed += cost(&entry);
            }
            let slot = self.slots.pop_front();
            self.release(slot, releases);
            self.first += 1;
        }
        freed
    }

    fn release(&mut self, slot: Option<Slot>, releases: &mut Releases) {
        let Some(slot) = slot else { return };
        self.bytes -= u64::from(slot.bytes);
        if slot.segment != 0 {
            *releases.entry(slot.segment).or_default() += 1;
        }
    }

    /// Bytes of the entries behind an index.
    pub(super) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let before = index.map_or(0, |index| (index + 1).saturating_sub(self.first));
        let slots = self.slots.iter().skip(usize::try_from(before).unwrap_or(usize::MAX));
        slots.map(|slot| u64::from(slot.bytes)).sum()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    pub(super) fn recovered(&self) -> RecoveredGroup {
        let Marks { vote, committed, purged } = self.marks.clone();
        RecoveredGroup { vote, committed, purged, entries: self.first_index().zip(self.last_index()) }
    }
}

impl State {
    pub(super) fn new(cache_limit: usize) -> Self {
        Self { cache_limit, next_op: 1, ..Self::default() }
    }

    /// Checks that entries fit behind what is there.
    fn check_append(&self, group: u64, entries: &[(u64, Bytes)]) -> Result<(), WalError> {
        let refuse = |what| Err(WalError::Refused { group, what });
        let mut next = self.groups.get(&group).and_then(GroupState::next_index);
        for (index, entry) in entries {
            if next.is_some_and(|next| next != *index) {
                return refuse(format!("entry {index} does not follow, {} is next", next.unwrap_or(0)));
            }
            check_bytes(group, entry)?;
            next = Some(index.saturating_add(1));
        }
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        group: u64,
        entries: Vec<(u64, Bytes)>,
        batch_bytes: usize,
        done: Done,
    ) -> Result<(), (WalError, Done)> {
        if let Err(error) = self.check_append(group, &entries) {
            return Err((error, done));
        }
        let state = self.groups.entry(group).or_default();
        // Cut into pieces that each fit a batch, so that one long append can't make a batch without bounds.
        let mut pieces: Vec<Vec<(u64, Bytes)>> = vec![Vec::new()];
        let mut piece_bytes = 0;
        for (index, entry) in entries {
            if piece_bytes > 0 && piece_bytes + entry.len() > batch_bytes {
                pieces.push(Vec::new());
                piece_bytes = 0;
            }
            // The pieces get the next numbers, one each, when they are queued below.
            let op = self.next_op + pieces.len() as u64 - 1;
            let slot = Slot { op, segment: 0, offset: 0, bytes: entry.len() as u32 };
            state.push_on_disk(index, slot);
            state.cached.push_back(entry.clone());
            self.cache_bytes += cost(&entry);
            self.cache_order.push_back((group, index));
            piece_bytes += entry.len();
            if let Some(piece) = pieces.last_mut() {
                piece.push((index, entry));
            }
        }
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            self.push(group, What::Append(piece), Releases::new(), None);
        }
        self.push(group, What::Append(last), Releases::new(), Some(done));
        self.trim_cache();
        Ok(())
    }

    pub(super) fn truncate(&mut self, group: u64, from: u64, done: Done) {
        let state = self.groups.entry(group).or_default();
        let mut releases = Releases::new();
        self.cache_bytes -= state.truncate(from, &mut releases);
        self.push(group, What::Truncate { from }, releases, Some(done));
    }

    pub(super) fn purge(&mut self, group: u64, upto: u64, mark: Bytes, done: Done) {
        let state = self.groups.entry(group).or_default();
        let mut releases = Releases::new();
        self.cache_bytes -= state.purge(upto, mark, &mut releases);
        // What counts is the mark in force, should the caller have gone back.
        if let Some((upto, mark)) = state.marks.purged.clone() {
            self.push(group, What::Purge { upto, mark }, releases, Some(done));
        }
        self.trim_cache();
    }

    pub(super) fn vote(&mut self, group: u64, vote: Bytes, done: Done) {
        self.groups.entry(group).or_default().marks.vote = Some(vote.clone());
        self.push(group, What::Vote(vote), Releases::new(), Some(done));
    }

    pub(super) fn sync(&mut self, group: u64, done: Done) {
        self.push(group, What::Sync, Releases::new(), Some(done));
    }

    pub(super) fn committed(&mut self, group: u64, committed: Bytes) {
        self.groups.entry(group).or_default().marks.committed = Some(committed.clone());
        // Only the last of several in a row matters.
        if let Some(Op { group: last_group, what: What::Committed(last), .. }) = self.queue.back_mut()
            && *last_group == group
        {
            *last = committed;
            return;
        }
        self.push(group, What::Committed(committed), Releases::new(), None);
    }

    fn push(&mut self, group: u64, what: What, releases: Releases, done: Option<Done>) {
        let bytes = match &what {
            What::Append(entries) => entries.iter().map(|(_, entry)| cost(entry)).sum(),
            What::Vote(bytes) | What::Committed(bytes) | What::Purge { mark: bytes, .. } => cost(bytes),
            What::Truncate { .. } | What::Sync => CACHED_OVERHEAD_BYTES,
        };
        let op = Op { id: self.next_op, group, what, bytes, releases, done };
        self.next_op += 1;
        self.queue_bytes += bytes;
        self.urgent += usize::from(op.is_urgent());
        self.queue.push_back(op);
    }

    /// Takes operations from the front of the queue until they hold `limit` bytes; at least one if there is one.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            if !ops.is_empty() && bytes + next.bytes > limit {
                break;
            }
            bytes += next.bytes;
            self.queue_bytes -= next.bytes;
            self.urgent -= usize::from(next.is_urgent());
            ops.extend(self.queue.pop_front());
        }
        ops
    }

    /// Puts operations that were taken and not written back to the front of the queue.
    pub(super) fn put_back(&mut self, ops: Vec<Op>) {
        for op in ops.into_iter().rev() {
            self.queue_bytes += op.bytes;
            self.urgent += usize::from(op.is_urgent());
            self.queue.push_front(op);
        }
    }

    pub(super) fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Notes where the entries of a written append are. Gives how many of them nobody wants any more: they were removed
    /// by an operation that still waits.
    pub(super) fn located(&mut self, op: &Op, segment: u64, offsets: &[u32]) -> u64 {
        let What::Append(entries) = &op.what else { return 0 };
        let mut orphans = 0;
        let group = self.groups.entry(op.group).or_default();
        for ((index, _), offset) in entries.iter().zip(offsets) {
            match group.slot_mut(*index) {
                Some(slot) if slot.op == op.id => {
                    slot.segment = segment;
                    slot.offset = *offset;
                }
                _ => orphans += 1,
            }
        }
        orphans
    }

    /// Lets the oldest entries go from the cache until it holds what it may.
    pub(super) fn trim_cache(&mut self) {
        while self.cache_bytes > self.cache_limit {
            let Some((group, index)) = self.cache_order.front() else { break };
            let Some(state) = self.groups.get_mut(group) else { break };
            if !state.cached.is_empty() && state.first_cached() == *index {
                if state.slot_mut(*index).is_some_and(|slot| slot.segment == 0) {
                    break; // not on disk yet; all behind it are not either
                }
                if let Some(entry) = state.cached.pop_front() {
                    self.cache_bytes -= cost(&entry);
                }
            }
            self.cache_order.pop_front();
        }
        self.tidy_cache_order();
    }

    /// Purged and truncated entries leave their places in the order behind; sometimes they are swept.
    fn tidy_cache_order(&mut self) {
        let cached: usize = self.cache_order.len();
        if cached < 4096 {
            return;
        }
        let wanted: usize = self.groups.values().map(|group| group.cached.len()).sum();
        if cached > 2 * wanted + 2048 {
            let groups = &self.groups;
            let mut seen = BTreeSet::new();
            self.cache_order.retain(|(group, index)| {
                groups.get(group).is_some_and(|state| {
                    !state.cached.is_empty()
                        && *index >= state.first_cached()
                        && state.last_index().is_some_and(|last| *index <= last)
                        && seen.insert((*group, *index))
                })
            });
        }
    }

    /// The entries of `from..=to` that exist, up to `limit_bytes` but at least one.
    pub(super) fn find(&self, group: u64, from: u64, to: u64, limit_bytes: u64) -> Vec<(u64, Found)> {
        let Some(state) = self.groups.get(&group) else { return Vec::new() };
        let Some((first, last)) = state.first_index().zip(state.last_index()) else { return Vec::new() };
        let (from, to) = (from.max(first), to.min(last));
        let (mut out, mut bytes) = (Vec::new(), 0);
        for index in from..=to {
            let at = usize::try_from(index - first).unwrap_or(usize::MAX);
            let Some(slot) = state.slots.get(at) else { break };
            bytes += u64::from(slot.bytes);
            if bytes > limit_bytes && !out.is_empty() {
                break;
            }
            let uncached = state.slots.len() - state.cached.len();
            let found = match at.checked_sub(uncached).and_then(|at| state.cached.get(at)) {
                Some(entry) => Found::Cached(entry.clone()),
                None => Found::OnDisk(self.segments.get(&slot.segment).cloned(), *slot),
            };
            out.push((index, found));
        }
        out
    }

    pub(super) fn entries(&self) -> u64 {
        self.groups.values().map(|group| group.slots.len() as u64).sum()
    }
}

pub(super) fn check_bytes(group: u64, payload: &Bytes) -> Result<(), WalError> {
    if payload.len() <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    let what = format!("{} bytes are more than the {MAX_PAYLOAD_BYTES} that a record may have", payload.len());
    Err(WalError::Refused { group, what })
}
