//! What a key holds. A string that is set whole is ONE allocation: head, key and value behind a thin pointer; every
//! other value stands in an [`Object`].
//!
//! Items are shared with views, so they are changed only through the methods here, which copy what is shared.

use triomphe::{Arc, ThinArc};

use crate::chunking::{self, AnyPart, Element, Elements};
use crate::error::Corrupt;
use crate::hash::Hash;
use crate::hasher::Hasher;
use crate::number;
use crate::rope::{LONG, Rope, Str};
use crate::trie::Keyed;
use crate::wire::{self, Reader};

/// Stands for "never" in an expiry, so that 8 bytes do.
pub(crate) const NEVER: u64 = u64::MAX;

/// Strings that grow in place (APPEND, SETRANGE, SETBIT) are shown as `raw` by OBJECT ENCODING.
pub(crate) const RAW: u32 = 1;
/// Strings of digits that Redis doesn't keep as integers.
pub(crate) const TEXT: u32 = 2;
/// The longest string that OBJECT ENCODING calls `embstr`.
const EMBSTR_MAX: usize = 44;

/// What is known of a key besides its value. `note` is the flags (8 bits) and the second it was last written (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: u64,
    pub(crate) expire_at: u64,
    pub(crate) key_len: u32,
    note: u32,
}

impl Head {
    pub(crate) fn new(key: &[u8], revision: u64, expire_at: u64, flags: u32, now_ms: u64) -> Self {
        // Keys are arguments, and those end at 512 MB.
        let key_len = u32::try_from(key.len()).unwrap_or(u32::MAX);
        Self { revision, expire_at, key_len, note: flags & 0xff | ((now_ms / 1000) as u32) << 8 }
    }

    pub(crate) fn from_parts(key_len: u32, revision: u64, expire_at: u64, note: u32) -> Self {
        Self { revision, expire_at, key_len, note }
    }

    pub(crate) fn note(&self) -> u32 {
        self.note
    }

    fn touch(&mut self, revision: u64, now_ms: u64) {
        self.revision = revision;
        self.note = self.note & 0xff | ((now_ms / 1000) as u32) << 8;
    }
}

/// A key and its value.
#[derive(Clone)]
pub enum Item {
    /// A string set whole.
    Str(ThinArc<HeadOf, u8>),
    /// Anything else.
    Obj(Arc<Object>),
}

/// The head of a string's allocation.
#[derive(Clone, Copy, Debug)]
pub struct HeadOf(pub(crate) Head);

/// A key with a value of its own allocation.
#[derive(Clone)]
pub struct Object {
    pub(crate) head: Head,
    pub(crate) key: Box<[u8]>,
    pub(crate) value: Value,
}

/// The value of an [`Object`].
#[derive(Clone)]
pub enum Value {
    /// A string that grows in place.
    Str(Vec<u8>),
    /// A long string.
    Rope(Box<Rope>),
    /// A hash.
    Hash(Hash),
}

/// The value of an item, for looking.
#[derive(Clone, Copy)]
pub enum ValueRef<'a> {
    /// A string.
    Str(Str<'a>),
    /// A hash.
    Hash(&'a Hash),
}

/// A collection type that an item may hold; each family adds its own here.
pub trait Collection: Sized {
    /// Wraps it.
    fn into_value(self) -> Value;
    /// The value, if it is of this type.
    fn from_ref(value: ValueRef<'_>) -> Option<&Self>;
    /// The same, to change it.
    fn from_mut(value: &mut Value) -> Option<&mut Self>;
    /// Whether nothing is left, so that the key goes.
    fn is_empty(&self) -> bool;
    /// What a key that does not exist begins with.
    fn new() -> Self;
}

impl Collection for Hash {
    fn into_value(self) -> Value {
        Value::Hash(self)
    }

    fn from_ref(value: ValueRef<'_>) -> Option<&Self> {
        match value {
            ValueRef::Hash(hash) => Some(hash),
            ValueRef::Str(_) => None,
        }
    }

    fn from_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Hash(hash) => Some(hash),
            Value::Str(_) | Value::Rope(_) => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn new() -> Self {
        Hash::new()
    }
}

/// Up to this size a string is put together on the stack.
const ON_STACK: usize = 256;

fn thin(head: Head, key: &[u8], value: &[u8]) -> Item {
    let whole = key.len() + value.len();
    let arc = if whole <= ON_STACK {
        let mut both = [0; ON_STACK];
        both[..key.len()].copy_from_slice(key);
        both[key.len()..whole].copy_from_slice(value);
        ThinArc::from_header_and_slice(HeadOf(head), &both[..whole])
    } else {
        ThinArc::from_header_and_slice(HeadOf(head), &[key, value].concat())
    };
    Item::Str(arc)
}

impl Value {
    /// Its elements, if it may have many.
    fn chunked(&self) -> Option<&dyn Elements> {
        match self {
            Value::Str(_) => None,
            Value::Rope(rope) => Some(rope.pages()),
            Value::Hash(hash) => hash.chunked().map(|fields| fields as &dyn Elements),
        }
    }

    fn chunked_mut(&mut self) -> Option<&mut dyn Elements> {
        match self {
            Value::Str(_) => None,
            Value::Rope(rope) => Some(rope.pages_mut()),
            Value::Hash(hash) => hash.chunked_mut().map(|fields| fields as &mut dyn Elements),
        }
    }

    /// What it weighs with its key.
    fn weight(&self) -> usize {
        match self {
            Value::Str(bytes) => bytes.len(),
            Value::Rope(rope) => rope.pages().weight(),
            Value::Hash(hash) => hash.weight(),
        }
    }

    /// What follows changes it at this revision.
    fn stamp(&mut self, revision: u64) {
        if let Some(elements) = self.chunked_mut() {
            elements.stamp(revision);
        }
    }

    /// It stands under its key since this revision.
    fn moved(&mut self, revision: u64) {
        if let Some(elements) = self.chunked_mut() {
            elements.moved(revision);
        }
    }
}

impl Item {
    /// A string that is set whole. A long one is a value of its own allocation, for it is kept in pages.
    pub(crate) fn string(head: Head, key: &[u8], value: &[u8]) -> Self {
        if value.len() > LONG {
            return Self::object(head, key, Value::Rope(Box::new(Rope::of(value, head.revision))));
        }
        thin(head, key, value)
    }

    /// A value that comes to this key at the head's revision.
    pub(crate) fn object(head: Head, key: &[u8], mut value: Value) -> Self {
        value.moved(head.revision);
        Item::Obj(Arc::new(Object { head, key: key.into(), value }))
    }

    pub(crate) fn head(&self) -> &Head {
        match self {
            Item::Str(thin) => &thin.header.header.0,
            Item::Obj(object) => &object.head,
        }
    }

    /// When it was last changed, in the group's revisions; never 0.
    pub fn revision(&self) -> u64 {
        self.head().revision
    }

    /// When it ends, in milliseconds since 1970.
    pub fn expire_at(&self) -> Option<u64> {
        let at = self.head().expire_at;
        (at != NEVER).then_some(at)
    }

    /// Whether it has ended.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        // Redis: a key with 0 ms left is gone.
        self.head().expire_at <= now_ms
    }

    /// Seconds since it was last written (of 24 bits, so it wraps after 194 days).
    pub fn idle_seconds(&self, now_ms: u64) -> u64 {
        u64::from(((now_ms / 1000) as u32).wrapping_sub(self.head().note >> 8) & 0x00ff_ffff)
    }

    /// Makes it look unwritten for so many seconds, as far as 24 bits can tell.
    pub(crate) fn set_idle(&mut self, seconds: u64, now_ms: u64) {
        let written = (now_ms / 1000).saturating_sub(seconds.min(0x00ff_ffff)) as u32;
        self.edit_head(|head| head.note = head.note & 0xff | written << 8);
    }

    /// Its value.
    pub fn value(&self) -> ValueRef<'_> {
        match self {
            Item::Str(thin) => ValueRef::Str(Str::Flat(&thin.slice[thin.header.header.0.key_len as usize..])),
            Item::Obj(object) => match &object.value {
                Value::Str(bytes) => ValueRef::Str(Str::Flat(bytes)),
                Value::Rope(rope) => ValueRef::Str(Str::Rope(rope)),
                Value::Hash(hash) => ValueRef::Hash(hash),
            },
        }
    }

    /// Its bytes, if it is a string.
    pub fn as_str(&self) -> Option<Str<'_>> {
        match self.value() {
            ValueRef::Str(bytes) => Some(bytes),
            ValueRef::Hash(_) => None,
        }
    }

    /// As TYPE says it.
    pub fn type_name(&self) -> &'static str {
        match self.value() {
            ValueRef::Str(_) => "string",
            ValueRef::Hash(_) => "hash",
        }
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(&self) -> &'static str {
        match self.value() {
            ValueRef::Str(_) if self.head().note & RAW != 0 => "raw",
            ValueRef::Str(Str::Flat(bytes)) if self.head().note & TEXT == 0 && number::parse_int(bytes).is_some() => {
                "int"
            }
            ValueRef::Str(bytes) if bytes.len() <= EMBSTR_MAX => "embstr",
            ValueRef::Str(_) => "raw",
            ValueRef::Hash(hash) => hash.encoding(),
        }
    }

    /// An estimate of its memory, the share of the structures above it included.
    pub fn memory_bytes(&self) -> usize {
        /// Tag, item and slack in its leaf.
        const IN_LEAF: usize = 24;
        match self {
            Item::Str(thin) => IN_LEAF + 40 + thin.slice.len(),
            Item::Obj(object) => {
                let value = match &object.value {
                    Value::Str(bytes) => bytes.capacity(),
                    Value::Rope(rope) => rope.memory_bytes(),
                    Value::Hash(hash) => hash.memory_bytes(),
                };
                IN_LEAF + 8 + size_of::<Object>() + object.key.len() + value
            }
        }
    }

    fn with_head(&self, change: impl FnOnce(&mut Head)) -> Self {
        let mut head = *self.head();
        change(&mut head);
        match self {
            Item::Str(thin) => Item::Str(ThinArc::from_header_and_slice(HeadOf(head), &thin.slice)),
            Item::Obj(object) => Item::Obj(Arc::new(Object { head, ..Object::clone(object) })),
        }
    }

    fn edit_head(&mut self, change: impl FnOnce(&mut Head)) {
        match self {
            Item::Str(thin) => {
                let mut change = Some(change);
                let done = thin.with_arc_mut(|arc| {
                    let Some(parts) = triomphe::Arc::get_mut(arc) else {
                        return false;
                    };
                    if let Some(change) = change.take() {
                        change(&mut parts.header_mut().0);
                    }
                    true
                });
                if let Some(change) = change.filter(|_| !done) {
                    *self = self.with_head(change);
                }
            }
            Item::Obj(object) => change(&mut Arc::make_mut(object).head),
        }
    }

    pub(crate) fn touch(&mut self, revision: u64, now_ms: u64) {
        self.edit_head(|head| head.touch(revision, now_ms));
    }

    pub(crate) fn set_expire(&mut self, expire_at: u64, revision: u64, now_ms: u64) {
        self.edit_head(|head| {
            head.expire_at = expire_at;
            head.touch(revision, now_ms);
        });
    }

    /// Makes it a string of this value where that can be done in place: nobody shares it, and the length is the same.
    pub(crate) fn set_in_place(&mut self, head: Head, value: &[u8]) -> bool {
        let Item::Str(thin) = self else { return false };
        let key_len = head.key_len as usize;
        thin.slice.len() == key_len + value.len()
            && thin.with_arc_mut(|arc| {
                let Some(parts) = triomphe::Arc::get_mut(arc) else {
                    return false;
                };
                parts.header_mut().0 = head;
                parts.slice_mut()[key_len..].copy_from_slice(value);
                true
            })
    }

    /// The value, to be changed in place at this revision; of a plain string this gives it an allocation that can grow.
    pub(crate) fn value_mut(&mut self, flags: u32, revision: u64) -> &mut Object {
        if let Item::Str(thin) = self {
            let mut head = thin.header.header.0;
            head.note |= flags;
            let (key, value) = thin.slice.split_at(head.key_len as usize);
            *self = Item::Obj(Arc::new(Object { head, key: key.into(), value: Value::Str(value.to_vec()) }));
        }
        match self {
            Item::Obj(object) => {
                let object = Arc::make_mut(object);
                object.head.note |= flags;
                object.value.stamp(revision);
                object
            }
            Item::Str(_) => unreachable!("made an object above"),
        }
    }

    /// Puts bytes into a string at a place; where that is behind its end, zeros come between.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8], revision: u64) {
        let object = self.value_mut(RAW, revision);
        match &mut object.value {
            Value::Str(flat) => {
                let end = at + bytes.len();
                if end > LONG {
                    let mut rope = Rope::of(flat, revision);
                    rope.write(at, bytes);
                    object.value = Value::Rope(Box::new(rope));
                    object.value.moved(revision);
                    return;
                }
                if flat.len() < end {
                    flat.resize(end, 0);
                }
                flat[at..end].copy_from_slice(bytes);
            }
            Value::Rope(rope) => rope.write(at, bytes),
            // Not reached by callers that checked; the bytes then go nowhere.
            Value::Hash(_) => {}
        }
    }

    /// What it costs to free the value, beside one that stands in one piece.
    pub(crate) fn work_to_free(&self) -> usize {
        match self {
            Item::Str(_) => 0,
            Item::Obj(object) => object.value.chunked().map_or(0, |elements| elements.work_to_free()),
        }
    }

    /// What of it is split, if anything.
    pub(crate) fn split(&self) -> Option<&dyn Elements> {
        match self {
            Item::Str(_) => None,
            Item::Obj(object) => object.value.chunked().filter(|elements| elements.is_split()),
        }
    }

    /// Takes in the parts of a split value that was read back. False where they are not all, or not its own.
    pub(crate) fn fill(&mut self, parts: Vec<AnyPart>, at: u64) -> bool {
        let Item::Obj(object) = self else { return false };
        let value = &mut Arc::make_mut(object).value;
        let filled = value.chunked_mut().is_some_and(|elements| elements.is_split() && elements.fill(parts, at));
        filled && !matches!(value, Value::Rope(rope) if !rope.is_sound())
    }

    /// The same value under another key.
    pub(crate) fn rekeyed(&self, key: &[u8], revision: u64, expire_at: u64, now_ms: u64) -> Self {
        let mut head = *self.head();
        head.key_len = u32::try_from(key.len()).unwrap_or(u32::MAX);
        head.expire_at = expire_at;
        head.touch(revision, now_ms);
        match self {
            Item::Str(own) => thin(head, key, &own.slice[own.header.header.0.key_len as usize..]),
            Item::Obj(object) => Item::object(head, key, object.value.clone()),
        }
    }
}

impl Keyed for Item {
    fn key(&self) -> &[u8] {
        match self {
            Item::Str(thin) => &thin.slice[..thin.header.header.0.key_len as usize],
            Item::Obj(object) => &object.key,
        }
    }

    fn weight(&self) -> usize {
        ITEM_HEAD
            + match self {
                Item::Str(thin) => thin.slice.len(),
                Item::Obj(object) => object.key.len() + object.value.weight(),
            }
    }

    fn is_split(&self) -> bool {
        self.split().is_some()
    }
}

/// What an item weighs besides its key and value.
const ITEM_HEAD: usize = 20;

/// Kinds of values in a chunk; the highest bit says that an expiry follows, the next one that the value is split.
const STR: u8 = 0;
const HASH_PACKED: u8 = 1;
const HASH_TABLE: u8 = 2;
const ROPE: u8 = 3;
const EXPIRES: u8 = 0x80;
const SPLIT: u8 = 0x40;

impl Element for Item {
    const KIND: u8 = chunking::KEYS;

    fn put(&self, _tag: u32, out: &mut Vec<u8>) {
        let head = self.head();
        let kind = match self.value() {
            ValueRef::Str(Str::Flat(_)) => STR,
            ValueRef::Str(Str::Rope(_)) => ROPE,
            ValueRef::Hash(hash) if hash.is_packed() => HASH_PACKED,
            ValueRef::Hash(_) => HASH_TABLE,
        };
        let ends = if head.expire_at == NEVER { 0 } else { EXPIRES };
        let split = if self.is_split() { SPLIT } else { 0 };
        out.push(kind | ends | split);
        wire::put_u64(out, u64::from(head.note()));
        wire::put_u64(out, head.revision);
        if ends != 0 {
            wire::put_u64(out, head.expire_at);
        }
        wire::put_bytes(out, self.key());
        match self.value() {
            ValueRef::Str(Str::Flat(bytes)) => wire::put_bytes(out, bytes),
            ValueRef::Str(Str::Rope(rope)) => rope.put(out),
            ValueRef::Hash(hash) => hash.put(out),
        }
    }

    fn touch(&self) -> u8 {
        match self {
            Item::Str(thin) => thin.slice.iter().step_by(64).take(4).fold(0, |seen, byte| seen ^ byte),
            Item::Obj(object) => object.head.note as u8,
        }
    }

    fn read(reader: &mut Reader<'_>, hasher: &Hasher) -> Result<(u32, Self), Corrupt> {
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
        let split = kind & SPLIT != 0;
        let value = match kind & !(EXPIRES | SPLIT) {
            STR if !split => {
                let value = reader.bytes()?;
                if value.len() > LONG {
                    return Err(reader.corrupt("length of a string"));
                }
                // A string that grows in place goes on doing so.
                if note & RAW == 0 {
                    return Ok((hasher.hash(key), Item::string(head, key, value)));
                }
                Value::Str(value.to_vec())
            }
            ROPE => Value::Rope(Box::new(Rope::read(reader, split, hasher, revision)?)),
            HASH_PACKED if !split => Value::Hash(Hash::read_packed(reader)?),
            HASH_TABLE => Value::Hash(Hash::read_table(reader, split, hasher, revision)?),
            _ => return Err(reader.corrupt("unknown kind of value")),
        };
        Ok((hasher.hash(key), Item::object(head, key, value)))
    }
}
