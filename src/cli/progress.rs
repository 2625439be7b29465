//! One line that tells how far a member has come: rewritten in place on a terminal, printed now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::http::{self, Client, Problem};
use super::table::bytes;
use crate::admin::api::{ApiError, MemberView, MembersView};

const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A line that is rewritten more often only flickers.
const REWRITE_EVERY: Duration = Duration::from_millis(50);
const ELSEWHERE: Duration = Duration::from_secs(5);
/// What is said to run and is not heard of for so long, doesn't.
const SILENCE: Duration = Duration::from_secs(30);

/// Waits until member `id` has caught up (and votes, if it is to), showing how far it is. What goes wrong on the way
/// is shown and tried again: members and leaders may come and go meanwhile.
///
/// `runs`: it is expected to run already, so that one that stays silent is an error before all patience is used up.
pub(super) fn follow(client: &Client, id: u64, votes: bool, runs: bool, patience: Duration) -> Result<(), Problem> {
    let begun = Instant::now();
    let mut heard = begun;
    let mut line = Line::new();
    loop {
        let view = client.get("/v1/members").and_then(|answer| http::view::<MembersView>(client, answer));
        let text = match view {
            Ok(view) => match view.members.iter().find(|member| member.id == id) {
                Some(member) if is_ready(member, votes) && !(votes && view.changing) => {
                    line.end(&format!("member {id} has caught up{}", if votes { " and votes" } else { "" }));
                    return Ok(());
                }
                Some(member) => {
                    if !is_silent(member) {
                        heard = Instant::now();
                    } else if runs && heard.elapsed() >= SILENCE {
                        line.end("");
                        return Err(silent(id));
                    }
                    describe(member, votes)
                }
                None => {
                    line.end("");
                    return Err(Problem::Refused(ApiError::new(
                        0,
                        "no_such_member",
                        format!("member {id} is no longer in the group"),
                        "somebody has removed it",
                    )));
                }
            },
            Err(problem) => problem.to_string(),
        };
        if begun.elapsed() >= patience {
            line.end("");
            return Err(Problem::Refused(ApiError::new(
                0,
                "not_yet",
                format!("member {id} has not caught up within {} s: {text}", patience.as_secs()),
                "it stays in the group and goes on when it runs; 'quorate member list' shows how far it is",
            )));
        }
        line.show(&format!("member {id}: {text}"));
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn is_silent(member: &MemberView) -> bool {
    member.progress.is_none() && matches!(member.health.as_str(), "unreachable" | "unknown")
}

fn silent(id: u64) -> Problem {
    Problem::Refused(ApiError::new(
        0,
        "unreachable",
        format!(
            "member {id} has not answered the leader for {} s: it is not running, or cannot be reached",
            SILENCE.as_secs()
        ),
        format!(
            "start it, or see to its peer address and its log, and promote it again; 'quorate member remove {id}' takes \
             it out of the group"
        ),
    ))
}

fn is_ready(member: &MemberView, votes: bool) -> bool {
    member.health == "ok" && member.progress.is_none() && (member.voter || !votes)
}

fn describe(member: &MemberView, votes: bool) -> String {
    match (&member.progress, member.health.as_str(), member.lag) {
        (Some(progress), _, _) if progress.total > 0 => {
            let percent = progress.bytes.min(progress.total) * 100 / progress.total;
            format!("{percent:>3} % of a snapshot of {}", bytes(progress.total))
        }
        (Some(progress), _, _) => format!("{} of a snapshot", bytes(progress.bytes)),
        _ if is_silent(member) => "waiting for it to start".to_owned(),
        (None, _, Some(lag)) if lag > 0 => format!("{lag} entries behind"),
        (None, "ok", _) if votes && !member.voter => "caught up, waiting for its vote".to_owned(),
        (None, "ok", _) => "caught up, its vote is being confirmed".to_owned(),
        (None, health, _) => health.to_owned(),
    }
}

pub(super) struct Line {
    terminal: bool,
    shown: Option<(String, Instant)>,
}

impl Line {
    pub(super) fn new() -> Self {
        Line { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    pub(super) fn show(&mut self, text: &str) {
        if self.terminal {
            if self.shown.as_ref().is_some_and(|(_, at)| at.elapsed() < REWRITE_EVERY) {
                return;
            }
            eprint!("\r{text}\x1b[K");
            let _ = std::io::stderr().flush();
        } else {
            let old = self.shown.as_ref().is_some_and(|(shown, at)| shown == text || at.elapsed() < ELSEWHERE);
            if old {
                return;
            }
            eprintln!("{text}");
        }
        self.shown = Some((text.to_owned(), Instant::now()));
    }

    pub(super) fn end(&mut self, text: &str) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
        if !text.is_empty() {
            eprintln!("{text}");
        }
    }
}
