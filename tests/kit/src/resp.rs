//! A plain client of the Redis protocol: one connection, blocking, with time limits.
//!
//! It can hand out replies as values and as the raw bytes that came, and it can send bytes that are no request at
//! all. It never sends a request twice by itself: whether an outcome is known is what tests ask about.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A reply.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`
    Int(i64),
    /// `$…`, `=…` (a verbatim string keeps its `txt:` head) or `!…`.
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Null,
    /// `*…`, `~…` or `>…`
    Array(Vec<Value>),
    /// `%…`
    Map(Vec<(Value, Value)>),
    /// `,…`, as text, so that it can be compared exactly
    Double(String),
    /// `#t` or `#f`
    Bool(bool),
    /// `(…`
    BigNumber(String),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Simple(text) => write!(f, "+{text}"),
            Value::Error(text) => write!(f, "-{text}"),
            Value::Int(number) => write!(f, ":{number}"),
            Value::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Value::Null => write!(f, "null"),
            Value::Array(items) => f.debug_list().entries(items).finish(),
            Value::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(key, value)| (key, value))).finish(),
            Value::Double(text) => write!(f, ",{text}"),
            Value::Bool(value) => write!(f, "#{value}"),
            Value::BigNumber(text) => write!(f, "({text}"),
        }
    }
}

impl Value {
    /// A bulk string.
    #[must_use]
    pub fn bulk(text: impl AsRef<[u8]>) -> Value {
        Value::Bulk(text.as_ref().to_vec())
    }

    /// `+OK`.
    #[must_use]
    pub fn ok() -> Value {
        Value::Simple("OK".into())
    }

    /// The number of an integer reply, or of a bulk string that holds one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The text of a simple, bulk or error reply.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match self {
            Value::Simple(text) | Value::Error(text) => Some(text.clone()),
            Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The error line, when it is one.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Value::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The items of an array; a map's keys and values in turn.
    #[must_use]
    pub fn items(&self) -> Vec<Value> {
        match self {
            Value::Array(items) => items.clone(),
            Value::Map(pairs) => pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect(),
            _ => Vec::new(),
        }
    }
}

/// One request as an array of bulk strings.
#[must_use]
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(args, &mut out);
    out
}

/// Appends one request to `out`.
pub fn encode_into<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Splits a line as redis-cli does: at blanks, with `"…"` (and its escapes) and `'…'` around words.
///
/// # Panics
/// On unbalanced quotes: such a line is a mistake of the test.
#[must_use]
pub fn split_line(line: &str) -> Vec<Vec<u8>> {
    let bytes = line.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let mut word = Vec::new();
        while at < bytes.len() && !bytes[at].is_ascii_whitespace() {
            match bytes[at] {
                b'"' => at = quoted(bytes, at + 1, &mut word, line),
                b'\'' => {
                    let end = bytes[at + 1..].iter().position(|byte| *byte == b'\'');
                    let end = end.unwrap_or_else(|| panic!("unbalanced quotes: {line}"));
                    word.extend_from_slice(&bytes[at + 1..at + 1 + end]);
                    at += end + 2;
                }
                byte => {
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word);
    }
    words
}

/// Reads a `"…"` word from behind its first quote; answers where it ends.
fn quoted(bytes: &[u8], mut at: usize, word: &mut Vec<u8>, line: &str) -> usize {
    loop {
        match bytes.get(at) {
            None => panic!("unbalanced quotes: {line}"),
            Some(b'"') => return at + 1,
            Some(b'\\') => {
                let (byte, length) = unescape(&bytes[at..]);
                word.push(byte);
                at += length;
            }
            Some(byte) => {
                word.push(*byte);
                at += 1;
            }
        }
    }
}

/// The byte that an escape such as `\n` or `\x00` stands for, and how long the escape is.
#[must_use]
pub fn unescape(escape: &[u8]) -> (u8, usize) {
    let hex = |at: usize| escape.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    match escape.get(1) {
        Some(b'x') if hex(2).is_some() && hex(3).is_some() => {
            let byte = hex(2).unwrap_or(0) * 16 + hex(3).unwrap_or(0);
            (byte as u8, 4)
        }
        Some(b'n') => (b'\n', 2),
        Some(b'r') => (b'\r', 2),
        Some(b't') => (b'\t', 2),
        Some(b'a') => (7, 2),
        Some(b'b') => (8, 2),
        Some(byte) => (*byte, 2),
        None => (b'\\', 1),
    }
}

/// Where the line that begins at `from` ends (behind its CRLF), if it is complete.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].windows(2).position(|pair| pair == b"\r\n").map(|at| from + at + 2)
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn length_of(line: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(&line[1..line.len() - 2])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad(format!("no length in a reply: {}", line.escape_ascii())))
}

/// How many bytes the first reply in `bytes` has, or `None` while it is incomplete.
///
/// # Errors
/// When the bytes are no reply.
pub fn reply_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    let mut missing: u64 = 1;
    while missing > 0 {
        if at >= bytes.len() {
            return Ok(None);
        }
        let Some(end) = line_end(bytes, at) else {
            return Ok(None);
        };
        let line = &bytes[at..end];
        missing -= 1;
        at = end;
        match line[0] {
            b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => {}
            b'$' | b'=' | b'!' => {
                let length = length_of(line)?;
                if length >= 0 {
                    at += length as usize + 2;
                }
            }
            b'*' | b'~' | b'>' => missing += length_of(line)?.max(0) as u64,
            b'%' => missing += 2 * length_of(line)?.max(0) as u64,
            b'|' => missing += 2 * length_of(line)?.max(0) as u64 + 1,
            _ => return Err(bad(format!("not a reply: {}", line.escape_ascii()))),
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}

/// Decodes one complete reply.
///
/// # Errors
/// When the bytes are no complete reply.
pub fn decode(bytes: &[u8]) -> io::Result<Value> {
    let mut at = 0;
    let value = decode_at(bytes, &mut at)?;
    if at == bytes.len() { Ok(value) } else { Err(bad("bytes behind a reply")) }
}

fn decode_at(bytes: &[u8], at: &mut usize) -> io::Result<Value> {
    let end = line_end(bytes, *at).ok_or_else(|| bad("an incomplete reply"))?;
    let line = &bytes[*at..end];
    *at = end;
    let text = || String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
    Ok(match line[0] {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b':' => Value::Int(length_of(line)?),
        b',' => Value::Double(text()),
        b'(' => Value::BigNumber(text()),
        b'#' => Value::Bool(line[1] == b't'),
        b'_' => Value::Null,
        b'$' | b'=' | b'!' => {
            let length = length_of(line)?;
            if length < 0 {
                return Ok(Value::Null);
            }
            let end = *at + length as usize;
            let body = bytes.get(*at..end).ok_or_else(|| bad("an incomplete bulk string"))?;
            *at = end + 2;
            Value::Bulk(body.to_vec())
        }
        b'*' | b'~' | b'>' => {
            let length = length_of(line)?;
            if length < 0 {
                return Ok(Value::Null);
            }
            Value::Array((0..length).map(|_| decode_at(bytes, at)).collect::<io::Result<_>>()?)
        }
        b'%' => {
            let length = length_of(line)?;
            let pair = |at: &mut usize| Ok((decode_at(bytes, at)?, decode_at(bytes, at)?));
            Value::Map((0..length).map(|_| pair(at)).collect::<io::Result<_>>()?)
        }
        b'|' => {
            for _ in 0..2 * length_of(line)? {
                decode_at(bytes, at)?;
            }
            decode_at(bytes, at)?
        }
        _ => return Err(bad(format!("not a reply: {}", line.escape_ascii()))),
    })
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Conn {
    /// Connects; every read may take 30 s.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn open(addr: impl ToSocketAddrs) -> io::Result<Conn> {
        Conn::open_with(addr, Duration::from_secs(30))
    }

    /// Connects; every read may take `patience`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn open_with(addr: impl ToSocketAddrs, patience: Duration) -> io::Result<Conn> {
        let addr: SocketAddr = addr.to_socket_addrs()?.next().ok_or_else(|| bad("no address"))?;
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Conn { stream, buffer: Vec::with_capacity(4096), start: 0 })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        self.send_bytes(&encode(args))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The bytes of the next reply.
    ///
    /// # Errors
    /// When the connection is gone, nothing came in time, or what came is no reply.
    pub fn read_raw(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = reply_length(&self.buffer[self.start..])? {
                let reply = self.buffer[self.start..self.start + length].to_vec();
                self.start += length;
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.start = 0;
                }
                return Ok(reply);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// The next reply.
    ///
    /// # Errors
    /// As [`Conn::read_raw`].
    pub fn read(&mut self) -> io::Result<Value> {
        decode(&self.read_raw()?)
    }

    /// Sends one request and reads its reply.
    ///
    /// # Errors
    /// As [`Conn::read_raw`].
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.read()
    }

    /// [`Conn::call`] with a line as one would type it into redis-cli.
    ///
    /// # Errors
    /// As [`Conn::read_raw`].
    pub fn cmd(&mut self, line: &str) -> io::Result<Value> {
        self.call(&split_line(line))
    }

    /// A field of a section of INFO.
    ///
    /// # Panics
    /// When it isn't there.
    pub fn info(&mut self, section: &str, field: &str) -> String {
        let text = self.call(&["INFO", section]).ok().and_then(|text| text.as_text()).expect("INFO is text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or_else(|| panic!("{field} in {text}")).to_owned()
    }

    /// [`Conn::cmd`] for the raw bytes of the reply.
    ///
    /// # Errors
    /// As [`Conn::read_raw`].
    pub fn cmd_raw(&mut self, line: &str) -> io::Result<Vec<u8>> {
        self.send(&split_line(line))?;
        self.read_raw()
    }

    /// All bytes until the other side closes. An error (also: it doesn't close in time) is an error.
    ///
    /// # Errors
    /// When it isn't closed within the connection's patience.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    ) =>
                {
                    let rest = self.buffer.split_off(self.start);
                    self.buffer.clear();
                    self.start = 0;
                    return Ok(rest);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The bytes that came but were not read as a reply.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The socket, for what this client has no method for.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_replies_are_measured_and_decoded() {
        let bytes = b"*2\r\n%1\r\n+a\r\n:1\r\n$3\r\nx\r\n\r\n+next\r\n";
        let length = reply_length(bytes).unwrap().unwrap();
        assert_eq!(&bytes[length..], b"+next\r\n");
        let map = Value::Map(vec![(Value::Simple("a".into()), Value::Int(1))]);
        assert_eq!(decode(&bytes[..length]).unwrap(), Value::Array(vec![map, Value::bulk("x\r\n")]));
        for cut in 0..length {
            assert_eq!(reply_length(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn lines_are_split_like_redis_cli_does() {
        assert_eq!(split_line(r#"set  k "a \x00\n b" 'c "d'"#), [&b"set"[..], b"k", b"a \0\n b", b"c \"d"]);
        assert_eq!(split_line(r#"set k """#), [&b"set"[..], b"k", b""]);
    }
}
