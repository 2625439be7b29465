//! Checkpoints: the state of each group as chunks, kept in rows of about 8 KB, committed by epochs.
//!
//! A checkpoint is written beside the one before: only chunks that changed, under the number of the next epoch. It counts
//! from the moment at which its manifest is durable; until then, and if it is given up, the old one is whole. After that
//! the rows that it replaced are removed.
//!
//! One that is *whole* builds on nothing: it is written into a store of its own, which takes the place of the one that is
//! there when all of it is durable. That is how a store becomes smaller again, how one that failed or is damaged is left
//! behind, and what costs least where most of the chunks are new anyway.
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
//! nothing (earlier builds replaced all rows in place, and wrote the floor), rows above E were never committed. `digest`
//! is the sum of a hash of every row that counts, so it can be kept up to date without reading, and a row that is
//! missing, changed or left over from a checkpoint that was given up shows.
//!
//! The order of a commit in place: data rows, sync, manifest, sync, the epoch's number in a file of its own, removal of
//! old rows. A removal that a crash undoes leaves rows that no longer count; a row that says "removed" is itself only
//! removed after the next sync.
//!
//! This module must never know what a chunk holds.

#[cfg(test)]
mod damage_tests;
mod read;
#[cfg(test)]
mod room_tests;
pub(crate) mod rows;
mod sled_rows;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole_tests;
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

/// Bytes of a chunk in one row, so that most chunks are one. sled needs several times a row's size in memory and on disk
/// while it rewrites the page it is on: rows of 32 KB were measured to cost a gigabyte.
const PART_BYTES: usize = 12_000;
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
    /// Another writer is under way, or a reader of what is to be replaced.
    #[error("a checkpoint of group {0} is being written or read already")]
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
    /// A store that takes no more than this on the disk has not outgrown what it holds.
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
    let mut value = Vec::with_capacity(8 + data.len());
    value.extend_from_slice(&[0; 4]);
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
    /// After a failure nothing that was written before is built on: the next checkpoint has to be whole.
    failed: Option<CheckpointError>,
}

/// Who is at work on the rows.
#[derive(Default)]
struct Usage {
    /// The groups that are written, and which of them whole: for that nobody else may write.
    writers: BTreeMap<u64, bool>,
    /// They need the rows of the epoch at which they began.
    readers: BTreeMap<u64, usize>,
}

impl Usage {
    fn is_free(&self) -> bool {
        self.writers.is_empty() && self.readers.is_empty()
    }

    fn enter(&mut self, group: u64, whole: bool) -> Result<(), CheckpointError> {
        let in_the_way = |(other, alone): (&u64, &bool)| (*other == group || whole || *alone).then_some(*other);
        if let Some(other) = self.writers.iter().find_map(in_the_way) {
            return Err(CheckpointError::Busy(other));
        }
        self.writers.insert(group, whole);
        Ok(())
    }

    fn end_reading(&mut self, group: u64) {
        if let Some(readers) = self.readers.get_mut(&group) {
            *readers -= 1;
            if *readers == 0 {
                self.readers.remove(&group);
            }
        }
    }
}

struct Group {
    id: u64,
    rows: Arc<dyn Rows>,
    usage: Arc<Mutex<Usage>>,
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

    /// A group without a manifest has no rows that count.
    fn start_empty(&self) -> Result<(), CheckpointError> {
        let (from, to) = group_range(self.id);
        let mut directory = Directory::default();
        for row in self.rows.scan(&from, &to) {
            let (key, _) = row.map_err(|error| self.unread(error))?;
            let key = Key::decode(&key).ok_or_else(|| self.corrupt("a row has a key that is none"))?;
            directory.leftovers.push(key);
        }
        self.state.lock().directory = Some(directory);
        Ok(())
    }

    /// Copies the rows that count, and the manifest, into another store. Nobody writes meanwhile.
    fn copy_to(&self, next: &dyn Rows) -> Result<(), CheckpointError> {
        let keys: Vec<_> = {
            let state = self.state.lock();
            let chunks = state.directory.iter().flat_map(|directory| &directory.chunks);
            let key = |chunk: u128, epoch| move |part| Key { group: self.id, chunk, epoch, part };
            chunks.flat_map(|(chunk, at)| (0..at.parts).map(key(*chunk, at.epoch))).collect()
        };
        let keys = keys.iter().map(|key| key.encode().to_vec());
        for key in keys.chain([manifest_key(self.id)]) {
            let value = self.rows.get(&key).map_err(|error| self.unread(error))?;
            let value = value.ok_or_else(|| self.corrupt("a row is missing"))?;
            next.put(&key, &value).map_err(|error| self.unwritten(error))?;
        }
        Ok(())
    }

    /// Removes at most so many rows that no longer count, unless somebody reads. What can't be removed now is left for
    /// the next time. True if there is more that can go.
    fn sweep(&self, most: usize) -> bool {
        for _ in 0..most {
            let mut state = self.state.lock();
            if self.usage.lock().readers.contains_key(&self.id) || state.failed.is_some() {
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
    usage: Arc<Mutex<Usage>>,
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
        Self { rows, usage: Arc::default(), groups: Arc::default() }
    }

    fn group(&self, id: u64) -> Arc<Group> {
        let (rows, usage) = (&self.rows, &self.usage);
        let new = || Group { id, rows: Arc::clone(rows), usage: Arc::clone(usage), state: Mutex::default() };
        Arc::clone(self.groups.lock().entry(id).or_insert_with(|| Arc::new(new())))
    }

    /// The last committed checkpoint of a group. It may be read while the next one is written.
    ///
    /// # Errors
    /// If its manifest is damaged, or the store below fails.
    pub fn load(&self, group: u64) -> Result<Option<Loaded>, CheckpointError> {
        let group = self.group(group);
        // First the promise to keep its rows.
        *self.usage.lock().readers.entry(group.id).or_default() += 1;
        let manifest = group.manifest();
        let Ok(Some(manifest)) = manifest else {
            self.usage.lock().end_reading(group.id);
            return manifest.map(|_| None);
        };
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
    /// the last one was not read through since the start, it is read and checked first. After a failure of the store, or
    /// where what was written is not there any more, it is whole: see [`Writer::is_whole`].
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] if one is under way; else as [`CheckpointStore::load`].
    pub fn begin(&self, group: u64) -> Result<Writer, CheckpointError> {
        let found = self.group(group);
        let (known, failed) = {
            let state = found.state.lock();
            (state.directory.as_ref().map(|directory| directory.epoch), state.failed.is_some())
        };
        if failed || self.rows.is_broken() {
            return self.begin_whole(group);
        }
        found.check_room()?;
        let mut writer = Writer::enter(self, &found, false)?;
        // Whoever writes has all that was read or written since this process began.
        let there = self.rows.wake().map_err(|error| found.unwritten(error)).and_then(|()| match known {
            Some(epoch) if found.manifest()?.map_or(0, |manifest| manifest.epoch) != epoch => {
                Err(found.corrupt(format!("epoch {epoch} is not there any more")))
            }
            _ => Ok(()),
        });
        match there {
            Err(error) if self.rows.is_lost() || known.is_some() && error.is_damage() => {
                drop(writer);
                tracing::error!(%error, "what was written of the last checkpoint is not there any more");
                return self.begin_whole(group);
            }
            there => there?,
        }
        if known.is_none() {
            self.read_through(&found)?;
        }
        writer.start(found.clear_leftovers()? + 1, Arc::clone(&self.rows));
        Ok(writer)
    }

    /// Starts the next checkpoint of a group: one that holds what is put, and nothing else. While it is written nobody
    /// else writes, and nobody may read when it is committed.
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] if anything is written; [`CheckpointError::NoRoom`]; what the store said.
    pub fn begin_whole(&self, group: u64) -> Result<Writer, CheckpointError> {
        let found = self.group(group);
        let (known, failed) = {
            let state = found.state.lock();
            (state.directory.as_ref().map_or(0, |directory| directory.epoch), state.failed.clone())
        };
        if self.rows.is_dead() || matches!(failed, Some(CheckpointError::Disk(_))) {
            return Err(failed.unwrap_or_else(|| found.unwritten("an earlier write or sync has failed".to_owned())));
        }
        found.check_room()?;
        let epoch = found.committed()?.unwrap_or(0).max(known) + 1;
        if self.rows.is_lost() {
            tracing::error!("the checkpoint store is damaged; the next checkpoint writes all of it anew, from memory");
        }
        // Two of them at once take twice the memory.
        self.rest();
        let mut writer = Writer::enter(self, &found, true)?;
        let next = self.rows.begin_next().map_err(|error| found.unwritten(error))?;
        writer.start(epoch, next);
        Ok(writer)
    }

    /// Whether the next checkpoint of a group, with so many new chunks of so many in all, had better be whole: most of it
    /// is new, or the store takes much more on the disk than it holds.
    #[must_use]
    pub fn had_better_be_whole(&self, group: u64, news: usize, chunks: usize) -> bool {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let held = |group: &Arc<Group>| group.state.lock().directory.as_ref().map_or(0, |directory| directory.bytes);
        // Written in place, each new row is written three times over, and each old one costs its removal.
        let mostly_new = news > 0 && news * 2 >= chunks;
        (mostly_new || self.rows.has_outgrown(groups.iter().map(held).sum()))
            && self.check_room(held(&self.group(group))).is_ok()
    }

    /// Reads the last checkpoint, so that it is known where its chunks are.
    fn read_through(&self, group: &Arc<Group>) -> Result<(), CheckpointError> {
        match self.load(group.id)? {
            Some(mut loaded) => loaded.chunks.try_for_each(|chunk| chunk.map(drop)),
            None => group.start_empty(),
        }
    }

    /// Brings what the other groups have into a store that is about to take the place of this one.
    fn bring_others(&self, group: u64, next: &dyn Rows) -> Result<(), CheckpointError> {
        for id in self.rows.witnesses().map_err(CheckpointError::Store)?.into_iter().filter(|id| *id != group) {
            let other = self.group(id);
            if let Some(witness) = self.rows.witness(id).map_err(CheckpointError::Store)? {
                next.set_witness(id, &witness).map_err(|error| other.unwritten(error))?;
            }
            if self.rows.is_broken() {
                let why = "the store that it was in has failed".to_owned();
                other.state.lock().failed.get_or_insert(CheckpointError::Store(why));
                continue;
            }
            if other.state.lock().directory.is_none() {
                self.read_through(&other)?;
            }
            other.copy_to(next)?;
        }
        Ok(())
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

    /// Bytes on the disk of a store whose place a whole checkpoint has taken.
    #[must_use]
    pub fn left_over(&self) -> u64 {
        self.rows.left_over()
    }

    /// Gives so many of them back; true if there are more. What is still there when the next whole checkpoint begins goes
    /// then.
    #[must_use]
    pub fn discard(&self, bytes: u64) -> bool {
        self.rows.discard(bytes)
    }

    /// Gives back the memory of the store below, unless anybody reads or writes: for whoever is done for a while.
    pub fn rest(&self) {
        let usage = self.usage.lock();
        if usage.is_free() {
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
