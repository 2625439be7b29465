//! The file of a backup: the state of a group at one position of its log, in a form that any later program can read.
//!
//! ```text
//! file    8 bytes "QUORBAK2", then frames: one head, pieces, one end, and nothing behind it
//! frame   kind u8, length of the body u32, crc32 u32 over kind, length and body, body
//! head    kind 1: codec version 1 of [`Head`]
//! piece   kind 2: chunk u128, 1 if it is the chunk's last piece or 0, bytes; at most 256 KiB of them
//! end     kind 3: codec version 1 of [`End`]; its digest is the SHA-256 of the file up to this frame
//! ```
//!
//! All numbers are little endian. Chunks come in ascending order, each in consecutive pieces. A reader holds one chunk
//! at most, and believes nothing before the end has come: a file without its end is no backup.
//!
//! This module must never know what a chunk holds.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec;

const MAGIC: &[u8; 8] = b"QUORBAK2";
const VERSION: u8 = 1;
const FRAME_HEAD_BYTES: usize = 9;
const PIECE_HEAD_BYTES: usize = 17;
/// Bytes of a chunk in one piece.
pub const PIECE_BYTES: usize = 256 << 10;
const MAX_BODY_BYTES: usize = 64 << 20;

const HEAD: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;

/// What a backup says of itself before its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The program that wrote it, with its version.
    pub program: String,
    /// The group it was taken of.
    pub group_uuid: [u8; 16],
    /// The member that gave it.
    pub member: u64,
    /// The term of the last entry in it.
    pub term: u64,
    /// Who led in that term.
    pub leader: u64,
    /// The index of the last entry in it.
    pub index: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Keys in each database.
    pub databases: Vec<u64>,
    /// How many chunks follow.
    pub chunks: u64,
    /// What the state has besides its chunks. It holds the secret seed of the group's hashes.
    pub state: Vec<u8>,
}

/// What a backup says of itself after its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Chunks that came.
    pub chunks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// SHA-256 of everything in front of this frame.
    pub digest: [u8; 32],
}

/// Why a file is no backup that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file system, or whoever gives the bytes, said no.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin like one.
    #[error("it is no backup: it does not begin with {:?}", String::from_utf8_lossy(MAGIC))]
    Foreign,
    /// It is a backup of another format.
    #[error(
        "it is a backup of format version {0}, and this program reads 2 only: read it with the version of quorate that \
         wrote it"
    )]
    Version(char),
    /// It ends too early.
    #[error("it ends at byte {0}, before its end was written: the backup was broken off")]
    Cut(u64),
    /// Bytes are not what was written.
    #[error("it is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong there.
        what: String,
    },
}

/// Makes the bytes of a backup, frame by frame.
#[derive(Debug)]
pub struct Encoder {
    sha: Sha256,
    chunks: u64,
    bytes: u64,
}

impl Encoder {
    /// Begins one: appends magic and head.
    #[must_use]
    pub fn begin(head: &Head, out: &mut Vec<u8>) -> Self {
        let mut encoder = Self { sha: Sha256::new(), chunks: 0, bytes: 0 };
        out.extend_from_slice(MAGIC);
        encoder.sha.update(MAGIC);
        encoder.frame(HEAD, &encoded(head), out);
        encoder
    }

    /// Appends a whole chunk, in pieces.
    pub fn chunk(&mut self, number: u128, data: &[u8], out: &mut Vec<u8>) {
        let pieces = data.len().div_ceil(PIECE_BYTES).max(1);
        for piece in 0..pieces {
            let from = piece * PIECE_BYTES;
            let bytes = &data[from..data.len().min(from + PIECE_BYTES)];
            let mut body = Vec::with_capacity(PIECE_HEAD_BYTES + bytes.len());
            body.extend_from_slice(&number.to_le_bytes());
            body.push(u8::from(piece + 1 == pieces));
            body.extend_from_slice(bytes);
            self.frame(PIECE, &body, out);
        }
        self.chunks += 1;
        self.bytes += data.len() as u64;
    }

    /// Appends the end.
    #[must_use]
    pub fn end(mut self, out: &mut Vec<u8>) -> End {
        let digest = self.sha.clone().finalize().into();
        let end = End { chunks: self.chunks, bytes: self.bytes, digest };
        self.frame(END, &encoded(&end), out);
        end
    }

    fn frame(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        out.push(kind);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc(kind, length, body).to_le_bytes());
        out.extend_from_slice(body);
        self.sha.update(&out[start..]);
    }
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(VERSION, value).unwrap_or_else(|error| unreachable!("plain fields can be encoded: {error}"))
}

fn crc(kind: u8, length: u32, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&length.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Reads a backup from its first byte to its last, and checks every one of them.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    at: u64,
    sha: Sha256,
    head: Head,
    chunks: u64,
    bytes: u64,
    last: Option<u128>,
    end: Option<End>,
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// If it is no backup, or its head is damaged.
    pub fn open(input: R) -> Result<Self, BackupError> {
        let (sha, head) = (Sha256::new(), Head::default());
        let mut reader = Self { input, at: 0, sha, head, chunks: 0, bytes: 0, last: None, end: None };
        let mut magic = [0; MAGIC.len()];
        match reader.fill(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) if magic[..7] == MAGIC[..7] => return Err(BackupError::Version(char::from(magic[7]))),
            Ok(()) | Err(BackupError::Cut(_)) => return Err(BackupError::Foreign),
            Err(error) => return Err(error),
        }
        reader.sha.update(magic);
        let (kind, body) = reader.frame()?;
        if kind != HEAD {
            return Err(reader.damaged("the head is missing"));
        }
        reader.head = reader.decoded(&body)?;
        Ok(reader)
    }

    /// What it says of itself.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// What it says at its end; known once [`Reader::next_chunk`] has given `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The next chunk. `None`: the end has come, and everything before it is proven whole.
    ///
    /// # Errors
    /// At the first byte that is not what was written; nothing that came before may be used then.
    pub fn next_chunk(&mut self) -> Result<Option<(u128, Vec<u8>)>, BackupError> {
        let mut open: Option<(u128, Vec<u8>)> = None;
        while self.end.is_none() {
            let before = self.sha.clone();
            let (kind, body) = self.frame()?;
            match (kind, &open) {
                (PIECE, _) if body.len() >= PIECE_HEAD_BYTES => {}
                (END, None) => {
                    self.finish(&body, before)?;
                    return Ok(None);
                }
                (END, Some(_)) => return Err(self.damaged("a chunk was not finished")),
                _ => return Err(self.damaged("a frame of an unknown kind")),
            }
            let number = body[..16].iter().rev().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
            let (last, data) = (body[16] == 1, &body[PIECE_HEAD_BYTES..]);
            let chunk = open.get_or_insert_with(|| (number, Vec::new()));
            if chunk.0 != number || self.last.is_some_and(|last| last >= number) {
                return Err(self.damaged("the chunks are not in order"));
            }
            chunk.1.extend_from_slice(data);
            if last {
                self.last = Some(number);
                self.chunks += 1;
                self.bytes += chunk.1.len() as u64;
                return Ok(open);
            }
        }
        Ok(None)
    }

    fn finish(&mut self, body: &[u8], before: Sha256) -> Result<(), BackupError> {
        let end: End = self.decoded(body)?;
        let digest: [u8; 32] = before.finalize().into();
        if end.digest != digest {
            return Err(self.damaged("the digest of the whole is another"));
        }
        if (end.chunks, end.bytes) != (self.chunks, self.bytes) || end.chunks != self.head.chunks {
            return Err(self.damaged("chunks are missing or too many"));
        }
        let mut more = [0];
        if !matches!(self.fill(&mut more), Err(BackupError::Cut(_))) {
            return Err(self.damaged("there is something behind its end"));
        }
        self.end = Some(end);
        Ok(())
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let mut head = [0; FRAME_HEAD_BYTES];
        self.fill(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, length, sum) = (head[0], number(1), number(5));
        if length as usize > MAX_BODY_BYTES {
            return Err(self.damaged("a frame is too long"));
        }
        let mut body = vec![0; length as usize];
        self.fill(&mut body)?;
        if crc(kind, length, &body) != sum {
            return Err(self.damaged("the checksum of a frame is wrong"));
        }
        self.sha.update(head);
        self.sha.update(&body);
        Ok((kind, body))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), BackupError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BackupError::Cut(self.at)),
            Err(error) => Err(error.into()),
        }
    }

    fn decoded<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, BackupError> {
        codec::decode(VERSION, body, MAX_BODY_BYTES).map_err(|error| self.damaged(&error.to_string()))
    }

    fn damaged(&self, what: &str) -> BackupError {
        BackupError::Damaged { at: self.at, what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(chunks: u64) -> Head {
        Head {
            program: "quorate 0.1.0".to_owned(),
            group_uuid: [7; 16],
            member: 2,
            term: 3,
            leader: 1,
            index: 99,
            taken_ms: 1_700_000_000_000,
            databases: vec![5, 0],
            chunks,
            state: b"state".to_vec(),
        }
    }

    fn sample() -> (Vec<u8>, Vec<(u128, Vec<u8>)>) {
        let chunks = vec![(3, b"three".to_vec()), (4, vec![1; PIECE_BYTES + 7]), (1 << 40, Vec::new())];
        let mut out = Vec::new();
        let mut encoder = Encoder::begin(&head(3), &mut out);
        for (number, data) in &chunks {
            encoder.chunk(*number, data, &mut out);
        }
        let end = encoder.end(&mut out);
        assert_eq!((end.chunks, end.bytes), (3, (PIECE_BYTES + 12) as u64));
        (out, chunks)
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u128, Vec<u8>)>, BackupError> {
        let mut reader = Reader::open(bytes)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            chunks.push(chunk);
        }
        assert_eq!(reader.position(), bytes.len() as u64);
        assert_eq!(reader.head(), &head(3));
        Ok(chunks)
    }

    #[test]
    fn a_backup_comes_back_as_it_was() {
        let (bytes, chunks) = sample();
        assert_eq!(read(&bytes).unwrap(), chunks);
    }

    #[test]
    fn every_cut_is_found() {
        let (bytes, _) = sample();
        let cuts = (0..400).chain((400..bytes.len()).step_by(997)).chain(bytes.len() - 100..bytes.len());
        for cut in cuts {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(read(&longer).unwrap_err().to_string().contains("behind its end"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, _) = sample();
        let places = (0..400).chain((400..bytes.len()).step_by(1009)).chain(bytes.len() - 100..bytes.len());
        for at in places {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(read(&damaged).is_err(), "{at}");
        }
    }

    #[test]
    fn frames_that_were_left_out_or_swapped_are_found_though_each_is_right() {
        let mut out = Vec::new();
        let mut encoder = Encoder::begin(&head(3), &mut out);
        let mut cuts = vec![out.len()];
        for number in [1, 2, 3] {
            encoder.chunk(number, &[number as u8; 10], &mut out);
            cuts.push(out.len());
        }
        let _ = encoder.end(&mut out);
        let part = |at: usize| out[cuts[at]..cuts[at + 1]].to_vec();
        let (start, tail) = (out[..cuts[0]].to_vec(), out[cuts[3]..].to_vec());
        let left_out = [start.clone(), part(0), part(2), tail.clone()].concat();
        assert!(read(&left_out).unwrap_err().to_string().contains("digest"));
        let swapped = [start, part(1), part(0), part(2), tail].concat();
        assert!(read(&swapped).unwrap_err().to_string().contains("in order"));
    }
}
