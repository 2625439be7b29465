//! Rows in sled: the only file that names it.
//!
//! sled 0.34.7 is used in the one way that was measured to be sound and cheap: rows of about 8 KB written one by one,
//! no batches, a small cache, no flush by time. On Linux its `flush` only asks for `sync_file_range`, which says nothing
//! about power loss, so [`Rows::sync`] here syncs its file (and blobs, should it ever write one) after that.
//!
//! Its file grows for as long as rows come and go; it is left behind with all that is in it when another store takes its
//! place: see `next`.
//!
//! A row that is put where there is none yet is written three times over: its page splits once it has 17 rows, and is
//! written again. So in a store that is written in one go all keys come first, without values.
//!
//! When it opens, sled takes damage near the end of its log, and even a read that the disk did not answer, for a torn
//! write: it silently falls back to what was before, and writes zeros over the rest. So the epoch of the newest checkpoint
//! is kept in a file of its own beside sled's (`epoch-` and the group in 16 hex digits); a new process reads all files
//! once before sled does; and the last row that is written before sled is closed for a while says how often that was
//! (`r`): where it is not there when sled is opened again, rows are gone. Damage elsewhere makes sled return an error or
//! panic; a panic is made an error here.

mod next;

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::rows::{Row, Rows};
use super::{CheckpointConfig, CheckpointError};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::disk::{self, Disk as _, OsDisk};

/// Rows in a sled database.
pub(super) struct SledRows {
    open: RwLock<Open>,
    path: PathBuf,
    config: CheckpointConfig,
    /// sled takes nothing more once something has failed.
    health: AtomicU8,
    /// See [`Rows::found_damage`].
    damaged: Arc<AtomicBool>,
    /// The one that is to take its place.
    next: Mutex<Option<Arc<SledRows>>>,
    /// What it took on disk when it was new.
    new_bytes: AtomicU64,
    /// What [`REST`] says.
    rests: AtomicU64,
}

/// The row that is written last before it rests: how often it has rested, `u64` big endian. sled drops what was written
/// last, so while this is there all is.
const REST: &[u8] = b"r";

/// What files are called that hold what is kept apart for each group, before its number in 16 hex digits.
const WITNESS: &str = "epoch-";

/// So many halves of what counts the file may take before it has outgrown it.
const MOST_HALVES: u64 = 5;

/// sled lets go of its files a little after it was closed. Another process can't be in the way: the data directory has a
/// lock of its own.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// sled looks whether a part of its cache holds too much only when 64 of that part's pages were touched, and there are 256
/// parts: 128 MB of rows that are written once and never looked at stay in memory. So each is looked at some times more.
const TOUCHES: usize = 8;

/// Nothing has failed.
const SOUND: u8 = 0;
/// The disk was full: another store may go on.
const FULL: u8 = 1;
/// A sync or something unknown has failed: nobody knows what is on disk, and only a new start looks at it again.
const DEAD: u8 = 2;
/// Its files are damaged: only whoever knows what they held can go on, with other files.
const LOST: u8 = 3;

/// sled, opened.
struct Open {
    /// Missing while it rests.
    db: Option<sled::Db>,
    /// The file that holds everything; a handle of our own to sync it.
    file: File,
}

impl Open {
    fn new(path: &Path, cache_bytes: u64) -> Result<Self, CheckpointError> {
        let store = |error: io::Error| CheckpointError::Store(text(error));
        fs::create_dir_all(path).map_err(store)?;
        remove_unfinished(path).map_err(store)?;
        let config =
            sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None).mode(sled::Mode::LowSpace);
        let opened = (0..LOCK_TRIES).find_map(|tries| {
            // In a thread that has freed nothing yet: what is zero there was never touched, and so takes no memory.
            let opened = std::thread::scope(|scope| scope.spawn(|| config.open()).join());
            let is_locked = matches!(&opened, Ok(Err(error)) if error.to_string().contains("could not acquire lock"));
            if is_locked && tries + 1 < LOCK_TRIES {
                std::thread::sleep(LOCK_PAUSE);
                return None;
            }
            Some(opened)
        });
        let Some(opened) = opened else { return Err(CheckpointError::Store("it can't be locked".to_owned())) };
        let db = match opened {
            Ok(Ok(db)) => Some(db),
            Ok(Err(error)) if is_damage(&error) => return Err(CheckpointError::Damaged(text(error))),
            Ok(Err(error)) => return Err(CheckpointError::Store(text(error))),
            Err(_) => return Err(CheckpointError::Damaged("sled panicked while it read its files".to_owned())),
        };
        Ok(Self { db, file: File::open(path.join("db")).map_err(store)? })
    }

    /// How often it has rested.
    fn rests(&self) -> Result<u64, String> {
        let row = no_panic(|| self.db.as_ref().map_or(Ok(None), |db| db.get(REST)))?;
        Ok(row.and_then(|row| row.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    fn db(&self) -> Result<&sled::Db, String> {
        self.db.as_ref().ok_or_else(|| "it is being opened again".to_owned())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Removes what sled was writing of an index of its own file (`snap.*`) when its process ended. It would take that for
/// the newest index, and for damage; without it, it makes a new one.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads all files to their end: sled takes a read that the disk does not answer for damage, and makes it worse. What was
/// read now, it finds in memory.
fn read_through(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => read_through(&entry.path())?,
            false => io::copy(&mut File::open(entry.path())?, &mut io::sink()).map(drop)?,
        }
    }
    Ok(())
}

/// Stands beside the store from a failure of the disk on until all was written anew.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("failed")
}

/// The directory that holds the store's name.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// What sled keeps outside of its file, should it ever take a row for too large; last the directory of it.
fn blobs(dir: &Path) -> io::Result<Vec<File>> {
    let mut found = Vec::new();
    for blob in fs::read_dir(dir)? {
        match File::open(blob?.path()) {
            Ok(blob) => found.push(blob),
            // sled removes blobs by itself once nothing points to them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if !found.is_empty() {
        found.push(File::open(dir)?);
    }
    Ok(found)
}

/// Whether sled does not understand its own files. Its configuration, its disk, its lock are trouble that may pass.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        _ => true,
    }
}

/// Calls sled for something that reads, and notes where what it reads is damaged.
fn read<T>(damaged: &AtomicBool, call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    let mut passes = false;
    let result = no_panic(|| call().inspect_err(|error| passes = !is_damage(error)));
    if result.is_err() && !passes {
        damaged.store(true, Relaxed);
    }
    result
}

/// Calls sled. It panics on some damage to its files; nothing of ours is touched meanwhile, so that is one more error.
fn no_panic<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(text),
        Err(_) => Err("sled panicked; its files may be damaged".to_owned()),
    }
}

impl SledRows {
    fn witness_path(&self, group: u64) -> PathBuf {
        self.path.join(format!("{WITNESS}{group:016x}"))
    }

    pub(super) fn open(path: &Path, config: CheckpointConfig) -> Result<Self, CheckpointError> {
        next::clear(path).map_err(|error| CheckpointError::Store(text(error)))?;
        if !path.exists() {
            Self::make(path)?;
        }
        read_through(path).map_err(|error| CheckpointError::Store(format!("it can't be read: {error}")))?;
        let rows = Self::open_made(path, config)?;
        rows.heal().map_err(|error| match rows.is_lost() {
            true => CheckpointError::Damaged(error),
            false => CheckpointError::Store(error),
        })?;
        Ok(rows)
    }

    /// Behind a write or a sync that failed in an earlier process. What that was about can be read for as long as the
    /// machine runs, but no later sync makes it durable (Rebello et al., "Can Applications Recover from fsync Failures?",
    /// 2020): all is written anew, to another file.
    fn heal(&self) -> Result<(), String> {
        let mark = mark(&self.path);
        if !mark.exists() {
            return Ok(());
        }
        tracing::warn!(dir = %self.path.display(), "the disk failed under the checkpoints; they are written anew");
        self.copy_all()?;
        fs::remove_file(&mark).and_then(|()| OsDisk.sync_dir(parent(&self.path))).map_err(text)
    }

    /// From here on nobody knows what is on the disk: not this process, and not the next one either.
    fn fails(&self) {
        self.health.store(DEAD, Relaxed);
        let mark = mark(&self.path);
        let noted = File::create(&mark).and_then(|file| file.sync_all()).and_then(|()| OsDisk.sync_dir(parent(&mark)));
        if let Err(error) = noted {
            tracing::warn!(%error, file = %mark.display(), "that the disk has failed can't be noted for the next start");
        }
    }

    /// A store without rows, whole or not at all: sled can't read one that a loss of power left half made.
    fn make(path: &Path) -> Result<(), CheckpointError> {
        let store = |error: io::Error| CheckpointError::Store(text(error));
        let new = path.with_extension("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(store)?;
        }
        drop(Self::open_made(&new, CheckpointConfig { cache_bytes: 1 << 20, ..CheckpointConfig::default() })?);
        // What it writes when it is closed.
        next::sync_all(&new).map_err(store)?;
        fs::rename(&new, path).map_err(store)?;
        OsDisk.sync_dir(parent(path)).map_err(store)
    }

    fn open_made(path: &Path, config: CheckpointConfig) -> Result<Self, CheckpointError> {
        let open = Open::new(path, config.cache_bytes)?;
        let rests = open.rests().map_err(CheckpointError::Damaged)?;
        let rows = Self {
            open: RwLock::new(open),
            path: path.to_owned(),
            config,
            health: AtomicU8::new(SOUND),
            damaged: Arc::default(),
            next: Mutex::default(),
            new_bytes: AtomicU64::new(0),
            rests: AtomicU64::new(rests),
        };
        rows.sync_new().map_err(CheckpointError::Store)?;
        Ok(rows)
    }

    /// Makes durable what sled made while opening: its settings, its directories, and their names.
    fn sync_new(&self) -> Result<(), String> {
        self.sync()?;
        self.to_the_disk(|| {
            File::open(self.path.join("conf")).and_then(|conf| conf.sync_all())?;
            OsDisk.sync_dir(&self.path)?;
            OsDisk.sync_dir(parent(&self.path))
        })
    }

    /// Syncs something of sled's. After a failure nobody knows what of it is on the disk, and none is asked for again.
    fn to_the_disk(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), String> {
        sync().map_err(text).inspect_err(|_| self.fails())
    }

    /// sled, opened again if it rests.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Open>, String> {
        loop {
            let open = self.open.read();
            if open.db.is_some() {
                return Ok(open);
            }
            drop(open);
            let mut open = self.open.write();
            if self.is_broken() {
                return Err("an earlier call has failed".to_owned());
            }
            if open.db.is_none() {
                self.open_again(&mut open)?;
            }
        }
    }

    /// Opens what has rested, or was closed: all that was there then has to be there.
    fn open_again(&self, open: &mut Open) -> Result<(), String> {
        let opened = match Open::new(&self.path, self.config.cache_bytes) {
            Err(CheckpointError::Damaged(error)) => return Err(self.is_damaged(error)),
            opened => opened.map_err(text)?,
        };
        let (rests, known) = (opened.rests().map_err(|error| self.is_damaged(error))?, self.rests.load(Relaxed));
        if rests != known {
            return Err(self.is_damaged(format!("of {known} rests it knows {rests}: rows are gone")));
        }
        *open = opened;
        Ok(())
    }

    /// The first failure counts: sled gives others in its wake.
    fn first_failure(&self, failure: u8) -> bool {
        self.health.compare_exchange(SOUND, failure, Relaxed, Relaxed).is_ok()
    }

    fn is_damaged(&self, error: String) -> String {
        self.first_failure(LOST);
        error
    }

    /// Changes a row, and sees to it that its page does not stay in memory.
    fn change<T>(&self, key: &[u8], call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<(), String> {
        self.write(|db| {
            // A failure here is the first one, and what reading says in its wake is no news.
            let before = call(db)?;
            (0..TOUCHES).try_for_each(|_| db.get(key).map(drop))?;
            Ok(before)
        })
    }

    /// Calls sled for something that writes its files; a failure is remembered.
    fn write<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<(), String> {
        if self.is_broken() {
            return Err("an earlier call has failed".to_owned());
        }
        let open = self.opened()?;
        let db = open.db()?;
        // sled panics on damage only.
        let mut failure = LOST;
        let result = no_panic(|| {
            call(db).map(drop).inspect_err(|error| match error {
                sled::Error::Io(error) if disk::is_no_space(error) => failure = FULL,
                error if !is_damage(error) => failure = DEAD,
                _ => {}
            })
        });
        result.inspect_err(|_| {
            if self.first_failure(failure) && failure == DEAD {
                self.fails();
            }
        })
    }
}

impl Rows for SledRows {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.change(key, |db| db.insert(key, value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), String> {
        self.change(key, |db| db.remove(key))
    }

    fn reserve(&self, key: &[u8]) -> Result<(), String> {
        self.write(|db| db.insert(key, &[]))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let open = self.opened()?;
        let db = open.db()?;
        Ok(read(&self.damaged, || db.get(key))?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Box<dyn Iterator<Item = Result<Row, String>> + Send> {
        let rows = self.opened().and_then(|open| Ok(open.db()?.range(from.to_vec()..to.to_vec())));
        let mut rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let damaged = Arc::clone(&self.damaged);
        Box::new(std::iter::from_fn(move || {
            let row = read(&damaged, || rows.next().transpose()).transpose()?;
            Some(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        }))
    }

    fn write_back(&self) -> Result<(), String> {
        // Which is `sync_file_range`.
        self.write(|db| db.flush())
    }

    fn sync(&self) -> Result<(), String> {
        self.write_back()?;
        let blobs = blobs(&self.path.join("blobs")).map_err(text)?;
        self.to_the_disk(|| {
            blobs.iter().try_for_each(File::sync_all)?;
            self.open.read().file.sync_data()
        })
    }

    fn is_broken(&self) -> bool {
        self.health.load(Relaxed) != SOUND
    }

    fn found_damage(&self) -> bool {
        // After a failure reads fail in its wake.
        self.damaged.load(Relaxed) && !self.is_broken()
    }

    fn is_dead(&self) -> bool {
        self.health.load(Relaxed) == DEAD
    }

    fn is_lost(&self) -> bool {
        self.health.load(Relaxed) == LOST
    }

    fn wake(&self) -> Result<(), String> {
        if self.is_broken() {
            return Err("an earlier call has failed".to_owned());
        }
        self.opened().map(drop)
    }

    fn begin_next(&self) -> Result<Arc<dyn Rows>, String> {
        let next: Arc<dyn Rows> = self.make_next()?;
        Ok(next)
    }

    fn take_next(&self) -> Result<(), String> {
        self.put_next_in_place()
    }

    fn drop_next(&self) {
        self.remove_next();
    }

    fn left_over(&self) -> u64 {
        self.old_file().map_or(0, |(_, bytes)| bytes)
    }

    fn discard(&self, bytes: u64) -> bool {
        self.shorten_old_file(bytes)
    }

    fn rest(&self) {
        if self.is_broken() || self.open.read().db.is_none() {
            return;
        }
        // sled writes what is left when it is closed, and does not say so where that fails.
        let rests = self.rests.load(Relaxed) + 1;
        if self.write(|db| db.insert(REST, &rests.to_be_bytes())).and_then(|()| self.sync()).is_err() {
            return;
        }
        let mut open = self.open.write();
        if !self.is_broken() {
            self.rests.store(rests, Relaxed);
            // What was read to the end of a load stays in memory: see `TOUCHES`.
            open.db = None;
        }
    }

    fn has_outgrown(&self, live: u64) -> bool {
        // One that was not small even when it was new is not made anew for nothing each time.
        let grown = self.new_bytes.load(Relaxed).saturating_mul(3) / 2;
        let most = self.config.small_bytes.max(live.saturating_mul(MOST_HALVES) / 2).max(grown);
        !self.is_broken() && self.disk_bytes() > most
    }

    fn free_bytes(&self) -> Option<u64> {
        let facts = rustix::fs::statvfs(&self.path).ok()?;
        Some(facts.f_bavail * facts.f_frsize)
    }

    fn set_witness(&self, group: u64, bytes: &[u8]) -> Result<(), String> {
        disk::write_file_atomically(&OsDisk, &self.witness_path(group), bytes).map_err(text)
    }

    fn witness(&self, group: u64) -> Result<Option<Vec<u8>>, String> {
        let path = self.witness_path(group);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    fn witnesses(&self) -> Result<Vec<u64>, String> {
        let mut groups = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(text)? {
            let name = entry.map_err(text)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(WITNESS));
            groups.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
        }
        groups.sort_unstable();
        Ok(groups)
    }

    fn disk_bytes(&self) -> u64 {
        let open = self.open.read();
        let known = open.db.as_ref().and_then(|db| db.size_on_disk().ok());
        known.or_else(|| Some(open.file.metadata().ok()?.len())).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> sled::Error {
        io::Error::from(io::ErrorKind::StorageFull).into()
    }

    /// Rows that stand on the disk only: sled has to read them to see them.
    fn resting() -> (tempfile::TempDir, SledRows) {
        let temp = tempfile::tempdir().unwrap();
        let rows = SledRows::open(&temp.path().join("checkpoint"), CheckpointConfig::default()).unwrap();
        (0..20_u8).for_each(|row| rows.put(&[row], &[row; 8000]).unwrap());
        rows.rest();
        (temp, rows)
    }

    #[test]
    fn a_full_disk_is_told_from_what_fails_in_its_wake() {
        let (_temp, rows) = resting();
        let result = rows.change(&[7], |_| {
            // What sled reads now is not there.
            File::options().write(true).open(rows.path.join("db")).unwrap().set_len(0).unwrap();
            Err::<(), _>(full())
        });
        assert!(result.is_err());
        assert_eq!(rows.health.load(Relaxed), FULL);
    }

    #[test]
    fn after_a_full_disk_another_store_takes_its_place_and_after_a_failed_one_none_does() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let (_temp, rows) = resting();
            rows.change(&[7], |_| Err::<(), _>(io::Error::from(kind).into())).unwrap_err();
            assert!(rows.is_broken() && !rows.is_dead() && !rows.is_lost());
            assert!(rows.put(&[8], b"eight").is_err(), "sled may have lost what it had taken");
            let next = rows.begin_next().unwrap();
            next.put(&[7], b"seven").unwrap();
            next.sync().unwrap();
            rows.take_next().unwrap();
            assert!(!rows.is_broken());
            assert_eq!(rows.get(&[7]).unwrap(), Some(b"seven".to_vec()));
            assert_eq!(rows.get(&[8]).unwrap(), None);
            // The next failure is news again.
            rows.change(&[7], |_| Err::<(), _>(sled::Error::ReportableBug("new".into()))).unwrap_err();
            assert!(rows.is_lost());
        }
        let (_temp, rows) = resting();
        rows.to_the_disk(|| Err(io::ErrorKind::Other.into())).unwrap_err();
        assert!(rows.is_dead());
    }

    #[test]
    fn a_store_that_ran_into_a_full_disk_at_its_very_end_takes_no_room() {
        let (_temp, rows) = resting();
        let next = rows.make_next().unwrap();
        next.change(&[7], |_| Err::<(), _>(full())).unwrap_err();
        assert!(next.path.exists() && rows.take_next().is_err());
        assert!(!next.path.exists());
        assert_eq!(rows.get(&[7]).unwrap(), Some(vec![7; 8000]), "the old one is what it was");
    }

    #[test]
    fn what_a_failed_sync_was_about_is_in_another_file_after_the_next_start() {
        use std::os::unix::fs::MetadataExt;
        let (temp, rows) = resting();
        let path = temp.path().join("checkpoint");
        let file = || fs::metadata(path.join("db")).unwrap().ino();
        rows.set_witness(3, b"seven").unwrap();
        let before = file();
        drop(rows);
        let rows = SledRows::open(&path, CheckpointConfig::default()).unwrap();
        assert_eq!(file(), before, "a start after no failure leaves it alone");
        rows.put(&[20], b"twenty").unwrap();
        rows.to_the_disk(|| Err(io::ErrorKind::Other.into())).unwrap_err();
        drop(rows);
        for _ in 0..2 {
            let rows = SledRows::open(&path, CheckpointConfig::default()).unwrap();
            assert_ne!(file(), before);
            assert_eq!(
                rows.scan(&[0], &[21]).map(|row| row.unwrap().0[0]).collect::<Vec<_>>(),
                (0..=20).collect::<Vec<_>>()
            );
            assert_eq!(rows.get(&[20]).unwrap(), Some(b"twenty".to_vec()));
            assert_eq!(rows.witness(3).unwrap(), Some(b"seven".to_vec()));
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "no mark and no copy is left");
    }
}
