//! `appendfsync` one thing at a time: what is acknowledged when, and what each policy may lose. `crash_tests` has the
//! policies in its property test too.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;

use super::{Done, SyncPolicy, Wal, WalConfig, WalDriver};
use crate::memdisk::MemDisk;

const DIR: &str = "/wal";

fn config(sync: SyncPolicy) -> WalConfig {
    WalConfig { segment_bytes: 64 << 10, sync, ..WalConfig::default() }
}

fn manual(disk: &MemDisk, sync: SyncPolicy) -> (Wal, WalDriver) {
    let opened = Wal::open_manual(Arc::new(disk.clone()), Path::new(DIR), config(sync), Box::new(|| {}));
    let (wal, driver, _) = opened.unwrap();
    (wal, driver)
}

fn waiting() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (give, take) = mpsc::channel();
    (Box::new(move |result| drop(give.send(result))), take)
}

fn append(wal: &Wal, index: u64) -> mpsc::Receiver<io::Result<()>> {
    let (done, result) = waiting();
    wal.group(1).append(vec![(index, Bytes::from(vec![7; 300]))], done);
    result
}

#[test]
fn entries_are_acknowledged_without_a_sync_and_votes_are_not() {
    for policy in [SyncPolicy::EverySecond, SyncPolicy::Never] {
        let disk = MemDisk::new();
        let (wal, mut driver) = manual(&disk, policy);
        let syncs = |wal: &Wal| wal.stats().sync_us.count();
        let result = append(&wal, 1);
        driver.run_once();
        result.try_recv().unwrap().unwrap();
        assert_eq!((syncs(&wal), wal.stats().unsynced_batches), (0, 1), "{policy:?}");
        let (done, result) = waiting();
        wal.group(1).save_vote(Bytes::from_static(b"v"), done);
        driver.run_once();
        result.try_recv().unwrap().unwrap();
        // The vote's sync is one of all before it.
        assert_eq!((syncs(&wal), wal.stats().unsynced_batches), (1, 0), "{policy:?}");
        append(&wal, 2);
        driver.run_once();
        let (done, result) = waiting();
        wal.group(1).sync(done);
        driver.run_once();
        result.try_recv().unwrap().unwrap();
        assert_eq!((syncs(&wal), wal.stats().unsynced_batches), (2, 0), "who asks for a sync gets one: {policy:?}");
    }
}

#[test]
fn a_kill_of_the_process_loses_nothing_under_any_policy() {
    for policy in [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never] {
        let disk = MemDisk::new();
        let (wal, mut driver) = manual(&disk, policy);
        for index in 1..=20 {
            append(&wal, index);
            driver.run_once();
        }
        drop((wal, driver));
        let (wal, _driver) = manual(&disk.restart(), policy);
        assert_eq!(wal.group(1).last_index(), Some(20), "{policy:?}");
    }
}

#[test]
fn a_loss_of_power_takes_what_the_policy_says_and_never_more() {
    let mut lost = [0; 3];
    for (at, policy) in [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::Never].into_iter().enumerate() {
        for seed in 0..60 {
            let disk = MemDisk::new();
            let (wal, mut driver) = manual(&disk, policy);
            for index in 1..=10 {
                append(&wal, index);
                driver.run_once();
            }
            // A moment without work, in which everysec syncs.
            driver.idle();
            for index in 11..=20 {
                append(&wal, index);
                driver.run_once();
            }
            drop((wal, driver));
            let (wal, _driver) = manual(&disk.crash(seed), policy);
            let last = wal.group(1).last_index().unwrap_or(0);
            match policy {
                SyncPolicy::Always => assert_eq!(last, 20),
                SyncPolicy::EverySecond => assert!(last >= 10, "seed {seed}: only {last}"),
                SyncPolicy::Never => {}
            }
            lost[at] += u64::from(last < 20);
        }
    }
    assert!(lost[0] == 0 && lost[1] > 10 && lost[2] > 10, "{lost:?}");
}

#[test]
fn the_sync_of_everysec_comes_by_itself() {
    let disk = MemDisk::new();
    let opened = Wal::open(Arc::new(disk), Path::new(DIR), config(SyncPolicy::EverySecond));
    let (wal, _) = opened.unwrap();
    append(&wal, 1).recv().unwrap().unwrap();
    while wal.stats().unsynced_batches > 0 || wal.stats().sync_us.count() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Also while there is always work: then the age of the oldest decides.
    let mut index = 1;
    let before = wal.stats().sync_us.count();
    while wal.stats().sync_us.count() == before {
        index += 1;
        append(&wal, index).recv().unwrap().unwrap();
    }
    wal.close().unwrap();
}

#[test]
fn a_sync_in_the_background_that_fails_ends_the_log() {
    let disk = MemDisk::new();
    // Large enough for all that is written until the sync is due: it must fail in the background, not at a segment's end.
    let config = WalConfig { segment_bytes: 32 << 20, ..config(SyncPolicy::EverySecond) };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), Path::new(DIR), config).unwrap();
    append(&wal, 1).recv().unwrap().unwrap();
    let mut index = 1;
    while wal.stats().spare_segments == 0 {
        // The next segment is made ready, with syncs of its own.
        index += 1;
        append(&wal, index).recv().unwrap().unwrap();
    }
    while wal.failed().is_none() {
        disk.fail_sync_after(0);
        index += 1;
        let _ = append(&wal, index).recv();
    }
    assert!(wal.failed().unwrap().to_string().contains("cannot sync"), "{:?}", wal.failed());
    assert!(append(&wal, index + 1).recv().unwrap().is_err(), "nothing is taken any more");
}

/// The system tells of a failed sync once, and the next one succeeds: who goes on writes that all before it is durable.
#[test]
fn nothing_is_written_behind_a_sync_that_failed_in_an_idle_moment() {
    let disk = MemDisk::new();
    let (wal, mut driver) = manual(&disk, SyncPolicy::EverySecond);
    append(&wal, 1);
    driver.run_once();
    // What waits when the log idles, and needs the next segment.
    let (done, waits) = waiting();
    wal.group(1).append(vec![(2, Bytes::from(vec![7; 64 << 10]))], done);
    disk.fail_sync_after(0);
    driver.idle();
    assert!(wal.failed().unwrap().to_string().contains("cannot sync"), "{:?}", wal.failed());
    assert!(waits.try_recv().unwrap().is_err());
    drop((wal, driver));
    let disk = disk.restart();
    let (wal, _driver) = manual(&disk, SyncPolicy::EverySecond);
    assert_eq!(wal.group(1).last_index(), Some(1));
    // What was read again is durable by now.
    let (wal, _driver) = manual(&disk.crash(1), SyncPolicy::EverySecond);
    assert_eq!(wal.group(1).last_index(), Some(1));
}

#[test]
fn a_stricter_policy_counts_at_once() {
    let disk = MemDisk::new();
    let (wal, mut driver) = manual(&disk, SyncPolicy::Never);
    append(&wal, 1);
    driver.run_once();
    driver.idle();
    assert_eq!(wal.stats().sync_us.count(), 0, "no sync is promised, so none is made");
    wal.set_sync_policy(SyncPolicy::Always);
    driver.idle();
    assert_eq!((wal.stats().sync_us.count(), wal.stats().unsynced_batches), (1, 0));
    let result = append(&wal, 2);
    driver.run_once();
    result.try_recv().unwrap().unwrap();
    assert_eq!(wal.stats().sync_us.count(), 2);
}
