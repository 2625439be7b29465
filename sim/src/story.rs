//! What happened in one run, in the order of simulated time: for people, for the page that draws it, and for the check
//! that the same seed tells the same story.
//!
//! It must never decide anything: a run with nobody reading its story is the same run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    Run,
    Member(usize),
    Client(usize),
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Run => f.write_str("run"),
            Lane::Member(n) => write!(f, "machine {n}"),
            Lane::Client(n) => write!(f, "client {n}"),
        }
    }
}

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process begins or ends.
    Life,
    /// Leadership, membership, snapshots.
    Raft,
    /// The nemesis does something, or takes it back.
    Fault,
    /// A client's operation, when its outcome is known.
    Op,
    /// Everything else.
    Note,
    /// An invariant is broken.
    Broken,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Duration,
    pub lane: Lane,
    pub kind: Kind,
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.4} s  {:<10} {}", self.at.as_secs_f64(), self.lane.to_string(), self.text)
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub at: Duration,
    pub invariant: &'static str,
    pub text: String,
}

struct Inner {
    began: Instant,
    events: Mutex<Vec<Event>>,
    violations: Mutex<Vec<Violation>>,
}

/// The story of a run. Clones write to the same one.
#[derive(Clone)]
pub struct Story {
    inner: Arc<Inner>,
}

impl Story {
    pub fn begin() -> Self {
        let inner = Inner { began: Instant::now(), events: Mutex::default(), violations: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Simulated time since the beginning.
    pub fn now(&self) -> Duration {
        self.inner.began.elapsed()
    }

    pub fn tell(&self, lane: Lane, kind: Kind, text: impl Into<String>) {
        let event = Event { at: self.now(), lane, kind, text: text.into() };
        self.inner.events.lock().push(event);
    }

    /// An invariant is broken. The run goes on to its end; the first one is what is reported.
    pub fn broken(&self, invariant: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.tell(Lane::Run, Kind::Broken, format!("BROKEN {invariant}: {text}"));
        self.inner.violations.lock().push(Violation { at: self.now(), invariant, text });
    }

    /// As `broken`, when the simulated clock is gone.
    pub fn broken_at_end(&self, invariant: &'static str, text: String) {
        let at = self.inner.events.lock().last().map(|event| event.at).unwrap_or_default();
        let event = Event { at, lane: Lane::Run, kind: Kind::Broken, text: format!("BROKEN {invariant}: {text}") };
        self.inner.events.lock().push(event);
        self.inner.violations.lock().push(Violation { at, invariant, text });
    }

    pub fn take(&self) -> (Vec<Event>, Vec<Violation>) {
        (std::mem::take(&mut *self.inner.events.lock()), std::mem::take(&mut *self.inner.violations.lock()))
    }
}

/// A number that two stories share only if they are the same.
pub fn fingerprint(events: &[Event]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for event in events {
        eat(&event.at.as_nanos().to_le_bytes());
        eat(event.lane.to_string().as_bytes());
        eat(event.text.as_bytes());
    }
    hash
}
