//! A consistent view of the keyspace, and its bytes: what a checkpoint, a snapshot to a peer and a digest are made of.

use crate::db::{Database, Slots};
use crate::hasher::{Hasher, Rng};
use crate::keyspace::Space;
use crate::settings::Settings;

/// Everything at one moment, shared with the keyspace it was taken of. Clones are cheap; it never changes.
#[derive(Clone)]
pub struct View {
    dbs: Vec<Slots>,
    hasher: Hasher,
    settings: Settings,
    revision: u64,
    now_ms: u64,
}

impl View {
    pub(crate) fn of(space: &Space) -> Self {
        Self {
            dbs: space.dbs.iter().map(|db| db.slots.clone()).collect(),
            hasher: space.hasher,
            settings: space.settings.clone(),
            revision: space.revision,
            now_ms: space.now_ms,
        }
    }

    pub(crate) fn to_space(&self) -> Space {
        Space {
            dbs: self.dbs.iter().cloned().map(Database::from_slots).collect(),
            hasher: self.hasher,
            settings: self.settings.clone(),
            revision: self.revision,
            now_ms: self.now_ms,
            rng: Rng::new(0),
            expired: 0,
            garbage: Vec::new(),
        }
    }
}
