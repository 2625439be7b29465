//! The log's behaviour one at a time; `crash_tests` looks at all of it together under power cuts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::disk::{Disk, OsDisk};
use crate::memdisk::MemDisk;

const DIR: &str = "/wal";

fn small() -> WalConfig {
    WalConfig { segment_bytes: 16 << 10, cache_bytes: 4 << 10, batch_bytes: 8 << 10, ..WalConfig::default() }
}

fn manual(disk: &MemDisk) -> Result<(Wal, WalDriver, Recovered), WalError> {
    Wal::open_manual(Arc::new(disk.clone()), Path::new(DIR), small(), Box::new(|| {}))
}

fn nothing() -> Done {
    Box::new(|_| {})
}

fn must() -> Done {
    Box::new(|result| result.unwrap())
}

/// A callback, and the place where its result can be waited for.
fn waiting() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (give, take) = mpsc::channel();
    (Box::new(move |result| give.send(result).unwrap()), take)
}

fn entry(index: u64, bytes: usize) -> Bytes {
    let mut entry = index.to_le_bytes().to_vec();
    entry.resize(bytes.max(8), index as u8);
    entry.into()
}

fn append(log: &GroupLog, indexes: impl IntoIterator<Item = u64>, bytes: usize) {
    log.append(indexes.into_iter().map(|index| (index, entry(index, bytes))).collect(), must());
}

fn segment(seq: u64) -> PathBuf {
    Path::new(DIR).join(segment::file_name(seq))
}

#[test]
fn groups_append_at_the_same_time_and_find_their_own_again() {
    let temp = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), small()).unwrap();
    std::thread::scope(|scope| {
        for group in 0..4 {
            let log = wal.group(group);
            scope.spawn(move || {
                for index in 1..=100 {
                    let (done, result) = waiting();
                    log.append(vec![(index, entry(index * 10 + group, 300))], done);
                    assert_eq!(log.read(index..).unwrap(), [(index, entry(index * 10 + group, 300))]);
                    result.recv().unwrap().unwrap();
                }
            });
        }
    });
    let stats = wal.stats();
    assert_eq!(stats.batch_ops.sum, 400);
    assert!(stats.sync_us.count() >= stats.batch_ops.count() && stats.cache_bytes <= 4 << 10);
    drop(wal);
    let (wal, recovered) = Wal::open(Arc::new(OsDisk), temp.path(), small()).unwrap();
    assert_eq!(recovered.cut, None);
    for group in 0..4 {
        assert_eq!(recovered.groups[&group].entries, Some((1, 100)));
        let all: Vec<_> = (1..=100).map(|index| (index, entry(index * 10 + group, 300))).collect();
        assert_eq!(wal.group(group).read(..).unwrap(), all);
    }
}

#[test]
fn what_waits_together_is_synced_once() {
    let (wal, mut driver, _) = manual(&MemDisk::new()).unwrap();
    for group in 0..5 {
        append(&wal.group(group), 1..4, 50);
        wal.group(group).save_vote(Bytes::from_static(b"vote"), must());
    }
    assert!(driver.run_once());
    assert!(!driver.run_once());
    let stats = wal.stats();
    assert_eq!((stats.sync_us.count(), stats.batch_ops.sum, stats.batch_ops.count()), (1, 10, 1));
    assert_eq!(stats.entries, 15);
}

#[test]
fn a_committed_mark_costs_no_sync_and_is_not_forgotten() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    append(&wal.group(1), 1..2, 50);
    driver.run_once();
    for mark in [&b"1"[..], b"2", b"3"] {
        wal.group(1).save_committed(Bytes::from_static(mark)).unwrap();
        assert!(!driver.run_once());
    }
    assert_eq!(wal.group(1).committed().unwrap(), "3");
    driver.idle();
    assert_eq!(wal.stats().sync_us.count(), 1);
    let (_, _, recovered) = manual(&disk.restart()).unwrap();
    assert_eq!(recovered.groups[&1].committed.as_deref(), Some(&b"3"[..]));
}

#[test]
fn old_segments_are_used_again_and_votes_outlive_them() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    wal.group(9).save_vote(Bytes::from_static(b"the only vote"), must());
    wal.group(9).save_committed(Bytes::from_static(b"mark")).unwrap();
    for round in 0..60 {
        append(&wal.group(1), round * 10..round * 10 + 10, 500);
        driver.run_once();
        if round > 0 {
            wal.group(1).purge(round * 10 - 5, Bytes::copy_from_slice(&round.to_le_bytes()), must());
            driver.run_once();
        }
    }
    let stats = wal.stats();
    assert!(stats.recycled > 10, "{stats:?}");
    let files = disk.list(Path::new(DIR)).unwrap().len() as u64;
    assert_eq!(files, stats.live_segments + stats.spare_segments);
    assert!(files <= 6, "{files} files");
    assert_eq!(stats.disk_bytes, files * (16 << 10));
    let (wal, _driver, recovered) = manual(&disk.crash(1)).unwrap();
    assert_eq!(recovered.groups[&9].vote.as_deref(), Some(&b"the only vote"[..]));
    assert_eq!(recovered.groups[&9].committed.as_deref(), Some(&b"mark"[..]));
    assert_eq!(recovered.groups[&1].entries, Some((586, 599)));
    assert_eq!(wal.group(1).purged(), Some((585, Bytes::copy_from_slice(&59_u64.to_le_bytes()))));
    assert_eq!(wal.group(1).read(..).unwrap().len(), 14);
}

#[test]
fn a_lagging_group_keeps_its_segments() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    append(&wal.group(2), 1..2, 100);
    for index in 1..100 {
        append(&wal.group(1), [index], 3000);
        wal.group(1).purge(index, Bytes::new(), must());
        driver.run_once();
    }
    assert!(wal.stats().live_segments > 15);
    assert_eq!(wal.group(2).read(..).unwrap(), [(1, entry(1, 100))]);
    wal.group(2).purge(1, Bytes::new(), must());
    driver.run_once();
    assert!(wal.stats().live_segments <= 2);
    assert_eq!(wal.group(2).last().unwrap(), None);
}

#[test]
fn what_is_removed_before_it_is_written_does_not_hold_its_segment() {
    let (wal, mut driver, _) = manual(&MemDisk::new()).unwrap();
    let log = wal.group(1);
    for round in 0..40 {
        append(&log, round * 3 + 1..round * 3 + 4, 3000);
        if round % 2 == 0 {
            log.truncate_after(Some(round * 3 + 2), must());
            append(&log, [round * 3 + 3], 100);
        }
        log.purge(round * 3 + 3, Bytes::new(), must());
        while driver.run_once() {}
    }
    assert!(wal.stats().live_segments <= 2, "{:?}", wal.stats());
}

#[test]
fn a_failed_sync_ends_the_log_for_everybody() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    append(&wal.group(1), 1..3, 10);
    driver.run_once();
    disk.fail_sync_after(0);
    let (done, first) = waiting();
    wal.group(1).append(vec![(3, entry(3, 10))], done);
    let (done, second) = waiting();
    wal.group(2).save_vote(Bytes::new(), done);
    driver.run_once();
    let error = first.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot sync /wal/0000000000000001.wal"), "{error}");
    assert!(second.recv().unwrap().is_err());
    // The disk works again, but what the sync was about may be gone.
    let (done, third) = waiting();
    wal.group(1).append(vec![(4, entry(4, 10))], done);
    assert!(third.recv().unwrap().is_err());
    assert!(!driver.run_once());
    assert!(wal.group(1).read(..).is_err());
    assert!(wal.group(1).save_committed(Bytes::new()).is_err());
    assert!(wal.failed().is_some() && wal.close().is_err());
    assert_eq!(wal.stats().sync_failures, 1);
}

/// The batch with which the log moves on to its second segment, and makes the third.
fn first_batch_of_a_second_segment() -> u64 {
    let (wal, mut driver, _) = manual(&MemDisk::new()).unwrap();
    let moves = |index: &u64| {
        append(&wal.group(1), [*index], 3000);
        driver.run_once();
        wal.stats().live_segments > 1
    };
    (1..).find(moves).unwrap()
}

/// The file that is made ready for later is no exception: only a full disk is waited for.
#[test]
fn a_failed_sync_of_the_next_segment_ends_the_log_and_is_not_told_as_want_of_room() {
    let batches = first_batch_of_a_second_segment();
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    // One sync for each batch, until the one that makes a segment before it is written.
    disk.fail_sync_after(batches - 1);
    let mut results = Vec::new();
    for index in 1..=batches {
        let (done, result) = waiting();
        wal.group(1).append(vec![(index, entry(index, 3000))], done);
        driver.run_once();
        results.push(result.try_recv().unwrap());
    }
    assert!(results.pop().unwrap().is_err());
    assert!(results.iter().all(Result::is_ok));
    assert!(wal.has_room(), "it is no want of room");
    let error = wal.failed().unwrap().to_string();
    assert!(error.contains("cannot sync /wal/0000000000000003.wal"), "{error}");
    // Nothing is tried again, and nothing more is taken.
    let operations = disk.operations();
    let (done, later) = waiting();
    wal.group(1).append(vec![(batches, entry(batches, 10))], done);
    assert!(!driver.run_once());
    driver.idle();
    driver.close();
    assert!(later.recv().unwrap().is_err() && disk.operations() == operations);
    let (_, _, recovered) = manual(&disk.crash(3)).unwrap();
    assert_eq!(recovered.groups[&1].entries, Some((1, batches - 1)));
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let (wal, mut driver, _) = manual(&MemDisk::new()).unwrap();
    let log = wal.group(1);
    append(&log, 5..8, 10);
    let (done, result) = waiting();
    log.append(vec![(8, entry(8, 10)), (10, entry(10, 10))], done);
    let error = result.recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!((log.first_index(), log.last_index()), (Some(5), Some(7)));
    log.truncate_after(Some(5), must());
    append(&log, 6..7, 10);
    log.purge(20, Bytes::new(), must());
    let (done, result) = waiting();
    log.append(vec![(7, entry(7, 10))], done);
    assert!(result.recv().unwrap().is_err());
    append(&log, 21..22, 10);
    assert!(driver.run_once());
    assert_eq!(log.last().unwrap(), Some((21, entry(21, 10))));
}

#[test]
fn a_flipped_bit_is_never_served() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    for index in 1..20 {
        append(&wal.group(1), [index], 600);
        driver.run_once();
    }
    // Entry 2 is in the second batch: block 3 of the first segment.
    disk.flip_bit(&segment(1), 3 * 512 + 200, 5).unwrap();
    let error = wal.group(1).read(..).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let place = "/wal/0000000000000001.wal at offset 1592: entry 2 of group 1";
    assert!(error.to_string().contains(place), "{error}");
    assert_eq!(wal.group(1).read(3..=4).unwrap().len(), 2);
    let error = manual(&disk.restart()).map(drop).unwrap_err().to_string();
    assert!(error.contains("/wal/0000000000000001.wal at offset 1536: batch 2 is damaged"), "{error}");
}

#[test]
fn damage_to_the_last_batch_shows_once_the_log_has_idled() {
    for idle in [false, true] {
        let disk = MemDisk::new();
        let (wal, mut driver, _) = manual(&disk).unwrap();
        append(&wal.group(1), 1..2, 100);
        driver.run_once();
        append(&wal.group(1), 2..3, 100);
        driver.run_once();
        if idle {
            driver.idle();
        }
        disk.flip_bit(&segment(1), 1024 + 100, 0).unwrap();
        match manual(&disk.restart()) {
            Err(WalError::Corrupt { offset: 1024, .. }) => assert!(idle),
            Ok((_, _, recovered)) => {
                // Nothing tells it from a write that was torn before it was acknowledged.
                assert!(!idle);
                assert_eq!(recovered.groups[&1].entries, Some((1, 1)));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    append(&wal.group(1), 1..2, 100);
    append(&wal.group(1), 2..3, 100_000);
    append(&wal.group(1), 3..4, 100);
    while driver.run_once() {}
    assert!(wal.stats().disk_bytes > 100_000);
    let (wal, mut driver, _) = manual(&disk.crash(0)).unwrap();
    assert_eq!(wal.group(1).read(..).unwrap()[1].1, entry(2, 100_000));
    assert_eq!(wal.group(1).read_limited(.., 1000).unwrap().len(), 1);
    assert_eq!(wal.group(1).read_limited(2.., 1).unwrap().len(), 1);
    wal.group(1).purge(3, Bytes::new(), must());
    driver.run_once();
    for index in 4..30 {
        append(&wal.group(1), [index], 3000);
        wal.group(1).purge(index, Bytes::new(), must());
        driver.run_once();
    }
    assert!(wal.stats().disk_bytes < 100_000, "the large file was not kept");
}

#[test]
fn a_segment_that_was_never_finished_is_made_anew() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    append(&wal.group(1), 1..2, 100);
    driver.run_once();
    drop((wal, driver));
    let disk = disk.restart();
    // The next segment exists already; its header is lost, as if the power had gone while it was made.
    disk.open(&segment(2)).unwrap().write_at(&[0; 512], 0).unwrap();
    let (wal, mut driver, recovered) = manual(&disk).unwrap();
    assert_eq!(recovered.groups[&1].entries, Some((1, 1)));
    for index in 2..20 {
        append(&wal.group(1), [index], 3000);
        driver.run_once();
    }
    drop((wal, driver));
    let disk = disk.restart();
    let (_, _, recovered) = manual(&disk).unwrap();
    assert_eq!(recovered.groups[&1].entries, Some((1, 19)));
    // But a header that is lost before batches is damage, in any segment.
    for seq in [1, 2] {
        let disk = disk.restart();
        let mut first = vec![0; 512];
        let file = disk.open(&segment(seq)).unwrap();
        file.read_at(&mut first, 0).unwrap();
        file.write_at(&[0; 512], 0).unwrap();
        let error = manual(&disk).map(drop).unwrap_err();
        assert!(matches!(error, WalError::Corrupt { offset: 0, .. }), "{error}");
        file.write_at(&first, 0).unwrap();
    }
    let disk = disk.restart();
    disk.remove(&segment(2)).unwrap();
    let error = manual(&disk).map(drop).unwrap_err().to_string();
    assert!(error.contains("0000000000000002.wal at offset 0: the segment is missing"), "{error}");
}

#[test]
fn another_format_version_is_refused() {
    let disk = MemDisk::new();
    drop(manual(&disk).unwrap());
    let disk = disk.restart();
    let mut header = disk.contents(&segment(2)).unwrap()[..512].to_vec();
    header[8] = 2;
    let crc = crc32fast::hash(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    disk.open(&segment(2)).unwrap().write_at(&header, 0).unwrap();
    let error = manual(&disk).map(drop).unwrap_err();
    assert!(matches!(error, WalError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_full_disk_is_known_before_it_hurts_and_passes() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    assert!(wal.has_room());
    disk.set_capacity(Some(2 * (16 << 10)));
    let mut index = 0;
    while wal.has_room() {
        index += 1;
        append(&wal.group(1), [index], 2000);
        driver.run_once();
        assert!(index < 20);
    }
    // A whole segment is still there for what was under way.
    append(&wal.group(1), [index + 1], 2000);
    driver.run_once();
    disk.set_capacity(None);
    driver.idle();
    driver.idle();
    assert!(wal.has_room());
    // What comes although there is no room waits, in its order, and is lost on nobody.
    disk.set_capacity(Some(2 * (16 << 10)));
    let mut results = Vec::new();
    for index in index + 2..index + 30 {
        let (done, result) = waiting();
        wal.group(1).append(vec![(index, entry(index, 2000))], done);
        driver.run_once();
        results.push(result);
    }
    let done = |results: &[mpsc::Receiver<_>]| results.iter().filter(|result| result.try_recv().is_ok()).count();
    let written = done(&results);
    assert!(written > 0 && written < results.len(), "{written} of {}", results.len());
    assert!(!wal.has_room() && wal.failed().is_none() && !driver.run_once());
    driver.idle();
    let (_, _, recovered) = manual(&disk.crash(5)).unwrap();
    assert_eq!(recovered.groups[&1].entries.unwrap().1, index + 1 + written as u64);
}

#[test]
fn what_waits_for_room_is_written_when_there_is_room() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    disk.set_capacity(Some(2 * (16 << 10)));
    let (mut index, mut held) = (0, Vec::new());
    while held.len() < 3 {
        index += 1;
        let (done, result) = waiting();
        wal.group(1).append(vec![(index, entry(index, 3000))], done);
        if !driver.run_once() {
            held.push(result);
        }
        assert!(index < 40, "the disk never filled");
    }
    // A vote stands behind them; it is not written before them.
    let (done, vote) = waiting();
    wal.group(1).save_vote(Bytes::from_static(b"v"), done);
    assert!(!driver.run_once());
    disk.set_capacity(None);
    while driver.run_once() {}
    held.iter().chain([&vote]).for_each(|result| result.try_recv().unwrap().unwrap());
    assert!(wal.has_room());
    let (wal, _driver, _) = manual(&disk.crash(6)).unwrap();
    assert_eq!(wal.group(1).last_index(), Some(index));
}

#[test]
fn an_entry_too_large_for_the_room_there_is_waits_and_a_close_lets_it_go() {
    let temp = MemDisk::new();
    let (wal, _) = Wal::open(Arc::new(temp.clone()), Path::new(DIR), small()).unwrap();
    append(&wal.group(1), 1..2, 100);
    temp.set_capacity(Some(4 * (16 << 10)));
    let (done, result) = waiting();
    wal.group(1).append(vec![(2, entry(2, 100_000))], done);
    while wal.has_room() {
        std::thread::yield_now();
    }
    temp.set_capacity(None);
    result.recv().unwrap().unwrap();
    temp.set_capacity(Some(4 * (16 << 10)));
    let (done, result) = waiting();
    wal.group(1).append(vec![(3, entry(3, 300_000))], done);
    while wal.has_room() {
        std::thread::yield_now();
    }
    wal.close().unwrap();
    assert!(result.recv().unwrap().is_err(), "told that it is not there");
}

#[test]
fn callbacks_come_in_order_and_may_use_the_log() {
    let temp = tempfile::tempdir().unwrap();
    let config = WalConfig { queue_bytes: 1000, ..small() };
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), config).unwrap();
    let log = wal.group(1);
    let last = Arc::new(AtomicU64::new(0));
    let (tell, told) = mpsc::channel();
    for index in 1..=200 {
        let (last, inner, tell) = (Arc::clone(&last), log.clone(), tell.clone());
        let done: Done = Box::new(move |result| {
            result.unwrap();
            assert_eq!(last.swap(index, SeqCst), index - 1);
            inner.save_committed(Bytes::copy_from_slice(&index.to_le_bytes())).unwrap();
            inner.save_vote(Bytes::new(), Box::new(move |result| tell.send(result).unwrap()));
        });
        log.append(vec![(index, entry(index, 400))], done);
    }
    (0..200).for_each(|_| told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap());
    assert_eq!(log.committed().unwrap(), 200_u64.to_le_bytes()[..]);
}

#[test]
fn closing_writes_what_waits_and_takes_no_more() {
    let temp = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), small()).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    for index in 1..=50 {
        let done = Arc::clone(&done);
        wal.group(1).append(
            vec![(index, entry(index, 100))],
            Box::new(move |result| {
                result.unwrap();
                done.fetch_add(1, SeqCst);
            }),
        );
    }
    wal.group(1).save_committed(Bytes::from_static(b"c")).unwrap();
    wal.close().unwrap();
    assert_eq!(done.load(SeqCst), 50);
    let (closed, result) = waiting();
    wal.group(1).append(vec![(51, entry(51, 100))], closed);
    assert!(result.recv().unwrap().is_err());
    assert_eq!(wal.group(1).read(..).unwrap().len(), 50);
    wal.close().unwrap();
    let (_wal, recovered) = Wal::open(Arc::new(OsDisk), temp.path(), small()).unwrap();
    assert_eq!(recovered.groups[&1].entries, Some((1, 50)));
    assert_eq!(recovered.groups[&1].committed.as_deref(), Some(&b"c"[..]));
}

#[test]
fn a_panic_on_the_logs_thread_leaves_nobody_waiting() {
    let temp = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), small()).unwrap();
    wal.group(1).append(vec![(1, entry(1, 10))], Box::new(|_| panic!("a callback panics")));
    for index in 2.. {
        let (done, result) = waiting();
        wal.group(1).append(vec![(index, entry(index, 10))], done);
        // It may have been under way in the same batch; then its callback is dropped, which is an answer too.
        if !matches!(result.recv(), Ok(Ok(()))) {
            break;
        }
    }
    while wal.failed().is_none() {
        std::thread::yield_now();
    }
    assert!(wal.close().is_err());
}

#[test]
fn readers_never_see_a_segment_that_is_used_again() {
    let temp = tempfile::tempdir().unwrap();
    let config = WalConfig { cache_bytes: 0, ..small() };
    let (wal, _) = Wal::open(Arc::new(OsDisk), temp.path(), config).unwrap();
    let stop = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (log, stop) = (wal.group(1), &stop);
            scope.spawn(move || {
                let mut read = 0;
                while stop.load(SeqCst) == 0 {
                    for (index, found) in log.read(..).unwrap() {
                        assert_eq!(found, entry(index, 700));
                        read += 1;
                    }
                }
                assert!(read > 0);
            });
        }
        let log = wal.group(1);
        for round in 0..150_u64 {
            append(&log, round * 8..round * 8 + 8, 700);
            let (done, result) = waiting();
            match (round * 8).checked_sub(20) {
                Some(upto) => log.purge(upto, Bytes::new(), done),
                None => log.save_vote(Bytes::new(), done),
            }
            result.recv().unwrap().unwrap();
        }
        stop.store(1, SeqCst);
    });
    assert!(wal.stats().recycled > 20 && wal.stats().cache_misses > 0);
}

#[test]
fn marks_can_be_saved_without_anybody_listening() {
    let disk = MemDisk::new();
    let (wal, mut driver, _) = manual(&disk).unwrap();
    let log = wal.group(3);
    log.save_vote(Bytes::from_static(b"v1"), nothing());
    log.save_vote(Bytes::from_static(b"v2"), nothing());
    log.append(Vec::new(), must());
    log.purge(7, Bytes::from_static(b"seven"), must());
    log.purge(5, Bytes::from_static(b"five"), must());
    driver.run_once();
    let (wal, _driver, recovered) = manual(&disk.crash(9)).unwrap();
    let expected = RecoveredGroup {
        vote: Some(Bytes::from_static(b"v2")),
        committed: None,
        purged: Some((7, Bytes::from_static(b"seven"))),
        entries: None,
    };
    assert_eq!(recovered.groups, std::collections::BTreeMap::from([(3, expected)]));
    assert_eq!(wal.group(3).vote().unwrap(), "v2");
    assert_eq!((wal.group(3).bytes(), wal.group(3).id()), (0, 3));
}
