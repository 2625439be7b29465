//! The settings that do something, in one table: flags, file, CONFIG and `--help` all read it.

use super::shapes;
use super::spec::{FACT, FIXED, Kind, PINNED, PROTECTED, REPLICATED, SENSITIVE, Spec, UNTOLD, WORDS};

macro_rules! settings {
    ($( $id:ident $name:literal $(or $alias:literal)?, $kind:expr, $default:literal, $flags:expr, $help:literal; )*) => {
        /// The settings that code reads by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Id { $( #[doc = concat!("`", $name, "`: ", $help)] $id, )* }

        pub(super) static LIVE: &[Spec] = &[ $( Spec {
            name: $name, alias: concat!($($alias)?), kind: $kind, default: $default, flags: $flags, help: $help,
        }, )* ];
    };
}

const INT_MAX: i64 = i32::MAX as i64;
const ANY: i64 = i64::MAX;
const NONE: u32 = 0;

/// Values of `follower-mode`, by index.
pub(super) const FOLLOWER_MODES: &[&str] = &["proxy", "redirect"];
/// Values of `read-mode`, by index.
pub(super) const READ_MODES: &[&str] = &["lease", "quorum", "local"];
/// Values of `log-format`, by index.
pub(super) const LOG_FORMATS: &[&str] = &["human", "json"];
/// Values of `loglevel`, by index.
pub(super) const LOG_LEVELS: &[&str] = &["debug", "verbose", "notice", "warning", "nothing"];
/// Values of the settings that allow a command to nobody, to all, or to clients on this machine, by index.
pub(super) const ALLOWANCES: &[&str] = &["no", "yes", "local"];

settings! {
    // Where it listens, and where others find it.
    Port "port", Kind::Int(0, 65535), "7001", PINNED, "Port for clients";
    Bind "bind", Kind::Shaped(shapes::bind), "127.0.0.1 -::1", PINNED | WORDS,
        "Addresses that the client port listens on; one with a leading '-' may be missing";
    Peer "peer", Kind::Shaped(shapes::address), "", PINNED,
        "HOST:PORT to listen on for the other members [default: 127.0.0.1, client port + 10000]";
    Admin "admin", Kind::Shaped(shapes::address), "", PINNED,
        "HOST:PORT to listen on for admin HTTP [default: 127.0.0.1, client port + 1000]";
    AdvertiseClient "advertise-client", Kind::Shaped(shapes::address), "", PINNED,
        "HOST:PORT where clients reach this member, if it is not what it listens on";
    AdvertisePeer "advertise-peer", Kind::Shaped(shapes::address), "", PINNED,
        "HOST:PORT where the other members reach this one, if it is not what it listens on";
    AdvertiseAdmin "advertise-admin", Kind::Shaped(shapes::address), "", PINNED,
        "HOST:PORT where this member's admin HTTP is reached, if it is not what it listens on";
    JoinAs "join-as", Kind::Enum(&["voter", "learner"]), "voter", PINNED,
        "What to ask for with --join: a vote, or the log without one";
    TcpBacklog "tcp-backlog", Kind::Int(0, INT_MAX), "511", FIXED, "Connections that may wait to be accepted";

    // Who may come in.
    Requirepass "requirepass", Kind::Text, "", SENSITIVE, "Password that clients have to give with AUTH";
    ProtectedMode "protected-mode", Kind::Bool, "yes", NONE,
        "Without a password, serve only clients of this machine";
    Secret "secret", Kind::Text, "", PINNED | SENSITIVE | UNTOLD,
        "What members prove to each other to know; the same on all of them";
    AdminToken "admin-token", Kind::Text, "", PINNED | SENSITIVE | UNTOLD, "Bearer token that admin HTTP asks for";
    EnableDebugCommand "enable-debug-command", Kind::Enum(ALLOWANCES), "no", FIXED,
        "Who may use DEBUG: nobody, all, or clients of this machine";

    // Clients.
    Maxclients "maxclients", Kind::Int(1, u32::MAX as i64), "10000", NONE, "Client connections at a time";
    Timeout "timeout", Kind::Int(0, INT_MAX), "0", NONE, "Close a client that is idle for so many seconds; 0: never";
    TcpKeepalive "tcp-keepalive", Kind::Int(0, INT_MAX), "300", NONE,
        "Seconds between TCP keepalives to a client; 0: none";
    ProtoMaxBulkLen "proto-max-bulk-len", Kind::Memory(1 << 20, ANY), "536870912", REPLICATED,
        "Bytes that one argument of a request may have";
    ClientQueryBufferLimit "client-query-buffer-limit", Kind::Memory(1 << 20, ANY), "1073741824", NONE,
        "Bytes that one client may send before the request, or its transaction, is complete";
    ClientOutputBufferLimit "client-output-buffer-limit", Kind::Shaped(shapes::buffer_limits),
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", WORDS,
        "Bytes of replies that may wait for a client: class, hard limit, soft limit, seconds";

    // Data.
    Dir "dir", Kind::Text, "./quorate-data", PROTECTED, "Data directory";
    Databases "databases", Kind::Int(1, 4096), "16", FIXED,
        "Number of databases; counts when the group is bootstrapped";
    Maxmemory "maxmemory", Kind::Memory(0, ANY), "0", NONE,
        "Bytes that this process may take, keys and all else (used_memory in INFO), before commands that need more are \
         refused; 0: no limit";
    Appendonly "appendonly", Kind::Bool, "yes", PINNED | FACT, "Every write is in a log";
    Appendfsync "appendfsync", Kind::Enum(&["everysec", "always", "no"]), "always", NONE,
        "When this member's log is synced: before a write is acknowledged, every second (a loss of power may take the \
         last two seconds here), or when the system does it (it may take more)";
    CheckpointLogBytes "checkpoint-log-bytes", Kind::Memory(1 << 20, ANY), "268435456", PINNED,
        "Take a checkpoint when the log has grown by so many bytes";
    CheckpointInterval "checkpoint-interval", Kind::Millis(1000, INT_MAX), "900000", PINNED,
        "Take a checkpoint after so much time, if anything was written (milliseconds, or 15m)";
    SnapshotRate "snapshot-rate", Kind::Memory(0, ANY), "134217728", PINNED,
        "Bytes of a snapshot that are sent to a member that lags in a second; 0: as fast as it goes";
    BackupDir "backup-dir", Kind::Text, "", PINNED,
        "Directory that this member saves backups of the data to; empty: it takes none";
    BackupInterval "backup-interval", Kind::Millis(1000, ANY), "86400000", NONE,
        "Time from one of them to the next (milliseconds, or 24h); the first comes some minutes after a start";
    BackupKeep "backup-keep", Kind::Int(1, INT_MAX), "7", NONE,
        "How many of them stay; older ones of this member are removed, those of an id or a group it had before are not";
    CheckInterval "check-interval", Kind::Millis(0, INT_MAX), "600000", PINNED,
        "Compare what the members hold so often; one that differs stops (milliseconds, or 10m; 0: never)";
    KeepLogBytes "keep-log-bytes", Kind::Memory(0, ANY), "33554432", PINNED,
        "Bytes of log kept behind a checkpoint for members that lag a little";
    SegmentBytes "segment-bytes", Kind::Memory(1 << 20, 1 << 30), "67108864", PINNED, "Size of a file of the log";
    LogCacheBytes "log-cache-bytes", Kind::Memory(1 << 20, ANY), "8388608", PINNED,
        "Bytes of the log's end that are kept in memory";
    CheckpointCacheBytes "checkpoint-cache-bytes", Kind::Memory(1 << 20, ANY), "16777216", PINNED,
        "Bytes of memory for the store that holds the checkpoint";

    // Consensus.
    FollowerMode "follower-mode", Kind::Enum(FOLLOWER_MODES), "proxy", NONE,
        "What a member that does not lead does with a client: serve it through the leader, or answer -MOVED";
    ReadMode "read-mode", Kind::Enum(READ_MODES), "lease", NONE,
        "How reads are made safe: the leader's lease, a round to a majority, or not at all (local)";
    WriteTimeout "write-timeout", Kind::Millis(1, INT_MAX), "5000", NONE,
        "How long a command may wait for a leader and a majority (milliseconds, or 5s)";
    HeartbeatMs "heartbeat-ms", Kind::Int(1, 60_000), "50", PINNED, "Milliseconds between the leader's heartbeats";
    ElectionTimeoutMs "election-timeout-ms", Kind::Int(10, 600_000), "250", PINNED,
        "Milliseconds without a leader after which a member asks for an election; the longest is half as much again";
    ShutdownTimeout "shutdown-timeout", Kind::Int(0, INT_MAX), "10", NONE,
        "Seconds that an orderly stop may take";

    // What it tells.
    Loglevel "loglevel", Kind::Enum(LOG_LEVELS), "notice", NONE, "Least important lines that are logged";
    Logfile "logfile", Kind::Text, "", FIXED, "File for the log; empty: standard error";
    LogFormat "log-format", Kind::Enum(LOG_FORMATS), "human", PINNED, "Log lines for people or for programs";
    SlowlogLogSlowerThan "slowlog-log-slower-than", Kind::Int(-1, ANY), "10000", NONE,
        "Microseconds after which a command is in the slow log, the wait for the log and the other members included; \
         -1: none is";
    SlowlogMaxLen "slowlog-max-len", Kind::Int(0, ANY), "128", NONE, "Commands that the slow log keeps";
    LatencyMonitorThreshold "latency-monitor-threshold", Kind::Int(0, ANY), "0", NONE,
        "Milliseconds after which the latency monitor notes an event; 0: off";
    LatencyTracking "latency-tracking", Kind::Bool, "yes", NONE, "Keep a latency histogram of each command";
    LatencyTrackingInfoPercentiles "latency-tracking-info-percentiles", Kind::Shaped(shapes::percentiles),
        "50 99 99.9", WORDS, "Percentiles that INFO shows of them";

    // Events that are published.
    NotifyKeyspaceEvents "notify-keyspace-events", Kind::Shaped(shapes::keyspace_events), "", NONE,
        "Classes of keyspace events that are published";

    // Work.
    IoThreads "io-threads", Kind::Int(0, 128), "0", FIXED,
        "Threads that serve clients and peers; 0: as many as the machine has cores";

    // Settings of the group that change what replies say.
    HashMaxListpackEntries "hash-max-listpack-entries" or "hash-max-ziplist-entries", Kind::Int(0, ANY), "512",
        REPLICATED, "Fields of a hash that is kept compact";
    HashMaxListpackValue "hash-max-listpack-value" or "hash-max-ziplist-value", Kind::Memory(0, ANY), "64",
        REPLICATED, "Bytes of a field or value in a compact hash";
    ListMaxListpackSize "list-max-listpack-size" or "list-max-ziplist-size", Kind::Int(i32::MIN as i64, INT_MAX), "-2",
        REPLICATED, "Size of a list that is kept compact";
    ListCompressDepth "list-compress-depth", Kind::Int(0, INT_MAX), "0", REPLICATED,
        "Kept for those who ask; lists are not compressed";
    SetMaxIntsetEntries "set-max-intset-entries", Kind::Int(0, ANY), "512", REPLICATED,
        "Elements of a set of integers that is kept compact";
    SetMaxListpackEntries "set-max-listpack-entries", Kind::Int(0, ANY), "128", REPLICATED,
        "Elements of a set that is kept compact";
    SetMaxListpackValue "set-max-listpack-value", Kind::Int(0, ANY), "64", REPLICATED,
        "Bytes of an element in a compact set";
    ZsetMaxListpackEntries "zset-max-listpack-entries" or "zset-max-ziplist-entries", Kind::Int(0, ANY), "128",
        REPLICATED, "Elements of a sorted set that is kept compact";
    ZsetMaxListpackValue "zset-max-listpack-value" or "zset-max-ziplist-value", Kind::Memory(0, ANY), "64",
        REPLICATED, "Bytes of an element in a compact sorted set";
    HllSparseMaxBytes "hll-sparse-max-bytes", Kind::Memory(0, ANY), "3000", REPLICATED,
        "Bytes of a HyperLogLog that is kept sparse";
    StreamNodeMaxBytes "stream-node-max-bytes", Kind::Memory(0, ANY), "4096", REPLICATED,
        "Bytes of a stream's node";
    StreamNodeMaxEntries "stream-node-max-entries", Kind::Int(0, ANY), "100", REPLICATED,
        "Entries of a stream's node";
}
