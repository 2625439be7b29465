//! Damage to the files of a store that is in use. Whoever writes has in memory all that they held, so nothing is lost: it
//! is written anew, by the checkpoint that finds it. What nobody has looked at shows at the next start, and is not served.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::tests::{Model, read, value};
use super::*;

const GROUP: u64 = 7;

fn opened(path: &Path) -> Result<CheckpointStore, CheckpointError> {
    CheckpointStore::open(path, CheckpointConfig::default())
}

/// What a member does: it writes what is new, or all where that is asked for, and tries again behind a failure.
fn save(store: &CheckpointStore, model: &Model, news: &[u128]) -> u64 {
    let saved = (0..3).find_map(|_| {
        let mut writer = store.begin(GROUP).ok()?;
        let all = writer.is_whole();
        let mut puts = model.iter().filter(|(id, _)| all || news.contains(id));
        puts.try_for_each(|(id, data)| writer.put(*id, data)).ok()?;
        writer.commit(b"made by a test").ok()
    });
    saved.expect("the disk takes everything")
}

fn change(model: &mut Model, round: u64, count: u64) -> Vec<u128> {
    let news: Vec<u128> = (0..count).map(|step| u128::from(rows::mix(round * 1000 + step) % 80)).collect();
    for (step, id) in news.iter().enumerate() {
        model.insert(*id, value(round * 100 + step as u64, 6000));
    }
    news
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

/// Where each part of sled's file begins, the one that was written last at the end.
fn segments(file: &Path) -> Vec<usize> {
    const SEGMENT: usize = 512 << 10;
    let bytes = fs::read(file).unwrap();
    let lsn = |at: usize| i64::from_le_bytes(bytes[at + 4..at + 12].try_into().unwrap()) ^ i64::MAX;
    let mut found: Vec<usize> = (0..bytes.len() / SEGMENT).map(|segment| segment * SEGMENT).collect();
    found.retain(|at| lsn(*at) >= 0);
    found.sort_by_key(|at| lsn(*at));
    found
}

/// A store of some segments that rests.
fn resting(path: &Path) -> (CheckpointStore, Model) {
    let (store, mut model) = (opened(path).unwrap(), Model::new());
    for round in 0..6 {
        let news = change(&mut model, round, 40);
        save(&store, &model, &news);
    }
    store.rest();
    (store, model)
}

/// The tail of sled's file is what it drops in silence when it is opened again.
#[test]
fn what_sled_drops_when_it_wakes_is_written_anew() {
    for back in [200, 3000, 20_000, 100_000] {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("checkpoint");
        let (store, mut model) = resting(&path);
        let file = path.join("db");
        let last = *segments(&file).last().unwrap();
        flip(&file, last + back);
        for round in 10..12 {
            let news = change(&mut model, round, 3);
            save(&store, &model, &news);
            store.rest();
        }
        drop(store);
        let found = read(&opened(&path).unwrap(), GROUP).unwrap().unwrap();
        assert_eq!(found.2, model, "a bit at {back} of the last segment");
        assert_eq!(found.0, 8, "epochs go on where they were");
    }
}

/// Wherever a bit turns: what is found in time is written anew, and what is found at a start is told.
#[test]
fn a_bit_that_turns_while_it_rests_never_makes_an_older_state() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("base");
    let (store, before) = resting(&base);
    drop(store);
    let bytes = fs::metadata(base.join("db")).unwrap().len();
    let (mut whole, mut told) = (0, 0);
    for round in 0..24 {
        let path = temp.path().join(format!("checkpoint{round}"));
        quorate_testkit::copy_dir(&base, &path).unwrap();
        let (store, mut model) = (opened(&path).unwrap(), before.clone());
        assert_eq!(read(&store, GROUP).unwrap().unwrap().2, before);
        store.rest();
        flip(&path.join("db"), (rows::mix(round) % bytes) as usize);
        let news = change(&mut model, round, 30);
        save(&store, &model, &news);
        store.rest();
        drop(store);
        match opened(&path).and_then(|store| read(&store, GROUP)) {
            Ok(found) => {
                assert_eq!(found.unwrap().2, model, "round {round}");
                whole += 1;
            }
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                told += 1;
            }
        }
        fs::remove_dir_all(path).unwrap();
    }
    assert!(whole > 5, "{whole} whole, {told} told");
}

#[test]
fn a_store_that_is_no_sled_any_more_is_made_anew() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, model) = resting(&path);
    for entry in fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() && !file.file_name().unwrap().to_string_lossy().starts_with("epoch-") {
            fs::write(&file, value(3, fs::metadata(&file).unwrap().len() as usize)).unwrap();
        }
    }
    save(&store, &model, &[]);
    drop(store);
    assert_eq!(read(&opened(&path).unwrap(), GROUP).unwrap().unwrap().2, model);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing is left beside it");
}

/// Until all is written anew there is no checkpoint, and nobody takes an older one, or none, for one.
#[test]
fn a_process_that_ends_before_all_is_written_anew_leaves_damage() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, model) = resting(&path);
    let file = path.join("db");
    flip(&file, segments(&file).last().unwrap() + 3000);
    let mut writer = store.begin(GROUP).unwrap();
    assert!(writer.is_whole());
    let (id, data) = model.iter().next().unwrap();
    writer.put(*id, data).unwrap();
    drop((writer, store));
    let error = opened(&path).and_then(|store| read(&store, GROUP)).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn one_that_writes_while_the_rows_of_all_are_lost_does_not_commit_what_it_wrote_before() {
    let rows = MemRows::new();
    let store = CheckpointStore::over(Arc::new(rows.clone()));
    let mut other = store.begin(8).unwrap();
    other.put(1, b"gone").unwrap();
    let mut writer = store.begin(GROUP).unwrap();
    rows.lose();
    assert!(writer.put(1, b"one").is_err());
    assert!(store.is_lost());
    drop(writer);
    assert!(matches!(store.begin(GROUP).map(drop), Err(CheckpointError::Busy(8))), "it needs the store for itself");
    assert!(other.commit(b"").is_err());
    let mut writer = store.begin(GROUP).unwrap();
    assert!(writer.is_whole());
    writer.put(1, b"one").unwrap();
    writer.commit(b"").unwrap();
    assert!(!store.is_lost());
    let mut other = store.begin(8).unwrap();
    assert!(other.is_whole());
    other.put(2, b"two").unwrap();
    other.commit(b"").unwrap();
    let chunks = |group| read(&store, group).unwrap().unwrap().2.into_iter().collect::<Vec<_>>();
    assert_eq!((chunks(GROUP), chunks(8)), (vec![(1, b"one".to_vec())], vec![(2, b"two".to_vec())]));
}

#[test]
fn a_disk_that_has_failed_is_told_from_a_store_that_may_be_tried_again() {
    let rows = MemRows::new();
    let store = CheckpointStore::over(Arc::new(rows.clone()));
    let mut writer = store.begin(GROUP).unwrap();
    rows.fail_sync_after(0);
    writer.put(1, b"one").unwrap();
    assert!(matches!(writer.commit(b""), Err(CheckpointError::Disk(_))));
    assert!(matches!(store.begin(GROUP).map(drop), Err(CheckpointError::Disk(_))));
}
