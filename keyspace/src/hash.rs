//! The value of a hash: packed in one buffer in the order of insertion while it is small, then a trie.
//!
//! Both walk in an order that all members share. A hash never goes back from a trie to a packed buffer.

use triomphe::ThinArc;

use crate::chunking::{self, Chunked, Element};
use crate::error::Corrupt;
use crate::hasher::Hasher;
use crate::settings::{Setting, Settings};
use crate::trie::{self, Keyed, Trie};
use crate::wire::{self, Reader};

/// Up to where a hash stays packed, and what it needs beyond.
#[derive(Clone, Copy, Debug)]
pub struct HashLimits {
    entries: usize,
    value: usize,
    hasher: Hasher,
    /// The revision of the command that changes it.
    revision: u64,
}

impl HashLimits {
    /// From the group's settings.
    pub fn new(settings: &Settings, hasher: Hasher, revision: u64) -> Self {
        Self {
            entries: settings.limit(Setting::HashMaxListpackEntries),
            value: settings.limit(Setting::HashMaxListpackValue),
            hasher,
            revision,
        }
    }
}

/// What a field weighs besides its bytes.
const FIELD_HEAD: usize = 4;

/// Fields and their values.
#[derive(Clone)]
pub struct Hash(Repr);

#[derive(Clone)]
enum Repr {
    Packed(Packed),
    Table(Box<Table>),
}

#[derive(Clone)]
struct Table {
    fields: Chunked<Field>,
    hasher: Hasher,
}

/// `length field length value`, over and over.
#[derive(Clone, Default)]
struct Packed {
    bytes: Vec<u8>,
    len: usize,
}

/// Field and value in one allocation; the header is the field's length.
#[derive(Clone)]
pub(crate) struct Field(ThinArc<u32, u8>);

impl Field {
    fn new(field: &[u8], value: &[u8]) -> Self {
        let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
        Self(ThinArc::from_header_and_slice(len, &[field, value].concat()))
    }

    fn value(&self) -> &[u8] {
        &self.0.slice[self.0.header.header as usize..]
    }
}

impl Keyed for Field {
    fn key(&self) -> &[u8] {
        &self.0.slice[..self.0.header.header as usize]
    }

    fn weight(&self) -> usize {
        self.0.slice.len() + FIELD_HEAD
    }
}

impl Element for Field {
    const KIND: u8 = chunking::FIELDS;

    fn put(&self, _tag: u32, out: &mut Vec<u8>) {
        wire::put_bytes(out, self.key());
        wire::put_bytes(out, self.value());
    }

    fn read(reader: &mut Reader<'_>, hasher: &Hasher) -> Result<(u32, Self), Corrupt> {
        let (field, value) = (reader.bytes()?, reader.bytes()?);
        Ok((hasher.hash(field), Self::new(field, value)))
    }
}

/// One counted string at `at`; where the next one begins.
fn string_at(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let (mut len, mut shift, mut at) = (0usize, 0, at);
    loop {
        let byte = bytes[at];
        at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    (&bytes[at..at + len], at + len)
}

impl Packed {
    /// Where the pair of a field stands, where its value begins, and where the pair ends.
    fn find(&self, field: &[u8]) -> Option<(usize, usize, usize)> {
        let mut at = 0;
        while at < self.bytes.len() {
            let (name, value_at) = string_at(&self.bytes, at);
            let (_, next) = string_at(&self.bytes, value_at);
            if name == field {
                return Some((at, value_at, next));
            }
            at = next;
        }
        None
    }

    fn push(&mut self, field: &[u8], value: &[u8]) {
        let more = field.len() + value.len() + 2;
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve_exact(more.max(self.bytes.len() / 4));
        }
        wire::put_bytes(&mut self.bytes, field);
        wire::put_bytes(&mut self.bytes, value);
        self.len += 1;
    }
}

impl Table {
    fn trie(&self) -> &Trie<Field> {
        self.fields.trie()
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl Hash {
    /// An empty one.
    pub fn new() -> Self {
        Self(Repr::Packed(Packed::default()))
    }

    /// How many fields.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.len,
            Repr::Table(table) => table.trie().len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is small, so that HSCAN returns all of it at once.
    pub fn is_packed(&self) -> bool {
        matches!(self.0, Repr::Packed(_))
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(&self) -> &'static str {
        if self.is_packed() { "listpack" } else { "hashtable" }
    }

    /// The value of a field.
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match &self.0 {
            Repr::Packed(packed) => packed.find(field).map(|(_, value_at, _)| string_at(&packed.bytes, value_at).0),
            Repr::Table(table) => table.trie().get(table.hasher.hash(field), field).map(Field::value),
        }
    }

    /// Whether there is such a field.
    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Says how many fields are about to be set: too many of them for a packed hash make it a table at once.
    pub fn expect(&mut self, fields: usize, limits: &HashLimits) {
        if fields > limits.entries && self.is_packed() {
            self.unpack(limits);
        }
    }

    /// Sets a field; true when it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8], limits: &HashLimits) -> bool {
        if let Repr::Packed(packed) = &mut self.0 {
            let fits = field.len() <= limits.value && value.len() <= limits.value;
            match packed.find(field) {
                Some((_, value_at, next)) if fits => {
                    let mut new = Vec::with_capacity(value.len() + 10);
                    wire::put_bytes(&mut new, value);
                    packed.bytes.splice(value_at..next, new);
                    return false;
                }
                None if fits && packed.len < limits.entries => {
                    packed.push(field, value);
                    return true;
                }
                _ => self.unpack(limits),
            }
        }
        match &mut self.0 {
            Repr::Table(table) => {
                let hash = table.hasher.hash(field);
                table.fields.trie_mut().insert(hash, field, Field::new(field, value)).is_none()
            }
            Repr::Packed(_) => unreachable!("unpacked above"),
        }
    }

    /// Removes a field; true when it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.0 {
            Repr::Packed(packed) => {
                let Some((at, _, next)) = packed.find(field) else {
                    return false;
                };
                packed.bytes.drain(at..next);
                packed.len -= 1;
                true
            }
            Repr::Table(table) => {
                let hash = table.hasher.hash(field);
                // A miss must not copy what a view shares.
                table.trie().get(hash, field).is_some() && table.fields.trie_mut().remove(hash, field).is_some()
            }
        }
    }

    fn unpack(&mut self, limits: &HashLimits) {
        let mut fields = Chunked::new(limits.revision);
        for (field, value) in self.iter() {
            fields.trie_mut().insert(limits.hasher.hash(field), field, Field::new(field, value));
        }
        self.0 = Repr::Table(Box::new(Table { fields, hasher: limits.hasher }));
    }

    /// Its fields, if it is large enough for that.
    pub(crate) fn chunked(&self) -> Option<&Chunked<Field>> {
        match &self.0 {
            Repr::Packed(_) => None,
            Repr::Table(table) => Some(&table.fields),
        }
    }

    pub(crate) fn chunked_mut(&mut self) -> Option<&mut Chunked<Field>> {
        match &mut self.0 {
            Repr::Packed(_) => None,
            Repr::Table(table) => Some(&mut table.fields),
        }
    }

    /// What it weighs with its key.
    pub(crate) fn weight(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.bytes.len(),
            Repr::Table(table) => table.fields.weight(),
        }
    }

    /// What stands of it with its key.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Repr::Packed(packed) => {
                wire::put_len(out, packed.len);
                out.extend_from_slice(&packed.bytes);
            }
            Repr::Table(table) => table.fields.put(out),
        }
    }

    /// A packed one, from what [`Hash::put`] wrote.
    pub(crate) fn read_packed(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let count = reader.count(2)?;
        let mut packed = Packed::default();
        let mut fields = Vec::with_capacity(count);
        for _ in 0..count {
            let (field, value) = (reader.bytes()?, reader.bytes()?);
            fields.push(field);
            packed.push(field, value);
        }
        fields.sort_unstable();
        if fields.is_empty() || fields.windows(2).any(|two| two[0] == two[1]) {
            return Err(reader.corrupt("fields of a hash"));
        }
        Ok(Self(Repr::Packed(packed)))
    }

    /// A table, from what [`Hash::put`] wrote. A split one is whole once it was filled.
    pub(crate) fn read_table(reader: &mut Reader<'_>, split: bool, hasher: &Hasher, at: u64) -> Result<Self, Corrupt> {
        let fields = Chunked::<Field>::read(reader, split, hasher, at)?;
        if fields.trie().is_empty() {
            return Err(reader.corrupt("fields of a hash"));
        }
        Ok(Self(Repr::Table(Box::new(Table { fields, hasher: *hasher }))))
    }

    /// All pairs, in the order of insertion while packed, else in hash order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs(match &self.0 {
            Repr::Packed(packed) => PairsOf::Packed(&packed.bytes),
            Repr::Table(table) => PairsOf::Table(table.trie().iter()),
        })
    }

    /// The n-th pair in that order, for random choices.
    pub fn nth(&self, n: usize) -> Option<(&[u8], &[u8])> {
        match &self.0 {
            Repr::Packed(_) => self.iter().nth(n),
            Repr::Table(table) => table.trie().nth(n).map(|field| (field.key(), field.value())),
        }
    }

    /// A page of HSCAN: calls `each` for at least `count` pairs (all of them while packed), and says where to go on;
    /// 0 is the end. Fields that stay through a whole scan are always seen, whatever happens to others.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, mut each: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        match &self.0 {
            Repr::Packed(_) => {
                self.iter().for_each(|(field, value)| each(field, value));
                0
            }
            Repr::Table(table) => {
                let Ok(from) = u32::try_from(cursor) else {
                    return 0;
                };
                table.trie().scan_page(from, count, |field| each(field.key(), field.value())).map_or(0, u64::from)
            }
        }
    }

    /// An estimate of its memory.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.bytes.capacity(),
            Repr::Table(table) => {
                let trie = table.trie();
                // A sample is enough for MEMORY USAGE.
                let sample: usize = trie.iter().take(16).map(|(_, field)| 44 + field.0.slice.len()).sum();
                sample * trie.len() / trie.len().clamp(1, 16)
            }
        }
    }
}

/// A walk over pairs.
pub struct Pairs<'a>(PairsOf<'a>);

enum PairsOf<'a> {
    Packed(&'a [u8]),
    Table(trie::Iter<'a, Field>),
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            PairsOf::Packed([]) => None,
            PairsOf::Packed(bytes) => {
                let whole: &'a [u8] = bytes;
                let (field, value_at) = string_at(whole, 0);
                let (value, next) = string_at(whole, value_at);
                *bytes = &whole[next..];
                Some((field, value))
            }
            PairsOf::Table(iter) => iter.next().map(|(_, field)| (field.key(), field.value())),
        }
    }
}
