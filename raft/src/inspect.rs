//! What this room has on disk, opened for people: `quorate log dump` and `quorate log verify` are made of it.
//!
//! It only reads bytes that it is given. Errors are texts: all that anybody can do with one is to show it. What must hold
//! between the parts of a directory is said here too, for all who open one.

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::vote::RaftVote;
use uuid::Uuid;

use crate::entry::decode_entry;
use crate::state_machine::read_manifest;
use crate::system::SystemCommand;
use crate::types::{Data, LogId, Membership, Payload};
use crate::wire::{Malformed, Reader};

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The term in which it was written.
    pub term: u64,
    /// The member that led then.
    pub leader: u64,
    /// Its index.
    pub index: u64,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank,
    /// An entry of the upper layer.
    App(Bytes),
    /// A command of this room, in words.
    System(String),
    /// A membership, in words.
    Membership(String),
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteFacts {
    /// In which term.
    pub term: u64,
    /// For whom.
    pub member: u64,
    /// A majority granted it: that member leads, or led.
    pub granted: bool,
}

/// What the manifest of a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    /// Everything up to here is in it.
    pub last: Option<LogPlace>,
    /// The membership in force there, in words.
    pub members: String,
    /// The group's UUID.
    pub cluster: Uuid,
}

fn place(id: &LogId) -> LogPlace {
    let leader = id.committed_leader_id();
    LogPlace { term: leader.term, leader: leader.node_id, index: id.index() }
}

fn text(error: Malformed) -> String {
    error.to_string()
}

fn whole<T>(bytes: Bytes, read: impl FnOnce(&mut Reader) -> Result<T, Malformed>) -> Result<T, String> {
    let mut reader = Reader(bytes);
    let value = read(&mut reader).map_err(text)?;
    reader.end().map_err(text)?;
    Ok(value)
}

fn membership_words(membership: &Membership) -> String {
    let voters: Vec<String> = membership
        .get_joint_config()
        .iter()
        .map(|config| config.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
        .collect();
    let members: Vec<String> = membership.nodes().map(|(id, member)| format!("{id} at {}", member.peer)).collect();
    format!("voters {}; members {}", voters.join(" and "), members.join(", "))
}

/// Opens an entry of the log.
pub fn entry(bytes: Bytes) -> Result<(LogPlace, EntryKind), String> {
    let entry = decode_entry(bytes).map_err(text)?;
    let at = place(&entry.log_id());
    let kind = match entry.payload {
        Payload::Blank => EntryKind::Blank,
        Payload::Normal(Data::App(bytes)) => EntryKind::App(bytes),
        Payload::Normal(Data::System(bytes)) => {
            EntryKind::System(match SystemCommand::decode(bytes).map_err(text)? {
                SystemCommand::Found { cluster, first } => format!("group {cluster} begins with member {first}"),
                SystemCommand::AllocateMember => "an id is given to a new member".to_owned(),
                SystemCommand::Removed(id) => format!("member {id} was removed"),
                SystemCommand::Check { .. } => "the members compare what they hold here".to_owned(),
            })
        }
        Payload::Membership(membership) => EntryKind::Membership(membership_words(&membership)),
    };
    Ok((at, kind))
}

/// Opens a saved vote.
pub fn vote(bytes: Bytes) -> Result<VoteFacts, String> {
    let vote = whole(bytes, Reader::vote)?;
    let leader = vote.leader_id();
    Ok(VoteFacts { term: leader.term, member: leader.node_id, granted: RaftVote::is_committed(&vote) })
}

/// Opens a committed mark.
pub fn committed(bytes: Bytes) -> Result<Option<LogPlace>, String> {
    Ok(whole(bytes, Reader::maybe_log_id)?.as_ref().map(place))
}

/// Opens the caller's bytes of a checkpoint's manifest.
pub fn checkpoint(bytes: Bytes) -> Result<CheckpointFacts, String> {
    let (meta, system, _) = read_manifest(bytes).map_err(text)?;
    Ok(CheckpointFacts {
        last: meta.last_log_id.as_ref().map(place),
        members: membership_words(meta.last_membership.membership()),
        cluster: system.cluster,
    })
}

/// Why a checkpoint is none of this directory's; one from before its group was founded says nothing of that.
#[must_use]
pub fn of_another_group(of: Uuid, mine: Uuid) -> Option<String> {
    let foreign = !of.is_nil() && of != mine;
    foreign.then(|| {
        format!("the checkpoint is one of group {of}, and this member belongs to group {mine}: put back what belongs together")
    })
}

/// Why the log does not go on where the checkpoint ends, or before: it is `purged` up to an entry, and the checkpoint
/// holds everything up to one.
#[must_use]
pub fn gap(purged: Option<u64>, held: Option<u64>) -> Option<String> {
    let cut = purged.filter(|cut| held < Some(*cut))?;
    let held = held.map_or("no whole checkpoint is there".to_owned(), |held| format!("the checkpoint ends at {held}"));
    Some(format!("the log begins after entry {cut} and {held}: what lies between is lost"))
}

/// Why a member must not go on with a log that is `empty`: it had `begun`, or its checkpoint holds everything up to an
/// entry. What it voted, and what it acknowledged, is forgotten.
#[must_use]
pub fn lost(empty: bool, begun: bool, held: Option<u64>) -> Option<String> {
    let why = match held {
        Some(held) => format!("and the checkpoint ends at {held}"),
        None => "and this member had taken part in its group".to_owned(),
    };
    (empty && (begun || held.is_some())).then(|| format!("the log is gone: nothing is in it, {why}"))
}
