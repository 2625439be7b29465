//! Backups as files: saved under another name first, checked as they come, loaded by a process of their own, and only
//! then given the name that was asked for.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use quorate_keyspace::view::Restore;
use quorate_storage::backup::{BackupError, Head, Reader};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a file that was verified holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Which program wrote it.
    pub program: String,
    /// The UUID of the group that it was taken of.
    pub group: String,
    /// The member that gave it.
    pub member: u64,
    /// Index of the last log entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// Keys in each database.
    pub databases: Vec<u64>,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of all but the end frame, in hexadecimal digits.
    pub sha256: String,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The bytes are not those of a backup.
    #[error("{path}: {source}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BackupError,
    },
    /// The checksums are right and the state cannot be loaded all the same.
    #[error("{path}: it is whole, but its state cannot be loaded: {why}")]
    Unloadable {
        /// The file.
        path: PathBuf,
        /// What the keyspace says.
        why: String,
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
    /// It appeared while the backup was taken.
    #[error("{path} exists by now, and was not replaced")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The process that was to load it did not say that it could.
    #[error("the backup was written to {path}, but loading it in a process of its own failed: {why}")]
    Rehearsal {
        /// The file, still under its other name.
        path: PathBuf,
        /// What that process said.
        why: String,
    },
}

fn io_error<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> FileError + 'p {
    move |source| FileError::Io { what, path: path.to_owned(), source }
}

/// Reads a backup from its first byte to its last and loads its state, as a member that is restored from it would.
/// Everything is in memory for a moment.
///
/// # Errors
/// If anything is not as it was written.
pub fn verify(path: &Path) -> Result<Facts, FileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let broken = |source| FileError::Backup { path: path.to_owned(), source };
    let unloadable = |why: String| FileError::Unloadable { path: path.to_owned(), why };
    let mut reader = Reader::open(BufReader::with_capacity(1 << 20, file)).map_err(broken)?;
    let mut restore = Restore::new(&reader.head().state).map_err(|error| unloadable(error.to_string()))?;
    while let Some((chunk, bytes)) = reader.next_chunk().map_err(broken)? {
        restore.add(chunk, &bytes).map_err(|error| unloadable(error.to_string()))?;
    }
    let view = restore.finish().map_err(|error| unloadable(error.to_string()))?;
    if view.keys_by_database().ne(reader.head().databases.iter().copied()) {
        return Err(unloadable("its head counts other keys".to_owned()));
    }
    Ok(facts(&reader))
}

/// What a reader that has come to its end has read.
pub fn facts<R: Read>(reader: &Reader<R>) -> Facts {
    let Head { program, group_uuid, member, term, index, taken_ms, databases, .. } = reader.head().clone();
    let digest = reader.end().map(|end| end.digest).unwrap_or_default();
    Facts {
        program,
        group: Uuid::from_bytes(group_uuid).to_string(),
        member,
        index,
        term,
        taken_ms,
        keys: databases.iter().sum(),
        databases,
        bytes: reader.position(),
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The file that this process runs from, whatever has its name by now: a package manager may have put another in its
/// place, and what it was called is then no name of any file.
fn this_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() }
}

/// Another process of this program, that loads a backup and gives way to all others.
fn rehearsal(path: &Path) -> io::Result<Command> {
    let mut command = Command::new(this_program()?);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(&mut command, "quorate");
    command.args(["backup", "verify", "--json", "--give-way"]).arg(path).stdin(Stdio::null());
    Ok(command)
}

/// From now on this process is the last to get the processor, and the first to go when memory runs out: what it does is a
/// proof beside a member that serves.
pub fn give_way() {
    // Neither is worth a failure.
    let _ = rustix::process::nice(19);
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Has another process of this program load a backup: what it says it read.
///
/// # Errors
/// What that process said, if it could not.
fn rehearse(path: &Path) -> Result<Facts, FileError> {
    let failed = |why: String| FileError::Rehearsal { path: path.to_owned(), why };
    let output = rehearsal(path).and_then(|mut rehearsal| rehearsal.output());
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        return Err(failed(format!("{} ({})", String::from_utf8_lossy(&said).trim(), output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and there is no backup.
    Kept,
    /// The backup takes its place.
    Replaced,
}

/// A backup on disk under another name than the one it is to have.
#[derive(Debug)]
pub struct Saved {
    part: PathBuf,
    path: PathBuf,
    facts: Facts,
    named: bool,
}

impl Saved {
    /// What was read while it was saved.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Has another process load it, and gives it its name if that could. Otherwise the file is removed.
    ///
    /// # Errors
    /// If it cannot be loaded, there is a file of that name by now, or the file system says no.
    pub fn commit(mut self, existing: Existing) -> Result<Facts, FileError> {
        let read = rehearse(&self.part)?;
        if read != self.facts {
            let why = "it read something else than what was written".to_owned();
            return Err(FileError::Rehearsal { path: self.part.clone(), why });
        }
        match existing {
            Existing::Replaced => fs::rename(&self.part, &self.path),
            Existing::Kept => rename_new(&self.part, &self.path),
        }
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: self.path.clone() },
            _ => io_error("rename", &self.part)(source),
        })?;
        self.named = true;
        sync_dir(&self.path)?;
        Ok(read)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Renames to a name that no file may have.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system can tell.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    if to.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

fn sync_dir(path: &Path) -> Result<(), FileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

/// Saves what comes as a backup, checking it on the way, and syncs it. `progress` is told how many chunks of how many
/// have come, and how many bytes.
///
/// # Errors
/// If what comes is no backup, is broken off, or cannot be written. Nothing of it is left then.
pub fn save(path: &Path, input: impl Read, mut progress: impl FnMut(u64, u64, u64)) -> Result<Saved, FileError> {
    // Nobody else's, even if two take a backup to the same name.
    let own = Uuid::new_v4().simple().to_string();
    let mut part: OsString = path.as_os_str().to_owned();
    part.push(format!(".{}.part", &own[..8]));
    let part = PathBuf::from(part);
    // It holds all keys and the seed of their hashes: for the owner's eyes only.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&part).map_err(io_error("write", &part))?;
    let guard = Unfinished(&part);
    let mut tee = Tee { input, output: BufWriter::with_capacity(1 << 20, file), failed: None };
    let read = read_through(&mut tee, &mut progress);
    if let Some(error) = tee.failed.take() {
        return Err(io_error("write", &part)(error));
    }
    let facts = read.map_err(|source| FileError::Backup { path: path.to_owned(), source })?;
    let file = tee.output.into_inner().map_err(|error| io_error("write", &part)(error.into_error()))?;
    file.sync_all().map_err(io_error("sync", &part))?;
    std::mem::forget(guard);
    Ok(Saved { part, path: path.to_owned(), facts, named: false })
}

fn read_through(input: impl Read, progress: &mut impl FnMut(u64, u64, u64)) -> Result<Facts, BackupError> {
    let mut reader = Reader::open(input)?;
    let mut chunks = 0;
    while reader.next_chunk()?.is_some() {
        chunks += 1;
        progress(chunks, reader.head().chunks, reader.position());
    }
    Ok(facts(&reader))
}

/// Removes the file unless it is forgotten.
struct Unfinished<'p>(&'p Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Writes down what is read through it.
struct Tee<R> {
    input: R,
    output: BufWriter<File>,
    /// Why it could not be written; the reader only learns that something failed.
    failed: Option<io::Error>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.output.write_all(&buffer[..read]).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            io::Error::from(kind)
        })?;
        Ok(read)
    }
}

/// `2026-11-21T04:56:41Z`
pub fn utc(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    // From days since 1970 to a date, by eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_keyspace::{Keyspace, Proto, Stamp, UnitHead, UnitKind, encode_entry, encode_found_unit, encode_unit};
    use quorate_raft::Capture;

    use super::super::Source;
    use super::*;
    use crate::engine::KeyspaceView;

    fn source(keys: usize) -> Source {
        let mut keyspace = Keyspace::new(1, [0, 0]);
        let value = vec![b'v'; 300];
        let units: Vec<bytes::Bytes> = std::iter::once(encode_found_unit(4, [7, 8]))
            .chain((0..keys).map(|n| {
                let key = format!("key:{n}");
                let args: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
                let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
                encode_unit(head, [((n % 2) as u16, &args[..])].into_iter())
            }))
            .collect();
        let mut entry = bytes::BytesMut::new();
        encode_entry(Stamp { time_ms: 5, seed: 6 }, &units, &mut entry);
        keyspace.apply(&entry, false).unwrap();
        let view = Arc::new(KeyspaceView(keyspace.view()));
        Source::new([3; 16], 2, 1_763_697_401_000, Capture { index: 9, term: 4, leader: 1, view })
    }

    #[test]
    fn what_was_saved_can_be_loaded_and_counts_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let mut told = (0, 0, 0);
        let saved = save(&path, source(5000).into_read(), |chunks, of, bytes| told = (chunks, of, bytes)).unwrap();
        assert!(!path.exists(), "it has its name only after it was loaded");
        let facts = verify(&saved.part).unwrap();
        assert_eq!(&facts, saved.facts());
        assert_eq!((facts.keys, facts.databases.as_slice()), (5000, &[2500, 2500, 0, 0][..]));
        assert_eq!((facts.index, facts.term, facts.member), (9, 4, 2));
        assert_eq!((told.0, facts.bytes), (told.1, fs::metadata(&saved.part).unwrap().len()));
        drop(saved);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of what was not loaded");
    }

    #[test]
    fn two_that_take_one_to_the_same_name_do_not_meet_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let first = save(&path, source(50).into_read(), |_, _, _| ()).unwrap();
        let second = save(&path, source(5000).into_read(), |_, _, _| ()).unwrap();
        assert_eq!(verify(&first.part).unwrap().keys, 50);
        assert_eq!(verify(&second.part).unwrap().keys, 5000);
        rename_new(&first.part, &path).unwrap();
        let refused = rename_new(&second.part, &path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(verify(&path).unwrap().keys, 50);
    }

    #[test]
    fn a_backup_is_loaded_by_a_process_that_gives_way() {
        let command = rehearsal(Path::new("a")).unwrap();
        let args: Vec<_> = command.get_args().collect();
        assert_eq!(args, ["backup", "verify", "--json", "--give-way", "a"]);
    }

    #[test]
    fn a_stream_that_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let error = save(&dir.path().join("b"), source(5000).into_read().take(40_000), |_, _, _| ()).unwrap_err();
        assert!(error.to_string().contains("broken off"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_date_is_a_date() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_763_697_401_000, "2025-11-21T03:56:41Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }
}
