//! The command line: which seeds to run, and what to say of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::batches::{self, Wanted};
use crate::mutants::{Deliberate, ROWS};
use crate::page;
use crate::plan::Plan;
use crate::run::{Report, run};
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
    /// Begin no more seeds after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
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
    /// With --mutants: the same runs without the faults, in which no oracle may find anything
    #[arg(long)]
    sound: bool,
    /// A process that runs some of the seeds for another one
    #[arg(long, hide = true)]
    batch: bool,
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
    if options.batch {
        batch(&options, first..first + count);
        return ExitCode::SUCCESS;
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
    if name.is_empty() {
        quorate_raft::run_openrafts_suite();
        println!("openraft's suite: the simulated runtime passes");
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
    println!("{named}: fingerprint {:016x}, {}", report.fingerprint, report.figures);
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
    print!("{}", failure(report, named));
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
    if options.mutant.is_none() {
        // What is wrong on purpose panics often: a line each. Where it stood is told with --mutant.
        std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    }
    println!("| deliberate fault | seeds | found by |\n|---|---|---|");
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, rows.len().max(1)) {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, SeqCst)) {
                    let (words, within) = (row.words, options.seeds.unwrap_or(row.within));
                    let mut others = BTreeSet::new();
                    let found = (first..first + within).find_map(|seed| {
                        let plan = row.plan(seed);
                        let report = run(if options.sound { Plan { mutant: None, ..plan } } else { plan });
                        let by = report.violations.iter().map(|violation| violation.invariant);
                        others.extend(by.clone());
                        let ought = |by: &&str| options.sound || row.oracles.contains(by);
                        Some((seed - first + 1, by.into_iter().find(ought)?))
                    });
                    match found {
                        None if options.sound => println!("| {words} | none of {within} | |"),
                        Some((seeds, oracle)) => {
                            println!("| {words} | {seeds} | {oracle} |");
                            missed.fetch_add(options.sound.into(), SeqCst);
                        }
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

/// Runs the seeds, each batch in a process of its own.
fn all(options: &Options, first: u64, count: u64) -> usize {
    let mut flags = Vec::new();
    flags.extend(options.twice.then(|| "--twice".to_owned()));
    flags.extend(options.trace.then(|| "--trace".to_owned()));
    flags.extend(options.log.iter().map(|filter| format!("--log={filter}")));
    batches::run(&Wanted {
        seeds: first..first + count,
        jobs: options.jobs,
        limit: options.seconds.map(Duration::from_secs),
        keep_going: options.keep_going,
        each: options.trace || count <= 10,
        flags,
    })
}

/// In the process of a batch.
fn batch(options: &Options, seeds: Range<u64>) {
    let began = Instant::now();
    for seed in seeds {
        if options.seconds.is_some_and(|limit| began.elapsed().as_secs() >= limit) {
            return;
        }
        let report = one(seed, options.twice);
        let mut text = String::new();
        if options.trace {
            report.events.iter().for_each(|event| text += &format!("{event}\n"));
        }
        if !report.violations.is_empty() {
            text += &failure(&report, &format!("seed {seed}"));
        }
        batches::say(&report, &text);
    }
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
fn failure(report: &Report, named: &str) -> String {
    let violation = &report.violations[0];
    let mut text = format!(
        "\n{named} breaks: {}\n  at {:.4} s: {}\n  what happened to the members before:\n",
        violation.invariant,
        violation.at.as_secs_f64(),
        violation.text
    );
    let before = report.events.iter().filter(|e| e.at <= violation.at && !matches!(e.kind, Kind::Op));
    let before: Vec<&Event> = before.collect();
    for event in &before[before.len().saturating_sub(40)..] {
        text += &format!("  {event}\n");
    }
    let again = page::replay(named);
    text + &format!("  the whole story: {again} --trace\n  as a picture:    {again} --html run.html\n\n")
}
