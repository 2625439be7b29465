//! What was removed, until it is freed: that takes a while where it is large, and entries that wait to be applied must
//! not wait for it.
//!
//! It is no part of the state, and must never decide what a reply says.

use crate::db::Database;
use crate::item::Item;

/// Less work than this is done at once: handing it over would cost about as much.
const HEAVY: usize = 512;

/// What was removed. Dropping it takes a while: do it where nobody waits.
#[derive(Default)]
pub struct Garbage {
    dbs: Vec<Database>,
    items: Vec<Item>,
    work: usize,
}

impl Garbage {
    /// A database that was flushed.
    pub(crate) fn database(&mut self, db: Database) {
        self.dbs.push(db);
    }

    /// What was removed, or had another put in its place; whether there was anything. A value in one piece goes at once.
    pub(crate) fn item(&mut self, item: Option<Item>) -> bool {
        let Some(item) = item else { return false };
        let work = item.work_to_free();
        if work > 0 {
            self.work += work;
            self.items.push(item);
        }
        true
    }

    /// Whether freeing it takes long enough to be done elsewhere.
    pub(crate) fn is_heavy(&self) -> bool {
        !self.dbs.is_empty() || self.work >= HEAVY
    }
}
