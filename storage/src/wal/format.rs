//! The bytes of a segment: how they are made and how they are checked. No IO here.
//!
//! All numbers are little endian. A segment is one block of header, then batches; a batch begins at a multiple of
//! [`BLOCK_BYTES`], so that no write ever touches a sector that holds acknowledged bytes.
//!
//! ```text
//! segment header, one block
//! offset  size  field
//!      0     8  "QUORWAL\n"
//!      8     4  format version, 1
//!     12     4  block size, 512
//!     16     8  segment sequence number, from 1; also the name of the file, 16 hex digits and ".wal"
//!     24     8  salt: random, the same in all segments of a log
//!     32     4  crc32 of bytes 0..32
//!     36     …  zeros
//!
//! batch: header, records, zeros up to the next block
//! offset  size  field
//!      0     4  "QWB1"
//!      4     4  crc32 of the salt and bytes 8..56
//!      8     8  segment sequence number
//!     16     8  batch number, from 1, without gaps over all segments
//!     24     8  synced: every batch up to this number was known to be durable when this one was written
//!     32     8  base: sequence number of the oldest segment that is still needed
//!     40     4  bytes of all records
//!     44     4  number of records
//!     48     4  digest: crc32 of the crc fields of all records
//!     52     4  chain: the crc field (offset 4) of the batch before; 0 before the first
//!
//! record
//! offset  size  field
//!      0     4  bytes of the payload
//!      4     4  crc32 of the salt, the segment sequence number, bytes 8..25 and the payload
//!      8     1  kind
//!      9     8  group
//!     17     8  index
//!     25     …  payload
//! ```
//!
//! | kind | name | index | payload |
//! |---|---|---|---|
//! | 1 | entry | of the entry | the caller's bytes |
//! | 2 | truncate | first index that is gone | – |
//! | 3 | vote | 0 | the caller's bytes |
//! | 4 | committed | 0 | the caller's bytes |
//! | 5 | purge | last index that is gone | the caller's mark |
//!
//! Segments are used again without being emptied: what makes old bytes invalid is the sequence number in every
//! checksum. The salt keeps bytes that a client stored from ever looking like a batch.

pub(super) const BLOCK_BYTES: u64 = 512;
/// The least that a segment has, and the most: places in it are kept in 32 bits.
pub(super) const LEAST_SEGMENT_BYTES: u64 = 8 * BLOCK_BYTES;
pub(super) const MOST_SEGMENT_BYTES: u64 = u32::MAX as u64;
pub(super) const VERSION: u32 = 1;
pub(super) const BATCH_HEADER_BYTES: usize = 56;
pub(super) const RECORD_HEADER_BYTES: usize = 25;

const BLOCK: usize = 512;
const SEGMENT_MAGIC: [u8; 8] = *b"QUORWAL\n";
const BATCH_MAGIC: [u8; 4] = *b"QWB1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Entry = 1,
    Truncate = 2,
    Vote = 3,
    Committed = 4,
    Purge = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Entry, Self::Truncate, Self::Vote, Self::Committed, Self::Purge]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

/// Rounds up to whole blocks.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// What the first block of a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    /// Nothing valid: never finished, or damaged.
    Blank,
    /// Written by another version of this program.
    Unknown {
        version: u32,
    },
    Valid {
        seq: u64,
        salt: u64,
    },
}

pub(super) fn encode_segment_header(seq: u64, salt: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    out.extend_from_slice(&SEGMENT_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(BLOCK as u32).to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out.resize(BLOCK, 0);
    out
}

pub(super) fn decode_segment_header(block: &[u8]) -> SegmentHeader {
    if block.len() < BLOCK || block[..8] != SEGMENT_MAGIC || u32_at(block, 32) != crc32fast::hash(&block[..32]) {
        return SegmentHeader::Blank;
    }
    match (u32_at(block, 8), u32_at(block, 12) as usize) {
        (VERSION, BLOCK) => SegmentHeader::Valid { seq: u64_at(block, 16), salt: u64_at(block, 24) },
        (version, _) => SegmentHeader::Unknown { version },
    }
}

/// Builds one batch in memory.
pub(super) struct BatchBuilder {
    salt: u64,
    seq: u64,
    bytes: Vec<u8>,
    records: u32,
    digest: crc32fast::Hasher,
}

/// The numbers of a batch's header that the writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchNumbers {
    pub(super) number: u64,
    pub(super) synced: u64,
    pub(super) base: u64,
    pub(super) chain: u32,
}

impl BatchBuilder {
    pub(super) fn new(salt: u64) -> Self {
        Self { salt, seq: 0, bytes: Vec::new(), records: 0, digest: crc32fast::Hasher::new() }
    }

    pub(super) fn begin(&mut self, seq: u64) {
        // A giant batch must not be paid for for ever.
        if self.bytes.capacity() > 16 << 20 {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        self.seq = seq;
        self.records = 0;
        self.digest = crc32fast::Hasher::new();
    }

    /// Adds a record and tells where in the batch it begins. The payload's length has been checked before.
    pub(super) fn push(&mut self, kind: Kind, group: u64, index: u64, payload: &[u8]) -> u32 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.extend_from_slice(&index.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        let crc = record_crc(self.salt, self.seq, &self.bytes[start..]).to_le_bytes();
        self.bytes[start + 4..start + 8].copy_from_slice(&crc);
        self.digest.update(&crc);
        self.records += 1;
        start as u32
    }

    /// Completes the batch: its bytes, whole blocks, and its crc, which is the chain of the next one.
    pub(super) fn finish(&mut self, numbers: BatchNumbers) -> (&[u8], u32) {
        let body_bytes = (self.bytes.len() - BATCH_HEADER_BYTES) as u32;
        let header = &mut self.bytes[..BATCH_HEADER_BYTES];
        header[..4].copy_from_slice(&BATCH_MAGIC);
        header[8..16].copy_from_slice(&self.seq.to_le_bytes());
        header[16..24].copy_from_slice(&numbers.number.to_le_bytes());
        header[24..32].copy_from_slice(&numbers.synced.to_le_bytes());
        header[32..40].copy_from_slice(&numbers.base.to_le_bytes());
        header[40..44].copy_from_slice(&body_bytes.to_le_bytes());
        header[44..48].copy_from_slice(&self.records.to_le_bytes());
        header[48..52].copy_from_slice(&self.digest.clone().finalize().to_le_bytes());
        header[52..56].copy_from_slice(&numbers.chain.to_le_bytes());
        let crc = batch_crc(self.salt, header);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        (&self.bytes, crc)
    }
}

fn batch_crc(salt: u64, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&header[8..BATCH_HEADER_BYTES]);
    hasher.finalize()
}

fn record_crc(salt: u64, seq: u64, record: &[u8]) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&salt.to_le_bytes());
    seed[8..].copy_from_slice(&seq.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed);
    hasher.update(&record[8..]);
    hasher.finalize()
}

/// A batch header that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) numbers: BatchNumbers,
    pub(super) crc: u32,
    body_bytes: u32,
    records: u32,
    digest: u32,
}

impl BatchHeader {
    /// Bytes of the whole batch on disk, padding included.
    pub(super) fn batch_bytes(&self) -> u64 {
        blocks(BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
}

/// The header at the beginning of `bytes`, if it is one of this incarnation of the segment.
pub(super) fn decode_batch_header(salt: u64, seq: u64, bytes: &[u8]) -> Option<BatchHeader> {
    let header = bytes.get(..BATCH_HEADER_BYTES)?;
    if header[..4] != BATCH_MAGIC || u64_at(header, 8) != seq || u32_at(header, 4) != batch_crc(salt, header) {
        return None;
    }
    let numbers = BatchNumbers {
        number: u64_at(header, 16),
        synced: u64_at(header, 24),
        base: u64_at(header, 32),
        chain: u32_at(header, 52),
    };
    Some(BatchHeader {
        numbers,
        crc: u32_at(header, 4),
        body_bytes: u32_at(header, 40),
        records: u32_at(header, 44),
        digest: u32_at(header, 48),
    })
}

/// True if a block begins a batch of this incarnation. Without a salt to check with, its looks must do.
pub(super) fn is_batch_of(salt: Option<u64>, seq: u64, block: &[u8]) -> bool {
    match salt {
        Some(salt) => decode_batch_header(salt, seq, block).is_some(),
        None => block.len() >= 16 && block[..4] == BATCH_MAGIC && u64_at(block, 8) == seq,
    }
}

/// A record that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) group: u64,
    pub(super) index: u64,
    pub(super) payload: &'a [u8],
    crc: u32,
}

/// The record at the beginning of `bytes`.
pub(super) fn decode_record(salt: u64, seq: u64, bytes: &[u8]) -> Option<Record<'_>> {
    let payload_bytes = u32_at(bytes.get(..RECORD_HEADER_BYTES)?, 0) as usize;
    let record = bytes.get(..RECORD_HEADER_BYTES.checked_add(payload_bytes)?)?;
    let crc = u32_at(record, 4);
    let right = crc == record_crc(salt, seq, record);
    #[cfg(madsim)]
    let right = right || crate::mutants::on(crate::mutants::Mutant::TornTailAccepted);
    if !right {
        return None;
    }
    Some(Record {
        kind: Kind::from_byte(record[8])?,
        group: u64_at(record, 9),
        index: u64_at(record, 17),
        payload: &record[RECORD_HEADER_BYTES..],
        crc,
    })
}

/// All records of the batch at the beginning of `bytes`, each with its offset in the batch; `None` unless every one of
/// them and the whole are right.
pub(super) fn decode_batch<'a>(
    salt: u64,
    seq: u64,
    header: &BatchHeader,
    bytes: &'a [u8],
) -> Option<Vec<(u32, Record<'a>)>> {
    let batch = bytes.get(..BATCH_HEADER_BYTES.checked_add(header.body_bytes as usize)?)?;
    let mut records = Vec::new();
    let mut digest = crc32fast::Hasher::new();
    let mut at = BATCH_HEADER_BYTES;
    while at < batch.len() {
        let record = decode_record(salt, seq, &batch[at..])?;
        digest.update(&record.crc.to_le_bytes());
        records.push((at as u32, record));
        at += RECORD_HEADER_BYTES + record.payload.len();
    }
    let right = records.len() == header.records as usize && digest.finalize() == header.digest;
    #[cfg(madsim)]
    let right = right || crate::mutants::on(crate::mutants::Mutant::TornTailAccepted);
    right.then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: BatchNumbers = BatchNumbers { number: 3, synced: 2, base: 1, chain: 77 };

    fn example() -> (Vec<u8>, u32) {
        let mut builder = BatchBuilder::new(5);
        builder.begin(9);
        builder.push(Kind::Entry, 1, 10, b"ten");
        builder.push(Kind::Vote, 2, 0, b"");
        let (bytes, crc) = builder.finish(NUMBERS);
        (bytes.to_vec(), crc)
    }

    #[test]
    fn a_batch_reads_back_as_it_was_built() {
        let (bytes, crc) = example();
        assert_eq!(bytes.len() as u64, BLOCK_BYTES);
        let header = decode_batch_header(5, 9, &bytes).unwrap();
        assert_eq!((header.numbers, header.crc, header.batch_bytes()), (NUMBERS, crc, BLOCK_BYTES));
        let records = decode_batch(5, 9, &header, &bytes).unwrap();
        let entry = records[0].1;
        assert_eq!((entry.kind, entry.group, entry.index, entry.payload), (Kind::Entry, 1, 10, &b"ten"[..]));
        assert_eq!((records[1].1.kind, records[1].1.group), (Kind::Vote, 2));
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn any_flipped_bit_of_a_batch_is_found() {
        let (bytes, _) = example();
        let used = BATCH_HEADER_BYTES + 2 * RECORD_HEADER_BYTES + 3;
        for bit in 0..used * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header = decode_batch_header(5, 9, &bytes);
            assert!(header.is_none_or(|header| decode_batch(5, 9, &header, &bytes).is_none()), "bit {bit}");
        }
    }

    #[test]
    fn a_batch_of_another_incarnation_or_another_log_is_nothing() {
        let (bytes, _) = example();
        assert_eq!(decode_batch_header(5, 10, &bytes), None);
        assert_eq!(decode_batch_header(6, 9, &bytes), None);
        assert_eq!(decode_record(5, 10, &bytes[BATCH_HEADER_BYTES..]), None);
    }

    #[test]
    fn segment_headers_are_told_apart() {
        let mut block = encode_segment_header(3, 4);
        assert_eq!(decode_segment_header(&block), SegmentHeader::Valid { seq: 3, salt: 4 });
        block[8] = 2;
        assert_eq!(decode_segment_header(&block), SegmentHeader::Blank);
        let crc = crc32fast::hash(&block[..32]);
        block[32..36].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_segment_header(&block), SegmentHeader::Unknown { version: 2 });
        assert_eq!(decode_segment_header(&[0; BLOCK]), SegmentHeader::Blank);
    }

    #[test]
    fn the_bytes_of_version_one_stay_what_they_are() {
        let (bytes, crc) = example();
        let segment = encode_segment_header(3, 4);
        // Worked out from the table above by another program.
        assert_eq!(crc, 3500047600);
        assert_eq!(crc32fast::hash(&bytes), 2659696756);
        assert_eq!(crc32fast::hash(&segment), 4223320973);
    }
}
