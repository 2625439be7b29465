//! New groups out of backups, and out of what one member still has when the majority is gone for ever.

use crate::backup::{quorate, said, take};
use crate::{BINARY, log_tools, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Member, Value, copy_dir, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn restore(file: &Path, dir: &Path) -> std::process::Output {
    quorate(&["restore", &file.display().to_string(), "--dir", &dir.display().to_string()])
}

fn recover(dir: &Path, flags: &[&str]) -> std::process::Output {
    let dir = dir.display().to_string();
    quorate(&[&["recover", "--dir", &dir], flags].concat())
}

/// A member for a directory that a tool has made; without any flag that says where its group is.
fn member(cluster: &mut Cluster, dir: &Path) -> usize {
    let member = Member::new(BINARY.as_ref(), dir.to_path_buf(), &mut cluster.ports, &[], &[]);
    cluster.members.push(member);
    cluster.members.len() - 1
}

fn group_of(cluster: &Cluster, at: usize) -> String {
    wait_until("the member tells its group", || Some(cluster.members[at].status()?["group"].as_str()?.to_owned()))
}

fn set_of_values(cluster: &Cluster) {
    let mut conn = cluster.members[0].conn();
    for n in 0..500 {
        assert_eq!(conn.cmd(&format!("SET key:{n} value:{n}")).unwrap(), Value::ok());
        conn.cmd(&format!("HSET hash:{} field:{n} {n}", n % 7)).unwrap();
    }
    conn.cmd("SET ends soon EX 100000").unwrap();
    conn.cmd("SELECT 3").unwrap();
    conn.cmd("SET of three").unwrap();
}

fn check_values(member: &Member) {
    let mut conn = member.conn();
    wait_until("it serves", || conn.cmd("GET key:0").ok().filter(|value| *value == Value::bulk("value:0")));
    for n in 0..500 {
        assert_eq!(conn.cmd(&format!("GET key:{n}")).unwrap(), Value::bulk(format!("value:{n}").as_str()));
        assert_eq!(conn.cmd(&format!("HGET hash:{} field:{n}", n % 7)).unwrap(), Value::bulk(n.to_string().as_str()));
    }
    assert_eq!(conn.cmd("DBSIZE").unwrap(), Value::Int(508));
    let Value::Int(ttl) = conn.cmd("TTL ends").unwrap() else { panic!("no number") };
    assert!((90_000..=100_000).contains(&ttl), "{ttl}");
    conn.cmd("SELECT 3").unwrap();
    assert_eq!(conn.cmd("GET of").unwrap(), Value::bulk("three"));
}

#[test]
fn a_backup_becomes_a_new_group_that_others_join() {
    let mut cluster = three_members();
    set_of_values(&cluster);
    let file = cluster.root().join("b");
    take(&cluster, 0, &file);
    let old = group_of(&cluster, 0);
    for member in &mut cluster.members {
        member.kill();
    }
    let dir = cluster.root().join("restored");
    let made = restore(&file, &dir);
    assert!(made.status.success(), "{}", said(&made));
    let at = member(&mut cluster, &dir);
    cluster.members[at].start();
    cluster.members[at].wait_ready();
    check_values(&cluster.members[at]);
    assert_ne!(group_of(&cluster, at), old, "a group of its own");
    let other = cluster.add_member();
    cluster.members[other].start();
    cluster.wait_settled();
    cluster.members[at].conn().cmd("SET new value").unwrap();
    cluster.transfer_leader(Some(other));
    check_values_and(&cluster.members[other], "new", "value");
    // And it comes back with what it is now.
    cluster.members[at].kill();
    cluster.members[at].start();
    cluster.wait_settled();
    check_values_and(&cluster.members[at], "new", "value");
}

fn check_values_and(member: &Member, key: &str, value: &str) {
    let mut conn = member.conn();
    assert_eq!(conn.cmd(&format!("GET {key}")).unwrap(), Value::bulk(value));
    assert_eq!(conn.cmd("GET key:499").unwrap(), Value::bulk("value:499"));
    assert_eq!(conn.cmd(&format!("DEL {key}")).unwrap(), Value::Int(1));
    check_values(member);
    assert_eq!(conn.cmd(&format!("SET {key} {value}")).unwrap(), Value::ok());
}

#[test]
fn a_restore_into_a_directory_in_use_or_of_a_damaged_file_changes_nothing() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    set_of_values(&cluster);
    let file = cluster.root().join("b");
    take(&cluster, 0, &file);
    let refused = restore(&file, &cluster.members[0].dir);
    assert!(!refused.status.success() && said(&refused).contains("in use"), "{}", said(&refused));
    let mut cluster = cluster;
    cluster.members[0].kill();
    let refused = restore(&file, &cluster.members[0].dir);
    assert!(!refused.status.success() && said(&refused).contains("not empty"), "{}", said(&refused));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = cluster.root().join("damaged");
    fs::write(&damaged, bytes).unwrap();
    let dir = cluster.root().join("none");
    let refused = restore(&damaged, &dir);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(!dir.join("IDENTITY").exists() && !dir.join("wal").exists());
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    check_values(&cluster.members[0]);
}

#[test]
fn the_last_of_three_directories_becomes_a_group_of_one_with_all_that_was_acknowledged() {
    let mut cluster = three_members();
    set_of_values(&cluster);
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(500);
    let books = load.stop();
    cluster.wait_caught_up();
    let old = group_of(&cluster, 0);
    let left = cluster.follower();
    let dir = cluster.members[left].dir.clone();
    let running = recover(&dir, &["--accept-data-loss"]);
    assert!(!running.status.success() && said(&running).contains("in use"), "{}", said(&running));
    for member in &mut cluster.members {
        member.kill();
    }
    // One of the lost ones comes back later, with its old directory.
    let back = (0..3).find(|at| *at != left).unwrap();
    for at in (0..3).filter(|at| *at != left && *at != back) {
        fs::remove_dir_all(&cluster.members[at].dir).unwrap();
    }
    let asked = recover(&dir, &[]);
    assert!(!asked.status.success(), "{}", said(&asked));
    for part in ["--accept-data-loss", "What can't be known", "another directory", "log         ends with entry"] {
        assert!(said(&asked).contains(part), "{part}: {}", said(&asked));
    }
    let made = recover(&dir, &["--accept-data-loss"]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(dir.join("before-recovery-1/wal").exists(), "what was there is kept");

    cluster.members[left].start();
    cluster.members[left].wait_ready();
    books.check(&mut cluster.members[left].conn());
    let mut conn = cluster.members[left].conn();
    assert_eq!(conn.cmd("GET key:499").unwrap(), Value::bulk("value:499"));
    assert_ne!(group_of(&cluster, left), old);
    // The one that comes back is a stranger, and does no harm.
    cluster.members[back].start();
    assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
    cluster.members[back].kill();
    for _ in 0..2 {
        let at = cluster.add_member();
        cluster.members[at].start();
        cluster.wait_settled();
    }
    let last = cluster.members.len() - 1;
    assert!(cluster.members[last].id() > 3, "ids are never used again");
    // While it changes, a majority of the voters before is needed, too: that is the two of which one ends now.
    wait_until("the change of the membership is over", || {
        let info = cluster.members[last].conn().cmd("INFO raft").ok()?;
        format!("{info:?}").contains("raft_membership_changing:0").then_some(())
    });
    cluster.members[left].kill();
    cluster.wait_settled();
    books.check(&mut cluster.members[last].conn());
    assert_eq!(cluster.members[last].conn().cmd("GET k").unwrap(), Value::bulk("v"));
}

#[test]
fn a_recovery_that_was_broken_off_is_finished() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    set_of_values(&cluster);
    cluster.members[0].kill();
    let dir = cluster.members[0].dir.clone();
    let made = recover(&dir, &["--accept-data-loss"]);
    assert!(made.status.success(), "{}", said(&made));
    // As if it had ended between the log and the rest.
    let (new, old) = (dir.join("new-group"), dir.join("before-recovery-1"));
    fs::create_dir(&new).unwrap();
    for name in ["checkpoint", "IDENTITY"] {
        fs::rename(dir.join(name), new.join(name)).unwrap();
        fs::rename(old.join(name), dir.join(name)).unwrap();
    }
    cluster.members[0].start();
    assert!(!cluster.members[0].wait_end().success(), "half a recovery must not run");
    assert!(cluster.members[0].output().contains("quorate recover --dir"), "{}", cluster.members[0].output());
    let finished = recover(&dir, &["--json"]);
    assert!(finished.status.success(), "{}", said(&finished));
    let answer: serde_json::Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!((&answer["resumed"], &answer["kept"]), (&true.into(), &old.display().to_string().into()));
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    check_values(&cluster.members[0]);
}

/// The checkpoint is all that is left of a member whose log is damaged. The log itself is kept.
#[test]
fn what_the_checkpoint_holds_is_recovered_where_the_log_is_damaged() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    set_of_values(&cluster);
    assert!(cluster.members[0].stop().success(), "with a checkpoint");
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    cluster.members[0].conn().cmd("SET behind needle-in-the-log").unwrap();
    cluster.members[0].conn().cmd("SET behind gone").unwrap();
    cluster.members[0].conn().cmd("DEL behind").unwrap();
    cluster.members[0].kill();
    let dir = cluster.members[0].dir.clone();
    let (segment, at) = log_tools::find(&dir, b"needle-in-the-log");
    log_tools::flip(&segment, at);
    let damaged = fs::read(&segment).unwrap();

    let asked = recover(&dir, &[]);
    assert!(!asked.status.success(), "{}", said(&asked));
    let name = segment.file_name().unwrap().to_str().unwrap();
    for part in ["log         DAMAGED", name, "What would be lost", "--accept-data-loss", "nothing was changed"] {
        assert!(said(&asked).contains(part), "{part}: {}", said(&asked));
    }
    assert_eq!(fs::read(&segment).unwrap(), damaged);

    let made = recover(&dir, &["--accept-data-loss"]);
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(fs::read(dir.join("before-recovery-1/wal").join(name)).unwrap(), damaged, "the log is kept");
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    check_values(&cluster.members[0]);
}

/// Every file below a directory but its lock, and what is in it.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = Vec::new();
    log_tools::all_files(dir, &mut files);
    let inside = files.into_iter().filter(|path| *path != dir.join("LOCK"));
    inside.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// Whoever asks what is left of a group may want to look at it with other tools, or elsewhere, before anything is done.
#[test]
fn to_be_told_what_a_directory_holds_changes_nothing_of_it_and_what_is_kept_is_as_it_was() {
    let args = "--segment-bytes 1mb --checkpoint-log-bytes 1mb --keep-log-bytes 1mb";
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1).args(args));
    set_of_values(&cluster);
    assert!(cluster.members[0].stop().success(), "with a checkpoint");
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let large = "x".repeat(50_000);
    for _ in 0..40 {
        cluster.members[0].conn().cmd(&format!("SET large {large}")).unwrap();
    }
    cluster.members[0].conn().cmd("DEL large").unwrap();
    cluster.members[0].kill();
    let (dir, sound) = (cluster.members[0].dir.clone(), cluster.members[0].dir.with_extension("sound"));
    fs::rename(&dir, &sound).unwrap();
    for log in ["sound", "empty", "missing"] {
        let _ = fs::remove_dir_all(&dir);
        copy_dir(&sound, &dir).unwrap();
        if log != "sound" {
            fs::remove_dir_all(dir.join("wal")).unwrap();
        }
        if log == "empty" {
            fs::create_dir(dir.join("wal")).unwrap();
        }
        let before = content(&dir);
        let asked = recover(&dir, &[]);
        assert!(!asked.status.success() && said(&asked).contains("nothing was changed"), "{log}: {}", said(&asked));
        assert!(content(&dir) == before, "{log}: a file was changed: {:?}", content(&dir).keys());
        assert_eq!(dir.join("wal").exists(), log != "missing");
        assert_eq!(said(&asked).contains("log         ends with entry"), log == "sound", "{log}: {}", said(&asked));
        assert_eq!(said(&asked).contains("log         DAMAGED"), log != "sound", "{log}: {}", said(&asked));

        let made = recover(&dir, &["--accept-data-loss", "--json"]);
        assert!(made.status.success(), "{log}: {}", said(&made));
        let kept = content(&dir.join("before-recovery-1"));
        assert!(kept.iter().all(|(path, bytes)| before.get(path) == Some(bytes)), "{log}: {:?}", kept.keys());
        assert!(kept.keys().any(|path| path.starts_with("checkpoint")), "{log}");
        assert_eq!(kept.keys().any(|path| path.starts_with("wal")), log == "sound");
        cluster.members[0].start();
        cluster.members[0].wait_ready();
        check_values(&cluster.members[0]);
        cluster.members[0].kill();
    }
}
