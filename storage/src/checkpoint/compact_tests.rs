//! A store that rests, and one that is made anew, holds what it held, wherever the process ends meanwhile.

use std::fs;
use std::path::Path;

use quorate_testkit::copy_dir;

use super::tests::{Model, read, value};
use super::*;

/// sled's file grows by so many bytes at a time.
const SLED_SEGMENT: u64 = 512 << 10;

fn churn(store: &CheckpointStore, model: &mut Model, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let mut writer = store.begin(7).unwrap();
        for step in 0..60 {
            let chunk = u128::from(rows::mix(round * 1000 + step) % 80);
            let data = value(round * 100 + step, 4000 + (rows::mix(step + round) % 12_000) as usize);
            writer.put(chunk, &data).unwrap();
            model.insert(chunk, data);
        }
        writer.commit(&round.to_le_bytes()).unwrap();
    }
}

fn opened(path: &Path) -> CheckpointStore {
    CheckpointStore::open(path, CheckpointConfig { small_bytes: 1 << 20, ..CheckpointConfig::default() }).unwrap()
}

fn held(store: &CheckpointStore) -> Model {
    read(store, 7).unwrap().unwrap().2
}

#[test]
fn a_store_made_anew_is_smaller_and_a_kill_on_the_way_leaves_one_that_is_whole() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("0").join("checkpoint");
    fs::create_dir(temp.path().join("0")).unwrap();
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..30);
    let (before, live) = (store.disk_bytes(), model.values().map(|chunk| chunk.len() as u64).sum::<u64>());
    // Eleven rows at a time, and the process may end after each.
    let mut kills = 0;
    while store.compact(11).unwrap() {
        kills += 1;
        let copy = temp.path().join(format!("copy{kills}"));
        copy_dir(&temp.path().join("0"), &copy).unwrap();
        assert!(copy.join("checkpoint.compact").exists(), "there is none on its way");
        let left = opened(&copy.join("checkpoint"));
        assert_eq!(held(&left), model);
        assert!(!copy.join("checkpoint.compact").exists(), "it takes room for ever");
        churn(&left, &mut model.clone(), 30..31);
    }
    assert!(kills > 5, "{kills} steps");
    // How far the old one had grown depends on when sled's threads gave segments back; what the new one takes does not.
    let anew = store.disk_bytes();
    assert!(anew < before && anew <= live + 4 * SLED_SEGMENT, "{anew} bytes of {before}, for {live}");
    assert_eq!(held(&store), model);
    assert!(!store.compact(11).unwrap(), "it is small enough now");
    churn(&store, &mut model, 31..33);
    drop(store);
    let store = opened(&path);
    assert_eq!(held(&store), model);
    assert!(!path.with_extension("compact").exists());
    // The number of the epoch has come along: an older store in its place would be noticed.
    assert!(path.join(format!("epoch-{:016x}", 7)).exists());
}

/// The two directories change places in one step; before the old one is removed both are there.
#[test]
fn a_kill_behind_the_exchange_leaves_the_new_store() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..30);
    let old = temp.path().join("old");
    store.rest();
    copy_dir(&path, &old).unwrap();
    while store.compact(1000).unwrap() {}
    drop(store);
    copy_dir(&old, &path.with_extension("compact")).unwrap();
    let store = opened(&path);
    assert_eq!(held(&store), model);
    assert!(!path.with_extension("compact").exists());
}

#[test]
fn what_is_written_while_it_is_made_anew_is_not_lost() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..30);
    for round in 30..34 {
        assert!(store.compact(20).unwrap());
        let writer = store.begin(7).unwrap();
        assert!(!store.compact(20).unwrap(), "somebody writes");
        drop(writer);
        let reader = store.load(7).unwrap();
        assert!(!store.compact(20).unwrap(), "somebody reads");
        drop(reader);
        churn(&store, &mut model, round..round + 1);
        assert!(!store.compact(20).unwrap(), "what was copied is old");
        assert_eq!(held(&store), model);
    }
    while store.compact(20).unwrap() {}
    assert_eq!(held(&store), model);
    drop(store);
    assert_eq!(held(&opened(&path)), model);
}

#[test]
fn a_store_at_rest_wakes_for_whoever_needs_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, mut model) = (opened(&path), Model::new());
    for round in 0..6 {
        churn(&store, &mut model, round..round + 1);
        store.rest();
        assert!(store.disk_bytes() > 0);
        if round % 2 == 0 {
            assert_eq!(held(&store), model);
            store.rest();
        }
        // Not while somebody reads.
        let mut loaded = store.load(7).unwrap().unwrap();
        store.rest();
        assert!(loaded.chunks.all(|chunk| chunk.is_ok()));
    }
    drop(store);
    assert_eq!(held(&opened(&path)), model);
}
