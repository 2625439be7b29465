//! Chunking: how everything that is large is kept in pieces of bounded size, in memory and on disk.
//!
//! There is one rule for all of it. A slot's keys stand in a trie, and so do the fields of a large hash and the pages of
//! a long string ([`Chunked`]); a trie is cut into parts ([`crate::trie::parts`]), and each part is one chunk, which is
//! what a checkpoint writes, a snapshot sends and a digest is made of. A value that weighs no more than one part stands
//! in the chunk of its key. One that weighs more is *split*: with its key stands only how many elements it has, and the
//! parts of its own trie are chunks by themselves. So a change of one element costs the chunk that it is in and the
//! chunk of its key, however much stands beside it.
//!
//! Another type of value needs an [`Element`] and a [`Chunked`] of it, and its kind in [`read_part`].
//!
//! What a chunk is called and where it is cut must never depend on anything but the contents: members compare them.

use std::any::Any;
use std::ops::RangeInclusive;

use crate::error::Corrupt;
use crate::hash::Field;
use crate::hasher::{Hasher, SLOTS};
use crate::item::Item;
use crate::rope::Page;
use crate::trie::parts::{PART_WEIGHT, Part, Stretch, Subtree};
use crate::trie::{Keyed, Trie};
use crate::wire::{self, Reader};

/// Of the bytes of a chunk.
pub(crate) const VERSION: u8 = 2;

/// What the elements of a chunk are.
pub(crate) const KEYS: u8 = 0;
pub(crate) const FIELDS: u8 = 1;
pub(crate) const PAGES: u8 = 2;

/// Where a chunk belongs. Its id has these in their order, so that the chunks of a slot come one after the other, those
/// of its keys first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) db: u16,
    pub(crate) slot: u16,
    /// The hash of the key whose value it is a part of; none for a part of the slot's keys.
    pub(crate) value: Option<u64>,
    /// The first hash that the part covers.
    pub(crate) start: u32,
}

impl Address {
    pub(crate) fn id(self) -> u128 {
        let of_value = u128::from(self.value.is_some());
        u128::from(self.db) << 112
            | (u128::from(self.slot) << 1 | of_value) << 96
            | u128::from(self.value.unwrap_or(0)) << 32
            | u128::from(self.start)
    }

    pub(crate) fn of(id: u128) -> Option<Self> {
        let (slot, value, of_value) = ((id >> 97) as u16 & 0x7fff, (id >> 32) as u64, id >> 96 & 1 == 1);
        if usize::from(slot) >= SLOTS || !of_value && value != 0 {
            return None;
        }
        Some(Self { db: (id >> 112) as u16, slot, value: of_value.then_some(value), start: id as u32 })
    }
}

/// A stretch of ids, and all chunks in it; beside what they were at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The stretch.
    pub ids: RangeInclusive<u128>,
    /// What is there now: ids and the revisions of their last change.
    pub chunks: Vec<(u128, u64)>,
}

/// Collects changes of a stretch of ids, from its first to its last.
pub(crate) struct Stretches {
    /// The trie whose parts come now.
    pub(crate) address: Address,
    /// Everything counts as changed at this revision, even where it says earlier.
    pub(crate) floor: u64,
    next: u128,
    chunks: Vec<(u128, u64)>,
    done: Vec<Change>,
}

impl Stretches {
    /// Of a slot's ids.
    pub(crate) fn of_slot(db: u16, slot: u16, floor: u64) -> Self {
        let address = Address { db, slot, value: None, start: 0 };
        Self { address, floor, next: address.id(), chunks: Vec::new(), done: Vec::new() }
    }

    /// Tells of the parts of a trie.
    pub(crate) fn parts<T: Keyed>(&mut self, trie: &Trie<T>, since: Option<u64>, at_least: u64) {
        let at_least = at_least.max(self.floor);
        let address = self.address;
        let id = |start| Address { start, ..address }.id();
        // Where all of it changed at once no stretch is the same.
        for stretch in trie.changes(since.filter(|since| at_least <= *since)) {
            match stretch {
                Stretch::Changed(part) => self.chunks.push((id(part.start()), part.changed_at().max(at_least))),
                Stretch::Same(first, last) => {
                    let (first, last) = (id(first), id(last));
                    self.close(first);
                    self.next = last + 1;
                }
            }
        }
    }

    fn close(&mut self, before: u128) {
        if self.next < before {
            self.done.push(Change { ids: self.next..=before - 1, chunks: std::mem::take(&mut self.chunks) });
        }
    }

    /// All that is left up to the slot's end.
    pub(crate) fn finish(mut self) -> Vec<Change> {
        let last = Address { value: Some(u64::MAX), start: u32::MAX, ..self.address }.id();
        // The slot's last id may be the last of all.
        if self.next <= last {
            self.done.push(Change { ids: self.next..=last, chunks: self.chunks });
        }
        self.done
    }
}

/// What stands in a trie that is cut into chunks.
pub(crate) trait Element: Keyed + Send + Sync + 'static {
    /// What it is called in a chunk.
    const KIND: u8;
    /// Writes it down.
    fn put(&self, tag: u32, out: &mut Vec<u8>);
    /// Looks at the memory that [`Element::put`] will read, if that is elsewhere.
    fn touch(&self) -> u8 {
        0
    }
    /// Reads it back, with the hash it stands under.
    fn read(reader: &mut Reader<'_>, hasher: &Hasher) -> Result<(u32, Self), Corrupt>;
}

/// Writes a part down.
pub(crate) fn put_part<T: Element>(part: &Part<'_, T>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, T::KIND, part.depth()]);
    // They stand all over the memory. Nothing here waits for what it reads, so the processor fetches many at a time.
    std::hint::black_box(part.iter().fold(0, |seen, (_, element)| seen ^ element.touch()));
    put_elements(part.items(), part.iter(), out);
}

fn put_elements<'a, T: Element>(count: usize, elements: impl Iterator<Item = (u32, &'a T)>, out: &mut Vec<u8>) {
    wire::put_len(out, count);
    elements.for_each(|(tag, element)| element.put(tag, out));
}

fn read_elements<T: Element>(reader: &mut Reader<'_>, hasher: &Hasher) -> Result<(Vec<u32>, Vec<T>), Corrupt> {
    let count = reader.count(2)?;
    let (mut tags, mut elements) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (tag, element) = T::read(reader, hasher)?;
        tags.push(tag);
        elements.push(element);
    }
    Ok((tags, elements))
}

/// A part of a split value, of whatever type.
pub(crate) type AnyPart = Box<dyn Any + Send>;

/// What a chunk holds.
pub(crate) enum Read {
    Keys(Subtree<Item>),
    Value(AnyPart),
}

/// Reads a chunk back. All of it counts as changed at that moment.
pub(crate) fn read_part(bytes: &[u8], address: Address, hasher: &Hasher, at: u64) -> Result<Read, Corrupt> {
    let mut reader = Reader::new("snapshot chunk", bytes);
    reader.version(VERSION)?;
    let kind = reader.u8()?;
    if (kind == KEYS) != address.value.is_none() {
        return Err(reader.corrupt("unknown kind of elements"));
    }
    match kind {
        KEYS => read_subtree::<Item>(reader, address, hasher, at).map(Read::Keys),
        FIELDS => read_subtree::<Field>(reader, address, hasher, at).map(|part| Read::Value(Box::new(part))),
        PAGES => read_subtree::<Page>(reader, address, hasher, at).map(|part| Read::Value(Box::new(part))),
        _ => Err(reader.corrupt("unknown kind of elements")),
    }
}

fn read_subtree<T: Element>(
    mut reader: Reader<'_>,
    address: Address,
    hasher: &Hasher,
    at: u64,
) -> Result<Subtree<T>, Corrupt> {
    let depth = reader.u8()?;
    let (tags, elements) = read_elements(&mut reader, hasher)?;
    reader.end()?;
    let part = Subtree::new(address.start, depth, &tags, elements, at);
    part.ok_or(reader.corrupt("elements out of order, or not of this chunk"))
}

/// The elements of a value that may be large.
#[derive(Clone)]
pub(crate) struct Chunked<T> {
    trie: Trie<T>,
    /// All of it counts as changed at this moment, even where the trie says earlier: it came to its key then.
    since: u64,
}

impl<T: Element> Chunked<T> {
    /// Empty, at that moment.
    pub(crate) fn new(at: u64) -> Self {
        let mut new = Self::of(Trie::new());
        new.stamp(at);
        new
    }

    pub(crate) fn of(trie: Trie<T>) -> Self {
        Self { trie, since: 0 }
    }

    pub(crate) fn trie(&self) -> &Trie<T> {
        &self.trie
    }

    pub(crate) fn trie_mut(&mut self) -> &mut Trie<T> {
        &mut self.trie
    }

    /// What it weighs with its key.
    pub(crate) fn weight(&self) -> usize {
        if self.is_split() { 16 } else { self.trie.weight() }
    }

    /// What stands with the key: how many elements, and the elements unless it is split.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        if self.is_split() {
            wire::put_len(out, self.trie.len());
        } else {
            put_elements(self.trie.len(), self.trie.iter(), out);
        }
    }

    /// Reads what [`Chunked::put`] wrote. A split one is whole once it was filled.
    pub(crate) fn read(reader: &mut Reader<'_>, split: bool, hasher: &Hasher, at: u64) -> Result<Self, Corrupt> {
        if split {
            let count = reader.u64()?;
            let count = u32::try_from(count).ok().filter(|count| *count > 0);
            return Ok(Self::of(Trie::hollow(count.ok_or(reader.corrupt("number of elements"))?)));
        }
        let (tags, elements) = read_elements(reader, hasher)?;
        let trie = Trie::from_sorted(tags, elements, at).filter(|trie| trie.weight() <= PART_WEIGHT);
        trie.map(Self::of).ok_or(reader.corrupt("elements out of order, or too many for their key's chunk"))
    }
}

/// The elements of a value, whatever they are.
pub(crate) trait Elements {
    /// Whether they are too many to stand in the chunk of their key.
    fn is_split(&self) -> bool;
    /// What follows changes them at this moment.
    fn stamp(&mut self, at: u64);
    /// They stand under another key from this moment on.
    fn moved(&mut self, at: u64);
    /// What it costs to free them: one for each, and one for each page of memory.
    fn work_to_free(&self) -> usize;
    /// Tells of each part where it starts and the moment of its last change, but for stretches without a change since
    /// that moment, if there is one.
    fn parts(&self, since: Option<u64>, out: &mut Stretches);
    /// Writes the part down that begins there, if there is one.
    fn put_part(&self, start: u32, out: &mut Vec<u8>);
    /// Whether its parts have yet to come.
    fn is_hollow(&self) -> bool;
    /// Takes the parts in, which must be all. False where they are not what was split.
    fn fill(&mut self, parts: Vec<AnyPart>, at: u64) -> bool;
}

impl<T: Element> Elements for Chunked<T> {
    fn is_split(&self) -> bool {
        self.trie.weight() > PART_WEIGHT
    }

    fn stamp(&mut self, at: u64) {
        self.trie.stamp(at);
    }

    fn moved(&mut self, at: u64) {
        self.since = at;
    }

    fn work_to_free(&self) -> usize {
        self.trie.len() + self.trie.weight() / 4096
    }

    fn parts(&self, since: Option<u64>, out: &mut Stretches) {
        out.parts(&self.trie, since, self.since);
    }

    fn put_part(&self, start: u32, out: &mut Vec<u8>) {
        if let Some(part) = self.trie.part(start) {
            put_part(&part, out);
        }
    }

    fn is_hollow(&self) -> bool {
        self.trie.is_hollow()
    }

    fn fill(&mut self, parts: Vec<AnyPart>, at: u64) -> bool {
        let parts: Option<Vec<Subtree<T>>> =
            parts.into_iter().map(|part| part.downcast().ok().map(|part| *part)).collect();
        let expected = self.trie.len();
        let Some(trie) = parts.and_then(|parts| Trie::assemble(parts, at)) else { return false };
        let whole = self.trie.is_hollow() && trie.len() == expected && trie.weight() > PART_WEIGHT;
        if whole {
            self.trie = trie;
        }
        whole
    }
}
