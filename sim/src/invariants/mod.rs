//! What must hold, one file each. Each file says what it holds, where it comes from in Ongaro and Ousterhout's
//! "In Search of an Understandable Consensus Algorithm" (the Raft paper), and how it looks.
//!
//! An oracle only looks. It must never change what a member or a client does.

pub mod calm;
pub mod convergence;
pub mod definite_errors;
pub mod durability;
pub mod election_safety;
pub mod evidence;
pub mod expiry;
pub mod known_members;
pub mod linearizability;
pub mod log_matching;
pub mod membership;
pub mod model;
pub mod one_reply;
pub mod read_freshness;
pub mod state_machine;
pub mod survival;
pub mod transactions;

use parking_lot::Mutex;

/// The oracles that look on while a run goes.
#[derive(Default)]
pub struct Oracles {
    pub elections: election_safety::Elections,
    pub states: Mutex<state_machine::Canon>,
    pub logs: Mutex<log_matching::Logs>,
    pub members: Mutex<membership::Members>,
    pub known_members: known_members::Known,
}
