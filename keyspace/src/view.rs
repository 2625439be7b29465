//! A consistent view of the keyspace, and its bytes: what a checkpoint, a snapshot to a peer and a digest are made of.
//!
//! A view is a header and chunks: parts of a slot's keys, and parts of large values (`chunking.rs` says where they are
//! cut). Equal contents have equal chunks, so digests of two members can be compared. What comes back in through
//! [`Restore`] is believed only where it can be checked: order, slots, counts and bounds; damaged bytes are [`Corrupt`],
//! never a panic and never a wrong keyspace in silence.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::chunking::{self, Address, AnyPart, Stretches, VERSION};
use crate::db::{Database, Slot, Slots};
use crate::error::Corrupt;
use crate::garbage::Garbage;
use crate::hasher::{Hasher, Rng, slot_of};
use crate::item::Item;
use crate::keyspace::Space;
use crate::settings::Settings;
use crate::trie::Keyed;
use crate::trie::parts::Subtree;
use crate::wire::{self, Reader};

pub use crate::chunking::Change;

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
            garbage: Garbage::default(),
        }
    }

    /// The revision of the last command in it. Chunks changed later say a greater one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The group's time in it.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// How many keys it holds.
    pub fn keys(&self) -> u64 {
        self.dbs.iter().map(Slots::len).sum()
    }

    /// How many keys each database holds.
    pub fn keys_by_database(&self) -> impl Iterator<Item = u64> + '_ {
        self.dbs.iter().map(Slots::len)
    }

    /// What is not in chunks; [`Restore::new`] begins with it. It holds the group's hash seed, which is a secret.
    pub fn header(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for half in self.hasher.seed() {
            out.extend_from_slice(&half.to_le_bytes());
        }
        wire::put_u64(&mut out, self.revision);
        wire::put_u64(&mut out, self.now_ms);
        let changed: Vec<_> = self.settings.changed().collect();
        wire::put_len(&mut out, changed.len());
        for (name, value) in changed {
            wire::put_bytes(&mut out, name.as_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        wire::put_len(&mut out, self.dbs.len());
        for db in &self.dbs {
            wire::put_u64(&mut out, db.len());
        }
        out
    }

    /// The chunks in ascending order of their ids, each with the revision of its last change. Where that is the same in
    /// two views of one line of history, the chunk is the same.
    pub fn chunks(&self) -> impl Iterator<Item = (u128, u64)> + '_ {
        self.dbs.iter().enumerate().flat_map(move |(db, slots)| {
            let of_slot = move |(slot, keys)| self.stretches(db as u16, slot, keys, slots.floor(), None);
            slots.filled().flat_map(of_slot).flat_map(|change| change.chunks)
        })
    }

    /// What became of the chunks since the view of that revision was taken, in the same line of history: stretches of
    /// ids in which something may have changed, with all chunks that are in them now. What did not change is hardly
    /// looked at.
    pub fn changes(&self, since: u64) -> impl Iterator<Item = Change> + '_ {
        self.dbs.iter().enumerate().flat_map(move |(db, slots)| {
            let changed = slots.changed(since);
            changed.flat_map(move |(slot, keys)| self.stretches(db as u16, slot, keys, slots.floor(), Some(since)))
        })
    }

    /// Those of a slot.
    fn stretches(&self, db: u16, slot: u16, keys: &Slot, floor: u64, since: Option<u64>) -> Vec<Change> {
        let mut out = Stretches::of_slot(db, slot, floor);
        out.parts(keys, since, 0);
        let mut splits: Vec<_> =
            keys.splits().filter_map(|item| Some((self.hasher.whole(item.key()), item.split()?))).collect();
        splits.sort_by_key(|(hash, _)| *hash);
        for (hash, split) in splits {
            out.address.value = Some(hash);
            split.parts(since, &mut out);
        }
        out.finish()
    }

    /// The bytes of a chunk, behind what `out` holds; nothing for one that isn't there.
    pub fn encode(&self, chunk: u128, out: &mut Vec<u8>) {
        let Some(address) = Address::of(chunk) else { return };
        let Some(keys) = self.dbs.get(usize::from(address.db)).and_then(|db| db.slot(address.slot)) else { return };
        let Some(value) = address.value else {
            if let Some(part) = keys.part(address.start) {
                chunking::put_part(&part, out);
            }
            return;
        };
        let hash = (value >> 32) as u32;
        let same = keys.iter_from(hash).take_while(|(tag, _)| *tag == hash).map(|(_, item)| item);
        let split = same.filter(|item| self.hasher.whole(item.key()) == value).find_map(Item::split);
        if let Some(split) = split {
            split.put_part(address.start, out);
        }
    }

    /// Lets go of chunks up to this one, as far as whole slots go: they, and the list of them, are not asked for any more.
    pub fn release(&mut self, upto: u128) {
        let last = Address::of(upto).unwrap_or(Address { db: u16::MAX, slot: 0, value: None, start: 0 });
        for (db, slots) in self.dbs.iter_mut().enumerate().take(usize::from(last.db) + 1) {
            if db < usize::from(last.db) {
                slots.release(u16::MAX);
                continue;
            }
            // That slot itself goes, too, unless more of it is to come.
            let keys = slots.slot(last.slot);
            let whole = last.value.is_none()
                && keys.is_none_or(|keys| keys.splits().next().is_none() && keys.last_start() <= last.start);
            if let Some(slot) = if whole { Some(last.slot) } else { last.slot.checked_sub(1) } {
                slots.release(slot);
            }
        }
    }

    /// A digest of a chunk's bytes: equal on all members that hold the same.
    pub fn digest(&self, chunk: u128) -> u128 {
        let mut bytes = Vec::new();
        self.encode(chunk, &mut bytes);
        digest_of(&bytes)
    }
}

/// The digest of a chunk's bytes, of whatever origin.
pub fn digest_of(bytes: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish128().as_u128()
}

/// A view in the making, from a header and chunks in ascending order of their ids.
pub struct Restore {
    view: View,
    expected: Vec<u64>,
    last: Option<u128>,
    /// The slot whose chunks come now.
    open: Option<Open>,
}

/// A slot in the making.
struct Open {
    db: u16,
    slot: u16,
    keys: Vec<Subtree<Item>>,
    /// Parts of split values, by the hash of their key.
    values: Vec<(u64, Vec<AnyPart>)>,
}

impl Restore {
    /// Begins with a header.
    pub fn new(header: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new("snapshot header", header);
        reader.version(VERSION)?;
        let seed = [reader.u64_le()?, reader.u64_le()?];
        let (revision, now_ms) = (reader.u64()?, reader.u64()?);
        let mut settings = Settings::default();
        for _ in 0..reader.count(9)? {
            let name = std::str::from_utf8(reader.bytes()?).map_err(|_| reader.corrupt("setting's name"))?;
            settings.set(name, reader.u64_le()?.cast_signed());
        }
        let databases = reader.count(1)?;
        if databases == 0 || databases > usize::from(u16::MAX) {
            return Err(reader.corrupt("number of databases"));
        }
        let expected = (0..databases).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        reader.end()?;
        let dbs = vec![Slots::default(); databases];
        let view = View { dbs, hasher: Hasher::new(seed), settings, revision, now_ms };
        Ok(Self { view, expected, last: None, open: None })
    }

    /// Adds a chunk.
    pub fn add(&mut self, chunk: u128, bytes: &[u8]) -> Result<(), Corrupt> {
        let decoded = self.decoder().decode(chunk, bytes)?;
        self.place(decoded)
    }

    /// What decodes chunks, for whoever wants to do that on several threads.
    pub fn decoder(&self) -> Decoder {
        Decoder { hasher: self.view.hasher, revision: self.view.revision, databases: self.view.dbs.len() }
    }

    /// Adds a chunk that this one's decoder has decoded.
    pub fn place(&mut self, Decoded { address, part }: Decoded) -> Result<(), Corrupt> {
        if self.last.is_some_and(|last| last >= address.id()) {
            return Err(corrupt("a chunk comes twice, or out of order"));
        }
        self.last = Some(address.id());
        let (db, slot) = (address.db, address.slot);
        if self.open.as_ref().is_none_or(|open| (open.db, open.slot) != (db, slot)) {
            self.close()?;
        }
        let open = self.open.get_or_insert_with(|| Open { db, slot, keys: Vec::new(), values: Vec::new() });
        match (part, address.value) {
            (chunking::Read::Keys(part), _) => open.keys.push(part),
            (chunking::Read::Value(part), hash) => {
                let hash = hash.unwrap_or_default();
                match open.values.last_mut().filter(|(last, _)| *last == hash) {
                    Some((_, parts)) => parts.push(part),
                    None => open.values.push((hash, vec![part])),
                }
            }
        }
        Ok(())
    }

    /// The chunks of the slot that is open have all come.
    fn close(&mut self) -> Result<(), Corrupt> {
        let Some(Open { db, slot, keys, values }) = self.open.take() else { return Ok(()) };
        let at = self.view.revision;
        let mut keys = Slot::assemble(keys, at).ok_or(corrupt("chunks of a slot are missing"))?;
        for (hash, parts) in values {
            let tag = (hash >> 32) as u32;
            let same = keys.iter_from(tag).take_while(|(other, _)| *other == tag).map(|(_, item)| item);
            let owner =
                same.filter(|item| item.split().is_some()).find(|item| self.view.hasher.whole(item.key()) == hash);
            let key = owner.ok_or(corrupt("a part of a value that isn't there"))?.key().to_vec();
            if keys.edit(tag, &key, |item| item.fill(parts, at)) != Some(true) {
                return Err(corrupt("parts of a value are missing"));
            }
        }
        if keys.splits().any(|item| item.split().is_none_or(|split| split.is_hollow())) {
            return Err(corrupt("the parts of a value are missing"));
        }
        if keys.is_empty() {
            return Err(corrupt("chunks of a slot are missing"));
        }
        self.view.dbs[usize::from(db)].restore_slot(slot, keys);
        Ok(())
    }

    /// The view, when every key the header counts has come.
    pub fn finish(mut self) -> Result<View, Corrupt> {
        self.close()?;
        if self.view.dbs.iter().map(Slots::len).ne(self.expected.iter().copied()) {
            return Err(Corrupt::Bytes { what: "snapshot", why: "keys are missing or too many" });
        }
        Ok(self.view)
    }
}

fn corrupt(why: &'static str) -> Corrupt {
    Corrupt::Bytes { what: "snapshot chunk", why }
}

/// A chunk that was decoded and found right.
pub struct Decoded {
    address: Address,
    part: chunking::Read,
}

impl Decoded {
    /// Its id.
    pub fn chunk(&self) -> u128 {
        self.address.id()
    }
}

/// Decodes chunks of one [`Restore`], which must place them.
#[derive(Clone)]
pub struct Decoder {
    hasher: Hasher,
    revision: u64,
    databases: usize,
}

impl Decoder {
    /// Decodes a chunk.
    pub fn decode(&self, chunk: u128, bytes: &[u8]) -> Result<Decoded, Corrupt> {
        let address = Address::of(chunk).filter(|address| usize::from(address.db) < self.databases);
        let address = address.ok_or(corrupt("number of the chunk"))?;
        let part = chunking::read_part(bytes, address, &self.hasher, self.revision)?;
        if let chunking::Read::Keys(keys) = &part {
            for item in keys.iter() {
                if slot_of(item.key()) != address.slot {
                    return Err(corrupt("a key of another slot"));
                }
                if item.revision() == 0 || item.revision() > self.revision {
                    return Err(corrupt("a revision that can't be"));
                }
            }
        }
        Ok(Decoded { address, part })
    }
}
