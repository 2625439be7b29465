//! The client protocol on the wire: requests in, replies told apart.
//!
//! [`Parser`] turns the bytes of a connection into [`Command`]s without copying an argument. [`skip_reply`] and
//! [`ReplyScanner`] find where one reply ends in a run of replies, [`parse_reply`] reads one for our own tools, and
//! [`encode_command`] writes a request.
//!
//! Nothing here knows a command, a session or a socket; nothing recurses on input; no input makes it panic, and none
//! makes it do more than a constant amount of work per byte received. Replies are written by the keyspace's
//! `ReplyBuf`, not here.

mod error;
mod inline;
mod parser;
mod reply;

pub use error::{BadReply, ProtocolError};
pub use inline::split_args;
pub use parser::{Command, Limits, Parser};
pub use reply::{Reply, ReplyScanner, parse_reply, skip_reply};

use bytes::{BufMut, BytesMut};

/// The longest inline request and the longest length line, as Redis has it.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Appends one request, as an array of bulk strings.
pub fn encode_command<A: AsRef<[u8]>>(args: &[A], out: &mut BytesMut) {
    put_length(out, b'*', args.len());
    for arg in args {
        let arg = arg.as_ref();
        out.reserve(arg.len() + 32);
        put_length(out, b'$', arg.len());
        out.put_slice(arg);
        out.put_slice(b"\r\n");
    }
}

fn put_length(out: &mut BytesMut, kind: u8, len: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = len;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// Reads a decimal number exactly as Redis does in the protocol: an optional minus, no plus, no leading zeros, no blanks.
fn parse_int(digits: &[u8]) -> Option<i64> {
    let (negative, rest) = match digits {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match rest {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if rest.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &byte in rest {
        if !byte.is_ascii_digit() {
            return None;
        }
        // At most 19 digits: no overflow of u64.
        value = value * 10 + u64::from(byte - b'0');
    }
    if negative {
        if value > i64::MIN.unsigned_abs() { None } else { Some((value as i64).wrapping_neg()) }
    } else {
        i64::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests;
