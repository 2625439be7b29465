//! Two servers that are asked the same: a genuine Redis and one of ours, or two genuine ones where the test is
//! about the questions themselves.

use quorate_testkit::ports::PortBlock;
use quorate_testkit::{Cluster, ClusterOptions, Conn, RedisServer};
use std::net::SocketAddr;

pub const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

/// The two servers.
pub struct Pair {
    genuine: RedisServer,
    _ports: PortBlock,
    other: Other,
}

enum Other {
    Ours(Cluster),
    Genuine(RedisServer),
}

impl Pair {
    /// Redis and a group of one.
    pub fn with_ours() -> Pair {
        let mut ports = PortBlock::take();
        let genuine = RedisServer::start(&mut ports, &[]);
        let other = Other::Ours(Cluster::start(ClusterOptions::new(BINARY).members(1)));
        Pair { genuine, _ports: ports, other }
    }

    /// Redis and Redis.
    pub fn both_genuine() -> Pair {
        let mut ports = PortBlock::take();
        let genuine = RedisServer::start(&mut ports, &[]);
        let other = Other::Genuine(RedisServer::start(&mut ports, &[]));
        Pair { genuine, _ports: ports, other }
    }

    /// Redis' address and the other's.
    pub fn addrs(&self) -> [SocketAddr; 2] {
        let other = match &self.other {
            Other::Ours(cluster) => cluster.members[0].client,
            Other::Genuine(server) => server.addr,
        };
        [self.genuine.addr, other]
    }

    /// Whether no server of ours takes part.
    pub fn both_are_genuine(&self) -> bool {
        matches!(self.other, Other::Genuine(_))
    }

    /// A connection to each.
    pub fn conns(&self) -> [Conn; 2] {
        self.addrs().map(|addr| Conn::open(addr).expect("both servers answer"))
    }
}
