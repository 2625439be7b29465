//! Backups of a running group: consistent, checked, loaded before they count, and what is not whole never looks so.

use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::{Cluster, http, wait_until};
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
    let file = cluster.root().join("streamed");
    fs::write(&file, &answer.bytes).unwrap();
    let verified = quorate(&["backup", "verify", "--json", &file.display().to_string()]);
    assert!(verified.status.success(), "{}", said(&verified));
    let told: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!(told["keys"], 1, "{told}");
    assert!(told["index"].as_u64().unwrap() >= applied, "{told}");
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

#[test]
fn a_member_takes_backups_of_itself_and_keeps_the_newest() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let dir = root.path().join("backups");
    let args = format!("--backup-dir {} --backup-interval 1s --backup-keep 2", dir.display());
    let mut cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1).args(&args));
    let mut conn = cluster.members[0].conn();
    conn.cmd("SET k v").unwrap();
    let files = |ending: &str| -> Vec<String> {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.ends_with(ending));
        names.sort();
        names
    };
    wait_until("a backup is there", || (!files(".backup").is_empty()).then_some(()));
    let first = files(".backup")[0].clone();
    wait_until("the first one had to go", || (!files(".backup").contains(&first)).then_some(()));
    let info = conn.cmd("INFO persistence").unwrap().as_text().unwrap_or_default();
    assert!(info.contains("backup_last_status:ok") && !info.contains("\nbackups:0"), "{info}");
    cluster.members[0].kill();
    let newest = files(".backup").pop().expect("some stay");
    assert!(files(".backup").len() <= 3, "at most one more than the two while the next is made");
    let output = verify(&dir.join(&newest));
    assert!(output.status.success(), "{}", said(&output));
    assert!(cluster.members[0].output().contains("a backup was written, and loaded"));
    // What a kill leaves half done is removed by the next one.
    fs::write(dir.join(newest.replace(".backup", ".backup.part")), "half").unwrap();
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    wait_until("it goes on", || (files(".backup").pop()? != newest).then_some(()));
    assert!(!files(".part").contains(&newest.replace(".backup", ".backup.part")));
}

#[test]
fn a_backup_that_cannot_be_written_is_told_and_harms_nothing() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let file = root.path().join("a-file");
    fs::write(&file, "x").unwrap();
    let args = format!("--backup-dir {} --backup-interval 1s", file.display());
    let cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1).args(&args));
    let mut conn = cluster.members[0].conn();
    wait_until("it is told", || {
        let info = conn.cmd("INFO persistence").ok()?.as_text()?;
        info.contains("backup_last_status:err").then_some(())
    });
    assert_eq!(conn.cmd("SET k v").unwrap(), quorate_testkit::Value::ok());
    let page = cluster.members[0].ask("/metrics").unwrap().body;
    assert!(page.lines().any(|line| line.starts_with("quorate_backup_failures_total") && !line.ends_with(" 0")));
}
