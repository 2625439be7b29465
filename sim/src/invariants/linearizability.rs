//! Linearizability, and strict serializability of transactions on one object: every operation seems to take effect at
//! once, somewhere between its call and its return (Raft paper, section 8; Herlihy and Wing).
//!
//! Wing and Gong's search in the shape that Lowe gave it: take operations out of the history in an order that real time
//! allows, undo when an answer does not fit, and never go twice into the same pair of (what was taken, state). An
//! operation whose outcome is unknown may be taken at any time after its call, or never, unless what was read says more
//! of it (`evidence.rs`). Whoever has taken more of these for the same state has less left to take, so where the one
//! that took fewer has failed, he fails too.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::history::{Op, Outcome, WIDE};
use crate::story::Story;

use super::evidence::{self, Item};
use super::model::{self, State};

pub const NAME: &str = "linearizability";
/// After so many steps the search gives up: the history is then not judged.
const STEPS: u64 = 2_000_000;

/// What the search says of the history of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// No order explains it. The operation is the one before which every attempt ended, at the latest.
    Broken(usize),
    /// Too many possibilities.
    GaveUp,
}

/// Judges all objects; how many could not be judged.
pub fn check(ops: &[Op], story: &Story) -> usize {
    let mut objects: BTreeMap<usize, Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.object != WIDE) {
        objects.entry(op.object).or_default().push(op);
    }
    let mut gave_up = 0;
    for (object, ops) in objects {
        let ops = relevant(&ops);
        match judge(&ops) {
            Verdict::Fine => {}
            Verdict::GaveUp => gave_up += 1,
            Verdict::Broken(at) => {
                let mut text = format!("no order of the operations on object {object} explains");
                let mut near: Vec<&&Op> = ops.iter().filter(|op| op.call <= ops[at].ret).collect();
                near.sort_by_key(|op| op.ret);
                for op in near.iter().rev().take(12).rev() {
                    text.push_str(&format!("\n    client {:<2} {op}", op.client));
                }
                let shown = ops.get(at).map(|op| (op.client, op.call));
                story.broken_by(NAME, text, shown.into_iter().collect());
            }
        }
    }
    gave_up
}

/// Without what did not happen, and reads without an answer.
fn relevant<'a>(ops: &[&'a Op]) -> Vec<&'a Op> {
    let matters = |op: &&&Op| match &op.outcome {
        Outcome::Done(_) => true,
        Outcome::Aborted | Outcome::Failed(_) => false,
        Outcome::Unknown(_) => !op.is_read(),
    };
    ops.iter().filter(matters).copied().collect()
}

/// A doubly linked list of calls and returns, in order of time.
struct Node {
    op: usize,
    is_call: bool,
    /// The position of the return, for a call that has one.
    partner: Option<usize>,
    next: usize,
    prev: usize,
}

struct Search<'a> {
    ops: &'a [Item],
    nodes: Vec<Node>,
    /// Returns that are still in the list.
    returns: usize,
}

const HEAD: usize = 0;

impl<'a> Search<'a> {
    fn new(ops: &'a [Item]) -> Self {
        // At the same moment calls come before returns: then the two overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (at, item) in ops.iter().enumerate() {
            events.push((item.op.call, false, at));
            events.extend(item.by.map(|by| (by, true, at)));
        }
        events.sort_unstable();
        let mut nodes = vec![Node { op: 0, is_call: false, partner: None, next: 1, prev: 0 }];
        let mut calls = vec![0; ops.len()];
        let mut returns = 0;
        for (_, is_return, op) in events {
            let here = nodes.len();
            if is_return {
                nodes[calls[op]].partner = Some(here);
                returns += 1;
            } else {
                calls[op] = here;
            }
            nodes.push(Node { op, is_call: !is_return, partner: None, next: here + 1, prev: here - 1 });
        }
        Self { ops, nodes, returns }
    }

    fn unlink(&mut self, at: usize) {
        let (prev, next) = (self.nodes[at].prev, self.nodes[at].next);
        self.nodes[prev].next = next;
        if next < self.nodes.len() {
            self.nodes[next].prev = prev;
        }
    }

    fn relink(&mut self, at: usize) {
        let (prev, next) = (self.nodes[at].prev, self.nodes[at].next);
        self.nodes[prev].next = at;
        if next < self.nodes.len() {
            self.nodes[next].prev = at;
        }
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(ret) = self.nodes[call].partner {
            self.unlink(ret);
            self.returns -= 1;
        }
    }

    fn unlift(&mut self, call: usize) {
        if let Some(ret) = self.nodes[call].partner {
            self.relink(ret);
            self.returns += 1;
        }
        self.relink(call);
    }

    /// What may come next: calls before the first return. Those that ended first come first; those whose outcome is
    /// unknown come last, and of equal ones only the first.
    fn candidates(&self) -> Vec<usize> {
        let mut at = self.nodes[HEAD].next;
        let mut known = Vec::new();
        let mut unknown: Vec<usize> = Vec::new();
        while let Some(node) = self.nodes.get(at).filter(|node| node.is_call) {
            let op = &self.ops[node.op].op;
            if node.partner.is_some() {
                known.push(at);
            } else if !unknown.iter().any(|other| self.same(&self.ops[self.nodes[*other].op].op, op)) {
                unknown.push(at);
            }
            at = node.next;
        }
        known.sort_by_key(|at| self.ops[self.nodes[*at].op].by);
        known.extend(unknown);
        // Taken from the end.
        known.reverse();
        known
    }

    fn same(&self, a: &Op, b: &Op) -> bool {
        a.cmds == b.cmds && a.watched == b.watched
    }

    fn run(mut self) -> Verdict {
        let mut states: Vec<State> = vec![model::empty()];
        let mut taken = Taken::new(self.ops);
        let mut been: HashMap<(u64, u64), Vec<Vec<u64>>> = HashMap::new();
        // What was taken, the states before it, and what else could have been taken in its place.
        let mut stack: Vec<(usize, Vec<State>, Vec<usize>)> = Vec::new();
        let mut open = self.candidates();
        let (mut steps, mut deepest, mut furthest) = (0, 0, 0);
        while self.returns > 0 {
            steps += 1;
            if steps > STEPS {
                return Verdict::GaveUp;
            }
            if let Some(call) = open.pop() {
                let op = self.nodes[call].op;
                let mut after: Vec<State> =
                    states.iter().flat_map(|state| model::step(state, &self.ops[op].op)).collect();
                after.sort_unstable();
                after.dedup();
                taken.flip(op);
                if !after.is_empty() && taken.is_new(&mut been, &after) {
                    self.lift(call);
                    stack.push((call, std::mem::replace(&mut states, after), open));
                    open = self.candidates();
                } else {
                    taken.flip(op);
                }
                continue;
            }
            if stack.len() >= deepest {
                deepest = stack.len();
                furthest = self.first_return().unwrap_or(furthest);
            }
            let Some((call, before, others)) = stack.pop() else { return Verdict::Broken(furthest) };
            let op = self.nodes[call].op;
            taken.flip(op);
            states = before;
            open = others;
            self.unlift(call);
        }
        Verdict::Fine
    }

    /// The operation that ended first of those that are not taken.
    fn first_return(&self) -> Option<usize> {
        let mut at = self.nodes[HEAD].next;
        while self.nodes.get(at)?.is_call {
            at = self.nodes[at].next;
        }
        Some(self.nodes[at].op)
    }
}

/// What was taken: of those that have happened for certain, and of those that may never have.
struct Taken {
    certain: Vec<u64>,
    perhaps: Vec<u64>,
    is_certain: Vec<bool>,
}

impl Taken {
    fn new(ops: &[Item]) -> Self {
        let none = vec![0; ops.len().div_ceil(64)];
        Self { certain: none.clone(), perhaps: none, is_certain: ops.iter().map(|item| item.by.is_some()).collect() }
    }

    fn flip(&mut self, op: usize) {
        let set = if self.is_certain[op] { &mut self.certain } else { &mut self.perhaps };
        set[op / 64] ^= 1 << (op % 64);
    }

    /// Nobody was here before with at least as much left to take.
    fn is_new(&self, been: &mut HashMap<(u64, u64), Vec<Vec<u64>>>, states: &[State]) -> bool {
        let here = been.entry(key(&self.certain, states)).or_default();
        let within = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a & !b == 0);
        if here.iter().any(|before| within(before, &self.perhaps)) {
            return false;
        }
        here.retain(|before| !within(&self.perhaps, before));
        here.push(self.perhaps.clone());
        true
    }
}

fn key(taken: &[u64], states: &[State]) -> (u64, u64) {
    let mut first = DefaultHasher::new();
    (taken, states).hash(&mut first);
    let mut second = DefaultHasher::new();
    (0x9e37_79b9u32, states, taken).hash(&mut second);
    (first.finish(), second.finish())
}

/// Whether one order of the operations explains all answers.
pub fn judge(ops: &[&Op]) -> Verdict {
    // What numbers tell is only very likely.
    match judge_by(ops, true) {
        Verdict::Broken(_) => judge_by(ops, false),
        verdict => verdict,
    }
}

fn judge_by(ops: &[&Op], numbers: bool) -> Verdict {
    let items = evidence::weigh(ops, numbers);
    match Search::new(&items).run() {
        Verdict::Broken(at) => Verdict::Broken(items[at].at),
        verdict => verdict,
    }
}
