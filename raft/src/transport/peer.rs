//! One outgoing connection to one peer, which carries everything this node asks of it.
//!
//! A task dials, shakes hands, and keeps the connection until it breaks, then dials again after a
//! pause. Requests go into three queues: what Raft's clocks wait for overtakes the log, and the log
//! overtakes snapshots and calls. A request that is still in a queue when the connection breaks was
//! certainly not sent; the others are told that nobody knows.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::frame::{self, Frame, FrameReader, Kind};
use super::handshake::{self, HandshakeError, Refusal};
use super::{Shared, words_of};
use crate::runtime::Instant;
use crate::types::MemberId;

/// The first pause before dialling again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A pause after a refusal: it will not be otherwise a moment later.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_millis(500);
/// Nothing heard for so long although something was asked: the connection is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a peer that is no member any more may take for its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// What one write takes together.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes that may wait in the queues, in units of 1 KiB.
const BUDGET_KIB: usize = 128 << 10;

/// How long a request waits for a connection that is being made.
const CONNECT_PATIENCE: Duration = Duration::from_millis(50);

/// Which queue a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Urgent,
    Log,
    Bulk,
}

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

type Answer = Result<Bytes, Lost>;

enum Waiting {
    Once(oneshot::Sender<Answer>, Arc<AtomicBool>),
    Many(mpsc::UnboundedSender<Answer>),
}

struct Outgoing {
    frame: Bytes,
    taken: Option<Arc<AtomicBool>>,
    _budget: Option<OwnedSemaphorePermit>,
}

/// A live connection.
pub(crate) struct Connection {
    urgent: mpsc::UnboundedSender<Outgoing>,
    log: mpsc::UnboundedSender<Outgoing>,
    bulk: mpsc::UnboundedSender<Outgoing>,
    budget: Arc<Semaphore>,
    waiting: Mutex<Option<BTreeMap<u64, Waiting>>>,
    next_request: AtomicU64,
    heard_at: AtomicU64,
    closed: AtomicBool,
    close: Notify,
}

impl Connection {
    /// Marks it as broken and tells everybody who waits.
    fn fail(&self, why: &str) {
        self.closed.store(true, SeqCst);
        self.close.notify_waiters();
        self.close.notify_one();
        let waiting = self.waiting.lock().take();
        for (_, one) in waiting.into_iter().flatten() {
            match one {
                Waiting::Once(tx, taken) => {
                    let lost =
                        if taken.load(SeqCst) { Lost::Broken(why.to_owned()) } else { Lost::NotSent(why.to_owned()) };
                    let _ = tx.send(Err(lost));
                }
                Waiting::Many(tx) => {
                    let _ = tx.send(Err(Lost::Broken(why.to_owned())));
                }
            }
        }
    }

    fn push(&self, lane: Lane, outgoing: Outgoing) -> Result<(), Lost> {
        let queue = match lane {
            Lane::Urgent => &self.urgent,
            Lane::Log => &self.log,
            Lane::Bulk => &self.bulk,
        };
        queue.send(outgoing).map_err(|_| Lost::NotSent("the connection is closed".into()))
    }

    async fn budget(&self, lane: Lane, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Lost> {
        if lane == Lane::Urgent {
            return Ok(None);
        }
        let kib = (bytes / 1024 + 1).min(BUDGET_KIB) as u32;
        let permit = self.budget.clone().acquire_many_owned(kib).await;
        permit.map(Some).map_err(|_| Lost::NotSent("the connection is closed".into()))
    }

    fn answer(&self, frame: Frame) -> Result<(), String> {
        let answer = match frame.kind {
            Kind::Reply => Ok(frame.body),
            Kind::Failure => {
                let (code, words) = words_of(&frame.body);
                Err(Lost::Failed(code, words))
            }
            Kind::Goodbye => return Err(words_of(&frame.body).1),
            kind => return Err(format!("it sent a frame of kind {kind:?} where only answers belong")),
        };
        let mut waiting = self.waiting.lock();
        let Some(waiting) = waiting.as_mut() else { return Ok(()) };
        // An answer that nobody waits for any more is no error: its asker gave up.
        match waiting.get(&frame.request) {
            Some(Waiting::Many(tx)) => {
                let _ = tx.send(answer);
            }
            Some(Waiting::Once(..)) => {
                if let Some(Waiting::Once(tx, _)) = waiting.remove(&frame.request) {
                    let _ = tx.send(answer);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Whether somebody waits for an answer to a single question.
    fn is_asked(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.as_ref().is_some_and(|w| w.values().any(|one| matches!(one, Waiting::Once(..))))
    }

    fn quiet_for(&self) -> Duration {
        Duration::from_nanos(Instant::now().as_nanos().saturating_sub(self.heard_at.load(Relaxed)))
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
        let budget = self.connection.budget(lane, frame.len()).await?;
        self.connection.push(lane, Outgoing { frame, taken: None, _budget: budget })
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
        if let Some(waiting) = self.connection.waiting.lock().as_mut() {
            waiting.remove(&self.request);
        }
        if let Some(kind) = self.end {
            let lane = if kind == Kind::AppendEnd { Lane::Log } else { Lane::Bulk };
            let frame = frame::encode(kind, self.group, self.request, |_| {});
            let _ = self.connection.push(lane, Outgoing { frame, taken: None, _budget: None });
        }
    }
}

/// One peer, for as long as it is a member.
pub(crate) struct Peer {
    id: MemberId,
    address: Mutex<String>,
    connection: Mutex<Option<Arc<Connection>>>,
    changed: Notify,
    stopped: AtomicBool,
    stop: Notify,
    retiring: AtomicBool,
    retire: Notify,
    trouble: Mutex<Option<String>>,
}

impl Peer {
    pub(crate) fn new(id: MemberId, address: String) -> Self {
        Self {
            id,
            address: Mutex::new(address),
            connection: Mutex::new(None),
            changed: Notify::new(),
            stopped: AtomicBool::new(false),
            stop: Notify::new(),
            retiring: AtomicBool::new(false),
            retire: Notify::new(),
            trouble: Mutex::new(None),
        }
    }

    /// Its address has changed, perhaps.
    pub(crate) fn set_address(&self, address: &str) {
        let mut now = self.address.lock();
        if *now != address {
            *now = address.to_owned();
            if let Some(connection) = &*self.connection.lock() {
                connection.close.notify_one();
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.stop.notify_one();
        if let Some(connection) = &*self.connection.lock() {
            connection.closed.store(true, SeqCst);
            connection.close.notify_one();
        }
        self.changed.notify_waiters();
    }

    /// It is no member any more: ends when what was asked has its answer, or after a while. A leader that was asked
    /// to remove itself still has to say that it did.
    pub(crate) fn retire(&self) {
        self.retiring.store(true, SeqCst);
        self.stop.notify_one();
        self.retire.notify_one();
        self.changed.notify_waiters();
    }

    fn is_over(&self) -> bool {
        self.stopped.load(SeqCst) || self.retiring.load(SeqCst)
    }

    /// Whether it was let go.
    #[cfg(test)]
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_over()
    }

    async fn retired_and_idle(&self, connection: &Connection) {
        self.retire.notified().await;
        let deadline = Instant::now() + LAST_ANSWERS;
        while Instant::now() < deadline && connection.is_asked() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn live(&self) -> Option<Arc<Connection>> {
        self.connection.lock().clone().filter(|c| !c.closed.load(SeqCst))
    }

    /// Whether there is a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        self.live().is_some()
    }

    /// The connection, waited for at most so long.
    async fn connected(&self, patience: Duration) -> Result<Arc<Connection>, Lost> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(connection) = self.live() {
                return Ok(connection);
            }
            let left = deadline - Instant::now();
            if left.is_zero() || self.is_over() {
                let trouble = self.trouble.lock().clone().unwrap_or_else(|| "no connection".into());
                return Err(Lost::NotSent(format!("member {}: {trouble}", self.id)));
            }
            let _ = tokio::time::timeout(left, changed).await;
        }
    }

    /// Asks once and waits for the answer.
    pub(crate) async fn ask(
        &self,
        lane: Lane,
        kind: Kind,
        group: u64,
        patience: Duration,
        body: impl FnOnce(&mut BytesMut),
    ) -> Answer {
        let deadline = Instant::now() + patience;
        // A request is not worth waiting for a peer that is down: whoever asks looks for another leader meanwhile.
        let connection = self.connected(patience.min(CONNECT_PATIENCE)).await?;
        let request = connection.next_request.fetch_add(1, Relaxed);
        let frame = frame::encode(kind, group, request, body);
        let late = |left: Duration| if left.is_zero() { Duration::from_millis(1) } else { left };
        let budget = tokio::time::timeout(late(deadline - Instant::now()), connection.budget(lane, frame.len()))
            .await
            .map_err(|_| Lost::NotSent("the queue to it is full".into()))??;
        let (tx, rx) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        match connection.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(request, Waiting::Once(tx, taken.clone())),
            None => return Err(Lost::NotSent("the connection is closed".into())),
        };
        let guard = Forget { connection: &connection, request };
        connection.push(lane, Outgoing { frame, taken: Some(taken.clone()), _budget: budget })?;
        let answer = tokio::time::timeout(late(deadline - Instant::now()), rx).await;
        drop(guard);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Lost::Broken("the connection is closed".into())),
            // In the queue still? Whoever takes it now would send what nobody wants; forbid it.
            Err(_) if !taken.swap(true, SeqCst) => Err(Lost::NotSent("it did not leave this node in time".into())),
            Err(_) => Err(Lost::Broken("no answer in time".into())),
        }
    }

    /// Opens an exchange of many frames.
    pub(crate) async fn open(&self, group: u64, patience: Duration) -> Result<Exchange, Lost> {
        let connection = self.connected(patience).await?;
        let request = connection.next_request.fetch_add(1, Relaxed);
        let (tx, answers) = mpsc::unbounded_channel();
        match connection.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(request, Waiting::Many(tx)),
            None => return Err(Lost::NotSent("the connection is closed".into())),
        };
        Ok(Exchange { connection, group, request, answers, end: None })
    }

    /// Dials for ever, until it is stopped.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut pause = FIRST_PAUSE;
        while !self.is_over() {
            let address = self.address.lock().clone();
            let attempt = async {
                tokio::time::timeout(handshake::PATIENCE, self.dial(&shared, &address))
                    .await
                    .unwrap_or_else(|_| Err(HandshakeError::Protocol("no answer in time".into())))
            };
            let dialled = tokio::select! {
                biased;
                () = self.stop.notified() => break,
                dialled = attempt => dialled,
            };
            match dialled {
                Ok(stream) => {
                    if self.trouble.lock().take().is_some() {
                        tracing::info!(peer = self.id, %address, "the peer is reached again");
                    }
                    pause = FIRST_PAUSE;
                    let why = self.carry(stream, &shared).await;
                    if !self.is_over() {
                        tracing::info!(peer = self.id, %address, %why, "the connection to a peer ended");
                    }
                    #[cfg(madsim)]
                    if mutants::on(Mutant::NoReconnect) {
                        self.stop.notified().await;
                        break;
                    }
                }
                Err(error) => pause = self.note(&shared, &address, error, pause),
            }
            tokio::select! {
                biased;
                () = self.stop.notified() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Remembers why there is no connection, and says it once.
    fn note(&self, shared: &Shared, address: &str, error: HandshakeError, pause: Duration) -> Duration {
        let words = error.to_string();
        let news = self.trouble.lock().replace(words.clone()).as_ref() != Some(&words);
        match error {
            HandshakeError::Refused(refusal, _) => {
                if news {
                    tracing::warn!(peer = self.id, %address, reason = %words, "a peer refuses this member");
                    shared.refused(self.id, refusal, &words);
                }
                REFUSED_PAUSE / 2
            }
            _ => {
                if news {
                    tracing::info!(peer = self.id, %address, reason = %words, "a peer is not reached");
                }
                pause
            }
        }
    }

    async fn dial(&self, shared: &Shared, address: &str) -> Result<TcpStream, HandshakeError> {
        let mut stream = TcpStream::connect(address).await?;
        let _ = stream.set_nodelay(true);
        let incarnation = shared.directory.incarnation_of(self.id);
        handshake::dial(&mut stream, shared.directory.me(), &shared.secret, self.id, incarnation).await?;
        Ok(stream)
    }

    /// Runs one connection to its end; returns why it ended.
    async fn carry(&self, stream: TcpStream, shared: &Shared) -> String {
        let (reader, writer) = tokio::io::split(stream);
        let (urgent, urgent_rx) = mpsc::unbounded_channel();
        let (log, log_rx) = mpsc::unbounded_channel();
        let (bulk, bulk_rx) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection {
            urgent,
            log,
            bulk,
            budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            waiting: Mutex::new(Some(BTreeMap::new())),
            next_request: AtomicU64::new(1),
            heard_at: AtomicU64::new(Instant::now().as_nanos()),
            closed: AtomicBool::new(false),
            close: Notify::new(),
        });
        *self.connection.lock() = Some(connection.clone());
        self.changed.notify_waiters();
        let why = tokio::select! {
            biased;
            () = connection.close.notified() => "it was closed here".to_owned(),
            why = read_answers(reader, &connection, shared, self.id) => why,
            why = write_requests(writer, urgent_rx, log_rx, bulk_rx) => why,
            () = self.retired_and_idle(&connection) => "it is no member any more".to_owned(),
            () = watch(&connection) => format!("nothing was heard for {SILENCE:?}"),
        };
        *self.connection.lock() = None;
        connection.fail(&why);
        why
    }
}

struct Forget<'a> {
    connection: &'a Connection,
    request: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.connection.waiting.lock().as_mut() {
            waiting.remove(&self.request);
        }
    }
}

async fn watch(connection: &Connection) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if connection.quiet_for() > SILENCE {
            return;
        }
        let request = connection.next_request.fetch_add(1, Relaxed);
        let frame = frame::encode(Kind::Ping, 0, request, |_| {});
        let _ = connection.push(Lane::Urgent, Outgoing { frame, taken: None, _budget: None });
    }
}

async fn read_answers<R: AsyncRead + Unpin>(
    reader: R,
    connection: &Connection,
    shared: &Shared,
    peer: MemberId,
) -> String {
    let mut frames = FrameReader::new(reader, shared.frame_limit);
    loop {
        match frames.next().await {
            Ok(Some(frame)) => {
                connection.heard_at.store(Instant::now().as_nanos(), Relaxed);
                if frame.kind == Kind::Goodbye {
                    let (code, words) = words_of(&frame.body);
                    if let Some(refusal) = Refusal::from_u8(code) {
                        shared.refused(peer, refusal, &words);
                    }
                }
                if let Err(why) = connection.answer(frame) {
                    return why;
                }
            }
            Ok(None) => return "it closed the connection".into(),
            Err(error) => return error.to_string(),
        }
    }
}

async fn write_requests<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut urgent: mpsc::UnboundedReceiver<Outgoing>,
    mut log: mpsc::UnboundedReceiver<Outgoing>,
    mut bulk: mpsc::UnboundedReceiver<Outgoing>,
) -> String {
    let mut batch = BytesMut::new();
    loop {
        let first = tokio::select! {
            biased;
            Some(one) = urgent.recv() => one,
            Some(one) = log.recv() => one,
            Some(one) = bulk.recv() => one,
            else => return "it was closed here".into(),
        };
        let mut next = Some(first);
        let mut held = Vec::new();
        let mut large = None;
        while let Some(one) = next.take() {
            // A request whose asker gave up while it waited was already told that it was not sent.
            let given_up = one.taken.as_ref().is_some_and(|taken| taken.swap(true, SeqCst));
            if !given_up {
                if one.frame.len() >= WRITE_BYTES {
                    large = Some(one);
                    break;
                }
                batch.extend_from_slice(&one.frame);
                held.push(one);
            }
            if batch.len() < WRITE_BYTES {
                next = urgent.try_recv().or_else(|_| log.try_recv()).or_else(|_| bulk.try_recv()).ok();
            }
        }
        if let Err(error) = write(&mut writer, &batch, large.as_ref()).await {
            return error.to_string();
        }
        batch.clear();
    }
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, batch: &[u8], large: Option<&Outgoing>) -> io::Result<()> {
    if !batch.is_empty() {
        writer.write_all(batch).await?;
    }
    if let Some(one) = large {
        writer.write_all(&one.frame).await?;
    }
    writer.flush().await
}
