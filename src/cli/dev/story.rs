//! What happens to the group, told in lines: who leads, who is lost, who is back. No process and no socket here: looks
//! at members go in, lines come out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::watch::Seen;
use crate::admin::api::MembersView;

/// A member that has not answered for so long is worth a line.
const SILENT: Duration = Duration::from_millis(1500);

/// What is known of the group so far.
#[derive(Debug)]
pub(super) struct Story {
    begun: Instant,
    members: BTreeMap<u16, Member>,
    /// Slot and term.
    leader: Option<(u16, u64)>,
    leader_lost: Option<Instant>,
    /// By id: votes, health.
    group: BTreeMap<u64, (bool, String)>,
}

#[derive(Debug, Default)]
struct Member {
    id: Option<u64>,
    role: String,
    state: State,
    /// When the last question that it has answered was asked.
    answered: Option<Instant>,
    /// Looks from before this are about an earlier process.
    started: Option<Instant>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Starting,
    StartingAgain,
    Answering,
    Silent,
    Ended,
}

impl Story {
    pub(super) fn new(begun: Instant) -> Self {
        Story { begun, members: BTreeMap::new(), leader: None, leader_lost: None, group: BTreeMap::new() }
    }

    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The member's id, once it has told it.
    pub(super) fn name(&self, number: u16) -> String {
        let id = self.members.get(&number).and_then(|member| member.id);
        id.map_or_else(|| number.to_string(), |id| id.to_string())
    }

    /// What it said last, or what the leader knows better.
    pub(super) fn role(&self, number: u16) -> String {
        let Some(member) = self.members.get(&number) else { return String::new() };
        let votes = member.id.and_then(|id| self.group.get(&id)).is_some_and(|(votes, _)| *votes);
        if votes && member.role == "learner" { "follower".to_owned() } else { member.role.clone() }
    }

    pub(super) fn answers(&self, number: u16) -> bool {
        self.members.get(&number).is_some_and(|member| member.state == State::Answering)
    }

    pub(super) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// How many vote, as the leader last said.
    pub(super) fn votes(&self) -> usize {
        self.group.values().filter(|(votes, _)| *votes).count()
    }

    /// A look at a member.
    pub(super) fn seen(&mut self, seen: &Seen, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let member = self.members.entry(seen.number).or_default();
        if member.state == State::Ended || member.started.is_some_and(|started| seen.asked < started) {
            return lines;
        }
        match &seen.status {
            None => self.silence(seen.number, now, &mut lines),
            Some(status) => {
                member.id = Some(status.id);
                member.answered = Some(seen.asked);
                // One that stood still believes for a moment that it leads as it did.
                let outdated = status.role == "leader" && self.leader.is_some_and(|(_, term)| status.term < term);
                let role = if outdated { "follower" } else { &status.role };
                role.clone_into(&mut member.role);
                match std::mem::replace(&mut member.state, State::Answering) {
                    State::StartingAgain => lines.push(format!("member {} is back as {role}", status.id)),
                    State::Silent => lines.push(format!("member {} answers again as {role}", status.id)),
                    State::Starting | State::Answering | State::Ended => {}
                }
                if status.role == "leader" {
                    self.leads(seen.number, status.id, status.term, now, &mut lines);
                }
            }
        }
        if let Some(view) = &seen.members {
            self.group_is(view, &mut lines);
        }
        lines
    }

    fn silence(&mut self, number: u16, now: Instant, lines: &mut Vec<String>) {
        let name = self.name(number);
        let Some(member) = self.members.get_mut(&number) else { return };
        if member.state != State::Answering {
            return;
        }
        // It may have been lost just behind its last answer, and its silence takes a while to be noticed.
        let since = *member.answered.get_or_insert(now);
        if now.duration_since(since) >= SILENT {
            member.state = State::Silent;
            let led = self.leader.is_some_and(|(leader, _)| leader == number);
            lines.push(format!("member {name} does not answer{}", if led { "; it was the leader" } else { "" }));
        }
        if self.leader.is_some_and(|(leader, _)| leader == number) {
            self.leader_lost.get_or_insert(since);
        }
    }

    fn leads(&mut self, number: u16, id: u64, term: u64, now: Instant, lines: &mut Vec<String>) {
        match self.leader {
            Some((leader, known)) if term < known || (leader == number && term == known) => {
                // It answers and still leads: what looked like a loss was none.
                if leader == number && term == known {
                    self.leader_lost = None;
                }
                return;
            }
            _ => {}
        }
        let after = match self.leader_lost.take() {
            Some(lost) => format!(", {:.1} s after the leader was lost", now.duration_since(lost).as_secs_f64()),
            None => String::new(),
        };
        lines.push(format!("member {id} leads, in term {term}{after}"));
        self.leader = Some((number, term));
    }

    fn group_is(&mut self, view: &MembersView, lines: &mut Vec<String>) {
        let new: BTreeMap<u64, (bool, String)> =
            view.members.iter().map(|member| (member.id, (member.voter, member.health.clone()))).collect();
        let old = std::mem::replace(&mut self.group, new);
        if old.is_empty() {
            return;
        }
        for (id, (votes, health)) in &self.group {
            match old.get(id) {
                None => lines.push(format!("member {id} was added, as {}", if *votes { "voter" } else { "learner" })),
                Some((voted, was)) => {
                    if *votes && !voted {
                        lines.push(format!("member {id} has a vote now"));
                    }
                    if health == "ok" && was == "lagging" {
                        lines.push(format!("member {id} has caught up"));
                    }
                }
            }
        }
        let gone = old.keys().filter(|id| !self.group.contains_key(id));
        lines.extend(gone.map(|id| format!("member {id} was removed")));
    }

    /// A member's process has ended.
    pub(super) fn ended(&mut self, number: u16, pid: u32, how: &str, now: Instant) -> Vec<String> {
        let name = self.name(number);
        let led = self.leader.is_some_and(|(leader, _)| leader == number);
        if led {
            self.leader_lost.get_or_insert(now);
        }
        let member = self.members.entry(number).or_default();
        member.state = State::Ended;
        member.role = "lost".to_owned();
        vec![format!("member {name} (process {pid}) {how}{}", if led { "; it was the leader" } else { "" })]
    }

    /// A member's process was started again.
    pub(super) fn restarted(&mut self, number: u16, pid: u32, now: Instant) -> Vec<String> {
        let name = self.name(number);
        let member = self.members.entry(number).or_default();
        member.state = State::StartingAgain;
        member.answered = None;
        member.started = Some(now);
        vec![format!("member {name} is started again (process {pid})")]
    }
}
