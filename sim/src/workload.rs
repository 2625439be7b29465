//! What clients ask for: registers, counters, append-only texts in transactions, hashes, and keys that expire.

use crate::history::{Act, Cmd, WIDE};
use crate::plan::{Chance, Plan};

/// An operation before it is sent.
#[derive(Clone, Debug)]
pub struct Draft {
    pub object: usize,
    pub cmds: Vec<Cmd>,
    pub transaction: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Register,
    Counter,
    Lists,
    Hash,
    Expiring,
    /// As lists, with more keys than a search for an order can judge.
    Wide,
}

const SHAPES: [Shape; 5] = [Shape::Register, Shape::Counter, Shape::Lists, Shape::Hash, Shape::Expiring];
/// Objects of a run; few, so that clients meet.
const OBJECTS: usize = 10;
const WIDE_KEYS: u8 = 6;
/// Three objects for scripts that are appended to; behind them whatever else a script needs.
pub const SCRIPTED: usize = 20;
/// Objects that only the last look writes.
const LAST: usize = 100;

/// Bytes that make a text span many sectors.
const LARGE: usize = 4000;

/// Numbers that are added are large and random, so that a sum tells what it is made of.
const MOST_ADDED: u64 = 1 << 40;

fn shape(object: usize) -> Shape {
    if object == WIDE {
        return Shape::Wide;
    }
    SHAPES[object % SHAPES.len()]
}

fn token(client: usize, written: &mut u64) -> String {
    *written += 1;
    format!("{client}.{written};")
}

/// A text that fills sectors of a disk, so that an entry can be torn.
fn padded(client: usize, written: &mut u64, padding: usize) -> String {
    token(client, written).replace(';', &format!("{};", "x".repeat(padding)))
}

/// The same once more, with texts and numbers that were never written before. A read is the same read.
pub fn retold(draft: &Draft, chance: &mut Chance, written: &mut u64, client: usize, plan: &Plan) -> Draft {
    let mut draft = draft.clone();
    let padding = if matches!(shape(draft.object), Shape::Lists | Shape::Wide) { 0 } else { plan.padding };
    for cmd in &mut draft.cmds {
        if let Act::Incr(number) = &mut cmd.act {
            *number = chance.between(1, MOST_ADDED) as i64;
        }
        if let Act::Set(text)
        | Act::SetPx(text, _)
        | Act::SetNx(text)
        | Act::SetXx(text)
        | Act::GetSet(text)
        | Act::Append(text)
        | Act::HSet(_, text) = &mut cmd.act
        {
            *text = padded(client, written, padding);
        }
    }
    draft
}

pub fn draw(chance: &mut Chance, written: &mut u64, client: usize, plan: &Plan) -> Draft {
    let object = chance.below(OBJECTS as u64 + 1) as usize;
    let read = chance.one_in(2);
    let padding = if chance.one_in(10) { LARGE } else { plan.padding };
    let mut text = || padded(client, written, plan.padding);
    let one = |act| Draft { object, cmds: vec![Cmd { key: 0, act }], transaction: false };
    match shape(object) {
        Shape::Register if read => one(Act::Get),
        Shape::Register => one(match chance.below(8) {
            0 => Act::SetNx(text()),
            1 => Act::SetXx(text()),
            2 => Act::GetSet(text()),
            3 => Act::Del,
            4 => Act::Append(text()),
            _ => Act::Set(padded(client, written, padding)),
        }),
        Shape::Counter if read => one(Act::Get),
        Shape::Counter => one(Act::Incr(chance.between(1, MOST_ADDED) as i64)),
        Shape::Hash if read => one(Act::HGet(chance.below(3) as u8)),
        Shape::Hash => {
            let field = chance.below(3) as u8;
            one(if chance.one_in(4) { Act::HDel(field) } else { Act::HSet(field, text()) })
        }
        Shape::Expiring if read => one(if chance.one_in(3) { Act::Pttl } else { Act::Get }),
        Shape::Expiring => one(match chance.below(4) {
            0 => Act::Set(text()),
            1 => Act::SetNx(text()),
            _ => Act::SetPx(text(), chance.between(20, 1500)),
        }),
        Shape::Lists => lists(chance, written, client, object, 3),
        Shape::Wide => lists(chance, written, client, object, WIDE_KEYS),
    }
}

/// A key that is only appended to, for a read of what one member has.
pub fn draw_local(chance: &mut Chance) -> (usize, u8) {
    if chance.one_in(2) { (WIDE, chance.below(WIDE_KEYS.into()) as u8) } else { (2, chance.below(3) as u8) }
}

/// Reads and appends of some of the keys of an object at once.
fn lists(chance: &mut Chance, written: &mut u64, client: usize, object: usize, keys: u8) -> Draft {
    let first = chance.below(keys.into()) as u8;
    let count = chance.between(1, 3) as u8;
    let cmds = (0..count).map(|n| {
        let key = (first + n) % keys;
        let act = if chance.one_in(2) { Act::Get } else { Act::Append(token(client, written)) };
        Cmd { key, act }
    });
    let cmds: Vec<Cmd> = cmds.collect();
    let transaction = cmds.len() > 1;
    Draft { object, cmds, transaction }
}

/// A transaction behind a WATCH of the object's first key.
pub fn draw_watched(chance: &mut Chance, written: &mut u64, client: usize, _plan: &Plan) -> Option<Draft> {
    let object = chance.below(OBJECTS as u64 + 1) as usize;
    if !matches!(shape(object), Shape::Lists | Shape::Wide) {
        return None;
    }
    let mut cmds = vec![Cmd { key: 0, act: Act::Append(token(client, written)) }];
    if chance.one_in(2) {
        cmds.push(Cmd { key: 1, act: Act::Append(token(client, written)) });
    }
    Some(Draft { object, cmds, transaction: true })
}

/// A write and a look at every object.
pub fn last_look(machine: usize, scripted: bool) -> Vec<Draft> {
    let one = |object, key, act| Draft { object, cmds: vec![Cmd { key, act }], transaction: false };
    let mut drafts = vec![one(LAST + machine, 0, Act::Set(format!("last.{machine};")))];
    let notes = (SCRIPTED..SCRIPTED + 3).filter(|_| scripted);
    for object in notes {
        drafts.extend((0..3).map(|key| one(object, key, Act::Get)));
    }
    for object in 0..=WIDE {
        match shape(object) {
            Shape::Lists => drafts.extend((0..3).map(|key| one(object, key, Act::Get))),
            Shape::Wide => drafts.extend((0..WIDE_KEYS).map(|key| one(object, key, Act::Get))),
            Shape::Hash => drafts.extend((0..3).map(|field| one(object, 0, Act::HGet(field)))),
            _ => drafts.push(one(object, 0, Act::Get)),
        }
    }
    drafts
}
