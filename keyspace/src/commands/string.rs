//! Commands on strings.
//!
//! Numbers are strings too: INCR and its like read and write decimal text.

mod counters;
mod lcs;
mod options;

use self::counters::{decr, decrby, incr, incrby, incrbyfloat};
use self::lcs::lcs;
use self::options::{Options, Unit, When, moment};
use crate::args::{Args, is};
use crate::cx::{ReadCx, Ttl, WriteCx};
use crate::error::CmdError;
use crate::reply::ReplyBuf;
use crate::rope::Str;
use crate::spec::{Arg, Command, Deprecated, Group, Handler, KeyAt, KeySpec, Meta, acl, flag, key};

fn get(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.string_or_null(cx.string(args.next()?)?);
    Ok(())
}

fn set(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, value) = (args.next()?, args.next()?);
    if args.is_empty() {
        cx.set_string(key, value, Ttl::Clear);
        out.ok();
        return Ok(());
    }
    let options = Options::of_set(args)?;
    let ttl = match options.expiry {
        Some((unit, arg)) => Ttl::At(moment(arg, unit, cx.now_ms(), "set")?),
        None if options.keep_ttl => Ttl::Keep,
        None => Ttl::Clear,
    };
    if options.get {
        out.string_or_null(cx.string(key)?);
    }
    let allowed = match options.when {
        When::Always => true,
        When::Absent => !cx.exists(key),
        When::Present => cx.exists(key),
    };
    if allowed {
        cx.set_string(key, value, ttl);
    }
    match (options.get, allowed) {
        (true, _) => {}
        (false, true) => out.ok(),
        (false, false) => out.null(),
    }
    Ok(())
}

/// SET only reads the key with GET; proxies and ACL ask.
fn set_keys(args: &[&[u8]]) -> Option<Vec<KeyAt>> {
    let reads = args.iter().skip(3).any(|arg| is(arg, "get"));
    let flags = if reads { key::RW | key::ACCESS | key::UPDATE } else { key::OW | key::UPDATE };
    (args.len() > 1).then(|| vec![(1, flags)])
}

fn set_with_expiry(
    cx: &mut WriteCx<'_>,
    args: &mut Args<'_>,
    out: &mut ReplyBuf,
    unit: Unit,
    name: &str,
) -> Result<(), CmdError> {
    let (key, ttl, value) = (args.next()?, args.next()?, args.next()?);
    let at = moment(ttl, unit, cx.now_ms(), name)?;
    cx.set_string(key, value, Ttl::At(at));
    out.ok();
    Ok(())
}

fn setex(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_with_expiry(cx, args, out, Unit::Seconds, "setex")
}

fn psetex(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    set_with_expiry(cx, args, out, Unit::Millis, "psetex")
}

fn setnx(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, value) = (args.next()?, args.next()?);
    let absent = !cx.exists(key);
    if absent {
        cx.set_string(key, value, Ttl::Clear);
    }
    out.int(i64::from(absent));
    Ok(())
}

fn getset(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, value) = (args.next()?, args.next()?);
    out.string_or_null(cx.string(key)?);
    cx.set_string(key, value, Ttl::Clear);
    Ok(())
}

fn getdel(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    out.string_or_null(cx.string(key)?);
    cx.remove(key);
    Ok(())
}

fn getex(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let options = Options::of_getex(args)?;
    let Some(value) = cx.string(key)? else {
        out.null();
        return Ok(());
    };
    out.string(value);
    if let Some((unit, arg)) = options.expiry {
        let at = moment(arg, unit, cx.now_ms(), "getex")?;
        cx.expire(key, at);
    } else if options.persist {
        cx.persist(key);
    }
    Ok(())
}

fn mget(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.array(args.remaining());
    for key in args.rest() {
        out.string_or_null(cx.string(key).unwrap_or_default());
    }
    Ok(())
}

fn mset(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (pairs, odd) = args.rest().as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CmdError::arity("mset"));
    }
    for [key, value] in pairs {
        cx.set_string(key, value, Ttl::Clear);
    }
    out.ok();
    Ok(())
}

fn msetnx(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (pairs, odd) = args.rest().as_chunks::<2>();
    if !odd.is_empty() {
        return Err(CmdError::arity("msetnx"));
    }
    let free = pairs.iter().all(|[key, _]| !cx.exists(key));
    if free {
        for [key, value] in pairs {
            cx.set_string(key, value, Ttl::Clear);
        }
    }
    out.int(i64::from(free));
    Ok(())
}

fn strlen(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.len(cx.string(args.next()?)?.map_or(0, Str::len));
    Ok(())
}

fn append(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let (key, more) = (args.next()?, args.next()?);
    let length = match cx.string(key)? {
        None => {
            cx.set_string(key, more, Ttl::Clear);
            more.len()
        }
        Some(old) => {
            let length = old.len().saturating_add(more.len());
            cx.check_length(length)?;
            cx.write_string(key, length - more.len(), more);
            length
        }
    };
    out.len(length);
    Ok(())
}

fn setrange(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let offset = usize::try_from(args.int()?).map_err(|_| CmdError::fixed("ERR offset is out of range"))?;
    let part = args.next()?;
    let old = cx.string(key)?.map_or(0, Str::len);
    if part.is_empty() {
        out.len(old);
        return Ok(());
    }
    let end = offset.saturating_add(part.len());
    cx.check_length(end)?;
    cx.write_string(key, offset, part);
    out.len(old.max(end));
    Ok(())
}

fn getrange(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let (start, end) = (args.int()?, args.int()?);
    let string = cx.string(key)?.unwrap_or_default();
    let (from, to) = range_of(string.len(), start, end);
    out.bulk_of(string, from, to);
    Ok(())
}

/// From where to before where. Offsets below 0 count from the end; what lies outside is cut off.
fn range_of(length: usize, start: i64, end: i64) -> (usize, usize) {
    let length = length as i64;
    if start < 0 && end < 0 && start > end {
        return (0, 0);
    }
    let from_end = |n: i64| if n < 0 { n.saturating_add(length).max(0) } else { n };
    let (start, end) = (from_end(start), from_end(end).min(length - 1));
    if start > end { (0, 0) } else { (start as usize, end as usize + 1) }
}

const KEY: Arg = Arg::key("key", 0);

const fn string(name: &'static str, arity: i32, handler: Handler, meta: Meta) -> Command<Handler> {
    let meta = Meta { name, arity, group: Group::String, acl: acl::STRING, ..meta };
    Command { meta, handler, subcommands: &[] }
}

/// The family.
pub static COMMANDS: &[Command<Handler>] = &[
    string(
        "append",
        3,
        Handler::Write(append),
        Meta {
            summary: "Adds bytes to the end of a string, which begins empty if the key is not there.",
            since: "2.0.0",
            complexity: "O(M) for M bytes, whatever the length of the string before",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::INSERT)],
            args: &[KEY, Arg::string("value")],
            ..Meta::BASE
        },
    ),
    string(
        "decr",
        2,
        Handler::Write(decr),
        Meta {
            summary: "Takes one from the integer in a key; a missing key counts as 0.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    string(
        "decrby",
        3,
        Handler::Write(decrby),
        Meta {
            summary: "Takes a number from the integer in a key; a missing key counts as 0.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::int("decrement")],
            ..Meta::BASE
        },
    ),
    string(
        "get",
        2,
        Handler::Read(get),
        Meta {
            summary: "Reads a string.",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    string(
        "getdel",
        2,
        Handler::Write(getdel),
        Meta {
            summary: "Reads a string and removes its key.",
            since: "6.2.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::DELETE)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    string(
        "getex",
        -2,
        Handler::Write(getex),
        Meta {
            summary: "Reads a string and changes when its key ends.",
            since: "6.2.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[
                KEY,
                Arg::one_of(
                    "expiration",
                    &[
                        Arg::int("seconds").token("EX"),
                        Arg::int("milliseconds").token("PX"),
                        Arg::unix_time("unix-time-seconds").token("EXAT"),
                        Arg::unix_time("unix-time-milliseconds").token("PXAT"),
                        Arg::word("persist", "PERSIST"),
                    ],
                )
                .optional(),
            ],
            ..Meta::BASE
        },
    ),
    string(
        "getrange",
        4,
        Handler::Read(getrange),
        Meta {
            summary: "Reads a part of a string, by offsets of its first and last byte.",
            since: "2.4.0",
            complexity: "O(N) for a part of N bytes",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY, Arg::int("start"), Arg::int("end")],
            ..Meta::BASE
        },
    ),
    string(
        "getset",
        3,
        Handler::Write(getset),
        Meta {
            summary: "Sets a string and gives the one before.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::string("value")],
            deprecated: Some(Deprecated { since: "6.2.0", replaced_by: "`SET` with the `!GET` argument" }),
            ..Meta::BASE
        },
    ),
    string(
        "incr",
        2,
        Handler::Write(incr),
        Meta {
            summary: "Adds one to the integer in a key; a missing key counts as 0.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    string(
        "incrby",
        3,
        Handler::Write(incrby),
        Meta {
            summary: "Adds a number to the integer in a key; a missing key counts as 0.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::int("increment")],
            ..Meta::BASE
        },
    ),
    string(
        "incrbyfloat",
        3,
        Handler::Write(incrbyfloat),
        Meta {
            summary: "Adds a floating point number to the number in a key; a missing key counts as 0.",
            since: "2.6.0",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE)],
            args: &[KEY, Arg::double("increment")],
            ..Meta::BASE
        },
    ),
    string(
        "lcs",
        -3,
        Handler::Read(lcs),
        Meta {
            summary: "Finds the longest common subsequence of two strings.",
            since: "7.0.0",
            complexity: "O(N*M) for strings of N and M bytes",
            keys: &[KeySpec::range(1, 1, 1, key::RO | key::ACCESS)],
            args: &[
                Arg::key("key1", 0),
                Arg::key("key2", 0),
                Arg::word("len", "LEN").optional(),
                Arg::word("idx", "IDX").optional(),
                Arg::int("min-match-len").token("MINMATCHLEN").optional(),
                Arg::word("withmatchlen", "WITHMATCHLEN").optional(),
            ],
            ..Meta::BASE
        },
    ),
    string(
        "mget",
        -2,
        Handler::Read(mget),
        Meta {
            summary: "Reads several strings in one step.",
            complexity: "O(N) for N keys",
            flags: flag::FAST,
            keys: &[KeySpec::range(1, -1, 1, key::RO | key::ACCESS)],
            args: &[KEY.multiple()],
            tips: &["request_policy:multi_shard"],
            ..Meta::BASE
        },
    ),
    string(
        "mset",
        -3,
        Handler::Write(mset),
        Meta {
            summary: "Sets several strings in one step.",
            since: "1.0.1",
            complexity: "O(N) for N keys",
            flags: flag::DENYOOM,
            keys: &[KeySpec::range(1, -1, 2, key::OW | key::UPDATE)],
            args: &[Arg::block("data", &[KEY, Arg::string("value")]).multiple()],
            tips: &["request_policy:multi_shard", "response_policy:all_succeeded"],
            ..Meta::BASE
        },
    ),
    string(
        "msetnx",
        -3,
        Handler::Write(msetnx),
        Meta {
            summary: "Sets several strings in one step, but only when none of the keys is there.",
            since: "1.0.1",
            complexity: "O(N) for N keys",
            flags: flag::DENYOOM,
            keys: &[KeySpec::range(1, -1, 2, key::OW | key::INSERT)],
            args: &[Arg::block("data", &[KEY, Arg::string("value")]).multiple()],
            ..Meta::BASE
        },
    ),
    string(
        "psetex",
        4,
        Handler::Write(psetex),
        Meta {
            summary: "Sets a string that ends after so many milliseconds.",
            since: "2.6.0",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::OW | key::UPDATE)],
            args: &[KEY, Arg::int("milliseconds"), Arg::string("value")],
            deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `PX` argument" }),
            ..Meta::BASE
        },
    ),
    string(
        "set",
        -3,
        Handler::Write(set),
        Meta {
            summary: "Sets a key to a string, whatever it held before.",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::RW | key::ACCESS | key::UPDATE | key::VARIABLE_FLAGS)],
            find_keys: Some(set_keys),
            args: &[
                KEY,
                Arg::string("value"),
                Arg::one_of("condition", &[Arg::word("nx", "NX"), Arg::word("xx", "XX")]).optional().since("2.6.12"),
                Arg::word("get", "GET").optional().since("6.2.0"),
                Arg::one_of(
                    "expiration",
                    &[
                        Arg::int("seconds").token("EX").since("2.6.12"),
                        Arg::int("milliseconds").token("PX").since("2.6.12"),
                        Arg::unix_time("unix-time-seconds").token("EXAT").since("6.2.0"),
                        Arg::unix_time("unix-time-milliseconds").token("PXAT").since("6.2.0"),
                        Arg::word("keepttl", "KEEPTTL").since("6.0.0"),
                    ],
                )
                .optional(),
            ],
            history: &[
                ("2.6.12", "The options `EX`, `PX`, `NX` and `XX` came in."),
                ("6.0.0", "The option `KEEPTTL` came in."),
                ("6.2.0", "The options `GET`, `EXAT` and `PXAT` came in."),
                ("7.0.0", "`NX` and `GET` may stand together."),
            ],
            ..Meta::BASE
        },
    ),
    string(
        "setex",
        4,
        Handler::Write(setex),
        Meta {
            summary: "Sets a string that ends after so many seconds.",
            since: "2.0.0",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::OW | key::UPDATE)],
            args: &[KEY, Arg::int("seconds"), Arg::string("value")],
            deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `EX` argument" }),
            ..Meta::BASE
        },
    ),
    string(
        "setnx",
        3,
        Handler::Write(setnx),
        Meta {
            summary: "Sets a string, but only when the key is not there.",
            flags: flag::DENYOOM | flag::FAST,
            keys: &[KeySpec::one(key::OW | key::INSERT)],
            args: &[KEY, Arg::string("value")],
            deprecated: Some(Deprecated { since: "2.6.12", replaced_by: "`SET` with the `NX` argument" }),
            ..Meta::BASE
        },
    ),
    string(
        "setrange",
        4,
        Handler::Write(setrange),
        Meta {
            summary: "Overwrites a part of a string from an offset on; zero bytes fill a gap.",
            since: "2.2.0",
            complexity: "O(1), and O(M) for M bytes where the value is long or memory must grow",
            flags: flag::DENYOOM,
            keys: &[KeySpec::one(key::RW | key::UPDATE)],
            args: &[KEY, Arg::int("offset"), Arg::string("value")],
            ..Meta::BASE
        },
    ),
    string(
        "strlen",
        2,
        Handler::Read(strlen),
        Meta {
            summary: "Tells the length of a string.",
            since: "2.2.0",
            flags: flag::FAST,
            keys: &[KeySpec::one(key::RO)],
            args: &[KEY],
            ..Meta::BASE
        },
    ),
    string(
        "substr",
        4,
        Handler::Read(getrange),
        Meta {
            summary: "Reads a part of a string.",
            complexity: "O(N) for a part of N bytes",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY, Arg::int("start"), Arg::int("end")],
            deprecated: Some(Deprecated { since: "2.0.0", replaced_by: "`GETRANGE`" }),
            ..Meta::BASE
        },
    ),
];
