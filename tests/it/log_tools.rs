//! `quorate log dump` and `quorate log verify` on directories of real members: refused while they run, right when they
//! are stopped, honest when they are damaged.

use crate::BINARY;
use quorate_testkit::{Cluster, ClusterOptions, Value, copy_dir, wait_until};
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn quorate(args: &[&str], dir: &Path) -> Ran {
    let output = Command::new(BINARY).args(args).arg("--dir").arg(dir).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn one_member() -> Cluster {
    Cluster::start(ClusterOptions::new(BINARY).members(1))
}

/// Where these bytes are in the member's log.
pub(crate) fn find(dir: &Path, needle: &[u8]) -> (PathBuf, usize) {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let found = files.into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        Some((path, bytes.windows(needle.len()).position(|window| window == needle)?))
    });
    found.expect("the log holds what was written")
}

pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_running_members_directory_is_refused_and_nothing_is_taken_for_one() {
    let mut cluster = one_member();
    let dir = cluster.members[0].dir.clone();
    for tool in ["dump", "verify"] {
        let ran = quorate(&["log", tool], &dir);
        assert_eq!(ran.code, Some(2), "{} {}", ran.out, ran.err);
        assert!(ran.err.contains("in use by another process") && ran.err.contains("stop the member"), "{}", ran.err);
        let nowhere = quorate(&["log", tool], &dir.join("nowhere"));
        assert_eq!(nowhere.code, Some(2));
        assert!(nowhere.err.contains("holds no member"), "{}", nowhere.err);
        assert!(!dir.join("nowhere").exists(), "a tool that looks must not make a directory");
    }
    assert_eq!(cluster.members[0].conn().cmd("SET k v").unwrap(), Value::ok());
    assert!(cluster.members[0].stop().success());
}

#[test]
fn entries_are_shown_to_people_and_to_programs() {
    let mut cluster = one_member();
    let mut conn = cluster.members[0].conn();
    assert_eq!(conn.cmd("SET greeting hello-world").unwrap(), Value::ok());
    conn.cmd("MULTI").unwrap();
    conn.cmd("HSET h field value").unwrap();
    conn.cmd("INCR counter").unwrap();
    conn.cmd("EXEC").unwrap();
    cluster.members[0].kill();
    let dir = cluster.members[0].dir.clone();

    let people = quorate(&["log", "dump"], &dir);
    assert_eq!(people.code, Some(0), "{}", people.err);
    for part in
        ["group 1: entries ", "membership", "voters 1", "[0] SET greeting hello-world", "MULTI", "[0] INCR counter"]
    {
        assert!(people.out.contains(part), "{part} in\n{}", people.out);
    }

    let programs = quorate(&["log", "dump", "--json"], &dir);
    let entries: Vec<Json> = programs.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let set = |entry: &&Json| entry["units"][0]["commands"][0]["args"][0] == "SET";
    let set = entries.iter().find(set).expect("the SET");
    assert_eq!(set["units"][0]["commands"][0]["args"], serde_json::json!(["SET", "greeting", "hello-world"]));
    let indexes: Vec<u64> = entries.iter().map(|entry| entry["index"].as_u64().unwrap()).collect();
    assert!(indexes.windows(2).all(|two| two[0] + 1 == two[1]), "{indexes:?}");

    let at = set["index"].as_u64().unwrap();
    let one = quorate(&["log", "dump", "--json", "--from", &at.to_string(), "--to", &at.to_string()], &dir);
    let one: Vec<Json> = one.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(one.iter().collect::<Vec<_>>(), [set]);

    let verified = quorate(&["log", "verify"], &dir);
    assert_eq!(verified.code, Some(0), "{} {}", verified.out, verified.err);
    assert!(verified.out.contains("Sound") && verified.out.contains("Checkpoint: none yet"), "{}", verified.out);
    // Nothing was changed by looking.
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    assert_eq!(cluster.members[0].conn().cmd("GET greeting").unwrap(), Value::bulk("hello-world"));
}

#[test]
fn damage_to_the_log_is_found_with_its_place_and_its_cost_and_the_member_refuses_it() {
    let mut cluster = one_member();
    let mut conn = cluster.members[0].conn();
    for number in 0..30 {
        assert_eq!(conn.cmd(&format!("SET key needle-{number:03}-needle")).unwrap(), Value::ok());
    }
    cluster.members[0].kill();
    let dir = cluster.members[0].dir.clone();
    let (path, at) = find(&dir, b"needle-010-needle");
    flip(&path, at);

    let verified = quorate(&["log", "verify"], &dir);
    assert_eq!(verified.code, Some(1), "{} {}", verified.out, verified.err);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(verified.out.contains(&format!("{name} at offset ")), "{}", verified.out);
    assert!(
        verified.out.contains("group 1: entries ") && verified.out.contains("had acknowledged"),
        "{}",
        verified.out
    );
    assert!(verified.out.contains("--rebuild"), "it says what to do: {}", verified.out);
    let dumped = quorate(&["log", "dump"], &dir);
    assert_eq!(dumped.code, Some(1));
    assert!(dumped.out.contains("needle-009-needle") && !dumped.out.contains("needle-010"), "{}", dumped.out);
    assert!(dumped.err.contains(name), "{}", dumped.err);

    cluster.members[0].start();
    assert!(!cluster.members[0].wait_end().success(), "a damaged log is not served");
    let said = cluster.members[0].output();
    assert!(said.contains("corrupt") && said.contains(name), "{said}");
    // Looking at it, and the start that failed, have changed nothing: mended, it goes on.
    flip(&path, at);
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    assert_eq!(cluster.members[0].conn().cmd("GET key").unwrap(), Value::bulk("needle-029-needle"));
}

#[test]
fn damage_to_the_checkpoint_is_found() {
    let mut cluster = one_member();
    let mut conn = cluster.members[0].conn();
    for number in 0..200 {
        conn.cmd(&format!("SET key:{number} {}", "checkpointed".repeat(50))).unwrap();
    }
    let answer = quorate_testkit::http::post(cluster.members[0].admin, "/v1/snapshot", &serde_json::json!({})).unwrap();
    assert!(answer.is_ok(), "{}", answer.body);
    wait_until("the checkpoint is there", || cluster.members[0].status()?["snapshot"].as_u64().filter(|at| *at > 0));
    assert!(cluster.members[0].stop().success());
    let dir = cluster.members[0].dir.clone();
    let verified = quorate(&["log", "verify", "--json"], &dir);
    assert_eq!(verified.code, Some(0), "{} {}", verified.out, verified.err);
    let report: Json = serde_json::from_str(&verified.out).expect("JSON");
    assert_eq!(report["sound"], true);
    assert!(report["found"].to_string().contains("its digest is right"), "{report}");

    // What another version wrote is not damage, and nobody is told to rebuild for it.
    let epoch = dir.join("checkpoint/epoch-0000000000000001");
    let bytes = fs::read(&epoch).unwrap();
    fs::write(&epoch, quorate_storage::codec::encode(7, &1_u64).unwrap()).unwrap();
    let verified = quorate(&["log", "verify"], &dir);
    assert_eq!(verified.code, Some(2), "{} {}", verified.out, verified.err);
    assert!(verified.err.contains("version 7") && !verified.err.contains("--rebuild"), "{}", verified.err);
    cluster.members[0].start();
    assert!(!cluster.members[0].wait_end().success());
    let said = cluster.members[0].output();
    assert!(said.contains("version 7") && !said.rsplit("version 7").next().unwrap().contains("--rebuild"), "{said}");
    fs::write(&epoch, bytes).unwrap();

    let store = dir.join("checkpoint/db");
    let bytes = fs::read(&store).unwrap();
    let needle = b"checkpointedcheckpointed";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("rows hold what was written");
    flip(&store, at);
    let verified = quorate(&["log", "verify"], &dir);
    assert_eq!(verified.code, Some(1), "{} {}", verified.out, verified.err);
    let place = dir.join("checkpoint").display().to_string();
    assert!(verified.out.contains(&format!("{place}: the checkpoint")), "{}", verified.out);
    cluster.members[0].start();
    assert!(!cluster.members[0].wait_end().success(), "a damaged checkpoint is not served");
    assert!(cluster.members[0].output().contains(&format!("{place}: ")), "{}", cluster.members[0].output());
}

/// What a start refuses is not told to be sound, and a dump of nothing is no success.
#[test]
fn a_log_that_is_gone_is_told_of_as_a_start_tells_it() {
    let mut cluster = one_member();
    assert_eq!(cluster.members[0].conn().cmd("SET k v").unwrap(), Value::ok());
    wait_until("it is marked that the group has begun", || {
        cluster.members[0].dir.join("group-1.begun").exists().then_some(())
    });
    cluster.members[0].kill();
    let (dir, sound) = (cluster.members[0].dir.clone(), cluster.members[0].dir.with_extension("sound"));
    fs::rename(&dir, &sound).unwrap();
    let cut = |dir: &Path| {
        // The next one, if it is there already.
        let _ = fs::remove_file(dir.join("wal/0000000000000002.wal"));
        let only = fs::File::options().write(true).open(dir.join("wal/0000000000000001.wal")).unwrap();
        only.set_len(512).unwrap();
    };
    let empty = |dir: &Path| {
        fs::remove_dir_all(dir.join("wal")).unwrap();
        fs::create_dir(dir.join("wal")).unwrap();
    };
    let missing = |dir: &Path| fs::remove_dir_all(dir.join("wal")).unwrap();
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 3] = [("cut", cut), ("empty", empty), ("missing", missing)];
    for (name, harm) in cases {
        let _ = fs::remove_dir_all(&dir);
        copy_dir(&sound, &dir).unwrap();
        harm(&dir);
        let verified = quorate(&["log", "verify"], &dir);
        assert_eq!(verified.code, Some(1), "{name}: {} {}", verified.out, verified.err);
        assert!(!verified.out.contains("Sound") && verified.out.contains("is gone"), "{name}: {}", verified.out);
        let dumped = quorate(&["log", "dump"], &dir);
        assert_eq!(dumped.code, Some(1), "{name}: {}", dumped.out);
        assert!(dumped.err.contains("is gone"), "{name}: {}", dumped.err);
        cluster.members[0].start();
        assert!(!cluster.members[0].wait_end().success(), "{name}");
        cluster.members[0].kill();
        assert!(cluster.members[0].output().contains("is gone"), "{name}: {}", cluster.members[0].output());
    }
}

pub(crate) fn all_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => all_files(&entry.path(), out),
            false => out.push(entry.path()),
        }
    }
}

/// Anywhere in the directory: the member serves all that it had, or it does not start. `QUORATE_FLIPS` sets how many.
#[test]
fn a_bit_that_flips_anywhere_in_the_directory_is_found_or_does_not_matter() {
    const KEYS: usize = 300;
    let mut cluster = one_member();
    let value = |number: usize| format!("{number}-{}", "v".repeat(200 + number));
    let write = |cluster: &Cluster, keys: std::ops::Range<usize>| {
        let mut conn = cluster.members[0].conn();
        for number in keys {
            assert_eq!(conn.call(&["SET", &format!("key:{number}"), &value(number)]).unwrap(), Value::ok());
        }
    };
    write(&cluster, 0..KEYS / 2);
    assert!(cluster.members[0].stop().success(), "an orderly stop takes a checkpoint");
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    write(&cluster, KEYS / 2..KEYS);
    // The log closes the window in which its last batch can't be told from a torn one.
    std::thread::sleep(std::time::Duration::from_millis(300));
    cluster.members[0].kill();
    let (dir, sound) = (cluster.members[0].dir.clone(), cluster.members[0].dir.with_extension("sound"));
    fs::rename(&dir, &sound).unwrap();

    let flips = std::env::var("QUORATE_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(8_u64);
    let (mut refused, mut served) = (0, 0);
    for seed in 0..flips {
        let _ = fs::remove_dir_all(&dir);
        copy_dir(&sound, &dir).unwrap();
        let mut files = Vec::new();
        all_files(&dir, &mut files);
        files.sort();
        let random = |n: u64| (seed * 31 + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        // Half of them where something is: files are mostly zeros.
        let path = &files[random(0) as usize % files.len()];
        let bytes = fs::read(path).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0 || seed % 2 == 0).collect();
        if used.is_empty() {
            continue;
        }
        flip(path, used[random(1) as usize % used.len()]);
        cluster.members[0].start();
        let ready = wait_until("it serves or ends", || {
            let member = &mut cluster.members[0];
            match member.process().ended() {
                Some(status) => Some(status.success()),
                None => member.is_ready().then_some(true),
            }
        });
        if ready {
            let mut conn = cluster.members[0].conn();
            for number in 0..KEYS {
                let found = conn.cmd(&format!("GET key:{number}")).unwrap();
                assert_eq!(found, Value::bulk(value(number)), "flip {seed} in {}", path.display());
            }
            served += 1;
        } else {
            refused += 1;
        }
        cluster.members[0].kill();
    }
    println!("{refused} found, {served} without effect");
    assert!(refused + served > 0, "no bit was flipped");
}
