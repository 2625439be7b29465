//! What members hold is compared: the one whose memory was damaged stops, the others go on, and nobody is stopped for
//! nothing.

use crate::backup::{quorate, said};
use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Value, http, wait_until};
use serde_json::json;

fn check(cluster: &Cluster, at: usize) -> serde_json::Value {
    let answer = http::post(cluster.members[at].admin, "/v1/check", &json!({})).expect("an answer");
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    answer.json()
}

fn debuggable(args: &str) -> Cluster {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).args("--enable-debug-command yes").args(args));
    let mut conn = cluster.members[0].conn();
    for n in 0..300 {
        assert_eq!(conn.cmd(&format!("SET key:{n} value:{n}")).unwrap(), Value::ok());
    }
    conn.cmd("HSET hash field value").unwrap();
    cluster.wait_caught_up();
    cluster
}

/// The member at `odd` ends with an error that says why, and does not start again; the others serve.
fn stops(cluster: &mut Cluster, odd: usize) {
    let status = cluster.members[odd].wait_end();
    let output = cluster.members[odd].output();
    assert!(!status.success(), "{output}");
    assert!(output.contains("the data of this member is damaged"), "{output}");
    let leader = cluster.leader();
    assert_eq!(cluster.members[leader].conn().cmd("GET key:7").unwrap(), Value::bulk("value:7"));
    assert_eq!(cluster.members[leader].conn().cmd("SET key:7 value:7").unwrap(), Value::ok());
    cluster.members[odd].start();
    assert!(!cluster.members[odd].wait_end().success(), "it must not come back with what it holds");
    assert!(cluster.members[odd].output().contains("join again"), "it says what to do");
}

#[test]
fn under_load_and_after_restarts_and_snapshots_all_members_hold_the_same() {
    // Small enough for checkpoints, and for snapshots to whoever was away.
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--checkpoint-log-bytes 1mb --keep-log-bytes 0"));
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(500);
    for _ in 0..3 {
        let view = check(&cluster, cluster.follower());
        assert_eq!(view["same"], true, "{view}");
        assert_eq!(view["members"].as_array().map(Vec::len), Some(3), "{view}");
    }
    for at in 0..3 {
        cluster.members[at].kill();
        load.wait_progress(300);
        cluster.members[at].start();
        cluster.wait_settled();
        cluster.wait_caught_up();
    }
    let leader = cluster.leader();
    let mut conn = cluster.members[leader].conn();
    for n in 0..40 {
        conn.cmd(&format!("SET large:{n} {}", "x".repeat(100_000))).unwrap();
    }
    let index = |view: serde_json::Value, name: &str| view[name].as_u64().unwrap_or(0);
    wait_until("its log was cut", || {
        let _ = http::post(cluster.members[leader].admin, "/v1/snapshot", &json!({}));
        (index(cluster.members[leader].status()?, "purged") > 0).then_some(())
    });
    let new = cluster.add_member();
    cluster.members[new].start();
    cluster.wait_settled();
    assert!(cluster.members[new].output().contains("snapshot installed"), "it got a snapshot");
    let view = check(&cluster, new);
    assert_eq!((view["same"].as_bool(), view["members"].as_array().map(Vec::len)), (Some(true), Some(4)), "{view}");
    load.wait_progress(100);
    let _ = load.stop();
}

#[test]
fn a_follower_whose_memory_was_damaged_stops_and_the_others_go_on() {
    let mut cluster = debuggable("");
    assert_eq!(check(&cluster, 0)["same"], true);
    let odd = cluster.follower();
    let id = cluster.members[odd].id();
    assert_eq!(cluster.members[odd].conn().cmd("DEBUG DAMAGE-MEMORY key:7").unwrap(), Value::ok());
    let leader = cluster.leader();
    let url = cluster.members[leader].admin_url();
    let told = quorate(&["check", "--admin", &url]);
    assert!(!told.status.success(), "{}", said(&told));
    assert!(said(&told).contains(&format!("member {id}  ")), "{}", said(&told));
    stops(&mut cluster, odd);
}

#[test]
fn a_leader_whose_memory_was_damaged_stops_and_the_others_go_on() {
    let mut cluster = debuggable("");
    let odd = cluster.leader();
    // Nothing was compared before: it learns from the others that it is the odd one.
    assert_eq!(cluster.members[odd].conn().cmd("DEBUG DAMAGE-MEMORY key:7").unwrap(), Value::ok());
    let _ = http::post(cluster.members[odd].admin, "/v1/check", &json!({}));
    stops(&mut cluster, odd);
}

#[test]
fn members_are_compared_without_being_asked() {
    let mut cluster = debuggable("--check-interval 1s");
    let good = |cluster: &Cluster| {
        let leader = cluster.find_leader()?;
        let page = cluster.members[leader].ask("/metrics").ok()?.body;
        let line = page.lines().find(|line| line.starts_with("quorate_check_good_index "))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok().filter(|index| *index > 0.0)
    };
    wait_until("a comparison was made", || good(&cluster));
    let odd = cluster.follower();
    assert_eq!(cluster.members[odd].conn().cmd("DEBUG DAMAGE-MEMORY key:7").unwrap(), Value::ok());
    // A chunk that nobody writes to is read again in its turn; this one is read at once.
    cluster.members[odd].conn().cmd("SET {key:7}other value").unwrap();
    stops(&mut cluster, odd);
}

#[test]
fn one_of_two_that_differ_cannot_be_said_to_be_wrong() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(2).args("--enable-debug-command yes"));
    cluster.members[0].conn().cmd("SET k v").unwrap();
    cluster.wait_caught_up();
    assert_eq!(cluster.members[1].conn().cmd("DEBUG DAMAGE-MEMORY k").unwrap(), Value::ok());
    let view = check(&cluster, 0);
    assert_eq!(view["same"], false, "{view}");
    assert_eq!(view["members"][0]["result"], "undecided", "{view}");
    assert!(cluster.members.iter().all(quorate_testkit::Member::is_ready), "nobody stops");
}

#[test]
fn a_member_that_is_away_is_told_as_unknown() {
    let mut cluster = three_members();
    cluster.members[0].conn().cmd("SET k v").unwrap();
    let away = cluster.follower();
    let id = cluster.members[away].id();
    cluster.members[away].kill();
    let leader = cluster.leader();
    let view = check(&cluster, leader);
    let members = view["members"].as_array().expect("members");
    for member in members {
        assert_eq!(member["result"], if member["id"] == id { "unknown" } else { "same" }, "{view}");
    }
}
