//! Runs what sessions hand in: here if this member leads, through the leader if it does not.
//!
//! The rules that everything above relies on:
//! * A write is handed to consensus once. It is tried again only while it certainly was not appended; when that is
//!   not certain the answer is `-UNKNOWN`, never a retry.
//! * A read may be tried again as often as time allows: it changes nothing.
//! * A request that came from another member is run here or refused, never passed on ([`wire`]).
//! * A lease is checked after the reads ran and before their replies leave, so that one check covers a pause anywhere
//!   in between.

mod portable;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_keyspace::reply::{Proto, ReplyBuf};
use quorate_keyspace::{Keyspace, Moment, encode_expire_unit};
use quorate_raft::{BoxFuture, CallError, Group, MemberId, Node, Pieces, ProposeError, ReadError, Service};
use tokio::time::{Instant, sleep, timeout};

use crate::config::ReadMode;
use crate::engine::Engine;
use crate::metrics::Metrics;
pub use portable::Portable;
use wire::{Request, Response};

/// Reads that stand together are answered up to this many bytes at a time, and one reply beyond; then it is looked
/// whether whoever asks has taken them.
pub const ANSWER_BYTES: usize = 256 << 10;
/// A leader that has handed over still tells what became of the writes that it was given: so long after another one is
/// known to lead. One that hangs never does.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long to wait before looking again for a leader that nobody knows yet.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Redis' word for a server whose disk keeps it from writing; no client tries again by itself when it reads it.
const NO_ROOM: &str = "MISCONF The leader's disk has no room for the log: nothing was done. Reads go on; writes do again \
                       when there is room";
/// Keys that one entry removes at most because they are past due.
const EXPIRE_KEYS: usize = 1000;

/// Why there is no reply. The text is an error line, complete but for the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// Certainly not done.
    #[error("{0}")]
    NotDone(String),
    /// Perhaps done, perhaps not, perhaps later.
    #[error("{0}")]
    Unknown(String),
}

impl ExecError {
    fn unknown(why: &str) -> Self {
        Self::Unknown(format!("UNKNOWN The outcome is unknown: the write may have been done or may still be: {why}"))
    }

    fn removed() -> Self {
        Self::NotDone("CLUSTERDOWN This member was removed from its group; connect to another one".into())
    }

    /// Who leads is what is known at the end.
    fn too_late(leader: Option<MemberId>, me: MemberId) -> Self {
        let why = match leader {
            None => "No leader was found in time".to_owned(),
            Some(id) if id == me => "No majority confirmed in time that this member leads".to_owned(),
            Some(id) => format!("Member {id} leads, and did not answer in time"),
        };
        Self::NotDone(format!("CLUSTERDOWN {why}; nothing was done"))
    }
}

/// Runs a forwarded server command on the leader ([`Request::Shell`]). The assembly provides it.
pub trait ShellRunner: Send + Sync + 'static {
    /// Runs the command and answers its reply.
    fn run(&self, proto: Proto, db: u16, args: Vec<Bytes>) -> BoxFuture<Bytes>;
}

/// Where commands meet consensus. One per group.
pub struct Executor {
    node: Node,
    group: Group,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    shell: parking_lot::RwLock<Option<Arc<dyn ShellRunner>>>,
    write_timeout_ms: AtomicU64,
}

/// What an attempt came to.
enum Attempt<T> {
    Done(Result<T, ExecError>),
    /// Try again in a moment.
    Again,
    /// Try again: what was in the way is gone.
    AtOnce,
}

impl<T> Attempt<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Attempt::Done(done) => Attempt::Done(done.map(change)),
            Attempt::Again => Attempt::Again,
            Attempt::AtOnce => Attempt::AtOnce,
        }
    }
}

/// What another member has answered.
struct Answered {
    /// Of a unit of reads, so many commands are.
    commands: u32,
    replies: Pieces,
}

impl Answered {
    fn joined(mut self) -> Bytes {
        if self.replies.len() == 1 { self.replies.swap_remove(0) } else { self.replies.concat().into() }
    }
}

/// How long it is until then. (The simulator's tokio knows no time-out at a moment.)
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Executor {
    /// Over that group and its engine; answers other members from now on.
    pub fn new(
        node: Node,
        group: Group,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        write_timeout: Duration,
    ) -> Arc<Self> {
        let executor = Arc::new(Self {
            node,
            group,
            engine,
            metrics,
            shell: parking_lot::RwLock::new(None),
            write_timeout_ms: AtomicU64::new(write_timeout.as_millis() as u64),
        });
        executor.node.serve(wire::SERVICE, Arc::new(ForPeers(Arc::downgrade(&executor))));
        executor
    }

    /// Who runs forwarded server commands.
    pub fn set_shell(&self, shell: Arc<dyn ShellRunner>) {
        *self.shell.write() = Some(shell);
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Sets `write-timeout`.
    pub fn set_write_timeout(&self, timeout: Duration) {
        self.write_timeout_ms.store(timeout.as_millis() as u64, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.write_timeout_ms.load(Ordering::Relaxed))
    }

    /// Has a unit applied; returns the replies of its commands.
    pub async fn write(&self, unit: Bytes) -> Result<Pieces, ExecError> {
        let began = Instant::now();
        let deadline = self.begin()?;
        loop {
            let attempt = match self.leader_elsewhere() {
                None => self.write_here(unit.clone(), deadline).await.map(|replies| vec![replies]),
                Some(leader) => {
                    let request = Request::Write(unit.clone());
                    self.ask(leader, &request, left(deadline), true).await.map(|answer| answer.replies)
                }
            };
            if matches!(attempt, Attempt::Done(_)) {
                self.metrics.propose.record(began.elapsed().as_nanos() as u64);
            }
            if let Some(result) = self.end_of(attempt, deadline).await {
                return result;
            }
        }
    }

    /// Runs reads: `run` gets the keyspace, the time and a random seed, and writes the replies. It is run again if the
    /// first result can't be trusted. `remote` makes the unit that asks the leader for the same; where that was done, the
    /// answer is how many of its commands are answered, the first at least.
    pub async fn read(
        &self,
        mode: ReadMode,
        out: &mut ReplyBuf,
        mut run: impl FnMut(&Keyspace, &Moment, &mut ReplyBuf),
        remote: impl Fn() -> Bytes,
    ) -> Result<Option<u32>, ExecError> {
        self.check_membership()?;
        let mark = out.mark();
        if mode == ReadMode::Local && !self.group.caught_up().await {
            return Err(ExecError::NotDone("CLUSTERDOWN This member is not in the group yet; ask another one".into()));
        }
        if mode == ReadMode::Local || (mode == ReadMode::Lease && self.group.is_leader()) {
            let moment = self.run_here(out, &mut run);
            if mode == ReadMode::Local || self.group.lease_ready() && moment.hidden() == 0 {
                self.count(&moment);
                return Ok(None);
            }
            out.truncate(mark);
        }
        let began = Instant::now();
        let deadline = self.deadline();
        loop {
            let attempt = match self.leader_elsewhere() {
                None => {
                    let look = || {
                        self.metrics.barrier.record(began.elapsed().as_nanos() as u64);
                        out.truncate(mark);
                        ((), self.run_here(out, &mut run))
                    };
                    let attempt = self.fresh(deadline, look).await;
                    if !matches!(attempt, Attempt::Done(Ok(()))) {
                        out.truncate(mark);
                    }
                    attempt.map(|()| None)
                }
                Some(leader) => {
                    let request = Request::Read { unit: remote(), quorum: mode == ReadMode::Quorum };
                    self.ask(leader, &request, left(deadline), false).await.map(Some)
                }
            };
            if let Some(result) = self.end_of(attempt, deadline).await {
                let Some(answer) = result? else { return Ok(None) };
                out.raw_pieces(answer.replies);
                return Ok(Some(answer.commands));
            }
        }
    }

    /// The revisions of keys, as WATCH remembers them; 0 for a key that is not there.
    pub async fn revisions(&self, keys: &[(u16, Bytes)]) -> Result<Vec<u64>, ExecError> {
        let deadline = self.begin()?;
        loop {
            let attempt = match self.leader_elsewhere() {
                None => self.revisions_here(keys, deadline).await,
                Some(leader) => {
                    let request = Request::Revisions(keys.to_vec());
                    self.ask(leader, &request, left(deadline), false).await.map(Answered::joined)
                }
            };
            if let Some(result) = self.end_of(attempt, deadline).await {
                let bytes = result?;
                return Ok(bytes.chunks_exact(8).map(|b| u64::from_be_bytes(b.try_into().expect("8 bytes"))).collect());
            }
        }
    }

    /// Has the leader run a server command whose answer depends on the newest keys. `None`: this member leads, with a
    /// barrier taken, and the caller is to run it here.
    pub async fn shell_on_leader(&self, proto: Proto, db: u16, args: &[Bytes]) -> Result<Option<Bytes>, ExecError> {
        let deadline = self.begin()?;
        loop {
            let attempt = match self.leader_elsewhere() {
                None => self.barrier(deadline).await.unwrap_or(Attempt::Done(Ok(None))),
                Some(leader) => {
                    let request = Request::Shell { proto, db, args: args.to_vec() };
                    self.ask(leader, &request, left(deadline), false).await.map(|answer| Some(answer.joined()))
                }
            };
            if let Some(result) = self.end_of(attempt, deadline).await {
                return result;
            }
        }
    }

    /// Until when attempts are made at something.
    fn begin(&self) -> Result<Instant, ExecError> {
        self.check_membership()?;
        Ok(self.deadline())
    }

    /// What an attempt has come to; `None`, maybe after a pause, if another one is to be made.
    async fn end_of<T>(&self, attempt: Attempt<T>, deadline: Instant) -> Option<Result<T, ExecError>> {
        match attempt {
            Attempt::Done(result) => Some(result),
            Attempt::Again => self.pause_before_retry(deadline).await.err().map(Err),
            Attempt::AtOnce => None,
        }
    }

    /// The member to ask, if another one is known to lead.
    fn leader_elsewhere(&self) -> Option<MemberId> {
        if self.group.is_leader() {
            return None;
        }
        self.group.leader().map(|(id, _)| id).filter(|id| *id != self.group.member_id())
    }

    /// A member that was removed hears nothing any more: its clients must not wait for ever, or read what is old.
    fn check_membership(&self) -> Result<(), ExecError> {
        if self.group.is_removed() { Err(ExecError::removed()) } else { Ok(()) }
    }

    async fn pause_before_retry(&self, deadline: Instant) -> Result<(), ExecError> {
        self.check_membership()?;
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Err(ExecError::too_late(self.group.leader().map(|(id, _)| id), self.group.member_id()));
        }
        sleep(LOOK_AGAIN).await;
        Ok(())
    }

    fn run_here(&self, out: &mut ReplyBuf, run: &mut impl FnMut(&Keyspace, &Moment, &mut ReplyBuf)) -> Moment {
        let moment = self.engine.moment();
        self.engine.with(|keyspace| run(keyspace, &moment, out));
        moment
    }

    fn count(&self, moment: &Moment) {
        if moment.hits() > 0 {
            self.metrics.hits.add(moment.hits());
        }
        if moment.misses() > 0 {
            self.metrics.misses.add(moment.misses());
        }
    }

    /// Has the keys that are past due by now removed by an entry of the log.
    ///
    /// A read that found such a key must not answer that it is gone before this is done: if leadership moved to a
    /// member whose clock is behind, the key would be seen again.
    async fn remove_past_due<T>(&self, deadline: Instant) -> Attempt<T> {
        let due = self.engine.with(|keyspace| keyspace.due(self.engine.now_ms(), EXPIRE_KEYS));
        if due.is_empty() {
            return Attempt::AtOnce;
        }
        let unit = encode_expire_unit(due.iter().map(|(db, key)| (*db, &key[..])));
        match propose(self.group.propose_upkeep(unit), deadline).await {
            Attempt::Done(Ok(_)) => Attempt::AtOnce,
            // Whatever became of it, the read has not happened: it may look again.
            Attempt::Done(Err(ExecError::Unknown(_))) | Attempt::Again | Attempt::AtOnce => Attempt::Again,
            Attempt::Done(Err(error)) => Attempt::Done(Err(error)),
        }
    }

    /// Proposes the removal of keys past due, a batch at a time, until there are none (active expiry). The leader's
    /// work; what could not be removed stays hidden and is proposed again.
    pub async fn expire(&self) {
        loop {
            let due = self.engine.with(|keyspace| keyspace.due(self.engine.now_ms(), EXPIRE_KEYS));
            if due.is_empty() {
                return;
            }
            let unit = encode_expire_unit(due.iter().map(|(db, key)| (*db, &key[..])));
            let removed = propose(self.group.propose_upkeep(unit), self.deadline()).await;
            if !matches!(removed, Attempt::Done(Ok(_))) || due.len() < EXPIRE_KEYS {
                return;
            }
        }
    }

    async fn revisions_here(&self, keys: &[(u16, Bytes)], deadline: Instant) -> Attempt<Bytes> {
        if let Some(nothing) = self.barrier(deadline).await {
            return nothing;
        }
        let mut out = BytesMut::with_capacity(8 * keys.len());
        self.engine.with(|keyspace| {
            let now = self.engine.now_ms();
            for (db, key) in keys {
                out.put_u64(keyspace.revision(now, *db, key));
            }
        });
        Attempt::Done(Ok(out.freeze()))
    }

    /// What an attempt comes to that needs this barrier and does not get it; `None` when it is there.
    async fn barrier<T>(&self, deadline: Instant) -> Option<Attempt<T>> {
        match timeout(left(deadline), self.group.read_index()).await {
            Ok(Ok(())) => None,
            Ok(Err(ReadError::NotLeader { .. } | ReadError::NoQuorum)) | Err(_) => Some(Attempt::Again),
            Ok(Err(ReadError::Stopped)) => Some(Attempt::Done(Err(stopped()))),
        }
    }

    /// What `look` finds behind a barrier, when all that it found past due is gone.
    async fn fresh<T>(&self, deadline: Instant, mut look: impl FnMut() -> (T, Moment)) -> Attempt<T> {
        loop {
            if let Some(nothing) = self.barrier(deadline).await {
                return nothing;
            }
            let (found, moment) = look();
            if moment.hidden() == 0 {
                self.count(&moment);
                return Attempt::Done(Ok(found));
            }
            match self.remove_past_due(deadline).await {
                Attempt::AtOnce => {}
                nothing => return nothing,
            }
        }
    }

    async fn write_here(&self, unit: Bytes, deadline: Instant) -> Attempt<Bytes> {
        propose(self.group.propose(unit), deadline).await
    }

    /// Asks another member, until another one than that leads. A lost answer is final for a write and nothing for a read.
    async fn ask(&self, leader: MemberId, request: &Request, patience: Duration, write: bool) -> Attempt<Answered> {
        let (request, limit) = (request.encode(), self.node.largest_call());
        if request.len() > limit {
            return Attempt::Done(Err(ExecError::NotDone(format!(
                "ERR the command is too large to be passed to the leader: {} bytes, the limit is {limit}",
                request.len()
            ))));
        }
        self.metrics.proxied.inc();
        let over = async {
            self.group.led_by_another(leader).await;
            if write {
                sleep(LAST_WORDS).await;
            }
            format!("another member leads now, and member {leader} did not answer")
        };
        match self.node.call_unless(leader, wire::SERVICE, request, patience, over).await {
            Ok(answer) => match Response::decode(answer) {
                Ok(Response::Done { answered, replies }) => Attempt::Done(Ok(Answered { commands: answered, replies })),
                Ok(Response::NotLeader) => Attempt::Again,
                Ok(Response::Refused(line)) => Attempt::Done(Err(ExecError::NotDone(line))),
                Ok(Response::Unknown(line)) => Attempt::Done(Err(ExecError::Unknown(line))),
                Err(malformed) if write => Attempt::Done(Err(ExecError::unknown(&malformed.to_string()))),
                Err(_) => Attempt::Again,
            },
            Err(CallError::NotSent(_)) => Attempt::Again,
            Err(CallError::Unknown(why)) if write => Attempt::Done(Err(ExecError::unknown(&why))),
            Err(CallError::Unknown(_)) => Attempt::Again,
        }
    }

    /// Answers another member. One attempt: whoever asked decides about the next.
    async fn answer(&self, request: Request) -> Response {
        if !self.group.is_leader() {
            return Response::NotLeader;
        }
        let deadline = self.deadline();
        match request {
            Request::Write(unit) => from_attempt(self.write_here(unit, deadline).await),
            Request::Read { unit, quorum } => {
                let mode = if quorum { ReadMode::Quorum } else { ReadMode::Lease };
                self.answer_read(mode, &unit, deadline).await
            }
            Request::Revisions(keys) => from_attempt(self.revisions_here(&keys, deadline).await),
            Request::Portables { db, keys } => from_attempt(self.portables_here(db, &keys, deadline).await),
            Request::Shell { proto, db, args } => {
                if let Some(nothing) = self.barrier(deadline).await {
                    return from_attempt(nothing);
                }
                let shell = self.shell.read().clone();
                match shell {
                    Some(shell) => Response::done(shell.run(proto, db, args).await),
                    None => Response::NotLeader,
                }
            }
        }
    }

    async fn answer_read(&self, mode: ReadMode, unit: &[u8], deadline: Instant) -> Response {
        let look = || {
            let moment = self.engine.moment();
            let replies = self.engine.with(|keyspace| keyspace.read_unit(&moment, unit, ANSWER_BYTES));
            (replies, moment)
        };
        if mode == ReadMode::Lease {
            let (replies, moment) = look();
            if self.group.lease_ready() && moment.hidden() == 0 {
                self.count(&moment);
                return done_or_refused(replies);
            }
        }
        match self.fresh(deadline, look).await {
            Attempt::Done(Ok(replies)) => done_or_refused(replies),
            nothing => from_attempt(nothing.map(|_| Bytes::new())),
        }
    }
}

/// Waits for a proposal, and says what its outcome means to a client.
async fn propose(proposal: impl Future<Output = Result<Bytes, ProposeError>>, deadline: Instant) -> Attempt<Bytes> {
    let Ok(proposed) = timeout(left(deadline), proposal).await else {
        return Attempt::Done(Err(ExecError::unknown("no majority confirmed it in time")));
    };
    match proposed {
        Ok(replies) => Attempt::Done(Ok(replies)),
        Err(ProposeError::NotLeader { .. }) => Attempt::Again,
        Err(ProposeError::Unknown(why)) => Attempt::Done(Err(ExecError::unknown(why))),
        Err(ProposeError::Overloaded) => {
            Attempt::Done(Err(ExecError::NotDone("BUSY Too many writes are waiting; nothing was done".into())))
        }
        Err(ProposeError::NoRoom) => Attempt::Done(Err(ExecError::NotDone(NO_ROOM.into()))),
        Err(ProposeError::TooLarge { bytes, limit }) => Attempt::Done(Err(ExecError::NotDone(format!(
            "ERR the command is too large to replicate: {bytes} bytes, the limit is {limit}"
        )))),
        Err(ProposeError::Stopped) => Attempt::Done(Err(stopped())),
    }
}

fn stopped() -> ExecError {
    ExecError::NotDone("CLUSTERDOWN This member is stopping; nothing was done".into())
}

fn done_or_refused(replies: Result<(u32, Bytes), quorate_keyspace::error::Corrupt>) -> Response {
    match replies {
        Ok((answered, replies)) => Response::Done { answered, replies: vec![replies] },
        Err(corrupt) => Response::Refused(format!("ERR a malformed request from another member: {corrupt}")),
    }
}

fn from_attempt(attempt: Attempt<Bytes>) -> Response {
    match attempt {
        Attempt::Done(Ok(replies)) => Response::done(replies),
        Attempt::Done(Err(ExecError::NotDone(line))) => Response::Refused(line),
        Attempt::Done(Err(ExecError::Unknown(line))) => Response::Unknown(line),
        Attempt::Again | Attempt::AtOnce => Response::NotLeader,
    }
}

/// The executor as a service between members.
struct ForPeers(std::sync::Weak<Executor>);

impl Service for ForPeers {
    fn call(&self, _from: MemberId, body: Bytes) -> BoxFuture<Pieces> {
        let executor = self.0.upgrade();
        Box::pin(async move {
            let response = match (executor, Request::decode(body)) {
                (Some(executor), Ok(request)) => executor.answer(request).await,
                (_, Err(malformed)) => Response::Refused(format!("ERR {malformed}")),
                (None, _) => Response::NotLeader,
            };
            response.encode()
        })
    }
}
