//! Strict serializability of transactions that read and append to several keys (Raft paper, section 8, for more than
//! one key; Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations").
//!
//! A text that is only ever appended to shows in which order everything was written to it. So no search is needed: who
//! wrote after whom, who read what whom had written, who read before whom wrote, and who was answered before whom was
//! asked are arrows, and if they make a circle no order explains the history. A transaction behind a WATCH also read
//! what it watched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::history::{Act, Op, Outcome, Ret};
use crate::story::Story;

pub const NAME: &str = "strict serializability";

type Key = (usize, u8);

/// What is wrong with a history, and the operations that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    pub text: String,
    pub ops: Vec<usize>,
}

pub fn check(ops: &[Op], story: &Story) {
    if let Err(anomaly) = judge(ops) {
        let mut text = anomaly.text;
        for at in anomaly.ops.iter().take(12) {
            text.push_str(&format!("\n    client {:<2} {}", ops[*at].client, ops[*at]));
        }
        story.broken_by(NAME, text, anomaly.ops.iter().map(|at| (ops[*at].client, ops[*at].call)).collect());
    }
}

/// The keys that are only ever appended to and read.
fn appended(ops: &[Op]) -> BTreeSet<Key> {
    let (mut yes, mut no) = (BTreeSet::new(), BTreeSet::new());
    for op in ops {
        for cmd in &op.cmds {
            match cmd.act {
                Act::Append(_) => yes.insert((op.object, cmd.key)),
                Act::Get => false,
                _ => no.insert((op.object, cmd.key)),
            };
        }
    }
    yes.difference(&no).copied().collect()
}

/// Texts that were read of a key, with who read them: in replies, and as what a transaction had watched.
fn reads<'a>(ops: &'a [Op], keys: &BTreeSet<Key>) -> Vec<(Key, &'a str, usize)> {
    let text = |ret: &'a Ret| match ret {
        Ret::Text(text) => text.as_str(),
        _ => "",
    };
    let mut found = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let Outcome::Done(rets) = &op.outcome else { continue };
        let direct = op.cmds.iter().zip(rets).filter(|(cmd, _)| cmd.act == Act::Get);
        let direct = direct.map(|(cmd, ret)| ((op.object, cmd.key), text(ret), at));
        let watched = op.watched.iter().map(|(key, ret)| ((op.object, *key), text(ret), at));
        found.extend(direct.chain(watched).filter(|(key, ..)| keys.contains(key)));
    }
    found
}

/// The versions of a key: how long it was behind each write, and who wrote.
type Versions = BTreeMap<usize, usize>;

/// In which order each key was written, from the longest text that was read and from the lengths that appends answered.
fn versions(
    ops: &[Op],
    keys: &BTreeSet<Key>,
    reads: &[(Key, &str, usize)],
) -> Result<BTreeMap<Key, Versions>, Anomaly> {
    let mut longest: BTreeMap<Key, (&str, usize)> = BTreeMap::new();
    for (key, text, at) in reads {
        let best = longest.entry(*key).or_insert(("", *at));
        if text.len() > best.0.len() {
            *best = (text, *at);
        }
    }
    for (key, text, at) in reads {
        let (best, by) = longest[key];
        if !best.starts_with(text) {
            let text = format!("two reads of {} show different orders", crate::history::key_name(key.0, key.1));
            return Err(Anomaly { text, ops: vec![*at, by] });
        }
    }
    let mut writers: BTreeMap<(Key, &str), usize> = BTreeMap::new();
    let mut versions: BTreeMap<Key, Versions> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        for (n, cmd) in op.cmds.iter().enumerate() {
            let key = (op.object, cmd.key);
            let Act::Append(token) = &cmd.act else { continue };
            if !keys.contains(&key) {
                continue;
            }
            writers.insert((key, token), at);
            let Outcome::Done(rets) = &op.outcome else { continue };
            let Ret::Int(length) = rets[n] else { continue };
            if let Some(other) = versions.entry(key).or_default().insert(length as usize, at) {
                let text = format!("two appends both say that the text is {length} bytes long behind them");
                return Err(Anomaly { text, ops: vec![other, at] });
            }
        }
    }
    for (key, (text, by)) in longest {
        let mut length = 0;
        for token in text.split_inclusive(';') {
            length += token.len();
            // Texts that nobody is known to have written are for other oracles.
            let Some(writer) = writers.get(&(key, token)) else { continue };
            let other = versions.entry(key).or_default().insert(length, *writer);
            if let Some(other) = other.filter(|other| other != writer) {
                let text = format!("an append answered {length}, and another one's text is what ends there");
                return Err(Anomaly { text, ops: vec![other, *writer, by] });
            }
        }
    }
    Ok(versions)
}

/// The arrows between operations; behind the operations stand moments, one for each answer.
struct Arrows(Vec<BTreeSet<usize>>);

impl Arrows {
    fn add(&mut self, from: usize, to: usize) {
        if from != to {
            self.0[from].insert(to);
        }
    }
}

fn arrows(ops: &[Op], reads: &[(Key, &str, usize)], versions: &BTreeMap<Key, Versions>) -> Arrows {
    let mut answered: Vec<usize> = (0..ops.len()).filter(|at| matches!(ops[*at].outcome, Outcome::Done(_))).collect();
    answered.sort_by_key(|at| ops[*at].ret);
    let mut arrows = Arrows(vec![BTreeSet::new(); ops.len() + answered.len()]);
    for versions in versions.values() {
        for (before, after) in versions.values().zip(versions.values().skip(1)) {
            arrows.add(*before, *after);
        }
    }
    for (key, text, reader) in reads {
        let Some(versions) = versions.get(key) else { continue };
        if let Some((_, writer)) = versions.range(..=text.len()).next_back() {
            arrows.add(*writer, *reader);
        }
        if let Some((_, writer)) = versions.range(text.len() + 1..).next() {
            arrows.add(*reader, *writer);
        }
    }
    // Through a chain of moments: operation, the moment of its answer, the moments after that, who was asked later.
    for (moment, at) in answered.iter().enumerate() {
        arrows.add(*at, ops.len() + moment);
        if moment > 0 {
            arrows.add(ops.len() + moment - 1, ops.len() + moment);
        }
    }
    for (at, op) in ops.iter().enumerate() {
        let before = answered.partition_point(|other| ops[*other].ret < op.call);
        if before > 0 {
            arrows.add(ops.len() + before - 1, at);
        }
    }
    arrows
}

/// Nodes that stand in a circle, in its order; none if there is no circle.
fn circle(arrows: &Arrows) -> Vec<usize> {
    let mut before = vec![0usize; arrows.0.len()];
    arrows.0.iter().flatten().for_each(|to| before[*to] += 1);
    let mut free: VecDeque<usize> = (0..before.len()).filter(|at| before[*at] == 0).collect();
    while let Some(at) = free.pop_front() {
        for to in &arrows.0[at] {
            before[*to] -= 1;
            if before[*to] == 0 {
                free.push_back(*to);
            }
        }
    }
    // Whoever is left has somebody left before him: going back from him ends in a circle.
    let left = |at: &usize| before[*at] > 0;
    let Some(start) = (0..before.len()).find(left) else { return Vec::new() };
    let mut back = BTreeMap::new();
    for (from, tos) in arrows.0.iter().enumerate().filter(|(from, _)| left(from)) {
        for to in tos.iter().filter(|to| left(to)) {
            back.insert(*to, from);
        }
    }
    let (mut way, mut at) = (Vec::new(), start);
    loop {
        if let Some(first) = way.iter().position(|node| *node == at) {
            let mut found = way.split_off(first);
            found.reverse();
            return found;
        }
        way.push(at);
        at = back[&at];
    }
}

/// Whether one order of all transactions explains what was read, and who was answered before whom.
pub fn judge(ops: &[Op]) -> Result<(), Anomaly> {
    let keys = appended(ops);
    let touches = |op: &Op| op.cmds.iter().any(|cmd| keys.contains(&(op.object, cmd.key)));
    // Places in the history that was given, of those that matter.
    let places: Vec<usize> = (0..ops.len())
        .filter(|at| touches(&ops[*at]) && !matches!(ops[*at].outcome, Outcome::Failed(_) | Outcome::Aborted))
        .collect();
    let mine: Vec<Op> = places.iter().map(|at| ops[*at].clone()).collect();
    let back = |anomaly: Anomaly| Anomaly { ops: anomaly.ops.iter().map(|at| places[*at]).collect(), ..anomaly };
    let reads = reads(&mine, &keys);
    let versions = versions(&mine, &keys, &reads).map_err(back)?;
    let found: Vec<usize> =
        circle(&arrows(&mine, &reads, &versions)).into_iter().filter(|at| *at < mine.len()).collect();
    if found.is_empty() {
        return Ok(());
    }
    let text = "each of these has to come before the next one, and the last one before the first".to_owned();
    Err(back(Anomaly { text, ops: found }))
}
