//! A run without faults is served like one: one leader, nobody turned away, and not too little done.
//!
//! Without it a server that refuses everything would break nothing. How much is enough depends on what a seed draws; the
//! floor is a third of the least that was ever measured.

use crate::history::{Op, Outcome};
use crate::story::Story;

pub const NAME: &str = "without faults all is served";

/// Operations that are done in any run.
const FLOOR: usize = 150;
/// Of so many transactions behind a WATCH at least one commits.
const WATCHED: usize = 12;

pub fn check(ops: &[Op], leaders: usize, story: &Story) {
    if let Err(text) = judge(ops, leaders) {
        story.broken(NAME, text);
    }
}

fn judge(ops: &[Op], leaders: usize) -> Result<(), String> {
    if leaders != 1 {
        return Err(format!("{leaders} leaders were elected"));
    }
    let turned_away = |op: &&Op| matches!(&op.outcome, Outcome::Failed(why) if why.starts_with("CLUSTERDOWN"));
    if let Some(op) = ops.iter().find(turned_away) {
        return Err(format!("{op}"));
    }
    let done = |op: &&Op| matches!(op.outcome, Outcome::Done(_));
    let count = ops.iter().filter(done).count();
    if count < FLOOR {
        return Err(format!("only {count} operations were done"));
    }
    let watched = || ops.iter().filter(|op| op.watched.is_some());
    if watched().count() >= WATCHED && watched().filter(done).count() == 0 {
        return Err(format!("none of {} transactions behind a WATCH was committed", watched().count()));
    }
    Ok(())
}
