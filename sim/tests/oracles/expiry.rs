//! What expires, by examples. Times are in nanoseconds here, as in a run.

use crate::history::{Act, Ret};
use crate::invariants::expiry;
use crate::story::Story;
use crate::{Op, done, op, text};

const MS: u64 = 1_000_000;

fn finds(ops: &[Op], right: bool) -> bool {
    let story = Story::begin();
    expiry::check(ops, right, &story);
    !story.take().violations.is_empty()
}

fn set(call: u64, ret: u64, ms: u64) -> Op {
    done(1, call * MS, ret * MS, &[(0, Act::SetPx("a;".into(), ms))], &[Ret::Done])
}

fn asked(act: Act, call: u64, ret: u64, answer: Ret) -> Op {
    done(2, call * MS, ret * MS, &[(0, act)], &[answer])
}

#[test]
fn what_is_shown_in_its_time_is_fine() {
    let ops = [
        asked(Act::Get, 1, 2, Ret::Nil),
        set(10, 20, 100),
        asked(Act::Get, 30, 109, text("a;")),
        asked(Act::Pttl, 60, 61, Ret::Int(60)),
        asked(Act::Get, 111, 125, Ret::Nil),
        asked(Act::SetNx("b;".into()), 130, 140, Ret::Done),
        asked(Act::Get, 300, 301, text("b;")),
    ];
    assert!(!finds(&ops, true));
}

#[test]
fn what_is_shown_too_long_or_not_long_enough_is_found() {
    let late = [set(10, 20, 100), asked(Act::Get, 125, 126, text("a;"))];
    assert!(finds(&late, true));
    assert!(!finds(&late, false), "a clock may be slow");
    let early = [set(10, 20, 100), asked(Act::Get, 50, 60, Ret::Nil)];
    assert!(finds(&early, true));
    let again = [set(10, 20, 100), set(90, 95, 100), asked(Act::Get, 150, 160, Ret::Nil)];
    assert!(finds(&again, true), "the second write lasts longer");
    let unknown =
        op(3, 5 * MS, u64::MAX, &[(0, Act::SetPx("c;".into(), 10))], crate::history::Outcome::Unknown("lost".into()));
    assert!(!finds(&[unknown, early[0].clone(), early[1].clone()], true), "it may have come later, and be gone");
}

#[test]
fn a_time_to_live_never_grows() {
    let grown = [set(10, 20, 100), asked(Act::Pttl, 30, 31, Ret::Int(120))];
    assert!(finds(&grown, false), "so much was never asked for");
    let stands = [set(10, 20, 100), asked(Act::Pttl, 80, 81, Ret::Int(90))];
    assert!(finds(&stands, true), "it was less by then");
    assert!(!finds(&stands, false));
}
