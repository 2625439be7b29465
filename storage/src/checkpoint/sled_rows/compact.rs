//! Making sled's file anew: it reuses little of what rows that were removed leave behind, and never gives it back.
//!
//! The rows are copied into a store beside the old one, a few at a time; when all are there and synced, the two directories
//! change places in one step, and the old one is removed. A crash leaves one or the other, whole, and a directory too
//! many, which is removed at the next start. Where the file system can't change two names at once it is left as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use super::{Open, REST, SledRows, TOUCHES, no_panic, parent, read, text};
use crate::checkpoint::rows::Rows as _;
use crate::disk::{Disk as _, OsDisk};

/// So many halves of what counts the file may take before it is made anew. While the copy is made both are there.
const MOST_HALVES: u64 = 5;
/// Room that must be left beside a copy, for the log.
const SPARE_BYTES: u64 = 256 << 20;

/// A copy in the making.
pub(super) struct Copy {
    db: sled::Db,
    /// The last key that is in it.
    last: Option<Vec<u8>>,
    /// How many there are in it.
    rows: u64,
    /// What had been changed when it was begun.
    changes: u64,
}

fn place(path: &Path) -> PathBuf {
    path.with_extension("compact")
}

/// A copy that was not finished, or the old store behind one that was.
pub(super) fn remove_left_over(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(place(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file, or a directory and all that is in it, durable.
pub(super) fn sync_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_all(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exchange(_one: &Path, _other: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl SledRows {
    pub(super) fn compact_a_little(&self, live: u64, rows: u64, most: usize) -> Result<bool, String> {
        let mut slot = self.copy.lock();
        let result = match slot.take() {
            None if !self.is_worth_it(live) => return Ok(false),
            None => self.begin_copy(),
            Some(copy) => Ok(copy),
        };
        let result = result.and_then(|copy| self.go_on(copy, rows, most));
        match result {
            Ok(copy) => {
                *slot = copy;
                Ok(slot.is_some())
            }
            Err(error) => {
                let _ = remove_left_over(&self.path);
                // Not again behind every checkpoint.
                self.anew_bytes.store(self.disk_bytes(), Relaxed);
                Err(error)
            }
        }
    }

    /// Makes it anew in one go, however small it is.
    pub(super) fn renew(&self) -> Result<(), String> {
        let copy = self.begin_copy()?;
        self.go_on(copy, 0, usize::MAX).map(drop)
    }

    fn is_worth_it(&self, live: u64) -> bool {
        let room = self.free_bytes().is_none_or(|free| free > live.saturating_mul(2) + SPARE_BYTES);
        // One that was not small even then is not made anew for nothing each time.
        let grown = self.anew_bytes.load(Relaxed).saturating_mul(3) / 2;
        let most = self.config.small_bytes.max(live.saturating_mul(MOST_HALVES) / 2).max(grown);
        !self.is_broken() && room && self.disk_bytes() > most
    }

    fn begin_copy(&self) -> Result<Copy, String> {
        remove_left_over(&self.path).map_err(text)?;
        let new = place(&self.path);
        let changes = self.changes.load(Relaxed);
        // Two of them at once take twice the memory: the old one begins with none.
        self.rest();
        let mut open = Open::new(&new, self.config.cache_bytes).map_err(text)?;
        let db = open.db.take().ok_or("it is not open")?;
        Ok(Copy { db, last: None, rows: 0, changes })
    }

    /// Copies some rows; `None` when the copy has taken the old one's place, or was given up. At least so many are there.
    fn go_on(&self, mut copy: Copy, rows_known: u64, most: usize) -> Result<Option<Copy>, String> {
        if self.changes.load(Relaxed) != copy.changes {
            drop(copy);
            remove_left_over(&self.path).map_err(text)?;
            return Ok(None);
        }
        let mut count = 0;
        {
            let open = self.opened()?;
            let db = open.db()?;
            let mut rows = match &copy.last {
                None => db.iter(),
                Some(last) => db.range::<&[u8], _>((std::ops::Bound::Excluded(&last[..]), std::ops::Bound::Unbounded)),
            };
            while count < most
                && let Some((key, value)) = read(&self.damaged, || rows.next().transpose())
                    .map_err(|error| if self.damaged.load(Relaxed) { self.is_damaged(error) } else { error })?
            {
                no_panic(|| copy.db.insert(&key, value))?;
                for _ in 0..TOUCHES {
                    no_panic(|| db.get(&key))?;
                    no_panic(|| copy.db.get(&key))?;
                }
                copy.last = Some(key.to_vec());
                copy.rows += 1;
                count += 1;
            }
        }
        if count == most {
            return Ok(Some(copy));
        }
        if copy.rows < rows_known {
            return Err(self.is_damaged(format!("it has {} rows of {rows_known}", copy.rows)));
        }
        // Last: see `REST`.
        let rests = self.rests.load(Relaxed).to_be_bytes();
        no_panic(|| copy.db.insert(REST, &rests))?;
        no_panic(|| copy.db.flush())?;
        let changes = copy.changes;
        drop(copy);
        self.take_its_place(changes)?;
        Ok(None)
    }

    /// Gives the new store what is kept apart from the rows, and makes all of it durable.
    fn finish(&self) -> io::Result<()> {
        let new = place(&self.path);
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("epoch-") {
                fs::copy(entry.path(), new.join(entry.file_name()))?;
            }
        }
        sync_all(&new)?;
        OsDisk.sync_dir(parent(&self.path))
    }

    /// Puts a store without rows in the place of one that is closed, and of no use to anybody.
    pub(super) fn put_empty_store(&self) -> Result<(), String> {
        remove_left_over(&self.path).map_err(text)?;
        let new = place(&self.path);
        drop(Open::new(&new, self.config.cache_bytes).map_err(text)?);
        self.finish().map_err(text)?;
        exchange(&self.path, &new).map_err(text)?;
        OsDisk.sync_dir(parent(&self.path)).map_err(text)?;
        remove_left_over(&self.path).map_err(text)
    }

    fn take_its_place(&self, changes: u64) -> Result<(), String> {
        let new = place(&self.path);
        self.finish().map_err(text)?;
        let parent = parent(&self.path);
        let mut open = self.open.write();
        if self.changes.load(Relaxed) != changes {
            return remove_left_over(&self.path).map_err(text);
        }
        open.db = None;
        exchange(&self.path, &new).map_err(text)?;
        // Whatever fails from here on: which of the two a loss of power leaves is not known.
        let synced = OsDisk.sync_dir(parent).map_err(text);
        if let Err(error) = synced {
            self.fails(&error);
            return Err(error);
        }
        self.open_again(&mut open)?;
        drop(open);
        self.anew_bytes.store(self.disk_bytes(), Relaxed);
        remove_left_over(&self.path).map_err(text)
    }
}
