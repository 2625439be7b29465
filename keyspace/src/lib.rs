//! The deterministic state machine of Quorate: data types, commands, expiry, and snapshots of them.
//!
//! Entries of the replicated log go into [`Keyspace::apply`]; reads run beside it. The same entries give the same
//! state on every member, so nothing here reads a clock, draws chance, does IO or starts a thread: time and chance
//! are arguments. The dependencies in `Cargo.toml` are half of the proof, the bans in `clippy.toml` the other.
//!
//! Where to look: `trie` is the one ordered map; `db` a database of slots; `item`, `hash` and `rope` what keys hold;
//! `chunking` how what is large is kept in pieces; `cx` what a handler sees; `spec` what a command is; `commands` the
//! families; `entry` the log's bytes; `view` those of snapshots.

pub mod args;
mod chunking;
pub mod commands;
pub mod cx;
mod db;
pub mod entry;
pub mod error;
mod garbage;
pub mod glob;
pub mod hash;
pub mod hasher;
pub mod inspect;
pub mod item;
pub mod keyspace;
pub mod longdouble;
pub mod number;
mod portable;
pub mod rdb;
pub mod reply;
pub mod rope;
pub mod settings;
pub mod spec;
pub mod trie;
pub mod view;
mod wire;

pub use args::Args;
pub use cx::Moment;
pub use entry::{
    Stamp, UnitHead, UnitKind, Watch, encode_entry, encode_expire_unit, encode_found_unit, encode_setting_unit,
    encode_unit,
};
pub use error::{CmdError, Corrupt};
pub use garbage::Garbage;
pub use hasher::slot_of;
pub use keyspace::{DbInfo, Keyspace};
pub use portable::Portable;
pub use reply::{Proto, ReplyBuf};
pub use settings::{Setting, Settings};
pub use view::{Restore, View};
