//! Whether all members hold the same: a digest of the state at one position of the log, compared.
//!
//! The leader writes an entry that marks a position. Whoever applies it takes a view, in microseconds, and computes the
//! digest of it in the background, a little at a time. Then the leader asks everybody for theirs. Where a majority of the
//! voters agrees, whoever differs stops: its memory or its disk has changed what the log had said. Without such a
//! majority nobody can say who is right, and nobody stops; that is told as loudly.
//!
//! Digests of chunks that did not change since the last check are kept, but every chunk is looked at again now and then:
//! one that changed without a write has been damaged in memory, which a member finds without the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::api::View;
use crate::error::{CallError, ChangeError};
use crate::group::{Group, Inner};
use crate::membership::{Ask, SERVICE};
use crate::runtime::{self, Instant};
use crate::system::SystemCommand;
use crate::types::MemberId;

/// Bytes that are digested in one go, and the pause behind it: about a tenth of one core, as long as it takes.
const STEP_BYTES: usize = 512 << 10;
const STEP_CHUNKS: usize = 4096;
const STEP_PAUSE: Duration = Duration::from_millis(10);
/// In so many checks every chunk is read again, though it did not change.
const ROUNDS: u64 = 16;
/// Digests that are kept for whoever asks late.
const KEPT: usize = 4;
/// How often the leader asks, how long it waits for those that don't answer, and for those that still compute.
const ASK_EVERY: Duration = Duration::from_millis(100);
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The next check waits for so many times the work of the last one: less than one part in a hundred of a core.
const REST: u32 = 150;
/// How often it is looked whether a check is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The digest of a state.
pub(crate) type Digest = [u8; 16];

/// What a member knows of its own digests.
#[derive(Default)]
pub(crate) struct Checks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The position whose digest is being computed.
    running: Option<u64>,
    done: VecDeque<(u64, Digest)>,
    /// Each chunk's revision and digest, when it was last read.
    book: BTreeMap<u128, (u64, u128)>,
    round: u64,
    /// How long the processor worked for the last digest.
    work: Duration,
}

/// What a member can say of the digest at a position.
pub(crate) enum Known {
    /// Here it is.
    Digest(Digest),
    /// Later.
    NotYet,
    /// It was somewhere else when that position went by.
    Never,
}

/// What one member said in a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The same as most.
    Same,
    /// Something else: it was told to stop.
    Differs,
    /// Something, and there is no majority to say what is right.
    Undecided,
    /// It could not be asked, or has no digest of that position.
    Unknown(String),
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The position in the log at which it was made.
    pub index: u64,
    /// What each member said.
    pub members: Vec<(MemberId, Held)>,
    /// The digest that a majority of the voters has, in hexadecimal digits; empty if there is none.
    pub digest: String,
}

impl CheckReport {
    /// Whether all members were asked and hold the same.
    pub fn all_same(&self) -> bool {
        self.members.iter().all(|(_, held)| *held == Held::Same)
    }
}

/// Counts of checks, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckStatus {
    /// Checks that this member led.
    pub runs: u64,
    /// Members found that differed.
    pub differences: u64,
    /// Checks in which members differed and no majority could say who is right.
    pub undecided: u64,
    /// The last position at which all members that could be asked held the same.
    pub last_good: Option<u64>,
}

impl Checks {
    /// A position was applied: computes the digest of the view in the background. `hurry`: without pauses, and of
    /// every chunk anew.
    pub(crate) fn mark(self: &Arc<Self>, index: u64, view: Arc<dyn View>, hurry: bool, on_damage: Weak<Inner>) {
        self.state.lock().running = Some(index);
        let checks = self.clone();
        tokio::spawn(async move {
            if let Err(why) = checks.compute(index, view, hurry).await
                && let Some(inner) = on_damage.upgrade()
            {
                inner.differs(why).await;
            }
        });
    }

    /// A state came from elsewhere: what is known of the one before says nothing about it.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        *state = State { round: state.round, ..State::default() };
    }

    pub(crate) fn known(&self, index: u64, applied: Option<u64>) -> Known {
        let state = self.state.lock();
        match state.done.iter().find(|(at, _)| *at == index) {
            Some((_, digest)) => Known::Digest(*digest),
            None if state.running == Some(index) || applied < Some(index) => Known::NotYet,
            None => Known::Never,
        }
    }

    fn work(&self) -> Duration {
        self.state.lock().work
    }

    async fn compute(&self, index: u64, view: Arc<dyn View>, hurry: bool) -> Result<(), String> {
        let (mut old, round) = {
            let mut state = self.state.lock();
            state.round += 1;
            (std::mem::take(&mut state.book), state.round)
        };
        let chunks: Vec<(u128, u64)> = view.chunks().collect();
        let mut sum = Sha256::new();
        sum.update(view.header());
        let mut book = BTreeMap::new();
        let mut work = Duration::ZERO;
        let mut rest = &chunks[..];
        while !rest.is_empty() {
            if self.state.lock().running != Some(index) {
                // A later position has gone by meanwhile.
                return Ok(());
            }
            let (job_view, job_chunks) = (view.clone(), rest[..rest.len().min(STEP_CHUNKS)].to_vec());
            let (job_old, begun) = (old, Instant::now());
            let (digests, back, bytes) = runtime::blocking(move || {
                let fresh = |id: u128| hurry || spread(id) % ROUNDS == round % ROUNDS;
                let (digests, bytes) = step(&*job_view, &job_chunks, &job_old, fresh);
                (digests, job_old, bytes)
            })
            .await
            .map_err(|error| error.to_string())?;
            old = back;
            work += begun.elapsed();
            for ((id, revision), digest) in rest.iter().zip(&digests) {
                if let Some((before, known)) = old.get(id)
                    && before == revision
                    && known != digest
                {
                    return Err(format!(
                        "chunk {id} of the state has changed although nothing was written to it: the memory of this \
                         machine is damaged, or another program wrote into it"
                    ));
                }
                sum.update(id.to_be_bytes());
                sum.update(digest.to_be_bytes());
                book.insert(*id, (*revision, *digest));
            }
            rest = &rest[digests.len()..];
            if !hurry && bytes > 0 {
                tokio::time::sleep(STEP_PAUSE).await;
            }
        }
        let mut state = self.state.lock();
        if state.running == Some(index) {
            let mut digest = Digest::default();
            digest.copy_from_slice(&sum.finalize()[..16]);
            state.done.push_back((index, digest));
            if state.done.len() > KEPT {
                state.done.pop_front();
            }
            (state.running, state.book, state.work) = (None, book, work);
        }
        Ok(())
    }
}

/// Ids that stand close together are spread over all rounds.
fn spread(id: u128) -> u64 {
    ((id ^ id >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// Digests of the first chunks, and how many bytes were read for them. What is known and not `fresh` is not read.
fn step(
    view: &dyn View,
    chunks: &[(u128, u64)],
    known: &BTreeMap<u128, (u64, u128)>,
    fresh: impl Fn(u128) -> bool,
) -> (Vec<u128>, usize) {
    let (mut digests, mut bytes, mut buffer) = (Vec::new(), 0, Vec::new());
    for (id, revision) in chunks {
        if bytes >= STEP_BYTES {
            break;
        }
        match known.get(id).filter(|(at, _)| at == revision && !fresh(*id)) {
            Some((_, digest)) => digests.push(*digest),
            None => {
                buffer.clear();
                digests.push(view.digest(*id, &mut buffer));
                bytes += buffer.len();
            }
        }
    }
    (digests, bytes)
}

/// Checks now and then while this member leads, for as long as the group runs.
pub(crate) async fn watch(group: Weak<Inner>, every: Duration) {
    if every.is_zero() {
        return;
    }
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = group.upgrade().filter(|inner| !inner.stopping.load(SeqCst)) else { return };
        let rest = inner.machine.checks().work() * REST;
        if last.elapsed() < every.max(rest) || !inner.raft.is_leader() {
            continue;
        }
        // Nobody waits for the answer: what is wrong is logged, counted and acted on.
        if let Err(error) = inner.check(false).await {
            tracing::info!(group = inner.id, %error, "the members could not be compared");
        }
        last = Instant::now();
    }
}

impl Group {
    /// Compares what all members hold, now. Leader only.
    pub async fn check(&self) -> Result<CheckReport, ChangeError> {
        self.inner.check(true).await
    }
}

impl Inner {
    async fn check(&self, hurry: bool) -> Result<CheckReport, ChangeError> {
        let index = self.system_at(SystemCommand::Check { hurry }).await?;
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let members: Vec<MemberId> = membership.nodes().map(|(id, _)| *id).collect();
        let asked = members.iter().map(|id| self.digest_of(*id, index, PATIENCE));
        let answers: BTreeMap<MemberId, Result<Digest, String>> =
            members.iter().copied().zip(join_all(asked).await).collect();
        let agreed = majority(&voters, &answers);
        let differ = answers.values().flatten().collect::<BTreeSet<_>>().len() > 1;
        let held = |answer: &Result<Digest, String>| match (answer, &agreed) {
            (Err(why), _) => Held::Unknown(why.clone()),
            (Ok(digest), Some(right)) if digest == right => Held::Same,
            (Ok(_), Some(_)) => Held::Differs,
            (Ok(_), None) if differ => Held::Undecided,
            (Ok(_), None) => Held::Same,
        };
        let mut told: Vec<(MemberId, Held)> = answers.iter().map(|(id, answer)| (*id, held(answer))).collect();
        told.sort_by_key(|(id, _)| *id);
        self.count(index, &told);
        if let Some(right) = agreed {
            for (id, _) in told.iter().filter(|(_, held)| *held == Held::Differs) {
                self.tell_verdict(*id, index, right).await;
            }
        }
        Ok(CheckReport { index, members: told, digest: agreed.map(|digest| hex(&digest)).unwrap_or_default() })
    }

    fn count(&self, index: u64, told: &[(MemberId, Held)]) {
        let counters = &self.counters;
        counters.checks.fetch_add(1, Relaxed);
        let of = |wanted: Held| told.iter().filter(|(_, held)| *held == wanted).map(|(id, _)| *id).collect::<Vec<_>>();
        let (odd, undecided) = (of(Held::Differs), of(Held::Undecided));
        counters.check_differences.fetch_add(odd.len() as u64, Relaxed);
        if !odd.is_empty() {
            tracing::error!(group = self.id, index, members = ?odd, "members differ from the majority and are told to stop");
        } else if !undecided.is_empty() {
            counters.checks_undecided.fetch_add(1, Relaxed);
            tracing::error!(
                group = self.id, index, members = ?undecided,
                "members hold different data, and no majority of the voters says which is right: compare them by hand \
                 (quorate backup --here), and remove the wrong one"
            );
        } else {
            tracing::debug!(group = self.id, index, "all members that answered hold the same");
            counters.check_good.fetch_max(index + 1, Relaxed);
        }
    }

    async fn digest_of(&self, id: MemberId, index: u64, patience: Duration) -> Result<Digest, String> {
        let (deadline, mut heard) = (Instant::now() + patience, Instant::now());
        loop {
            match self.ask_digest(id, index).await {
                Ok(Known::Digest(digest)) => return Ok(digest),
                Ok(Known::Never) => return Err("it has no digest of that position".into()),
                Ok(Known::NotYet) => heard = Instant::now(),
                Err(error) if heard.elapsed() >= ANSWER_PATIENCE => return Err(error.to_string()),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "it answers, but had not computed its digest after {} minutes",
                    patience.as_secs() / 60
                ));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn ask_digest(&self, id: MemberId, index: u64) -> Result<Known, CallError> {
        if id == self.me.member {
            return Ok(self.machine.digest_at(index));
        }
        let answer = self.transport.call(id, SERVICE, Ask::Digest(index).encode(self.id), ANSWER_PATIENCE).await?;
        Ok(match answer.first() {
            Some(0) => match answer[1..].try_into() {
                Ok(digest) => Known::Digest(digest),
                Err(_) => Known::Never,
            },
            Some(2) => Known::NotYet,
            _ => Known::Never,
        })
    }

    async fn tell_verdict(&self, id: MemberId, index: u64, right: Digest) {
        if id == self.me.member {
            self.verdict(index, right).await;
            return;
        }
        let body = Ask::Verdict(index, right).encode(self.id);
        if let Err(error) = self.transport.call(id, SERVICE, body, ANSWER_PATIENCE).await {
            tracing::warn!(group = self.id, member = id, %error, "a member that differs could not be told; the next check finds it");
        }
    }

    /// What a majority of the voters holds at a position. Whoever holds something else stops.
    pub(crate) async fn verdict(&self, index: u64, right: Digest) {
        if let Known::Digest(own) = self.machine.digest_at(index)
            && own != right
        {
            self.differs(format!(
                "at entry {index} a majority of the voters holds data with the digest {}, and this member with {}",
                hex(&right),
                hex(&own)
            ))
            .await;
        }
    }

    /// What this member holds is not what the log says. It stops, and a file keeps it from starting again.
    async fn differs(&self, why: String) {
        let words = format!("the data of this member is damaged: {why}");
        let (marker, note) = (self.damaged.clone(), words.clone());
        let written = runtime::blocking(move || marker.write_words(&note)).await;
        if let Err(error) = written.and_then(|written| written) {
            tracing::error!(group = self.id, %error, "that this member is damaged could not be noted on its disk");
        }
        self.counters.damaged.store(true, Relaxed);
        self.fail(words);
    }

    pub(crate) fn check_status(&self) -> CheckStatus {
        let counters = &self.counters;
        CheckStatus {
            runs: counters.checks.load(Relaxed),
            differences: counters.check_differences.load(Relaxed),
            undecided: counters.checks_undecided.load(Relaxed),
            last_good: counters.check_good.load(Relaxed).checked_sub(1),
        }
    }
}

/// The digest that a majority of the voters has.
fn majority(voters: &BTreeSet<MemberId>, answers: &BTreeMap<MemberId, Result<Digest, String>>) -> Option<Digest> {
    let mut votes: BTreeMap<Digest, usize> = BTreeMap::new();
    for digest in voters.iter().filter_map(|id| answers.get(id)?.as_ref().ok()) {
        *votes.entry(*digest).or_default() += 1;
    }
    votes.into_iter().find(|(_, count)| *count > voters.len() / 2).map(|(digest, _)| digest)
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to [`Ask::Digest`].
pub(crate) fn digest_answer(known: &Known) -> Bytes {
    match known {
        Known::Digest(digest) => [&[0][..], digest].concat().into(),
        Known::NotYet => Bytes::from_static(&[2]),
        Known::Never => Bytes::from_static(&[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_majority_of_the_voters_says_what_is_right() {
        let voters = BTreeSet::from([1, 2, 3]);
        let answers = |digests: &[(MemberId, Option<u8>)]| {
            let answer = |digest: Option<u8>| digest.map(|byte| [byte; 16]).ok_or_else(|| "gone".to_owned());
            digests.iter().map(|(id, digest)| (*id, answer(*digest))).collect::<BTreeMap<_, _>>()
        };
        let right = |digests: &[(MemberId, Option<u8>)]| majority(&voters, &answers(digests)).map(|digest| digest[0]);
        assert_eq!(right(&[(1, Some(5)), (2, Some(5)), (3, Some(6))]), Some(5));
        assert_eq!(right(&[(1, Some(5)), (2, Some(6)), (3, Some(6))]), Some(6));
        assert_eq!(right(&[(1, Some(5)), (2, None), (3, Some(6))]), None, "one against one");
        assert_eq!(right(&[(1, Some(5)), (2, Some(6)), (3, Some(7))]), None);
        // Members without a vote don't count, however many.
        assert_eq!(right(&[(1, Some(5)), (2, None), (3, None), (4, Some(6)), (5, Some(6))]), None);
    }
}
