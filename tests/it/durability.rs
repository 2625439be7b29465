//! What was acknowledged to 20 clients is there after every fault, on every member.

use crate::three_members;
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, PATIENCE, wait_for};
use std::thread::sleep;
use std::time::Duration;

const CLIENTS: usize = 20;

/// Runs a fault under load, then compares the clients' books with what each member serves.
fn under_load(fault: impl FnOnce(&mut Cluster, &Load)) {
    let mut cluster = three_members();
    let load = Load::start(CLIENTS, &cluster.addrs());
    load.wait_progress(200);
    fault(&mut cluster, &load);
    load.wait_progress(200);
    let books = load.stop();
    cluster.wait_settled();
    assert!(books.acked() > 0, "clients were served");
    cluster.wait_caught_up();
    cluster.members.iter().for_each(|member| books.check_member(member));
}

#[test]
fn acknowledged_writes_survive_kill_9_of_the_leader() {
    under_load(|cluster, load| {
        let leader = cluster.leader();
        cluster.members[leader].kill();
        load.wait_progress(200);
        cluster.members[leader].start();
    });
}

#[test]
fn acknowledged_writes_survive_kill_9_of_a_follower() {
    under_load(|cluster, load| {
        let follower = cluster.follower();
        cluster.members[follower].kill();
        load.wait_progress(200);
        cluster.members[follower].start();
    });
}

#[test]
fn acknowledged_writes_survive_kill_9_of_all_members() {
    under_load(|cluster, load| {
        for _ in 0..3 {
            for member in &mut cluster.members {
                member.kill();
            }
            for member in &mut cluster.members {
                member.start();
            }
            load.wait_progress(100);
        }
    });
}

#[test]
fn acknowledged_writes_survive_a_leader_that_stands_still_for_five_seconds() {
    under_load(|cluster, load| {
        let leader = cluster.leader();
        cluster.members[leader].pause();
        sleep(Duration::from_secs(5));
        cluster.members[leader].resume();
        // The others must have gone on without it, and it must follow now.
        let now = cluster.leader();
        assert_ne!(now, leader, "the members that ran elected one of them");
        load.wait_progress(200);
    });
}

#[test]
fn acknowledged_writes_survive_a_restart_of_each_member_in_turn() {
    under_load(|cluster, load| {
        for at in 0..cluster.members.len() {
            let status = cluster.members[at].stop();
            assert!(status.success(), "an orderly stop ends with 0, not with {status}");
            load.wait_progress(100);
            cluster.members[at].start();
            cluster.wait_settled();
        }
    });
}

#[test]
fn acknowledged_writes_survive_a_row_of_kills_at_any_moment() {
    under_load(|cluster, load| {
        // Without waiting for anything to settle: also while a member starts, or elects, or catches up.
        for number in 0..12_u64 {
            let at = (number * 7 % 3) as usize;
            cluster.members[at].kill();
            cluster.members[at].start();
            sleep(Duration::from_millis(number * 53 % 400));
        }
        load.wait_progress(100);
    });
}

#[test]
fn a_stop_by_sigterm_ends_with_zero_under_load_and_hands_over() {
    let mut cluster = three_members();
    let load = Load::start(CLIENTS, &cluster.addrs());
    load.wait_progress(200);
    let leader = cluster.leader();
    let status = cluster.members[leader].stop();
    assert_eq!(status.code(), Some(0), "{}", cluster.members[leader].output());
    let next = wait_for(PATIENCE, || cluster.find_leader()).expect("the others have a leader");
    assert_ne!(next, leader);
    load.wait_progress(200);
    let books = load.stop();
    books.check(&mut cluster.members[next].conn());
    cluster.members[leader].start();
    cluster.wait_settled();
    cluster.wait_caught_up();
    books.check_member(&cluster.members[leader]);
}
