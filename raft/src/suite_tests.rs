//! openraft's own suite over this log and this state machine, and a node in memory for other tests.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointStore, MemRows};
use quorate_storage::disk::{Disk, OsDisk};
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::{Wal, WalConfig};

use crate::api::{ApplyError, Restore, StateMachine, View};
use crate::counters::Counters;
use crate::log_store::{Durable, LogStore};
use crate::state_machine::Machine;
use crate::types::{MemberId, TypeConfig};
use crate::{Group, Identity, Node, NodeConfig, Start, Stores};
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

/// A state machine that holds nothing: the suite looks only at log ids and memberships.
pub(crate) struct Nothing;

/// A node on a disk in memory, and its group.
pub(crate) async fn in_memory(member: MemberId, start: Start) -> (Node, Group) {
    let identity = Identity { cluster: Uuid::from_u128(7), member, incarnation: Uuid::from_u128(8) };
    let mut config = NodeConfig::new(identity, "/data", "127.0.0.1:0");
    config.disk = Arc::new(MemDisk::new());
    let (wal, _) = Wal::open(config.disk.clone(), &config.dir.join("wal"), WalConfig::default()).unwrap();
    let stores = Stores { wal, checkpoints: CheckpointStore::over(Arc::new(MemRows::new())) };
    let node = Node::open_with(config, stores).await.unwrap();
    let group = node.open_group(1, Arc::new(Nothing), start).await.unwrap();
    (node, group)
}

impl View for Nothing {
    fn header(&self) -> Vec<u8> {
        Vec::new()
    }
    fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_> {
        Box::new(std::iter::once((7, 1)))
    }
    fn encode(&self, _chunk: u128, out: &mut Vec<u8>) {
        out.push(7);
    }
    fn digest(&self, _chunk: u128, _buffer: &mut Vec<u8>) -> u128 {
        0
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Restore for Nothing {
    fn add(&mut self, _chunk: u128, _bytes: &[u8]) -> Result<(), ApplyError> {
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<Arc<dyn View>, ApplyError> {
        Ok(Arc::new(Nothing))
    }
}

impl StateMachine for Nothing {
    fn encode_batch(&self, _units: &[Bytes], _out: &mut BytesMut) {}
    fn apply(&self, _entry: &Bytes, _want_replies: bool) -> Result<Vec<Bytes>, ApplyError> {
        Ok(Vec::new())
    }
    fn view(&self) -> Arc<dyn View> {
        Arc::new(Nothing)
    }
    fn restore(&self, _header: &[u8], _fast: bool) -> Result<Box<dyn Restore>, ApplyError> {
        Ok(Box::new(Nothing))
    }
    fn install(&self, _view: Arc<dyn View>) {}
}

struct Builder(fn() -> Arc<dyn Disk>);

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::default() };
        let (wal, _) = Wal::open((self.0)(), &dir.path().join("wal"), config).unwrap();
        let store = CheckpointStore::open(&dir.path().join("checkpoint"), CheckpointConfig::default()).unwrap();
        // The suite cuts the log without a checkpoint; a group never may.
        let durable = Durable::default();
        durable.raise(u64::MAX - 1);
        let log = LogStore::new(wal.group(3), durable);
        let machine = {
            let counters = Arc::new(Counters::default());
            let progress = crate::config::LoadProgress::default();
            Machine::recover(3, Arc::new(Nothing), store, Durable::default(), counters, &progress).unwrap()
        };
        machine.go_live();
        machine.allow_gaps();
        Ok((dir, log, machine))
    }
}

#[test]
fn openrafts_suite_passes_on_the_real_disk() {
    run(|| Arc::new(OsDisk));
}

#[test]
fn openrafts_suite_passes_on_a_disk_in_memory() {
    run(|| Arc::new(MemDisk::new()));
}

fn run(disk: fn() -> Arc<dyn Disk>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder(disk))).unwrap();
}
