//! The vocabulary of this room: ids and members.

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

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.peer)
    }
}
