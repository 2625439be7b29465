//! What reads promise, mode by mode (Raft paper, section 8: "read-only operations must not return stale data").
//!
//! * `lease` and `quorum`: a read answers with nothing older than what had been acknowledged before it was asked,
//!   whoever was asked: this needs no search, and so it is looked at even where the search for an order gives up.
//! * `local`, and READONLY on a connection: a read answers with what this member has applied. It may be old, without a
//!   limit. On one connection (so to one process of one member) it never goes back, and it never shows what was not
//!   asked for yet when it was answered.

use std::collections::BTreeMap;

use crate::history::{Act, Op, Outcome, Ret};
use crate::story::Story;

pub const NAME: &str = "read freshness";
pub const LOCAL: &str = "local reads never go back";

/// Texts that end in a `;` each, as one key holds them.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(';')
}

/// What was written to one key: whole values and what is appended, told apart by nothing but their texts.
#[derive(Default)]
struct Writes<'a> {
    by_token: BTreeMap<&'a str, &'a Op>,
    /// Acknowledged, in the order in which they were asked.
    done: Vec<&'a Op>,
    /// It may be gone again: time, or somebody, may have removed it. Even who was not told that he did.
    vanishes: bool,
}

fn writes(ops: &[Op]) -> BTreeMap<(usize, u8), Writes<'_>> {
    let mut keys: BTreeMap<(usize, u8), Writes<'_>> = BTreeMap::new();
    for op in ops {
        for (at, cmd) in op.cmds.iter().enumerate() {
            let key = keys.entry((op.object, cmd.key)).or_default();
            if let Some(token) = cmd.act.token() {
                key.by_token.insert(token, op);
            }
            key.vanishes |= matches!(cmd.act, Act::SetPx(..) | Act::Del);
            let Outcome::Done(rets) = &op.outcome else { continue };
            match &cmd.act {
                // What answered nil did nothing.
                Act::SetNx(_) | Act::SetXx(_) if rets[at] == Ret::Done => key.done.push(op),
                Act::Set(_) | Act::SetPx(..) | Act::GetSet(_) | Act::Append(_) => key.done.push(op),
                Act::Del if rets[at] == Ret::Int(1) => key.done.push(op),
                _ => {}
            }
        }
    }
    for key in keys.values_mut() {
        key.done.sort_by_key(|op| op.call);
    }
    keys
}

/// An acknowledged write that the read had to see, and did not: it was asked for after the newest write that the read
/// shows had been answered, and answered before the read was asked.
fn missed<'a>(writes: &Writes<'a>, read: &Op, shown: &str) -> Option<&'a Op> {
    let newest = match tokens(shown).last() {
        // Written by nobody that is known: for other oracles.
        Some(token) => *writes.by_token.get(token)?,
        None if writes.vanishes => return None,
        None => return writes.done.iter().find(|op| op.ret < read.call).copied(),
    };
    if !matches!(newest.outcome, Outcome::Done(_)) {
        return None;
    }
    writes.done.iter().find(|op| op.call > newest.ret && op.ret < read.call).copied()
}

/// Reads through leaders, proxies and barriers.
pub fn check(ops: &[Op], story: &Story) {
    let keys = writes(ops);
    for read in ops {
        let Outcome::Done(rets) = &read.outcome else { continue };
        // A transaction may have written before it read: the search for a cycle looks at these.
        if read.cmds.len() != 1 || read.cmds[0].act != Act::Get {
            continue;
        }
        let shown = match &rets[0] {
            Ret::Text(text) if text.ends_with(';') => text.as_str(),
            Ret::Nil => "",
            _ => continue,
        };
        let Some(writes) = keys.get(&(read.object, read.cmds[0].key)) else { continue };
        if let Some(write) = missed(writes, read, shown) {
            let text = format!("{read}\n    did not see what was acknowledged before it was asked: {write}");
            story.broken_by(NAME, text, vec![(read.client, read.call), (write.client, write.call)]);
            return;
        }
    }
}

/// Reads of what one member has, each with the number of its connection. Only of keys that are appended to.
pub fn check_local(reads: &[(u64, Op)], ops: &[Op], story: &Story) {
    let keys = writes(ops);
    let mut seen: BTreeMap<(u64, usize, u8), (&Op, &str)> = BTreeMap::new();
    for (connection, read) in reads {
        let Outcome::Done(rets) = &read.outcome else { continue };
        let key = read.cmds[0].key;
        let text = match &rets[0] {
            Ret::Text(text) => text.as_str(),
            _ => "",
        };
        let shown = vec![(read.client, read.call)];
        if let Some((before, known)) = seen.insert((*connection, read.object, key), (read, text))
            && !text.starts_with(known)
        {
            story.broken_by(LOCAL, format!("first {before}\n    and then, on the same connection, {read}"), shown);
            return;
        }
        let writes = keys.get(&(read.object, key));
        let early = tokens(text).find(|token| {
            let write = writes.and_then(|writes| writes.by_token.get(token));
            write.is_none_or(|write| write.call > read.ret)
        });
        if let Some(token) = early {
            story.broken_by(LOCAL, format!("{read}\n    shows {token}, which nobody had asked for yet"), shown);
            return;
        }
    }
}
