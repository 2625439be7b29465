//! Backups of a running group: consistent, checked, loaded before they count, and what is not whole never looks so.

use crate::relay::Relay;
use crate::{BINARY, three_members};
use quorate_testkit::load::Load;
use quorate_testkit::process::Process;
use quorate_testkit::{Cluster, PATIENCE, http, wait_until};
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

/// More than the sockets between two processes hold.
const LARGE: u64 = 24_000_000;

fn fill(cluster: &Cluster, bytes: u64) {
    let mut conn = cluster.members[cluster.leader()].conn();
    let value = "x".repeat(20_000);
    for n in 0..bytes / 20_000 {
        assert_eq!(conn.call(&["SET", &format!("key:{n}"), &value]).unwrap(), quorate_testkit::Value::ok());
    }
}

/// What is in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Starts `quorate backup`, which says what it says into a file.
fn start_taking(at: &str, file: &Path) -> Process {
    let words = ["backup", "--admin", at, &file.display().to_string()];
    Process::spawn(Path::new(BINARY), &words, &file.with_extension("said")).expect("the built program runs")
}

/// The followers of the first member, behind relays that hold a backup in the middle.
fn held_followers() -> (Cluster, Vec<Relay>) {
    let mut cluster = Cluster::prepare(quorate_testkit::ClusterOptions::new(BINARY));
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let mut relays = Vec::new();
    for at in 1..3 {
        cluster.add_member();
        let relay = Relay::start(cluster.ports.next_port(), cluster.members[at].admin);
        let advertised = ["--advertise-admin".to_owned(), relay.addr.to_string()];
        cluster.members[at].command_mut().extend(advertised);
        relays.push(relay);
        cluster.members[at].start();
        cluster.members[at].wait_ready();
    }
    cluster.wait_settled();
    if cluster.leader() != 0 {
        cluster.transfer_leader(Some(0));
    }
    fill(&cluster, LARGE);
    cluster.wait_caught_up();
    relays.iter().for_each(|relay| relay.hold_after(1_000_000));
    (cluster, relays)
}

/// Which of them holds.
fn holding(relays: &[Relay]) -> usize {
    wait_until("it is in the middle", || relays.iter().position(Relay::is_holding))
}

#[test]
fn a_follower_that_dies_in_the_middle_is_followed_by_the_next() {
    let (mut cluster, relays) = held_followers();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, url) = (dir.path().join("b"), cluster.members[0].admin_url());
    let mut taking = start_taking(&url, &file);
    let at = holding(&relays) + 1;
    let dead = cluster.members[at].id();
    cluster.members[at].kill();
    relays.iter().for_each(Relay::go_on);
    let status = taking.wait_end(PATIENCE).expect("it ends");
    assert!(status.success(), "{}", taking.output());
    assert!(taking.output().contains(&format!("member {dead} gives no backup")), "{}", taking.output());
    let output = verify(&file);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(serde_json::from_slice::<Json>(&output.stdout).unwrap()["keys"].as_u64(), Some(LARGE / 20_000));
    let mut there = names(dir.path());
    there.sort();
    assert_eq!(there, ["b", "b.said"]);
}

#[test]
fn a_backup_that_breaks_off_with_nobody_else_to_ask_says_take_it_again() {
    let cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1));
    fill(&cluster, LARGE);
    let mut ports = quorate_testkit::ports::PortBlock::take();
    let relay = Relay::start(ports.next_port(), cluster.members[0].admin);
    relay.hold_after(1_000_000);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("b");
    let mut taking = start_taking(&format!("http://{}", relay.addr), &file);
    wait_until("it is in the middle", || relay.is_holding().then_some(()));
    relay.cut();
    relay.go_on();
    let status = taking.wait_end(PATIENCE).expect("it ends");
    let words = taking.output();
    assert!(!status.success(), "{words}");
    assert!(words.contains("take it again") && !words.contains("older backup"), "{words}");
    assert_eq!(names(dir.path()), ["b.said"], "nothing of it is left");
}

#[test]
fn a_client_that_is_killed_while_it_takes_one_leaves_no_backup_and_harms_nobody() {
    let (cluster, relays) = held_followers();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, url) = (dir.path().join("b"), cluster.members[0].admin_url());
    let mut taking = start_taking(&url, &file);
    let at = holding(&relays) + 1;
    taking.kill();
    relays.iter().for_each(Relay::go_on);
    assert!(!file.exists(), "what is not whole never has the name");
    let parts = names(dir.path()).iter().filter(|name| name.starts_with("b.") && name.ends_with(".part")).count();
    assert_eq!(parts, 1, "{:?}", names(dir.path()));
    take(&cluster, 0, &file);
    assert!(verify(&file).status.success());
    let mut conn = cluster.members[at].conn();
    assert_eq!(conn.cmd("SET k v").unwrap(), quorate_testkit::Value::ok(), "the one that gave it serves");
}

/// A directory on a disk of 8 MB, where this process may mount one.
struct SmallDir(tempfile::TempDir);

impl SmallDir {
    fn new() -> Option<SmallDir> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "quorate-test"]).arg(dir.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(SmallDir(dir))
    }
}

impl Drop for SmallDir {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_fills_in_the_middle_is_told_and_gets_its_room_back() {
    let Some(small) = SmallDir::new() else {
        eprintln!("left out: only root can mount a small disk");
        return;
    };
    let cluster = three_members();
    fill(&cluster, LARGE);
    let (dir, url) = (small.0.path(), cluster.members[0].admin_url());
    let output = quorate(&["backup", "--admin", &url, &dir.join("b").display().to_string()]);
    let words = said(&output);
    assert!(!output.status.success() && words.contains("No space left on device"), "{words}");
    assert!(words.contains(&dir.display().to_string()) && words.contains("the room on the disk"), "{words}");
    assert!(!words.contains("gives no backup"), "another follower has no more room: {words}");
    assert!(names(dir).is_empty(), "{:?}", names(dir));
}

#[test]
fn a_restore_without_room_names_the_place_and_leaves_nothing() {
    let Some(small) = SmallDir::new() else {
        eprintln!("left out: only root can mount a small disk");
        return;
    };
    let cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1));
    fill(&cluster, LARGE);
    let (file, dir) = (cluster.root().join("b"), small.0.path().join("restored"));
    take(&cluster, 0, &file);
    let output = quorate(&["restore", &file.display().to_string(), "--dir", &dir.display().to_string()]);
    let words = said(&output);
    assert!(!output.status.success() && words.contains(&dir.display().to_string()), "{words}");
    let mut there = names(&dir);
    there.retain(|name| name != "LOCK");
    assert!(there.is_empty(), "{there:?}");
}

#[test]
fn a_member_whose_backups_find_no_room_serves_on_and_takes_them_when_there_is_room() {
    let Some(small) = SmallDir::new() else {
        eprintln!("left out: only root can mount a small disk");
        return;
    };
    let args = format!("--backup-dir {} --backup-interval 1s --backup-keep 1", small.0.path().display());
    let cluster = Cluster::start(quorate_testkit::ClusterOptions::new(BINARY).members(1).args(&args));
    let mut conn = cluster.members[0].conn();
    fs::write(small.0.path().join("ballast"), vec![1; 7 << 20]).unwrap();
    let value = "x".repeat(20_000);
    for n in 0..100 {
        assert_eq!(conn.call(&["SET", &format!("key:{n}"), &value]).unwrap(), quorate_testkit::Value::ok());
    }
    wait_until("it is told", || (conn.info("persistence", "backup_last_status") == "err").then_some(()));
    assert_eq!(conn.cmd("SET k v").unwrap(), quorate_testkit::Value::ok());
    fs::remove_file(small.0.path().join("ballast")).unwrap();
    wait_until("there is room again", || (conn.info("persistence", "backup_last_status") == "ok").then_some(()));
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

/// The backups that are there, the one with the greatest position last.
fn saved(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".backup"));
    names.sort_by_key(|name| {
        let index = name.strip_suffix(".backup").and_then(|name| name.rsplit('-').next()?.parse::<u64>().ok());
        (index, name.clone())
    });
    names
}

#[test]
fn a_clock_that_was_ahead_once_costs_no_backup_and_what_is_set_counts_at_once() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let dir = root.path().join("backups");
    let args = format!("--backup-dir {} --backup-interval 24h --backup-keep 2", dir.display());
    let mut cluster = Cluster::prepare(quorate_testkit::ClusterOptions::new(BINARY).members(1).args(&args));
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    let group = cluster.members[0].status().expect("its status")["group"].as_str().expect("its UUID").to_owned();
    fs::create_dir_all(&dir).unwrap();
    let old: Vec<String> =
        (0..3).map(|n| format!("quorate-{}-m1-20360101T00000{n}Z-{n}.backup", &group[..8])).collect();
    for name in &old {
        fs::write(dir.join(name), "of the future").unwrap();
    }
    let mut conn = cluster.members[0].conn();
    conn.cmd("SET k v").unwrap();
    // A day would be too long for this test: what was waited for is looked at again.
    assert_eq!(conn.cmd("CONFIG SET backup-interval 1s").unwrap(), quorate_testkit::Value::ok());
    wait_until("two were taken, and stay", || {
        let there = saved(&dir);
        (there.len() == 2 && there.iter().all(|name| !old.contains(name))).then_some(())
    });
    assert_ne!(conn.info("persistence", "backups"), "0");
    assert_eq!(conn.info("persistence", "backup_failures"), "0");
}

#[test]
fn a_program_that_was_replaced_on_disk_still_takes_backups() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (program, dir) = (root.path().join("quorate"), root.path().join("backups"));
    fs::copy(BINARY, &program).expect("a copy of the program");
    let args = format!("--backup-dir {} --backup-interval 1s", dir.display());
    let mut cluster = Cluster::prepare(quorate_testkit::ClusterOptions::new(&program).members(1).args(&args));
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    // As a package manager does it.
    let newer = root.path().join("quorate.new");
    fs::write(&newer, "another program").unwrap();
    fs::rename(&newer, &program).unwrap();
    fs::remove_dir_all(&dir).ok();
    let mut conn = cluster.members[0].conn();
    conn.cmd("SET k v").unwrap();
    let before: u64 = conn.info("persistence", "backups").parse().expect("a number");
    wait_until("backups are taken", || {
        let taken: u64 = conn.info("persistence", "backups").parse().expect("a number");
        let failed = conn.info("persistence", "backup_failures");
        assert_eq!(failed, "0", "{}", cluster.members[0].output());
        (taken >= before + 2).then_some(())
    });
}

/// A file that nobody has written yet: who opens it for reading waits.
fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_rehearsal_gives_way_to_everything_else() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let file = root.path().join("fifo");
    fifo(&file);
    let mut rehearsal = Command::new(BINARY)
        .args(["backup", "verify", "--give-way", "--json"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the built program runs");
    let proc = Path::new("/proc").join(rehearsal.id().to_string());
    wait_until("it is the last to run and the first to go", || {
        let stat = fs::read_to_string(proc.join("stat")).ok()?;
        // The 19th field; the second is in brackets.
        let nice = stat.rsplit_once(") ")?.1.split(' ').nth(16)?.to_owned();
        let first_to_go = fs::read_to_string(proc.join("oom_score_adj")).ok()?;
        ((nice.as_str(), first_to_go.trim()) == ("19", "1000")).then_some(())
    });
    rehearsal.kill().expect("it waits for the file");
    let _ = rehearsal.wait();
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
