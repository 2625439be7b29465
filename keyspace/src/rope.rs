//! Strings: short ones are a slice, long ones a rope, that is pages in a trie.
//!
//! A rope is changed page by page, so that a byte of a long string costs one page to copy while a view shares it, and
//! one chunk to write down. Pages that were never written are not there, and stand for zeros.
//!
//! It must never be asked for all its bytes at once where a part of them does.

use std::borrow::Cow;

use triomphe::Arc;

use crate::chunking::{self, Chunked, Element};
use crate::error::Corrupt;
use crate::hasher::Hasher;
use crate::trie::parts::PART_WEIGHT;
use crate::trie::{Keyed, Trie};
use crate::wire::{self, Reader};

/// Bytes of a page; four of them fill a part.
const PAGE: usize = 3984;
/// What a page weighs besides its bytes.
const PAGE_HEAD: usize = 8;

/// Strings longer than this are ropes.
pub(crate) const LONG: usize = PART_WEIGHT;

/// A page: the bytes of a long string from so many times [`PAGE`] on. What is missing at its end is zeros.
#[derive(Clone)]
pub(crate) struct Page(Arc<Vec<u8>>);

impl Keyed for Page {
    /// The number of a page is its hash; there is one of each.
    fn key(&self) -> &[u8] {
        &[]
    }

    fn weight(&self) -> usize {
        self.0.len() + PAGE_HEAD
    }
}

impl Element for Page {
    const KIND: u8 = chunking::PAGES;

    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        wire::put_u64(out, u64::from(tag));
        wire::put_bytes(out, &self.0);
    }

    fn read(reader: &mut Reader<'_>, _hasher: &Hasher) -> Result<(u32, Self), Corrupt> {
        let tag = u32::try_from(reader.u64()?).map_err(|_| reader.corrupt("number of a page"))?;
        let bytes = reader.bytes()?;
        if bytes.len() > PAGE {
            return Err(reader.corrupt("length of a page"));
        }
        Ok((tag, Self(Arc::new(bytes.to_vec()))))
    }
}

/// A long string.
#[derive(Clone)]
pub struct Rope {
    pages: Chunked<Page>,
    len: usize,
}

impl Rope {
    /// Of these bytes, written at that moment.
    pub(crate) fn of(bytes: &[u8], at: u64) -> Self {
        let pages: Vec<_> = bytes.chunks(PAGE).map(|page| Page(Arc::new(page.to_vec()))).collect();
        let tags = (0..pages.len() as u32).collect();
        let trie = Trie::from_sorted(tags, pages, at).unwrap_or_default();
        Self { pages: Chunked::of(trie), len: bytes.len() }
    }

    pub(crate) fn pages(&self) -> &Chunked<Page> {
        &self.pages
    }

    pub(crate) fn pages_mut(&mut self) -> &mut Chunked<Page> {
        &mut self.pages
    }

    /// Puts bytes in at a place; where that is behind its end, zeros come between.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let (mut place, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let within = place % PAGE;
            let (now, after) = rest.split_at(rest.len().min(PAGE - within));
            self.pages.trie_mut().upsert((place / PAGE) as u32, &[], |page| match page {
                Some(page) => {
                    let page = Arc::make_mut(&mut page.0);
                    overwrite(page, within, now);
                    None
                }
                None => {
                    let mut page = Vec::with_capacity(within + now.len());
                    overwrite(&mut page, within, now);
                    Some(Page(Arc::new(page)))
                }
            });
            place += now.len();
            rest = after;
        }
        self.len = self.len.max(place);
    }

    /// The bytes of a page that lie in the string, but for zeros at its end.
    fn page(&self, number: usize) -> &[u8] {
        let page = self.pages.trie().get(number as u32, &[]);
        page.map_or(&[], |page| &page.0)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        wire::put_len(out, self.len);
        self.pages.put(out);
    }

    pub(crate) fn read(reader: &mut Reader<'_>, split: bool, hasher: &Hasher, at: u64) -> Result<Self, Corrupt> {
        let len = usize::try_from(reader.u64()?).ok().filter(|len| *len > LONG && *len <= PAGE * u32::MAX as usize);
        let len = len.ok_or(reader.corrupt("length of a string"))?;
        let rope = Self { pages: Chunked::read(reader, split, hasher, at)?, len };
        if split || rope.is_sound() { Ok(rope) } else { Err(reader.corrupt("pages and length of a string")) }
    }

    /// Whether its last page ends where it does: whatever made it longer wrote its last byte.
    pub(crate) fn is_sound(&self) -> bool {
        let number = ((self.len - 1) / PAGE) as u32;
        let mut last = self.pages.trie().iter_from(number);
        let ends = last.next().is_some_and(|(at, page)| at == number && at as usize * PAGE + page.0.len() == self.len);
        ends && last.next().is_none()
    }

    /// An estimate of its memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.trie().len() * 64 + self.pages.trie().weight()
    }
}

fn overwrite(page: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if page.len() < end {
        // A page grows to its full size soon; doubling would go past it.
        let room = end.next_power_of_two().min(PAGE).max(end);
        page.reserve_exact(room - page.len());
        page.resize(end, 0);
    }
    page[at..end].copy_from_slice(bytes);
}

static ZEROS: [u8; PAGE] = [0; PAGE];

/// The bytes of a string, to look at.
#[derive(Clone, Copy)]
pub enum Str<'a> {
    /// They stand together.
    Flat(&'a [u8]),
    /// They stand in pages.
    Rope(&'a Rope),
}

impl Default for Str<'_> {
    fn default() -> Self {
        Str::Flat(&[])
    }
}

impl<'a> Str<'a> {
    /// How many bytes.
    pub fn len(self) -> usize {
        match self {
            Str::Flat(bytes) => bytes.len(),
            Str::Rope(rope) => rope.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// All of them, if they stand together: a long string's never do.
    pub fn flat(self) -> Option<&'a [u8]> {
        match self {
            Str::Flat(bytes) => Some(bytes),
            Str::Rope(_) => None,
        }
    }

    /// All of them in one piece; a long string is copied for that.
    pub fn whole(self) -> Cow<'a, [u8]> {
        self.range(0, self.len())
    }

    /// Those from `from` to before `to`, as far as there are any.
    pub fn range(self, from: usize, to: usize) -> Cow<'a, [u8]> {
        match self {
            Str::Flat(bytes) => {
                let to = to.min(bytes.len());
                Cow::Borrowed(&bytes[from.min(to)..to])
            }
            Str::Rope(_) => {
                let mut out = Vec::with_capacity(to.min(self.len()).saturating_sub(from));
                self.pieces(from, to).for_each(|piece| out.extend_from_slice(piece));
                Cow::Owned(out)
            }
        }
    }

    /// The byte at a place.
    pub fn byte(self, at: usize) -> Option<u8> {
        self.pieces(at, at.saturating_add(1)).next().and_then(|piece| piece.first().copied())
    }

    /// As [`Str::range`], in pieces, none of them empty.
    pub fn pieces(self, from: usize, to: usize) -> impl Iterator<Item = &'a [u8]> {
        let end = to.min(self.len());
        let mut at = from;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let piece = match self {
                Str::Flat(bytes) => &bytes[at..end],
                Str::Rope(rope) => {
                    let (page, within) = (rope.page(at / PAGE), at % PAGE);
                    let stop = (PAGE).min(within + (end - at));
                    if within < page.len() { &page[within..stop.min(page.len())] } else { &ZEROS[within..stop] }
                }
            };
            at += piece.len();
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rope: &Rope, model: &[u8]) {
        assert_eq!(rope.len, model.len());
        assert_eq!(&*Str::Rope(rope).whole(), model);
        for (from, to) in
            [(0, 1), (1, PAGE), (PAGE - 1, PAGE + 1), (3 * PAGE + 5, 9 * PAGE), (model.len() - 1, usize::MAX)]
        {
            let (first, last) = (from.min(model.len()), to.min(model.len()));
            assert_eq!(&*Str::Rope(rope).range(from, to), &model[first..last.max(first)], "{from}..{to}");
            assert_eq!(Str::Rope(rope).byte(from), model.get(from).copied());
        }
        assert!(rope.is_sound());
    }

    #[test]
    fn a_rope_is_a_string() {
        let mut model: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        let mut rope = Rope::of(&model, 1);
        check(&rope, &model);
        let before = (rope.clone(), model.clone());
        for (at, len) in [(0, 3), (PAGE - 1, 2), (PAGE, PAGE), (19_999, 2), (20_001, 9000), (90_000, 1), (50_000, 10)] {
            let bytes = vec![at as u8 | 1; len];
            rope.write(at, &bytes);
            if model.len() < at + len {
                model.resize(at + len, 0);
            }
            model[at..at + len].copy_from_slice(&bytes);
            check(&rope, &model);
        }
        check(&before.0, &before.1);
        assert_eq!(Str::Rope(&rope).byte(90_001), None);
    }

    #[test]
    fn a_byte_far_behind_the_end_costs_a_page() {
        let mut rope = Rope::of(&[7; LONG + 1], 1);
        rope.write(500 << 20, b"x");
        assert_eq!(rope.len, (500 << 20) + 1);
        assert!(rope.pages().trie().len() < 8);
        assert_eq!(Str::Rope(&rope).byte(400 << 20), Some(0));
        assert!(rope.is_sound());
    }

    #[test]
    fn pages_and_length_that_differ_are_found() {
        let whole = Rope::of(&[7; LONG + 1], 1);
        let of_length = |len| Rope { len, ..whole.clone() };
        assert!(of_length(LONG + 1).is_sound());
        for len in [LONG, LONG + 2, 2 * LONG, PAGE * u32::MAX as usize] {
            assert!(!of_length(len).is_sound(), "{len}");
        }
        let mut rope = whole.clone();
        rope.write(10 * PAGE, b"x");
        rope.len = LONG + 2;
        assert!(!rope.is_sound());
    }

    #[test]
    fn only_what_stands_together_is_given_without_a_copy() {
        assert_eq!(Str::Flat(b"12").flat(), Some(b"12".as_slice()));
        assert_eq!(Str::Rope(&Rope::of(&[7; LONG + 1], 1)).flat(), None);
    }
}
