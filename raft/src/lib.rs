//! Consensus for Quorate: the only crate that names openraft.
