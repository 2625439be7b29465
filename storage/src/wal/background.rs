//! Work that must not hold up the log: one piece at a time, on a thread of its own, or by the caller where there must be
//! no threads. It must never lose what came of a piece: whoever started it is to take it.

use std::io;
use std::sync::mpsc;
use std::time::Instant;

/// A piece of work.
pub(super) trait Work: Send + 'static {
    type Outcome: Send + 'static;

    fn run(self) -> Self::Outcome;
}

/// Who does it.
enum By<W: Work> {
    /// The caller, at once.
    Caller(Option<W::Outcome>),
    Thread(mpsc::Sender<W>, mpsc::Receiver<W::Outcome>),
}

pub(super) struct Background<W: Work> {
    by: By<W>,
    /// Since when a piece is under way, or done and not taken.
    since: Option<Instant>,
}

impl<W: Work> Background<W> {
    pub(super) fn inline() -> Self {
        Self { by: By::Caller(None), since: None }
    }

    /// `notify` is called when a piece is done.
    pub(super) fn thread(name: &str, notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (give, todo) = mpsc::channel::<W>();
        let (done, take) = mpsc::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for work in todo {
                if done.send(work.run()).is_err() {
                    return;
                }
                notify();
            }
        })?;
        Ok(Self { by: By::Thread(give, take), since: None })
    }

    pub(super) fn start(&mut self, work: W) {
        let begun = Instant::now();
        let taken = match &mut self.by {
            By::Caller(outcome) => {
                *outcome = Some(work.run());
                true
            }
            // If the thread is gone there will be no outcome, and `take` says so by giving none.
            By::Thread(give, _) => give.send(work).is_ok(),
        };
        self.since = taken.then_some(begun);
    }

    /// Since when a piece is under way.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        self.since
    }

    /// What came of the last piece, if it is done; with `wait`, when it is done. `None` if there is none.
    pub(super) fn take(&mut self, wait: bool) -> Option<W::Outcome> {
        self.since?;
        let outcome = match &mut self.by {
            By::Caller(outcome) => outcome.take(),
            By::Thread(_, take) if wait => take.recv().ok(),
            By::Thread(_, take) => take.try_recv().ok(),
        };
        if outcome.is_some() || wait {
            self.since = None;
        }
        outcome
    }
}
