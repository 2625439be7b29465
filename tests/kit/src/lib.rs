//! What tests and benchmarks with real processes share: members started from the built binary, raw clients,
//! the admin port from a program, load with bookkeeping of what was acknowledged.
//!
//! It knows the server only from the outside, as a user does: it never links the server's crates, so that a
//! mistake in them can't hide itself here. Everything is synchronous; one thread is one client.

pub mod cases;
pub mod cluster;
pub mod http;
pub mod load;
pub mod ports;
pub mod process;
pub mod redis_server;
pub mod resp;

pub use cluster::{Cluster, ClusterOptions, Member};
pub use redis_server::RedisServer;
pub use resp::{Conn, Value};

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

/// How long a condition may take before a test gives up on it. Generous on purpose: it tells "never" from
/// "slow machine", and no test asserts anything about speed with it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `check` again and again until it answers `Some`, and panics with `what` when it never does.
pub fn wait_until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    match wait_for(PATIENCE, &mut check) {
        Some(found) => found,
        None => panic!("gave up after {PATIENCE:?} waiting until {what}"),
    }
}

/// Like [`wait_until`], but gives `None` when `patience` is over.
pub fn wait_for<T>(patience: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// Of the file system.
pub fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
