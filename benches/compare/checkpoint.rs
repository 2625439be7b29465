//! What a checkpoint costs those who write meanwhile, and in memory: beside BGSAVE of Redis.
//!
//! Both are asked for with the same command, BGSAVE to all servers of a side at once, under the same load. What counts
//! is only the time from there to the last one's end; before it the same load runs as long without. Memory is the
//! leader's, with that of the process which Redis forks: what they share counts once.

use crate::load;
use crate::options::Options;
use crate::sides::Side;
use hdrhistogram::Histogram;
use quorate_testkit::Conn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Only those that are asked for: none falls into the measurement of the load without.
pub const SETTINGS: &str = "--checkpoint-interval 86400000";

const CLIENTS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(300);
/// Looking at memory takes the system a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What is not given back after so long counts as kept. A thread that has nothing to do ends after ten seconds, and what
/// it had freed goes back to the system with it.
const SETTLE: Duration = Duration::from_secs(12);

/// One kind of time: without checkpoints, or during one.
#[derive(Debug)]
pub struct Window {
    latency: Histogram<u64>,
    requests: u64,
    elapsed: Duration,
    /// The most memory above what there was before.
    extra: u64,
    first_error: Option<String>,
}

impl Window {
    fn new() -> anyhow::Result<Window> {
        let latency = Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?;
        Ok(Window { latency, requests: 0, elapsed: Duration::ZERO, extra: 0, first_error: None })
    }

    fn add(&mut self, outcome: load::Outcome, extra: u64) -> anyhow::Result<()> {
        self.latency.add(outcome.latency)?;
        self.requests += outcome.requests;
        self.elapsed += outcome.elapsed;
        self.extra = self.extra.max(extra);
        self.first_error = self.first_error.take().or(outcome.first_error);
        Ok(())
    }

    fn ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1e6
    }
}

/// One side.
#[derive(Debug)]
pub struct Checkpoints {
    name: &'static str,
    without: Window,
    during: Window,
    /// How long they took, until the last server had ended.
    took: Vec<Duration>,
    /// The leader's memory for its keys, as it tells it.
    data: u64,
    /// Memory above what there was before each, a while after it.
    kept: Vec<u64>,
}

pub fn measure(name: &'static str, mut side: Side, options: &Options) -> anyhow::Result<Checkpoints> {
    side.preload(options.checkpoint_keys)?;
    let data = side.memory().used.unwrap_or(0);
    let (mut without, mut during, mut took, mut kept) = (Window::new()?, Window::new()?, Vec::new(), Vec::new());
    let warm = Duration::from_secs_f64(options.seconds.min(1.0));
    // Every key is written over once, so that what this alone does to the memory is not booked as the checkpoint's.
    side.preload(options.checkpoint_keys)?;
    sleep(SETTLE);
    let mut length = Duration::from_secs_f64(options.seconds);
    for round in 1..=options.rounds {
        let (outcome, extra, _) = run(&mut side, options, warm, Some(length))?;
        without.add(outcome, extra)?;
        let before = side.leader_process().memory_with_children().unwrap_or(0);
        let (outcome, extra, time) = run(&mut side, options, warm, None)?;
        during.add(outcome, extra)?;
        took.push(time);
        length = length.max(time);
        println!(
            "  {name} {round}: {:.1} s, p99 {:.2} ms, without {:.2} ms",
            time.as_secs_f64(),
            during.ms(99.0),
            without.ms(99.0)
        );
        sleep(SETTLE);
        kept.push(side.leader_process().memory_with_children().unwrap_or(0).saturating_sub(before));
    }
    Ok(Checkpoints { name, without, during, took, data, kept })
}

/// Load for so long, or as long as a checkpoint takes: what it saw, the most extra memory, and how long that was.
fn run(
    side: &mut Side,
    options: &Options,
    warm: Duration,
    length: Option<Duration>,
) -> anyhow::Result<(load::Outcome, u64, Duration)> {
    let plan = side.plan(CLIENTS, 1, 100, options.checkpoint_keys);
    let (leader, servers) = (side.leader(), side.servers());
    let process = side.leader_process();
    let before = process.memory_with_children().unwrap_or(0);
    let over = AtomicBool::new(false);
    scope(|threads| {
        let load = threads.spawn(|| load::run_until(leader, plan, warm, |_| over.load(SeqCst)));
        sleep(warm);
        if length.is_none() {
            for server in &servers {
                Conn::open(*server)?.cmd("BGSAVE")?;
            }
        }
        let (begun, mut most) = (Instant::now(), before);
        let mut looked = begun;
        loop {
            sleep(Duration::from_millis(20));
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                most = most.max(process.memory_with_children().unwrap_or(0));
            }
            let ended = match length {
                Some(length) => begun.elapsed() >= length,
                // A look at INFO every 20 ms for each server would be load of its own.
                None if looked.elapsed() < Duration::from_millis(20) => !servers.iter().any(|server| saves(*server)),
                None => false,
            };
            if ended || load.is_finished() || begun.elapsed() >= PATIENCE {
                break;
            }
        }
        let took = begun.elapsed();
        over.store(true, SeqCst);
        let outcome = load.join().map_err(|_| anyhow::anyhow!("the load has ended in a panic"))??;
        anyhow::ensure!(took < PATIENCE, "a checkpoint did not end");
        Ok((outcome, most - before, took))
    })
}

fn saves(server: SocketAddr) -> bool {
    let info = Conn::open(server).ok().and_then(|mut conn| conn.cmd("INFO persistence").ok()?.as_text());
    info.is_some_and(|info| info.contains("rdb_bgsave_in_progress:1"))
}

pub fn table(rows: &[Checkpoints], keys: u64, out: &mut String) {
    use std::fmt::Write as _;
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n| SET, {CLIENTS} clients, {keys} keys | requests | p50 | p99 | p99.9 | max | p99, ratio | most extra memory | of the data |"
    );
    let _ = writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for row in rows {
        let share = |extra: u64| extra as f64 * 100.0 / row.data.max(1) as f64;
        for (name, window) in [("the same without", &row.without), (row.name, &row.during)] {
            let _ = writeln!(
                out,
                "| {name} | {:.1} k/s | {:.2} ms | {:.2} ms | {:.2} ms | {:.1} ms | {:.2} × | {} MB | {:.0} % |",
                window.requests as f64 / window.elapsed.as_secs_f64().max(1e-9) / 1000.0,
                window.ms(50.0),
                window.ms(99.0),
                window.ms(99.9),
                window.ms(100.0),
                window.ms(99.0) / row.without.ms(99.0),
                window.extra / 1_000_000,
                share(window.extra),
            );
            if let Some(error) = &window.first_error {
                let _ = writeln!(out, "\nThe first error: `{error}`\n");
            }
        }
    }
    out.push('\n');
    for row in rows {
        let took: Vec<String> = row.took.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
        let kept: Vec<String> = row.kept.iter().map(|bytes| (bytes / 1_000_000).to_string()).collect();
        let _ = writeln!(
            out,
            "{}: {} s until all three servers had ended; {} MB of data in the leader's memory, {} MB more than before \
             were kept {} s after each.",
            row.name,
            took.join(", "),
            row.data / 1_000_000,
            kept.join(", "),
            SETTLE.as_secs()
        );
    }
    let _ = writeln!(out, "\nTo reach: p99 at most 1.3 × of without; less than 25 % of the data, and given back.");
}
