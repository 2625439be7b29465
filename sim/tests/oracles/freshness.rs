//! What each mode of reading promises.

use crate::history::{Act, Op, Ret};
use crate::invariants::read_freshness::{LOCAL, NAME, check, check_local};
use crate::story::Story;
use crate::{append, done, text};

fn broken(look: impl FnOnce(&Story)) -> Option<&'static str> {
    let story = Story::begin();
    look(&story);
    story.take().violations.first().map(|violation| violation.invariant)
}

fn set(call: u64, ret: u64, value: &str) -> Op {
    done(1, call, ret, &[(0, Act::Set(value.into()))], &[Ret::Done])
}

fn get(call: u64, ret: u64, value: Ret) -> Op {
    done(2, call, ret, &[(0, Act::Get)], &[value])
}

#[test]
fn a_read_shows_nothing_older_than_what_was_acknowledged_before_it() {
    let writes = || vec![set(0, 10, "a;"), set(20, 30, "b;")];
    let judge = |read: Op| {
        let ops = [writes(), vec![read]].concat();
        broken(|story| check(&ops, story))
    };
    assert_eq!(judge(get(31, 40, text("a;"))), Some(NAME));
    assert_eq!(judge(get(31, 40, Ret::Nil)), Some(NAME));
    assert_eq!(judge(get(31, 40, text("b;"))), None);
    // Asked before the second write was answered: it may be either.
    assert_eq!(judge(get(29, 40, text("a;"))), None);
}

#[test]
fn two_writes_at_the_same_time_may_stand_in_either_order() {
    let ops = [set(0, 30, "a;"), set(5, 20, "b;"), get(31, 40, text("a;"))];
    assert_eq!(broken(|story| check(&ops, story)), None);
}

#[test]
fn what_was_removed_or_has_expired_may_be_gone() {
    let removed = done(1, 20, 30, &[(0, Act::Del)], &[Ret::Int(1)]);
    let ops = [set(0, 10, "a;"), removed, get(31, 40, Ret::Nil)];
    assert_eq!(broken(|story| check(&ops, story)), None);
    let expires = done(1, 0, 10, &[(0, Act::SetPx("a;".into(), 5))], &[Ret::Done]);
    assert_eq!(broken(|story| check(&[expires, get(31, 40, Ret::Nil)], story)), None);
}

#[test]
fn local_reads_may_be_old_but_never_go_back_on_one_connection() {
    let writes =
        [done(1, 0, 10, &[(0, append("a;"))], &[Ret::Int(2)]), done(1, 20, 30, &[(0, append("b;"))], &[Ret::Int(4)])];
    let judge = |reads: &[(u64, Op)]| broken(|story| check_local(reads, &writes, story));
    let (old, new) = (|at| get(at, at + 1, text("a;")), |at| get(at, at + 1, text("a;b;")));
    assert_eq!(judge(&[(1, old(100)), (1, new(110))]), None);
    assert_eq!(judge(&[(1, new(100)), (1, old(110))]), Some(LOCAL));
    assert_eq!(judge(&[(1, new(100)), (1, get(110, 111, Ret::Nil))]), Some(LOCAL));
    assert_eq!(judge(&[(1, new(100)), (2, old(110))]), None, "another connection may lead to another member");
    assert_eq!(judge(&[(1, new(15))]), Some(LOCAL), "nobody had asked for that yet");
}
