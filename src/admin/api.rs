//! The JSON of the admin interface: what goes in, what comes out, and how it fails. Shared with the command line.

use quorate_raft::{CallError, ChangeError, CheckReport, Held, ReadError};
use serde::{Deserialize, Serialize};

/// An error, as every endpoint answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub status: u16,
    /// One word for programs.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

fn is_zero(status: &u16) -> bool {
    *status == 0
}

impl ApiError {
    /// An error.
    pub fn new(status: u16, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), hint: hint.into() }
    }

    /// The request itself is wrong.
    pub fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(400, "bad_request", message, hint)
    }

    /// Nobody is known to lead.
    pub fn no_leader() -> Self {
        Self::new(
            503,
            "no_leader",
            "no leader is known at the moment",
            "an election may be under way: try again; if it lasts, check that a majority of the voters runs",
        )
    }

    /// Another member leads; nothing was done.
    pub fn not_leader() -> Self {
        Self::new(503, "not_leader", "leadership has just moved; nothing was changed", "try again")
    }

    /// It may have been done, or not.
    pub fn unknown_outcome(message: impl Into<String>) -> Self {
        Self::new(504, "unknown_outcome", message, "look at the members before you try again: it may have been done")
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NotLeader { .. } => Self::not_leader(),
            ChangeError::NoSuchMember(_) => {
                Self::new(404, "no_such_member", message, "list the members to see their ids")
            }
            ChangeError::Refused(_) => Self::new(409, "refused", message, "nothing was changed"),
            ChangeError::NoRoom(_) => {
                Self::new(507, "no_room", message, "make room on this member's disk, and ask again")
            }
            ChangeError::StoreFailed(_) => Self::new(
                500,
                "store_failed",
                message,
                "see to its disk and restart this member: it takes no checkpoint before that; what was acknowledged is in \
                 its log",
            ),
            ChangeError::NoMajority(_) => Self::new(
                503,
                "no_quorum",
                message,
                "nothing was changed: bring the silent members back, or see 'quorate recover --help' if they are lost for ever",
            ),
            ChangeError::Busy => Self::new(409, "busy", message, "nothing was changed: try again in a moment"),
            ChangeError::Unknown(_) => Self::unknown_outcome(message),
            ChangeError::Stopped => Self::stopped(message),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::NotLeader { .. } => Self::not_leader(),
            ReadError::NoQuorum => Self::new(503, "no_quorum", message, "check that a majority of the voters runs"),
            ReadError::Stopped => Self::stopped(message),
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(_) => Self::new(
                503,
                "unreachable",
                error.to_string(),
                "nothing was changed: check the network between members",
            ),
            CallError::Unknown(_) => Self::unknown_outcome(error.to_string()),
        }
    }
}

impl ApiError {
    fn stopped(message: String) -> Self {
        Self::new(503, "stopped", message, "ask another member; the log of this one says why it stopped")
    }
}

/// `GET /v1/status`: one member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// Its id.
    pub id: u64,
    /// The group's UUID.
    pub group: String,
    /// `leader`, `follower`, `learner`, `candidate` or `stopped`.
    pub role: String,
    /// Who leads.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Last applied entry.
    pub applied: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Last entry in the log.
    pub last_log: u64,
    /// What the last checkpoint on disk holds.
    pub snapshot: u64,
    /// What was cut off the front of the log.
    pub purged: u64,
    /// Version of the program.
    pub version: String,
    /// Where clients reach it.
    pub client: String,
    /// Where its peers reach it.
    pub peer: String,
    /// Where its admin port is.
    pub admin: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Its process.
    pub pid: u32,
    /// Keys in all databases.
    pub keys: u64,
    /// Why it has failed, if it has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
}

/// How far a snapshot on its way to a member has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Bytes sent.
    pub bytes: u64,
    /// About how many there are; from the share of the chunks sent.
    pub total: u64,
}

/// One member, as the group sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id.
    pub id: u64,
    /// `leader`, `follower`, `learner`, `candidate` or `stopped`.
    pub role: String,
    /// It has a vote.
    pub voter: bool,
    /// Where its peers reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// Where its admin port is.
    pub admin: String,
    /// Last entry it has applied; null if it could not be asked.
    pub applied: Option<u64>,
    /// Last entry known to be on its disk; null if that is not known here.
    pub matched: Option<u64>,
    /// Entries that it lacks.
    pub lag: Option<u64>,
    /// `ok`, `lagging`, `unreachable`, or `unknown` where nobody leads.
    pub health: String,
    /// A snapshot on its way to it.
    pub progress: Option<ProgressView>,
}

/// `GET /v1/members`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembersView {
    /// In order of their ids.
    pub members: Vec<MemberView>,
    /// Who leads.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The group's UUID.
    pub group: String,
    /// A change is under way: until it is finished, a majority of the voters as they were is needed as well as one of
    /// those that are to be (Raft dissertation, section 4.3).
    #[serde(default)]
    pub changing: bool,
    /// Whoever says this was removed: it knows the group as it was then.
    #[serde(default)]
    pub removed: bool,
}

/// What a new member is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedRole {
    /// With a vote, once it has caught up.
    #[default]
    Voter,
    /// Without.
    Learner,
}

/// Body of `POST /v1/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// Where its peers will reach it.
    pub peer: String,
    /// Where clients will reach it.
    pub client: String,
    /// Where its admin port will be.
    pub admin: String,
    /// Voter or learner.
    #[serde(default)]
    pub role: WantedRole,
}

/// Where one member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    /// Its id.
    pub id: u64,
    /// Where its peers reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// Where its admin port is.
    pub admin: String,
}

/// Answer of `POST /v1/members`: what the new member keeps on its disk, and whom it will hear from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedView {
    /// Its id: never used before, never used again.
    pub id: u64,
    /// The group's UUID.
    pub group: String,
    /// Proves, when it comes back, that it still has the disk it joined with.
    pub incarnation: String,
    /// All members, itself included.
    pub members: Vec<AddressView>,
}

/// Body of `POST /v1/leader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferTo {
    /// Who is to lead; null for the best one.
    #[serde(default)]
    pub to: Option<u64>,
}

/// What one member holds, beside the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldView {
    /// Its id.
    pub id: u64,
    /// `same`, `differs` (it was told to stop), `undecided` (no majority says who is right), or `unknown`.
    pub result: String,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Answer of `POST /v1/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// The position in the log at which the members were compared.
    pub index: u64,
    /// Whether all members answered, and hold the same.
    pub same: bool,
    /// The digest that a majority of the voters has; empty if there is none.
    pub digest: String,
    /// In order of their ids.
    pub members: Vec<HeldView>,
}

impl From<CheckReport> for CheckView {
    fn from(report: CheckReport) -> Self {
        let member = |(id, held): &(u64, Held)| {
            let (result, reason) = match held {
                Held::Same => ("same", None),
                Held::Differs => ("differs", None),
                Held::Undecided => ("undecided", None),
                Held::Unknown(why) => ("unknown", Some(why.clone())),
            };
            HeldView { id: *id, result: result.to_owned(), reason }
        };
        let members = report.members.iter().map(member).collect();
        Self { index: report.index, same: report.all_same(), digest: report.digest, members }
    }
}

/// What can be asked of a member, by HTTP or by a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// About this member.
    Status,
    /// About all members.
    Members,
    /// Take one in.
    Add(AddMember),
    /// Give one a vote.
    Promote {
        /// Which.
        id: u64,
    },
    /// Take one out.
    Remove {
        /// Which.
        id: u64,
    },
    /// Hand leadership over.
    Transfer(TransferTo),
    /// Take a checkpoint on this member.
    Snapshot,
    /// Compare what all members hold.
    Check,
    /// Confirm with a majority that this member leads.
    Barrier,
}

impl Request {
    /// The leader has to answer it.
    pub fn needs_leader(&self) -> bool {
        !matches!(self, Self::Status | Self::Snapshot)
    }
}

#[cfg(test)]
mod tests {
    use quorate_storage::checkpoint::CheckpointError;

    use super::*;

    #[test]
    fn a_store_that_failed_says_what_to_do_about_it() {
        let told = |error: CheckpointError| ApiError::from(ChangeError::from(error));
        let failed = told(CheckpointError::Disk("Input/output error".to_owned()));
        assert_eq!((failed.status, failed.code.as_str()), (500, "store_failed"));
        assert!(failed.hint.contains("restart this member"), "{}", failed.hint);
        assert_eq!(told(CheckpointError::NoRoom(5)).code, "no_room");
        // These are tried again.
        assert_eq!(told(CheckpointError::Store("it is being opened again".to_owned())).code, "refused");
        assert_eq!(told(CheckpointError::Busy(1)).code, "refused");
    }
}
