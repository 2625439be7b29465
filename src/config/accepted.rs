//! Settings of Redis that mean nothing here: tools and test suites set them, so they are checked and kept as Redis
//! checks and keeps them, shown by CONFIG GET, and have no effect. Where another value would promise something that
//! Quorate does not do, the setting is a [`FACT`]: it can be asked for, and not changed.

use super::shapes;
use super::spec::{FACT, FIXED, HIDDEN, INERT, Kind, PROTECTED, SENSITIVE, Spec, WORDS};

const INT_MAX: i64 = i32::MAX as i64;
const ANY: i64 = i64::MAX;

const fn inert(name: &'static str, kind: Kind, default: &'static str) -> Spec {
    alias(name, "", kind, default)
}

const fn alias(name: &'static str, alias: &'static str, kind: Kind, default: &'static str) -> Spec {
    Spec { name, alias, kind, default, flags: INERT, help: "Known to Redis; no effect here" }
}

const fn with(flags: u32, spec: Spec) -> Spec {
    Spec { flags: spec.flags | flags, ..spec }
}

pub(super) static INERT_SETTINGS: &[Spec] = &[
    // Memory and eviction.
    inert(
        "maxmemory-policy",
        Kind::Enum(&[
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "noeviction",
        ]),
        "noeviction",
    ),
    inert("maxmemory-samples", Kind::Int(1, INT_MAX), "5"),
    inert("maxmemory-eviction-tenacity", Kind::Int(0, 100), "10"),
    inert("maxmemory-clients", Kind::MemoryOrPercent(100), "0"),
    inert("lfu-log-factor", Kind::Int(0, INT_MAX), "10"),
    inert("lfu-decay-time", Kind::Int(0, INT_MAX), "1"),
    inert("lazyfree-lazy-eviction", Kind::Bool, "no"),
    inert("lazyfree-lazy-expire", Kind::Bool, "no"),
    inert("lazyfree-lazy-server-del", Kind::Bool, "no"),
    inert("lazyfree-lazy-user-del", Kind::Bool, "no"),
    inert("lazyfree-lazy-user-flush", Kind::Bool, "no"),
    inert("activerehashing", Kind::Bool, "yes"),
    inert("activedefrag", Kind::Bool, "no"),
    inert("active-defrag-cycle-min", Kind::Int(1, 99), "1"),
    inert("active-defrag-cycle-max", Kind::Int(1, 99), "25"),
    inert("active-defrag-threshold-lower", Kind::Int(0, 1000), "10"),
    inert("active-defrag-threshold-upper", Kind::Int(0, 1000), "100"),
    inert("active-defrag-ignore-bytes", Kind::Memory(1, ANY), "104857600"),
    inert("active-defrag-max-scan-fields", Kind::Int(1, ANY), "1000"),
    inert("active-expire-effort", Kind::Int(1, 10), "1"),
    inert("jemalloc-bg-thread", Kind::Bool, "yes"),
    inert("tracking-table-max-keys", Kind::Int(0, ANY), "1000000"),
    // Redis' files. Quorate writes none of them.
    with(WORDS, inert("save", Kind::Shaped(shapes::save_points), "")),
    with(PROTECTED, inert("dbfilename", Kind::Shaped(shapes::file_name), "dump.rdb")),
    inert("rdbcompression", Kind::Bool, "yes"),
    with(FIXED, inert("rdbchecksum", Kind::Bool, "yes")),
    inert("rdb-del-sync-files", Kind::Bool, "no"),
    inert("rdb-save-incremental-fsync", Kind::Bool, "yes"),
    with(HIDDEN, inert("rdb-key-save-delay", Kind::Int(i32::MIN as i64, INT_MAX), "0")),
    with(HIDDEN, inert("key-load-delay", Kind::Int(i32::MIN as i64, INT_MAX), "0")),
    with(HIDDEN, inert("loading-process-events-interval-bytes", Kind::Int(1024, INT_MAX), "2097152")),
    inert("stop-writes-on-bgsave-error", Kind::Bool, "yes"),
    inert("sanitize-dump-payload", Kind::Enum(&["no", "yes", "clients"]), "no"),
    inert("aof-load-truncated", Kind::Bool, "yes"),
    inert("aof-use-rdb-preamble", Kind::Bool, "yes"),
    inert("aof-timestamp-enabled", Kind::Bool, "no"),
    inert("aof-rewrite-incremental-fsync", Kind::Bool, "yes"),
    with(HIDDEN, inert("aof-disable-auto-gc", Kind::Bool, "no")),
    inert("no-appendfsync-on-rewrite", Kind::Bool, "no"),
    inert("auto-aof-rewrite-percentage", Kind::Int(0, INT_MAX), "100"),
    inert("auto-aof-rewrite-min-size", Kind::Memory(0, ANY), "67108864"),
    with(FIXED, inert("appendfilename", Kind::Text, "appendonly.aof")),
    with(FIXED, inert("appenddirname", Kind::Text, "appendonlydir")),
    // Redis' replication.
    with(FIXED | FACT | WORDS, alias("replicaof", "slaveof", Kind::Shaped(shapes::replica_of), "")),
    alias("replica-serve-stale-data", "slave-serve-stale-data", Kind::Bool, "yes"),
    alias("replica-read-only", "slave-read-only", Kind::Bool, "yes"),
    alias("replica-priority", "slave-priority", Kind::Int(0, INT_MAX), "100"),
    alias("replica-lazy-flush", "slave-lazy-flush", Kind::Bool, "no"),
    alias("replica-ignore-maxmemory", "slave-ignore-maxmemory", Kind::Bool, "yes"),
    alias("replica-announce-ip", "slave-announce-ip", Kind::Text, ""),
    alias("replica-announce-port", "slave-announce-port", Kind::Int(0, 65535), "0"),
    inert("replica-announced", Kind::Bool, "yes"),
    inert("repl-timeout", Kind::Int(1, INT_MAX), "60"),
    alias("repl-ping-replica-period", "repl-ping-slave-period", Kind::Int(1, INT_MAX), "10"),
    inert("repl-backlog-size", Kind::Memory(1, ANY), "1048576"),
    inert("repl-backlog-ttl", Kind::Int(0, ANY), "3600"),
    inert("repl-disable-tcp-nodelay", Kind::Bool, "no"),
    inert("repl-diskless-sync", Kind::Bool, "yes"),
    inert("repl-diskless-sync-delay", Kind::Int(0, INT_MAX), "5"),
    inert("repl-diskless-sync-max-replicas", Kind::Int(0, INT_MAX), "0"),
    inert("repl-diskless-load", Kind::Enum(&["disabled", "on-empty-db", "swapdb"]), "disabled"),
    inert("propagation-error-behavior", Kind::Enum(&["ignore", "panic", "panic-on-replicas"]), "ignore"),
    with(SENSITIVE, inert("masterauth", Kind::Text, "")),
    with(SENSITIVE, inert("masteruser", Kind::Text, "")),
    // Redis' cluster. A group is not one; clients that ask are told so.
    with(FIXED | FACT, inert("cluster-enabled", Kind::Bool, "no")),
    inert("cluster-node-timeout", Kind::Int(0, ANY), "15000"),
    inert("cluster-require-full-coverage", Kind::Bool, "yes"),
    inert("cluster-allow-reads-when-down", Kind::Bool, "no"),
    inert("cluster-allow-pubsubshard-when-down", Kind::Bool, "yes"),
    inert("cluster-migration-barrier", Kind::Int(0, INT_MAX), "1"),
    // Scripts stop after a count of instructions, never after wall-clock time.
    alias("busy-reply-threshold", "lua-time-limit", Kind::Int(0, ANY), "5000"),
    // The process.
    with(FIXED | FACT, inert("daemonize", Kind::Bool, "no")),
    with(FIXED, inert("supervised", Kind::Enum(&["upstart", "systemd", "auto", "no"]), "no")),
    with(FIXED, inert("pidfile", Kind::Text, "")),
    with(FIXED, inert("always-show-logo", Kind::Bool, "no")),
    with(FIXED, inert("set-proc-title", Kind::Bool, "yes")),
    inert("proc-title-template", Kind::Text, "{title} {listen-addr} {server-mode}"),
    with(FIXED | FACT, inert("syslog-enabled", Kind::Bool, "no")),
    with(FIXED, inert("syslog-ident", Kind::Text, "redis")),
    with(FIXED, inert("disable-thp", Kind::Bool, "yes")),
    with(FIXED, inert("io-threads-do-reads", Kind::Bool, "no")),
    with(FIXED | FACT, inert("unixsocket", Kind::Text, "")),
    with(FIXED, inert("unixsocketperm", Kind::Octal(0o777), "0")),
    with(FIXED, inert("socket-mark-id", Kind::Int(0, u32::MAX as i64), "0")),
    inert("bind-source-addr", Kind::Text, ""),
    inert("hz", Kind::Int(0, INT_MAX), "10"),
    inert("dynamic-hz", Kind::Bool, "yes"),
    with(HIDDEN, inert("watchdog-period", Kind::Int(0, INT_MAX), "0")),
    inert("oom-score-adj", Kind::Enum(&["no", "yes", "relative", "absolute"]), "no"),
    with(WORDS, inert("oom-score-adj-values", Kind::Shaped(shapes::oom_values), "0 200 800")),
    with(WORDS, inert("shutdown-on-sigint", Kind::Shaped(shapes::shutdown_words), "default")),
    with(WORDS, inert("shutdown-on-sigterm", Kind::Shaped(shapes::shutdown_words), "default")),
    inert("crash-log-enabled", Kind::Bool, "yes"),
    inert("crash-memcheck-enabled", Kind::Bool, "yes"),
    inert("ignore-warnings", Kind::Text, ""),
    inert("acllog-max-len", Kind::Int(0, ANY), "128"),
    inert("acl-pubsub-default", Kind::Enum(&["allchannels", "resetchannels"]), "resetchannels"),
    with(FIXED | FACT, inert("aclfile", Kind::Text, "")),
    with(FIXED, inert("enable-protected-configs", Kind::Enum(&["no", "yes", "local"]), "no")),
    with(FIXED, inert("enable-module-command", Kind::Enum(&["no", "yes", "local"]), "no")),
];
