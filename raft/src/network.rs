//! openraft's network over the transport.
//!
//! A stream of appends is one exchange on the connection to the peer: requests go out as long as the
//! window lets them, answers come back in their order. It ends when openraft has no more requests and
//! each has its answer, for the heartbeat waits for that end; and when the connection breaks, with an
//! error, for nobody knows then what arrived.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::type_config::alias;
use parking_lot::Mutex;
use quorate_storage::wal::{GroupLog, SyncPolicy};

use crate::counters::{Counters, Seldom};
use crate::events::Event;
use crate::lease::Heard;
use crate::runtime::Instant;
use crate::state_machine::SnapshotData;
use crate::status::{SnapshotProgress, Trouble};
use crate::transport::rpc::{put_append, put_transfer, put_vote_request, read_append_answer, read_vote_response};
use crate::transport::{Exchange, HeldPeer, Kind, Lane, Lost, Transport, code};
use crate::types::{GroupId, Member, MemberId, TypeConfig, Vote};
use crate::wire::Malformed;

mod sending;

type AppendResult = StreamAppendResult<TypeConfig>;
type RpcError = RPCError<TypeConfig>;
type Snapshot = alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Requests of one stream that may be under way. The receiver allows more.
const WINDOW: usize = 32;
/// Bytes of them.
const WINDOW_BYTES: usize = 16 << 20;
/// How long news of a commit waits for an entry to travel with. A follower answers no writes, so it may learn of a
/// commit a little later; a message of its own for each would double what a busy group sends and receives.
const COMMIT_WAITS: Duration = Duration::from_millis(2);

/// Snapshots on their way, for status.
pub(crate) type Sending = Arc<Mutex<std::collections::BTreeMap<MemberId, SnapshotProgress>>>;

/// How far each member's log is known to reach, and under which leadership that was learnt.
pub(crate) type Matched = Arc<Mutex<std::collections::BTreeMap<MemberId, Reach>>>;

/// One member's.
pub(crate) struct Reach {
    under: Vote,
    index: u64,
    /// Its loss was reported already.
    reported: bool,
}

/// What keeps members from being sound, as the leader has found.
#[derive(Clone, Default)]
pub(crate) struct Troubles {
    matched: Matched,
    full: Arc<Mutex<BTreeMap<MemberId, Full>>>,
}

/// When a member last said that its disk has no room; that is told seldom.
struct Full {
    at: Instant,
    told: Seldom<()>,
}

/// A member that says that its disk is full counts as full for so long: it is asked again sooner.
const FULL_FOR: Duration = Duration::from_secs(5);

impl Troubles {
    pub(crate) fn new(matched: Matched) -> Self {
        Self { matched, full: Arc::default() }
    }

    /// Under this leadership.
    pub(crate) fn of(&self, id: MemberId, vote: &Vote) -> Option<Trouble> {
        if self.matched.lock().get(&id).is_some_and(|known| known.reported && known.under == *vote) {
            return Some(Trouble::LostData);
        }
        self.full.lock().get(&id).is_some_and(|full| full.at.elapsed() < FULL_FOR).then_some(Trouble::NoRoom)
    }

    /// A member has given that answer. True if it is to be told.
    fn heard(&self, id: MemberId, lost: &Lost) -> bool {
        if !matches!(lost, Lost::Failed(code::NO_ROOM, _)) {
            return true;
        }
        let (now, mut full) = (Instant::now(), self.full.lock());
        let full = full.entry(id).or_insert_with(|| Full { at: now, told: Seldom::default() });
        full.at = now;
        full.told.is_due(())
    }
}

fn reached(matched: &Matched, target: MemberId, under: Vote, index: u64) {
    let mut all = matched.lock();
    if all.get(&target).is_none_or(|known| known.under != under || known.index < index) {
        all.insert(target, Reach { under, index, reported: false });
    }
}

/// Makes clients for openraft.
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) troubles: Troubles,
    pub(crate) transport: Transport,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sending: Sending,
    pub(crate) matched: Matched,
    pub(crate) log: GroupLog,
    pub(crate) heard: Heard,
    pub(crate) piece_bytes: usize,
    /// Bytes of snapshots a second; 0: as fast as it goes.
    pub(crate) snapshot_rate: u64,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Client {
        Client {
            group: self.group,
            target,
            troubles: self.troubles.clone(),
            peer: self.transport.hold(target, node),
            lane: Lane::Log,
            counters: self.counters.clone(),
            sending: self.sending.clone(),
            matched: self.matched.clone(),
            log: self.log.clone(),
            heard: self.heard.clone(),
            piece_bytes: self.piece_bytes,
            snapshot_rate: self.snapshot_rate,
        }
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, node: &Member) -> Client {
        // A heartbeat overtakes the entries that wait: it proves life, not progress.
        Client { lane: Lane::Urgent, ..self.new_client(target, node).await }
    }
}

/// openraft's way to one member.
pub(crate) struct Client {
    group: GroupId,
    target: MemberId,
    troubles: Troubles,
    /// Held: openraft knows a member before the directory does, and for a while longer.
    peer: HeldPeer,
    /// All requests of a stream take one lane: they must not overtake each other.
    lane: Lane,
    counters: Arc<Counters>,
    sending: Sending,
    matched: Matched,
    /// This member's own log: its policy tells what a loss of power may take here and elsewhere.
    log: GroupLog,
    heard: Heard,
    piece_bytes: usize,
    snapshot_rate: u64,
}

fn unreachable(lost: &Lost) -> RpcError {
    RPCError::Unreachable(Unreachable::new(lost))
}

fn malformed(error: &Malformed) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

/// An append stream under way.
struct Appending<S> {
    target: MemberId,
    troubles: Troubles,
    matched: Matched,
    log: GroupLog,
    heard: Heard,
    vote: Option<Vote>,
    exchange: Exchange,
    input: S,
    lane: Lane,
    /// When the requests that have no answer yet were sent, and their sizes.
    open: std::collections::VecDeque<(Instant, usize)>,
    open_bytes: usize,
    /// A request without entries that waits for one with entries, which then takes its place: the answer to the later
    /// one is an answer to both, and was given after both were made.
    held: Option<(AppendEntriesRequest<TypeConfig>, Pin<Box<tokio::time::Sleep>>)>,
    input_ended: bool,
    ended: bool,
}

async fn elapsed(held: &mut Option<(AppendEntriesRequest<TypeConfig>, Pin<Box<tokio::time::Sleep>>)>) {
    match held {
        Some((_, until)) => until.await,
        None => std::future::pending().await,
    }
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Appending<S> {
    async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        loop {
            if self.ended || (self.input_ended && self.open.is_empty() && self.held.is_none()) {
                return None;
            }
            let room = self.open.len() < WINDOW && self.open_bytes < WINDOW_BYTES;
            tokio::select! {
                biased;
                answer = self.exchange.answer(), if !self.open.is_empty() => {
                    let (sent, bytes) = self.open.pop_front().unwrap_or((Instant::now(), 0));
                    self.open_bytes -= bytes;
                    let result = match answer {
                        Ok(body) => {
                            read_append_answer(body).map_err(|e| malformed(&e)).and_then(|a| self.check(a, sent))
                        }
                        Err(lost) => {
                            self.troubles.heard(self.target, &lost);
                            Err(unreachable(&lost))
                        }
                    };
                    // An error ends the stream on the other side, too.
                    self.ended = !matches!(result, Ok(Ok(_)));
                    return Some(result);
                }
                request = self.input.next(), if room && !self.input_ended => {
                    let Some(request) = request else {
                        self.input_ended = true;
                        if let Some((request, _)) = self.held.take() && let Err(lost) = self.send(request).await {
                            return Some(Err(lost));
                        }
                        continue;
                    };
                    // One that follows nothing under way is not held: it may be a probe, for which openraft waits.
                    if request.entries.is_empty() && self.lane == Lane::Log && self.vote.is_some() {
                        let until = match self.held.take() {
                            Some((_, until)) => until,
                            None => Box::pin(tokio::time::sleep(COMMIT_WAITS)),
                        };
                        self.held = Some((request, until));
                        continue;
                    }
                    self.held = None;
                    if let Err(lost) = self.send(request).await {
                        return Some(Err(lost));
                    }
                }
                () = elapsed(&mut self.held) => {
                    if let Some((request, _)) = self.held.take() && let Err(lost) = self.send(request).await {
                        return Some(Err(lost));
                    }
                }
            }
        }
    }
}

impl<S> Appending<S> {
    async fn send(&mut self, request: AppendEntriesRequest<TypeConfig>) -> Result<(), RpcError> {
        self.vote = Some(request.vote);
        let bytes = request.entries.iter().map(crate::entry::payload_bytes).sum();
        let began = Instant::now();
        let sent = self.exchange.send(self.lane, Kind::Append, |out| put_append(out, &request)).await;
        if let Err(lost) = sent {
            self.ended = true;
            return Err(unreachable(&lost));
        }
        self.open.push_back((began, bytes));
        self.open_bytes += bytes;
        Ok(())
    }

    /// A member that had an entry under this leadership and has it no more has lost its disk. openraft takes that
    /// for impossible, and a leader must not fall over another member's loss.
    fn check(&self, answer: AppendResult, sent: Instant) -> Result<AppendResult, RpcError> {
        let Some(vote) = self.vote else { return Ok(answer) };
        // Whether or not its log agrees: it took this leader for its own.
        if matches!(answer, Ok(_) | Err(StreamAppendError::Conflict(_))) {
            self.heard.from(self.target, vote, sent);
        }
        match &answer {
            Ok(Some(id)) => reached(&self.matched, self.target, vote, id.index()),
            Err(StreamAppendError::Conflict(at)) => {
                let mut all = self.matched.lock();
                let known = all.get_mut(&self.target).filter(|k| k.under == vote && k.index >= at.index());
                if let Some(known) = known.filter(|_| self.log.sync_policy() == SyncPolicy::Always) {
                    let words = format!(
                        "member {} no longer has entry {} that it had acknowledged: its disk has lost data; remove \
                         it, empty its data directory and let it join again",
                        self.target,
                        at.index()
                    );
                    if !std::mem::replace(&mut known.reported, true) {
                        tracing::error!(member = self.target, "{words}");
                    }
                    return Err(unreachable(&Lost::Failed(0, words)));
                }
            }
            _ => {}
        }
        Ok(answer)
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let input = futures_util::stream::iter([rpc]);
        let mut output = self.stream_append(input, option).await?;
        match output.next().await {
            Some(Ok(result)) => Ok(result.into()),
            Some(Err(error)) => Err(error),
            None => Err(RPCError::Network(NetworkError::from_string("the stream ended without an answer"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let patience = option.soft_ttl();
            let late = Instant::now() + patience;
            let mut exchange = match self.peer.open(self.group, patience).await {
                Ok(exchange) => exchange,
                Err(lost) => {
                    // openraft's pause between attempts doesn't count for streams that could not be
                    // opened: without one here it would ask again at once, and for ever.
                    tokio::time::sleep(late - Instant::now()).await;
                    return Err(unreachable(&lost));
                }
            };
            exchange.at_end(Some(Kind::AppendEnd));
            let appending = Appending {
                target: self.target,
                troubles: self.troubles.clone(),
                matched: self.matched.clone(),
                log: self.log.clone(),
                heard: self.heard.clone(),
                vote: None,
                exchange,
                input,
                lane: self.lane,
                open: std::collections::VecDeque::new(),
                open_bytes: 0,
                held: None,
                input_ended: false,
                ended: false,
            };
            let output = futures_util::stream::unfold(appending, |mut appending| async move {
                appending.next().await.map(|item| (item, appending))
            });
            let output: BoxStream<'s, _> = Box::pin(output);
            Ok(output)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Kind::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Kind::PreVote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let target = self.target;
        let last = snapshot.meta.last_log_id;
        tracing::info!(group = self.group, to = target, "a snapshot is being sent");
        let sent = AtomicU64::new(0);
        let mut told = true;
        let result = tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = self.send_snapshot(&vote, snapshot, &sent) => {
                result.map_err(|lost| {
                    told = self.troubles.heard(target, &lost);
                    StreamingError::Unreachable(Unreachable::new(&lost))
                })
            }
        };
        self.sending.lock().remove(&target);
        let bytes = sent.load(Relaxed);
        match &result {
            Ok(response) => {
                if let Some(last) = last.filter(|_| response.vote == vote) {
                    reached(&self.matched, target, vote, last.index());
                }
                self.counters.snapshots_sent.fetch_add(1, Relaxed);
                self.counters.emit(Event::SnapshotSent { to: target, bytes });
                tracing::info!(group = self.group, to = target, bytes, "a snapshot was sent and installed");
            }
            Err(error) if told => {
                tracing::warn!(group = self.group, to = target, bytes, %error, "a snapshot was not sent to its end");
            }
            Err(_) => {}
        }
        result
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RpcError> {
        self.peer
            .ask(Lane::Urgent, Kind::Transfer, self.group, option.hard_ttl(), |out| put_transfer(out, &req))
            .await
            .map(|_| Ok(()))
            .map_err(|lost| unreachable(&lost))
    }

    fn backoff(&self) -> Option<Backoff> {
        // The connection has a pause of its own between attempts to dial; this one only keeps openraft
        // from asking in a tight loop.
        Some(Backoff::new(std::iter::successors(Some(Duration::from_millis(20)), |d| {
            Some((*d * 2).min(Duration::from_millis(200)))
        })))
    }
}

impl Client {
    async fn ask_vote(
        &self,
        kind: Kind,
        request: &VoteRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let body: Bytes = self
            .peer
            .ask(Lane::Urgent, kind, self.group, option.hard_ttl(), |out| put_vote_request(out, request))
            .await
            .map_err(|lost| unreachable(&lost))?;
        read_vote_response(body).map_err(|e| malformed(&e))
    }
}
