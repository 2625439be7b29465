//! Liveness: when the faults have stopped, writes succeed on every machine's port within a bounded time, and all
//! members come to the same state (Raft paper, section 5.6: with a majority that can talk, progress is made).
//!
//! The bounds are of simulated time, and twice what was ever measured: ten seconds are dozens of elections.

use std::time::Duration;

pub const NAME: &str = "comes back after faults";
/// A group without faults has come together by then.
pub const TOGETHER: Duration = Duration::from_secs(5);
/// When the faults are over all serve and agree by then.
pub const BACK: Duration = Duration::from_secs(10);
