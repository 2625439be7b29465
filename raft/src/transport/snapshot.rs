//! A snapshot on the wire: a beginning, pieces of chunks, an end.
//!
//! Each piece is confirmed, and only [`WINDOW`] of them may be unconfirmed, so neither side holds more
//! than that and one chunk. The receiver builds the state as the pieces come; nothing of it counts
//! before the end has come, the sums are right, and Raft has taken it. When the connection breaks, the receiver keeps
//! the chunks that are complete for a while; the answer to the beginning tells the sender where to go on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_storage::checkpoint::CheckpointError;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};
use tokio::sync::mpsc;

use super::code;
use super::frame::{self, Frame, Kind};
use super::lanes::Lanes;
use crate::api::{ApplyError, Restore};
use crate::error::plain;
use crate::group::Port;
use crate::state_machine::SnapshotData;
use crate::system::SystemState;
use crate::types::{LogId, StoredMembership, TypeConfig, Vote};
use crate::wire::{Malformed, Reader, put_bool, put_bytes, put_maybe_log_id, put_stored_membership, put_vote};

/// Pieces that may be under way.
pub(crate) const WINDOW: usize = 8;
/// What a piece has besides its bytes.
const PIECE_HEAD_BYTES: usize = 64;
/// A chunk larger than this is not one of ours.
const MAX_CHUNK_BYTES: usize = 4 << 30;

/// What comes first.
pub(crate) struct Begin {
    pub(crate) vote: Vote,
    pub(crate) last_log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) system: SystemState,
    pub(crate) header: Bytes,
}

pub(crate) fn put_begin(
    out: &mut BytesMut,
    vote: &Vote,
    last_log_id: Option<&LogId>,
    membership: &StoredMembership,
    system: &SystemState,
    header: &[u8],
) {
    put_vote(out, vote);
    put_maybe_log_id(out, last_log_id);
    put_stored_membership(out, membership);
    system.put(out);
    put_bytes(out, header);
}

impl Begin {
    pub(crate) fn read(body: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader(body);
        let begin = Self {
            vote: reader.vote()?,
            last_log_id: reader.maybe_log_id()?,
            membership: reader.stored_membership()?,
            system: SystemState::read(&mut reader)?,
            header: reader.bytes()?,
        };
        reader.end()?;
        Ok(begin)
    }
}

/// A piece of a chunk: whether it is the chunk's last, and its bytes under a checksum.
pub(crate) fn put_piece(out: &mut BytesMut, chunk: u128, last: bool, bytes: &[u8]) {
    out.reserve(PIECE_HEAD_BYTES + bytes.len());
    out.put_u128(chunk);
    put_bool(out, last);
    out.put_u32(checksum(chunk, last, bytes));
    put_bytes(out, bytes);
}

fn checksum(chunk: u128, last: bool, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&chunk.to_be_bytes());
    sum.update(&[u8::from(last)]);
    sum.update(bytes);
    sum.finalize()
}

pub(crate) fn read_piece(body: Bytes) -> Result<(u128, bool, Bytes), Malformed> {
    let mut reader = Reader(body);
    let (chunk, last, sum, bytes) = (reader.u128()?, reader.bool()?, reader.u32()?, reader.bytes()?);
    reader.end()?;
    if checksum(chunk, last, &bytes) != sum {
        return Err(Malformed::Bytes("snapshot piece: its checksum is wrong"));
    }
    Ok((chunk, last, bytes))
}

/// How many chunks and bytes there were.
pub(crate) fn put_end(out: &mut BytesMut, chunks: u64, bytes: u64) {
    out.put_u64(chunks);
    out.put_u64(bytes);
}

/// How long what came of a snapshot is kept when its connection broke.
const KEEP_PARTIAL: Duration = Duration::from_secs(60);

/// A state in the making.
struct Partial {
    restore: Box<dyn Restore>,
    chunks: u64,
    total: u64,
    /// The last chunk that is complete.
    before: Option<u128>,
}

/// The state of a snapshot whose connection broke, by the bytes of its beginning: the same beginning means the same
/// position of the same log, and with it the same chunks.
#[derive(Clone, Default)]
pub(crate) struct Partials(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// Counts what was kept: the same snapshot may break off again, and then has its whole time again.
    times: u64,
    partial: Option<(Bytes, Partial)>,
}

impl Partials {
    /// What is here of that snapshot. That of any other is given up.
    fn take(&self, which: &Bytes) -> Option<Partial> {
        let (kept, partial) = self.0.lock().partial.take()?;
        (kept == *which).then_some(partial)
    }

    fn keep(&self, which: Bytes, partial: Partial) {
        let (times, kept) = (self.put(which, partial), self.clone());
        tokio::spawn(async move {
            tokio::time::sleep(KEEP_PARTIAL).await;
            kept.expire(times);
        });
    }

    fn put(&self, which: Bytes, partial: Partial) -> u64 {
        let mut kept = self.0.lock();
        kept.times += 1;
        kept.partial = Some((which, partial));
        kept.times
    }

    /// The time of what was put in then is over.
    fn expire(&self, times: u64) {
        let mut kept = self.0.lock();
        if kept.times == times {
            kept.partial = None;
        }
    }
}

/// The answer to a beginning: from which chunk on it is to be sent, and how many chunks and bytes are here already.
pub(crate) fn read_resume(body: Bytes) -> Result<(u128, u64, u64), Malformed> {
    let mut reader = Reader(body);
    let resume = (reader.u128()?, reader.u64()?, reader.u64()?);
    reader.end()?;
    Ok(resume)
}

/// Bytes of a snapshot that may come between two looks at the room on the disk.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// Why a snapshot was not taken: the code and the words of the answer.
struct Refused(u8, String);

impl From<String> for Refused {
    fn from(words: String) -> Self {
        Self(code::SNAPSHOT, words)
    }
}

/// The answer to a snapshot for which the disk has no room. Nothing was done: openraft, which would take that for the end
/// of this member, has not heard of it.
pub(super) fn no_room(error: &CheckpointError) -> String {
    format!("{error}: the snapshot is taken when there is room")
}

/// Receives one snapshot and hands it to Raft.
pub(super) async fn receive(
    port: Arc<Port>,
    begin: Begin,
    which: Bytes,
    group: u64,
    request: u64,
    mut frames: mpsc::Receiver<Frame>,
    answers: Lanes,
) {
    let done = run(&port, begin, which, group, request, &mut frames, &answers).await;
    // From here on what still comes of it is thrown away.
    drop(frames);
    let frame = match done {
        Ok(Some(vote)) => frame::encode(Kind::Reply, group, request, |out| put_vote(out, &vote)),
        // The sender gave it up, or the connection broke.
        Ok(None) => return,
        Err(Refused(code, words)) => {
            if code != code::NO_ROOM {
                tracing::warn!(group, reason = %words, "a snapshot could not be taken in");
            }
            frame::encode_failure(Kind::Failure, group, request, code, &words)
        }
    };
    answers.answer(frame);
}

/// This member's vote, if its log holds the snapshot's last entry, and so all before it.
///
/// A leader that was just elected doesn't know yet how far the others are, and may send a snapshot to one that lacks
/// nothing of it. openraft would take its own record of what was written back to the snapshot's end.
async fn already_held(port: &Port, begin: &Begin) -> Result<Option<Vote>, String> {
    let (last, vote) = (begin.last_log_id, begin.vote);
    let held = port.raft.with_raft_state(move |state| {
        let holds = last.is_some_and(|last| state.log_ids.get(last.index()) == Some(last));
        (holds && *state.vote_ref() == vote).then_some(vote)
    });
    held.await.map_err(|fatal| fatal.to_string())
}

async fn run(
    port: &Port,
    begin: Begin,
    which: Bytes,
    group: u64,
    request: u64,
    frames: &mut mpsc::Receiver<Frame>,
    answers: &Lanes,
) -> Result<Option<Vote>, Refused> {
    let words = |e: ApplyError| -> String { e.to_string() };
    let mut partial = match port.partial.take(&which) {
        Some(partial) => {
            tracing::info!(
                group,
                chunks = partial.chunks,
                bytes = partial.total,
                "a snapshot goes on where it broke off"
            );
            partial
        }
        None => {
            let restore = port.machine.restore(&begin.header, false).map_err(words)?;
            Partial { restore, chunks: 0, total: 0, before: None }
        }
    };
    answers.answer(frame::encode(Kind::Reply, group, request, |out| {
        out.put_u128(partial.before.map_or(0, |before| before + 1));
        out.put_u64(partial.chunks);
        out.put_u64(partial.total);
    }));
    // Bytes of all pieces that came, those of a chunk that is not complete included.
    let mut total = partial.total;
    let mut open: Option<(u128, Vec<u8>)> = None;
    let mut looked_at = 0;
    while let Some(frame) = frames.recv().await {
        if frame.kind == Kind::SnapshotEnd {
            let mut reader = Reader(frame.body);
            let expected = (reader.u64().map_err(|e| e.to_string())?, reader.u64().map_err(|e| e.to_string())?);
            let chunks = partial.chunks;
            if open.is_some() || expected != (chunks, total) {
                let (all, size) = expected;
                return Err(format!("{chunks} chunks and {total} bytes came of {all} and {size}").into());
            }
            if let Some(vote) = already_held(port, &begin).await? {
                return Ok(Some(vote));
            }
            check_room(port, group, total)?;
            let view = partial.restore.finish().map_err(words)?;
            port.snapshot_received(total);
            let last_membership = begin.membership;
            #[cfg(madsim)]
            let last_membership = if mutants::on(Mutant::SnapshotWithoutMembership) {
                StoredMembership::default()
            } else {
                last_membership
            };
            let meta = openraft::storage::SnapshotMeta { last_log_id: begin.last_log_id, last_membership };
            let snapshot = SnapshotData::received(view, begin.system, total);
            let taken = port
                .raft
                .install_full_snapshot(begin.vote, openraft::storage::Snapshot { meta, snapshot })
                .await
                .map_err(|fatal: openraft::errors::Fatal<TypeConfig>| plain(&fatal))?;
            port.wanted_bytes.store(0, Relaxed);
            return Ok(Some(taken.vote));
        }
        let (chunk, last, bytes) = read_piece(frame.body).map_err(|e| e.to_string())?;
        total += bytes.len() as u64;
        if total >= looked_at + LOOK_EVERY_BYTES {
            looked_at = total;
            check_room(port, group, total)?;
        }
        if let Some((id, whole)) = assemble(&mut open, chunk, last, bytes)? {
            if partial.before.is_some_and(|b| b >= id) {
                return Err("the chunks are not in order".to_owned().into());
            }
            partial.restore.add(id, &whole).map_err(words)?;
            (partial.before, partial.total) = (Some(id), total);
            partial.chunks += 1;
            // Building is work for the processor: let Raft's clocks run in between.
            tokio::task::yield_now().await;
        }
        answers.answer(frame::encode(Kind::Reply, group, request, |out| out.put_u64(total)));
    }
    if partial.chunks > 0 {
        port.partial.keep(which, partial);
    }
    Ok(None)
}

/// Whether the disk has room for a snapshot that has at least so many bytes. If not, the next beginning is held to it.
fn check_room(port: &Port, group: u64, bytes: u64) -> Result<(), Refused> {
    port.store.check_room(bytes).map_err(|error| {
        port.wanted_bytes.fetch_max(bytes, Relaxed);
        port.counters.snapshot_refused(group, &error);
        Refused(code::NO_ROOM, no_room(&error))
    })
}

/// A chunk that is complete with this piece.
fn assemble(
    open: &mut Option<(u128, Vec<u8>)>,
    chunk: u128,
    last: bool,
    bytes: Bytes,
) -> Result<Option<(u128, Bytes)>, String> {
    match open.take() {
        None if last => Ok(Some((chunk, bytes))),
        None => {
            *open = Some((chunk, bytes.to_vec()));
            Ok(None)
        }
        Some((id, _)) if id != chunk => Err("a chunk was not finished".into()),
        Some((id, mut so_far)) => {
            if so_far.len() + bytes.len() > MAX_CHUNK_BYTES {
                return Err("a chunk is too large".into());
            }
            so_far.extend_from_slice(&bytes);
            if last {
                return Ok(Some((id, so_far.into())));
            }
            *open = Some((id, so_far));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::entry::RaftEntry;
    use openraft::raft::AppendEntriesRequest;
    use quorate_storage::checkpoint::{CheckpointStore, MemRows};
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::runtime::Instant;
    use crate::suite_tests::{Nothing, in_memory};
    use crate::types::{Entry, LeaderId, Member, Membership, Payload};
    use crate::{Start, View};

    const LEADER: LeaderId = LeaderId { term: 1, node_id: 1 };

    fn entries(range: std::ops::Range<u64>) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| LogId::new(LEADER, index);
        let nodes: BTreeMap<u64, Member> = [1, 2, 3].map(|id| (id, Member::default())).into();
        let members = Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes).unwrap();
        let payload = |index| if index == 0 { Payload::Membership(members.clone()) } else { Payload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: range.start.checked_sub(1).map(id),
            entries: range.map(|index| Entry::new(id(index), payload(index))).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn what_broke_off_again_is_kept_for_its_whole_time_again() {
        let (kept, which) = (Partials::default(), Bytes::from_static(b"beginning"));
        let restore = Box::new(Nothing);
        let first = kept.put(which.clone(), Partial { restore, chunks: 1, total: 1, before: Some(0) });
        let partial = kept.take(&which).unwrap();
        let second = kept.put(which.clone(), partial);
        kept.expire(first);
        let partial = kept.take(&which).expect("only the first time is over");
        kept.expire(second);
        kept.put(which.clone(), partial);
        assert!(kept.take(&Bytes::from_static(b"another")).is_none() && kept.take(&which).is_none());
    }

    /// A leader that was just elected does not know what the others have, and sends a snapshot to one that lacks nothing.
    #[tokio::test]
    async fn a_snapshot_whose_end_the_log_holds_is_answered_and_the_log_goes_on() {
        let (_node, group) = in_memory(2, Start::Open(Member::default())).await;
        let (inner, vote) = (&group.inner, Vote::new_committed(1, 1));
        inner.raft.append_entries(entries(0..6)).await.unwrap();
        let port = Port {
            raft: inner.raft.clone(),
            log: inner.log.clone(),
            machine: Arc::new(Nothing),
            guard_until: Instant::now(),
            counters: inner.counters.clone(),
            store: CheckpointStore::over(Arc::new(MemRows::new())),
            wanted_bytes: AtomicU64::new(0),
            partial: Partials::default(),
            catch_up: inner.catch_up.clone(),
        };
        let begin = Begin {
            vote,
            last_log_id: Some(LogId::new(LEADER, 3)),
            membership: StoredMembership::default(),
            system: SystemState::default(),
            header: Nothing.header().into(),
        };
        let (tx, rx) = mpsc::channel(2);
        let (answers, mut answered) = Lanes::new();
        let mut sums = BytesMut::new();
        put_end(&mut sums, 0, 0);
        let end = Frame { kind: Kind::SnapshotEnd, group: 1, request: 9, body: sums.freeze() };
        assert!(tx.send(end).await.is_ok());
        receive(Arc::new(port), begin, Bytes::new(), 1, 9, rx, answers).await;
        let kinds: Vec<u8> = std::iter::from_fn(|| answered.try_next()).map(|one| one.frame[4]).collect();
        assert_eq!(kinds, [Kind::Reply as u8; 2], "the beginning and the end were answered");
        assert_eq!(group.applied_index(), None, "nothing is known to be committed, so nothing was installed");
        inner.raft.append_entries(entries(6..8)).await.unwrap();
        assert_eq!(inner.log.last_index(), Some(7));
    }
}
