//! The oracles that judge histories, judged themselves: on histories that are right and on ones that are not.
//!
//! They are compiled here without the simulator, from the simulator's own files.

#[allow(dead_code, reason = "members' tests only parse")]
#[path = "../../../tests/formats/mod.rs"]
mod formats;
#[path = "../../src/history.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod history;
#[allow(dead_code, reason = "the simulator uses the rest")]
mod invariants;
#[path = "../../src/story.rs"]
#[allow(dead_code, reason = "the simulator uses the rest")]
mod story;

mod expiry;
mod freshness;
mod members;
mod second_opinion;
mod serializability;

use history::{Act, Cmd, Op, Outcome, Ret};

/// An operation on object 0; times are in the order of the history's events.
fn op(client: usize, call: u64, ret: u64, cmds: &[(u8, Act)], outcome: Outcome) -> Op {
    let cmds: Vec<Cmd> = cmds.iter().map(|(key, act)| Cmd { key: *key, act: act.clone() }).collect();
    let transaction = cmds.len() > 1;
    Op { client, machine: 1, object: 0, cmds, watched: None, transaction, call, ret, outcome }
}

fn done(client: usize, call: u64, ret: u64, cmds: &[(u8, Act)], rets: &[Ret]) -> Op {
    op(client, call, ret, cmds, Outcome::Done(rets.to_vec()))
}

fn append(text: &str) -> Act {
    Act::Append(text.into())
}

fn text(text: &str) -> Ret {
    Ret::Text(text.into())
}
