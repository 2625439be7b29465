//! Settings in the types that code wants them in.

use std::sync::Arc;
use std::time::Duration;

use super::check::{is_loopback, is_wildcard};
use super::settings::Settings;
use super::shapes::{self, BufferLimit};
use super::table::Id;

/// `follower-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerMode {
    /// Serve the client through the leader.
    Proxy,
    /// Answer `-MOVED`.
    Redirect,
}

/// `read-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// The leader's lease.
    Lease,
    /// A round to a majority.
    Quorum,
    /// No barrier: what this member has applied.
    Local,
}

/// `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appendfsync {
    /// A write is on disk before it is acknowledged.
    Always,
    /// At most a second later, unless the disk is slow.
    Everysec,
    /// When the system does it.
    No,
}

/// `log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// A JSON object per line.
    Json,
}

/// `loglevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words of redis.conf")]
pub enum LogLevel {
    Debug,
    Verbose,
    Notice,
    Warning,
    Nothing,
}

impl LogLevel {
    /// As `tracing-subscriber` names it.
    pub fn as_filter(self) -> &'static str {
        match self {
            LogLevel::Debug => "trace",
            LogLevel::Verbose => "debug",
            LogLevel::Notice => "info",
            LogLevel::Warning => "warn",
            LogLevel::Nothing => "off",
        }
    }
}

/// Who may use a command that is off by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Nobody.
    No,
    /// Everybody.
    Yes,
    /// Clients of this machine.
    Local,
}

/// The port of a member's peers and of its admin HTTP, above that of its clients, if nothing else is said.
const PEER_PORT_OFFSET: u32 = 10_000;
const ADMIN_PORT_OFFSET: u32 = 1_000;

impl Settings {
    fn yes(&self, id: Id) -> bool {
        self.number(id) != 0
    }

    /// A number that the table keeps from being negative.
    fn natural(&self, id: Id) -> u64 {
        self.number(id).max(0) as u64
    }

    fn size(&self, id: Id) -> usize {
        usize::try_from(self.natural(id)).unwrap_or(usize::MAX)
    }

    fn given_text(&self, id: Id) -> Option<Arc<str>> {
        Some(self.text(id)).filter(|text| !text.is_empty())
    }

    /// `port`.
    pub fn port(&self) -> u16 {
        self.natural(Id::Port) as u16
    }

    /// `bind`: the addresses, and whether each may be missing on this machine. Empty: none.
    pub fn bind(&self) -> Vec<(String, bool)> {
        let text = self.text(Id::Bind);
        let words = text.split_ascii_whitespace();
        words
            .map(|word| word.strip_prefix('-').map_or((word, false), |host| (host, true)))
            .map(|(host, optional)| match host {
                // Redis' way of saying all addresses of one kind.
                "*" => ("0.0.0.0".to_owned(), optional),
                "::*" => ("::".to_owned(), optional),
                host => (host.to_owned(), optional),
            })
            .collect()
    }

    /// `peer`: where to listen for other members, `host:port`.
    pub fn peer(&self) -> String {
        self.beside_port(Id::Peer, PEER_PORT_OFFSET)
    }

    /// `admin`: where to listen for admin HTTP, `host:port`.
    pub fn admin(&self) -> String {
        self.beside_port(Id::Admin, ADMIN_PORT_OFFSET)
    }

    fn beside_port(&self, id: Id, offset: u32) -> String {
        match self.given_text(id) {
            Some(address) => address.to_string(),
            None => format!("127.0.0.1:{}", u32::from(self.port()) + offset),
        }
    }

    /// `advertise-client`: where clients are sent to, `host:port`. Without it: the address that the client port listens
    /// on, other machines' first; the peers' where it listens on all.
    pub fn advertise_client(&self) -> String {
        if let Some(address) = self.given_text(Id::AdvertiseClient) {
            return address.to_string();
        }
        let bind = self.bind();
        let hosts = || bind.iter().map(|(host, _)| host.as_str());
        let beyond = hosts().find(|host| !is_loopback(host) && !is_wildcard(host));
        let all = bind.is_empty() || hosts().any(is_wildcard);
        match beyond.or_else(|| hosts().next().filter(|_| !all)) {
            Some(host) if host.contains(':') => format!("[{host}]:{}", self.port()),
            Some(host) => format!("{host}:{}", self.port()),
            None => self.on_the_peers_host(self.port()),
        }
    }

    /// `advertise-peer`: where the other members reach this one, `host:port`.
    pub fn advertise_peer(&self) -> String {
        self.given_text(Id::AdvertisePeer).map_or_else(|| self.peer(), |address| address.to_string())
    }

    /// `advertise-admin`: where this member's admin HTTP is reached, `host:port`. Without it: where it listens, or on
    /// the peers' host where it listens on all addresses.
    pub fn advertise_admin(&self) -> String {
        if let Some(address) = self.given_text(Id::AdvertiseAdmin) {
            return address.to_string();
        }
        let admin = self.admin();
        match shapes::split_address(&admin) {
            Some((host, port)) if is_wildcard(host) => self.on_the_peers_host(port),
            _ => admin,
        }
    }

    fn on_the_peers_host(&self, port: u16) -> String {
        let peer = self.advertise_peer();
        let host = peer.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        format!("{host}:{port}")
    }

    /// `join-as`: true for a member that wants no vote.
    pub fn joins_as_learner(&self) -> bool {
        self.number(Id::JoinAs) == 1
    }

    /// `requirepass`.
    pub fn requirepass(&self) -> Option<Arc<str>> {
        self.given_text(Id::Requirepass)
    }

    /// `protected-mode`.
    pub fn protected_mode(&self) -> bool {
        self.yes(Id::ProtectedMode)
    }

    /// `secret`; empty if there is none.
    pub fn secret(&self) -> Arc<str> {
        self.text(Id::Secret)
    }

    /// `admin-token`.
    pub fn admin_token(&self) -> Option<Arc<str>> {
        self.given_text(Id::AdminToken)
    }

    /// `enable-debug-command`.
    pub fn enable_debug_command(&self) -> Allowance {
        match self.number(Id::EnableDebugCommand) {
            1 => Allowance::Yes,
            2 => Allowance::Local,
            _ => Allowance::No,
        }
    }

    /// `maxclients`.
    pub fn maxclients(&self) -> u64 {
        self.natural(Id::Maxclients)
    }

    /// `timeout`: `None` if idle clients stay.
    pub fn timeout(&self) -> Option<Duration> {
        Some(self.natural(Id::Timeout)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// `tcp-keepalive`: `None` if there is none.
    pub fn tcp_keepalive(&self) -> Option<Duration> {
        Some(self.natural(Id::TcpKeepalive)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// `tcp-backlog`.
    pub fn tcp_backlog(&self) -> u32 {
        self.natural(Id::TcpBacklog) as u32
    }

    /// `proto-max-bulk-len`.
    pub fn proto_max_bulk_len(&self) -> usize {
        self.size(Id::ProtoMaxBulkLen)
    }

    /// `client-query-buffer-limit`.
    pub fn client_query_buffer_limit(&self) -> usize {
        self.size(Id::ClientQueryBufferLimit)
    }

    /// `client-output-buffer-limit`: normal clients, replicas, subscribers. Keep it with [`Settings::generation`]:
    /// this reads the text anew.
    pub fn client_output_buffer_limits(&self) -> [BufferLimit; 3] {
        shapes::read_buffer_limits(&self.text(Id::ClientOutputBufferLimit)).unwrap_or_default()
    }

    /// `dir`.
    pub fn dir(&self) -> std::path::PathBuf {
        std::path::PathBuf::from(&*self.text(Id::Dir))
    }

    /// `databases`.
    pub fn databases(&self) -> u16 {
        self.natural(Id::Databases) as u16
    }

    /// `maxmemory`; 0: no limit.
    pub fn maxmemory(&self) -> u64 {
        self.natural(Id::Maxmemory)
    }

    /// `appendfsync`.
    pub fn appendfsync(&self) -> Appendfsync {
        match self.number(Id::Appendfsync) {
            0 => Appendfsync::Everysec,
            1 => Appendfsync::Always,
            _ => Appendfsync::No,
        }
    }

    /// `checkpoint-log-bytes`.
    pub fn checkpoint_log_bytes(&self) -> u64 {
        self.natural(Id::CheckpointLogBytes)
    }

    /// `snapshot-rate`; zero: no limit.
    pub fn snapshot_rate(&self) -> u64 {
        self.natural(Id::SnapshotRate)
    }

    /// `backup-dir`, if there is one.
    pub fn backup_dir(&self) -> Option<std::path::PathBuf> {
        self.given_text(Id::BackupDir).map(|dir| std::path::PathBuf::from(&*dir))
    }

    /// `backup-interval`.
    pub fn backup_interval(&self) -> Duration {
        Duration::from_millis(self.natural(Id::BackupInterval))
    }

    /// `backup-keep`.
    pub fn backup_keep(&self) -> usize {
        self.size(Id::BackupKeep)
    }

    /// `check-interval`; zero: never.
    pub fn check_interval(&self) -> Duration {
        Duration::from_millis(self.natural(Id::CheckInterval))
    }

    /// `checkpoint-interval`.
    pub fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.natural(Id::CheckpointInterval))
    }

    /// `keep-log-bytes`.
    pub fn keep_log_bytes(&self) -> u64 {
        self.natural(Id::KeepLogBytes)
    }

    /// `segment-bytes`.
    pub fn segment_bytes(&self) -> u64 {
        self.natural(Id::SegmentBytes)
    }

    /// `log-cache-bytes`.
    pub fn log_cache_bytes(&self) -> usize {
        self.size(Id::LogCacheBytes)
    }

    /// `checkpoint-cache-bytes`.
    pub fn checkpoint_cache_bytes(&self) -> u64 {
        self.natural(Id::CheckpointCacheBytes)
    }

    /// `follower-mode`.
    pub fn follower_mode(&self) -> FollowerMode {
        if self.number(Id::FollowerMode) == 1 { FollowerMode::Redirect } else { FollowerMode::Proxy }
    }

    /// `read-mode`.
    pub fn read_mode(&self) -> ReadMode {
        match self.number(Id::ReadMode) {
            0 => ReadMode::Lease,
            1 => ReadMode::Quorum,
            _ => ReadMode::Local,
        }
    }

    /// `write-timeout`.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.natural(Id::WriteTimeout))
    }

    /// `heartbeat-ms`.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.natural(Id::HeartbeatMs))
    }

    /// `election-timeout-ms`: the shortest and the longest.
    pub fn election_timeout(&self) -> (Duration, Duration) {
        let shortest = self.natural(Id::ElectionTimeoutMs);
        (Duration::from_millis(shortest), Duration::from_millis(shortest * 3 / 2))
    }

    /// `shutdown-timeout`.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.natural(Id::ShutdownTimeout))
    }

    /// `loglevel`.
    pub fn loglevel(&self) -> LogLevel {
        match self.number(Id::Loglevel) {
            0 => LogLevel::Debug,
            1 => LogLevel::Verbose,
            2 => LogLevel::Notice,
            3 => LogLevel::Warning,
            _ => LogLevel::Nothing,
        }
    }

    /// `logfile`.
    pub fn logfile(&self) -> Option<Arc<str>> {
        self.given_text(Id::Logfile)
    }

    /// `log-format`.
    pub fn log_format(&self) -> LogFormat {
        if self.number(Id::LogFormat) == 1 { LogFormat::Json } else { LogFormat::Human }
    }

    /// `slowlog-log-slower-than`: `None` if nothing is slow.
    pub fn slowlog_log_slower_than(&self) -> Option<Duration> {
        u64::try_from(self.number(Id::SlowlogLogSlowerThan)).ok().map(Duration::from_micros)
    }

    /// `slowlog-max-len`.
    pub fn slowlog_max_len(&self) -> usize {
        self.size(Id::SlowlogMaxLen)
    }

    /// `latency-monitor-threshold` in milliseconds; 0: off.
    pub fn latency_monitor_threshold_ms(&self) -> u64 {
        self.natural(Id::LatencyMonitorThreshold)
    }

    /// `latency-tracking`.
    pub fn latency_tracking(&self) -> bool {
        self.yes(Id::LatencyTracking)
    }

    /// `latency-tracking-info-percentiles`.
    pub fn latency_percentiles(&self) -> Vec<f64> {
        let text = self.text(Id::LatencyTrackingInfoPercentiles);
        text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// `io-threads`, or the number of cores.
    pub fn io_threads(&self) -> usize {
        match self.size(Id::IoThreads) {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }

    /// The settings of the group with the values this member was started with, for the bootstrap of one.
    pub fn replicated(&self) -> Vec<(&'static str, String)> {
        (0..self.count())
            .map(|index| (self.spec_at(index), index))
            .filter(|(spec, _)| spec.has(super::REPLICATED))
            .map(|(spec, index)| (spec.name, self.text_at(index).to_string()))
            .collect()
    }
}
