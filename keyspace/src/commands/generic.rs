//! Commands on keys of any type: removing, finding, naming and copying them.

use crate::args::Args;
use crate::cx::{ReadCx, Ttl, WriteCx};
use crate::error::CmdError;
use crate::glob;
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Handler, KeySpec, Meta, acl, flag, key};
use crate::trie::Keyed;

const SAME_OBJECT: CmdError = CmdError::fixed("ERR source and destination objects are the same");
const INT_RANGE: CmdError = CmdError::fixed("ERR value is out of range, value must between -2147483648 and 2147483647");

/// DEL and UNLINK: what is large is freed in the background either way.
fn del(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let removed = args.rest().iter().filter(|key| cx.remove(key)).count();
    out.len(removed);
    Ok(())
}

/// EXISTS and TOUCH: a key that is named twice counts twice.
fn exists(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.len(args.rest().iter().filter(|key| cx.exists(key)).count());
    Ok(())
}

fn type_of(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.simple(cx.get(args.next()?).map_or("none", |item| item.type_name()));
    Ok(())
}

fn keys(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let pattern = args.next()?;
    let all = glob::is_all(pattern);
    let found: Vec<&[u8]> = cx.iter().map(Keyed::key).filter(|key| all || glob::matches(pattern, key)).collect();
    out.array(found.len());
    found.iter().for_each(|key| out.bulk(key));
    Ok(())
}

fn randomkey(cx: &ReadCx<'_>, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    /// Keys that are past due but still there are passed over; so often by luck alone.
    const TRIES: u32 = 16;
    let mut rng = cx.rng();
    let lucky = (0..TRIES)
        .filter(|_| !cx.is_empty())
        .filter_map(|_| cx.nth(rng.below(cx.len())))
        .find(|item| !item.is_expired(cx.now_ms()));
    let picked = lucky.or_else(|| match cx.iter().count() {
        0 => None,
        live => cx.iter().nth(rng.below(live as u64) as usize),
    });
    out.bulk_or_null(picked.map(Keyed::key));
    Ok(())
}

fn rename(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (from, to) = (args.next()?, args.next()?);
    if !cx.exists(from) {
        return Err(CmdError::NO_SUCH_KEY);
    }
    if from != to {
        cx.rename(from, to);
    }
    out.ok();
    Ok(())
}

fn renamenx(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (from, to) = (args.next()?, args.next()?);
    if !cx.exists(from) {
        return Err(CmdError::NO_SUCH_KEY);
    }
    let free = !cx.exists(to);
    if free {
        cx.rename(from, to);
    }
    out.int(i64::from(free));
    Ok(())
}

/// The number of a database. Redis reads it as a C int, and says so.
fn database(cx: &WriteCx<'_>, args: &mut Args<'_>) -> Result<u16, CmdError> {
    let number = args.int_in(i32::MIN.into(), i32::MAX.into(), INT_RANGE)?;
    u16::try_from(number).ok().filter(|db| *db < cx.databases()).ok_or(CmdError::DB_RANGE)
}

fn copy(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (from, to) = (args.next()?, args.next()?);
    let (mut db, mut replace) = (cx.db(), false);
    while !args.is_empty() {
        if args.keyword("REPLACE") {
            replace = true;
        } else if args.keyword("DB") {
            db = database(cx, args)?;
        } else {
            return Err(CmdError::SYNTAX);
        }
    }
    if db == cx.db() && from == to {
        return Err(SAME_OBJECT);
    }
    // An item is a reference to its value: what is copied is shared until one of the two changes.
    let item = cx.get(from).cloned();
    let copied = item.is_some_and(|item| {
        let mut target = cx.in_db(db);
        let free = replace || !target.exists(to);
        if free {
            target.put(to, &item, Ttl::Keep);
        }
        free
    });
    out.int(i64::from(copied));
    Ok(())
}

fn move_key(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let db = database(cx, args)?;
    if db == cx.db() {
        return Err(SAME_OBJECT);
    }
    let free = cx.exists(key) && !cx.in_db(db).exists(key);
    if free && let Some(item) = cx.take(key) {
        cx.in_db(db).put(key, &item, Ttl::Keep);
    }
    out.int(i64::from(free));
    Ok(())
}

const KEY: Arg = Arg::key("key", 0);
const MULTI_SHARD: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];

/// For the other files of the group as well.
pub(super) const fn generic(name: &'static str, arity: i32, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta { name, arity, acl: acl::KEYSPACE | meta.acl, ..meta };
    Command { meta, handler, subcommands: &[] }
}

/// The commands on keys of any type.
pub static COMMANDS: &[Command<Handler>] = &[
    generic(
        "copy",
        -3,
        Handler::Write(copy),
        Meta {
            summary: "Copies a key's value to another key.",
            since: "6.2.0",
            complexity: "O(1): the copy shares what neither changes",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::RO | key::ACCESS), KeySpec::at(2, key::OW | key::UPDATE)],
            args: &[
                Arg::key("source", 0),
                Arg::key("destination", 1),
                Arg::int("destination-db").token("DB").optional(),
                Arg::word("replace", "REPLACE").optional(),
            ],
            ..Meta::BASE
        },
    ),
    generic(
        "del",
        -2,
        Handler::Write(del),
        Meta {
            summary: "Removes keys and counts those that were there.",
            complexity: "O(N) for N keys; what is large is freed in the background",
            keys: &[KeySpec::range(1, -1, 1, key::RM | key::DELETE)],
            args: &[KEY.multiple()],
            tips: MULTI_SHARD,
            ..Meta::BASE
        },
    ),
    generic(
        "exists",
        -2,
        Handler::Read(exists),
        Meta {
            summary: "Counts how many of the keys are there.",
            complexity: "O(N) for N keys",
            flags: flag::FAST,
            keys: &[KeySpec::range(1, -1, 1, key::RO)],
            args: &[KEY.multiple()],
            tips: MULTI_SHARD,
            history: &[("3.0.3", "Takes several `key` arguments.")],
            ..Meta::BASE
        },
    ),
    generic(
        "keys",
        2,
        Handler::Read(keys),
        Meta {
            summary: "Names all keys that fit a pattern.",
            complexity: "O(N) for N keys in the database",
            acl: acl::DANGEROUS,
            args: &[Arg::pattern("pattern")],
            tips: &["request_policy:all_shards", "nondeterministic_output_order"],
            ..Meta::BASE
        },
    ),
    generic(
        "move",
        3,
        Handler::Write(move_key),
        Meta {
            summary: "Takes a key to another database.",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::int("db")],
            ..Meta::BASE
        },
    ),
    generic(
        "randomkey",
        1,
        Handler::Read(randomkey),
        Meta {
            summary: "Names a key picked by chance.",
            flags: flag::TOUCHES_ARBITRARY_KEYS,
            tips: &["request_policy:all_shards", "response_policy:special", "nondeterministic_output"],
            ..Meta::BASE
        },
    ),
    generic(
        "rename",
        3,
        Handler::Write(rename),
        Meta {
            summary: "Gives a key another name, in place of what had it.",
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::DELETE), KeySpec::at(2, key::OW | key::UPDATE)],
            args: &[KEY, Arg::key("newkey", 1)],
            ..Meta::BASE
        },
    ),
    generic(
        "renamenx",
        3,
        Handler::Write(renamenx),
        Meta {
            summary: "Gives a key another name if nothing has it yet.",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::DELETE), KeySpec::at(2, key::OW | key::INSERT)],
            args: &[KEY, Arg::key("newkey", 1)],
            history: &[("3.2.0", "The same name twice is no error any more.")],
            ..Meta::BASE
        },
    ),
    generic(
        "touch",
        -2,
        Handler::Read(exists),
        Meta {
            summary: "Counts those of the keys that are there. Their idle time counts from their last write and stays.",
            since: "3.2.1",
            complexity: "O(N) for N keys",
            flags: flag::FAST,
            keys: &[KeySpec::range(1, -1, 1, key::RO)],
            args: &[KEY.multiple()],
            tips: MULTI_SHARD,
            ..Meta::BASE
        },
    ),
    generic(
        "type",
        2,
        Handler::Read(type_of),
        Meta {
            summary: "Names the type of a key's value.",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    generic(
        "unlink",
        -2,
        Handler::Write(del),
        Meta {
            summary: "Removes keys as DEL does.",
            since: "4.0.0",
            complexity: "O(N) for N keys; what is large is freed in the background",
            flags: flag::FAST,
            keys: &[KeySpec::range(1, -1, 1, key::RM | key::DELETE)],
            args: &[KEY.multiple()],
            tips: MULTI_SHARD,
            ..Meta::BASE
        },
    ),
];
