//! The page `docs/commands.md`, made of the tables, so that it can't tell anything else than COMMAND DOCS does.

use std::fmt::Write;

use quorate_keyspace::spec::{Arg, ArgKind, Group, flag};

use super::REDIS_VERSION;
use super::catalog::{Entry, catalog};

/// The groups, in the order of the page.
const GROUPS: &[(Group, &str)] = &[
    (Group::Generic, "Keys"),
    (Group::String, "Strings"),
    (Group::Bitmap, "Bitmaps"),
    (Group::Hash, "Hashes"),
    (Group::List, "Lists"),
    (Group::Set, "Sets"),
    (Group::SortedSet, "Sorted sets"),
    (Group::Geo, "Geo"),
    (Group::Hyperloglog, "HyperLogLog"),
    (Group::Stream, "Streams"),
    (Group::Pubsub, "Publish and subscribe"),
    (Group::Scripting, "Scripts"),
    (Group::Transactions, "Transactions"),
    (Group::Connection, "Connections"),
    (Group::Cluster, "Cluster"),
    (Group::Sentinel, "Sentinel"),
    (Group::Server, "Server"),
];

/// The whole page, in Markdown.
pub fn page() -> String {
    let runnable = |entry: &&Entry| entry.subcommands.is_empty();
    let (commands, count) = (catalog().entries(), catalog().entries().iter().filter(runnable).count());
    let mut page = format!(
        "# Commands\n\nThe {count} commands and subcommands of this version, as Redis {REDIS_VERSION} has them. \
         `COMMAND DOCS` tells the same. *Since* is the version of Redis that first had the command. This page is \
         generated: `UPDATE=1 cargo test --lib docs_page` writes it anew.\n"
    );
    for (group, title) in GROUPS {
        let mut of_group: Vec<&Entry> =
            commands.iter().filter(runnable).filter(|entry| entry.meta.group == *group).collect();
        if of_group.is_empty() {
            continue;
        }
        of_group.sort_by(|a, b| a.full_name.cmp(&b.full_name));
        let _ = write!(page, "\n## {title}\n\n| Syntax | What it does | Since | Flags | Complexity |\n");
        page.push_str("|---|---|---|---|---|\n");
        for entry in of_group {
            row(entry, &mut page);
        }
    }
    page
}

fn row(entry: &Entry, page: &mut String) {
    let meta = entry.meta;
    let flags: Vec<&str> =
        flag::NAMES.iter().filter(|(bit, _)| entry.flags & bit != 0).map(|(_, name)| *name).collect();
    let mut summary = meta.summary.to_owned();
    if let Some(deprecated) = meta.deprecated {
        let _ = write!(summary, " Deprecated since {}: {}.", deprecated.since, deprecated.replaced_by);
    }
    let cells = [summary, meta.since.to_owned(), flags.join(" "), meta.complexity.to_owned()];
    let _ = write!(page, "| {} ", code(&syntax(entry)));
    for cell in cells {
        let _ = write!(page, "| {} ", cell.replace('|', "\\|"));
    }
    page.push_str("|\n");
}

/// A bar inside a cell ends it, even between backticks, unless it is escaped.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// A command's syntax in the manner of Redis' own pages.
fn syntax(entry: &Entry) -> String {
    let mut text = entry.full_name.to_uppercase().replace('|', " ");
    for arg in entry.meta.args {
        text.push(' ');
        one(arg, &mut text);
    }
    text
}

fn one(arg: &Arg, text: &mut String) {
    let mut item = value(arg);
    if let Some(token) = arg.token.filter(|_| arg.kind != ArgKind::PureToken) {
        // Redis has an empty word as a token somewhere: a pair of quotes.
        let token = if token.is_empty() { "\"\"" } else { token };
        item = format!("{token} {item}");
    }
    if arg.is_multiple {
        let more = if arg.repeats_token || arg.token.is_none() { item.clone() } else { value(arg) };
        let _ = write!(item, " [{more} ...]");
    }
    if arg.is_optional {
        item = format!("[{item}]");
    }
    text.push_str(&item);
}

fn value(arg: &Arg) -> String {
    let parts = |separator: &str| {
        let parts: Vec<String> = arg
            .args
            .iter()
            .map(|part| {
                let mut text = String::new();
                one(part, &mut text);
                text
            })
            .collect();
        parts.join(separator)
    };
    match arg.kind {
        // What is optional is in brackets already.
        ArgKind::OneOf if arg.is_optional => parts(" | "),
        ArgKind::OneOf => format!("<{}>", parts(" | ")),
        ArgKind::Block => parts(" "),
        ArgKind::PureToken => arg.token.unwrap_or(arg.name).to_owned(),
        _ => arg.display.unwrap_or(arg.name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syntax_of(name: &str) -> String {
        syntax(catalog().lookup_full(name.as_bytes()).expect("a command"))
    }

    #[test]
    fn syntax_reads_as_on_the_pages_of_redis() {
        assert_eq!(syntax_of("get"), "GET key");
        assert_eq!(
            syntax_of("set"),
            "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT \
             unix-time-milliseconds | KEEPTTL]"
        );
        assert_eq!(syntax_of("mset"), "MSET key value [key value ...]");
        assert_eq!(syntax_of("client|reply"), "CLIENT REPLY <ON | OFF | SKIP>");
        assert_eq!(syntax_of("copy"), "COPY source destination [DB destination-db] [REPLACE]");
    }

    #[test]
    fn every_command_is_in_a_group_of_the_page() {
        let page = page();
        for entry in catalog().entries().iter().filter(|entry| entry.subcommands.is_empty()) {
            assert!(page.contains(&code(&syntax(entry))), "{} is missing", entry.full_name);
        }
    }

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
        let wanted = page();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &wanted).expect("docs/commands.md is written");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
        assert!(found == wanted, "docs/commands.md is stale (UPDATE=1 rewrites it), first difference: {differs:?}");
    }
}
