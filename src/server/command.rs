//! COMMAND: the tables of both rooms, as Redis tells them. What a reply says comes from the tables alone.

use quorate_keyspace::args::{Args, is};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::glob;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Begin, Command, Find, Group, KeySpec, Meta, acl, flag, key, keys_of, legacy_range};

use super::catalog::{Entry, catalog};
use super::cx::{Place, ShellCx, ShellHandler};
use super::docs::write_docs;
use super::help::help;

/// Redis keeps these to itself.
const HIDDEN: u32 =
    flag::MAY_REPLICATE | flag::SENTINEL | flag::ONLY_SENTINEL | flag::PROTECTED | flag::TOUCHES_ARBITRARY_KEYS;

fn all(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.array(catalog().commands().count());
    for entry in catalog().commands() {
        write_info(entry, out);
    }
    Ok(())
}

fn count(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(catalog().commands().count() as i64);
    Ok(())
}

fn info(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if args.is_empty() {
        return all(cx, args, out);
    }
    out.array(args.remaining());
    for name in args.rest() {
        match catalog().lookup_full(name) {
            Some(entry) => write_info(entry, out),
            None => out.null(),
        }
    }
    Ok(())
}

fn docs(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let entries: Vec<&Entry> = if args.is_empty() {
        catalog().commands().collect()
    } else {
        args.rest().iter().filter_map(|name| catalog().lookup_full(name)).collect()
    };
    out.map(entries.len());
    for entry in entries {
        out.bulk(entry.full_name.as_bytes());
        write_docs(entry, out);
    }
    Ok(())
}

fn list(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let mut wanted: Box<dyn Fn(&Entry) -> bool + '_> = Box::new(|_| true);
    // As in Redis, of several filters the last one counts.
    while !args.is_empty() {
        if !args.keyword("filterby") || args.remaining() < 2 {
            return Err(CmdError::SYNTAX);
        }
        let (kind, value) = (args.next()?, args.next()?);
        wanted = match kind {
            k if is(k, "module") => Box::new(|_| false),
            k if is(k, "aclcat") => {
                let found = acl::NAMES.iter().find(|(_, name)| is(value, name));
                let bit = found.map_or(0, |(bit, _)| *bit);
                Box::new(move |entry| entry.acl & bit != 0)
            }
            k if is(k, "pattern") => Box::new(move |entry| glob::matches_nocase(value, entry.full_name.as_bytes())),
            _ => return Err(CmdError::SYNTAX),
        };
    }
    let names: Vec<&str> = catalog().entries().iter().filter(|e| wanted(e)).map(|e| e.full_name.as_str()).collect();
    out.array(names.len());
    for name in names {
        out.bulk(name.as_bytes());
    }
    Ok(())
}

fn getkeys(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let line = args.rest();
    let keys = find_keys(line)?;
    out.array(keys.len());
    for (at, _) in keys {
        out.bulk(line[at]);
    }
    Ok(())
}

fn getkeysandflags(_cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let line = args.rest();
    let keys = find_keys(line)?;
    out.array(keys.len());
    for (at, flags) in keys {
        out.array(2);
        out.bulk(line[at]);
        write_names(key::NAMES, flags, "", out);
    }
    Ok(())
}

fn find_keys(line: &[&[u8]]) -> Result<Vec<(usize, u32)>, CmdError> {
    let Some(entry) = catalog().of_line(line) else {
        return Err(CmdError::fixed("ERR Invalid command specified"));
    };
    if entry.meta.find_keys.is_none() && entry.meta.keys.is_empty() {
        return Err(CmdError::fixed("ERR The command has no key arguments"));
    }
    if !entry.meta.arity_fits(line.len()) {
        return Err(CmdError::fixed("ERR Invalid number of arguments specified for command"));
    }
    match keys_of(entry.meta, line) {
        Some(keys) if !keys.is_empty() => Ok(keys),
        _ if entry.has(flag::NO_MANDATORY_KEYS) => Ok(Vec::new()),
        _ => Err(CmdError::fixed("ERR Invalid arguments specified for command")),
    }
}

/// The ten fields of COMMAND INFO, subcommands included.
fn write_info(entry: &Entry, out: &mut ReplyBuf) {
    let (first, last, step) = legacy_range(entry.meta);
    out.array(10);
    out.bulk(entry.full_name.as_bytes());
    out.int(i64::from(entry.meta.arity));
    write_names(flag::NAMES, entry.flags & !HIDDEN, "", out);
    for place in [first, last, step] {
        out.int(i64::from(place));
    }
    write_names(acl::NAMES, entry.acl, "@", out);
    out.set(entry.meta.tips.len());
    for tip in entry.meta.tips {
        out.bulk(tip.as_bytes());
    }
    out.set(entry.meta.keys.len());
    for spec in entry.meta.keys {
        write_key_spec(spec, out);
    }
    if entry.subcommands.is_empty() {
        out.set(0);
        return;
    }
    out.array(entry.subcommands.len());
    for at in &entry.subcommands {
        write_info(&catalog().entries()[*at], out);
    }
}

/// The names of the bits that are set, as a set of simple strings.
fn write_names(names: &[(u32, &str)], bits: u32, prefix: &str, out: &mut ReplyBuf) {
    let found = || names.iter().filter(|(bit, _)| bits & bit != 0);
    out.set(found().count());
    for (_, name) in found() {
        out.simple(&format!("{prefix}{name}"));
    }
}

fn write_key_spec(spec: &KeySpec, out: &mut ReplyBuf) {
    out.map(if spec.notes.is_empty() { 3 } else { 4 });
    if !spec.notes.is_empty() {
        out.bulk(b"notes");
        out.bulk(spec.notes.as_bytes());
    }
    out.bulk(b"flags");
    write_names(key::NAMES, spec.flags, "", out);
    out.bulk(b"begin_search");
    match spec.begin {
        Begin::Index(index) => write_typed("index", &[("index", index)], None, out),
        Begin::Keyword(word, from) => write_typed("keyword", &[("startfrom", from)], Some(word), out),
        Begin::Unknown => write_typed("unknown", &[], None, out),
    }
    out.bulk(b"find_keys");
    match spec.find {
        Find::Range { last, step, limit } => {
            write_typed("range", &[("lastkey", last), ("keystep", step), ("limit", limit)], None, out);
        }
        Find::Count { count, first, step } => {
            write_typed("keynum", &[("keynumidx", count), ("firstkey", first), ("keystep", step)], None, out);
        }
        Find::Unknown => write_typed("unknown", &[], None, out),
    }
}

fn write_typed(kind: &str, numbers: &[(&str, i32)], keyword: Option<&str>, out: &mut ReplyBuf) {
    out.map(2);
    out.bulk(b"type");
    out.bulk(kind.as_bytes());
    out.bulk(b"spec");
    out.map(numbers.len() + usize::from(keyword.is_some()));
    if let Some(word) = keyword {
        out.bulk(b"keyword");
        out.bulk(word.as_bytes());
    }
    for (name, number) in numbers {
        out.bulk(name.as_bytes());
        out.int(i64::from(*number));
    }
}

fn command_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "COMMAND",
        &[
            "(no subcommand)",
            "    Describe all commands.",
            "COUNT",
            "    Count the commands.",
            "DOCS [<command-name> ...]",
            "    Document these commands, or all.",
            "GETKEYS <full-command>",
            "    Find the keys in a command's arguments.",
            "GETKEYSANDFLAGS <full-command>",
            "    Find the keys in a command's arguments, and what it does with each.",
            "INFO [<command-name> ...]",
            "    Describe these commands, or all.",
            "LIST [FILTERBY ACLCAT <category> | MODULE <name> | PATTERN <pattern>]",
            "    List the names of commands and subcommands.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "command",
        summary: "Describes all commands.",
        since: "2.8.13",
        group: Group::Server,
        complexity: "O(N) with N the number of commands",
        arity: -1,
        flags: flag::LOADING | flag::STALE,
        acl: acl::CONNECTION,
        tips: &["nondeterministic_output_order"],
        ..Meta::BASE
    },
    handler: ShellHandler::Now(Place::Here, all),
    subcommands: &[
        Command {
            meta: Meta {
                name: "count",
                summary: "Counts the commands.",
                since: "2.8.13",
                group: Group::Server,
                arity: 2,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, count),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "docs",
                summary: "Documents commands.",
                since: "7.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of commands asked for",
                arity: -2,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::string("command-name").optional().multiple()],
                tips: &["nondeterministic_output_order"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, docs),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getkeys",
                summary: "Finds the keys in a command's arguments.",
                since: "2.8.13",
                group: Group::Server,
                complexity: "O(N) with N the number of arguments",
                arity: -3,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::string("command"), Arg::string("arg").optional().multiple()],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, getkeys),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "getkeysandflags",
                summary: "Finds the keys in a command's arguments, and what it does with each.",
                since: "7.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of arguments",
                arity: -3,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::string("command"), Arg::string("arg").optional().multiple()],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, getkeysandflags),
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
                acl: acl::CONNECTION,
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, command_help),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "info",
                summary: "Describes commands.",
                since: "2.8.13",
                group: Group::Server,
                complexity: "O(N) with N the number of commands asked for",
                arity: -2,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::string("command-name").optional().multiple()],
                tips: &["nondeterministic_output_order"],
                history: &[("7.0.0", "Without a name it describes all.")],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, info),
            subcommands: &[],
        },
        Command {
            meta: Meta {
                name: "list",
                summary: "Lists the names of commands.",
                since: "7.0.0",
                group: Group::Server,
                complexity: "O(N) with N the number of commands",
                arity: -2,
                flags: flag::LOADING | flag::STALE,
                acl: acl::CONNECTION,
                args: &[Arg::one_of(
                    "filterby",
                    &[
                        Arg::string("module-name").token("MODULE"),
                        Arg::string("category").token("ACLCAT"),
                        Arg::pattern("pattern").token("PATTERN"),
                    ],
                )
                .token("FILTERBY")
                .optional()],
                tips: &["nondeterministic_output_order"],
                ..Meta::BASE
            },
            handler: ShellHandler::Now(Place::Here, list),
            subcommands: &[],
        },
    ],
}];
