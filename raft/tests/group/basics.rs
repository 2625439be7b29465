//! The main line: propose, apply, reply, lose the leader.

use std::time::Duration;

use bytes::Bytes;
use quorate_raft::ProposeError;

use crate::cluster::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_of_one_answers_and_remembers() {
    let mut cluster = Cluster::new(1).await;
    assert_eq!(cluster.add("a", 5).await.unwrap(), 5);
    assert_eq!(cluster.add("a", 2).await.unwrap(), 7);
    cluster.kill(1);
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.running[&1].toy.value("a"), 7);
    assert_eq!(cluster.add("a", 1).await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_unit_gets_its_own_reply_and_all_members_agree() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let group = cluster.running[&leader].group.clone();
    let tasks: Vec<_> = (0..200)
        .map(|i| {
            let group = group.clone();
            tokio::spawn(async move {
                for round in 1..=5 {
                    let reply = group.propose(Bytes::from(format!("add k{i} {}", i + 1))).await.unwrap();
                    assert_eq!(reply, Bytes::from(((i + 1) * round).to_string()));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let values = cluster.agree().await;
    assert_eq!(values.len(), 200);
    assert_eq!(values[&Bytes::from("k199")], 1000);
    let status = group.status().await;
    assert!(status.batch_units.sum == 1000 && status.batch_units.count < 1000, "units were batched: {status:?}");
    for (id, running) in &cluster.running {
        let asked = *running.toy.with_replies.lock();
        assert_eq!(asked > 0, *id == leader, "only whoever proposed wants replies");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_leader_is_lost_and_nothing_acknowledged_is() {
    let mut cluster = Cluster::new(3).await;
    for i in 1..=20 {
        assert_eq!(cluster.add("n", 1).await.unwrap(), i);
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert_eq!(cluster.running[&next].toy.value("n"), 20);
    assert_eq!(cluster.add("n", 1).await.unwrap(), 21);
    cluster.start(leader).await;
    cluster.agree().await;
    assert_eq!(cluster.running[&leader].toy.value("n"), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follower_says_who_leads_and_appends_nothing() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let follower = *cluster.running.keys().find(|id| **id != leader).unwrap();
    let group = &cluster.running[&follower].group;
    let error = group.propose(Bytes::from_static(b"add x 1")).await.unwrap_err();
    let ProposeError::NotLeader { leader: Some((id, member)) } = error else { panic!("{error:?}") };
    assert_eq!(id, leader);
    assert_eq!(member.client, cluster.homes[&leader].member.client);
    assert!(!group.lease_ready());
    assert!(group.read_index().await.is_err());
    cluster.add("x", 10).await.unwrap();
    cluster.agree().await;
    assert_eq!(cluster.running[&follower].toy.value("x"), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_members_are_lost_and_come_back_with_everything() {
    let mut cluster = Cluster::new(3).await;
    for i in 0..50 {
        cluster.add(&format!("k{i}"), i).await.unwrap();
    }
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    for id in [1, 2, 3] {
        cluster.start(id).await;
    }
    cluster.leader().await;
    let values = cluster.agree().await;
    assert_eq!(values.len(), 50);
    assert_eq!(values[&Bytes::from("k49")], 49);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reads_are_confirmed_by_lease_or_by_a_majority() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let group = cluster.running[&leader].group.clone();
    assert!(group.lease_ready());
    group.read_index().await.unwrap();
    assert_eq!(group.wait_synced(2, Some(Duration::from_secs(5))).await, 2);
    // Without a majority neither says yes for long.
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        cluster.kill(id);
    }
    eventually("the end of the lease", || (!group.lease_ready()).then_some(())).await;
    assert!(group.read_index().await.is_err());
    assert!(!group.lease_ready());
    assert!(group.wait_synced(1, Some(Duration::from_millis(50))).await >= 1, "they hold it, dead or not");
}
