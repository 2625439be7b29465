//! ReadIndex: confirm with a majority that this member leads, and wait until it has applied enough.
//!
//! Many callers share one round: everybody who waits when a round begins is served by it, for it begins
//! after all of them have come.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::error::ReadError;
use crate::group::RaftHandle;

/// Rounds that may be under way at a time.
const ROUNDS: usize = 4;
/// Callers that may wait.
const QUEUE: usize = 65_536;

type Outcome = Result<(), ReadError>;

/// The entrance.
pub(crate) struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl Barrier {
    pub(crate) fn start(raft: RaftHandle, patience: Duration) -> Self {
        let (queue, rx) = mpsc::channel(QUEUE);
        tokio::spawn(run(raft, patience, rx));
        Self { queue }
    }

    pub(crate) async fn wait(&self) -> Outcome {
        let (tx, rx) = oneshot::channel();
        self.queue.send(tx).await.map_err(|_| ReadError::Stopped)?;
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }
}

async fn run(raft: RaftHandle, patience: Duration, mut queue: mpsc::Receiver<oneshot::Sender<Outcome>>) {
    let rounds = Arc::new(Semaphore::new(ROUNDS));
    loop {
        let Ok(permit) = rounds.clone().acquire_owned().await else { return };
        let Some(first) = queue.recv().await else { return };
        let mut callers = vec![first];
        while let Ok(caller) = queue.try_recv() {
            callers.push(caller);
        }
        let raft = raft.clone();
        tokio::spawn(async move {
            let outcome = round(&raft, patience).await;
            for caller in callers {
                let _ = caller.send(outcome.clone());
            }
            drop(permit);
        });
    }
}

async fn round(raft: &RaftHandle, patience: Duration) -> Outcome {
    match tokio::time::timeout(patience, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
        Err(_) => Err(ReadError::NoQuorum),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(ReadError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}
