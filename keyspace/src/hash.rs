//! The value of a hash: packed in one buffer in the order of insertion while it is small, then a trie.
//!
//! Both walk in an order that all members share. A hash never goes back from a trie to a packed buffer.

use triomphe::ThinArc;

use crate::hasher::Hasher;
use crate::settings::{Setting, Settings};
use crate::trie::{self, Keyed, Trie};
use crate::wire;

/// Up to where a hash stays packed, and the hasher it uses beyond.
#[derive(Clone, Copy, Debug)]
pub struct HashLimits {
    entries: usize,
    value: usize,
    hasher: Hasher,
}

impl HashLimits {
    /// From the group's settings.
    pub fn new(settings: &Settings, hasher: Hasher) -> Self {
        Self {
            entries: settings.limit(Setting::HashMaxListpackEntries),
            value: settings.limit(Setting::HashMaxListpackValue),
            hasher,
        }
    }
}

/// Fields and their values.
#[derive(Clone)]
pub struct Hash(Repr);

#[derive(Clone)]
enum Repr {
    Packed(Packed),
    Table { trie: Trie<Field>, hasher: Hasher },
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
            Repr::Table { trie, .. } => trie.len(),
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
            Repr::Table { trie, hasher } => trie.get(hasher.hash(field), field).map(Field::value),
        }
    }

    /// Whether there is such a field.
    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Says how many fields are about to be set: too many of them for a packed hash make it a table at once.
    pub fn expect(&mut self, fields: usize, limits: &HashLimits) {
        if fields > limits.entries && self.is_packed() {
            self.unpack(limits.hasher);
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
                _ => self.unpack(limits.hasher),
            }
        }
        match &mut self.0 {
            Repr::Table { trie, hasher } => trie.insert(hasher.hash(field), field, Field::new(field, value)).is_none(),
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
            Repr::Table { trie, hasher } => trie.remove(hasher.hash(field), field).is_some(),
        }
    }

    fn unpack(&mut self, hasher: Hasher) {
        let mut trie = Trie::new();
        for (field, value) in self.iter() {
            trie.insert(hasher.hash(field), field, Field::new(field, value));
        }
        self.0 = Repr::Table { trie, hasher };
    }

    /// What a snapshot holds: packed, or a table with this hasher. None where it can't be what a hash was.
    pub(crate) fn restore(pairs: &[(&[u8], &[u8])], table: Option<Hasher>) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        if let Some(hasher) = table {
            let tags = pairs.iter().map(|(field, _)| hasher.hash(field)).collect();
            let fields = pairs.iter().map(|(field, value)| Field::new(field, value)).collect();
            return Trie::from_sorted(tags, fields).map(|trie| Self(Repr::Table { trie, hasher }));
        }
        let mut fields: Vec<_> = pairs.iter().map(|(field, _)| *field).collect();
        fields.sort_unstable();
        if fields.windows(2).any(|two| two[0] == two[1]) {
            return None;
        }
        let mut packed = Packed::default();
        pairs.iter().for_each(|(field, value)| packed.push(field, value));
        Some(Self(Repr::Packed(packed)))
    }

    /// All pairs, in the order of insertion while packed, else in hash order.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs(match &self.0 {
            Repr::Packed(packed) => PairsOf::Packed(&packed.bytes),
            Repr::Table { trie, .. } => PairsOf::Table(trie.iter()),
        })
    }

    /// The n-th pair in that order, for random choices.
    pub fn nth(&self, n: usize) -> Option<(&[u8], &[u8])> {
        match &self.0 {
            Repr::Packed(_) => self.iter().nth(n),
            Repr::Table { trie, .. } => trie.nth(n).map(|field| (field.key(), field.value())),
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
            Repr::Table { trie, .. } => {
                let Ok(from) = u32::try_from(cursor) else {
                    return 0;
                };
                trie.scan_page(from, count, |field| each(field.key(), field.value())).map_or(0, u64::from)
            }
        }
    }

    /// An estimate of its memory.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Repr::Packed(packed) => packed.bytes.capacity(),
            Repr::Table { trie, .. } => {
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
