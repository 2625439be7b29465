//! The thread that drives the log in a server: it sleeps until there is work, and idles after a while without.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::driver::{Position, WalDriver};
use super::segment::Maker;
use super::sync::Syncer;
use super::{Shared, WalError};

/// How often a segment that could not be made is tried again while nothing else happens.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Threads {
    writer: Mutex<Option<JoinHandle<()>>>,
    id: ThreadId,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>, position: Position) -> io::Result<Self> {
        let weak = Arc::downgrade(shared);
        let wake = move || {
            if let Some(shared) = weak.upgrade() {
                shared.work.notify_one();
            }
        };
        let maker = Maker::thread("wal-segments", wake.clone())?;
        let mut driver = WalDriver::new(Arc::clone(shared), maker, Syncer::thread("wal-sync", wake)?, position);
        let shared = Arc::clone(shared);
        let writer = thread::Builder::new().name("wal".into()).spawn(move || run(&shared, &mut driver))?;
        let id = writer.thread().id();
        Ok(Self { writer: Mutex::new(Some(writer)), id })
    }

    /// True on the thread that writes: it must never wait for itself.
    pub(super) fn is_current(&self) -> bool {
        thread::current().id() == self.id
    }

    pub(super) fn join(&self) {
        if self.is_current() {
            return;
        }
        if let Some(writer) = self.writer.lock().take() {
            // It ends by itself once it is told to close; had it panicked, the callers it left were told nothing.
            let _ = writer.join();
        }
    }
}

/// Ends the log if the thread panics (a callback did, most likely): nobody may wait for it for ever.
struct EndOnPanic<'a>(&'a Shared);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(WalError::Closed);
            self.0.fail_queue();
        }
    }
}

fn run(shared: &Shared, driver: &mut WalDriver) {
    let _end = EndOnPanic(shared);
    loop {
        let mut state = shared.state.lock();
        while state.urgent == 0 && !state.closing && state.failed.is_none() {
            if driver.is_at_rest() && state.is_queue_empty() {
                shared.work.wait(&mut state);
                continue;
            }
            let patience =
                if driver.is_sealed() && state.is_queue_empty() { RETRY_AFTER } else { shared.config.idle_after };
            if shared.work.wait_for(&mut state, patience).timed_out() && state.urgent == 0 {
                drop(state);
                driver.idle();
                state = shared.state.lock();
            }
        }
        let (closing, failed) = (state.closing, state.failed.is_some());
        drop(state);
        if failed || closing {
            if closing {
                driver.close();
            }
            shared.state.lock().closing = true;
            shared.fail_queue();
            return;
        }
        if !driver.run_once() && driver.is_held() {
            wait_for_room(shared);
        }
    }
}

/// Lets some time pass: nobody tells when a disk has room again.
fn wait_for_room(shared: &Shared) {
    let until = Instant::now() + RETRY_AFTER;
    let mut state = shared.state.lock();
    while !state.closing && state.failed.is_none() && !shared.work.wait_until(&mut state, until).timed_out() {}
}
