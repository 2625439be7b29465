//! The lease: until when a read here can't be stale, as one number.
//!
//! What counts is the moment at which the last request that a majority answered was SENT. From then on,
//! for `election_max`, none of that majority votes for another. The lease here ends at nine tenths of
//! that, on a clock that goes on while the machine sleeps; a check after the read therefore covers any
//! pause between read and check. The tenth is for clocks: two may differ in speed by that much, as when
//! one goes a twentieth too slow and the other a twentieth too fast.
//!
//! openraft tells such a moment, and it is too late by as much as an answer takes to come back: it takes an answer
//! for one to all requests that end at the same entry, those sent meanwhile among them (0.10.0-alpha.37,
//! `InflightAppendQueue::drain_acked`). So [`Heard`] counts request by request, and the earlier of both is used.
//!
//! It is never extended in a term in which a transfer of leadership began, whatever came of it: the
//! followers dropped their part of the promise when they heard of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
#[cfg(madsim)]
use quorate_storage::mutants::{self, Mutant};

use crate::runtime::Instant;
use crate::types::{MemberId, Metrics, Vote};

/// When the last request that each member answered was sent, and under which leadership.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<BTreeMap<MemberId, (Vote, Instant)>>>);

impl Heard {
    /// The member answered what was sent to it at that moment.
    pub(crate) fn from(&self, member: MemberId, under: Vote, sent: Instant) {
        let mut all = self.0.lock();
        match all.get_mut(&member) {
            Some((vote, at)) if *vote == under => *at = sent.max(*at),
            _ => {
                all.insert(member, (under, sent));
            }
        }
    }

    /// A moment since when a majority of each of the configurations has been heard.
    pub(crate) fn by_majorities(&self, configs: &[BTreeSet<MemberId>], me: MemberId, under: &Vote) -> Option<Instant> {
        let (all, now) = (self.0.lock(), Instant::now());
        let since = |voters: &BTreeSet<MemberId>| {
            let heard = |id: &MemberId| match all.get(id) {
                _ if *id == me => Some(now),
                Some((vote, at)) if vote == under => Some(*at),
                _ => None,
            };
            let mut times: Vec<Instant> = voters.iter().filter_map(heard).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(voters.len() / 2).copied()
        };
        configs.iter().map(since).min().flatten()
    }
}

/// A lease; zero means there is none.
#[derive(Default)]
pub(crate) struct Lease {
    until: AtomicU64,
    /// The term in which a transfer began, plus one.
    spoilt: AtomicU64,
    #[cfg(madsim)]
    seen_last: AtomicU64,
}

impl Lease {
    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        let until = self.until.load(SeqCst);
        #[cfg(madsim)]
        if mutants::on(Mutant::LeaseLookedAtBefore) {
            return until != 0;
        }
        until != 0 && Instant::now().as_nanos() < until
    }

    /// A transfer begins: no lease any more in this term.
    pub(crate) fn spoil(&self, term: u64) {
        #[cfg(madsim)]
        if mutants::on(Mutant::LeaseDuringTransfer) {
            return;
        }
        self.spoilt.store(term + 1, SeqCst);
        self.until.store(0, SeqCst);
    }

    /// There is none any more.
    pub(crate) fn end(&self) {
        self.until.store(0, SeqCst);
    }

    /// Takes in what openraft says.
    pub(crate) fn update(&self, me: MemberId, metrics: &LeaseFacts, lease: Duration) {
        let until = metrics.until(me, lease);
        #[cfg(madsim)]
        let until = if mutants::on(Mutant::LeaseLookedAtBefore) {
            self.seen_last.swap(if until > Instant::now().as_nanos() { until } else { 0 }, SeqCst)
        } else {
            until
        };
        self.until.store(until, SeqCst);
        // A transfer may have begun in between: it stores `spoilt` first, so that one of both sees the other.
        if self.spoilt.load(SeqCst) == metrics.term + 1 {
            self.until.store(0, SeqCst);
        }
    }
}

/// What the lease follows from; all of one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseFacts {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    /// The last applied entry is of this very leadership.
    pub(crate) own_applied: bool,
    pub(crate) votes: bool,
    pub(crate) alone: bool,
    pub(crate) acked: Option<Instant>,
}

impl LeaseFacts {
    pub(crate) fn of(me: MemberId, metrics: &Metrics, heard: &Heard) -> Self {
        let leader = metrics.vote.leader_id();
        let membership = metrics.membership_config.membership();
        let mut voters = membership.voter_ids();
        let votes = membership.voter_ids().any(|id| id == me);
        Self {
            term: metrics.current_term,
            leads: metrics.state.is_leader() && metrics.current_leader == Some(me) && leader.node_id == me,
            own_applied: metrics
                .last_applied
                .as_ref()
                .is_some_and(|id| id.committed_leader_id() == leader && leader.term == metrics.current_term),
            votes,
            alone: voters.next() == Some(me) && voters.next().is_none() && membership.get_joint_config().len() == 1,
            acked: metrics
                .last_quorum_acked
                .map(|at| *at)
                .zip(heard.by_majorities(membership.get_joint_config(), me, &metrics.vote))
                .map(|(openraft, here)| openraft.min(here)),
        }
    }

    fn until(&self, _me: MemberId, lease: Duration) -> u64 {
        let own_applied = self.own_applied;
        #[cfg(madsim)]
        let own_applied = own_applied || mutants::on(Mutant::ReadBeforeOwnTerm);
        if !(self.leads && own_applied && self.votes) {
            return 0;
        }
        // Alone, its own word is the majority's.
        let acked = if self.alone { Some(Instant::now()) } else { self.acked };
        let margin = lease / 10;
        #[cfg(madsim)]
        let margin = if mutants::on(Mutant::LeaseWithoutMargin) { Duration::ZERO } else { margin };
        acked.map_or(0, |at| (at + lease - margin).as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(100);

    fn facts() -> LeaseFacts {
        LeaseFacts { term: 4, leads: true, own_applied: true, votes: true, alone: false, acked: Some(Instant::now()) }
    }

    fn holds(facts: LeaseFacts) -> bool {
        let lease = Lease::default();
        lease.update(1, &facts, LEASE);
        lease.holds()
    }

    #[test]
    fn it_holds_only_for_a_leader_that_has_applied_an_entry_of_its_own_and_was_heard_lately() {
        assert!(holds(facts()));
        assert!(!holds(LeaseFacts { leads: false, ..facts() }));
        assert!(!holds(LeaseFacts { own_applied: false, ..facts() }));
        assert!(!holds(LeaseFacts { votes: false, ..facts() }));
        assert!(!holds(LeaseFacts { acked: None, ..facts() }));
        assert!(!holds(LeaseFacts { acked: Some(Instant::now() - LEASE * 9 / 10), ..facts() }));
        assert!(holds(LeaseFacts { alone: true, acked: None, ..facts() }));
    }

    #[test]
    fn a_majority_of_each_configuration_has_to_be_heard_under_this_leadership() {
        let (heard, vote, older) = (Heard::default(), Vote::new_committed(2, 1), Vote::new_committed(1, 1));
        let at = |ms| Instant::now() - Duration::from_secs(1) + Duration::from_millis(ms);
        let (early, late) = (at(0), at(500));
        let three = [BTreeSet::from([1, 2, 3])];
        assert_eq!(heard.by_majorities(&three, 1, &vote), None);
        heard.from(2, older, late);
        assert_eq!(heard.by_majorities(&three, 1, &vote), None);
        heard.from(2, vote, early);
        assert_eq!(heard.by_majorities(&three, 1, &vote), Some(early));
        heard.from(3, vote, late);
        assert_eq!(heard.by_majorities(&three, 1, &vote), Some(late));
        heard.from(3, vote, early);
        assert_eq!(heard.by_majorities(&three, 1, &vote), Some(late), "it never goes back");
        // A leader that is not a voter has no say; four voters need three.
        assert_eq!(heard.by_majorities(&[BTreeSet::from([2, 3])], 1, &vote), Some(early));
        assert_eq!(heard.by_majorities(&[BTreeSet::from([1, 2, 3, 4])], 1, &vote), Some(early));
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4, 5])];
        assert_eq!(heard.by_majorities(&joint, 1, &vote), None);
        heard.from(5, vote, early);
        assert_eq!(heard.by_majorities(&joint, 1, &vote), Some(early));
    }

    #[test]
    fn a_transfer_ends_it_for_the_rest_of_the_term() {
        let lease = Lease::default();
        lease.update(1, &facts(), LEASE);
        lease.spoil(4);
        assert!(!lease.holds());
        lease.update(1, &facts(), LEASE);
        assert!(!lease.holds());
        lease.update(1, &LeaseFacts { term: 5, ..facts() }, LEASE);
        assert!(lease.holds());
    }
}
