//! SLOWLOG and LATENCY: what was slow.

use quorate_keyspace::args::Args;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::ReplyBuf;
use quorate_keyspace::spec::{Arg, Command, Group, Meta, flag};

use super::catalog::{Entry, catalog};
use super::cx::{Place, ShellCx, ShellHandler};
use super::help::help;
use crate::metrics::histogram::Histogram;

fn slowlog_get(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    const TOO_LOW: CmdError = CmdError::fixed("ERR count should be greater than or equal to -1");
    let count = match args.is_empty() {
        true => 10,
        false => args.int_in(-1, i64::MAX, TOO_LOW).map_err(|_| TOO_LOW)?,
    };
    let entries = cx.metrics().slowlog.newest(usize::try_from(count).unwrap_or(usize::MAX));
    out.array(entries.len());
    for entry in entries {
        out.array(6);
        out.int(entry.id as i64);
        out.int(entry.at_s as i64);
        out.int(entry.took_us as i64);
        out.array(entry.args.len());
        for arg in &entry.args {
            out.bulk(arg);
        }
        out.bulk(entry.addr.as_bytes());
        out.bulk(entry.name.as_bytes());
    }
    Ok(())
}

fn slowlog_len(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    out.int(cx.metrics().slowlog.len() as i64);
    Ok(())
}

fn slowlog_reset(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    cx.metrics().slowlog.reset();
    out.ok();
    Ok(())
}

fn slowlog_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "SLOWLOG",
        &[
            "GET [<count>]",
            "    List the newest <count> slow commands (10 if not given, -1 for all), each with",
            "    id, unix time, microseconds, arguments, address and name of the client.",
            "LEN",
            "    Count the slow commands that are kept.",
            "RESET",
            "    Forget them.",
        ],
    );
    Ok(())
}

fn latency_latest(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let events = cx.metrics().latency.events();
    out.array(events.len());
    for (name, event) in events {
        let (at, took) = event.samples.back().copied().unwrap_or_default();
        out.array(4);
        out.bulk(name.as_bytes());
        out.int(at as i64);
        out.int(took as i64);
        out.int(event.max_ms as i64);
    }
    Ok(())
}

fn latency_history(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let name = String::from_utf8_lossy(args.next()?).to_ascii_lowercase();
    let samples = cx.metrics().latency.event(&name).unwrap_or_default().samples;
    out.array(samples.len());
    for (at, took) in samples {
        out.array(2);
        out.int(at as i64);
        out.int(took as i64);
    }
    Ok(())
}

fn latency_graph(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let asked = String::from_utf8_lossy(args.next()?).into_owned();
    let name = asked.to_ascii_lowercase();
    let Some(event) = cx.metrics().latency.event(&name) else {
        return Err(CmdError::new(format!("ERR No samples available for event '{asked}'")));
    };
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = event.samples.iter().map(|(_, ms)| *ms).min().unwrap_or(0);
    let high = event.samples.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
    let step = |ms: u64| STEPS[((ms - low) * 7).checked_div(high - low).unwrap_or(0) as usize];
    let line: String = event.samples.iter().map(|(_, ms)| step(*ms)).collect();
    let text = format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n{line}\n", event.max_ms);
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

fn latency_reset(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let names: Vec<&str> = args.rest().iter().filter_map(|name| std::str::from_utf8(name).ok()).collect();
    // A name that is no text is the name of no event, and must not turn into "all".
    let forgotten = if names.is_empty() && !args.is_empty() { 0 } else { cx.metrics().latency.reset(&names) };
    out.int(forgotten as i64);
    Ok(())
}

fn latency_doctor(cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let events = cx.metrics().latency.events();
    let threshold = cx.setting("latency-monitor-threshold").unwrap_or_default();
    let mut text = String::new();
    if threshold == "0" {
        text.push_str("Latency monitoring is off. CONFIG SET latency-monitor-threshold <milliseconds> turns it on.\n");
    } else if events.is_empty() {
        text.push_str(&format!("Nothing took {threshold} ms or longer since the monitor was turned on or reset.\n"));
    }
    for (name, event) in events {
        let sum: u64 = event.samples.iter().map(|(_, ms)| ms).sum();
        let mean = sum / (event.samples.len() as u64).max(1);
        text.push_str(&format!(
            "{name}: {} spikes, {mean} ms on average, {} ms at worst.\n",
            event.samples.len(),
            event.max_ms
        ));
    }
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

/// For each command that ran, its calls and how many of them took at most 1, 2, 4, … microseconds.
fn latency_histogram(cx: &dyn ShellCx, args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    let mut wanted: Vec<&Entry> = Vec::new();
    if args.is_empty() {
        wanted.extend(catalog().entries());
    }
    for name in args.rest() {
        if let Some(entry) = catalog().lookup_full(name) {
            wanted.push(entry);
            wanted.extend(entry.subcommands.iter().map(|at| &catalog().entries()[*at]));
        }
    }
    let stats = &cx.metrics().commands;
    let found: Vec<(&Entry, u64, &Histogram)> = wanted
        .into_iter()
        .filter_map(|entry| stats.get(entry.index).and_then(|s| Some((entry, s.calls(), s.latency()?))))
        .collect();
    out.map(found.len());
    for (entry, calls, histogram) in found {
        out.bulk(entry.full_name.as_bytes());
        out.map(2);
        out.bulk(b"calls");
        out.int(calls as i64);
        out.bulk(b"histogram_usec");
        let steps = histogram_steps(histogram);
        out.map(steps.len());
        for (upto, count) in steps {
            out.int(upto as i64);
            out.int(count as i64);
        }
    }
    Ok(())
}

/// `(microseconds, calls that took at most so long)`, only where the count grows. Nanoseconds are counted in powers of
/// two, and 2^10 of them are taken as one microsecond: the error is 2.4 %, a bucket is a factor of two.
fn histogram_steps(histogram: &Histogram) -> Vec<(u64, u64)> {
    let mut steps = Vec::new();
    let mut last = 0;
    for power in 0..=30u32 {
        let below = histogram.below_power(power + 10);
        if below > last {
            steps.push((1 << power, below));
            last = below;
        }
    }
    steps
}

fn latency_help(_cx: &dyn ShellCx, _args: &mut Args<'_>, out: &mut ReplyBuf) -> Result<(), CmdError> {
    help(
        out,
        "LATENCY",
        &[
            "DOCTOR",
            "    Say in words what the latency monitor has seen.",
            "GRAPH <event>",
            "    Draw the spikes of <event>.",
            "HISTOGRAM [<command> ...]",
            "    Tell how the times of commands are distributed, in microseconds.",
            "HISTORY <event>",
            "    List the spikes of <event> with their times.",
            "LATEST",
            "    List the last and the worst spike of every event.",
            "RESET [<event> ...]",
            "    Forget the spikes of these events, or of all.",
        ],
    );
    Ok(())
}

pub(super) static TABLE: &[Command<ShellHandler>] = &[
    Command {
        meta: Meta {
            name: "latency",
            summary: "Holds the commands about slow events.",
            since: "2.8.13",
            group: Group::Server,
            complexity: "Depends on subcommand.",
            arity: -2,
            ..Meta::BASE
        },
        handler: ShellHandler::Container,
        subcommands: &[
            Command {
                meta: Meta {
                    name: "doctor",
                    summary: "Says in words what the latency monitor has seen.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: 2,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_doctor),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "graph",
                    summary: "Draws the spikes of an event.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: 3,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    args: &[Arg::string("event")],
                    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_graph),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "help",
                    summary: "Explains the subcommands.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: 2,
                    flags: flag::LOADING | flag::STALE,
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_help),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "histogram",
                    summary: "Tells how the times of commands are distributed.",
                    since: "7.0.0",
                    group: Group::Server,
                    complexity: "O(N) with N the number of commands",
                    arity: -2,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    args: &[Arg::string("COMMAND").optional().multiple()],
                    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_histogram),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "history",
                    summary: "Lists the spikes of an event.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: 3,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    args: &[Arg::string("event")],
                    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_history),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "latest",
                    summary: "Lists the last spike of every event.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: 2,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    tips: &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_latest),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "reset",
                    summary: "Forgets the spikes of events.",
                    since: "2.8.13",
                    group: Group::Server,
                    arity: -2,
                    flags: flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                    args: &[Arg::string("event").optional().multiple()],
                    tips: &["request_policy:all_nodes", "response_policy:agg_sum"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, latency_reset),
                subcommands: &[],
            },
        ],
    },
    Command {
        meta: Meta {
            name: "slowlog",
            summary: "Holds the commands about slow commands.",
            since: "2.2.12",
            group: Group::Server,
            complexity: "Depends on subcommand.",
            arity: -2,
            ..Meta::BASE
        },
        handler: ShellHandler::Container,
        subcommands: &[
            Command {
                meta: Meta {
                    name: "get",
                    summary: "Lists the last slow commands.",
                    since: "2.2.12",
                    group: Group::Server,
                    complexity: "O(N) with N the number listed",
                    arity: -2,
                    flags: flag::ADMIN | flag::LOADING | flag::STALE,
                    args: &[Arg::int("count").optional()],
                    tips: &["request_policy:all_nodes", "nondeterministic_output"],
                    history: &[("4.0.0", "Address and name of the client.")],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, slowlog_get),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "help",
                    summary: "Explains the subcommands.",
                    since: "6.2.0",
                    group: Group::Server,
                    arity: 2,
                    flags: flag::LOADING | flag::STALE,
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, slowlog_help),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "len",
                    summary: "Counts the slow commands that are kept.",
                    since: "2.2.12",
                    group: Group::Server,
                    arity: 2,
                    flags: flag::ADMIN | flag::LOADING | flag::STALE,
                    tips: &["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, slowlog_len),
                subcommands: &[],
            },
            Command {
                meta: Meta {
                    name: "reset",
                    summary: "Forgets the slow commands.",
                    since: "2.2.12",
                    group: Group::Server,
                    complexity: "O(N) with N the number kept",
                    arity: 2,
                    flags: flag::ADMIN | flag::LOADING | flag::STALE,
                    tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                    ..Meta::BASE
                },
                handler: ShellHandler::Now(Place::Here, slowlog_reset),
                subcommands: &[],
            },
        ],
    },
];
