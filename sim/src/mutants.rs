//! Small deliberate faults, each of a kind that a store like this one has had, to prove that the oracles bite.
//!
//! Most are put around the server, in what only the simulator brings: its disk, its rows, the onlooker between consensus
//! and keyspace, the client. A fault that has to stand inside the server is one line there, of
//! `quorate_storage::mutants`, which exists under `--cfg madsim` only. None of them can be in a release.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_storage::checkpoint::{MemRows, Row, Rows};
use quorate_storage::disk::{Disk, DiskFile, LockGuard};
use quorate_storage::memdisk::MemDisk;
pub use quorate_storage::mutants::Mutant as Inside;

use crate::invariants::{
    convergence, definite_errors, durability, election_safety, expiry, known_members, linearizability, log_matching,
    membership, one_reply, read_freshness, state_machine, survival, transactions,
};
use crate::plan::{Fault, Plan, Tuning};
use crate::scenarios;

/// A deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    AckBeforeFsync,
    CheckpointNotDurable,
    LocalReads,
    LocalClockInApply,
    SkippedEntry,
    EntryAppliedTwice,
    RepliesSwapped,
    OldView,
    ChunkLost,
    OrderLost,
    RetriedAfterUnknown,
    FailureThatHappened,
    SplitExec,
    LocalReadsAnywhere,
    CoarseClock,
    TimeLost,
    Inside(Inside),
}

/// What is known of a deliberate fault.
#[derive(Debug)]
pub struct Deliberate {
    pub mutant: Mutant,
    /// What is wrong with the store that has it.
    pub words: &'static str,
    /// It is found within so many seeds...
    pub within: u64,
    /// ...by one of these.
    pub oracles: &'static [&'static str],
    /// The only faults that happen: those under which it shows. One that is named twice is as often.
    faults: &'static [Fault],
    /// What else it needs to show. Only circumstances: the fault itself is there without them, as in a scenario.
    needs: fn(&mut Plan),
}

const LINEAR: &[&str] = &[linearizability::NAME, read_freshness::NAME];
const STATE: &[&str] = &[state_machine::NAME];
/// A fault in the log shows where a committed entry is another one, or is missing.
const LOG: &[&str] =
    &[log_matching::NAME, log_matching::COMPLETENESS, state_machine::NAME, durability::NAME, linearizability::NAME];

/// What a disk has lost is missed in the log, or by the member itself.
const LOST: &[&str] =
    &[survival::NAME, log_matching::NAME, state_machine::NAME, durability::NAME, linearizability::NAME];

fn nothing(_: &mut Plan) {}

/// Checkpoints often, and no log behind them: who lags gets a snapshot.
fn small_log(plan: &mut Plan) {
    plan.tuning.checkpoint_log_bytes = 8 << 10;
    plan.tuning.checkpoint_interval = Duration::from_secs(1);
    plan.tuning.keep_log_bytes = 0;
}

/// Leases that last, so that what happens at their end takes a while.
fn long_lease(plan: &mut Plan) {
    plan.tuning.election_ms = 400;
    plan.tuning.sync_us = 500;
    plan.latency_ms = (0, 1);
    plan.fault_every = Duration::from_millis(200);
    plan.think = Duration::from_millis(3);
    plan.clients = 12;
}

/// Slow syncs and no thinking: many writes in one entry, and many bytes in flight.
fn large_entries(plan: &mut Plan) {
    plan.tuning.sync_us = 8000;
    plan.tuning.batch_units = 4096;
    plan.tuning.in_flight = 4;
    plan.padding = 400;
    plan.clients = 12;
    plan.think = Duration::from_millis(2);
    plan.fault_every = Duration::from_millis(250);
}

/// All of them.
pub const ROWS: &[Deliberate] = &[
    Deliberate {
        mutant: Mutant::AckBeforeFsync,
        words: "a sync of the log returns before the bytes are durable",
        within: 20,
        // The log notices most of it by itself: each batch says up to where it was durable.
        oracles: LOST,
        faults: &[Fault::Blackout],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::CheckpointNotDurable,
        words: "the log is cut behind a checkpoint that is not durable",
        within: 5,
        oracles: &[survival::NAME],
        faults: &[Fault::PowerCut, Fault::Blackout],
        needs: small_log,
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::TornTailAccepted),
        words: "the torn tail of a log is accepted",
        within: 30,
        oracles: LOG,
        faults: &[Fault::PowerCut],
        // Seldom: openraft takes for ever to find its way in a log that was torn several times.
        needs: |plan| {
            large_entries(plan);
            plan.fault_every = Duration::from_secs(2);
        },
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::VoteForgotten),
        words: "a member that restarts does not know for whom it voted",
        within: 10,
        oracles: &[election_safety::NAME],
        faults: &[Fault::Turncoats],
        needs: |plan| plan.fault_every = Duration::from_millis(250),
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::NoRestartGuard),
        words: "a member that restarts takes part in elections at once",
        within: 20,
        oracles: LINEAR,
        faults: &[Fault::LeaseEnd],
        needs: long_lease,
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::LeaseWithoutMargin),
        words: "a lease lasts as long as the promise behind it, without a margin for clocks that drift",
        within: 10,
        oracles: LINEAR,
        faults: &[Fault::LeaseEnd, Fault::Drift],
        // The leader's clock is a twentieth too slow, that of the voter who elects another one as much too fast: a tenth
        // of the lease is what an election, a write and a read have to happen in.
        needs: |plan| {
            long_lease(plan);
            plan.opposite_clocks = true;
            plan.tuning.election_ms = 800;
            plan.duration = Duration::from_secs(16);
        },
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::LeaseDuringTransfer),
        words: "lease reads go on while leadership is handed over",
        within: 20,
        oracles: LINEAR,
        faults: &[Fault::DeafTransfer],
        needs: |plan| {
            long_lease(plan);
            plan.latency_ms = (5, 40);
            plan.tuning.heartbeat_ms = 80;
        },
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::LeaseLookedAtBefore),
        words: "the lease is looked at before a pause and not after it: what was seen last counts",
        within: 10,
        oracles: LINEAR,
        faults: &[Fault::Sleep],
        needs: |plan| {
            plan.fault_every = Duration::from_millis(300);
            plan.think = Duration::from_millis(5);
            plan.clients = 12;
        },
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::ReadBeforeOwnTerm),
        words: "a new leader reads before it has applied an entry of its own term",
        within: 15,
        oracles: LINEAR,
        faults: &[Fault::SlowDisk, Fault::SlowDisk, Fault::SlowDisk, Fault::Transfer, Fault::Kill],
        needs: |plan| {
            plan.fault_every = Duration::from_millis(200);
            plan.think = Duration::from_millis(2);
        },
    },
    Deliberate {
        mutant: Mutant::LocalReads,
        words: "reads are served from what a member has, without lease or barrier",
        within: 5,
        oracles: LINEAR,
        faults: &[Fault::Partition, Fault::Pause],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::LocalClockInApply,
        words: "applying looks at the member's own clock",
        within: 5,
        oracles: STATE,
        faults: &[Fault::Clock],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::SkippedEntry,
        words: "a follower now and then does not apply an entry",
        within: 5,
        oracles: STATE,
        faults: &[Fault::Transfer],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::EntryAppliedTwice,
        words: "a follower now and then applies an entry twice",
        within: 5,
        oracles: STATE,
        faults: &[Fault::Transfer],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::RepliesSwapped,
        words: "the replies of one entry reach each other's clients",
        within: 5,
        oracles: &[one_reply::NAME, linearizability::NAME],
        faults: &[Fault::Transfer],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::OldView,
        words: "a checkpoint or snapshot holds the state before the one that it names",
        within: 5,
        oracles: STATE,
        faults: SNAPSHOTS,
        needs: small_log,
    },
    Deliberate {
        mutant: Mutant::ChunkLost,
        words: "a snapshot or checkpoint lacks one of its chunks",
        within: 5,
        oracles: &[state_machine::NAME, survival::NAME],
        faults: SNAPSHOTS,
        needs: small_log,
    },
    Deliberate {
        mutant: Mutant::OrderLost,
        words: "the order of keys (RANDOMKEY, SCAN) is another one after a restore",
        within: 5,
        oracles: STATE,
        faults: SNAPSHOTS,
        needs: small_log,
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::SnapshotWithoutMembership),
        words: "a snapshot is installed without its membership",
        within: 10,
        oracles: &[known_members::NAME, membership::NAME],
        faults: &[Fault::Membership, Fault::Partition],
        needs: |plan| {
            small_log(plan);
            plan.fault_every = Duration::from_millis(400);
        },
    },
    Deliberate {
        mutant: Mutant::RetriedAfterUnknown,
        words: "a write of unknown outcome is sent again",
        within: 5,
        oracles: &[durability::NAME, linearizability::NAME],
        faults: LOSSES,
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::FailureThatHappened,
        words: "an unknown outcome is told as a failure",
        within: 5,
        oracles: &[definite_errors::NAME],
        faults: LOSSES,
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::LeaderRestored),
        words: "a leader that restarts goes on leading in its term",
        within: 5,
        oracles: &[election_safety::NAME],
        faults: &[Fault::Kill, Fault::Blackout],
        needs: |plan| plan.fault_every = Duration::from_millis(600),
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::NoReconnect),
        words: "a connection between members that broke is not made again",
        within: 5,
        oracles: &[convergence::NAME],
        faults: &[Fault::Partition],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::Inside(Inside::NoCatchUp),
        words: "a member that restarts shows its own state at once, without the end of its log",
        within: 1,
        oracles: &[scenarios::NAME],
        faults: &[],
        needs: |plan| plan.play("a_restart_never_shows_an_empty_store"),
    },
    Deliberate {
        mutant: Mutant::SplitExec,
        words: "the commands of a transaction are applied one by one",
        within: 5,
        oracles: &[transactions::NAME],
        faults: &[Fault::Transfer],
        needs: |plan| plan.think = Duration::from_millis(2),
    },
    Deliberate {
        mutant: Mutant::LocalReadsAnywhere,
        words: "local reads of one connection are answered by one member now and by another one then",
        within: 10,
        oracles: &[read_freshness::LOCAL],
        faults: &[Fault::Partition, Fault::Pause],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::CoarseClock,
        words: "the time in an entry is that of a clock which moves every two seconds",
        within: 5,
        oracles: &[expiry::NAME],
        faults: &[Fault::Transfer],
        needs: nothing,
    },
    Deliberate {
        mutant: Mutant::TimeLost,
        words: "a snapshot or checkpoint does not hold the group's time",
        within: 5,
        oracles: &[state_machine::TIME],
        faults: &[Fault::Partition],
        needs: small_log,
    },
];

/// Members restart from checkpoints and get snapshots.
const SNAPSHOTS: &[Fault] = &[Fault::KillSome, Fault::PowerCut, Fault::Partition, Fault::EmptyDisk];
/// Answers get lost.
const LOSSES: &[Fault] = &[Fault::Kill, Fault::Partition, Fault::Pause];

impl Deliberate {
    /// As the command line calls it.
    pub fn name(&self) -> String {
        match self.mutant {
            Mutant::Inside(inside) => format!("{inside:?}"),
            mutant => format!("{mutant:?}"),
        }
    }

    /// The plan of a run that is to find it.
    pub fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.mutant = Some(self.mutant);
        plan.machines = 3;
        plan.latency_ms = (1, 3);
        plan.tuning =
            Tuning { heartbeat_ms: 25, election_ms: 120, read_mode: "lease", follower_mode: "proxy", ..plan.tuning };
        plan.faults = self.faults.to_vec();
        (self.needs)(&mut plan);
        plan
    }
}

impl Mutant {
    /// The fault that stands inside the server, if it is one of those.
    pub fn inside(self) -> Option<Inside> {
        if let Mutant::Inside(inside) = self { Some(inside) } else { None }
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

/// A disk whose files are one sync behind: what was written last is durable only when more is written.
pub struct LyingDisk(pub MemDisk);

struct LyingFile {
    file: Arc<dyn DiskFile>,
    owes: Mutex<bool>,
}

impl LyingFile {
    fn over(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(Self { file, owes: Mutex::new(false) })
    }

    fn pay(&self) -> io::Result<()> {
        if std::mem::take(&mut *self.owes.lock()) { self.file.sync_data() } else { Ok(()) }
    }
}

impl Disk for LyingDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(LyingFile::over(self.0.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(LyingFile::over(self.0.create(path)?))
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
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.pay()?;
        self.file.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        *self.owes.lock() = true;
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
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

    fn set_witness(&self, _group: u64, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        self.0.witness(group)
    }

    fn witnesses(&self) -> Result<Vec<u64>, String> {
        self.0.witnesses()
    }

    fn begin_next(&self) -> Result<Arc<dyn Rows>, String> {
        Ok(Arc::new(Self(self.0.make_next()?)))
    }

    fn take_next(&self) -> Result<(), String> {
        self.0.take_next()
    }

    fn drop_next(&self) {
        self.0.drop_next();
    }

    fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }
}
