//! The two sides of the comparison: a Redis primary with two replicas, and three members of ours.

use crate::load::{self, Keys, Plan};
use quorate_testkit::ports::PortBlock;
use quorate_testkit::process::Process;
use quorate_testkit::{Cluster, ClusterOptions, Conn, RedisServer};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What Redis is started with. Rewrites of the append-only file are off, so that none falls into a measurement.
const REDIS_SETTINGS: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("auto-aof-rewrite-percentage", "0")];

/// One side, running.
pub enum Side {
    Redis { primary: RedisServer, replicas: Vec<RedisServer>, _ports: PortBlock },
    Ours(Cluster),
}

impl Side {
    pub fn start_redis() -> Side {
        let mut ports = PortBlock::take();
        let primary = RedisServer::start(&mut ports, &REDIS_SETTINGS);
        let replicas = (0..2).map(|_| primary.start_replica(&mut ports, &REDIS_SETTINGS)).collect();
        Side::Redis { primary, replicas, _ports: ports }
    }

    pub fn start_ours(binary: &Path) -> Side {
        Side::Ours(Cluster::start(ClusterOptions::new(binary)))
    }

    /// Ours with other settings.
    pub fn start_ours_with(binary: &Path, settings: &str) -> Side {
        Side::Ours(Cluster::start(ClusterOptions::new(binary).args(settings)))
    }

    /// All servers of this side, the leader first.
    pub fn servers(&self) -> Vec<SocketAddr> {
        match self {
            Side::Redis { primary, replicas, .. } => {
                std::iter::once(primary).chain(replicas).map(|server| server.addr).collect()
            }
            Side::Ours(cluster) => {
                let leader = cluster.leader();
                let others = (0..cluster.members.len()).filter(|at| *at != leader);
                std::iter::once(leader).chain(others).map(|at| cluster.members[at].client).collect()
            }
        }
    }

    /// The process of the leader.
    pub fn leader_process(&mut self) -> &mut Process {
        match self {
            Side::Redis { primary, .. } => &mut primary.process,
            Side::Ours(cluster) => {
                let leader = cluster.leader();
                cluster.members[leader].process()
            }
        }
    }

    /// Where the one is that takes writes.
    pub fn leader(&self) -> SocketAddr {
        match self {
            Side::Redis { primary, .. } => primary.addr,
            Side::Ours(cluster) => cluster.members[cluster.leader()].client,
        }
    }

    /// A member of ours that doesn't lead.
    pub fn follower(&self) -> Option<SocketAddr> {
        match self {
            Side::Redis { .. } => None,
            Side::Ours(cluster) => Some(cluster.members[cluster.follower()].client),
        }
    }

    /// Redis acknowledges a write before a replica has it unless it is asked to wait.
    pub fn waits(&self) -> bool {
        matches!(self, Side::Redis { .. })
    }

    /// Fills the keys that GETs read.
    pub fn preload(&self, keys: u64) -> io::Result<()> {
        let outcome = load::fill(self.leader(), keys)?;
        assert_eq!(outcome.errors, 0, "the fill met errors: {:?}", outcome.first_error);
        Ok(())
    }

    pub fn plan(&self, clients: usize, pipeline: usize, writes_percent: u64, keys: u64) -> Plan {
        Plan { clients, pipeline, writes_percent, wait: self.waits(), keys: Keys::Random(keys) }
    }

    /// Processor time that all processes of this side have used so far.
    pub fn cpu_time(&mut self) -> Duration {
        let of = |process: &Process| process.cpu_time().unwrap_or_default();
        match self {
            Side::Redis { primary, replicas, .. } => {
                of(&primary.process) + replicas.iter().map(|replica| of(&replica.process)).sum()
            }
            Side::Ours(cluster) => cluster.members.iter_mut().map(|member| of(member.process())).sum(),
        }
    }

    /// Memory as the leader tells it, and as the system tells it of the leader and of one other.
    pub fn memory(&mut self) -> Memory {
        let used = Conn::open(self.leader()).ok().and_then(|mut conn| conn.cmd("INFO memory").ok());
        let used = used.and_then(|info| info_field(&info.as_text()?, "used_memory"));
        let (leader, other) = match self {
            Side::Redis { primary, replicas, .. } => {
                (primary.process.resident_bytes(), replicas[0].process.resident_bytes())
            }
            Side::Ours(cluster) => {
                let (leader, follower) = (cluster.leader(), cluster.follower());
                let mut resident = |at: usize| cluster.members[at].process().resident_bytes();
                (resident(leader), resident(follower))
            }
        };
        Memory { used, leader_resident: leader.unwrap_or(0), other_resident: other.unwrap_or(0) }
    }
}

/// Bytes of memory at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub used: Option<u64>,
    pub leader_resident: u64,
    pub other_resident: u64,
}

fn info_field(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}
