//! Quorate: a Raft-replicated, strongly consistent, Redis-compatible store.

pub mod config;
pub mod resp;
