//! Backups: a group's state as one file, proven to be loadable before it counts.
//!
//! | module | what it does |
//! |---|---|
//! | `source` | makes the bytes of a backup out of a view, as fast as somebody takes them |
//! | `schedule` | has a member take backups of itself every so often |
//! | `file` | puts them into a file that appears only when it is whole; reads, checks and loads such a file |
//!
//! How the bytes are laid out is the storage room's business (`quorate_storage::backup`, `docs/formats.md`). A backup
//! that was not loaded by a process of its own is no backup: nothing here gives a file its name before that.

mod file;
#[cfg(not(madsim))]
pub mod schedule;
mod source;

pub use file::{Existing, Facts, FileError, Saved, facts, give_way, save, utc, verify};
pub use source::Source;
