//! Commands on the time a key has left.

use crate::args::{Args, is};
use crate::commands::generic::generic;
use crate::cx::{ReadCx, WriteCx};
use crate::error::CmdError;
use crate::item::Item;
use crate::reply::ReplyBuf;
use crate::spec::{Arg, Command, Handler, KeySpec, Meta, ReadFn, WriteFn, flag, key};

/// What one number of the family means.
#[derive(Clone, Copy)]
struct Unit {
    /// Of the command, for its error.
    name: &'static str,
    milliseconds: i64,
    /// Counted from now, or from 1970.
    relative: bool,
}

/// NX, XX, GT and LT.
#[derive(Clone, Copy, Default)]
struct Conditions {
    none: bool,
    some: bool,
    later: bool,
    earlier: bool,
}

impl Conditions {
    fn parse(words: &[&[u8]]) -> Result<Self, CmdError> {
        let mut given = Self::default();
        for word in words {
            let flag = match word {
                word if is(word, "NX") => &mut given.none,
                word if is(word, "XX") => &mut given.some,
                word if is(word, "GT") => &mut given.later,
                word if is(word, "LT") => &mut given.earlier,
                word => {
                    // Redis prints it as a C string.
                    let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
                    let shown = String::from_utf8_lossy(&word[..end]);
                    return Err(CmdError::new(format!("ERR Unsupported option {shown}")));
                }
            };
            *flag = true;
        }
        if given.none && (given.some || given.later || given.earlier) {
            return Err(CmdError::fixed("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if given.later && given.earlier {
            return Err(CmdError::fixed("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(given)
    }

    /// Whether the end may become `at` where it is `now`; a key that never ends lasts longer than any other.
    fn allow(self, now: Option<u64>, at: i64) -> bool {
        let refused = match now {
            None => self.some || self.later,
            Some(now) => {
                let order = i128::from(at).cmp(&i128::from(now));
                self.none || self.later && order.is_le() || self.earlier && order.is_ge()
            }
        };
        !refused
    }
}

fn set_end(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf, unit: Unit) -> Result<(), CmdError> {
    let key = args.next()?;
    let mut number = args.clone();
    args.next()?;
    let conditions = Conditions::parse(args.rest())?;
    let base = if unit.relative { cx.now_ms().cast_signed() } else { 0 };
    let at = number.int()?.checked_mul(unit.milliseconds).and_then(|time| time.checked_add(base));
    let at = at.ok_or_else(|| CmdError::invalid_expire(unit.name))?;
    let set = cx.get(key).is_some_and(|item| conditions.allow(item.expire_at(), at));
    if set {
        cx.expire(key, u64::try_from(at).unwrap_or(0));
    }
    out.int(i64::from(set));
    Ok(())
}

fn expire(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_end(cx, args, out, Unit { name: "expire", milliseconds: 1000, relative: true })
}

fn pexpire(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_end(cx, args, out, Unit { name: "pexpire", milliseconds: 1, relative: true })
}

fn expireat(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_end(cx, args, out, Unit { name: "expireat", milliseconds: 1000, relative: false })
}

fn pexpireat(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_end(cx, args, out, Unit { name: "pexpireat", milliseconds: 1, relative: false })
}

fn persist(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(i64::from(cx.persist(args.next()?)));
    Ok(())
}

/// -2 without a key, -1 without an end, else what `tell` makes of the end (in milliseconds since 1970).
fn end_of(item: Option<&Item>, out: &mut ReplyBuf, tell: impl FnOnce(u64) -> u64) {
    let answer = match item.map(Item::expire_at) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => i64::try_from(tell(at)).unwrap_or(i64::MAX),
    };
    out.int(answer);
}

/// Rounded to the nearest, so that a key just set shows the seconds that were given.
fn seconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_add(500) / 1000
}

fn ttl(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    end_of(cx.get(args.next()?), out, |at| seconds(at.saturating_sub(cx.now_ms())));
    Ok(())
}

fn pttl(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    end_of(cx.get(args.next()?), out, |at| at.saturating_sub(cx.now_ms()));
    Ok(())
}

fn expiretime(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    end_of(cx.get(args.next()?), out, seconds);
    Ok(())
}

fn pexpiretime(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    end_of(cx.get(args.next()?), out, |at| at);
    Ok(())
}

const KEY: Arg = Arg::key("key", 0);
const CONDITION: Arg = Arg::one_of(
    "condition",
    &[Arg::word("nx", "NX"), Arg::word("xx", "XX"), Arg::word("gt", "GT"), Arg::word("lt", "LT")],
)
.optional()
.since("7.0.0");

const CHANGED: &[KeySpec] = &[KeySpec::one(key::RW | key::UPDATE)];
const LOOKED_AT: &[KeySpec] = &[KeySpec::one(key::RO | key::ACCESS)];

const fn sets(
    name: &'static str,
    since: &'static str,
    summary: &'static str,
    args: &'static [Arg],
    handler: WriteFn,
) -> Command<Handler> {
    let meta = Meta {
        since,
        summary,
        flags: flag::FAST,
        keys: CHANGED,
        args,
        history: &[("7.0.0", "Takes the conditions `NX`, `XX`, `GT` and `LT`.")],
        ..Meta::BASE
    };
    generic(name, -3, Handler::Write(handler), meta)
}

const fn tells(name: &'static str, since: &'static str, summary: &'static str, handler: ReadFn) -> Command<Handler> {
    let meta = Meta { since, summary, flags: flag::FAST, keys: LOOKED_AT, args: &[KEY], ..Meta::BASE };
    generic(name, 2, Handler::Read(handler), meta)
}

const fn left(name: &'static str, since: &'static str, summary: &'static str, handler: ReadFn) -> Command<Handler> {
    let mut command = tells(name, since, summary, handler);
    command.meta.tips = &["nondeterministic_output"];
    command.meta.history = &[("2.8.0", "Answers -2 where there is no key.")];
    command
}

/// The commands on the time a key has left.
pub static COMMANDS: &[Command<Handler>] = &[
    sets("expire", "1.0.0", "Gives a key a number of seconds to live.", &[KEY, Arg::int("seconds"), CONDITION], expire),
    sets(
        "expireat",
        "1.2.0",
        "Lets a key live until a Unix time in seconds.",
        &[KEY, Arg::unix_time("unix-time-seconds"), CONDITION],
        expireat,
    ),
    tells("expiretime", "7.0.0", "Tells the Unix time in seconds at which a key ends.", expiretime),
    generic(
        "persist",
        2,
        Handler::Write(persist),
        Meta {
            since: "2.2.0",
            summary: "Takes the end of its time from a key.",
            flags: flag::FAST,
            keys: CHANGED,
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    sets(
        "pexpire",
        "2.6.0",
        "Gives a key a number of milliseconds to live.",
        &[KEY, Arg::int("milliseconds"), CONDITION],
        pexpire,
    ),
    sets(
        "pexpireat",
        "2.6.0",
        "Lets a key live until a Unix time in milliseconds.",
        &[KEY, Arg::unix_time("unix-time-milliseconds"), CONDITION],
        pexpireat,
    ),
    tells("pexpiretime", "7.0.0", "Tells the Unix time in milliseconds at which a key ends.", pexpiretime),
    left("pttl", "2.6.0", "Tells how many milliseconds a key has left.", pttl),
    left("ttl", "1.0.0", "Tells how many seconds a key has left.", ttl),
];
