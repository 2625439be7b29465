//! BITFIELD: integers of 1 to 64 bits at any bit of a string, the highest bit first.

use crate::args::{Args, is};
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::number;
use crate::reply::ReplyBuf;
use crate::rope::Str;
use crate::spec::{KeyAt, key};

const BAD_KIND: CmdError =
    CmdError::fixed("ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.");
const BAD_OVERFLOW: CmdError = CmdError::fixed("ERR Invalid OVERFLOW type specified");
const READ_ONLY: CmdError = CmdError::fixed("ERR BITFIELD_RO only supports the GET subcommand");
const BAD_OFFSET: CmdError = CmdError::fixed("ERR bit offset is not an integer or out of range");

/// A bit's offset; `#n` counts in integers of `bits` bits where that is allowed (`bits` > 0).
pub(super) fn bit_offset(arg: &[u8], bits: u32, longest: usize) -> Result<usize, CmdError> {
    let offset = match arg.strip_prefix(b"#").filter(|_| bits > 0) {
        Some(count) => number::parse_int(count).and_then(|count| count.checked_mul(i64::from(bits))),
        None => number::parse_int(arg),
    };
    let offset = offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(BAD_OFFSET)?;
    if offset >> 3 >= longest { Err(BAD_OFFSET) } else { Ok(offset) }
}

/// What happens when a number doesn't fit.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
struct Kind {
    signed: bool,
    bits: u32,
}

impl Kind {
    fn parse(arg: &[u8]) -> Result<Self, CmdError> {
        let (signed, bits, most) = match arg {
            [b'i', bits @ ..] => (true, bits, 64),
            [b'u', bits @ ..] => (false, bits, 63),
            _ => return Err(BAD_KIND),
        };
        let bits = number::parse_int(bits).filter(|bits| (1..=most).contains(bits)).ok_or(BAD_KIND)?;
        Ok(Self { signed, bits: bits as u32 })
    }

    /// The integer in the lowest bits of `raw`.
    fn value(self, raw: u64) -> i64 {
        let unused = 64 - self.bits;
        let top = raw << unused;
        if self.signed { top.cast_signed() >> unused } else { (top >> unused).cast_signed() }
    }

    /// `value` as it can be stored; None where it doesn't fit and must fail.
    fn fit(self, value: i128, overflow: Overflow) -> Option<i64> {
        let (least, most) = if self.signed {
            (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1i128 << self.bits) - 1)
        };
        if (least..=most).contains(&value) {
            return Some(value as i64);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(value.clamp(least, most) as i64),
            Overflow::Wrap => Some(self.value(value as u64)),
        }
    }
}

/// The nine bytes that any integer lies in, as a number.
fn window(string: Str<'_>, offset: usize) -> u128 {
    let first = offset >> 3;
    let bytes = string.range(first, first + 9);
    (0..9).fold(0, |window, at| window << 8 | u128::from(bytes.get(at).copied().unwrap_or(0)))
}

fn read(string: Str<'_>, offset: usize, kind: Kind) -> i64 {
    let behind = 72 - (offset & 7) as u32 - kind.bits;
    kind.value((window(string, offset) >> behind) as u64)
}

/// The string is long enough for it.
fn write(cx: &mut WriteCx<'_>, key: &[u8], offset: usize, kind: Kind, value: i64) -> Result<(), CmdError> {
    let behind = 72 - (offset & 7) as u32 - kind.bits;
    let mask = u128::from(u64::MAX >> (64 - kind.bits)) << behind;
    let old = window(cx.string(key)?.unwrap_or_default(), offset);
    let new = old & !mask | u128::from(value.cast_unsigned()) << behind & mask;
    let (first, end) = (offset >> 3, (offset + kind.bits as usize).div_ceil(8));
    cx.write_string(key, first, &new.to_be_bytes()[7..][..end - first]);
    Ok(())
}

enum Action {
    Get,
    Set(i64),
    Increase(i64),
}

struct Operation {
    action: Action,
    kind: Kind,
    offset: usize,
    overflow: Overflow,
}

impl Operation {
    /// What it replies, and the number it writes if it does.
    fn outcome(&self, string: Str<'_>) -> Option<(i64, Option<i64>)> {
        let old = read(string, self.offset, self.kind);
        Some(match self.action {
            Action::Get => (old, None),
            Action::Set(value) => {
                let value = if self.kind.signed { i128::from(value) } else { i128::from(value.cast_unsigned()) };
                (old, Some(self.kind.fit(value, self.overflow)?))
            }
            Action::Increase(by) => {
                let new = self.kind.fit(i128::from(old) + i128::from(by), self.overflow)?;
                (new, Some(new))
            }
        })
    }
}

/// The operations, and how long the string must be for those that write; 0 when none does.
fn parse(args: &mut Args<'_>, longest: usize) -> Result<(Vec<Operation>, usize), CmdError> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut needed = 0;
    while let Some(word) = args.optional() {
        let remaining = args.remaining();
        if is(word, "overflow") && remaining >= 1 {
            overflow = match args.next()? {
                word if is(word, "wrap") => Overflow::Wrap,
                word if is(word, "sat") => Overflow::Saturate,
                word if is(word, "fail") => Overflow::Fail,
                _ => return Err(BAD_OVERFLOW),
            };
            continue;
        }
        let get = is(word, "get") && remaining >= 2;
        let set = is(word, "set") && remaining >= 3;
        let increase = is(word, "incrby") && remaining >= 3;
        if !(get || set || increase) {
            return Err(CmdError::SYNTAX);
        }
        let kind = Kind::parse(args.next()?)?;
        let offset = bit_offset(args.next()?, kind.bits, longest)?;
        let action = if get {
            Action::Get
        } else {
            needed = needed.max((offset + kind.bits as usize).div_ceil(8));
            let value = args.int()?;
            if set { Action::Set(value) } else { Action::Increase(value) }
        };
        operations.push(Operation { action, kind, offset, overflow });
    }
    Ok((operations, needed))
}

fn reply_reads(string: Str<'_>, operations: &[Operation], out: &mut ReplyBuf) {
    out.array(operations.len());
    for operation in operations {
        out.int(read(string, operation.offset, operation.kind));
    }
}

pub(super) fn bitfield_ro(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let (operations, needed) = parse(args, super::longest(cx.settings()))?;
    if needed > 0 {
        return Err(READ_ONLY);
    }
    reply_reads(cx.string(key)?.unwrap_or_default(), &operations, out);
    Ok(())
}

pub(super) fn bitfield(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let (operations, needed) = parse(args, super::longest(cx.settings()))?;
    let old = cx.string(key)?.unwrap_or_default();
    if needed == 0 {
        reply_reads(old, &operations, out);
        return Ok(());
    }
    // It grows first, and counts as written then even where every number fails to fit.
    if old.len() < needed {
        cx.write_string(key, needed - 1, &[0]);
    }
    out.array(operations.len());
    for operation in &operations {
        let string = cx.string(key)?.unwrap_or_default();
        match operation.outcome(string) {
            Some((reply, new)) => {
                out.int(reply);
                // What changes nothing must not make watchers fail.
                if let Some(new) = new.filter(|new| *new != read(string, operation.offset, operation.kind)) {
                    write(cx, key, operation.offset, operation.kind, new)?;
                }
            }
            None => out.null(),
        }
    }
    Ok(())
}

/// Only an operation that writes makes it a write of the key; proxies and ACL ask.
pub(super) fn bitfield_keys(args: &[&[u8]]) -> Option<Vec<KeyAt>> {
    let writes = args.iter().skip(2).any(|arg| is(arg, "set") || is(arg, "incrby"));
    let flags = if writes { key::RW | key::ACCESS | key::UPDATE } else { key::RO | key::ACCESS };
    (args.len() > 1).then(|| vec![(1, flags)])
}
