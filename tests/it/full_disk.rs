//! A disk that is full: writes are refused with certainty and told so, reads go on, and all goes on by itself when there
//! is room again. A leader gives leadership to a member that has room.
//!
//! The disk is a small tmpfs where this process may mount one. Elsewhere a limit on the size of files does nearly the
//! same to one process: the log can't make its next file.

use crate::BINARY;
use quorate_testkit::{Cluster, ClusterOptions, Conn, Member, PATIENCE, Value, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const VALUE_BYTES: usize = 20_000;

/// The disk of one member.
enum SmallDisk {
    Mounted(PathBuf),
    Limited,
}

impl SmallDisk {
    /// To be called before the member is started.
    fn for_member(member: &mut Member) -> SmallDisk {
        fs::create_dir_all(&member.dir).expect("its directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=48m", "quorate-test"]).arg(&member.dir);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return SmallDisk::Mounted(member.dir.clone());
        }
        // Whoever exceeds the limit gets a signal first, which must not end it.
        member.start_through(Path::new("/bin/sh"), &["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        SmallDisk::Limited
    }

    fn fill(&self, member: &mut Member) {
        match self {
            SmallDisk::Mounted(path) => {
                let mut ballast = File::create(path.join("ballast")).expect("a file");
                let mut piece = 1 << 20;
                while piece > 0 {
                    if ballast.write_all(&vec![1; piece]).is_err() {
                        piece /= 2;
                    }
                }
            }
            SmallDisk::Limited => limit(member, Some(300_000)),
        }
    }

    fn make_room(&self, member: &mut Member) {
        match self {
            SmallDisk::Mounted(path) => fs::remove_file(path.join("ballast")).expect("the ballast"),
            SmallDisk::Limited => limit(member, None),
        }
    }
}

fn limit(member: &mut Member, bytes: Option<u64>) {
    let pid = Pid::from_raw(member.process().pid() as i32);
    prlimit(Some(pid.expect("a process")), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let SmallDisk::Mounted(path) = self {
            // Lazily: the member may still run.
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

fn info(conn: &mut Conn, field: &str) -> String {
    let Value::Bulk(text) = conn.cmd("INFO persistence").unwrap() else { panic!("INFO is text") };
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("{field} in {text}")).to_owned()
}

fn set(conn: &mut Conn, number: usize) -> Value {
    let value = format!("{number}-{}", "x".repeat(VALUE_BYTES));
    conn.call(&["SET", &format!("key:{number}"), &value]).unwrap()
}

/// Writes until one is refused; gives the number of the refused one.
fn write_until_refused(conn: &mut Conn, from: usize) -> usize {
    for number in from..from + 1000 {
        match set(conn, number) {
            value if value == Value::ok() => {}
            Value::Error(text) => {
                assert!(text.starts_with("MISCONF ") && text.contains("nothing was done"), "{text}");
                return number;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the disk never filled");
}

fn check(conn: &mut Conn, written: std::ops::Range<usize>) {
    for number in written {
        let Value::Bulk(value) = conn.cmd(&format!("GET key:{number}")).unwrap() else {
            panic!("key:{number} is gone")
        };
        assert!(value.starts_with(format!("{number}-").as_bytes()));
    }
}

#[test]
fn writes_are_refused_while_the_disk_is_full_and_go_on_by_themselves_when_there_is_room() {
    let mut cluster = Cluster::prepare(ClusterOptions::new(BINARY).members(1).args("--segment-bytes 1mb"));
    let disk = SmallDisk::for_member(&mut cluster.members[0]);
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let mut conn = cluster.members[0].conn();
    assert_eq!(set(&mut conn, 0), Value::ok());
    assert_eq!(info(&mut conn, "log_has_room"), "1");
    assert_eq!(conn.cmd("SET short-lived v PX 1").unwrap(), Value::ok());

    disk.fill(&mut cluster.members[0]);
    let mut refused = write_until_refused(&mut conn, 1);
    assert_eq!(info(&mut conn, "log_has_room"), "0");
    assert_eq!(info(&mut conn, "aof_last_write_status"), "err");
    check(&mut conn, 0..refused);
    assert_eq!(conn.cmd(&format!("GET key:{refused}")).unwrap(), Value::Null, "nothing was done");
    // A key past due is removed through the log before a read says that it is gone: that still goes.
    assert_eq!(conn.cmd("PEXPIRETIME short-lived").unwrap(), Value::Int(-2));
    assert_eq!(conn.cmd("GET short-lived").unwrap(), Value::Null);
    let Value::Error(text) = conn.cmd("INCR counter").unwrap() else { panic!("taken on a full disk") };
    assert!(text.starts_with("MISCONF "), "{text}");

    // A start finds the disk as full, and serves what it has. It may need a little room itself: then it says so.
    if matches!(disk, SmallDisk::Mounted(_)) {
        cluster.members[0].kill();
        cluster.members[0].start();
        let serves = wait_until("it serves or ends", || {
            let member = &mut cluster.members[0];
            member.process().ended().map(|_| false).or_else(|| member.is_ready().then_some(true))
        });
        if !serves {
            let said = cluster.members[0].output();
            assert!(said.contains("No space left on device"), "{said}");
            disk.make_room(&mut cluster.members[0]);
            cluster.members[0].kill();
            cluster.members[0].start();
            cluster.members[0].wait_ready();
            disk.fill(&mut cluster.members[0]);
        }
        conn = cluster.members[0].conn();
        check(&mut conn, 0..refused);
        refused = write_until_refused(&mut conn, refused);
    }

    disk.make_room(&mut cluster.members[0]);
    wait_until("writes go on", || (set(&mut conn, refused) == Value::ok()).then_some(()));
    assert_eq!(conn.cmd("INCR counter").unwrap(), Value::Int(1), "what was refused never happened");
    assert_eq!(info(&mut conn, "aof_last_write_status"), "ok");
    // And checkpoints too.
    let answer = quorate_testkit::http::post(cluster.members[0].admin, "/v1/snapshot", &serde_json::json!({})).unwrap();
    assert!(answer.is_ok(), "{}", answer.body);
    cluster.members[0].kill();
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    check(&mut cluster.members[0].conn(), 0..refused + 1);
}

#[test]
fn a_leader_with_a_full_disk_hands_over_and_follows_as_well_as_it_can() {
    let mut cluster = Cluster::prepare(ClusterOptions::new(BINARY).members(3).args("--segment-bytes 1mb"));
    let disk = SmallDisk::for_member(&mut cluster.members[0]);
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    for at in 1..3 {
        cluster.add_member();
        cluster.members[at].start();
        cluster.members[at].wait_ready();
    }
    cluster.wait_settled();
    if cluster.leader() != 0 {
        cluster.transfer_leader(Some(0));
    }
    let mut conn = cluster.members[0].conn();
    disk.fill(&mut cluster.members[0]);
    let refused = write_until_refused(&mut conn, 0);
    let leader = wait_until("another member leads", || cluster.find_leader().filter(|leader| *leader != 0));
    // The same connection, to the member whose disk is full: it serves its clients through the new leader.
    let end = Instant::now() + PATIENCE;
    let mut next = refused;
    while next < refused + 100 {
        match set(&mut conn, next) {
            value if value == Value::ok() => next += 1,
            Value::Error(text) => assert!(Instant::now() < end && !text.starts_with("UNKNOWN"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    check(&mut conn, 0..next);
    assert!(cluster.members[0].is_running() && cluster.members[0].process().ended().is_none());
    assert_ne!(leader, 0);
    let applied = |member: &Member| member.status().and_then(|status| status["applied"].as_u64());
    let target = applied(&cluster.members[leader]).unwrap();
    assert!(applied(&cluster.members[0]).unwrap() < target, "it has no room for what came since");

    disk.make_room(&mut cluster.members[0]);
    wait_until("it catches up by itself", || applied(&cluster.members[0]).filter(|applied| *applied >= target));
    cluster.wait_settled();
    cluster.members[0].kill();
    cluster.members[0].start();
    cluster.wait_settled();
    check(&mut cluster.members[0].conn(), 0..next);
}
