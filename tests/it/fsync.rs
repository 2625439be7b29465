//! `appendfsync`: what it is by default, what another policy changes, and that a kill of processes takes nothing under
//! any. (What a loss of power may take is shown where power can be cut: in the log's own tests.)

use crate::BINARY;
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Conn, Value, copy_dir, wait_until};
use std::fs;

#[test]
fn the_policy_is_always_by_default_and_may_change_at_run_time() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    assert_eq!(conn.info("persistence", "log_fsync_policy"), "always");
    assert_eq!(conn.info("persistence", "log_power_loss_takes"), "nothing");
    let syncs = |conn: &mut Conn| conn.info("persistence", "log_fsyncs").parse::<u64>().unwrap();
    let before = syncs(&mut conn);
    for _ in 0..20 {
        assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
    }
    assert!(syncs(&mut conn) >= before + 20, "one client that waits for each reply: a sync for each");

    assert!(matches!(conn.cmd("CONFIG SET appendfsync sometimes").unwrap(), Value::Error(_)));
    assert_eq!(conn.cmd("CONFIG SET appendfsync no").unwrap(), Value::ok());
    assert!(conn.info("persistence", "log_power_loss_takes").contains("acknowledged writes"));
    // The last sync may be one that was under way.
    let before = wait_until("the syncs come to rest", || {
        let before = syncs(&mut conn);
        std::thread::sleep(std::time::Duration::from_millis(300));
        (syncs(&mut conn) == before).then_some(before)
    });
    for _ in 0..50 {
        assert_eq!(conn.cmd("SET k w").unwrap(), Value::ok());
    }
    assert_eq!(syncs(&mut conn), before, "none was promised, none was made");
    assert_eq!(conn.info("persistence", "aof_pending_bio_fsync"), "1");
    assert_eq!(conn.cmd("WAITAOF 1 0 5000").unwrap(), Value::Array(vec![Value::Int(1), Value::Int(0)]));
    assert_eq!(conn.info("persistence", "aof_pending_bio_fsync"), "0", "who asks for a sync gets one");

    assert_eq!(conn.cmd("CONFIG SET appendfsync everysec").unwrap(), Value::ok());
    assert_eq!(conn.cmd("SET k x").unwrap(), Value::ok());
    wait_until("everysec syncs by itself", || (conn.info("persistence", "aof_pending_bio_fsync") == "0").then_some(()));
    assert!(syncs(&mut conn) > before);
}

#[test]
fn a_kill_of_all_members_takes_nothing_under_any_policy() {
    for policy in ["everysec", "no"] {
        let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args(&format!("--appendfsync {policy}")));
        let load = Load::start(10, &cluster.addrs());
        load.wait_progress(300);
        for member in &mut cluster.members {
            member.kill();
        }
        for member in &mut cluster.members {
            member.start();
        }
        load.wait_progress(200);
        let books = load.stop();
        cluster.wait_settled();
        for member in &cluster.members {
            books.check(&mut member.conn());
        }
    }
}

/// A directory as it was a moment ago is what a loss of power leaves of it.
#[test]
fn a_follower_that_forgot_its_last_moments_is_filled_again_under_everysec() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--appendfsync everysec"));
    let follower = cluster.follower();
    let load = Load::start(5, &cluster.addrs());
    load.wait_progress(200);
    cluster.members[follower].kill();
    let dir = cluster.members[follower].dir.clone();
    let before = dir.with_extension("before");
    copy_dir(&dir, &before).unwrap();
    cluster.members[follower].start();
    cluster.wait_settled();
    load.wait_progress(200);
    cluster.wait_caught_up();
    cluster.members[follower].kill();
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&before, &dir).unwrap();
    cluster.members[follower].start();
    cluster.wait_settled();
    load.wait_progress(100);
    let books = load.stop();
    cluster.wait_caught_up();
    books.check(&mut cluster.members[follower].conn());
}
