//! One database: 16384 slots behind a two-level tree of `Arc`s, and beside it the index of what expires when.
//!
//! A view is one clone of the root; the first write to a slot after that copies the root's and the branch's
//! pointers and the path within the slot, nothing else. Nothing here knows the time: who asks decides what has
//! expired.

use std::collections::BTreeSet;

use triomphe::Arc;

use crate::hasher::{Hasher, SLOTS, slot_of};
use crate::item::{Item, NEVER};
use crate::trie::{Keyed, Trie};

const WIDTH: usize = 128;

/// Where a key stands: computed once, used for every step on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) slot: u16,
    pub(crate) hash: u32,
}

impl<'a> Place<'a> {
    pub(crate) fn of(hasher: &Hasher, key: &'a [u8]) -> Self {
        Self { key, slot: slot_of(key), hash: hasher.hash(key) }
    }
}

/// A slot's keys; the trie knows the revision of its last change.
pub(crate) type Slot = Trie<Item>;

static NO_KEYS: Slot = Slot::EMPTY;

#[derive(Clone)]
struct Row {
    slots: [Slot; WIDTH],
}

impl Row {
    fn empty() -> Arc<Self> {
        Arc::new(Self { slots: [const { Slot::EMPTY }; WIDTH] })
    }
}

/// Rows are made when first written; the counts let a walk pass over those without keys.
#[derive(Clone)]
struct Root {
    rows: [Option<Arc<Row>>; WIDTH],
    counts: [usize; WIDTH],
}

/// All slots.
#[derive(Clone)]
pub(crate) struct Slots {
    root: Arc<Root>,
    len: u64,
    /// Chunks count as changed at this revision even where the slot says earlier (databases that were swapped).
    floor: u64,
}

impl Default for Slots {
    fn default() -> Self {
        Self { root: Arc::new(Root { rows: [const { None }; WIDTH], counts: [0; WIDTH] }), len: 0, floor: 0 }
    }
}

impl Slots {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn slot(&self, slot: u16) -> Option<&Slot> {
        let slot = usize::from(slot) % SLOTS;
        self.root.rows[slot / WIDTH].as_ref().map(|row| &row.slots[slot % WIDTH])
    }

    fn slot_mut(&mut self, slot: u16) -> &mut Slot {
        let slot = usize::from(slot) % SLOTS;
        let row = Arc::make_mut(&mut self.root).rows[slot / WIDTH].get_or_insert_with(Row::empty);
        &mut Arc::make_mut(row).slots[slot % WIDTH]
    }

    fn counted(&mut self, slot: u16, change: isize) {
        let count = &mut Arc::make_mut(&mut self.root).counts[usize::from(slot) % SLOTS / WIDTH];
        *count = count.wrapping_add_signed(change);
        self.len = self.len.wrapping_add_signed(change as i64);
    }

    pub(crate) fn get(&self, place: Place<'_>) -> Option<&Item> {
        self.slot(place.slot)?.get(place.hash, place.key)
    }

    /// All of it counts as changed at this revision, even where it says earlier.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Slots that hold keys.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u16, &Slot)> {
        self.filled_from(0)
    }

    /// Slots in which something may have changed since that revision, also those that are empty now.
    pub(crate) fn changed(&self, since: u64) -> impl Iterator<Item = (u16, &Slot)> {
        let all = self.floor > since;
        (0..SLOTS as u16).filter_map(move |number| match self.slot(number) {
            Some(slot) => (all || slot.changed_at() > since).then_some((number, slot)),
            None => all.then_some((number, &NO_KEYS)),
        })
    }

    fn filled_from(&self, first: usize) -> impl Iterator<Item = (u16, &Slot)> {
        let rows = (first / WIDTH..WIDTH).filter(|row| self.root.counts[*row] > 0);
        let numbers = rows.flat_map(move |row| (row * WIDTH).max(first)..(row + 1) * WIDTH);
        numbers.filter_map(|number| {
            let slot = self.slot(number as u16).filter(|slot| !slot.is_empty())?;
            Some((number as u16, slot))
        })
    }

    /// All items, in the order of slot, hash and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.filled().flat_map(|(_, keys)| keys.iter().map(|(_, item)| item))
    }

    /// The n-th item of that order.
    pub(crate) fn nth(&self, n: u64) -> Option<&Item> {
        let mut left = usize::try_from(n).ok()?;
        let mut within = |count: usize| {
            let here = left < count;
            left -= if here { 0 } else { count };
            here
        };
        let row = self.root.counts.iter().position(|count| within(*count))?;
        let slots = &self.root.rows[row].as_ref()?.slots;
        let slot = slots.iter().find(|slot| within(slot.len()))?;
        slot.nth(left)
    }

    /// Calls `each` for at least `count` items from `cursor` on; the cursor to go on from, 0 at the end.
    pub(crate) fn scan_page<'a>(&'a self, cursor: u64, count: usize, mut each: impl FnMut(&'a Item)) -> u64 {
        let (first, mut hash) = ((cursor >> 32) as usize, cursor as u32);
        let mut seen = 0;
        for (number, keys) in self.filled_from(first) {
            let number = usize::from(number);
            if number > first {
                if seen >= count {
                    return (number as u64) << 32;
                }
                hash = 0;
            }
            let next = keys.scan_page(hash, count - seen, |item| {
                seen += 1;
                each(item);
            });
            if let Some(next) = next {
                return (number as u64) << 32 | u64::from(next);
            }
        }
        0
    }

    /// Lets go of what is in the slots up to this one. The counts stay.
    pub(crate) fn release(&mut self, upto: u16) {
        let (row, column) = (usize::from(upto) % SLOTS / WIDTH, usize::from(upto) % WIDTH);
        let rows = &mut Arc::make_mut(&mut self.root).rows;
        rows[..row].fill(None);
        if let Some(row) = &mut rows[row] {
            Arc::make_mut(row).slots[..=column].fill(Slot::default());
        }
    }

    /// Puts in what a snapshot holds of a slot.
    pub(crate) fn restore_slot(&mut self, number: u16, slot: Slot) {
        self.counted(number, slot.len() as isize);
        *self.slot_mut(number) = slot;
    }
}

/// A key that ends: when, and where it stands. The hash stands for the key; those few that share one share a line.
type Due = (u64, u16, u32);

/// A database, with what is known of its expiries.
#[derive(Clone, Default)]
pub(crate) struct Database {
    pub(crate) slots: Slots,
    due: BTreeSet<Due>,
    expires: u64,
    /// Sum of the times at which keys end, for the average in INFO.
    ends_sum: u128,
}

impl Database {
    /// Over the slots of a view; the expiry index is made anew.
    pub(crate) fn from_slots(slots: Slots) -> Self {
        let mut db = Self::default();
        let mut due = Vec::new();
        for (number, keys) in slots.filled() {
            for (hash, item) in keys.iter() {
                if let Some(at) = item.expire_at() {
                    due.push((at, number, hash));
                    db.expires += 1;
                    db.ends_sum += u128::from(at);
                }
            }
        }
        db.due = due.into_iter().collect();
        db.slots = slots;
        db
    }

    pub(crate) fn expires(&self) -> u64 {
        self.expires
    }

    /// The average time to live in milliseconds.
    pub(crate) fn average_ttl_ms(&self, now_ms: u64) -> u64 {
        if self.expires == 0 {
            return 0;
        }
        let average = self.ends_sum / u128::from(self.expires);
        u64::try_from(average).unwrap_or(u64::MAX).saturating_sub(now_ms)
    }

    /// All chunks count as changed at this revision.
    pub(crate) fn moved(&mut self, revision: u64) {
        self.slots.floor = revision;
    }

    fn index_end(&mut self, place: Place<'_>, at: u64) {
        if at != NEVER {
            self.due.insert((at, place.slot, place.hash));
            self.expires += 1;
            self.ends_sum += u128::from(at);
        }
    }

    /// Call it when the key no longer ends at `at`.
    fn unindex_end(&mut self, place: Place<'_>, at: u64) {
        if at == NEVER {
            return;
        }
        self.expires -= 1;
        self.ends_sum -= u128::from(at);
        let shared = self.slots.slot(place.slot).is_some_and(|slot| {
            let same = slot.iter_from(place.hash).take_while(|(hash, _)| *hash == place.hash);
            same.into_iter().any(|(_, item)| item.head().expire_at == at && item.key() != place.key)
        });
        if !shared {
            self.due.remove(&(at, place.slot, place.hash));
        }
    }

    /// One descent for look-up, change and insert, as [`Trie::upsert`]; keeps the expiry index and the count. The item in
    /// whose place another was given comes back.
    pub(crate) fn upsert(
        &mut self,
        place: Place<'_>,
        revision: u64,
        edit: impl FnOnce(Option<&mut Item>) -> Option<Item>,
    ) -> Option<Item> {
        let (mut before, mut after) = (NEVER, NEVER);
        let mut replaced = None;
        let slot = self.slots.slot_mut(place.slot);
        slot.stamp(revision);
        let added = slot.upsert(place.hash, place.key, |found| match found {
            Some(item) => {
                before = item.head().expire_at;
                replaced = edit(Some(item)).map(|new| std::mem::replace(item, new));
                after = item.head().expire_at;
                None
            }
            None => {
                let new = edit(None);
                after = new.as_ref().map_or(NEVER, |item| item.head().expire_at);
                new
            }
        });
        if added {
            self.slots.counted(place.slot, 1);
        }
        if before != after {
            self.unindex_end(place, before);
            self.index_end(place, after);
        }
        replaced
    }

    /// Changes an item's value in place. Its expiry must stay: use [`Database::upsert`] for that. The caller has seen
    /// that the key is there, for a miss would mark its slot as changed.
    pub(crate) fn edit<R>(&mut self, place: Place<'_>, revision: u64, edit: impl FnOnce(&mut Item) -> R) -> Option<R> {
        let slot = self.slots.slot_mut(place.slot);
        slot.stamp(revision);
        slot.edit(place.hash, place.key, edit)
    }

    pub(crate) fn remove(&mut self, place: Place<'_>, revision: u64) -> Option<Item> {
        // A miss must not copy anything that a view shares.
        self.slots.get(place)?;
        let slot = self.slots.slot_mut(place.slot);
        slot.stamp(revision);
        let item = slot.remove(place.hash, place.key)?;
        self.slots.counted(place.slot, -1);
        self.unindex_end(place, item.head().expire_at);
        Some(item)
    }

    /// Keys that have ended, the earliest first, at most about `limit`.
    pub(crate) fn due<'a>(&'a self, now_ms: u64, limit: usize, mut each: impl FnMut(&'a [u8])) {
        for (at, number, hash) in self.due.range(..=(now_ms, u16::MAX, u32::MAX)).take(limit) {
            let Some(slot) = self.slots.slot(*number) else {
                continue;
            };
            let same = slot.iter_from(*hash).take_while(|(tag, _)| tag == hash);
            same.filter(|(_, item)| item.head().expire_at == *at).for_each(|(_, item)| each(item.key()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Head;

    #[test]
    fn keys_that_share_hash_and_end_share_a_line_of_the_index() {
        let mut db = Database::default();
        let place = |key| Place { key, slot: 3, hash: 9 };
        let put = |db: &mut Database, key: &'static [u8], at| {
            let item = Item::string(Head::new(key, 1, at, 0, 0), key, b"v");
            db.upsert(place(key), 1, |_| Some(item));
        };
        let due = |db: &Database, now| {
            let mut keys = Vec::new();
            db.due(now, 10, |key| keys.push(key.to_vec()));
            keys
        };
        put(&mut db, b"a", 50);
        put(&mut db, b"b", 50);
        put(&mut db, b"c", 60);
        assert_eq!(due(&db, 50), [b"a", b"b"]);
        assert_eq!(db.expires(), 3);
        db.remove(place(b"a"), 1);
        assert_eq!(due(&db, 50), [b"b"], "the other one stays in the index");
        put(&mut db, b"b", NEVER);
        assert_eq!(due(&db, 60), [b"c"]);
        db.remove(place(b"c"), 1);
        assert_eq!((db.expires(), db.ends_sum, db.due.len()), (0, 0, 0));
    }
}
