//! Snapshots to members that join: slow ones, and ones whose connection or sender is lost on the way.

use crate::BINARY;
use crate::backup::{quorate, said};
use crate::relay::Relay;
use quorate_testkit::{Cluster, ClusterOptions, Value, http, wait_until};
use serde_json::{Value as Json, json};

const BYTES: u64 = 8_000_000;
/// Some seconds for one of so many bytes, of which the log holds nothing.
const SLOW: &str = "--checkpoint-log-bytes 1mb --keep-log-bytes 0 --snapshot-rate 2mb";

/// Writes so many bytes, and has the log cut behind them.
fn fill(cluster: &Cluster, leader: usize, bytes: u64) {
    let mut conn = cluster.members[leader].conn();
    for n in 0..bytes / 2000 {
        assert_eq!(conn.cmd(&format!("SET key:{n} {}", "x".repeat(2000))).unwrap(), Value::ok());
    }
    for at in cluster.running() {
        wait_until("its log was cut", || {
            let _ = http::post(cluster.members[at].admin, "/v1/snapshot", &json!({}));
            (cluster.members[at].status()?["purged"].as_u64()? > 1000).then_some(())
        });
    }
}

#[test]
fn a_snapshot_that_is_broken_off_again_and_again_goes_on_where_it_was() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1).args(SLOW));
    fill(&cluster, 0, BYTES);
    let new = cluster.add_member();
    let relay = Relay::start(cluster.ports.next_port(), cluster.members[new].peer);
    let advertised = ["--advertise-peer".to_owned(), relay.addr.to_string()];
    cluster.members[new].command_mut().extend(advertised);
    cluster.members[new].start();
    let passed = || relay.passed();
    for cut in 1..=3 {
        wait_until("a part of it has gone by", || (passed() > cut * BYTES / 5).then_some(()));
        relay.cut();
    }
    cluster.members[new].wait_ready();
    wait_until("it has all", || (cluster.members[new].status()?["keys"].as_u64()? == BYTES / 2000).then_some(()));
    let all = passed();
    assert!(all < BYTES * 3 / 2, "{all} bytes went by for {BYTES}: it was not begun anew each time");
    assert!(cluster.members[new].output().contains("a snapshot goes on where it broke off"));
    cluster.wait_settled();
}

/// What the leader tells of the snapshot to the member at that peer address: bytes sent, and of how many.
fn progress(cluster: &Cluster, leader: usize, peer: &str) -> Option<(u64, u64)> {
    let url = cluster.members[leader].admin_url();
    let output = quorate(&["member", "list", "--json", "--admin", &url]);
    assert!(output.status.success(), "{}", said(&output));
    let list: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let member = list["members"].as_array()?.iter().find(|member| member["peer"] == peer)?;
    Some((member["progress"]["bytes"].as_u64()?, member["progress"]["total"].as_u64()?))
}

/// A new member that can be reached through a relay only, which holds what is sent to it after so many bytes.
fn join_held(cluster: &mut Cluster, bytes: u64) -> (usize, Relay) {
    let new = cluster.add_member();
    let relay = Relay::start(cluster.ports.next_port(), cluster.members[new].peer);
    relay.hold_after(bytes);
    let advertised = ["--advertise-peer".to_owned(), relay.addr.to_string()];
    cluster.members[new].command_mut().extend(advertised);
    cluster.members[new].start();
    wait_until("a part of it has gone by", || relay.is_holding().then_some(()));
    (new, relay)
}

#[test]
fn a_snapshot_at_a_slow_rate_tells_how_far_it_is_and_is_of_one_moment() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1).args(SLOW));
    fill(&cluster, 0, BYTES);
    let (new, relay) = join_held(&mut cluster, BYTES / 3);
    let peer = relay.addr.to_string();
    let (bytes, total) =
        wait_until("the leader tells how far it is", || progress(&cluster, 0, &peer).filter(|(bytes, _)| *bytes > 0));
    assert!(bytes < BYTES * 2 / 3 && bytes <= total, "{bytes} of {total} with the middle of it held");
    // What was sent is written over, and what is still to be sent, too.
    let mut conn = cluster.members[0].conn();
    for n in 0..BYTES / 2000 {
        assert_eq!(conn.cmd(&format!("SET key:{n} new")).unwrap(), Value::ok());
    }
    relay.go_on();
    cluster.members[new].wait_ready();
    cluster.wait_settled();
    cluster.wait_caught_up();
    assert_eq!(progress(&cluster, 0, &peer), None, "nothing is on its way any more");
    assert_eq!(cluster.members[new].status().expect("its status")["keys"].as_u64(), Some(BYTES / 2000));
    // All members are asked for what they hold, by their digests.
    let checked = http::post(cluster.members[0].admin, "/v1/check", &json!({})).unwrap();
    assert!(checked.is_ok(), "{}", checked.body);
}

#[test]
fn a_snapshot_whose_sender_is_killed_comes_of_the_next_leader() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args(SLOW));
    let leader = cluster.leader();
    fill(&cluster, leader, BYTES);
    let (new, relay) = join_held(&mut cluster, BYTES / 3);
    cluster.members[leader].kill();
    relay.go_on();
    assert_ne!(cluster.leader(), leader);
    cluster.members[new].wait_ready();
    wait_until("it has all", || (cluster.members[new].status()?["keys"].as_u64()? == BYTES / 2000).then_some(()));
    cluster.members[leader].start();
    cluster.members[leader].wait_ready();
    cluster.wait_settled();
    cluster.wait_caught_up();
}
