//! Small deliberate faults, each of a kind that a store like this one has had, to prove that the oracles bite.
//!
//! They are put around the server, in what only the simulator brings: its disk, its rows, its configuration, the
//! onlooker between consensus and keyspace, the client. No line of the product knows of them, so none of them can be in
//! a release.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::NodeConfig;
use quorate_storage::checkpoint::{MemRows, Row, Rows};
use quorate_storage::disk::{Disk, DiskFile, LockGuard};
use quorate_storage::memdisk::MemDisk;

use crate::plan::{Fault, Plan};

/// A deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    AckBeforeFsync,
    CheckpointNotDurable,
    LongLease,
    HastyVoter,
    LocalReads,
    LocalClockInApply,
    SkippedEntry,
    EntryAppliedTwice,
    RepliesSwapped,
    OldView,
    ChunkLost,
    RetriedAfterUnknown,
    FailureThatHappened,
}

impl Mutant {
    pub const ALL: [Mutant; 13] = [
        Mutant::AckBeforeFsync,
        Mutant::CheckpointNotDurable,
        Mutant::LongLease,
        Mutant::HastyVoter,
        Mutant::LocalReads,
        Mutant::LocalClockInApply,
        Mutant::SkippedEntry,
        Mutant::EntryAppliedTwice,
        Mutant::RepliesSwapped,
        Mutant::OldView,
        Mutant::ChunkLost,
        Mutant::RetriedAfterUnknown,
        Mutant::FailureThatHappened,
    ];

    /// What is wrong with the store that has it.
    pub fn words(self) -> &'static str {
        match self {
            Mutant::AckBeforeFsync => "a sync of the log returns before the bytes are durable",
            Mutant::CheckpointNotDurable => "a sync of the checkpoint does nothing, and the log is cut behind it",
            Mutant::LongLease => "a leader believes in its lease for longer than the others keep their promise",
            Mutant::HastyVoter => "a member that restarts neither waits nor keeps the promises it made before",
            Mutant::LocalReads => "reads are served from what a member has, without lease or barrier",
            Mutant::LocalClockInApply => "applying looks at the member's own clock",
            Mutant::SkippedEntry => "a follower now and then does not apply an entry",
            Mutant::EntryAppliedTwice => "a follower now and then applies an entry twice",
            Mutant::RepliesSwapped => "the replies of one entry reach each other's clients",
            Mutant::OldView => "a checkpoint or snapshot holds the state before the one that it names",
            Mutant::ChunkLost => "a snapshot is taken in without one of its chunks",
            Mutant::RetriedAfterUnknown => "a write of unknown outcome is sent again",
            Mutant::FailureThatHappened => "an unknown outcome is told as a failure",
        }
    }

    /// The plan of a run that is to find it: faults under which it shows.
    pub fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.mutant = Some(self);
        plan.machines = 3;
        plan.latency_ms = (1, 3);
        plan.tuning.heartbeat_ms = 25;
        plan.tuning.election_ms = 120;
        plan.tuning.read_mode = if self == Mutant::LocalReads { "local" } else { "lease" };
        plan.tuning.follower_mode = "proxy";
        plan.faults = match self {
            Mutant::AckBeforeFsync => vec![Fault::KillSome, Fault::PowerCut],
            Mutant::CheckpointNotDurable | Mutant::OldView | Mutant::ChunkLost => {
                plan.tuning.checkpoint_log_bytes = 8 << 10;
                plan.tuning.checkpoint_interval = std::time::Duration::from_secs(1);
                plan.tuning.keep_log_bytes = 0;
                vec![Fault::KillSome, Fault::PowerCut, Fault::Partition, Fault::EmptyDisk]
            }
            Mutant::LongLease | Mutant::LocalReads => vec![Fault::Partition, Fault::Pause],
            Mutant::HastyVoter => vec![Fault::Partition, Fault::Kill, Fault::Pause],
            Mutant::LocalClockInApply => vec![Fault::Clock],
            Mutant::RetriedAfterUnknown | Mutant::FailureThatHappened => {
                vec![Fault::Kill, Fault::Partition, Fault::Pause]
            }
            Mutant::SkippedEntry | Mutant::EntryAppliedTwice | Mutant::RepliesSwapped => vec![Fault::Transfer],
        };
        plan
    }

    /// The configuration of a member that has it, in its `life`-th process.
    pub fn configure(self, config: &mut NodeConfig, life: u64) {
        match self {
            Mutant::LongLease => config.timings.election_max *= 10,
            Mutant::HastyVoter if life > 1 => {
                config.timings.election_min = config.timings.heartbeat * 2;
                config.timings.election_max = config.timings.heartbeat * 3;
            }
            _ => {}
        }
    }
}

/// The entry as it is applied under a clock that is off.
pub fn with_local_time(entry: &Bytes, now_ms: u64) -> Bytes {
    let mut bytes = entry.to_vec();
    if let Some(time) = bytes.get_mut(1..9) {
        time.copy_from_slice(&now_ms.to_le_bytes());
    }
    bytes.into()
}

/// A disk whose syncs of files do nothing.
pub struct LyingDisk(pub MemDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl Disk for LyingDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.create(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        self.0.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }
}

/// Rows whose syncs do nothing.
pub struct LyingRows(pub MemRows);

impl Rows for LyingRows {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.0.put(key, value)
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.0.remove(key)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        self.0.scan(from, to)
    }

    fn sync(&self) -> Result<(), String> {
        Ok(())
    }

    fn set_witness(&self, _group: u64, _epoch: u64) -> Result<(), String> {
        Ok(())
    }

    fn witness(&self, group: u64) -> Result<Option<u64>, String> {
        self.0.witness(group)
    }

    fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }
}
