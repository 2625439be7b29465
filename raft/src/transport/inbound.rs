//! What others want: who may come in, and what their requests start.
//!
//! Requests run in tasks of their own, so that none holds up another; only the entries of one append stream, the pieces
//! of one snapshot and the beginnings of calls keep their order. Whoever sends more than was agreed loses the connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::frame::{self, Frame, Kind};
use super::handshake::{self, Heard};
use super::lanes::Lanes;
use super::parts;
use super::rpc::{Append, put_append_answer, put_vote_response, read_append, read_transfer, read_vote_request};
use super::{Shared, code, snapshot};
use crate::group::Port;
use crate::types::MemberId;

/// Strangers that may be in the handshake at a time.
const STRANGERS: usize = 64;
/// How long one who dials is kept waiting while this node dials him.
const CROSSING: Duration = Duration::from_millis(250);
/// Requests that one append stream may have under way. The sender keeps well below it.
const STREAM_DEPTH: usize = 64;
/// Append streams and snapshots that one connection may have open.
const OPEN_STREAMS: usize = 256;
/// Calls of one peer that may run at a time, or have an answer that has not left yet.
const CALLS: usize = 1024;

pub(super) async fn accept_loop(listener: TcpListener, shared: Arc<Shared>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.notified() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: wait for some to come free.
                tracing::warn!(%error, "cannot accept a peer");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = strangers.clone().try_acquire_owned() else {
            tracing::warn!(%address, "too many handshakes at a time: a connection to the peer port was closed");
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Some((heard, stream)) = greet(stream, address, &shared).await {
                welcome(heard, stream, address, &shared).await;
            }
            drop(permit);
        });
    }
}

async fn greet(mut stream: TcpStream, address: SocketAddr, shared: &Shared) -> Option<(Heard, TcpStream)> {
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(handshake::PATIENCE, handshake::hear(&mut stream, &shared.secret)).await {
        Ok(Ok(heard)) => Some((heard, stream)),
        Ok(Err(error)) => {
            shared.turn_away(address, &error.to_string());
            None
        }
        Err(_) => {
            shared.turn_away(address, "it said nothing in time");
            None
        }
    }
}

/// Decides about one who has proven that he knows the secret, and tells him.
async fn welcome(heard: Heard, mut stream: TcpStream, address: SocketAddr, shared: &Arc<Shared>) {
    let (me, hello) = (shared.directory.me(), &heard.hello);
    let mut taken = shared.directory.judge(hello);
    // This node's own dial would win: only if it leads to nothing is his of use.
    if taken.is_ok()
        && me.member < hello.from
        && let Some(peer) = shared.known(hello.from)
    {
        let _ = tokio::time::timeout(CROSSING, peer.has_dialled()).await;
        taken = shared.directory.judge(hello);
    }
    let taken = taken.and_then(|()| shared.take_in(hello));
    let refused = taken.as_ref().err().map(|(refusal, words)| (*refusal, &words[..]));
    if let Some((refusal, words)) = refused {
        if refusal == handshake::Refusal::Crossed {
            tracing::debug!(peer = hello.from, "a connection crossed another");
        } else {
            shared.turn_away(address, words);
        }
    }
    let answer = heard.answer(&mut stream, &shared.secret, shared.life, me.incarnation, refused);
    let answered = tokio::time::timeout(handshake::PATIENCE, answer).await;
    let Ok(adopted) = taken else { return };
    if !matches!(answered, Ok(Ok(()))) {
        adopted.connection.break_off("it went away in the handshake");
    }
    shared.carry(adopted, stream);
}

/// What the other side has open on one connection.
pub(super) struct Session {
    from: MemberId,
    shared: Arc<Shared>,
    answers: Lanes,
    streams: BTreeMap<u64, mpsc::Sender<Append>>,
    snapshots: BTreeMap<u64, mpsc::Sender<Frame>>,
    calls: Arc<Semaphore>,
    /// For parts of answers that wait to leave.
    room: Arc<Semaphore>,
}

impl Session {
    pub(super) fn new(from: MemberId, shared: Arc<Shared>, answers: Lanes) -> Self {
        let calls = Arc::new(Semaphore::new(CALLS));
        let room = Arc::new(Semaphore::new(parts::WAITING));
        Self { from, shared, answers, streams: BTreeMap::new(), snapshots: BTreeMap::new(), calls, room }
    }

    fn fail(&self, frame: &Frame, code: u8, words: &str) {
        self.answers.answer(frame::encode_failure(Kind::Failure, frame.group, frame.request, code, words));
    }

    /// Takes one frame in; an error ends the connection.
    pub(super) fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame.kind {
            Kind::AppendEnd => {
                self.streams.remove(&frame.request);
                Ok(())
            }
            Kind::SnapshotCancel => {
                self.snapshots.remove(&frame.request);
                Ok(())
            }
            Kind::SnapshotPiece | Kind::SnapshotEnd => self.snapshot_goes_on(frame),
            Kind::Call => self.call(frame),
            Kind::Append | Kind::Vote | Kind::PreVote | Kind::Transfer | Kind::SnapshotBegin => {
                let Some(port) = self.shared.port(frame.group) else {
                    self.fail(&frame, code::NO_GROUP, "the group is not open on this member");
                    return Ok(());
                };
                match frame.kind {
                    Kind::Append => self.append(port, frame),
                    Kind::SnapshotBegin => self.snapshot(port, frame),
                    _ => self.elect(port, frame),
                }
            }
            Kind::Ping | Kind::Reply | Kind::Failure | Kind::Goodbye | Kind::Part => {
                Err(format!("a frame of kind {:?} came where only requests belong", frame.kind))
            }
        }
    }

    fn append(&mut self, port: Arc<Port>, frame: Frame) -> Result<(), String> {
        let request = read_append(frame.body.clone()).map_err(|e| e.to_string())?;
        port.catch_up.heard(&request.vote, request.leader_commit.as_ref());
        if let Some(stream) = self.streams.get(&frame.request) {
            return match stream.try_send(request) {
                // A stream that has ended with an error has told so; what was behind it is void.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => Err("an append stream is deeper than agreed".into()),
            };
        }
        if self.streams.len() >= OPEN_STREAMS {
            return Err("too many append streams are open".into());
        }
        let (tx, rx) = mpsc::channel(STREAM_DEPTH);
        let _ = tx.try_send(request);
        self.streams.insert(frame.request, tx);
        let answers = self.answers.clone();
        let (group, number) = (frame.group, frame.request);
        let refusal = (port.clone(), self.answers.clone());
        tokio::spawn(async move {
            let input = futures_util::stream::unfold((rx, refusal), move |(mut rx, refusal)| async move {
                let request = rx.recv().await?;
                let (port, answers) = &refusal;
                if !request.entries.is_empty() && !port.has_reserve() {
                    // An error ends the stream: what is behind this request can't be taken without it.
                    let words = "the disk of this member has no room for the log";
                    answers.answer(frame::encode_failure(Kind::Failure, group, number, code::NO_ROOM, words));
                    return None;
                }
                Some((request, (rx, refusal)))
            });
            let mut output = std::pin::pin!(port.raft.stream_append(input));
            while let Some(answer) = output.next().await {
                let bytes = match answer {
                    Ok(answer) => frame::encode(Kind::Reply, group, number, |out| {
                        put_append_answer(out, &answer);
                    }),
                    Err(fatal) => frame::encode_failure(Kind::Failure, group, number, code::RAFT, &fatal.to_string()),
                };
                if !answers.answer(bytes) {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Votes and transfers. Not before the restart guard is over.
    fn elect(&self, port: Arc<Port>, frame: Frame) -> Result<(), String> {
        enum Ask {
            Vote(openraft::raft::VoteRequest<crate::types::TypeConfig>, bool),
            Transfer(openraft::raft::TransferLeaderRequest<crate::types::TypeConfig>),
        }
        let ask = match frame.kind {
            Kind::Transfer => Ask::Transfer(read_transfer(frame.body.clone()).map_err(|e| e.to_string())?),
            kind => {
                let request = read_vote_request(frame.body.clone()).map_err(|e| e.to_string())?;
                Ask::Vote(request, kind == Kind::PreVote)
            }
        };
        if !port.may_vote() {
            self.fail(&frame, code::GUARD, "this member has just started and doesn't vote yet");
            return Ok(());
        }
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let reply = match ask {
                Ask::Vote(request, pre) => {
                    let answer = if pre { port.raft.pre_vote(request).await } else { port.raft.vote(request).await };
                    answer.map_err(|e| e.to_string()).map(|response| {
                        frame::encode(Kind::Reply, frame.group, frame.request, |out| {
                            put_vote_response(out, &response);
                        })
                    })
                }
                Ask::Transfer(request) => match port.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Ok(frame::encode(Kind::Reply, frame.group, frame.request, |_| {})),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(fatal) => Err(fatal.to_string()),
                },
            };
            let bytes = reply.unwrap_or_else(|words| {
                frame::encode_failure(Kind::Failure, frame.group, frame.request, code::RAFT, &words)
            });
            answers.answer(bytes);
        });
        Ok(())
    }

    fn snapshot(&mut self, port: Arc<Port>, frame: Frame) -> Result<(), String> {
        let begin = snapshot::Begin::read(frame.body.clone()).map_err(|e| e.to_string())?;
        let which = frame.body.clone();
        if let Err(error) = port.room_for_snapshot() {
            port.counters.snapshot_refused(frame.group, &error);
            self.fail(&frame, code::NO_ROOM, &snapshot::no_room(&error));
            return Ok(());
        }
        self.snapshots.retain(|_, tx| !tx.is_closed());
        if self.snapshots.len() >= OPEN_STREAMS {
            return Err("too many snapshots are open".into());
        }
        let (tx, rx) = mpsc::channel(snapshot::WINDOW + 2);
        self.snapshots.insert(frame.request, tx);
        let answers = self.answers.clone();
        tokio::spawn(snapshot::receive(port, begin, which, frame.group, frame.request, rx, answers));
        Ok(())
    }

    fn snapshot_goes_on(&mut self, frame: Frame) -> Result<(), String> {
        let Some(tx) = self.snapshots.get(&frame.request) else { return Ok(()) };
        match tx.try_send(frame) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err("a snapshot comes faster than agreed".into()),
        }
    }

    fn call(&self, mut frame: Frame) -> Result<(), String> {
        if frame.body.is_empty() {
            return Err("a call of no service".into());
        }
        let service = frame.body.get_u8();
        let Some((home, handler)) = self.shared.service(service) else {
            self.fail(&frame, code::NO_SERVICE, "this member doesn't offer the service");
            return Ok(());
        };
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            self.fail(&frame, code::BUSY, "too many calls are under way");
            return Ok(());
        };
        let (answers, room) = (self.answers.clone(), self.room.clone());
        let work = handler.call(self.from, frame.body);
        home.spawn(async move { parts::send(work.await, frame.request, &answers, &room, permit).await });
        Ok(())
    }
}
