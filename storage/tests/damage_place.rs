//! Wherever in a log something is damaged, what is told names that file and that place: an operator looks there, and
//! nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::disk::{Disk, OsDisk};
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::{Inspection, Wal, WalConfig, WalError};

const DIR: &str = "/wal";
const BLOCK: usize = 512;
const MAGIC: &[u8] = b"QWB1";

fn config() -> WalConfig {
    WalConfig { segment_bytes: 4096, spare_segments: 1, salt: Some(77), ..WalConfig::default() }
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Entries of several sizes, some batches, and a purge now and then, so that segments are used again. Each of them ends
/// with a batch that says that all before it are on disk.
fn write_log(disk: &MemDisk, rounds: u64) {
    let (wal, mut driver, _) =
        Wal::open_manual(Arc::new(disk.clone()), Path::new(DIR), config(), Box::new(|| {})).unwrap();
    let group = wal.group(1);
    let must = || Box::new(|result: std::io::Result<()>| result.unwrap());
    group.save_vote(Bytes::from_static(b"a vote"), must());
    for index in 1..=rounds {
        let entry = vec![index as u8; 100 + (index as usize * 397) % 1500];
        group.append(vec![(index, entry.into())], must());
        driver.run_once();
        if index % 5 == 0 && index > 8 {
            group.purge(index - 8, Bytes::from_static(b"a mark"), must());
            driver.run_once();
        }
    }
    driver.idle();
    wal.close().unwrap();
    driver.close();
}

/// Every batch that counts: file, offset, bytes, number.
fn batches(disk: &MemDisk) -> Vec<(PathBuf, usize, usize, u64)> {
    let mut found = BTreeMap::new();
    let mut base = 0;
    for name in disk.list(Path::new(DIR)).unwrap().into_iter().filter(|name| name.ends_with(".wal")) {
        let path = Path::new(DIR).join(&name);
        let seq = u64::from_str_radix(&name[..16], 16).unwrap();
        let bytes = disk.contents(&path).unwrap();
        let mut at = BLOCK;
        while at < bytes.len() && bytes[at..].starts_with(MAGIC) && number(&bytes, at + 8, 8) == seq {
            let len = (56 + number(&bytes, at + 40, 4) as usize).div_ceil(BLOCK) * BLOCK;
            base = number(&bytes, at + 32, 8);
            let batch = number(&bytes, at + 16, 8);
            found.insert(batch, (seq, (path.clone(), at, len, batch)));
            at += len;
        }
    }
    found.into_values().filter(|(seq, _)| *seq >= base).map(|(_, batch)| batch).collect()
}

fn damaged(disk: &MemDisk, path: &Path, at: usize) -> MemDisk {
    copy_with(disk, path, |bytes| bytes[at] ^= 4)
}

fn copy_with(disk: &MemDisk, path: &Path, harm: impl Fn(&mut Vec<u8>)) -> MemDisk {
    let copy = MemDisk::new();
    copy.create_dir_all(Path::new(DIR)).unwrap();
    for name in disk.list(Path::new(DIR)).unwrap() {
        let file = Path::new(DIR).join(&name);
        let mut bytes = disk.contents(&file).unwrap();
        if file == path {
            harm(&mut bytes);
        }
        copy.create(&file).unwrap().write_at(&bytes, 0).unwrap();
    }
    copy
}

#[test]
fn a_damaged_batch_is_named_wherever_it_is() {
    let mut judged = 0;
    for rounds in 10..40 {
        let disk = MemDisk::new();
        write_log(&disk, rounds);
        let all = batches(&disk);
        let last = all.last().unwrap().3;
        for (path, at, len, batch) in all.into_iter().filter(|(.., batch)| *batch < last) {
            // Its header, its records, its end.
            for bit in [at + 1, at + 5, at + 20, at + 45, at + 60, at + len / 2] {
                let disk = damaged(&disk, &path, bit);
                let place = format!("{} at {at}, batch {batch} of {last}, {rounds} rounds", path.display());
                let inspection = Inspection::read(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
                let opened = Wal::open_manual(Arc::new(disk), Path::new(DIR), config(), Box::new(|| {}));
                match opened.map(drop) {
                    // Zeros behind the records are in no checksum.
                    Ok(()) => assert!(bit >= at + 60, "{place} was not seen"),
                    Err(WalError::Corrupt { path: told, offset, what }) => {
                        judged += 1;
                        assert_eq!((&told, offset), (&path, at as u64), "{place}: {what}");
                        let noted: Vec<_> = inspection.damage.iter().map(|found| (&found.path, found.offset)).collect();
                        assert_eq!(noted, [(&path, at as u64)], "{place}");
                    }
                    Err(error) => panic!("{place}: {error}"),
                }
            }
        }
    }
    assert!(judged > 1000, "{judged}");
}

/// A file that counts and is gone, or of which only the beginning is left, is told as that file.
#[test]
fn a_segment_that_is_missing_or_cut_is_named() {
    let mut moved = 0;
    for rounds in 10..40 {
        let sound = MemDisk::new();
        write_log(&sound, rounds);
        let mut segments: Vec<PathBuf> = batches(&sound).into_iter().map(|(path, ..)| path).collect();
        segments.dedup();
        let last = segments.last().cloned();
        let behind = sound.list(Path::new(DIR)).unwrap().last().map(|name| Path::new(DIR).join(name));
        assert!(behind > last, "a file is ready behind the last that is written to");
        // Which file the log begins with, by the last batch before those of its last file.
        let before = batches(&sound).into_iter().rfind(|(path, ..)| Some(path) != last.as_ref()).expect("two files");
        let base = number(&sound.contents(&before.0).unwrap(), before.1 + 32, 8);
        moved += u64::from(sound.contents(&Path::new(DIR).join(format!("{base:016x}.wal"))).is_err());
        for path in segments {
            for left in [None, Some(0), Some(100), Some(512), Some(1024)] {
                let disk = copy_with(&sound, &path, |bytes| bytes.truncate(left.unwrap_or(0)));
                if left.is_none() {
                    disk.remove(&path).unwrap();
                }
                let place = format!("{} of which {left:?} is left, {rounds} rounds", path.display());
                let inspection = Inspection::read(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
                match Wal::open_manual(Arc::new(disk), Path::new(DIR), config(), Box::new(|| {})).map(drop) {
                    Err(WalError::Corrupt { path: told, what, .. }) => assert_eq!(told, path, "{place}: {what}"),
                    other => panic!("{place}: {other:?}"),
                }
                assert_eq!(inspection.damage.first().map(|found| &found.path), Some(&path), "{place}");
            }
        }
    }
    assert!(moved > 0, "in none of them the last file moved the base");
}

#[test]
fn a_file_of_absurd_size_is_damage_and_no_memory_is_taken_for_it() {
    let temp = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), config()).unwrap();
    wal.close().unwrap();
    let segment = temp.path().join("0000000000000001.wal");
    std::fs::File::options().write(true).open(&segment).unwrap().set_len(1 << 42).unwrap();
    let error = Wal::open(Arc::new(OsDisk), temp.path(), config()).map(drop).unwrap_err();
    assert!(matches!(&error, WalError::Corrupt { path, .. } if *path == segment), "{error}");
    let found = Inspection::read(Arc::new(OsDisk), temp.path()).unwrap();
    assert!(found.damage.iter().all(|found| found.path == segment) && !found.damage.is_empty(), "{:?}", found.damage);
}
