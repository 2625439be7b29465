//! Between peers: one connection for each pair of nodes, that carries everything both ask and answer.
//!
//! It moves frames and checks who is at the other end. It decides nothing about Raft: requests go to
//! the group they name, answers to whoever asked. Whatever comes in malformed ends the connection that
//! it came on, with one line in the log, and touches nothing else.
//!
//! `peer` has the rules by which two that dial each other end with one connection, `connection` what goes on on it,
//! `lanes` the order in which things leave, and `inbound` what the other side's requests start.

mod connection;
mod directory;
pub(crate) mod frame;
mod handshake;
mod inbound;
mod lanes;
mod parts;
mod peer;
pub(crate) mod rpc;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) use connection::{Exchange, Lost};
pub(crate) use directory::{Directory, GroupView};
pub(crate) use frame::Kind;
pub(crate) use handshake::Refusal;
pub(crate) use lanes::Lane;
pub(crate) use peer::Peer;
pub(crate) use snapshot::{Partials, put_begin, put_end, put_piece, read_resume};

use self::connection::Connection;
use self::handshake::Hello;
use self::lanes::Queues;
use crate::api::{Pieces, Service};
use crate::counters::TurnedAway;
use crate::error::CallError;
use crate::group::Port;
use crate::runtime::{Spawner, random_u128};
use crate::types::{GroupId, Member, MemberId};

/// Codes of failures between peers.
pub(crate) mod code {
    /// The group is not on this node, or not any more.
    pub(crate) const NO_GROUP: u8 = 1;
    /// The service is not known. Nothing was done.
    pub(crate) const NO_SERVICE: u8 = 2;
    /// Too much is going on. Nothing was done.
    pub(crate) const BUSY: u8 = 3;
    /// openraft said no, or has stopped.
    pub(crate) const RAFT: u8 = 4;
    /// A member that has just started doesn't vote yet.
    pub(crate) const GUARD: u8 = 5;
    /// A snapshot could not be built from what came.
    pub(crate) const SNAPSHOT: u8 = 6;
    /// The disk of this member has no room for more.
    pub(crate) const NO_ROOM: u8 = 7;
}

/// Pieces as one; a single one is not copied.
fn joined(mut pieces: Pieces) -> Bytes {
    if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() }
}

/// A failure's code and words.
pub(crate) fn words_of(body: &Bytes) -> (u8, String) {
    let code = body.first().copied().unwrap_or(0);
    let words = body.get(1..body.len().min(1024)).unwrap_or_default();
    (code, String::from_utf8_lossy(words).into_owned())
}

/// Told about refusals.
pub(crate) type OnRefused = Box<dyn Fn(MemberId, Refusal, &str) + Send + Sync>;

/// Who answers the calls of a service, and where that runs.
type Answering = (Spawner, Arc<dyn Service>);

/// A connection that its peer has adopted, and that nobody carries yet.
struct Adopted {
    peer: Arc<Peer>,
    connection: Arc<Connection>,
    queues: Queues,
}

/// What all connections of a node share.
pub(crate) struct Shared {
    pub(crate) directory: Directory,
    pub(crate) secret: String,
    pub(crate) frame_limit: usize,
    /// This run of the process.
    life: u128,
    /// Where connections live.
    home: Spawner,
    groups: Mutex<BTreeMap<GroupId, Arc<Port>>>,
    services: Mutex<BTreeMap<u8, Answering>>,
    /// Members, and whoever else is connected or held.
    peers: Mutex<BTreeMap<MemberId, Arc<Peer>>>,
    /// How many hold each peer, whether or not the directory knows it. Locked before `peers`.
    holders: Mutex<BTreeMap<MemberId, usize>>,
    /// The name of the last connection that was accepted from each.
    seen: Mutex<BTreeMap<MemberId, u128>>,
    /// Connections that are carried.
    carried: AtomicUsize,
    on_refused: Mutex<Vec<OnRefused>>,
    turned_away: Mutex<TurnedAway>,
    stopped: AtomicBool,
    stop: Notify,
}

impl Shared {
    fn refused(&self, by: MemberId, refusal: Refusal, words: &str) {
        for hook in self.on_refused.lock().iter() {
            hook(by, refusal, words);
        }
    }

    /// Says that somebody was not let in, and why. He will come again, twice a second: that is one event.
    fn turn_away(&self, address: SocketAddr, why: &str) {
        if self.turned_away.lock().is_due(&address.ip().to_string(), why) {
            tracing::warn!(%address, reason = why, "a connection to the peer port was refused");
        } else {
            tracing::debug!(%address, reason = why, "a connection to the peer port was refused again");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// The name of the last connection that was accepted from there in this life; 0 if there was none.
    fn seen(&self, id: MemberId) -> u128 {
        self.seen.lock().get(&id).copied().unwrap_or(0)
    }

    fn known(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.peers.lock().get(&id).cloned()
    }

    /// That peer; from now on there is one.
    fn peer_in(self: &Arc<Self>, peers: &mut BTreeMap<MemberId, Arc<Peer>>, id: MemberId) -> Arc<Peer> {
        let make = || {
            let peer = Arc::new(Peer::new(id, self.directory.me().member));
            // Whoever asks first, the connection lives where the others do.
            self.home.spawn(peer.clone().run(self.clone()));
            peer
        };
        peers.entry(id).or_insert_with(make).clone()
    }

    /// Takes in one who has dialled and was judged.
    fn take_in(self: &Arc<Self>, hello: &Hello) -> Result<Adopted, (Refusal, String)> {
        let mut peers = self.peers.lock();
        let me = self.directory.me().member;
        if self.is_stopped() {
            return Err((Refusal::Busy, format!("member {me} is stopping")));
        }
        let peer = self.peer_in(&mut peers, hello.from);
        let (connection, queues) = Connection::new(hello.party, false);
        if !peer.gives_way_to(hello) {
            return Err((Refusal::Crossed, format!("member {me} is connected already")));
        }
        self.seen.lock().insert(hello.from, hello.party.name);
        if !peer.adopt(&connection) {
            return Err((Refusal::Busy, format!("member {me} is stopping")));
        }
        Ok(Adopted { peer, connection, queues })
    }

    /// Has a connection that was adopted carried, and looks whether it may stay: the directory may have changed since the
    /// handshake, and one who was dialled was not judged at all.
    fn carry(self: &Arc<Self>, adopted: Adopted, stream: TcpStream) {
        let Adopted { peer, connection, queues } = adopted;
        self.home.spawn(connection.carry(queues, stream, peer, self.clone()));
        self.settle();
    }

    /// Looks who is wanted, says goodbye to whoever is no member any more, and lets go of whoever is neither wanted nor
    /// connected.
    fn settle(&self) {
        let others = self.directory.others();
        let holders = self.holders.lock();
        self.peers.lock().retain(|id, peer| {
            let held = holders.contains_key(id);
            let wanted = held || others.contains_key(id);
            peer.want(wanted);
            let Some(connection) = peer.connection() else {
                if !wanted {
                    peer.stop();
                }
                return wanted;
            };
            match self.directory.judge_member(*id, connection.party.incarnation) {
                // On its way in or out: it may stay until that is decided.
                Ok(()) | Err((Refusal::Unknown, _)) => true,
                // Consensus has not let it go yet.
                Err(_) if held => true,
                Err((refusal, words)) => {
                    peer.part(refusal, &words);
                    if !wanted {
                        peer.stop();
                    }
                    wanted
                }
            }
        });
    }

    fn port(&self, group: GroupId) -> Option<Arc<Port>> {
        self.groups.lock().get(&group).cloned()
    }

    fn service(&self, service: u8) -> Option<Answering> {
        self.services.lock().get(&service).cloned()
    }
}

/// A connection that stays as long as this is held.
pub(crate) struct HeldPeer {
    id: MemberId,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
}

impl std::ops::Deref for HeldPeer {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl Drop for HeldPeer {
    fn drop(&mut self) {
        let last = {
            let mut holders = self.shared.holders.lock();
            match holders.get_mut(&self.id) {
                Some(n) if *n > 1 => {
                    *n -= 1;
                    false
                }
                _ => holders.remove(&self.id).is_some(),
            }
        };
        if last {
            self.shared.settle();
        }
    }
}

/// The peer port of a node and its connections.
#[derive(Clone)]
pub(crate) struct Transport {
    shared: Arc<Shared>,
    local: SocketAddr,
}

impl Transport {
    pub(crate) async fn listen(
        directory: Directory,
        listen: &str,
        secret: String,
        frame_limit: usize,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            directory,
            secret,
            frame_limit,
            life: random_u128(),
            home: Spawner::current(),
            groups: Mutex::default(),
            services: Mutex::default(),
            peers: Mutex::default(),
            holders: Mutex::default(),
            seen: Mutex::default(),
            carried: AtomicUsize::new(0),
            on_refused: Mutex::default(),
            turned_away: Mutex::default(),
            stopped: AtomicBool::new(false),
            stop: Notify::new(),
        });
        tokio::spawn(inbound::accept_loop(listener, shared.clone()));
        Ok(Self { shared, local })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    pub(crate) fn on_refused(&self, hook: OnRefused) {
        self.shared.on_refused.lock().push(hook);
    }

    pub(crate) fn add_group(&self, group: GroupId, port: Arc<Port>) {
        self.shared.groups.lock().insert(group, port);
    }

    pub(crate) fn serve(&self, service: u8, handler: Arc<dyn Service>) {
        self.shared.services.lock().insert(service, (Spawner::current(), handler));
    }

    /// A peer; it is dialled from now on.
    pub(crate) fn peer(&self, id: MemberId, member: &Member) -> Arc<Peer> {
        let mut peers = self.shared.peers.lock();
        let peer = if self.shared.is_stopped() {
            let peer = Arc::new(Peer::new(id, self.shared.directory.me().member));
            peer.stop();
            peer
        } else {
            self.shared.peer_in(&mut peers, id)
        };
        peer.set_address(&member.peer);
        peer.want(true);
        peer
    }

    /// The connection to a peer for somebody who keeps it, whatever the directory says meanwhile.
    pub(crate) fn hold(&self, id: MemberId, member: &Member) -> HeldPeer {
        let mut holders = self.shared.holders.lock();
        *holders.entry(id).or_default() += 1;
        HeldPeer { id, peer: self.peer(id, member), shared: self.shared.clone() }
    }

    /// Whether a member is connected, as far as this node has tried.
    pub(crate) fn is_connected(&self, id: MemberId) -> bool {
        self.shared.peers.lock().get(&id).is_some_and(|p| p.is_connected())
    }

    /// The directory has changed: dial whoever is new, let go whoever is gone.
    pub(crate) fn refresh(&self) {
        let others = self.shared.directory.others();
        for (id, member) in &others {
            self.peer(*id, member);
        }
        self.shared.settle();
    }

    pub(crate) async fn call(
        &self,
        to: MemberId,
        service: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        Ok(joined(self.call_unless(to, service, body, timeout, std::future::pending()).await?))
    }

    /// The most bytes that a call may have.
    pub(crate) fn largest_call(&self) -> usize {
        self.shared.frame_limit.saturating_sub(64)
    }

    pub(crate) async fn call_unless(
        &self,
        to: MemberId,
        service: u8,
        body: Bytes,
        timeout: Duration,
        over: impl Future<Output = String>,
    ) -> Result<Pieces, CallError> {
        if body.len() > self.largest_call() {
            return Err(CallError::NotSent(format!("{} bytes are too many for one call", body.len())));
        }
        let Some(member) = self.shared.directory.member(to) else {
            return Err(CallError::NotSent(format!("there is no member {to}")));
        };
        let peer = self.peer(to, &member);
        let answer = peer.call(timeout, over, |out| {
            out.reserve(1 + body.len());
            bytes::BufMut::put_u8(out, service);
            out.extend_from_slice(&body);
        });
        answer.await.map_err(|lost| match lost {
            Lost::NotSent(why) => CallError::NotSent(why),
            Lost::Broken(why) => CallError::Unknown(why),
            Lost::Failed(code::NO_SERVICE | code::BUSY, why) => CallError::NotSent(why),
            Lost::Failed(_, why) => CallError::Unknown(why),
        })
    }

    /// Closes everything, at once.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, SeqCst);
        self.shared.stop.notify_one();
        for peer in std::mem::take(&mut *self.shared.peers.lock()).into_values() {
            peer.stop();
        }
        self.shared.groups.lock().clear();
        self.shared.services.lock().clear();
        self.shared.on_refused.lock().clear();
    }
}
