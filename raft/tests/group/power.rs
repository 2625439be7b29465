//! The power goes while a member recovers, takes its first checkpoint, or cuts its log, and goes again when it has come
//! back: what was acknowledged is there afterwards, and nothing that was never proposed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft::{Group, Identity, Limits, Node, NodeConfig, NodeError, RaftTimings, Start, Stores};
use quorate_storage::checkpoint::{CheckpointStore, MemRows, Row, Rows};
use quorate_storage::disk::{Disk, DiskFile};
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::{Wal, WalConfig};
use uuid::Uuid;

use crate::cluster::{GROUP, LONG, addresses, eventually, init_log};
use crate::toy::Toy;

/// Rows on the same power supply as the disk: each change is one of the disk's operations, too.
struct Fed {
    rows: MemRows,
    tick: Arc<dyn DiskFile>,
}

impl Fed {
    fn spend(&self) -> Result<(), String> {
        self.tick.write_at(b".", 0).map_err(|error| error.to_string())
    }
}

impl Rows for Fed {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.spend().and_then(|()| self.rows.put(key, value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.spend().and_then(|()| self.rows.remove(key))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        self.rows.scan(from, to)
    }

    fn sync(&self) -> Result<(), String> {
        self.spend().and_then(|()| self.rows.sync())
    }

    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String> {
        self.spend().and_then(|()| self.rows.set_witness(group, bytes))
    }

    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        self.rows.witness(group)
    }

    fn witnesses(&self) -> Result<Vec<u64>, String> {
        self.rows.witnesses()
    }

    fn begin_next(&self) -> Result<Arc<dyn Rows>, String> {
        self.spend()?;
        Ok(Arc::new(Self { rows: self.rows.make_next()?, tick: Arc::clone(&self.tick) }))
    }

    fn take_next(&self) -> Result<(), String> {
        self.spend().and_then(|()| self.rows.take_next())
    }

    fn drop_next(&self) {
        self.rows.drop_next();
    }

    fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }
}

struct Machine {
    disk: MemDisk,
    rows: MemRows,
    dir: tempfile::TempDir,
    member: quorate_raft::Member,
    /// The counter's value is at least this, and at most that.
    acknowledged: i64,
    proposed: i64,
}

type Up = (Node, Group, Arc<Toy>);

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (disk, rows) = (MemDisk::new(), MemRows::new());
        Self { disk, rows, dir, member: addresses(), acknowledged: 0, proposed: 0 }
    }

    async fn start(&self) -> Result<Up, NodeError> {
        let identity = Identity { cluster: Uuid::from_u128(1), member: 1, incarnation: Uuid::from_u128(2) };
        // Nobody calls it, and the port of the one before may be busy for a moment.
        let mut config = NodeConfig::new(identity, self.dir.path(), "127.0.0.1:0");
        config.disk = Arc::new(self.disk.clone());
        config.timings = RaftTimings {
            heartbeat: Duration::from_millis(10),
            election_min: Duration::from_millis(20),
            election_max: Duration::from_millis(40),
        };
        // Every step of a checkpoint is one chunk, and the log is cut behind each.
        config.limits = Limits { checkpoint_step_bytes: 1, keep_log_bytes: 0, ..Limits::default() };
        let storage = |error: &dyn std::fmt::Display| NodeError::Storage(error.to_string());
        let tick = self.disk.create(Path::new("/tick")).map_err(|error| storage(&error))?;
        let wal = WalConfig { segment_bytes: 16 << 10, ..WalConfig::default() };
        let (wal, _) =
            Wal::open(config.disk.clone(), &self.dir.path().join("wal"), wal).map_err(|error| storage(&error))?;
        let checkpoints = CheckpointStore::over(Arc::new(Fed { rows: self.rows.clone(), tick }));
        let node = Node::open_with(config, Stores { wal, checkpoints }).await?;
        let toy = Arc::new(Toy::default());
        match node.open_group(GROUP, toy.clone(), Start::Bootstrap(self.member.clone())).await {
            Ok(group) => Ok((node, group, toy)),
            Err(error) => {
                node.kill().await;
                Err(error)
            }
        }
    }

    /// Writes for as long as that goes well.
    async fn write(&mut self, group: &Group, times: usize) {
        for _ in 0..times {
            self.proposed += 1;
            let unit = Bytes::from(format!("add n 1 {}", "x".repeat(200)));
            match tokio::time::timeout(LONG, group.propose_patiently(unit, Duration::from_secs(1))).await {
                Ok(Ok(reply)) => self.acknowledged = std::str::from_utf8(&reply).unwrap().parse().unwrap(),
                _ => return,
            }
            let other = Bytes::from(format!("add k{} 1", self.proposed));
            let _ = group.propose_patiently(other, Duration::from_millis(200)).await;
        }
    }

    /// Recovers, saves, writes and saves again, until all is done or the power is gone.
    async fn live(&mut self, up: Up) {
        let (node, group, _) = up;
        if group.wait_leader(Duration::from_secs(2)).await.is_some() {
            let _ = tokio::time::timeout(Duration::from_millis(500), group.checkpoint()).await;
            self.write(&group, 5).await;
            let _ = tokio::time::timeout(Duration::from_millis(500), group.checkpoint()).await;
        }
        node.kill().await;
    }

    fn crash(&mut self, seed: u64) {
        self.disk = self.disk.crash(seed);
        self.rows = self.rows.crash(seed.rotate_left(17));
    }

    async fn check(&mut self) {
        let (node, group, toy) = self.start().await.expect("what a loss of power leaves is no damage");
        group.wait_leader(LONG).await.unwrap();
        eventually("what was acknowledged", || (toy.value("n") >= self.acknowledged).then_some(())).await;
        let value = toy.value("n");
        assert!(value <= self.proposed, "{value} of {} that were proposed", self.proposed);
        // What became of those that were not answered is known now.
        (self.acknowledged, self.proposed) = (value, value);
        node.kill().await;
    }
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 27)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_power_goes_at_any_operation_of_a_recovery_and_again_in_the_next() {
    init_log();
    let mut cuts = 0;
    for case in 0..24u64 {
        let mut machine = Machine::new();
        let (node, group, _) = machine.start().await.unwrap();
        group.wait_leader(LONG).await.unwrap();
        machine.write(&group, 20).await;
        group.checkpoint().await.unwrap();
        // A tail to replay.
        machine.write(&group, 10).await;
        assert_eq!(machine.acknowledged, 30, "the first life goes well");
        node.kill().await;
        drop((node, group));
        machine.crash(mix(case));
        for round in 1..=2 {
            let seed = mix(case * 10 + round);
            // From the first operation of opening the log to the last of the second checkpoint.
            machine.disk.cut_power_after(seed % 80);
            if let Ok(up) = machine.start().await {
                machine.live(up).await;
            }
            cuts += u32::from(machine.disk.is_off());
            machine.crash(seed.rotate_left(5));
        }
        machine.check().await;
    }
    // The others came to the end of the second checkpoint with fewer operations than that.
    assert!(cuts >= 20, "the power went {cuts} times only");
}
