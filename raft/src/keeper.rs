//! The task that watches a group on this member: it keeps the lease, tells who leads, takes
//! checkpoints, cuts the log behind them, and finishes what a leader that died has left half done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, ServerState};

use crate::error::{ChangeError, plain};
use crate::events::Event;
use crate::group::{Inner, Known};
use crate::lease::LeaseFacts;
use crate::runtime::{self, Instant};
use crate::system::SystemCommand;
use crate::transport::{GroupView, Refusal};
use crate::types::{Data, Member, MemberId, Membership, Metrics};

/// The least time between two looks at openraft's metrics, which change with every batch.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// The longest.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(50);
/// The least time between two looks at the size of the log, and between two tries at the same duty.
const DUTY_EVERY: Duration = Duration::from_millis(200);
/// For the leader's answer to this member's addresses.
const TELL_PATIENCE: Duration = Duration::from_millis(500);
/// The least time between two checkpoints that the size of the log asks for.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(5);
/// A disk that is full for so long is not about to have room again by itself.
const FULL_PATIENCE: Duration = Duration::from_secs(1);
/// The least time between two tries at doing something about it.
const FULL_EVERY: Duration = Duration::from_secs(5);
/// A learner that lacks no more entries than this has caught up.
pub(crate) const CAUGHT_UP: u64 = 64;

struct Keeper {
    inner: Arc<Inner>,
    known: Known,
    state: ServerState,
    version: u64,
    members: BTreeMap<MemberId, Member>,
    voters: BTreeSet<MemberId>,
    was_member: bool,
    marked: bool,
    duties_at: Instant,
    duty: Arc<AtomicBool>,
    checkpoint_at: Instant,
    /// Since when the disk has no room for the log, and when that was last seen to.
    full_since: Option<Instant>,
    full_seen_to: Instant,
    /// A leader has heard this member's addresses since the start.
    announced: Arc<AtomicBool>,
}

/// Watches until the group is stopped.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut metrics = inner.raft.metrics();
    let now = Instant::now();
    let mut keeper = Keeper {
        known: Known::default(),
        state: ServerState::default(),
        version: 0,
        members: BTreeMap::new(),
        voters: BTreeSet::new(),
        was_member: false,
        marked: false,
        duties_at: now,
        duty: Arc::new(AtomicBool::new(false)),
        checkpoint_at: now,
        full_since: None,
        full_seen_to: now,
        announced: Arc::default(),
        inner: inner.clone(),
    };
    loop {
        let seen = metrics.borrow_watched().clone();
        keeper.look(&seen);
        if inner.stopping.load(SeqCst) || seen.running_state.is_err() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let changed = tokio::select! {
            biased;
            () = inner.stop.notified() => return,
            changed = metrics.changed() => changed.is_ok(),
            () = tokio::time::sleep(LOOK_AT_LEAST_EVERY) => true,
        };
        if !changed {
            inner.fail("the consensus task ended unexpectedly".into());
            return;
        }
    }
}

impl Keeper {
    fn look(&mut self, metrics: &Metrics) {
        let inner = self.inner.clone();
        if let Err(fatal) = &metrics.running_state {
            inner.fail(plain(fatal));
            return;
        }
        let me = inner.me.member;
        inner.lease.update(me, &LeaseFacts::of(me, metrics, &inner.heard), inner.timings.election_max);
        self.tell_leader(metrics);
        self.tell_members(metrics);
        if Instant::now() >= self.duties_at {
            // Whose log this is stands in it as early as can be.
            let unfounded = self.known.leads && inner.machine.applied().system.cluster.is_nil();
            self.duties_at = Instant::now() + if unfounded { LOOK_EVERY } else { DUTY_EVERY };
            self.mark();
            if let Some(error) = inner.log.failed() {
                // It can fail while nobody writes; whoever writes would hear of it, and nobody else.
                inner.fail(error.to_string());
                return;
            }
            self.look_at_room();
            self.checkpoint(metrics);
            self.cut(metrics);
            self.lead(metrics);
        }
    }

    /// What is emitted the process tells in its own words; here it is for whoever looks for a fault.
    fn tell_leader(&mut self, metrics: &Metrics) {
        let inner = &self.inner;
        let me = inner.me.member;
        if metrics.state != self.state {
            if metrics.state == ServerState::Candidate {
                inner.counters.elections.fetch_add(1, Relaxed);
            }
            self.state = metrics.state;
        }
        let membership = &metrics.membership_config;
        let leader = metrics.current_leader.map(|id| (id, membership.get_node(&id).cloned().unwrap_or_default()));
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(me);
        let now = Known { leader, leads, term: metrics.current_term };
        let before = std::mem::replace(&mut self.known, now.clone());
        if before.leader == now.leader && before.leads == now.leads && before.term == now.term {
            return;
        }
        *inner.known.lock() = now.clone();
        self.duties_at = Instant::now();
        inner.leader_changed.notify_waiters();
        let leader = now.leader.as_ref().map(|(id, _)| *id);
        if before.leads && !now.leads {
            tracing::debug!(group = inner.id, term = now.term, "this member leads no more");
            inner.counters.emit(Event::LostLeadership { term: now.term });
        }
        if before.leader.as_ref().map(|(id, _)| *id) != leader || (now.leads && before.term != now.term) {
            if leader.is_some() {
                inner.counters.leader_changes.fetch_add(1, Relaxed);
            }
            if now.leads {
                tracing::debug!(group = inner.id, term = now.term, "this member leads now");
                inner.counters.emit(Event::BecameLeader { term: now.term });
            } else {
                tracing::debug!(group = inner.id, ?leader, term = now.term, "the leader has changed");
                inner.counters.emit(Event::LeaderIs { leader, term: now.term });
            }
        }
    }

    fn tell_members(&mut self, metrics: &Metrics) {
        let inner = &self.inner;
        // openraft's first words are empty ones, from before it has begun; a group that is open is not.
        if metrics.membership_config.log_id().is_none() {
            return;
        }
        let effective = metrics.membership_config.membership();
        let members: BTreeMap<MemberId, Member> = effective.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let voters: BTreeSet<MemberId> = effective.voter_ids().collect();
        let version = inner.machine.version();
        if version == self.version && members == self.members && voters == self.voters {
            return;
        }
        self.version = version;
        self.emit_changes(&members, &voters);
        let me = inner.me.member;
        let gone = self.was_member
            && !members.contains_key(&me)
            && metrics.committed_membership_config.get_node(&me).is_none();
        self.was_member |= members.contains_key(&me);
        self.members = members;
        self.voters = voters;
        let committed = metrics.committed_membership_config.membership();
        inner.publish_members(effective, committed);
        if gone {
            inner.was_removed();
        }
    }

    fn emit_changes(&self, members: &BTreeMap<MemberId, Member>, voters: &BTreeSet<MemberId>) {
        let counters = &self.inner.counters;
        for (id, member) in members.iter().filter(|(id, _)| !self.members.contains_key(id)) {
            counters.emit(Event::MemberAdded { id: *id, member: member.clone() });
        }
        for id in voters.difference(&self.voters).filter(|id| self.members.contains_key(id)) {
            counters.emit(Event::MemberPromoted { id: *id });
        }
        for id in self.members.keys().filter(|id| !members.contains_key(id)) {
            counters.emit(Event::MemberRemoved { id: *id });
        }
    }

    /// Writes down, once, that there is a log here that must never be missed.
    fn mark(&mut self) {
        let inner = &self.inner;
        if self.marked || inner.machine.applied_index().is_none() {
            return;
        }
        self.marked = true;
        let inner = inner.clone();
        tokio::spawn(async move {
            let job = inner.clone();
            let written = runtime::blocking(move || job.marker.write()).await;
            if let Err(error) = written.and_then(|w| w) {
                // Only a later loss of the log would be noticed less surely.
                tracing::warn!(group = inner.id, %error, "the beginning of the log could not be noted");
            }
        });
    }

    fn look_at_room(&mut self) {
        if self.inner.log.has_room() {
            self.full_since = None;
        } else {
            self.full_since.get_or_insert_with(Instant::now);
        }
    }

    /// The disk has had no room for the log for a while.
    fn is_full(&self) -> bool {
        self.full_since.is_some_and(|since| since.elapsed() >= FULL_PATIENCE)
    }

    /// Asks for a checkpoint when the log has grown, or when it is time.
    fn checkpoint(&mut self, metrics: &Metrics) {
        let inner = &self.inner;
        let applied = metrics.last_applied.as_ref().map(|id| id.index());
        let since = self.checkpoint_at.elapsed();
        let lost = inner.machine.has_lost_its_checkpoint();
        let news = applied > inner.machine.durable() || lost;
        let large = inner.log.bytes() > inner.limits.checkpoint_log_bytes + inner.limits.keep_log_bytes;
        let urgent = (large || lost) && since >= CHECKPOINT_PAUSE;
        // What a checkpoint lets go may be just the room that is wanted.
        let wanted = self.is_full() && since >= FULL_EVERY;
        if !news || !(urgent || wanted || since >= inner.limits.checkpoint_interval) {
            return;
        }
        self.checkpoint_at = Instant::now();
        if wanted || lost {
            inner.machine.hurry();
        }
        let raft = inner.raft.clone();
        tokio::spawn(async move {
            // Dropped by openraft while one is being written.
            let _ = raft.trigger().snapshot().await;
        });
    }

    /// Cuts the log behind the durable checkpoint, and keeps some for members that lag a little.
    fn cut(&self, metrics: &Metrics) {
        let inner = &self.inner;
        let (Some(durable), Some(first), Some(last)) =
            (inner.machine.durable(), inner.log.first_index(), metrics.last_log_index)
        else {
            return;
        };
        let entries = last.saturating_sub(first) + 1;
        let average = (inner.log.bytes() / entries).max(1);
        let keep_bytes = if self.is_full() { 0 } else { inner.limits.keep_log_bytes };
        let keep = keep_bytes / average;
        let upto = durable.min(last.saturating_sub(keep));
        // Not for a handful: each cut is a record in the log.
        if upto <= first || (upto - first) * average < keep_bytes / 4 {
            return;
        }
        let raft = inner.raft.clone();
        tokio::spawn(async move {
            let _ = raft.trigger().purge_log(upto).await;
        });
    }

    /// What the leader has to see to. One duty at a time.
    fn lead(&mut self, metrics: &Metrics) {
        if self.duty.load(SeqCst) || self.inner.removed.load(SeqCst) {
            return;
        }
        let Some(duty) = self.next_duty(metrics) else { return };
        if matches!(duty, Duty::FindRoom) {
            self.full_seen_to = Instant::now();
        }
        self.duty.store(true, SeqCst);
        let (inner, busy, announced) = (self.inner.clone(), self.duty.clone(), self.announced.clone());
        tokio::spawn(async move {
            let announces = matches!(duty, Duty::TellAddresses(_));
            if inner.perform(duty).await && announces {
                announced.store(true, SeqCst);
            }
            busy.store(false, SeqCst);
        });
    }

    fn next_duty(&self, metrics: &Metrics) -> Option<Duty> {
        let inner = &self.inner;
        let me = inner.me.member;
        let membership = metrics.membership_config.membership();
        if !self.known.leads {
            let mine = membership.get_node(&me)?;
            let moved = !mine.is_where(&inner.own);
            let (leader, _) = self.known.leader.as_ref().filter(|(id, _)| *id != me)?;
            // This member's own view may be older than the leader's, and lack an address that was wrong.
            return (moved || !self.announced.load(SeqCst)).then_some(Duty::TellAddresses(*leader));
        }
        let applied = inner.machine.applied();
        // An entry of this term first: before it, what the log says may still change.
        applied.last.as_ref().filter(|id| id.committed_leader_id() == metrics.vote.leader_id())?;
        if applied.system.cluster.is_nil() {
            return Some(Duty::Found);
        }
        let settled = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
        if !settled {
            return None;
        }
        if membership.get_joint_config().len() > 1 {
            return Some(Duty::Flatten);
        }
        if !membership.voter_ids().any(|id| id == me) {
            return Some(Duty::HandOver);
        }
        let mine = membership.get_node(&me)?;
        if !mine.is_where(&inner.own) {
            return Some(Duty::SetAddresses(me, inner.own.clone()));
        }
        if self.is_full() && self.full_seen_to.elapsed() >= FULL_EVERY {
            return Some(Duty::FindRoom);
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let candidate = membership.learner_ids().find(|id| {
            let wants = membership.get_node(id).is_some_and(|m| m.wants_vote);
            let matched = metrics.replication.as_ref().and_then(|r| r.get(id).cloned().flatten());
            let heard = metrics.heartbeat.as_ref().and_then(|h| h.get(id).cloned().flatten());
            wants
                && matched.is_some_and(|id| id.index() + CAUGHT_UP >= last)
                && heard.is_some_and(|at| at.elapsed() < inner.timings.election_max)
        });
        candidate.map(Duty::Promote)
    }
}

/// Something that the group waits for.
enum Duty {
    /// Write the group's UUID into the log.
    Found,
    /// Finish a change of the membership that was left half done.
    Flatten,
    /// Give leadership away: this member is no voter any more.
    HandOver,
    /// Give leadership away: this member's disk is full.
    FindRoom,
    /// Make a learner that has caught up a voter.
    Promote(MemberId),
    /// Correct a member's addresses.
    SetAddresses(MemberId, Member),
    /// Ask the leader to correct this member's addresses.
    TellAddresses(MemberId),
}

impl Inner {
    /// Tells the transport who is who.
    pub(crate) fn publish_members(&self, effective: &Membership, committed: &Membership) {
        // Both: a change that is not committed may yet be undone, and who it concerns must be heard for that.
        let members = committed.nodes().chain(effective.nodes()).map(|(id, m)| (*id, m.clone())).collect();
        let system = self.machine.applied().system;
        let view = GroupView { members, removed: system.removed, next_member: system.next_member };
        if self.transport.directory().update(self.id, view) {
            self.transport.refresh();
        }
    }

    /// True if it is done.
    async fn perform(self: &Arc<Self>, duty: Duty) -> bool {
        // To tell one's addresses changes nothing here. Whoever is asked may be gone, and this member lead by then: it must
        // not stand in the way of what the group wants.
        let _one = match (&duty, self.changing.try_lock()) {
            (Duty::TellAddresses(_), _) => None,
            (_, Ok(one)) => Some(one),
            // Somebody changes something already; there will be another look.
            (_, Err(_)) => return false,
        };
        let outcome = match duty {
            Duty::Found => {
                let found = SystemCommand::Found { cluster: self.me.cluster, first: self.me.member };
                let _ = self.raft.client_write(Data::System(found.encode())).await;
                Ok(())
            }
            Duty::Flatten => {
                tracing::info!(group = self.id, "finishing a change of the membership that was left half done");
                self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
            }
            Duty::HandOver => self.hand_over(None).await.map(drop),
            Duty::FindRoom => {
                if let Err(error) = self.hand_over_for_room().await {
                    tracing::warn!(group = self.id, %error, "leadership stays with this member, whose disk is full");
                }
                Ok(())
            }
            Duty::Promote(id) => {
                let done = self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await;
                if done.is_ok() {
                    tracing::debug!(group = self.id, member = id, "a learner has caught up and votes now");
                }
                done
            }
            Duty::SetAddresses(id, own) => self.set_addresses(id, &own).await,
            Duty::TellAddresses(leader) => tokio::time::timeout(TELL_PATIENCE, self.tell_addresses(leader))
                .await
                .unwrap_or_else(|_| Err(ChangeError::Unknown("the leader has not answered yet".into()))),
        };
        if let Err(error) = &outcome {
            tracing::info!(group = self.id, %error, "the membership could not be put in order yet");
            tokio::time::sleep(DUTY_EVERY).await;
        }
        outcome.is_ok()
    }

    /// This member was removed: it must not ask for votes any more.
    pub(crate) fn was_removed(&self) {
        if self.removed.swap(true, SeqCst) {
            return;
        }
        tracing::debug!(group = self.id, "this member was removed from the group");
        self.lease.end();
        self.raft.runtime_config().elect(false);
        self.counters.emit(Event::Removed);
    }

    /// A peer has refused this member.
    pub(crate) fn was_refused(&self, by: MemberId, refusal: Refusal, words: &str) {
        if refusal == Refusal::Busy {
            // It has just been started. The next attempt tells.
            return;
        }
        self.counters.emit(Event::Refused { by, reason: words.to_owned() });
        if refusal == Refusal::Removed {
            self.was_removed();
        }
    }
}
