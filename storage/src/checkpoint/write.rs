//! Writing a checkpoint: chunks become rows at once; what counts changes only in [`Writer::commit`].

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{
    CheckpointError, CheckpointStore, Chunk, Directory, Group, Key, MANIFEST_VERSION, Manifest, PART_BYTES, Rows,
    WITNESS_VERSION, check_room, encode_row, manifest_key,
};
use crate::codec;

/// So much is written between two looks at the room on the disk, and before the disk takes it.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// A checkpoint being written. Nothing of it counts before [`Writer::commit`]; dropped, it is as if it never was.
pub struct Writer {
    store: CheckpointStore,
    group: Arc<Group>,
    /// Where it is written: beside the last one, or in a store of its own.
    rows: Arc<dyn Rows>,
    epoch: u64,
    whole: bool,
    /// What was put, and what was removed.
    changes: BTreeMap<u128, Option<Chunk>>,
    /// Chunks, and how many rows without a value each has for as long as it is not put.
    reserved: Vec<(u128, u32)>,
    committed: bool,
    /// Bytes since the room on the disk was last looked at.
    written: u64,
}

impl Writer {
    /// Keeps other writers away.
    pub(super) fn enter(store: &CheckpointStore, group: &Arc<Group>, whole: bool) -> Result<Self, CheckpointError> {
        store.usage.lock().enter(group.id, whole)?;
        Ok(Self {
            store: store.clone(),
            group: Arc::clone(group),
            rows: Arc::clone(&store.rows),
            epoch: 0,
            whole,
            changes: BTreeMap::new(),
            reserved: Vec::new(),
            committed: false,
            written: 0,
        })
    }

    pub(super) fn start(&mut self, epoch: u64, rows: Arc<dyn Rows>) {
        (self.epoch, self.rows) = (epoch, rows);
    }

    /// The epoch that [`Writer::commit`] will give.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// True if nothing of the last checkpoint is kept: every chunk has to be put.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The numbers of the chunks that the checkpoint would hold if it were committed now, in order.
    #[cfg(test)]
    pub(super) fn chunks(&self) -> Vec<u128> {
        let mut chunks: BTreeSet<u128> = BTreeSet::new();
        if !self.whole
            && let Some(directory) = &self.group.state.lock().directory
        {
            chunks.extend(directory.chunks.keys());
        }
        for (chunk, change) in &self.changes {
            if change.is_some() {
                chunks.insert(*chunk)
            } else {
                chunks.remove(chunk)
            };
        }
        chunks.into_iter().collect()
    }

    fn key(&self, chunk: u128, part: u32) -> Key {
        Key { group: self.group.id, chunk, epoch: self.epoch, part }
    }

    fn put_row(&self, key: Key, parts: u32, data: &[u8]) -> Result<u64, CheckpointError> {
        let place = key.encode();
        let (value, crc) = encode_row(&place, parts, data);
        self.rows.put(&place, &value).map_err(|error| self.unwritten(error))?;
        Ok(key.row_hash(crc))
    }

    /// Why its rows can't be written.
    fn unwritten(&self, error: String) -> CheckpointError {
        if self.rows.is_dead() { CheckpointError::Disk(error) } else { self.group.unwritten(error) }
    }

    /// Tells of a chunk that a whole checkpoint will hold. Where the store knows of all before the first is put, it writes
    /// each once instead of three times.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn reserve(&mut self, chunk: u128) -> Result<(), CheckpointError> {
        if !self.whole || self.changes.contains_key(&chunk) {
            return Ok(());
        }
        // Most chunks have the length that they had.
        let before = |directory: &Directory| directory.chunks.get(&chunk).map(|chunk| chunk.parts);
        let parts = self.group.state.lock().directory.as_ref().and_then(before).unwrap_or(1);
        self.reserved.push((chunk, parts));
        (0..parts)
            .try_for_each(|part| self.rows.reserve(&self.key(chunk, part).encode()))
            .map_err(|error| self.unwritten(error))
    }

    /// Writes a chunk whole, in rows of about 8 KB.
    ///
    /// # Errors
    /// If the store fails; the writer can then only be dropped.
    pub fn put(&mut self, chunk: u128, data: &[u8]) -> Result<(), CheckpointError> {
        let parts = u32::try_from(data.len().div_ceil(PART_BYTES).max(1))
            .map_err(|_| CheckpointError::Store(format!("a chunk of {} bytes is too large", data.len())))?;
        let before = self.changes.get(&chunk).copied().flatten().map_or(0, |before| before.parts);
        // Noted first: whatever fails below, the rows that may exist now are known.
        let noted = Chunk { epoch: self.epoch, parts: parts.max(before), bytes: data.len() as u64, hash: 0 };
        self.changes.insert(chunk, Some(noted));
        self.written += data.len() as u64;
        if self.written >= LOOK_EVERY_BYTES {
            self.written = 0;
            check_room(&*self.rows, 0)?;
            self.rows.write_back().map_err(|error| self.unwritten(error))?;
        }
        let mut hash = 0_u64;
        for part in 0..parts {
            let from = part as usize * PART_BYTES;
            let piece = &data[from..data.len().min(from + PART_BYTES)];
            hash = hash.wrapping_add(self.put_row(self.key(chunk, part), parts, piece)?);
        }
        self.remove_rows(chunk, parts, before)?;
        self.changes.insert(chunk, Some(Chunk { parts, hash, ..noted }));
        Ok(())
    }

    /// Removes a chunk; none of that number is no error.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn remove(&mut self, chunk: u128) -> Result<(), CheckpointError> {
        let before = self.changes.get(&chunk).copied().flatten().map_or(0, |before| before.parts);
        if self.whole {
            self.remove_rows(chunk, 0, before)?;
            self.changes.remove(&chunk);
            return Ok(());
        }
        let committed = self.group.state.lock().directory.as_ref().is_some_and(|now| now.chunks.contains_key(&chunk));
        if before == 0 && !committed {
            return Ok(());
        }
        self.put_row(self.key(chunk, 0), 0, &[])?;
        self.remove_rows(chunk, 1, before)?;
        self.changes.insert(chunk, None);
        Ok(())
    }

    fn remove_rows(&self, chunk: u128, from: u32, to: u32) -> Result<(), CheckpointError> {
        for part in from..to {
            self.rows.remove(&self.key(chunk, part).encode()).map_err(|error| self.unwritten(error))?;
        }
        Ok(())
    }

    /// Makes the checkpoint durable and the current one, and gives its epoch.
    ///
    /// # Errors
    /// If it fails the old checkpoint is still the current one, unless the manifest's own sync failed: then either may
    /// be found at the next start, each whole. The store takes no more of this group until it is opened again.
    pub fn commit(self, manifest: &[u8]) -> Result<u64, CheckpointError> {
        let group = Arc::clone(&self.group);
        let epoch = self.commit_only(manifest)?;
        group.sweep(usize::MAX);
        group.rows.discard(u64::MAX);
        Ok(epoch)
    }

    /// Like [`Writer::commit`], but leaves the rows that it replaced where they are, or the store that was there:
    /// [`CheckpointStore::sweep`] and [`CheckpointStore::discard`] remove them, as slowly as the caller likes.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn commit_only(mut self, manifest: &[u8]) -> Result<u64, CheckpointError> {
        let outcome = if self.whole { self.replace(manifest) } else { self.replace_some(manifest) };
        let directory = match outcome {
            Ok(directory) => directory,
            // What is in the store now is not known. One that is whole has not touched it.
            Err(error) if !self.whole || matches!(error, CheckpointError::Disk(_)) => {
                self.group.state.lock().failed = Some(error.clone());
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        {
            let mut state = self.group.state.lock();
            (state.directory, state.failed) = (Some(directory), None);
        }
        self.committed = true;
        Ok(self.epoch)
    }

    fn put_manifest(&self, directory: &Directory, caller: &[u8]) -> Result<(), CheckpointError> {
        let row = Manifest {
            epoch: self.epoch,
            floor: directory.floor,
            rows: directory.rows,
            chunks: directory.chunks.len() as u64,
            bytes: directory.bytes,
            digest: directory.digest,
            caller: caller.to_vec(),
        };
        let row = codec::encode(MANIFEST_VERSION, &row).map_err(|error| CheckpointError::Store(error.to_string()))?;
        self.rows.put(&manifest_key(self.group.id), &row).map_err(|error| self.unwritten(error))
    }

    fn set_witness(&self) -> Result<(), CheckpointError> {
        let witness = codec::encode(WITNESS_VERSION, &self.epoch);
        let witness = witness.map_err(|error| CheckpointError::Store(error.to_string()))?;
        self.rows.set_witness(self.group.id, &witness).map_err(|error| self.unwritten(error))
    }

    /// Puts the store that was written in the place of the one that is there.
    fn replace(&self, caller: &[u8]) -> Result<Directory, CheckpointError> {
        let group = &self.group;
        for (chunk, reserved) in &self.reserved {
            let put = self.changes.get(chunk).copied().flatten().map_or(0, |chunk| chunk.parts);
            self.remove_rows(*chunk, put, *reserved)?;
        }
        let mut next = Directory { epoch: self.epoch, ..Directory::default() };
        for (chunk, change) in &self.changes {
            if let Some(change) = change {
                next.add(*chunk, *change);
            }
        }
        self.store.bring_others(group.id, &*self.rows)?;
        self.put_manifest(&next, caller)?;
        self.set_witness()?;
        self.rows.sync().map_err(|error| self.unwritten(error))?;
        let usage = group.usage.lock();
        if let Some(reader) = usage.readers.keys().next() {
            return Err(CheckpointError::Busy(*reader));
        }
        group.rows.take_next().map_err(|error| self.unwritten(error))?;
        Ok(next)
    }

    /// Commits what was written beside the last checkpoint.
    fn replace_some(&self, caller: &[u8]) -> Result<Directory, CheckpointError> {
        let group = &self.group;
        // If all removals were given to the store by now, the sync below makes them durable.
        let settled = group.state.lock().directory.as_ref().is_some_and(|directory| directory.garbage.is_empty());
        self.rows.sync().map_err(|error| self.unwritten(error))?;
        let mut next = group.state.lock().directory.take().unwrap_or_default();
        let old_tombstones = std::mem::take(&mut next.tombstones);
        for (chunk, change) in &self.changes {
            next.forget(group.id, *chunk);
            match change {
                Some(change) => next.add(*chunk, *change),
                None => next.tombstones.push(self.key(*chunk, 0)),
            }
        }
        next.epoch = self.epoch;
        self.put_manifest(&next, caller)?;
        self.rows.sync().map_err(|error| self.unwritten(error))?;
        // Last: a number ahead of the manifest would be taken for damage.
        self.set_witness()?;
        if settled {
            next.garbage.extend(old_tombstones)
        } else {
            next.tombstones.extend(old_tombstones)
        }
        Ok(next)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.whole && !self.committed {
            self.group.rows.drop_next();
        } else if !self.committed {
            let rows = self.changes.iter().flat_map(|(chunk, change)| {
                let parts = change.map_or(1, |change| change.parts);
                (0..parts).map(|part| self.key(*chunk, part))
            });
            if let Some(directory) = &mut self.group.state.lock().directory {
                directory.leftovers.extend(rows);
            }
        }
        if self.rows.is_dead() {
            let error = CheckpointError::Disk("an earlier write or sync has failed".to_owned());
            self.group.state.lock().failed.get_or_insert(error);
        }
        self.group.usage.lock().writers.remove(&self.group.id);
    }
}
