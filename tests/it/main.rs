//! Tests with real processes: members started from the built binary, killed, paused, joined and removed while
//! clients work. They need nothing beyond Rust.
//!
//! A test waits for conditions, with one generous patience for all, and asserts nothing about speed.

mod backup;
mod binding;
mod check;
mod clients;
mod compat;
mod durability;
mod failing_disk;
mod fsync;
mod full_disk;
mod identity;
mod large_replies;
mod limits;
mod loading;
mod log_tools;
mod malformed;
mod membership;
mod migrate;
mod proxy;
mod rebuild;
mod recovery;
mod relay;
mod snapshots;
mod stale_reads;
mod supervisor;
mod told;

use quorate_testkit::{Cluster, ClusterOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// Three members with default settings.
fn three_members() -> Cluster {
    Cluster::start(ClusterOptions::new(BINARY))
}
