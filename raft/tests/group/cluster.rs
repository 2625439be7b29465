//! Several nodes in one process: real TCP on loopback, real disks, a runtime for each, so that one
//! can be torn down without a word.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_raft::{
    ChangeError, Group, Identity, Limits, LoadProgress, Member, MemberId, Node, NodeConfig, ProposeError, RaftTimings,
    Start,
};
use quorate_testkit::ports::{PORTS_PER_BLOCK, PortBlock};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::toy::Toy;

pub const GROUP: u64 = 0;
/// Longer than anything that goes well takes, on a slow machine.
pub const LONG: Duration = Duration::from_secs(30);

/// One running member.
pub struct Running {
    runtime: Option<Runtime>,
    pub node: Node,
    pub group: Group,
    pub toy: Arc<Toy>,
    progress: Arc<LoadProgress>,
}

impl Running {
    /// Bytes that there were to load when it started, and those that were loaded.
    pub fn loaded(&self) -> (u64, u64) {
        (self.progress.total.load(Relaxed), self.progress.loaded.load(Relaxed))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a member keeps while it is down.
#[derive(Clone)]
pub struct Home {
    pub identity: Identity,
    pub member: Member,
    pub dir: PathBuf,
    pub secret: String,
}

pub struct Cluster {
    _temp: TempDir,
    pub homes: BTreeMap<MemberId, Home>,
    pub running: BTreeMap<MemberId, Running>,
    pub limits: Limits,
    pub timings: RaftTimings,
    next_dir: Mutex<u32>,
}

/// A port that nobody else uses, here or in another test's process, and that none was ever given before.
fn fresh_port() -> u16 {
    static BLOCKS: Mutex<Vec<(PortBlock, u16)>> = Mutex::new(Vec::new());
    let mut blocks = BLOCKS.lock();
    if blocks.last().is_none_or(|(_, used)| *used == PORTS_PER_BLOCK) {
        blocks.push((PortBlock::take(), 0));
    }
    let (block, used) = blocks.last_mut().unwrap();
    *used += 1;
    block.next_port()
}

pub fn addresses() -> Member {
    let address = || format!("127.0.0.1:{}", fresh_port());
    Member { peer: address(), client: address(), admin: address(), ..Member::default() }
}

/// Looks again and again until it is so.
pub async fn eventually<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = is() {
            return value;
        }
        assert!(start.elapsed() < LONG, "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What `status` says; it never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("status waited"),
    }
}

impl Cluster {
    pub async fn new(size: u64) -> Self {
        Self::with_limits(size, Limits::default()).await
    }

    pub async fn with_limits(size: u64, limits: Limits) -> Self {
        Self::with(size, limits, RaftTimings::default()).await
    }

    pub async fn with(size: u64, limits: Limits, timings: RaftTimings) -> Self {
        init_log();
        let mut cluster = Self {
            _temp: tempfile::tempdir().unwrap(),
            homes: BTreeMap::new(),
            running: BTreeMap::new(),
            limits,
            timings,
            next_dir: Mutex::new(0),
        };
        let member = addresses();
        let identity = Identity { cluster: Uuid::from_u128(0xC1), member: 1, incarnation: Uuid::from_u128(0xA1) };
        let dir = cluster.fresh_dir();
        cluster.homes.insert(1, Home { identity, member, dir, secret: "s3cret".into() });
        cluster.start_with(1, true).await;
        cluster.leader().await;
        for _ in 1..size {
            let id = cluster.join(true).await;
            cluster.wait_voter(id).await;
        }
        cluster
    }

    pub fn fresh_dir(&self) -> PathBuf {
        let mut next = self.next_dir.lock();
        *next += 1;
        self._temp.path().join(format!("member-{next}"))
    }

    pub fn config(&self, home: &Home) -> NodeConfig {
        let mut config = NodeConfig::new(home.identity, home.dir.clone(), home.member.peer.clone());
        config.secret = home.secret.clone();
        config.limits = self.limits.clone();
        config.timings = self.timings.clone();
        config.wal.segment_bytes = 4 << 20;
        config.checkpoint.cache_bytes = 8 << 20;
        config
    }

    pub async fn try_start(&self, home: &Home, bootstrap: bool) -> Result<Running, quorate_raft::NodeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = self.config(home);
        let progress = config.progress.clone();
        let member = home.member.clone();
        let toy = Arc::new(Toy::default());
        let machine = toy.clone();
        let opened = runtime
            .spawn(async move {
                std::fs::create_dir_all(&config.dir).unwrap();
                let node = Node::open(config).await?;
                let start = if bootstrap { Start::Bootstrap(member) } else { Start::Open(member) };
                let group = node.open_group(GROUP, machine, start).await?;
                Ok::<_, quorate_raft::NodeError>((node, group))
            })
            .await
            .unwrap();
        match opened {
            Ok((node, group)) => Ok(Running { runtime: Some(runtime), node, group, toy, progress }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    async fn start_with(&mut self, id: MemberId, bootstrap: bool) {
        let home = self.homes[&id].clone();
        let start = Instant::now();
        let running = loop {
            match self.try_start(&home, bootstrap).await {
                Ok(running) => break running,
                // The port, or the log's files, of the one that was just torn down may be busy for a moment.
                Err(error) if start.elapsed() < LONG => {
                    eprintln!("member {id} can't start yet: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("member {id} can't start: {error}"),
            }
        };
        self.running.insert(id, running);
    }

    /// Starts a member again on what it has on its disk.
    pub async fn start(&mut self, id: MemberId) {
        self.start_with(id, false).await;
    }

    /// Tears a member down without a word.
    pub fn kill(&mut self, id: MemberId) {
        let running = self.running.remove(&id).expect("it runs");
        let node = running.node.clone();
        if let Some(runtime) = &running.runtime {
            // The log's thread is not the runtime's: nothing must reach it any more.
            runtime.spawn(async move { node.kill().await });
        }
        drop(running);
    }

    /// The member that leads, and has applied an entry of its own.
    pub async fn leader(&self) -> MemberId {
        eventually("a leader", || self.running.iter().find(|(_, r)| r.group.lease_ready()).map(|(id, _)| *id)).await
    }

    pub async fn leader_among(&self, ids: &[MemberId]) -> MemberId {
        eventually("a leader among some", || {
            self.running.iter().find(|(id, r)| ids.contains(id) && r.group.lease_ready()).map(|(id, _)| *id)
        })
        .await
    }

    /// A new member; returns when it runs.
    pub async fn join(&mut self, voter: bool) -> MemberId {
        let member = addresses();
        let begun = Instant::now();
        let joined = loop {
            let leader = self.leader().await;
            let group = self.running[&leader].group.clone();
            match group.add_member(member.clone(), voter).await {
                Ok(joined) => break joined,
                Err(error @ ChangeError::Refused(_)) => panic!("no join ever: {error}"),
                Err(error) => {
                    assert!(begun.elapsed() < LONG, "no join: {error}");
                    eprintln!("no join yet: {error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let identity = Identity { cluster: joined.cluster, member: joined.id, incarnation: joined.incarnation };
        let home = Home { identity, member, dir: self.fresh_dir(), secret: "s3cret".into() };
        self.homes.insert(joined.id, home);
        self.start(joined.id).await;
        joined.id
    }

    pub fn voters(&self, seen_by: MemberId) -> Vec<MemberId> {
        self.running[&seen_by].group.members().into_iter().filter(|m| m.2).map(|m| m.0).collect()
    }

    /// Waits until everybody knows that the member votes, and the change is finished.
    pub async fn wait_voter(&self, id: MemberId) {
        let settled = |group: &Group| {
            let seen = now(group.status());
            !seen.membership_changing && seen.members.iter().any(|m| m.id == id && m.voter)
        };
        eventually("a new voter", || self.running.values().all(|r| settled(&r.group)).then_some(())).await;
    }

    /// Proposes on whoever leads, again and again, as long as that is certain to be the first time.
    pub async fn add(&self, name: &str, n: i64) -> Result<i64, ProposeError> {
        let start = Instant::now();
        loop {
            let leader = self.leader().await;
            let unit = Bytes::from(format!("add {name} {n}"));
            match self.running[&leader].group.propose(unit).await {
                Ok(reply) => return Ok(std::str::from_utf8(&reply).unwrap().parse().unwrap()),
                Err(ProposeError::NotLeader { .. }) if start.elapsed() < LONG => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until all that run have the same counters, and returns them.
    pub async fn agree(&self) -> BTreeMap<Bytes, i64> {
        eventually("agreement", || {
            let mut all = self.running.values().map(|r| (r.group.applied_index(), r.toy.values()));
            let first = all.next()?;
            all.all(|other| other == first).then_some(first.1)
        })
        .await
    }
}

/// `RUST_LOG=info cargo test` shows what the nodes say.
pub fn init_log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
