//! Who may be a member: one process per directory, one directory per id, members of one group only.

use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, ClusterOptions, Member, Value, wait_until};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Starts a member that must refuse to run; gives what it printed.
fn refused(member: &mut Member) -> String {
    member.start();
    let status = member.wait_end();
    let output = member.output();
    assert!(!status.success(), "it must not end as if all were well: {output}");
    output
}

#[test]
fn a_second_process_on_one_directory_is_refused_and_the_first_goes_on() {
    let mut cluster = three_members();
    let dir = cluster.members[1].dir.clone();
    let binary = BINARY.as_ref();
    let mut second = Member::new(binary, dir.clone(), &mut cluster.ports, &["--bootstrap".to_owned()], &[]);
    // Its output must not mix with the first one's.
    let first_output = cluster.members[1].output();
    let said = refused(&mut second).replace(&first_output, "").to_lowercase();
    assert!(said.contains("lock") || said.contains("in use") || said.contains("another process"), "{said}");
    // Nor does it help to take the file away that looks like the lock.
    fs::remove_file(dir.join("LOCK")).unwrap();
    second.kill();
    let said = refused(&mut second).replace(&first_output, "");
    assert!(said.matches("in use by another process").count() == 2, "{said}");
    for tool in ["dump", "verify"] {
        assert_eq!(log_tool(tool, &dir).0, Some(2));
    }
    assert!(cluster.members[1].is_ready());
    assert_eq!(cluster.members[1].conn().cmd("SET k v").unwrap(), Value::ok());
    cluster.wait_settled();
}

#[test]
fn a_member_that_comes_back_with_an_empty_disk_under_its_old_id_is_refused() {
    let mut cluster = three_members();
    let load = Load::start(10, &cluster.addrs());
    load.wait_progress(100);
    let follower = cluster.follower();
    let id = cluster.members[follower].id();
    cluster.members[follower].kill();
    let dir = cluster.members[follower].dir.clone();
    fs::remove_dir_all(&dir).expect("the disk is lost");
    // The same command as before; it joins through the others.
    let others: Vec<String> = cluster.running().into_iter().map(|at| cluster.members[at].admin_url()).collect();
    let command = cluster.members[follower].command_mut();
    command.retain(|word| word != "--bootstrap");
    if !command.contains(&"--join".to_owned()) {
        command.extend(others.iter().flat_map(|url| ["--join".to_owned(), url.clone()]));
    }
    let said = refused(&mut cluster.members[follower]);
    assert!(said.contains("remove"), "it says what to do: {said}");
    load.wait_progress(100);
    // What it says to do works: the old one is removed, then this one joins under a new id.
    let leader = cluster.leader();
    let answer = quorate_testkit::http::delete(cluster.members[leader].admin, &format!("/v1/members/{id}")).unwrap();
    assert!(answer.is_ok(), "{} {}", answer.status, answer.body);
    let _ = fs::remove_dir_all(&dir);
    cluster.members[follower].start();
    cluster.wait_settled();
    assert!(cluster.members[follower].id() > 3, "ids are never used again");
    load.wait_progress(100);
    let books = load.stop();
    books.check(&mut cluster.members[follower].conn());
}

#[test]
fn a_member_whose_log_is_gone_refuses_to_go_on_under_its_id() {
    let mut cluster = three_members();
    let follower = cluster.follower();
    cluster.members[follower].kill();
    let dir = cluster.members[follower].dir.clone();
    // Everything is lost but the small file that says who it is.
    let mut kept = 0;
    for entry in fs::read_dir(&dir).expect("its directory").flatten() {
        if entry.path().is_dir() {
            fs::remove_dir_all(entry.path()).expect("removed");
        } else {
            kept += 1;
        }
    }
    assert!(kept > 0, "the identity is a file of its own");
    let said = refused(&mut cluster.members[follower]);
    assert!(said.contains("remove"), "it says what to do: {said}");
    assert_eq!(cluster.members[cluster.leader()].conn().cmd("SET k v").unwrap(), Value::ok());
}

#[test]
fn a_member_of_another_group_is_refused() {
    let mut ours = three_members();
    let mut theirs = Cluster::start(ClusterOptions::new(BINARY).members(1));
    assert_eq!(theirs.members[0].conn().cmd("SET of theirs").unwrap(), Value::ok());
    // One of ours is gone, and somebody starts the other group's member at its addresses.
    let follower = ours.follower();
    ours.members[follower].kill();
    theirs.members[0].kill();
    let dir = theirs.members[0].dir.display().to_string();
    let own_dir = ours.members[follower].dir.display().to_string();
    let mut stranger = Member::new(BINARY.as_ref(), theirs.members[0].dir.clone(), &mut ours.ports, &[], &[]);
    *stranger.command_mut() = ours.members[follower].command_mut().clone();
    for word in stranger.command_mut() {
        if *word == own_dir {
            word.clone_from(&dir);
        }
    }
    // At its own address the stranger serves, for its own group.
    let rest = (0..3).filter(|at| *at != follower).map(|at| ours.members[at].client);
    let load = Load::start(10, &rest.collect::<Vec<_>>());
    stranger.start();
    load.wait_progress(300);
    let books = load.stop();
    let leader = ours.leader();
    books.check(&mut ours.members[leader].conn());
    assert_eq!(ours.members[leader].conn().cmd("GET of").unwrap(), Value::Null, "nothing of theirs came in");
    // It said why, on one side or the other, and took nothing of ours.
    let said = || [stranger.output(), ours.members[leader].output()].concat();
    wait_until("it is told why", || said().contains("belongs to group").then_some(()));
    let advice = "start that one with a directory of this group, or with an empty one and --join";
    assert!(said().contains(advice), "it says what to do: {}", said());
    stranger.kill();
    theirs.members[0].start();
    theirs.members[0].wait_ready();
    assert_eq!(theirs.members[0].conn().cmd("GET of").unwrap(), Value::bulk("theirs"));
    assert_eq!(theirs.members[0].conn().cmd("DBSIZE").unwrap(), Value::Int(1));
}

#[test]
fn a_member_starts_again_without_any_flag_that_says_where_its_group_is() {
    let mut cluster = three_members();
    assert_eq!(cluster.members[0].conn().cmd("SET k v").unwrap(), Value::ok());
    for at in 0..3 {
        cluster.members[at].kill();
        let command = cluster.members[at].command_mut();
        command.retain(|word| word != "--bootstrap");
        while let Some(place) = command.iter().position(|word| word == "--join") {
            command.drain(place..place + 2);
        }
    }
    for member in &mut cluster.members {
        member.start();
    }
    cluster.wait_settled();
    assert_eq!(cluster.members[2].conn().cmd("GET k").unwrap(), Value::bulk("v"));
}

#[test]
fn an_address_that_was_told_wrongly_is_put_right_by_the_next_start() {
    let mut cluster = three_members();
    let at = cluster.follower();
    let (id, right) = (cluster.members[at].id(), cluster.members[at].peer.to_string());
    let leader = cluster.leader();
    let peer_of = |cluster: &Cluster| {
        let members = cluster.members[leader].members().unwrap_or_default();
        let row = members.into_iter().find(|member| member["id"].as_u64() == Some(id))?;
        Some((row["peer"].as_str()?.to_owned(), row["health"] == "ok"))
    };
    // A port at which nobody is.
    let typo = format!("127.0.0.1:{}", cluster.ports.next_port());
    for (told, heals) in [(&typo, false), (&right, true)] {
        cluster.members[at].kill();
        let command = cluster.members[at].command_mut();
        while let Some(place) = command.iter().position(|word| word == "--advertise-peer") {
            command.drain(place..place + 2);
        }
        command.extend(["--advertise-peer".to_owned(), told.clone()]);
        cluster.members[at].start();
        wait_until("the leader knows it", || peer_of(&cluster).filter(|(peer, ok)| peer == told && (*ok || !heals)));
    }
    cluster.wait_settled();
    assert_eq!(cluster.members[leader].conn().cmd("SET k v").unwrap(), Value::ok());
    cluster.wait_caught_up();
}

fn log_tool(tool: &str, dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(BINARY).args(["log", tool, "--dir"]).arg(dir).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was in the directory of a stopped member, with something done to it: the member refuses it, the tool that looks
/// at it says so too, and with everything back in its place the member goes on.
fn does_not_go_on(cluster: &mut Cluster, at: usize, what: &str, says: &str) {
    let (code, found) = log_tool("verify", &cluster.members[at].dir);
    assert!(code == Some(1) && found.contains(says), "{what}: {code:?} {found}");
    let said = refused(&mut cluster.members[at]);
    assert!(said.contains(says), "{what}: {said}");
}

#[test]
fn parts_of_two_directories_do_not_make_a_member() {
    let one = || {
        let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
        // Until its UUID is in the log, which is a moment after its first leader was elected.
        for _ in 0..10 {
            assert_eq!(cluster.members[0].conn().cmd("SET whose mine").unwrap(), Value::ok());
            assert!(cluster.members[0].stop().success(), "with a checkpoint");
            if log_tool("dump", &cluster.members[0].dir).1.contains("begins with member") {
                return cluster;
            }
            cluster.members[0].start();
            cluster.wait_settled();
        }
        panic!("its UUID never came into the log");
    };
    let (mut cluster, other) = (one(), one());
    let (mine, others) = (cluster.members[0].dir.clone(), other.members[0].dir.clone());
    for (part, says) in [("wal", "belongs to"), ("checkpoint", "checkpoint"), ("IDENTITY", "belongs to")] {
        fs::rename(mine.join(part), mine.join("aside")).unwrap();
        fs::rename(others.join(part), mine.join(part)).unwrap();
        does_not_go_on(&mut cluster, 0, part, says);
        if part == "checkpoint" {
            // Nor is it made a group of: it would hold what the other one had.
            let made =
                Command::new(BINARY).args(["recover", "--accept-data-loss", "--dir"]).arg(&mine).output().unwrap();
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(!made.status.success() && said.contains("put back what belongs together"), "{said}");
        }
        fs::rename(mine.join(part), others.join(part)).unwrap();
        fs::rename(mine.join("aside"), mine.join(part)).unwrap();
    }
    // Without an identity it would begin a new group over the old log.
    fs::rename(mine.join("IDENTITY"), mine.join("aside")).unwrap();
    does_not_go_on(&mut cluster, 0, "no identity", "IDENTITY");
    fs::rename(mine.join("aside"), mine.join("IDENTITY")).unwrap();
    cluster.members[0].start();
    cluster.wait_settled();
    assert_eq!(cluster.members[0].conn().cmd("GET whose").unwrap(), Value::bulk("mine"));
}

/// Nothing stands in the folder that says whose the files are, and the group is the same.
#[test]
fn the_segments_of_another_member_of_the_group_are_not_taken_for_its_own() {
    let mut cluster = three_members();
    assert_eq!(cluster.members[0].conn().cmd("SET whose mine").unwrap(), Value::ok());
    cluster.wait_caught_up();
    let (at, other) = (cluster.follower(), cluster.leader());
    cluster.members[at].kill();
    cluster.members[other].kill();
    let (mine, others) = (cluster.members[at].dir.join("wal"), cluster.members[other].dir.join("wal"));
    let aside = mine.with_extension("aside");
    fs::rename(&mine, &aside).unwrap();
    for owner in [true, false] {
        fs::create_dir(&mine).unwrap();
        for file in fs::read_dir(&others).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "wal") {
                fs::copy(&file, mine.join(file.file_name().unwrap())).unwrap();
            }
        }
        if owner {
            fs::copy(aside.join("OWNER"), mine.join("OWNER")).unwrap();
        }
        does_not_go_on(&mut cluster, at, "segments of another member", "to another log");
        let dir = &cluster.members[at].dir;
        let looked = Command::new(BINARY).args(["recover", "--dir"]).arg(dir).output().unwrap();
        let said = String::from_utf8_lossy(&looked.stderr).into_owned() + &String::from_utf8_lossy(&looked.stdout);
        assert!(said.contains("to another log"), "{said}");
        fs::remove_dir_all(&mine).unwrap();
        cluster.members[at].kill();
    }
    fs::rename(&aside, &mine).unwrap();
    cluster.members[at].start();
    cluster.members[other].start();
    cluster.wait_settled();
    assert_eq!(cluster.members[at].conn().cmd("GET whose").unwrap(), Value::bulk("mine"));
}
