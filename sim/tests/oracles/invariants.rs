//! The oracles that can do without the simulator, from its files.

#[path = "../../src/invariants/election_safety.rs"]
pub mod election_safety;
#[path = "../../src/invariants/evidence.rs"]
pub mod evidence;
#[path = "../../src/invariants/expiry.rs"]
pub mod expiry;
#[path = "../../src/invariants/linearizability.rs"]
pub mod linearizability;
#[path = "../../src/invariants/membership.rs"]
pub mod membership;
#[path = "../../src/invariants/model.rs"]
pub mod model;
#[path = "../../src/invariants/read_freshness.rs"]
pub mod read_freshness;
#[path = "../../src/invariants/transactions.rs"]
pub mod transactions;
