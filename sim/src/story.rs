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
    /// The operations that show it: client, and when it was asked (nanoseconds).
    pub ops: Vec<(usize, u64)>,
}

/// What is harmed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Network,
    Pause,
    Disk,
    Clock,
}

impl Harm {
    pub fn word(self) -> &'static str {
        match self {
            Harm::Network => "network",
            Harm::Pause => "pause",
            Harm::Disk => "disk",
            Harm::Clock => "clock",
        }
    }
}

/// What the page draws in a lane, besides operations. It is no line of the story.
#[derive(Clone, Debug)]
pub enum Mark {
    /// A process begins.
    Starts,
    /// It serves clients.
    Serves,
    /// It ended: by force or by itself.
    Ends {
        killed: bool,
    },
    Leads(u64),
    LeadsNoMore,
    /// At most so long: healing, the end of the process, or a word that it is over ends it too.
    Harmed {
        harm: Harm,
        lasts: Duration,
        text: String,
    },
    Over(Harm),
}

/// All that a run has told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub events: Vec<Event>,
    pub marks: Vec<(Duration, Lane, Mark)>,
    pub violations: Vec<Violation>,
}

struct Inner {
    began: Instant,
    told: Mutex<Told>,
}

/// The story of a run. Clones write to the same one.
#[derive(Clone)]
pub struct Story {
    inner: Arc<Inner>,
}

impl Story {
    pub fn begin() -> Self {
        Self { inner: Arc::new(Inner { began: Instant::now(), told: Mutex::default() }) }
    }

    /// Simulated time since the beginning.
    pub fn now(&self) -> Duration {
        self.inner.began.elapsed()
    }

    pub fn tell(&self, lane: Lane, kind: Kind, text: impl Into<String>) {
        let event = Event { at: self.now(), lane, kind, text: text.into() };
        self.inner.told.lock().events.push(event);
    }

    /// How many lines of a lane have these words in them.
    pub fn count(&self, lane: Lane, words: &str) -> usize {
        let told = self.inner.told.lock();
        told.events.iter().filter(|event| event.lane == lane && event.text.contains(words)).count()
    }

    /// The lines of a lane that have these words in them, and when they were told.
    pub fn found(&self, lane: Lane, words: &str) -> Vec<(Duration, String)> {
        let told = self.inner.told.lock();
        let found = told.events.iter().filter(|event| event.lane == lane && event.text.contains(words));
        found.map(|event| (event.at, event.text.clone())).collect()
    }

    pub fn mark(&self, lane: Lane, mark: Mark) {
        let at = self.now();
        self.inner.told.lock().marks.push((at, lane, mark));
    }

    /// That lane is harmed for a while.
    pub fn mark_harm(&self, lane: Lane, harm: Harm, lasts: Duration, text: impl Into<String>) {
        self.mark(lane, Mark::Harmed { harm, lasts, text: text.into() });
    }

    /// An invariant is broken. The run goes on to its end; the first one is what is reported.
    pub fn broken(&self, invariant: &'static str, text: impl Into<String>) {
        self.broken_by(invariant, text, Vec::new());
    }

    /// As `broken`, and these operations show it.
    pub fn broken_by(&self, invariant: &'static str, text: impl Into<String>, ops: Vec<(usize, u64)>) {
        self.note_violation(Violation { at: self.now(), invariant, text: text.into(), ops });
    }

    /// As `broken`, when the simulated clock is gone.
    pub fn broken_at_end(&self, invariant: &'static str, text: String) {
        let at = self.inner.told.lock().events.last().map(|event| event.at).unwrap_or_default();
        self.note_violation(Violation { at, invariant, text, ops: Vec::new() });
    }

    fn note_violation(&self, violation: Violation) {
        let text = format!("BROKEN {}: {}", violation.invariant, violation.text);
        let mut told = self.inner.told.lock();
        told.events.push(Event { at: violation.at, lane: Lane::Run, kind: Kind::Broken, text });
        told.violations.push(violation);
    }

    pub fn take(&self) -> Told {
        std::mem::take(&mut *self.inner.told.lock())
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
