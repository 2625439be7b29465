//! From units to entries: everything that waits becomes one entry, and several entries are under way.
//!
//! When does the next entry leave? With none under way, at once. Otherwise as soon as what waits outnumbers what is
//! under way, or is large: each entry costs every member a write, a sync and two messages, whatever is in it. (It is
//! Nagle's rule, RFC 896, on units.) Clients in a closed loop then share two entries, one being formed and one under
//! way, and a single client never waits.
//!
//! What a caller may conclude is decided here, and only here. openraft answers `ForwardToLeader` before
//! it appends anything, never after: that is the one answer which proves that nothing happened. A log
//! entry that was discarded, an answer that never came, a group that stopped on the way: unknown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::api::StateMachine;
use crate::config::Limits;
use crate::counters::Counters;
use crate::error::ProposeError;
use crate::group::RaftHandle;
use crate::runtime::Instant;
use crate::types::{Data, Member, MemberId};

type Outcome = Result<Bytes, ProposeError>;

struct Waiting {
    unit: Bytes,
    since: Instant,
    tx: oneshot::Sender<Outcome>,
}

/// The entrance: a bounded queue.
pub(crate) struct Proposer {
    queue: mpsc::Sender<Waiting>,
    unit_limit: usize,
    pace: Arc<Pace>,
    /// Closed while leadership is handed over: what waits stays in the queue.
    gate: Arc<Gate>,
}

/// Lets entries out, or not; counts those that are out.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    opened: Notify,
    out: AtomicU64,
    came_back: Notify,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    pub(crate) fn open(&self) {
        self.closed.store(false, SeqCst);
        self.opened.notify_waiters();
    }

    async fn wait_open(&self) {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if !self.closed.load(SeqCst) {
                return;
            }
            opened.await;
        }
    }

    /// Waits until no entry is out.
    pub(crate) async fn drained(&self) {
        loop {
            let back = self.came_back.notified();
            tokio::pin!(back);
            back.as_mut().enable();
            if self.out.load(SeqCst) == 0 {
                return;
            }
            back.await;
        }
    }
}

impl Proposer {
    pub(crate) fn start(
        raft: RaftHandle,
        machine: Arc<dyn StateMachine>,
        limits: &Limits,
        counters: Arc<Counters>,
    ) -> Self {
        let (queue, rx) = mpsc::channel(limits.queue_units.max(1));
        let gate = Arc::new(Gate::default());
        let pace = Arc::new(Pace::default());
        let worker = Worker {
            raft,
            machine,
            batch_bytes: limits.batch_bytes,
            batch_units: limits.batch_units.max(1),
            in_flight: Arc::new(Semaphore::new(limits.in_flight.max(1))),
            counters: counters.clone(),
            gate: gate.clone(),
            pace: pace.clone(),
        };
        tokio::spawn(worker.run(rx));
        Self { queue, unit_limit: limits.unit_bytes, pace, gate }
    }

    /// Units that wait for an entry.
    pub(crate) fn waiting(&self) -> u64 {
        self.pace.waiting_units.load(SeqCst).try_into().unwrap_or(0)
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) async fn propose(&self, unit: Bytes) -> Outcome {
        if unit.len() > self.unit_limit {
            return Err(ProposeError::TooLarge { bytes: unit.len(), limit: self.unit_limit });
        }
        let (tx, rx) = oneshot::channel();
        let bytes = unit.len();
        let handed_in = self.queue.try_send(Waiting { unit, since: Instant::now(), tx });
        if let Err(error) = handed_in {
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
            });
        }
        self.pace.comes(bytes);
        self.pace.look();
        // The worker answers every unit; if it was torn down with units in its hands, nobody knows.
        rx.await.unwrap_or(Err(ProposeError::Unknown("the group stopped before it answered")))
    }
}

/// What waits, what is under way, and whether that is reason enough for an entry.
#[derive(Default)]
struct Pace {
    // Counted behind the queue: the worker may have taken a unit before it was counted, so these may be negative for
    // a moment.
    waiting_units: AtomicI64,
    waiting_bytes: AtomicI64,
    units_out: AtomicI64,
    worth_a_look: Notify,
    /// Nobody can hand in units any more.
    over: AtomicBool,
}

/// So many bytes are an entry worth sending whatever is under way.
const LARGE_BYTES: i64 = 64 << 10;

impl Pace {
    fn comes(&self, bytes: usize) {
        self.waiting_units.fetch_add(1, SeqCst);
        self.waiting_bytes.fetch_add(bytes as i64, SeqCst);
    }

    fn goes(&self, bytes: usize) {
        self.waiting_units.fetch_sub(1, SeqCst);
        self.waiting_bytes.fetch_sub(bytes as i64, SeqCst);
    }

    fn is_enough(&self) -> bool {
        let waiting = self.waiting_units.load(SeqCst);
        waiting > 0 && (waiting >= self.units_out.load(SeqCst) || self.waiting_bytes.load(SeqCst) >= LARGE_BYTES)
    }

    /// Wakes the worker if it has reason to send; it would sleep on otherwise, at no cost to anybody.
    fn look(&self) {
        if self.is_enough() {
            self.worth_a_look.notify_one();
        }
    }

    fn end(&self) {
        self.over.store(true, SeqCst);
        self.worth_a_look.notify_one();
    }

    /// Waits until there is reason to send; false when there never will be.
    async fn enough(&self) -> bool {
        loop {
            if self.is_enough() {
                return true;
            }
            if self.over.load(SeqCst) {
                return self.waiting_units.load(SeqCst) > 0;
            }
            self.worth_a_look.notified().await;
        }
    }
}

impl Drop for Proposer {
    fn drop(&mut self) {
        self.pace.end();
    }
}

struct Worker {
    raft: RaftHandle,
    machine: Arc<dyn StateMachine>,
    batch_bytes: usize,
    batch_units: usize,
    in_flight: Arc<Semaphore>,
    counters: Arc<Counters>,
    gate: Arc<Gate>,
    pace: Arc<Pace>,
}

impl Worker {
    async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let mut held: VecDeque<Waiting> = VecDeque::new();
        loop {
            let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
            if !self.pace.enough().await {
                return;
            }
            self.gate.wait_open().await;
            let batch = self.collect(&mut held, &mut queue);
            if batch.is_empty() {
                continue;
            }
            self.send(batch, permit).await;
        }
    }

    /// Takes what waits, up to the limits; the rest stays in `held` or in the queue.
    fn collect(&self, held: &mut VecDeque<Waiting>, queue: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        while batch.len() < self.batch_units {
            let Some(one) = held.pop_front().or_else(|| queue.try_recv().ok()) else { break };
            if one.tx.is_closed() {
                // Its caller has gone, and it was not sent: then it need not be.
                self.pace.goes(one.unit.len());
                continue;
            }
            if !batch.is_empty() && bytes + one.unit.len() > self.batch_bytes {
                held.push_front(one);
                break;
            }
            bytes += one.unit.len();
            batch.push(one);
        }
        batch.iter().for_each(|one| self.pace.goes(one.unit.len()));
        batch
    }

    async fn send(&self, batch: Vec<Waiting>, permit: tokio::sync::OwnedSemaphorePermit) {
        if !self.raft.is_leader() {
            // Saves the way through openraft; nothing was handed in.
            refuse(batch, None);
            return;
        }
        let units: Vec<Bytes> = batch.iter().map(|w| w.unit.clone()).collect();
        let mut entry = BytesMut::new();
        self.machine.encode_batch(&units, &mut entry);
        drop(units);
        self.counters.batch_units.record(batch.len() as u64);
        self.counters.batch_bytes.record(entry.len() as u64);
        self.counters.proposals.fetch_add(batch.len() as u64, Relaxed);
        self.counters.in_flight.fetch_add(1, Relaxed);
        self.gate.out.fetch_add(1, SeqCst);
        let units_out = batch.len() as i64;
        self.pace.units_out.fetch_add(units_out, SeqCst);

        let (responder, answer) = ProgressResponder::complete_only();
        let handed_in = self.raft.client_write_ff(Data::App(entry.freeze()), Some(responder)).await;
        let (counters, gate, pace) = (self.counters.clone(), self.gate.clone(), self.pace.clone());
        tokio::spawn(async move {
            match handed_in {
                // openraft's door was closed already: it never saw the entry.
                Err(_) => batch.into_iter().for_each(|w| drop(w.tx.send(Err(ProposeError::Stopped)))),
                Ok(()) => settle(batch, answer.await.ok(), &counters),
            }
            drop(permit);
            pace.units_out.fetch_sub(units_out, SeqCst);
            pace.look();
            counters.in_flight.fetch_sub(1, Relaxed);
            if gate.out.fetch_sub(1, SeqCst) == 1 {
                gate.came_back.notify_waiters();
            }
        });
    }
}

fn refuse(batch: Vec<Waiting>, leader: Option<(MemberId, Member)>) {
    for waiting in batch {
        let _ = waiting.tx.send(Err(ProposeError::NotLeader { leader: leader.clone() }));
    }
}

fn unknown(batch: Vec<Waiting>, why: &'static str, counters: &Counters) {
    counters.proposals_unknown.fetch_add(batch.len() as u64, Relaxed);
    for waiting in batch {
        let _ = waiting.tx.send(Err(ProposeError::Unknown(why)));
    }
}

type Answer = openraft::raft::ClientWriteResult<crate::types::TypeConfig>;

/// Tells everybody in the batch what became of it.
fn settle(batch: Vec<Waiting>, answer: Option<Answer>, counters: &Counters) {
    match answer {
        Some(Ok(response)) => {
            let replies = response.data;
            if replies.len() != batch.len() {
                tracing::error!(units = batch.len(), replies = replies.len(), "an entry has another number of replies");
                return unknown(batch, "the replies don't match the units", counters);
            }
            for (waiting, reply) in batch.into_iter().zip(replies) {
                counters.commit_us.record(waiting.since.elapsed().as_micros() as u64);
                let _ = waiting.tx.send(Ok(reply));
            }
        }
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => {
            refuse(batch, forward.leader_id.zip(forward.leader_node));
        }
        Some(Err(ClientWriteError::LogEntryDiscarded(_))) => {
            unknown(batch, "the leader changed before the entry was known to be committed", counters);
        }
        // Neither belongs to a write of data; nothing is concluded from it.
        Some(Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_))) => {
            unknown(batch, "the log gave an answer that makes no sense", counters);
        }
        None => unknown(batch, "the group stopped before the entry was known to be committed", counters),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::errors::ForwardToLeader;
    use openraft::raft::ClientWriteResponse;

    fn log_id() -> crate::types::LogId {
        crate::types::LogId::new(crate::types::LeaderId { term: 1, node_id: 1 }, 1)
    }

    fn batch(n: usize) -> (Vec<Waiting>, Vec<oneshot::Receiver<Outcome>>) {
        (0..n)
            .map(|_| {
                let (tx, rx) = oneshot::channel();
                (Waiting { unit: Bytes::new(), since: Instant::now(), tx }, rx)
            })
            .unzip()
    }

    fn outcomes(answer: Option<Answer>, n: usize) -> Vec<Outcome> {
        let (batch, rxs) = batch(n);
        settle(batch, answer, &Counters::default());
        rxs.into_iter().map(|mut rx| rx.try_recv().unwrap()).collect()
    }

    #[test]
    fn a_single_unit_leaves_at_once_and_others_wait_until_they_are_worth_an_entry() {
        let pace = Pace::default();
        assert!(!pace.is_enough(), "nothing waits");
        pace.comes(10);
        assert!(pace.is_enough(), "nothing is under way");
        pace.goes(10);
        pace.units_out.fetch_add(2, SeqCst);
        pace.comes(10);
        assert!(!pace.is_enough(), "one waits, two are under way");
        pace.comes(10);
        assert!(pace.is_enough());
        pace.goes(10);
        pace.goes(10);
        pace.comes(LARGE_BYTES as usize);
        assert!(pace.is_enough(), "a large one doesn't wait");
    }

    #[tokio::test]
    async fn what_waits_leaves_when_what_is_under_way_has_come_back_or_the_end_is_near() {
        let pace = Arc::new(Pace::default());
        pace.units_out.fetch_add(5, SeqCst);
        pace.comes(1);
        let waiter = tokio::spawn({
            let pace = pace.clone();
            async move { pace.enough().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        pace.units_out.fetch_sub(5, SeqCst);
        pace.look();
        assert!(waiter.await.unwrap());

        pace.units_out.fetch_add(5, SeqCst);
        pace.end();
        assert!(pace.enough().await, "what waits at the end is still sent");
        pace.goes(1);
        assert!(!pace.enough().await);
    }

    #[test]
    fn each_unit_gets_its_own_reply() {
        let data = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let ok = Ok(ClientWriteResponse { log_id: log_id(), data, membership: None });
        let got: Vec<_> = outcomes(Some(ok), 2).into_iter().map(Result::unwrap).collect();
        assert_eq!(got, [Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
    }

    #[test]
    fn only_a_refusal_before_the_append_is_certain() {
        let forward = || ForwardToLeader::new(3, Member::default());
        let refused = outcomes(Some(Err(ClientWriteError::ForwardToLeader(forward()))), 1);
        assert!(matches!(&refused[0], Err(ProposeError::NotLeader { leader: Some((3, _)) })));

        let discarded = outcomes(Some(Err(ClientWriteError::LogEntryDiscarded(forward()))), 1);
        assert!(matches!(discarded[0], Err(ProposeError::Unknown(_))));

        assert!(matches!(outcomes(None, 1)[0], Err(ProposeError::Unknown(_))));

        let short = Ok(ClientWriteResponse { log_id: log_id(), data: vec![], membership: None });
        assert!(matches!(outcomes(Some(short), 1)[0], Err(ProposeError::Unknown(_))));
    }
}
