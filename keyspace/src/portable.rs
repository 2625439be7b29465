//! A key as another server takes it: what MIGRATE sends.
//!
//! It shares the value with the keyspace, so it is taken in a moment under the lock, and made into bytes without it.

use crate::commands::object;
use crate::item::Item;

/// A key at one moment.
pub struct Portable {
    item: Item,
    left_ms: Option<u64>,
}

impl Portable {
    pub(crate) fn new(item: Item, now_ms: u64) -> Self {
        let left_ms = item.expire_at().map(|at| at.saturating_sub(now_ms));
        Self { item, left_ms }
    }

    /// Its revision, as WATCH remembers it.
    pub fn revision(&self) -> u64 {
        self.item.revision()
    }

    /// How long it had to live then; None: for ever.
    pub fn left_ms(&self) -> Option<u64> {
        self.left_ms
    }

    /// What DUMP gives.
    pub fn payload(&self) -> Vec<u8> {
        object::payload(&self.item)
    }
}
