//! The commands that are about the server and not about keys: COMMAND, INFO, CONFIG, SLOWLOG, WAIT and their like, and
//! the facts of the commands that the session runs itself.
//!
//! They are declared as the keyspace's commands are, one entry of the table at the foot of a family's file each.
//! [`mod@catalog`] joins both rooms' tables; whoever wants to know a command by name asks it. A handler sees a
//! [`cx::ShellCx`] and its arguments, never a socket or a Raft group.

pub mod catalog;
pub mod cx;
pub mod docs_page;
pub mod facts;

mod acl;
mod client;
mod cluster;
mod command;
mod config;
mod connection;
mod debug;
mod diagnose;
mod docs;
mod durability;
mod group;
mod help;
mod info;
mod lolwut;
mod memory;
mod migrate;
mod process;

use quorate_keyspace::spec::Command;

pub use catalog::{Catalog, Entry, Kind, catalog};
pub use cx::{BoxFuture, LaterFn, NowFn, Place, SessionOp, ShellCx, ShellHandler, ShutdownOptions};

/// The version of Redis whose commands and replies these are.
pub const REDIS_VERSION: &str = "7.2.5";

static TABLES: &[&[Command<ShellHandler>]] = &[
    connection::TABLE,
    acl::TABLE,
    client::TABLE,
    cluster::TABLE,
    command::TABLE,
    config::TABLE,
    debug::TABLE,
    diagnose::TABLE,
    durability::TABLE,
    group::TABLE,
    info::TABLE,
    lolwut::TABLE,
    memory::TABLE,
    migrate::TABLE,
    process::TABLE,
];

/// The families of this room.
pub fn table() -> &'static [&'static [Command<ShellHandler>]] {
    TABLES
}

#[cfg(test)]
mod tests;
