//! Segment files: their names, and how one is made ready before it is needed.
//!
//! A file counts as a segment only once its header was synced, and batches go into it only after that. So a newest
//! file without a valid header is one that was never finished, and holds nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalError;
use super::background::{Background, Work};
use super::format::{self, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile};

/// How many zeros are written between two syncs while a file is filled: syncs of the log must not wait for all of it.
const FILL_BYTES: usize = 1 << 20;

pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
}

pub(super) fn file_name(seq: u64) -> String {
    format!("{seq:016x}.wal")
}

pub(super) fn seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Makes one segment ready. It can run on any thread; one at a time per log.
pub(super) struct Job {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) seq: u64,
    pub(super) salt: u64,
    pub(super) bytes: u64,
    /// A segment that nobody needs any more. Its old batches are left in it: their sequence number is not the new one.
    pub(super) reuse: Option<Arc<Segment>>,
}

impl Work for Job {
    type Outcome = Result<Segment, WalError>;

    fn run(self) -> Self::Outcome {
        let path = self.dir.join(file_name(self.seq));
        let result = self.make(&path);
        if result.is_err() {
            // A half-made file would only take the room that is wanted; if it can't go it is made anew next time.
            let _ = self.disk.remove(&path);
        }
        result
    }
}

impl Job {
    fn make(&self, path: &Path) -> Result<Segment, WalError> {
        let io = |what| move |error| WalError::io(what, path, error);
        let file = if let Some(old) = &self.reuse {
            self.disk.rename(&old.path, path).map_err(io("rename a segment to"))?;
            Arc::clone(&old.file)
        } else {
            let file = self.disk.create(path).map_err(io("create"))?;
            file.allocate(self.bytes).map_err(io("allocate"))?;
            fill(&*file, BLOCK_BYTES, self.bytes).map_err(io("fill"))?;
            file
        };
        file.write_at(&format::encode_segment_header(self.seq, self.salt), 0).map_err(io("write"))?;
        file.sync_data().map_err(io("sync"))?;
        self.disk.sync_dir(&self.dir).map_err(|error| WalError::io("sync", &self.dir, error))?;
        Ok(Segment { seq: self.seq, path: path.to_owned(), file, bytes: self.bytes })
    }
}

/// Writes zeros: bytes that were written once need no metadata when they are written again, so a sync is one write.
pub(super) fn fill(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min(usize::try_from(to - from).unwrap_or(FILL_BYTES))];
    let mut at = from;
    while at < to {
        let len = (zeros.len() as u64).min(to - at);
        file.write_at(&zeros[..usize::try_from(len).unwrap_or(zeros.len())], at)?;
        at += len;
        if (at - from).is_multiple_of(8 * FILL_BYTES as u64) {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Makes segments beside the log, so that filling a new file does not hold it up.
pub(super) type Maker = Background<Job>;
