//! The commit protocol against a store that loses any unsynced change, and over sled itself.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use quorate_testkit::copy_dir;

use super::*;

pub(super) type Model = BTreeMap<u128, Vec<u8>>;

pub(super) fn read(store: &CheckpointStore, group: u64) -> Result<Option<(u64, Vec<u8>, Model)>, CheckpointError> {
    let Some(loaded) = store.load(group)? else { return Ok(None) };
    let (count, bytes) = (loaded.chunk_count, loaded.bytes);
    let chunks = loaded.chunks.collect::<Result<Model, _>>()?;
    assert_eq!(chunks.len() as u64, count);
    assert_eq!(chunks.values().map(|chunk| chunk.len() as u64).sum::<u64>(), bytes);
    Ok(Some((loaded.epoch, loaded.manifest.to_vec(), chunks)))
}

pub(super) fn value(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| rows::mix(seed ^ (at / 8)).to_le_bytes()[(at % 8) as usize]).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Put(u128, usize),
    Remove(u128),
}

#[derive(Debug, Clone)]
struct Round {
    whole: bool,
    reserve: bool,
    steps: Vec<Step>,
    commit: bool,
    cut: Option<(u64, u64)>,
    reopen: bool,
    /// Read the old checkpoint while the new one is written.
    reader: bool,
}

fn chunk() -> impl Strategy<Value = u128> {
    (0u128..6).prop_map(|number| number << 61 | number & 1)
}

fn round() -> impl Strategy<Value = Round> {
    let step = prop_oneof![
        4 => (chunk(), prop_oneof![0usize..50, 7_990usize..8_010, 0usize..40_000])
            .prop_map(|(chunk, bytes)| Step::Put(chunk, bytes)),
        1 => chunk().prop_map(Step::Remove),
    ];
    (
        (prop::bool::weighted(0.3), any::<bool>()),
        prop::collection::vec(step, 0..8),
        prop::bool::weighted(0.8),
        prop::option::weighted(0.4, (0u64..40, any::<u64>())),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|((whole, reserve), steps, commit, cut, reopen, reader)| Round {
            whole,
            reserve,
            steps,
            commit,
            cut,
            reopen,
            // Whoever reads keeps what a whole one would take the place of.
            reader: reader && !whole,
        })
}

/// Writes one checkpoint. `Ok(true)` if it was committed.
fn write(store: &CheckpointStore, round: &Round, seed: u64, model: &mut Model) -> Result<bool, CheckpointError> {
    let mut writer = if round.whole { store.begin_whole(1)? } else { store.begin(1)? };
    assert_eq!(writer.is_whole(), round.whole);
    if round.whole {
        model.clear();
    }
    if round.reserve {
        // More than it puts in the end.
        (0..6).map(|number| number << 61).try_for_each(|chunk| writer.reserve(chunk))?;
    }
    for (at, step) in round.steps.iter().enumerate() {
        match step {
            Step::Put(chunk, bytes) => {
                let data = value(seed * 100 + at as u64, *bytes);
                writer.put(*chunk, &data)?;
                model.insert(*chunk, data);
            }
            Step::Remove(chunk) => {
                writer.remove(*chunk)?;
                model.remove(chunk);
            }
        }
    }
    assert_eq!(writer.chunks(), model.keys().copied().collect::<Vec<_>>());
    if round.commit {
        writer.commit(&seed.to_le_bytes())?;
    }
    Ok(round.commit)
}

proptest! {
    #[test]
    fn a_checkpoint_is_the_old_one_or_the_new_one_wherever_the_power_goes(
        rounds in prop::collection::vec(round(), 1..12),
    ) {
        let mut rows = MemRows::new();
        let mut store = CheckpointStore::over(Arc::new(rows.clone()));
        // Another group's rows are nobody's business.
        let mut other = store.begin(2).unwrap();
        other.put(3, b"other").unwrap();
        other.commit(b"").unwrap();
        let mut model: Option<(u64, Vec<u8>, Model)> = None;
        for (seed, round) in rounds.iter().enumerate() {
            let seed = seed as u64;
            let (epoch, mut chunks) = model.clone().map_or((0, Model::new()), |(epoch, _, chunks)| (epoch, chunks));
            let reader = if round.reader { store.load(1).unwrap() } else { None };
            if let Some((cut, _)) = round.cut {
                rows.cut_power_after(cut);
            }
            let outcome = write(&store, round, seed, &mut chunks);
            let new = Some((epoch + 1, seed.to_le_bytes().to_vec(), chunks));
            if let Some(reader) = reader {
                let read = reader.chunks.collect::<Result<Model, _>>().unwrap();
                prop_assert_eq!(&read, &model.as_ref().unwrap().2, "a reader keeps its epoch");
            }
            let before = model.take();
            if let Some((_, crash)) = round.cut {
                rows = rows.crash(crash);
                store = CheckpointStore::over(Arc::new(rows.clone()));
            } else if round.reopen {
                store = CheckpointStore::over(Arc::new(rows.clone()));
            }
            let found = read(&store, 1).unwrap();
            match outcome {
                Ok(true) => prop_assert_eq!(&found, &new),
                Ok(false) => prop_assert_eq!(&found, &before),
                Err(_) => prop_assert!(found == before || (round.commit && found == new)),
            }
            model = found;
            let (_, _, other) = read(&store, 2).unwrap().unwrap();
            prop_assert_eq!(other, Model::from([(3, b"other".to_vec())]));
        }
        // Nothing is left over.
        let mut writer = store.begin_whole(1).unwrap();
        writer.put(1, b"x").unwrap();
        writer.commit(b"").unwrap();
        prop_assert_eq!(rows.len(), 4, "a manifest and a row for each of two groups");
    }

    #[test]
    fn a_flipped_bit_in_a_row_is_found(position in 0usize..12, bit: usize) {
        let rows = MemRows::new();
        let store = CheckpointStore::over(Arc::new(rows.clone()));
        let mut writer = store.begin(1).unwrap();
        (0..3).for_each(|chunk| writer.put(chunk, &value(chunk as u64, 20_000)).unwrap());
        writer.commit(b"manifest").unwrap();
        rows.flip_bit(position % rows.len(), bit);
        let store = CheckpointStore::over(Arc::new(rows));
        let is_corrupt = matches!(read(&store, 1), Err(CheckpointError::Corrupt { .. }));
        prop_assert!(is_corrupt);
        let is_corrupt = matches!(store.begin(1).map(drop), Err(CheckpointError::Corrupt { .. }));
        prop_assert!(is_corrupt, "nothing is built on it");
    }
}

#[test]
fn a_missing_row_is_found() {
    for position in 0..7 {
        let rows = MemRows::new();
        let store = CheckpointStore::over(Arc::new(rows.clone()));
        let mut writer = store.begin(1).unwrap();
        (0..2).for_each(|chunk| writer.put(chunk, &value(chunk as u64, 30_000)).unwrap());
        writer.commit(b"").unwrap();
        let (from, to) = group_range(1);
        let (key, _) = rows.scan(&from, &to).nth(position % 6).unwrap().unwrap();
        rows.remove(&key).unwrap();
        let error = read(&CheckpointStore::over(Arc::new(rows)), 1).unwrap_err();
        assert!(matches!(error, CheckpointError::Corrupt { group: 1, .. }), "{error}");
    }
}

#[test]
fn one_writer_at_a_time_and_a_dropped_one_leaves_nothing() {
    let store = CheckpointStore::over(Arc::new(MemRows::new()));
    let mut writer = store.begin(1).unwrap();
    assert!(matches!(store.begin(1).map(drop), Err(CheckpointError::Busy(1))));
    writer.put(5, b"never").unwrap();
    drop(writer);
    assert!(store.load(1).unwrap().is_none());
    let mut writer = store.begin(1).unwrap();
    writer.put(6, b"once").unwrap();
    assert_eq!(writer.commit(b"m").unwrap(), 1);
    let (epoch, manifest, chunks) = read(&store, 1).unwrap().unwrap();
    assert_eq!((epoch, manifest.as_slice()), (1, &b"m"[..]));
    assert_eq!(chunks, Model::from([(6, b"once".to_vec())]));
    assert_eq!(store.manifest(1).unwrap().unwrap(), (1, Bytes::from_static(b"m")));
}

/// Between any two calls the files are what a kill of the process would leave: a copy of them must open, and hold the
/// last committed checkpoint.
#[test]
fn sled_files_copied_at_any_moment_hold_the_last_commit() {
    let temp = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(&temp.path().join("live"), CheckpointConfig::default()).unwrap();
    let mut model = Model::new();
    let mut copies = 0;
    for epoch in 1..=8_u64 {
        let before = model.clone();
        let mut writer = store.begin(7).unwrap();
        for step in 0..40 {
            let chunk = u128::from(rows::mix(epoch * 1000 + step) % 200);
            if step % 7 == 6 {
                writer.remove(chunk).unwrap();
                model.remove(&chunk);
            } else {
                let data = value(epoch * 100 + step, (rows::mix(step + epoch) % 30_000) as usize);
                writer.put(chunk, &data).unwrap();
                model.insert(chunk, data);
            }
            if step % 9 == epoch % 9 {
                copies += 1;
                let copy = temp.path().join(format!("copy{copies}"));
                copy_dir(&temp.path().join("live"), &copy).unwrap();
                let found = read(&CheckpointStore::open(&copy, CheckpointConfig::default()).unwrap(), 7).unwrap();
                assert_eq!(found.map(|(_, _, chunks)| chunks).unwrap_or_default(), before);
            }
        }
        writer.commit(&epoch.to_le_bytes()).unwrap();
        copies += 1;
        let copy = temp.path().join(format!("copy{copies}"));
        copy_dir(&temp.path().join("live"), &copy).unwrap();
        let copied = CheckpointStore::open(&copy, CheckpointConfig::default()).unwrap();
        let found = read(&copied, 7).unwrap().unwrap();
        assert_eq!(found, (epoch, epoch.to_le_bytes().to_vec(), model.clone()));
        // The copy can be gone on with.
        let mut writer = copied.begin(7).unwrap();
        writer.put(1, b"on").unwrap();
        assert_eq!(writer.commit(b"").unwrap(), epoch + 1);
    }
    drop(store);
    let store = CheckpointStore::open(&temp.path().join("live"), CheckpointConfig::default()).unwrap();
    assert_eq!(read(&store, 7).unwrap().unwrap().2, model);
    assert!(store.disk_bytes() > 0);
}

/// sled checks its own pages too, in its own way: whatever it makes of damage, wrong bytes must not come out.
#[test]
fn damage_to_sleds_files_is_never_served() {
    let temp = tempfile::tempdir().unwrap();
    let live = temp.path().join("live");
    let mut model = Model::new();
    {
        let store = CheckpointStore::open(&live, CheckpointConfig::default()).unwrap();
        for epoch in 0..3 {
            let mut writer = store.begin(7).unwrap();
            for chunk in (0..60).filter(|chunk| chunk % 3 == epoch) {
                model.insert(chunk, value(chunk as u64, 9_000));
                writer.put(chunk, &model[&chunk]).unwrap();
            }
            writer.commit(b"").unwrap();
        }
    }
    let (mut errors, mut same) = (0, 0);
    for seed in 0..60_u64 {
        let copy = temp.path().join(format!("copy{seed}"));
        copy_dir(&live, &copy).unwrap();
        let mut files: Vec<_> = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file());
        files.sort();
        // Mostly the file with the rows in it.
        let path = if seed % 4 == 0 { &files[(seed / 4) as usize % files.len()] } else { &copy.join("db") };
        let mut bytes = fs::read(path).unwrap();
        let at = rows::mix(seed) as usize % bytes.len();
        bytes[at] ^= 1 << (seed % 8);
        fs::write(path, bytes).unwrap();
        let found = CheckpointStore::open(&copy, CheckpointConfig::default()).and_then(|store| read(&store, 7));
        match found {
            // And it must be told as damage: a store that only fails is started again and again.
            Err(CheckpointError::Corrupt { .. } | CheckpointError::Damaged(_)) => errors += 1,
            Err(error) => panic!("flip {seed} of {path:?} at {at} is told as {error}"),
            Ok(Some((3, _, chunks))) if chunks == model => same += 1,
            Ok(found) => panic!("flip {seed} of {path:?} at {at} gave {:?}", found.map(|(epoch, _, _)| epoch)),
        }
    }
    assert!(errors > 5 && same > 5, "{errors} found, {same} without effect");
}

/// sled writes an index of its file when it is opened. A process that was killed just then must not be the last that
/// could open it.
#[test]
fn a_process_killed_while_sled_wrote_its_index_leaves_a_store_that_opens() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("checkpoint");
    let store = CheckpointStore::open(&path, CheckpointConfig::default()).unwrap();
    let mut writer = store.begin(1).unwrap();
    writer.put(3, b"three").unwrap();
    writer.commit(b"").unwrap();
    drop(store);
    for unfinished in [&b""[..], b"half of an index"] {
        // Newer than any other by its name.
        fs::write(path.join("snap.7FFFFFFFFFFFFFFF.generating"), unfinished).unwrap();
        let store = CheckpointStore::open(&path, CheckpointConfig::default()).unwrap();
        assert_eq!(read(&store, 1).unwrap().unwrap().2, Model::from([(3, b"three".to_vec())]));
    }
    // The same of a store that was never finished being made.
    let new = temp.path().join("another.new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("conf"), b"half").unwrap();
    let store = CheckpointStore::open(&temp.path().join("another"), CheckpointConfig::default()).unwrap();
    assert!(store.load(1).unwrap().is_none());
}
