//! The file system as the log and the identity file see it: few blocking calls, each with one meaning.
//!
//! Everything that must survive a power cut goes through this trait, so that a simulated disk can decide what survives.
//! The rules that callers may rely on, and nothing more:
//!
//! * bytes written are durable after [`DiskFile::sync_data`] returned `Ok`, together with the length of the file;
//! * a file's name (created, renamed, removed) is durable after [`Disk::sync_dir`] of its directory returned `Ok`;
//! * before that, any part of it may or may not survive, in any order, down to single sectors.
//!
//! It must never retry: a failed sync is reported as it is, since the kernel may have dropped the bytes it was about.

use std::any::Any;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What a lock on a file is held by: dropped, the lock is free again.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// A file system. See the module for what is durable when.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file, or empties it if it exists, and opens it for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory and its parents where missing; durable when it returns.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks a file (created if missing) or a directory against every other process; `WouldBlock` if somebody holds it.
    fn lock(&self, path: &Path) -> io::Result<LockGuard>;
}

/// An open file. Offsets are absolute, there is no cursor, so one handle serves many threads.
pub trait DiskFile: Send + Sync {
    /// Fills `buf` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`, growing the file if needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all that was written durable, and the length with it.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or grows the file; what is new reads as zero.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Reserves space up to `bytes` and grows the file to it, so that a full disk shows now and not at a write.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// What opening and reading it gave.
pub fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let bytes = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut out = vec![0; bytes];
    file.read_at(&mut out, 0)?;
    Ok(out)
}

/// Replaces a file so that after a crash it holds either the old or the new bytes, and after `Ok` the new ones.
///
/// # Errors
/// What the disk gave; the old bytes are then still in place, unless only the last `sync_dir` failed.
pub fn write_file_atomically(disk: &dyn Disk, path: &Path, data: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let file = disk.create(&tmp)?;
    file.write_at(data, 0)?;
    file.sync_data()?;
    disk.rename(&tmp, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// True if the disk was full: that may pass, and what failed has changed nothing that was there before.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

struct OsFile(File);

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // A name that is not UTF-8 was not given by us.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        fs::create_dir_all(dir)?;
        missing.into_iter().filter_map(Path::parent).try_for_each(|parent| self.sync_dir(parent))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative path of one part is "", which cannot be opened.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<LockGuard> {
        let file = match path.is_dir() {
            true => File::open(path)?,
            false => OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if self.size()? >= bytes {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        // A signal that comes meanwhile is no failure of the disk.
        match rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes)
        }) {
            Ok(()) => return Ok(()),
            // Some file systems cannot reserve; the zeros that the caller writes then find out about space.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.0.set_len(bytes)
    }
}
