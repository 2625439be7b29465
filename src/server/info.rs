//! INFO: Redis' sections and field names where they have a meaning here, and a section on Raft.
//!
//! Fields that monitoring tools insist on are there with the value of a server that lacks the feature (`used_memory_lua:0`
//! and the like); nothing is made up.

use std::fmt::Write;
use std::time::Duration;

use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, acl, flag};
use quorate_raft::{GroupStatus, Role};

use super::REDIS_VERSION;
use super::cx::{BoxFuture, Place, ShellCx, ShellHandler};
use super::facts::{LoadingFacts, host_port, shard_id};
use crate::metrics::process::{cpu_times, human_bytes, machine_bytes};

/// One section: its name in requests and in the reply, whether it is shown without being asked for, its fields.
struct Section {
    name: &'static str,
    title: &'static str,
    /// In INFO without arguments.
    default: bool,
    write: fn(&Facts<'_>, &mut String),
}

/// What all sections are written from.
struct Facts<'a> {
    cx: &'a dyn ShellCx,
    group: GroupStatus,
}

const fn section(
    name: &'static str,
    title: &'static str,
    default: bool,
    write: fn(&Facts<'_>, &mut String),
) -> Section {
    Section { name, title, default, write }
}

/// In the order of the reply.
static SECTIONS: &[Section] = &[
    section("server", "Server", true, server),
    section("clients", "Clients", true, clients),
    section("memory", "Memory", true, memory),
    section("persistence", "Persistence", true, persistence),
    section("stats", "Stats", true, stats),
    section("replication", "Replication", true, replication),
    section("raft", "Raft", true, raft),
    section("cpu", "CPU", true, cpu),
    section("modules", "Modules", true, modules),
    section("commandstats", "Commandstats", false, commandstats),
    section("errorstats", "Errorstats", true, errorstats),
    section("latencystats", "Latencystats", false, latencystats),
    section("cluster", "Cluster", true, cluster),
    section("keyspace", "Keyspace", true, keyspace),
];

fn info<'a>(cx: &'a dyn ShellCx, args: &'a [&'a [u8]], out: &'a mut ReplyBuf) -> BoxFuture<'a, Result<(), CmdError>> {
    Box::pin(async move {
        let wanted: Vec<String> =
            args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
        let facts = Facts { cx, group: cx.group().await };
        let mut text = String::new();
        for section in SECTIONS.iter().filter(|section| is_wanted(section, &wanted)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {}\r\n", section.title);
            (section.write)(&facts, &mut text);
        }
        out.verbatim("txt", text.as_bytes());
        Ok(())
    })
}

fn is_wanted(section: &Section, wanted: &[String]) -> bool {
    if wanted.is_empty() {
        return section.default;
    }
    wanted.iter().any(|name| match name.as_str() {
        "default" => section.default,
        "all" => section.name != "modules",
        "everything" => true,
        name => name == section.name,
    })
}

/// Writes one `name:value` line for each pair.
macro_rules! fields {
    ($out:expr, $($name:literal => $value:expr),+ $(,)?) => {
        $( let _ = write!($out, concat!($name, ":{}\r\n"), $value); )+
    };
}

fn server(facts: &Facts<'_>, out: &mut String) {
    let server = facts.cx.server();
    let uptime = server.started.elapsed().as_secs();
    let now_us = facts.cx.now_us();
    fields!(out,
        "redis_version" => REDIS_VERSION,
        "quorate_version" => env!("CARGO_PKG_VERSION"),
        "redis_git_sha1" => "00000000",
        "redis_git_dirty" => 0,
        "redis_build_id" => "0000000000000000",
        "redis_mode" => if facts.cx.redirects() { "cluster" } else { "standalone" },
        "os" => format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "arch_bits" => usize::BITS,
        "monotonic_clock" => "POSIX clock_gettime",
        "multiplexing_api" => "tokio",
        "process_id" => std::process::id(),
        "process_supervised" => "no",
        "run_id" => server.run_id,
        "tcp_port" => server.port,
        "server_time_usec" => now_us,
        "uptime_in_seconds" => uptime,
        "uptime_in_days" => uptime / 86_400,
        "hz" => 10,
        "configured_hz" => 10,
        "lru_clock" => (now_us / 1_000_000) & 0xff_ffff,
        "executable" => server.executable,
        "config_file" => server.config_file,
        "io_threads_active" => 0,
    );
}

fn clients(facts: &Facts<'_>, out: &mut String) {
    let totals = facts.cx.clients();
    fields!(out,
        "connected_clients" => totals.connected,
        "cluster_connections" => 0,
        "maxclients" => setting(facts, "maxclients"),
        "client_recent_max_input_buffer" => totals.max_input,
        "client_recent_max_output_buffer" => totals.max_output,
        "blocked_clients" => totals.blocked,
        "tracking_clients" => 0,
        "watching_clients" => totals.watching,
        "clients_in_timeout_table" => 0,
    );
}

fn setting(facts: &Facts<'_>, name: &str) -> String {
    facts.cx.setting(name).unwrap_or_default()
}

fn memory(facts: &Facts<'_>, out: &mut String) {
    let metrics = facts.cx.metrics();
    let used = metrics.refresh_memory();
    let peak = metrics.memory_peak.get().max(used);
    let machine = machine_bytes();
    let limit: u64 = setting(facts, "maxmemory").parse().unwrap_or(0);
    fields!(out,
        "used_memory" => used,
        "used_memory_human" => human_bytes(used),
        "used_memory_rss" => used,
        "used_memory_rss_human" => human_bytes(used),
        "used_memory_peak" => peak,
        "used_memory_peak_human" => human_bytes(peak),
        "used_memory_peak_perc" => format!("{:.2}%", used as f64 * 100.0 / peak.max(1) as f64),
        "total_system_memory" => machine,
        "total_system_memory_human" => human_bytes(machine),
        "used_memory_lua" => 0,
        "used_memory_scripts" => 0,
        "number_of_cached_scripts" => 0,
        "number_of_functions" => 0,
        "number_of_libraries" => 0,
        "maxmemory" => limit,
        "maxmemory_human" => human_bytes(limit),
        "maxmemory_policy" => setting(facts, "maxmemory-policy"),
        "mem_fragmentation_ratio" => "1.00",
        "mem_fragmentation_bytes" => 0,
        "mem_not_counted_for_evict" => 0,
        "mem_replication_backlog" => 0,
        "mem_clients_slaves" => 0,
        "mem_clients_normal" => 0,
        "mem_aof_buffer" => 0,
        "mem_allocator" => "mimalloc",
        "active_defrag_running" => 0,
        "lazyfree_pending_objects" => 0,
        "lazyfreed_objects" => 0,
    );
}

fn persistence(facts: &Facts<'_>, out: &mut String) {
    let storage = facts.cx.storage();
    let backups = &facts.cx.metrics().backups;
    let policy = setting(facts, "appendfsync");
    let status = |failed: bool| if failed { "err" } else { "ok" };
    let applied = facts.group.applied.unwrap_or(0);
    let seconds = |time: Option<Duration>| time.map_or(-1, |time| time.as_secs().cast_signed());
    fields!(out,
        "loading" => u8::from(storage.loading.is_some()),
        "async_loading" => 0,
        "current_cow_peak" => 0,
        "current_cow_size" => 0,
        "rdb_changes_since_last_save" => applied.saturating_sub(facts.group.checkpoint.unwrap_or(0)),
        "rdb_bgsave_in_progress" => u8::from(facts.group.checkpoint_running.is_some()),
        "rdb_last_save_time" => storage.last_checkpoint_s,
        "rdb_last_bgsave_status" => status(facts.group.checkpoint_failed),
        "rdb_last_bgsave_time_sec" => seconds(facts.group.checkpoint_took),
        "rdb_current_bgsave_time_sec" => seconds(facts.group.checkpoint_running),
        "rdb_saves" => facts.group.checkpoints,
        "rdb_last_cow_size" => 0,
        "aof_enabled" => 1,
        "aof_rewrite_in_progress" => 0,
        "aof_rewrite_scheduled" => 0,
        "aof_last_rewrite_time_sec" => -1,
        "aof_current_rewrite_time_sec" => -1,
        "aof_last_bgrewrite_status" => "ok",
        "aof_last_write_status" => status(storage.failed || !storage.has_room),
        "aof_last_cow_size" => 0,
        "module_fork_in_progress" => 0,
        "module_fork_last_cow_size" => 0,
        "aof_pending_bio_fsync" => u8::from(storage.sync_pending),
        "aof_delayed_fsync" => storage.delayed_fsyncs,
        "log_fsync_policy" => policy,
        "log_power_loss_takes" => match policy.as_str() {
            "always" => "nothing",
            "everysec" => "up to two seconds of acknowledged writes of this member",
            _ => "acknowledged writes of this member that the system has not written yet",
        },
        "log_has_room" => u8::from(storage.has_room),
        "backup_in_progress" => u8::from(backups.running()),
        "backup_last_time" => backups.last_s.get(),
        "backup_last_status" => status(backups.last_failed()),
        "backup_last_bytes" => backups.last_bytes.get(),
        "backup_last_took_msec" => backups.last_took_ms.get(),
        "backups" => backups.made.get(),
        "backup_failures" => backups.failures.get(),
        "log_bytes" => storage.log_bytes,
        "log_segments" => storage.log_segments,
        "log_fsyncs" => storage.fsyncs,
        "log_fsync_usec_per_call" => format!("{:.2}", storage.fsync_us as f64 / storage.fsyncs.max(1) as f64),
    );
    if let Some(loading) = storage.loading {
        loading_fields(facts, &loading, out);
    }
}

/// As Redis shows them, while it loads and not after.
fn loading_fields(facts: &Facts<'_>, loading: &LoadingFacts, out: &mut String) {
    let LoadingFacts { since_s, total, loaded } = *loading;
    let elapsed = (facts.cx.now_us() / 1_000_000).saturating_sub(since_s);
    // Redis says 1 where it can't tell yet.
    let eta = match loaded {
        0 => 1,
        loaded => (elapsed as f64 * total.saturating_sub(loaded) as f64 / loaded as f64).ceil() as u64,
    };
    fields!(out,
        "loading_start_time" => since_s,
        "loading_total_bytes" => total,
        "loading_rdb_used_mem" => 0,
        "loading_loaded_bytes" => loaded,
        "loading_loaded_perc" => format!("{:.2}", loaded as f64 * 100.0 / total.max(1) as f64),
        "loading_eta_seconds" => eta,
    );
}

fn stats(facts: &Facts<'_>, out: &mut String) {
    let metrics = facts.cx.metrics();
    let (ops, bytes_in, bytes_out) = metrics.rates();
    let kbps = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    let mut expired = 0;
    facts.cx.with_keyspace(&mut |keyspace| expired = keyspace.expired_keys());
    fields!(out,
        "total_connections_received" => metrics.connections.get(),
        "total_commands_processed" => metrics.commands.total_calls(),
        "instantaneous_ops_per_sec" => ops,
        "total_net_input_bytes" => metrics.net_in.get(),
        "total_net_output_bytes" => metrics.net_out.get(),
        "total_net_repl_input_bytes" => facts.group.snapshot_bytes_received,
        "total_net_repl_output_bytes" => facts.group.snapshot_bytes_sent,
        "instantaneous_input_kbps" => kbps(bytes_in),
        "instantaneous_output_kbps" => kbps(bytes_out),
        "instantaneous_input_repl_kbps" => "0.00",
        "instantaneous_output_repl_kbps" => "0.00",
        "rejected_connections" => metrics.connections_rejected.get(),
        "sync_full" => facts.group.snapshots_sent,
        "sync_partial_ok" => 0,
        "sync_partial_err" => 0,
        "expired_keys" => expired,
        "expired_stale_perc" => "0.00",
        "expired_time_cap_reached_count" => 0,
        "evicted_keys" => 0,
        "evicted_clients" => 0,
        "keyspace_hits" => metrics.hits.get(),
        "keyspace_misses" => metrics.misses.get(),
        "pubsub_channels" => 0,
        "pubsub_patterns" => 0,
        "pubsubshard_channels" => 0,
        "latest_fork_usec" => 0,
        "total_forks" => 0,
        "migrate_cached_sockets" => 0,
        "slave_expires_tracked_keys" => 0,
        "tracking_total_keys" => 0,
        "tracking_total_items" => 0,
        "tracking_total_prefixes" => 0,
        "unexpected_error_replies" => 0,
        "total_error_replies" => metrics.errors.get(),
        "dump_payload_sanitizations" => 0,
        "acl_access_denied_auth" => metrics.auth_failures.get(),
        "client_query_buffer_limit_disconnections" => metrics.query_limit_closed.get(),
        "client_output_buffer_limit_disconnections" => metrics.output_limit_closed.get(),
        "proxied_commands" => metrics.proxied.get(),
    );
}

/// The group in the words of Redis' replication: offsets are log positions.
fn replication(facts: &Facts<'_>, out: &mut String) {
    let group = &facts.group;
    let offset = group.applied.unwrap_or(0);
    let leads = group.role == Role::Leader;
    fields!(out, "role" => if leads { "master" } else { "slave" });
    if !leads {
        let leader = group.members.iter().find(|m| Some(m.id) == group.leader);
        let (host, port) = leader.map_or(("", 0), |m| host_port(&m.member.client));
        fields!(out,
            "master_host" => host,
            "master_port" => port,
            "master_link_status" => if leader.is_some() { "up" } else { "down" },
            "master_last_io_seconds_ago" => if leader.is_some() { 0 } else { -1 },
            "master_sync_in_progress" => 0,
            "slave_read_repl_offset" => group.last_log.unwrap_or(0),
            "slave_repl_offset" => offset,
            "slave_priority" => 100,
            "slave_read_only" => 1,
            "replica_announced" => 1,
        );
    }
    let others = || group.members.iter().filter(|m| leads && m.id != group.id && m.healthy != Some(false));
    fields!(out, "connected_slaves" => others().count());
    for (at, member) in others().enumerate() {
        let (host, port) = host_port(&member.member.client);
        let state = if member.snapshot.is_some() { "send_bulk" } else { "online" };
        let (matched, age) = (member.matched.unwrap_or(0), member.last_ack_age.unwrap_or_default().as_secs());
        let _ = write!(out, "slave{at}:ip={host},port={port},state={state},offset={matched},lag={age}\r\n");
    }
    fields!(out,
        "master_failover_state" => "no-failover",
        "master_replid" => shard_id(&facts.cx.server().group),
        "master_replid2" => "0".repeat(40),
        "master_repl_offset" => offset,
        "second_repl_offset" => -1,
        "repl_backlog_active" => 1,
        "repl_backlog_size" => facts.cx.storage().log_bytes,
        "repl_backlog_first_byte_offset" => group.purged.unwrap_or(0) + 1,
        "repl_backlog_histlen" => group.last_log.unwrap_or(0).saturating_sub(group.purged.unwrap_or(0)),
    );
}

fn raft(facts: &Facts<'_>, out: &mut String) {
    let group = &facts.group;
    fields!(out,
        "raft_group" => facts.cx.server().group,
        "raft_member" => group.id,
        "raft_role" => group.role.as_str(),
        "raft_term" => group.term,
        "raft_leader" => group.leader.unwrap_or(0),
        "raft_last_log" => group.last_log.unwrap_or(0),
        "raft_committed" => group.committed.unwrap_or(0),
        "raft_applied" => group.applied.unwrap_or(0),
        "raft_checkpoint" => group.checkpoint.unwrap_or(0),
        "raft_purged" => group.purged.unwrap_or(0),
        "raft_lease" => u8::from(group.lease),
        "raft_voters" => group.members.iter().filter(|m| m.voter).count(),
        "raft_learners" => group.members.iter().filter(|m| !m.voter).count(),
        "raft_membership_changing" => u8::from(group.membership_changing),
        "raft_elections" => group.elections,
        "raft_leader_changes" => group.leader_changes,
        "raft_proposals" => group.proposals,
        "raft_proposals_unknown" => group.proposals_unknown,
        "raft_proposals_waiting" => group.proposals_waiting,
        "raft_entries_in_flight" => group.entries_in_flight,
        "raft_commit_usec_p50" => group.commit_us.quantile(0.5),
        "raft_commit_usec_p99" => group.commit_us.quantile(0.99),
        "raft_batch_units_p50" => group.batch_units.quantile(0.5),
        "raft_snapshots_sent" => group.snapshots_sent,
        "raft_snapshots_received" => group.snapshots_received,
        "raft_checks" => group.check.runs,
        "raft_check_differences" => group.check.differences,
        "raft_checks_undecided" => group.check.undecided,
        "raft_check_good_index" => group.check.last_good.unwrap_or(0),
        "raft_failed" => group.failed.as_deref().unwrap_or("no").replace(['\r', '\n'], " "),
    );
    for member in &group.members {
        let health = match member.healthy {
            _ if member.id == group.id => "self",
            Some(true) => "ok",
            Some(false) => "unreachable",
            None => "unknown",
        };
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let _ = write!(
            out,
            "raft_member_{}:role={},voter={},client={},peer={},admin={},matched={},lag={},health={health}\r\n",
            member.id,
            member.role.as_str(),
            u8::from(member.voter),
            member.member.client,
            member.member.peer,
            member.member.admin,
            number(member.matched),
            number(member.lag),
        );
    }
}

fn cpu(_facts: &Facts<'_>, out: &mut String) {
    let times = cpu_times();
    let seconds = |value: f64| format!("{value:.6}");
    fields!(out,
        "used_cpu_sys" => seconds(times.system),
        "used_cpu_user" => seconds(times.user),
        "used_cpu_sys_children" => seconds(times.system_children),
        "used_cpu_user_children" => seconds(times.user_children),
    );
}

fn modules(_facts: &Facts<'_>, _out: &mut String) {}

fn commandstats(facts: &Facts<'_>, out: &mut String) {
    let metrics = facts.cx.metrics();
    for (index, stat) in metrics.commands.iter().filter(|(_, s)| s.calls() + s.rejected() + s.failed() > 0) {
        let usec = stat.nanos() / 1000;
        let _ = write!(
            out,
            "cmdstat_{}:calls={},usec={usec},usec_per_call={:.2},rejected_calls={},failed_calls={}\r\n",
            metrics.name(index),
            stat.calls(),
            stat.nanos() as f64 / 1000.0 / stat.calls().max(1) as f64,
            stat.rejected(),
            stat.failed(),
        );
    }
}

fn errorstats(facts: &Facts<'_>, out: &mut String) {
    for (kind, count) in facts.cx.metrics().error_kinds() {
        // The kind is a client's own word where a script made the error.
        let kind: String = kind.chars().map(|c| if c == ':' || c.is_control() { '?' } else { c }).collect();
        let _ = write!(out, "errorstat_{kind}:count={count}\r\n");
    }
}

fn latencystats(facts: &Facts<'_>, out: &mut String) {
    if setting(facts, "latency-tracking") == "no" {
        return;
    }
    let percentiles = setting(facts, "latency-tracking-info-percentiles");
    let percentiles: Vec<(&str, f64)> =
        percentiles.split_whitespace().filter_map(|text| Some((text, text.parse().ok()?))).collect();
    let metrics = facts.cx.metrics();
    for (index, stat) in metrics.commands.iter() {
        let Some(histogram) = stat.latency().filter(|_| !percentiles.is_empty()) else { continue };
        let values: Vec<String> = percentiles
            .iter()
            .map(|(text, p)| format!("p{text}={:.3}", histogram.quantile(p / 100.0) as f64 / 1000.0))
            .collect();
        let _ = write!(out, "latency_percentiles_usec_{}:{}\r\n", metrics.name(index), values.join(","));
    }
}

fn cluster(facts: &Facts<'_>, out: &mut String) {
    fields!(out, "cluster_enabled" => u8::from(facts.cx.redirects()));
}

fn keyspace(facts: &Facts<'_>, out: &mut String) {
    let databases = facts.cx.server().databases;
    let now_ms = facts.cx.now_us() / 1000;
    facts.cx.with_keyspace(&mut |keyspace| {
        for db in 0..databases {
            let info = keyspace.keyspace_info(db, now_ms);
            if info.keys > 0 {
                let (keys, expires, ttl) = (info.keys, info.expires, info.avg_ttl_ms);
                let _ = write!(out, "db{db}:keys={keys},expires={expires},avg_ttl={ttl}\r\n");
            }
        }
    });
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[Command {
    meta: Meta {
        name: "info",
        summary: "Tells about the server, section by section.",
        group: Group::Server,
        arity: -1,
        flags: flag::LOADING | flag::STALE,
        acl: acl::DANGEROUS,
        args: &[Arg::string("section").optional().multiple()],
        tips: &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
        history: &[("7.0.0", "Several sections in one call.")],
        ..Meta::BASE
    },
    handler: ShellHandler::Later(Place::Here, info),
    subcommands: &[],
}];
