//! The handle on one Raft group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::error::{ChangeError, ProposeError, ReadError};
use crate::events::Events;
use crate::status::GroupStatus;
use crate::types::{GroupId, Member, MemberId};

/// What a member is told when it joins.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its id.
    pub id: MemberId,
    /// The group's UUID.
    pub cluster: Uuid,
    /// Its incarnation; to be kept on its disk.
    pub incarnation: Uuid,
    /// All members, itself included.
    pub members: Vec<(MemberId, Member)>,
}

/// A handle on one Raft group; cheap to clone.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: GroupId,
    events: tokio::sync::broadcast::Sender<crate::Event>,
}

impl Group {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// This member's id.
    pub fn member_id(&self) -> MemberId {
        0
    }

    /// Proposes one unit and waits for its reply. One attempt: whoever wants to try again after
    /// `NotLeader` may, since nothing was appended then.
    pub async fn propose(&self, _unit: Bytes) -> Result<Bytes, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Like [`Group::propose`], and tries again as long as nothing was appended and no other member
    /// is known to lead, until `patience` has passed. `NotLeader { leader: Some(..) }` comes back at
    /// once: the caller decides whether to go there.
    pub async fn propose_patiently(
        &self,
        _unit: Bytes,
        _patience: Duration,
    ) -> Result<Bytes, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Whether a read that has just run here was not stale. Call it AFTER the reads and before their
    /// replies leave. A few atomic loads. `false` on any doubt: use [`Group::read_index`] then.
    pub fn lease_ready(&self) -> bool {
        false
    }

    /// Waits until this member has confirmed with a majority that it leads, and has applied all that
    /// was committed before the call. Reads that run afterwards are linearizable.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        Err(ReadError::Stopped)
    }

    /// Whether this member believes that it leads. A hint.
    pub fn is_leader(&self) -> bool {
        false
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<(MemberId, Member)> {
        None
    }

    /// Waits until somebody is known to lead, at most for `patience`.
    pub async fn wait_leader(&self, _patience: Duration) -> Option<(MemberId, Member)> {
        None
    }

    /// Members, in order of their ids; voters are marked.
    pub fn members(&self) -> Vec<(MemberId, Member, bool)> {
        Vec::new()
    }

    /// Everything that a person or a monitor may want to know.
    pub async fn status(&self) -> GroupStatus {
        unreachable!("the group is not open")
    }

    /// The last entry applied here.
    pub fn applied_index(&self) -> Option<u64> {
        None
    }

    /// Waits until `wanted` other voters hold on their disks everything that was applied here when
    /// it was called, at most for `patience` (`None`: for ever). Returns how many do. What WAIT answers.
    pub async fn wait_synced(&self, _wanted: usize, _patience: Option<Duration>) -> usize {
        0
    }

    /// Takes a member in: gives it an id, makes it a learner, and, if `voter`, makes it a voter in the
    /// background when it has caught up. Leader only.
    pub async fn add_member(&self, _member: Member, _voter: bool) -> Result<Joined, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Makes a learner a voter as soon as it has caught up. Leader only.
    pub async fn promote(&self, _id: MemberId) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Removes a member. Refused when those that remain and answer would not be a majority. When it
    /// is the leader itself, leadership goes to another member first, which then removes it. Leader only.
    pub async fn remove(&self, _id: MemberId) -> Result<(), ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Hands leadership over: to this member, or to the one that is closest. Returns who leads then.
    pub async fn transfer(&self, _to: Option<MemberId>) -> Result<MemberId, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// Takes a checkpoint now and waits until it is durable. Returns the index it holds.
    pub async fn checkpoint(&self) -> Result<u64, ChangeError> {
        Err(ChangeError::Stopped)
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        Events(self.inner.events.subscribe())
    }

    /// Ends when the group has failed on this member, with the reason. The process should stop then.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }
}
