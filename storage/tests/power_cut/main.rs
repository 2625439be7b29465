//! A loss of power on a real file system: the log, the checkpoints in sled and the identity file work for a while under
//! `strace`; then, for hundreds of moments, what the disk would hold is made from the trace, with writes that were not
//! synced lost, kept or torn, and today's code opens it. What had been acknowledged must be there.
//!
//! Twice or more in that while sled's store is made anew beside the old one. Every call of the exchange of the two, and of
//! the removal of the old one, is a moment that is looked at; of the rest, some.
//!
//! `cargo test -p quorate-storage --test power_cut -- --ignored` (needs `strace`, and a minute; QUORATE_CUTS says at how
//! many moments of the rest the power goes).

mod model;
mod trace;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use model::{Chance, Disk};
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointError, CheckpointStore};
use quorate_storage::disk::OsDisk;
use quorate_storage::identity::{DataDir, Identity};
use quorate_storage::wal::{Wal, WalConfig};
use trace::{CALLS, Call, Trace, What};

const DIR_VARIABLE: &str = "QUORATE_POWER_CUT_DIR";
const EPOCHS: u64 = 14;
const ENTRIES_PER_EPOCH: u64 = 15;
const GROUP: u64 = 1;
/// So many moments before an exchange are looked at one by one, each so many times with other losses.
const BEFORE_SWAP: usize = 12;
const WAYS: u64 = 4;

type Chunks = BTreeMap<u128, Vec<u8>>;

fn wal_config() -> WalConfig {
    WalConfig { segment_bytes: 64 << 10, spare_segments: 1, ..WalConfig::default() }
}

/// Made anew as soon as there is anything to win.
fn checkpoint_config() -> CheckpointConfig {
    CheckpointConfig { small_bytes: 1, ..CheckpointConfig::default() }
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
    let store = CheckpointStore::open(&root.join("data/checkpoint"), checkpoint_config()).unwrap();
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
        if epoch % 2 == 0 {
            let mut writer = store.begin_whole(GROUP).unwrap();
            let chunks = chunks_at(epoch);
            chunks.keys().for_each(|chunk| writer.reserve(*chunk).unwrap());
            chunks.iter().for_each(|(chunk, content)| writer.put(*chunk, content).unwrap());
            writer.commit(&epoch.to_le_bytes()).unwrap();
        } else {
            let mut writer = store.begin(GROUP).unwrap();
            for (chunk, content) in steps(epoch) {
                match content {
                    Some(content) => writer.put(chunk, &content).unwrap(),
                    None => writer.remove(chunk).unwrap(),
                }
            }
            writer.commit(&epoch.to_le_bytes()).unwrap();
        }
        ack(format!("checkpoint {epoch}"));
        if epoch % 3 == 0 {
            store.rest();
        }
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
    let store = CheckpointStore::open(&root.join("data/checkpoint"), checkpoint_config());
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
    if root.join("data/checkpoint.next").exists() {
        return Err("a store that does not count is left, and takes room for ever".to_owned());
    }
    Ok(())
}

/// What is left is good for more: the next checkpoint is written over it, and read.
fn go_on(root: &Path) -> Result<(), String> {
    let go = || -> Result<bool, CheckpointError> {
        let path = root.join("data/checkpoint");
        let store = CheckpointStore::open(&path, checkpoint_config())?;
        let mut writer = store.begin(GROUP)?;
        writer.put(1, b"after it")?;
        writer.commit(b"next")?;
        let mut writer = store.begin_whole(GROUP)?;
        writer.put(1, b"after it")?;
        let epoch = writer.commit(b"next but one")?;
        drop(store);
        let store = CheckpointStore::open(&path, checkpoint_config())?;
        let Some(mut loaded) = store.load(GROUP)? else { return Ok(false) };
        let found = loaded.chunks.try_fold(false, |found, chunk| {
            chunk.map(|(number, bytes)| found || number == 1 && bytes == b"after it")
        })?;
        Ok(found && loaded.epoch == epoch)
    };
    match go() {
        Ok(true) => Ok(()),
        Ok(false) => Err("a checkpoint that was written after it is not there".to_owned()),
        Err(error) => Err(format!("no checkpoint can be written after it: {error}")),
    }
}

/// Where a life was traced, and what of it.
struct Life {
    trace: Trace,
    root: PathBuf,
    /// What is left after a cut stands here.
    left: tempfile::TempDir,
}

/// A moment, and the seed of what is lost at it.
type Cut = (usize, u64);

impl Life {
    fn live() -> Self {
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
        // Of what is left nothing is promised again: it may stand in memory.
        let memory = Path::new("/dev/shm");
        let left = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { trace, root, left: left.unwrap() }
    }

    /// The same life with a promise less: syncs of which this is true never were.
    fn without_syncs(&self, is_left_out: impl Fn(&Path, &Call) -> bool) -> Trace {
        let mut trace = self.trace.clone();
        trace.calls.retain(|call| !matches!(&call.what, What::Sync { path } if is_left_out(path, call)));
        assert!(trace.calls.len() < self.trace.calls.len(), "there is no such sync");
        trace
    }

    /// What is wrong after these losses of power; no more is looked for than `most`.
    fn wrong_after(&self, trace: &Trace, mut cuts: Vec<Cut>, most: usize) -> Vec<String> {
        cuts.sort_unstable();
        let mut calls = trace.calls.iter().peekable();
        let mut disk = Disk::new(&self.root);
        let out = self.left.path().join("cut");
        let mut wrong = Vec::new();
        for (moment, seed) in cuts {
            if wrong.len() >= most {
                break;
            }
            while let Some(call) = calls.next_if(|call| call.begin < moment) {
                disk.take(call);
            }
            let _ = fs::remove_dir_all(&out);
            disk.after_cut(moment, seed, &out);
            let promised = trace.written_to(&self.root.join("acks"), moment);
            let found = check(&out, &promised).and_then(|()| if seed % 4 == 0 { go_on(&out) } else { Ok(()) });
            if let Err(what) = found {
                wrong.push(format!("cut {seed} at line {moment}: {what}"));
                if let Some(keep) = std::env::var_os("QUORATE_KEEP_CUTS") {
                    let _ = fs::remove_dir_all(&out);
                    disk.after_cut(moment, seed, &Path::new(&keep).join(format!("{moment}-{seed}")));
                }
            }
        }
        wrong
    }
}

#[test]
#[ignore = "the process that is traced by the test below"]
fn traced() {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        work(Path::new(&dir));
    }
}

#[test]
#[ignore = "needs strace, and a minute"]
fn what_was_acknowledged_survives_a_loss_of_power_at_any_moment() {
    let life = Life::live();
    let (data, beside) = (life.root.join("data"), life.root.join("data/checkpoint.next"));
    let moments = life.trace.interesting(&data);
    let swaps = life.trace.swaps(&beside);
    assert!(swaps.len() >= 2, "the store was made anew {} times", swaps.len());

    // Every moment from the last calls before each exchange to the end of the old store, each in several ways.
    let in_swap = |from: usize, to: usize| {
        let at = moments.partition_point(|moment| *moment < from).saturating_sub(BEFORE_SWAP);
        moments[at..].iter().copied().take_while(move |moment| *moment <= to + 1)
    };
    let of_swaps: Vec<Cut> = swaps
        .iter()
        .flat_map(|(from, to)| in_swap(*from, *to))
        .flat_map(|moment| (0..WAYS).map(move |seed| (moment, seed)))
        .collect();
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let some = setting("QUORATE_CUTS").unwrap_or(400);
    let random = (0..some).map(|seed| (moments[Chance(seed ^ 0xabcd).below(moments.len() as u64) as usize], seed));
    let cuts: Vec<Cut> = of_swaps.iter().copied().chain(random).collect();
    println!(
        "{} cuts, {} of them around {} exchanges of stores, in {} lines",
        cuts.len(),
        of_swaps.len(),
        swaps.len(),
        life.trace.moments
    );
    let (wrong, all) = (life.wrong_after(&life.trace, cuts.clone(), usize::MAX), cuts.len());
    assert!(wrong.is_empty(), "{} of {all} are wrong:\n{}", wrong.len(), wrong.join("\n"));

    // And that says something: each of these syncs, left out, is missed.
    let is_swap = |call: &Call, before: bool| {
        swaps.iter().any(|(from, to)| if before { call.begin < *from } else { call.begin > *from && call.begin <= *to })
    };
    let missed = |what: &str, trace: Trace, cuts: &[Cut]| {
        let wrong = life.wrong_after(&trace, cuts.to_vec(), 1);
        println!("without {what}: {wrong:?}");
        assert!(!wrong.is_empty(), "nobody misses {what}");
    };
    let trace = life.without_syncs(|path, call| path == data && is_swap(call, false));
    missed("the sync of the directory behind an exchange", trace, &of_swaps);
    missed("the sync of the new store's directory", life.without_syncs(|path, _| path == beside), &of_swaps);
    let trace = life.without_syncs(|path, _| path.starts_with(&beside) && path != beside);
    missed("the syncs of the new store's files", trace, &of_swaps);
    let early: Vec<Cut> = cuts[of_swaps.len()..].to_vec();
    let trace = life.without_syncs(|path, _| path == data.join("wal"));
    missed("the syncs of the log's directory", trace, &early);
}
