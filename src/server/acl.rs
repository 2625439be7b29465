//! ACL: there is one user, `default`, who may do everything. What is here lets clients see that.

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, acl, flag};

use super::catalog::catalog;
use super::cx::{Place, ShellCx, ShellHandler};
use super::help::help;

const USER: &str = "default";

fn whoami(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.bulk(USER.as_bytes());
    Ok(())
}

fn users(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.array(1);
    out.bulk(USER.as_bytes());
    Ok(())
}

fn has_password(cx: &dyn ShellCx) -> bool {
    cx.setting("requirepass").is_some_and(|password| !password.is_empty())
}

fn list(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    // Redis shows the password's digest here; ours is not shown at all.
    let password = if has_password(cx) { "" } else { " nopass" };
    out.array(1);
    out.bulk(format!("user {USER} on{password} sanitize-payload ~* &* +@all").as_bytes());
    Ok(())
}

fn getuser(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if args.next()? != USER.as_bytes() {
        out.null();
        return Ok(());
    }
    let flags: &[&str] =
        if has_password(cx) { &["on", "sanitize-payload"] } else { &["on", "nopass", "sanitize-payload"] };
    out.map(6);
    out.bulk(b"flags");
    out.set(flags.len());
    for flag in flags {
        out.bulk(flag.as_bytes());
    }
    out.bulk(b"passwords");
    out.array(0);
    for (name, rule) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
        out.bulk(name.as_bytes());
        out.bulk(rule.as_bytes());
    }
    out.bulk(b"selectors");
    out.array(0);
    Ok(())
}

fn cat(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let Some(category) = args.optional() else {
        out.array(acl::NAMES.len());
        for (_, name) in acl::NAMES {
            out.bulk(name.as_bytes());
        }
        return Ok(());
    };
    args.end()?;
    let Some((bit, _)) = acl::NAMES.iter().find(|(_, name)| category.eq_ignore_ascii_case(name.as_bytes())) else {
        return Err(CmdError::new(format!("ERR Unknown category '{}'", String::from_utf8_lossy(category))));
    };
    let found = || catalog().entries().iter().filter(|e| e.acl & bit != 0 && e.subcommands.is_empty());
    out.array(found().count());
    for entry in found() {
        out.bulk(entry.full_name.as_bytes());
    }
    Ok(())
}

fn genpass(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    const RANGE: CmdError = CmdError::fixed(
        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
    );
    let bits = if args.is_empty() { 256 } else { args.int_in(1, 4096, RANGE)? };
    let digits = usize::try_from((bits + 3) / 4).unwrap_or(64);
    let mut password = String::new();
    while password.len() < digits {
        password.push_str(&format!("{:016x}", cx.random()));
    }
    out.bulk(&password.as_bytes()[..digits]);
    Ok(())
}

fn acl_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "ACL",
        &[
            "CAT [<category>]",
            "    List the categories, or the commands of one.",
            "GENPASS [<bits>]",
            "    Make up a password of so many bits, 256 if not given.",
            "GETUSER <username>",
            "    Tell the rules of a user.",
            "LIST",
            "    List the rules of all users as in an ACL file.",
            "USERS",
            "    List the names of all users.",
            "WHOAMI",
            "    Tell the user of this connection.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "acl",
        summary: "Holds the commands about users and what they may do.",
        since: "6.0.0",
        group: Group::Server,
        complexity: "Depends on subcommand.",
        arity: -2,
        ..Meta::BASE
    },
    handler: ShellHandler::Container,
    subcommands: &[
        Command {
            meta: Meta {
                name: "cat",
                summary: "Lists the categories, or the commands of one.",
                since: "6.0.0",
                group: Group::Server,
                complexity: "O(1): both are fixed",
                arity: -2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                args: &[Arg::string("category").optional()],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, cat),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "genpass",
                summary: "Makes up a password.",
                since: "6.0.0",
                group: Group::Server,
                arity: -2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                args: &[Arg::int("bits").optional()],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, genpass),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getuser",
                summary: "Tells the rules of a user.",
                since: "6.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of its rules",
                arity: 3,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                args: &[Arg::string("username")],
                history: &[("6.2.0", "Patterns of channels."), ("7.0.0", "Selectors; patterns are told as rules.")],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, getuser),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "help",
                summary: "Explains the subcommands.",
                since: "6.0.0",
                group: Group::Server,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, acl_help),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "list",
                summary: "Lists the rules of all users as in an ACL file.",
                since: "6.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of users",
                arity: 2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, list),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "users",
                summary: "Lists the names of all users.",
                since: "6.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of users",
                arity: 2,
                flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, users),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "whoami",
                summary: "Tells the user of this connection.",
                since: "6.0.0",
                group: Group::Server,
                arity: 2,
                flags: flag::NOSCRIPT | flag::LOADING | flag::STALE,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, whoami),
            subcommands: &[],
        },
    ],
}];
