//! The handle on one Raft group, and what stands behind it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use quorate_storage::checkpoint::{CheckpointError, CheckpointStore};
use quorate_storage::disk::{Disk, read_file, write_file_atomically};
use quorate_storage::wal::GroupLog;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::api::{StateMachine, View};
use crate::barrier::Barrier;
use crate::catch_up::CatchUp;
use crate::config::{Identity, Limits, RaftTimings};
use crate::counters::Counters;
use crate::error::{ChangeError, ProposeError, ReadError};
use crate::events::{Event, Events};
use crate::lease::{Heard, Lease};
use crate::network::{Sending, Troubles};
use crate::proposer::Proposer;
use crate::runtime::Instant;
use crate::state_machine::Machine;
use crate::status::{GroupStatus, MemberStatus, Role, Trouble};
use crate::transport::{Partials, Transport};
use crate::types::{GroupId, LeaderId, Member, MemberId, Metrics, TypeConfig};

pub(crate) type RaftHandle = openraft::Raft<TypeConfig, Machine>;

/// How often a waiting caller looks again when there is nothing to wait on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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

/// A consistent state of a group on this member, and where in the log it was taken. Everything in it is committed.
pub struct Capture {
    /// The index of the last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Who led in that term.
    pub leader: MemberId,
    /// The state.
    pub view: Arc<dyn View>,
}

/// What the transport needs of a group.
pub(crate) struct Port {
    pub(crate) raft: RaftHandle,
    pub(crate) log: GroupLog,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) store: CheckpointStore,
    /// Bytes that are known of a snapshot for which there was no room.
    pub(crate) wanted_bytes: AtomicU64,
    pub(crate) guard_until: Instant,
    pub(crate) counters: Arc<Counters>,
    /// What came of a snapshot whose connection broke.
    pub(crate) partial: Partials,
    pub(crate) catch_up: Arc<CatchUp>,
}

impl Port {
    /// Not within one election timeout of a restart: a lease that this member granted before may still run.
    pub(crate) fn may_vote(&self) -> bool {
        Instant::now() >= self.guard_until
    }

    /// Whether the disk has room for the log, and for as much as a snapshot had that was refused for want of room.
    pub(crate) fn room_for_snapshot(&self) -> Result<(), CheckpointError> {
        self.store.check_room(self.wanted_bytes.load(Relaxed))?;
        if self.log.has_room() { Ok(()) } else { Err(CheckpointError::NoRoom(0)) }
    }

    /// False when the log is nearly at the end of what a full disk has left it: no entries then. Heartbeats and votes,
    /// which take next to nothing, go on.
    pub(crate) fn has_reserve(&self) -> bool {
        self.log.has_reserve()
    }

    pub(crate) fn snapshot_received(&self, bytes: u64) {
        self.counters.snapshot_bytes_received.fetch_add(bytes, Relaxed);
    }
}

/// A handle on one Raft group; cheap to clone.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) me: Identity,
    pub(crate) timings: RaftTimings,
    pub(crate) limits: Limits,
    pub(crate) raft: RaftHandle,
    pub(crate) machine: Machine,
    pub(crate) log: GroupLog,
    pub(crate) transport: Transport,
    pub(crate) proposer: Proposer,
    pub(crate) barrier: Barrier,
    pub(crate) lease: Lease,
    pub(crate) heard: Heard,
    pub(crate) catch_up: Arc<CatchUp>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sending: Sending,
    pub(crate) troubles: Troubles,
    pub(crate) marker: Marker,
    /// Written when what this member holds is not what the log says: it must not start again.
    pub(crate) damaged: Marker,
    /// What this member's own addresses are now.
    pub(crate) own: Member,
    pub(crate) known: Mutex<Known>,
    pub(crate) leader_changed: Notify,
    /// One change of the membership or the leadership at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) stopping: AtomicBool,
    pub(crate) stop: Notify,
    pub(crate) failure: Mutex<Option<String>>,
    pub(crate) failed: Notify,
    pub(crate) removed: AtomicBool,
}

/// A file which says that this directory has held a log of the group.
///
/// A member whose log and checkpoint are gone has forgotten what it promised. Without the file it would look like
/// one that has just joined.
#[derive(Clone)]
pub(crate) struct Marker {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
}

impl Marker {
    /// The one that says that a group has begun here.
    pub(crate) fn begun(disk: Arc<dyn Disk>, dir: &Path, group: GroupId) -> Self {
        Self { disk, path: dir.join(format!("group-{group}.begun")) }
    }

    pub(crate) fn exists(&self) -> bool {
        self.disk.open(&self.path).is_ok()
    }

    /// Blocks.
    pub(crate) fn write(&self) -> io::Result<()> {
        if self.exists() {
            return Ok(());
        }
        self.write_words("this directory holds the log of a group")
    }

    /// What was written into it.
    pub(crate) fn words(&self) -> Option<String> {
        let bytes = read_file(&*self.disk, &self.path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Blocks.
    pub(crate) fn write_words(&self, words: &str) -> io::Result<()> {
        write_file_atomically(&*self.disk, &self.path, format!("{words}\n").as_bytes())
    }
}

/// What the keeper has told last.
#[derive(Clone, Default)]
pub(crate) struct Known {
    pub(crate) leader: Option<(MemberId, Member)>,
    pub(crate) leads: bool,
    pub(crate) term: u64,
}

impl Inner {
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn known_leader(&self) -> Option<(MemberId, Member)> {
        self.known.lock().leader.clone()
    }

    /// The group can't go on here.
    pub(crate) fn fail(&self, why: String) {
        self.lease.end();
        {
            let mut failure = self.failure.lock();
            if failure.is_some() || self.stopping.load(SeqCst) {
                return;
            }
            *failure = Some(why.clone());
        }
        tracing::error!(group = self.id, reason = %why, "the group has failed on this member and is stopped");
        self.counters.emit(Event::Failed(why));
        self.failed.notify_waiters();
    }
}

impl Group {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// This member's id.
    pub fn member_id(&self) -> MemberId {
        self.inner.me.member
    }

    /// The UUID of the group.
    pub fn cluster(&self) -> Uuid {
        self.inner.me.cluster
    }

    /// Proposes one unit and waits for its reply. One attempt: whoever wants to try again after
    /// `NotLeader` may, since nothing was appended then.
    pub async fn propose(&self, unit: Bytes) -> Result<Bytes, ProposeError> {
        if !self.inner.log.has_room() && self.is_leader() {
            return Err(ProposeError::NoRoom);
        }
        self.hand_in(unit).await
    }

    /// Like [`Group::propose`], for small units without which even reads can't go on: taken on a full disk as well, as
    /// long as the log has a little left.
    pub async fn propose_upkeep(&self, unit: Bytes) -> Result<Bytes, ProposeError> {
        if !self.inner.log.has_reserve() && self.is_leader() {
            return Err(ProposeError::NoRoom);
        }
        self.hand_in(unit).await
    }

    async fn hand_in(&self, unit: Bytes) -> Result<Bytes, ProposeError> {
        match self.inner.proposer.propose(unit).await {
            Err(ProposeError::NotLeader { leader: None }) => {
                let leader = self.leader().filter(|(id, _)| *id != self.member_id());
                Err(ProposeError::NotLeader { leader })
            }
            outcome => outcome,
        }
    }

    /// Like [`Group::propose`], and tries again as long as nothing was appended and no other member
    /// is known to lead, until `patience` has passed. `NotLeader { leader: Some(..) }` comes back at
    /// once: the caller decides whether to go there.
    pub async fn propose_patiently(&self, unit: Bytes, patience: Duration) -> Result<Bytes, ProposeError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.propose(unit.clone()).await {
                Err(ProposeError::NotLeader { leader: None }) if Instant::now() < deadline => {
                    let left = deadline - Instant::now();
                    let _ = tokio::time::timeout(left.min(LOOK_AGAIN), self.inner.leader_changed.notified()).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Whether a read that has just run here was not stale. Call it AFTER the reads and before their
    /// replies leave. A few atomic loads. `false` on any doubt: use [`Group::read_index`] then.
    pub fn lease_ready(&self) -> bool {
        self.inner.lease.holds()
    }

    /// Waits until this member has confirmed with a majority that it leads, and has applied all that
    /// was committed before the call. Reads that run afterwards are linearizable.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        self.inner.barrier.wait().await.map_err(|error| match error {
            ReadError::NotLeader { leader: None } => {
                ReadError::NotLeader { leader: self.leader().filter(|(id, _)| *id != self.member_id()) }
            }
            error => error,
        })
    }

    /// Whether this member has heard that it was removed from the group. It stays so: ids are never used again.
    pub fn is_removed(&self) -> bool {
        self.inner.removed.load(SeqCst)
    }

    /// Whether this member believes that it leads. A hint.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.is_leader()
    }

    /// The simulator has this member ask for votes now, as if its waiting time were over: whoever has promised not to
    /// vote must refuse, whenever it is asked.
    #[cfg(madsim)]
    pub async fn ask_for_votes(&self) {
        let _ = self.inner.raft.trigger().elect(true).await;
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<(MemberId, Member)> {
        self.inner.known_leader()
    }

    /// Waits until somebody is known to lead, at most for `patience`.
    pub async fn wait_leader(&self, patience: Duration) -> Option<(MemberId, Member)> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.inner.leader_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(leader) = self.leader() {
                return Some(leader);
            }
            let left = deadline - Instant::now();
            if left.is_zero() || tokio::time::timeout(left, changed).await.is_err() {
                return self.leader();
            }
        }
    }

    /// Waits until another than that member is known to lead: this one, perhaps.
    pub async fn led_by_another(&self, than: MemberId) {
        loop {
            let changed = self.inner.leader_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.leader().is_some_and(|(id, _)| id != than) {
                return;
            }
            changed.await;
        }
    }

    /// Members, in order of their ids; voters are marked.
    pub fn members(&self) -> Vec<(MemberId, Member, bool)> {
        let metrics = self.inner.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let voters: Vec<_> = membership.voter_ids().collect();
        let mut members: Vec<_> =
            membership.nodes().map(|(id, member)| (*id, member.clone(), voters.contains(id))).collect();
        members.sort_by_key(|(id, ..)| *id);
        members
    }

    /// The last entry applied here.
    pub fn applied_index(&self) -> Option<u64> {
        self.inner.machine.applied_index()
    }

    /// Waits until `wanted` other voters hold on their disks everything that was applied here when
    /// it was called, at most for `patience` (`None`: for ever). Returns how many do. What WAIT answers.
    pub async fn wait_synced(&self, wanted: usize, patience: Option<Duration>) -> usize {
        let target = self.applied_index();
        let me = self.member_id();
        let deadline = patience.map(|p| Instant::now() + p);
        let mut metrics = self.inner.raft.metrics();
        loop {
            let (synced, leads) = {
                let now = metrics.borrow_watched();
                let matched = now.replication.as_ref();
                let holds = |id: &MemberId| {
                    matched.and_then(|m| m.get(id).cloned().flatten()).map(|log_id| log_id.index()) >= target
                };
                (now.membership_config.voter_ids().filter(|id| *id != me && holds(id)).count(), matched.is_some())
            };
            let late = deadline.is_some_and(|at| Instant::now() >= at);
            if synced >= wanted || late || !leads {
                return if leads { synced } else { 0 };
            }
            let left = deadline.map_or(LOOK_AGAIN * 10, |at| (at - Instant::now()).min(LOOK_AGAIN * 10));
            let _ = tokio::time::timeout(left, metrics.changed()).await;
        }
    }

    /// Takes a checkpoint now and waits until it is durable. Returns the index it holds.
    pub async fn checkpoint(&self) -> Result<u64, ChangeError> {
        self.inner.checkpoint(Duration::from_secs(15 * 60)).await
    }

    /// Has a checkpoint taken, at its own pace. Nobody waits for it.
    pub async fn checkpoint_soon(&self) {
        // It only fails where the group has stopped.
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// The state as it is here once `after` is applied, or at once without. Waits at most for `patience`. It is a view
    /// that entries applied later don't change: give it back soon, for what it shares with the present costs memory.
    pub async fn capture(&self, after: Option<u64>, patience: Duration) -> Result<Capture, ChangeError> {
        let deadline = Instant::now() + patience;
        while self.applied_index() < after {
            if Instant::now() >= deadline {
                return Err(ChangeError::Refused(format!(
                    "this member has applied {} of {} entries and did not get further in time",
                    self.applied_index().unwrap_or(0),
                    after.unwrap_or(0)
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // It comes out of the same queue as the entries, so that view and position belong together.
        let snapshot = self.inner.raft.get_snapshot().await.map_err(|_| ChangeError::Stopped)?;
        let found = snapshot.and_then(|s| Some((s.meta.last_log_id?, s.snapshot.view?)));
        let (at, view) = found.ok_or_else(|| ChangeError::Refused("there is no state here yet".into()))?;
        let LeaderId { term, node_id: leader } = *at.committed_leader_id();
        Ok(Capture { index: at.index(), term, leader, view })
    }

    /// What happens from now on. A member that was removed is told so again: it may have heard of it while it started.
    pub fn events(&self) -> Events {
        let events = self.inner.counters.events.subscribe();
        Events { events, first: self.inner.removed.load(SeqCst).then_some(Event::Removed) }
    }

    /// Ends when the group has failed on this member, with the reason. The process should stop then.
    pub async fn failed(&self) -> String {
        loop {
            let failed = self.inner.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(why) = self.inner.failure.lock().clone() {
                return why;
            }
            failed.await;
        }
    }

    /// Everything that a person or a monitor may want to know.
    pub async fn status(&self) -> GroupStatus {
        self.inner.status()
    }
}

impl Inner {
    pub(crate) async fn checkpoint(&self, patience: Duration) -> Result<u64, ChangeError> {
        let Some(target) = self.machine.applied_index() else {
            return Err(ChangeError::Refused("there is nothing to save yet".into()));
        };
        let deadline = Instant::now() + patience;
        let failures = || self.counters.checkpoint_failures.load(SeqCst);
        let failed_before = failures();
        while self.machine.durable() < Some(target) {
            // Dropped by openraft while another one is being written; so ask again after a while.
            self.machine.hurry();
            self.raft.trigger().snapshot().await.map_err(|_| ChangeError::Stopped)?;
            if self.machine.wait_durable(target, Duration::from_millis(200)).await {
                break;
            }
            if failures() > failed_before
                && let Some(error) = self.counters.checkpoint_error.lock().clone()
            {
                return Err(error.into());
            }
            if self.failure.lock().is_some() || self.stopping.load(SeqCst) && Instant::now() >= deadline {
                return Err(ChangeError::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(ChangeError::Unknown("the checkpoint is not durable yet".into()));
            }
        }
        self.machine.durable().ok_or(ChangeError::Stopped)
    }

    fn role(&self, metrics: &Metrics) -> Role {
        if self.failure.lock().is_some() {
            return Role::Stopped;
        }
        match metrics.state {
            openraft::ServerState::Leader => Role::Leader,
            openraft::ServerState::Candidate => Role::Candidate,
            openraft::ServerState::Follower => Role::Follower,
            openraft::ServerState::Learner => Role::Learner,
            openraft::ServerState::Shutdown => Role::Stopped,
        }
    }

    /// After this silence a member counts as not healthy.
    pub(crate) fn silence(&self) -> Duration {
        (self.timings.election_max * 2).max(Duration::from_secs(1))
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.metrics();
        let role = self.role(&metrics);
        let membership = metrics.membership_config.membership();
        let voters: Vec<MemberId> = membership.voter_ids().collect();
        let last = metrics.last_log_index;
        let sending = self.sending.lock().clone();
        let no_room = !self.log.has_room() || self.counters.is_short_of_room();
        let members: BTreeMap<MemberId, Member> = membership.nodes().map(|(id, m)| (*id, m.clone())).collect();
        let members = members
            .into_iter()
            .map(|(id, member)| {
                let voter = voters.contains(&id);
                let mine = id == self.me.member;
                let matched = if mine {
                    last
                } else {
                    metrics.replication.as_ref().and_then(|r| r.get(&id).cloned().flatten()).map(|l| l.index())
                };
                let leads = metrics.replication.is_some();
                let last_ack_age = metrics
                    .heartbeat
                    .as_ref()
                    .filter(|_| !mine)
                    .and_then(|h| h.get(&id).cloned().flatten().map(|at| at.elapsed()));
                let healthy = if mine {
                    Some(role != Role::Stopped)
                } else if leads {
                    Some(last_ack_age.is_some_and(|age| age < self.silence()))
                } else {
                    Some(self.transport.is_connected(id))
                };
                let role = match () {
                    () if mine => role,
                    () if metrics.current_leader == Some(id) => Role::Leader,
                    () if voter => Role::Follower,
                    () => Role::Learner,
                };
                let trouble = match () {
                    () if mine => no_room.then_some(Trouble::NoRoom),
                    () if leads => self.troubles.of(id, &metrics.vote),
                    () => None,
                };
                MemberStatus {
                    id,
                    member,
                    voter,
                    role,
                    matched,
                    // Who never answered this leader may lack all or nothing.
                    lag: matched.filter(|_| leads).map(|matched| last.map_or(0, |last| last.saturating_sub(matched))),
                    last_ack_age,
                    healthy,
                    snapshot: sending.get(&id).copied(),
                    trouble,
                }
            })
            .collect();
        let counters = &self.counters;
        GroupStatus {
            id: self.me.member,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: last,
            committed: metrics.local_committed.as_ref().map(|l| l.index()),
            applied: self.machine.applied_index(),
            checkpoint: self.machine.durable(),
            purged: metrics.purged.as_ref().map(|l| l.index()),
            log_bytes: self.log.bytes(),
            quorum_ack_age: metrics.last_quorum_acked.map(|at| at.elapsed()),
            lease: self.lease.holds(),
            membership_changing: membership.get_joint_config().len() > 1
                || metrics.membership_config.log_id() != metrics.committed_membership_config.log_id(),
            members,
            no_room,
            proposals: counters.proposals.load(Relaxed),
            proposals_unknown: counters.proposals_unknown.load(Relaxed),
            proposals_waiting: self.proposer.waiting(),
            entries_in_flight: counters.in_flight.load(Relaxed),
            elections: counters.elections.load(Relaxed),
            leader_changes: counters.leader_changes.load(Relaxed),
            batch_units: counters.batch_units.snapshot(),
            batch_bytes: counters.batch_bytes.snapshot(),
            commit_us: counters.commit_us.snapshot(),
            apply_us: counters.apply_us.snapshot(),
            checkpoints: counters.checkpoints.load(Relaxed),
            checkpoint_failures: counters.checkpoint_failures.load(Relaxed),
            checkpoint_took: match counters.checkpoint_us.load(Relaxed) {
                0 => None,
                us => Some(Duration::from_micros(us)),
            },
            checkpoint_failed: counters.checkpoint_failed.load(Relaxed),
            checkpoint_running: match counters.checkpoint_since.load(Relaxed) {
                0 => None,
                since => Some(Duration::from_nanos(Instant::now().as_nanos().saturating_sub(since))),
            },
            snapshots_sent: counters.snapshots_sent.load(Relaxed),
            snapshot_bytes_sent: counters.snapshot_bytes_sent.load(Relaxed),
            snapshots_received: counters.snapshots_received.load(Relaxed),
            snapshot_bytes_received: counters.snapshot_bytes_received.load(Relaxed),
            check: self.check_status(),
            damaged: counters.damaged.load(Relaxed),
            removed: self.removed.load(SeqCst),
            failed: self.failure.lock().clone(),
        }
    }
}
