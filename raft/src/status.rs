//! What a group tells about itself: for INFO, `/v1/members` and `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::check::CheckStatus;
use crate::types::{Member, MemberId};

/// A member's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It receives the log and doesn't vote.
    Learner,
    /// It has stopped.
    Stopped,
}

impl Role {
    /// The role's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
    }
}

/// A snapshot under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Chunks sent and confirmed.
    pub chunks_done: u64,
    /// Chunks in all.
    pub chunks_total: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// What keeps a member from being sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It no longer has entries that it had acknowledged: it must be removed, and join again as a new member.
    LostData,
    /// Its disk has no room.
    NoRoom,
}

/// What is known of one member. Only the leader knows `matched`, `lag` and `last_ack_age` of the others.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub id: MemberId,
    /// Its addresses.
    pub member: Member,
    /// Whether it votes.
    pub voter: bool,
    /// Its role, as far as it is known here.
    pub role: Role,
    /// The last entry that is known to be on its disk.
    pub matched: Option<u64>,
    /// Entries that it lacks. `None`: not known here, or it never answered this leader.
    pub lag: Option<u64>,
    /// When it last answered the leader (the age of the request that it answered).
    pub last_ack_age: Option<Duration>,
    /// It answered within the last election timeout. `None`: not known here.
    pub healthy: Option<bool>,
    /// A snapshot on its way to it.
    pub snapshot: Option<SnapshotProgress>,
    /// What is wrong with it, as far as it is known here: the leader knows it of all, others of themselves.
    pub trouble: Option<Trouble>,
}

/// What a group looks like from here.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// This member.
    pub id: MemberId,
    /// This member's role.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<MemberId>,
    /// The last entry in the log.
    pub last_log: Option<u64>,
    /// The last committed entry.
    pub committed: Option<u64>,
    /// The last applied entry.
    pub applied: Option<u64>,
    /// What the last durable checkpoint holds.
    pub checkpoint: Option<u64>,
    /// What was cut off the front of the log.
    pub purged: Option<u64>,
    /// Bytes of the entries in the log.
    pub log_bytes: u64,
    /// The age of the last request that a majority answered (leader only).
    pub quorum_ack_age: Option<Duration>,
    /// Whether lease reads may be served right now.
    pub lease: bool,
    /// A change of membership is not finished.
    pub membership_changing: bool,
    /// All members, in order of their ids.
    pub members: Vec<MemberStatus>,
    /// This member's disk has no room for the log, for a checkpoint or for a snapshot.
    pub no_room: bool,
    /// Units handed to the log.
    pub proposals: u64,
    /// Units that failed, by outcome unknown.
    pub proposals_unknown: u64,
    /// Units that wait for the proposer.
    pub proposals_waiting: u64,
    /// Entries of the proposer under way.
    pub entries_in_flight: u64,
    /// Elections that this member took part in as a candidate.
    pub elections: u64,
    /// Changes of the leader seen.
    pub leader_changes: u64,
    /// Units per entry.
    pub batch_units: HistogramSnapshot,
    /// Bytes per entry.
    pub batch_bytes: HistogramSnapshot,
    /// From hand-in to applied, in microseconds.
    pub commit_us: HistogramSnapshot,
    /// Apply of one entry, in microseconds.
    pub apply_us: HistogramSnapshot,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Checkpoints that could not be written.
    pub checkpoint_failures: u64,
    /// How long the last checkpoint took.
    pub checkpoint_took: Option<Duration>,
    /// The last try to write one has failed.
    pub checkpoint_failed: bool,
    /// How long the one that is being written takes already.
    pub checkpoint_running: Option<Duration>,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// Bytes of them.
    pub snapshot_bytes_sent: u64,
    /// Snapshots received.
    pub snapshots_received: u64,
    /// Bytes of them.
    pub snapshot_bytes_received: u64,
    /// Comparisons of what the members hold.
    pub check: CheckStatus,
    /// What this member holds was found not to be what the log says.
    pub damaged: bool,
    /// This member was removed from the group, and hears nothing any more.
    pub removed: bool,
    /// Why the group has failed, if it has.
    pub failed: Option<String>,
}

impl GroupStatus {
    /// What is known before the group is loaded: nothing.
    pub fn loading(id: MemberId) -> Self {
        Self {
            id,
            role: Role::Follower,
            term: 0,
            leader: None,
            last_log: None,
            committed: None,
            applied: None,
            checkpoint: None,
            purged: None,
            log_bytes: 0,
            quorum_ack_age: None,
            lease: false,
            membership_changing: false,
            members: Vec::new(),
            no_room: false,
            proposals: 0,
            proposals_unknown: 0,
            proposals_waiting: 0,
            entries_in_flight: 0,
            elections: 0,
            leader_changes: 0,
            batch_units: HistogramSnapshot::default(),
            batch_bytes: HistogramSnapshot::default(),
            commit_us: HistogramSnapshot::default(),
            apply_us: HistogramSnapshot::default(),
            checkpoints: 0,
            checkpoint_failures: 0,
            checkpoint_took: None,
            checkpoint_failed: false,
            checkpoint_running: None,
            snapshots_sent: 0,
            snapshot_bytes_sent: 0,
            snapshots_received: 0,
            snapshot_bytes_received: 0,
            check: CheckStatus::default(),
            damaged: false,
            removed: false,
            failed: None,
        }
    }
}

const BUCKETS: usize = 40;

/// A histogram in powers of two: bucket `i` counts values `< 2^i`.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = (64 - value.leading_zeros() as usize).min(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// What it holds now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let buckets: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        HistogramSnapshot { count: buckets.iter().sum(), sum: self.sum.load(Relaxed), buckets }
    }
}

/// A histogram at one moment: `buckets[i]` counts values in `[2^(i-1), 2^i)`, `buckets[0]` zeros.
#[derive(Clone, Debug, Default)]
pub struct HistogramSnapshot {
    /// Counts, not cumulated.
    pub buckets: Vec<u64>,
    /// All values counted.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// An upper bound for the given share (0.0 to 1.0) of the values.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted && seen > 0 {
                return 1 << i;
            }
        }
        0
    }
}
