//! What can go wrong with the log, told so that an operator knows which file to look at.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::is_no_space;

/// An error of the write-ahead log. Cheap to clone: one failure is told to everybody who waits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// Bytes that were once acknowledged are damaged or missing. Nothing here may be guessed: the member must stop.
    #[error("the log is corrupt: {} at offset {offset}: {what}", path.display())]
    Corrupt {
        /// The segment file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A segment written in a format that this program does not know.
    #[error(
        "the log's {} is of format version {found}, and this program reads {known} only: run the version of quorate that \
         wrote it; nothing was changed",
        path.display()
    )]
    Version {
        /// The segment file.
        path: PathBuf,
        /// In the file.
        found: u32,
        /// Known.
        known: u32,
    },
    /// The disk refused an operation. If it was a write or a sync the log is poisoned by it.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: Arc<io::Error>,
    },
    /// An earlier failure ended this log; the text is that failure. Never retried.
    #[error("the log has failed and takes nothing more: {0}")]
    Failed(Arc<WalError>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The caller broke the contract (a gap between indexes, an entry too large); nothing was changed.
    #[error("group {group}: {what}")]
    Refused {
        /// Whose log.
        group: u64,
        /// What was wrong.
        what: String,
    },
}

impl WalError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source: Arc::new(source) }
    }

    /// True if the disk was full. The log is poisoned all the same; look at
    /// [`Wal::has_room`](super::Wal::has_room) before proposing to not get here.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_no_space(source),
            Self::Failed(cause) => cause.is_no_space(),
            _ => false,
        }
    }
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Io { source, .. } => source.kind(),
            WalError::Corrupt { .. } => io::ErrorKind::InvalidData,
            WalError::Version { .. } => io::ErrorKind::Unsupported,
            WalError::Refused { .. } => io::ErrorKind::InvalidInput,
            WalError::Failed(_) | WalError::Closed => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
