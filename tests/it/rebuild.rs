//! `--rebuild`: a damaged member comes back as a new one, out of what the others have, and only if the group can spare
//! the one that it was.

use crate::log_tools::{find, flip};
use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Value, http, wait_until};
use serde_json::json;
use std::fs;

/// Tells the member to rebuild itself through all others.
fn tell_to_rebuild(cluster: &mut Cluster, at: usize) {
    let others = cluster.members.iter().enumerate().filter(|(other, _)| *other != at);
    let joins: Vec<String> = others.flat_map(|(_, other)| ["--join".to_owned(), other.admin_url()]).collect();
    let command = cluster.members[at].command_mut();
    command.retain(|word| word != "--bootstrap");
    while let Some(place) = command.iter().position(|word| word == "--join") {
        command.drain(place..place + 2);
    }
    command.push("--rebuild".to_owned());
    command.extend(joins);
}

/// Damages what the member at `at`, which is stopped, had acknowledged.
fn damage_log(cluster: &Cluster, at: usize) {
    let (path, place) = find(&cluster.members[at].dir, b"needle-010-needle");
    flip(&path, place);
}

fn write_needles(cluster: &Cluster) {
    let mut conn = cluster.members[cluster.leader()].conn();
    for number in 0..30 {
        assert_eq!(conn.cmd(&format!("SET needle needle-{number:03}-needle")).unwrap(), Value::ok());
    }
    cluster.wait_caught_up();
}

/// The member at `at` is one of three again, under a new id, with what it had before set aside.
fn is_rebuilt(cluster: &mut Cluster, at: usize, old: u64) {
    cluster.members[at].wait_ready();
    cluster.wait_settled();
    let new = cluster.members[at].id();
    assert!(new > old && new > 3, "an id is never used again: {new} after {old}");
    let members = cluster.members[cluster.leader()].members().expect("the members");
    let ids: Vec<u64> = members.iter().filter_map(|member| member["id"].as_u64()).collect();
    assert!(ids.len() == 3 && ids.contains(&new) && !ids.contains(&old), "{ids:?}");
    // The same flags on the next start change nothing.
    cluster.members[at].kill();
    cluster.members[at].start();
    cluster.wait_settled();
    assert_eq!(cluster.members[at].id(), new);
}

#[test]
fn a_member_with_a_damaged_log_says_what_to_do_and_rebuilds_itself_when_told() {
    let mut cluster = three_members();
    write_needles(&cluster);
    let load = Load::start(10, &cluster.addrs());
    load.wait_progress(100);
    let follower = cluster.follower();
    let old = cluster.members[follower].id();
    cluster.members[follower].kill();
    damage_log(&cluster, follower);

    cluster.members[follower].start();
    assert!(!cluster.members[follower].wait_end().success());
    let said = cluster.members[follower].output();
    assert!(said.contains("corrupt") && said.contains("--rebuild --join"), "{said}");

    tell_to_rebuild(&mut cluster, follower);
    cluster.members[follower].start();
    is_rebuilt(&mut cluster, follower, old);
    let aside = cluster.members[follower].dir.join("damaged-1");
    for part in ["wal", "IDENTITY", "WHY"] {
        assert!(aside.join(part).exists(), "{part} is kept");
    }
    load.wait_progress(100);
    let books = load.stop();
    cluster.wait_caught_up();
    books.check(&mut cluster.members[follower].conn());
}

#[test]
fn a_member_with_a_damaged_checkpoint_or_without_anything_is_rebuilt_too() {
    let mut cluster = three_members();
    let mut conn = cluster.members[0].conn();
    for number in 0..200 {
        conn.cmd(&format!("SET key:{number} {}", "checkpointed".repeat(50))).unwrap();
    }
    cluster.wait_caught_up();
    let follower = cluster.follower();
    let old = cluster.members[follower].id();
    let answer = http::post(cluster.members[follower].admin, "/v1/snapshot", &json!({})).unwrap();
    assert!(answer.is_ok(), "{}", answer.body);
    cluster.members[follower].kill();
    let store = cluster.members[follower].dir.join("checkpoint/db");
    let bytes = fs::read(&store).unwrap();
    let needle = b"checkpointedcheckpointed";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("rows hold what was written");
    flip(&store, at);
    tell_to_rebuild(&mut cluster, follower);
    cluster.members[follower].start();
    is_rebuilt(&mut cluster, follower, old);

    // The disk is lost with everything on it.
    let old = cluster.members[follower].id();
    cluster.members[follower].kill();
    fs::remove_dir_all(&cluster.members[follower].dir).unwrap();
    cluster.members[follower].start();
    is_rebuilt(&mut cluster, follower, old);

    // The others found that it held something else, and it remembers.
    let old = cluster.members[follower].id();
    cluster.members[follower].kill();
    fs::write(cluster.members[follower].dir.join("group-1.damaged"), "the data of this member is damaged\n").unwrap();
    cluster.members[follower].start();
    is_rebuilt(&mut cluster, follower, old);
    assert_eq!(
        cluster.members[follower].conn().cmd("GET key:7").unwrap(),
        Value::bulk("checkpointed".repeat(50)),
        "it has what the group has"
    );
}

#[test]
fn a_member_that_the_group_cannot_spare_is_left_as_it_is() {
    // Of two, both are needed for the change itself.
    let mut two = Cluster::start(ClusterOptions::new(BINARY).members(2));
    write_needles(&two);
    let follower = two.follower();
    two.members[follower].kill();
    damage_log(&two, follower);
    tell_to_rebuild(&mut two, follower);
    two.members[follower].start();
    assert!(!two.members[follower].wait_end().success());
    let said = two.members[follower].output();
    assert!(said.contains("can't be rebuilt; nothing was changed"), "{said}");
    let dir = two.members[follower].dir.clone();
    assert!(dir.join("IDENTITY").exists() && dir.join("wal").exists() && !dir.join("damaged-1").exists());

    // Of three, one that is away for a moment is only waited for.
    let mut three = three_members();
    write_needles(&three);
    let (leader, follower) = (three.leader(), three.follower());
    let third = 3 - leader - follower;
    let old = three.members[follower].id();
    three.members[follower].kill();
    three.members[third].kill();
    damage_log(&three, follower);
    tell_to_rebuild(&mut three, follower);
    three.members[follower].start();
    wait_until("it asks", || three.members[follower].output().contains("not removed yet").then_some(()));
    assert!(three.members[follower].dir.join("IDENTITY").exists());
    three.members[third].start();
    is_rebuilt(&mut three, follower, old);
    assert_eq!(three.members[follower].conn().cmd("GET needle").unwrap(), Value::bulk("needle-029-needle"));
}

#[test]
fn a_member_that_waits_to_be_rebuilt_stops_when_it_is_told_to() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    assert!(cluster.members[0].stop().success());
    let identity = cluster.members[0].dir.join("IDENTITY");
    flip(&identity, 10);
    let before = fs::read(&identity).unwrap();
    let nobody = cluster.ports.next_port();
    let command = cluster.members[0].command_mut();
    command.retain(|word| word != "--bootstrap");
    command.extend(["--rebuild".to_owned(), "--join".to_owned(), format!("http://127.0.0.1:{nobody}")]);
    cluster.members[0].start();
    wait_until("it waits for its group", || cluster.members[0].output().contains("not removed yet").then_some(()));
    assert!(cluster.members[0].stop().success());
    assert_eq!(fs::read(&identity).unwrap(), before, "nothing was changed");
}
