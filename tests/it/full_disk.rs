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
    assert_eq!(conn.info("persistence", "log_has_room"), "1");
    assert_eq!(conn.cmd("SET short-lived v PX 1").unwrap(), Value::ok());

    disk.fill(&mut cluster.members[0]);
    let mut refused = write_until_refused(&mut conn, 1);
    assert_eq!(conn.info("persistence", "log_has_room"), "0");
    assert_eq!(conn.info("persistence", "aof_last_write_status"), "err");
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
    assert_eq!(conn.info("persistence", "aof_last_write_status"), "ok");
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

/// Writes the same keys again and again, so that the log grows and what is held doesn't.
fn write_over(conn: &mut Conn, rounds: usize) {
    for number in (0..rounds).flat_map(|_| 0..300) {
        assert_eq!(set(conn, number), Value::ok());
    }
}

fn shrink_ballast(member: &Member, by: u64) {
    let ballast = File::options().write(true).open(member.dir.join("ballast")).expect("the ballast");
    let size = ballast.metadata().expect("its size").len();
    ballast.set_len(size - by).expect("it is made smaller");
}

fn metric(member: &Member, name: &str) -> f64 {
    let page = member.ask("/metrics").expect("the metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("{name} in {page}"))
}

#[test]
fn a_follower_without_room_for_a_snapshot_waits_for_it() {
    let args = "--segment-bytes 2mb --checkpoint-log-bytes 4mb --keep-log-bytes 1mb";
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(2).args(args));
    let at = cluster.add_member();
    let disk = SmallDisk::for_member(&mut cluster.members[at]);
    if matches!(disk, SmallDisk::Limited) {
        eprintln!("skipped: this process may not mount a disk of its own");
        return;
    }
    cluster.members[at].start();
    cluster.members[at].wait_ready();
    cluster.wait_settled();
    let leader = cluster.leader();
    if leader == at {
        cluster.transfer_leader(Some(0));
    }
    let leader = cluster.leader();
    let mut conn = cluster.members[leader].conn();
    assert_eq!(conn.cmd("SET a b").unwrap(), Value::ok());
    cluster.wait_caught_up();
    disk.fill(&mut cluster.members[at]);

    // Who asks for a checkpoint there is told at once, and who asks for its health too.
    let post = |member: &Member| quorate_testkit::http::post(member.admin, "/v1/snapshot", &serde_json::json!({}));
    let answer = post(&cluster.members[at]).unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (507, Some("no_room")), "{}", answer.body);
    assert!(metric(&cluster.members[at], "quorate_checkpoint_failures_total") >= 1.0);
    let health = cluster.members[at].ask("/readyz?verbose").unwrap();
    assert!(health.is_ok() && health.body.contains("[-]disk warning"), "{} {}", health.status, health.body);

    // Until the leader has cut off what this one needs.
    let applied = cluster.members[at].status().unwrap()["applied"].as_u64().unwrap() as f64;
    wait_until("the log is cut", || {
        write_over(&mut conn, 1);
        let applied_there = cluster.members[at].status().unwrap()["applied"].as_u64().unwrap() as f64;
        (metric(&cluster.members[leader], "quorate_raft_purged_index") > applied_there.max(applied)).then_some(())
    });
    let full = |cluster: &Cluster| {
        let members = cluster.members[leader].members().unwrap_or_default();
        let id = cluster.members[at].id();
        members.iter().any(|member| member["id"].as_u64() == Some(id) && member["health"] == "disk full")
    };
    // Room for a piece of the log, and not for a snapshot; then for the beginning of one.
    let refused = |cluster: &Cluster| cluster.members[leader].output().contains("when there is room");
    shrink_ballast(&cluster.members[at], 4 << 20);
    wait_until("it is told what is wrong", || (full(&cluster) && refused(&cluster)).then_some(()));
    assert!(cluster.members[at].process().ended().is_none(), "{}", cluster.members[at].output());
    cluster.members[at].kill();
    cluster.members[at].start();
    wait_until("it says so again", || full(&cluster).then_some(()));
    let sent = || metric(&cluster.members[leader], "quorate_raft_snapshot_sent_bytes_total");
    let before = sent();
    shrink_ballast(&cluster.members[at], 3 << 20);
    wait_until("a part of it was sent", || (sent() > before && full(&cluster)).then_some(()));
    assert!(cluster.members[at].process().ended().is_none(), "{}", cluster.members[at].output());

    disk.make_room(&mut cluster.members[at]);
    cluster.wait_settled();
    cluster.wait_caught_up();
    check(&mut cluster.members[at].conn(), 0..300);
    assert!(post(&cluster.members[at]).unwrap().is_ok());
    assert!(metric(&cluster.members[at], "quorate_checkpoint_bytes") > 0.0);
}
