//! The vocabulary of this room: ids, members, and openraft's type configuration.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A member's id. Handed out by the group, never used twice. Zero is nobody.
pub type MemberId = u64;

/// A group's id on a node.
pub type GroupId = u64;

/// What the group knows about one of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its peers reach it, `host:port`.
    pub peer: String,
    /// Where clients reach it, `host:port`.
    pub client: String,
    /// Where its admin HTTP is, `host:port`.
    pub admin: String,
    /// It is to become a voter as soon as it has caught up. A member that wants no vote stays a learner.
    pub wants_vote: bool,
    /// Told to the member when it joined and kept on its disk. A member that comes back under its id
    /// without it has lost its disk, and with it the votes and entries it had promised to keep.
    pub incarnation: Uuid,
}

impl Member {
    /// Whether both are reached at the same addresses.
    pub(crate) fn is_where(&self, other: &Member) -> bool {
        (&self.peer, &self.client, &self.admin) == (&other.peer, &other.client, &other.admin)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer)
    }
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Data {
    /// An entry of the upper layer.
    App(Bytes),
    /// A command to this room's own replicated state (see `system`), encoded.
    System(Bytes),
}

impl Data {
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Data::App(b) | Data::System(b) => b,
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::App(b) => write!(f, "app({} bytes)", b.len()),
            Data::System(b) => write!(f, "system({} bytes)", b.len()),
        }
    }
}

/// What applying an entry answers, one part per unit.
pub(crate) type Replies = Vec<Bytes>;

openraft::declare_raft_types!(
    /// openraft's type parameters.
    pub(crate) TypeConfig:
        D = Data,
        R = Replies,
        NodeId = MemberId,
        Node = Member,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::EntryPayload<Data, MemberId, Member>;
pub(crate) type Membership = openraft::Membership<MemberId, Member>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
