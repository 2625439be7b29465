//! openraft's log over the node's write-ahead log.
//!
//! It translates and nothing more: entries become bytes, the log's callbacks become openraft's. What
//! is durable when is the log's business. Nothing is ever cut off that the last durable checkpoint
//! doesn't hold: `purge` checks that itself, whatever it is told.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};
use quorate_storage::wal::GroupLog;
use tokio::sync::oneshot;

use crate::entry::{decode_entry, decode_log_id, encode_entry};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::wire::{Malformed, Reader, put_log_id, put_maybe_log_id, put_vote};

/// Bytes of entries in one message to a follower, and in one step of applying.
const READ_BYTES: u64 = 1 << 20;

/// The index behind which everything is in a durable checkpoint; shared with the state machine.
/// Holds the index plus one, so that zero means nothing.
#[derive(Clone, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

impl Durable {
    pub(crate) fn raise(&self, index: u64) {
        self.0.fetch_max(index + 1, SeqCst);
    }

    pub(crate) fn index(&self) -> Option<u64> {
        self.0.load(SeqCst).checked_sub(1)
    }

    fn holds(&self, index: u64) -> bool {
        self.0.load(SeqCst) > index
    }
}

/// The log of one group, and a reader of it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
    durable: Durable,
}

fn damaged(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn log_id_bytes(id: &LogId) -> Bytes {
    let mut out = BytesMut::new();
    put_log_id(&mut out, id);
    out.freeze()
}

fn read_log_id(bytes: Bytes) -> io::Result<LogId> {
    let mut reader = Reader(bytes);
    reader.log_id().and_then(|id| reader.end().map(|()| id)).map_err(damaged)
}

impl LogStore {
    pub(crate) fn new(log: GroupLog, durable: Durable) -> Self {
        Self { log, durable }
    }

    /// Whether this group was ever here: then what it promised before the restart may still bind it.
    pub(crate) fn is_empty(&self) -> bool {
        self.log.vote().is_none() && self.log.last_index().is_none() && self.log.purged().is_none()
    }

    pub(crate) fn entries(&self, from: u64, to: u64, limit: u64) -> io::Result<Vec<Entry>> {
        self.log.read_limited(from..to, limit)?.into_iter().map(|(index, bytes)| read_entry(index, bytes)).collect()
    }
}

/// What the log holds under an index.
pub(crate) fn read_entry(index: u64, bytes: Bytes) -> io::Result<Entry> {
    let entry = decode_entry(bytes).map_err(damaged)?;
    if entry.log_id.index() == index {
        Ok(entry)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} says it is another")))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(n) => n + 1,
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.entries(from, to, u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, READ_BYTES)
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend {
        let (from, to) = bounds(&range);
        let store = self.clone();
        // In steps: a member that lags may have gigabytes to apply in one go.
        futures_util::stream::unfold((store, from, Vec::new().into_iter()), move |(store, next, mut step)| async move {
            if let Some(entry) = step.next() {
                return Some((Ok(entry), (store, next, step)));
            }
            if next >= to {
                return None;
            }
            match store.entries(next, to, READ_BYTES) {
                Ok(entries) => {
                    let mut step = entries.into_iter();
                    // Nothing there: the range ends behind the log. A hole in it is seen by whoever applies.
                    let first = step.next()?;
                    let next = first.log_id.index() + 1 + step.len() as u64;
                    Some((Ok(first), (store, next, step)))
                }
                Err(error) => Some((Err(error), (store, to, step))),
            }
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.log.vote() else { return Ok(None) };
        #[cfg(madsim)]
        if mutants::on(Mutant::VoteForgotten) {
            return self.vote_of_last_entry();
        }
        let mut reader = Reader(bytes);
        reader.vote().and_then(|v| reader.end().map(|()| Some(v))).map_err(damaged)
    }
}

impl LogStore {
    /// For a deliberate fault: nothing is known of votes but what the log itself tells.
    #[cfg(madsim)]
    fn vote_of_last_entry(&self) -> io::Result<Option<Vote>> {
        let Some(last) = self.log.last_index() else { return Ok(None) };
        let entries = self.entries(last, last + 1, u64::MAX)?;
        let leader = entries.first().map(|entry| *entry.log_id.committed_leader_id());
        Ok(leader.map(|leader| Vote::new_committed(leader.term, leader.node_id)))
    }

    /// What was noted as committed last.
    pub(crate) fn committed(&self) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.log.committed() else { return Ok(None) };
        let mut reader = Reader(bytes);
        reader.maybe_log_id().and_then(|id| reader.end().map(|()| id)).map_err(damaged)
    }

    /// Makes an empty log one that goes on behind `last`. Blocks until it is durable.
    pub(crate) fn begin_behind(&self, last: LogId, vote: Vote) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        put_vote(&mut bytes, &vote);
        let (tx, rx) = std::sync::mpsc::channel();
        let done = || {
            let tx = tx.clone();
            Box::new(move |result| {
                let _ = tx.send(result);
            })
        };
        self.log.save_vote(bytes.freeze(), done());
        self.log.purge(last.index(), log_id_bytes(&last), done());
        for _ in 0..2 {
            rx.recv().map_err(io::Error::other)??;
        }
        Ok(())
    }
}

/// A callback for the log's thread, and what to wait for.
fn wait() -> (quorate_storage::wal::Done, impl Future<Output = io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    let done = Box::new(move |result| {
        let _ = tx.send(result);
    });
    (done, async move { rx.await.unwrap_or_else(|_| Err(io::Error::other("the log went away before it answered"))) })
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.log.purged().map(|(_, mark)| read_log_id(mark)).transpose()?;
        let last = match self.log.last()? {
            Some((_, bytes)) => Some(decode_log_id(&bytes).map_err(damaged)?),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut out = BytesMut::new();
        put_vote(&mut out, vote);
        let (done, durable) = wait();
        self.log.save_vote(out.freeze(), done);
        durable.await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut out = BytesMut::new();
        put_maybe_log_id(&mut out, committed.as_ref());
        self.log.save_committed(out.freeze())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.committed()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|e| (e.log_id().index(), encode_entry(&e))).collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        // Its effect can be read at once, and what is appended behind it reaches the disk behind it:
        // there is nothing to wait for but a failure, which every later operation tells as well.
        let (done, durable) = wait();
        self.log.truncate_after(last.map(|id| id.index()), done);
        durable.await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if !self.durable.holds(upto.index()) {
            return Err(io::Error::other(format!(
                "refused to cut the log up to {} while the durable checkpoint ends at {:?}",
                upto.index(),
                self.durable.index()
            )));
        }
        let (done, durable) = wait();
        self.log.purge(upto.index(), log_id_bytes(&upto), done);
        durable.await
    }
}
