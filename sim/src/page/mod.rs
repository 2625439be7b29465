//! One run as a page that explains itself: a lane for the network, for each machine and for each client, time from left
//! to right. One file, no server, nothing fetched.
//!
//! It only shows what a run has told. It must never need the simulator to be read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::history::{Op, Outcome};
use crate::run::Report;
use crate::story::{Kind, Lane, Mark};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// The page. `named`: what was run; `fault`: the deliberate fault that the store has, in words.
pub fn draw(report: &Report, named: &str, fault: Option<&str>) -> String {
    // Nothing in the data may end the script that holds it.
    let data = data(report, named, fault).to_string().replace("</", "<\\/");
    PAGE.replace("/*SCRIPT*/", SCRIPT).replace("\"DATA\"", &data)
}

/// What it means that this does not hold.
fn meaning(invariant: &str) -> &'static str {
    match invariant {
        "linearizability" => {
            "No order of the operations explains all the answers: somebody read what was old already, or a write got lost, \
             or happened twice."
        }
        "strict serializability" => {
            "No order of the transactions explains all the answers: each seems to come before the other."
        }
        "acknowledged is durable" => "A write was acknowledged, and in the end it is not there, or there twice.",
        "definite errors never happened" => "A client was told that its write failed, and then somebody read it.",
        "election safety" => "Two leaders were accepted for the same time.",
        "log matching" | "leader completeness" => "Two members have different entries at a position that is committed.",
        "state machine safety" => "Two members applied the same entries and hold different data.",
        "time never goes back" => "The group's own time went back: what had expired may come alive again.",
        "one reply per command, in order" => "A client got a reply that can't be the answer to what it had asked.",
        "read freshness" => "A read answered with something older than what had been acknowledged before it was asked.",
        "local reads never go back" => "A client that reads from one member saw something, and later something older.",
        "membership" => {
            "The members of the group changed in a way that could make two majorities, or one that is out acted."
        }
        "comes back after faults" => "All faults were over, and the group did not serve again, or its members differ.",
        "the scenario's outcome" => "The script of this scenario expected something else.",
        _ => "Something that must never happen has happened.",
    }
}

fn lane(lane: Lane) -> String {
    match lane {
        Lane::Run => "run".into(),
        Lane::Member(n) => format!("m{n}"),
        Lane::Client(n) => format!("c{n}"),
    }
}

fn data(report: &Report, named: &str, fault: Option<&str>) -> Value {
    let end = report.events.last().map_or(0.0, |event| event.at.as_secs_f64());
    let healed = report.events.iter().find(|event| event.text == "faults are over").map(|event| event.at.as_secs_f64());
    let machines: BTreeSet<usize> = report
        .marks
        .iter()
        .filter_map(|(_, lane, _)| if let Lane::Member(n) = lane { Some(*n) } else { None })
        .collect();
    let lanes: BTreeSet<usize> = report.ops.iter().map(|op| op.client).collect();
    let places: BTreeMap<(usize, u64), usize> =
        report.ops.iter().enumerate().map(|(at, op)| ((op.client, op.call), at)).collect();
    let violations = report.violations.iter().map(|violation| {
        let ops: Vec<usize> = violation.ops.iter().filter_map(|op| places.get(op).copied()).collect();
        json!({
            "at": violation.at.as_secs_f64(),
            "invariant": violation.invariant,
            "meaning": meaning(violation.invariant),
            "text": violation.text,
            "ops": ops,
        })
    });
    let events = report.events.iter().filter(|event| !matches!(event.kind, Kind::Op | Kind::Broken));
    json!({
        "named": named,
        "replay": format!("{} --trace", replay(named)),
        "fault": fault,
        "end": end,
        "healed": healed,
        "machines": machines,
        "clients": lanes,
        "scripted": named.starts_with("scenario "),
        "violations": violations.collect::<Vec<_>>(),
        "marks": report.marks.iter().map(|(at, of, mark)| drawn(at.as_secs_f64(), *of, mark)).collect::<Vec<_>>(),
        "ops": report.ops.iter().map(operation).collect::<Vec<_>>(),
        "events": events.map(|e| json!([e.at.as_secs_f64(), lane(e.lane), e.text])).collect::<Vec<_>>(),
        "figures": {
            "done": report.figures.done,
            "failed": report.figures.failed,
            "unknown": report.figures.unknown,
            "applied": report.figures.applied,
            "leaders": report.figures.leaders,
        },
    })
}

/// The command that runs it again.
pub fn replay(named: &str) -> String {
    let how = named.replace("scenario ", "scenarios ");
    format!("cargo run -p quorate-sim -- --{how}")
}

fn drawn(at: f64, of: Lane, mark: &Mark) -> Value {
    let lane = lane(of);
    match mark {
        Mark::Starts => json!([at, lane, "starts"]),
        Mark::Serves => json!([at, lane, "serves"]),
        Mark::Ends { killed } => json!([at, lane, if *killed { "killed" } else { "ended" }]),
        Mark::Leads(term) => json!([at, lane, "leads", term]),
        Mark::LeadsNoMore => json!([at, lane, "leads no more"]),
        Mark::Over(harm) => json!([at, lane, "over", harm.word()]),
        Mark::Harmed { harm, lasts, text } => {
            json!([at, lane, "harm", harm.word(), lasts.as_secs_f64(), text])
        }
    }
}

fn operation(op: &Op) -> Value {
    let outcome = match op.outcome {
        Outcome::Done(_) | Outcome::Aborted => "ok",
        Outcome::Failed(_) => "error",
        Outcome::Unknown(_) => "unknown",
    };
    let kind = if op.is_read() { "read" } else { "write" };
    json!([op.client, op.machine, op.call as f64 / 1e9, op.ret as f64 / 1e9, kind, outcome, op.to_string()])
}
