//! What the upper layer implements: the state machine behind a group, and services between peers.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::types::MemberId;

/// A boxed future, as used where a trait has to stay object safe.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The state machine can't go on: its bytes are not what it wrote, or an invariant is broken.
///
/// It stops the member. A command that merely fails is not an error here but a reply.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{words}")]
pub struct ApplyError {
    /// What is wrong.
    pub words: String,
    /// The bytes are sound, and those of another version of this program.
    pub of_other_version: bool,
}

impl ApplyError {
    /// That the bytes, or what is made of them, are wrong.
    #[must_use]
    pub fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), of_other_version: false }
    }
}

/// The replicated state of a group.
///
/// The contract: `apply` is deterministic; given the same entries in the same order every member
/// holds the same state, whatever `want_replies` says. Calls to `apply`, `view` and `install` come
/// from one task, one at a time.
pub trait StateMachine: Send + Sync + 'static {
    /// Makes one entry of the units that waited. Called on the leader only; it may look at the clock
    /// and at chance, and writes what it saw into the entry. It appends to `out`.
    fn encode_batch(&self, units: &[Bytes], out: &mut BytesMut);

    /// Applies one committed entry. With `want_replies` it returns one reply per unit, in order.
    fn apply(&self, entry: &Bytes, want_replies: bool) -> Result<Vec<Bytes>, ApplyError>;

    /// A consistent, immutable view of the whole state. It must be cheap: microseconds.
    fn view(&self) -> Arc<dyn View>;

    /// Begins to build a state from a header and chunks of another view. With `fast` nobody is served meanwhile, and it
    /// may take all processors.
    fn restore(&self, header: &[u8], fast: bool) -> Result<Box<dyn Restore>, ApplyError>;

    /// Replaces the state by what a [`Restore`] has built.
    fn install(&self, view: Arc<dyn View>);
}

/// A stretch of chunk ids, and all chunks that are in it now, in order: ids and the revisions of their last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The stretch.
    pub ids: RangeInclusive<u128>,
    /// The chunks.
    pub chunks: Vec<(u128, u64)>,
}

/// An immutable state, readable in chunks.
pub trait View: Send + Sync {
    /// What is needed before the chunks.
    fn header(&self) -> Vec<u8>;
    /// The non-empty chunks: id, and the revision of its last change. A chunk whose revision is the
    /// same in two views of one line of history is the same.
    fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_>;
    /// Which state of its line of history it is: greater in later ones that differ.
    fn revision(&self) -> u64 {
        0
    }
    /// What became of the chunks since the view of that revision, of the same line of history. It may tell of more
    /// than did change, as this does, never of less.
    fn changes(&self, since: u64) -> Box<dyn Iterator<Item = Change> + '_> {
        let _ = since;
        Box::new(std::iter::once(Change { ids: 0..=u128::MAX, chunks: self.chunks().collect() }))
    }
    /// Appends the chunk's bytes.
    fn encode(&self, chunk: u128, out: &mut Vec<u8>);
    /// A digest of the chunk's bytes: equal on all members that hold the same. `buffer` is room to work in, and holds
    /// them afterwards.
    fn digest(&self, chunk: u128, buffer: &mut Vec<u8>) -> u128;
    /// Chunks up to this one, in order of their ids, are not asked for any more: what only they need may be freed.
    fn release(&mut self, _upto: u128) {}
    /// For the implementer: to get its own type back in [`StateMachine::install`].
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A state under construction.
pub trait Restore: Send {
    /// Adds a chunk. Chunks come in ascending order of their ids, each at most once.
    fn add(&mut self, chunk: u128, bytes: &[u8]) -> Result<(), ApplyError>;
    /// All chunks are there.
    fn finish(self: Box<Self>) -> Result<Arc<dyn View>, ApplyError>;
}

/// Bytes that belong together, one behind the other: so nobody has to copy what is large to put a few bytes before it.
pub type Pieces = Vec<Bytes>;

/// Answers calls of other members (`Node::call`).
pub trait Service: Send + Sync + 'static {
    /// Runs one call. Calls of one peer begin in the order in which they were made and run side by side. The answer may
    /// be of any length.
    fn call(&self, from: MemberId, body: Bytes) -> BoxFuture<Pieces>;
}
