//! Checkpoints: the state of each group as chunks, kept in rows of about 8 KB, committed by epochs.
//!
//! A checkpoint is written beside the one before: only chunks that changed, under the number of the next epoch. It counts
//! from the moment at which its manifest is durable; until then, and if it is given up, the old one is whole. After that
//! the rows that it replaced are removed.
//!
//! ```text
//! data row      key    'd', group u64, chunk u128, epoch u64, part u32, all big endian
//!               value  crc32 u32 over the key and the rest of the value, number of parts u32 (both little endian),
//!                      bytes of the chunk. No parts: the chunk is removed as of this epoch.
//! manifest row  key    'm', group u64 big endian
//!               value  codec version 2: epoch, floor, rows, chunks, bytes, digest, the caller's bytes
//! ```
//!
//! What a chunk holds at epoch E are the rows of the newest epoch not above E. Rows below the manifest's `floor` are
//! nothing (a full replacement wrote the floor), rows above E were never committed. `digest` is the sum of a hash of
//! every row that counts, so it can be kept up to date without reading, and a row that is missing, changed or left over
//! from a checkpoint that was given up shows.
//!
//! The order of a commit: data rows, sync, manifest, sync, the epoch's number in a file of its own, removal of old rows. A removal that a crash undoes leaves rows
//! that no longer count; a row that says "removed" is itself only removed after the next sync.
//!
//! This module must never know what a chunk holds.

#[cfg(test)]
mod compact_tests;
#[cfg(test)]
mod damage_tests;
mod read;
#[cfg(test)]
mod room_tests;
pub(crate) mod rows;
mod sled_rows;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
pub use read::{Chunks, Loaded};
pub use rows::{MemRows, Row, Rows};
pub use write::Writer;

/// Bytes of a chunk in one row. sled needs several times a row's size in memory and on disk while it rewrites the page
/// it is on: 8 KB was measured to be cheap, 32 KB to cost a gigabyte.
const PART_BYTES: usize = 8000;
/// With less room than this on the disk nothing is written: the log needs it more.
const RESERVED_BYTES: u64 = 4 << 20;
const MANIFEST_VERSION: u8 = 2;
const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Of the number of the newest epoch, which is kept apart from the rows.
const WITNESS_VERSION: u8 = 1;
const MAX_WITNESS_BYTES: usize = 64;
const KEY_BYTES: usize = 37;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckpointError {
    /// A row or a manifest is damaged or missing; the member must stop, or be rebuilt from the others.
    #[error("the checkpoint of group {group} is corrupt: {what}")]
    Corrupt {
        /// Whose checkpoint.
        group: u64,
        /// What was found.
        what: String,
    },
    /// Another version of this program wrote it.
    #[error(
        "the checkpoint of group {group} is of format version {found}, and this program reads {known} only: run the \
         version of quorate that wrote it; nothing was changed"
    )]
    Version {
        /// Whose checkpoint.
        group: u64,
        /// In the store.
        found: u8,
        /// Known.
        known: u8,
    },
    /// The store below can't read its own files; the member must stop, or be rebuilt from the others.
    #[error("the checkpoint store is damaged: {0}")]
    Damaged(String),
    /// The store below failed, and may be tried again.
    #[error("the checkpoint store failed: {0}")]
    Store(String),
    /// The disk failed under a write or a sync. Nobody knows what is on it, and only the next process can look; the member
    /// must stop.
    #[error("the disk has failed under the checkpoints: {0}; a new start writes them anew")]
    Disk(String),
    /// The disk is nearly full. Nothing was written.
    #[error("the disk has no room for a checkpoint: {0} bytes are free")]
    NoRoom(u64),
    /// Another writer of the same group is under way.
    #[error("a checkpoint of group {0} is being written already")]
    Busy(u64),
}

impl CheckpointError {
    /// True if what is on the disk is damaged. Of all else another start, or the version that wrote it, may make sense.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged(_))
    }
}

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct CheckpointConfig {
    /// Memory that the store may use as cache.
    pub cache_bytes: u64,
    /// A store that takes no more than this on the disk is never made anew.
    pub small_bytes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, small_bytes: 64 << 20 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    epoch: u64,
    floor: u64,
    rows: u64,
    chunks: u64,
    bytes: u64,
    digest: u64,
    caller: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    group: u64,
    chunk: u128,
    epoch: u64,
    part: u32,
}

impl Key {
    fn encode(&self) -> [u8; KEY_BYTES] {
        let mut out = [b'd'; KEY_BYTES];
        out[1..9].copy_from_slice(&self.group.to_be_bytes());
        out[9..25].copy_from_slice(&self.chunk.to_be_bytes());
        out[25..33].copy_from_slice(&self.epoch.to_be_bytes());
        out[33..].copy_from_slice(&self.part.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
        let u64_at = |at: usize| bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let part = bytes[33..].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        let chunk = u128::from(u64_at(9)) << 64 | u128::from(u64_at(17));
        Some(Self { group: u64_at(1), chunk, epoch: u64_at(25), part })
    }

    fn row_hash(&self, crc: u32) -> u64 {
        let (high, low) = ((self.chunk >> 64) as u64, self.chunk as u64);
        let place = [high, low, self.epoch].iter().fold(rows::mix(self.group), |place, half| rows::mix(place ^ half));
        rows::mix(place ^ (u64::from(self.part) << 32 | u64::from(crc)))
    }
}

/// Whether chunks of so many bytes can be written beside what is there.
fn check_room(rows: &dyn Rows, bytes: u64) -> Result<(), CheckpointError> {
    // Rows have heads and stand on pages that are never quite full.
    let wanted = RESERVED_BYTES + bytes + bytes / 2;
    match rows.free_bytes() {
        Some(free) if free < wanted => Err(CheckpointError::NoRoom(free)),
        _ => Ok(()),
    }
}

fn manifest_key(group: u64) -> Vec<u8> {
    let mut key = vec![b'm'];
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// The keys between which all data rows of a group are.
fn group_range(group: u64) -> (Vec<u8>, Vec<u8>) {
    let from = Key { group, chunk: 0, epoch: 0, part: 0 }.encode().to_vec();
    let to = match group.checked_add(1) {
        Some(group) => Key { group, chunk: 0, epoch: 0, part: 0 }.encode().to_vec(),
        None => vec![b'd' + 1],
    };
    (from, to)
}

fn encode_row(key: &[u8], parts: u32, data: &[u8]) -> (Vec<u8>, u32) {
    let mut value = vec![0; 4];
    value.extend_from_slice(&parts.to_le_bytes());
    value.extend_from_slice(data);
    let crc = row_crc(key, &value);
    value[..4].copy_from_slice(&crc.to_le_bytes());
    (value, crc)
}

fn row_crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&value[4..]);
    hasher.finalize()
}

/// The crc, the number of parts and the data of a row's value; `None` if it is damaged.
fn decode_row<'a>(key: &[u8], value: &'a [u8]) -> Option<(u32, u32, &'a [u8])> {
    let (header, data) = value.split_at_checked(8)?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    (number(0) == row_crc(key, value)).then(|| (number(0), number(4), data))
}

/// Where a chunk of the current checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    epoch: u64,
    parts: u32,
    bytes: u64,
    hash: u64,
}

/// What is known of the current checkpoint of a group without reading its rows.
#[derive(Debug, Default)]
struct Directory {
    epoch: u64,
    floor: u64,
    chunks: BTreeMap<u128, Chunk>,
    rows: u64,
    bytes: u64,
    digest: u64,
    /// Rows that say "removed": to go once what they hide is surely gone.
    tombstones: Vec<Key>,
    /// Rows that no longer count, older than the checkpoint.
    garbage: Vec<Key>,
    /// Rows newer than the checkpoint: of one that was given up. They must be gone before the next is committed.
    leftovers: Vec<Key>,
}

impl Directory {
    fn forget(&mut self, group: u64, number: u128) {
        if let Some(chunk) = self.chunks.remove(&number) {
            self.rows -= u64::from(chunk.parts);
            self.bytes -= chunk.bytes;
            self.digest = self.digest.wrapping_sub(chunk.hash);
            let key = |part| Key { group, chunk: number, epoch: chunk.epoch, part };
            self.garbage.extend((0..chunk.parts).map(key));
        }
    }

    fn add(&mut self, number: u128, chunk: Chunk) {
        self.rows += u64::from(chunk.parts);
        self.bytes += chunk.bytes;
        self.digest = self.digest.wrapping_add(chunk.hash);
        self.chunks.insert(number, chunk);
    }
}

#[derive(Default)]
struct GroupState {
    /// Known once the checkpoint was read through, or written.
    directory: Option<Directory>,
    writing: bool,
    /// Readers need the rows of the epoch at which they began.
    readers: usize,
    failed: Option<CheckpointError>,
    /// After a failure nothing that was written before is built on.
    rewrite: bool,
    /// How often the rows were begun anew. What was begun before is not finished.
    life: u64,
}

struct Group {
    id: u64,
    rows: Arc<dyn Rows>,
    state: Mutex<GroupState>,
}

impl Group {
    fn corrupt(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::Corrupt { group: self.id, what: what.into() }
    }

    /// Why rows can't be written.
    fn unwritten(&self, error: String) -> CheckpointError {
        if self.rows.is_dead() { CheckpointError::Disk(error) } else { CheckpointError::Store(error) }
    }

    /// Forgets what was known of the rows, which are no more: the next checkpoint writes all, under the next epoch.
    fn lose(&self) -> Result<(), CheckpointError> {
        let epoch = self.committed()?.unwrap_or(0);
        let state = &mut *self.state.lock();
        state.directory = Some(Directory { epoch, ..Directory::default() });
        (state.failed, state.rewrite, state.life) = (None, true, state.life + 1);
        Ok(())
    }

    /// Why rows can't be read: they are damaged, or the disk gave nothing this time.
    fn unread(&self, error: String) -> CheckpointError {
        if self.rows.found_damage() { CheckpointError::Damaged(error) } else { CheckpointError::Store(error) }
    }

    fn manifest(&self) -> Result<Option<Manifest>, CheckpointError> {
        let bytes = self.rows.get(&manifest_key(self.id)).map_err(|error| self.unread(error))?;
        let decode = |bytes: Vec<u8>| self.decode("its manifest", MANIFEST_VERSION, &bytes, MAX_MANIFEST_BYTES);
        let manifest: Option<Manifest> = bytes.map(decode).transpose()?;
        let found = manifest.as_ref().map_or(0, |manifest| manifest.epoch);
        match self.committed()? {
            Some(committed) if committed > found => {
                Err(self.corrupt(format!("the store fell back from epoch {committed} to {found}")))
            }
            _ => Ok(manifest),
        }
    }

    /// The epoch of the newest checkpoint, as it is kept apart from the rows.
    fn committed(&self) -> Result<Option<u64>, CheckpointError> {
        let bytes = self.rows.witness(self.id).map_err(CheckpointError::Store)?;
        let decode =
            |bytes: Vec<u8>| self.decode("the number of its epoch", WITNESS_VERSION, &bytes, MAX_WITNESS_BYTES);
        bytes.map(decode).transpose()
    }

    /// Another version is no damage: the program that wrote it can go on with it.
    fn decode<T: DeserializeOwned>(
        &self,
        what: &str,
        version: u8,
        bytes: &[u8],
        limit: usize,
    ) -> Result<T, CheckpointError> {
        codec::decode(version, bytes, limit).map_err(|error| match error {
            CodecError::Version { found, expected: known } => CheckpointError::Version { group: self.id, found, known },
            error => self.corrupt(format!("{what}: {error}")),
        })
    }

    /// A store that runs into a full disk in the middle has to be opened anew: better not to begin.
    fn check_room(&self) -> Result<(), CheckpointError> {
        check_room(&*self.rows, 0)
    }

    /// Removes what a checkpoint that was given up left behind: under the next epoch's number it would count. Gives the
    /// epoch of the current checkpoint.
    fn clear_leftovers(&self) -> Result<u64, CheckpointError> {
        let mut state = self.state.lock();
        let Some(directory) = &mut state.directory else { return Ok(0) };
        while let Some(key) = directory.leftovers.last() {
            self.rows.remove(&key.encode()).map_err(|error| self.unwritten(error))?;
            directory.leftovers.pop();
        }
        Ok(directory.epoch)
    }

    /// Removes at most so many rows that no longer count, unless somebody reads. What can't be removed now is left for
    /// the next time. True if there is more that can go.
    fn sweep(&self, most: usize) -> bool {
        for _ in 0..most {
            let mut state = self.state.lock();
            if state.readers > 0 || state.failed.is_some() {
                return false;
            }
            let Some(directory) = &mut state.directory else { return false };
            let Some(key) = directory.garbage.pop() else { return false };
            if let Err(error) = self.rows.remove(&key.encode()) {
                tracing::warn!(%error, group = self.id, "old rows of a checkpoint cannot be removed");
                directory.garbage.push(key);
                return false;
            }
        }
        true
    }
}

/// The checkpoints of all groups of a node; clones are cheap and share it.
#[derive(Clone)]
pub struct CheckpointStore {
    rows: Arc<dyn Rows>,
    groups: Arc<Mutex<BTreeMap<u64, Arc<Group>>>>,
}

impl CheckpointStore {
    /// Opens the store, or starts one.
    ///
    /// # Errors
    /// If the store below cannot be opened.
    pub fn open(path: &Path, config: CheckpointConfig) -> Result<Self, CheckpointError> {
        let rows = sled_rows::SledRows::open(path, config)?;
        Ok(Self::over(Arc::new(rows)))
    }

    /// A store over other rows than sled's: for simulations and tests.
    #[must_use]
    pub fn over(rows: Arc<dyn Rows>) -> Self {
        Self { rows, groups: Arc::default() }
    }

    fn group(&self, id: u64) -> Arc<Group> {
        let new = || Arc::new(Group { id, rows: Arc::clone(&self.rows), state: Mutex::default() });
        Arc::clone(self.groups.lock().entry(id).or_insert_with(new))
    }

    /// The last committed checkpoint of a group. It may be read while the next one is written.
    ///
    /// # Errors
    /// If its manifest is damaged, or the store below fails.
    pub fn load(&self, group: u64) -> Result<Option<Loaded>, CheckpointError> {
        let group = self.group(group);
        // Under the lock, so that no commit comes between the manifest and the promise to keep its rows.
        let mut state = group.state.lock();
        let Some(manifest) = group.manifest()? else { return Ok(None) };
        state.readers += 1;
        drop(state);
        Ok(Some(Loaded {
            epoch: manifest.epoch,
            manifest: Bytes::copy_from_slice(&manifest.caller),
            chunk_count: manifest.chunks,
            bytes: manifest.bytes,
            chunks: Chunks::new(group, manifest),
        }))
    }

    /// The epoch and the caller's bytes of the last committed checkpoint, without reading any chunk.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`].
    pub fn manifest(&self, group: u64) -> Result<Option<(u64, Bytes)>, CheckpointError> {
        let manifest = self.group(group).manifest()?;
        Ok(manifest.map(|manifest| (manifest.epoch, manifest.caller.into())))
    }

    /// Starts the next checkpoint of a group: it holds all chunks of the last one, but for what is put and removed. If
    /// the last one was not read through since the start, it is read and checked first. After a failure of the store it
    /// replaces all: see [`Writer::replaces_all`].
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] if one is under way; else as [`CheckpointStore::load`].
    pub fn begin(&self, group: u64) -> Result<Writer, CheckpointError> {
        let found = self.group(group);
        let mut state = found.state.lock();
        if state.writing {
            return Err(CheckpointError::Busy(group));
        }
        found.check_room()?;
        // Whoever writes has all that was read or written since this process began.
        let known = state.directory.is_some() || state.rewrite;
        let broken = (state.failed.is_some() || self.rows.is_broken()) && state.readers == 0;
        let usable = match broken && !self.rows.is_lost() {
            // What the store knows in memory may be ahead of the disk: begin again with what is there.
            true => self.rows.reopen().map(|()| (state.failed, state.directory, state.rewrite) = (None, None, true)),
            false => Ok(()),
        };
        let usable = usable.and_then(|()| self.rows.wake());
        match &usable {
            Err(error) if !self.rows.is_lost() => return Err(found.unwritten(error.clone())),
            _ => state.writing = true,
        }
        drop(state);
        let mut writer = Writer::new(found);
        if self.rows.is_lost() {
            self.begin_anew(&usable.err().unwrap_or_default())?;
        }
        let (failed, unread) = {
            let state = writer.group().state.lock();
            (state.failed.clone(), state.directory.is_none())
        };
        if let Some(error) = failed {
            return Err(error);
        }
        if unread {
            let read = match self.load(group) {
                Ok(Some(mut loaded)) => loaded.chunks.try_for_each(|chunk| chunk.map(drop)),
                Ok(None) => writer.start_empty(),
                Err(error) => Err(error),
            };
            match read {
                Err(error) if known && error.is_damage() => self.begin_anew(&error.to_string())?,
                read => read?,
            }
        }
        let epoch = writer.group().clear_leftovers()? + 1;
        writer.start(epoch);
        Ok(writer)
    }

    /// Rows that are damaged count no more. What they held is still in memory, and it is written anew.
    fn begin_anew(&self, why: &str) -> Result<(), CheckpointError> {
        tracing::error!(why, "the checkpoint store is damaged; the next checkpoint writes all of it anew, from memory");
        self.rows.begin_anew().map_err(CheckpointError::Store)?;
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        groups.iter().try_for_each(|group| group.lose())
    }

    /// Whether a checkpoint should be written soon, whatever is new: the last one is damaged.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.rows.is_lost()
    }

    /// Removes at most so many rows that checkpoints of a group have replaced; true if there are more. For whoever
    /// commits with [`Writer::commit_only`]; rows that are still there at the next commit go later.
    #[must_use]
    pub fn sweep(&self, group: u64, most: usize) -> bool {
        self.group(group).sweep(most)
    }

    /// Makes the store smaller where it takes much more on the disk than it holds, a little at a time; true if there is
    /// more to do. Nothing is done while anybody reads or writes.
    ///
    /// # Errors
    /// What the store said. It is whole all the same.
    pub fn compact(&self, most: usize) -> Result<bool, CheckpointError> {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let states: Vec<_> = groups.iter().map(|group| group.state.lock()).collect();
        let known = states
            .iter()
            .map(|state| (state.readers == 0 && !state.writing && !state.rewrite).then_some(state.directory.as_ref()?));
        // Where not all of it is known, none of it may be left out.
        let Some(known) = known.collect::<Option<Vec<_>>>() else { return Ok(false) };
        let (live, rows) = (known.iter().map(|found| found.bytes).sum(), known.iter().map(|found| found.rows).sum());
        self.rows.compact(live, rows, most).map_err(CheckpointError::Store)
    }

    /// Gives back the memory of the store below, unless anybody reads or writes: for whoever is done for a while.
    pub fn rest(&self) {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let states: Vec<_> = groups.iter().map(|group| group.state.lock()).collect();
        if states.iter().all(|state| state.readers == 0 && !state.writing) {
            self.rows.rest();
        }
    }

    /// Whether the disk has room for a whole checkpoint of so many bytes, beside the one that is there: for whoever
    /// can't stop once it is begun.
    ///
    /// # Errors
    /// [`CheckpointError::NoRoom`].
    pub fn check_room(&self, bytes: u64) -> Result<(), CheckpointError> {
        check_room(&*self.rows, bytes)
    }

    /// Rows that the last checkpoint of a group holds.
    #[must_use]
    pub fn rows(&self, group: u64) -> u64 {
        self.group(group).state.lock().directory.as_ref().map_or(0, |directory| directory.rows)
    }

    /// Rows that the last checkpoint of a group has replaced and that are still there.
    #[must_use]
    pub fn replaced(&self, group: u64) -> usize {
        self.group(group).state.lock().directory.as_ref().map_or(0, |directory| directory.garbage.len())
    }

    /// Bytes that the store takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }
}
