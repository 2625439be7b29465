//! What is known and what is not while leaders change, and the guard after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_raft::{Group, MemberId, ProposeError, RaftTimings};

use crate::cluster::{Cluster, LONG};

type Groups = Arc<Mutex<BTreeMap<MemberId, Group>>>;

/// Adds one again and again; returns how often that was acknowledged and how often nobody knows.
async fn write(groups: Groups, name: String, stop: Arc<AtomicBool>) -> (i64, i64) {
    let (mut acknowledged, mut unknown) = (0, 0);
    let mut at = 1;
    while !stop.load(SeqCst) {
        let group = groups.lock().get(&at).cloned();
        let Some(group) = group else {
            at = at % 3 + 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let unit = Bytes::from(format!("add {name} 1"));
        let outcome = tokio::time::timeout(LONG, group.propose_patiently(unit, Duration::from_millis(100))).await;
        match outcome.expect("every unit is answered") {
            Ok(_) => acknowledged += 1,
            Err(ProposeError::Unknown(_)) => unknown += 1,
            Err(ProposeError::NotLeader { leader }) => at = leader.map_or(at % 3 + 1, |(id, _)| id),
            Err(_) => at = at % 3 + 1,
        }
    }
    (acknowledged, unknown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_happened_and_what_is_refused_did_not() {
    let mut cluster = Cluster::new(3).await;
    let groups: Groups = Arc::default();
    let publish = |cluster: &Cluster| {
        *groups.lock() = cluster.running.iter().map(|(id, r)| (*id, r.group.clone())).collect();
    };
    publish(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8).map(|i| tokio::spawn(write(groups.clone(), format!("w{i}"), stop.clone()))).collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        publish(&cluster);
        cluster.leader().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.start(leader).await;
        publish(&cluster);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, SeqCst);
    let mut books = Vec::new();
    for writer in writers {
        books.push(writer.await.unwrap());
    }
    cluster.leader().await;
    let values = cluster.agree().await;
    for (i, (acknowledged, unknown)) in books.into_iter().enumerate() {
        let value = values.get(&Bytes::from(format!("w{i}"))).copied().unwrap_or(0);
        assert!(acknowledged > 0, "writer {i} got nothing through");
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&value),
            "writer {i}: {value} is not within {acknowledged} acknowledged and {unknown} unknown"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restarted_voter_waits_one_election_timeout_before_it_votes() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.voters(leader).into_iter().filter(|id| *id != leader).collect();
    // The leader and one follower are gone; the one that is restarted is needed for any majority.
    cluster.kill(others[0]);
    cluster.kill(leader);
    let start = Instant::now();
    cluster.start(others[0]).await;
    cluster.leader().await;
    let took = start.elapsed();
    assert!(took >= RaftTimings::default().election_max, "it voted {took:?} after its restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_leader_without_a_majority_appends_nothing_for_long() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    for id in cluster.voters(leader).into_iter().filter(|id| *id != leader) {
        cluster.kill(id);
    }
    let group = cluster.running[&leader].group.clone();
    let begun = Instant::now();
    loop {
        // Those of its last moments as a leader wait for a majority that doesn't come.
        let proposal = group.propose(Bytes::from_static(b"add n 1"));
        match tokio::time::timeout(Duration::from_millis(100), proposal).await {
            Ok(Err(ProposeError::NotLeader { leader: None })) => break,
            other => assert!(begun.elapsed() < LONG, "it goes on: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn limits_are_kept_and_told() {
    let cluster = Cluster::new(1).await;
    let group = &cluster.running[&1].group;
    let large = Bytes::from(vec![b'x'; cluster.limits.unit_bytes + 1]);
    assert!(matches!(group.propose(large).await, Err(ProposeError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_entry_that_cannot_be_applied_stops_the_member_loudly() {
    let cluster = Cluster::new(1).await;
    let group = cluster.running[&1].group.clone();
    let outcome = group.propose(Bytes::from_static(b"nonsense")).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown(_))), "{outcome:?}");
    let why = tokio::time::timeout(LONG, group.failed()).await.unwrap();
    assert!(why.contains("an unknown unit"), "{why}");
    assert!(!group.lease_ready());
    assert!(group.propose(Bytes::from_static(b"add n 1")).await.is_err());
    assert!(group.read_index().await.is_err());
}
