//! Loading a state on several threads: the keyspace room itself has none.
//!
//! The one that calls reads the chunks; workers decode them; their results are put in place, in order, when all have come. What
//! waits for a worker is bounded.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use quorate_keyspace::Corrupt;
use quorate_keyspace::view::{self, Decoded, Decoder};
use quorate_raft::{ApplyError, Restore, View};

use super::{KeyspaceView, failed};

/// Chunks that may wait for each worker.
const WAITING: usize = 32;
/// More would wait for the one that reads.
const MAX_WORKERS: usize = 8;

struct Worker {
    chunks: SyncSender<(u128, Vec<u8>)>,
    thread: JoinHandle<Result<Vec<Decoded>, Corrupt>>,
}

struct Parallel {
    restore: view::Restore,
    workers: Vec<Worker>,
    next: usize,
}

/// A restore that decodes on as many threads as there are processors.
pub(super) fn restore(restore: view::Restore) -> Result<Box<dyn Restore>, ApplyError> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let workers = (0..count).map(|_| worker(restore.decoder())).collect::<Result<_, _>>()?;
    Ok(Box::new(Parallel { restore, workers, next: 0 }))
}

fn worker(decoder: Decoder) -> Result<Worker, ApplyError> {
    let (chunks, queue) = sync_channel::<(u128, Vec<u8>)>(WAITING);
    let work = move || queue.into_iter().map(|(chunk, bytes)| decoder.decode(chunk, &bytes)).collect();
    let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(work);
    let thread = thread.map_err(|error| ApplyError::new(format!("no thread to load with: {error}")))?;
    Ok(Worker { chunks, thread })
}

impl Worker {
    fn end(self) -> Result<Vec<Decoded>, ApplyError> {
        drop(self.chunks);
        let decoded = self.thread.join().map_err(|_| ApplyError::new("a thread that loads has ended in a panic"))?;
        decoded.map_err(failed)
    }
}

impl Restore for Parallel {
    fn add(&mut self, chunk: u128, bytes: &[u8]) -> Result<(), ApplyError> {
        self.next = (self.next + 1) % self.workers.len();
        if self.workers[self.next].chunks.send((chunk, bytes.to_vec())).is_ok() {
            return Ok(());
        }
        // It ends early only over a chunk that is damaged, and says so.
        let ended = self.workers.swap_remove(self.next).end();
        Err(ended.err().unwrap_or_else(|| ApplyError::new("a thread that loads has gone")))
    }

    fn finish(self: Box<Self>) -> Result<std::sync::Arc<dyn View>, ApplyError> {
        let mut restore = self.restore;
        let mut all = Vec::new();
        for worker in self.workers {
            all.append(&mut worker.end()?);
        }
        // They were dealt out in order; what came twice stays twice, and is found.
        all.sort_by_key(Decoded::chunk);
        for decoded in all {
            restore.place(decoded).map_err(failed)?;
        }
        let view = restore.finish().map_err(failed)?;
        Ok(std::sync::Arc::new(KeyspaceView(view)))
    }
}

#[cfg(test)]
mod tests {
    use quorate_keyspace::{Keyspace, Stamp, UnitHead, UnitKind, encode_entry, encode_found_unit, encode_unit};

    use super::*;

    fn sample() -> view::View {
        let mut keyspace = Keyspace::new(1, [0, 0]);
        let units: Vec<bytes::Bytes> = std::iter::once(encode_found_unit(2, [7, 8]))
            .chain((0..3000).map(|n| {
                let key = format!("key:{n}");
                let args: [&[u8]; 5] = [b"SET", key.as_bytes(), b"value", b"PX", b"100000"];
                let head = UnitHead { kind: UnitKind::Batch, proto: quorate_keyspace::Proto::Resp2, watches: &[] };
                encode_unit(head, [((n % 2) as u16, &args[..])].into_iter())
            }))
            .collect();
        let mut entry = bytes::BytesMut::new();
        encode_entry(Stamp { time_ms: 5, seed: 6 }, &units, &mut entry);
        keyspace.apply(&entry, false).unwrap();
        keyspace.view()
    }

    fn chunks(view: &view::View) -> Vec<(u128, Vec<u8>)> {
        let encoded = |id| {
            let mut bytes = Vec::new();
            view.encode(id, &mut bytes);
            (id, bytes)
        };
        view.chunks().map(|(id, _)| encoded(id)).collect()
    }

    #[test]
    fn what_is_loaded_on_many_threads_is_what_was_there() {
        let view = sample();
        let mut loading = restore(view::Restore::new(&view.header()).unwrap()).unwrap();
        for (id, bytes) in chunks(&view) {
            loading.add(id, &bytes).unwrap();
        }
        let loaded = loading.finish().unwrap();
        let loaded = &loaded.as_any().downcast_ref::<KeyspaceView>().unwrap().0;
        assert_eq!(chunks(loaded), chunks(&view));
        assert_eq!((loaded.header(), loaded.keys()), (view.header(), 3000));
    }

    #[test]
    fn a_damaged_chunk_fails_wherever_it_comes() {
        let view = sample();
        let chunks = chunks(&view);
        for damaged in [0, chunks.len() / 2, chunks.len() - 1] {
            let mut loading = restore(view::Restore::new(&view.header()).unwrap()).unwrap();
            let added = chunks.iter().enumerate().try_for_each(|(at, (id, bytes))| {
                let cut = if at == damaged { bytes.len() - 1 } else { bytes.len() };
                loading.add(*id, &bytes[..cut])
            });
            assert!(added.and_then(|()| loading.finish().map(drop)).is_err(), "{damaged}");
        }
        let mut loading = restore(view::Restore::new(&view.header()).unwrap()).unwrap();
        for (id, bytes) in chunks.iter().chain(&chunks[..1]) {
            let _ = loading.add(*id, bytes);
        }
        assert!(loading.finish().is_err(), "the same chunk twice");
    }
}
