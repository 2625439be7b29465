//! Quorate: a Raft-replicated, strongly consistent, Redis-compatible store.
//!
//! This crate is what stands between clients and the rooms below it: the client protocol ([`resp`]), connections
//! ([`session`]), the way of a command to the leader and back ([`executor`]), the keyspace as a state machine
//! ([`engine`]), keys that move to another server ([`migrate`]), backups ([`backup`]), server commands ([`server`]), admin HTTP
//! ([`admin`]), settings ([`config`]), the command line ([`cli`]), and a member put together ([`node`]).

pub mod admin;
pub mod backup;
#[cfg(not(madsim))]
pub mod cli;
pub mod config;
pub mod engine;
pub mod env;
pub mod executor;
pub mod metrics;
pub mod migrate;
pub mod node;
pub mod resp;
pub mod server;
pub mod session;
