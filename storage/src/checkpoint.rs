//! Checkpoints: the state of a group as rows by chunk and epoch.

use std::path::Path;

use bytes::Bytes;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A row or a manifest is damaged or missing; the member must stop, or be rebuilt from the others.
    #[error("the checkpoint of group {group} is corrupt: {what}")]
    Corrupt {
        /// Whose checkpoint.
        group: u64,
        /// What was found.
        what: String,
    },
    /// The store below failed.
    #[error("the checkpoint store failed: {0}")]
    Store(String),
    /// Another writer of the same group is under way.
    #[error("a checkpoint of group {0} is being written already")]
    Busy(u64),
}

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct CheckpointConfig {
    /// Memory that the store may use as cache.
    pub cache_bytes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// The checkpoints of all groups of a node; clones are cheap and share it.
#[derive(Clone)]
pub struct CheckpointStore {}

/// A committed checkpoint.
pub struct Loaded {
    /// Which commit it is, counted from 1.
    pub epoch: u64,
    /// The caller's bytes given to [`Writer::commit`].
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
pub struct Chunks {}

impl Iterator for Chunks {
    type Item = Result<(u64, Vec<u8>), CheckpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

/// A checkpoint being written. Nothing of it counts before [`Writer::commit`]; dropped, it is as if it never was.
pub struct Writer {}

impl CheckpointStore {
    /// Opens the store, or starts one.
    ///
    /// # Errors
    /// If the store below cannot be opened.
    pub fn open(_path: &Path, _config: CheckpointConfig) -> Result<Self, CheckpointError> {
        Ok(Self {})
    }

    /// The last committed checkpoint of a group.
    ///
    /// # Errors
    /// If its manifest is damaged, or the store below fails.
    pub fn load(&self, _group: u64) -> Result<Option<Loaded>, CheckpointError> {
        Ok(None)
    }

    /// The caller's bytes of the last committed checkpoint, without reading any chunk.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`].
    pub fn manifest(&self, _group: u64) -> Result<Option<(u64, Bytes)>, CheckpointError> {
        Ok(None)
    }

    /// Starts the next checkpoint of a group: it holds all chunks of the last one, but for what is put and removed.
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] if one is under way.
    pub fn begin(&self, _group: u64) -> Result<Writer, CheckpointError> {
        Ok(Writer {})
    }

    /// Bytes that the store takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        0
    }
}

impl Writer {
    /// The epoch that [`Writer::commit`] will give.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        0
    }

    /// Makes the checkpoint begin from nothing: chunks of the last one that are not put are gone. To be called first.
    pub fn replace_all(&mut self) {}

    /// Writes a chunk whole, in rows of about 8 KB.
    ///
    /// # Errors
    /// If the store fails; the writer can then only be dropped.
    pub fn put(&mut self, _chunk: u64, _data: &[u8]) -> Result<(), CheckpointError> {
        Ok(())
    }

    /// Removes a chunk; none of that number is no error.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn remove(&mut self, _chunk: u64) -> Result<(), CheckpointError> {
        Ok(())
    }

    /// Makes the checkpoint durable and the current one, and gives its epoch.
    ///
    /// # Errors
    /// If it fails the old checkpoint is still the current one, unless the manifest's own sync failed: then either may
    /// be found at the next start, each whole.
    pub fn commit(self, _manifest: &[u8]) -> Result<u64, CheckpointError> {
        Ok(0)
    }
}
