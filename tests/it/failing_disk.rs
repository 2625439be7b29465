//! A disk that says that a sync has failed, once: the member stops, says which file it was, and acknowledges nothing more.
//!
//! The failure is injected by `strace`: `cargo test -p quorate --test it failing_disk -- --ignored`.

use crate::BINARY;
use quorate_testkit::{Cluster, ClusterOptions, Conn, Member, Value};
use std::path::Path;

fn set(conn: &mut Conn, number: usize) -> Option<Value> {
    let value = format!("{number}-{}", "x".repeat(20_000));
    conn.call(&["SET", &format!("key:{number}"), &value]).ok()
}

/// One member, of which one sync of a file of its log fails.
fn stops_when_a_sync_fails(segment: &str, when: &str) {
    let said = stops_when_it_fails(&format!("wal/{segment}"), when, |_| {});
    for words in ["cannot sync", segment] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("no room"), "{said}");
}

/// One member, of which a sync of a file fails: it stops by itself, and loses nothing. Gives what it said.
fn stops_when_it_fails(file: &str, when: &str, mut between: impl FnMut(&mut Conn)) -> String {
    let args = "--segment-bytes 1mb --keep-log-bytes 4mb";
    let mut cluster = Cluster::prepare(ClusterOptions::new(BINARY).members(1).args(args));
    let file = cluster.members[0].dir.join(file).display().to_string();
    let inject = format!("inject=fdatasync:error=EIO:when={when}");
    // With -D the process that is waited for is the server.
    cluster.members[0].start_through(
        Path::new("strace"),
        &["-D", "-f", "-qq", "-o", "/dev/null", "-P", &file, "-e", "trace=fdatasync", "-e", &inject],
    );
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let mut conn = cluster.members[0].conn();
    let written = (0..500)
        .take_while(|number| {
            let done = set(&mut conn, *number) == Some(Value::ok());
            between(&mut conn);
            done
        })
        .count();
    assert!((1..500).contains(&written), "the sync that fails was not met: {written}");
    for number in 500..510 {
        assert_ne!(set(&mut conn, number), Some(Value::ok()), "acknowledged behind a sync that failed");
    }
    assert!(!cluster.members[0].wait_end().success(), "it must not end as if all were well");
    let said = cluster.members[0].output();
    for words in ["Input/output error", "this member has stopped itself"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // All that was acknowledged is there.
    let mut again = Member::new(BINARY.as_ref(), cluster.members[0].dir.clone(), &mut cluster.ports, &[], &[]);
    again.start();
    again.wait_ready();
    let mut conn = again.conn();
    for number in 0..written {
        let Value::Bulk(value) = conn.cmd(&format!("GET key:{number}")).unwrap() else {
            panic!("key:{number} of {written} is gone")
        };
        assert!(value.starts_with(format!("{number}-").as_bytes()));
    }
    said
}

#[test]
#[ignore = "needs strace"]
fn a_failed_sync_of_the_log_stops_the_member() {
    stops_when_a_sync_fails("0000000000000001.wal", "25");
}

#[test]
#[ignore = "needs strace"]
fn a_failed_sync_of_the_file_that_is_made_ready_stops_the_member() {
    stops_when_a_sync_fails("0000000000000003.wal", "1");
}

/// What the sync was about can be read for as long as the machine runs, but is not durable: the start makes all of it anew.
#[test]
#[ignore = "needs strace"]
fn a_failed_sync_of_the_checkpoints_stops_the_member() {
    // Counted for each thread, and a checkpoint has one: the second is that of the manifest. The first two checkpoints are
    // whole, and go into a store of their own; of the third a third is new.
    for file in ["checkpoint.next/db", "checkpoint/db"] {
        let said = stops_when_it_fails(file, "2+", |conn| drop(conn.cmd("SAVE")));
        assert!(said.contains("the disk has failed under the checkpoints"), "{file}: {said}");
    }
}
