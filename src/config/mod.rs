//! Configuration: one table of settings, and the values they have.
//!
//! [`Settings`] is filled from a TOML file and from flags when the process starts, and changed by CONFIG SET while it
//! runs. Names, units and refusals are those of redis.conf and CONFIG where Redis has the setting. Reading a setting
//! is an atomic load or a short lock: cheap enough for the path of every command.
//!
//! This module never opens a socket and never talks to the group: it only says which changes belong in the log
//! ([`Change::replicated`]) and lets others be told of a change ([`Settings::on_change`]).

mod accepted;
mod change;
mod check;
mod file;
mod settings;
mod shapes;
mod spec;
mod table;
mod typed;

pub use change::{Change, SetError};
pub use check::Unsafe;
pub use file::{FileError, RewriteError};
pub use settings::{LoadError, Settings, specs};
pub use shapes::BufferLimit;
pub use spec::{
    FACT, FIXED, HIDDEN, INERT, Kind, PINNED, PROTECTED, REPLICATED, SENSITIVE, Spec, UNTOLD, Value, WORDS,
};
pub use table::Id;
pub use typed::{Allowance, Appendfsync, FollowerMode, LogFormat, LogLevel, ReadMode};

#[cfg(test)]
mod tests;
