//! Replies, written straight as RESP2 or RESP3 bytes.
//!
//! A muted buffer swallows everything: followers apply with one, so they pay nothing for replies nobody reads.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::CmdError;
use crate::number;
use crate::rope::Str;

/// The dialect of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Proto {
    /// What every client speaks.
    #[default]
    Resp2,
    /// After HELLO 3.
    Resp3,
}

/// See the module's words.
#[derive(Debug)]
pub struct ReplyBuf {
    buf: BytesMut,
    proto: Proto,
    muted: bool,
}

/// A place in a reply buffer, to return to.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl ReplyBuf {
    /// An empty buffer.
    pub fn new(proto: Proto) -> Self {
        Self { buf: BytesMut::new(), proto, muted: false }
    }

    /// One that writes nothing.
    pub fn muted() -> Self {
        Self { buf: BytesMut::new(), proto: Proto::Resp2, muted: true }
    }

    /// Goes on in a buffer that exists already.
    pub fn over(buf: BytesMut, proto: Proto) -> Self {
        Self { buf, proto, muted: false }
    }

    /// The dialect.
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// Changes the dialect of what follows.
    pub fn set_proto(&mut self, proto: Proto) {
        self.proto = proto;
    }

    /// Whether nothing is written: costly replies need not be computed.
    pub fn is_muted(&self) -> bool {
        self.muted
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// This place.
    pub fn mark(&self) -> Mark {
        Mark(self.buf.len())
    }

    /// Forgets what was written after the mark.
    pub fn truncate(&mut self, mark: Mark) {
        self.buf.truncate(mark.0);
    }

    /// Forgets everything that was written; the room stays.
    pub fn clear(&mut self) {
        self.buf.clear();
    }

    /// Takes what was written; the buffer goes on behind it without a new allocation where there is room.
    pub fn take(&mut self) -> Bytes {
        self.buf.split().freeze()
    }

    /// The buffer itself.
    pub fn into_inner(self) -> BytesMut {
        self.buf
    }

    fn line(&mut self, kind: u8, n: i64) {
        if self.muted {
            return;
        }
        let mut digits = [0; number::INT_LEN];
        let digits = number::write_int(n, &mut digits);
        self.buf.reserve(digits.len() + 3);
        self.buf.put_u8(kind);
        self.buf.put_slice(digits);
        self.buf.put_slice(b"\r\n");
    }

    fn text(&mut self, kind: u8, text: &[u8]) {
        if self.muted {
            return;
        }
        self.buf.reserve(text.len() + 3);
        self.buf.put_u8(kind);
        self.buf.put_slice(text);
        self.buf.put_slice(b"\r\n");
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// A status line.
    pub fn simple(&mut self, text: &str) {
        self.text(b'+', text.as_bytes());
    }

    /// An error line; `text` is complete but for the `-`.
    pub fn error(&mut self, text: &str) {
        self.text(b'-', text.as_bytes());
    }

    /// The error of a command.
    pub fn fail(&mut self, error: &CmdError) {
        self.error(error.text());
    }

    /// An integer.
    pub fn int(&mut self, n: i64) {
        self.line(b':', n);
    }

    /// A length or count as an integer.
    pub fn len(&mut self, n: usize) {
        self.line(b':', n as i64);
    }

    /// A string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        if self.muted {
            return;
        }
        self.buf.reserve(bytes.len() + number::INT_LEN + 5);
        self.line(b'$', bytes.len() as i64);
        self.buf.put_slice(bytes);
        self.buf.put_slice(b"\r\n");
    }

    /// The value of a string.
    pub fn string(&mut self, string: Str<'_>) {
        match string {
            Str::Flat(bytes) => self.bulk(bytes),
            Str::Rope(_) => self.bulk_of(string, 0, string.len()),
        }
    }

    /// Its bytes from `from` to before `to`, which it must have.
    pub fn bulk_of(&mut self, string: Str<'_>, from: usize, to: usize) {
        if self.muted {
            return;
        }
        let len = to - from;
        self.buf.reserve(len + number::INT_LEN + 5);
        self.line(b'$', len as i64);
        string.pieces(from, to).for_each(|piece| self.buf.put_slice(piece));
        self.buf.put_slice(b"\r\n");
    }

    /// The value of a string or null.
    pub fn string_or_null(&mut self, string: Option<Str<'_>>) {
        match string {
            Some(string) => self.string(string),
            None => self.null(),
        }
    }

    /// An integer as a string.
    pub fn bulk_int(&mut self, n: i64) {
        let mut digits = [0; number::INT_LEN];
        self.bulk(number::write_int(n, &mut digits));
    }

    /// A string or null.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// No value (RESP2: the null string).
    pub fn null(&mut self) {
        match self.proto {
            Proto::Resp2 => self.raw(b"$-1\r\n"),
            Proto::Resp3 => self.raw(b"_\r\n"),
        }
    }

    /// No value where an array would stand.
    pub fn null_array(&mut self) {
        match self.proto {
            Proto::Resp2 => self.raw(b"*-1\r\n"),
            Proto::Resp3 => self.raw(b"_\r\n"),
        }
    }

    /// An array of `len` replies follows.
    pub fn array(&mut self, len: usize) {
        self.line(b'*', len as i64);
    }

    /// A map of `pairs` pairs follows (RESP2: a flat array).
    pub fn map(&mut self, pairs: usize) {
        match self.proto {
            Proto::Resp2 => self.line(b'*', 2 * pairs as i64),
            Proto::Resp3 => self.line(b'%', pairs as i64),
        }
    }

    /// A set of `len` replies follows (RESP2: an array).
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.line(b'*', len as i64),
            Proto::Resp3 => self.line(b'~', len as i64),
        }
    }

    /// A push message of `len` replies follows (RESP2: an array).
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.line(b'*', len as i64),
            Proto::Resp3 => self.line(b'>', len as i64),
        }
    }

    /// A truth value (RESP2: 1 or 0).
    pub fn bool(&mut self, value: bool) {
        match (self.proto, value) {
            (Proto::Resp2, _) => self.int(i64::from(value)),
            (Proto::Resp3, true) => self.raw(b"#t\r\n"),
            (Proto::Resp3, false) => self.raw(b"#f\r\n"),
        }
    }

    /// A floating point number (RESP2: a string).
    pub fn double(&mut self, value: f64) {
        if self.muted {
            return;
        }
        let text = number::format_double(value);
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => self.text(b',', text.as_bytes()),
        }
    }

    /// An integer of any size, as decimal digits (RESP2: a string).
    pub fn big_number(&mut self, digits: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(digits.as_bytes()),
            Proto::Resp3 => self.text(b'(', digits.as_bytes()),
        }
    }

    /// Text with a format of three letters, such as `txt` (RESP2: a string).
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        if self.muted {
            return;
        }
        if self.proto == Proto::Resp2 {
            return self.bulk(text);
        }
        self.line(b'=', (text.len() + 4) as i64);
        self.buf.put_slice(&format.as_bytes()[..3]);
        self.buf.put_u8(b':');
        self.buf.put_slice(text);
        self.buf.put_slice(b"\r\n");
    }

    /// Pieces of bytes that are replies already; each is let go of as soon as it is copied.
    pub fn raw_pieces(&mut self, pieces: Vec<Bytes>) {
        if !self.muted {
            self.buf.reserve(pieces.iter().map(Bytes::len).sum());
        }
        pieces.into_iter().for_each(|piece| self.raw(&piece));
    }

    /// Bytes that are a reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        if !self.muted {
            self.buf.extend_from_slice(bytes);
        }
    }
}
