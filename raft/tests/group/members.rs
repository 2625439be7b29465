//! Members come, become voters, hand over, and go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft::{ChangeError, Event, Group, Identity, Member};
use uuid::Uuid;

use crate::cluster::{Cluster, LONG, addresses, eventually, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn members_join_catch_up_vote_and_their_ids_are_never_used_again() {
    let mut cluster = Cluster::new(3).await;
    for i in 0..100 {
        cluster.add(&format!("k{i}"), 1).await.unwrap();
    }
    let fourth = cluster.join(true).await;
    cluster.wait_voter(fourth).await;
    assert_eq!(cluster.agree().await.len(), 100);

    let leader = cluster.leader().await;
    let out = cluster.voters(leader).into_iter().find(|id| *id != leader && *id != fourth).unwrap();
    cluster.running[&leader].group.remove(out).await.unwrap();
    assert!(!cluster.voters(leader).contains(&out));
    let fifth = cluster.join(true).await;
    assert_eq!((fourth, fifth), (4, 5));
    cluster.running.remove(&out);
    cluster.wait_voter(fifth).await;
    cluster.add("after", 1).await.unwrap();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_learner_stays_a_learner_until_it_is_promoted() {
    let mut cluster = Cluster::new(1).await;
    let learner = cluster.join(false).await;
    cluster.add("a", 1).await.unwrap();
    cluster.agree().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.voters(1), [1]);
    cluster.running[&1].group.promote(learner).await.unwrap();
    cluster.wait_voter(learner).await;
    let error = cluster.running[&1].group.promote(99).await.unwrap_err();
    assert!(matches!(error, ChangeError::NoSuchMember(99)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_join_that_was_not_heard_is_answered_again_and_a_used_address_is_refused() {
    let cluster = Cluster::new(1).await;
    let group = &cluster.running[&1].group;
    let member = addresses();
    let first = group.add_member(member.clone(), true).await.unwrap();
    let again = group.add_member(member.clone(), true).await.unwrap();
    assert_eq!((first.id, first.incarnation), (again.id, again.incarnation));
    let taken = Member { peer: cluster.homes[&1].member.peer.clone(), ..addresses() };
    let error = group.add_member(taken, true).await.unwrap_err();
    assert!(error.to_string().contains("remove member 1 first"), "{error}");
    let taken = Member { client: cluster.homes[&1].member.client.clone(), ..addresses() };
    assert!(matches!(group.add_member(taken, true).await, Err(ChangeError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leadership_is_handed_over() {
    let cluster = Cluster::new(3).await;
    cluster.add("n", 1).await.unwrap();
    let leader = cluster.leader().await;
    let to = cluster.voters(leader).into_iter().find(|id| *id != leader).unwrap();
    let group = cluster.running[&leader].group.clone();
    assert_eq!(group.transfer(Some(to)).await.unwrap(), to);
    eventually("the new leader's lease", || cluster.running[&to].group.lease_ready().then_some(())).await;
    assert!(!group.lease_ready());
    assert_eq!(cluster.add("n", 1).await.unwrap(), 2);
    assert!(matches!(group.transfer(None).await, Err(ChangeError::NotLeader { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn units_that_wait_during_a_hand_over_are_certain_and_lost_nowhere() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let groups: Vec<_> = cluster.running.values().map(|r| r.group.clone()).collect();
    let writers: Vec<_> = (0..20)
        .map(|i| {
            let groups = groups.clone();
            tokio::spawn(async move {
                let (mut done, mut at) = (0i64, 0usize);
                let start = Instant::now();
                while done < 50 {
                    assert!(start.elapsed() < LONG);
                    let unit = Bytes::from(format!("add w{i} 1"));
                    match groups[at].propose_patiently(unit, Duration::from_secs(5)).await {
                        Ok(reply) => {
                            done += 1;
                            assert_eq!(reply, Bytes::from(done.to_string()));
                        }
                        Err(quorate_raft::ProposeError::NotLeader { leader }) => {
                            let next = leader.map(|(id, _)| id);
                            at = groups.iter().position(|g| Some(g.member_id()) == next).unwrap_or(at);
                        }
                        Err(error) => panic!("a hand-over must not cost certainty: {error}"),
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.running[&leader].group.transfer(None).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(cluster.agree().await.values().all(|n| *n == 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_leader_removes_itself_and_is_told() {
    let mut cluster = Cluster::new(3).await;
    cluster.add("n", 1).await.unwrap();
    let leader = cluster.leader().await;
    let mut events = cluster.running[&leader].group.events();
    cluster.running[&leader].group.remove(leader).await.unwrap();
    let removed = async { while !matches!(events.next().await, Some(Event::Removed) | None) {} };
    tokio::time::timeout(LONG, removed).await.expect("the removed member hears of it");

    let rest: Vec<_> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    let next = cluster.leader_among(&rest).await;
    assert_eq!(cluster.voters(next).into_iter().collect::<BTreeSet<_>>(), rest.into_iter().collect());
    // It disturbs nobody, not even when it comes back.
    cluster.kill(leader);
    cluster.start(leader).await;
    let mut events = cluster.running[&leader].group.events();
    let term = cluster.running[&next].group.status().await.term;
    let removed = async { while !matches!(events.next().await, Some(Event::Removed) | None) {} };
    tokio::time::timeout(LONG, removed).await.expect("it is told again");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.running[&next].group.status().await.term, term);
    cluster.running.remove(&leader);
    cluster.add("n", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_removal_that_would_cost_the_majority_is_refused_with_the_reason() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.voters(leader).into_iter().filter(|id| *id != leader).collect();
    cluster.kill(others[0]);
    let group = cluster.running[&leader].group.clone();
    eventually("its silence", || {
        let seen = now(group.status());
        seen.members.iter().any(|m| m.id == others[0] && m.healthy == Some(false)).then_some(())
    })
    .await;
    let error = group.remove(others[1]).await.unwrap_err();
    assert!(error.to_string().contains("silent"), "{error}");
    group.remove(others[0]).await.unwrap();
    assert_eq!(cluster.voters(leader).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_leader_does_not_guess_what_a_silent_member_lacks() {
    let mut cluster = Cluster::new(3).await;
    cluster.add("n", 1).await.unwrap();
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.voters(leader).into_iter().filter(|id| *id != leader).collect();
    let (next, silent) = (others[0], others[1]);
    cluster.kill(silent);
    cluster.running[&leader].group.transfer(Some(next)).await.unwrap();
    assert_eq!(cluster.leader_among(&[next]).await, next);
    let lag = |of: &Group, id| now(of.status()).members.iter().find(|m| m.id == id).unwrap().lag;
    let group = cluster.running[&next].group.clone();
    eventually("an answer of the other", || (lag(&group, leader) == Some(0)).then_some(())).await;
    assert_eq!(lag(&group, silent), None);
    assert_eq!(lag(&cluster.running[&leader].group, leader), None, "only the leader knows");
    cluster.start(silent).await;
    eventually("an answer of the one that is back", || (lag(&group, silent) == Some(0)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_with_an_empty_disk_under_its_old_id_is_refused() {
    let mut cluster = Cluster::new(3).await;
    cluster.add("n", 1).await.unwrap();
    let leader = cluster.leader().await;
    let lost = cluster.voters(leader).into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(lost);
    // Somebody has emptied the directory and written the old id into it, with an incarnation of his own.
    let mut home = cluster.homes[&lost].clone();
    home.dir = cluster.fresh_dir();
    home.identity = Identity { incarnation: Uuid::from_u128(0xBAD), ..home.identity };
    cluster.homes.insert(lost, home);
    cluster.start(lost).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let impostor = &cluster.running[&lost].group;
    assert_eq!(impostor.applied_index(), None, "nothing was sent to it");
    assert!(impostor.leader().is_none());
    eventually("its silence", || {
        let seen = now(cluster.running[&leader].group.status());
        seen.members.iter().any(|m| m.id == lost && m.healthy == Some(false)).then_some(())
    })
    .await;
    // What the message says to do works: remove it, and join as a new member.
    cluster.running.remove(&lost);
    cluster.running[&leader].group.remove(lost).await.unwrap();
    let new = cluster.join(true).await;
    cluster.wait_voter(new).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_with_new_addresses_tells_them_to_the_group() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let moved = cluster.voters(leader).into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(moved);
    let mut home = cluster.homes[&moved].clone();
    home.member.client = "127.0.0.1:1".into();
    cluster.homes.insert(moved, home);
    cluster.start(moved).await;
    eventually("the new address everywhere", || {
        cluster
            .running
            .values()
            .all(|r| r.group.members().iter().any(|(id, m, _)| *id == moved && m.client == "127.0.0.1:1"))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_that_lost_its_log_does_not_start_and_if_it_does_it_harms_nobody() {
    let mut cluster = Cluster::new(3).await;
    cluster.add("n", 1).await.unwrap();
    cluster.agree().await;
    let leader = cluster.leader().await;
    let lost = cluster.voters(leader).into_iter().find(|id| *id != leader).unwrap();
    let home = cluster.homes[&lost].clone();
    let marker = home.dir.join("group-0.begun");
    eventually("the marker", || marker.exists().then_some(())).await;
    cluster.kill(lost);
    eventually("an end of its writing", || std::fs::remove_dir_all(home.dir.join("wal")).is_ok().then_some(())).await;
    let _ = std::fs::remove_dir_all(home.dir.join("checkpoint"));
    let begun = Instant::now();
    let error = loop {
        match cluster.try_start(&home, false).await {
            Err(quorate_raft::NodeError::Damaged(words)) if words.contains("forgotten") => break words,
            // The port of the one that was torn down.
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
            Ok(_) => panic!("it started without its log"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(error.contains("join again"), "{error}");

    // Somebody who removes that file, too, gets no further: the leader knows what this member once had.
    std::fs::remove_file(marker).unwrap();
    cluster.start(lost).await;
    for i in 2..=20 {
        assert_eq!(cluster.add("n", 1).await.unwrap(), i);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.leader().await, leader, "a leader must not fall over the loss of another");
    assert_eq!(cluster.running[&lost].group.applied_index(), None);
}
