//! The workloads of the comparison, and one round of them on both sides.

use crate::load;
use crate::options::Options;
use crate::report::Report;
use crate::sides::Side;
use quorate_testkit::process;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// How a workload is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    Throughput,
    /// The median of the latency; a ratio above one means that ours is shorter.
    LatencyP50,
}

/// One row of the table.
#[derive(Debug)]
pub struct Workload {
    pub name: &'static str,
    pub clients: usize,
    pub pipeline: usize,
    pub writes_percent: u64,
    pub measure: Measure,
    /// The ratio that ours must reach.
    pub target: f64,
    /// What RedisRaft did on a like machine, and the multiple of it to reach. It can't be built any more.
    pub ancestor: Option<(f64, f64)>,
}

const fn row(name: &'static str, clients: usize, pipeline: usize, writes_percent: u64, target: f64) -> Workload {
    let measure = Measure::Throughput;
    Workload { name, clients, pipeline, writes_percent, measure, target, ancestor: None }
}

pub const WORKLOADS: [Workload; 7] = [
    Workload { ancestor: Some((17_800.0, 2.0)), ..row("SET, 50 clients", 50, 1, 100, 2.0) },
    Workload { ancestor: Some((26_000.0, 6.0)), ..row("SET, 50 clients, pipeline 16", 50, 16, 100, 2.0) },
    row("SET, 200 clients", 200, 1, 100, 2.0),
    Workload { measure: Measure::LatencyP50, ..row("SET, 1 client, latency p50", 1, 1, 100, 1.0) },
    row("GET, 50 clients", 50, 1, 0, 1.3),
    Workload { ancestor: Some((59_000.0, 10.0)), ..row("GET, 50 clients, pipeline 16", 50, 16, 0, 2.0) },
    row("90 % GET, 10 % SET, 50 clients", 50, 1, 10, 2.5),
];

/// Workloads that are run through a member that doesn't lead, ours only.
pub const THROUGH_FOLLOWER: [usize; 4] = [0, 1, 4, 5];

/// One round: everything on Redis, then everything on ours, each freshly started.
pub fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    if options.wants_side("redis") {
        let mut redis = Side::start_redis();
        redis.preload(options.keys)?;
        let leader = redis.leader();
        for (number, workload) in wanted(options) {
            let outcome = measure(&mut redis, leader, workload, options)?;
            println!("  Redis    {:32} {}", workload.name, line(&outcome));
            report.redis[number].push(outcome);
        }
    }
    if options.wants_side("ours") {
        let mut ours = Side::start_ours(Path::new(crate::BINARY));
        ours.preload(options.keys)?;
        let leader = ours.leader();
        for (number, workload) in wanted(options) {
            let outcome = measure(&mut ours, leader, workload, options)?;
            println!("  Quorate  {:32} {}", workload.name, line(&outcome));
            report.ours[number].push(outcome);
        }
        for (number, workload) in wanted(options).filter(|(number, _)| THROUGH_FOLLOWER.contains(number)) {
            let Some(follower) = ours.follower() else {
                continue;
            };
            let outcome = measure(&mut ours, follower, workload, options)?;
            println!("  follower {:32} {}", workload.name, line(&outcome));
            report.follower[number].push(outcome);
        }
    }
    Ok(())
}

fn wanted(options: &Options) -> impl Iterator<Item = (usize, &'static Workload)> {
    let wanted = options.workload.clone().unwrap_or_default();
    WORKLOADS.iter().enumerate().filter(move |(_, workload)| workload.name.contains(&wanted))
}

/// One workload on one side, with what it cost the servers.
#[derive(Debug)]
pub struct Run {
    pub load: load::Outcome,
    /// Processor time of all servers of the side for each request, in microseconds; warm-up is part of both.
    pub server_cpu_us: f64,
    /// The same for the load.
    pub load_cpu_us: f64,
}

fn measure(side: &mut Side, addr: SocketAddr, workload: &Workload, options: &Options) -> anyhow::Result<Run> {
    let plan = side.plan(workload.clients, workload.pipeline, workload.writes_percent, options.keys);
    let warm = Duration::from_secs_f64(options.seconds.min(1.0));
    let (server_before, load_before) = (side.cpu_time(), own_cpu_time());
    let load = load::run(addr, plan, warm, Duration::from_secs_f64(options.seconds))?;
    let all = load.requests_with_warm as f64;
    let server_cpu_us = (side.cpu_time() - server_before).as_secs_f64() * 1e6 / all;
    let load_cpu_us = (own_cpu_time() - load_before).as_secs_f64() * 1e6 / all;
    Ok(Run { load, server_cpu_us, load_cpu_us })
}

fn own_cpu_time() -> Duration {
    process::cpu_time_of(std::process::id()).unwrap_or_default()
}

fn line(run: &Run) -> String {
    let outcome = &run.load;
    let errors = match &outcome.first_error {
        Some(error) => format!("  {} errors, the first: {error}", outcome.errors),
        None => String::new(),
    };
    format!(
        "{:>9.0}/s  p50 {:>7.3} ms  p99 {:>7.3} ms  p99.9 {:>7.3} ms  cpu {:>6.2} + {:.2} us{errors}",
        outcome.per_second(),
        outcome.percentile_ms(50.0),
        outcome.percentile_ms(99.0),
        outcome.percentile_ms(99.9),
        run.server_cpu_us,
        run.load_cpu_us,
    )
}
