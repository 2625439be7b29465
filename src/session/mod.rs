//! One client connection, from its first byte to its last.
//!
//! A task per connection reads, parses all complete commands in its buffer, runs them in order, and writes their
//! replies with one flush per batch. Commands that stand together and are all reads, or all writes, go on as one unit:
//! one barrier, or one proposal. A read behind a write waits for it.
//!
//! A session never touches the keyspace or consensus by itself: it hands units to the [`Executor`]. It never holds
//! more output than one batch of replies: what is written must be taken by the client before the next batch runs.

mod account;
mod client;
mod found;
mod gate;
mod listener;
mod ops;
mod output;
pub mod registry;
mod runs;
mod state;
mod transaction;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use quorate_keyspace::args::Args;
use quorate_keyspace::entry::{UnitHead, UnitKind, encode_unit};
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::flag;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::config::{ReadMode, Settings};
use crate::env::Env;
use crate::executor::{ANSWER_BYTES, ExecError, Executor};
use crate::metrics::Metrics;
use crate::resp::{Command, Limits, Parser, skip_reply};
use crate::server::cx::{ShellCx, ShellHandler};
use found::{Class, Found, find};
pub use gate::LOADING;
use gate::is_of_http;
use registry::{Client, Clients};
use state::{ReplyMode, State};

pub use listener::{Listener, listen};

/// Commands run in one go at most, so that one client's pipeline can't hold the others up.
const BATCH_COMMANDS: usize = 1024;
/// Bytes of commands run in one go at most (one command may be larger).
const BATCH_BYTES: usize = 1 << 20;
/// Replies are sent when there are so many bytes of them, even in the middle of a batch.
const FLUSH_BYTES: usize = ANSWER_BYTES;
/// Reads run under one look at the lock at most.
const READ_COMMANDS: usize = 128;
/// Room made in the read buffer before each read.
const READ_BYTES: usize = 16 << 10;
/// An output buffer that has grown beyond this is given back after use.
const KEEP_OUTPUT_BYTES: usize = 64 << 10;

/// Makes the view of the process that a server command gets, for one connection.
pub trait ShellFactory: Send + Sync + 'static {
    /// For that connection.
    fn for_client(&self, client: Arc<Client>, db: u16) -> Box<dyn ShellCx>;
}

/// What all sessions of a member share.
pub struct Shared {
    /// What there is once the data is loaded.
    pub loaded: OnceLock<Loaded>,
    /// All connections.
    pub clients: Arc<Clients>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub env: Arc<dyn Env>,
    /// Settings.
    pub settings: Settings,
    /// What server commands see until the data is loaded.
    pub early: Arc<dyn ShellFactory>,
}

/// What sessions need to run commands on data.
pub struct Loaded {
    /// Runs keyspace commands.
    pub executor: Arc<Executor>,
    /// What server commands see.
    pub shell: Arc<dyn ShellFactory>,
}

/// Arguments as the keyspace takes them.
type Slices<'a> = SmallVec<[&'a [u8]; 8]>;

fn slices(command: &Command) -> Slices<'_> {
    command.iter().map(|arg| &arg[..]).collect()
}

struct Session<S> {
    shared: Arc<Shared>,
    stream: S,
    client: Arc<Client>,
    state: State,
    out: ReplyBuf,
    /// Bytes of requests that had come when the present batch was cut off them, and those behind the batch.
    unread: [usize; 2],
}

/// Serves one connection until either side closes it.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: Arc<Shared>,
    stream: S,
    client: Arc<Client>,
) {
    let authenticated = shared.settings.requirepass().is_none();
    let state = State::new(authenticated);
    let out = ReplyBuf::new(state.proto);
    let mut session = Session { shared, stream, client, state, out, unread: [0; 2] };
    // An error of the socket ends this connection and concerns nobody else.
    let _ = session.run().await;
    let _ = session.stream.shutdown().await;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    async fn run(&mut self) -> std::io::Result<()> {
        let mut input = BytesMut::with_capacity(READ_BYTES);
        let mut parser = Parser::default();
        let mut batch: Vec<Command> = Vec::new();
        loop {
            input.reserve(READ_BYTES);
            let idle = self.shared.settings.timeout();
            let read = tokio::select! {
                biased;
                // What is there already is taken without preparing to wait; a kill is seen behind the batch.
                read = read_some(&mut self.stream, &mut input, idle) => read?,
                () = self.client.killed() => return Ok(()),
            };
            if read == 0 {
                return Ok(());
            }
            self.shared.metrics.net_in.add(read as u64);
            loop {
                self.unread[0] = input.len();
                let broken = self.parse(&mut parser, &mut input, &mut batch);
                self.unread[1] = input.len();
                let none = batch.is_empty();
                self.run_batch(&batch).await?;
                batch.clear();
                if let Some(error) = broken
                    && !self.state.closing
                {
                    self.out.raw(&[b"-", &error[..], b"\r\n"].concat());
                    self.shared.metrics.error_reply(&error);
                    self.state.closing = true;
                }
                self.flush().await?;
                if self.state.closing || self.client.is_killed() {
                    return Ok(());
                }
                if none {
                    if self.over_query_limit(input.len()) {
                        return Ok(());
                    }
                    break;
                }
            }
        }
    }

    /// `client-query-buffer-limit`: whether a request that is not complete holds too much. All of it counts, and what
    /// waits for EXEC with it. (Redis 7.0 counts the argument under way, and keeps those before it without a limit.)
    /// A client that has not authenticated can't get so far: the parser refuses more than ten small arguments.
    fn over_query_limit(&self, unfinished: usize) -> bool {
        let queued = self.state.multi.as_ref().map_or(0, |multi| multi.bytes);
        let over = unfinished + queued > self.shared.settings.client_query_buffer_limit();
        if over {
            self.shared.metrics.query_limit_closed.inc();
            tracing::warn!(
                client = %self.client.addr,
                unfinished,
                queued,
                "closed: what it has sent without an end is over client-query-buffer-limit"
            );
        }
        over
    }

    /// Takes complete commands out of the input, up to the size of a batch. A protocol error comes back as its reply.
    fn parse(&mut self, parser: &mut Parser, input: &mut BytesMut, batch: &mut Vec<Command>) -> Option<Vec<u8>> {
        let mut bytes = 0;
        while batch.len() < BATCH_COMMANDS && bytes < BATCH_BYTES {
            let limits = Limits {
                max_bulk_bytes: self.shared.settings.proto_max_bulk_len(),
                max_args: Limits::MAX_ARGS,
                authenticated: self.state.authenticated,
            };
            match parser.next(input, &limits) {
                Ok(Some(command)) => {
                    bytes += command.wire_bytes();
                    // What follows may be parsed under other limits: an AUTH lifts them.
                    let last = !self.state.authenticated;
                    batch.push(command);
                    if last {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(error.reply()),
            }
        }
        None
    }

    async fn run_batch(&mut self, batch: &[Command]) -> std::io::Result<()> {
        if batch.is_empty() {
            self.client.update(|view| view.input_bytes = self.unread[1] as u64);
            return Ok(());
        }
        let found: SmallVec<[Result<Found, CmdError>; 16]> = batch.iter().map(|c| find(&slices(c))).collect();
        let mut at = 0;
        while at < batch.len() && !self.state.closing && !self.client.is_killed() {
            let class = found[at].as_ref().map(|found| found.class).unwrap_or(Class::Shell);
            let plain = self.shared.is_loaded()
                && self.state.authenticated
                && self.state.multi.is_none()
                && self.state.reply == ReplyMode::On;
            let mut end = at + 1;
            if plain && class != Class::Shell {
                end = self.run_end(batch, &found, at, class);
                self.keyspace_run(&batch[at..end], &found[at..end], class).await;
            } else {
                self.one(&batch[at], &found[at]).await;
            }
            at = end;
            if self.out.bytes().len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        let last = found.iter().rev().find_map(|found| found.as_ref().ok()).map(|found| found.entry.full_name.as_str());
        let (state, unread) = (&self.state, self.unread[1] as u64);
        self.client.update(|view| {
            view.db = state.db;
            view.proto = state.proto;
            view.multi = state.multi.as_ref().map(|multi| multi.queued.len());
            view.watching = state.watches.len();
            view.read_only = state.read_only;
            view.input_bytes = unread;
            view.active = Instant::now();
            if let Some(last) = last {
                view.last_command = last;
            }
        });
        Ok(())
    }

    /// A single command in any state of the connection.
    async fn one(&mut self, command: &Command, found: &Result<Found, CmdError>) {
        let mark = self.out.mark();
        let skipped = self.state.reply;
        self.one_in_any_state(command, found).await;
        // CLIENT REPLY OFF and SKIP swallow what the command said, CLIENT REPLY itself included.
        // What switches replies on is answered.
        if skipped != ReplyMode::On && self.state.reply != ReplyMode::On {
            self.out.truncate(mark);
        }
        self.state.reply = match (skipped, self.state.reply) {
            (ReplyMode::Skip, ReplyMode::Skip) => ReplyMode::On,
            (_, ReplyMode::SkipNext) => ReplyMode::Skip,
            (_, mode) => mode,
        };
    }

    async fn one_in_any_state(&mut self, command: &Command, found: &Result<Found, CmdError>) {
        let found = match found {
            Ok(found) => found,
            Err(_) if is_of_http(&command[0]) => return self.hang_up(),
            Err(error) => return self.refuse(command, error, None),
        };
        let flags = found.entry.flags;
        if !self.state.authenticated && flags & flag::NO_AUTH == 0 {
            return self.refuse(command, &CmdError::fixed("NOAUTH Authentication required."), Some(found));
        }
        if let Some(error) = self.unfit_while_loading(found) {
            return self.refuse(command, &error, Some(found));
        }
        if self.state.multi.is_some()
            && let Some(error) = self.unfit_for_multi(found)
        {
            return self.refuse(command, &error, Some(found));
        }
        if let Some(error) = self.exec_out_of_memory(found) {
            return self.refuse(command, &error, Some(found));
        }
        if !self.unpaused(self.may_change(found)).await {
            return;
        }
        if self.state.multi.is_some() && !found.runs_in_multi() {
            return self.queue(command, found);
        }
        match found.class {
            // MEMORY USAGE and WATCH name keys too.
            Class::Shell if self.sends_away(command, found) => {}
            Class::Shell => self.local(command, found).await,
            class => {
                let found = Ok(*found);
                self.keyspace_run(std::slice::from_ref(command), std::slice::from_ref(&found), class).await;
            }
        }
    }

    /// A run of commands of one class, all of the keyspace.
    async fn keyspace_run(&mut self, commands: &[Command], found: &[Result<Found, CmdError>], class: Class) {
        if self.must_redirect(class) && self.redirect(commands, found) {
            return;
        }
        if class == Class::Write && self.out_of_memory(commands, found) {
            return;
        }
        if !self.unpaused(class == Class::Write).await {
            return;
        }
        let began = Instant::now();
        let start = self.out.bytes().len();
        let db = self.state.db;
        let done = match class {
            Class::Write => {
                let head = UnitHead { kind: UnitKind::Batch, proto: self.state.proto, watches: &[] };
                let unit = encode_unit(head, commands.iter().map(|c| (db, c.args())));
                let replies = self.shared.executor().write(unit).await;
                replies.map(|replies| self.out.raw_pieces(replies))
            }
            _ => {
                self.reads_in_pieces(commands, found).await;
                Ok(())
            }
        };
        if let Err(error) = &done {
            for _ in commands {
                self.out.error(&error.to_string());
            }
        }
        self.account(commands, found, began, start);
    }

    /// Reads of one run, a bounded number of commands and bytes of replies at a time: a client must not make the
    /// member hold a pipeline's worth of large values. An error of the socket shows at the next flush.
    async fn reads_in_pieces(&mut self, commands: &[Command], found: &[Result<Found, CmdError>]) {
        let mut at = 0;
        while at < commands.len() {
            let end = commands.len().min(at + READ_COMMANDS);
            match self.reads(&commands[at..end], &found[at..end]).await {
                Ok(done) => at += done,
                Err(error) => {
                    for _ in at..end {
                        self.out.error(&error.to_string());
                    }
                    at = end;
                }
            }
            // Replies that CLIENT REPLY swallows must not slip out early.
            let heard = self.state.reply == ReplyMode::On;
            if heard && self.out.bytes().len() >= FLUSH_BYTES && self.flush().await.is_err() {
                self.state.closing = true;
                return;
            }
        }
    }

    /// Runs reads; answers how many of them are answered now, at least one.
    async fn reads(&mut self, commands: &[Command], found: &[Result<Found, CmdError>]) -> Result<usize, ExecError> {
        let mut done = commands.len();
        let db = self.state.db;
        let proto = self.state.proto;
        let mode = self.read_mode();
        let elsewhere = self
            .shared
            .executor()
            .read(
                mode,
                &mut self.out,
                |keyspace, moment, out| {
                    let begin = out.bytes().len();
                    for (nth, (command, found)) in commands.iter().zip(found).enumerate() {
                        let found = found.as_ref().expect("a run holds only commands that were found");
                        let seed = moment.seed.wrapping_add(nth as u64);
                        let args = slices(command);
                        keyspace.read_at(moment, seed, db, found.keyspace(), Args::new(&args, found.first_arg), out);
                        done = nth + 1;
                        if out.bytes().len() - begin >= FLUSH_BYTES {
                            break;
                        }
                    }
                },
                || {
                    let head = UnitHead { kind: UnitKind::Batch, proto, watches: &[] };
                    encode_unit(head, commands.iter().map(|c| (db, c.args())))
                },
            )
            .await?;
        Ok(elsewhere.map_or(done, |answered| commands.len().min(answered as usize).max(1)))
    }

    fn read_mode(&self) -> ReadMode {
        if self.state.read_only { ReadMode::Local } else { self.shared.settings.read_mode() }
    }

    /// A command of the shell's table.
    async fn local(&mut self, command: &Command, found: &Found) {
        let began = Instant::now();
        let start = self.out.bytes().len();
        let mark = self.out.mark();
        let done = match *found.shell() {
            ShellHandler::Session(op) => self.session_op(op, command, found).await,
            _ => self.server_command(command, found).await,
        };
        if let Err(error) = done {
            self.out.truncate(mark);
            self.out.fail(&error);
        }
        let found = Ok(*found);
        let start = start.min(self.out.bytes().len());
        self.account(std::slice::from_ref(command), std::slice::from_ref(&found), began, start);
    }

    async fn server_command(&mut self, command: &Command, found: &Found) -> Result<(), CmdError> {
        use crate::server::cx::Place;
        let place = match found.shell() {
            ShellHandler::Now(place, _) | ShellHandler::Later(place, _) => *place,
            _ => Place::Here,
        };
        if place == Place::Leader && self.shared.is_loaded() && self.read_mode() != ReadMode::Local {
            let (proto, db) = (self.state.proto, self.state.db);
            match self.shared.executor().shell_on_leader(proto, db, command.args()).await {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    self.out.raw(&reply);
                    return Ok(());
                }
                Err(error) => return Err(CmdError::new(error.to_string())),
            }
        }
        let cx = self.shared.shell().for_client(self.client.clone(), self.state.db);
        run_shell(&*cx, found, &slices(command), &mut self.out).await
    }
}

/// Cuts a run of replies into single ones.
fn split_replies(mut replies: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = skip_reply(replies)?;
        let (reply, rest) = replies.split_at(end);
        replies = rest;
        Some(reply)
    })
}

/// Runs a whole line that calls a command of the shell's table, as another member forwards it.
pub(crate) async fn run_line(cx: &dyn ShellCx, args: &[&[u8]], out: &mut ReplyBuf) {
    let mark = out.mark();
    let done = match find(args) {
        Ok(found) if found.class == Class::Shell => run_shell(cx, &found, args, out).await,
        Ok(_) => Err(CmdError::SYNTAX),
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        out.truncate(mark);
        out.fail(&error);
    }
}

/// Runs a command of the shell's table that is not the session's own.
pub(crate) async fn run_shell(
    cx: &dyn ShellCx,
    found: &Found,
    args: &[&[u8]],
    out: &mut ReplyBuf,
) -> Result<(), CmdError> {
    match found.shell() {
        ShellHandler::Now(_, run) => run(cx, &mut quorate_keyspace::args::Args::new(args, found.first_arg), out),
        ShellHandler::Later(_, run) => run(cx, args, out).await,
        ShellHandler::Session(_) | ShellHandler::Container => Err(CmdError::SYNTAX),
    }
}

/// Reads what there is; a client that is silent for too long ends like one that closed.
async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    idle: Option<Duration>,
) -> std::io::Result<usize> {
    match idle {
        None => stream.read_buf(input).await,
        Some(idle) => match tokio::time::timeout(idle, stream.read_buf(input)).await {
            Ok(read) => read,
            Err(_) => Ok(0),
        },
    }
}

impl Shared {
    fn is_loaded(&self) -> bool {
        self.loaded.get().is_some()
    }

    /// Panics while the data is loaded: no command that needs it gets so far.
    fn executor(&self) -> &Arc<Executor> {
        &self.loaded.get().expect("only what may run while data is loaded runs then").executor
    }

    fn shell(&self) -> &dyn ShellFactory {
        self.loaded.get().map_or(&*self.early, |loaded| &*loaded.shell)
    }

    /// Connections that may still be taken in.
    fn has_room(&self) -> bool {
        (self.clients.count() as u64) < self.settings.maxclients()
    }

    fn count_rejected(&self) {
        self.clients.rejected.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections_rejected.inc();
    }
}
