//! What the answers that clients got say about operations whose outcome is unknown. Without it the search of
//! `linearizability.rs` would have to try every such operation at every later moment.
//!
//! Every text that is written is unique, and so is (nearly) every number that is added, so:
//!
//! * a write whose text somebody read has happened, before that read ended;
//! * a text that nobody ever read may as well be any other that nobody ever read;
//! * where nothing is ever taken away, what the last read does not show has not happened before it, and cannot matter.
//!
//! It must never leave out an order that would explain a history: the last of its rules about numbers is only very
//! likely, so that whoever uses it has to judge once more without it before he calls a history broken.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Act, Op, Outcome, Ret};

/// An operation as the search takes it.
pub struct Item {
    pub op: Op,
    /// Where it stands in the history that was given.
    pub at: usize,
    /// It has happened by then. `None`: nobody knows whether it has.
    pub by: Option<u64>,
}

/// The history in the light of what was read. `numbers`: also by what sums tell.
pub fn weigh(ops: &[&Op], numbers: bool) -> Vec<Item> {
    let seen = seen(ops);
    let counted = if numbers { counted(ops) } else { None };
    let (numbers, counted) = (counted.is_some(), counted.unwrap_or_default());
    let mut items = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let by = if is_done(op) {
            Some(op.ret)
        } else {
            let shown = tokens(op).filter_map(|token| seen.get(token)).chain(counted.get(&at)).min();
            if shown.is_none() && never_mattered(op, ops, numbers) {
                continue;
            }
            // Seen before it was asked for: then no order explains it, and the search has to say so.
            shown.map(|by| (*by).max(op.call))
        };
        let mut op: Op = (*op).clone();
        op.cmds.iter_mut().for_each(|cmd| forget_unseen(&mut cmd.act, &seen));
        items.push(Item { op, at, by });
    }
    items
}

fn is_done(op: &Op) -> bool {
    matches!(op.outcome, Outcome::Done(_))
}

fn tokens(op: &Op) -> impl Iterator<Item = &str> {
    op.cmds.iter().filter_map(|cmd| cmd.act.token())
}

/// When the first operation ended that read a text, for each that was read.
fn seen(ops: &[&Op]) -> BTreeMap<String, u64> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for op in ops {
        let Outcome::Done(rets) = &op.outcome else { continue };
        for ret in rets.iter().chain(op.watched.iter().map(|(_, ret)| ret)) {
            let Ret::Text(text) = ret else { continue };
            for token in text.split_inclusive(';') {
                seen.entry(token.to_owned()).and_modify(|by| *by = op.ret.min(*by)).or_insert(op.ret);
            }
        }
    }
    seen
}

/// One text that nobody has read stands for all of the same length, as one time to live does for all.
fn forget_unseen(act: &mut Act, seen: &BTreeMap<String, u64>) {
    if let Act::SetPx(_, ms) = act {
        *ms = 0;
    }
    let (Act::Set(t)
    | Act::SetPx(t, _)
    | Act::SetNx(t)
    | Act::SetXx(t)
    | Act::GetSet(t)
    | Act::Append(t)
    | Act::HSet(_, t)) = act
    else {
        return;
    };
    if !seen.contains_key(t) {
        *t = "?".repeat(t.len());
    }
}

/// Nothing that was answered could be different if it had happened: on each of its keys things are only ever added, and
/// a read behind all that was answered does not show it.
fn never_mattered(op: &Op, ops: &[&Op], numbers: bool) -> bool {
    op.cmds.iter().filter(|cmd| !cmd.act.is_read()).all(|cmd| {
        let key = cmd.key;
        let on_key =
            || ops.iter().flat_map(|op| op.cmds.iter().filter(|cmd| cmd.key == key).map(|cmd| (*op, &cmd.act)));
        let added = |act: &Act| matches!(act, Act::Append(_)) || numbers && matches!(act, Act::Incr(_));
        if !on_key().all(|(_, act)| *act == Act::Get || added(act)) {
            return false;
        }
        let last_write = on_key().filter(|(op, act)| is_done(op) && added(act)).map(|(op, _)| op.ret).max();
        on_key().any(|(op, act)| is_done(op) && *act == Act::Get && Some(op.call) > last_write)
    })
}

/// Which additions of unknown outcome explain the steps between the numbers that were seen, and when the first number
/// behind each was seen. Nothing where it is not clear.
fn counted(ops: &[&Op]) -> Option<BTreeMap<usize, u64>> {
    let plain = |op: &&&Op| op.cmds.len() == 1 && matches!(op.cmds[0].act, Act::Incr(_) | Act::Get);
    if !ops.iter().all(|op| plain(&op)) {
        return None;
    }
    // Before it, behind it, and when it was answered.
    let mut steps: Vec<(i64, i64, u64)> = Vec::new();
    let mut open: Vec<(usize, i64)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        match (&op.cmds[0].act, &op.outcome) {
            (Act::Incr(by), Outcome::Done(rets)) => match rets[0] {
                Ret::Int(now) => steps.push((now - by, now, op.ret)),
                _ => return None,
            },
            (Act::Incr(by), _) => open.push((at, *by)),
            (_, Outcome::Done(rets)) => match &rets[0] {
                Ret::Text(text) => match text.parse() {
                    Ok(now) => steps.push((now, now, op.ret)),
                    Err(_) => return None,
                },
                Ret::Nil => {}
                _ => return None,
            },
            _ => {}
        }
    }
    steps.sort_unstable();
    let mut found = BTreeMap::new();
    let mut before = 0;
    for (index, (from, to, _)) in steps.iter().enumerate() {
        if *from > before {
            let which = sum_of(&open, from - before, 4)?;
            let by = steps[index..].iter().map(|(_, _, ret)| *ret).min().unwrap_or(u64::MAX);
            let gone: BTreeSet<usize> = which.into_iter().collect();
            found.extend(gone.iter().map(|at| (*at, by)));
            open.retain(|(at, _)| !gone.contains(at));
        }
        before = before.max(*to);
    }
    Some(found)
}

/// Some of them, not too many, that make up the sum.
fn sum_of(open: &[(usize, i64)], sum: i64, most: usize) -> Option<Vec<usize>> {
    for (n, (at, by)) in open.iter().enumerate() {
        if *by == sum {
            return Some(vec![*at]);
        }
        if most > 1
            && *by < sum
            && let Some(mut rest) = sum_of(&open[n + 1..], sum - by, most - 1)
        {
            rest.push(*at);
            return Some(rest);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Cmd;

    fn op(act: Act, call: u64, ret: u64, outcome: Outcome) -> Op {
        let cmds = vec![Cmd { key: 0, act }];
        Op { client: 1, machine: 1, object: 0, cmds, watched: None, transaction: false, call, ret, outcome }
    }

    fn unknown(act: Act, call: u64) -> Op {
        op(act, call, u64::MAX, Outcome::Unknown("lost".into()))
    }

    fn done(act: Act, call: u64, ret: u64, answer: Ret) -> Op {
        op(act, call, ret, Outcome::Done(vec![answer]))
    }

    fn weighed(ops: &[Op]) -> Vec<(usize, Option<u64>)> {
        let ops: Vec<&Op> = ops.iter().collect();
        weigh(&ops, true).iter().map(|item| (item.at, item.by)).collect()
    }

    #[test]
    fn what_was_read_has_happened_and_what_the_last_read_lacks_has_not() {
        let ops = [
            unknown(Act::Append("a;".into()), 1),
            unknown(Act::Append("b;".into()), 2),
            done(Act::Get, 5, 6, Ret::Text("a;".into())),
            done(Act::Get, 8, 9, Ret::Text("a;".into())),
        ];
        assert_eq!(weighed(&ops), [(0, Some(6)), (2, Some(6)), (3, Some(9))]);
        // An answer behind the last read may count what nobody reads.
        let more = [&ops[..], &[done(Act::Append("c;".into()), 10, 11, Ret::Int(6))]].concat();
        assert_eq!(weighed(&more)[1], (1, None));
        // Where things are overwritten nobody can tell.
        let more = [&ops[..], &[unknown(Act::Del, 3)]].concat();
        assert_eq!(weighed(&more)[1], (1, None));
    }

    #[test]
    fn numbers_tell_what_was_added() {
        let ops = [
            unknown(Act::Incr(1000), 1),
            unknown(Act::Incr(70), 1),
            unknown(Act::Incr(5), 2),
            done(Act::Incr(30), 3, 4, Ret::Int(30)),
            done(Act::Incr(20), 5, 7, Ret::Int(1055)),
            done(Act::Get, 8, 9, Ret::Text("1055".into())),
        ];
        assert_eq!(weighed(&ops), [(0, Some(7)), (2, Some(7)), (3, Some(4)), (4, Some(7)), (5, Some(9))]);
        let odd = [&ops[..5], &[done(Act::Get, 8, 9, Ret::Text("1056".into()))]].concat();
        assert!(weighed(&odd)[..3].iter().all(|(_, by)| by.is_none()), "a sum that nothing explains says nothing");
    }
}
