//! Definite errors never happened: a write whose client was told "nothing was done" leaves no trace, at no time.
//!
//! Not in the Raft paper; Jepsen calls it an aborted read. Every write carries a text of its own, so it is enough to
//! look for the texts of failed writes in everything that was ever read.

use std::collections::BTreeMap;

use crate::history::{Op, Outcome, Ret};
use crate::story::Story;

pub const NAME: &str = "definite errors never happened";

pub fn check(ops: &[Op], story: &Story) {
    let mut failed = BTreeMap::new();
    for op in ops.iter().filter(|op| matches!(op.outcome, Outcome::Failed(_) | Outcome::Aborted)) {
        for token in op.cmds.iter().filter_map(|cmd| cmd.act.token()) {
            failed.insert(token, op);
        }
    }
    for op in ops {
        let Outcome::Done(rets) = &op.outcome else { continue };
        for ret in rets {
            let Ret::Text(text) = ret else { continue };
            for token in text.split_inclusive(';') {
                if let Some(lost) = failed.get(token) {
                    let shown = vec![(op.client, op.call), (lost.client, lost.call)];
                    story.broken_by(NAME, format!("{op}\n    saw what had failed: {lost}"), shown);
                    return;
                }
            }
        }
    }
}
