//! Replies, RESP2 and RESP3: where one ends, and what it says.
//!
//! The server never has to understand a reply: it only cuts a run of them into single ones ([`ReplyScanner`],
//! [`skip_reply`]). Tools and tests read them with [`parse_reply`]. Neither recurses.

use bytes::Bytes;

use super::{BadReply, parse_int};

/// How deep aggregates may stand in each other for [`parse_reply`]; dropping a [`Reply`] recurses this deep.
const MAX_DEPTH: usize = 128;
/// More elements than a reply can have in memory; a larger number is a broken header.
const MAX_ELEMENTS: i64 = 1 << 40;

/// Length of the first reply of `buf`, line ends included. `None`: it is not complete, or not a reply.
pub fn skip_reply(buf: &[u8]) -> Option<usize> {
    ReplyScanner::default().next(buf).ok().flatten()
}

/// Finds the end of a reply that arrives in pieces, looking at each byte once.
#[derive(Debug)]
pub struct ReplyScanner {
    at: usize,
    searched: usize,
    /// Values still to come, the one that began counted.
    pending: u64,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        ReplyScanner { at: 0, searched: 0, pending: 1 }
    }
}

impl ReplyScanner {
    /// `buf` begins where the reply begins and holds what has arrived of it. `Some(length)` once it is complete; the
    /// scanner then stands at the start of the next reply, whose bytes have to come first in the next call's buffer.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<usize>, BadReply> {
        while self.pending > 0 {
            let Some(header) = header_at(buf, self.at, &mut self.searched)? else {
                return Ok(None);
            };
            let end = match header.shape {
                Shape::Value => header.end,
                Shape::Bulk(len) => {
                    let end = header.end + len + 2;
                    if buf.len() < end {
                        return Ok(None);
                    }
                    bulk_end(buf, end)?;
                    end
                }
                Shape::Elements(count) => {
                    self.pending = self.pending.saturating_add(count);
                    header.end
                }
                // Stands before a value and is not one.
                Shape::Attribute(count) => {
                    self.pending = self.pending.saturating_add(count + 1);
                    header.end
                }
            };
            self.pending -= 1;
            self.at = end;
            self.searched = end;
        }
        let length = self.at;
        *self = Self::default();
        Ok(Some(length))
    }
}

/// One reply, as a tool sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Simple(Bytes),
    /// `-ERR …`, and RESP3's long form of it.
    Error(Bytes),
    /// `:1`
    Int(i64),
    /// `$…`
    Bulk(Bytes),
    /// Null: RESP3's, and both of RESP2's.
    Null,
    /// `*…`
    Array(Vec<Reply>),
    /// `%…`
    Map(Vec<(Reply, Reply)>),
    /// `~…`
    Set(Vec<Reply>),
    /// `>…`: not the answer to a request.
    Push(Vec<Reply>),
    /// `,…`
    Double(f64),
    /// `#t`
    Bool(bool),
    /// `(…`: the digits.
    BigNumber(Bytes),
    /// `=…`: the text, without its three letters.
    Verbatim(Bytes),
}

impl Reply {
    /// The text of a string or an error, however it was sent.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Reply::Simple(text)
            | Reply::Error(text)
            | Reply::Bulk(text)
            | Reply::BigNumber(text)
            | Reply::Verbatim(text) => Some(text),
            _ => None,
        }
    }

    /// The error line, if this is an error.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Reply::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array, a set or a push.
    pub fn elements(&self) -> Option<&[Reply]> {
        match self {
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => Some(items),
            _ => None,
        }
    }
}

/// Reads the first reply of `buf`: the reply, and how many bytes it took. `None`: it is not complete. Attributes are
/// passed over. Texts are slices of `buf`.
pub fn parse_reply(buf: &Bytes) -> Result<Option<(Reply, usize)>, BadReply> {
    let Some(length) = ReplyScanner::default().next(buf)? else {
        return Ok(None);
    };
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    loop {
        let mut searched = at;
        // The scanner saw the whole reply, so nothing can be missing.
        let header = header_at(buf, at, &mut searched)?.ok_or(BadReply::Number)?;
        at = header.end;
        let mut value = match header.shape {
            Shape::Bulk(len) => {
                let text = buf.slice(at..at + len);
                at += len + 2;
                bulk_value(header.kind, text)
            }
            Shape::Value => line_value(header.kind, buf, &header)?,
            Shape::Elements(count) | Shape::Attribute(count) => {
                if open.len() == MAX_DEPTH {
                    return Err(BadReply::Depth);
                }
                open.push(Open { kind: header.kind, left: count, items: Vec::with_capacity(count.min(1024) as usize) });
                match close(&mut open) {
                    Some(value) => value,
                    None => continue,
                }
            }
        };
        // The value completes what stands open around it, perhaps several at once.
        loop {
            let Some(around) = open.last_mut() else {
                return Ok(Some((value, length)));
            };
            around.left -= 1;
            around.items.push(value);
            match close(&mut open) {
                Some(closed) => value = closed,
                None => break,
            }
        }
    }
}

/// An aggregate whose elements are being read.
struct Open {
    kind: u8,
    left: u64,
    items: Vec<Reply>,
}

/// Takes the innermost aggregate off if it is complete. An attribute is dropped: what follows it is the value.
fn close(open: &mut Vec<Open>) -> Option<Reply> {
    if open.last()?.left > 0 {
        return None;
    }
    let done = open.pop()?;
    match done.kind {
        b'%' => {
            let mut items = done.items.into_iter();
            let mut pairs = Vec::with_capacity(items.len() / 2);
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                pairs.push((key, value));
            }
            Some(Reply::Map(pairs))
        }
        b'~' => Some(Reply::Set(done.items)),
        b'>' => Some(Reply::Push(done.items)),
        b'|' => None,
        _ => Some(Reply::Array(done.items)),
    }
}

fn bulk_value(kind: u8, text: Bytes) -> Reply {
    match kind {
        b'!' => Reply::Error(text),
        b'=' => Reply::Verbatim(if text.len() >= 4 { text.slice(4..) } else { text }),
        _ => Reply::Bulk(text),
    }
}

fn line_value(kind: u8, buf: &Bytes, header: &Header) -> Result<Reply, BadReply> {
    let text = buf.slice(header.text..header.end - 2);
    Ok(match kind {
        b'+' => Reply::Simple(text),
        b'-' => Reply::Error(text),
        b':' => Reply::Int(parse_int(&text).ok_or(BadReply::Number)?),
        b'#' => Reply::Bool(&text[..] == b"t"),
        b'(' => Reply::BigNumber(text),
        b',' => {
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            Reply::Double(number.ok_or(BadReply::Number)?)
        }
        _ => Reply::Null,
    })
}

/// The first line of a value.
struct Header {
    kind: u8,
    /// Where the line's text begins.
    text: usize,
    /// Behind the line's end.
    end: usize,
    shape: Shape,
}

/// What follows the line.
enum Shape {
    /// Nothing: the line is the value.
    Value,
    /// So many bytes and a line end.
    Bulk(usize),
    /// So many values.
    Elements(u64),
    /// So many values, and then the value this one is about.
    Attribute(u64),
}

/// Reads the line at `at`. `None`: incomplete; `searched` remembers how far its end was looked for.
fn header_at(buf: &[u8], at: usize, searched: &mut usize) -> Result<Option<Header>, BadReply> {
    let Some(&kind) = buf.get(at) else {
        return Ok(None);
    };
    if !b"+-:$*_#,(!=%~>|".contains(&kind) {
        return Err(BadReply::Kind(kind));
    }
    let from = (*searched).max(at + 1).min(buf.len());
    let Some(line_end) = memchr::memchr(b'\r', &buf[from..]).map(|found| from + found) else {
        *searched = buf.len();
        return Ok(None);
    };
    *searched = line_end;
    match buf.get(line_end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(BadReply::BulkEnd),
    }
    let shape = match kind {
        b'$' | b'!' | b'=' => match length(&buf[at + 1..line_end])? {
            None => Shape::Value,
            Some(len) => Shape::Bulk(len as usize),
        },
        b'*' | b'~' | b'>' | b'%' | b'|' => match (length(&buf[at + 1..line_end])?, kind) {
            (None, _) => Shape::Value,
            (Some(pairs), b'%') => Shape::Elements(pairs * 2),
            (Some(pairs), b'|') => Shape::Attribute(pairs * 2),
            (Some(count), _) => Shape::Elements(count),
        },
        _ => Shape::Value,
    };
    Ok(Some(Header { kind, text: at + 1, end: line_end + 2, shape }))
}

/// A length; -1 is RESP2's null.
fn length(digits: &[u8]) -> Result<Option<u64>, BadReply> {
    match parse_int(digits) {
        Some(-1) => Ok(None),
        Some(len @ 0..=MAX_ELEMENTS) => Ok(Some(len as u64)),
        _ => Err(BadReply::Number),
    }
}

fn bulk_end(buf: &[u8], end: usize) -> Result<(), BadReply> {
    if &buf[end - 2..end] == b"\r\n" { Ok(()) } else { Err(BadReply::BulkEnd) }
}
