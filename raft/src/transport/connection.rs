//! One connection between two members, whoever dialled it.
//!
//! Both ask on it and both answer: what kind a frame is of tells which, and each numbers its own requests. A request that
//! is still in a queue when the connection breaks was certainly not sent; the others are told that nobody knows.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::frame::{self, Frame, FrameReader, Kind};
use super::handshake::{Party, Refusal};
use super::inbound::Session;
use super::lanes::{Lane, Lanes, Outgoing, Queues};
use super::peer::Peer;
use super::{Shared, words_of};
use crate::api::Pieces;
use crate::runtime::Instant;

/// Nothing heard for so long: ask whether there is somebody.
const PING_EVERY: Duration = Duration::from_millis(500);
/// Nothing heard for so long although something was asked: the connection is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a peer that is no member any more may take for its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// How long what is queued for it may take then.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes that may wait in the queues, in units of 1 KiB.
const BUDGET_KIB: usize = 128 << 10;
/// Frames that are read before what waits to be written gets its turn.
const TURN: usize = 64;
/// How long the next part of an answer may take, once the first is here.
const PART_PATIENCE: Duration = Duration::from_secs(10);
const PARTED: &str = "it is no member any more";

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// It never left this node.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("{0}")]
    Broken(String),
    /// The other side answered that it could not, before it did anything.
    #[error("{1}")]
    Failed(u8, String),
}

impl Lost {
    fn closed() -> Self {
        Lost::NotSent("the connection is closed".into())
    }
}

pub(super) type Answer = Result<Bytes, Lost>;

/// Of the answer to a call; whether it is the last.
type Part = Result<(Bytes, bool), Lost>;

enum Waiting {
    Once(oneshot::Sender<Answer>, Arc<AtomicBool>),
    Parts(mpsc::UnboundedSender<Part>, Arc<AtomicBool>),
    Many(mpsc::UnboundedSender<Answer>),
}

/// A connection.
pub(crate) struct Connection {
    /// Who is at the other end.
    pub(super) party: Party,
    pub(super) dialled_here: bool,
    pub(super) since: Instant,
    lanes: Lanes,
    budget: Arc<Semaphore>,
    waiting: Mutex<Option<BTreeMap<u64, Waiting>>>,
    next_request: AtomicU64,
    heard_at: AtomicU64,
    /// Nothing can be asked on it any more.
    closed: AtomicBool,
    close: Notify,
    /// The other side is no member any more: nothing that it asks is answered.
    leaving: AtomicBool,
    leave: Notify,
}

impl Connection {
    pub(super) fn new(party: Party, dialled_here: bool) -> (Arc<Self>, Queues) {
        let (lanes, queues) = Lanes::new();
        let connection = Self {
            party,
            dialled_here,
            since: Instant::now(),
            lanes,
            budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            waiting: Mutex::new(Some(BTreeMap::new())),
            next_request: AtomicU64::new(1),
            heard_at: AtomicU64::new(Instant::now().as_nanos()),
            closed: AtomicBool::new(false),
            close: Notify::new(),
            leaving: AtomicBool::new(false),
            leave: Notify::new(),
        };
        (Arc::new(connection), queues)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(SeqCst)
    }

    /// Takes no more requests of this side, and tells everybody who waits.
    fn fail(&self, why: &str) {
        self.closed.store(true, SeqCst);
        let waiting = self.waiting.lock().take();
        // The writer may be about to take it: whoever sets this first decides what became of it.
        let lost = |taken: &AtomicBool| match taken.swap(true, SeqCst) {
            false => Lost::NotSent(why.to_owned()),
            true => Lost::Broken(why.to_owned()),
        };
        for (_, one) in waiting.into_iter().flatten() {
            match one {
                Waiting::Once(tx, taken) => drop(tx.send(Err(lost(&taken)))),
                Waiting::Parts(tx, taken) => drop(tx.send(Err(lost(&taken)))),
                Waiting::Many(tx) => drop(tx.send(Err(Lost::Broken(why.to_owned())))),
            }
        }
    }

    /// Closes it, at once.
    pub(super) fn break_off(&self, why: &str) {
        self.fail(why);
        self.close.notify_one();
    }

    /// Says why the other side is no member any more, and closes when what was asked of it has its answer, or after a
    /// while: a leader that was asked to remove itself still has to say that it did.
    pub(super) fn part(&self, refusal: Refusal, words: &str) {
        self.leaving.store(true, SeqCst);
        let goodbye = frame::encode_failure(Kind::Goodbye, 0, 0, refusal as u8, words);
        self.lanes.push(Lane::Bulk, Outgoing::plain(goodbye));
        self.leave.notify_one();
    }

    async fn parted(&self, shared: &Shared) {
        self.leave.notified().await;
        let deadline = Instant::now() + LAST_ANSWERS;
        while Instant::now() < deadline && self.is_asked() && !shared.is_stopped() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.lanes.end();
        tokio::time::sleep(LAST_WORDS).await;
    }

    async fn budget(&self, lane: Lane, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Lost> {
        if lane == Lane::Urgent {
            return Ok(None);
        }
        let kib = (bytes / 1024 + 1).min(BUDGET_KIB) as u32;
        let permit = self.budget.clone().acquire_many_owned(kib).await;
        permit.map(Some).map_err(|_| Lost::closed())
    }

    fn push(&self, lane: Lane, outgoing: Outgoing) -> Result<(), Lost> {
        if self.lanes.push(lane, outgoing) { Ok(()) } else { Err(Lost::closed()) }
    }

    fn wait_for(&self, request: u64, waiting: Waiting) -> Result<(), Lost> {
        match self.waiting.lock().as_mut() {
            Some(all) => {
                all.insert(request, waiting);
                Ok(())
            }
            None => Err(Lost::closed()),
        }
    }

    fn forget(&self, request: u64) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&request);
        }
    }

    /// Asks once and waits for the answer.
    pub(super) async fn ask(
        &self,
        lane: Lane,
        kind: Kind,
        group: u64,
        deadline: Instant,
        body: impl FnOnce(&mut BytesMut),
    ) -> Answer {
        let request = self.next_request.fetch_add(1, Relaxed);
        let frame = frame::encode(kind, group, request, body);
        let left = || (deadline - Instant::now()).max(Duration::from_millis(1));
        let permit = tokio::time::timeout(left(), self.budget(lane, frame.len()))
            .await
            .map_err(|_| Lost::NotSent("the queue to it is full".into()))??;
        let (tx, rx) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        self.wait_for(request, Waiting::Once(tx, taken.clone()))?;
        let guard = Forget { connection: self, request };
        self.push(lane, Outgoing { frame, taken: Some(taken.clone()), permit })?;
        let answer = tokio::time::timeout(left(), rx).await;
        drop(guard);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Lost::Broken("the connection is closed".into())),
            // In the queue still? Whoever takes it now would send what nobody wants; forbid it.
            Err(_) if !taken.swap(true, SeqCst) => Err(Lost::NotSent("it did not leave this node in time".into())),
            Err(_) => Err(Lost::Broken("no answer in time".into())),
        }
    }

    /// Calls and waits for the whole answer. Until its first part is here it is given up when `over` says why.
    pub(super) async fn call(
        &self,
        deadline: Instant,
        over: impl Future<Output = String>,
        body: impl FnOnce(&mut BytesMut),
    ) -> Result<Pieces, Lost> {
        let request = self.next_request.fetch_add(1, Relaxed);
        let frame = frame::encode(Kind::Call, 0, request, body);
        let left = || (deadline - Instant::now()).max(Duration::from_millis(1));
        let mut over = std::pin::pin!(over);
        let permit = tokio::select! {
            biased;
            permit = tokio::time::timeout(left(), self.budget(Lane::Bulk, frame.len())) => {
                permit.map_err(|_| Lost::NotSent("the queue to it is full".into()))??
            }
            why = &mut over => return Err(Lost::NotSent(why)),
        };
        let (tx, mut parts) = mpsc::unbounded_channel();
        let taken = Arc::new(AtomicBool::new(false));
        self.wait_for(request, Waiting::Parts(tx, taken.clone()))?;
        let _guard = Forget { connection: self, request };
        self.push(Lane::Bulk, Outgoing { frame, taken: Some(taken.clone()), permit })?;
        let first = tokio::select! {
            biased;
            part = tokio::time::timeout(left(), parts.recv()) => part.map_err(|_| "no answer in time".to_owned()),
            why = &mut over => Err(why),
        };
        let mut part = match first {
            Ok(part) => part,
            // In the queue still? Whoever takes it now would send what nobody wants; forbid it.
            Err(why) if !taken.swap(true, SeqCst) => return Err(Lost::NotSent(why)),
            Err(why) => return Err(Lost::Broken(why)),
        };
        let mut pieces = Pieces::new();
        loop {
            let (piece, last) = part.unwrap_or_else(|| Err(Lost::Broken("the connection is closed".into())))?;
            pieces.push(piece);
            if last {
                return Ok(pieces);
            }
            let next = tokio::time::timeout(PART_PATIENCE, parts.recv()).await;
            part = next.map_err(|_| Lost::Broken("only a part of the answer came in time".into()))?;
        }
    }

    /// Opens an exchange of many frames.
    pub(super) fn open(self: Arc<Self>, group: u64) -> Result<Exchange, Lost> {
        let request = self.next_request.fetch_add(1, Relaxed);
        let (tx, answers) = mpsc::unbounded_channel();
        self.wait_for(request, Waiting::Many(tx))?;
        Ok(Exchange { connection: self, group, request, answers, end: None })
    }

    /// Hands an answer to whoever waits for it. If nobody does any more, its asker gave up.
    fn answered(&self, frame: Frame) {
        let last = frame.kind != Kind::Part;
        let answer = if frame.kind == Kind::Failure {
            let (code, words) = words_of(&frame.body);
            Err(Lost::Failed(code, words))
        } else {
            Ok(frame.body)
        };
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.as_mut() else { return };
        match waiting.get(&frame.request) {
            Some(Waiting::Many(tx)) => {
                let _ = tx.send(answer);
            }
            Some(Waiting::Parts(tx, _)) => {
                let _ = tx.send(answer.map(|piece| (piece, last)));
                if last {
                    waiting.remove(&frame.request);
                }
            }
            Some(Waiting::Once(..)) => {
                if let Some(Waiting::Once(tx, _)) = waiting.remove(&frame.request) {
                    let _ = tx.send(if last { answer } else { Err(Lost::Broken("it answered at length".into())) });
                }
            }
            None => {}
        }
    }

    /// Whether somebody waits for an answer to a single question.
    pub(super) fn is_asked(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.as_ref().is_some_and(|w| w.values().any(|one| !matches!(one, Waiting::Many(_))))
    }

    fn quiet_for(&self) -> Duration {
        Duration::from_nanos(Instant::now().as_nanos().saturating_sub(self.heard_at.load(Relaxed)))
    }

    /// Returns when the other side is dead. What goes only one way is found out by the side that hears nothing.
    async fn watch(&self) {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            let quiet = self.quiet_for();
            if quiet > SILENCE {
                return;
            }
            if quiet >= PING_EVERY {
                let request = self.next_request.fetch_add(1, Relaxed);
                let ping = frame::encode(Kind::Ping, 0, request, |_| {});
                self.lanes.push(Lane::Urgent, Outgoing::plain(ping));
            }
        }
    }

    /// Reads until it must not go on; the error says why.
    async fn read<R: AsyncRead + Unpin>(&self, reader: R, peer: &Peer, shared: &Arc<Shared>) -> io::Result<()> {
        let mut frames = FrameReader::new(reader, shared.frame_limit);
        let mut session = Session::new(peer.id, shared.clone(), self.lanes.clone());
        loop {
            for _ in 0..TURN {
                let Some(frame) = frames.next().await? else { return Ok(()) };
                self.heard_at.store(Instant::now().as_nanos(), Relaxed);
                match frame.kind {
                    Kind::Reply | Kind::Failure | Kind::Part => self.answered(frame),
                    Kind::Goodbye => {
                        // It waits for the answers that it is still owed, and then closes.
                        let (code, words) = words_of(&frame.body);
                        if let Some(refusal) = Refusal::from_u8(code)
                            && peer.is_news(&words)
                        {
                            shared.refused(peer.id, refusal, &words);
                        }
                        self.fail(&words);
                    }
                    Kind::Ping => {
                        self.lanes.answer(frame::encode(Kind::Reply, frame.group, frame.request, |_| {}));
                    }
                    _ if self.leaving.load(SeqCst) => {}
                    _ => session.take(frame).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Carries what both sides say until it ends.
    pub(super) async fn carry(
        self: Arc<Self>,
        queues: Queues,
        stream: TcpStream,
        peer: Arc<Peer>,
        shared: Arc<Shared>,
    ) {
        let counted = Counted::new(&shared);
        let (reader, writer) = tokio::io::split(stream);
        let ended = tokio::select! {
            biased;
            () = self.close.notified() => Err(io::Error::other("it was closed here")),
            read = self.read(reader, &peer, &shared) => read,
            // It ends by itself only behind last words.
            written = queues.write_to(writer) => written.and(Err(io::Error::other(PARTED))),
            () = self.parted(&shared) => Err(io::Error::other(PARTED)),
            () = self.watch() => Err(io::Error::other(format!("nothing was heard for {SILENCE:?}"))),
        };
        drop(counted);
        let bad = matches!(&ended, Err(error) if error.kind() == io::ErrorKind::InvalidData);
        let why = ended.map_or_else(|error| error.to_string(), |()| "it closed the connection".to_owned());
        if bad {
            tracing::warn!(peer = peer.id, %why, "the connection of a peer was closed");
        } else if self.is_open() {
            tracing::info!(peer = peer.id, %why, "the connection to a peer ended");
        }
        self.fail(&why);
        peer.release(&self);
        shared.settle();
    }
}

/// Counts a connection while it lasts.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.carried.fetch_add(1, Relaxed);
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.carried.fetch_sub(1, Relaxed);
    }
}

struct Forget<'a> {
    connection: &'a Connection,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.forget(self.request);
    }
}

/// A request whose answers come one by one. Dropped, it is forgotten here.
pub(crate) struct Exchange {
    connection: Arc<Connection>,
    pub(crate) group: u64,
    pub(crate) request: u64,
    answers: mpsc::UnboundedReceiver<Answer>,
    end: Option<Kind>,
}

impl Exchange {
    /// Sends one more frame of this exchange.
    pub(crate) async fn send(&self, lane: Lane, kind: Kind, body: impl FnOnce(&mut BytesMut)) -> Result<(), Lost> {
        let frame = frame::encode(kind, self.group, self.request, body);
        let permit = self.connection.budget(lane, frame.len()).await?;
        self.connection.push(lane, Outgoing { frame, taken: None, permit })
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => Err(Lost::Broken("the connection is closed".into())),
        }
    }

    /// What to tell the other side when this exchange is dropped.
    pub(crate) fn at_end(&mut self, kind: Option<Kind>) {
        self.end = kind;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.forget(self.request);
        if let Some(kind) = self.end {
            let lane = if kind == Kind::AppendEnd { Lane::Log } else { Lane::Bulk };
            let frame = frame::encode(kind, self.group, self.request, |_| {});
            let _ = self.connection.push(lane, Outgoing::plain(frame));
        }
    }
}
