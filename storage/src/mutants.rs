//! Deliberate faults, for the simulator to prove that its oracles find them. Exists only where the simulator is the
//! runtime (`--cfg madsim`): no release can hold a line of it.
//!
//! It stands here because every other crate of the member is built on this one. Each fault is one line at the place
//! where it would be made.

use std::cell::Cell;

/// What is wrong with the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The end of the log is believed although its checksums are wrong.
    TornTailAccepted,
    /// A member that restarts does not know for whom it voted.
    VoteForgotten,
    /// A member that restarts takes part in elections at once.
    NoRestartGuard,
    /// The lease lasts as long as the promise of the followers, and not nine tenths of it.
    LeaseWithoutMargin,
    /// The lease goes on while leadership is handed over.
    LeaseDuringTransfer,
    /// The lease counts before an entry of the own term was applied.
    ReadBeforeOwnTerm,
    /// The lease is looked at now and then, and what the look before showed counts, however long ago that was.
    LeaseLookedAtBefore,
    /// A snapshot is installed with the membership that was known before.
    SnapshotWithoutMembership,
    /// A leader that restarts goes on leading in its term.
    LeaderRestored,
    /// A connection to another member that broke is not made again.
    NoReconnect,
    /// A member that restarts shows its own state before it has applied again what it had shown.
    NoCatchUp,
}

thread_local!(static HERE: Cell<Option<Mutant>> = const { Cell::new(None) });

/// All members of the run of this thread have that fault.
pub fn set(mutant: Option<Mutant>) {
    HERE.set(mutant);
}

/// They have this one.
pub fn on(mutant: Mutant) -> bool {
    HERE.get() == Some(mutant)
}
