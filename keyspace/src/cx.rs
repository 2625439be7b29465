//! What a command's handler gets: the keyspace at one moment of the group's time, to read or to write.
//!
//! A handler never sees a session, a clock or a socket. Keys past due don't exist for it: a read passes over them,
//! a write removes them on the way.

use std::cell::Cell;

use crate::db::{Database, Place};
use crate::error::CmdError;
use crate::hash::{Hash, HashLimits};
use crate::hasher::Rng;
use crate::item::{Collection, Head, Item, NEVER, RAW, TEXT, Value};
use crate::keyspace::Space;
use crate::rope::{LONG, Str};
use crate::settings::{Setting, Settings};
use crate::trie::Keyed;

/// What becomes of a key's expiry when its value is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// It never ends.
    Clear,
    /// As it was.
    Keep,
    /// It ends then, in milliseconds since 1970.
    At(u64),
}

impl Ttl {
    /// When it ends then, if it ended at `before`.
    fn end(self, before: u64) -> u64 {
        match self {
            Ttl::Clear => NEVER,
            Ttl::Keep => before,
            Ttl::At(at) => at,
        }
    }
}

/// The moment at which reads see the keyspace, and what they came across.
#[derive(Debug)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// What random choices are drawn from.
    pub seed: u64,
    hits: Cell<u64>,
    misses: Cell<u64>,
    hidden: Cell<u64>,
}

impl Moment {
    /// A moment at which nothing was read yet.
    pub fn new(now_ms: u64, seed: u64) -> Self {
        Self { now_ms, seed, hits: Cell::new(0), misses: Cell::new(0), hidden: Cell::new(0) }
    }

    /// Keys that were looked up and found.
    pub fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// Keys that were looked up and not found.
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }

    /// Those of the misses that are still there, past due. Whoever tells a client that such a key is gone has to have
    /// it removed first: another leader's clock may be behind, and show it again.
    pub fn hidden(&self) -> u64 {
        self.hidden.get()
    }

    fn count(&self, there: bool, past_due: bool) {
        let counter = if there && !past_due { &self.hits } else { &self.misses };
        counter.set(counter.get() + 1);
        if past_due {
            self.hidden.set(self.hidden.get() + 1);
        }
    }
}

/// The keyspace, to look at.
#[derive(Clone, Copy)]
pub struct ReadCx<'a> {
    space: &'a Space,
    moment: Option<&'a Moment>,
    now_ms: u64,
    seed: u64,
    db: u16,
}

impl<'a> ReadCx<'a> {
    pub(crate) fn new(space: &'a Space, now_ms: u64, seed: u64, db: u16) -> Self {
        Self { space, moment: None, now_ms, seed, db }
    }

    pub(crate) fn at(space: &'a Space, moment: &'a Moment, seed: u64, db: u16) -> Self {
        Self { space, moment: Some(moment), now_ms: moment.now_ms.max(space.now_ms), seed, db }
    }

    /// The moment, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The database of the command.
    pub fn db(&self) -> u16 {
        self.db
    }

    /// How many databases there are.
    pub fn databases(&self) -> u16 {
        self.space.dbs.len() as u16
    }

    /// The same moment in another database.
    pub fn in_db(&self, db: u16) -> Self {
        Self { db, ..*self }
    }

    /// Chance for this command; each call begins the same row of numbers.
    pub fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// The replicated settings.
    pub fn settings(&self) -> &'a Settings {
        &self.space.settings
    }

    fn database(&self) -> &'a Database {
        &self.space.dbs[usize::from(self.db)]
    }

    /// The item of a key.
    pub fn get(&self, key: &[u8]) -> Option<&'a Item> {
        let item = self.database().slots.get(Place::of(&self.space.hasher, key));
        let past_due = item.is_some_and(|item| item.is_expired(self.now_ms));
        if let Some(moment) = self.moment {
            moment.count(item.is_some(), past_due);
        }
        item.filter(|_| !past_due)
    }

    /// Whether a key exists.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// The bytes of a string; an error for another type.
    pub fn string(&self, key: &[u8]) -> Result<Option<Str<'a>>, CmdError> {
        self.get(key).map(|item| item.as_str().ok_or(CmdError::WRONG_TYPE)).transpose()
    }

    /// A collection; an error for another type.
    pub fn collection<T: Collection + 'a>(&self, key: &[u8]) -> Result<Option<&'a T>, CmdError> {
        self.get(key).map(|item| T::from_ref(item.value()).ok_or(CmdError::WRONG_TYPE)).transpose()
    }

    /// A hash; an error for another type.
    pub fn hash(&self, key: &[u8]) -> Result<Option<&'a Hash>, CmdError> {
        self.collection(key)
    }

    /// How many keys the database has, those past due but not yet removed included.
    pub fn len(&self) -> u64 {
        self.database().slots.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The n-th item (of [`ReadCx::len`]) in the group's order; it may be past due.
    pub fn nth(&self, n: u64) -> Option<&'a Item> {
        self.database().slots.nth(n)
    }

    /// All items that have not ended, in the group's order. [`Keyed::key`] gives their keys.
    pub fn iter(&self) -> impl Iterator<Item = &'a Item> + use<'a> {
        let now_ms = self.now_ms;
        self.database().slots.iter().filter(move |item| !item.is_expired(now_ms))
    }

    /// The items of one slot that have not ended.
    pub fn iter_slot(&self, slot: u16) -> impl Iterator<Item = &'a Item> + use<'a> {
        let now_ms = self.now_ms;
        let keys = self.database().slots.slot(slot).map(|slot| slot.iter());
        keys.into_iter().flatten().map(|(_, item)| item).filter(move |item| !item.is_expired(now_ms))
    }

    /// A page of SCAN: about `count` items from `cursor` on; the cursor to go on from, 0 at the end. Keys that stay
    /// through a whole scan are always seen.
    pub fn scan(&self, cursor: u64, count: usize, mut each: impl FnMut(&'a Item)) -> u64 {
        self.database().slots.scan_page(cursor, count, |item| {
            if !item.is_expired(self.now_ms) {
                each(item);
            }
        })
    }
}

/// The keyspace, to change.
pub struct WriteCx<'a> {
    space: &'a mut Space,
    now_ms: u64,
    db: u16,
    /// Of this command: every key it changes gets it.
    revision: u64,
}

impl<'a> WriteCx<'a> {
    pub(crate) fn new(space: &'a mut Space, now_ms: u64, db: u16) -> Self {
        space.revision += 1;
        let revision = space.revision;
        Self { space, now_ms, db, revision }
    }

    /// The same command in another database.
    pub fn in_db(&mut self, db: u16) -> WriteCx<'_> {
        WriteCx { now_ms: self.now_ms, db, revision: self.revision, space: self.space }
    }

    /// The moment, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The database of the command.
    pub fn db(&self) -> u16 {
        self.db
    }

    /// How many databases there are.
    pub fn databases(&self) -> u16 {
        self.space.dbs.len() as u16
    }

    /// Chance of this entry: all members draw the same.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.space.rng
    }

    /// The replicated settings.
    pub fn settings(&self) -> &Settings {
        &self.space.settings
    }

    /// Up to where hashes stay packed.
    pub fn hash_limits(&self) -> HashLimits {
        HashLimits::new(&self.space.settings, self.space.hasher, self.revision)
    }

    fn database(&mut self) -> &mut Database {
        &mut self.space.dbs[usize::from(self.db)]
    }

    fn place<'k>(&self, key: &'k [u8]) -> Place<'k> {
        Place::of(&self.space.hasher, key)
    }

    /// As [`Database::upsert`]; what is replaced is garbage.
    fn upsert(&mut self, place: Place<'_>, edit: impl FnOnce(Option<&mut Item>) -> Option<Item>) {
        let revision = self.revision;
        let old = self.database().upsert(place, revision, edit);
        self.space.garbage.item(old);
    }

    fn remove_at(&mut self, place: Place<'_>) -> bool {
        let revision = self.revision;
        let item = self.database().remove(place, revision);
        self.space.garbage.item(item)
    }

    /// Removes a key that is past due, so that what follows sees none.
    fn drop_expired(&mut self, place: Place<'_>) {
        let now_ms = self.now_ms;
        if self.database().slots.get(place).is_some_and(|item| item.is_expired(now_ms)) {
            self.remove_at(place);
            self.space.expired += 1;
        }
    }

    /// The item of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Item> {
        let item = self.space.dbs[usize::from(self.db)].slots.get(self.place(key))?;
        (!item.is_expired(self.now_ms)).then_some(item)
    }

    /// Whether a key exists.
    pub fn exists(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// The bytes of a string; an error for another type.
    pub fn string(&self, key: &[u8]) -> Result<Option<Str<'_>>, CmdError> {
        self.get(key).map(|item| item.as_str().ok_or(CmdError::WRONG_TYPE)).transpose()
    }

    /// A collection, to look at; an error for another type.
    pub fn collection<T: Collection>(&self, key: &[u8]) -> Result<Option<&T>, CmdError> {
        self.get(key).map(|item| T::from_ref(item.value()).ok_or(CmdError::WRONG_TYPE)).transpose()
    }

    /// A hash, to look at; an error for another type.
    pub fn hash(&self, key: &[u8]) -> Result<Option<&Hash>, CmdError> {
        self.collection(key)
    }

    /// Sets a string, whatever was there before.
    pub fn set_string(&mut self, key: &[u8], value: &[u8], ttl: Ttl) {
        self.set_string_as(key, value, ttl, 0);
    }

    /// The same, but OBJECT ENCODING never calls it `int` (INCRBYFLOAT's result).
    pub(crate) fn set_text(&mut self, key: &[u8], value: &[u8], ttl: Ttl) {
        self.set_string_as(key, value, ttl, TEXT);
    }

    fn set_string_as(&mut self, key: &[u8], value: &[u8], ttl: Ttl, flags: u32) {
        let place = self.place(key);
        let (revision, now_ms) = (self.revision, self.now_ms);
        let mut expired = 0;
        self.upsert(place, |found| {
            let old = found.as_ref().map_or(NEVER, |item| item.head().expire_at);
            expired = u64::from(old <= now_ms);
            let expire_at = ttl.end(if expired == 0 { old } else { NEVER });
            let head = Head::new(key, revision, expire_at, flags, now_ms);
            let in_place = found.is_some_and(|item| item.set_in_place(head, value));
            (!in_place).then(|| Item::string(head, key, value))
        });
        self.space.expired += expired;
    }

    /// Puts bytes into a string at a place; where that is behind its end, zeros come between. A key that does not exist
    /// begins empty, and is not made for no bytes. OBJECT ENCODING calls it `raw` from then on. The caller has checked
    /// the type.
    pub(crate) fn write_string(&mut self, key: &[u8], at: usize, bytes: &[u8]) {
        let place = self.place(key);
        self.drop_expired(place);
        let (revision, now_ms) = (self.revision, self.now_ms);
        let there = self.database().slots.get(place).is_some();
        if !there && bytes.is_empty() {
            return;
        }
        self.upsert(place, |found| match found {
            Some(item) => {
                item.write(at, bytes, revision);
                item.touch(revision, now_ms);
                None
            }
            None => {
                let head = Head::new(key, revision, NEVER, RAW, now_ms);
                let mut new = Item::object(head, key, Value::Str(Vec::new()));
                new.write(at, bytes, revision);
                Some(new)
            }
        });
    }

    /// Sets a string as if it had grown to this in place.
    pub(crate) fn set_grown(&mut self, key: &[u8], bytes: Vec<u8>) {
        if bytes.len() > LONG {
            return self.set_string_as(key, &bytes, Ttl::Clear, RAW);
        }
        let place = self.place(key);
        self.drop_expired(place);
        let (revision, now_ms) = (self.revision, self.now_ms);
        let item = Item::object(Head::new(key, revision, NEVER, RAW, now_ms), key, Value::Str(bytes));
        self.upsert(place, |_| Some(item));
    }

    /// Puts a value under a key, whatever was there before.
    pub fn set_collection<T: Collection>(&mut self, key: &[u8], value: T, ttl: Ttl) {
        let place = self.place(key);
        self.drop_expired(place);
        let (revision, now_ms) = (self.revision, self.now_ms);
        self.upsert(place, |found| {
            let expire_at = ttl.end(found.map_or(NEVER, |item| item.head().expire_at));
            Some(Item::object(Head::new(key, revision, expire_at, 0, now_ms), key, value.into_value()))
        });
    }

    /// Changes a collection in place; one that is empty afterwards goes, key and all. None when the key does not exist,
    /// an error for another type.
    ///
    /// `edit` has no way to fail, nor to leave all as it was: whoever gets at the collection like this has marked its
    /// chunks as changed, and copied what a view shares. Whether there is anything to do is to be seen before, by
    /// [`WriteCx::collection`].
    pub fn edit<T: Collection, R>(
        &mut self,
        key: &[u8],
        edit: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, CmdError> {
        let place = self.place(key);
        let (revision, now_ms) = (self.revision, self.now_ms);
        match self.database().slots.get(place) {
            None => return Ok(None),
            Some(item) if item.is_expired(now_ms) => {
                self.drop_expired(place);
                return Ok(None);
            }
            Some(item) => T::from_ref(item.value()).ok_or(CmdError::WRONG_TYPE)?,
        };
        let edited = self.database().edit(place, revision, |item| {
            let collection = T::from_mut(&mut item.value_mut(0, revision).value)?;
            let result = edit(collection);
            let empty = collection.is_empty();
            item.touch(revision, now_ms);
            Some((empty, result))
        });
        let (empty, result) = edited.flatten().ok_or(CmdError::WRONG_TYPE)?;
        if empty {
            self.remove_at(place);
        }
        Ok(Some(result))
    }

    /// As [`WriteCx::edit`], but a key that does not exist begins empty; it is made only if something is in it after.
    pub fn edit_or_create<T: Collection, R>(
        &mut self,
        key: &[u8],
        edit: impl FnOnce(&mut T) -> R,
    ) -> Result<R, CmdError> {
        if self.collection::<T>(key)?.is_some() {
            return self.edit(key, edit)?.ok_or(CmdError::NO_SUCH_KEY);
        }
        let mut value = T::new();
        let result = edit(&mut value);
        if !value.is_empty() {
            self.set_collection(key, value, Ttl::Clear);
        }
        Ok(result)
    }

    /// Removes a key; true when there was one.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let item = self.take(key);
        self.space.garbage.item(item)
    }

    /// Removes a key and gives what it held.
    pub fn take(&mut self, key: &[u8]) -> Option<Item> {
        let place = self.place(key);
        let (revision, now_ms) = (self.revision, self.now_ms);
        let item = self.database().remove(place, revision)?;
        if item.is_expired(now_ms) {
            self.space.expired += 1;
            self.space.garbage.item(Some(item));
            return None;
        }
        Some(item)
    }

    /// Sets when a key ends; a moment that has passed removes it (check with [`WriteCx::now_ms`] where the reply
    /// differs). False when there is no such key.
    pub fn expire(&mut self, key: &[u8], at_ms: u64) -> bool {
        if !self.exists(key) {
            return false;
        }
        if at_ms <= self.now_ms {
            return self.remove(key);
        }
        self.set_end(key, at_ms);
        true
    }

    /// Takes a key's expiry away; true when it had one.
    pub fn persist(&mut self, key: &[u8]) -> bool {
        let had = self.get(key).is_some_and(|item| item.expire_at().is_some());
        if had {
            self.set_end(key, NEVER);
        }
        had
    }

    fn set_end(&mut self, key: &[u8], at_ms: u64) {
        let place = self.place(key);
        let (revision, now_ms) = (self.revision, self.now_ms);
        self.upsert(place, |found| {
            if let Some(item) = found {
                item.set_expire(at_ms, revision, now_ms);
            }
            None
        });
    }

    /// Makes a key look unwritten for so many seconds (RESTORE ... IDLETIME).
    pub fn set_idle(&mut self, key: &[u8], seconds: u64) {
        let place = self.place(key);
        let now_ms = self.now_ms;
        self.upsert(place, |found| {
            if let Some(item) = found {
                item.set_idle(seconds, now_ms);
            }
            None
        });
    }

    /// Puts an item of another key (or database, or of [`WriteCx::take`]) under this key, with this end, whatever
    /// was there before: what RENAME, MOVE and COPY stand on.
    pub fn put(&mut self, key: &[u8], item: &Item, ttl: Ttl) {
        let place = self.place(key);
        self.drop_expired(place);
        let (revision, now_ms) = (self.revision, self.now_ms);
        self.upsert(place, |_| Some(item.rekeyed(key, revision, ttl.end(item.head().expire_at), now_ms)));
    }

    /// Moves a value with its expiry from a key to another, over what stands there; false when there is none.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(item) = self.take(from) else {
            return false;
        };
        debug_assert_eq!(item.key(), from);
        self.put(to, &item, Ttl::Keep);
        true
    }

    /// Empties the database of the command.
    pub fn flush_db(&mut self) {
        let revision = self.revision;
        let whole = std::mem::take(self.database());
        self.database().moved(revision);
        self.space.garbage.database(whole);
    }

    /// Exchanges two databases.
    pub fn swap_dbs(&mut self, one: u16, other: u16) {
        let revision = self.revision;
        self.space.dbs.swap(usize::from(one), usize::from(other));
        for db in [one, other] {
            self.space.dbs[usize::from(db)].moved(revision);
        }
    }

    /// The error for a string that would be longer than `proto-max-bulk-len`.
    pub(crate) fn check_length(&self, length: usize) -> Result<(), CmdError> {
        if length > self.space.settings.limit(Setting::ProtoMaxBulkLen) {
            return Err(CmdError::TOO_LONG);
        }
        Ok(())
    }
}
