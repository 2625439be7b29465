//! Acknowledged is durable: what was acknowledged is there in the end, whatever crashed (Raft paper, sections 5.3 and
//! 5.4: a committed entry is never lost).
//!
//! Linearizability says more, but says it less clearly. Here only objects that are appended to and never overwritten are
//! looked at: every acknowledged text must be in the last value, once and only once.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Act, Op, Outcome, Ret, key_name};
use crate::story::Story;

pub const NAME: &str = "acknowledged is durable";

pub fn check(ops: &[Op], story: &Story) {
    let mut overwritten = BTreeSet::new();
    let mut acknowledged: BTreeMap<(usize, u8), Vec<(&str, &Op)>> = BTreeMap::new();
    let mut last: BTreeMap<(usize, u8), (u64, String)> = BTreeMap::new();
    for op in ops {
        for (at, cmd) in op.cmds.iter().enumerate() {
            let key = (op.object, cmd.key);
            match (&cmd.act, &op.outcome) {
                (Act::Append(token), Outcome::Done(_)) => acknowledged.entry(key).or_default().push((token, op)),
                (Act::Append(_), _) => {}
                (Act::Get, Outcome::Done(rets)) => {
                    let text = match &rets[at] {
                        Ret::Text(text) => text.clone(),
                        _ => String::new(),
                    };
                    let newest = last.entry(key).or_default();
                    if op.call >= newest.0 {
                        *newest = (op.call, text);
                    }
                }
                (act, _) if act.is_read() => {}
                _ => drop(overwritten.insert(key)),
            }
        }
    }
    for (key, tokens) in acknowledged.iter().filter(|(key, _)| !overwritten.contains(key)) {
        let Some((read_at, text)) = last.get(key) else { continue };
        for (token, op) in tokens.iter().filter(|(_, op)| op.ret < *read_at) {
            let times = text.split_inclusive(';').filter(|part| part == token).count();
            if times != 1 {
                let name = key_name(key.0, key.1);
                let text = format!("{name} holds {times} times in the end what was acknowledged once: {op}");
                story.broken_by(NAME, text, vec![(op.client, op.call)]);
                return;
            }
        }
    }
}
