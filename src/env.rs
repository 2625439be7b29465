//! Time and chance, as an argument.
//!
//! Everything in the process that needs the wall clock or a random number asks this trait, so that the simulator can
//! skew the one and seed the other. Intervals are measured with `tokio::time::Instant`, which the simulator owns.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock and randomness.
pub trait Env: Send + Sync + 'static {
    /// Wall clock, microseconds since the epoch. May jump.
    fn wall_us(&self) -> u64;
    /// A random number.
    fn random(&self) -> u64;

    /// Wall clock, milliseconds since the epoch.
    fn wall_ms(&self) -> u64 {
        self.wall_us() / 1000
    }
}

/// The machine's clock and the thread's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnv;

impl Env for SystemEnv {
    fn wall_us(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since_epoch.as_micros() as u64
    }

    fn random(&self) -> u64 {
        rand::random()
    }
}
