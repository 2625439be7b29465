//! Bytes on disk for Quorate: the write-ahead log that all Raft groups of a node share, the checkpoint store, and
//! the data directory with its lock and identity.
//!
//! This crate knows bytes, group numbers and log indexes. It must never know Raft's types, commands, sockets or an
//! async runtime: every call here is blocking, or hands a callback to the log's own thread.
//!
//! | module | what it holds |
//! |---|---|
//! | [`disk`] | the [`Disk`](disk::Disk) trait, the real file system behind it |
//! | [`memdisk`] | a disk in memory that loses, tears and flips bytes as a seed says |
//! | [`wal`] | the write-ahead log: one stream of records for all groups |
//! | [`checkpoint`] | the state as rows by chunk and epoch |
//! | [`backup`] | the file of a backup |
//! | [`codec`] | structs to bytes and back, versioned, limited, checksummed |
//! | [`identity`] | who this data directory belongs to, and the lock that keeps it to one process |

pub mod backup;
pub mod checkpoint;
pub mod codec;
pub mod disk;
pub mod identity;
pub mod memdisk;
#[cfg(madsim)]
pub mod mutants;
pub mod wal;
