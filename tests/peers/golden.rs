//! The same command lines to both; the bytes of every reply must be the same.
//!
//! The lines stand in `lines/`, in blocks with an empty line between. A block begins on new connections with
//! everything flushed. A line goes as redis-cli would send it; marks before a line:
//!
//! - `@b `: on a second connection, which knows nothing of the first one's transaction;
//! - `~sorted `: the reply's order is free; `~shape `: its type and length count; `~kind `: its type counts;
//! - `~near N `: an integer, at most N apart;
//! - `~but REPLY `: ours differs on purpose, and answers this (escapes as in redis-cli, the last line end left out).

use crate::pair::Pair;
use quorate_testkit::Conn;
use quorate_testkit::resp::{Value, decode, split_line};
use std::io;

const FILES: [(&str, &str); 5] = [
    ("string", include_str!("lines/string.txt")),
    ("generic", include_str!("lines/generic.txt")),
    ("hash", include_str!("lines/hash.txt")),
    ("transaction", include_str!("lines/transaction.txt")),
    ("server", include_str!("lines/server.txt")),
];

enum Compare {
    Exact,
    Sorted,
    Shape,
    Kind,
    Near(i64),
    But(Vec<u8>),
}

fn run_file(name: &str, protocol: u8, pair: &Pair) -> Vec<String> {
    let text = FILES.iter().find(|(file, _)| *file == name).expect("a file of lines").1;
    let mut differences = Vec::new();
    for block in text.split("\n\n") {
        let mut conns = pair.conns();
        let mut seconds = pair.conns();
        for conn in conns.iter_mut().chain(&mut seconds) {
            conn.cmd("FLUSHALL").expect("FLUSHALL");
            if protocol == 3 {
                conn.cmd("HELLO 3").expect("HELLO 3");
            }
        }
        let mut before = Vec::new();
        for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (sides, rest) = match line.strip_prefix("@b ") {
                Some(rest) => (&mut seconds, rest),
                None => (&mut conns, line),
            };
            let (compare, command) = marks(rest);
            let [genuine, ours] = sides.each_mut().map(|conn| reply(conn, command));
            let on_purpose = pair.both_are_genuine() && matches!(compare, Compare::But(_));
            if !on_purpose && !same(&compare, &genuine, &ours) {
                let (before, genuine, ours) = (before.join("; "), show(&genuine), show(&ours));
                let what = format!("{line}\n    after {before}\n    redis {genuine}\n    ours  {ours}");
                differences.push(format!("RESP{protocol} {name}: {what}"));
            }
            before.push(line);
            if genuine.is_empty() || ours.is_empty() {
                // A side has closed the connection: nothing more can be said on it.
                break;
            }
        }
    }
    differences
}

fn marks(line: &str) -> (Compare, &str) {
    let Some((mark, rest)) = line.strip_prefix('~').and_then(|line| line.split_once(' ')) else {
        return (Compare::Exact, line);
    };
    match mark {
        "sorted" => (Compare::Sorted, rest),
        "shape" => (Compare::Shape, rest),
        "kind" => (Compare::Kind, rest),
        "near" => {
            let (distance, rest) = rest.split_once(' ').expect("~near N line");
            (Compare::Near(distance.parse().expect("a number behind ~near")), rest)
        }
        "but" => {
            let (reply, rest) = rest.split_once(' ').expect("~but REPLY line");
            let reply = split_line(&format!("\"{reply}\\r\\n\"")).concat();
            (Compare::But(reply), rest)
        }
        _ => panic!("no such mark: {line}"),
    }
}

/// The reply's bytes; empty when the connection was closed instead.
fn reply(conn: &mut Conn, command: &str) -> Vec<u8> {
    match conn.cmd_raw(command) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => b"(no reply)".to_vec(),
        Err(_) => Vec::new(),
    }
}

fn same(compare: &Compare, genuine: &[u8], ours: &[u8]) -> bool {
    if let Compare::But(reply) = compare {
        return genuine != ours && ours == reply;
    }
    if genuine == ours {
        return true;
    }
    let (Ok(one), Ok(two)) = (decode(genuine), decode(ours)) else { return false };
    // An error where none is expected never counts as alike.
    if genuine.first() != ours.first() {
        return false;
    }
    match compare {
        Compare::Exact | Compare::But(_) => false,
        Compare::Sorted => sorted(&one) == sorted(&two),
        Compare::Shape => shape(&one) == shape(&two),
        Compare::Kind => true,
        Compare::Near(distance) => match (one.as_int(), two.as_int()) {
            (Some(one), Some(two)) => one.abs_diff(two) <= distance.unsigned_abs(),
            _ => false,
        },
    }
}

fn sorted(value: &Value) -> Vec<String> {
    let mut items: Vec<String> = match value {
        Value::Map(pairs) => pairs.iter().map(|pair| format!("{pair:?}")).collect(),
        other => other.items().iter().map(|item| format!("{item:?}")).collect(),
    };
    items.sort();
    items
}

fn shape(value: &Value) -> (std::mem::Discriminant<Value>, usize) {
    (std::mem::discriminant(value), value.items().len())
}

fn show(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(closed the connection)".into();
    }
    let text = bytes.escape_ascii().to_string();
    if text.len() > 400 { format!("{} … ({} bytes)", &text[..400], bytes.len()) } else { text }
}

fn check(name: &str, pair: &Pair) {
    let differences = [2, 3].map(|protocol| run_file(name, protocol, pair)).concat();
    let count = differences.len();
    assert!(differences.is_empty(), "{count} replies differ from Redis'\n{}", differences.join("\n"));
}

#[test]
fn string_commands_reply_as_redis_does() {
    check("string", &Pair::with_ours());
}

#[test]
fn generic_commands_reply_as_redis_does() {
    check("generic", &Pair::with_ours());
}

#[test]
fn hash_commands_reply_as_redis_does() {
    check("hash", &Pair::with_ours());
}

#[test]
fn transactions_reply_as_redis_does() {
    check("transaction", &Pair::with_ours());
}

#[test]
fn server_commands_reply_as_redis_does() {
    check("server", &Pair::with_ours());
}

/// The lines themselves: two genuine servers agree on all of them, so a difference is never the line's fault.
#[test]
fn two_genuine_servers_agree_on_every_line() {
    let pair = Pair::both_genuine();
    for (name, _) in FILES {
        check(name, &pair);
    }
}
