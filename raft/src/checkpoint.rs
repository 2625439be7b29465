//! Writing a checkpoint beside everything else: in small steps, at the pace of `pace.rs`.
//!
//! Each step encodes and writes a few chunks on a thread that gives way to all others; between steps nothing of it runs.
//! Of the view, what is written is let go at once, so that entries applied meanwhile don't have to keep it in memory. It
//! must never be what others wait for: a snapshot to install ends it, and who waits for it says so and gets it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use bytes::Bytes;
use quorate_storage::checkpoint::{CheckpointError, Writer};
use tokio::sync::OwnedMutexGuard;

use crate::api::{Change, View};
use crate::events::Event;
use crate::pace::{self, Next, Seen};
use crate::runtime::{self, Background, Instant};
use crate::state_machine::{Applied, Book, Meta, Shared, corrupt, manifest};

/// A row that is removed counts as much as one that is written.
const ROW_BYTES: usize = 8 << 10;
/// And one that is reserved as much as this.
const RESERVED_BYTES: usize = 256;
/// The buffer that a chunk is encoded in keeps this: few chunks need more, and none of these is made room for anew.
const BUFFER_BYTES: usize = 64 << 10;
/// So much of a file that nobody needs is given back at a time.
const DISCARD_BYTES: u64 = 1 << 20;

/// One checkpoint, from the view to the last old row.
pub(crate) struct Job {
    shared: Arc<Shared>,
    view: Arc<dyn View>,
    book: OwnedMutexGuard<Book>,
    meta: Meta,
    manifest: Bytes,
    /// The revision of the view, and how many chunks it has.
    revision: u64,
    chunks: u64,
    stage: Stage,
    /// Chunks and rows to work on in this stage, and how many of them are done.
    total: u64,
    done: u64,
    chunks_put: u64,
    bytes_put: u64,
    buffer: Vec<u8>,
    /// When the stage began, and where the log was then.
    begun: Instant,
    log_then: u64,
}

enum Stage {
    Begin { whole: bool },
    Put { writer: Box<Writer>, news: News, reserved: usize, at: usize },
    Sweep,
    Discard,
    Done,
}

/// What is to be written.
struct News {
    /// Nothing of the checkpoint before stays.
    whole: bool,
    /// Chunks, with the revision of each.
    puts: Vec<(u128, u64)>,
    /// Chunks that are no more.
    removals: Vec<u128>,
}

impl News {
    /// What a view has that is not in the book.
    fn of(view: &dyn View, book: &Book, whole: bool) -> Self {
        let (mut puts, mut removals) = (Vec::new(), Vec::new());
        if whole {
            puts.extend(view.chunks());
            return Self { whole, puts, removals };
        }
        for Change { ids, chunks } in view.changes(book.revision) {
            let there = |id: &u128| chunks.binary_search_by_key(id, |(id, _)| *id).is_ok();
            removals.extend(book.chunks.range(ids).map(|(id, _)| *id).filter(|id| !there(id)));
            puts.extend(chunks.into_iter().filter(|(id, at)| book.chunks.get(id) != Some(at)));
        }
        Self { whole, puts, removals }
    }

    /// They are durable.
    fn enter(self, book: &mut Book) {
        if self.whole {
            book.chunks.clear();
        }
        for id in self.removals {
            book.chunks.remove(&id);
        }
        book.chunks.extend(self.puts);
    }
}

/// What became of it.
pub(crate) enum Outcome {
    /// It is durable.
    Written,
    /// It was given up for a snapshot, which is newer.
    GivenUp,
}

impl Job {
    /// A checkpoint of the view. `whole`: of all chunks, whatever was there before.
    pub(crate) fn new(
        shared: Arc<Shared>,
        view: Arc<dyn View>,
        book: OwnedMutexGuard<Book>,
        applied: &Applied,
        whole: bool,
    ) -> Self {
        let meta = Meta { last_log_id: applied.last, last_membership: applied.membership.clone() };
        let manifest = manifest(&meta, &applied.system, &view.header());
        let log_then = shared.log_bytes.load(Relaxed);
        Self {
            shared,
            view,
            book,
            meta,
            manifest,
            revision: 0,
            chunks: 0,
            stage: Stage::Begin { whole },
            total: 0,
            done: 0,
            chunks_put: 0,
            bytes_put: 0,
            buffer: Vec::new(),
            begun: Instant::now(),
            log_then,
        }
    }

    /// Writes it at its pace. The book is free when this has ended.
    pub(crate) async fn run(mut self) -> io::Result<Result<Outcome, CheckpointError>> {
        let shared = self.shared.clone();
        // A thread of its own, for this one only: what it has freed goes back to the system when it ends.
        let background = Background::start().ok();
        loop {
            if shared.installing.load(SeqCst) {
                let committed = matches!(self.stage, Stage::Sweep | Stage::Discard | Stage::Done);
                return Ok(Ok(if committed { Outcome::Written } else { Outcome::GivenUp }));
            }
            let next = self.next();
            if next == Next::Rest {
                tokio::time::sleep(pace::REST).await;
                continue;
            }
            let work = move || {
                let outcome = self.step();
                (self, outcome)
            };
            let (back, outcome) = match &background {
                Some(background) if next == Next::Work => background.run(work).await?,
                _ => runtime::blocking(work).await?,
            };
            self = back;
            if let Err(error) = outcome {
                return Ok(Err(error));
            }
            if matches!(self.stage, Stage::Done) {
                return Ok(Ok(Outcome::Written));
            }
        }
    }

    /// Writes it as fast as it goes. Blocks.
    pub(crate) fn run_now(mut self) -> Result<OwnedMutexGuard<Book>, CheckpointError> {
        while !matches!(self.stage, Stage::Done) {
            self.step()?;
        }
        Ok(self.book)
    }

    fn next(&self) -> Next {
        let Some(limits) = self.shared.limits.get() else { return Next::Hurry };
        if self.shared.hurry.load(SeqCst) {
            return Next::Hurry;
        }
        let seen = Seen {
            done: self.done as f64 / self.total.max(1) as f64,
            log_bytes: self.shared.log_bytes.load(Relaxed) - self.log_then,
            elapsed: self.begun.elapsed(),
            state_bytes: match self.stage {
                // It costs little.
                Stage::Discard => self.total * DISCARD_BYTES / 8,
                // Chunks are much alike: keys are spread over them by hash.
                _ => (self.bytes_put * self.chunks).checked_div(self.chunks_put).unwrap_or(0),
            },
        };
        pace::next(limits, &seen)
    }

    fn enter(&mut self, what: &str, stage: Stage, total: u64) {
        tracing::debug!(group = self.shared.group, total, "a checkpoint goes on to {what}");
        (self.stage, self.total, self.done) = (stage, total, 0);
        (self.begun, self.log_then) = (Instant::now(), self.shared.log_bytes.load(Relaxed));
    }

    /// A little of it. Blocks.
    fn step(&mut self) -> Result<(), CheckpointError> {
        match &mut self.stage {
            Stage::Begin { whole } => {
                let whole = *whole;
                self.begin(whole)
            }
            Stage::Put { .. } => self.put(),
            Stage::Sweep => {
                let rows = (self.step_bytes() / ROW_BYTES).max(1);
                self.done += rows as u64;
                if !self.shared.store.sweep(self.shared.group, rows) {
                    let left = self.shared.store.left_over() / DISCARD_BYTES;
                    self.enter("discard the store that it replaced", Stage::Discard, left);
                }
                Ok(())
            }
            Stage::Discard => {
                self.done += 1;
                if !self.shared.store.discard(DISCARD_BYTES) {
                    // sled keeps what it has read and written in memory for as long as it is open.
                    self.shared.store.rest();
                    self.stage = Stage::Done;
                }
                Ok(())
            }
            Stage::Done => Ok(()),
        }
    }

    fn step_bytes(&self) -> usize {
        self.shared.limits.get().map_or(pace::STEP_BYTES, |limits| limits.checkpoint_step_bytes)
    }

    fn begin(&mut self, whole: bool) -> Result<(), CheckpointError> {
        let (store, group) = (&self.shared.store, self.shared.group);
        let mut news = News::of(&*self.view, &self.book, whole);
        let chunks = self.book.chunks.len().max(news.puts.len());
        let whole = whole || store.had_better_be_whole(group, news.puts.len(), chunks);
        let writer = if whole { store.begin_whole(group)? } else { store.begin(group)? };
        if writer.is_whole() && !news.whole {
            news = News::of(&*self.view, &self.book, true);
        }
        self.revision = self.view.revision();
        self.chunks = chunks as u64;
        let total = (news.puts.len() + news.removals.len()) as u64;
        let what = if news.whole { "put all chunks" } else { "put chunks" };
        self.enter(what, Stage::Put { writer: Box::new(writer), news, reserved: 0, at: 0 }, total);
        Ok(())
    }

    fn put(&mut self) -> Result<(), CheckpointError> {
        let (mut left, mut written) = (self.step_bytes(), None);
        let Stage::Put { writer, news, reserved, at } = &mut self.stage else { return Ok(()) };
        if news.whole && *reserved < news.puts.len() {
            let some = news.puts.len().min(*reserved + (left / RESERVED_BYTES).max(1));
            news.puts[*reserved..some].iter().try_for_each(|(id, _)| writer.reserve(*id))?;
            *reserved = some;
            return Ok(());
        }
        while left > 0 {
            if let Some((id, _)) = news.puts.get(*at).copied() {
                self.buffer.clear();
                self.view.encode(id, &mut self.buffer);
                writer.put(id, &self.buffer)?;
                written = Some(id);
                self.chunks_put += 1;
                self.bytes_put += self.buffer.len() as u64;
                left = left.saturating_sub(self.buffer.len().max(64));
                // What one giant chunk needed is not kept for the others.
                self.buffer.shrink_to(BUFFER_BYTES);
            } else if let Some(id) = news.removals.get(*at - news.puts.len()).copied() {
                writer.remove(id)?;
                left = left.saturating_sub(ROW_BYTES);
            } else {
                return self.commit();
            }
            *at += 1;
            self.done += 1;
        }
        // A snapshot that is being installed has its view for itself.
        if let (Some(id), Some(view)) = (written, Arc::get_mut(&mut self.view)) {
            view.release(id);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), CheckpointError> {
        let Stage::Put { writer, news, .. } = std::mem::replace(&mut self.stage, Stage::Done) else { return Ok(()) };
        if let Some(view) = Arc::get_mut(&mut self.view) {
            view.release(u128::MAX);
        }
        writer.commit_only(&self.manifest)?;
        let shared = self.shared.clone();
        news.enter(&mut self.book);
        (self.book.meta, self.book.revision) = (Some(self.meta.clone()), self.revision);
        if let Some(last) = &self.meta.last_log_id {
            shared.durable.raise(last.index());
            shared.counters.emit(Event::Checkpoint { index: last.index() });
        }
        shared.checkpointed.notify_waiters();
        self.enter("sweep what they replaced", Stage::Sweep, shared.store.replaced(shared.group) as u64);
        Ok(())
    }
}

/// A checkpoint to be written: the view, and where in the log it was taken.
pub(crate) struct Builder {
    pub(crate) shared: Arc<Shared>,
    /// Given away when it is written.
    pub(crate) view: Option<Arc<dyn View>>,
    pub(crate) applied: Applied,
}

impl Builder {
    pub(crate) async fn build(&mut self) -> io::Result<Meta> {
        let shared = self.shared.clone();
        let view = self.view.take().ok_or_else(|| io::Error::other("a checkpoint is built once"))?;
        let book = shared.book.clone().lock_owned().await;
        // A snapshot may have been installed since the view was taken; it is newer.
        let before = book.meta.clone();
        let is_newer = before.as_ref().is_none_or(|old| old.last_log_id < self.applied.last);
        // What was saved is of no use once the store has lost it.
        let is_news = is_newer || shared.store.is_lost();
        let start = Instant::now();
        let meta = Meta { last_log_id: self.applied.last, last_membership: self.applied.membership.clone() };
        shared.counters.checkpoint_since.store(start.as_nanos(), Relaxed);
        let outcome = match is_news {
            true => Some(Job::new(shared.clone(), view, book, &self.applied, false).run().await?),
            false => None,
        };
        shared.counters.checkpoint_since.store(0, Relaxed);
        shared.hurry.store(false, SeqCst);
        match outcome {
            Some(Ok(Outcome::Written)) => {
                shared.counters.checkpointed(start.elapsed());
                Ok(meta)
            }
            Some(Err(error)) if error.is_damage() => Err(corrupt(format!("the checkpoint store is corrupt: {error}"))),
            // Nothing more can be saved, and the log would grow for ever.
            Some(Err(error @ CheckpointError::Disk(_))) => Err(io::Error::other(error)),
            // The log still holds everything. Say so and try again later: a full disk may get room.
            Some(Err(error)) => {
                shared.counters.checkpoint_failed(shared.group, &error);
                Ok(before.unwrap_or_default())
            }
            Some(Ok(Outcome::GivenUp)) | None => Ok(before.unwrap_or_default()),
        }
    }
}
