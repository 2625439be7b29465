//! A small state machine: named counters, kept in 64 chunks.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_raft::{ApplyError, Restore, StateMachine, View};

pub const CHUNKS: u64 = 64;

#[derive(Clone, Default)]
struct Chunk {
    revision: u64,
    counters: BTreeMap<Bytes, (i64, Bytes)>,
}

#[derive(Clone, Default)]
pub struct State {
    revision: u64,
    chunks: BTreeMap<u128, Chunk>,
}

/// `add NAME N [PADDING]` answers the new value; `get NAME` the value; `fail` can't be applied.
#[derive(Default)]
pub struct Toy {
    state: Mutex<State>,
    /// Applied with and without replies: for checking who asks for them.
    pub with_replies: Mutex<u64>,
    /// Chunks that views of it have let go of.
    pub released: Arc<AtomicU64>,
}

fn chunk_of(name: &[u8]) -> u128 {
    u128::from(name.iter().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b))) % CHUNKS)
}

impl Toy {
    pub fn value(&self, name: &str) -> i64 {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let state = self.state.lock();
        state.chunks.get(&chunk_of(&name)).and_then(|c| c.counters.get(&name)).map_or(0, |(n, _)| *n)
    }

    /// All counters.
    pub fn values(&self) -> BTreeMap<Bytes, i64> {
        let state = self.state.lock();
        state.chunks.values().flat_map(|c| c.counters.iter().map(|(k, (n, _))| (k.clone(), *n))).collect()
    }

    fn unit(state: &mut State, unit: &[u8]) -> Result<Bytes, ApplyError> {
        let mut words = unit.splitn(4, |b| *b == b' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let name = Bytes::copy_from_slice(name);
        match verb {
            b"add" => {
                let n: i64 = words
                    .next()
                    .and_then(|w| std::str::from_utf8(w).ok()?.parse().ok())
                    .ok_or(ApplyError::new("no number"))?;
                let padding = Bytes::copy_from_slice(words.next().unwrap_or_default());
                state.revision += 1;
                let chunk = state.chunks.entry(chunk_of(&name)).or_default();
                chunk.revision = state.revision;
                let slot = chunk.counters.entry(name).or_default();
                *slot = (slot.0 + n, padding);
                Ok(slot.0.to_string().into())
            }
            b"del" => {
                let id = chunk_of(&name);
                state.revision += 1;
                if let Some(chunk) = state.chunks.get_mut(&id) {
                    chunk.revision = state.revision;
                    chunk.counters.remove(&name);
                    if chunk.counters.is_empty() {
                        state.chunks.remove(&id);
                    }
                }
                Ok("gone".into())
            }
            _ => Err(ApplyError::new("an unknown unit")),
        }
    }
}

impl StateMachine for Toy {
    fn encode_batch(&self, units: &[Bytes], out: &mut BytesMut) {
        for unit in units {
            out.put_u32(unit.len() as u32);
            out.put_slice(unit);
        }
    }

    fn apply(&self, entry: &Bytes, want_replies: bool) -> Result<Vec<Bytes>, ApplyError> {
        let mut rest = entry.clone();
        let mut replies = Vec::new();
        let mut state = self.state.lock();
        while rest.has_remaining() {
            let n = rest.get_u32() as usize;
            let reply = Self::unit(&mut state, &rest.split_to(n))?;
            if want_replies {
                replies.push(reply);
            }
        }
        *self.with_replies.lock() += u64::from(want_replies);
        Ok(replies)
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(ToyView(self.state.lock().clone(), self.released.clone()))
    }

    fn restore(&self, header: &[u8], _fast: bool) -> Result<Box<dyn Restore>, ApplyError> {
        let revision = header.try_into().map(u64::from_be_bytes).map_err(|_| ApplyError::new("header"))?;
        Ok(Box::new(ToyRestore(State { revision, chunks: BTreeMap::new() })))
    }

    fn install(&self, view: Arc<dyn View>) {
        let view = view.as_any().downcast_ref::<ToyView>().expect("a view of this machine");
        *self.state.lock() = view.0.clone();
    }
}

pub struct ToyView(State, Arc<AtomicU64>);

impl View for ToyView {
    fn header(&self) -> Vec<u8> {
        self.0.revision.to_be_bytes().to_vec()
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_> {
        Box::new(self.0.chunks.iter().map(|(id, c)| (*id, c.revision)))
    }

    fn encode(&self, chunk: u128, out: &mut Vec<u8>) {
        let chunk = &self.0.chunks[&chunk];
        out.put_u64(chunk.revision);
        for (name, (n, padding)) in &chunk.counters {
            out.put_u32(name.len() as u32);
            out.put_slice(name);
            out.put_i64(*n);
            out.put_u32(padding.len() as u32);
            out.put_slice(padding);
        }
    }

    fn digest(&self, chunk: u128, buffer: &mut Vec<u8>) -> u128 {
        self.encode(chunk, buffer);
        // Enough to tell states of a test apart.
        buffer.iter().fold(7, |sum: u128, byte| sum.wrapping_mul(1_000_003).wrapping_add(u128::from(*byte)))
    }

    fn release(&mut self, upto: u128) {
        let before = self.0.chunks.len();
        self.0.chunks.retain(|id, _| *id > upto);
        self.1.fetch_add((before - self.0.chunks.len()) as u64, Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct ToyRestore(State);

impl Restore for ToyRestore {
    fn add(&mut self, chunk: u128, bytes: &[u8]) -> Result<(), ApplyError> {
        let mut rest = bytes;
        let revision = rest.get_u64();
        let mut counters = BTreeMap::new();
        while rest.has_remaining() {
            let n = rest.get_u32() as usize;
            let name = rest.copy_to_bytes(n);
            let value = rest.get_i64();
            let n = rest.get_u32() as usize;
            counters.insert(name, (value, rest.copy_to_bytes(n)));
        }
        self.0.chunks.insert(chunk, Chunk { revision, counters });
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn View>, ApplyError> {
        Ok(Arc::new(ToyView(self.0, Arc::default())))
    }
}
