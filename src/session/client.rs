//! CLIENT and its subcommands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_keyspace::args::is;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::number::parse_int;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Session;
use super::registry::{Client, PauseKind};
use super::state::ReplyMode;
use crate::server::SessionOp;

/// Refuses names with bytes that would break the lines of CLIENT LIST.
pub(super) fn check_name(name: &[u8]) -> Result<(), CmdError> {
    check_printable(name, "Client names cannot contain spaces, newlines or special characters.")
}

fn check_printable(text: &[u8], refusal: &str) -> Result<(), CmdError> {
    if text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(CmdError::new(format!("ERR {refusal}")))
}

/// Any number will do: nobody has the id 0, or a negative one.
fn parse_id(arg: &[u8]) -> Result<i64, CmdError> {
    parse_int(arg).ok_or(CmdError::fixed("ERR Invalid client ID"))
}

fn parse_yes_no(arg: &[u8], yes: &str, no: &str) -> Result<bool, CmdError> {
    if is(arg, yes) {
        Ok(true)
    } else if is(arg, no) {
        Ok(false)
    } else {
        Err(CmdError::SYNTAX)
    }
}

/// Which connections CLIENT KILL is to close, or CLIENT LIST to show.
#[derive(Default)]
struct Filter {
    ids: Vec<i64>,
    addr: Option<Bytes>,
    local: Option<Bytes>,
    user: Option<Bytes>,
    kind: Option<Kind>,
    skip_me: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Replicas, their master, subscribers: this member has no connections of these kinds on its client port.
    Other,
}

fn parse_kind(arg: &[u8]) -> Result<Kind, CmdError> {
    if is(arg, "normal") {
        return Ok(Kind::Normal);
    }
    if ["master", "replica", "slave", "pubsub"].iter().any(|word| is(arg, word)) {
        return Ok(Kind::Other);
    }
    let word = String::from_utf8_lossy(arg);
    Err(CmdError::new(format!("ERR Unknown client type '{word}'")))
}

impl Filter {
    fn matches(&self, client: &Client, me: u64) -> bool {
        (self.ids.is_empty() || self.ids.contains(&(client.id as i64)))
            && self.addr.as_ref().is_none_or(|addr| client.addr.to_string().as_bytes() == &addr[..])
            && self.local.as_ref().is_none_or(|local| client.local.to_string().as_bytes() == &local[..])
            && self.user.as_ref().is_none_or(|user| &user[..] == b"default")
            && self.kind.is_none_or(|kind| kind == Kind::Normal)
            && !(self.skip_me && client.id == me)
    }

    /// The options of the new form of CLIENT KILL.
    fn parse_kill(args: &[Bytes]) -> Result<Self, CmdError> {
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        let mut rest = args;
        while let [name, value, more @ ..] = rest {
            if is(name, "id") {
                let refusal = CmdError::fixed("ERR client-id should be greater than 0");
                filter.ids = vec![parse_int(value).filter(|id| *id > 0).ok_or(refusal)?];
            } else if is(name, "addr") {
                filter.addr = Some(value.clone());
            } else if is(name, "laddr") {
                filter.local = Some(value.clone());
            } else if is(name, "type") {
                filter.kind = Some(parse_kind(value)?);
            } else if is(name, "user") {
                if &value[..] != b"default" {
                    let user = String::from_utf8_lossy(value);
                    return Err(CmdError::new(format!("ERR No such user '{user}'")));
                }
                filter.user = Some(value.clone());
            } else if is(name, "skipme") {
                filter.skip_me = parse_yes_no(value, "yes", "no")?;
            } else {
                return Err(CmdError::SYNTAX);
            }
            rest = more;
        }
        if rest.is_empty() { Ok(filter) } else { Err(CmdError::SYNTAX) }
    }

    /// The options of CLIENT LIST.
    fn parse_list(args: &[Bytes]) -> Result<Self, CmdError> {
        match args {
            [] => Ok(Filter::default()),
            [word, kind] if is(word, "type") => Ok(Filter { kind: Some(parse_kind(kind)?), ..Filter::default() }),
            [word, ids @ ..] if is(word, "id") && !ids.is_empty() => {
                let ids = ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
                Ok(Filter { ids, ..Filter::default() })
            }
            _ => Err(CmdError::SYNTAX),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// The session's share of CLIENT.
    pub(super) fn client_op(&mut self, op: SessionOp, args: &[Bytes]) -> Result<(), CmdError> {
        match op {
            SessionOp::ClientId => self.out.int(self.client.id as i64),
            SessionOp::ClientGetName => {
                let name = self.client.view().name;
                self.out.bulk_or_null(Some(name.as_bytes()).filter(|name| !name.is_empty()));
            }
            SessionOp::ClientSetName => {
                check_name(&args[0])?;
                self.set_name(&args[0]);
                self.out.ok();
            }
            SessionOp::ClientSetInfo => self.set_info(&args[0], &args[1])?,
            SessionOp::ClientInfo => {
                let line = format!("{}\n", self.client.line(Instant::now()));
                self.out.verbatim("txt", line.as_bytes());
            }
            SessionOp::ClientList => self.list(args)?,
            SessionOp::ClientKill => self.kill(args)?,
            SessionOp::ClientPause => self.pause(args)?,
            SessionOp::ClientUnpause => {
                self.shared.clients.unpause();
                self.out.ok();
            }
            SessionOp::ClientReply => self.reply_mode(&args[0])?,
            SessionOp::ClientNoEvict => {
                let on = parse_yes_no(&args[0], "on", "off")?;
                self.client.update(|view| view.no_evict = on);
                self.out.ok();
            }
            SessionOp::ClientNoTouch => {
                let on = parse_yes_no(&args[0], "on", "off")?;
                self.client.update(|view| view.no_touch = on);
                self.out.ok();
            }
            SessionOp::ClientGetRedir => self.out.int(-1),
            SessionOp::ClientTrackingInfo => {
                self.out.map(3);
                self.out.bulk(b"flags");
                self.out.set(1);
                self.out.bulk(b"off");
                self.out.bulk(b"redirect");
                self.out.int(-1);
                self.out.bulk(b"prefixes");
                self.out.array(0);
            }
            SessionOp::ClientTracking if parse_yes_no(&args[0], "on", "off")? => {
                return Err(CmdError::fixed("ERR client-side caching is not offered by this server"));
            }
            SessionOp::ClientTracking => self.out.ok(),
            SessionOp::ClientCaching => {
                return Err(CmdError::fixed(
                    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT \
                     mode enabled",
                ));
            }
            SessionOp::ClientUnblock => {
                if args.get(1).is_some_and(|reason| !is(reason, "timeout") && !is(reason, "error")) {
                    return Err(CmdError::fixed("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"));
                }
                parse_id(&args[0]).map_err(|_| CmdError::NOT_INTEGER)?;
                // No command of this server blocks a client.
                self.out.int(0);
            }
            SessionOp::ClientHelp => self.client_help(),
            other => unreachable!("{other:?} is not a subcommand of CLIENT"),
        }
        Ok(())
    }

    pub(super) fn set_name(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        self.client.update(|view| view.name = name);
    }

    fn set_info(&mut self, attribute: &[u8], value: &[u8]) -> Result<(), CmdError> {
        let text = String::from_utf8_lossy(value).into_owned();
        let name = String::from_utf8_lossy(attribute).into_owned();
        let refusal = format!("{name} cannot contain spaces, newlines or special characters.");
        if is(attribute, "lib-name") {
            check_printable(value, &refusal)?;
            self.client.update(|view| view.lib_name = text);
        } else if is(attribute, "lib-ver") {
            check_printable(value, &refusal)?;
            self.client.update(|view| view.lib_ver = text);
        } else {
            return Err(CmdError::new(format!("ERR Unrecognized option '{name}'")));
        }
        self.out.ok();
        Ok(())
    }

    fn list(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        let filter = Filter::parse_list(args)?;
        let now = Instant::now();
        let mut text = String::new();
        for client in self.shared.clients.list() {
            if filter.matches(&client, self.client.id) {
                text.push_str(&client.line(now));
                text.push('\n');
            }
        }
        self.out.verbatim("txt", text.as_bytes());
        Ok(())
    }

    fn kill(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        let old_form = args.len() == 1;
        let filter = match args {
            [addr] => Filter { addr: Some(addr.clone()), ..Filter::default() },
            more => Filter::parse_kill(more)?,
        };
        let doomed: Vec<Arc<Client>> =
            self.shared.clients.list().into_iter().filter(|c| filter.matches(c, self.client.id)).collect();
        for client in &doomed {
            if client.id == self.client.id {
                // The reply still goes out.
                self.state.closing = true;
            } else {
                client.kill();
            }
        }
        match (old_form, doomed.is_empty()) {
            (true, true) => return Err(CmdError::fixed("ERR No such client")),
            (true, false) => self.out.ok(),
            (false, _) => self.out.int(doomed.len() as i64),
        }
        Ok(())
    }

    fn pause(&mut self, args: &[Bytes]) -> Result<(), CmdError> {
        let refusal = CmdError::fixed("ERR timeout is not an integer or out of range");
        let wait = parse_int(&args[0]).ok_or(refusal)?;
        let wait = u64::try_from(wait).map_err(|_| CmdError::fixed("ERR timeout is negative"))?;
        let kind = match args.get(1) {
            None => PauseKind::All,
            Some(word) if is(word, "all") => PauseKind::All,
            Some(word) if is(word, "write") => PauseKind::Write,
            Some(_) => return Err(CmdError::fixed("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        };
        // Far beyond anybody's patience, and safe to add to a clock.
        const LONGEST: u64 = 100 * 365 * 24 * 3600 * 1000;
        self.shared.clients.pause(kind, Duration::from_millis(wait.min(LONGEST)));
        self.out.ok();
        Ok(())
    }

    fn reply_mode(&mut self, word: &[u8]) -> Result<(), CmdError> {
        if is(word, "on") {
            self.state.reply = ReplyMode::On;
            self.out.ok();
        } else if is(word, "off") {
            self.state.reply = ReplyMode::Off;
        } else if is(word, "skip") {
            if self.state.reply != ReplyMode::Off {
                self.state.reply = ReplyMode::SkipNext;
            }
        } else {
            return Err(CmdError::SYNTAX);
        }
        Ok(())
    }

    /// Shows others, and ourselves, the state as it is in the middle of a batch.
    pub(super) fn publish_view(&mut self, running: &'static str) {
        let (state, unread) = (&self.state, self.unread[0] as u64);
        self.client.update(|view| {
            view.db = state.db;
            view.proto = state.proto;
            view.multi = state.multi.as_ref().map(|multi| multi.queued.len());
            view.watching = state.watches.len();
            view.read_only = state.read_only;
            view.input_bytes = unread;
            view.last_command = running;
            view.active = Instant::now();
        });
    }

    fn client_help(&mut self) {
        const LINES: &[&str] = &[
            "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "CACHING (YES|NO)",
            "    Track the keys of the next command, or do not.",
            "GETNAME",
            "    The name of this connection.",
            "GETREDIR",
            "    The connection that gets this one's tracking messages.",
            "ID",
            "    The id of this connection.",
            "INFO",
            "    This connection's line of CLIENT LIST.",
            "KILL <option> <value> ...",
            "    Close connections: ADDR, LADDR, TYPE, USER, ID, SKIPME, or one ip:port.",
            "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID id [id ...]]",
            "    A line per connection.",
            "NO-EVICT (ON|OFF)",
            "    Keep this connection when memory for clients runs short.",
            "NO-TOUCH (ON|OFF)",
            "    Do not count this connection's reads as use of the keys.",
            "PAUSE <milliseconds> [WRITE|ALL]",
            "    Hold commands back for so long.",
            "REPLY (ON|OFF|SKIP)",
            "    Whether this connection gets replies.",
            "SETINFO (LIB-NAME|LIB-VER) <value>",
            "    Say which client library this is.",
            "SETNAME <name>",
            "    Name this connection.",
            "TRACKING (ON|OFF)",
            "    Client-side caching.",
            "TRACKINGINFO",
            "    The state of client-side caching.",
            "UNBLOCK <id> [TIMEOUT|ERROR]",
            "    Wake a connection that waits in a blocking command.",
            "UNPAUSE",
            "    End a PAUSE.",
            "HELP",
            "    This text.",
        ];
        self.out.array(LINES.len());
        for line in LINES {
            self.out.simple(line);
        }
    }
}
