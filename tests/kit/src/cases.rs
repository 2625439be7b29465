//! The public cases of `tests/compat/cases.json`: lines to send in order, and the reply that each must get.

use crate::resp::{Conn, Value, split_line, unescape};
use serde_json::Value as Json;

const CASES: &str = include_str!("../../compat/cases.json");

/// One case.
#[derive(Debug)]
pub struct Case {
    /// What it is about.
    pub name: String,
    lines: Vec<Vec<Vec<u8>>>,
    results: Vec<Json>,
    since: String,
    sort_result: bool,
}

/// All cases for a server that isn't sharded and has what version `version` has.
///
/// # Panics
/// When the file is not as it should be.
#[must_use]
pub fn cases(version: &str) -> Vec<Case> {
    let all: Vec<Json> = serde_json::from_str(CASES).expect("cases.json is JSON");
    let wanted = |case: &&Json| {
        let newer = numbers(case["since"].as_str().unwrap_or_default()) > numbers(version);
        case["tags"] != "cluster" && case["skipped"] != true && !newer
    };
    all.iter().filter(wanted).map(Case::read).collect()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().expect("a version")).collect()
}

impl Case {
    fn read(json: &Json) -> Case {
        let binary = json["command_binary"] == true;
        let lines = json["command"].as_array().expect("lines").iter();
        let lines = lines.map(|line| words(line.as_str().expect("a line"), binary)).collect();
        Case {
            name: json["name"].as_str().expect("a name").to_owned(),
            lines,
            results: json["result"].as_array().expect("results").clone(),
            since: json["since"].as_str().expect("a version").to_owned(),
            sort_result: json["sort_result"] == true,
        }
    }

    /// The commands it sends, in lower case: each with the word behind it, which may name a subcommand.
    #[must_use]
    pub fn commands(&self) -> Vec<(String, String)> {
        let lower = |word: Option<&Vec<u8>>| word.map(|word| String::from_utf8_lossy(word).to_lowercase());
        let both =
            |words: &Vec<Vec<u8>>| (lower(words.first()).unwrap_or_default(), lower(words.get(1)).unwrap_or_default());
        self.lines.iter().map(both).collect()
    }

    /// Runs it on a connection, after a flush.
    ///
    /// # Errors
    /// What was sent, expected and given, when a reply is not as expected.
    pub fn run(&self, conn: &mut Conn) -> Result<(), String> {
        conn.cmd("FLUSHALL").map_err(|error| format!("FLUSHALL: {error}"))?;
        for (words, expected) in self.lines.iter().zip(&self.results) {
            let reply = conn.call(words);
            let fits = reply.as_ref().is_ok_and(|reply| self.fits(expected, reply));
            if !fits {
                let line: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
                let (name, since, line) = (&self.name, &self.since, line.join(" "));
                return Err(format!("{name} (since {since}): {line}\n    expected {expected}\n    got {reply:?}"));
            }
        }
        Ok(())
    }

    fn fits(&self, expected: &Json, reply: &Value) -> bool {
        match (expected, reply) {
            (Json::Null, Value::Null) => true,
            (Json::Number(number), Value::Int(reply)) => number.as_i64() == Some(*reply),
            (Json::String(text), Value::Simple(_) | Value::Bulk(_) | Value::Error(_)) => {
                reply.as_text().as_ref() == Some(text)
            }
            (Json::Array(items), Value::Array(reply)) => {
                let (mut items, mut reply) = (items.clone(), reply.clone());
                if self.sort_result {
                    items.sort_by_key(Json::to_string);
                    reply.sort_by_key(|item| format!("{item:?}"));
                }
                items.len() == reply.len() && items.iter().zip(&reply).all(|(item, reply)| self.fits(item, reply))
            }
            _ => false,
        }
    }
}

/// The words of a line; in a binary one escapes stand anywhere.
fn words(line: &str, binary: bool) -> Vec<Vec<u8>> {
    if !binary {
        return split_line(line);
    }
    let bytes = line.as_bytes();
    let mut words: Vec<Vec<u8>> = Vec::new();
    let (mut word, mut quoted, mut at) = (Vec::new(), false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                let (byte, length) = unescape(&bytes[at..]);
                word.push(byte);
                at += length;
                continue;
            }
            b'"' => quoted = !quoted,
            b' ' if !quoted => words.push(std::mem::take(&mut word)),
            byte => word.push(byte),
        }
        at += 1;
    }
    words.push(word);
    words
}
