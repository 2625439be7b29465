//! Commands on the bits of strings; bit 0 is the highest of the first byte.

mod field;

use self::field::{bit_offset, bitfield, bitfield_keys, bitfield_ro};
use crate::args::{Args, is};
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::reply::ReplyBuf;
use crate::rope::Str;
use crate::settings::{Setting, Settings};
use crate::spec::{Arg, Command, Group, Handler, KeySpec, Meta, acl, flag, key};

const NOT_A_BIT: CmdError = CmdError::fixed("ERR bit is not an integer or out of range");

fn longest(settings: &Settings) -> usize {
    settings.limit(Setting::ProtoMaxBulkLen)
}

fn bit_at(string: Str<'_>, offset: usize) -> u8 {
    string.byte(offset >> 3).map_or(0, |byte| byte >> (7 - (offset & 7)) & 1)
}

fn getbit(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let offset = bit_offset(args.next()?, 0, longest(cx.settings()))?;
    out.int(bit_at(cx.string(key)?.unwrap_or_default(), offset).into());
    Ok(())
}

fn setbit(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let offset = bit_offset(args.next()?, 0, longest(cx.settings()))?;
    let bit = match args.next()? {
        b"0" => 0,
        b"1" => 1,
        _ => return Err(NOT_A_BIT),
    };
    let old = cx.string(key)?.unwrap_or_default();
    let was = bit_at(old, offset);
    out.int(was.into());
    // What changes nothing must not make watchers fail.
    if old.len() > offset >> 3 && was == bit {
        return Ok(());
    }
    let (at, place) = (offset >> 3, 7 - (offset & 7));
    let byte = old.byte(at).unwrap_or(0) & !(1 << place) | bit << place;
    cx.write_string(key, at, &[byte]);
    Ok(())
}

/// A part of a string in bits, its end excluded.
struct Span {
    from: usize,
    to: usize,
}

impl Span {
    /// Offsets below 0 count from the end; what lies outside is cut off. None where nothing is left.
    fn of(start: i64, end: i64, length: usize, in_bits: bool) -> Option<Self> {
        let unit = if in_bits { 1 } else { 8 };
        let total = (length * 8 / unit) as i64;
        let from_end = |n: i64| if n < 0 { n.saturating_add(total).max(0) } else { n };
        let (start, end) = (from_end(start), from_end(end).min(total - 1));
        (start <= end).then(|| Self { from: start as usize * unit, to: (end as usize + 1) * unit })
    }

    /// Its bytes in pieces: where each begins in the string, and the bytes.
    fn pieces<'a>(&self, string: Str<'a>) -> impl Iterator<Item = (usize, &'a [u8])> {
        let first = self.from >> 3;
        string.pieces(first, self.to.div_ceil(8)).scan(first, |at, piece| {
            let began = *at;
            *at += piece.len();
            Some((began, piece))
        })
    }

    /// The bits of that byte that lie in it.
    fn mask(&self, at: usize) -> u8 {
        let front = if at == self.from >> 3 { 0xff >> (self.from & 7) } else { 0xff };
        let back = if at == self.to >> 3 { 0xff >> (self.to & 7) } else { 0 };
        front & !back
    }
}

impl Span {
    fn ones(&self, string: Str<'_>) -> usize {
        // Whole bytes go eight at a time; what lies outside of the first and the last one is taken off again.
        let all: usize = self.pieces(string).map(|(_, piece)| ones(piece)).sum();
        let (first, last) = (self.from >> 3, (self.to - 1) >> 3);
        let outside = |at: usize| (string.byte(at).unwrap_or(0) & !self.mask(at)).count_ones() as usize;
        all - outside(first) - if last > first { outside(last) } else { 0 }
    }

    /// The first bit in it that is set, or clear.
    fn first(&self, string: Str<'_>, set: bool) -> Option<usize> {
        let wanted = |byte: u8, mask: u8| if set { byte & mask } else { !byte & mask };
        let none = if set { 0 } else { 0xff };
        self.pieces(string).find_map(|(began, piece)| {
            let candidates = piece.iter().enumerate().filter(|(_, byte)| **byte != none);
            candidates
                .map(|(at, byte)| (began + at, wanted(*byte, self.mask(began + at))))
                .find_map(|(at, bits)| (bits != 0).then(|| at * 8 + bits.leading_zeros() as usize))
        })
    }
}

fn in_bits(args: &mut Args<'_>) -> Result<bool, CmdError> {
    match args.optional() {
        None => Ok(false),
        Some(word) if is(word, "bit") => Ok(true),
        Some(word) if is(word, "byte") => Ok(false),
        Some(_) => Err(CmdError::SYNTAX),
    }
}

fn ones(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole: usize = words.iter().map(|word| u64::from_ne_bytes(*word).count_ones() as usize).sum();
    whole + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
}

fn bitcount(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let Some(string) = cx.string(args.next()?)? else {
        out.int(0);
        return Ok(());
    };
    if args.is_empty() {
        out.len(string.pieces(0, string.len()).map(ones).sum());
        return Ok(());
    }
    if args.remaining() == 1 || args.remaining() > 3 {
        return Err(CmdError::SYNTAX);
    }
    let (start, end) = (args.int()?, args.int()?);
    if start < 0 && end < 0 && start > end {
        out.int(0);
        return Ok(());
    }
    let in_bits = in_bits(args)?;
    let Some(span) = Span::of(start, end, string.len(), in_bits) else {
        out.int(0);
        return Ok(());
    };
    out.len(span.ones(string));
    Ok(())
}

fn bitpos(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let bit = args.int()?;
    if bit != 0 && bit != 1 {
        return Err(CmdError::fixed("ERR The bit argument must be 1 or 0."));
    }
    let Some(string) = cx.string(key)? else {
        out.int(if bit == 1 { -1 } else { 0 });
        return Ok(());
    };
    if args.remaining() > 3 {
        return Err(CmdError::SYNTAX);
    }
    let start = if args.is_empty() { 0 } else { args.int()? };
    let end_given = !args.is_empty();
    let end = args.optional();
    // Redis looks at the unit before it looks at the end.
    let in_bits = in_bits(args)?;
    let end = match end {
        Some(arg) => crate::number::parse_int(arg).ok_or(CmdError::NOT_INTEGER)?,
        None => -1,
    };
    let Some(span) = Span::of(start, end, string.len(), in_bits) else {
        out.int(-1);
        return Ok(());
    };
    out.int(match span.first(string, bit == 1) {
        Some(at) => at as i64,
        // Without an end, zeros go on for ever behind the string.
        None if bit == 0 && !end_given => span.to as i64,
        None => -1,
    });
    Ok(())
}

fn bitop(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let name = args.next()?;
    let combine: fn(u8, u8) -> u8 = match name {
        name if is(name, "and") => |a, b| a & b,
        name if is(name, "or") => |a, b| a | b,
        name if is(name, "xor") || is(name, "not") => |a, b| a ^ b,
        _ => return Err(CmdError::SYNTAX),
    };
    let target = args.next()?;
    let not = is(name, "not");
    if not && args.remaining() != 1 {
        return Err(CmdError::fixed("ERR BITOP NOT must be called with a single source key."));
    }
    let sources =
        args.rest().iter().map(|key| cx.string(key).map(Option::unwrap_or_default)).collect::<Result<Vec<_>, _>>()?;
    let length = sources.iter().map(|source| source.len()).max().unwrap_or(0);
    let mut result = vec![0; length];
    for (nth, source) in sources.iter().enumerate() {
        let combine = if nth == 0 { |_, b| b } else { combine };
        let mut rest = result.as_mut_slice();
        for piece in source.pieces(0, length) {
            let (here, behind) = rest.split_at_mut(piece.len());
            here.iter_mut().zip(piece).for_each(|(byte, other)| *byte = combine(*byte, *other));
            rest = behind;
        }
        // What a source lacks counts as zero bytes.
        rest.iter_mut().for_each(|byte| *byte = combine(*byte, 0));
    }
    if not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    if result.is_empty() {
        cx.remove(target);
    } else {
        cx.set_grown(target, result);
    }
    out.len(length);
    Ok(())
}

const KEY: Arg = Arg::key("key", 0);

const fn bitmap(name: &'static str, arity: i32, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta { name, arity, group: Group::Bitmap, acl: acl::BITMAP, ..meta };
    Command { meta, handler, subcommands: &[] }
}

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[
    bitmap(
        "bitcount",
        -2,
        Handler::Read(bitcount),
        Meta {
            summary: "Counts the bits that are set in a string or a part of it.",
            since: "2.6.0",
            complexity: "O(N) for a part of N bytes",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[
                KEY,
                Arg::block(
                    "range",
                    &[
                        Arg::int("start"),
                        Arg::int("end"),
                        Arg::one_of("unit", &[Arg::word("byte", "BYTE"), Arg::word("bit", "BIT")])
                            .optional()
                            .since("7.0.0"),
                    ],
                )
                .optional(),
            ],
            history: &[("7.0.0", "The unit may be told: `BYTE` or `BIT`.")],
            ..Meta::BASE
        },
    ),
    bitmap(
        "bitfield",
        -2,
        Handler::Write(bitfield),
        Meta {
            summary: "Reads and changes integers of any width at any bit of a string.",
            since: "3.2.0",
            complexity: "O(1) for each operation",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::RW | key::UPDATE | key::ACCESS | key::VARIABLE_FLAGS)],
            find_keys: Some(bitfield_keys),
            args: &[
                KEY,
                Arg::one_of(
                    "operation",
                    &[
                        Arg::block("get-block", &[Arg::string("encoding"), Arg::int("offset")]).token("GET"),
                        Arg::block(
                            "write",
                            &[
                                Arg::one_of(
                                    "overflow-block",
                                    &[Arg::word("wrap", "WRAP"), Arg::word("sat", "SAT"), Arg::word("fail", "FAIL")],
                                )
                                .token("OVERFLOW")
                                .optional(),
                                Arg::one_of(
                                    "write-operation",
                                    &[
                                        Arg::block(
                                            "set-block",
                                            &[Arg::string("encoding"), Arg::int("offset"), Arg::int("value")],
                                        )
                                        .token("SET"),
                                        Arg::block(
                                            "incrby-block",
                                            &[Arg::string("encoding"), Arg::int("offset"), Arg::int("increment")],
                                        )
                                        .token("INCRBY"),
                                    ],
                                ),
                            ],
                        ),
                    ],
                )
                .optional()
                .multiple(),
            ],
            ..Meta::BASE
        },
    ),
    bitmap(
        "bitfield_ro",
        -2,
        Handler::Read(bitfield_ro),
        Meta {
            summary: "Reads integers of any width at any bit of a string.",
            since: "6.0.0",
            complexity: "O(1) for each operation",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[
                KEY,
                Arg::block("get-block", &[Arg::string("encoding"), Arg::int("offset")])
                    .token("GET")
                    .optional()
                    .multiple_token(),
            ],
            ..Meta::BASE
        },
    ),
    bitmap(
        "bitop",
        -4,
        Handler::Write(bitop),
        Meta {
            summary: "Combines strings bit by bit and keeps the result.",
            since: "2.6.0",
            complexity: "O(N) for strings of up to N bytes",
            flags: flag::DENYOOM,
            keys: &[KeySpec::at(2, key::OW | key::UPDATE), KeySpec::range(3, -1, 1, key::RO | key::ACCESS)],
            args: &[
                Arg::one_of(
                    "operation",
                    &[Arg::word("and", "AND"), Arg::word("or", "OR"), Arg::word("xor", "XOR"), Arg::word("not", "NOT")],
                ),
                Arg::key("destkey", 0),
                Arg::key("key", 1).multiple(),
            ],
            ..Meta::BASE
        },
    ),
    bitmap(
        "bitpos",
        -3,
        Handler::Read(bitpos),
        Meta {
            summary: "Finds the first set or clear bit of a string or a part of it.",
            since: "2.8.7",
            complexity: "O(N) for a part of N bytes",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[
                KEY,
                Arg::int("bit"),
                Arg::block(
                    "range",
                    &[
                        Arg::int("start"),
                        Arg::block(
                            "end-unit-block",
                            &[
                                Arg::int("end"),
                                Arg::one_of("unit", &[Arg::word("byte", "BYTE"), Arg::word("bit", "BIT")])
                                    .optional()
                                    .since("7.0.0"),
                            ],
                        )
                        .optional(),
                    ],
                )
                .optional(),
            ],
            history: &[("7.0.0", "The unit may be told: `BYTE` or `BIT`.")],
            ..Meta::BASE
        },
    ),
    bitmap(
        "getbit",
        3,
        Handler::Read(getbit),
        Meta {
            summary: "Reads one bit of a string.",
            since: "2.2.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY, Arg::int("offset")],
            ..Meta::BASE
        },
    ),
    bitmap(
        "setbit",
        4,
        Handler::Write(setbit),
        Meta {
            summary: "Sets or clears one bit of a string and gives what it was.",
            since: "2.2.0",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::int("offset"), Arg::int("value")],
            ..Meta::BASE
        },
    ),
];
