//! Checkpoints, recovery from them, and snapshots to members that lag.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft::{Event, Limits, RaftTimings};

use crate::cluster::{Cluster, LONG, eventually, now};
use crate::toy::CHUNKS;

/// A log that is cut soon.
fn small() -> Limits {
    Limits {
        checkpoint_log_bytes: 1 << 20,
        keep_log_bytes: 16 << 10,
        snapshot_frame_bytes: 4 << 10,
        ..Limits::default()
    }
}

async fn fill(cluster: &Cluster, names: std::ops::Range<u32>, bytes: usize) {
    let groups: Vec<_> = cluster.running.values().map(|running| running.group.clone()).collect();
    let padding = "p".repeat(bytes);
    let tasks: Vec<_> = names
        .map(|i| {
            let (groups, unit) = (groups.clone(), Bytes::from(format!("add k{i} {i} {padding}")));
            tokio::spawn(async move {
                let start = Instant::now();
                // On a machine with too much to do another leader may be elected meanwhile.
                while start.elapsed() < LONG {
                    if let Some(group) = groups.iter().find(|group| group.is_leader())
                        && group.propose(unit.clone()).await.is_ok()
                    {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                panic!("k{i} could not be written");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn cut(cluster: &Cluster, id: u64) -> u64 {
    let group = cluster.running[&id].group.clone();
    group.checkpoint().await.unwrap();
    eventually("the log is cut", || now(group.status()).purged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_recovers_from_its_checkpoint_and_the_tail() {
    let mut cluster = Cluster::with_limits(1, small()).await;
    fill(&cluster, 0..300, 1000).await;
    cut(&cluster, 1).await;
    fill(&cluster, 300..320, 10).await;
    cluster.add("k5", 1).await.unwrap();
    let before = cluster.running[&1].toy.values();
    for _ in 0..2 {
        cluster.kill(1);
        cluster.start(1).await;
        cluster.leader().await;
        assert_eq!(cluster.running[&1].toy.values(), before);
    }
    assert_eq!(cluster.add("k5", 1).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_checkpoint_after_a_checkpoint_writes_what_changed_and_forgets_what_vanished() {
    let mut cluster = Cluster::with_limits(1, small()).await;
    fill(&cluster, 0..50, 100).await;
    let group = cluster.running[&1].group.clone();
    group.checkpoint().await.unwrap();
    for i in 0..50 {
        if i % 3 != 0 {
            group.propose(Bytes::from(format!("del k{i}"))).await.unwrap();
        }
    }
    cluster.add("k0", 1000).await.unwrap();
    group.checkpoint().await.unwrap();
    let before = cluster.running[&1].toy.values();
    drop(group);
    cluster.kill(1);
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.running[&1].toy.values(), before);
    assert_eq!(before[&Bytes::from_static(b"k0")], 1000);
    assert_eq!(before.len(), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_member_and_one_that_was_away_catch_up_by_snapshot() {
    let mut cluster = Cluster::with_limits(3, small()).await;
    let leader = cluster.leader().await;
    let away = cluster.voters(leader).into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(away);
    fill(&cluster, 0..400, 1000).await;
    cut(&cluster, leader).await;
    cluster.start(away).await;
    let new = cluster.join(true).await;
    cluster.wait_voter(new).await;
    fill(&cluster, 400..420, 10).await;
    let values = cluster.agree().await;
    assert_eq!(values.len(), 420);
    for id in [away, new] {
        let status = cluster.running[&id].group.status().await;
        assert_eq!(status.snapshots_received, 1, "member {id}");
        assert!(status.snapshot_bytes_received > 400_000);
    }
    // What was installed is on the disk, too.
    cluster.kill(new);
    cluster.start(new).await;
    cluster.agree().await;
    assert_eq!(cluster.running[&new].group.status().await.snapshots_received, 0, "it has its own");
    let sent = cluster.running[&leader].group.status().await;
    assert!(sent.snapshots_sent >= 2 && sent.members.iter().all(|m| m.snapshot.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_snapshot_on_its_way_costs_no_election_and_survives_the_loss_of_its_receiver() {
    // Elections that a machine with too much to do would bring about are not what is looked for: a snapshot that held
    // heartbeats up would do so for longer than this.
    let timings = RaftTimings {
        election_min: Duration::from_secs(1),
        election_max: Duration::from_secs(2),
        ..RaftTimings::default()
    };
    let mut cluster = Cluster::with(3, small(), timings).await;
    let leader = cluster.leader().await;
    fill(&cluster, 0..2000, 4000).await;
    cut(&cluster, leader).await;
    let term = cluster.running[&leader].group.status().await.term;
    let new = cluster.join(true).await;
    eventually("the first pieces", || {
        let group = &cluster.running[&new].group;
        (now(group.status()).applied.is_some() || group.leader().is_some()).then_some(())
    })
    .await;
    cluster.kill(new);
    for i in 1..=10 {
        assert_eq!(cluster.add("n", 1).await.unwrap(), i);
    }
    cluster.start(new).await;
    cluster.wait_voter(new).await;
    assert_eq!(cluster.agree().await.len(), 2001);
    assert_eq!(cluster.running[&leader].group.status().await.term, term, "an election was held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_orderly_stop_hands_over_and_leaves_a_checkpoint() {
    let mut cluster = Cluster::new(3).await;
    fill(&cluster, 0..20, 10).await;
    let leader = cluster.leader().await;
    let running = cluster.running.remove(&leader).unwrap();
    running.node.shutdown(Duration::from_secs(10)).await;
    drop(running);
    cluster.leader().await;
    cluster.start(leader).await;
    let status = cluster.running[&leader].group.status().await;
    assert!(status.checkpoint.is_some());
    assert_eq!(cluster.agree().await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_checkpoint_in_small_steps_holds_one_moment_and_hurries_for_who_waits() {
    // One chunk a step, and rests between them: a second or so in all.
    let mut cluster = Cluster::with_limits(1, Limits { checkpoint_step_bytes: 1, ..small() }).await;
    fill(&cluster, 0..500, 100).await;
    let group = cluster.running[&1].group.clone();
    let mut events = group.events();
    let first = group.applied_index().unwrap();
    group.checkpoint_soon().await;
    eventually("its beginning", || now(group.status()).checkpoint_running).await;
    let mut added = 0;
    while group.status().await.checkpoint_running.is_some() {
        added += 1;
        assert_eq!(cluster.add("n", 1).await.unwrap(), added);
        cluster.add(&format!("k{added}"), 1_000_000).await.unwrap();
    }
    assert!(added > 1, "nothing was applied while it was written");
    let held = loop {
        if let Event::Checkpoint { index } = events.next().await.unwrap() {
            break index;
        }
    };
    assert_eq!(held, first, "it holds what was there when it was asked for");
    // The next one is under way when somebody wants one and waits.
    group.checkpoint_soon().await;
    cluster.add("n", 1).await.unwrap();
    let wanted = group.applied_index();
    assert!(Some(group.checkpoint().await.unwrap()) >= wanted);

    let before = cluster.running[&1].toy.values();
    drop((group, events));
    cluster.kill(1);
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.running[&1].toy.values(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_tail_of_the_log_is_part_of_what_is_loaded() {
    let mut cluster = Cluster::with_limits(1, small()).await;
    fill(&cluster, 0..100, 1000).await;
    cluster.running[&1].group.checkpoint().await.unwrap();
    let checkpoint = {
        cluster.kill(1);
        cluster.start(1).await;
        cluster.running[&1].loaded()
    };
    fill(&cluster, 0..200, 1000).await;
    cluster.leader().await;
    cluster.kill(1);
    cluster.start(1).await;
    let (total, loaded) = cluster.running[&1].loaded();
    assert_eq!(total, loaded, "it has started");
    assert!(total > checkpoint.0 + 200_000, "{total} bytes with 200 KB behind a checkpoint of {checkpoint:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_receiver_has_is_let_go_of_and_one_that_begins_anew_gets_a_newer_snapshot() {
    // Some seconds for one snapshot. A view of the toy can't give a chunk that it has let go of.
    let mut cluster = Cluster::with_limits(1, Limits { snapshot_rate: 300_000, ..small() }).await;
    fill(&cluster, 0..800, 1000).await;
    cut(&cluster, 1).await;
    let released = cluster.running[&1].toy.released.clone();
    let before = released.load(Relaxed);
    let new = cluster.join(false).await;
    let group = cluster.running[&1].group.clone();
    let on_its_way = || now(group.status()).members.iter().any(|member| member.id == new && member.snapshot.is_some());
    eventually("chunks are let go of on the way", || {
        (released.load(Relaxed) >= before + CHUNKS / 4 && on_its_way()).then_some(())
    })
    .await;
    // It has nothing any more of what it had confirmed.
    cluster.kill(new);
    cluster.add("n", 1).await.unwrap();
    cluster.start(new).await;
    assert_eq!(cluster.agree().await.len(), 801);
    let status = cluster.running[&new].group.status().await;
    assert_eq!(status.snapshots_received, 1);
    assert!(status.snapshot_bytes_received > 800_000, "{} bytes", status.snapshot_bytes_received);
    let sent = released.load(Relaxed) - before;
    assert!(sent > CHUNKS, "{sent} chunks were let go of, with two snapshots begun");
}
