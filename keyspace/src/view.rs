//! A consistent view of the keyspace, and its bytes: what a checkpoint, a snapshot to a peer and a digest are made of.
//!
//! A view is a header and chunks, one per slot that holds keys. Equal contents have equal bytes, so digests of two
//! members can be compared. What comes back in through [`Restore`] is believed only where it can be checked: order,
//! slots, counts and bounds; damaged bytes are [`Corrupt`], never a panic and never a wrong keyspace in silence.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::db::{Database, Slot, Slots};
use crate::error::Corrupt;
use crate::hash::Hash;
use crate::hasher::{Hasher, Rng, SLOTS, slot_of};
use crate::item::{Head, Item, NEVER, RAW, Value, ValueRef};
use crate::keyspace::Space;
use crate::settings::Settings;
use crate::trie::{Keyed, Trie};
use crate::wire::{self, Reader};

const VERSION: u8 = 1;

/// Kinds of values in a chunk; the highest bit says that an expiry follows.
const STR: u8 = 0;
const HASH_PACKED: u8 = 1;
const HASH_TABLE: u8 = 2;
const EXPIRES: u8 = 0x80;

/// Everything at one moment, shared with the keyspace it was taken of. Clones are cheap; it never changes.
#[derive(Clone)]
pub struct View {
    dbs: Vec<Slots>,
    hasher: Hasher,
    settings: Settings,
    revision: u64,
    now_ms: u64,
}

fn chunk_id(db: usize, slot: u16) -> u64 {
    (db as u64) << 16 | u64::from(slot)
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

    /// The chunks that hold keys: id (`database << 16 | slot`) and the revision of the last change.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.dbs
            .iter()
            .enumerate()
            .flat_map(|(db, slots)| slots.filled().map(move |(slot, changed_at, _)| (chunk_id(db, slot), changed_at)))
    }

    /// The bytes of a chunk, behind what `out` holds; nothing for a chunk without keys.
    pub fn encode(&self, chunk: u64, out: &mut Vec<u8>) {
        let Some(slots) = self.dbs.get((chunk >> 16) as usize) else { return };
        let Some((changed_at, keys)) = slots.filled_slot(chunk as u16) else { return };
        out.push(VERSION);
        wire::put_u64(out, changed_at);
        wire::put_len(out, keys.len());
        for (_, item) in keys.iter() {
            encode_item(item, out);
        }
    }

    /// Lets go of all chunks up to this one, by number: they, and the list of them, are not asked for any more.
    pub fn release(&mut self, upto: u64) {
        let last = usize::try_from(upto >> 16).unwrap_or(usize::MAX);
        for (db, slots) in self.dbs.iter_mut().enumerate().take(last.saturating_add(1)) {
            slots.release(if db < last { u16::MAX } else { upto as u16 });
        }
    }

    /// A digest of a chunk's bytes: equal on all members that hold the same.
    pub fn digest(&self, chunk: u64) -> u128 {
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

fn encode_item(item: &Item, out: &mut Vec<u8>) {
    let head = item.head();
    let kind = match item.value() {
        ValueRef::Str(_) => STR,
        ValueRef::Hash(hash) if hash.is_packed() => HASH_PACKED,
        ValueRef::Hash(_) => HASH_TABLE,
    };
    let ends = head.expire_at != NEVER;
    out.push(if ends { kind | EXPIRES } else { kind });
    wire::put_u64(out, u64::from(head.note()));
    wire::put_u64(out, head.revision);
    if ends {
        wire::put_u64(out, head.expire_at);
    }
    wire::put_bytes(out, item.key());
    match item.value() {
        ValueRef::Str(bytes) => wire::put_bytes(out, bytes),
        ValueRef::Hash(hash) => {
            wire::put_len(out, hash.len());
            for (field, value) in hash.iter() {
                wire::put_bytes(out, field);
                wire::put_bytes(out, value);
            }
        }
    }
}

/// A view in the making, from a header and chunks in any order.
pub struct Restore {
    view: View,
    expected: Vec<u64>,
}

impl Restore {
    /// Begins with a header.
    pub fn new(header: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new("snapshot header", header);
        if reader.u8()? != VERSION {
            return Err(reader.corrupt("unknown version"));
        }
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
        Ok(Self { view: View { dbs, hasher: Hasher::new(seed), settings, revision, now_ms }, expected })
    }

    /// Adds a chunk; each may come once.
    pub fn add(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), Corrupt> {
        let decoded = self.decoder().decode(chunk, bytes)?;
        self.place(decoded)
    }

    /// What decodes chunks, for whoever wants to do that on several threads.
    pub fn decoder(&self) -> Decoder {
        Decoder { hasher: self.view.hasher, revision: self.view.revision, databases: self.view.dbs.len() }
    }

    /// Adds a chunk that this one's decoder has decoded; each may come once.
    pub fn place(&mut self, Decoded { chunk, slot }: Decoded) -> Result<(), Corrupt> {
        let number = chunk as u16;
        let db = &mut self.view.dbs[(chunk >> 16) as usize];
        if db.slot(number).is_some_and(|slot| !slot.keys.is_empty()) {
            return Err(Corrupt { what: "snapshot chunk", why: "the same chunk twice" });
        }
        db.restore_slot(number, slot);
        Ok(())
    }

    /// The view, when every key the header counts has come.
    pub fn finish(self) -> Result<View, Corrupt> {
        if self.view.dbs.iter().map(Slots::len).ne(self.expected.iter().copied()) {
            return Err(Corrupt { what: "snapshot", why: "keys are missing or too many" });
        }
        Ok(self.view)
    }
}

/// A chunk that was decoded and found right.
pub struct Decoded {
    chunk: u64,
    slot: Slot,
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
    pub fn decode(&self, chunk: u64, bytes: &[u8]) -> Result<Decoded, Corrupt> {
        let mut reader = Reader::new("snapshot chunk", bytes);
        let (hasher, revision) = (self.hasher, self.revision);
        let number = chunk as u16;
        if chunk >> 16 >= self.databases as u64 || usize::from(number) >= SLOTS {
            return Err(reader.corrupt("number of the chunk"));
        }
        if reader.u8()? != VERSION {
            return Err(reader.corrupt("unknown version"));
        }
        let changed_at = reader.u64()?;
        let count = reader.count(4)?;
        let (mut tags, mut items) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let item = decode_item(&mut reader, &hasher)?;
            if slot_of(item.key()) != number {
                return Err(reader.corrupt("a key of another slot"));
            }
            if item.revision() == 0 || item.revision() > revision {
                return Err(reader.corrupt("a revision that can't be"));
            }
            tags.push(hasher.hash(item.key()));
            items.push(item);
        }
        reader.end()?;
        let keys = Trie::from_sorted(tags, items).ok_or(reader.corrupt("keys out of order"))?;
        if keys.is_empty() || changed_at > revision {
            return Err(reader.corrupt("an empty chunk, or one of the future"));
        }
        Ok(Decoded { chunk, slot: Slot { keys, changed_at } })
    }
}

fn decode_item(reader: &mut Reader<'_>, hasher: &Hasher) -> Result<Item, Corrupt> {
    let kind = reader.u8()?;
    let note = u32::try_from(reader.u64()?).map_err(|_| reader.corrupt("flags"))?;
    let revision = reader.u64()?;
    let expire_at = if kind & EXPIRES == 0 { NEVER } else { reader.u64()? };
    if kind & EXPIRES != 0 && expire_at == NEVER {
        return Err(reader.corrupt("expiry"));
    }
    let key = reader.bytes()?;
    let key_len = u32::try_from(key.len()).map_err(|_| reader.corrupt("length of a key"))?;
    let head = Head::from_parts(key_len, revision, expire_at, note);
    match kind & !EXPIRES {
        STR => {
            let value = reader.bytes()?;
            // A string that grows in place goes on doing so.
            if note & RAW != 0 {
                return Ok(Item::object(head, key, Value::Str(value.to_vec())));
            }
            Ok(Item::string(head, key, value))
        }
        kind @ (HASH_PACKED | HASH_TABLE) => {
            let pairs = reader.count(2)?;
            let pairs: Vec<_> =
                (0..pairs).map(|_| Ok((reader.bytes()?, reader.bytes()?))).collect::<Result<_, Corrupt>>()?;
            let table = (kind == HASH_TABLE).then_some(*hasher);
            let hash = Hash::restore(&pairs, table).ok_or(reader.corrupt("fields of a hash"))?;
            Ok(Item::object(head, key, Value::Hash(hash)))
        }
        _ => Err(reader.corrupt("unknown kind of value")),
    }
}
