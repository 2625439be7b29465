//! Consensus for Quorate: the only crate that names openraft.
//!
//! It turns opaque units of work into entries of a replicated log and applies them, in the same
//! order on every member, to a [`StateMachine`]. It knows neither commands nor RESP, and it never
//! looks into the bytes it carries.
//!
//! - [`Node`] is one process: the peer port, the write-ahead log and the checkpoints. It hosts
//!   [`Group`]s; group ids are in every peer message and on disk, although there is one group today.
//! - [`Group`] is a handle on one Raft group: propose, read barriers, membership, status.
//! - [`StateMachine`] is what the upper layer implements.
//!
//! A write flows `Group::propose` → `proposer` (one entry for everything that waits) → openraft →
//! `log_store` and `network` in parallel → `state_machine` → the replies back to the callers.

mod api;
mod barrier;
mod catch_up;
mod check;
mod checkpoint;
mod config;
mod counters;
mod entry;
mod error;
mod events;
#[cfg(test)]
mod format_tests;
mod group;
pub mod inspect;
mod keeper;
mod lease;
mod log_store;
mod majority;
mod membership;
mod network;
mod node;
mod offline;
mod pace;
mod proposer;
mod runtime;
mod state_machine;
mod status;
#[cfg(test)]
mod suite_tests;
mod system;
mod transport;
mod types;
mod wire;

pub use api::{ApplyError, BoxFuture, Change, Pieces, Restore, Service, StateMachine, View};
pub use check::{CheckReport, CheckStatus, Held};
pub use config::{Identity, Limits, LoadProgress, NodeConfig, RaftTimings, Start};
pub use error::{CallError, ChangeError, NodeError, ProposeError, ReadError};
pub use events::{Event, Events};
pub use group::{Capture, Group, Joined};
pub use node::{Node, Stores};
pub use offline::{NewGroup, Place, Survey, begin_group, has_begun, survey};
pub use runtime::Spawner;
#[cfg(madsim)]
pub use runtime::{run_openrafts_suite, set_clock_rate};
pub use status::{GroupStatus, Histogram, HistogramSnapshot, MemberStatus, Role, SnapshotProgress, Trouble};
pub use types::{GroupId, Member, MemberId};
