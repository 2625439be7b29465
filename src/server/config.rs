//! CONFIG: the settings, through the context. What a setting is stands in the configuration's own table.

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, flag};

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};
use super::help::help;

fn get(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let found = cx.settings_matching(args.rest());
    out.map(found.len());
    for (name, value) in found {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    Ok(())
}

fn set<'a>(cx: &'a dyn ShellCx, args: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let words = &args[2..];
        if !words.len().is_multiple_of(2) {
            return Err(CmdError::arity("config|set"));
        }
        let pairs: Vec<(&[u8], &[u8])> = words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        cx.set_settings(&pairs).await?;
        out.ok();
        Ok(())
    })
}

fn resetstat(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    cx.metrics().reset();
    out.ok();
    Ok(())
}

fn rewrite<'a>(cx: &'a dyn ShellCx, _: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        cx.rewrite_settings().await?;
        out.ok();
        Ok(())
    })
}

fn config_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "CONFIG",
        &[
            "GET <pattern> [<pattern> ...]",
            "    Tell the settings whose names match a pattern, and their values.",
            "SET <name> <value> [<name> <value> ...]",
            "    Change settings: all of them, or none.",
            "RESETSTAT",
            "    Set the counters of INFO back to zero.",
            "REWRITE",
            "    Write the settings to the configuration file.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "config",
        summary: "Holds the commands about settings.",
        since: "2.0.0",
        group: Group::Server,
        complexity: "Depends on subcommand.",
        arity: -2,
        ..Meta::BASE
    },
    handler: ShellHandler::Container,
    subcommands: &[
        Command {
            meta: Meta {
                name: "get",
                summary: "Tells settings and their values.",
                since: "2.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of patterns",
                arity: -3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                args: &[Arg::string("parameter").multiple()],
                history: &[("7.0.0", "Several patterns in one call.")],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, get),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "help",
                summary: "Explains the subcommands.",
                since: "5.0.0",
                group: Group::Server,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, config_help),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "resetstat",
                summary: "Sets the counters of INFO back to zero.",
                since: "2.0.0",
                group: Group::Server,
                arity: 2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, resetstat),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "rewrite",
                summary: "Writes the settings to the configuration file.",
                since: "2.8.0",
                group: Group::Server,
                arity: 2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, rewrite),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "set",
                summary: "Changes settings while the server runs.",
                since: "2.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of settings",
                arity: -4,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                args: &[Arg::block("data", &[Arg::string("parameter"), Arg::string("value")]).multiple()],
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                history: &[("7.0.0", "Several settings in one call.")],
                ..Meta::BASE
            },
            handler: ShellHandler::Later(Place::Here, set),
            subcommands: &[],
        },
    ],
}];
