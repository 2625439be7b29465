//! Errors of this room. What a caller may conclude from each is part of its contract.

use quorate_storage::checkpoint::CheckpointError;

use crate::types::{Member, MemberId};

/// Why a proposal has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// This member doesn't lead. The unit was certainly NOT appended: it may be sent again, here or elsewhere.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, as far as this member knows. `None` while an election runs.
        leader: Option<(MemberId, Member)>,
    },
    /// The unit was handed to the log and its fate is not known: it may be applied, now or later, or never.
    #[error("the outcome is unknown: {0}")]
    Unknown(&'static str),
    /// Too much is waiting already. Certainly not appended.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// The disk of this member, which leads, has no room for the log. Certainly not appended.
    #[error("the disk has no room for the log")]
    NoRoom,
    /// The unit is larger than an entry may be. Certainly not appended.
    #[error("a unit of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The group has stopped. Certainly not appended.
    #[error("the group has stopped")]
    Stopped,
}

/// Why a read barrier was not taken. Nothing was changed in any case.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// This member doesn't lead.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, as far as this member knows.
        leader: Option<(MemberId, Member)>,
    },
    /// No majority confirmed in time that this member still leads.
    #[error("no majority confirmed the leadership in time")]
    NoQuorum,
    /// The group has stopped.
    #[error("the group has stopped")]
    Stopped,
}

/// Why a change of membership or leadership was refused or is not known to be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader can do it.
    #[error("this member is not the leader")]
    NotLeader {
        /// Who leads, as far as this member knows.
        leader: Option<(MemberId, Member)>,
    },
    /// There is no such member.
    #[error("there is no member {0}")]
    NoSuchMember(MemberId),
    /// Refused, with the reason. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The disk has no room for it. Nothing was changed.
    #[error("{0}")]
    NoRoom(String),
    /// The checkpoint store has failed, and writes nothing more until this member starts again. The log has everything.
    #[error("{0}")]
    StoreFailed(String),
    /// No majority of the voters answers, with who does not. Nothing was changed.
    #[error("{0}")]
    NoMajority(String),
    /// Another change is under way. Nothing was changed.
    #[error("another change of the membership is under way")]
    Busy,
    /// It was begun and didn't finish in time; it may still happen.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The group has stopped.
    #[error("the group has stopped")]
    Stopped,
}

impl From<CheckpointError> for ChangeError {
    fn from(error: CheckpointError) -> Self {
        let words = error.to_string();
        match error {
            CheckpointError::NoRoom(_) => Self::NoRoom(words),
            CheckpointError::Busy(_) | CheckpointError::Store(_) => Self::Refused(words),
            CheckpointError::Disk(_)
            | CheckpointError::Damaged(_)
            | CheckpointError::Corrupt { .. }
            | CheckpointError::Version { .. } => Self::StoreFailed(words),
        }
    }
}

/// Why a call to another member has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The other side has certainly not begun to work on it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent and no answer came: the other side may have done it.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why a node or group did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration can't work.
    #[error("{0}")]
    Config(String),
    /// The peer port could not be opened.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory can't be used, or holds what it must not hold.
    #[error("{0}")]
    Storage(String),
    /// What is on the disk is damaged, or something of it is lost: this member must not go on with it.
    #[error("{0}")]
    Damaged(String),
    /// openraft refused.
    #[error("{0}")]
    Raft(String),
}

/// What openraft says of its end, in plain words: its own text shows its inner values.
pub(crate) fn plain(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let Some((head, source)) = text.strip_prefix("when ").zip(error.source()) else { return text };
    let mut words = head.split([' ', '(', ':']);
    let doing = match words.next() {
        Some("Write") => "writing",
        Some("Delete") => "cutting",
        _ => "reading",
    };
    let what = match words.next() {
        Some("Snapshot") => "a snapshot",
        Some("Logs" | "Log" | "LogIndex") => "the log",
        Some("Vote") => "the vote",
        Some("Apply") => "the data that an entry changes",
        _ => "the data",
    };
    let source = source.to_string();
    let source = source.strip_prefix("std::io::error::Error: ").unwrap_or(&source);
    format!("{doing} {what} has failed: {source}")
}

#[cfg(test)]
mod tests {
    use openraft::errors::Fatal;
    use openraft::{ErrorSubject, ErrorVerb, StorageError};

    use super::plain;
    use crate::types::TypeConfig;

    #[test]
    fn what_openraft_says_is_told_in_plain_words() {
        let told = |subject, verb| {
            let cause = std::io::Error::other("the disk is on fire");
            let error: StorageError<TypeConfig> = StorageError::from_io_error(subject, verb, cause);
            (plain(&error), plain(&Fatal::StorageError(error)))
        };
        let words = "writing a snapshot has failed: the disk is on fire".to_owned();
        assert_eq!(told(ErrorSubject::Snapshot(None), ErrorVerb::Write), (words.clone(), words));
        assert_eq!(told(ErrorSubject::Logs, ErrorVerb::Read).0, "reading the log has failed: the disk is on fire");
        assert_eq!(plain(&Fatal::<TypeConfig>::Panicked), "panicked");
    }
}
