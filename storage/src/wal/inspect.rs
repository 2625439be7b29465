//! Looking at a log without changing it: what it holds, whether it is whole, and if it is not, what is lost.
//!
//! The verdict is recovery's own (`recovery.rs`), so this says of a directory what the next start would. Where that
//! verdict is "damaged", everything behind the damage that still checks out is read too, for one purpose: to say what
//! a log that is cut off at the damage would lack. Nothing here may write, and nothing here may be served to a group.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, BLOCK_BYTES, Kind, RECORD_HEADER_BYTES};
use super::recovery::{self, Batch, Judge};
use super::state::{GroupState, Slot};
use super::{RecoveredGroup, WalConfig, WalError};
use crate::disk::{Disk, DiskFile};

/// A place that does not read back as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.path.display(), self.offset, self.what)
    }
}

/// Entries of a group that are in a damaged place or behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostEntries {
    /// The first that is lost, if there is any sign of one.
    pub from: u64,
    /// The last one that anything behind the damage tells of.
    pub to: Option<u64>,
    /// The last one that was surely on disk, so that this member may have acknowledged it.
    pub acknowledged: Option<u64>,
}

/// What a log holds, found without changing it.
pub struct Inspection {
    disk: Arc<dyn Disk>,
    salt: u64,
    files: BTreeMap<u64, PathBuf>,
    handles: BTreeMap<u64, Arc<dyn DiskFile>>,
    entries: BTreeMap<(u64, u64), Slot>,
    /// What is whole, by group.
    pub groups: BTreeMap<u64, RecoveredGroup>,
    /// Segment files that hold something that counts, and their bytes up to the end of the log.
    pub segments: u64,
    /// See `segments`.
    pub bytes: u64,
    /// Batches in them.
    pub batches: u64,
    /// Where a tail begins that was never acknowledged; the next start cuts it off.
    pub torn: Option<(PathBuf, u64)>,
    /// All places that are damaged. Without any the log is whole.
    pub damage: Vec<Damage>,
    /// By group, what would be lost if the log were cut off at the first damage.
    pub lost: BTreeMap<u64, LostEntries>,
}

/// The segments in `dir`, by number. A member that never got as far as to begin a log has no such directory.
fn files_in(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<u64, PathBuf>, WalError> {
    match disk.list(dir) {
        Ok(names) => Ok(recovery::segment_files(&names, dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(WalError::io("list", dir, error)),
    }
}

impl Inspection {
    /// The salt of the log in `dir`: drawn when it was made, and the same in all its segments. `None` if there is none,
    /// or nothing of it can be read.
    ///
    /// # Errors
    /// If the disk does not answer, or another version wrote it.
    pub fn salt(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, WalError> {
        recovery::find_salt(disk, &files_in(disk, dir)?)
    }

    /// Reads the log in `dir`. Nobody may write to it meanwhile: hold the directory's lock.
    ///
    /// # Errors
    /// If it cannot be read at all. Damage is no error here but what is asked for.
    pub fn read(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, WalError> {
        let mut files = files_in(&*disk, dir)?;
        let salt = recovery::find_salt(&*disk, &files)?;
        let mut found = Self::empty(disk, files.clone(), salt.unwrap_or(0))?;
        if let Some((seq, path)) = files.last_key_value().map(|(seq, path)| (*seq, path.clone())) {
            match recovery::is_unfinished(&*found.disk, seq, &path, salt) {
                Ok(false) => {}
                Ok(true) => drop(files.remove(&seq)),
                Err(error) => found.add_damage(error)?,
            }
        }
        let Some((_, oldest)) = files.first_key_value() else { return Ok(found) };
        if salt.is_none() {
            found.damage.push(Damage {
                path: oldest.clone(),
                offset: 0,
                what: "the segment's header is damaged".into(),
            });
            return Ok(found);
        }
        match found.damage.is_empty().then(|| found.take_whole(dir, &files)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                found.add_damage(error)?;
                found.salvage(&files)?;
            }
            None => found.salvage(&files)?,
        }
        Ok(found)
    }

    fn empty(disk: Arc<dyn Disk>, files: BTreeMap<u64, PathBuf>, salt: u64) -> Result<Self, WalError> {
        let open = |(seq, path): (&u64, &PathBuf)| match disk.open(path) {
            Ok(file) => Ok((*seq, file)),
            Err(error) => Err(WalError::io("open", path, error)),
        };
        Ok(Self {
            handles: files.iter().map(open).collect::<Result<_, _>>()?,
            disk,
            salt,
            files,
            entries: BTreeMap::new(),
            groups: BTreeMap::new(),
            segments: 0,
            bytes: 0,
            batches: 0,
            torn: None,
            damage: Vec::new(),
            lost: BTreeMap::new(),
        })
    }

    /// Damage is noted; anything else is an error of the reader.
    fn add_damage(&mut self, error: WalError) -> Result<(), WalError> {
        match error {
            WalError::Corrupt { path, offset, what } => self.damage.push(Damage { path, offset, what }),
            other => return Err(other),
        }
        Ok(())
    }

    fn take_whole(&mut self, dir: &Path, files: &BTreeMap<u64, PathBuf>) -> Result<(), WalError> {
        let judged = Judge::new(&*self.disk, dir, files, self.salt).judge()?;
        let opened = recovery::replay(&judged, &WalConfig::default(), self.salt)?;
        let recovered = opened.recovered;
        self.segments = opened.position.live.len() as u64;
        (self.bytes, self.batches) = (recovered.bytes, recovered.batches);
        self.torn = recovered.cut.map(|(name, offset)| (dir.join(name), offset));
        self.take_groups(&opened.state.groups);
        Ok(())
    }

    fn take_groups(&mut self, groups: &BTreeMap<u64, GroupState>) {
        for (id, group) in groups {
            self.groups.insert(*id, group.recovered());
            let first = group.first_index().unwrap_or(0);
            self.entries.extend((first..).zip(group.slots()).map(|(index, slot)| ((*id, index), *slot)));
        }
    }

    /// Reads every batch that checks out, wherever it is, and tells what is missing between them.
    fn salvage(&mut self, files: &BTreeMap<u64, PathBuf>) -> Result<(), WalError> {
        let batches = self.all_batches(files)?;
        let Some((_, last)) = batches.last_key_value() else { return Ok(()) };
        let base = last.1.header.numbers.base;
        let proven = batches.values().map(|(_, batch)| batch.header.numbers.synced).max().unwrap_or(0);
        let live: Vec<&(u64, Batch)> = batches.values().filter(|(seq, _)| *seq >= base).collect();
        let mut groups: BTreeMap<u64, GroupState> = BTreeMap::new();
        let mut whole = live.first().is_some_and(|(seq, batch)| *seq == base && batch.offset == BLOCK_BYTES);
        let mut behind: BTreeMap<u64, LostEntries> = BTreeMap::new();
        for (at, (seq, batch)) in live.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| live[before]);
            if let Some((before_seq, before)) = before
                && !recovery::follows(&before.header, &batch.header)
            {
                whole = false;
                self.note_gap((*before_seq, before), (*seq, batch))?;
            }
            whole = whole && batch.records.iter().all(|record| recovery::apply(&mut groups, *seq, record).is_ok());
            if whole {
                self.batches += 1;
                self.bytes += batch.header.batch_bytes();
            } else {
                note_behind(&mut behind, batch, proven);
            }
        }
        self.segments = live.iter().map(|(seq, _)| seq).collect::<std::collections::BTreeSet<_>>().len() as u64;
        self.take_groups(&groups);
        self.take_lost(&behind);
        Ok(())
    }

    fn all_batches(&self, files: &BTreeMap<u64, PathBuf>) -> Result<BTreeMap<u64, (u64, Batch)>, WalError> {
        let mut batches = BTreeMap::new();
        for (seq, path) in files {
            let Some(file) = self.handles.get(seq) else { continue };
            let mut pieces = match recovery::Pieces::of(&**file, path) {
                Ok(pieces) => pieces,
                // If it counts, the verdict has told of it.
                Err(WalError::Corrupt { .. }) => continue,
                Err(error) => return Err(error),
            };
            let mut at = BLOCK_BYTES;
            while at < pieces.size {
                match recovery::read_batch(self.salt, *seq, &mut pieces, at)? {
                    Some(batch) => {
                        at += batch.header.batch_bytes();
                        batches.insert(batch.header.numbers.number, (*seq, batch));
                    }
                    None => at += BLOCK_BYTES,
                }
            }
        }
        Ok(batches)
    }

    fn note_gap(&mut self, (seq, before): (u64, &Batch), (after_seq, after): (u64, &Batch)) -> Result<(), WalError> {
        let (last, next) = (before.header.numbers.number, after.header.numbers.number);
        let end = (seq, before.offset + before.header.batch_bytes());
        let (seq, offset) = match seq == after_seq {
            true => end,
            false => recovery::place_of(&*self.disk, self.salt, &self.files, end, last + 1)?,
        };
        let Some(path) = self.files.get(&seq).cloned() else { return Ok(()) };
        let what = match next - last {
            1 => format!("batch {next} does not continue the chain of batch {last}"),
            2 => format!("batch {} is damaged or missing", last + 1),
            _ => format!("batches {} to {} are damaged or missing", last + 1, next - 1),
        };
        // The verdict has told of the first one already.
        if !self.damage.iter().any(|known| known.path == path && known.offset == offset) {
            self.damage.push(Damage { path, offset, what });
        }
        Ok(())
    }

    fn take_lost(&mut self, behind: &BTreeMap<u64, LostEntries>) {
        for (group, seen) in behind {
            let whole = self.groups.get(group);
            let last = whole.and_then(|group| group.entries.map(|(_, last)| last));
            let last = last.or(whole.and_then(|group| group.purged.as_ref().map(|(upto, _)| *upto)));
            let from = last.map_or(seen.from, |last| last + 1);
            if seen.to.is_none_or(|to| to >= from) {
                self.lost.insert(*group, LostEntries { from, ..*seen });
            }
        }
    }

    /// Indexes of the entries of a group that are whole, in order.
    pub fn entries(&self, group: u64) -> impl Iterator<Item = u64> + '_ {
        self.entries.range((group, 0)..=(group, u64::MAX)).map(|((_, index), _)| *index)
    }

    /// One entry's bytes; `None` if there is none.
    ///
    /// # Errors
    /// If it does not read back as it was written.
    pub fn entry(&self, group: u64, index: u64) -> Result<Option<Bytes>, WalError> {
        let Some(slot) = self.entries.get(&(group, index)) else { return Ok(None) };
        let Some((path, file)) = self.files.get(&slot.segment).zip(self.handles.get(&slot.segment)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; slot.bytes as usize + RECORD_HEADER_BYTES];
        file.read_at(&mut bytes, u64::from(slot.offset)).map_err(|error| WalError::io("read", path, error))?;
        let bytes = Bytes::from(bytes);
        match format::decode_record(self.salt, slot.segment, &bytes) {
            Some(record) => Ok(Some(bytes.slice_ref(record.payload))),
            None => Err(recovery::corrupt(path, u64::from(slot.offset), format!("entry {index} is damaged"))),
        }
    }
}

/// What a batch behind the damage tells of entries that a log cut off before it would not have.
fn note_behind(behind: &mut BTreeMap<u64, LostEntries>, batch: &Batch, proven: u64) {
    for record in &batch.records {
        if record.kind != Kind::Entry {
            continue;
        }
        let seen = behind.entry(record.group).or_insert(LostEntries { from: record.index, ..LostEntries::default() });
        seen.from = seen.from.min(record.index);
        seen.to = seen.to.max(Some(record.index));
        if batch.header.numbers.number <= proven {
            seen.acknowledged = seen.acknowledged.max(Some(record.index));
        }
    }
}
