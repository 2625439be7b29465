//! The threads of a member.
//!
//! Consensus has a thread of its own: heartbeats, votes, the log's completions and the peers' connections never stand
//! behind what clients ask for, and one thread hands its tasks to each other without waking another. Sessions, admin
//! HTTP and what peers call for have `io-threads` beside it. The log has its own (`storage`), for it waits for disks.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_raft::Spawner;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// How long a task that is stuck in a blocking call may hold the process up.
const PATIENCE: Duration = Duration::from_millis(200);

pub(super) struct Threads {
    sessions: Runtime,
    consensus: Spawner,
    over: Arc<Notify>,
    thread: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(io_threads: usize) -> io::Result<Self> {
        let mut builder = if io_threads == 1 {
            Builder::new_current_thread()
        } else {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(io_threads);
            builder
        };
        let sessions = builder.thread_name("io").enable_all().build()?;
        let runtime = Builder::new_current_thread().thread_name("raft-blocking").enable_all().build()?;
        let consensus = runtime.block_on(async { Spawner::current() });
        let over = Arc::new(Notify::new());
        let until = over.clone();
        let thread = std::thread::Builder::new().name("raft".into()).spawn(move || {
            runtime.block_on(until.notified());
            runtime.shutdown_timeout(PATIENCE);
        })?;
        Ok(Self { sessions, consensus, over, thread })
    }

    pub(super) fn sessions(&self) -> &Runtime {
        &self.sessions
    }

    /// Where consensus runs.
    pub(super) fn consensus(&self) -> Spawner {
        self.consensus.clone()
    }

    pub(super) fn end(self) {
        self.sessions.shutdown_timeout(PATIENCE);
        self.over.notify_one();
        let _ = self.thread.join();
    }
}
