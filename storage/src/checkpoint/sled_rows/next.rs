//! The store that takes the place of another one.
//!
//! It is written beside the old one; when it is whole and synced, the two directories change places in one step, and the
//! old one is removed, a little at a time. A crash leaves one or the other, whole, and a directory too many, which is removed at the next start.
//! Where the file system can't change two names at once, the old one is moved aside first: a start that finds it there
//! and nothing in its place goes on with the new one, which was whole by then.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Open, REST, SOUND, SledRows, TOUCHES, no_panic, parent, text};
use crate::checkpoint::rows::Rows as _;
use crate::disk::{Disk as _, OsDisk};

/// Where the new store is written, and where the old one is then.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("next")
}

/// Where the old one is where two names can't be changed at once.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// Finishes what an earlier process had begun: ends a change of places, and removes what does not count.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    if !path.exists() && aside(path).exists() {
        fs::rename(if beside(path).exists() { beside(path) } else { aside(path) }, path)?;
        OsDisk.sync_dir(parent(path))?;
    }
    for left in [beside(path), aside(path)] {
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
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

fn one_after_the_other(path: &Path) -> io::Result<()> {
    fs::rename(path, aside(path))?;
    fs::rename(beside(path), path)
}

fn change_places(path: &Path) -> io::Result<()> {
    match exchange(path, &beside(path)) {
        // Old kernels, and file systems that can't.
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
            one_after_the_other(path)
        }
        changed => changed,
    }
}

impl SledRows {
    pub(super) fn make_next(&self) -> Result<Arc<Self>, String> {
        let mut slot = self.next.lock();
        if let Some(earlier) = slot.take() {
            earlier.close();
        }
        clear(&self.path).map_err(text)?;
        let made = Self::open_made(&beside(&self.path), self.config.clone()).map_err(text);
        let next = Arc::new(made.inspect_err(|_| self.clear())?);
        *slot = Some(Arc::clone(&next));
        Ok(next)
    }

    /// Closes it, whatever is in it. sled may well panic over what is damaged.
    fn close(&self) {
        let db = self.open.write().db.take();
        let _ = no_panic(|| {
            drop(db);
            Ok(())
        });
    }

    pub(super) fn remove_next(&self) {
        if let Some(next) = self.next.lock().take() {
            next.close();
            self.clear();
        }
    }

    fn clear(&self) {
        if let Err(error) = clear(&self.path) {
            tracing::warn!(%error, "what is left of another checkpoint can't be removed, and takes room");
        }
    }

    pub(super) fn put_next_in_place(&self) -> Result<(), String> {
        let Some(next) = self.next.lock().take() else { return Err("there is none".to_owned()) };
        // The row that tells whether all is there when it is opened again; behind it, what sled writes when it is closed.
        next.rest();
        if next.is_broken() || next.open.read().db.is_some() {
            // The old one is where it was. Room is what a full disk wants most, and nobody else comes by while it is full.
            next.close();
            self.clear();
            return Err("it could not be finished".to_owned());
        }
        next.to_the_disk(|| sync_all(&next.path).and_then(|()| OsDisk.sync_dir(parent(&self.path))))?;
        self.close();
        let mut open = self.open.write();
        // Whatever fails here: which of the two a loss of power leaves is not known.
        self.to_the_disk(|| {
            change_places(&self.path)?;
            OsDisk.sync_dir(parent(&self.path))?;
            *open = Open { db: None, file: File::open(self.path.join("db"))? };
            Ok(())
        })?;
        drop(open);
        self.rests.store(next.rests.load(Relaxed), Relaxed);
        self.damaged.store(false, Relaxed);
        self.health.store(SOUND, Relaxed);
        self.new_bytes.store(self.disk_bytes(), Relaxed);
        Ok(())
    }

    /// The file of the store whose place this one has taken, and what is left of it.
    pub(super) fn old_file(&self) -> Option<(PathBuf, u64)> {
        if self.next.lock().is_some() {
            return None;
        }
        [beside(&self.path), aside(&self.path)].into_iter().find_map(|old| {
            let file = old.join("db");
            let bytes = fs::metadata(&file).ok()?.len();
            Some((file, bytes))
        })
    }

    /// Makes it shorter by so much, or removes what is left of it; true if there is more.
    pub(super) fn shorten_old_file(&self, by: u64) -> bool {
        let Some((file, bytes)) = self.old_file() else { return false };
        let shorter = bytes.checked_sub(by).filter(|shorter| *shorter > 0);
        let shortened = shorter.map(|bytes| File::options().write(true).open(file)?.set_len(bytes));
        match shortened {
            Some(Ok(())) => true,
            // Where it can't be made shorter, perhaps it can be removed.
            Some(Err(_)) | None => {
                self.clear();
                false
            }
        }
    }

    /// Writes all rows again, to other places on the disk.
    pub(super) fn copy_all(&self) -> Result<(), String> {
        let next = self.make_next()?;
        for row in self.scan(&[], &[u8::MAX]) {
            let (key, value) = row.map_err(|error| if self.found_damage() { self.is_damaged(error) } else { error })?;
            if key != REST {
                next.put(&key, &value)?;
            }
            // See `TOUCHES`.
            (0..TOUCHES).try_for_each(|_| self.get(&key).map(drop))?;
        }
        for group in self.witnesses()? {
            if let Some(bytes) = self.witness(group)? {
                next.set_witness(group, &bytes)?;
            }
        }
        next.sync()?;
        self.put_next_in_place()?;
        self.clear();
        Ok(())
    }
}
