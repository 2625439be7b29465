//! Quorate beside Redis on the same machine, in one run: `cargo bench --bench compare`.
//!
//! Redis is Debian's, a primary with two replicas, `appendfsync always`, and `WAIT 1` behind every round of
//! writes; Quorate is three `quorate serve` processes with default settings. Each round runs all workloads on the
//! one, then on the other. What counts are ratios: absolute figures tell more about the disk than about us.

mod checkpoint;
mod failover;
mod load;
mod options;
mod plot;
mod report;
mod restart;
mod rounds;
mod sides;
mod soak;

use options::Options;
use quorate_testkit::Conn;
use report::Report;
use sides::Side;
use std::path::Path;
use std::time::Duration;

// The soak measures memory as a member has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BINARY: &str = env!("CARGO_BIN_EXE_quorate");

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` builds and starts benchmarks too; it is not the place for minutes of load.
        println!("nothing measured: run this with `cargo bench --bench compare`");
        return Ok(());
    }
    let mut report = Report::new(&options);
    println!("{}", report.machine);
    if options.wants("load") {
        for round in 1..=options.rounds {
            println!("round {round} of {}", options.rounds);
            rounds::run(&options, &mut report)?;
        }
    }
    if options.wants("memory") {
        if options.wants_side("redis") {
            memory(Side::start_redis(), &options, &mut report)?;
        }
        if options.wants_side("ours") {
            memory(Side::start_ours(Path::new(BINARY)), &options, &mut report)?;
        }
    }
    if options.wants("restart") {
        if options.wants_side("redis") {
            report.restarts.push(restart::redis(&options)?);
        }
        if options.wants_side("ours") {
            report.restarts.push(restart::ours(&options)?);
        }
    }
    if options.wants("checkpoint") {
        if options.wants_side("redis") {
            report.checkpoints.push(checkpoint::measure("Redis, BGSAVE", Side::start_redis(), &options)?);
        }
        if options.wants_side("ours") {
            let side = Side::start_ours_with(Path::new(BINARY), checkpoint::SETTINGS);
            report.checkpoints.push(checkpoint::measure("Quorate, checkpoint", side, &options)?);
        }
    }
    // It takes as long as all the rest, and has no other side: only where it is asked for.
    if options.only.iter().any(|part| part == "soak") {
        report.soak = soak::run(&options)?;
    }
    if options.wants("kill") {
        let Side::Ours(mut cluster) = Side::start_ours(Path::new(BINARY)) else {
            return Ok(());
        };
        let (killed, returned) = failover::kill_leader(&mut cluster, 50, options.kills);
        report.killed = Some(killed);
        report.returned = Some(returned);
    }
    if options.wants("handover") {
        let Side::Ours(cluster) = Side::start_ours(Path::new(BINARY)) else {
            return Ok(());
        };
        report.handed_over = Some(failover::hand_over(&cluster, 50, options.hand_overs)?);
    }
    println!("\n{}", report.markdown());
    report.write(&options)
}

/// Memory per key: fills and compares with the memory before.
fn memory(mut side: Side, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    // One warm round first, so that what a server sets up once is not booked as the keys'.
    load::fill(side.leader(), 1000)?;
    Conn::open(side.leader())?.cmd("FLUSHALL")?;
    let settle = Duration::from_secs(if options.quick { 2 } else { 8 });
    std::thread::sleep(settle);
    let before = side.memory();
    side.preload(options.memory_keys)?;
    std::thread::sleep(settle);
    let after = side.memory();
    let per_key = |before: u64, after: u64| after.saturating_sub(before) as f64 / options.memory_keys as f64;
    let row = report::MemoryRow {
        used: Option::zip(before.used, after.used).map(|(before, after)| per_key(before, after)),
        leader_resident: per_key(before.leader_resident, after.leader_resident),
        other_resident: per_key(before.other_resident, after.other_resident),
    };
    println!("  memory per key: {row:?}");
    report.memory.push(row);
    Ok(())
}
