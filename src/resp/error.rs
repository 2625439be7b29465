//! What can be wrong with bytes on the wire. The texts are Redis' own: clients and its test suite match on them.

use thiserror::Error;

/// A request that breaks the protocol. After its reply the connection has to be closed: where the next request would
/// begin is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The array header's number is not one, or out of range.
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    /// A bulk's length is not a number, negative, or above `proto-max-bulk-len`.
    #[error("invalid bulk length")]
    InvalidBulkLength,
    /// Something else stands where a bulk must begin.
    #[error("expected '$', got '{}'", shown(*.0))]
    ExpectedDollar(u8),
    /// The array header never ends.
    #[error("too big mbulk count string")]
    TooBigMultibulkCount,
    /// A bulk's header never ends.
    #[error("too big bulk count string")]
    TooBigBulkCount,
    /// The inline request never ends.
    #[error("too big inline request")]
    TooBigInline,
    /// Quotes of an inline request are not closed, or closed in the middle of a word.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// More arguments than one who has not authenticated may send.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// A longer argument than one who has not authenticated may send.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
}

impl ProtocolError {
    /// The whole error line, without the leading `-` and without the line end. Bytes: what was sent is shown as it was.
    pub fn reply(&self) -> Vec<u8> {
        let text = format!("ERR Protocol error: {self}");
        match self {
            Self::ExpectedDollar(byte @ 0x80..) => [&text.as_bytes()[..text.len() - 3], &[*byte, b'\'']].concat(),
            _ => text.into_bytes(),
        }
    }
}

/// A line end inside an error line would end it early, so Redis shows it as a blank. So does this.
fn shown(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        byte => char::from(byte),
    }
}

/// A reply that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadReply {
    /// No reply begins with this byte.
    #[error("a reply cannot begin with byte 0x{0:02x}")]
    Kind(u8),
    /// The number in a header is not one, or out of range.
    #[error("a reply's length or number is not valid")]
    Number,
    /// Text that has to end with a line end does not.
    #[error("a bulk string of a reply does not end where its length says")]
    BulkEnd,
    /// Aggregates in aggregates, too deep for our tools.
    #[error("a reply is nested too deep")]
    Depth,
}
