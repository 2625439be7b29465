//! Many seeds, in batches that have a process each: what a run leaves behind in memory goes with the process.
//!
//! A server that is killed in the middle of everything is not taken apart, as no process that is killed is: its parts
//! know each other, and stay. Here many such servers end in one process, some megabytes in each run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::run::{Figures, Report};
use crate::seen::Seen;

/// Seeds of one process.
const BATCH: u64 = 25;

/// What is to be run.
pub struct Wanted {
    pub seeds: Range<u64>,
    /// Processes at a time.
    pub jobs: usize,
    /// No seed is begun after this.
    pub limit: Option<Duration>,
    /// Go on after a failure.
    pub keep_going: bool,
    /// A line about each seed.
    pub each: bool,
    /// What else each process is told.
    pub flags: Vec<String>,
}

/// What there is to say about a seed.
struct Verdict {
    seed: u64,
    fingerprint: u64,
    figures: Figures,
    broken: Option<String>,
    text: String,
}

/// In the process of a batch: says what became of a run. `text` is for people.
pub fn say(report: &Report, text: &str) {
    let f = &report.figures;
    let line = json!({
        "seed": report.seed,
        "fingerprint": report.fingerprint,
        "figures": [f.done, f.unknown, f.failed, f.applied, f.leaders, f.not_judged],
        "seen": f.seen.counts(),
        "broken": report.violations.first().map(|violation| violation.invariant),
        "text": text,
    });
    let mut out = std::io::stdout().lock();
    // Whoever started this process may have heard enough.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn heard(line: &str) -> Option<Verdict> {
    let said: Value = serde_json::from_str(line).ok()?;
    let figure = |at: usize| said["figures"][at].as_u64().unwrap_or(0) as usize;
    Some(Verdict {
        seed: said["seed"].as_u64()?,
        fingerprint: said["fingerprint"].as_u64()?,
        figures: Figures {
            done: figure(0),
            unknown: figure(1),
            failed: figure(2),
            applied: figure(3),
            leaders: figure(4),
            not_judged: figure(5),
            seen: serde_json::from_value(said["seen"].clone()).map(Seen::of).unwrap_or_default(),
        },
        broken: said["broken"].as_str().map(str::to_owned),
        text: said["text"].as_str().unwrap_or_default().to_owned(),
    })
}

/// Runs them and tells how it goes. How many failed.
pub fn run(wanted: &Wanted) -> usize {
    let began = Instant::now();
    let count = wanted.seeds.end - wanted.seeds.start;
    let todo = Mutex::new(wanted.seeds.clone());
    let (tell, told) = mpsc::channel();
    let mut failures = BTreeMap::new();
    let (mut done, mut sum) = (0, Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..wanted.jobs.clamp(1, count.max(1) as usize) {
            let (tell, todo) = (tell.clone(), &todo);
            scope.spawn(move || while batch(wanted, began, todo, &tell) {});
        }
        drop(tell);
        for verdict in told {
            done += 1;
            sum.add(&verdict.figures);
            if wanted.each {
                println!("seed {}: fingerprint {:016x}, {}", verdict.seed, verdict.fingerprint, verdict.figures);
            }
            print!("{}", verdict.text);
            if let Some(invariant) = verdict.broken {
                failures.insert(verdict.seed, invariant);
                if !wanted.keep_going {
                    break;
                }
            }
            if done % 20 == 0 {
                progress(done, count, failures.len(), &sum, began);
            }
        }
        if done % 20 != 0 || done == 0 {
            progress(done, count, failures.len(), &sum, began);
        }
    });
    for (seed, invariant) in &failures {
        println!("failed: seed {seed}: {invariant}");
    }
    let (missing, early) = sum.seen.missing(done);
    if !early.is_empty() {
        println!("not judged: {done} seeds are too few to miss these: {}", early.join(", "));
    }
    if !missing.is_empty() {
        println!("failed: the swarm is blind: in {done} seeds there was none of these: {}", missing.join(", "));
        return failures.len() + 1;
    }
    failures.len()
}

fn progress(done: u64, count: u64, failed: usize, sum: &Figures, began: Instant) {
    let rate = done as f64 * 60.0 / began.elapsed().as_secs_f64();
    println!("{done} of {count} seeds, {failed} failed, {rate:.0} seeds a minute; {sum}");
}

/// One process. False when there is nothing more to do, or nobody to tell.
fn batch(wanted: &Wanted, began: Instant, todo: &Mutex<Range<u64>>, tell: &Sender<Verdict>) -> bool {
    let left = wanted.limit.map(|limit| limit.saturating_sub(began.elapsed()));
    if left.is_some_and(|left| left.is_zero()) {
        return false;
    }
    let mine = {
        let mut todo = todo.lock();
        let fair = (wanted.seeds.end - wanted.seeds.start).div_ceil(wanted.jobs.max(1) as u64);
        let to = todo.end.min(todo.start + fair.clamp(1, BATCH));
        let mine = todo.start..to;
        todo.start = to;
        mine
    };
    if mine.is_empty() {
        return false;
    }
    let mut child = match start(wanted, &mine, left) {
        Ok(child) => child,
        Err(error) => panic!("cannot start this program once more: {error}"),
    };
    let mut seeds = mine.clone();
    let lines = child.stdout.take().map(|out| BufReader::new(out).lines()).into_iter().flatten();
    for verdict in lines.map_while(Result::ok).filter_map(|line| heard(&line)) {
        seeds.start = verdict.seed + 1;
        if tell.send(verdict).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            return false;
        }
    }
    let ended = child.wait();
    if ended.as_ref().is_ok_and(|status| status.success()) {
        return true;
    }
    let seed = seeds.start;
    let text = format!("\nseed {seed}: the process that ran it ended before it was over: {ended:?}\n");
    let broken = Some("the simulator itself".to_owned());
    tell.send(Verdict { seed, fingerprint: 0, figures: Figures::default(), broken, text }).is_ok()
}

fn start(wanted: &Wanted, seeds: &Range<u64>, left: Option<Duration>) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--batch", "--seed", &seeds.start.to_string()]);
    command.args(["--seeds", &(seeds.end - seeds.start).to_string()]).args(&wanted.flags);
    if let Some(left) = left {
        command.args(["--seconds", &left.as_secs().max(1).to_string()]);
    }
    command.stdout(Stdio::piped()).spawn()
}
