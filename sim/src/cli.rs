//! The command line: which seeds to run, and what to say of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::mutants::Mutant;
use crate::page;
use crate::plan::Plan;
use crate::run::{Figures, Report, run};
use crate::scenarios::{self, Scenario};
use crate::story::{Event, Kind};

/// Run the real server under a simulated network, disk and clock. The same seed is the same run.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim")]
struct Options {
    /// Run so many seeds
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Run this one seed; with --seeds, begin with it
    #[arg(long)]
    seed: Option<u64>,
    /// Runs at a time
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    jobs: usize,
    /// Tell the whole story of each run
    #[arg(long)]
    trace: bool,
    /// Run each seed twice and compare the two stories
    #[arg(long)]
    twice: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Prove that the oracles bite: find each deliberate fault within --seeds seeds
    #[arg(long)]
    mutants: bool,
    /// Play the scripts of sim/src/scenarios, or those with this in their name
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    scenarios: Option<String>,
    /// With --seed or --scenarios: with this deliberate fault, named as in mutants.rs
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    mutant: Option<Mutant>,
    /// With --seed or one of --scenarios: draw the run as a page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let known = || Mutant::ALL.into_iter().map(|mutant| format!("{mutant:?}"));
    let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}").eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("no such fault; there are {}", known().collect::<Vec<_>>().join(", ")))
}

pub fn main() -> ExitCode {
    let options = Options::parse();
    let given = std::env::args().any(|arg| arg.starts_with("--seeds"));
    let fresh =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64 % 1_000_000_000);
    let first = options.seed.unwrap_or_else(fresh);
    let count = if options.seed.is_some() && !given { 1 } else { options.seeds };
    if options.mutants {
        return mutants(options.seed.unwrap_or(1), options.seeds);
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
        let plan = || Plan { mutant: options.mutant, ..scenario.plan() };
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
    let plan = options.mutant.map_or_else(|| Plan::of(seed), |mutant| mutant.plan(seed));
    let report = run(plan);
    let named = match options.mutant {
        Some(mutant) => format!("seed {seed} --mutant {mutant:?}"),
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
        if let Err(error) = std::fs::write(file, page::draw(report, named, options.mutant.map(Mutant::words))) {
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

/// A line per mutant: the first seed that finds it, and the oracle that did.
fn mutants(first: u64, count: u64) -> ExitCode {
    let mut missed = 0;
    println!("| deliberate fault | seeds | found by |\n|---|---|---|");
    for mutant in Mutant::ALL {
        let found = (first..first + count).find_map(|seed| {
            let report = run(mutant.plan(seed));
            report.violations.first().map(|violation| (seed - first + 1, violation.invariant))
        });
        match found {
            Some((seeds, oracle)) => println!("| {} | {seeds} | {oracle} |", mutant.words()),
            None => {
                missed += 1;
                println!("| {} | not within {count} | nothing |", mutant.words());
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
            if options.trace || count <= 5 {
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
