//! A disk that is full under the checkpoint: nothing is begun that can't be finished, and a store that did run into it
//! goes on with what was durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::rows::Row;
use super::*;

/// Rows on a disk that has so much room.
#[derive(Clone)]
struct Tight {
    rows: MemRows,
    free: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Tight {
    fn new(free: u64) -> Self {
        Self { rows: MemRows::new(), free: Arc::new(AtomicU64::new(free)), broken: Arc::default() }
    }

    fn change(&self, bytes: usize, change: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let taken = self.free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(bytes as u64));
        if taken.is_err() {
            self.broken.store(true, SeqCst);
        }
        if self.broken.load(SeqCst) { Err("no space left on device".to_owned()) } else { change() }
    }
}

impl Rows for Tight {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.change(value.len(), || self.rows.put(key, value))
    }
    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.change(0, || self.rows.remove(key))
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.rows.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        self.rows.scan(from, to)
    }
    fn sync(&self) -> Result<(), String> {
        self.change(0, || self.rows.sync())
    }
    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String> {
        self.change(0, || self.rows.set_witness(group, bytes))
    }
    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        self.rows.witness(group)
    }
    fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }
    fn witnesses(&self) -> Result<Vec<u64>, String> {
        self.rows.witnesses()
    }
    fn begin_next(&self) -> Result<Arc<dyn Rows>, String> {
        Ok(Arc::new(Self { rows: self.rows.make_next()?, free: Arc::clone(&self.free), broken: Arc::default() }))
    }
    fn take_next(&self) -> Result<(), String> {
        self.rows.take_next()?;
        self.broken.store(false, SeqCst);
        Ok(())
    }
    fn drop_next(&self) {
        self.rows.drop_next();
    }
    fn free_bytes(&self) -> Option<u64> {
        Some(self.free.load(SeqCst))
    }
    fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }
}

fn chunks(store: &CheckpointStore) -> Vec<(u128, Vec<u8>)> {
    store.load(1).unwrap().unwrap().chunks.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_checkpoint_is_not_begun_on_a_full_disk_and_given_up_on_one_that_fills() {
    let rows = Tight::new(100 << 20);
    let store = CheckpointStore::over(Arc::new(rows.clone()));
    let mut writer = store.begin(1).unwrap();
    writer.put(1, b"one").unwrap();
    writer.commit(b"").unwrap();
    rows.free.store(RESERVED_BYTES - 1, SeqCst);
    assert!(matches!(store.begin(1).map(drop), Err(CheckpointError::NoRoom(_))));

    rows.free.store(RESERVED_BYTES + (1 << 20), SeqCst);
    let mut writer = store.begin(1).unwrap();
    let error = (2..100).find_map(|chunk| writer.put(chunk, &vec![1; 300_000]).err());
    assert!(matches!(error, Some(CheckpointError::NoRoom(_))), "{error:?}");
    assert!(!rows.is_broken(), "it was given up before the disk was full");
    drop(writer);
    rows.free.store(100 << 20, SeqCst);
    assert_eq!(chunks(&store), [(1, b"one".to_vec())]);
    let mut writer = store.begin(1).unwrap();
    assert!(!writer.is_whole(), "nothing has failed");
    writer.put(2, b"two").unwrap();
    writer.commit(b"").unwrap();
    assert_eq!(chunks(&store), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
}

#[test]
fn room_is_asked_for_a_whole_checkpoint_at_once() {
    let rows = Tight::new(RESERVED_BYTES + (3 << 20));
    let store = CheckpointStore::over(Arc::new(rows.clone()));
    assert!(store.check_room(0).is_ok() && store.check_room(2 << 20).is_ok());
    assert!(matches!(store.check_room((2 << 20) + 2), Err(CheckpointError::NoRoom(_))));
    rows.free.store(RESERVED_BYTES - 1, SeqCst);
    assert!(matches!(store.check_room(0), Err(CheckpointError::NoRoom(_))));
    // Where it is not known, it is tried.
    assert!(CheckpointStore::over(Arc::new(MemRows::new())).check_room(u64::MAX / 4).is_ok());
}

#[test]
fn after_a_failure_the_next_checkpoint_builds_on_nothing() {
    let rows = Tight::new(100 << 20);
    let store = CheckpointStore::over(Arc::new(rows.clone()));
    let mut writer = store.begin(1).unwrap();
    writer.put(1, b"one").unwrap();
    writer.commit(b"").unwrap();
    // Somebody else takes the room while a checkpoint is written.
    let mut writer = store.begin(1).unwrap();
    writer.put(2, b"two").unwrap();
    rows.free.store(0, SeqCst);
    assert!(writer.put(3, b"three").is_err());
    drop(writer);
    rows.free.store(100 << 20, SeqCst);
    assert_eq!(chunks(&store), [(1, b"one".to_vec())]);
    let mut writer = store.begin(1).unwrap();
    assert!(writer.is_whole());
    writer.put(7, b"seven").unwrap();
    writer.commit(b"").unwrap();
    assert_eq!(chunks(&store), [(7, b"seven".to_vec())]);
    assert!(!store.begin(1).unwrap().is_whole());
    // A new process finds the same.
    assert_eq!(chunks(&CheckpointStore::over(Arc::new(rows))), [(7, b"seven".to_vec())]);
}
