//! Work on the directory of a node that doesn't run: seeing what it holds, and making a new group of one.
//!
//! A new group begins with a state at one position, as if everything before had been cut off its log: a checkpoint, and a
//! log without entries that goes on behind it. It has a UUID of its own, so members of the old one are strangers to it.
//! Nothing here changes a directory that a member was in: the new group is made beside it, and moved by the caller.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::SnapshotMeta;
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointStore};
use quorate_storage::disk::Disk;
use quorate_storage::wal::{Inspection, RecoveredGroup, Wal, WalConfig};
use uuid::Uuid;

use crate::api::{StateMachine, View};
use crate::config::{Identity, LoadProgress};
use crate::counters::Counters;
use crate::error::NodeError;
use crate::group::Marker;
use crate::inspect::{self, gap, lost, of_another_group};
use crate::log_store::{Durable, LogStore, read_entry};
use crate::state_machine::{Machine, manifest};
use crate::system::SystemState;
use crate::types::{Entry, GroupId, LeaderId, LogId, Member, MemberId, Membership, StoredMembership, Vote};

/// Where a node keeps its things, and how.
#[derive(Clone)]
pub struct Place {
    /// The data directory.
    pub dir: PathBuf,
    /// The disk that it is on.
    pub disk: Arc<dyn Disk>,
    /// How the log is laid out.
    pub wal: WalConfig,
    /// How checkpoints are kept.
    pub checkpoint: CheckpointConfig,
}

/// What a directory holds of a group.
pub struct Survey {
    /// Term, leader and index of the last entry in the log.
    pub last: (u64, MemberId, u64),
    /// The last entry that is known here to be committed; the group may have committed more.
    pub committed: Option<u64>,
    /// What the checkpoint on disk holds.
    pub checkpoint: Option<u64>,
    /// Why the log is not used, if it is damaged or gone: all that is told here is what the checkpoint holds then.
    pub lost_log: Option<String>,
    /// All members it knows of; voters are marked.
    pub members: Vec<(MemberId, Member, bool)>,
    /// The state behind the last entry.
    pub view: Arc<dyn View>,
    system: SystemState,
}

/// A group of one that is to be made.
pub struct NewGroup {
    /// Its UUID, and its only member.
    pub identity: Identity,
    /// What the member says of itself.
    pub member: Member,
    /// Term, leader and index of the entry behind which the state was taken.
    pub at: (u64, MemberId, u64),
    /// Members that there were before and are no more.
    pub gone: BTreeSet<MemberId>,
    /// The first id that may be given to a new member.
    pub next_member: MemberId,
}

impl Survey {
    /// The first id that no member of this group ever had.
    pub fn next_member(&self) -> MemberId {
        self.system.next_member
    }

    /// Members that were removed from it.
    pub fn removed(&self) -> &BTreeSet<MemberId> {
        &self.system.removed
    }
}

fn storage(error: impl std::fmt::Display) -> NodeError {
    NodeError::Storage(error.to_string())
}

fn log_id((term, node_id, index): (u64, MemberId, u64)) -> LogId {
    LogId::new(LeaderId { term, node_id }, index)
}

/// Whether a member has taken part in this group out of this directory.
pub fn has_begun(disk: &Arc<dyn Disk>, dir: &Path, group: GroupId) -> bool {
    Marker::begun(disk.clone(), dir, group).exists()
}

/// Loads the checkpoint and applies every entry of the log behind it, whether it is known to be committed or not. The log is
/// only read. One that is damaged or gone, or of which `wrong` says why it can't be this directory's, is not used, and
/// what the checkpoint holds is told. The checkpoint is read in `copy`, which is changed: opening a store writes to it.
/// `None`: there is no entry of this group. Blocks.
///
/// # Errors
/// If the checkpoint is damaged, or log and checkpoint do not fit each other.
pub fn survey(
    place: &Place,
    copy: &Path,
    wrong: Option<String>,
    cluster: Uuid,
    group: GroupId,
    machine: Arc<dyn StateMachine>,
) -> Result<Option<Survey>, NodeError> {
    let log = Inspection::read(place.disk.clone(), &place.dir.join("wal")).map_err(storage)?;
    let damage = log.damage.first().map(|damage| format!("the log is corrupt: {damage}"));
    let mut lost_log = wrong.or(damage);
    let store = CheckpointStore::open(copy, place.checkpoint.clone()).map_err(storage)?;
    let durable = Durable::default();
    let (counters, progress) = (Arc::new(Counters::default()), LoadProgress::default());
    let adapter =
        Machine::recover(group, machine.clone(), store, durable.clone(), counters, &progress).map_err(storage)?;
    if let Some(words) = of_another_group(adapter.applied().system.cluster, cluster) {
        return Err(NodeError::Damaged(words));
    }
    let held = log.groups.get(&group);
    let begun = has_begun(&place.disk, &place.dir, group);
    lost_log = lost_log.or_else(|| lost(held.is_none_or(RecoveredGroup::is_empty), begun, durable.index()));
    let mut committed = None;
    if let Some(held) = held.filter(|_| lost_log.is_none()) {
        if let Some(words) = gap(held.purged.as_ref().map(|(cut, _)| *cut), durable.index()) {
            return Err(NodeError::Damaged(words));
        }
        adapter.replay(entries_behind(&log, group, durable.index())).map_err(storage)?;
        committed = held.committed.clone().map(inspect::committed).transpose().map_err(storage)?.flatten();
    }
    let applied = adapter.applied();
    let Some(last) = applied.last else {
        let without = |words| storage(format!("{words}; and there is no checkpoint"));
        return lost_log.map_or(Ok(None), |words| Err(without(words)));
    };
    let LeaderId { term, node_id } = *last.committed_leader_id();
    let membership = applied.membership.membership();
    let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
    let members = membership.nodes().map(|(id, member)| (*id, member.clone(), voters.contains(id))).collect();
    Ok(Some(Survey {
        last: (term, node_id, last.index()),
        committed: committed.map(|place| place.index).max(durable.index()),
        checkpoint: durable.index(),
        lost_log,
        members,
        view: machine.view(),
        system: applied.system,
    }))
}

/// The entries of a group behind an index, in order.
fn entries_behind(log: &Inspection, group: GroupId, held: Option<u64>) -> impl Iterator<Item = io::Result<Entry>> {
    let behind = log.entries(group).filter(move |index| Some(*index) > held);
    behind.filter_map(move |index| match log.entry(group, index) {
        Ok(bytes) => Some(read_entry(index, bytes?)),
        Err(error) => Some(Err(error.into())),
    })
}

/// Makes log and checkpoint of a new group of one in an empty directory. The directory is durable when it returns. Blocks.
///
/// # Errors
/// If a chunk does not come, or the disk says no. What was written until then is of no use.
pub fn begin_group(
    place: &Place,
    group: GroupId,
    new: &NewGroup,
    header: &[u8],
    chunks: impl Iterator<Item = io::Result<(u128, Vec<u8>)>>,
) -> Result<(), NodeError> {
    let (me, last) = (new.identity.member, log_id(new.at));
    let member = Member { incarnation: new.identity.incarnation, wants_vote: true, ..new.member.clone() };
    let membership = Membership::new(vec![BTreeSet::from([me])], std::collections::BTreeMap::from([(me, member)]))
        .map_err(storage)?;
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) };
    let system = SystemState {
        cluster: new.identity.cluster,
        next_member: new.next_member.max(me + 1),
        removed: new.gone.clone(),
    };

    let store = CheckpointStore::open(&place.dir.join("checkpoint"), place.checkpoint.clone()).map_err(storage)?;
    let mut writer = store.begin(group).map_err(storage)?;
    for chunk in chunks {
        let (id, bytes) = chunk.map_err(storage)?;
        writer.put(id, &bytes).map_err(storage)?;
    }
    writer.commit(&manifest(&meta, &system, header)).map_err(storage)?;

    let (wal, _) = Wal::open(place.disk.clone(), &place.dir.join("wal"), place.wal.clone()).map_err(storage)?;
    let log = LogStore::new(wal.group(group), Durable::default());
    // A term of its own: no entry of the new group may look older than the one it begins behind.
    log.begin_behind(last, Vote::new(new.at.0 + 1, me)).map_err(storage)?;
    wal.close().map_err(storage)?;
    sync(&*place.disk, &place.dir)
}

fn sync(disk: &dyn Disk, dir: &Path) -> Result<(), NodeError> {
    disk.sync_dir(dir).map_err(storage)
}
