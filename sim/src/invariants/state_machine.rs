//! State machine safety: if a member has applied an entry at a position, no other member ever applies a different entry
//! there (Raft paper, figure 3 and section 5.4.3), and equal positions mean equal states, also behind a snapshot
//! (section 7) and a restart. The group's time never goes back.
//!
//! The first member that applies the entry of a position writes the canonical history: the entry and a digest of the
//! whole keyspace behind it. Every other application, installation and recovery must be found in it. An entry carries a
//! time and a random seed, so two different ones never look alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quorate::engine::Engine;
use quorate_keyspace::view;
use quorate_raft::{ApplyError, Restore, StateMachine, View};

use crate::machine::Machine;
use crate::mutants::{Mutant, with_local_time};
use crate::story::Kind;

pub const NAME: &str = "state machine safety";
/// Where the head of a state holds the secret seed of the group's hashes (keyspace/src/view.rs).
const SECRET_AT: usize = 1;
pub const TIME: &str = "time never goes back";

struct Place {
    entry: u128,
    digest: u128,
    now_ms: u64,
}

/// What was applied, by whoever was first.
#[derive(Default)]
pub struct Canon {
    places: Vec<Place>,
    /// Positions (number of entries applied) by the digest of the state there.
    by_digest: BTreeMap<u128, Vec<usize>>,
}

impl Canon {
    /// How many entries of the application were applied.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

/// Applies to the engine, and looks at it.
pub struct Onlooker {
    engine: Arc<Engine>,
    machine: Arc<Machine>,
    /// Where this member may be: more than one where entries left the state as it was.
    at: Mutex<Vec<usize>>,
    /// The group's time when it was looked at last.
    now_ms: AtomicU64,
    /// For a mutant: the view that was taken before the last one.
    before: Mutex<Option<Arc<dyn View>>>,
}

/// For a mutant: a view without the first of its chunks.
struct Lossy(Arc<dyn View>);

impl View for Lossy {
    fn header(&self) -> Vec<u8> {
        self.0.header()
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = (u128, u64)> + '_> {
        Box::new(self.0.chunks().skip(1))
    }

    fn encode(&self, chunk: u128, out: &mut Vec<u8>) {
        self.0.encode(chunk, out);
    }

    fn digest(&self, chunk: u128, buffer: &mut Vec<u8>) -> u128 {
        self.0.digest(chunk, buffer)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self.0.as_any()
    }
}

fn digest(engine: &Engine) -> (u128, u64) {
    let view = engine.with(|keyspace| keyspace.view());
    let mut bytes = view.header();
    let chunks: Vec<u128> = view.chunks().map(|(id, _)| id).collect();
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.to_le_bytes());
        view.encode(chunk, &mut bytes);
    }
    (view::digest_of(&bytes), view.now_ms())
}

impl Onlooker {
    pub fn new(engine: Arc<Engine>, machine: Arc<Machine>) -> Self {
        Self { engine, machine, at: Mutex::new(vec![0]), now_ms: AtomicU64::new(0), before: Mutex::new(None) }
    }

    /// Whatever a process applies or installs, what has expired for it once has expired for good.
    fn passes(&self, now_ms: u64) {
        let before = self.now_ms.swap(now_ms, Relaxed);
        if before > now_ms {
            self.broken(TIME, format!("the group's time went from {before} back to {now_ms}"));
        }
    }

    fn broken(&self, invariant: &'static str, text: String) {
        self.machine.run.story.broken(invariant, format!("machine {}: {text}", self.machine.number));
    }

    fn applied(&self, entry: &Bytes) {
        let entry = view::digest_of(entry);
        let (digest, now_ms) = digest(&self.engine);
        self.passes(now_ms);
        let mut canon = self.machine.run.oracles.states.lock();
        let mut at = self.at.lock();
        let found = at.iter().copied().filter(|at| canon.places.get(*at).is_some_and(|p| p.entry == entry)).collect();
        let found: Vec<usize> = found;
        if let Some(position) = found.first() {
            let place = &canon.places[*position];
            if place.digest != digest {
                self.broken(NAME, format!("entry {position} left another state here than on another member"));
            }
            *at = vec![position + 1];
            return;
        }
        if !at.contains(&canon.places.len()) {
            let at = at.clone();
            self.broken(NAME, format!("applied another entry behind {at:?} than another member did"));
            return;
        }
        if canon.places.last().is_some_and(|last| last.now_ms > now_ms) {
            self.broken(TIME, format!("entry {} set the group's time back to {now_ms}", canon.places.len()));
        }
        canon.places.push(Place { entry, digest, now_ms });
        let position = canon.places.len();
        canon.by_digest.entry(digest).or_default().push(position);
        *at = vec![position];
    }

    fn installed(&self) {
        let (digest, now_ms) = digest(&self.engine);
        self.passes(now_ms);
        let canon = self.machine.run.oracles.states.lock();
        let mut found = canon.by_digest.get(&digest).cloned().unwrap_or_default();
        if found.is_empty() && self.engine.with(|keyspace| keyspace.view().revision()) == 0 {
            found.push(0);
        }
        self.machine.tell(Kind::Raft, format!("has the state behind entry {found:?} of {}", canon.places.len()));
        if found.is_empty() {
            self.broken(NAME, "a snapshot or checkpoint holds a state that no member ever had".into());
        }
        *self.at.lock() = found;
    }
}

impl StateMachine for Onlooker {
    fn encode_batch(&self, units: &[Bytes], out: &mut BytesMut) {
        let at = out.len() + 1;
        self.engine.encode_batch(units, out);
        if self.machine.has(Mutant::CoarseClock)
            && let Some(Ok(time)) = out.get_mut(at..at + 8).map(<&mut [u8; 8]>::try_from)
        {
            let ms = u64::from_le_bytes(*time);
            *time = (ms - ms % 2000).to_le_bytes();
        }
    }

    fn apply(&self, entry: &Bytes, want_replies: bool) -> Result<Vec<Bytes>, ApplyError> {
        let machine = &self.machine;
        let seldom =
            !want_replies && machine.run.plan.mutant.is_some() && madsim::rand::random::<u64>().is_multiple_of(200);
        if seldom && machine.has(Mutant::SkippedEntry) {
            self.applied(entry);
            return Ok(Vec::new());
        }
        if seldom && machine.has(Mutant::EntryAppliedTwice) {
            self.engine.apply(entry, false)?;
        }
        let mut replies = if machine.has(Mutant::LocalClockInApply) {
            self.engine.apply(&with_local_time(entry, self.engine.now_ms()), want_replies)?
        } else {
            self.engine.apply(entry, want_replies)?
        };
        if machine.has(Mutant::RepliesSwapped) && replies.len() > 1 {
            replies.rotate_left(1);
        }
        self.applied(entry);
        Ok(replies)
    }

    fn view(&self) -> Arc<dyn View> {
        let view = self.engine.view();
        if self.machine.has(Mutant::OldView) {
            return self.before.lock().replace(view.clone()).unwrap_or(view);
        }
        if self.machine.has(Mutant::ChunkLost) { Arc::new(Lossy(view)) } else { view }
    }

    fn restore(&self, header: &[u8], fast: bool) -> Result<Box<dyn Restore>, ApplyError> {
        let mut header = header.to_vec();
        if self.machine.has(Mutant::OrderLost)
            && let Some(byte) = header.get_mut(SECRET_AT)
        {
            // The order of keys is a function of this secret of the group.
            *byte ^= 1;
        }
        if self.machine.has(Mutant::TimeLost) {
            // Behind the secret a number that is no matter here, and the time: seven bits in each byte but the last.
            let time = header.iter_mut().skip(SECRET_AT + 16).skip_while(|byte| **byte >= 0x80).skip(1);
            time.take_while(|byte| **byte >= 0x80).for_each(|byte| *byte = 0x80);
        }
        self.engine.restore(&header, fast)
    }

    fn install(&self, view: Arc<dyn View>) {
        self.engine.install(view);
        self.installed();
    }
}
