//! The search for an order against `stateright`'s tester, on small random histories: some of them are what a store that
//! works gives, in some a read or a write happened on a state of the past. Both must say the same, always.
//!
//! The other two oracles that need no search must never call a history broken that has an order.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::history::{Act, Cmd, Op, Outcome, Ret};
use crate::invariants::linearizability::{Verdict, judge};
use crate::invariants::{read_freshness, transactions};
use crate::story::Story;

const KEYS: usize = 2;
const CLIENTS: usize = 3;

/// Two keys that hold a text or nothing: written for this test, without a look at the model that it checks.
#[derive(Clone, Debug, Default, PartialEq)]
struct Store([Option<String>; KEYS]);

impl Store {
    fn run(&mut self, cmd: &Cmd) -> Ret {
        let held = &mut self.0[usize::from(cmd.key)];
        let shown = |held: &Option<String>| held.clone().map_or(Ret::Nil, Ret::Text);
        match &cmd.act {
            Act::Set(v) => {
                *held = Some(v.clone());
                Ret::Done
            }
            Act::SetNx(_) if held.is_some() => Ret::Nil,
            Act::SetXx(_) if held.is_none() => Ret::Nil,
            Act::SetNx(v) | Act::SetXx(v) => {
                *held = Some(v.clone());
                Ret::Done
            }
            Act::GetSet(v) => {
                let before = shown(held);
                *held = Some(v.clone());
                before
            }
            Act::Append(v) => {
                let now = held.take().unwrap_or_default() + v;
                let length = now.len() as i64;
                *held = Some(now);
                Ret::Int(length)
            }
            Act::Del => Ret::Int(i64::from(held.take().is_some())),
            _ => shown(held),
        }
    }
}

impl SequentialSpec for Store {
    type Op = Vec<Cmd>;
    type Ret = Vec<Ret>;

    fn invoke(&mut self, cmds: &Vec<Cmd>) -> Vec<Ret> {
        cmds.iter().map(|cmd| self.run(cmd)).collect()
    }
}

/// One choice of the generator: who does his next step, and what he asks if he is free.
#[derive(Clone, Debug)]
struct Choice {
    client: usize,
    acts: Vec<(u8, u8)>,
    /// It runs on the state so many steps ago, if it is a read; a write forgets what happened since.
    late: usize,
}

fn choices() -> impl Strategy<Value = (bool, Vec<Choice>)> {
    let acts = prop::collection::vec((0..KEYS as u8, 0..8u8), 1..3);
    let late = prop_oneof![4 => Just(0usize), 1 => 1..4usize];
    let choice = (0..CLIENTS, acts, late).prop_map(|(client, acts, late)| Choice { client, acts, late });
    (any::<bool>(), prop::collection::vec(choice, 6..27))
}

fn act(kind: u8, text: String, appends: bool) -> Act {
    match kind {
        0 | 1 | 7 => Act::Get,
        2 => Act::Append(text),
        _ if appends => Act::Append(text),
        3 => Act::Set(text),
        4 => Act::SetNx(text),
        5 => Act::GetSet(text),
        _ => Act::Del,
    }
}

/// An operation that was asked, and its answer once it has run.
struct Open {
    call: u64,
    cmds: Vec<Cmd>,
    rets: Option<Vec<Ret>>,
    late: usize,
}

/// A history: each operation is asked, runs, and is answered, each at a step of its client's. What is still open in the
/// end is of unknown outcome. Along with it what stateright's tester says.
fn history(appends: bool, choices: &[Choice]) -> (Vec<Op>, bool) {
    let mut tester = LinearizabilityTester::new(Store::default());
    let mut past = vec![Store::default()];
    let mut open: [Option<Open>; CLIENTS] = [None, None, None];
    let mut ops = Vec::new();
    for (time, choice) in choices.iter().enumerate() {
        let time = time as u64 * 10;
        let client = choice.client;
        match open[client].take() {
            None => {
                let texts = choice.acts.iter().enumerate();
                let cmds =
                    texts.map(|(n, (key, kind))| Cmd { key: *key, act: act(*kind, format!("{time}.{n};"), appends) });
                let cmds: Vec<Cmd> = cmds.collect();
                tester.on_invoke(client, cmds.clone()).expect("the client was free");
                open[client] = Some(Open { call: time, cmds, rets: None, late: choice.late });
            }
            Some(mut mine) if mine.rets.is_none() => {
                let mut state = past[past.len().saturating_sub(1 + mine.late)].clone();
                mine.rets = Some(state.invoke(&mine.cmds));
                past.push(state);
                open[client] = Some(mine);
            }
            Some(mine) => {
                let rets = mine.rets.expect("it has run");
                tester.on_return(client, rets.clone()).expect("the client had asked");
                ops.push(finished(client, mine.call, time, mine.cmds, Outcome::Done(rets)));
            }
        }
    }
    for (client, mine) in open.into_iter().enumerate().filter_map(|(client, mine)| Some((client, mine?))) {
        ops.push(finished(client, mine.call, u64::MAX, mine.cmds, Outcome::Unknown("lost".into())));
    }
    (ops, tester.is_consistent())
}

fn finished(client: usize, call: u64, ret: u64, cmds: Vec<Cmd>, outcome: Outcome) -> Op {
    let transaction = cmds.len() > 1;
    Op { client, machine: 1, object: 0, cmds, watched: None, transaction, call, ret, outcome }
}

#[test]
fn both_searches_say_the_same_of_every_history() {
    let (fine, broken, circles, stale) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let count = |cell: &Cell<usize>| cell.set(cell.get() + 1);
    let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&choices(), |(appends, choices)| {
        let (ops, expected) = history(appends, &choices);
        let all: Vec<&Op> = ops.iter().collect();
        let found = judge(&all);
        prop_assert_ne!(&found, &Verdict::GaveUp);
        prop_assert_eq!(found == Verdict::Fine, expected, "stateright says {}, and ours {:?}", expected, found);
        count(if expected { &fine } else { &broken });
        if let Err(anomaly) = transactions::judge(&ops) {
            prop_assert!(!expected, "it has an order, and a circle: {:?}", anomaly);
            count(&circles);
        }
        let story = Story::begin();
        read_freshness::check(&ops, &story);
        if let Some(violation) = story.take().violations.first() {
            prop_assert!(!expected, "it has an order, and a stale read: {}", violation.text);
            count(&stale);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let seen = [&fine, &broken, &circles, &stale].map(Cell::get);
    assert!(
        seen[0] > 500 && seen[1] > 500,
        "too few of one kind: {seen:?} fine, broken, with a circle, with a stale read"
    );
    assert!(seen[2] > 50 && seen[3] > 20, "the quick oracles see too little: {seen:?}");
    println!("{seen:?} histories: fine, broken, of these with a circle, with a read seen to be stale");
}
