//! The reply of COMMAND DOCS, which redis-cli makes its hints from.

use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, ArgKind, Meta};

use super::catalog::{Entry, catalog};

/// The map that documents a command, its subcommands included.
pub(super) fn write_docs(entry: &Entry, out: &mut ReplyBuf) {
    let meta = entry.meta;
    let flags = doc_flags(entry);
    let optional = [
        !flags.is_empty(),
        meta.deprecated.is_some(),
        meta.deprecated.is_some(),
        !meta.history.is_empty(),
        !meta.args.is_empty(),
        !entry.subcommands.is_empty(),
    ];
    out.map(4 + optional.iter().filter(|there| **there).count());
    text("summary", meta.summary, out);
    text("since", meta.since, out);
    text("group", meta.group.name(), out);
    text("complexity", meta.complexity, out);
    if !flags.is_empty() {
        out.bulk(b"doc_flags");
        out.set(flags.len());
        for flag in &flags {
            out.simple(flag);
        }
    }
    if let Some(deprecated) = meta.deprecated {
        text("deprecated_since", deprecated.since, out);
        text("replaced_by", deprecated.replaced_by, out);
    }
    write_history(meta, out);
    if !meta.args.is_empty() {
        out.bulk(b"arguments");
        write_args(meta.args, out);
    }
    if !entry.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(entry.subcommands.len());
        for at in &entry.subcommands {
            let sub = &catalog().entries()[*at];
            out.bulk(sub.full_name.as_bytes());
            write_docs(sub, out);
        }
    }
}

fn doc_flags(entry: &Entry) -> Vec<&'static str> {
    /// Of no use to people who type: Redis' own list.
    const SYSTEM: &[&str] = &["debug", "pfdebug", "pfselftest"];
    let mut flags = Vec::new();
    if entry.meta.deprecated.is_some() {
        flags.push("deprecated");
    }
    if SYSTEM.contains(&entry.full_name.as_str()) {
        flags.push("syscmd");
    }
    flags
}

fn write_history(meta: &Meta, out: &mut ReplyBuf) {
    if meta.history.is_empty() {
        return;
    }
    out.bulk(b"history");
    out.set(meta.history.len());
    for (version, change) in meta.history {
        out.array(2);
        out.bulk(version.as_bytes());
        out.bulk(change.as_bytes());
    }
}

fn write_args(args: &[Arg], out: &mut ReplyBuf) {
    out.array(args.len());
    for arg in args {
        write_arg(arg, out);
    }
}

fn write_arg(arg: &Arg, out: &mut ReplyBuf) {
    let nested = matches!(arg.kind, ArgKind::OneOf | ArgKind::Block);
    let flags: Vec<&str> =
        [(arg.is_optional, "optional"), (arg.is_multiple, "multiple"), (arg.repeats_token, "multiple_token")]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
    let optional = [
        arg.key_spec.is_some(),
        arg.token.is_some(),
        arg.since.is_some(),
        arg.deprecated_since.is_some(),
        !flags.is_empty(),
    ];
    // Name, kind, and either what to show or what it is made of.
    out.map(3 + optional.iter().filter(|there| **there).count());
    text("name", arg.name, out);
    text("type", arg.kind.name(), out);
    if !nested {
        text("display_text", arg.display.unwrap_or(arg.name), out);
    }
    if let Some(spec) = arg.key_spec {
        out.bulk(b"key_spec_index");
        out.int(i64::from(spec));
    }
    if let Some(token) = arg.token {
        text("token", token, out);
    }
    if let Some(since) = arg.since {
        text("since", since, out);
    }
    if let Some(since) = arg.deprecated_since {
        text("deprecated_since", since, out);
    }
    if !flags.is_empty() {
        out.bulk(b"flags");
        out.set(flags.len());
        for flag in flags {
            out.simple(flag);
        }
    }
    if nested {
        out.bulk(b"arguments");
        write_args(arg.args, out);
    }
}

fn text(name: &str, value: &str, out: &mut ReplyBuf) {
    out.bulk(name.as_bytes());
    out.bulk(value.as_bytes());
}
