//! A loss of power on a real file system: the log, the checkpoints in sled and the identity file work for a while under
//! `strace`; then, for hundreds of moments, what the disk would hold is made from the trace, with writes that were not
//! synced lost, kept or torn, and today's code opens it. What had been acknowledged must be there.
//!
//! `cargo test -p quorate-storage --test power_cut -- --ignored` (needs `strace`; QUORATE_CUTS says how many moments).

mod trace;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointStore};
use quorate_storage::disk::OsDisk;
use quorate_storage::identity::{DataDir, Identity};
use quorate_storage::wal::{Wal, WalConfig};
use trace::{CALLS, Chance, Trace};

const DIR_VARIABLE: &str = "QUORATE_POWER_CUT_DIR";
const EPOCHS: u64 = 8;
const ENTRIES_PER_EPOCH: u64 = 25;
const GROUP: u64 = 1;

type Chunks = BTreeMap<u128, Vec<u8>>;

fn wal_config() -> WalConfig {
    WalConfig { segment_bytes: 64 << 10, spare_segments: 1, ..WalConfig::default() }
}

fn bytes_of(seed: u64, most: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let len = chance.below(most);
    (0..len).map(|_| chance.below(256) as u8).collect()
}

fn entry(index: u64) -> Bytes {
    bytes_of(index, 6000).into()
}

/// What a checkpoint changes: chunk and content, or its end.
fn steps(epoch: u64) -> Vec<(u128, Option<Vec<u8>>)> {
    let mut chance = Chance(epoch << 32);
    let step = |at: u64| {
        let chunk = u128::from(chance.below(40)) << 60;
        (chunk, (chance.below(6) > 0).then(|| bytes_of(epoch << 20 | at, 20_000)))
    };
    (0..20).map(step).collect()
}

fn chunks_at(epoch: u64) -> Chunks {
    let mut chunks = Chunks::new();
    for (chunk, content) in (1..=epoch).flat_map(steps) {
        match content {
            Some(content) => drop(chunks.insert(chunk, content)),
            None => drop(chunks.remove(&chunk)),
        }
    }
    chunks
}

fn identity(member_id: u64) -> Identity {
    Identity { group_uuid: [3; 16], member_id, flags: 2, notes: vec![("n".into(), vec![1; 700])] }
}

/// The process that loses its power. Each line of `acks` is one promise.
fn work(root: &Path) {
    let mut acks = OpenOptions::new().create(true).append(true).open(root.join("acks")).unwrap();
    let mut ack = |words: String| acks.write_all(format!("{words}\n").as_bytes()).unwrap();
    let dir = DataDir::open(Arc::new(OsDisk), &root.join("data")).unwrap();
    let (wal, _) = Wal::open(Arc::new(OsDisk), &root.join("data/wal"), wal_config()).unwrap();
    let store = CheckpointStore::open(&root.join("data/checkpoint"), CheckpointConfig::default()).unwrap();
    let log = wal.group(GROUP);
    let done = || {
        let (give, take) = mpsc::channel();
        (Box::new(move |result: std::io::Result<()>| give.send(result).unwrap()), take)
    };
    let mut index = 0;
    for epoch in 1..=EPOCHS {
        dir.save(&identity(epoch)).unwrap();
        ack(format!("identity {epoch}"));
        for _ in 0..ENTRIES_PER_EPOCH {
            index += 1;
            let (call, result) = done();
            log.append(vec![(index, entry(index))], call);
            result.recv().unwrap().unwrap();
            ack(format!("entry {index}"));
        }
        let (call, result) = done();
        log.save_vote(Bytes::from(epoch.to_le_bytes().to_vec()), call);
        result.recv().unwrap().unwrap();
        ack(format!("vote {epoch}"));
        let mut writer = store.begin(GROUP).unwrap();
        for (chunk, content) in steps(epoch) {
            match content {
                Some(content) => writer.put(chunk, &content).unwrap(),
                None => writer.remove(chunk).unwrap(),
            }
        }
        writer.commit(&epoch.to_le_bytes()).unwrap();
        ack(format!("checkpoint {epoch}"));
        let (call, result) = done();
        log.purge(index - 10, Bytes::from(epoch.to_le_bytes().to_vec()), call);
        result.recv().unwrap().unwrap();
        ack(format!("purge {}", index - 10));
    }
    wal.close().unwrap();
}

/// The last number that was acknowledged under a name; 0 if none was.
fn acked(acks: &str, name: &str) -> u64 {
    acks.lines().rev().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Opens what is left; gives what is wrong with it.
fn check(root: &Path, acks: &str) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    fs::create_dir_all(root.join("data")).map_err(|error| text(&error))?;
    let dir = DataDir::open(Arc::new(OsDisk), &root.join("data")).map_err(|error| text(&error))?;
    let found = dir.identity().map_err(|error| text(&error))?.map_or(0, |identity| identity.member_id);
    if found < acked(acks, "identity ") {
        return Err(format!("identity {found} of {}", acked(acks, "identity ")));
    }
    let (wal, recovered) =
        Wal::open(Arc::new(OsDisk), &root.join("data/wal"), wal_config()).map_err(|error| text(&error))?;
    let facts = recovered.groups.get(&GROUP).cloned().unwrap_or_default();
    let vote = facts.vote.as_deref().map_or(0, number);
    let last = facts.entries.map(|(_, last)| last).or(facts.purged.as_ref().map(|(upto, _)| *upto)).unwrap_or(0);
    for (what, found) in [("vote ", vote), ("entry ", last)] {
        if found < acked(acks, what) {
            return Err(format!("{what}{found} of {}", acked(acks, what)));
        }
    }
    for (index, bytes) in wal.group(GROUP).read(..).map_err(|error| text(&error))? {
        if bytes != entry(index) {
            return Err(format!("entry {index} came back changed"));
        }
    }
    let store = CheckpointStore::open(&root.join("data/checkpoint"), CheckpointConfig::default());
    let loaded = store.map_err(|error| text(&error))?.load(GROUP).map_err(|error| text(&error))?;
    let (epoch, chunks) = match loaded {
        None => (0, Chunks::new()),
        Some(loaded) => {
            let epoch = number(&loaded.manifest);
            (epoch, loaded.chunks.collect::<Result<Chunks, _>>().map_err(|error| text(&error))?)
        }
    };
    let needed = acked(acks, "checkpoint ").max(facts.purged.map_or(0, |(_, mark)| number(&mark)));
    if epoch < needed || epoch > acked(acks, "checkpoint ") + 1 {
        return Err(format!("checkpoint {epoch} where {needed} was promised"));
    }
    if chunks != chunks_at(epoch) {
        return Err(format!("checkpoint {epoch} is not what it was"));
    }
    Ok(())
}

#[test]
#[ignore = "the process that is traced by the test below"]
fn traced() {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        work(Path::new(&dir));
    }
}

#[test]
#[ignore = "needs strace, and some minutes"]
fn what_was_acknowledged_survives_a_loss_of_power_at_any_moment() {
    let temp = tempfile::tempdir().unwrap();
    // As the calls say it, without links in it.
    let root: PathBuf = temp.path().canonicalize().unwrap().join("live");
    fs::create_dir(&root).unwrap();
    let output = temp.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "4000000", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(&output)
        .arg(std::env::current_exe().unwrap())
        .args(["traced", "--exact", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, &root)
        .status()
        .expect("strace runs");
    assert!(status.success());
    let trace = Trace::read(&fs::read_to_string(&output).unwrap(), &root);
    let acks = trace.written_to(&root.join("acks"), trace.moments);
    assert_eq!(acked(&acks, "entry "), EPOCHS * ENTRIES_PER_EPOCH);
    assert_eq!(fs::read_to_string(root.join("acks")).unwrap(), acks, "the trace tells all");

    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let cuts = setting("QUORATE_CUTS").unwrap_or(400);
    let mut moments = trace.interesting(&root.join("data"));
    if let Some(until) = setting("QUORATE_CUTS_UNTIL") {
        // Only the beginning: a start is a small part of a life, and makes the most files.
        moments.retain(|moment| *moment as u64 <= until);
    }
    let mut wrong = Vec::new();
    for seed in 0..cuts {
        let moment = moments[Chance(seed ^ 0xabcd).below(moments.len() as u64) as usize];
        let out = temp.path().join("cut");
        let _ = fs::remove_dir_all(&out);
        trace.after_cut(moment, seed, &root, &out);
        let promised = trace.written_to(&root.join("acks"), moment);
        if let Err(what) = check(&out, &promised) {
            wrong.push(format!("cut {seed} at line {moment}: {what}"));
            if let Some(keep) = std::env::var_os("QUORATE_KEEP_CUTS") {
                let _ = Command::new("cp").arg("-r").arg(&out).arg(Path::new(&keep).join(seed.to_string())).status();
            }
        }
    }
    println!("{cuts} cuts of {} calls in {} lines", moments.len(), trace.moments);
    assert!(wrong.is_empty(), "{} of {cuts} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
