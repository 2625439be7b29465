//! The command line: which seeds to run, and what to say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::mutants::{Deliberate, ROWS};
use crate::page;
use crate::plan::Plan;
use crate::run::{Figures, Report, run};
use crate::scenarios::{self, Scenario};
use crate::story::{Event, Kind};

/// Run the real server under a simulated network, disk and clock. The same seed is the same run.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim")]
struct Options {
    /// Run so many seeds (20)
    #[arg(long)]
    seeds: Option<u64>,
    /// Run this one seed; with --seeds, begin with it
    #[arg(long)]
    seed: Option<u64>,
    /// Runs at a time
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    jobs: usize,
    /// Tell the whole story of each run
    #[arg(long)]
    trace: bool,
    /// What the members log, on the standard error: a filter as in RUST_LOG, such as info or quorate_raft=debug
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Run each seed twice and compare the two stories
    #[arg(long)]
    twice: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Prove that the oracles bite: find each deliberate fault within the seeds that its row says, or --seeds
    #[arg(long)]
    mutants: bool,
    /// Play the scripts of sim/src/scenarios, or those with this in their name
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    scenarios: Option<String>,
    /// With --seed, --scenarios or --mutants: with this deliberate fault, named as in mutants.rs
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    mutant: Option<&'static Deliberate>,
    /// With --seed or one of --scenarios: draw the run as a page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn mutant(name: &str) -> Result<&'static Deliberate, String> {
    let found = ROWS.iter().find(|row| row.name().eq_ignore_ascii_case(name));
    let known = || ROWS.iter().map(Deliberate::name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("no such fault; there are {}", known()))
}

pub fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(filter) = &options.log {
        let lines = tracing_subscriber::fmt().with_env_filter(filter.as_str()).with_timer(SimTime);
        lines.with_writer(std::io::stderr).with_ansi(false).init();
    }
    let fresh =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64 % 1_000_000_000);
    let first = options.seed.unwrap_or_else(fresh);
    let count = options.seeds.unwrap_or(if options.seed.is_some() { 1 } else { 20 });
    if options.mutants {
        return mutants(&options, options.seed.unwrap_or(1));
    }
    if let Some(name) = &options.scenarios {
        return scenarios(&options, name);
    }
    if options.mutant.is_some() || options.html.is_some() {
        return drawn(&options);
    }
    println!("seeds {first} to {}", first + count - 1);
    let failures = all(&options, first, count);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays the scripts with that in their name.
fn scenarios(options: &Options, name: &str) -> ExitCode {
    let wanted: Vec<Scenario> =
        scenarios::ALL.iter().filter(|scenario| scenario.name.contains(name)).copied().collect();
    if wanted.is_empty() || options.html.is_some() && wanted.len() > 1 {
        let names: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
        eprintln!("{} scenarios have \"{name}\" in their name; there are:\n  {}", wanted.len(), names.join("\n  "));
        return ExitCode::FAILURE;
    }
    let mut failed = 0;
    for scenario in &wanted {
        let plan = || Plan { mutant: options.mutant.map(|row| row.mutant), ..scenario.plan() };
        let report = twice_if(options.twice, || run(plan()));
        if told(&report, options, &format!("scenario {}", scenario.name)) == ExitCode::FAILURE {
            failed += 1;
        }
    }
    println!("{} scenarios, {failed} failed", wanted.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run, told and drawn.
fn drawn(options: &Options) -> ExitCode {
    let Some(seed) = options.seed else {
        eprintln!("--html draws one run: say which with --seed");
        return ExitCode::FAILURE;
    };
    let plan = options.mutant.map_or_else(|| Plan::of(seed), |row| row.plan(seed));
    let report = run(plan);
    let named = match options.mutant {
        Some(row) => format!("seed {seed} --mutant {}", row.name()),
        None => format!("seed {seed}"),
    };
    told(&report, options, &named)
}

/// Says what became of a run, draws it if that was asked for, and whether it went well.
fn told(report: &Report, options: &Options, named: &str) -> ExitCode {
    if options.trace {
        report.events.iter().for_each(|event| println!("{event}"));
    }
    println!("{named}: fingerprint {:016x}, {:?}", report.fingerprint, report.figures);
    if let Some(file) = &options.html {
        if let Err(error) = std::fs::write(file, page::draw(report, named, options.mutant.map(|row| row.words))) {
            eprintln!("cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        println!("drawn in {}", file.display());
    }
    if report.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    tell_failure(report, named);
    ExitCode::FAILURE
}

/// Simulated time in front of what members log, as in the story.
struct SimTime;

impl tracing_subscriber::fmt::time::FormatTime for SimTime {
    fn format_time(&self, line: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        match madsim::time::TimeHandle::try_current() {
            Some(time) => write!(line, "{:>9.4} s", time.elapsed().as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// A line per mutant: the first seed that finds it by an oracle that ought to, and that oracle.
fn mutants(options: &Options, first: u64) -> ExitCode {
    let rows: Vec<&Deliberate> = options.mutant.map_or_else(|| ROWS.iter().collect(), |row| vec![row]);
    let next = AtomicUsize::new(0);
    let missed = AtomicUsize::new(0);
    println!("| deliberate fault | seeds | found by |\n|---|---|---|");
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, rows.len().max(1)) {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, SeqCst)) {
                    let (words, within) = (row.words, options.seeds.unwrap_or(row.within));
                    if within == 0 {
                        println!("| {words} | not found yet | |");
                        continue;
                    }
                    let mut others = BTreeSet::new();
                    let found = (first..first + within).find_map(|seed| {
                        let report = run(row.plan(seed));
                        let by = report.violations.iter().map(|violation| violation.invariant);
                        others.extend(by.clone());
                        Some((seed - first + 1, by.into_iter().find(|by| row.oracles.contains(by))?))
                    });
                    match found {
                        Some((seeds, oracle)) => println!("| {words} | {seeds} | {oracle} |"),
                        None => {
                            missed.fetch_add(1, SeqCst);
                            println!("| {words} | NOT within {within} | only {others:?} |");
                        }
                    }
                }
            });
        }
    });
    if missed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all(options: &Options, first: u64, count: u64) -> usize {
    let began = Instant::now();
    let (give, todo) = std::sync::mpsc::channel();
    for seed in first..first + count {
        let _ = give.send(seed);
    }
    drop(give);
    let todo = parking_lot::Mutex::new(todo);
    let (tell, told) = mpsc::channel();
    let mut failures = BTreeMap::new();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, count as usize) {
            let tell = tell.clone();
            let todo = &todo;
            scope.spawn(move || {
                loop {
                    let Ok(seed) = todo.lock().recv() else { return };
                    if tell.send(one(seed, options.twice)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let mut done = 0;
        let mut sum = Figures::default();
        for report in told {
            done += 1;
            sum.add(&report.figures);
            if options.trace {
                report.events.iter().for_each(|event| println!("{event}"));
            }
            if options.trace || count <= 10 {
                println!("seed {}: fingerprint {:016x}, {:?}", report.seed, report.fingerprint, report.figures);
            }
            if !report.violations.is_empty() {
                tell_failure(&report, &format!("seed {}", report.seed));
                failures.insert(report.seed, report.violations[0].invariant);
                if !options.keep_going {
                    break;
                }
            }
            if done % 20 == 0 || done == count {
                let rate = done as f64 * 60.0 / began.elapsed().as_secs_f64();
                println!(
                    "{done} of {count} seeds, {} failed, {rate:.0} seeds a minute; {} operations done, {} failed, {} of \
                     unknown outcome; {} entries, {} leaders, {} objects not judged",
                    failures.len(),
                    sum.done,
                    sum.failed,
                    sum.unknown,
                    sum.applied,
                    sum.leaders,
                    sum.not_judged
                );
            }
        }
    });
    for (seed, invariant) in &failures {
        println!("failed: seed {seed}: {invariant}");
    }
    failures.len()
}

fn one(seed: u64, twice: bool) -> Report {
    twice_if(twice, || run(Plan::of(seed)))
}

/// Runs, and if wanted once more: it must be the same.
fn twice_if(twice: bool, run: impl Fn() -> Report) -> Report {
    let mut report = run();
    if twice {
        let again = run();
        if again.fingerprint != report.fingerprint {
            let at = report.events.iter().zip(&again.events).position(|(a, b)| a.to_string() != b.to_string());
            let (a, b) = at.map_or((None, None), |at| (report.events.get(at), again.events.get(at)));
            let show = |event: Option<&Event>| event.map_or_else(|| "nothing".to_owned(), Event::to_string);
            report.violations.push(crate::story::Violation {
                at: a.map(|event| event.at).unwrap_or_default(),
                invariant: "the same seed is the same run",
                text: format!("first {}\n    then {}", show(a), show(b)),
                ops: Vec::new(),
            });
        }
    }
    report
}

/// Seed, invariant, and what led to it.
fn tell_failure(report: &Report, named: &str) {
    let violation = &report.violations[0];
    println!("\n{named} breaks: {}", violation.invariant);
    println!("  at {:.4} s: {}", violation.at.as_secs_f64(), violation.text);
    println!("  what happened to the members before:");
    let before = report.events.iter().filter(|e| e.at <= violation.at && !matches!(e.kind, Kind::Op));
    let before: Vec<&Event> = before.collect();
    for event in &before[before.len().saturating_sub(40)..] {
        println!("  {event}");
    }
    let again = page::replay(named);
    println!("  the whole story: {again} --trace\n  as a picture:    {again} --html run.html\n");
}
