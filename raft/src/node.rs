//! One process: its peer port, its log, its checkpoints, and the groups that it hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use openraft::{SnapshotPolicy, StepDownPolicy};
use parking_lot::Mutex;
use quorate_storage::checkpoint::{CheckpointError, CheckpointStore};
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};
use quorate_storage::wal::{SyncPolicy, Wal, WalError, WalStats};
use tokio::sync::Notify;

use crate::api::{Pieces, Service, StateMachine};
use crate::barrier::Barrier;
use crate::catch_up::CatchUp;
use crate::config::{NodeConfig, RaftTimings, Start};
use crate::counters::Counters;
use crate::error::{CallError, NodeError, plain};
use crate::group::{Group, Inner as GroupInner, Known, Marker, Port, RaftHandle};
use crate::inspect::{gap, lost, of_another_group};
use crate::keeper;
use crate::lease::{Heard, Lease};
use crate::log_store::{Durable, LogStore};
use crate::membership::{Desk, SERVICE};
use crate::network::{Network, Troubles};
use crate::proposer::Proposer;
use crate::runtime::{self, Instant};
use crate::state_machine::Machine;
use crate::transport::{Directory, Partials, Transport};
use crate::types::{GroupId, MemberId};

/// One process of the store; cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: NodeConfig,
    stores: Stores,
    transport: Transport,
    groups: Mutex<BTreeMap<GroupId, Group>>,
    opened_at: Instant,
    stopped: AtomicBool,
}

/// A node's log and checkpoints, opened.
#[derive(Clone)]
pub struct Stores {
    /// The log.
    pub wal: Wal,
    /// The checkpoints.
    pub checkpoints: CheckpointStore,
}

impl Inner {
    pub(crate) fn group(&self, id: GroupId) -> Option<Group> {
        self.groups.lock().get(&id).cloned()
    }
}

fn storage(error: impl std::fmt::Display) -> NodeError {
    NodeError::Storage(error.to_string())
}

fn log_error(error: WalError) -> NodeError {
    match error {
        WalError::Corrupt { .. } => NodeError::Damaged(error.to_string()),
        error => storage(error),
    }
}

fn checkpoint_error(path: &Path, error: &CheckpointError) -> NodeError {
    let words = format!("{}: {error}", path.display());
    if error.is_damage() { NodeError::Damaged(words) } else { NodeError::Storage(words) }
}

fn raft_config(timings: &RaftTimings, may_elect: bool) -> Result<openraft::Config, NodeError> {
    let ms = |d: Duration| d.as_millis() as u64;
    // The keyspace is in memory: a leader that restarts has to be elected again.
    let leader_restored = false;
    #[cfg(madsim)]
    let leader_restored = leader_restored || mutants::on(Mutant::LeaderRestored);
    openraft::Config {
        heartbeat_interval: ms(timings.heartbeat),
        election_timeout_min: ms(timings.election_min),
        election_timeout_max: ms(timings.election_max),
        // Checkpoints and cuts are asked for here, by bytes and not by entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(leader_restored),
        // openraft would hand over by itself, and lease reads must have stopped before that.
        removed_leader_step_down: StepDownPolicy::Never,
        enable_elect: may_elect,
        // What a member may forget is judged in `network`: openraft would end the leader.
        allow_log_reversion: Some(true),
        ..Default::default()
    }
    .validate()
    .map_err(|e| NodeError::Config(e.to_string()))
}

impl Node {
    /// Opens the log and the checkpoints and listens on the peer port.
    pub async fn open(config: NodeConfig) -> Result<Node, NodeError> {
        let (disk, dir, wal, checkpoint) =
            (config.disk.clone(), config.dir.clone(), config.wal.clone(), config.checkpoint.clone());
        let stores = runtime::blocking(move || {
            let (wal, recovered) = Wal::open(disk, &dir.join("wal"), wal).map_err(log_error)?;
            if let Some((file, offset)) = recovered.cut {
                tracing::warn!(%file, offset, "a torn tail of the log, never synced, was cut off");
            }
            let path = dir.join("checkpoint");
            let checkpoints =
                CheckpointStore::open(&path, checkpoint).map_err(|error| checkpoint_error(&path, &error))?;
            Ok::<_, NodeError>(Stores { wal, checkpoints })
        })
        .await
        .map_err(storage)??;
        Self::open_with(config, stores).await
    }

    /// Like [`Node::open`], over a log and checkpoints that the caller has opened.
    pub async fn open_with(config: NodeConfig, stores: Stores) -> Result<Node, NodeError> {
        let opened_at = Instant::now();
        if config.limits.unit_bytes + (1 << 20) > config.limits.frame_bytes {
            return Err(NodeError::Config("a unit at its limit must fit into a frame, with 1 MiB to spare".into()));
        }
        raft_config(&config.timings, true)?;
        let directory = Directory::new(config.identity);
        let transport = Transport::listen(directory, &config.listen, config.secret.clone(), config.limits.frame_bytes)
            .await
            .map_err(|source| NodeError::Listen { addr: config.listen.clone(), source })?;
        let inner = Arc::new(Inner {
            config,
            stores,
            transport,
            groups: Mutex::default(),
            opened_at,
            stopped: AtomicBool::new(false),
        });
        inner.transport.serve(SERVICE, Arc::new(Desk { node: Arc::downgrade(&inner) }));
        Ok(Node { inner })
    }

    /// Recovers a group from disk, or begins it, and takes part in it.
    pub async fn open_group(
        &self,
        id: GroupId,
        machine: Arc<dyn StateMachine>,
        start: Start,
    ) -> Result<Group, NodeError> {
        let node = &*self.inner;
        if node.groups.lock().contains_key(&id) {
            return Err(NodeError::Config(format!("group {id} is open already")));
        }
        let config = &node.config;
        let durable = Durable::default();
        let counters = Arc::new(Counters::default());
        let log = node.stores.wal.group(id);
        let adapter = {
            let (machine, store, durable, counters, progress) = (
                machine.clone(),
                node.stores.checkpoints.clone(),
                durable.clone(),
                counters.clone(),
                config.progress.clone(),
            );
            runtime::blocking(move || Machine::recover(id, machine, store, durable, counters, &progress))
                .await
                .and_then(|recovered| recovered)
                .map_err(|e| {
                    let path = config.dir.join("checkpoint");
                    let words = format!("{}: the checkpoint of group {id} can't be loaded: {e}", path.display());
                    if e.kind() == std::io::ErrorKind::InvalidData {
                        NodeError::Damaged(words)
                    } else {
                        NodeError::Storage(words)
                    }
                })?
        };
        let foreign = of_another_group(adapter.applied().system.cluster, config.identity.cluster);
        if let Some(words) = foreign.or_else(|| gap(log.purged().map(|(cut, _)| cut), durable.index())) {
            return Err(NodeError::Damaged(format!("{}: {words}", config.dir.display())));
        }
        let log_store = LogStore::new(log.clone(), durable);
        let fresh = log_store.is_empty() && adapter.applied_index().is_none();
        let marker = Marker::begun(config.disk.clone(), &config.dir, id);
        let damaged = Marker { disk: config.disk.clone(), path: config.dir.join(format!("group-{id}.damaged")) };
        if let Some(words) = damaged.words() {
            return Err(NodeError::Damaged(format!(
                "{words}. It must not go on with it: remove member {} from the group, empty {} and join again",
                config.identity.member,
                config.dir.display()
            )));
        }
        if let Some(words) = lost(log_store.is_empty(), marker.exists(), adapter.applied_index()) {
            return Err(NodeError::Damaged(format!(
                "{}: {words}. Member {1} has forgotten what it promised to the others and must not take part under this \
                 id any more; remove member {1} from the group, empty the directory and join again",
                config.dir.display(),
                config.identity.member
            )));
        }
        // What this member promised before it stopped may still bind it for one election timeout.
        let guard = if fresh { Duration::ZERO } else { config.timings.election_max };
        #[cfg(madsim)]
        let guard = if mutants::on(Mutant::NoRestartGuard) { Duration::ZERO } else { guard };
        let guard_until = node.opened_at + guard;
        let catch_up = Arc::new(CatchUp::new(Instant::now() + guard + config.timings.election_max * 2));
        let guarded = Instant::now() < guard_until;

        let (sending, heard) = (crate::network::Sending::default(), Heard::default());
        let matched = crate::network::Matched::default();
        let troubles = Troubles::new(matched.clone());
        let network = Network {
            group: id,
            transport: node.transport.clone(),
            counters: counters.clone(),
            sending: sending.clone(),
            matched,
            troubles: troubles.clone(),
            log: log.clone(),
            heard: heard.clone(),
            piece_bytes: config.limits.snapshot_frame_bytes,
            snapshot_rate: config.limits.snapshot_rate,
        };
        adapter.replays(log.bytes_after(adapter.applied_index()), config.progress.clone());
        let raft_config = Arc::new(raft_config(&config.timings, !guarded)?);
        let raft = RaftHandle::new(config.identity.member, raft_config, network, log_store, adapter.clone())
            .await
            .map_err(|e| NodeError::Storage(format!("group {id} can't be recovered: {}", plain(&e))))?;
        adapter.pace(config.limits.clone());
        adapter.go_live();
        if let Some(applied) = adapter.applied_index().filter(|index| Some(*index) > adapter.durable()) {
            tracing::info!(group = id, applied, "the log behind the checkpoint is replayed");
        }

        let own = match &start {
            Start::Bootstrap(member) | Start::Open(member) => member.clone(),
        };
        let patience = (config.timings.election_max * 4).max(Duration::from_secs(2));
        let inner = Arc::new(GroupInner {
            id,
            me: config.identity,
            timings: config.timings.clone(),
            limits: config.limits.clone(),
            proposer: Proposer::start(raft.clone(), machine.clone(), &config.limits, counters.clone()),
            barrier: Barrier::start(raft.clone(), config.identity.member, heard.clone(), patience),
            lease: Lease::default(),
            heard,
            catch_up: catch_up.clone(),
            machine: adapter,
            log: log.clone(),
            transport: node.transport.clone(),
            counters: counters.clone(),
            sending,
            troubles,
            marker,
            damaged,
            own,
            known: Mutex::new(Known::default()),
            leader_changed: Notify::new(),
            changing: tokio::sync::Mutex::new(()),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
            failure: Mutex::new(None),
            failed: Notify::new(),
            removed: AtomicBool::new(false),
            raft: raft.clone(),
        });
        // Known before anybody is let in: a stranger must not pass because nobody was known yet.
        let (effective, committed) = raft
            .with_raft_state(|state| {
                let members = &state.membership_state;
                (members.effective().membership().clone(), members.committed().membership().clone())
            })
            .await
            .map_err(|e| NodeError::Raft(e.to_string()))?;
        inner.publish_members(&effective, &committed);
        let group = Group { inner: inner.clone() };
        node.groups.lock().insert(id, group.clone());
        let hook = Arc::downgrade(&inner);
        node.transport.on_refused(Box::new(move |by, refusal, words| {
            if let Some(inner) = hook.upgrade() {
                inner.was_refused(by, refusal, words);
            }
        }));
        inner.machine.tell_damage(Arc::downgrade(&inner));
        tokio::spawn(keeper::keep(inner.clone()));
        tokio::spawn(crate::check::watch(Arc::downgrade(&inner), config.limits.check_interval));
        node.transport.add_group(
            id,
            Arc::new(Port {
                raft: raft.clone(),
                log,
                machine,
                store: node.stores.checkpoints.clone(),
                wanted_bytes: AtomicU64::new(0),
                guard_until,
                counters,
                partial: Partials::default(),
                catch_up,
            }),
        );
        if guarded {
            let inner = inner.clone();
            tokio::spawn(async move {
                runtime::sleep(guard_until - Instant::now()).await;
                if !inner.removed.load(SeqCst) {
                    inner.raft.runtime_config().elect(true);
                }
            });
        }
        if let Start::Bootstrap(member) = start {
            self.bootstrap(&raft, member).await?;
        }
        Ok(group)
    }

    async fn bootstrap(&self, raft: &RaftHandle, member: crate::Member) -> Result<(), NodeError> {
        let identity = self.inner.config.identity;
        let member = crate::Member { incarnation: identity.incarnation, wants_vote: true, ..member };
        if raft.is_initialized().await.map_err(|e| NodeError::Raft(e.to_string()))? {
            return Ok(());
        }
        raft.initialize(BTreeMap::from([(identity.member, member)]))
            .await
            .map_err(|e| NodeError::Raft(format!("the group can't be begun: {e}")))
    }

    /// A group that was opened.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.inner.group(id)
    }

    /// Where the peer port listens (for port 0 the one that was found).
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.transport.local_addr()
    }

    /// Counters of the log.
    pub fn wal_stats(&self) -> WalStats {
        self.inner.stores.wal.stats()
    }

    /// What all files of the log have in common, and none of another log.
    pub fn log_salt(&self) -> u64 {
        self.inner.stores.wal.salt()
    }

    /// Changes when the log is synced (`appendfsync`), from now on.
    pub fn set_sync_policy(&self, policy: SyncPolicy) {
        self.inner.stores.wal.set_sync_policy(policy);
    }

    /// Has the log synced up to here, whatever the policy.
    pub async fn sync_log(&self) -> std::io::Result<()> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        // Which group asks makes no difference: it is one log.
        self.inner.stores.wal.group(0).sync(Box::new(move |result| drop(tx.send(result))));
        rx.await.unwrap_or_else(|_| Err(std::io::Error::other("the log went away before it answered")))
    }

    /// False if the disk had no room for the next piece of the log: take no more writes then.
    pub fn has_room(&self) -> bool {
        self.inner.stores.wal.has_room()
    }

    /// Bytes that the checkpoints take on disk.
    pub fn checkpoint_disk_bytes(&self) -> u64 {
        self.inner.stores.checkpoints.disk_bytes()
    }

    /// Calls a service of another member. See [`CallError`] for what a failure means.
    pub async fn call(&self, to: MemberId, service: u8, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        self.inner.transport.call(to, service, body, timeout).await
    }

    /// Like [`Self::call`]; an answer that may be long comes as it was received. Until its first part is here, it is given
    /// up when `over` says why.
    pub async fn call_unless(
        &self,
        to: MemberId,
        service: u8,
        body: Bytes,
        timeout: Duration,
        over: impl Future<Output = String>,
    ) -> Result<Pieces, CallError> {
        self.inner.transport.call_unless(to, service, body, timeout, over).await
    }

    /// The most bytes that a call may have. An answer may have any number.
    pub fn largest_call(&self) -> usize {
        self.inner.transport.largest_call()
    }

    /// Answers the calls of one service (255 is taken), in the runtime of whoever calls this. A later one of the same
    /// number replaces it.
    pub fn serve(&self, service: u8, handler: Arc<dyn Service>) {
        if service != SERVICE {
            self.inner.transport.serve(service, handler);
        }
    }

    /// Stops in order: hands leadership over, takes checkpoints, stops Raft, closes the log.
    /// Returns at the latest after `patience`, or a little later.
    pub async fn shutdown(&self, patience: Duration) {
        if self.inner.stopped.swap(true, SeqCst) {
            return;
        }
        let deadline = Instant::now() + patience;
        let groups: Vec<Group> = self.inner.groups.lock().values().cloned().collect();
        for group in &groups {
            let left = (deadline - Instant::now()) / 3;
            if group.is_leader() && group.members().iter().filter(|(_, _, voter)| *voter).count() > 1 {
                match tokio::time::timeout(left, group.transfer(None)).await {
                    Ok(Ok(to)) => tracing::info!(to, "leadership was handed over before the stop"),
                    Ok(Err(error)) => tracing::warn!(%error, "leadership was not handed over before the stop"),
                    Err(_) => tracing::warn!("leadership was not handed over in time before the stop"),
                }
            }
            let left = (deadline - Instant::now()) / 2;
            if group.applied_index().is_some()
                && let Ok(Err(error)) = tokio::time::timeout(left, group.inner.checkpoint(left)).await
            {
                tracing::warn!(%error, "no checkpoint before the stop; the log has everything");
            }
        }
        self.stop_groups(&groups, deadline).await;
        let wal = self.inner.stores.wal.clone();
        if let Ok(Err(error)) = runtime::blocking(move || wal.close()).await {
            tracing::error!(%error, "the log could not be closed");
        }
    }

    async fn stop_groups(&self, groups: &[Group], deadline: Instant) {
        for group in groups {
            group.inner.stopping.store(true, SeqCst);
            group.inner.lease.end();
            group.inner.stop.notify_one();
        }
        for group in groups {
            let left = (deadline - Instant::now()).max(Duration::from_millis(100));
            let _ = tokio::time::timeout(left, group.inner.raft.shutdown()).await;
        }
        self.inner.transport.stop();
        self.inner.groups.lock().clear();
    }

    /// Stops at once, as a crash would: nothing is handed over or saved beyond what is on disk already.
    pub async fn kill(&self) {
        if self.inner.stopped.swap(true, SeqCst) {
            return;
        }
        self.inner.transport.stop();
        let groups: Vec<Group> = self.inner.groups.lock().values().cloned().collect();
        self.stop_groups(&groups, Instant::now()).await;
    }
}
