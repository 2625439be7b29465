//! Commands that look into a value (OBJECT), and those that take it out and in (DUMP, RESTORE).

use crate::args::Args;
use crate::commands::generic::generic;
use crate::cx::{ReadCx, Ttl, WriteCx};
use crate::error::CmdError;
use crate::hash::Hash;
use crate::item::{Item, ValueRef};
use crate::number;
use crate::rdb::{self, Refused};
use crate::reply::ReplyBuf;
use crate::rope::Str;
use crate::settings::Setting;
use crate::spec::{Arg, Command, Handler, KeySpec, Meta, ReadFn, acl, flag, key};

const BUSY_KEY: CmdError = CmdError::fixed("BUSYKEY Target key name already exists.");
const NO_FREQUENCY: CmdError = CmdError::fixed(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
     between policies at runtime LRU and LFU data will take some time to adjust.",
);

/// Looks a key up and answers about it, or null.
fn about(
    cx: &ReadCx<'_>,
    args: &mut Args<'_>,
    out: &mut ReplyBuf,
    tell: impl FnOnce(&Item, &mut ReplyBuf) -> Result<(), CmdError>,
) -> Result<(), CmdError> {
    match cx.get(args.next()?) {
        Some(item) => tell(item, out),
        None => {
            out.null();
            Ok(())
        }
    }
}

fn encoding(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    about(cx, args, out, |item, out| {
        out.bulk(item.encoding().as_bytes());
        Ok(())
    })
}

/// Frequencies would be of use for eviction only, and of that there is no kind that counts them.
fn freq(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    about(cx, args, out, |_, _| Err(NO_FREQUENCY))
}

/// Since the last write: a read changes nothing here, not even a time.
fn idletime(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    about(cx, args, out, |item, out| {
        out.int(item.idle_seconds(cx.now_ms()).cast_signed());
        Ok(())
    })
}

/// Values are shared with views and copies, but that is nobody's business. Small integers show the number by which
/// Redis marks those that are never freed, for some clients tell them by it.
fn refcount(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    const SHARED: std::ops::Range<i64> = 0..10_000;
    about(cx, args, out, |item, out| {
        let int = item.as_str().filter(|_| item.encoding() == "int");
        let int = int.and_then(Str::flat).and_then(number::parse_int);
        let shared = int.is_some_and(|int| SHARED.contains(&int));
        out.int(if shared { i32::MAX.into() } else { 1 });
        Ok(())
    })
}

fn help(_cx: &ReadCx<'_>, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    const LINES: &[&str] = &[
        "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "ENCODING <key>",
        "    In which form the value of <key> is kept.",
        "FREQ <key>",
        "    How often <key> is used, on a logarithmic scale.",
        "IDLETIME <key>",
        "    For how many seconds <key> was not written.",
        "REFCOUNT <key>",
        "    How many references the value of <key> has.",
        "HELP",
        "    Print this help.",
    ];
    out.array(LINES.len());
    LINES.iter().for_each(|line| out.simple(line));
    Ok(())
}

fn dump(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    about(cx, args, out, |item, out| {
        out.bulk(&payload(item));
        Ok(())
    })
}

/// A value in the form RESTORE takes.
pub(crate) fn payload(item: &Item) -> Vec<u8> {
    match item.value() {
        ValueRef::Str(string) => rdb::dump_string(&string.whole()),
        ValueRef::Hash(hash) => {
            let fields: Vec<_> = hash.iter().collect();
            rdb::dump_hash(hash.is_packed(), fields.iter().copied())
        }
    }
}

/// The options of RESTORE. A frequency is checked and forgotten, for none are kept.
#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_seconds: Option<i64>,
    frequency: bool,
}

impl Options {
    fn parse(args: &mut Args<'_>) -> Result<Self, CmdError> {
        let mut options = Self::default();
        while !args.is_empty() {
            if args.keyword("REPLACE") {
                options.replace = true;
            } else if args.keyword("ABSTTL") {
                options.absolute = true;
            } else if !options.frequency && args.keyword("IDLETIME") {
                let wrong = CmdError::fixed("ERR Invalid IDLETIME value, must be >= 0");
                options.idle_seconds = Some(args.int_in(0, i64::MAX, wrong)?);
            } else if options.idle_seconds.is_none() && args.keyword("FREQ") {
                args.int_in(0, 255, CmdError::fixed("ERR Invalid FREQ value, must be >= 0 and <= 255"))?;
                options.frequency = true;
            } else {
                return Err(CmdError::SYNTAX);
            }
        }
        Ok(options)
    }
}

fn restore(cx: &mut WriteCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let key = args.next()?;
    let mut time = args.clone();
    args.next()?;
    let payload = args.next()?;
    let options = Options::parse(args)?;
    if !options.replace && cx.exists(key) {
        return Err(BUSY_KEY);
    }
    let time = time.int_in(0, i64::MAX, CmdError::fixed("ERR Invalid TTL value, must be >= 0"))?.unsigned_abs();
    let limits = cx.hash_limits();
    let mut hash = Hash::new();
    let room = cx.settings().limit(Setting::ProtoMaxBulkLen);
    let value =
        rdb::restore(payload, room, &mut |field, value| hash.insert(field, value, &limits)).map_err(|refused| {
            match refused {
                Refused::Footer => CmdError::fixed("ERR DUMP payload version or checksum are wrong"),
                Refused::Format => CmdError::fixed("ERR Bad data format"),
            }
        })?;
    let ttl = match time {
        0 => Ttl::Clear,
        at if options.absolute => Ttl::At(at),
        left => Ttl::At(cx.now_ms().saturating_add(left)),
    };
    if matches!(ttl, Ttl::At(at) if at <= cx.now_ms()) {
        cx.remove(key);
        out.ok();
        return Ok(());
    }
    match value {
        rdb::Value::String(bytes) => cx.set_string(key, &bytes, ttl),
        rdb::Value::Hash => cx.set_collection(key, hash, ttl),
    }
    if let Some(seconds) = options.idle_seconds {
        cx.set_idle(key, seconds.unsigned_abs());
    }
    out.ok();
    Ok(())
}

const KEY: Arg = Arg::key("key", 0);

const SECOND: &[KeySpec] = &[KeySpec::at(2, key::RO)];

const fn object(name: &'static str, since: &'static str, summary: &'static str, handler: ReadFn) -> Command<Handler> {
    let meta = Meta { since, summary, keys: SECOND, args: &[KEY], tips: &["nondeterministic_output"], ..Meta::BASE };
    generic(name, 3, Handler::Read(handler), meta)
}

/// The commands that look into a value, and those that take it out and in.
pub static COMMANDS: &[Command<Handler>] = &[
    generic(
        "dump",
        2,
        Handler::Read(dump),
        Meta {
            summary: "Gets a value in the form RESTORE takes.",
            since: "2.6.0",
            complexity: "O(N) for the N bytes of the value",
            keys: &[KeySpec::one(key::RO | key::ACCESS)],
            args: &[KEY],
            tips: &["nondeterministic_output"],
            ..Meta::BASE
        },
    ),
    Command {
        meta: Meta {
            name: "object",
            summary: "Groups the commands that look into a value.",
            since: "2.2.3",
            complexity: "Depends on the subcommand.",
            arity: -2,
            ..Meta::BASE
        },
        handler: Handler::Container,
        subcommands: &[
            object("encoding", "2.2.3", "Names the form in which a value is kept.", encoding),
            object("freq", "4.0.0", "Tells how often a key is used, on a logarithmic scale.", freq),
            generic(
                "help",
                2,
                Handler::Read(help),
                Meta {
                    summary: "Explains the subcommands.",
                    since: "6.2.0",
                    flags: flag::LOADING | flag::STALE,
                    ..Meta::BASE
                },
            ),
            object("idletime", "2.2.3", "Tells how many seconds a key was not used.", idletime),
            object("refcount", "2.2.3", "Tells how many references a value has.", refcount),
        ],
    },
    generic(
        "restore",
        -4,
        Handler::Write(restore),
        Meta {
            summary: "Makes a key of what DUMP gave.",
            since: "2.6.0",
            complexity: "O(N) for the N bytes of the value",
            flags: flag::DENYOOM,
            acl: acl::DANGEROUS,
            keys: &[KeySpec::one(key::OW | key::UPDATE)],
            args: &[
                KEY,
                Arg::int("ttl"),
                Arg::string("serialized-value"),
                Arg::word("replace", "REPLACE").optional().since("3.0.0"),
                Arg::word("absttl", "ABSTTL").optional().since("5.0.0"),
                Arg::int("seconds").token("IDLETIME").optional().since("5.0.0"),
                Arg::int("frequency").token("FREQ").optional().since("5.0.0"),
            ],
            history: &[
                ("3.0.0", "Takes `REPLACE`."),
                ("5.0.0", "Takes `ABSTTL`."),
                ("5.0.0", "Takes `IDLETIME` and `FREQ`."),
            ],
            ..Meta::BASE
        },
    ),
];
