//! The lease: until when a read here can't be stale, as one number.
//!
//! openraft tells the moment at which the last request that a majority answered was SENT. From then on,
//! for `election_max`, none of that majority votes for another. The lease here ends at nine tenths of
//! that, on a clock that goes on while the machine sleeps; a check after the read therefore covers any
//! pause between read and check.
//!
//! It is never extended in a term in which a transfer of leadership began, whatever came of it: the
//! followers dropped their part of the promise when they heard of it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::runtime::Instant;
use crate::types::{MemberId, Metrics};

/// A lease; zero means there is none.
#[derive(Default)]
pub(crate) struct Lease {
    until: AtomicU64,
    /// The term in which a transfer began, plus one.
    spoilt: AtomicU64,
}

impl Lease {
    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        let until = self.until.load(SeqCst);
        until != 0 && Instant::now().as_nanos() < until
    }

    /// A transfer begins: no lease any more in this term.
    pub(crate) fn spoil(&self, term: u64) {
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
    pub(crate) fn of(me: MemberId, metrics: &Metrics) -> Self {
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
            acked: metrics.last_quorum_acked.map(|at| *at),
        }
    }

    fn until(&self, _me: MemberId, lease: Duration) -> u64 {
        if !(self.leads && self.own_applied && self.votes) {
            return 0;
        }
        // Alone, its own word is the majority's.
        let acked = if self.alone { Some(Instant::now()) } else { self.acked };
        acked.map_or(0, |at| (at + lease * 9 / 10).as_nanos())
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
