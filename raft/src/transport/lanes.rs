//! What waits to go out on one connection, and the order in which it goes.
//!
//! Requests and answers of this node leave in the same writes. What somebody's clock or window waits for is small and
//! goes first: heartbeats, votes, and the answers to them, to entries and to pieces of snapshots, so that no answer ever
//! stands behind a bulk. Then the log and the answers to calls, in turn: neither starves the other, as if each had a
//! connection of its own. Then calls, snapshots and large answers. Within one queue the order is kept.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// What one write takes together. A frame of this size is written without being copied.
const WRITE_BYTES: usize = 256 << 10;

/// Which queue a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Urgent,
    Log,
    Bulk,
}

/// One frame that waits.
pub(super) struct Outgoing {
    /// Nothing behind an empty one is sent.
    pub(super) frame: Bytes,
    /// Set by whoever decides first: the writer that it is sent, or the asker that it is not.
    pub(super) taken: Option<Arc<AtomicBool>>,
    /// What it may take of memory, or of something else; given back when it is written.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(super) fn plain(frame: Bytes) -> Self {
        Self { frame, taken: None, permit: None }
    }
}

/// The ends that are filled.
#[derive(Clone)]
pub(crate) struct Lanes {
    urgent: mpsc::UnboundedSender<Outgoing>,
    log: mpsc::UnboundedSender<Outgoing>,
    answers: mpsc::UnboundedSender<Outgoing>,
    bulk: mpsc::UnboundedSender<Outgoing>,
}

/// The ends that are emptied.
pub(crate) struct Queues {
    urgent: mpsc::UnboundedReceiver<Outgoing>,
    log: mpsc::UnboundedReceiver<Outgoing>,
    answers: mpsc::UnboundedReceiver<Outgoing>,
    bulk: mpsc::UnboundedReceiver<Outgoing>,
    /// Whose turn it is.
    log_first: bool,
}

impl Lanes {
    pub(crate) fn new() -> (Lanes, Queues) {
        let (urgent, urgent_rx) = mpsc::unbounded_channel();
        let (log, log_rx) = mpsc::unbounded_channel();
        let (answers, answers_rx) = mpsc::unbounded_channel();
        let (bulk, bulk_rx) = mpsc::unbounded_channel();
        let queues = Queues { urgent: urgent_rx, log: log_rx, answers: answers_rx, bulk: bulk_rx, log_first: true };
        (Lanes { urgent, log, answers, bulk }, queues)
    }

    /// Puts a request into its queue; false if the connection has ended.
    pub(super) fn push(&self, lane: Lane, outgoing: Outgoing) -> bool {
        let queue = match lane {
            Lane::Urgent => &self.urgent,
            Lane::Log => &self.log,
            Lane::Bulk => &self.bulk,
        };
        queue.send(outgoing).is_ok()
    }

    /// An answer of consensus; false if the connection has ended.
    pub(crate) fn answer(&self, frame: Bytes) -> bool {
        self.push(Lane::Urgent, Outgoing::plain(frame))
    }

    /// The answer to a call. The permit is the call's, and is given back when the answer has left.
    pub(super) fn answer_call(&self, frame: Bytes, permit: OwnedSemaphorePermit) {
        let queue = if frame.len() < WRITE_BYTES { &self.answers } else { &self.bulk };
        let _ = queue.send(Outgoing { frame, taken: None, permit: Some(permit) });
    }

    /// Sends what is queued, and nothing after it.
    pub(super) fn end(&self) {
        self.push(Lane::Bulk, Outgoing::plain(Bytes::new()));
    }
}

impl Queues {
    pub(super) fn try_next(&mut self) -> Option<Outgoing> {
        if let Ok(one) = self.urgent.try_recv() {
            return Some(one);
        }
        let (first, second) =
            if self.log_first { (&mut self.log, &mut self.answers) } else { (&mut self.answers, &mut self.log) };
        self.log_first = !self.log_first;
        first.try_recv().or_else(|_| second.try_recv()).or_else(|_| self.bulk.try_recv()).ok()
    }

    async fn next(&mut self) -> Option<Outgoing> {
        if let Some(one) = self.try_next() {
            return Some(one);
        }
        tokio::select! {
            biased;
            Some(one) = self.urgent.recv() => Some(one),
            Some(one) = self.log.recv() => Some(one),
            Some(one) = self.answers.recv() => Some(one),
            Some(one) = self.bulk.recv() => Some(one),
            else => None,
        }
    }

    /// Writes what comes, until the end.
    pub(super) async fn write_to<W: AsyncWrite + Unpin>(mut self, mut writer: W) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while let Some(first) = self.next().await {
            let mut next = Some(first);
            let mut held = Vec::new();
            let (mut large, mut last) = (None, false);
            while let Some(one) = next.take() {
                if one.frame.is_empty() {
                    last = true;
                    break;
                }
                // A request whose asker gave up while it waited was already told that it was not sent.
                let given_up = one.taken.as_ref().is_some_and(|taken| taken.swap(true, SeqCst));
                if !given_up {
                    if one.frame.len() >= WRITE_BYTES {
                        large = Some(one);
                        break;
                    }
                    batch.extend_from_slice(&one.frame);
                    held.extend(one.permit);
                }
                if batch.len() < WRITE_BYTES {
                    next = self.try_next();
                }
            }
            if !batch.is_empty() {
                writer.write_all(&batch).await?;
            }
            if let Some(one) = large {
                writer.write_all(&one.frame).await?;
            }
            writer.flush().await?;
            if last {
                let _ = writer.shutdown().await;
                return Ok(());
            }
            batch.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::Semaphore;

    use super::*;

    fn put(lanes: &Lanes, lane: Lane, text: &'static str) {
        assert!(lanes.push(lane, Outgoing::plain(Bytes::from_static(text.as_bytes()))));
    }

    async fn written(queues: Queues) -> String {
        let (writer, mut reader) = tokio::io::duplex(1 << 20);
        queues.write_to(writer).await.unwrap();
        let mut out = String::new();
        reader.read_to_string(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn answers_overtake_bulks_and_share_with_the_log() {
        let (lanes, queues) = Lanes::new();
        let permits = Arc::new(Semaphore::new(2));
        put(&lanes, Lane::Bulk, "b1 ");
        put(&lanes, Lane::Log, "l1 ");
        put(&lanes, Lane::Log, "l2 ");
        for answer in ["a1 ", "a2 "] {
            let permit = permits.clone().try_acquire_owned().unwrap();
            lanes.answer_call(Bytes::from_static(answer.as_bytes()), permit);
        }
        put(&lanes, Lane::Bulk, "b2 ");
        lanes.answer(Bytes::from_static(b"u1 "));
        put(&lanes, Lane::Urgent, "u2 ");
        assert_eq!(permits.available_permits(), 0, "a call counts until its answer has left");
        lanes.end();
        put(&lanes, Lane::Bulk, "never");
        assert_eq!(written(queues).await, "u1 u2 l1 a1 l2 a2 b1 b2 ");
        assert_eq!(permits.available_permits(), 2);
        assert!(!lanes.answer(Bytes::from_static(b"too late")), "the connection has ended");
    }

    #[tokio::test]
    async fn what_was_given_up_while_it_waited_is_not_sent() {
        let (lanes, queues) = Lanes::new();
        let given_up = Some(Arc::new(AtomicBool::new(true)));
        lanes.push(Lane::Log, Outgoing { frame: Bytes::from_static(b"no"), taken: given_up, permit: None });
        let taken = Arc::new(AtomicBool::new(false));
        let frame = Bytes::from_static(b"yes");
        lanes.push(Lane::Log, Outgoing { frame, taken: Some(taken.clone()), permit: None });
        lanes.end();
        assert_eq!(written(queues).await, "yes");
        assert!(taken.load(SeqCst));
    }
}
