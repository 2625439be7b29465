//! A checkpoint that is whole takes the place of the store that was there, wherever the process ends meanwhile; and a store
//! that rests holds what it held.

use std::fs;
use std::path::Path;
use std::sync::Arc;

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
fn a_whole_one_is_smaller_and_a_kill_on_the_way_leaves_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("0").join("checkpoint");
    fs::create_dir(temp.path().join("0")).unwrap();
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..30);
    assert!(store.had_better_be_whole(7, 1, 80), "it has grown");
    let (before, live) = (store.disk_bytes(), model.values().map(|chunk| chunk.len() as u64).sum::<u64>());
    let mut writer = store.begin_whole(7).unwrap();
    let mut kills = 0;
    let mut kill = || {
        kills += 1;
        let copy = temp.path().join(format!("copy{kills}"));
        copy_dir(&temp.path().join("0"), &copy).unwrap();
        assert!(copy.join("checkpoint.next").exists(), "there is none on its way");
        let left = opened(&copy.join("checkpoint"));
        assert_eq!(held(&left), model);
        assert!(!copy.join("checkpoint.next").exists(), "it takes room for ever");
        churn(&left, &mut model.clone(), 30..31);
        fs::remove_dir_all(copy).unwrap();
    };
    model.keys().for_each(|chunk| writer.reserve(*chunk).unwrap());
    // One that is not there any more, when it is its turn.
    writer.reserve(1000).unwrap();
    kill();
    for (at, (chunk, data)) in model.iter().enumerate() {
        writer.put(*chunk, data).unwrap();
        if at % 11 == 0 {
            kill();
        }
    }
    assert!(kills > 5, "{kills} kills");
    assert_eq!(writer.commit(b"whole").unwrap(), 31);
    assert!(!path.with_extension("next").exists());
    assert_eq!(store.left_over(), 0);
    let anew = store.disk_bytes();
    assert!(anew < before && anew <= live + 4 * SLED_SEGMENT, "{anew} bytes of {before}, for {live}");
    assert_eq!(held(&store), model);
    assert!(!store.had_better_be_whole(7, 1, 80), "it is small enough now");
    churn(&store, &mut model, 31..33);
    drop(store);
    let store = opened(&path);
    assert_eq!(held(&store), model);
    // The number of the epoch has come along: an older store in its place would be noticed.
    assert!(path.join(format!("epoch-{:016x}", 7)).exists());
    assert_eq!(store.begin(7).unwrap().epoch(), 34);
}

/// What is told beforehand is written once: how many rows a chunk will have is known from the last time.
#[test]
fn what_is_reserved_is_written_once() {
    let temp = tempfile::tempdir().unwrap();
    let store = opened(&temp.path().join("checkpoint"));
    let disk_bytes = |reserves: bool| {
        let mut writer = store.begin_whole(7).unwrap();
        if reserves {
            (0..1600).for_each(|chunk| writer.reserve(chunk << 40).unwrap());
        }
        (0..1600).for_each(|chunk| writer.put(chunk << 40, &value(chunk as u64, 13_000)).unwrap());
        writer.commit(b"").unwrap();
        store.disk_bytes()
    };
    let (without, with) = (disk_bytes(false), disk_bytes(true));
    // 21 MB; sled's file has room for what was written over.
    assert!(with < 25_000_000, "{with} bytes, {without} without");
    // And where a chunk has become shorter, or is no more, nothing is left of it.
    let mut writer = store.begin_whole(7).unwrap();
    (0..1600).for_each(|chunk| writer.reserve(chunk << 40).unwrap());
    (0..800).for_each(|chunk| writer.put(chunk << 40, b"short").unwrap());
    writer.commit(b"").unwrap();
    drop(store);
    let store = opened(&temp.path().join("checkpoint"));
    assert_eq!(held(&store), (0..800).map(|chunk| (chunk << 40, b"short".to_vec())).collect());
    assert_eq!(store.rows.scan(&[0], &[255]).filter(|row| row.as_ref().unwrap().0[0] == b'd').count(), 800);
}

/// The two directories change places in one step; before the old one is removed both are there. Or the old one is moved
/// aside, and then the new one comes in its place.
#[test]
fn a_kill_while_the_two_change_places_leaves_one_of_them() {
    let temp = tempfile::tempdir().unwrap();
    let (path, old, new) = (temp.path().join("checkpoint"), temp.path().join("before"), temp.path().join("after"));
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..3);
    store.rest();
    copy_dir(&path, &old).unwrap();
    let before = model.clone();
    let mut writer = store.begin_whole(7).unwrap();
    model.insert(1000, b"new".to_vec());
    model.iter().for_each(|(chunk, data)| writer.put(*chunk, data).unwrap());
    writer.commit(b"").unwrap();
    drop(store);
    fs::rename(&path, &new).unwrap();
    let (next, aside) = (path.with_extension("next"), path.with_extension("old"));
    for (there, holds) in [
        (vec![(&old, &path), (&new, &next)], &before),
        (vec![(&new, &path), (&old, &next)], &model),
        (vec![(&old, &aside), (&new, &next)], &model),
        (vec![(&old, &aside), (&new, &path)], &model),
    ] {
        let _ = fs::remove_dir_all(&path);
        there.iter().for_each(|(from, to)| copy_dir(from, to).unwrap());
        let store = opened(&path);
        assert_eq!(&held(&store), holds);
        assert!(!next.exists() && !aside.exists());
    }
}

#[test]
fn a_whole_one_that_is_given_up_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, mut model) = (opened(&path), Model::new());
    for round in 0..4 {
        churn(&store, &mut model, round..round + 1);
        let mut writer = store.begin_whole(7).unwrap();
        writer.put(1, b"never").unwrap();
        assert!(matches!(store.begin(8).map(drop), Err(CheckpointError::Busy(7))), "it has the store for itself");
        if round % 2 == 0 {
            let reader = store.load(7).unwrap();
            assert!(matches!(writer.commit(b""), Err(CheckpointError::Busy(7))), "somebody reads the old one");
            drop(reader);
        } else {
            drop(writer);
        }
        assert!(!path.with_extension("next").exists());
        let other = store.begin(8).unwrap();
        assert!(matches!(store.begin_whole(7).map(drop), Err(CheckpointError::Busy(8))));
        drop(other);
        assert_eq!(held(&store), model);
        assert!(!store.begin(7).unwrap().is_whole(), "nothing has failed");
    }
    drop(store);
    assert_eq!(held(&opened(&path)), model);
}

#[test]
fn the_old_store_goes_a_little_at_a_time_and_a_kill_meanwhile_does_not_matter() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let (store, mut model) = (opened(&path), Model::new());
    churn(&store, &mut model, 0..10);
    let replace = |model: &Model| {
        let mut writer = store.begin_whole(7).unwrap();
        model.iter().for_each(|(chunk, data)| writer.put(*chunk, data).unwrap());
        assert_eq!(store.left_over(), 0, "what is being written is not left over");
        writer.commit_only(b"").unwrap();
    };
    replace(&model);
    let old = store.left_over();
    let mut steps = 0;
    while store.discard(100_000) {
        steps += 1;
        assert_eq!(store.left_over().div_ceil(100_000), old.div_ceil(100_000) - steps);
        if steps % 10 == 0 {
            let copy = temp.path().join(format!("copy{steps}"));
            copy_dir(temp.path().join("checkpoint.next").as_path(), &copy.with_extension("next")).unwrap();
            copy_dir(&path, &copy).unwrap();
            assert_eq!(held(&opened(&copy)), model);
            assert!(!copy.with_extension("next").exists());
        }
    }
    assert!(steps > 20, "{steps} steps");
    assert!(!path.with_extension("next").exists());
    // And where nobody has come to it, the next one goes on.
    replace(&model);
    replace(&model);
    churn(&store, &mut model, 10..11);
    assert_eq!(held(&store), model);
}

#[test]
fn what_other_groups_have_comes_along() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    for known in [true, false] {
        let mut store = opened(&path);
        for round in 0..3_u8 {
            let mut writer = store.begin(8).unwrap();
            writer.put(3, &[round; 30_000]).unwrap();
            writer.put(u128::from(round), b"small").unwrap();
            writer.remove(u128::from(round) + 10).unwrap();
            writer.commit(&[round]).unwrap();
        }
        let before = read(&store, 8).unwrap();
        if !known {
            drop(store);
            store = opened(&path);
        }
        let mut writer = store.begin_whole(7).unwrap();
        writer.put(1, b"one").unwrap();
        writer.commit(b"").unwrap();
        assert_eq!(read(&store, 8).unwrap(), before);
        let mut writer = store.begin(8).unwrap();
        writer.put(4, b"four").unwrap();
        writer.commit(b"").unwrap();
        drop(store);
        let store = opened(&path);
        assert_eq!(read(&store, 8).unwrap().unwrap().2[&4], b"four");
        assert_eq!(held(&store), Model::from([(1, b"one".to_vec())]));
    }
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

/// The power goes at each step of a whole checkpoint: the old one is found, or the new one.
#[test]
fn a_loss_of_power_on_the_way_leaves_one_of_the_two() {
    let (mut old, mut new) = (0, 0);
    for cut in 0..30 {
        for seed in 0..4 {
            let rows = MemRows::new();
            let store = CheckpointStore::over(Arc::new(rows.clone()));
            let mut writer = store.begin(7).unwrap();
            (0..4).for_each(|chunk| writer.put(chunk, &value(chunk as u64, 20_000)).unwrap());
            writer.commit(b"old").unwrap();
            rows.cut_power_after(cut);
            let write = || -> Result<u64, CheckpointError> {
                let mut writer = store.begin_whole(7)?;
                (0..6).try_for_each(|chunk| writer.reserve(chunk))?;
                (0..5).try_for_each(|chunk| writer.put(chunk, &value(100, 20_000)))?;
                writer.commit(b"new")
            };
            let written = write();
            let left = CheckpointStore::over(Arc::new(rows.crash(seed)));
            let (_, manifest, chunks) = read(&left, 7).unwrap().unwrap();
            if manifest == b"new" {
                new += 1;
                assert_eq!(chunks.len(), 5);
            } else {
                old += 1;
                assert!(written.is_err());
                assert_eq!(chunks[&3], value(3, 20_000));
            }
        }
    }
    assert!(old > 20 && new > 4, "{old} old, {new} new");
}
