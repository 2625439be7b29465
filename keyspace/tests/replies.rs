//! Replies, byte for byte, against what Redis 7.0.15 answered to the same commands.
//!
//! Each file in `replies/` is a list of commands with the reply below each. `#` begins a part, on an empty keyspace.
//! `!resp3`, `!db N` and `!set NAME VALUE` change the setting of what follows; `~` before a command says that the
//! order of the reply is free. To record anew, start a server with all its data to lose and run
//! `RECORD=127.0.0.1:PORT cargo test -p quorate-keyspace --test replies`.

#![expect(clippy::disallowed_methods, reason = "recording writes files, and is asked for by the environment")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use quorate_keyspace::args::Args;
use quorate_keyspace::entry::{self, Stamp, UnitHead, UnitKind};
use quorate_keyspace::keyspace::Keyspace;
use quorate_keyspace::reply::{Proto, ReplyBuf};
use quorate_keyspace::spec::{self, Handler};

/// Later than the clock of any recording, and long before the times that the files expire keys at.
const NOW_MS: u64 = 1_900_000_000_000;

/// Something that answers commands.
trait Server {
    fn clear(&mut self);
    fn proto(&mut self, proto: Proto);
    fn db(&mut self, db: u16);
    fn set(&mut self, name: &str, value: &str);
    fn call(&mut self, args: &[Bytes]) -> Vec<u8>;
}

struct Ours {
    keyspace: Keyspace,
    proto: Proto,
    db: u16,
    seed: u64,
}

impl Ours {
    fn new() -> Self {
        Self { keyspace: Keyspace::new(16, [1, 2]), proto: Proto::Resp2, db: 0, seed: 0 }
    }

    fn apply(&mut self, unit: Bytes) -> Vec<u8> {
        self.seed += 1;
        let mut entry = BytesMut::new();
        entry::encode_entry(Stamp { time_ms: NOW_MS, seed: self.seed }, &[unit], &mut entry);
        let replies = self.keyspace.apply(&entry, true).expect("our own entry");
        replies.concat()
    }
}

impl Server for Ours {
    fn clear(&mut self) {
        *self = Self::new();
    }

    fn proto(&mut self, proto: Proto) {
        self.proto = proto;
    }

    fn db(&mut self, db: u16) {
        self.db = db;
    }

    fn set(&mut self, name: &str, value: &str) {
        self.apply(entry::encode_setting_unit(name, value.parse().expect("a number")));
    }

    fn call(&mut self, args: &[Bytes]) -> Vec<u8> {
        let slices: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
        let mut out = ReplyBuf::new(self.proto);
        match spec::lookup_full(&slices) {
            Err(error) => out.fail(&error),
            Ok((command, _)) if matches!(command.handler, Handler::Write(_)) => {
                let head = UnitHead { kind: UnitKind::Batch, proto: self.proto, watches: &[] };
                return self.apply(entry::encode_unit(head, std::iter::once((self.db, args))));
            }
            Ok((command, at)) => {
                self.keyspace.read(NOW_MS, self.seed, self.db, command, Args::new(&slices, at), &mut out);
            }
        }
        out.take().to_vec()
    }
}

struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    fn words(&mut self, words: &[&str]) -> Vec<u8> {
        let args: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.call(&args)
    }

    fn reply(&mut self, into: &mut Vec<u8>) {
        let start = into.len();
        self.stream.read_until(b'\n', into).expect("a line");
        let line = String::from_utf8_lossy(&into[start + 1..into.len() - 2]).into_owned();
        let count = |factor: usize| line.parse::<usize>().unwrap_or(0) * factor;
        let parts = match into[start] {
            b'$' | b'=' if line != "-1" => {
                let end = into.len() + count(1) + 2;
                let from = into.len();
                into.resize(end, 0);
                self.stream.read_exact(&mut into[from..]).expect("a string");
                0
            }
            b'*' | b'~' | b'>' => count(1),
            b'%' => count(2),
            _ => 0,
        };
        for _ in 0..parts {
            self.reply(into);
        }
    }
}

impl Server for Redis {
    fn clear(&mut self) {
        self.words(&["FLUSHALL"]);
    }

    fn proto(&mut self, proto: Proto) {
        self.words(&["HELLO", if proto == Proto::Resp3 { "3" } else { "2" }]);
    }

    fn db(&mut self, db: u16) {
        self.words(&["SELECT", &db.to_string()]);
    }

    fn set(&mut self, name: &str, value: &str) {
        assert_eq!(self.words(&["CONFIG", "SET", name, value]), b"+OK\r\n");
    }

    fn call(&mut self, args: &[Bytes]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend(format!("${}\r\n", arg.len()).bytes());
            request.extend_from_slice(arg);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).expect("a connection");
        let mut reply = Vec::new();
        self.reply(&mut reply);
        reply
    }
}

/// Words at blanks; between double quotes blanks and `\xHH`, `\r`, `\n`, `\"`, `\\` too.
fn split(line: &str) -> Vec<Bytes> {
    let mut words = Vec::new();
    let mut rest = line.trim_end();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (word, behind) = unquote(quoted);
            words.push(word.into());
            rest = behind.trim_start();
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            words.push(Bytes::copy_from_slice(&rest.as_bytes()[..end]));
            rest = rest[end..].trim_start();
        }
    }
    words
}

fn unquote(text: &str) -> (Vec<u8>, &str) {
    let mut word = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (word, &text[at + 1..]),
            '\\' => match chars.next().expect("an escape").1 {
                'x' => {
                    word.push(u8::from_str_radix(&text[at + 2..at + 4], 16).expect("two hex digits"));
                    chars.nth(1);
                }
                'r' => word.push(b'\r'),
                'n' => word.push(b'\n'),
                other => word.push(other as u8),
            },
            plain => word.push(plain as u8),
        }
    }
    panic!("no closing quote: {text}");
}

fn shown(reply: &[u8]) -> String {
    let mut text = String::new();
    for byte in reply {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..0x7f => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string"),
        }
    }
    text
}

/// The elements of a flat array (or the pairs of a map) in order, for replies whose order is free.
fn in_order(reply: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let Some((head, body)) = text.split_once("\r\n") else {
        return reply.to_vec();
    };
    let mut parts: Vec<&str> = body.split_inclusive("\r\n").collect();
    // A string is two lines.
    let mut strings: Vec<String> = parts.chunks_mut(2).map(|lines| lines.concat()).collect();
    strings.sort();
    format!("{head}\r\n{}", strings.concat()).into_bytes()
}

/// Runs a file on a server and writes it again with the replies it got.
fn run(text: &str, server: &mut dyn Server) -> String {
    let mut out = String::new();
    server.clear();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        out.push_str(line);
        out.push('\n');
        if let Some(order) = line.strip_prefix('!') {
            match order.split(' ').collect::<Vec<_>>()[..] {
                ["resp3"] => server.proto(Proto::Resp3),
                ["db", db] => server.db(db.parse().expect("a number")),
                ["set", name, value] => server.set(name, value),
                _ => panic!("unknown order {line}"),
            }
        } else if line.starts_with('#') {
            server.clear();
            server.proto(Proto::Resp2);
            server.db(0);
        } else if !line.is_empty() {
            let free = line.strip_prefix('~');
            let reply = server.call(&split(free.unwrap_or(line)));
            let reply = if free.is_some() { in_order(&reply) } else { reply };
            writeln!(out, "  {}", shown(&reply)).expect("a string");
        }
    }
    out
}

fn file(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/replies").join(name);
    let text = std::fs::read_to_string(&path).expect("the file");
    if let Ok(address) = std::env::var("RECORD") {
        // One server, so one file at a time.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().expect("no panic elsewhere");
        let stream = BufReader::new(TcpStream::connect(address).expect("a server"));
        let recorded = run(&text, &mut Redis { stream });
        std::fs::write(&path, recorded).expect("the file");
        return;
    }
    let ours = run(&text, &mut Ours::new());
    let mut command = "";
    let mut part = "";
    let mut wrong = String::new();
    for (theirs, ours) in text.lines().zip(ours.lines()) {
        if theirs != ours {
            write!(wrong, "\n{part}\n{command}\nRedis: {theirs}\nours:  {ours}\n").expect("a string");
        }
        if theirs.starts_with('#') {
            part = theirs;
        }
        command = theirs;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(text.lines().count(), ours.lines().count(), "{name} was not recorded to its end");
}

#[test]
fn generic() {
    file("generic.txt");
}

#[test]
fn expire() {
    file("expire.txt");
}

#[test]
fn hash() {
    file("hash.txt");
}

#[test]
fn string() {
    file("string.txt");
}

#[test]
fn server() {
    file("server.txt");
}

#[test]
fn bitmap() {
    file("bitmap.txt");
}

#[test]
fn sort() {
    file("sort.txt");
}
