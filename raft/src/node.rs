//! One process: its peer port, its log, its checkpoints, and the groups that it hosts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::{Service, StateMachine};
use crate::config::{NodeConfig, Start};
use crate::error::{CallError, NodeError};
use crate::group::Group;
use crate::types::{GroupId, MemberId};

/// One process of the store; cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: NodeConfig,
}

impl Node {
    /// Opens the log and the checkpoints and listens on the peer port.
    pub async fn open(config: NodeConfig) -> Result<Node, NodeError> {
        Ok(Node {
            inner: Arc::new(Inner { config }),
        })
    }

    /// Recovers a group from disk, or begins it, and takes part in it.
    pub async fn open_group(
        &self,
        _id: GroupId,
        _machine: Arc<dyn StateMachine>,
        _start: Start,
    ) -> Result<Group, NodeError> {
        Err(NodeError::Config(format!(
            "no group in {}",
            self.inner.config.dir.display()
        )))
    }

    /// A group that was opened.
    pub fn group(&self, _id: GroupId) -> Option<Group> {
        None
    }

    /// Where the peer port listens (for port 0 the one that was found).
    pub fn peer_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Calls a service of another member. See [`CallError`] for what a failure means.
    pub async fn call(
        &self,
        _to: MemberId,
        _service: u8,
        _body: Bytes,
        _timeout: Duration,
    ) -> Result<Bytes, CallError> {
        Err(CallError::NotSent("the node is not open".into()))
    }

    /// Answers the calls of one service. A later one of the same number replaces it.
    pub fn serve(&self, _service: u8, _handler: Arc<dyn Service>) {}

    /// Stops in order: hands leadership over, takes checkpoints, stops Raft, closes the log.
    /// Returns at the latest after `patience`.
    pub async fn shutdown(&self, _patience: Duration) {}

    /// Stops at once, as a crash would: nothing is handed over or saved beyond what is on disk already.
    pub fn kill(&self) {}
}
