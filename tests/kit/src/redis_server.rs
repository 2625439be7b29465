//! A genuine redis-server beside ours, to compare with. It must be installed: a comparison is never skipped.

use crate::ports::PortBlock;
use crate::process::Process;
use crate::resp::Conn;
use crate::wait_until;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// One redis-server process on loopback.
#[derive(Debug)]
pub struct RedisServer {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub addr: SocketAddr,
    args: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    /// Starts one with `settings` (`("appendonly", "yes")`, …) on the next port of `ports`.
    ///
    /// # Panics
    /// When redis-server isn't installed or doesn't come up.
    #[must_use]
    pub fn start(ports: &mut PortBlock, settings: &[(&str, &str)]) -> RedisServer {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let addr = SocketAddr::from(([127, 0, 0, 1], ports.next_port()));
        let mut args = vec!["--port".to_owned(), addr.port().to_string()];
        args.extend(["--bind", "127.0.0.1", "--save", "", "--dir"].map(str::to_owned));
        args.push(dir.path().display().to_string());
        for (name, value) in settings {
            args.push(format!("--{name}"));
            args.extend(value.split(' ').map(str::to_owned));
        }
        let process = Process::spawn(Path::new("redis-server"), &args, &dir.path().join("output"))
            .expect("redis-server must be installed for this (Debian: apt-get install redis-server)");
        let server = RedisServer { process, addr, args, dir };
        wait_until("redis-server answers", || {
            let reply = Conn::open(addr).ok()?.cmd("PING").ok()?;
            (reply.as_text()? == "PONG").then_some(())
        });
        server
    }

    /// Ends it without saving and starts it again on what it has saved, with more arguments; it may be loading then.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn restart(&mut self, more: &[String]) {
        self.process.kill();
        let args = [&self.args, more].concat();
        let output = self.dir.path().join("output");
        self.process = Process::spawn(Path::new("redis-server"), &args, &output).expect("redis-server starts again");
    }

    /// Starts a replica of `self` and waits until it is connected.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    #[must_use]
    pub fn start_replica(&self, ports: &mut PortBlock, settings: &[(&str, &str)]) -> RedisServer {
        let of = format!("{} {}", self.addr.ip(), self.addr.port());
        let mut settings = settings.to_vec();
        settings.push(("replicaof", &of));
        let replica = RedisServer::start(ports, &settings);
        wait_until("the replica's link is up", || {
            let info = replica.conn().cmd("INFO replication").ok()?.as_text()?;
            info.contains("master_link_status:up").then_some(())
        });
        replica
    }

    /// A new connection.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn conn(&self) -> Conn {
        Conn::open(self.addr).expect("a connection to redis-server")
    }
}
