//! Frames: what goes over a connection once the handshake is done.
//!
//! ```text
//! length u32 · kind u8 · group u64 · request u64 · body      (the length counts what follows it)
//! ```
//!
//! Both sides send requests, whoever dialled, and each numbers its own; an answer carries the number of the request, so
//! kinds below 32 speak of their sender's numbers and the others of their receiver's. A frame that is too long, or of a
//! kind that is not known, ends the connection.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes after the length that every frame has.
const HEAD_BYTES: usize = 17;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One AppendEntries of a stream; the request number names the stream.
    Append = 1,
    /// The stream gets no more requests.
    AppendEnd = 2,
    Vote = 3,
    PreVote = 4,
    Transfer = 5,
    /// A snapshot begins; the request number names the transfer.
    SnapshotBegin = 6,
    /// A piece of it; each is answered.
    SnapshotPiece = 7,
    /// It is complete: install it.
    SnapshotEnd = 8,
    /// It will not be completed.
    SnapshotCancel = 9,
    /// A call of a service.
    Call = 10,
    Ping = 11,
    /// The answer to a request.
    Reply = 32,
    /// The request failed on the other side: a code and words.
    Failure = 33,
    /// The other side closes the connection and says why: a code and words.
    Goodbye = 34,
    /// A part of the answer to a call; the rest of it follows. The last part is a reply.
    Part = 35,
}

impl Kind {
    fn from_u8(n: u8) -> Option<Kind> {
        Some(match n {
            1 => Kind::Append,
            2 => Kind::AppendEnd,
            3 => Kind::Vote,
            4 => Kind::PreVote,
            5 => Kind::Transfer,
            6 => Kind::SnapshotBegin,
            7 => Kind::SnapshotPiece,
            8 => Kind::SnapshotEnd,
            9 => Kind::SnapshotCancel,
            10 => Kind::Call,
            11 => Kind::Ping,
            32 => Kind::Reply,
            33 => Kind::Failure,
            34 => Kind::Goodbye,
            35 => Kind::Part,
            _ => return None,
        })
    }
}

/// A frame that was read.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) group: u64,
    pub(crate) request: u64,
    pub(crate) body: Bytes,
}

/// Makes a frame; `body` writes straight behind the head.
pub(crate) fn encode(kind: Kind, group: u64, request: u64, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u32(0);
    out.put_u8(kind as u8);
    out.put_u64(group);
    out.put_u64(request);
    body(&mut out);
    let length = u32::try_from(out.len() - 4).expect("limits keep frames below 4 GiB");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

/// A failure or a goodbye.
pub(crate) fn encode_failure(kind: Kind, group: u64, request: u64, code: u8, words: &str) -> Bytes {
    encode(kind, group, request, |out| {
        out.put_u8(code);
        out.put_slice(words.as_bytes());
    })
}

/// Reads frames from a stream.
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, limit: usize) -> Self {
        Self { io, buffer: BytesMut::with_capacity(64 << 10), limit }
    }

    /// The next frame; `None` when the stream ended between two frames.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a frame"))
                };
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.buffer.get(..4) else { return Ok(None) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length < HEAD_BYTES || length > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes (allowed: {HEAD_BYTES} to {})", self.limit),
            ));
        }
        if self.buffer.len() < 4 + length {
            // Room for the whole frame at once, but no more than has been announced in good faith:
            // the buffer grows with what really comes.
            let missing = 4 + length - self.buffer.len();
            self.buffer.reserve(missing.min(1 << 20));
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut frame = self.buffer.split_to(length).freeze();
        let kind = frame.get_u8();
        let kind = Kind::from_u8(kind)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a frame of kind {kind}")))?;
        Ok(Some(Frame { kind, group: frame.get_u64(), request: frame.get_u64(), body: frame }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(bytes: &[u8], limit: usize) -> io::Result<Vec<Frame>> {
        let mut reader = FrameReader::new(bytes, limit);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_come_back_and_bad_lengths_and_kinds_do_not() {
        let mut bytes = encode(Kind::Vote, 3, 4, |out| out.put_slice(b"body")).to_vec();
        bytes.extend_from_slice(&encode_failure(Kind::Failure, 1, 2, 7, "no"));
        let frames = read_all(&bytes, 1000).await.unwrap();
        assert_eq!((frames[0].kind, frames[0].group, frames[0].request), (Kind::Vote, 3, 4));
        assert_eq!(&frames[0].body[..], b"body");
        assert_eq!(&frames[1].body[..], b"\x07no");

        assert!(read_all(&bytes[..bytes.len() - 1], 1000).await.is_err(), "half a frame");
        assert!(read_all(&bytes, 18).await.is_err(), "longer than the limit");
        assert!(read_all(&[0, 0, 0, 3, 1, 2, 3], 1000).await.is_err(), "shorter than a head");
        let mut unknown = bytes.clone();
        unknown[4] = 99;
        assert!(read_all(&unknown, 1000).await.is_err(), "an unknown kind");
    }
}
