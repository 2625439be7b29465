//! A disk in memory with a crash model: it loses, tears and reorders whatever was not synced, as a seed says.
//!
//! It keeps each file twice, as programs see it and as a power cut would leave it, and the changes in between:
//!
//! * bytes written are lost, kept or torn per 512-byte sector, in any order, until the file is synced;
//! * names created, renamed or removed are lost or kept one by one until their directory is synced;
//! * after a failed sync the bytes look fine to readers, but no later sync makes them durable (as Linux does it);
//! * space can run out, reads can find flipped bits, any operation can be the last one before the power goes.
//!
//! [`MemDisk::crash`] is a power cut, [`MemDisk::restart`] the end of the process only. After either, handles of the
//! time before are dead, so a thread that lives on can't reach the disk of its successor. All chance comes from seeds:
//! the same calls give the same disk.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::checkpoint::rows::{GOLDEN, mix};
use crate::disk::{Disk, DiskFile, LockGuard};

/// The unit that a power cut keeps or loses.
pub const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk, seen by the same process.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    incarnation: u64,
}

#[derive(Default)]
struct State {
    incarnation: u64,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    names: Names,
    durable_names: Names,
    name_changes: Vec<NameChange>,
    locked: BTreeSet<PathBuf>,
    faults: Faults,
    operations: u64,
}

#[derive(Default, Clone)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

#[derive(Default)]
struct FileState {
    /// Shared with the open handles: a file without a name lives until the last of them is gone.
    open: Arc<()>,
    now: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Default)]
struct Faults {
    power_off: bool,
    operations_left: Option<u64>,
    writes_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
    reads_until_flip: Option<u64>,
    capacity_bytes: Option<u64>,
}

/// A small generator of its own: a disk must not depend on how some crate draws its numbers.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        let drawn = mix(self.0);
        self.0 = self.0.wrapping_add(GOLDEN);
        drawn
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::Rename(from, to, file) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *file);
            }
        }
    }
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path, _)) = self;
        path.parent() == Some(dir)
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(bytes, *offset, data),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// What a power cut leaves of it: each sector whole, not at all, or (seldom) its first part.
    fn apply_torn(&self, bytes: &mut Vec<u8>, chance: &mut Chance, keep_of_16: u64) {
        let Self::Write { offset, data } = self else {
            if chance.below(16) < keep_of_16 {
                self.apply(bytes);
            }
            return;
        };
        let mut at = 0;
        while at < data.len() {
            let until_boundary = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
            let len = until_boundary.min(data.len() - at);
            if chance.below(16) < keep_of_16 {
                put(bytes, offset + at, &data[at..at + len]);
            } else if chance.below(8) == 0 {
                let part = usize::try_from(chance.below(len as u64)).unwrap_or(0);
                put(bytes, offset + at, &data[at..at + part]);
            }
            at += len;
        }
    }
}

impl FileState {
    fn lose(&mut self, chance: &mut Chance) {
        let mut bytes = std::mem::take(&mut self.durable);
        let changes = std::mem::take(&mut self.changes);
        match chance.below(4) {
            0 => {}
            1 => changes.iter().for_each(|change| change.apply(&mut bytes)),
            2 => {
                // In order, up to one that is torn.
                let whole = usize::try_from(chance.below(changes.len() as u64 + 1)).unwrap_or(0);
                changes[..whole].iter().for_each(|change| change.apply(&mut bytes));
                if let Some(change) = changes.get(whole) {
                    change.apply_torn(&mut bytes, chance, 8);
                }
            }
            _ => {
                let keep = 1 + chance.below(15);
                changes.iter().for_each(|change| change.apply_torn(&mut bytes, chance, keep));
            }
        }
        self.now.clone_from(&bytes);
        self.durable = bytes;
    }
}

impl State {
    /// Counts an operation that changes something; the one on which the power goes fails like all after it.
    fn change(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some(left) = &mut self.faults.operations_left {
            if *left == 0 {
                self.faults.power_off = true;
            } else {
                *left -= 1;
            }
        }
        self.powered()
    }

    fn powered(&self) -> io::Result<()> {
        if self.faults.power_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn file(&mut self, file: u64) -> io::Result<&mut FileState> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn named(&self, path: &Path) -> io::Result<u64> {
        self.names.files.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename_change(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.name_changes.push(change);
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let named: BTreeSet<u64> =
            self.names.files.values().chain(self.durable_names.files.values()).copied().collect();
        let pending: BTreeSet<u64> = self
            .name_changes
            .iter()
            .filter_map(|change| match change {
                NameChange::Link(_, file) | NameChange::Rename(_, _, file) => Some(*file),
                _ => None,
            })
            .collect();
        self.files
            .retain(|file, state| named.contains(file) || pending.contains(file) || Arc::strong_count(&state.open) > 1);
    }

    fn used_bytes(&self) -> u64 {
        self.names.files.values().filter_map(|file| self.files.get(file)).map(|file| file.now.len() as u64).sum()
    }

    fn grow(&mut self, file: u64, to: usize) -> io::Result<()> {
        let more = to.saturating_sub(self.file(file)?.now.len()) as u64;
        match self.faults.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn countdown(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(more) => {
            *more -= 1;
            false
        }
        None => false,
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        let mut state = State::default();
        for names in [&mut state.names, &mut state.durable_names] {
            names.dirs.insert(PathBuf::from("/"));
        }
        Self { state: Arc::new(Mutex::new(state)), incarnation: 0 }
    }

    /// A power cut. What was not synced is lost, kept or torn as `seed` says; the disk as the next process finds it.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut chance = Chance(seed);
        let state = &mut *self.state.lock();
        let keep = chance.below(5) * 4;
        for change in std::mem::take(&mut state.name_changes) {
            if chance.below(16) < keep {
                state.durable_names.apply(&change);
            }
        }
        state.names = state.durable_names.clone();
        state.forget_unnamed();
        for file in state.files.values_mut() {
            file.lose(&mut chance);
        }
        self.next_incarnation(state)
    }

    /// The process ends, the machine goes on: nothing is lost, and nothing becomes durable by it.
    #[must_use]
    pub fn restart(&self) -> Self {
        self.next_incarnation(&mut self.state.lock())
    }

    fn next_incarnation(&self, state: &mut State) -> Self {
        state.incarnation += 1;
        state.locked.clear();
        state.faults = Faults { capacity_bytes: state.faults.capacity_bytes, ..Faults::default() };
        Self { state: Arc::clone(&self.state), incarnation: state.incarnation }
    }

    /// How many operations that change something were tried so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Lets `operations` more changes happen, then the power goes: that change may be half done, all later fail.
    pub fn cut_power_after(&self, operations: u64) {
        self.state.lock().faults.operations_left = Some(operations);
    }

    /// Lets `writes` more writes succeed and the one after them fail, with part of it done.
    pub fn fail_write_after(&self, writes: u64) {
        self.state.lock().faults.writes_until_failure = Some(writes);
    }

    /// Lets `syncs` more file syncs succeed and the one after them fail.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state.lock().faults.syncs_until_failure = Some(syncs);
    }

    /// Lets `reads` more reads be right; the one after them gives a bit turned, once: the platter is as it was.
    pub fn flip_read_after(&self, reads: u64) {
        self.state.lock().faults.reads_until_flip = Some(reads);
    }

    /// Looks at the disk from outside: no fault is met by that, and none is used up.
    pub fn unharmed<T>(&self, look: impl FnOnce() -> T) -> T {
        let flip = self.state.lock().faults.reads_until_flip.take();
        let seen = look();
        self.state.lock().faults.reads_until_flip = flip;
        seen
    }

    /// Takes back what was to fail, and every limit. Power that is off stays off.
    pub fn forget_faults(&self) {
        let faults = &mut self.state.lock().faults;
        *faults = Faults { power_off: faults.power_off, ..Faults::default() };
    }

    /// The power went at an operation (see [`MemDisk::cut_power_after`]).
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state.lock().faults.power_off
    }

    /// A number that changes with whatever readers would see: names and bytes.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let state = self.state.lock();
        let mut hasher = crc32fast::Hasher::new();
        for (path, file) in &state.names.files {
            hasher.update(path.as_os_str().as_encoded_bytes());
            hasher.update(state.files.get(file).map_or(&[], |file| &file.now));
        }
        hasher.finalize()
    }

    /// Limits the sum of all file lengths; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity_bytes = bytes;
    }

    /// Flips one bit of a file, on the platter and for readers.
    ///
    /// # Errors
    /// If there is no such file or it is too short.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.named(path)?;
        let file = state.file(file)?;
        let at = usize::try_from(byte).map_err(io::Error::other)?;
        *file.now.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1 << (bit % 8);
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// The bytes of a file as readers see them.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        let file = state.named(path)?;
        Ok(state.file(file)?.now.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.incarnation != self.incarnation {
            return Err(io::Error::other("this handle is of a process that is gone"));
        }
        state.powered()?;
        act(&mut state)
    }

    fn handle(&self, file: u64) -> io::Result<Arc<dyn DiskFile>> {
        let open = self.with(|state| Ok(Arc::clone(&state.file(file)?.open)))?;
        Ok(Arc::new(MemFile { disk: self.clone(), file, _open: open }))
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.handle(self.with(|state| state.named(path))?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| {
            if !path.parent().is_some_and(|dir| state.names.dirs.contains(dir)) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.change()?;
            if let Ok(file) = state.named(path) {
                let content = state.file(file)?;
                content.now.clear();
                content.changes.push(Change::SetLen(0));
                return Ok(file);
            }
            state.next_file += 1;
            let file = state.next_file;
            state.files.insert(file, FileState::default());
            state.rename_change(NameChange::Link(path.to_owned(), file));
            Ok(file)
        })?;
        self.handle(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| {
            let file = state.named(from)?;
            state.rename_change(NameChange::Rename(from.to_owned(), to.to_owned(), file));
            state.change()
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.named(path)?;
            state.rename_change(NameChange::Unlink(path.to_owned()));
            state.change()
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.with(|state| {
            if !state.names.dirs.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let paths = state.names.files.keys().filter(|path| path.parent() == Some(dir));
            Ok(paths.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
        })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.with(|state| {
            state.change()?;
            for dir in dir.ancestors() {
                state.names.dirs.insert(dir.to_owned());
                state.durable_names.dirs.insert(dir.to_owned());
            }
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.with(|state| {
            state.change()?;
            let (synced, rest) = std::mem::take(&mut state.name_changes).into_iter().partition(|c| c.is_in(dir));
            state.name_changes = rest;
            let synced: Vec<NameChange> = synced;
            synced.iter().for_each(|change| state.durable_names.apply(change));
            state.forget_unnamed();
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        if self.with(|state| Ok(state.locked.contains(path)))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !self.with(|state| Ok(state.names.dirs.contains(path)))? && self.open(path).is_err() {
            self.create(path)?;
        }
        self.with(|state| Ok(state.locked.insert(path.to_owned())))?;
        Ok(Box::new(MemLock { disk: self.clone(), path: path.to_owned() }))
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.incarnation == self.disk.incarnation {
            state.locked.remove(&self.path);
        }
    }
}

struct MemFile {
    disk: MemDisk,
    file: u64,
    _open: Arc<()>,
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = state.file(self.file)?.now.get(offset..offset + buf.len());
            buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            let middle = buf.len() / 2;
            if let Some(byte) = buf.get_mut(middle)
                && countdown(&mut state.faults.reads_until_flip)
            {
                *byte ^= 16;
            }
            Ok(())
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            state.grow(self.file, offset + data.len())?;
            let failed = countdown(&mut state.faults.writes_until_failure);
            let outcome = state.change();
            // The write that fails may have been half done: that is for the crash to decide, or for the reader.
            let done = if failed { data.len() / 2 } else { data.len() };
            let file = state.file(self.file)?;
            put(&mut file.now, offset, &data[..done]);
            file.changes.push(Change::Write { offset, data: data[..done].to_vec() });
            if failed { Err(io::Error::other("the write failed")) } else { outcome }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.with(|state| {
            state.change()?;
            let failed = countdown(&mut state.faults.syncs_until_failure);
            let seed = state.operations;
            let file = state.file(self.file)?;
            if failed {
                // What got through is durable, the rest never will be, although readers still see it.
                let now = file.now.clone();
                file.lose(&mut Chance(seed));
                file.now = now;
                return Err(io::Error::other("the sync failed"));
            }
            let mut durable = std::mem::take(&mut file.durable);
            std::mem::take(&mut file.changes).iter().for_each(|change| change.apply(&mut durable));
            file.durable = durable;
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.with(|state| Ok(state.file(self.file)?.now.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.with(|state| {
            let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
            state.grow(self.file, bytes)?;
            state.change()?;
            let file = state.file(self.file)?;
            file.now.resize(bytes, 0);
            file.changes.push(Change::SetLen(bytes));
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if self.size()? >= bytes { Ok(()) } else { self.set_len(bytes) }
    }
}
