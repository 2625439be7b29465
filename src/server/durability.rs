//! What is on disk: checkpoints under Redis' names for them, and WAIT.
//!
//! Every acknowledged write is on the disks of a majority already (unless `appendfsync` says otherwise). A checkpoint makes recovery shorter, not writes
//! safer, and WAIT tells how far beyond the majority a write has come.

use std::time::Duration;

use quorate_keyspace::args::{Args, is};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::number::parse_int;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, acl, flag};

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};

fn save<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        cx.checkpoint().await?;
        out.ok();
        Ok(())
    })
}

fn bgsave(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    args.keyword("schedule");
    args.end()?;
    cx.checkpoint_soon();
    out.simple("Background saving started");
    Ok(())
}

fn bgrewriteaof(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.simple("Background append only file rewriting started");
    Ok(())
}

fn lastsave(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(cx.storage().last_checkpoint_s as i64);
    Ok(())
}

fn wait<'a>(cx: &'a dyn ShellCx, args: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let wanted = parse_int(args[1]).ok_or(CmdError::NOT_INTEGER)?;
        let patience = timeout(args[2])?;
        let held = cx.wait_replicated(wanted.max(0) as u64, patience).await?;
        out.int(held as i64);
        Ok(())
    })
}

fn waitaof<'a>(
    cx: &'a dyn ShellCx,
    args: &'a [&'a [u8]],
    out: &'a mut ReplyBuf,
) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        const LOCAL: CmdError = CmdError::fixed("ERR value is out of range, value must between 0 and 1");
        let local = parse_int(args[1]).ok_or(CmdError::NOT_INTEGER)?;
        if !(0..=1).contains(&local) {
            return Err(LOCAL);
        }
        let wanted = parse_int(args[2]).ok_or(CmdError::NOT_INTEGER)?;
        if wanted < 0 {
            return Err(CmdError::NOT_POSITIVE);
        }
        let patience = timeout(args[3])?;
        let held = cx.wait_replicated(wanted as u64, patience).await?;
        let synced_first = cx.setting("appendfsync").is_none_or(|policy| policy == "always");
        out.array(2);
        if synced_first {
            // What was acknowledged is in this group's log, and the member that answers holds it.
            out.int(1);
            out.int(held as i64);
        } else {
            out.int(i64::from(local == 1 && cx.sync_log(patience).await));
            // The others acknowledge without a sync, as this one does.
            out.int(0);
        }
        Ok(())
    })
}

/// Milliseconds; 0 is for ever.
fn timeout(arg: &[u8]) -> Result<Option<Duration>, CmdError> {
    match parse_int(arg) {
        None => Err(CmdError::fixed("ERR timeout is not an integer or out of range")),
        Some(ms) if ms < 0 => Err(CmdError::fixed("ERR timeout is negative")),
        Some(0) => Ok(None),
        Some(ms) => Ok(Some(Duration::from_millis(ms as u64))),
    }
}

/// Accepts FUNCTION FLUSH where there are no functions to delete: clients and test suites call it to begin clean.
fn function_flush(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if let Some(word) = args.optional()
        && (!(is(word, "sync") || is(word, "async")) || !args.is_empty())
    {
        return Err(CmdError::fixed("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
    }
    out.ok();
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[
    Command {
        meta: Meta {
            name: "bgrewriteaof",
            summary: "Answers as if the append-only file were rewritten; the log needs no rewriting.",
            group: Group::Server,
            arity: 1,
            flags: flag::NO_ASYNC_LOADING | flag::ADMIN | flag::NOSCRIPT,
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, bgrewriteaof),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "bgsave",
            summary: "Asks for a checkpoint and does not wait for it.",
            group: Group::Server,
            arity: -1,
            flags: flag::NO_ASYNC_LOADING | flag::ADMIN | flag::NOSCRIPT,
            args: &[Arg::word("schedule", "SCHEDULE").optional().since("3.2.2")],
            history: &[("3.2.2", "SCHEDULE.")],
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, bgsave),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "function",
            summary: "Holds the commands about function libraries.",
            since: "7.0.0",
            group: Group::Scripting,
            complexity: "Depends on subcommand.",
            arity: -2,
            ..Meta::BASE
        },
        handler: ShellHandler::Container,
        subcommands: &[Command {
            meta: Meta {
                name: "flush",
                summary: "Deletes all libraries.",
                since: "7.0.0",
                group: Group::Scripting,
                complexity: "O(N) with N the number of functions",
                arity: -2,
                flags: flag::WRITE | flag::NOSCRIPT,
                acl: acl::SCRIPTING,
                args: &[Arg::one_of("flush-type", &[Arg::word("async", "ASYNC"), Arg::word("sync", "SYNC")]).optional()],
                tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, function_flush),
            subcommands: &[],
        }],
    },
    Command {
        meta: Meta {
            name: "lastsave",
            summary: "Tells when the last checkpoint was taken.",
            group: Group::Server,
            arity: 1,
            flags: flag::LOADING | flag::STALE | flag::FAST,
            acl: acl::ADMIN | acl::DANGEROUS,
            tips: &["nondeterministic_output"],
            ..Meta::BASE
        },
        handler: ShellHandler::Now(Place::Here, lastsave),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "save",
            summary: "Takes a checkpoint and waits until it is on disk.",
            group: Group::Server,
            complexity: "O(N) with N the keys that changed since the last one",
            arity: 1,
            flags: flag::NO_ASYNC_LOADING | flag::ADMIN | flag::NOSCRIPT | flag::NO_MULTI,
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Here, save),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "wait",
            summary: "Waits until other voters hold the writes of this connection on disk.",
            since: "3.0.0",
            group: Group::Generic,
            arity: 3,
            acl: acl::CONNECTION,
            args: &[Arg::int("numreplicas"), Arg::int("timeout")],
            tips: &["request_policy:all_shards", "response_policy:agg_min"],
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Leader, wait),
        subcommands: &[],
    },
    Command {
        meta: Meta {
            name: "waitaof",
            summary: "Waits until this member and other voters hold the writes of this connection on disk.",
            since: "7.2.0",
            group: Group::Generic,
            arity: 4,
            flags: flag::NOSCRIPT,
            acl: acl::CONNECTION,
            args: &[Arg::int("numlocal"), Arg::int("numreplicas"), Arg::int("timeout")],
            tips: &["request_policy:all_shards", "response_policy:agg_min"],
            ..Meta::BASE
        },
        handler: ShellHandler::Later(Place::Leader, waitaof),
        subcommands: &[],
    },
];
