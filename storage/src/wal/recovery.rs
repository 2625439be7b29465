//! Opening a log: what of it was acknowledged, what is only the torn tail of a write that never was, what is damage.
//!
//! # The rule
//!
//! Batches are numbered 1, 2, 3, … over all segments, and each says in `synced` up to which number all were known to be
//! durable when it was written. Only after a sync returned is anything acknowledged, and a batch that is acknowledged is
//! the last one until the next is written. So, reading in order, at the first place where batch `n + 1` should be and is
//! not (no valid header, a wrong number or chain, a record or the digest that does not check):
//!
//! * if a valid batch header of this incarnation **anywhere behind it** (the rest of the segment at every block, and all
//!   later segments) says `synced >= n + 1`, then batch `n + 1` had been durable: this is **corruption**, an error with
//!   file and offset, and nothing is changed;
//! * otherwise nothing proves that it was ever synced: it is a **torn tail**. What a disk does with unsynced writes
//!   (keep the later one, lose the earlier, half of each) all ends here, since each of them says `synced <= n`.
//!
//! A torn tail is cut: zeros to the end of the segment, segments behind it removed, all of it synced before the log takes
//! anything, so that no byte of it can come back behind new batches. Before that the last batches that no later one
//! proves are written again in place: they may have been read from memory that the disk never got.
//!
//! What this can't tell apart is damage to the very last batch before anything was written behind it, from a torn
//! write of it. That window is short: the next batch closes it, or an empty one that the log writes when it idles.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::background::Work as _;
use super::driver::{Live, Position};
use super::format::{
    self, BLOCK_BYTES, BatchHeader, Kind, LEAST_SEGMENT_BYTES, MOST_SEGMENT_BYTES, SegmentHeader, VERSION,
    decode_batch, decode_batch_header,
};
use super::segment::{self, Job, Segment};
use super::state::{GroupState, Releases, Slot, State};
use super::{WalConfig, WalError};
use crate::disk::{Disk, DiskFile};

/// What a log held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that has a record in it.
    pub groups: BTreeMap<u64, RecoveredGroup>,
    /// Bytes of live segments that were read.
    pub bytes: u64,
    /// Batches that were read.
    pub batches: u64,
    /// Where a tail was cut off that had never been acknowledged: file name and offset.
    pub cut: Option<(String, u64)>,
}

/// What a log held of one group when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last committed mark that reached the disk; never ahead of the entries.
    pub committed: Option<Bytes>,
    /// The purge mark: up to which index (inclusive) entries are gone, and the caller's bytes for it.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first and the last entry.
    pub entries: Option<(u64, u64)>,
}

impl RecoveredGroup {
    /// True if nothing was ever promised in it: no vote, no entry, and none that was let go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vote.is_none() && self.entries.is_none() && self.purged.is_none()
    }
}

/// A record of a batch that checked out, without an entry's bytes.
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) group: u64,
    pub(super) index: u64,
    pub(super) offset: u32,
    bytes: u32,
    /// Of marks only.
    payload: Bytes,
}

pub(super) struct Batch {
    pub(super) header: BatchHeader,
    pub(super) offset: u64,
    pub(super) records: Vec<Found>,
}

/// What one file holds.
pub(super) struct Scan {
    pub(super) segment: Arc<Segment>,
    /// Good batches from the beginning, each one number after the one before.
    batches: Vec<Batch>,
    /// Where they end.
    pub(super) end: u64,
    /// The highest `synced` of any valid batch header at `end` or behind it.
    proof_behind: Option<u64>,
    /// The highest base that any of them tells of.
    base_behind: Option<u64>,
    /// All bytes behind `end` are zero.
    clean_behind: bool,
}

/// Where the log ends: in this segment, behind so many of its batches. `torn` if there is something to cut off.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) segment: u64,
    batches: usize,
    torn: bool,
}

/// Everything found in a directory, judged; nothing of it was changed yet.
pub(super) struct Judged {
    pub(super) scans: BTreeMap<u64, Scan>,
    base: u64,
    pub(super) end: End,
}

pub(super) struct Opened {
    pub(super) state: State,
    pub(super) position: Position,
    pub(super) recovered: Recovered,
    pub(super) salt: u64,
}

pub(super) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> WalError {
    WalError::Corrupt { path: path.to_owned(), offset, what: what.into() }
}

/// Opens the log in `dir`, repairs what may be repaired, and gives where it stands.
pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path, config: &WalConfig) -> Result<Opened, WalError> {
    let dir_error = |what| move |error| WalError::io(what, dir, error);
    disk.create_dir_all(dir).map_err(dir_error("create"))?;
    // A name that the process before gave may not be durable yet.
    disk.sync_dir(dir).map_err(dir_error("sync"))?;
    let names = disk.list(dir).map_err(dir_error("list"))?;
    let mut files = segment_files(&names, dir);
    let salt = find_salt(&**disk, &files)?;
    if let Some(newest) = files.last_entry()
        && is_unfinished(&**disk, *newest.key(), newest.get(), salt)?
    {
        disk.remove(newest.get()).map_err(|error| WalError::io("remove", newest.get(), error))?;
        disk.sync_dir(dir).map_err(dir_error("sync"))?;
        newest.remove();
    }
    let Some((_, oldest)) = files.first_key_value() else {
        return start(disk, dir, config);
    };
    let Some(salt) = salt else {
        return Err(corrupt(oldest, 0, "the segment's header is damaged"));
    };
    let judged = Judge::new(&**disk, dir, &files, salt).judge()?;
    let mut opened = replay(&judged, config, salt)?;
    repair(&**disk, dir, &judged, &mut opened, config)?;
    for (seq, path) in files.range(..opened.position.base) {
        // Below the base nothing counts any more; these only wait to be used again.
        let file = disk.open(path).map_err(|error| WalError::io("open", path, error))?;
        let bytes = file.size().map_err(|error| WalError::io("measure", path, error))?;
        opened.position.free.push_back(Arc::new(Segment { seq: *seq, path: path.clone(), file, bytes }));
    }
    Ok(opened)
}

pub(super) fn segment_files(names: &[String], dir: &Path) -> BTreeMap<u64, PathBuf> {
    names.iter().filter_map(|name| Some((segment::seq_of(name)?, dir.join(name)))).collect()
}

/// A log that holds nothing.
fn start(disk: &Arc<dyn Disk>, dir: &Path, config: &WalConfig) -> Result<Opened, WalError> {
    let salt = config.salt.unwrap_or_else(random);
    let job =
        Job { disk: Arc::clone(disk), dir: dir.to_owned(), seq: 1, salt, bytes: config.segment_bytes, reuse: None };
    let active = Arc::new(job.run()?);
    let live = Live { segment: Arc::clone(&active), entries: 0, used: BLOCK_BYTES };
    let mut state = State::new(config.cache_bytes);
    state.segments.insert(1, Arc::clone(&active));
    let position = Position {
        live: BTreeMap::from([(1, live)]),
        active,
        end: BLOCK_BYTES,
        next: None,
        free: VecDeque::new(),
        marks: BTreeMap::new(),
        number: 0,
        base: 1,
        chain: 0,
    };
    Ok(Opened { state, position, recovered: Recovered::default(), salt })
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// The block of a file at `offset`; `None` if the file ends before.
fn block_at(disk: &dyn Disk, path: &Path, offset: u64) -> Result<Option<Vec<u8>>, WalError> {
    let file = disk.open(path).map_err(|error| WalError::io("open", path, error))?;
    let mut block = vec![0; BLOCK_BYTES as usize];
    match file.read_at(&mut block, offset) {
        Ok(()) => Ok(Some(block)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(WalError::io("read", path, error)),
    }
}

/// Where batch `next` stands that comes behind `end` of a segment and is not whole: there, or, where there was no room
/// for it, at the beginning of the next segment. Behind `end` of a segment that is used again there may be anything.
pub(super) fn place_of(
    disk: &dyn Disk,
    salt: u64,
    files: &BTreeMap<u64, PathBuf>,
    (seq, end): (u64, u64),
    next: u64,
) -> Result<(u64, u64), WalError> {
    let block = |seq: u64, at| match files.get(&seq) {
        Some(path) => block_at(disk, path, at),
        None => Ok(None),
    };
    if !files.contains_key(&(seq + 1)) || block(seq, end)?.is_some_and(|block| format::is_batch_of(None, seq, &block)) {
        return Ok((seq, end));
    }
    let later = block(seq + 1, BLOCK_BYTES)?.and_then(|block| decode_batch_header(salt, seq + 1, &block));
    let is_here = later.is_some_and(|later| later.numbers.number > next);
    Ok(if is_here { (seq, end) } else { (seq + 1, BLOCK_BYTES) })
}

pub(super) fn find_salt(disk: &dyn Disk, files: &BTreeMap<u64, PathBuf>) -> Result<Option<u64>, WalError> {
    for path in files.values().rev() {
        match block_at(disk, path, 0)?.as_deref().map(format::decode_segment_header) {
            Some(SegmentHeader::Valid { salt, .. }) => return Ok(Some(salt)),
            Some(SegmentHeader::Unknown { version }) => {
                return Err(WalError::Version { path: path.clone(), found: version, known: VERSION });
            }
            Some(SegmentHeader::Blank) | None => {}
        }
    }
    Ok(None)
}

/// Only the newest file can be one whose making was not finished: its header is then missing, or still the one of the
/// segment that it was before. Headers are synced before the first batch is written, so with a batch it is damage.
pub(super) fn is_unfinished(disk: &dyn Disk, seq: u64, path: &Path, salt: Option<u64>) -> Result<bool, WalError> {
    match block_at(disk, path, 0)?.as_deref().map(format::decode_segment_header) {
        Some(SegmentHeader::Valid { seq: found, .. }) if found == seq => return Ok(false),
        None => return Ok(true),
        _ => {}
    }
    let file = disk.open(path).map_err(|error| WalError::io("open", path, error))?;
    let mut pieces = Pieces::of(&*file, path)?;
    for at in (0..pieces.size).step_by(BLOCK_BYTES as usize) {
        if format::is_batch_of(salt, seq, pieces.at(at, BLOCK_BYTES)?) {
            let what = format!("the segment's header is damaged; block {} holds a batch", at / BLOCK_BYTES);
            return Err(corrupt(path, 0, what));
        }
    }
    Ok(true)
}

/// A segment that is read from front to back. All of it at once would be 64 MiB of memory, which a member has no use for
/// later.
pub(super) struct Pieces<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    pub(super) size: u64,
    /// Where `bytes` begins.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(file: &'a dyn DiskFile, path: &'a Path) -> Result<Self, WalError> {
        let size = file.size().map_err(|error| WalError::io("measure", path, error))?;
        // What a file system tells may be as damaged as anything else.
        if size > MOST_SEGMENT_BYTES {
            return Err(corrupt(path, MOST_SEGMENT_BYTES, format!("{size} bytes are more than a segment can have")));
        }
        Ok(Self { file, path, size, start: 0, bytes: Vec::new() })
    }

    /// So many bytes from there on; fewer where the file ends.
    pub(super) fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], WalError> {
        const PIECE: u64 = 1 << 20;
        let left = self.size.saturating_sub(offset);
        let wanted = bytes.min(left);
        if offset < self.start || offset + wanted > self.start + self.bytes.len() as u64 {
            self.bytes.resize(wanted.max(PIECE).min(left) as usize, 0);
            // What one large batch needed is not kept for the others.
            self.bytes.shrink_to(PIECE as usize);
            self.start = offset;
            self.file.read_at(&mut self.bytes, offset).map_err(|error| WalError::io("read", self.path, error))?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + wanted as usize])
    }
}

fn scan(disk: &dyn Disk, seq: u64, path: &Path, salt: u64) -> Result<Scan, WalError> {
    let file = disk.open(path).map_err(|error| WalError::io("open", path, error))?;
    let mut pieces = Pieces::of(&*file, path)?;
    match format::decode_segment_header(pieces.at(0, BLOCK_BYTES)?) {
        SegmentHeader::Valid { seq: found_seq, salt: found } if (found_seq, found) == (seq, salt) => {}
        SegmentHeader::Unknown { version } => {
            return Err(WalError::Version { path: path.to_owned(), found: version, known: VERSION });
        }
        SegmentHeader::Valid { .. } => return Err(corrupt(path, 0, "the header is that of another segment")),
        SegmentHeader::Blank => return Err(corrupt(path, 0, "the segment's header is damaged")),
    }
    let mut batches: Vec<Batch> = Vec::new();
    let mut end = BLOCK_BYTES;
    while let Some(batch) = read_batch(salt, seq, &mut pieces, end)? {
        if batches.last().is_some_and(|last| !follows(&last.header, &batch.header)) {
            break;
        }
        end += batch.header.batch_bytes();
        batches.push(batch);
    }
    let (mut proof_behind, mut base_behind, mut clean_behind) = (None, None, true);
    for at in (end..pieces.size).step_by(BLOCK_BYTES as usize) {
        let block = pieces.at(at, BLOCK_BYTES)?;
        if let Some(BatchHeader { numbers, .. }) = decode_batch_header(salt, seq, block) {
            (proof_behind, base_behind) = (proof_behind.max(Some(numbers.synced)), base_behind.max(Some(numbers.base)));
        }
        clean_behind &= block.iter().all(|byte| *byte == 0);
    }
    let bytes = pieces.size;
    let segment = Segment { seq, path: path.to_owned(), file, bytes };
    Ok(Scan { segment: Arc::new(segment), batches, end, proof_behind, base_behind, clean_behind })
}

pub(super) fn follows(one: &BatchHeader, next: &BatchHeader) -> bool {
    next.numbers.number == one.numbers.number + 1 && next.numbers.chain == one.crc
}

pub(super) fn read_batch(salt: u64, seq: u64, pieces: &mut Pieces<'_>, offset: u64) -> Result<Option<Batch>, WalError> {
    let Some(header) = decode_batch_header(salt, seq, pieces.at(offset, BLOCK_BYTES)?) else { return Ok(None) };
    let bytes = pieces.at(offset, header.batch_bytes())?;
    // Whole blocks were written: less than that is a tail even if the records are complete.
    let is_whole = bytes.len() as u64 == header.batch_bytes();
    let Some(records) = is_whole.then(|| decode_batch(salt, seq, &header, bytes)).flatten() else { return Ok(None) };
    let found = |(in_batch, record): &(u32, format::Record<'_>)| Found {
        kind: record.kind,
        group: record.group,
        index: record.index,
        offset: offset as u32 + in_batch,
        bytes: record.payload.len() as u32,
        payload: match record.kind {
            Kind::Entry => Bytes::new(),
            _ => Bytes::copy_from_slice(record.payload),
        },
    };
    let records = records.iter().map(found).collect();
    Ok(Some(Batch { header, offset, records }))
}

pub(super) struct Judge<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    files: &'a BTreeMap<u64, PathBuf>,
    salt: u64,
    scans: BTreeMap<u64, Scan>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(disk: &'a dyn Disk, dir: &'a Path, files: &'a BTreeMap<u64, PathBuf>, salt: u64) -> Self {
        Self { disk, dir, files, salt, scans: BTreeMap::new() }
    }

    /// Finds the base and the end. The base is in the last good batch, and which one that is shows only by reading from
    /// the base; so this begins with the last batch there is, and goes back further if that one was torn.
    pub(super) fn judge(mut self) -> Result<Judged, WalError> {
        let (mut base, mut last) = (1, None);
        for seq in self.files.keys().rev() {
            if let Some(batch) = self.scanned(*seq)?.batches.last() {
                (base, last) = (batch.header.numbers.base, Some((*seq, batch.header.numbers.number)));
                break;
            }
        }
        loop {
            let end = match self.find_end(base) {
                Err(error) if !self.files.contains_key(&base) => {
                    let behind = self.damage_behind(base).or_else(|| self.gap_behind(last?));
                    return Err(behind.unwrap_or(error));
                }
                end => end?,
            };
            let true_base = match end.batches.checked_sub(1) {
                Some(at) => {
                    let numbers = self.scanned(end.segment)?.batches[at].header.numbers;
                    last = Some((end.segment, numbers.number));
                    numbers.base
                }
                None => 1,
            };
            if true_base >= base {
                return Ok(Judged { scans: self.scans.split_off(&base), base, end });
            }
            base = true_base;
        }
    }

    /// By the last good batch the log begins with a segment that was used again since: a batch that moved the base is
    /// not whole. Those behind it know the newer base, and reading from there shows where the damage is.
    fn damage_behind(&mut self, base: u64) -> Option<WalError> {
        let files: Vec<u64> = self.files.keys().copied().collect();
        let newer = files.into_iter().filter_map(|seq| self.scanned(seq).ok()?.base_behind).max()?;
        if newer > base { self.find_end(newer).err() } else { None }
    }

    /// The same, and there is no batch behind it, nor anything that shows where one was. A file is made ready only when
    /// the one before it is written to, so the files that are there tell how far the log had come.
    fn gap_behind(&self, (seq, number): (u64, u64)) -> Option<WalError> {
        let end = self.scans.get(&seq)?.end;
        if !self.files.contains_key(&(seq + 1)) {
            return Some(corrupt(&self.dir.join(segment::file_name(seq + 1)), 0, "the segment is missing"));
        }
        if *self.files.keys().next_back()? == seq + 1 {
            return None;
        }
        let (seq, offset) = place_of(self.disk, self.salt, self.files, (seq, end), number + 1).ok()?;
        let what = format!("batch {} is damaged or missing, and the log had gone on behind it", number + 1);
        Some(corrupt(self.files.get(&seq)?, offset, what))
    }

    fn scanned(&mut self, seq: u64) -> Result<&Scan, WalError> {
        if !self.scans.contains_key(&seq) {
            let Some(path) = self.files.get(&seq) else {
                return Err(corrupt(&self.dir.join(segment::file_name(seq)), 0, "the segment is missing"));
            };
            let scan = scan(self.disk, seq, path, self.salt)?;
            let bytes = scan.segment.bytes;
            // The newest may be one whose making was not finished. The others were synced, length and all.
            if bytes < LEAST_SEGMENT_BYTES && self.files.range(seq + 1..).next().is_some() {
                return Err(corrupt(path, bytes, "the file is cut short"));
            }
            self.scans.insert(seq, scan);
        }
        Ok(&self.scans[&seq])
    }

    /// Reads on from `base` to the first place where the next batch is not, and applies the rule there.
    fn find_end(&mut self, base: u64) -> Result<End, WalError> {
        let newest = self.files.keys().next_back().copied().unwrap_or(base);
        let mut last: Option<BatchHeader> = None;
        let mut end = End { segment: base, batches: 0, torn: false };
        for seq in base..=newest {
            let scan = self.scanned(seq)?;
            let fits = match (scan.batches.first(), &last) {
                (None, _) => true,
                (Some(first), Some(last)) => follows(last, &first.header),
                // The base is only ever moved to a segment with a batch in it, so there its first one is taken as found.
                (Some(first), None) => {
                    if base == 1 {
                        first.header.numbers.number == 1
                    } else {
                        seq == base
                    }
                }
            };
            if fits && let Some(batch) = scan.batches.last() {
                last = Some(batch.header);
                end = End { segment: seq, batches: scan.batches.len(), torn: false };
            }
            if !fits || scan.proof_behind.is_some() {
                return self.judge_break(end, last, seq, fits);
            }
        }
        if last.is_none() && base > 1 {
            return self.judge_break(end, None, base, true);
        }
        Ok(end)
    }

    /// `end` is behind the last good batch; something valid is found behind that, in `seq` or later.
    fn judge_break(&mut self, end: End, last: Option<BatchHeader>, seq: u64, fits: bool) -> Result<End, WalError> {
        let next = last.map_or(1, |last| last.numbers.number + 1);
        let good_in_seq = if fits { self.scanned(seq)?.batches.len() } else { 0 };
        let mut proof = self.scanned(seq)?.proof_behind;
        for later in self.files.range(seq..).map(|(seq, _)| *seq).collect::<Vec<_>>() {
            let skip = if later == seq { good_in_seq } else { 0 };
            let scan = self.scanned(later)?;
            let synced = scan.batches.iter().skip(skip).map(|batch| batch.header.numbers.synced);
            proof = synced.chain(scan.proof_behind).chain(proof).max();
        }
        let scan = self.scanned(end.segment)?;
        if proof.is_some_and(|proof| proof >= next) || (last.is_none() && end.segment > 1) {
            let here = (end.segment, if end.batches == 0 { BLOCK_BYTES } else { scan.end });
            let known = last.is_some() || end.segment == 1;
            let (seq, offset) = match scan.proof_behind {
                None if known => place_of(self.disk, self.salt, self.files, here, next)?,
                _ => here,
            };
            let batch = if known { format!("batch {next}") } else { "the first batch that counts".to_owned() };
            let what = format!("{batch} is damaged or missing, and it had been acknowledged");
            return Err(corrupt(&self.files[&seq], offset, what));
        }
        Ok(End { torn: true, ..end })
    }
}

/// Rebuilds what is known in memory from the records of the good batches.
pub(super) fn replay(judged: &Judged, config: &WalConfig, salt: u64) -> Result<Opened, WalError> {
    let mut groups: BTreeMap<u64, GroupState> = BTreeMap::new();
    let mut state = State::new(config.cache_bytes);
    let mut live = BTreeMap::new();
    let mut recovered = Recovered::default();
    let (mut number, mut chain) = (0, 0);
    for (seq, scan) in judged.scans.range(..=judged.end.segment) {
        let good = if *seq == judged.end.segment { judged.end.batches } else { scan.batches.len() };
        for batch in &scan.batches[..good] {
            for record in &batch.records {
                apply(&mut groups, *seq, record)
                    .map_err(|what| corrupt(&scan.segment.path, u64::from(record.offset), what))?;
            }
            (number, chain) = (batch.header.numbers.number, batch.header.crc);
        }
        let used = scan.batches[..good].last().map_or(BLOCK_BYTES, |last| last.offset + last.header.batch_bytes());
        live.insert(*seq, Live { segment: Arc::clone(&scan.segment), entries: 0, used });
        state.segments.insert(*seq, Arc::clone(&scan.segment));
        recovered.bytes += used;
        recovered.batches += good as u64;
    }
    let Some(active) = live.get(&judged.end.segment) else {
        return Err(corrupt(Path::new(&segment::file_name(judged.end.segment)), 0, "the segment is missing"));
    };
    let (active, end) = (Arc::clone(&active.segment), active.used);
    for (id, group) in &groups {
        let gap = group.first_index().zip(group.marks.purged.as_ref()).filter(|(first, (upto, _))| *first > upto + 1);
        if let Some((first, (upto, _))) = gap {
            let what = format!("group {id} was purged up to entry {upto} but goes on at {first} only");
            return Err(corrupt(&active.path, end, what));
        }
        for slot in group.slots() {
            if let Some(live) = live.get_mut(&slot.segment) {
                live.entries += 1;
            }
        }
        recovered.groups.insert(*id, group.recovered());
    }
    if judged.end.torn {
        recovered.cut = Some((segment::file_name(active.seq), end));
    }
    let marks = groups.iter().map(|(id, group)| (*id, group.marks.clone())).collect();
    state.groups = groups;
    let free = VecDeque::new();
    let position = Position { live, active, end, next: None, free, marks, number, base: judged.base, chain };
    Ok(Opened { state, position, recovered, salt })
}

pub(super) fn apply(groups: &mut BTreeMap<u64, GroupState>, segment: u64, record: &Found) -> Result<(), String> {
    let group = groups.entry(record.group).or_default();
    match record.kind {
        Kind::Entry => {
            // With nothing before it, it may follow entries that were in a segment that is gone: the purge mark that let
            // them go comes later in the log, and whether it fits is checked at the end.
            let fits = match (group.last_index(), &group.marks.purged) {
                (Some(last), _) => record.index == last + 1,
                (None, Some((upto, _))) => record.index > *upto,
                (None, None) => true,
            };
            if !fits {
                let next = group.next_index().unwrap_or(0);
                return Err(format!("entry {} of group {} where {next} is next", record.index, record.group));
            }
            group.push_on_disk(record.index, Slot { op: 0, segment, offset: record.offset, bytes: record.bytes });
        }
        Kind::Truncate => {
            group.truncate(record.index, &mut Releases::new());
        }
        Kind::Vote => group.marks.vote = Some(record.payload.clone()),
        Kind::Committed => group.marks.committed = Some(record.payload.clone()),
        Kind::Purge => {
            group.purge(record.index, record.payload.clone(), &mut Releases::new());
        }
    }
    Ok(())
}

/// Makes the directory say what was decided: the tail cut, all that counts durable.
fn repair(
    disk: &dyn Disk,
    dir: &Path,
    judged: &Judged,
    opened: &mut Opened,
    config: &WalConfig,
) -> Result<(), WalError> {
    let (position, salt) = (&mut opened.position, opened.salt);
    let active = Arc::clone(&position.active);
    let scan = &judged.scans[&active.seq];
    let good = &scan.batches[..judged.end.batches];
    let io = |what| move |error| (what, error);
    let tail = || -> Result<(), (&'static str, io::Error)> {
        // No later batch proves these durable. Written again, they are dirty again, and the sync is about them.
        let proven = good.last().map_or(0, |last| last.header.numbers.synced);
        if let Some(first) = good.iter().find(|batch| batch.header.numbers.number > proven) {
            let mut bytes = vec![0; (position.end - first.offset) as usize];
            active.file.read_at(&mut bytes, first.offset).map_err(io("read"))?;
            active.file.write_at(&bytes, first.offset).map_err(io("write"))?;
        }
        if !(scan.clean_behind && position.end == scan.end) {
            segment::fill(&*active.file, position.end, active.bytes).map_err(io("fill"))?;
        }
        active.file.sync_data().map_err(io("sync"))
    };
    tail().map_err(|(what, error)| WalError::io(what, &active.path, error))?;
    // From the newest back, each made durable alone: a gap between segments must never be seen.
    for (seq, scan) in judged.scans.range(active.seq + 1..).rev() {
        let path = &scan.segment.path;
        let pristine = scan.batches.is_empty() && scan.clean_behind && scan.segment.bytes == config.segment_bytes;
        if *seq == active.seq + 1 && pristine {
            // The process before may have ended ahead of the sync of its header, which batches count on.
            let header = scan.segment.file.write_at(&format::encode_segment_header(*seq, salt), 0);
            header.and_then(|()| scan.segment.file.sync_data()).map_err(|error| WalError::io("sync", path, error))?;
            position.next = Some(Arc::clone(&scan.segment));
        } else {
            disk.remove(path).map_err(|error| WalError::io("remove", path, error))?;
            disk.sync_dir(dir).map_err(|error| WalError::io("sync", dir, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memdisk::MemDisk;

    #[test]
    fn a_segment_is_read_in_pieces_and_never_kept_whole() {
        const SIZE: usize = (5 << 20) + 100;
        let disk = MemDisk::new();
        let path = Path::new("/segment");
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        let file = disk.create(path).unwrap();
        file.write_at(&bytes, 0).unwrap();
        let mut pieces = Pieces::of(&*file, path).unwrap();
        let mut at = 0;
        for wanted in [1, 4096, (1 << 20) - 4096, 4097, 3 << 20, 4096, 7, 1 << 20, 1, 1] {
            let end = SIZE.min(at + wanted);
            assert!(*pieces.at(at as u64, wanted as u64).unwrap() == bytes[at..end], "{wanted} bytes at {at}");
            at = end;
        }
        assert_eq!(at, SIZE, "to the end, and not a byte beyond it");
        // Back, as for a header that is looked at once more.
        assert!(*pieces.at(4096, 4096).unwrap() == bytes[4096..8192]);
        assert!(pieces.bytes.capacity() <= 1 << 20);
    }
}
