//! What expires does so when it was told to: not before, not after, and a time to live only ever gets shorter.
//!
//! Not in the Raft paper. The model that histories are held against lets a key with a time to live vanish at any moment,
//! for wall clocks are skewed on purpose. What holds whatever the clocks say is judged always: no time to live is longer
//! than one that was asked for. The rest holds where all clocks are right.

use std::collections::BTreeMap;

use crate::history::{Act, Op, Outcome, Ret};
use crate::story::Story;

pub const NAME: &str = "what expires does so in time";

/// Times are told in whole milliseconds.
const SLACK: u64 = 2_000_000;

/// A write of a key that something expires in.
struct Write<'a> {
    op: &'a Op,
    /// When it had happened for certain.
    by: Option<u64>,
    /// For how long it lasts, in nanoseconds.
    lasts: Option<u64>,
}

/// `right`: all clocks are.
pub fn check(ops: &[Op], right: bool, story: &Story) {
    let mut keys: BTreeMap<(usize, u8), Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.cmds.len() == 1) {
        keys.entry((op.object, op.cmds[0].key)).or_default().push(op);
    }
    for ops in keys.values().filter(|ops| ops.iter().any(|op| matches!(op.cmds[0].act, Act::SetPx(..)))) {
        let writes: Vec<Write<'_>> = ops.iter().filter_map(|op| write(op)).collect();
        for op in ops {
            let Outcome::Done(rets) = &op.outcome else { continue };
            if let Err(why) = judge(op, &rets[0], &writes, right) {
                story.broken_by(NAME, format!("{op}\n    {why}"), vec![(op.client, op.call)]);
                return;
            }
        }
    }
}

fn write(op: &Op) -> Option<Write<'_>> {
    let by = match &op.outcome {
        Outcome::Done(_) => Some(op.ret),
        Outcome::Unknown(_) => None,
        Outcome::Aborted | Outcome::Failed(_) => return None,
    };
    let lasts = match &op.cmds[0].act {
        Act::SetPx(_, ms) => Some(ms * 1_000_000),
        Act::SetNx(_) if op.outcome == Outcome::Done(vec![Ret::Nil]) => return None,
        act if act.is_read() => return None,
        _ => None,
    };
    Some(Write { op, by, lasts })
}

fn judge(op: &Op, ret: &Ret, writes: &[Write<'_>], right: bool) -> Result<(), String> {
    let asked = writes.iter().filter(|write| write.op.call < op.ret);
    match (&op.cmds[0].act, ret) {
        (Act::Pttl, Ret::Int(left)) if *left >= 0 => {
            let passed = |write: &Write<'_>| write.by.filter(|_| right).map_or(0, |by| op.call.saturating_sub(by));
            let longest = asked.filter_map(|write| Some((write.lasts? + SLACK).saturating_sub(passed(write)))).max();
            let left = left.unsigned_abs() * 1_000_000;
            expect(longest >= Some(left), || "no time to live that was asked for has so much left".into())
        }
        (Act::Get, Ret::Text(text)) if right => {
            let mut late = asked.filter(|write| write.op.cmds[0].act.token() == Some(text.as_str())).filter(|write| {
                let end = write.by.zip(write.lasts).map(|(by, lasts)| by + lasts + SLACK);
                end.is_some_and(|end| end < op.call)
            });
            late.next().map_or(Ok(()), |write| Err(format!("what it shows is past due: {}", write.op)))
        }
        (Act::Get, Ret::Nil) | (Act::Pttl, Ret::Int(-2)) | (Act::SetNx(_), Ret::Done) if right => {
            let others = || writes.iter().filter(|write| !std::ptr::eq(write.op, op));
            let before = |write: &Write<'_>| write.by.is_some_and(|by| by < op.call);
            let gone = |write: &Write<'_>| {
                let over = |next: &Write<'_>| before(next) && write.by.is_some_and(|by| by < next.op.call);
                let end = write.lasts.map(|lasts| write.op.call + lasts);
                end.is_some_and(|end| end <= op.ret + SLACK) && !others().any(over)
            };
            let empty = !others().any(before) || others().any(gone) || others().any(|w| w.op.cmds[0].act == Act::Del);
            expect(empty, || "what was written last has not expired yet".into())
        }
        _ => Ok(()),
    }
}

fn expect(holds: bool, words: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(words()) }
}
