//! Checkpoint after checkpoint of a keyspace that churns: what the store takes on the disk and in memory in the long run.
//!
//! Keyspace and store alone, in this process: what takes memory here besides the keyspace is the store. Each time a tenth
//! of the keys is written over, and one in a hundred goes and another comes: that touches every slot, so each checkpoint
//! writes everything. It is the worst that there is for the store.

use crate::options::Options;
use bytes::BytesMut;
use quorate_keyspace::{Keyspace, Proto, Stamp, UnitHead, UnitKind, encode_entry, encode_found_unit, encode_unit};
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointStore};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const GROUP: u64 = 1;
const BATCH: u64 = 1000;
/// Between two lines of the table.
const LINE_EVERY: usize = 20;
const MOST_DISK: f64 = 4.0;
const MOST_MEMORY: u64 = 200 << 20;

/// What there was after so many checkpoints.
#[derive(Debug)]
pub struct Line {
    checkpoints: usize,
    /// Bytes of all chunks.
    data: u64,
    disk: u64,
    /// Resident memory above that of the keyspace alone.
    memory: u64,
    took: Duration,
}

struct Churn {
    keyspace: Keyspace,
    random: u64,
    /// Keys from here on have not been written yet; those before `first` are gone.
    next: u64,
    first: u64,
    time_ms: u64,
}

impl Churn {
    fn apply(&mut self, commands: &[Vec<Vec<u8>>]) -> anyhow::Result<()> {
        let args: Vec<Vec<&[u8]>> =
            commands.iter().map(|command| command.iter().map(Vec::as_slice).collect()).collect();
        let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
        let unit = encode_unit(head, args.iter().map(|args| (0, &args[..])));
        self.time_ms += 1;
        let mut entry = BytesMut::new();
        encode_entry(Stamp { time_ms: self.time_ms, seed: self.time_ms }, &[unit], &mut entry);
        self.keyspace.apply(&entry.freeze(), false)?;
        drop(self.keyspace.take_garbage());
        Ok(())
    }

    fn key(number: u64) -> Vec<u8> {
        format!("key:{number:012}").into_bytes()
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn set(&mut self, number: u64) -> Vec<Vec<u8>> {
        // Not the same twice, and nothing that could be made smaller.
        let value = (0..13).flat_map(|_| self.random().to_le_bytes()).take(100).collect();
        vec![b"SET".to_vec(), Self::key(number), value]
    }

    fn fill(&mut self, keys: u64) -> anyhow::Result<()> {
        let until = self.next + keys;
        while self.next < until {
            let batch: Vec<_> = (self.next..until.min(self.next + BATCH)).map(|number| self.set(number)).collect();
            self.next += batch.len() as u64;
            self.apply(&batch)?;
        }
        Ok(())
    }

    fn churn(&mut self) -> anyhow::Result<()> {
        let keys = self.next - self.first;
        for _ in 0..keys / 10 / BATCH {
            let batch: Vec<_> = (0..BATCH)
                .map(|_| {
                    let number = self.first + self.random() % keys;
                    self.set(number)
                })
                .collect();
            self.apply(&batch)?;
        }
        let (first, gone) = (self.first, keys / 100);
        let dels: Vec<_> = (first..first + gone).map(|number| vec![b"DEL".to_vec(), Self::key(number)]).collect();
        self.first += gone;
        self.apply(&dels)?;
        self.fill(gone)
    }
}

pub fn run(options: &Options) -> anyhow::Result<Vec<Line>> {
    let mut churn =
        Churn { keyspace: Keyspace::new(1, [0, 0]), random: 88_172_645_463_325_252, next: 0, first: 0, time_ms: 1 };
    let mut entry = BytesMut::new();
    encode_entry(Stamp { time_ms: 1, seed: 1 }, &[encode_found_unit(1, [7, 8])], &mut entry);
    churn.keyspace.apply(&entry.freeze(), false)?;
    churn.fill(options.soak_keys)?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("checkpoint");
    // After a round of churn, so that what it does to the keyspace's memory isn't booked as the store's.
    churn.churn()?;
    let alone = resident();
    let store = CheckpointStore::open(&path, CheckpointConfig::default())?;
    let mut known = BTreeMap::new();
    let (mut lines, mut took) = (Vec::new(), Duration::ZERO);
    for number in 1..=options.soak_checkpoints {
        churn.churn()?;
        let begun = Instant::now();
        let data = checkpoint(&store, &churn.keyspace, &mut known)?;
        took += begun.elapsed();
        if number % LINE_EVERY == 0 || number == 1 {
            let memory = resident().saturating_sub(alone);
            let line = Line { checkpoints: number, data, disk: size_of(&path)?, memory, took };
            println!("  {}", shown(&line));
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Writes what has changed; the bytes of all chunks.
fn checkpoint(
    store: &CheckpointStore,
    keyspace: &Keyspace,
    known: &mut BTreeMap<u128, (u64, u64)>,
) -> anyhow::Result<u64> {
    let view = keyspace.view();
    let is_known = |(id, revision): &(u128, u64)| known.get(id).is_some_and(|(at, _)| at == revision);
    let chunks: Vec<_> = view.chunks().collect();
    let news = chunks.iter().filter(|chunk| !is_known(chunk)).count();
    let whole = store.had_better_be_whole(GROUP, news, chunks.len());
    let mut writer = if whole { store.begin_whole(GROUP)? } else { store.begin(GROUP)? };
    if whole {
        chunks.iter().try_for_each(|(id, _)| writer.reserve(*id))?;
    }
    let mut now = BTreeMap::new();
    let mut bytes = Vec::new();
    for (id, revision) in chunks {
        let before = known.get(&id).filter(|(at, _)| *at == revision && !whole);
        let len = match before {
            Some((_, len)) => *len,
            None => {
                bytes.clear();
                view.encode(id, &mut bytes);
                writer.put(id, &bytes)?;
                bytes.len() as u64
            }
        };
        now.insert(id, (revision, len));
    }
    for id in known.keys().filter(|id| !whole && !now.contains_key(id)) {
        writer.remove(*id)?;
    }
    writer.commit(b"")?;
    *known = now;
    Ok(known.values().map(|(_, len)| len).sum())
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// What a directory takes on the disk, holes not counted.
fn size_of(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let (entry, facts) = entry.and_then(|entry| entry.metadata().map(|facts| (entry, facts)))?;
        sum += if facts.is_dir() { size_of(&entry.path())? } else { facts.blocks() * 512 };
    }
    Ok(sum)
}

fn shown(line: &Line) -> String {
    let ratio = line.disk as f64 / line.data.max(1) as f64;
    format!(
        "| {} | {} MB | {} MB | {ratio:.2} × | {} MB | {:.2} s |",
        line.checkpoints,
        line.data >> 20,
        line.disk >> 20,
        line.memory >> 20,
        line.took.as_secs_f64() / line.checkpoints as f64
    )
}

pub fn table(lines: &[Line], out: &mut String) {
    if lines.is_empty() {
        return;
    }
    out.push_str("\n| checkpoints | data | on disk | of the data | memory beyond the keyspace | each took |\n|---:|---:|---:|---:|---:|---:|\n");
    for line in lines {
        let _ = writeln!(out, "{}", shown(line));
    }
    let kept = lines.iter().all(|line| line.disk as f64 <= MOST_DISK * line.data as f64 && line.memory <= MOST_MEMORY);
    let verdict = if kept { "reached" } else { "**missed**" };
    let _ = writeln!(
        out,
        "\nTo reach: at most {MOST_DISK} × of the data on disk, {} MB of memory: {verdict}.",
        MOST_MEMORY >> 20
    );
}
