//! MEMORY: what is known about it without asking the allocator.

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, KeySpec, Meta, flag, key};

use super::cx::{Place, ShellCx, ShellHandler};
use super::help::help;
use crate::metrics::process::{human_bytes, machine_bytes};

fn usage(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    while let Some(word) = args.optional() {
        if !word.eq_ignore_ascii_case(b"samples") || args.is_empty() {
            return Err(CmdError::SYNTAX);
        }
        // Sizes are kept as collections grow, so nothing is sampled; the count is only checked.
        args.int_in(0, i64::MAX, CmdError::SYNTAX)?;
    }
    let (now_ms, db) = (cx.now_us() / 1000, cx.client().db);
    let mut bytes = None;
    cx.with_keyspace(&mut |keyspace| bytes = keyspace.memory_usage(now_ms, db, key));
    match bytes {
        Some(bytes) => out.int(bytes as i64),
        None => out.null(),
    }
    Ok(())
}

fn doctor(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let used = cx.metrics().refresh_memory();
    let peak = cx.metrics().memory_peak.get();
    let machine = machine_bytes();
    let mut text = format!(
        "{} are resident, {} at the peak, of {} in the machine.\n",
        human_bytes(used),
        human_bytes(peak),
        human_bytes(machine)
    );
    if machine > 0 && used > machine / 10 * 8 {
        text.push_str("That is more than four fifths of the machine: consider maxmemory or a larger machine.\n");
    } else if peak > used.saturating_mul(3) / 2 && peak > 64 << 20 {
        text.push_str("The peak was much higher: memory was given back since then.\n");
    } else {
        text.push_str("Nothing looks wrong.\n");
    }
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

fn stats(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let used = cx.metrics().refresh_memory();
    let peak = cx.metrics().memory_peak.get().max(used);
    let clients = cx.clients();
    let mut keys = 0;
    let databases = cx.server().databases;
    cx.with_keyspace(&mut |keyspace| keys = (0..databases).map(|db| keyspace.dbsize(db)).sum());
    out.map(8);
    let mut field = |name: &str, value: u64| {
        out.bulk(name.as_bytes());
        out.int(value as i64);
    };
    field("peak.allocated", peak);
    field("total.allocated", used);
    field("clients.normal", clients.max_input + clients.max_output);
    field("keys.count", keys);
    field("keys.bytes-per-key", used.checked_div(keys).unwrap_or(0));
    field("dataset.bytes", used);
    field("allocator.resident", used);
    out.bulk(b"peak.percentage");
    out.double(used as f64 * 100.0 / peak.max(1) as f64);
    Ok(())
}

fn purge(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.ok();
    Ok(())
}

fn malloc_stats(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let text = format!("The allocator is mimalloc; {} bytes are resident.\n", cx.metrics().refresh_memory());
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

fn memory_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "MEMORY",
        &[
            "DOCTOR",
            "    Say in words whether memory looks well.",
            "MALLOC-STATS",
            "    Tell what the allocator knows.",
            "PURGE",
            "    Accepted; the allocator gives memory back by itself.",
            "STATS",
            "    Tell what memory is used for.",
            "USAGE <key> [SAMPLES <count>]",
            "    Estimate the bytes that <key> and its value take.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "memory",
        summary: "Holds the commands about memory.",
        since: "4.0.0",
        group: Group::Server,
        complexity: "Depends on subcommand.",
        arity: -2,
        ..Meta::BASE
    },
    handler: ShellHandler::Container,
    subcommands: &[
        Command {
            meta: Meta {
                name: "doctor",
                summary: "Says in words whether memory looks well.",
                since: "4.0.0",
                group: Group::Server,
                arity: 2,
                tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, doctor),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "help",
                summary: "Explains the subcommands.",
                since: "4.0.0",
                group: Group::Server,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, memory_help),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "malloc-stats",
                summary: "Tells what the allocator knows.",
                since: "4.0.0",
                group: Group::Server,
                complexity: "Depends on how much memory is allocated, could be slow",
                arity: 2,
                tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, malloc_stats),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "purge",
                summary: "Asks the allocator to give memory back.",
                since: "4.0.0",
                group: Group::Server,
                complexity: "Depends on how much memory is allocated, could be slow",
                arity: 2,
                tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, purge),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "stats",
                summary: "Tells what memory is used for.",
                since: "4.0.0",
                group: Group::Server,
                arity: 2,
                tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, stats),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "usage",
                summary: "Estimates the bytes a key takes.",
                since: "4.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of samples",
                arity: -3,
                flags: flag::READONLY,
                keys: &[KeySpec::at(2, key::RO)],
                args: &[Arg::key("key", 0), Arg::int("count").token("SAMPLES").optional()],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Leader, usage),
            subcommands: &[],
        },
    ],
}];
