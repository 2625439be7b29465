//! Reading a checkpoint: one pass over its rows that gives the chunks, checks every row, finds what is left over from
//! other epochs, and at the end proves the whole by the manifest's counts and digest.

use std::sync::Arc;

use bytes::Bytes;

use super::rows::Row;
use super::{CheckpointError, Chunk, Directory, Group, Key, Manifest, decode_row, group_range};

/// A committed checkpoint.
pub struct Loaded {
    /// Which commit it is, counted from 1.
    pub epoch: u64,
    /// The caller's bytes given to [`Writer::commit`](super::Writer::commit).
    pub manifest: Bytes,
    /// How many chunks there are.
    pub chunk_count: u64,
    /// How many bytes they hold.
    pub bytes: u64,
    /// The chunks, in order of their number. It must be read to its end: what it gave is proven whole (digest and count
    /// of the manifest) only when it ends with `None` and gave no error.
    pub chunks: Chunks,
}

/// The chunks of a checkpoint; see [`Loaded::chunks`].
pub struct Chunks {
    group: Arc<Group>,
    manifest: Manifest,
    scan: Box<dyn Iterator<Item = Result<Row, String>> + Send>,
    /// The chunk whose rows come now: the newest of its epochs so far.
    current: Option<Assembly>,
    directory: Directory,
    ended: bool,
}

/// A chunk being put together from its rows of one epoch.
struct Assembly {
    keys: Vec<Key>,
    parts: u32,
    hash: u64,
    data: Vec<u8>,
    /// Why it cannot be used. That matters only if no newer epoch has the chunk: old rows go one by one.
    broken: Option<&'static str>,
}

impl Assembly {
    fn add(&mut self, key: Key, row: Option<(u32, u32, &[u8])>) {
        match row {
            None => self.broken = Some("a row is damaged"),
            Some((_, parts, _)) if self.keys.is_empty() && key.part == 0 => self.parts = parts,
            Some((_, parts, _)) if key.part as usize == self.keys.len() && parts == self.parts => {}
            Some(_) => self.broken = Some("a row is missing"),
        }
        if let Some((crc, _, data)) = row {
            self.hash = self.hash.wrapping_add(key.row_hash(crc));
            self.data.extend_from_slice(data);
        }
        self.keys.push(key);
    }
}

impl Chunks {
    pub(super) fn new(group: Arc<Group>, manifest: Manifest) -> Self {
        let (from, to) = group_range(group.id);
        let scan = group.rows.scan(&from, &to);
        let directory = Directory { epoch: manifest.epoch, floor: manifest.floor, ..Directory::default() };
        Self { group, manifest, scan, current: None, directory, ended: false }
    }

    /// Takes one row; gives the chunk before it if that is complete with it.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(u128, Vec<u8>)>, CheckpointError> {
        let place = Key::decode(key).ok_or_else(|| self.group.corrupt("a row has a key that is none"))?;
        if place.epoch > self.manifest.epoch {
            self.directory.leftovers.push(place);
            return Ok(None);
        }
        if place.epoch < self.manifest.floor {
            self.directory.garbage.push(place);
            return Ok(None);
        }
        let last = self.current.as_ref().and_then(|current| current.keys.last()).copied();
        let finished = if last.is_some_and(|last| last.chunk != place.chunk) { self.finish_chunk()? } else { None };
        if let Some(older) = self.current.take_if(|_| last.is_some_and(|last| last.epoch != place.epoch)) {
            self.directory.garbage.extend(older.keys);
        }
        let new = || Assembly { keys: Vec::new(), parts: 0, hash: 0, data: Vec::new(), broken: None };
        self.current.get_or_insert_with(new).add(place, decode_row(key, value));
        Ok(finished)
    }

    /// Ends the chunk whose rows came last.
    fn finish_chunk(&mut self) -> Result<Option<(u128, Vec<u8>)>, CheckpointError> {
        let Some(chunk) = self.current.take() else { return Ok(None) };
        let Some(key) = chunk.keys.first().copied() else { return Ok(None) };
        let missing = chunk.parts > 0 && chunk.parts as usize != chunk.keys.len();
        if let Some(what) = chunk.broken.or(missing.then_some("a row is missing")) {
            return Err(self.group.corrupt(format!("chunk {} of epoch {}: {what}", key.chunk, key.epoch)));
        }
        if chunk.parts == 0 {
            self.directory.tombstones.push(key);
            return Ok(None);
        }
        let Assembly { parts, hash, data, .. } = chunk;
        self.directory.add(key.chunk, Chunk { epoch: key.epoch, parts, bytes: data.len() as u64, hash });
        Ok(Some((key.chunk, data)))
    }

    fn finish(&mut self) -> Result<(), CheckpointError> {
        let (found, wanted) = (&self.directory, &self.manifest);
        if (found.rows, found.chunks.len() as u64, found.digest) != (wanted.rows, wanted.chunks, wanted.digest) {
            return Err(self.group.corrupt(format!(
                "it holds {} rows of {} chunks with digest {:016x} where {} of {} with {:016x} were committed",
                found.rows,
                found.chunks.len(),
                found.digest,
                wanted.rows,
                wanted.chunks,
                wanted.digest
            )));
        }
        let mut state = self.group.state.lock();
        // A later commit knows better.
        if state.directory.is_none() {
            state.directory = Some(std::mem::take(&mut self.directory));
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<(u128, Vec<u8>)>, CheckpointError> {
        while let Some(row) = self.scan.next() {
            let (key, value) = row.map_err(|error| self.group.unread(error))?;
            if let Some(chunk) = self.take(&key, &value)? {
                return Ok(Some(chunk));
            }
        }
        if let Some(chunk) = self.finish_chunk()? {
            return Ok(Some(chunk));
        }
        self.finish()?;
        Ok(None)
    }
}

impl Iterator for Chunks {
    type Item = Result<(u128, Vec<u8>), CheckpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.group.usage.lock().end_reading(self.group.id);
        self.group.sweep(usize::MAX);
    }
}
