//! Sending a snapshot: piece by piece, at a rate, and on from where it broke off.
//!
//! What the receiver has confirmed is let go of, so that writes meanwhile keep no more of the old state in memory than
//! what is still to be sent. A receiver that has lost what it had confirmed can't be served from here any more: this
//! snapshot is given up, and openraft takes the next one of a fresh view. It must never be asked for a chunk again that
//! was let go of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;

use super::{Client, Snapshot};
use crate::api::View;
use crate::pace::STEP_BYTES;
use crate::runtime::Instant;
use crate::state_machine::Meta;
use crate::status::SnapshotProgress;
use crate::system::SystemState;
use crate::transport::{Exchange, Kind, Lane, Lost, put_begin, put_end, put_piece, read_resume};
use crate::types::{TypeConfig, Vote};
use crate::wire::Reader;

/// Snapshot pieces under way.
const PIECES: usize = 6;
/// A snapshot that was broken off goes on after a pause, and is given up when nothing more arrives for so long.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
const RESUME_PATIENCE: Duration = Duration::from_secs(30);
/// A piece that is not confirmed for so long is lost.
const PIECE_PATIENCE: Duration = Duration::from_secs(30);

/// What is sent. A view that has let go of chunks tells neither of them nor how many there were: both are kept here.
struct Outgoing {
    meta: Meta,
    system: SystemState,
    header: Vec<u8>,
    view: Arc<dyn View>,
    ids: Vec<u128>,
    /// The last chunk that was let go of: the receiver has it, and all before it.
    released: Option<u128>,
    /// Bytes that were confirmed since.
    unreleased: usize,
}

impl Outgoing {
    fn new(snapshot: Snapshot) -> Option<Self> {
        let view = snapshot.snapshot.view?;
        let (header, ids) = (view.header(), view.chunks().map(|(id, _)| id).collect());
        let (meta, system) = (snapshot.meta, snapshot.snapshot.system);
        Some(Self { meta, system, header, view, ids, released: None, unreleased: 0 })
    }

    /// The receiver has this piece, and all before it.
    fn confirmed(&mut self, piece: Piece) {
        self.unreleased += piece.bytes;
        // Not for each little chunk: letting go looks at every database.
        let Some(chunk) = piece.ends.filter(|_| self.unreleased >= STEP_BYTES) else { return };
        // Nobody else has this view: it was taken for this snapshot.
        if let Some(view) = Arc::get_mut(&mut self.view) {
            view.release(chunk);
            (self.released, self.unreleased) = (Some(chunk), 0);
        }
    }
}

/// A piece under way.
#[derive(Clone, Copy)]
struct Piece {
    bytes: usize,
    /// The chunk that ends with it.
    ends: Option<u128>,
}

impl Client {
    /// Sends a snapshot. Broken off, it goes on where the receiver says, as long as there is progress.
    pub(super) async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: Snapshot,
        sent: &AtomicU64,
    ) -> Result<SnapshotResponse<TypeConfig>, Lost> {
        let Some(mut outgoing) = Outgoing::new(snapshot) else {
            return Err(Lost::Failed(0, "there is no state to send yet".into()));
        };
        let (mut moved, mut before) = (Instant::now(), 0);
        loop {
            let lost = match self.send_snapshot_once(vote, &mut outgoing, sent).await {
                Err(lost @ (Lost::Broken(_) | Lost::NotSent(_))) => lost,
                outcome => return outcome,
            };
            let now = sent.load(Relaxed);
            if now > before {
                (moved, before) = (Instant::now(), now);
            }
            if now == 0 || moved.elapsed() >= RESUME_PATIENCE {
                return Err(lost);
            }
            tracing::info!(group = self.group, to = self.target, bytes = now, %lost, "a snapshot was broken off");
            tokio::time::sleep(RESUME_PAUSE).await;
        }
    }

    /// Opens the exchange and begins: from which chunk on the receiver needs it, and how many chunks and bytes it has.
    async fn begin_snapshot(&self, vote: &Vote, outgoing: &Outgoing) -> Result<(Exchange, u128, u64, u64), Lost> {
        let mut exchange = self.peer.open(self.group, PIECE_PATIENCE).await?;
        exchange.at_end(Some(Kind::SnapshotCancel));
        let Outgoing { meta, system, header, .. } = outgoing;
        exchange
            .send(Lane::Bulk, Kind::SnapshotBegin, |out| {
                put_begin(out, vote, meta.last_log_id.as_ref(), &meta.last_membership, system, header);
            })
            .await?;
        let answer = answered(&mut exchange).await?;
        let (from, chunks, bytes) = read_resume(answer).map_err(|e| Lost::Broken(e.to_string()))?;
        Ok((exchange, from, chunks, bytes))
    }

    async fn send_snapshot_once(
        &self,
        vote: &Vote,
        outgoing: &mut Outgoing,
        sent: &AtomicU64,
    ) -> Result<SnapshotResponse<TypeConfig>, Lost> {
        let (mut exchange, from, chunks_done, there) = self.begin_snapshot(vote, outgoing).await?;
        // Only the receiver knows: one that has been started anew has nothing of it.
        if outgoing.released.is_some_and(|released| from <= released) {
            return Err(Lost::Failed(0, "the receiver has begun anew: it is sent a newer snapshot".into()));
        }
        if sent.load(Relaxed) > 0 {
            let how = if there > 0 { "a snapshot goes on where it broke off" } else { "a snapshot begins anew" };
            tracing::info!(group = self.group, to = self.target, bytes = there, "{how}");
        }
        let chunks_total = outgoing.ids.len() as u64;
        let mut progress = SnapshotProgress { chunks_done, chunks_total, bytes_sent: there };
        let mut pace = Pace::new(self.snapshot_rate);
        // Pieces that are not confirmed yet.
        let mut open: VecDeque<Piece> = VecDeque::new();
        let mut bytes = Vec::new();
        let first = outgoing.ids.partition_point(|id| *id < from);
        for at in first..outgoing.ids.len() {
            let id = outgoing.ids[at];
            bytes.clear();
            outgoing.view.encode(id, &mut bytes);
            let mut rest = &bytes[..];
            loop {
                let (piece, after) = rest.split_at(rest.len().min(self.piece_bytes));
                rest = after;
                while open.len() >= PIECES {
                    confirm(&mut exchange, &mut open, outgoing).await?;
                }
                exchange
                    .send(Lane::Bulk, Kind::SnapshotPiece, |out| put_piece(out, id, rest.is_empty(), piece))
                    .await?;
                open.push_back(Piece { bytes: piece.len(), ends: rest.is_empty().then_some(id) });
                progress.bytes_sent += piece.len() as u64;
                sent.store(progress.bytes_sent, Relaxed);
                self.counters.snapshot_bytes_sent.fetch_add(piece.len() as u64, Relaxed);
                pace.wait(piece.len()).await;
                if rest.is_empty() {
                    break;
                }
            }
            progress.chunks_done += 1;
            self.sending.lock().insert(self.target, progress);
        }
        while !open.is_empty() {
            confirm(&mut exchange, &mut open, outgoing).await?;
        }
        let (chunks, total) = (progress.chunks_done, progress.bytes_sent);
        exchange.send(Lane::Bulk, Kind::SnapshotEnd, |out| put_end(out, chunks, total)).await?;
        // Installing takes as long as the other disk needs; the connection tells if it died.
        let body = exchange.answer().await?;
        exchange.at_end(None);
        let vote = Reader(body).vote().map_err(|e| Lost::Broken(e.to_string()))?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// Waits until the oldest piece under way is confirmed.
async fn confirm(exchange: &mut Exchange, open: &mut VecDeque<Piece>, outgoing: &mut Outgoing) -> Result<(), Lost> {
    answered(exchange).await?;
    if let Some(piece) = open.pop_front() {
        outgoing.confirmed(piece);
    }
    Ok(())
}

/// Holds what is sent to so many bytes a second.
struct Pace {
    rate: u64,
    begun: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, begun: Instant::now(), sent: 0 }
    }

    async fn wait(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.rate > 0 {
            let due = self.begun + Duration::from_secs_f64(self.sent as f64 / self.rate as f64);
            let left = due - Instant::now();
            if !left.is_zero() {
                tokio::time::sleep(left).await;
            }
        }
    }
}

async fn answered(exchange: &mut Exchange) -> Result<Bytes, Lost> {
    match tokio::time::timeout(PIECE_PATIENCE, exchange.answer()).await {
        Ok(answer) => answer,
        Err(_) => Err(Lost::Broken("a piece of the snapshot was not confirmed in time".into())),
    }
}
