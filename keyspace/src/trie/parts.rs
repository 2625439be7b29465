//! Parts of a trie: subtrees of bounded weight, each of which is written down, kept and read back by itself.
//!
//! A part is the largest subtree that weighs no more than [`PART_WEIGHT`], or holds one item, or items of one hash
//! only. So where a trie is cut is a function of its contents, as its order is, and one changed item changes one part
//! (a few, where a part grows or shrinks past the limit). A part is named by the first hash that it covers.
//!
//! Two views of one trie in which a part of the same name says the same moment of its last change hold the same part.
//!
//! Reading back must never make a trie of parts that a trie would not have been cut into.

use triomphe::Arc;

use super::{BITS, Branch, FANOUT, HASH_BITS, Iter, Keyed, Node, Sum, Trie, ascends, build};

/// The most that the items of one part weigh together. A checkpoint keeps a part in rows of 8000 bytes; parts are from
/// a quarter of this to all of it.
pub const PART_WEIGHT: usize = 16_000;

/// A part, to look at.
pub struct Part<'a, T> {
    node: &'a Node<T>,
    sum: &'a Sum,
    start: u32,
    shift: u32,
}

fn is_part<T>(node: &Node<T>, sum: &Sum) -> bool {
    sum.is_light() || sum.len <= 1 || !matches!(node, Node::Branch(_))
}

/// The hash at which the child begins.
fn start_of(start: u32, child: usize, shift: u32) -> u32 {
    start | (child as u32) << shift
}

impl<'a, T> Part<'a, T> {
    /// The first hash that it covers.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// How many levels of branches are above it.
    pub fn depth(&self) -> u8 {
        ((HASH_BITS - self.shift) / BITS) as u8
    }

    /// How many items it holds; never none.
    pub fn items(&self) -> usize {
        self.sum.len as usize
    }

    /// When it last changed.
    pub fn changed_at(&self) -> u64 {
        self.sum.changed_at
    }

    /// Its items with their hashes, in order.
    pub fn iter(&self) -> Iter<'a, T> {
        Iter::over(self.node)
    }
}

/// A stretch of a trie, beside what it was at some moment.
pub enum Stretch<'a, T> {
    /// A part that has changed since.
    Changed(Part<'a, T>),
    /// Nothing changed in what is covered from this hash to that one.
    Same(u32, u32),
}

/// A walk over the stretches of a trie, in order. What no stretch covers holds nothing now.
pub struct Changes<'a, T> {
    ahead: Vec<Part<'a, T>>,
    since: Option<u64>,
}

impl<'a, T> Iterator for Changes<'a, T> {
    type Item = Stretch<'a, T>;

    fn next(&mut self) -> Option<Stretch<'a, T>> {
        loop {
            let Part { node, sum, start, shift } = self.ahead.pop()?;
            match node {
                _ if self.since.is_some_and(|since| sum.changed_at <= since) => {
                    let last = u64::from(start) + (1 << shift) - 1;
                    return Some(Stretch::Same(start, last as u32));
                }
                Node::Empty => {}
                Node::Branch(branch) if !is_part(node, sum) => {
                    let shift = shift - BITS;
                    let children = branch.children.iter().zip(&branch.sums).enumerate().rev();
                    self.ahead.extend(children.map(|(child, (node, sum))| {
                        let start = start_of(start, child, shift);
                        Part { node, sum, start, shift }
                    }));
                }
                _ => return Some(Stretch::Changed(Part { node, sum, start, shift })),
            }
        }
    }
}

/// A walk over the items that are split, in order; it enters no subtree without any.
pub struct Splits<'a, T> {
    ahead: Vec<&'a Branch<T>>,
    at: Vec<usize>,
    leaf: std::slice::Iter<'a, T>,
}

impl<'a, T: Keyed> Iterator for Splits<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(item) = self.leaf.find(|item| item.is_split()) {
                return Some(item);
            }
            let (branch, next) = (self.ahead.last().copied()?, self.at.last_mut()?);
            let child = *next;
            *next += 1;
            if child == FANOUT {
                self.ahead.pop();
                self.at.pop();
            } else if branch.sums[child].split > 0 {
                self.enter(&branch.children[child]);
            }
        }
    }
}

impl<'a, T> Splits<'a, T> {
    fn enter(&mut self, node: &'a Node<T>) {
        match node {
            Node::Empty => {}
            Node::Leaf(leaf) => self.leaf = leaf.items.iter(),
            Node::Branch(branch) => {
                self.ahead.push(branch);
                self.at.push(0);
            }
        }
    }
}

impl<T: Keyed> Trie<T> {
    fn whole(&self) -> Part<'_, T> {
        Part { node: &self.root, sum: &self.sum, start: 0, shift: HASH_BITS }
    }

    /// Its parts, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_, T>> {
        self.changes(None).filter_map(|stretch| match stretch {
            Stretch::Changed(part) => Some(part),
            Stretch::Same(..) => None,
        })
    }

    /// What became of it since that moment, or since ever. No subtree is entered that did not change.
    pub fn changes(&self, since: Option<u64>) -> Changes<'_, T> {
        Changes { ahead: vec![self.whole()], since }
    }

    /// The part that begins at this hash, if there is such a one.
    pub fn part(&self, start: u32) -> Option<Part<'_, T>> {
        let mut part = self.whole();
        while let Node::Branch(branch) = part.node
            && !is_part(part.node, part.sum)
        {
            let shift = part.shift - BITS;
            let child = super::child_of(start, shift);
            let (node, sum) = (&branch.children[child], &branch.sums[child]);
            part = Part { node, sum, start: start_of(part.start, child, shift), shift };
        }
        (part.start == start && !matches!(part.node, Node::Empty)).then_some(part)
    }

    /// Where its last part begins.
    pub fn last_start(&self) -> u32 {
        let mut part = self.whole();
        while let Node::Branch(branch) = part.node
            && !is_part(part.node, part.sum)
        {
            let shift = part.shift - BITS;
            let child = branch.sums.iter().rposition(|sum| sum.len > 0).unwrap_or(0);
            let (node, sum) = (&branch.children[child], &branch.sums[child]);
            part = Part { node, sum, start: start_of(part.start, child, shift), shift };
        }
        part.start
    }

    /// Its items that are split, in order.
    pub fn splits(&self) -> Splits<'_, T> {
        let mut splits = Splits { ahead: Vec::new(), at: Vec::new(), leaf: [].iter() };
        if self.sum.split > 0 {
            splits.enter(&self.root);
        }
        splits
    }

    /// Stands for a trie of so many items that is cut into parts, until they have come.
    pub fn hollow(items: u32) -> Self {
        let sum = Sum { len: items, weight: PART_WEIGHT as u64 + 1, ..Sum::NONE };
        Self { root: Node::Empty, sum }
    }

    /// Whether it still only stands for what has yet to come.
    pub fn is_hollow(&self) -> bool {
        self.sum.len > 0 && matches!(self.root, Node::Empty)
    }

    /// Puts a trie together from all its parts, in order. None where no trie would have been cut like that.
    pub fn assemble(parts: Vec<Subtree<T>>, at: u64) -> Option<Self> {
        let mut parts = parts.into_iter().peekable();
        let (root, sum) = join(&mut parts, 0, HASH_BITS, at)?;
        parts.next().is_none().then_some(Self { root, sum })
    }
}

/// A part that was read back.
pub struct Subtree<T> {
    node: Node<T>,
    sum: Sum,
    start: u32,
    shift: u32,
}

impl<T: Keyed> Subtree<T> {
    /// Of items with their hashes. None where they are no part that begins there, so deep in its trie.
    pub fn new(start: u32, depth: u8, tags: &[u32], items: Vec<T>, at: u64) -> Option<Self> {
        let shift = HASH_BITS.checked_sub(u32::from(depth) * BITS)?;
        let above = |hash: u32| u64::from(hash) >> shift;
        let within = tags.iter().all(|tag| above(*tag) == above(start));
        if tags.is_empty() || !within || above(start) << shift != u64::from(start) || !ascends(tags, &items) {
            return None;
        }
        let (node, sum) = build(tags, &mut items.into_iter(), shift, at);
        is_part(&node, &sum).then_some(Self { node, sum, start, shift })
    }

    /// Its items, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        Iter::over(&self.node).map(|(_, item)| item)
    }
}

type Rest<T> = std::iter::Peekable<std::vec::IntoIter<Subtree<T>>>;

/// The node of the parts that lie in `shift` bits from `start` on. None where they do not make one.
fn join<T: Keyed>(parts: &mut Rest<T>, start: u32, shift: u32, at: u64) -> Option<(Node<T>, Sum)> {
    let last = u64::from(start) + (1 << shift) - 1;
    let Some(next) = parts.peek().filter(|part| part.start >= start && u64::from(part.start) <= last) else {
        return Some((Node::Empty, Sum { changed_at: at, ..Sum::NONE }));
    };
    if next.shift >= shift {
        return parts.next().filter(|part| part.shift == shift).map(|part| (part.node, part.sum));
    }
    let below = shift - BITS;
    let mut sums = [Sum::NONE; FANOUT];
    let mut children = [const { Node::Empty }; FANOUT];
    let mut whole = Sum { changed_at: at, ..Sum::NONE };
    for child in 0..FANOUT {
        (children[child], sums[child]) = join(parts, start_of(start, child, below), below, at)?;
        whole.follow(Sum::NONE, sums[child]);
    }
    let node = Node::Branch(Arc::new(Branch { sums, children }));
    // Anything less would have been one part, or a leaf.
    (!is_part(&node, &whole)).then_some((node, whole))
}
