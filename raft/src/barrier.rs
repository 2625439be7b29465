//! ReadIndex: confirm with a majority that this member leads, and wait until it has applied enough.
//!
//! Many callers share one round: everybody who waits when a round begins is served by it, for it begins
//! after all of them have come.
//!
//! openraft's word is not enough: an answer that came while this member stood still counts there for a request that is
//! sent afterwards (see `lease.rs`), and a leader that was voted out meanwhile would confirm itself. So the majority
//! must also have been heard in answer to requests that were sent after the round began, counted one by one.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::error::ReadError;
use crate::group::RaftHandle;
use crate::lease::Heard;
use crate::runtime::Instant;
use crate::types::{MemberId, Vote};

/// Rounds that may be under way at a time.
const ROUNDS: usize = 4;
/// Callers that may wait.
const QUEUE: usize = 65_536;
/// How often a round that openraft confirmed too early looks whether a majority has answered.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

type Outcome = Result<(), ReadError>;

/// The entrance.
pub(crate) struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl Barrier {
    pub(crate) fn start(raft: RaftHandle, me: MemberId, heard: Heard, patience: Duration) -> Self {
        let (queue, rx) = mpsc::channel(QUEUE);
        tokio::spawn(run(Asker { raft, me, heard, patience }, rx));
        Self { queue }
    }

    pub(crate) async fn wait(&self) -> Outcome {
        let (tx, rx) = oneshot::channel();
        self.queue.send(tx).await.map_err(|_| ReadError::Stopped)?;
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }
}

/// What a round needs.
#[derive(Clone)]
struct Asker {
    raft: RaftHandle,
    me: MemberId,
    heard: Heard,
    patience: Duration,
}

async fn run(asker: Asker, mut queue: mpsc::Receiver<oneshot::Sender<Outcome>>) {
    let rounds = Arc::new(Semaphore::new(ROUNDS));
    loop {
        let Ok(permit) = rounds.clone().acquire_owned().await else { return };
        let Some(first) = queue.recv().await else { return };
        let mut callers = vec![first];
        while let Ok(caller) = queue.try_recv() {
            callers.push(caller);
        }
        let asker = asker.clone();
        tokio::spawn(async move {
            let outcome = asker.round().await;
            for caller in callers {
                let _ = caller.send(outcome.clone());
            }
            drop(permit);
        });
    }
}

impl Asker {
    async fn round(&self) -> Outcome {
        let began = Instant::now();
        let vote = self.raft.metrics().borrow_watched().vote;
        let asked = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.patience, asked).await {
            Err(_) => Err(ReadError::NoQuorum),
            Ok(Ok(_)) => self.confirmed(vote, began).await,
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ReadError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
        }
    }

    /// Waits until a majority has answered what was sent since then, all under one leadership. It has, as a rule.
    async fn confirmed(&self, vote: Vote, began: Instant) -> Outcome {
        loop {
            {
                let metrics = self.raft.metrics();
                let now = metrics.borrow_watched();
                if now.vote != vote || !now.state.is_leader() {
                    return Err(ReadError::NotLeader { leader: None });
                }
                let configs = now.membership_config.membership().get_joint_config();
                if self.heard.by_majorities(configs, self.me, &vote) >= Some(began) {
                    return Ok(());
                }
            }
            if began.elapsed() >= self.patience {
                return Err(ReadError::NoQuorum);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite_tests::in_memory;
    use crate::{Member, Start};

    /// The group has one voter, so openraft confirms each round at once. This asker is another member: it depends on
    /// what the voter has answered.
    #[tokio::test]
    async fn an_answer_to_what_was_sent_before_a_round_does_not_confirm_it() {
        let (_node, group) = in_memory(1, Start::Bootstrap(Member::default())).await;
        while group.read_index().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (raft, heard) = (group.inner.raft.clone(), Heard::default());
        let vote = raft.metrics().borrow_watched().vote;
        let asker = Asker { raft, me: 2, heard: heard.clone(), patience: Duration::from_millis(50) };
        assert!(matches!(asker.round().await, Err(ReadError::NoQuorum)), "nobody has answered at all");
        // It was sent before the round began, whenever its answer came.
        heard.from(1, vote, Instant::now());
        assert!(matches!(asker.round().await, Err(ReadError::NoQuorum)), "an old answer was believed");
        // Sent while the round was under way.
        heard.from(1, vote, Instant::now() + Duration::from_secs(60));
        asker.round().await.unwrap();
    }
}
