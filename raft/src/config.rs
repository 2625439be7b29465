//! What a node is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quorate_storage::checkpoint::CheckpointConfig;
use quorate_storage::disk::{Disk, OsDisk};
use quorate_storage::wal::WalConfig;
use uuid::Uuid;

use crate::types::{Member, MemberId};

/// Who this node is. Kept in the data directory by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The group's UUID: made at bootstrap, told to every member that joins.
    pub cluster: Uuid,
    /// This member's id.
    pub member: MemberId,
    /// This member's incarnation (see [`Member::incarnation`]).
    pub incarnation: Uuid,
}

/// Raft's clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftTimings {
    /// How often the leader tells that it is there.
    pub heartbeat: Duration,
    /// A follower that hears nothing for `election_max` (the lease it granted) and then for a random
    /// time between `election_min` and `election_max` asks for an election.
    pub election_min: Duration,
    /// The upper bound; also the length of the leader's lease and of the restart guard.
    pub election_max: Duration,
}

impl Default for RaftTimings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(60),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(350),
        }
    }
}

/// Bounds on what one node may hold or send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame between peers.
    pub frame_bytes: usize,
    /// The largest unit that may be proposed. Must leave room in a frame.
    pub unit_bytes: usize,
    /// An entry is closed when it holds this many bytes...
    pub batch_bytes: usize,
    /// ...or this many units.
    pub batch_units: usize,
    /// Entries of the proposer that may be under way at a time.
    pub in_flight: usize,
    /// Units that may wait for the proposer before [`crate::ProposeError::Overloaded`].
    pub queue_units: usize,
    /// A checkpoint is taken when the log has grown by this much since the last one...
    pub checkpoint_log_bytes: u64,
    /// ...or when this much time has passed and something was applied.
    pub checkpoint_interval: Duration,
    /// Bytes of a checkpoint that are written in one go.
    pub checkpoint_step_bytes: usize,
    /// Log entries kept behind a checkpoint, in bytes, for members that lag a little.
    pub keep_log_bytes: u64,
    /// What all members hold is compared so often; zero: never.
    pub check_interval: Duration,
    /// Bytes of a snapshot that are sent in a second; zero: as fast as it goes.
    pub snapshot_rate: u64,
    /// Bytes of a snapshot in one frame.
    pub snapshot_frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 80 << 20,
            unit_bytes: 64 << 20,
            batch_bytes: 1 << 20,
            batch_units: 4096,
            in_flight: 4,
            queue_units: 65_536,
            checkpoint_log_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(15 * 60),
            checkpoint_step_bytes: crate::pace::STEP_BYTES,
            keep_log_bytes: 32 << 20,
            check_interval: Duration::from_secs(600),
            snapshot_rate: 0,
            snapshot_frame_bytes: 256 << 10,
        }
    }
}

/// How far a node has come with loading its checkpoints. For whoever waits: nothing is decided by it.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Bytes to load; zero until that is known.
    pub total: AtomicU64,
    /// Bytes loaded.
    pub loaded: AtomicU64,
}

/// How a node is put together.
#[derive(Clone)]
pub struct NodeConfig {
    /// Who it is.
    pub identity: Identity,
    /// Its data directory; this room keeps `wal/` and `checkpoint/` in it.
    pub dir: PathBuf,
    /// The address of the peer port.
    pub listen: String,
    /// The secret that all peers share. Empty: the same handshake, with an empty key.
    pub secret: String,
    /// Raft's clocks.
    pub timings: RaftTimings,
    /// Bounds.
    pub limits: Limits,
    /// The disk that the log is on.
    pub disk: Arc<dyn Disk>,
    /// How the log is laid out.
    pub wal: WalConfig,
    /// How checkpoints are kept.
    pub checkpoint: CheckpointConfig,
    /// Told how loading goes on.
    pub progress: Arc<LoadProgress>,
}

impl NodeConfig {
    /// The defaults around what can't have one.
    pub fn new(identity: Identity, dir: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        Self {
            identity,
            dir: dir.into(),
            listen: listen.into(),
            secret: String::new(),
            timings: RaftTimings::default(),
            limits: Limits::default(),
            disk: Arc::new(OsDisk),
            wal: WalConfig::default(),
            checkpoint: CheckpointConfig::default(),
            progress: Arc::default(),
        }
    }
}

/// How a group begins on this node.
#[derive(Clone, Debug)]
pub enum Start {
    /// A new group of one: this member. On a disk that holds the group already it is the same as `Open`.
    Bootstrap(Member),
    /// The group is on the disk, or this member has just joined and hears of it from the leader.
    /// The member says what its own addresses are now; when they differ from what the group knows,
    /// it asks the leader to correct them.
    Open(Member),
}
