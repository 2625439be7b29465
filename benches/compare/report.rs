//! What was measured, as a table for people and as Markdown for `docs/benchmarks.md`.

use crate::checkpoint::{self, Checkpoints};
use crate::failover::Gaps;
use crate::options::Options;
use crate::plot;
use crate::restart::{self, Restart};
use crate::rounds::{Measure, Run, WORKLOADS};
use crate::soak;
use std::fmt::Write as _;
use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::time::{Duration, Instant};

const ROWS: usize = WORKLOADS.len();

/// Bytes per key of one side.
#[derive(Debug)]
pub struct MemoryRow {
    pub used: Option<f64>,
    pub leader_resident: f64,
    pub other_resident: f64,
}

/// All results.
pub struct Report {
    pub machine: String,
    settings: String,
    memory_keys: u64,
    restart_keys: u64,
    /// Redis, then ours.
    pub restarts: Vec<Restart>,
    pub redis: [Vec<Run>; ROWS],
    pub ours: [Vec<Run>; ROWS],
    pub follower: [Vec<Run>; ROWS],
    /// Redis, then ours.
    pub memory: Vec<MemoryRow>,
    /// Redis, then ours.
    pub checkpoints: Vec<Checkpoints>,
    checkpoint_keys: u64,
    pub soak: Vec<soak::Line>,
    pub killed: Option<Gaps>,
    pub returned: Option<Gaps>,
    pub handed_over: Option<Gaps>,
}

impl Report {
    pub fn new(options: &Options) -> Report {
        let (rounds, seconds, keys) = (options.rounds, options.seconds, options.keys);
        Report {
            machine: machine(),
            settings: format!(
                "{rounds} rounds, {seconds} s measured per workload, {keys} keys of 16 bytes, values of 100 bytes"
            ),
            memory_keys: options.memory_keys,
            restart_keys: options.restart_keys,
            restarts: Vec::new(),
            redis: Default::default(),
            ours: Default::default(),
            follower: Default::default(),
            memory: Vec::new(),
            checkpoints: Vec::new(),
            checkpoint_keys: options.checkpoint_keys,
            soak: Vec::new(),
            killed: None,
            returned: None,
            handed_over: None,
        }
    }

    pub fn markdown(&self) -> String {
        let mut out = format!("Machine: {}.\nSettings: {}.\n", self.machine, self.settings);
        self.load_table(&mut out);
        self.ancestor_table(&mut out);
        self.memory_table(&mut out);
        restart::table(&self.restarts, self.restart_keys, &mut out);
        checkpoint::table(&self.checkpoints, self.checkpoint_keys, &mut out);
        soak::table(&self.soak, &mut out);
        self.gaps_table(&mut out);
        out
    }

    /// Writes `compare.md`, and `compare.svg` when there was load.
    pub fn write(&self, options: &Options) -> anyhow::Result<()> {
        fs::create_dir_all(&options.out)?;
        fs::write(options.out.join("compare.md"), self.markdown())?;
        let panels: Vec<plot::Panel<'_>> = (0..ROWS)
            .filter(|row| !self.redis[*row].is_empty())
            .map(|row| plot::Panel { title: WORKLOADS[row].name, redis: &self.redis[row], ours: &self.ours[row] })
            .collect();
        if !panels.is_empty() {
            fs::write(options.out.join("compare.svg"), plot::svg(&panels))?;
        }
        println!("written to {}", options.out.display());
        Ok(())
    }

    fn load_table(&self, out: &mut String) {
        if self.ours.iter().all(Vec::is_empty) {
            return;
        }
        out.push_str("\n| work | Redis 7.0, `WAIT 1` | Quorate | ratio | to reach | | through a follower |\n");
        out.push_str("|---|---:|---:|---:|---:|---|---:|\n");
        for (row, workload) in WORKLOADS.iter().enumerate() {
            let (redis, ours) = (&self.redis[row], &self.ours[row]);
            if redis.is_empty() || ours.is_empty() {
                continue;
            }
            let value = |run: &Run| figure(workload.measure, run);
            let ratio = |(theirs, ours): (&Run, &Run)| match workload.measure {
                Measure::Throughput => value(ours) / value(theirs),
                Measure::LatencyP50 => value(theirs) / value(ours),
            };
            let ratio = median(redis.iter().zip(ours).map(ratio));
            let show = |runs: &[Run]| match runs {
                [] => String::new(),
                some => shown(workload.measure, median(some.iter().map(value))),
            };
            let verdict = if ratio >= workload.target { "reached" } else { "**missed**" };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {ratio:.2} × | {} × | {verdict} | {} |",
                workload.name,
                show(redis),
                show(ours),
                workload.target,
                show(&self.follower[row]),
            );
        }
        for (name, side) in [("Redis", &self.redis), ("Quorate", &self.ours), ("a follower", &self.follower)] {
            let errors: u64 = side.iter().flatten().map(|run| run.load.errors).sum();
            let first = side.iter().flatten().find_map(|run| run.load.first_error.clone());
            if let Some(first) = first {
                let _ = writeln!(out, "\n{name} answered {errors} requests with errors, the first: `{first}`");
            }
        }
        out.push_str("\n| latency, ms | Redis p50 | p99 | p99.9 | Quorate p50 | p99 | p99.9 |\n|---|");
        out.push_str(&"---:|".repeat(6));
        out.push('\n');
        for (row, workload) in WORKLOADS.iter().enumerate() {
            let _ = write!(out, "| {} ", workload.name);
            for side in [&self.redis[row], &self.ours[row]] {
                for percentile in [50.0, 99.0, 99.9] {
                    let _ = write!(out, "| {:.2} ", median(side.iter().map(|run| run.load.percentile_ms(percentile))));
                }
            }
            out.push_str("|\n");
        }
    }

    fn ancestor_table(&self, out: &mut String) {
        if self.ours.iter().all(Vec::is_empty) {
            return;
        }
        out.push_str("\n| work | RedisRaft (a fixed figure) | Quorate | ratio | to reach | |\n");
        out.push_str("|---|---:|---:|---:|---:|---|\n");
        for (row, workload) in WORKLOADS.iter().enumerate() {
            let (Some((figure, target)), false) = (workload.ancestor, self.ours[row].is_empty()) else {
                continue;
            };
            let ours = median(self.ours[row].iter().map(|run| run.load.per_second()));
            let verdict = if ours / figure >= target { "reached" } else { "**missed**" };
            let (theirs, shown_ours) = (shown(Measure::Throughput, figure), shown(Measure::Throughput, ours));
            let ratio = ours / figure;
            let name = workload.name;
            let _ = writeln!(out, "| {name} | {theirs} | {shown_ours} | {ratio:.1} × | {target} × | {verdict} |");
        }
    }

    fn memory_table(&self, out: &mut String) {
        let [redis, ours] = &self.memory[..] else {
            return;
        };
        let _ = writeln!(out, "\n| bytes per key, {} keys | Redis | Quorate | ratio |", self.memory_keys);
        out.push_str("|---|---:|---:|---:|\n");
        let rows = [
            ("`used_memory` of the leader", redis.used.unwrap_or(0.0), ours.used.unwrap_or(0.0)),
            ("resident memory of the leader", redis.leader_resident, ours.leader_resident),
            ("resident memory of a follower", redis.other_resident, ours.other_resident),
        ];
        for (name, theirs, ours) in rows {
            let _ = writeln!(out, "| {name} | {theirs:.0} | {ours:.0} | {:.2} × |", ours / theirs);
        }
        out.push_str("\nTo reach: at most 1.0 ×.\n");
    }

    fn gaps_table(&self, out: &mut String) {
        let rows = [
            ("`kill -9` of the leader", &self.killed, "p99 < 1 s"),
            ("the killed member comes back", &self.returned, "–"),
            ("planned hand-over", &self.handed_over, "max < 100 ms, no error"),
        ];
        if rows.iter().all(|(_, gaps, _)| gaps.is_none()) {
            return;
        }
        out.push_str("\n| longest gap of any of 50 writing clients | times | p50 | p99 | max | to reach ");
        out.push_str(
            "| `-UNKNOWN` | other errors | broken connections |\n|---|---:|---:|---:|---:|---|---:|---:|---:|\n",
        );
        for (name, gaps, target) in rows {
            let Some(gaps) = gaps else { continue };
            let ms = |gap: Duration| format!("{} ms", gap.as_millis());
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {target} | {} | {} | {} |",
                gaps.longest.len(),
                ms(gaps.percentile(50)),
                ms(gaps.percentile(99)),
                ms(gaps.percentile(100)),
                gaps.unknown,
                gaps.errors,
                gaps.broken,
            );
            if let Some(error) = &gaps.first_error {
                let _ = writeln!(out, "\nThe first other error: `{error}`\n");
            }
        }
    }
}

fn figure(measure: Measure, run: &Run) -> f64 {
    match measure {
        Measure::Throughput => run.load.per_second(),
        Measure::LatencyP50 => run.load.percentile_ms(50.0),
    }
}

fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Throughput => format!("{:.1} k/s", value / 1000.0),
        Measure::LatencyP50 => format!("{value:.3} ms"),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// What this ran on, in one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim_start_matches([':', ' ', '\t']).trim().to_owned()).unwrap_or_default()
    };
    let model = after(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = after(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0) / 1_048_576;
    let kernel = read("/proc/sys/kernel/osrelease");
    let sync = sync_time().map_or_else(|error| error.to_string(), |time| format!("{time:.0?}"));
    let kernel = kernel.trim();
    format!("{cores} cores ({model}), {memory} GB of memory, Linux {kernel}, fdatasync of 4 KB in place takes {sync}")
}

/// The median time of an overwrite of 4 KB with fdatasync: what every write of both sides pays at least once.
fn sync_time() -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile()?;
    let block = [7; 4096];
    for _ in 0..64 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let mut times = Vec::new();
    for number in 0..200 {
        file.seek(SeekFrom::Start(number % 64 * 4096))?;
        let begin = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
