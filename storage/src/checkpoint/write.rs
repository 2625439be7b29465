//! Writing a checkpoint: chunks become rows at once; what counts changes only in [`Writer::commit`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    CheckpointError, Chunk, Directory, Group, Key, MANIFEST_VERSION, Manifest, PART_BYTES, WITNESS_VERSION, encode_row,
    group_range, manifest_key,
};
use crate::codec;

/// So much is written between two looks at the room on the disk.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// A checkpoint being written. Nothing of it counts before [`Writer::commit`]; dropped, it is as if it never was.
pub struct Writer {
    group: Arc<Group>,
    epoch: u64,
    replace_all: bool,
    /// What was put, and what was removed.
    changes: BTreeMap<u128, Option<Chunk>>,
    committed: bool,
    /// Bytes since the room on the disk was last looked at.
    written: u64,
    /// Of the rows, when it was begun.
    life: u64,
}

impl Writer {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { group, epoch: 0, replace_all: false, changes: BTreeMap::new(), committed: false, written: 0, life: 0 }
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    pub(super) fn start(&mut self, epoch: u64) {
        let state = self.group.state.lock();
        (self.epoch, self.life, self.replace_all) = (epoch, state.life, state.rewrite);
    }

    /// The epoch that [`Writer::commit`] will give.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes the checkpoint begin from nothing: chunks of the last one that are not put are gone. What was put or
    /// removed before this call stays put or removed.
    pub fn replace_all(&mut self) {
        self.replace_all = true;
    }

    /// True if nothing of the last checkpoint is kept: every chunk has to be put.
    #[must_use]
    pub fn replaces_all(&self) -> bool {
        self.replace_all
    }

    /// The numbers of the chunks that the checkpoint would hold if it were committed now, in order.
    #[must_use]
    pub fn chunks(&self) -> Vec<u128> {
        let mut chunks: BTreeSet<u128> = BTreeSet::new();
        if !self.replace_all
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
        self.group.rows.put(&place, &value).map_err(|error| self.group.unwritten(error))?;
        Ok(key.row_hash(crc))
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
            self.group.check_room()?;
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
            self.group.rows.remove(&self.key(chunk, part).encode()).map_err(|error| self.group.unwritten(error))?;
        }
        Ok(())
    }

    /// A group without a manifest has no rows that count.
    pub(super) fn start_empty(&self) -> Result<(), CheckpointError> {
        let (from, to) = group_range(self.group.id);
        let mut directory = Directory::default();
        for row in self.group.rows.scan(&from, &to) {
            let (key, _) = row.map_err(|error| self.group.unread(error))?;
            let key = Key::decode(&key).ok_or_else(|| self.group.corrupt("a row has a key that is none"))?;
            directory.leftovers.push(key);
        }
        self.group.state.lock().directory = Some(directory);
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
        Ok(epoch)
    }

    /// Like [`Writer::commit`], but leaves the rows that it replaced where they are:
    /// [`CheckpointStore::sweep`](super::CheckpointStore::sweep) removes them, as slowly as the caller likes.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn commit_only(mut self, manifest: &[u8]) -> Result<u64, CheckpointError> {
        let outcome = self.try_commit(manifest);
        let group = Arc::clone(&self.group);
        let mut state = group.state.lock();
        self.committed = true;
        state.writing = false;
        match outcome {
            Ok(()) => {
                state.rewrite = false;
                Ok(self.epoch)
            }
            Err(error) => {
                state.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn try_commit(&self, caller: &[u8]) -> Result<(), CheckpointError> {
        let group = &self.group;
        if group.state.lock().life != self.life {
            return Err(CheckpointError::Store("it was begun anew, without what this checkpoint has written".into()));
        }
        let unwritten = |error| group.unwritten(error);
        // If all removals were given to the store by now, the sync below makes them durable.
        let settled = group.state.lock().directory.as_ref().is_some_and(|directory| directory.garbage.is_empty());
        group.rows.sync().map_err(unwritten)?;
        let mut state = group.state.lock();
        let mut next = state.directory.take().unwrap_or_default();
        drop(state);
        let old_tombstones = std::mem::take(&mut next.tombstones);
        if self.replace_all {
            next.floor = self.epoch;
            for chunk in next.chunks.keys().copied().collect::<Vec<_>>() {
                next.forget(group.id, chunk);
            }
        }
        for (chunk, change) in &self.changes {
            next.forget(group.id, *chunk);
            match change {
                Some(change) => next.add(*chunk, *change),
                None => next.tombstones.push(self.key(*chunk, 0)),
            }
        }
        next.epoch = self.epoch;
        let row = Manifest {
            epoch: self.epoch,
            floor: next.floor,
            rows: next.rows,
            chunks: next.chunks.len() as u64,
            bytes: next.bytes,
            digest: next.digest,
            caller: caller.to_vec(),
        };
        let row = codec::encode(MANIFEST_VERSION, &row).map_err(|error| CheckpointError::Store(error.to_string()))?;
        group.rows.put(&manifest_key(group.id), &row).map_err(unwritten)?;
        group.rows.sync().map_err(unwritten)?;
        // Last: a number ahead of the manifest would be taken for damage.
        let witness = codec::encode(WITNESS_VERSION, &self.epoch);
        let witness = witness.map_err(|error| CheckpointError::Store(error.to_string()))?;
        group.rows.set_witness(group.id, &witness).map_err(unwritten)?;
        if settled {
            next.garbage.extend(old_tombstones)
        } else {
            next.tombstones.extend(old_tombstones)
        }
        group.state.lock().directory = Some(next);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let rows = self.changes.iter().flat_map(|(chunk, change)| {
            let parts = change.map_or(1, |change| change.parts);
            (0..parts).map(|part| self.key(*chunk, part))
        });
        let mut state = self.group.state.lock();
        state.writing = false;
        if self.group.rows.is_broken() {
            state.failed.get_or_insert(CheckpointError::Store("an earlier write has failed".into()));
        }
        if let Some(directory) = &mut state.directory {
            directory.leftovers.extend(rows);
        }
    }
}
