//! The data directory: one process at a time, and proof of whose directory it is.
//!
//! [`DataDir::open`] takes the lock (`flock` on the directory and on the file `LOCK` in it, held until the value is
//! dropped; the kernel frees it if the process dies) before anything in the directory is read. The one on the directory
//! outlives a `LOCK` that somebody removes; the file says by whom. The file `IDENTITY` says which group the member
//! belongs to and under which number; it is replaced atomically and is durable when [`DataDir::save`] returns.
//!
//! Nothing here decides whether an identity fits: that is the business of whoever joins or starts a group.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::disk::{self, Disk, LockGuard};

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "IDENTITY";
const FORMAT: u8 = 1;
const LIMIT_BYTES: usize = 64 << 10;

/// Who a data directory belongs to. Written once when the member is made; never changed except by recovery tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The UUID that all members of this deployment share.
    pub group_uuid: [u8; 16],
    /// This member's number, never used again for another one.
    pub member_id: u64,
    /// Bits that the layers above give a meaning to.
    pub flags: u64,
    /// Anything else that must be known before the log is read, by name.
    pub notes: Vec<(String, Vec<u8>)>,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("the data directory {path} is in use by another process{}", Pid(*.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that says it holds the lock.
        pid: Option<u32>,
    },
    /// There is no member in it.
    #[error("{path} holds no member: neither an identity nor a log")]
    NoMember {
        /// The directory.
        path: PathBuf,
    },
    /// The identity file is damaged, or written by a newer version.
    #[error("the identity file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The file system said no.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

/// A data directory that this process holds the lock of.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    _locks: Vec<LockGuard>,
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] if another process has it, or what the file system said.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, IdentityError> {
        let io = |what| {
            let path = path.to_owned();
            move |source| IdentityError::Io { what, path, source }
        };
        disk.create_dir_all(path).map_err(io("create the directory"))?;
        let lock_path = path.join(LOCK_FILE);
        let mut locks = Vec::new();
        for locked in [path, &lock_path] {
            match disk.lock(locked) {
                Ok(lock) => locks.push(lock),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let pid = disk::read_file(&*disk, &lock_path).ok();
                    let pid = pid.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
                    return Err(IdentityError::Locked { path: path.to_owned(), pid });
                }
                // Some file systems on a network lock files only.
                Err(error) if locked == path => {
                    tracing::warn!(%error, dir = %path.display(), "the directory can't be locked, only the file LOCK in it");
                }
                Err(error) => return Err(io("lock")(error)),
            }
        }
        // Only for the message above: whoever is refused wants to know by whom.
        let pid = format!("{:<10}\n", std::process::id());
        disk.open(&lock_path)
            .and_then(|file| file.write_at(pid.as_bytes(), 0))
            .map_err(io("write the lock file in"))?;
        Ok(Self { disk, path: path.to_owned(), _locks: locks })
    }

    /// As [`DataDir::open`], but only of a directory that holds a member already.
    ///
    /// # Errors
    /// [`IdentityError::NoMember`] if it does not; else as [`DataDir::open`].
    pub fn open_existing(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, IdentityError> {
        let holds = disk.open(&path.join(IDENTITY_FILE)).is_ok() || disk.list(&path.join("wal")).is_ok();
        if !holds {
            return Err(IdentityError::NoMember { path: path.to_owned() });
        }
        Self::open(disk, path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The identity kept here; `None` if no member was ever made in this directory.
    ///
    /// # Errors
    /// If there is one but it cannot be read: it must then not be taken for an empty directory.
    pub fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let path = self.path.join(IDENTITY_FILE);
        let bytes = match disk::read_file(&*self.disk, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(IdentityError::Io { what: "read", path, source });
            }
        };
        match codec::decode(FORMAT, &bytes, LIMIT_BYTES) {
            Ok(identity) => Ok(Some(identity)),
            Err(source) => Err(IdentityError::Unreadable { path, source }),
        }
    }

    /// Replaces the identity, atomically; durable when it returns.
    ///
    /// # Errors
    /// What the file system said; the old identity is then still there, unless only the last sync failed.
    pub fn save(&self, identity: &Identity) -> Result<(), IdentityError> {
        let path = self.path.join(IDENTITY_FILE);
        let bytes = match codec::encode(FORMAT, identity) {
            Ok(bytes) => bytes,
            Err(source) => return Err(IdentityError::Unreadable { path, source }),
        };
        disk::write_file_atomically(&*self.disk, &path, &bytes).map_err(|source| IdentityError::Io {
            what: "write",
            path,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::memdisk::MemDisk;

    fn identity(member_id: u64) -> Identity {
        let notes = vec![("peer".to_owned(), b"127.0.0.1:17001".to_vec())];
        Identity { group_uuid: [9; 16], member_id, flags: 1, notes }
    }

    #[test]
    fn a_second_owner_is_refused_and_told_by_whom() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let first = DataDir::open(Arc::new(OsDisk), &path).unwrap();
        let error = DataDir::open(Arc::new(OsDisk), &path).unwrap_err();
        let wanted = format!("in use by another process (process {})", std::process::id());
        assert!(error.to_string().contains(&wanted), "{error}");
        drop(first);
        DataDir::open(Arc::new(OsDisk), &path).unwrap();
    }

    #[test]
    fn a_lock_file_that_is_removed_or_replaced_lets_nobody_in() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let disk = MemDisk::new();
        let real: (Arc<dyn Disk>, &Path) = (Arc::new(OsDisk), &path);
        let simulated: (Arc<dyn Disk>, &Path) = (Arc::new(disk), Path::new("/data"));
        for (disk, path) in [real, simulated] {
            let first = DataDir::open(disk.clone(), path).unwrap();
            for again in [false, true] {
                disk.remove(&path.join(LOCK_FILE)).unwrap();
                if again {
                    disk.create(&path.join(LOCK_FILE)).unwrap();
                }
                let error = DataDir::open(disk.clone(), path).unwrap_err();
                assert!(matches!(error, IdentityError::Locked { .. }), "{error}");
                drop(disk.create(&path.join(LOCK_FILE)).unwrap());
            }
            drop(first);
            DataDir::open(disk, path).unwrap();
        }
    }

    #[test]
    fn an_identity_survives_a_power_cut_at_any_point() {
        for cut in 0..12 {
            for seed in 0..30 {
                let disk = MemDisk::new();
                let dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
                assert_eq!(dir.identity().unwrap(), None);
                dir.save(&identity(3)).unwrap();
                disk.cut_power_after(cut);
                let saved = dir.save(&identity(4)).is_ok();
                let dir = DataDir::open(Arc::new(disk.crash(seed)), Path::new("/data")).unwrap();
                let found = dir.identity().unwrap().expect("never gone");
                assert!(found == identity(4) || (!saved && found == identity(3)));
            }
        }
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_not_an_empty_directory() {
        let disk = MemDisk::new();
        let dir = DataDir::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
        dir.save(&identity(3)).unwrap();
        disk.flip_bit(Path::new("/data/IDENTITY"), 20, 3).unwrap();
        let error = dir.identity().unwrap_err();
        assert!(error.to_string().contains("/data/IDENTITY"), "{error}");
    }
}
