//! Measures the log and the checkpoint store on a real disk:
//! `cargo run --release -p quorate-storage --example measure -- DIR [wal|checkpoint|churn]`.
//!
//! The figures depend on the disk more than on the code: the plain file beside the log, in the same run, is what they
//! are to be compared with.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointStore};
use quorate_storage::disk::OsDisk;
use quorate_storage::wal::{Wal, WalConfig};

const BATCH_BYTES: usize = 5 << 10;
const BATCHES: usize = 4000;
const CHUNK_BYTES: usize = 8000;
const CHUNKS: u64 = 16_384;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 1000].as_micros();
    let mean = times.iter().sum::<Duration>().as_micros() / times.len() as u128;
    println!("{name:<46} mean {mean:>5} µs  p50 {:>5}  p99 {:>6}  max {:>7}", at(500), at(990), at(1000));
}

fn plain(dir: &Path, preallocated: bool) -> Outcome<Vec<Duration>> {
    let path = dir.join("plain");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    if preallocated {
        let zeros = vec![0; 1 << 20];
        (0..64).try_for_each(|at| file.write_all_at(&zeros, at << 20))?;
    }
    file.sync_all()?;
    let data = vec![7; BATCH_BYTES];
    let mut times = Vec::new();
    for at in 0..BATCHES {
        let start = Instant::now();
        file.write_all_at(&data, (at * BATCH_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}

fn wal(dir: &Path) -> Outcome<()> {
    percentiles("plain file, appending", plain(dir, false)?);
    percentiles("plain file, zeros written before", plain(dir, true)?);
    let dir = dir.join("wal");
    let (wal, _) = Wal::open(Arc::new(OsDisk), &dir, WalConfig::default())?;
    let log = wal.group(1);
    let data = Bytes::from(vec![7; BATCH_BYTES]);
    let mut index = 0;
    for (name, batches, purge) in
        [("log, one batch at a time", BATCHES, false), ("log, purging, segments used again", 15 * BATCHES, true)]
    {
        let mut times = Vec::new();
        for _ in 0..batches {
            index += 1;
            let (tell, told) = mpsc::channel();
            let start = Instant::now();
            log.append(vec![(index, data.clone())], Box::new(move |result| drop(tell.send(result))));
            told.recv()??;
            times.push(start.elapsed());
            if purge && index % 1000 == 0 {
                log.purge(index, Bytes::new(), Box::new(drop));
            }
        }
        percentiles(name, times);
    }
    let stats = wal.stats();
    let (syncs, sum) = (stats.sync_us.count(), stats.sync_us.sum);
    println!("  of that in the sync: mean {} µs; {} segments used again", sum / syncs, stats.recycled);
    let first = index + 1;
    let start = Instant::now();
    let (tell, told) = mpsc::channel();
    for index in first..first + 100_000 {
        let tell = tell.clone();
        log.append(vec![(index, data.clone())], Box::new(move |result| drop(tell.send(result))));
    }
    (0..100_000).try_for_each(|_| told.recv()?.map_err(Box::<dyn Error>::from))?;
    let took = start.elapsed();
    let mb = 100_000 * BATCH_BYTES / 1_000_000;
    println!("log, 100,000 entries of 5 KB given at once: {took:?}, {} MB/s", mb as u128 * 1000 / took.as_millis());
    drop((log, wal));
    let start = Instant::now();
    let (wal, recovered) = Wal::open(Arc::new(OsDisk), &dir, WalConfig::default())?;
    println!("open and check {} MB: {:?}", recovered.bytes / 1_000_000, start.elapsed());
    let start = Instant::now();
    let found = wal.group(1).read(first..first + 50_000)?;
    println!("read {} entries from disk: {:?}", found.len(), start.elapsed());
    Ok(())
}

fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let mb = |name| field(name).map_or(0, |kb: u64| kb / 1024);
    format!("memory {} MB, at most {} MB", mb("VmRSS:"), mb("VmHWM:"))
}

fn chunk(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..CHUNK_BYTES / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn checkpoint(dir: &Path, rounds: u64) -> Outcome<()> {
    let dir = dir.join("checkpoint");
    let store = CheckpointStore::open(&dir, CheckpointConfig::default())?;
    println!("empty: {}", memory());
    for round in 0..=rounds {
        // The first writes everything, the others a tenth.
        let step = if round == 0 { 1 } else { 10 };
        let start = Instant::now();
        let mut writer = store.begin(1)?;
        for number in (0..CHUNKS).filter(|number| number % step == round % step) {
            writer.put(u128::from(number) << 97, &chunk(number + round))?;
        }
        let wrote = start.elapsed();
        writer.commit(b"")?;
        if round < 2 || round % 20 == 0 {
            let disk = store.disk_bytes() / 1_000_000;
            let all = start.elapsed();
            println!("checkpoint {round}: rows {wrote:?}, with commit {all:?}, {disk} MB on disk, {}", memory());
        }
    }
    drop(store);
    let start = Instant::now();
    let store = CheckpointStore::open(&dir, CheckpointConfig::default())?;
    let opened = start.elapsed();
    let loaded = store.load(1)?.ok_or("there is no checkpoint")?;
    let mut bytes = 0;
    for chunk in loaded.chunks {
        bytes += chunk?.1.len();
    }
    println!("reopen {opened:?}, read back {} MB: {:?}, {}", bytes / 1_000_000, start.elapsed(), memory());
    Ok(())
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: measure DIR [wal|checkpoint|churn]")?;
    let what = args.next().unwrap_or_default();
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    if what.is_empty() || what == "wal" {
        wal(dir)?;
    }
    if what.is_empty() || what == "checkpoint" {
        checkpoint(dir, 1)?;
    }
    if what == "churn" {
        checkpoint(dir, 200)?;
    }
    Ok(())
}
