//! Plain facts about the process, the connection and the disk, as INFO and the admin service show them. (Those about
//! the group are `quorate_raft`'s status.) Copies, never handles: holding one blocks nothing.

use std::net::SocketAddr;
use std::time::Instant;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// 40 hexadecimal digits, new at every start.
    pub run_id: String,
    /// What [`node_id`] makes of this member.
    pub node_id: String,
    /// When the process started.
    pub started: Instant,
    /// The group's UUID.
    pub group: String,
    /// This member's id.
    pub member: u64,
    /// Port that clients connect to.
    pub port: u16,
    /// The data directory.
    pub dir: String,
    /// Path of the binary.
    pub executable: String,
    /// Path of the configuration file, empty if there is none.
    pub config_file: String,
    /// Number of databases.
    pub databases: u16,
}

/// The connection that sent the command.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    /// Its id.
    pub id: u64,
    /// Its selected database.
    pub db: u16,
    /// Its name, empty if it has none.
    pub name: String,
    /// Its remote address.
    pub addr: Option<SocketAddr>,
}

/// Counts over all connections of this member.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientTotals {
    /// Open connections.
    pub connected: u64,
    /// Connections waiting in a blocking command.
    pub blocked: u64,
    /// Connections with a WATCH.
    pub watching: u64,
    /// Bytes in the largest input buffer.
    pub max_input: u64,
    /// Bytes in the largest output buffer.
    pub max_output: u64,
}

/// How far the loading of the data has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadingFacts {
    /// Unix seconds at which it began.
    pub since_s: u64,
    /// Bytes to load; 0 until that is known.
    pub total: u64,
    /// Bytes loaded.
    pub loaded: u64,
}

/// The log and the checkpoint of this member.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageFacts {
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// Log segments on disk.
    pub log_segments: u64,
    /// Syncs since the start.
    pub fsyncs: u64,
    /// Microseconds spent in them.
    pub fsync_us: u64,
    /// Acknowledged writes wait for their sync.
    pub sync_pending: bool,
    /// Syncs in the background that took so long that writes waited for them.
    pub delayed_fsyncs: u64,
    /// Unix seconds of the last checkpoint that is on disk; 0 if there was none.
    pub last_checkpoint_s: u64,
    /// The disk has room for the log.
    pub has_room: bool,
    /// The data is not loaded yet.
    pub loading: Option<LoadingFacts>,
    /// The log can no longer be written: this member is about to stop.
    pub failed: bool,
}

/// A member in the form of a Redis node id: 40 hexadecimal digits, the same wherever and whenever it is asked for.
pub fn node_id(group: &str, member: u64) -> String {
    let group: String = group.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{:0>24}{member:016x}", &group[..group.len().min(24)])
}

/// A group in the form of a Redis shard or replication id.
pub fn shard_id(group: &str) -> String {
    node_id(group, u64::MAX)
}

/// `host:port` taken apart; the host may be an IPv6 address in brackets.
pub fn host_port(addr: &str) -> (&str, u16) {
    match addr.rsplit_once(':') {
        Some((host, port)) => (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(0)),
        None => (addr, 0),
    }
}
