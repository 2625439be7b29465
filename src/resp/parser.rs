//! Requests: arrays of bulk strings, and inline lines.
//!
//! The parser stands between the socket's buffer and the session. It keeps its place between reads, so a large
//! argument that arrives in small pieces is looked at once. It copies nothing: when a request is complete its bytes
//! are split off the buffer, frozen, and the arguments are slices of them. Whoever keeps an argument for long has to
//! copy it, or it keeps the whole request alive.

use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{MAX_LINE_BYTES, ProtocolError, inline, parse_int};

/// Arguments an unauthenticated client may send, as Redis has it.
const UNAUTHENTICATED_MAX_ARGS: usize = 10;
/// Bytes in an argument of an unauthenticated client, as Redis has it.
const UNAUTHENTICATED_MAX_BULK: usize = 16 * 1024;

/// How much a request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one argument (`proto-max-bulk-len`).
    pub max_bulk_bytes: usize,
    /// Arguments of one request.
    pub max_args: usize,
    /// False until the client has authenticated: then the limits are far smaller, whatever stands above.
    pub authenticated: bool,
}

impl Limits {
    /// Redis' limit for the number of arguments.
    pub const MAX_ARGS: usize = 1024 * 1024;
    /// Redis' default for `proto-max-bulk-len`.
    pub const MAX_BULK_BYTES: usize = 512 * 1024 * 1024;

    /// The default limits of a client that has authenticated, or does not need to.
    pub const DEFAULT: Limits =
        Limits { max_bulk_bytes: Self::MAX_BULK_BYTES, max_args: Self::MAX_ARGS, authenticated: true };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One request: the command's name and its arguments, at least one. Reads as a slice of [`Bytes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    args: SmallVec<[Bytes; 4]>,
    wire_bytes: usize,
}

impl Command {
    /// A request that did not come from a socket.
    pub fn from_args(args: impl IntoIterator<Item = Bytes>) -> Self {
        let args: SmallVec<[Bytes; 4]> = args.into_iter().collect();
        let wire_bytes = args.iter().map(Bytes::len).sum();
        Command { args, wire_bytes }
    }

    /// Bytes the request took on the wire: what its arguments keep alive in memory.
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// The arguments, the command's name first.
    pub fn args(&self) -> &[Bytes] {
        &self.args
    }

    /// Gives the arguments away.
    pub fn into_args(self) -> SmallVec<[Bytes; 4]> {
        self.args
    }
}

impl Deref for Command {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.args
    }
}

/// Reads requests out of a connection's buffer. One per connection; see the module's text.
#[derive(Debug, Default)]
pub struct Parser {
    /// First byte not understood yet. Offsets are from the start of the buffer, which is the start of the request.
    at: usize,
    /// Up to here the end of the line that begins at `at` was looked for in vain.
    searched: usize,
    /// Arguments still to come; 0 between requests.
    args_left: usize,
    /// Length of the argument whose header has been read.
    bulk: Option<usize>,
    /// Where the arguments read so far stand.
    found: SmallVec<[(usize, usize); 8]>,
    failed: Option<ProtocolError>,
}

impl Parser {
    /// A parser at the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next complete request of the buffer. `Ok(None)`: more bytes are needed; append them and call again. The
    /// buffer must not be changed in any other way. Empty requests are passed over, as Redis does.
    ///
    /// After an error the parser answers the same error for ever: send it and close the connection.
    pub fn next(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Command>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance(buf, limits);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    /// Bytes that are certainly missing until the argument under way is complete; 0 if that is not known. A hint for
    /// the size of the next read, chosen by the client: bound it.
    pub fn missing(&self, buf: &BytesMut) -> usize {
        self.bulk.map_or(0, |len| (self.at + len + 2).saturating_sub(buf.len()))
    }

    /// True between requests: nothing of the next one has been understood yet.
    pub fn is_idle(&self) -> bool {
        self.args_left == 0
    }

    fn advance(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Command>, ProtocolError> {
        loop {
            if self.args_left == 0 {
                let complete = match buf.first() {
                    None => return Ok(None),
                    Some(b'*') => self.array_header(buf, limits)?,
                    Some(_) => match self.inline(buf)? {
                        Step::Done(command) => return Ok(Some(command)),
                        Step::Again => true,
                        Step::Wait => false,
                    },
                };
                if !complete {
                    return Ok(None);
                }
            } else if self.array_items(buf, limits)? {
                return Ok(Some(self.finish(buf)));
            } else {
                return Ok(None);
            }
        }
    }

    /// Reads `*N\r\n`. False: incomplete.
    fn array_header(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<bool, ProtocolError> {
        let Some(end) = self.line_end(buf, ProtocolError::TooBigMultibulkCount)? else {
            return Ok(false);
        };
        let count = parse_int(&buf[self.at + 1..end]).ok_or(ProtocolError::InvalidMultibulkLength)?;
        if count > limits.max_args as i64 {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        if count > UNAUTHENTICATED_MAX_ARGS as i64 && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        if count <= 0 {
            buf.advance(end + 2);
            self.reset();
        } else {
            self.at = end + 2;
            self.searched = self.at;
            self.args_left = count as usize;
        }
        Ok(true)
    }

    /// Reads arguments of an array. False: incomplete.
    fn array_items(&mut self, buf: &BytesMut, limits: &Limits) -> Result<bool, ProtocolError> {
        while self.args_left > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => {
                    let Some(end) = self.line_end(buf, ProtocolError::TooBigBulkCount)? else {
                        return Ok(false);
                    };
                    let len = self.bulk_length(&buf[self.at..end], limits)?;
                    self.at = end + 2;
                    self.bulk = Some(len);
                    len
                }
            };
            // Like Redis, the two bytes behind an argument are passed over, not compared.
            let end = self.at + len;
            if buf.len() < end + 2 {
                return Ok(false);
            }
            self.found.push((self.at, end));
            self.at = end + 2;
            self.searched = self.at;
            self.bulk = None;
            self.args_left -= 1;
        }
        Ok(true)
    }

    fn bulk_length(&self, header: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        match header {
            [b'$', digits @ ..] => {
                let len = parse_int(digits)
                    .and_then(|len| usize::try_from(len).ok())
                    .filter(|len| *len <= limits.max_bulk_bytes)
                    .ok_or(ProtocolError::InvalidBulkLength)?;
                if len > UNAUTHENTICATED_MAX_BULK && !limits.authenticated {
                    return Err(ProtocolError::UnauthenticatedBulkLength);
                }
                Ok(len)
            }
            // An empty line: what stands there is the line end itself.
            other => Err(ProtocolError::ExpectedDollar(other.first().copied().unwrap_or(b'\r'))),
        }
    }

    fn inline(&mut self, buf: &mut BytesMut) -> Result<Step, ProtocolError> {
        let window = &buf[self.searched..buf.len().min(MAX_LINE_BYTES + 1)];
        let Some(end) = memchr::memchr(b'\n', window).map(|found| self.searched + found) else {
            self.searched = buf.len().min(MAX_LINE_BYTES + 1);
            return if buf.len() > MAX_LINE_BYTES { Err(ProtocolError::TooBigInline) } else { Ok(Step::Wait) };
        };
        let line = buf.split_to(end + 1).freeze();
        let text = &line[..end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.reset();
        let mut args = SmallVec::new();
        if inline::plain_words(text, |start, end| args.push(line.slice(start..end))).is_none() {
            let words = inline::split_args(text).ok_or(ProtocolError::UnbalancedQuotes)?;
            args.extend(words.into_iter().map(Bytes::from));
        }
        if args.is_empty() { Ok(Step::Again) } else { Ok(Step::Done(Command { args, wire_bytes: line.len() })) }
    }

    /// Finds the `\r` of the line that begins at `at`, once the byte behind it has arrived too.
    fn line_end(&mut self, buf: &BytesMut, too_long: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let limit = self.at + MAX_LINE_BYTES + 1;
        let window = &buf[self.searched..buf.len().min(limit)];
        match memchr::memchr(b'\r', window).map(|found| self.searched + found) {
            Some(end) if end + 1 < buf.len() => Ok(Some(end)),
            Some(end) => {
                self.searched = end;
                Ok(None)
            }
            None => {
                self.searched = buf.len().min(limit);
                if buf.len() >= limit { Err(too_long) } else { Ok(None) }
            }
        }
    }

    fn finish(&mut self, buf: &mut BytesMut) -> Command {
        let wire_bytes = self.at;
        let frame = buf.split_to(wire_bytes).freeze();
        let args = self.found.iter().map(|&(start, end)| frame.slice(start..end)).collect();
        self.reset();
        Command { args, wire_bytes }
    }

    fn reset(&mut self) {
        self.at = 0;
        self.searched = 0;
        self.args_left = 0;
        self.bulk = None;
        // A request of a million arguments must not keep its list for the life of the connection.
        if self.found.capacity() > 1024 {
            self.found = SmallVec::new();
        } else {
            self.found.clear();
        }
    }
}

enum Step {
    Done(Command),
    Again,
    Wait,
}
