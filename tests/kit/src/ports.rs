//! Ports that no other test uses at the same time, also when every test is a process of its own.
//!
//! Asking the system for a free port and releasing it again is a race: another test, or an outgoing connection,
//! may take it before the server binds it. So ports come in blocks below the range that outgoing connections
//! use, and a block is held by a file lock, which the system gives back whatever way the holder dies.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;

const FIRST_PORT: u16 = 20_000;
/// So many ports are in a block.
pub const PORTS_PER_BLOCK: u16 = 40;
const BLOCKS: u16 = 300;

/// The supervisor counts up from one port, with the others at fixed distances: these lie apart from all blocks.
const FIRST_BASE_PORT: u16 = 8_000;
const BASE_PORTS: u16 = 90;
const BASE_DISTANCES: [u16; 3] = [0, 1_000, 10_000];

/// A block of ports, ours until it is dropped.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    used: u16,
    _lock: File,
}

impl PortBlock {
    /// Takes the first block that nobody holds and whose ports are all free.
    ///
    /// # Panics
    /// When there is none, or the lock files can't be made.
    #[must_use]
    pub fn take() -> PortBlock {
        let ports = |block: u16| {
            let first = FIRST_PORT + block * PORTS_PER_BLOCK;
            (first..first + PORTS_PER_BLOCK).collect()
        };
        PortBlock::take_first("block", BLOCKS, ports)
    }

    /// Takes a base port for `quorate dev` with up to ten members: clients count up from it, admin ports from
    /// 1,000 above, peers from 10,000 above.
    ///
    /// # Panics
    /// As [`PortBlock::take`].
    #[must_use]
    pub fn take_base() -> PortBlock {
        let ports = |block: u16| {
            let first = FIRST_BASE_PORT + block * 10;
            BASE_DISTANCES.iter().flat_map(|distance| first + distance..first + distance + 10).collect()
        };
        PortBlock::take_first("base", BASE_PORTS, ports)
    }

    fn take_first(kind: &str, blocks: u16, ports: impl Fn(u16) -> Vec<u16>) -> PortBlock {
        let folder = lock_folder();
        // Tests that run side by side begin at different places, so they seldom try the same block.
        let start = (std::process::id() % u32::from(blocks)) as u16;
        for step in 0..blocks {
            let block = (start + step) % blocks;
            let path = folder.join(format!("{kind}-{block}"));
            let Ok(lock) = OpenOptions::new().create(true).truncate(false).write(true).open(&path) else {
                continue;
            };
            if lock.try_lock().is_err() {
                continue;
            }
            let ports = ports(block);
            if ports.iter().copied().all(is_free) {
                return PortBlock { first: ports[0], used: 0, _lock: lock };
            }
        }
        panic!("no free ports in {blocks} blocks (lock files in {})", folder.display());
    }

    /// The next port of the block.
    ///
    /// # Panics
    /// When the block is used up.
    pub fn next_port(&mut self) -> u16 {
        assert!(self.used < PORTS_PER_BLOCK, "a test wants more than {PORTS_PER_BLOCK} ports");
        self.used += 1;
        self.first + self.used - 1
    }

    /// The first port of the block, for servers that count their ports up from one.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first
    }
}

fn lock_folder() -> PathBuf {
    // One for all: a test that was given a temporary folder of its own has the same ports as the others.
    let shared = PathBuf::from("/tmp");
    let folder = if shared.is_dir() { shared } else { std::env::temp_dir() }.join("quorate-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder for the port locks in the temporary folder");
    folder
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_never_share_a_port() {
        let mut one = PortBlock::take();
        let mut two = PortBlock::take();
        let ports_of_one: Vec<u16> = (0..PORTS_PER_BLOCK).map(|_| one.next_port()).collect();
        assert!((0..PORTS_PER_BLOCK).all(|_| !ports_of_one.contains(&two.next_port())));
    }
}
