//! Liveness: when the faults have stopped, writes succeed on every machine's port within a bounded time, and all
//! members come to the same state (Raft paper, section 5.6: with a majority that can talk, progress is made).
//!
//! The bound is of simulated time and generous: ten seconds are dozens of elections.

pub const NAME: &str = "comes back after faults";
