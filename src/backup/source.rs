//! The bytes of a backup, made of a view piece by piece: nothing is prepared before somebody asks for it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use quorate_raft::{Capture, View};
use quorate_storage::backup::{Encoder, Head, PIECE_BYTES};

use crate::engine;

/// An iterator over the bytes. It holds what is still to come of the view, and no more than one block and one chunk
/// besides.
pub struct Source {
    head: Option<Head>,
    encoder: Option<Encoder>,
    view: Arc<dyn View>,
    chunks: std::vec::IntoIter<u128>,
    chunk: Vec<u8>,
}

impl Source {
    /// A backup of that state.
    pub fn new(group_uuid: [u8; 16], member: u64, taken_ms: u64, state: Capture) -> Self {
        let Capture { index, term, leader, view } = state;
        let chunks: Vec<u128> = view.chunks().map(|(id, _)| id).collect();
        let head = Head {
            program: concat!("quorate ", env!("CARGO_PKG_VERSION")).to_owned(),
            group_uuid,
            member,
            term,
            leader,
            index,
            taken_ms,
            databases: engine::keys_by_database(&*view),
            chunks: chunks.len() as u64,
            state: view.header(),
        };
        Self { head: Some(head), encoder: None, view, chunks: chunks.into_iter(), chunk: Vec::new() }
    }
}

impl Source {
    /// The same bytes, for whoever reads.
    pub fn into_read(self) -> impl Read {
        Reading { source: self, piece: Bytes::new() }
    }
}

struct Reading {
    source: Source,
    piece: Bytes,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.source.next().unwrap_or_default();
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

impl Iterator for Source {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        if let Some(head) = self.head.take() {
            self.encoder = Some(Encoder::begin(&head, &mut out));
        }
        let mut encoder = self.encoder.take()?;
        let mut done = None;
        while out.len() < PIECE_BYTES {
            let Some(id) = self.chunks.next() else {
                let _ = encoder.end(&mut out);
                return Some(out.into());
            };
            self.chunk.clear();
            self.view.encode(id, &mut self.chunk);
            encoder.chunk(id, &self.chunk, &mut out);
            done = Some(id);
        }
        // What is on its way is not needed here: writes meanwhile must not keep all of the old state in memory.
        if let (Some(id), Some(view)) = (done, Arc::get_mut(&mut self.view)) {
            view.release(id);
        }
        // A slot that was very large must not keep its room.
        self.chunk.shrink_to(PIECE_BYTES);
        self.encoder = Some(encoder);
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    const CHUNKS: u128 = 100;

    /// Chunks of 16 KB, and how many of them were let go of.
    struct Counting(Arc<AtomicU64>);

    impl View for Counting {
        fn header(&self) -> Vec<u8> {
            Vec::new()
        }

        fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_> {
            Box::new((0..CHUNKS).map(|id| (id, 1)))
        }

        fn encode(&self, chunk: u128, out: &mut Vec<u8>) {
            assert!(chunk as u64 >= self.0.load(Relaxed), "it was let go of");
            out.resize(16 << 10, 7);
        }

        fn digest(&self, _chunk: u128, _buffer: &mut Vec<u8>) -> u128 {
            0
        }

        fn release(&mut self, upto: u128) {
            self.0.store(upto as u64 + 1, Relaxed);
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn what_was_taken_is_let_go_of() {
        let released = Arc::new(AtomicU64::new(0));
        let view = Arc::new(Counting(released.clone()));
        let mut source = Source::new([1; 16], 1, 5, Capture { index: 9, term: 4, leader: 1, view });
        assert!(source.next().is_some());
        let some = released.load(Relaxed);
        assert!(some > 0 && u128::from(some) < CHUNKS, "{some} of {CHUNKS} with the first piece");
        assert!(source.count() > 1);
        assert!(u128::from(released.load(Relaxed)) > CHUNKS / 2, "the end holds nothing worth the while");
    }
}
