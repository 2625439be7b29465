//! SCAN, and what the scans of collections have in common with it.

use crate::args::Args;
use crate::commands::generic::generic;
use crate::cx::ReadCx;
use crate::error::CmdError;
use crate::glob;
use crate::number;
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Handler, Meta, flag};
use crate::trie::Keyed;

const DEFAULT_COUNT: usize = 10;

/// The options of a scan.
pub(super) struct Options<'a> {
    pattern: Option<&'a [u8]>,
    /// How many elements to look at, about.
    pub(super) count: usize,
    type_name: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// Takes all that is left; TYPE is for SCAN alone.
    pub(super) fn parse(args: &mut Args<'a>, with_type: bool) -> Result<Self, CmdError> {
        let mut options = Self { pattern: None, count: DEFAULT_COUNT, type_name: None };
        while !args.is_empty() {
            if args.keyword("COUNT") {
                let count = args.int()?;
                options.count = usize::try_from(count).ok().filter(|n| *n > 0).ok_or(CmdError::SYNTAX)?;
            } else if args.keyword("MATCH") {
                options.pattern = Some(args.next()?).filter(|pattern| !glob::is_all(pattern));
            } else if with_type && args.keyword("TYPE") {
                options.type_name = Some(args.next()?);
            } else {
                return Err(CmdError::SYNTAX);
            }
        }
        Ok(options)
    }

    /// Whether an element of this name is let through.
    pub(super) fn lets(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

/// A cursor as C's `strtoul` reads it, for clients send back what they were sent, and some send worse.
pub(super) fn cursor(text: &[u8]) -> Result<u64, CmdError> {
    // A C string ends at the first zero byte.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (negative, digits) = match text {
        [] => return Ok(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(CmdError::BAD_CURSOR);
    }
    let add = |value: u64, digit: &u8| value.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    let value = digits.iter().try_fold(0, add).ok_or(CmdError::BAD_CURSOR)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// The reply of a scan but for its elements.
pub(super) fn head(out: &mut ReplyBuf, cursor: u64, elements: usize) {
    out.array(2);
    // Longer than 63 bits no cursor of ours is.
    let mut digits = [0; number::INT_LEN];
    out.bulk(number::write_int(cursor.cast_signed(), &mut digits));
    out.array(elements);
}

fn scan(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let from = cursor(args.next()?)?;
    let options = Options::parse(args, true)?;
    let mut found = Vec::new();
    let next = cx.scan(from, options.count, |item| {
        let of_type = options.type_name.is_none_or(|name| name.eq_ignore_ascii_case(item.type_name().as_bytes()));
        if of_type && options.lets(item.key()) {
            found.push(item.key());
        }
    });
    head(out, next, found.len());
    found.iter().for_each(|key| out.bulk(key));
    Ok(())
}

/// The command that walks through the keys of a database.
pub static COMMANDS: &[Command<Handler>] = &[generic(
    "scan",
    -2,
    Handler::Read(scan),
    Meta {
        summary: "Walks through the keys of a database step by step.",
        since: "2.8.0",
        complexity: "O(1) a step, O(N) for the whole walk through N keys",
        flags: flag::TOUCHES_ARBITRARY_KEYS,
        args: &[
            Arg::int("cursor"),
            Arg::pattern("pattern").token("MATCH").optional(),
            Arg::int("count").token("COUNT").optional(),
            Arg::string("type").token("TYPE").optional().since("6.0.0"),
        ],
        tips: &["nondeterministic_output", "request_policy:special", "response_policy:special"],
        history: &[("6.0.0", "Takes `TYPE`.")],
        ..Meta::BASE
    },
)];
