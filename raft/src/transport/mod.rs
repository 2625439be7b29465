//! Between peers: one connection from each node to each other, that carries everything.
//!
//! It moves frames and checks who is at the other end. It decides nothing about Raft: requests go to
//! the group they name, answers to whoever asked. Whatever comes in malformed ends the connection that
//! it came on, with one line in the log, and touches nothing else.

mod directory;
pub(crate) mod frame;
mod handshake;
mod inbound;
mod peer;
pub(crate) mod rpc;
pub(crate) mod snapshot;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;

pub(crate) use directory::{Directory, GroupView};
pub(crate) use frame::Kind;
pub(crate) use handshake::Refusal;
pub(crate) use peer::{Exchange, Lane, Lost, Peer};
pub(crate) use snapshot::{Partials, put_begin, put_end, put_piece, read_resume};

use crate::api::Service;
use crate::error::CallError;
use crate::group::Port;
use crate::runtime::Spawner;
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

/// What all connections of a node share.
pub(crate) struct Shared {
    pub(crate) directory: Directory,
    pub(crate) secret: String,
    pub(crate) frame_limit: usize,
    /// Where connections live.
    home: Spawner,
    groups: Mutex<BTreeMap<GroupId, Arc<Port>>>,
    services: Mutex<BTreeMap<u8, Answering>>,
    peers: Mutex<BTreeMap<MemberId, Arc<Peer>>>,
    /// How many hold each connection, whether or not the directory knows the peer. Locked before `peers`.
    holders: Mutex<BTreeMap<MemberId, usize>>,
    inbound: Mutex<BTreeMap<u64, inbound::Handle>>,
    next_inbound: AtomicU64,
    on_refused: Mutex<Vec<OnRefused>>,
    stopped: AtomicBool,
    stop: Notify,
}

impl Shared {
    fn refused(&self, by: MemberId, refusal: Refusal, words: &str) {
        for hook in self.on_refused.lock().iter() {
            hook(by, refusal, words);
        }
    }

    /// Lets go the connections to whoever is no member and is held by nobody.
    fn drop_strangers(&self, others: &BTreeMap<MemberId, Member>) {
        let holders = self.holders.lock();
        self.peers.lock().retain(|id, peer| {
            let stays = others.contains_key(id) || holders.contains_key(id);
            if !stays {
                peer.retire();
            }
            stays
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
            self.shared.drop_strangers(&self.shared.directory.others());
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
            home: Spawner::current(),
            groups: Mutex::default(),
            services: Mutex::default(),
            peers: Mutex::default(),
            holders: Mutex::default(),
            inbound: Mutex::default(),
            next_inbound: AtomicU64::new(0),
            on_refused: Mutex::default(),
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

    /// The connection to a peer; made if there is none yet.
    pub(crate) fn peer(&self, id: MemberId, member: &Member) -> Arc<Peer> {
        let mut peers = self.shared.peers.lock();
        if let Some(peer) = peers.get(&id) {
            peer.set_address(&member.peer);
            return peer.clone();
        }
        let peer = Arc::new(Peer::new(id, member.peer.clone()));
        if self.shared.stopped.load(SeqCst) {
            peer.stop();
        } else {
            peers.insert(id, peer.clone());
            // Whoever asks first, the connection lives where the others do.
            self.shared.home.spawn(peer.clone().run(self.shared.clone()));
        }
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
        self.shared.drop_strangers(&others);
        for handle in self.shared.inbound.lock().values() {
            match self.shared.directory.judge_member(handle.from, handle.incarnation) {
                // On its way in or out: it may stay until that is decided.
                Ok(()) | Err((Refusal::Unknown, _)) => {}
                Err((refusal, words)) => handle.say_goodbye(refusal, &words),
            }
        }
    }

    pub(crate) async fn call(
        &self,
        to: MemberId,
        service: u8,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        if body.len() + 64 > self.shared.frame_limit {
            return Err(CallError::NotSent(format!("{} bytes are too many for one call", body.len())));
        }
        let Some(member) = self.shared.directory.member(to) else {
            return Err(CallError::NotSent(format!("there is no member {to}")));
        };
        let peer = self.peer(to, &member);
        let answer = peer
            .ask(Lane::Bulk, Kind::Call, 0, timeout, |out| {
                bytes::BufMut::put_u8(out, service);
                out.extend_from_slice(&body);
            })
            .await;
        answer.map_err(|lost| match lost {
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
        for handle in std::mem::take(&mut *self.shared.inbound.lock()).into_values() {
            handle.close();
        }
        self.shared.groups.lock().clear();
        self.shared.services.lock().clear();
        self.shared.on_refused.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_connection_that_is_held_stays_although_the_directory_does_not_know_the_peer() {
        let me = Identity { cluster: Uuid::from_u128(1), member: 1, incarnation: Uuid::from_u128(2) };
        let transport = Transport::listen(Directory::new(me), "127.0.0.1:0", String::new(), 1 << 20).await.unwrap();
        let member = Member { peer: "127.0.0.1:1".into(), ..Member::default() };
        // openraft makes two clients of a member that joins before its entry is applied here.
        let (one, two) = (transport.hold(2, &member), transport.hold(2, &member));
        transport.refresh();
        assert!(!one.is_stopped());
        drop(one);
        transport.refresh();
        assert!(!two.is_stopped());
        let peer = two.peer.clone();
        drop(two);
        assert!(peer.is_stopped(), "nobody needs it any more");
        let again = transport.hold(2, &member);
        assert!(!again.is_stopped(), "and whoever needs it again gets a new one");
        transport.stop();
    }
}
