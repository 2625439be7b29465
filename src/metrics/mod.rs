//! What this member counts about itself, for INFO, SLOWLOG, LATENCY and the Prometheus page.
//!
//! One [`Metrics`] per process, shared by reference: nothing here is global, so that many members can live in one
//! simulated process. Recording never blocks on a reader.

pub mod backups;
pub mod commands;
pub mod histogram;
pub mod latency;
pub mod process;
pub mod sampler;
pub mod slowlog;
pub mod text;

use std::collections::BTreeMap;

use parking_lot::Mutex;

use backups::Backups;
use commands::CommandStats;
use histogram::{Counter, Gauge, Histogram};
use latency::LatencyMonitor;
use sampler::Sampler;
use slowlog::SlowLog;
use text::{Page, Unit};

/// Redis stops telling error prefixes apart after this many: clients can make up new ones with scripts.
const ERROR_KINDS: usize = 128;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Full names (`config|get`) in order of the commands' dense index.
    names: Vec<String>,
    /// Per command.
    pub commands: CommandStats,
    /// Slow commands.
    pub slowlog: SlowLog,
    /// Latency spikes.
    pub latency: LatencyMonitor,

    /// Connections accepted.
    pub connections: Counter,
    /// Connections refused (`maxclients`, protected mode).
    pub connections_rejected: Counter,
    /// Connections open now.
    pub clients: Gauge,
    /// The most connections that were open at once.
    pub clients_peak: Gauge,
    /// Connections closed because their output buffer outgrew its limit.
    pub output_limit_closed: Counter,
    /// Connections closed because a request without an end outgrew its limit.
    pub query_limit_closed: Counter,
    /// Bytes from clients.
    pub net_in: Counter,
    /// Bytes to clients.
    pub net_out: Counter,
    /// Commands handed to the leader for a client.
    pub proxied: Counter,
    /// Error replies sent.
    pub errors: Counter,
    /// Keys found by reads.
    pub hits: Counter,
    /// Keys not found by reads.
    pub misses: Counter,
    /// Failed AUTH and HELLO AUTH.
    pub auth_failures: Counter,
    /// Nanoseconds from handing a unit to consensus to its reply.
    pub propose: Histogram,
    /// Nanoseconds to apply one entry.
    pub apply: Histogram,
    /// Nanoseconds that reads waited for their barrier.
    pub barrier: Histogram,

    /// Backups that this member takes of itself.
    pub backups: Backups,

    /// Resident bytes at the last tick.
    pub memory: Gauge,
    /// The most resident bytes seen at a tick.
    pub memory_peak: Gauge,

    ops: Sampler,
    net_in_rate: Sampler,
    net_out_rate: Sampler,
    error_kinds: Mutex<BTreeMap<String, u64>>,
}

impl Default for Metrics {
    /// Counts everything but commands.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Metrics {
    /// For commands of these full names, in order of their dense index.
    pub fn new(names: Vec<String>) -> Self {
        Self {
            commands: CommandStats::new(names.len()),
            names,
            slowlog: SlowLog::default(),
            latency: LatencyMonitor::default(),
            connections: Counter::new(),
            connections_rejected: Counter::new(),
            clients: Gauge::new(),
            clients_peak: Gauge::new(),
            output_limit_closed: Counter::new(),
            query_limit_closed: Counter::new(),
            net_in: Counter::new(),
            net_out: Counter::new(),
            proxied: Counter::new(),
            errors: Counter::new(),
            hits: Counter::new(),
            misses: Counter::new(),
            auth_failures: Counter::new(),
            propose: Histogram::new(),
            apply: Histogram::new(),
            barrier: Histogram::new(),
            backups: Backups::new(),
            memory: Gauge::new(),
            memory_peak: Gauge::new(),
            ops: Sampler::default(),
            net_in_rate: Sampler::default(),
            net_out_rate: Sampler::default(),
            error_kinds: Mutex::default(),
        }
    }

    /// Name of a command by its index.
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("?", String::as_str)
    }

    /// Counts an error reply by its first word (`WRONGTYPE`, `ERR`, …). `line` is the reply without its `-`.
    pub fn error_reply(&self, line: &[u8]) {
        self.errors.inc();
        let word = line.split(|b| *b == b' ').next().unwrap_or_default();
        let word = String::from_utf8_lossy(&word[..word.len().min(64)]).into_owned();
        let mut kinds = self.error_kinds.lock();
        if kinds.len() < ERROR_KINDS || kinds.contains_key(&word) {
            *kinds.entry(word).or_default() += 1;
        }
    }

    /// Error replies by their first word.
    pub fn error_kinds(&self) -> Vec<(String, u64)> {
        self.error_kinds.lock().iter().map(|(k, n)| (k.clone(), *n)).collect()
    }

    /// To be called about every 100 ms: rates and memory.
    pub fn tick(&self, now_ms: u64) {
        self.ops.sample(now_ms, self.commands.total_calls());
        self.net_in_rate.sample(now_ms, self.net_in.get());
        self.net_out_rate.sample(now_ms, self.net_out.get());
        self.refresh_memory();
    }

    /// Reads resident memory now.
    pub fn refresh_memory(&self) -> u64 {
        let bytes = process::resident_bytes();
        self.memory.set(bytes);
        self.memory_peak.raise(bytes);
        bytes
    }

    /// Commands, bytes in and bytes out per second.
    pub fn rates(&self) -> (u64, u64, u64) {
        (self.ops.per_second(), self.net_in_rate.per_second(), self.net_out_rate.per_second())
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&self) {
        self.commands.reset();
        for counter in [
            &self.connections,
            &self.connections_rejected,
            &self.output_limit_closed,
            &self.query_limit_closed,
            &self.net_in,
            &self.net_out,
            &self.proxied,
            &self.errors,
            &self.hits,
            &self.misses,
            &self.auth_failures,
        ] {
            counter.reset();
        }
        for sampler in [&self.ops, &self.net_in_rate, &self.net_out_rate] {
            sampler.reset();
        }
        self.error_kinds.lock().clear();
    }

    /// Writes all of it to a metrics page. Consensus and storage add their own families after it.
    pub fn write(&self, page: &mut Page) {
        self.write_clients(page);
        self.backups.write(page);
        self.write_commands(page);
        page.histogram(
            "quorate_propose_seconds",
            "Time from handing writes to consensus to their replies.",
            Unit::Nanoseconds,
            &self.propose,
        );
        page.histogram("quorate_apply_seconds", "Time to apply one entry.", Unit::Nanoseconds, &self.apply);
        page.histogram(
            "quorate_read_barrier_seconds",
            "Time that reads waited for their barrier.",
            Unit::Nanoseconds,
            &self.barrier,
        );
        let cpu = process::cpu_times();
        page.gauge("process_resident_memory_bytes", "Resident memory.", self.refresh_memory() as f64);
        page.counters("process_cpu_seconds_total", "CPU time of the process.", [(Vec::new(), cpu.user + cpu.system)]);
    }

    fn write_clients(&self, page: &mut Page) {
        page.gauge("quorate_clients", "Client connections open now.", self.clients.get() as f64);
        let counters: [(&str, &str, &Counter); 11] = [
            ("quorate_connections_total", "Client connections accepted.", &self.connections),
            ("quorate_connections_rejected_total", "Client connections refused.", &self.connections_rejected),
            (
                "quorate_output_limit_closed_total",
                "Clients closed for not reading their replies.",
                &self.output_limit_closed,
            ),
            (
                "quorate_query_limit_closed_total",
                "Clients closed for a request that outgrew its limit.",
                &self.query_limit_closed,
            ),
            ("quorate_network_in_bytes_total", "Bytes read from clients.", &self.net_in),
            ("quorate_network_out_bytes_total", "Bytes written to clients.", &self.net_out),
            ("quorate_proxied_commands_total", "Commands handed to the leader for a client.", &self.proxied),
            ("quorate_error_replies_total", "Error replies sent to clients.", &self.errors),
            ("quorate_keyspace_hits_total", "Keys that reads found.", &self.hits),
            ("quorate_keyspace_misses_total", "Keys that reads did not find.", &self.misses),
            ("quorate_auth_failures_total", "Failed attempts to authenticate.", &self.auth_failures),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter.get());
        }
    }

    fn write_commands(&self, page: &mut Page) {
        let label = |index: usize| vec![("command", self.name(index).to_owned())];
        let used = || self.commands.iter().filter(|(_, s)| s.calls() + s.rejected() > 0);
        page.counters(
            "quorate_commands_total",
            "Commands that ran.",
            used().map(|(i, s)| (label(i), s.calls() as f64)),
        );
        page.counters(
            "quorate_commands_rejected_total",
            "Commands refused before they ran.",
            used().map(|(i, s)| (label(i), s.rejected() as f64)),
        );
        page.counters(
            "quorate_commands_failed_total",
            "Commands that ran and answered with an error.",
            used().map(|(i, s)| (label(i), s.failed() as f64)),
        );
        page.histograms(
            "quorate_command_seconds",
            "Time to run a command.",
            Unit::Nanoseconds,
            self.commands.iter().filter_map(|(i, s)| Some((label(i), s.latency()?))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_each_family_once_and_only_commands_that_were_called() {
        let metrics = Metrics::new(vec!["get".to_owned(), "config|get".to_owned()]);
        metrics.commands.called(1, 3, 9_000);
        metrics.error_reply(b"WRONGTYPE Operation against");
        let mut page = Page::new();
        metrics.write(&mut page);
        let text = page.finish();
        assert!(text.contains("quorate_commands_total{command=\"config|get\"} 3\n"), "{text}");
        assert!(!text.contains("command=\"get\""));
        let mut types: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
        assert_eq!(metrics.error_kinds(), [("WRONGTYPE".to_owned(), 1)]);
    }

    #[test]
    fn made_up_error_words_are_bounded() {
        let metrics = Metrics::new(Vec::new());
        (0..1000).for_each(|i| metrics.error_reply(format!("E{i} x").as_bytes()));
        assert_eq!(metrics.error_kinds().len(), ERROR_KINDS);
        assert_eq!(metrics.errors.get(), 1000);
        metrics.reset();
        assert!(metrics.error_kinds().is_empty());
    }
}
