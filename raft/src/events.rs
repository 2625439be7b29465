//! What happens to a group, as far as an operator or the upper layers care.

use crate::types::{Member, MemberId};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// This member leads now.
    BecameLeader {
        /// The term.
        term: u64,
    },
    /// This member led and doesn't any more.
    LostLeadership {
        /// The term now.
        term: u64,
    },
    /// Another member leads, or nobody is known to.
    LeaderIs {
        /// Who leads.
        leader: Option<MemberId>,
        /// The term.
        term: u64,
    },
    /// A member came in.
    MemberAdded {
        /// Its id.
        id: MemberId,
        /// What it is.
        member: Member,
    },
    /// A member became a voter.
    MemberPromoted {
        /// Its id.
        id: MemberId,
    },
    /// A member went out.
    MemberRemoved {
        /// Its id.
        id: MemberId,
    },
    /// A snapshot was sent to a member that lagged.
    SnapshotSent {
        /// To whom.
        to: MemberId,
        /// Its size.
        bytes: u64,
    },
    /// A snapshot came from the leader and was installed.
    SnapshotInstalled {
        /// Up to this index.
        index: u64,
        /// Its size.
        bytes: u64,
    },
    /// A checkpoint is durable.
    Checkpoint {
        /// Up to this index.
        index: u64,
    },
    /// This member was removed from the group. It will not be heard again.
    Removed,
    /// The peers refuse this member: the reason, in words for an operator.
    Refused {
        /// Who refused.
        by: MemberId,
        /// Why.
        reason: String,
    },
    /// The group on this member has stopped: the disk, corruption, or an entry that could not be applied.
    Failed(String),
}

/// A stream of events. Whoever is too slow misses the oldest.
pub struct Events {
    pub(crate) events: tokio::sync::broadcast::Receiver<Event>,
    /// What had happened before and still holds.
    pub(crate) first: Option<Event>,
}

impl Events {
    /// The next event; `None` when the group is gone.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
