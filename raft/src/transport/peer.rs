//! One peer, and the one connection to it.
//!
//! Both sides may dial: one may be reachable from one side only, and who has just started must not wait for the other.
//! While there is a connection nobody dials; two that cross end as one. The rules, for whoever is dialled:
//!
//! * A dialler dials only when it has no connection, so what the acceptor has of it is lost, and the new one takes its
//!   place. That may be half open, from an earlier life of the dialler, or cut in one direction: nothing waits for it.
//! * Unless the two cross: the acceptor has just dialled too, and the dialler, when it began, could not know. It says
//!   which connection it has accepted last: another than the acceptor has, in the same life, shows that. Then the one
//!   that the smaller id dialled is the one: it refuses the other's, and who has the greater id takes the smaller's in
//!   whatever it has or does itself.
//!
//! Both sides come to the same end in either order, and what broke goes to whoever asked, as when any connection breaks.
//! A dialled one that is replaced had hardly begun: who has the smaller id keeps the other waiting while it dials.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::connection::{Answer, Connection, Exchange, Lost};
use super::frame::Kind;
use super::handshake::{self, HandshakeError, Hello, Party, Refusal};
use super::lanes::Lane;
use super::{Adopted, Shared};
use crate::api::Pieces;
use crate::runtime::Instant;
use crate::types::MemberId;

/// The first pause before dialling again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Whose dial would win goes first.
const GREATER_WAITS: u32 = 3;
/// A connection that ended sooner counts as a failure to connect.
const LASTING: Duration = Duration::from_secs(2);
/// A pause after a refusal: it will not be otherwise a moment later.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// How long a request waits for a connection that is being made.
const CONNECT_PATIENCE: Duration = Duration::from_millis(50);

/// When to dial next.
struct Rest {
    until: Instant,
    pause: Duration,
}

/// One peer, for as long as it is a member, or connected.
pub(crate) struct Peer {
    pub(super) id: MemberId,
    /// This node's own id.
    me: MemberId,
    /// Not known of one who dialled before the group said who it is.
    address: Mutex<Option<String>>,
    /// Whether this node has anything to say to it: if not it is not dialled.
    wanted: AtomicBool,
    connection: Mutex<Option<Arc<Connection>>>,
    dialling: AtomicBool,
    rest: Mutex<Rest>,
    stopped: AtomicBool,
    changed: Notify,
    trouble: Mutex<Option<String>>,
}

impl Peer {
    pub(super) fn new(id: MemberId, me: MemberId) -> Self {
        Self {
            id,
            me,
            address: Mutex::new(None),
            wanted: AtomicBool::new(false),
            connection: Mutex::new(None),
            dialling: AtomicBool::new(false),
            rest: Mutex::new(Rest { until: Instant::now(), pause: FIRST_PAUSE }),
            stopped: AtomicBool::new(false),
            changed: Notify::new(),
            trouble: Mutex::new(None),
        }
    }

    /// Its address has changed, perhaps.
    pub(super) fn set_address(&self, address: &str) {
        let before = {
            let mut now = self.address.lock();
            if now.as_deref() == Some(address) {
                return;
            }
            now.replace(address.to_owned())
        };
        let old = self.connection.lock().clone().filter(|old| before.is_some() && old.dialled_here);
        if let Some(old) = old {
            old.break_off("its address has changed");
        }
        self.changed.notify_waiters();
    }

    pub(super) fn want(&self, wanted: bool) {
        if self.wanted.swap(wanted, SeqCst) != wanted {
            self.changed.notify_waiters();
        }
    }

    /// Lets it go.
    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        if let Some(connection) = self.connection.lock().clone() {
            connection.break_off("it was closed here");
        }
        self.changed.notify_waiters();
    }

    /// Whether it was let go.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// The connection, whatever its state.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.connection.lock().clone()
    }

    fn live(&self) -> Option<Arc<Connection>> {
        self.connection().filter(|c| c.is_open())
    }

    /// Whether there is a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        self.live().is_some()
    }

    fn may_dial(&self) -> bool {
        self.wanted.load(SeqCst) && self.connection.lock().is_none() && self.address.lock().is_some()
    }

    /// Whether a dial that is under way has become useless.
    fn dials_in_vain(&self) -> bool {
        let served = self.id < self.me && self.connection.lock().is_some();
        self.is_stopped() || !self.wanted.load(SeqCst) || served
    }

    async fn until(&self, is: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is(self) {
                return;
            }
            changed.await;
        }
    }

    /// Returns when no dial is under way, or when it is known where it leads to.
    pub(super) async fn has_dialled(&self) {
        self.until(|peer| !peer.dialling.load(SeqCst) || peer.connection.lock().is_some()).await;
    }

    /// Whether a connection that it has dialled takes the place of what there is.
    pub(super) fn gives_way_to(&self, hello: &Hello) -> bool {
        let Some(here) = self.live() else { return true };
        let crosses = here.dialled_here && here.party.life == hello.party.life && here.party.name != hello.seen;
        !crosses || self.id < self.me
    }

    /// Makes it the connection; what there was breaks. False if it comes too late.
    pub(super) fn adopt(&self, new: &Arc<Connection>) -> bool {
        let old = {
            let mut slot = self.connection.lock();
            // One that came in while this node dialled: from the smaller id it is the one.
            let served = new.dialled_here && self.id < self.me && slot.is_some();
            if served || self.is_stopped() {
                return false;
            }
            slot.replace(new.clone())
        };
        if let Some(old) = old {
            old.break_off("another connection took its place");
        }
        self.changed.notify_waiters();
        if self.trouble.lock().take().is_some() {
            tracing::info!(peer = self.id, "the peer is reached again");
        }
        true
    }

    /// It is no member any more, as far as this connection goes.
    pub(super) fn part(&self, refusal: Refusal, words: &str) {
        if let Some(connection) = self.connection.lock().take() {
            connection.part(refusal, words);
        }
        self.changed.notify_waiters();
    }

    /// The connection has ended.
    pub(super) fn release(&self, ended: &Arc<Connection>) {
        {
            let mut slot = self.connection.lock();
            if !slot.as_ref().is_some_and(|there| Arc::ptr_eq(there, ended)) {
                return;
            }
            // What is still there is not dialled again.
            #[cfg(madsim)]
            if mutants::on(Mutant::NoReconnect) {
                return;
            }
            *slot = None;
            let mut rest = self.rest.lock();
            if ended.since.elapsed() >= LASTING {
                rest.pause = FIRST_PAUSE;
            }
            let pause = rest.next_pause();
            rest.until = Instant::now() + if self.me < self.id { pause } else { pause * GREATER_WAITS };
        }
        self.changed.notify_waiters();
    }

    /// The connection, waited for at most so long.
    async fn connected(&self, patience: Duration) -> Result<Arc<Connection>, Lost> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let found = self.until(|peer| peer.is_connected() || peer.is_stopped());
        let _ = tokio::time::timeout(patience, found).await;
        self.live().ok_or_else(|| {
            let trouble = self.trouble.lock().clone().unwrap_or_else(|| "no connection".into());
            Lost::NotSent(format!("member {}: {trouble}", self.id))
        })
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
        connection.ask(lane, kind, group, deadline, body).await
    }

    /// Calls and waits for the whole answer, or until `over` says why it is not worth waiting for.
    pub(super) async fn call(
        &self,
        patience: Duration,
        over: impl Future<Output = String>,
        body: impl FnOnce(&mut BytesMut),
    ) -> Result<Pieces, Lost> {
        let deadline = Instant::now() + patience;
        let connection = self.connected(patience.min(CONNECT_PATIENCE)).await?;
        connection.call(deadline, over, body).await
    }

    /// Opens an exchange of many frames.
    pub(crate) async fn open(&self, group: u64, patience: Duration) -> Result<Exchange, Lost> {
        self.connected(patience).await?.open(group)
    }

    /// Dials whenever there is no connection, until it is stopped.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            self.until(|peer| peer.is_stopped() || peer.may_dial()).await;
            if self.is_stopped() {
                return;
            }
            let rest = self.rest.lock().until - Instant::now();
            tokio::select! {
                biased;
                () = self.until(|peer| peer.is_stopped() || !peer.may_dial()) => continue,
                () = tokio::time::sleep(rest) => {}
            }
            let Some(address) = self.address.lock().clone() else { continue };
            self.dialling.store(true, SeqCst);
            let attempt = tokio::time::timeout(handshake::PATIENCE, self.dial(&shared, &address));
            let dialled = tokio::select! {
                biased;
                () = self.until(Self::dials_in_vain) => None,
                dialled = attempt => Some(dialled),
            };
            match dialled {
                None => {}
                Some(Ok(Ok((stream, party)))) => {
                    let (connection, queues) = Connection::new(party, true);
                    if self.adopt(&connection) {
                        shared.carry(Adopted { peer: self.clone(), connection, queues }, stream);
                    }
                }
                Some(Ok(Err(error))) => self.failed(&shared, &address, error),
                Some(Err(_)) => {
                    self.failed(&shared, &address, HandshakeError::Protocol("no answer in time".into()));
                }
            }
            self.dialling.store(false, SeqCst);
            self.changed.notify_waiters();
        }
    }

    async fn dial(&self, shared: &Shared, address: &str) -> Result<(TcpStream, Party), HandshakeError> {
        let (me, to) = (shared.directory.me(), shared.directory.incarnation_of(self.id));
        // Before anything else: what it accepts from here on crosses this dial.
        let hello = Hello::new(me, shared.life, self.id, to, shared.seen(self.id));
        let mut stream = TcpStream::connect(address).await?;
        let _ = stream.set_nodelay(true);
        let party = handshake::dial(&mut stream, &hello, &shared.secret).await?;
        Ok((stream, party))
    }

    /// Remembers why there is no connection. False: that is known already, and was told.
    pub(super) fn is_news(&self, words: &str) -> bool {
        self.trouble.lock().replace(words.to_owned()).as_deref() != Some(words)
    }

    /// Remembers why there is no connection, says it once, and rests.
    fn failed(&self, shared: &Shared, address: &str, error: HandshakeError) {
        let pause = match error {
            HandshakeError::Refused(Refusal::Crossed, _) => FIRST_PAUSE,
            HandshakeError::Refused(..) => REFUSED_PAUSE,
            _ => self.rest.lock().next_pause(),
        };
        self.rest.lock().until = Instant::now() + pause;
        if matches!(error, HandshakeError::Refused(Refusal::Crossed, _)) || self.is_connected() {
            return;
        }
        let words = error.to_string();
        if !self.is_news(&words) {
            return;
        }
        if let HandshakeError::Refused(refusal, _) = error {
            // The group tells it on.
            tracing::debug!(peer = self.id, %address, reason = %words, "a peer refuses this member");
            shared.refused(self.id, refusal, &words);
        } else {
            tracing::info!(peer = self.id, %address, reason = %words, "a peer is not reached");
        }
    }
}

impl Rest {
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}
