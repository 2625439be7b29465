//! Backups of a running group: consistent, checked, loaded before they count, and what is not whole never looks so.

use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, http};
use serde_json::Value as Json;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `quorate` with these words.
pub fn quorate(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).output().expect("the built program runs")
}

pub fn said(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}

/// Takes a backup through the member at `at`; what it says of itself.
pub fn take(cluster: &Cluster, at: usize, file: &Path) -> Json {
    let url = cluster.members[at].admin_url();
    let output = quorate(&["backup", "--admin", &url, "--json", &file.display().to_string()]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn verify(file: &Path) -> Output {
    quorate(&["backup", "verify", "--json", &file.display().to_string()])
}

#[test]
fn a_backup_under_load_is_taken_of_a_follower_and_can_be_verified() {
    let cluster = three_members();
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(500);
    let leader = cluster.leader();
    let file = cluster.root().join("b1");
    let facts = take(&cluster, leader, &file);
    load.wait_progress(100);
    let _ = load.stop();
    assert_ne!(facts["member"].as_u64(), Some(cluster.members[leader].id()), "a follower gave it");
    assert!(facts["keys"].as_u64() > Some(0), "{facts}");
    assert_eq!(facts["bytes"].as_u64(), Some(fs::metadata(&file).unwrap().len()));
    let output = verify(&file);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(serde_json::from_slice::<Json>(&output.stdout).unwrap(), facts);
    // The same name again is refused: the backup that is there stays.
    let url = cluster.members[leader].admin_url();
    let again = quorate(&["backup", "--admin", &url, &file.display().to_string()]);
    assert!(!again.status.success() && said(&again).contains("exists already"), "{}", said(&again));
}

#[test]
fn a_backup_that_was_cut_or_damaged_is_found() {
    let cluster = three_members();
    let mut conn = cluster.members[0].conn();
    for n in 0..200 {
        conn.cmd(&format!("SET key:{n} value:{n}")).unwrap();
    }
    let file = cluster.root().join("b1");
    take(&cluster, 0, &file);
    let whole = fs::read(&file).unwrap();
    let other = cluster.root().join("b2");
    for (name, bytes) in [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("flipped", {
            let mut bytes = whole.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            bytes
        }),
        ("empty", Vec::new()),
        ("longer", [whole.clone(), vec![0]].concat()),
    ] {
        fs::write(&other, bytes).unwrap();
        let output = verify(&other);
        assert!(!output.status.success(), "{name}: {}", said(&output));
        assert!(said(&output).contains("bad_backup"), "{name}: {}", said(&output));
    }
}

#[test]
fn the_stream_of_admin_http_is_the_file_and_holds_what_was_asked_for() {
    let cluster = three_members();
    cluster.members[0].conn().cmd("SET k v").unwrap();
    let leader = cluster.leader();
    let applied = cluster.members[leader].status().expect("its status")["applied"].as_u64().unwrap();
    let follower = cluster.follower();
    let answer = http::get(cluster.members[follower].admin, &format!("/v1/backup?after={applied}")).unwrap();
    assert_eq!(answer.status, 200);
    let after = http::get(cluster.members[follower].admin, "/v1/backup?after=nonsense").unwrap();
    assert_eq!(after.status, 400, "{}", after.body);
}

#[test]
fn a_backup_asks_for_the_token_where_there_is_one() {
    let cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1).admin_token("right"));
    let file = cluster.root().join("b");
    let (url, path) = (cluster.members[0].admin_url(), file.display().to_string());
    let refused = quorate(&["backup", "--admin", &url, "--token", "wrong", &path]);
    assert!(!refused.status.success() && !file.exists(), "{}", said(&refused));
    let taken = quorate(&["backup", "--admin", &url, "--token", "right", &path]);
    assert!(taken.status.success() && file.exists(), "{}", said(&taken));
}
