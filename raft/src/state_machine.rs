//! openraft's state machine over ours: applying, checkpoints, and recovery from them.
//!
//! What openraft calls building a snapshot is our checkpoint: a view is taken in sequence with the
//! entries, the chunks that changed since the last one go to the checkpoint store, and its commit makes
//! the log before it dispensable. What is sent to a member that lags is a fresh view, never a file.
//!
//! It must never guess: bytes that are not what was written, an entry that can't be applied, a
//! checkpoint that doesn't fit the log end the member with the reason.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, SnapshotMeta};
use parking_lot::Mutex;
use quorate_storage::checkpoint::{CheckpointError, CheckpointStore};
use tokio::sync::Notify;

use crate::api::{ApplyError, StateMachine, View};
use crate::check::{Checks, Known};
use crate::checkpoint::{Builder, Job};
use crate::config::{Limits, LoadProgress};
use crate::counters::Counters;
use crate::group::Inner;
use crate::log_store::Durable;
use crate::runtime::{self, Instant};
use crate::system::{SystemCommand, SystemState};
use crate::types::{Data, Entry, GroupId, LogId, Payload, Replies, StoredMembership, TypeConfig};
use crate::wire::{Malformed, Reader, put_bytes, put_maybe_log_id, put_stored_membership};

/// How often a full disk is looked at while a snapshot waits for it.
const ROOM_EVERY: Duration = Duration::from_secs(1);
const MANIFEST_VERSION: u8 = 1;

pub(crate) type Meta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A snapshot in memory.
pub(crate) struct SnapshotData {
    /// `None` only in the answer that openraft gets while it starts: it wants to know where the
    /// checkpoint stands, and has its state already.
    pub(crate) view: Option<Arc<dyn View>>,
    pub(crate) system: SystemState,
    /// Its size, if it came from another member.
    received_bytes: Option<u64>,
}

impl SnapshotData {
    pub(crate) fn received(view: Arc<dyn View>, system: SystemState, bytes: u64) -> Self {
        Self { view: Some(view), system, received_bytes: Some(bytes) }
    }
}

/// How far this member has applied, and what this room itself has learnt by that.
#[derive(Clone, Default)]
pub(crate) struct Applied {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) system: SystemState,
}

/// What the last durable checkpoint holds.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) meta: Option<Meta>,
    /// Its chunks and the revision of each.
    pub(crate) chunks: BTreeMap<u128, u64>,
    /// The revision of its view.
    pub(crate) revision: u64,
}

impl Book {
    /// Of a view that is all that the checkpoint holds.
    fn of(meta: Meta, view: &dyn View) -> Self {
        Self { meta: Some(meta), chunks: view.chunks().collect(), revision: view.revision() }
    }
}

/// The state machine of one group; clones share it.
#[derive(Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) group: GroupId,
    machine: Arc<dyn StateMachine>,
    pub(crate) store: CheckpointStore,
    pub(crate) durable: Durable,
    applied: Mutex<Applied>,
    /// Also the right to write a checkpoint: held as long as one is written.
    pub(crate) book: Arc<tokio::sync::Mutex<Book>>,
    /// Bytes of entries applied so far: how much the log has grown, whatever was cut off it.
    pub(crate) log_bytes: AtomicU64,
    /// Known once the group runs. Without it a checkpoint is written as fast as it goes.
    pub(crate) limits: OnceLock<Limits>,
    /// Somebody waits for the checkpoint.
    pub(crate) hurry: AtomicBool,
    /// A snapshot is being installed, or waits for that.
    pub(crate) installing: AtomicBool,
    replay: OnceLock<Replay>,
    /// openraft has started: snapshots are live views from now on.
    live: AtomicBool,
    /// An entry that doesn't follow the one before it is an error. Off only for openraft's suite, which leaves gaps.
    strict: AtomicBool,
    /// Counts changes of the system state and of the membership.
    version: AtomicU64,
    pub(crate) checkpointed: Notify,
    pub(crate) counters: Arc<Counters>,
    checks: Arc<Checks>,
    /// Known once the group runs: what is replayed before that is not compared.
    group_of_damage: OnceLock<Weak<Inner>>,
}

/// How far the log is replayed, for whoever waits.
struct Replay {
    progress: Arc<LoadProgress>,
    bytes: u64,
    done: AtomicU64,
}

impl Replay {
    /// Entries of so many bytes were applied; what is not committed yet comes later, and counts as done at the end.
    fn applied(&self, bytes: u64) {
        let done = self.done.load(Relaxed);
        let more = bytes.min(self.bytes - done);
        self.done.store(done + more, Relaxed);
        self.progress.loaded.fetch_add(more, SeqCst);
    }
}

/// What an entry takes in the log besides its bytes, about.
const ENTRY_HEAD_BYTES: u64 = 64;

pub(crate) fn corrupt(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// What another version wrote is no damage: nothing may be rebuilt, or set aside, for that.
fn unread(error: impl std::fmt::Display, of_other_version: bool) -> io::Error {
    let kind = if of_other_version { io::ErrorKind::Unsupported } else { io::ErrorKind::InvalidData };
    io::Error::new(kind, error.to_string())
}

/// Nor is it damage that the disk does not answer.
fn unread_checkpoint(error: CheckpointError) -> io::Error {
    match error {
        CheckpointError::Version { .. } => unread(error, true),
        error if error.is_damage() => unread(error, false),
        error => io::Error::other(error),
    }
}

pub(crate) fn manifest(meta: &Meta, system: &SystemState, header: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(MANIFEST_VERSION);
    put_maybe_log_id(&mut out, meta.last_log_id.as_ref());
    put_stored_membership(&mut out, &meta.last_membership);
    system.put(&mut out);
    put_bytes(&mut out, header);
    out.freeze()
}

pub(crate) fn read_manifest(bytes: Bytes) -> Result<(Meta, SystemState, Bytes), Malformed> {
    let mut reader = Reader(bytes);
    reader.version("the manifest of the checkpoint", MANIFEST_VERSION)?;
    let meta = SnapshotMeta { last_log_id: reader.maybe_log_id()?, last_membership: reader.stored_membership()? };
    let system = SystemState::read(&mut reader)?;
    let header = reader.bytes()?;
    reader.end()?;
    Ok((meta, system, header))
}

/// Tells how loading goes on.
struct Told<'p> {
    group: GroupId,
    total: u64,
    progress: &'p LoadProgress,
    begun: Instant,
    said: Instant,
}

/// The time between two lines of the log about it.
const TELL_EVERY: Duration = Duration::from_secs(2);

impl<'p> Told<'p> {
    fn new(group: GroupId, total: u64, progress: &'p LoadProgress) -> Self {
        progress.total.fetch_add(total, SeqCst);
        let now = Instant::now();
        Self { group, total, progress, begun: now, said: now }
    }

    fn loaded(&mut self, bytes: u64) {
        let loaded = self.progress.loaded.fetch_add(bytes, SeqCst) + bytes;
        if self.said.elapsed() >= TELL_EVERY {
            self.said = Instant::now();
            let percent = (loaded * 100).checked_div(self.total).unwrap_or(100);
            tracing::info!(group = self.group, percent, loaded, total = self.total, "loading the checkpoint");
        }
    }

    fn done(self) {
        let took_ms = self.begun.elapsed().as_millis() as u64;
        tracing::info!(
            group = self.group,
            bytes = self.total,
            took_ms,
            "the checkpoint is loaded, its digests are right"
        );
    }
}

impl Machine {
    /// Loads the last checkpoint into the state machine. Blocks.
    pub(crate) fn recover(
        group: GroupId,
        machine: Arc<dyn StateMachine>,
        store: CheckpointStore,
        durable: Durable,
        counters: Arc<Counters>,
        progress: &LoadProgress,
    ) -> io::Result<Self> {
        let mut applied = Applied::default();
        let mut book = Book::default();
        let loaded = store.load(group).map_err(unread_checkpoint)?;
        if let Some(loaded) = loaded {
            let manifest = read_manifest(loaded.manifest);
            let (meta, system, header) = manifest.map_err(|e| unread(&e, matches!(e, Malformed::Version { .. })))?;
            let mut restore = machine.restore(&header, true).map_err(|e| unread(&e, e.of_other_version))?;
            let mut told = Told::new(group, loaded.bytes, progress);
            for chunk in loaded.chunks {
                let (id, bytes) = chunk.map_err(unread_checkpoint)?;
                restore.add(id, &bytes).map_err(corrupt)?;
                told.loaded(bytes.len() as u64);
            }
            machine.install(restore.finish().map_err(corrupt)?);
            told.done();
            if let Some(last) = &meta.last_log_id {
                durable.raise(last.index());
            }
            applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone(), system };
            book = Book::of(meta, &*machine.view());
            store.rest();
        }
        let shared = Shared {
            group,
            machine,
            store,
            durable,
            applied: Mutex::new(applied),
            book: Arc::new(tokio::sync::Mutex::new(book)),
            log_bytes: AtomicU64::new(0),
            limits: OnceLock::new(),
            hurry: AtomicBool::new(false),
            installing: AtomicBool::new(false),
            replay: OnceLock::new(),
            live: AtomicBool::new(false),
            strict: AtomicBool::new(true),
            version: AtomicU64::new(1),
            checkpointed: Notify::new(),
            counters,
            checks: Arc::default(),
            group_of_damage: OnceLock::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Applies all of the log that comes behind what was recovered, committed or not. Only for a node that doesn't run.
    pub(crate) fn replay(&self, entries: impl Iterator<Item = io::Result<Entry>>) -> io::Result<()> {
        for entry in entries {
            let entry = entry?;
            self.apply_one(&entry.payload, entry.log_id, false)?;
        }
        Ok(())
    }

    /// So many bytes of the log are about to be replayed.
    pub(crate) fn replays(&self, bytes: u64, progress: Arc<LoadProgress>) {
        progress.total.fetch_add(bytes, SeqCst);
        let _ = self.shared.replay.set(Replay { progress, bytes, done: AtomicU64::new(0) });
    }

    /// openraft has started.
    pub(crate) fn go_live(&self) {
        self.shared.live.store(true, SeqCst);
        if let Some(replay) = self.shared.replay.get() {
            replay.applied(u64::MAX);
        }
    }

    #[cfg(test)]
    pub(crate) fn allow_gaps(&self) {
        self.shared.strict.store(false, SeqCst);
    }

    pub(crate) fn applied(&self) -> Applied {
        self.shared.applied.lock().clone()
    }

    pub(crate) fn applied_index(&self) -> Option<u64> {
        self.shared.applied.lock().last.as_ref().map(LogId::index)
    }

    /// Changes whenever the system state or the membership does.
    pub(crate) fn version(&self) -> u64 {
        self.shared.version.load(SeqCst)
    }

    pub(crate) fn checks(&self) -> &Checks {
        &self.shared.checks
    }

    /// The digest of what is held here at a position.
    pub(crate) fn digest_at(&self, index: u64) -> Known {
        self.shared.checks.known(index, self.applied_index())
    }

    /// Who is to be told if what is held here turns out to be damaged.
    pub(crate) fn tell_damage(&self, inner: Weak<Inner>) {
        let _ = self.shared.group_of_damage.set(inner);
    }

    pub(crate) fn durable(&self) -> Option<u64> {
        self.shared.durable.index()
    }

    /// Checkpoints are written at this pace from now on.
    pub(crate) fn pace(&self, limits: Limits) {
        let _ = self.shared.limits.set(limits);
    }

    /// The last checkpoint was found to be damaged, and is not written anew yet.
    pub(crate) fn has_lost_its_checkpoint(&self) -> bool {
        self.shared.store.is_lost()
    }

    /// Somebody waits for the checkpoint that is being written, or that comes next.
    pub(crate) fn hurry(&self) {
        self.shared.hurry.store(true, SeqCst);
    }

    /// Waits until the durable checkpoint holds the index, or for so long.
    pub(crate) async fn wait_durable(&self, index: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let notified = self.shared.checkpointed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.shared.durable.index() >= Some(index) {
                return true;
            }
            let left = deadline - Instant::now();
            if left.is_zero() || tokio::time::timeout(left, notified).await.is_err() {
                return self.shared.durable.index() >= Some(index);
            }
        }
    }

    /// Makes the state of a snapshot durable. A disk that has filled since there was room is waited for: openraft would
    /// take an error for the end.
    async fn write_installed(
        &self,
        view: &Arc<dyn View>,
        applied: &Applied,
    ) -> io::Result<tokio::sync::OwnedMutexGuard<Book>> {
        let shared = &self.shared;
        let stopping =
            || shared.group_of_damage.get().and_then(Weak::upgrade).is_none_or(|group| group.stopping.load(SeqCst));
        loop {
            let book = shared.book.clone().lock_owned().await;
            let job = Job::new(shared.clone(), view.clone(), book, applied, true);
            match runtime::blocking(move || job.run_now()).await? {
                Err(error @ CheckpointError::NoRoom(_)) if !stopping() => {
                    shared.counters.snapshot_refused(shared.group, &error);
                    tokio::time::sleep(ROOM_EVERY).await;
                }
                written => return written.map_err(io::Error::other),
            }
        }
    }

    fn apply_one(&self, payload: &Payload, log_id: LogId, want_replies: bool) -> io::Result<Replies> {
        let shared = &*self.shared;
        let before = shared.applied.lock().last.as_ref().map(LogId::index);
        if shared.strict.load(SeqCst) && before.is_some_and(|before| log_id.index() != before + 1) {
            return Err(corrupt(format!("entry {} comes after entry {before:?}", log_id.index())));
        }
        let replies = match payload {
            Payload::Normal(Data::App(bytes)) => {
                shared.log_bytes.fetch_add(bytes.len() as u64 + ENTRY_HEAD_BYTES, Relaxed);
                if !shared.live.load(SeqCst)
                    && let Some(replay) = shared.replay.get()
                {
                    replay.applied(bytes.len() as u64);
                }
                let start = Instant::now();
                let replies =
                    shared.machine.apply(bytes, want_replies).map_err(|ApplyError { words: why, .. }| {
                        io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("entry {} can't be applied: {why}", log_id.index()),
                        )
                    })?;
                shared.counters.apply_us.record(start.elapsed().as_micros() as u64);
                replies
            }
            Payload::Normal(Data::System(bytes)) => {
                let command = SystemCommand::decode(bytes.clone()).map_err(corrupt)?;
                if let (SystemCommand::Check { hurry }, Some(inner)) = (&command, shared.group_of_damage.get()) {
                    shared.checks.mark(log_id.index(), shared.machine.view(), *hurry, inner.clone());
                }
                let answer = shared.applied.lock().system.apply(&command);
                shared.version.fetch_add(1, SeqCst);
                vec![answer]
            }
            Payload::Membership(membership) => {
                let mut applied = shared.applied.lock();
                applied.membership = StoredMembership::new(Some(log_id), membership.clone());
                // Whatever way an id came in, it is taken.
                applied.system.saw_members(membership.nodes().map(|(id, _)| *id));
                drop(applied);
                shared.version.fetch_add(1, SeqCst);
                Vec::new()
            }
            Payload::Blank => Vec::new(),
        };
        shared.applied.lock().last = Some(log_id);
        Ok(replies)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = self.build().await?;
        // openraft keeps only what it is called; whoever wants the state is given a fresh view.
        let snapshot = SnapshotData { view: None, system: SystemState::default(), received_bytes: None };
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.shared.applied.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let replies = self.apply_one(&entry.payload, entry.log_id, responder.is_some())?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shared: self.shared.clone(), view: Some(self.shared.machine.view()), applied: self.applied() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let view = snapshot.view.ok_or_else(|| corrupt("a snapshot without a state"))?;
        let applied =
            Applied { last: meta.last_log_id, membership: meta.last_membership.clone(), system: snapshot.system };
        // A checkpoint that is being written would be older: it is given up.
        self.shared.installing.store(true, SeqCst);
        let written = self.write_installed(&view, &applied).await;
        self.shared.installing.store(false, SeqCst);
        let mut book = written?;
        let shared = &*self.shared;
        shared.machine.install(view);
        shared.checks.forget();
        // Its revisions are of this member's own counting from now on.
        *book = Book::of(meta.clone(), &*shared.machine.view());
        *shared.applied.lock() = applied;
        shared.version.fetch_add(1, SeqCst);
        if let (Some(bytes), Some(last)) = (snapshot.received_bytes, &meta.last_log_id) {
            shared.counters.snapshot_installed(last.index(), bytes);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if !self.shared.live.load(SeqCst) {
            // While it starts, openraft takes what is said here for durable, and cuts the log by it.
            let meta = self.shared.book.lock().await.meta.clone();
            return Ok(meta.map(|meta| Snapshot {
                meta,
                snapshot: SnapshotData { view: None, system: SystemState::default(), received_bytes: None },
            }));
        }
        let applied = self.applied();
        if applied.last.is_none() {
            return Ok(None);
        }
        let meta = Meta { last_log_id: applied.last, last_membership: applied.membership };
        let view = Some(self.shared.machine.view());
        Ok(Some(Snapshot { meta, snapshot: SnapshotData { view, system: applied.system, received_bytes: None } }))
    }
}
