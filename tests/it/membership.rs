//! Members join, leave and are replaced while clients write.

use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Conn, Value, http, wait_until};
use serde_json::json;

/// Adds a member, starts it, and waits until it is a voter that has caught up.
fn join(cluster: &mut Cluster) -> usize {
    let at = cluster.add_member();
    cluster.members[at].start();
    cluster.members[at].wait_ready();
    cluster.wait_settled();
    at
}

fn remove(cluster: &Cluster, through: usize, id: u64) -> http::Answer {
    http::delete(cluster.members[through].admin, &format!("/v1/members/{id}")).expect("an answer")
}

fn member_ids(cluster: &Cluster, at: usize) -> Vec<u64> {
    let members = wait_until("the members are told", || cluster.members[at].members());
    members.iter().filter_map(|member| member["id"].as_u64()).collect()
}

#[test]
fn a_fourth_and_a_fifth_member_join_under_load_and_carry_the_group() {
    let mut cluster = three_members();
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(200);
    let fourth = join(&mut cluster);
    let fifth = join(&mut cluster);
    load.set_addrs(&cluster.addrs());
    load.wait_progress(200);
    assert_eq!(member_ids(&cluster, fifth), [1, 2, 3, 4, 5], "ids are given in order");
    // Two of five may go, the leader among them, only if the new ones count.
    let leader = cluster.leader();
    let other = (0..3).find(|at| *at != leader).expect("another of the first three");
    cluster.members[leader].kill();
    cluster.members[other].kill();
    load.wait_progress(200);
    let books = load.stop();
    cluster.wait_caught_up();
    for at in [fourth, fifth] {
        books.check_member(&cluster.members[at]);
    }
}

#[test]
fn a_member_joins_by_snapshot_when_the_log_is_cut() {
    let options = ClusterOptions::new(BINARY).args("--keep-log-bytes 0");
    let mut cluster = Cluster::start(options);
    let leader = cluster.leader();
    let mut conn = cluster.members[leader].conn();
    let value = "v".repeat(1000);
    for number in 0..3000 {
        conn.send(&["SET", &format!("filler:{number}"), &value]).unwrap();
    }
    for _ in 0..3000 {
        assert_eq!(conn.read().unwrap(), Value::ok());
    }
    let load = Load::start(10, &cluster.addrs());
    load.wait_progress(100);
    wait_until("the log is cut behind a checkpoint", || {
        let answer = http::post(cluster.members[leader].admin, "/v1/snapshot", &json!({})).ok()?;
        assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
        let leader = cluster.find_leader()?;
        (cluster.members[leader].status()?["purged"].as_u64()? > 0).then_some(())
    });
    let fourth = join(&mut cluster);
    let info = cluster.members[fourth].conn().cmd("INFO raft").expect("INFO").as_text().expect("a text");
    assert!(!info.contains("raft_snapshots_received:0"), "it came by the log alone");
    load.set_addrs(&cluster.addrs());
    load.wait_progress(100);
    // It must also be able to come back with what it was sent.
    cluster.members[fourth].kill();
    cluster.members[fourth].start();
    cluster.wait_settled();
    cluster.transfer_leader(Some(fourth));
    let books = load.stop();
    let mut conn = cluster.members[fourth].conn();
    books.check(&mut conn);
    for number in 0..3000 {
        assert_eq!(conn.call(&["GET", &format!("filler:{number}")]).unwrap(), Value::bulk(&value), "key {number}");
    }
}

#[test]
fn the_leader_is_removed_under_load() {
    let mut cluster = three_members();
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(200);
    let leader = cluster.leader();
    let id = cluster.members[leader].id();
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let answer = remove(&cluster, others[0], id);
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    let addrs: Vec<_> = others.iter().map(|at| cluster.members[*at].client).collect();
    load.set_addrs(&addrs);
    // It runs on for a while, or ends; it is not needed, and acknowledges nothing.
    load.wait_progress(200);
    let removed = Conn::open(cluster.members[leader].client).and_then(|mut conn| conn.cmd("SET load:stray 1"));
    assert!(!matches!(removed, Ok(Value::Simple(_))), "a removed member acknowledged a write");
    load.wait_progress(200);
    let books = load.stop();
    cluster.members[leader].kill();
    cluster.wait_caught_up();
    assert!(!member_ids(&cluster, others[0]).contains(&id), "it is no member any more");
    for at in others {
        books.check_member(&cluster.members[at]);
    }
}

#[test]
fn a_removed_member_cannot_disturb_the_rest() {
    let mut cluster = three_members();
    let load = Load::start(10, &cluster.addrs());
    load.wait_progress(100);
    let leader = cluster.leader();
    let removed = cluster.follower();
    let id = cluster.members[removed].id();
    // It is away when it is removed, so it comes back believing that it belongs.
    cluster.members[removed].kill();
    let answer = remove(&cluster, leader, id);
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    let rest: Vec<usize> = (0..3).filter(|at| *at != removed).collect();
    load.set_addrs(&rest.iter().map(|at| cluster.members[*at].client).collect::<Vec<_>>());
    load.wait_progress(100);
    let leader_of_rest = |cluster: &Cluster| {
        wait_until("the rest has a leader", || {
            let status = cluster.members[rest[0]].status()?;
            Some((status["leader"].as_u64()?, status["term"].as_u64()?))
        })
    };
    let before = leader_of_rest(&cluster);
    cluster.members[removed].start();
    load.wait_progress(2000);
    for _ in 0..3 {
        if cluster.members[removed].process().ended().is_none() {
            cluster.members[removed].kill();
            cluster.members[removed].start();
        }
        load.wait_progress(500);
    }
    assert_eq!(leader_of_rest(&cluster), before, "nobody was elected meanwhile");
    let books = load.stop();
    if cluster.members[removed].is_running() {
        cluster.members[removed].kill();
    }
    cluster.wait_caught_up();
    rest.iter().for_each(|at| books.check_member(&cluster.members[*at]));
}

#[test]
fn clients_of_a_removed_member_are_told_to_go_elsewhere() {
    let cluster = three_members();
    let (leader, removed) = (cluster.leader(), cluster.follower());
    let member = &cluster.members[removed];
    let mut conn = member.conn();
    assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
    assert!(remove(&cluster, leader, member.id()).is_ok());
    let gone = "CLUSTERDOWN This member was removed from its group; connect to another one";
    wait_until("it has heard of it", || (conn.cmd("GET k").ok()?.error()? == gone).then_some(()));
    for line in ["SET k w", "MEMORY USAGE k", "WATCH k", "CONFIG SET hash-max-listpack-value 70"] {
        assert_eq!(conn.cmd(line).unwrap().error(), Some(gone), "{line}");
    }
    assert_eq!(conn.cmd("READONLY").unwrap(), Value::ok());
    assert_eq!(conn.cmd("GET k").unwrap().error(), Some(gone), "what it has is old, and older every day");
    assert_eq!(conn.cmd("PING").unwrap(), Value::Simple("PONG".into()));
    let ready = http::get(member.admin, "/readyz?verbose").unwrap();
    assert!(ready.body.contains("[-]leader failed: this member was removed from its group"), "{}", ready.body);
}

#[test]
fn a_removal_that_would_cost_the_quorum_is_refused_with_the_reason() {
    let mut cluster = three_members();
    let leader = cluster.leader();
    let followers: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let ids: Vec<u64> = followers.iter().map(|at| cluster.members[*at].id()).collect();
    cluster.members[followers[0]].kill();
    wait_until("the leader notices", || {
        let members = cluster.members[leader].members()?;
        let dead = members.iter().find(|member| member["id"] == ids[0])?;
        (!quorate_testkit::cluster::is_healthy(dead)).then_some(())
    });
    let refused = remove(&cluster, leader, ids[1]);
    assert_eq!(refused.status, 409, "{}", refused.body);
    let error = refused.json();
    for field in ["code", "message", "hint"] {
        assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {error}");
    }
    assert_eq!(cluster.members[leader].members().expect("members").len(), 3, "nothing was changed");
    // The dead one may go, and then the group of two serves.
    let answer = remove(&cluster, leader, ids[0]);
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    assert_eq!(cluster.members[leader].conn().cmd("SET k v").unwrap(), Value::ok());
    assert_eq!(member_ids(&cluster, leader).len(), 2);
    let missing = remove(&cluster, leader, 99);
    assert_eq!(missing.status, 404, "{}", missing.body);
}

#[test]
fn without_a_majority_nobody_is_taken_in_and_the_answer_says_so() {
    let mut cluster = three_members();
    let leader = cluster.leader();
    for at in (0..3).filter(|at| *at != leader) {
        cluster.members[at].kill();
    }
    wait_until("the leader notices", || {
        let members = cluster.members[leader].members()?;
        (members.iter().filter(|member| !quorate_testkit::cluster::is_healthy(member)).count() == 2).then_some(())
    });
    let wish = json!({"client": "127.0.0.1:1", "peer": "127.0.0.1:2", "admin": "127.0.0.1:3"});
    let refused = http::post(cluster.members[leader].admin, "/v1/members", &wish).expect("an answer");
    let error = refused.json();
    assert_eq!((refused.status, error["code"].as_str()), (503, Some("no_quorum")), "{error}");
    assert!(error["message"].as_str().is_some_and(|words| words.contains("of 3 voters 2 must agree")), "{error}");
    assert!(error["hint"].as_str().is_some_and(|words| words.contains("nothing was changed")), "{error}");
    assert_eq!(member_ids(&cluster, leader).len(), 3);
}

#[test]
fn ids_are_never_used_again() {
    let mut cluster = three_members();
    let leader = cluster.leader();
    let fourth = join(&mut cluster);
    let id = cluster.members[fourth].id();
    assert_eq!(id, 4);
    assert!(remove(&cluster, leader, id).is_ok());
    cluster.members[fourth].kill();
    let next = join(&mut cluster);
    assert_eq!(cluster.members[next].id(), 5, "4 was used once");
}

#[test]
fn every_member_answers_for_the_group_and_passes_on_what_the_leader_must_do() {
    let cluster = three_members();
    let leader = cluster.leader();
    let told: Vec<_> = cluster.members.iter().map(|member| member.members().expect("members")).collect();
    for members in &told {
        assert_eq!(members.len(), 3);
        assert_eq!(members.iter().filter(|member| member["role"] == "leader").count(), 1);
        for (member, first) in members.iter().zip(&told[0]) {
            for field in ["id", "role", "voter", "client", "peer", "admin"] {
                assert_eq!(member[field], first[field], "members agree about {field}");
            }
        }
    }
    // Asked of a follower.
    let target = cluster.follower();
    let answer =
        http::post(cluster.members[target].admin, "/v1/leader", &json!({ "to": cluster.members[target].id() }));
    let answer = answer.expect("an answer");
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    wait_until("the follower leads", || (cluster.find_leader()? == target).then_some(()));
    assert_ne!(target, leader);
    for member in &cluster.members {
        for path in ["/livez", "/readyz", "/readyz?verbose", "/metrics", "/openapi.json", "/v1/status"] {
            let answer = http::get(member.admin, path).expect("an answer");
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            assert!(!answer.body.is_empty(), "{path} says something");
        }
        let metrics = http::get(member.admin, "/metrics").expect("an answer").body;
        assert!(metrics.lines().any(|line| line.starts_with("# TYPE ")), "{metrics}");
        assert_eq!(http::get(member.admin, "/v1/nothing").expect("an answer").status, 404);
    }
}
