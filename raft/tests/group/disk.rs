//! A disk that fails or fills under a group: what was acknowledged stays, what was not is never told as done, and a
//! sync that failed is never asked again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft::{Group, Identity, Node, NodeConfig, NodeError, ProposeError, Start};
use quorate_storage::codec;
use quorate_storage::memdisk::MemDisk;
use uuid::Uuid;

use crate::cluster::{GROUP, LONG, addresses, eventually};
use crate::toy::Toy;

struct Alone {
    disk: MemDisk,
    dir: tempfile::TempDir,
    member: quorate_raft::Member,
}

impl Alone {
    fn new() -> Self {
        Self { disk: MemDisk::new(), dir: tempfile::tempdir().unwrap(), member: addresses() }
    }

    async fn start(&self) -> (Node, Group, Arc<Toy>) {
        let (node, group, toy) = self.try_start().await.unwrap();
        group.wait_leader(LONG).await.unwrap();
        (node, group, toy)
    }

    async fn try_start(&self) -> Result<(Node, Group, Arc<Toy>), NodeError> {
        let identity = Identity { cluster: Uuid::from_u128(1), member: 1, incarnation: Uuid::from_u128(2) };
        let mut config = NodeConfig::new(identity, self.dir.path(), self.member.peer.clone());
        config.disk = Arc::new(self.disk.clone());
        config.wal.segment_bytes = 64 << 10;
        let node = Node::open(config).await?;
        let toy = Arc::new(Toy::default());
        let group = node.open_group(GROUP, toy.clone(), Start::Bootstrap(self.member.clone())).await?;
        Ok((node, group, toy))
    }
}

async fn add(group: &Group, name: &str, padding: usize) -> Result<Bytes, ProposeError> {
    group.propose_patiently(Bytes::from(format!("add {name} 1 {}", "x".repeat(padding))), LONG).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_stops_the_member_and_what_was_acknowledged_is_there_afterwards() {
    let mut alone = Alone::new();
    let (node, group, _) = alone.start().await;
    for _ in 0..5 {
        add(&group, "n", 10).await.unwrap();
    }
    alone.disk.fail_sync_after(0);
    let outcome = tokio::time::timeout(LONG, group.propose(Bytes::from_static(b"add n 1"))).await.unwrap();
    assert!(matches!(outcome, Err(ProposeError::Unknown(_) | ProposeError::Stopped)), "{outcome:?}");
    let reason = tokio::time::timeout(LONG, group.failed()).await.expect("the member is told to stop");
    assert!(reason.contains("sync"), "{reason}");
    // Later syncs would succeed: nobody asks for one.
    assert!(group.propose(Bytes::from_static(b"add n 1")).await.is_err());
    node.kill().await;
    drop((group, node));
    for seed in 0..4 {
        alone.disk = alone.disk.crash(seed);
    }
    let (_node, group, toy) = alone.start().await;
    eventually("the log is replayed", || group.applied_index().filter(|_| toy.value("n") >= 5)).await;
    assert!(toy.value("n") <= 6, "the one whose outcome is not known, at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let alone = Alone::new();
    let (_node, group, toy) = alone.start().await;
    add(&group, "n", 10).await.unwrap();
    alone.disk.set_capacity(Some(0));
    let mut done = 1;
    let refused = loop {
        match add(&group, "n", 4000).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 200, "the disk never filled");
    };
    assert!(matches!(refused, ProposeError::NoRoom), "{refused}");
    assert_eq!(toy.value("n"), done, "what was refused was not done");
    group.read_index().await.expect("reads go on");
    alone.disk.set_capacity(None);
    let begun = Instant::now();
    while let Err(error) = add(&group, "n", 10).await {
        assert!(begun.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(toy.value("n"), done + 1);
}

/// What a start says of a store whose file with the number of the epoch was made so.
async fn start_with(epoch: impl FnOnce(&Path)) -> NodeError {
    let alone = Alone::new();
    let store = alone.dir.path().join("checkpoint");
    std::fs::create_dir(&store).unwrap();
    epoch(&store.join(format!("epoch-{GROUP:016x}")));
    alone.try_start().await.map(drop).unwrap_err()
}

/// Whoever is damaged is removed from the group and begins anew, where it was told to (`--rebuild`). A disk that does not
/// answer, and what another version wrote, are no reason for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_damage_is_told_as_damage() {
    let number = |version| codec::encode(version, &1_u64).unwrap();
    // Not a file: it can't be read, like one that the disk has no answer for.
    let error = start_with(|path| std::fs::create_dir(path).unwrap()).await;
    assert!(matches!(&error, NodeError::Storage(words) if words.contains("epoch-")), "{error:?}");
    let error = start_with(|path| std::fs::write(path, number(9)).unwrap()).await;
    assert!(matches!(&error, NodeError::Storage(words) if words.contains("version 9")), "{error:?}");
    let error = start_with(|path| std::fs::write(path, number(1)).unwrap()).await;
    assert!(matches!(&error, NodeError::Damaged(words) if words.contains("fell back")), "{error:?}");
    let error = start_with(|path| std::fs::write(path, b"who knows").unwrap()).await;
    assert!(matches!(error, NodeError::Damaged(_)), "{error:?}");
}
