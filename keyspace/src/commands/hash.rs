//! Commands on hashes.

use std::collections::BTreeSet;

use crate::args::Args;
use crate::commands::scan;
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::hash::Hash;
use crate::hasher::Rng;
use crate::longdouble::LongDouble;
use crate::number;
use crate::reply::{Proto, ReplyBuf};
use crate::spec::{Arg, Command, Deprecated, Group, Handler, KeySpec, Meta, acl, flag, key};

/// Sets the pairs that are left; how many fields are new.
fn set_pairs(cx: &mut WriteCx<'_>, args: &mut Args<'_>, name: &str) -> Result<usize, CmdError> {
    let key = args.next()?;
    let (pairs, odd) = args.rest().as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CmdError::arity(name));
    }
    let limits = cx.hash_limits();
    cx.edit_or_create(key, |hash: &mut Hash| {
        hash.expect(pairs.len(), &limits);
        pairs.iter().filter(|[field, value]| hash.insert(field, value, &limits)).count()
    })
}

fn hset(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let new = set_pairs(cx, args, "hset")?;
    out.len(new);
    Ok(())
}

fn hmset(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_pairs(cx, args, "hmset")?;
    out.ok();
    Ok(())
}

fn hsetnx(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field, value) = (args.next()?, args.next()?, args.next()?);
    let set = !cx.hash(key)?.is_some_and(|hash| hash.contains(field));
    if set {
        let limits = cx.hash_limits();
        cx.edit_or_create(key, |hash: &mut Hash| hash.insert(field, value, &limits))?;
    }
    out.int(i64::from(set));
    Ok(())
}

fn hget(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field) = (args.next()?, args.next()?);
    out.bulk_or_null(cx.hash(key)?.and_then(|hash| hash.get(field)));
    Ok(())
}

fn hmget(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let hash = cx.hash(args.next()?)?;
    out.array(args.remaining());
    for field in args.rest() {
        out.bulk_or_null(hash.and_then(|hash| hash.get(field)));
    }
    Ok(())
}

fn hexists(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field) = (args.next()?, args.next()?);
    out.int(i64::from(cx.hash(key)?.is_some_and(|hash| hash.contains(field))));
    Ok(())
}

fn hlen(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.len(cx.hash(args.next()?)?.map_or(0, Hash::len));
    Ok(())
}

fn hstrlen(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field) = (args.next()?, args.next()?);
    out.len(cx.hash(key)?.and_then(|hash| hash.get(field)).map_or(0, <[u8]>::len));
    Ok(())
}

fn hgetall(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let hash = cx.hash(args.next()?)?;
    out.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.into_iter().flat_map(Hash::iter) {
        out.bulk(field);
        out.bulk(value);
    }
    Ok(())
}

fn hkeys(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let hash = cx.hash(args.next()?)?;
    out.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(field, _)| out.bulk(field));
    Ok(())
}

fn hvals(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let hash = cx.hash(args.next()?)?;
    out.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(_, value)| out.bulk(value));
    Ok(())
}

fn hdel(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let fields = args.rest();
    let any = cx.hash(key)?.is_some_and(|hash| fields.iter().any(|field| hash.contains(field)));
    let removed = match any {
        true => cx.edit(key, |hash: &mut Hash| fields.iter().filter(|field| hash.remove(field)).count())?,
        false => None,
    };
    out.len(removed.unwrap_or(0));
    Ok(())
}

fn hincrby(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field, by) = (args.next()?, args.next()?, args.int()?);
    let limits = cx.hash_limits();
    let old = match cx.hash(key)?.and_then(|hash| hash.get(field)) {
        Some(text) => number::parse_int(text).ok_or(CmdError::fixed("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = old.checked_add(by).ok_or(CmdError::OVERFLOW)?;
    let mut digits = [0; number::INT_LEN];
    let text = number::write_int(sum, &mut digits);
    cx.edit_or_create(key, |hash: &mut Hash| hash.insert(field, text, &limits))?;
    out.int(sum);
    Ok(())
}

fn hincrbyfloat(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, field) = (args.next()?, args.next()?);
    let by = LongDouble::parse(args.next()?).ok_or(CmdError::NOT_FLOAT)?;
    if !by.is_finite() {
        return Err(CmdError::fixed("ERR value is NaN or Infinity"));
    }
    let limits = cx.hash_limits();
    let old = match cx.hash(key)?.and_then(|hash| hash.get(field)) {
        Some(text) => LongDouble::parse(text).ok_or(CmdError::fixed("ERR hash value is not a float"))?,
        None => LongDouble::from_int(0),
    };
    let sum = old.plus(by).ok_or(CmdError::NAN_OR_INF)?.to_text();
    cx.edit_or_create(key, |hash: &mut Hash| hash.insert(field, sum.as_bytes(), &limits))?;
    out.bulk(sum.as_bytes());
    Ok(())
}

/// Picked pairs, in the shape of the dialect: flat in RESP2, pairs in RESP3.
struct Picked<'o> {
    out: &'o mut ReplyBuf,
    with_values: bool,
}

impl Picked<'_> {
    fn begin(&mut self, count: usize) {
        let flat = self.with_values && self.out.proto() == Proto::Resp2;
        self.out.array(if flat { 2 * count } else { count });
    }

    fn put(&mut self, (field, value): (&[u8], &[u8])) {
        if self.with_values && self.out.proto() == Proto::Resp3 {
            self.out.array(2);
        }
        self.out.bulk(field);
        if self.with_values {
            self.out.bulk(value);
        }
    }
}

/// A negative count may ask for any number of repeats. Redis goes on until the client's buffer bursts.
const MAX_REPLY: usize = 512 * 1024 * 1024;
/// An empty string in a reply.
const SHORTEST: u64 = 6;

/// `count` picks, each from the whole hash.
fn pick_any(hash: &Hash, count: u64, rng: &mut Rng, picked: &mut Picked<'_>) -> Result<(), CmdError> {
    const TOO_MANY: CmdError = CmdError::fixed("ERR the reply would be longer than 512 MB");
    if count.saturating_mul(SHORTEST) > MAX_REPLY as u64 {
        return Err(TOO_MANY);
    }
    let start = picked.out.bytes().len();
    picked.begin(count as usize);
    for _ in 0..count {
        if let Some(pair) = hash.nth(rng.below(hash.len() as u64) as usize) {
            picked.put(pair);
        }
        if picked.out.bytes().len() - start > MAX_REPLY {
            return Err(TOO_MANY);
        }
    }
    Ok(())
}

/// `count` pairs of all, each at most once, every choice of them as likely as any other.
fn pick_each(hash: &Hash, count: usize, rng: &mut Rng, picked: &mut Picked<'_>) {
    /// From here on looking at every pair once is cheaper than drawing those that are wanted.
    const PART: usize = 3;
    let size = hash.len();
    picked.begin(count.min(size));
    if hash.is_packed() || count.saturating_mul(PART) > size {
        let (mut wanted, mut left) = (count.min(size) as u64, size as u64);
        for pair in hash.iter() {
            if rng.below(left) < wanted {
                picked.put(pair);
                wanted -= 1;
            }
            left -= 1;
        }
        return;
    }
    let mut drawn = BTreeSet::new();
    while drawn.len() < count {
        let nth = rng.below(size as u64) as usize;
        if drawn.insert(nth)
            && let Some(pair) = hash.nth(nth)
        {
            picked.put(pair);
        }
    }
}

fn hrandfield(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let mut rng = cx.rng();
    if args.is_empty() {
        let hash = cx.hash(key)?;
        let pair = hash.and_then(|hash| hash.nth(rng.below(hash.len() as u64) as usize));
        out.bulk_or_null(pair.map(|(field, _)| field));
        return Ok(());
    }
    const LEAST: CmdError =
        CmdError::fixed("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807");
    let count = args.int_in(-i64::MAX, i64::MAX, LEAST)?;
    let with_values = args.keyword("WITHVALUES");
    args.end()?;
    if with_values && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(CmdError::OUT_OF_RANGE);
    }
    let Some(hash) = cx.hash(key)? else {
        out.array(0);
        return Ok(());
    };
    let mut picked = Picked { out, with_values };
    if count < 0 {
        return pick_any(hash, count.unsigned_abs(), &mut rng, &mut picked);
    }
    pick_each(hash, usize::try_from(count).unwrap_or(usize::MAX), &mut rng, &mut picked);
    Ok(())
}

fn hscan(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let from = scan::cursor(args.next()?)?;
    // Redis looks at the options only where there is something to scan.
    let Some(hash) = cx.hash(key)? else {
        scan::head(out, 0, 0);
        return Ok(());
    };
    let options = scan::Options::parse(args, false)?;
    let mut found = Vec::new();
    let next = hash.scan(from, options.count, |field, value| {
        if options.lets(field) {
            found.extend([field, value]);
        }
    });
    scan::head(out, next, found.len());
    found.iter().for_each(|part| out.bulk(part));
    Ok(())
}

const KEY: Arg = Arg::key("key", 0);
const FIELD: Arg = Arg::string("field");
const PAIRS: Arg = Arg::block("data", &[FIELD, Arg::string("value")]).multiple();

const fn hash(name: &'static str, arity: i32, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta { name, arity, group: Group::Hash, acl: acl::HASH, ..meta };
    Command { meta, handler, subcommands: &[] }
}

/// The commands on hashes.
pub static COMMANDS: &[Command<Handler>] = &[
    hash(
        "hdel",
        -3,
        Handler::Write(hdel),
        Meta {
            summary: "Removes fields from a hash; the key goes with the last one.",
            since: "2.0.0",
            complexity: "O(N) for N fields",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RW | key::DELETE)],
            args: &[KEY, FIELD.multiple()],
            history: &[("2.4.0", "Takes several `field` arguments.")],
            ..Meta::BASE
        },
    ),
    hash(
        "hexists",
        3,
        Handler::Read(hexists),
        Meta {
            summary: "Tells whether a hash has a field.",
            since: "2.0.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO)],
            args: &[KEY, FIELD],
            ..Meta::BASE
        },
    ),
    hash(
        "hget",
        3,
        Handler::Read(hget),
        Meta {
            summary: "Gets the value of one field.",
            since: "2.0.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY, FIELD],
            ..Meta::BASE
        },
    ),
    hash(
        "hgetall",
        2,
        Handler::Read(hgetall),
        Meta {
            summary: "Gets the whole hash, each field with its value.",
            since: "2.0.0",
            complexity: "O(N) for a hash of N fields",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY],
            tips: &["nondeterministic_output_order"],
            ..Meta::BASE
        },
    ),
    hash(
        "hincrby",
        4,
        Handler::Write(hincrby),
        Meta {
            summary: "Adds an integer to the number in a field, which starts from 0.",
            since: "2.0.0",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, FIELD, Arg::int("increment")],
            ..Meta::BASE
        },
    ),
    hash(
        "hincrbyfloat",
        4,
        Handler::Write(hincrbyfloat),
        Meta {
            summary: "Adds a fraction to the number in a field, which starts from 0.",
            since: "2.6.0",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, FIELD, Arg::double("increment")],
            ..Meta::BASE
        },
    ),
    hash(
        "hkeys",
        2,
        Handler::Read(hkeys),
        Meta {
            summary: "Gets the names of all fields.",
            since: "2.0.0",
            complexity: "O(N) for a hash of N fields",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY],
            tips: &["nondeterministic_output_order"],
            ..Meta::BASE
        },
    ),
    hash(
        "hlen",
        2,
        Handler::Read(hlen),
        Meta {
            summary: "Counts the fields.",
            since: "2.0.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    hash(
        "hmget",
        -3,
        Handler::Read(hmget),
        Meta {
            summary: "Gets the values of the fields that are named.",
            since: "2.0.0",
            complexity: "O(N) for N fields",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY, FIELD.multiple()],
            ..Meta::BASE
        },
    ),
    hash(
        "hmset",
        -4,
        Handler::Write(hmset),
        Meta {
            summary: "Sets fields to values and answers OK.",
            since: "2.0.0",
            complexity: "O(N) for N fields",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::UPDATE)],
            args: &[KEY, PAIRS],
            deprecated: Some(Deprecated { since: "4.0.0", replaced_by: "`HSET` with several pairs" }),
            ..Meta::BASE
        },
    ),
    hash(
        "hrandfield",
        -2,
        Handler::Read(hrandfield),
        Meta {
            summary: "Picks fields by chance.",
            since: "6.2.0",
            complexity: "O(N) for N fields picked",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[
                KEY,
                Arg::block("options", &[Arg::int("count"), Arg::word("withvalues", "WITHVALUES").optional()])
                    .optional(),
            ],
            tips: &["nondeterministic_output"],
            ..Meta::BASE
        },
    ),
    hash(
        "hscan",
        -3,
        Handler::Read(hscan),
        Meta {
            summary: "Walks through a hash step by step.",
            since: "2.8.0",
            complexity: "O(1) a step, O(N) for the whole walk through N fields",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[
                KEY,
                Arg::int("cursor"),
                Arg::pattern("pattern").token("MATCH").optional(),
                Arg::int("count").token("COUNT").optional(),
            ],
            tips: &["nondeterministic_output"],
            ..Meta::BASE
        },
    ),
    hash(
        "hset",
        -4,
        Handler::Write(hset),
        Meta {
            summary: "Sets fields to values and counts those that are new.",
            since: "2.0.0",
            complexity: "O(N) for N fields",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::UPDATE)],
            args: &[KEY, PAIRS],
            history: &[("4.0.0", "Takes several `field` and `value` arguments.")],
            ..Meta::BASE
        },
    ),
    hash(
        "hsetnx",
        4,
        Handler::Write(hsetnx),
        Meta {
            summary: "Sets a field only if the hash does not have it.",
            since: "2.0.0",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::INSERT)],
            args: &[KEY, FIELD, Arg::string("value")],
            ..Meta::BASE
        },
    ),
    hash(
        "hstrlen",
        3,
        Handler::Read(hstrlen),
        Meta {
            summary: "Gets the length of a field's value.",
            since: "3.2.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO)],
            args: &[KEY, FIELD],
            ..Meta::BASE
        },
    ),
    hash(
        "hvals",
        2,
        Handler::Read(hvals),
        Meta {
            summary: "Gets the values of all fields.",
            since: "2.0.0",
            complexity: "O(N) for a hash of N fields",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY],
            tips: &["nondeterministic_output_order"],
            ..Meta::BASE
        },
    ),
];
