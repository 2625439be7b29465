//! What a member tells: one line for an event, however often it happens again, in words that say what to do.

use crate::{BINARY, three_members};
use quorate_testkit::{Cluster, ClusterOptions, Member, http, wait_until};
use serde_json::json;

/// How many lines of a member's output hold all of these words.
fn lines(member: &Member, words: &[&str]) -> usize {
    member.output().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

#[test]
fn each_change_is_one_line_and_a_removed_member_is_told_once_by_each() {
    let cluster = three_members();
    let old = cluster.leader();
    let new = cluster.transfer_leader(None);
    assert_ne!(old, new);
    wait_until("it is told", || (lines(&cluster.members[new], &["this member leads"]) > 0).then_some(()));
    wait_until("so is the loss", || (lines(&cluster.members[old], &["this member leads no more"]) > 0).then_some(()));
    assert_eq!(lines(&cluster.members[new], &["this member leads"]), 1, "{}", cluster.members[new].output());
    assert_eq!(lines(&cluster.members[old], &["this member leads no more"]), 1, "{}", cluster.members[old].output());

    let gone = &cluster.members[old];
    let id = gone.id();
    let answer = http::delete(cluster.members[new].admin, &format!("/v1/members/{id}")).expect("an answer");
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    // It is left running, and asks the others again and again.
    let rest: Vec<&Member> = (0..3).filter(|at| *at != old).map(|at| &cluster.members[at]).collect();
    let refusal = ["the peer port was refused", "was removed from the group"];
    for member in &rest {
        wait_until("it asks again", || (lines(member, &refusal) > 0).then_some(()));
    }
    wait_until("both have told it", || (lines(gone, &["refused by another member"]) >= 2).then_some(()));
    let view = gone.ask("/v1/members").expect("an answer").json();
    assert_eq!((&view["removed"], &view["changing"]), (&json!(true), &json!(false)), "{view}");
    let own = view["members"].as_array().and_then(|all| all.iter().find(|one| one["id"] == id)).expect("itself");
    assert_eq!((&own["health"], &own["voter"]), (&json!("removed"), &json!(false)), "{view}");
    assert_eq!(lines(gone, &["this member was removed from"]), 1, "{}", gone.output());
    assert_eq!(lines(gone, &["refused by another member"]), 2, "{}", gone.output());
    for member in rest {
        assert_eq!(lines(member, &refusal), 1, "{}", member.output());
        assert_eq!(lines(member, &["member removed"]), 1, "{}", member.output());
    }
    for member in &cluster.members {
        assert!(!member.output().contains("Some("), "{}", member.output());
    }
}

#[test]
fn one_with_another_secret_is_told_what_to_do_and_fills_no_log() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--secret one --loglevel verbose"));
    let (leader, stranger) = (cluster.leader(), cluster.follower());
    cluster.members[stranger].kill();
    let command = cluster.members[stranger].command_mut();
    let place = command.iter().position(|word| word == "--secret").expect("the flag");
    "two".clone_into(&mut command[place + 1]);
    cluster.members[stranger].start();
    let (leader, stranger) = (&cluster.members[leader], &cluster.members[stranger]);
    wait_until("it has asked some times", || (lines(leader, &["port was refused again"]) >= 4).then_some(()));
    let (all, again) = (lines(leader, &["port was refused"]), lines(leader, &["port was refused again"]));
    assert_eq!(all - again, 1, "{}", leader.output());
    let advice = "set the same 'secret' on all members";
    assert!(lines(leader, &["port was refused", "has another shared secret", advice]) >= 1, "{}", leader.output());
    wait_until("it hears why", || {
        (lines(stranger, &["refused by another member", "the shared secrets differ", advice]) > 0).then_some(())
    });
}

#[test]
fn info_counts_changes_from_the_last_checkpoint_also_after_a_restart() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    for n in 0..200 {
        conn.call(&["SET", "k", &n.to_string()]).unwrap();
    }
    let changes = |conn: &mut quorate_testkit::Conn| -> u64 {
        conn.info("persistence", "rdb_changes_since_last_save").parse().expect("a number")
    };
    assert!(changes(&mut conn) >= 200);
    assert_eq!(conn.info("persistence", "aof_enabled"), "1");
    // An orderly stop takes a checkpoint.
    assert!(cluster.members[0].stop().success());
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let changes = changes(&mut cluster.members[0].conn());
    assert!(changes < 100, "{changes}");
}
