//! Errors that are replies: deterministic, the same on every member, in Redis' own words.
//!
//! What is wrong with the member itself (bytes that don't decode) is [`Corrupt`], and stops the member instead.

use std::borrow::Cow;

/// The error reply of a command, complete but for the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CmdError(Cow<'static, str>);

impl CmdError {
    /// The key holds a value of another type.
    pub const WRONG_TYPE: Self = Self::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
    /// Options that don't fit together, or are not known.
    pub const SYNTAX: Self = Self::fixed("ERR syntax error");
    /// Not a 64-bit integer.
    pub const NOT_INTEGER: Self = Self::fixed("ERR value is not an integer or out of range");
    /// Not a number.
    pub const NOT_FLOAT: Self = Self::fixed("ERR value is not a valid float");
    /// A command that needs the key to exist.
    pub const NO_SUCH_KEY: Self = Self::fixed("ERR no such key");
    /// A number outside what the command can take.
    pub const OUT_OF_RANGE: Self = Self::fixed("ERR value is out of range");
    /// A number that must be positive.
    pub const NOT_POSITIVE: Self = Self::fixed("ERR value is out of range, must be positive");
    /// A database number that does not exist.
    pub const DB_RANGE: Self = Self::fixed("ERR DB index is out of range");
    /// A cursor that is no number.
    pub const BAD_CURSOR: Self = Self::fixed("ERR invalid cursor");
    /// An increment past 64 bits.
    pub const OVERFLOW: Self = Self::fixed("ERR increment or decrement would overflow");
    /// A float operation that left the finite numbers.
    pub const NAN_OR_INF: Self = Self::fixed("ERR increment would produce NaN or Infinity");
    /// A string longer than `proto-max-bulk-len`.
    pub const TOO_LONG: Self = Self::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

    /// An error of fixed text, usable in constants.
    pub const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// An error of composed text. Line breaks become blanks, for a reply is one line.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.contains(['\r', '\n']) {
            text = text.replace(['\r', '\n'], " ");
        }
        Self(Cow::Owned(text))
    }

    /// Wrong number of arguments; `name` as Redis prints it (`get`, `object|encoding`).
    pub fn arity(name: &str) -> Self {
        Self::new(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// An expiry that is not positive or too far away; `name` of the command.
    pub fn invalid_expire(name: &str) -> Self {
        Self::new(format!("ERR invalid expire time in '{name}' command"))
    }

    /// A name no table knows.
    pub fn unknown_command(args: &[&[u8]]) -> Self {
        Self::new(String::from_utf8_lossy(&Self::unknown_command_line(args)))
    }

    /// The text of [`CmdError::unknown_command`] with the client's own bytes in it, whatever they are. Redis shows at
    /// most 128 bytes of the name and of the arguments.
    pub fn unknown_command_line(args: &[&[u8]]) -> Vec<u8> {
        let name = args.first().copied().unwrap_or_default();
        let mut shown = Vec::new();
        for arg in args.iter().skip(1) {
            if shown.len() >= 128 {
                break;
            }
            let room = 128 - shown.len();
            shown.extend_from_slice(&[b"'", up_to_zero(&arg[..arg.len().min(room)]), b"' "].concat());
        }
        let name = up_to_zero(&name[..name.len().min(128)]);
        let mut line = [b"ERR unknown command '", name, b"', with args beginning with: ", &shown].concat();
        for byte in line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')) {
            *byte = b' ';
        }
        line
    }

    /// A subcommand no container knows; `name` of the container in upper case is in the hint.
    pub fn unknown_subcommand(container: &str, sub: &[u8]) -> Self {
        let hint = container.to_ascii_uppercase();
        Self::new(format!("ERR unknown subcommand '{}'. Try {hint} HELP.", lossy(&sub[..sub.len().min(128)])))
    }

    /// The line, without `-` and line end.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Up to the first zero byte, where Redis' own text ends too.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(up_to_zero(bytes))
}

fn up_to_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Bytes that can't be what this program wrote: an entry or a chunk of a snapshot. The member must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// They were never written.
    #[error("corrupt {what}: {why}")]
    Bytes {
        /// What was being decoded.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another version wrote them.
    #[error(
        "a {what} is of format version {found}, and this program reads {known} only: run the version of quorate that \
         wrote it; nothing was changed"
    )]
    Version {
        /// What was being decoded.
        what: &'static str,
        /// The version that it names.
        found: u8,
        /// The one that is known here.
        known: u8,
    },
}
