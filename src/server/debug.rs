//! DEBUG: what Redis' own tests and the tests of clients call, and nothing that could hurt a member.
//!
//! Off unless `enable-debug-command` allows it, as in Redis: DIGEST walks all keys, and SLEEP holds the member.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use quorate_keyspace::args::{Args, is};
use quorate_keyspace::cx::ReadCx;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::item::{Item, ValueRef};
use quorate_keyspace::number::parse_double;
use quorate_keyspace::reply::{Proto, ReplyBuf};
use quorate_keyspace::spec::{Command, Group, Handler, Meta, flag};
use quorate_keyspace::trie::Keyed;

use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};
use super::help::help;

fn debug<'a>(cx: &'a dyn ShellCx, args: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        allowed(cx)?;
        let sub = String::from_utf8_lossy(args[1]).to_ascii_lowercase();
        match (sub.as_str(), &args[2..]) {
            ("help", []) => debug_help(out),
            ("sleep", [seconds]) => {
                let seconds = parse_double(seconds).unwrap_or(0.0).clamp(0.0, 3600.0);
                cx.sleep(Duration::from_secs_f64(seconds)).await;
                out.ok();
            }
            ("set-active-expire", [on]) => {
                cx.set_active_expire(*on != b"0");
                out.ok();
            }
            ("damage-memory", [key]) => {
                if !cx.damage(cx.client().db, key) {
                    return Err(CmdError::NO_SUCH_KEY);
                }
                out.ok();
            }
            ("reload", _) => {
                cx.checkpoint().await?;
                out.ok();
            }
            ("object", [_, ..]) => read(cx, &OBJECT, args, out),
            ("listpack", [_]) => read(cx, &LISTPACK, args, out),
            ("htstats-key", [_, ..]) => read(cx, &HTSTATS_KEY, args, out),
            ("htstats", [db, ..]) => htstats(cx, db, out)?,
            ("digest", []) => digest(cx, out),
            ("digest-value", [_, ..]) => read(cx, &DIGEST_VALUE, args, out),
            ("protocol", [kind]) => protocol(kind, out)?,
            ("error", [text]) => out.error(CmdError::new(String::from_utf8_lossy(text)).text()),
            ("log", [text]) => {
                tracing::info!("DEBUG LOG: {}", String::from_utf8_lossy(text));
                out.ok();
            }
            // They tune what is not here: there is no replica to follow, no packed list, no cron job and no script.
            ("change-repl-id", [])
            | ("quicklist-packed-threshold" | "listpack-packed-threshold" | "pause-cron", [_])
            | ("set-disable-deny-scripts" | "set-skip-checksum-validation" | "dict-resizing", [_])
            | ("replybuffer", [_, _])
            | ("config-rewrite-force-all", []) => out.ok(),
            _ => {
                return Err(CmdError::new(format!(
                    "ERR unknown subcommand or wrong number of arguments for '{}'. Try DEBUG HELP.",
                    String::from_utf8_lossy(&args[1][..args[1].len().min(128)])
                )));
            }
        }
        Ok(())
    })
}

fn allowed(cx: &dyn ShellCx) -> Result<(), CmdError> {
    let local = || cx.client().addr.is_none_or(|addr| addr.ip().is_loopback());
    match cx.setting("enable-debug-command").as_deref() {
        Some("yes") => Ok(()),
        Some("local") if local() => Ok(()),
        _ => Err(CmdError::fixed(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it \
             from a local connection, otherwise you need to set this option in the configuration file, and then \
             restart the server.",
        )),
    }
}

/// A look at the keyspace that is no command of its own there.
const fn look(run: quorate_keyspace::spec::ReadFn) -> Command<Handler> {
    Command { meta: Meta::BASE, handler: Handler::Read(run), subcommands: &[] }
}

static OBJECT: Command<Handler> = look(object);
static LISTPACK: Command<Handler> = look(listpack);
static HTSTATS_KEY: Command<Handler> = look(htstats_key);
static DIGEST_VALUE: Command<Handler> = look(digest_value);

fn read(cx: &dyn ShellCx, command: &Command<Handler>, args: &[&[u8]], out: &mut ReplyBuf) {
    let (now_ms, seed, db) = (cx.now_us() / 1000, cx.random(), cx.client().db);
    cx.with_keyspace(&mut |keyspace| keyspace.read(now_ms, seed, db, command, Args::new(args, 2), out));
}

fn item<'c>(cx: &ReadCx<'c>, args: &mut Args<'_>) -> Result<&'c Item, CmdError> {
    cx.get(args.next()?).ok_or(CmdError::NO_SUCH_KEY)
}

fn object(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let item = item(cx, args)?;
    let idle = item.idle_seconds(cx.now_ms());
    let seen = (cx.now_ms() / 1000).saturating_sub(idle) & 0xff_ffff;
    out.simple(&format!(
        "Value at:0x{:x} refcount:1 encoding:{} serializedlength:{} lru:{seen} lru_seconds_idle:{idle}",
        item.revision(),
        item.encoding(),
        item.memory_bytes(),
    ));
    Ok(())
}

fn listpack(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    if item(cx, args)?.encoding() != "listpack" {
        return Err(CmdError::fixed("ERR Not a listpack encoded object."));
    }
    out.simple("Listpack structure printed on stdout");
    Ok(())
}

fn htstats_key(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let ValueRef::Hash(hash) = item(cx, args)?.value() else { return Err(NO_TABLE) };
    if hash.encoding() != "hashtable" {
        return Err(NO_TABLE);
    }
    out.verbatim("txt", table_stats(hash.len() as u64).as_bytes());
    Ok(())
}

const NO_TABLE: CmdError =
    CmdError::fixed("ERR The value stored at the specified key is not represented using an hash table");

fn table_stats(elements: u64) -> String {
    format!("Hash table 0 stats (main hash table):\n table size: {elements}\n number of elements: {elements}\n")
}

fn htstats(cx: &dyn ShellCx, db: &[u8], out: &mut ReplyBuf) -> Result<(), CmdError> {
    let db = parse_double(db).filter(|db| *db >= 0.0 && *db < f64::from(cx.server().databases));
    let db = db.ok_or(CmdError::fixed("ERR Out of range database"))? as u16;
    let mut text = String::new();
    cx.with_keyspace(&mut |keyspace| {
        let info = keyspace.keyspace_info(db, keyspace.now_ms());
        let (keys, expires) = (table_stats(info.keys), table_stats(info.expires));
        text = format!("[Dictionary HT]\n{keys}\n[Expires HT]\n{expires}\n");
    });
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

/// 160 bits that depend on content alone: not on order, not on how a value is kept, not on the member.
#[derive(Clone, Copy, Default)]
struct Digest([u64; 3]);

impl Digest {
    fn of(parts: &[&[u8]]) -> Self {
        Self([0, 1, 2].map(|salt: u64| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            parts.hash(&mut hasher);
            hasher.finish()
        }))
    }

    fn add(&mut self, other: Self) {
        for (sum, part) in self.0.iter_mut().zip(other.0) {
            *sum ^= part;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    fn hex(&self) -> String {
        self.bytes()[..20].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn value_digest(item: &Item) -> Digest {
    let mut content = Digest::default();
    match item.value() {
        ValueRef::Str(bytes) => content.add(Digest::of(&[&bytes.whole()])),
        ValueRef::Hash(hash) => {
            for (field, value) in hash.iter() {
                content.add(Digest::of(&[field, value]));
            }
        }
    }
    let expires: &[u8] = if item.expire_at().is_some() { b"expires" } else { b"" };
    Digest::of(&[item.type_name().as_bytes(), &content.bytes(), expires])
}

fn digest_of_db(cx: &ReadCx<'_>) -> Digest {
    let mut sum = Digest::default();
    for item in cx.iter() {
        sum.add(Digest::of(&[&cx.db().to_be_bytes(), item.key(), &value_digest(item).bytes()]));
    }
    sum
}

fn digest_all(cx: &ReadCx<'_>, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let mut sum = Digest::default();
    for db in 0..cx.databases() {
        sum.add(digest_of_db(&cx.in_db(db)));
    }
    out.simple(&sum.hex());
    Ok(())
}

static DIGEST: Command<Handler> = look(digest_all);

fn digest(cx: &dyn ShellCx, out: &mut ReplyBuf) {
    read(cx, &DIGEST, &[b"digest"], out);
}

fn digest_value(cx: &ReadCx<'_>, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.array(args.remaining());
    for key in args.rest() {
        let digest = cx.get(key).map_or_else(Digest::default, value_digest);
        out.simple(&digest.hex());
    }
    Ok(())
}

/// A reply of each kind, for the tests of clients.
#[expect(clippy::approx_constant, reason = "Redis answers with this double, and clients' tests wait for it")]
fn protocol(kind: &[u8], out: &mut ReplyBuf) -> Result<(), CmdError> {
    let numbers = |out: &mut ReplyBuf| (0..3).for_each(|n| out.int(n));
    match kind {
        k if is(k, "string") => out.bulk(b"Hello World"),
        k if is(k, "integer") => out.int(12345),
        k if is(k, "double") => out.double(3.141),
        k if is(k, "bignum") => out.big_number("1234567999999999999999999999999999999"),
        k if is(k, "null") => out.null(),
        k if is(k, "array") => {
            out.array(3);
            numbers(out);
        }
        k if is(k, "set") => {
            out.set(3);
            numbers(out);
        }
        k if is(k, "map") => {
            out.map(3);
            for n in 0..3 {
                out.int(n);
                out.bool(n == 1);
            }
        }
        k if is(k, "attrib") => {
            if out.proto() == Proto::Resp3 {
                out.raw(b"|1\r\n");
                out.bulk(b"key-popularity");
                out.array(2);
                out.bulk(b"key:123");
                out.int(90);
            }
            out.bulk(b"Some real reply following the attribute");
        }
        k if is(k, "push") => {
            if out.proto() == Proto::Resp2 {
                return Err(CmdError::fixed("ERR RESP2 is not supported by this command"));
            }
            out.push(2);
            out.bulk(b"server-cpu-usage");
            out.int(42);
            out.bulk(b"Some real reply following the push reply");
        }
        k if is(k, "verbatim") => out.verbatim("txt", b"This is a verbatim\nstring"),
        k if is(k, "true") => out.bool(true),
        k if is(k, "false") => out.bool(false),
        _ => {
            return Err(CmdError::fixed(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

fn debug_help(out: &mut ReplyBuf) {
    help(
        out,
        "DEBUG",
        &[
            "CHANGE-REPL-ID, PAUSE-CRON, QUICKLIST-PACKED-THRESHOLD, REPLYBUFFER",
            "    Accepted without effect: what they change in Redis is not here.",
            "DAMAGE-MEMORY <key>",
            "    Change a byte of a string in the memory of this member alone, as broken memory would. To see it found.",
            "DIGEST",
            "    Tell a digest of all keys: equal on members that hold the same.",
            "DIGEST-VALUE <key> [<key> ...]",
            "    Tell a digest of each value.",
            "ERROR <text>",
            "    Answer with this error.",
            "HTSTATS <db>, HTSTATS-KEY <key>",
            "    Tell how many elements the tables hold.",
            "LISTPACK <key>",
            "    Check that the value is kept packed.",
            "LOG <text>",
            "    Write a line to the log.",
            "OBJECT <key>",
            "    Tell how the value is kept.",
            "PROTOCOL <type>",
            "    Answer with a value of this type: string, integer, double, bignum, null, array, set, map, attrib,",
            "    push, verbatim, true or false.",
            "RELOAD",
            "    Take a checkpoint.",
            "SET-ACTIVE-EXPIRE <0|1>",
            "    Stop or resume the removal of keys that have expired.",
            "SLEEP <seconds>",
            "    Hold this member.",
        ],
    );
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "debug",
        summary: "Holds what test suites and clients' own tests ask for.",
        group: Group::Server,
        complexity: "Depends on subcommand.",
        arity: -2,
        flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::PROTECTED,
        ..Meta::BASE
    },
    handler: ShellHandler::Later(Place::Here, debug),
    subcommands: &[],
}];
