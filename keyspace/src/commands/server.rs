//! Commands on whole databases.

use crate::args::{Args, is};
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::number;
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Group, Handler, Meta, acl, flag};

fn dbsize(cx: &ReadCx<'_>, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(cx.len() as i64);
    Ok(())
}

/// Nothing, SYNC or ASYNC: memory is given back in the background either way.
fn flush_option(args: &mut Args<'_>) -> Result<(), CmdError> {
    match args.optional() {
        None => Ok(()),
        Some(word) if (is(word, "sync") || is(word, "async")) && args.is_empty() => Ok(()),
        Some(_) => Err(CmdError::SYNTAX),
    }
}

fn flushdb(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    flush_option(args)?;
    cx.flush_db();
    out.ok();
    Ok(())
}

fn flushall(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    flush_option(args)?;
    for db in 0..cx.databases() {
        cx.in_db(db).flush_db();
    }
    out.ok();
    Ok(())
}

fn swapdb(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let number = |arg: &[u8], error| number::parse_int(arg).and_then(|n| i32::try_from(n).ok()).ok_or(error);
    let one = number(args.next()?, CmdError::fixed("ERR invalid first DB index"))?;
    let other = number(args.next()?, CmdError::fixed("ERR invalid second DB index"))?;
    let within = |n: i32| u16::try_from(n).ok().filter(|n| *n < cx.databases()).ok_or(CmdError::DB_RANGE);
    let (one, other) = (within(one)?, within(other)?);
    if one != other {
        cx.swap_dbs(one, other);
    }
    out.ok();
    Ok(())
}

static FLUSH_TYPE: &[Arg] = &[Arg::word("async", "ASYNC").since("4.0.0"), Arg::word("sync", "SYNC").since("6.2.0")];

static FLUSH_ARGS: &[Arg] = &[Arg::one_of("flush-type", FLUSH_TYPE).optional()];

const fn server(name: &'static str, arity: i32, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta { name, arity, group: Group::Server, acl: acl::KEYSPACE | meta.acl, ..meta };
    Command { meta, handler, subcommands: &[] }
}

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[
    server(
        "dbsize",
        1,
        Handler::Read(dbsize),
        Meta {
            summary: "Counts the keys of the database.",
            flags: flag::FAST,
            tips: &["request_policy:all_shards", "response_policy:agg_sum"],
            ..Meta::BASE
        },
    ),
    server(
        "flushall",
        -1,
        Handler::Write(flushall),
        Meta {
            summary: "Empties every database.",
            complexity: "O(N) for N keys in all databases",
            acl: acl::DANGEROUS,
            args: FLUSH_ARGS,
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            history: &[("4.0.0", "The `ASYNC` modifier came in."), ("6.2.0", "The `SYNC` modifier came in.")],
            ..Meta::BASE
        },
    ),
    server(
        "flushdb",
        -1,
        Handler::Write(flushdb),
        Meta {
            summary: "Empties the database in use.",
            complexity: "O(N) for N keys in the database",
            acl: acl::DANGEROUS,
            args: FLUSH_ARGS,
            tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
            history: &[("4.0.0", "The `ASYNC` modifier came in."), ("6.2.0", "The `SYNC` modifier came in.")],
            ..Meta::BASE
        },
    ),
    server(
        "swapdb",
        3,
        Handler::Write(swapdb),
        Meta {
            summary: "Exchanges two databases.",
            since: "4.0.0",
            complexity: "O(N) for N clients that watch keys of either database",
            flags: flag::FAST,
            acl: acl::DANGEROUS,
            args: &[Arg::int("index1"), Arg::int("index2")],
            ..Meta::BASE
        },
    ),
];
