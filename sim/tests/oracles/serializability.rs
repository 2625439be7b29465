//! The search for a circle: what it must find, and what it must let pass.

use crate::history::{Act, Outcome, Ret};
use crate::invariants::transactions::judge;
use crate::{append, done, op, text};

#[test]
fn an_ordinary_history_has_no_circle() {
    let mut ops = vec![
        done(1, 0, 10, &[(0, append("a;")), (1, append("b;"))], &[Ret::Int(2), Ret::Int(2)]),
        done(2, 5, 30, &[(0, Act::Get), (1, Act::Get)], &[Ret::Nil, Ret::Nil]),
        done(2, 40, 50, &[(0, append("c;")), (0, Act::Get)], &[Ret::Int(4), text("a;c;")]),
        // It was done, as a read shows, though its client was not told.
        op(3, 42, u64::MAX, &[(1, append("d;"))], Outcome::Unknown("lost".into())),
        done(1, 60, 70, &[(1, Act::Get)], &[text("b;d;")]),
    ];
    assert_eq!(judge(&ops), Ok(()));
    // Behind a WATCH of what was there.
    let mut watched = done(4, 80, 90, &[(0, append("e;"))], &[Ret::Int(6)]);
    watched.watched = Some((0, text("a;c;")));
    ops.push(watched);
    assert_eq!(judge(&ops), Ok(()));
}

#[test]
fn two_transactions_that_each_miss_the_other_are_found() {
    // Write skew, which no single key shows.
    let ops = [
        done(1, 0, 20, &[(0, Act::Get), (1, append("b;"))], &[Ret::Nil, Ret::Int(2)]),
        done(2, 0, 20, &[(1, Act::Get), (0, append("a;"))], &[Ret::Nil, Ret::Int(2)]),
    ];
    let anomaly = judge(&ops).unwrap_err();
    assert_eq!(anomaly.ops.len(), 2);
}

#[test]
fn a_half_seen_transaction_is_found() {
    let ops = [
        done(1, 0, 20, &[(0, append("a;")), (1, append("b;"))], &[Ret::Int(2), Ret::Int(2)]),
        done(2, 0, 20, &[(0, Act::Get), (1, Act::Get)], &[text("a;"), Ret::Nil]),
    ];
    assert!(judge(&ops).is_err());
}

#[test]
fn a_read_older_than_what_was_acknowledged_before_it_is_found() {
    let write = done(1, 0, 10, &[(0, append("a;"))], &[Ret::Int(2)]);
    let late = done(2, 11, 20, &[(0, Act::Get)], &[Ret::Nil]);
    assert!(judge(&[write.clone(), late]).is_err());
    let at_the_same_time = done(2, 9, 20, &[(0, Act::Get)], &[Ret::Nil]);
    assert_eq!(judge(&[write, at_the_same_time]), Ok(()));
}

#[test]
fn what_was_watched_must_still_be_there() {
    let first = done(1, 0, 10, &[(0, append("a;"))], &[Ret::Int(2)]);
    let mut second = done(2, 5, 20, &[(0, append("b;"))], &[Ret::Int(4)]);
    second.watched = Some((0, Ret::Nil));
    assert!(judge(&[first, second]).is_err());
}

#[test]
fn orders_and_lengths_that_contradict_each_other_are_found() {
    let reads = [
        done(1, 0, 10, &[(0, Act::Get)], &[text("a;b;")]),
        done(2, 0, 10, &[(0, Act::Get)], &[text("b;")]),
        op(3, 0, u64::MAX, &[(0, append("b;"))], Outcome::Unknown("lost".into())),
    ];
    assert!(judge(&reads).unwrap_err().text.contains("different orders"));
    let appends =
        [done(1, 0, 10, &[(0, append("a;"))], &[Ret::Int(2)]), done(2, 0, 10, &[(0, append("b;"))], &[Ret::Int(2)])];
    assert!(judge(&appends).unwrap_err().text.contains("2 bytes"));
}
