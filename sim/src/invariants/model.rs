//! What one object does, as a Redis user expects it: the specification that histories are held against.
//!
//! A key with a time to live may be gone from any moment on: clocks are skewed on purpose, so when exactly is not for
//! this model to say. Once gone it stays gone until it is written.

use std::collections::BTreeMap;

use crate::history::{Act, Cmd, Op, Outcome, Ret};

/// A text, by what can be told apart: two texts are the same if this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text {
    hash: u64,
    len: u64,
}

impl Text {
    const EMPTY: Text = Text { hash: 0xcbf2_9ce4_8422_2325, len: 0 };

    fn of(text: &str) -> Self {
        Self::EMPTY.then(text)
    }

    /// With that behind it.
    fn then(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.len += text.len() as u64;
        self
    }
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    Absent,
    Text { text: Text, expires: bool },
    Number(i64),
    Hash(BTreeMap<u8, Text>),
}

/// What an object holds.
pub type State = Vec<Held>;

pub const MAX_KEYS: usize = 3;

pub fn empty() -> State {
    vec![Held::Absent; MAX_KEYS]
}

/// The states in which the object may be after the operation, if it was in `state`. None: it can't have happened here.
pub fn step(state: &State, op: &Op) -> Vec<State> {
    let rets = match &op.outcome {
        Outcome::Done(rets) => Some(&rets[..]),
        Outcome::Unknown(_) => None,
        // Nothing happened, at any moment: the caller has left these out.
        Outcome::Aborted | Outcome::Failed(_) => return vec![state.clone()],
    };
    let mut states = vec![state.clone()];
    if let Some((key, held)) = &op.watched {
        states = states.iter().flat_map(|state| run(state, &Cmd { key: *key, act: Act::Get }, Some(held))).collect();
    }
    for (at, cmd) in op.cmds.iter().enumerate() {
        let ret = rets.map(|rets| &rets[at]);
        states = states.iter().flat_map(|state| run(state, cmd, ret)).collect();
    }
    states
}

fn run(state: &State, cmd: &Cmd, ret: Option<&Ret>) -> Vec<State> {
    let key = usize::from(cmd.key);
    let mut out = Vec::new();
    let mut attempt = |held: &Held| {
        let (after, answer) = act(held, &cmd.act);
        if ret.is_none_or(|ret| answer.fits(ret)) {
            let mut state = state.clone();
            state[key] = after;
            out.push(state);
        }
    };
    attempt(&state[key]);
    if matches!(state[key], Held::Text { expires: true, .. }) {
        attempt(&Held::Absent);
    }
    out
}

enum Answer {
    Nil,
    Done,
    Int(i64),
    Text(Text),
    /// A time to live: any number that is not negative.
    Left,
}

impl Answer {
    fn fits(&self, ret: &Ret) -> bool {
        match (self, ret) {
            (Answer::Nil, Ret::Nil) | (Answer::Done, Ret::Done) => true,
            (Answer::Int(expected), Ret::Int(found)) => expected == found,
            (Answer::Text(expected), Ret::Text(found)) => *expected == Text::of(found),
            (Answer::Left, Ret::Int(found)) => *found >= 0,
            _ => false,
        }
    }
}

fn shown(held: &Held) -> Answer {
    match held {
        Held::Text { text, .. } => Answer::Text(*text),
        Held::Number(n) => Answer::Text(Text::of(&n.to_string())),
        Held::Absent | Held::Hash(_) => Answer::Nil,
    }
}

fn fresh(text: &str, expires: bool) -> Held {
    Held::Text { text: Text::of(text), expires }
}

fn act(held: &Held, act: &Act) -> (Held, Answer) {
    match act {
        Act::Get => (held.clone(), shown(held)),
        Act::Set(v) => (fresh(v, false), Answer::Done),
        Act::SetPx(v, _) => (fresh(v, true), Answer::Done),
        Act::SetNx(v) => match held {
            Held::Absent => (fresh(v, false), Answer::Done),
            held => (held.clone(), Answer::Nil),
        },
        Act::SetXx(v) => match held {
            Held::Absent => (Held::Absent, Answer::Nil),
            _ => (fresh(v, false), Answer::Done),
        },
        Act::GetSet(v) => (fresh(v, false), shown(held)),
        Act::Append(v) => {
            let (text, expires) = match held {
                Held::Text { text, expires } => (text.then(v), *expires),
                _ => (Text::of(v), false),
            };
            (Held::Text { text, expires }, Answer::Int(text.len as i64))
        }
        Act::Del => (Held::Absent, Answer::Int(i64::from(*held != Held::Absent))),
        Act::Incr(n) => {
            let before = if let Held::Number(before) = held { *before } else { 0 };
            (Held::Number(before + n), Answer::Int(before + n))
        }
        Act::Pttl => {
            let answer = match held {
                Held::Absent => Answer::Int(-2),
                Held::Text { expires: true, .. } => Answer::Left,
                _ => Answer::Int(-1),
            };
            (held.clone(), answer)
        }
        Act::HSet(..) | Act::HGet(_) | Act::HDel(_) => hash(held, act),
    }
}

fn hash(held: &Held, act: &Act) -> (Held, Answer) {
    let mut fields = if let Held::Hash(fields) = held { fields.clone() } else { BTreeMap::new() };
    let answer = match act {
        Act::HSet(f, v) => Answer::Int(i64::from(fields.insert(*f, Text::of(v)).is_none())),
        Act::HGet(f) => fields.get(f).map_or(Answer::Nil, |text| Answer::Text(*text)),
        Act::HDel(f) => Answer::Int(i64::from(fields.remove(f).is_some())),
        _ => Answer::Nil,
    };
    (if fields.is_empty() { Held::Absent } else { Held::Hash(fields) }, answer)
}
