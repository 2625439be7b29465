//! What clients did and saw: the material of the oracles that look at the service from outside.
//!
//! Keys come in small objects. All operations on one object, single commands and transactions alike, are judged
//! together; no operation touches two objects.

use std::fmt;

/// One command on one key of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Get,
    Set(String),
    SetPx(String, u64),
    SetNx(String),
    SetXx(String),
    GetSet(String),
    Append(String),
    Del,
    Incr(i64),
    Pttl,
    HSet(u8, String),
    HGet(u8),
    HDel(u8),
}

impl Act {
    pub fn is_read(&self) -> bool {
        matches!(self, Act::Get | Act::Pttl | Act::HGet(_))
    }

    /// The unique text that it writes.
    pub fn token(&self) -> Option<&str> {
        match self {
            Act::Set(t) | Act::SetPx(t, _) | Act::SetNx(t) | Act::SetXx(t) | Act::GetSet(t) | Act::Append(t) => Some(t),
            Act::HSet(_, t) => Some(t),
            _ => None,
        }
    }

    pub fn command(&self, key: &str) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let field = |field: &u8| format!("f{field}");
        match self {
            Act::Get => words(&["GET", key]),
            Act::Set(v) => words(&["SET", key, v]),
            Act::SetPx(v, ms) => words(&["SET", key, v, "PX", &ms.to_string()]),
            Act::SetNx(v) => words(&["SET", key, v, "NX"]),
            Act::SetXx(v) => words(&["SET", key, v, "XX"]),
            Act::GetSet(v) => words(&["GETSET", key, v]),
            Act::Append(v) => words(&["APPEND", key, v]),
            Act::Del => words(&["DEL", key]),
            Act::Incr(n) => words(&["INCRBY", key, &n.to_string()]),
            Act::Pttl => words(&["PTTL", key]),
            Act::HSet(f, v) => words(&["HSET", key, &field(f), v]),
            Act::HGet(f) => words(&["HGET", key, &field(f)]),
            Act::HDel(f) => words(&["HDEL", key, &field(f)]),
        }
    }
}

/// A command and the key of the object that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    pub key: u8,
    pub act: Act,
}

/// What a command answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ret {
    Nil,
    Done,
    Int(i64),
    Text(String),
}

/// How an operation ended, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and answered this: one per command.
    Done(Vec<Ret>),
    /// EXEC answered null: nothing happened.
    Aborted,
    /// The server says that nothing happened.
    Failed(String),
    /// It may have happened, may still happen, or never.
    Unknown(String),
}

/// An operation: one command, or a transaction.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: usize,
    pub machine: usize,
    pub object: usize,
    pub cmds: Vec<Cmd>,
    /// Only if this key holds that (read behind a WATCH) did the transaction run.
    pub watched: Option<(u8, Ret)>,
    pub transaction: bool,
    /// Nanoseconds of simulated time.
    pub call: u64,
    pub ret: u64,
    pub outcome: Outcome,
}

impl Op {
    pub fn is_read(&self) -> bool {
        self.cmds.iter().all(|cmd| cmd.act.is_read())
    }
}

/// The object with more keys than a search for an order can judge; only the search for a circle does.
pub const WIDE: usize = 10;

pub fn key_name(object: usize, key: u8) -> String {
    format!("o{object}:{}", char::from(b'a' + key))
}

fn short(text: &str) -> String {
    let count = text.chars().count();
    if count <= 24 {
        return text.to_owned();
    }
    let tail: String = text.chars().skip(count - 20).collect();
    format!("..{tail}")
}

impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ret::Nil => f.write_str("nil"),
            Ret::Done => f.write_str("OK"),
            Ret::Int(n) => write!(f, "{n}"),
            Ret::Text(text) => f.write_str(&short(text)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(rets) => {
                let rets: Vec<String> = rets.iter().map(Ret::to_string).collect();
                f.write_str(&rets.join(", "))
            }
            Outcome::Aborted => f.write_str("aborted"),
            Outcome::Failed(why) => write!(f, "failed ({why})"),
            Outcome::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cmds = self.cmds.iter().map(|cmd| cmd.act.command(&key_name(self.object, cmd.key)).join(" "));
        let text = cmds.collect::<Vec<_>>().join("; ");
        if self.transaction {
            write!(f, "MULTI {text} EXEC")?;
        } else {
            f.write_str(&text)?;
        }
        if let Some((key, held)) = &self.watched {
            write!(f, " if {} = {held}", key_name(self.object, *key))?;
        }
        write!(f, " -> {} (machine {}, asked at {:.4})", self.outcome, self.machine, self.call as f64 / 1e9)
    }
}
