//! The one ordered map of the keyspace: a radix trie over a 32-bit keyed hash.
//!
//! Its order is `(hash, key)`, so it is a function of the contents and the group's seed only, never of history:
//! a member that restored a snapshot walks it exactly as one that replayed the log. Counts in the branches give
//! the n-th element in a few steps (RANDOMKEY, HRANDFIELD), and a position in hash order is a SCAN cursor that
//! stays valid whatever happens in between.
//!
//! Nodes stand behind `Arc`. A clone of the trie is a consistent view that costs one reference; the first write
//! to a shared path copies that path (a branch is four children, a leaf 64 items) and nothing else.
//!
//! Whoever refers to a node also knows how much is below it and when that last changed, which is what [`parts`] cuts
//! a trie by.
//!
//! It must never let an order that depends on insertion leak out.

pub mod parts;

use triomphe::Arc;

use parts::PART_WEIGHT;

/// Hash bits that one level of branches consumes. A small fan-out keeps leaves well filled right after a split
/// (16 items, where 16 children would leave 4) and makes the copied path short in bytes.
const BITS: u32 = 2;
const FANOUT: usize = 1 << BITS;
/// All the bits there are.
const HASH_BITS: u32 = 32;
/// A leaf splits above this, unless its hash bits are used up.
const LEAF_MAX: usize = 64;
/// A branch becomes a leaf again at this size; lower than `LEAF_MAX`, so that one key coming and going doesn't
/// split and merge each time. Order doesn't depend on where the cuts are.
const LEAF_MERGE: usize = 32;

/// Leaves grow by so many items.
const STEP: usize = 8;

/// What stands in a trie: it can name its key.
pub trait Keyed: Clone {
    /// The key, as bytes. It must not change while the item is in a trie.
    fn key(&self) -> &[u8];

    /// About how many bytes it takes when written down: a function of its contents only, and quickly told.
    fn weight(&self) -> usize;

    /// Whether most of it is kept apart, in parts of its own.
    fn is_split(&self) -> bool {
        false
    }
}

/// See the module's words.
#[derive(Clone)]
pub struct Trie<T> {
    root: Node<T>,
    sum: Sum,
}

/// What is known of a node where it is referred to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    weight: u64,
    /// When something below last changed, as told by [`Trie::stamp`].
    changed_at: u64,
    /// Items, and those of them that are split. Far more memory than there is would be full before these are.
    len: u32,
    split: u32,
}

impl Sum {
    const NONE: Self = Self { weight: 0, changed_at: 0, len: 0, split: 0 };

    fn of<T: Keyed>(items: &[T], changed_at: u64) -> Self {
        let mut sum = Self { changed_at, ..Self::NONE };
        items.iter().for_each(|item| sum.take_in(item));
        sum
    }

    fn take_in<T: Keyed>(&mut self, item: &T) {
        self.len += 1;
        self.weight += item.weight() as u64;
        self.split += u32::from(item.is_split());
    }

    fn let_go<T: Keyed>(&mut self, item: &T) {
        self.len -= 1;
        self.weight -= item.weight() as u64;
        self.split -= u32::from(item.is_split());
    }

    /// A child was this before and is that now.
    fn follow(&mut self, before: Self, after: Self) {
        self.len = self.len - before.len + after.len;
        self.weight = self.weight - before.weight + after.weight;
        self.split = self.split - before.split + after.split;
    }

    /// Whether it may be written down in one go.
    fn is_light(&self) -> bool {
        self.weight <= PART_WEIGHT as u64
    }
}

#[derive(Clone)]
enum Node<T> {
    Empty,
    Leaf(Arc<Leaf<T>>),
    Branch(Arc<Branch<T>>),
}

/// Tags (hashes) and items apart: the search reads 4 bytes an item, and nothing is lost to padding.
#[derive(Clone)]
struct Leaf<T> {
    tags: Vec<u32>,
    items: Vec<T>,
}

#[derive(Clone)]
struct Branch<T> {
    sums: [Sum; FANOUT],
    children: [Node<T>; FANOUT],
}

impl<T> Trie<T> {
    /// One without items.
    pub const EMPTY: Self = Self { root: Node::Empty, sum: Sum::NONE };
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

fn ascends<T: Keyed>(tags: &[u32], items: &[T]) -> bool {
    let ascends = |at: usize| (tags[at - 1], items[at - 1].key()) < (tags[at], items[at].key());
    items.len() == tags.len() && (1..tags.len()).all(ascends)
}

fn child_of(hash: u32, shift: u32) -> usize {
    (hash >> shift) as usize & (FANOUT - 1)
}

impl<T: Keyed> Leaf<T> {
    /// Where the first tag stands that is not below `hash`. `shift` bits of the hash are not the same for the whole
    /// leaf; they are spread evenly, so the place can be guessed, and a step or two lead there: one or two lines of
    /// cache where halving would touch three or four.
    fn lower_bound(&self, hash: u32, shift: u32) -> usize {
        let len = self.tags.len();
        let free = u64::from(hash) & ((1 << shift) - 1);
        let mut at = ((free * len as u64) >> shift) as usize;
        while at > 0 && self.tags[at - 1] >= hash {
            at -= 1;
        }
        while at < len && self.tags[at] < hash {
            at += 1;
        }
        at
    }

    fn locate(&self, hash: u32, key: &[u8], shift: u32) -> Result<usize, usize> {
        let mut at = self.lower_bound(hash, shift);
        while at < self.tags.len() && self.tags[at] == hash {
            match self.items[at].key().cmp(key) {
                std::cmp::Ordering::Less => at += 1,
                std::cmp::Ordering::Equal => return Ok(at),
                std::cmp::Ordering::Greater => return Err(at),
            }
        }
        Err(at)
    }

    fn insert_at(&mut self, at: usize, hash: u32, item: T) {
        if self.tags.len() == self.tags.capacity() {
            let more = room(self.tags.len() + 1) - self.tags.len();
            self.tags.reserve_exact(more);
            self.items.reserve_exact(more);
        }
        self.tags.insert(at, hash);
        self.items.insert(at, item);
    }
}

/// How much room a leaf of so many items gets. Few sizes, so that what one leaf frees another takes; doubling all
/// the way would waste a third on average.
fn room(len: usize) -> usize {
    if len <= 8 { len.next_power_of_two() } else { len.next_multiple_of(STEP) }
}

/// A node of sorted items, the next ones of `items`. `shift` is what is left of the hash below this node. All of it
/// counts as changed at that moment.
fn build<T: Keyed>(tags: &[u32], items: &mut std::vec::IntoIter<T>, shift: u32, at: u64) -> (Node<T>, Sum) {
    if tags.is_empty() {
        return (Node::Empty, Sum { changed_at: at, ..Sum::NONE });
    }
    if tags.len() <= LEAF_MAX || shift == 0 {
        let sum = Sum::of(&items.as_slice()[..tags.len()], at);
        if sum.is_light() || tags.len() == 1 || shift == 0 {
            let room = room(tags.len());
            let mut leaf = Leaf { tags: Vec::with_capacity(room), items: Vec::with_capacity(room) };
            leaf.tags.extend_from_slice(tags);
            leaf.items.extend(items.take(tags.len()));
            return (Node::Leaf(Arc::new(leaf)), sum);
        }
    }
    branch(tags, items, shift, at)
}

fn branch<T: Keyed>(tags: &[u32], items: &mut std::vec::IntoIter<T>, shift: u32, at: u64) -> (Node<T>, Sum) {
    let shift = shift - BITS;
    let mut sums = [Sum::NONE; FANOUT];
    let mut children = [const { Node::Empty }; FANOUT];
    let mut whole = Sum { changed_at: at, ..Sum::NONE };
    let mut rest = tags;
    for child in 0..FANOUT {
        let (part, behind) = rest.split_at(rest.partition_point(|tag| child_of(*tag, shift) <= child));
        rest = behind;
        (children[child], sums[child]) = build(part, items, shift, at);
        whole.follow(Sum::NONE, sums[child]);
    }
    (Node::Branch(Arc::new(Branch { sums, children })), whole)
}

/// Replaces a leaf by a branch.
fn divide<T: Keyed>(node: &mut Node<T>, shift: u32, at: u64) {
    if let Node::Leaf(shared) = node {
        let leaf = Arc::make_mut(shared);
        let tags = std::mem::take(&mut leaf.tags);
        let mut items = std::mem::take(&mut leaf.items).into_iter();
        *node = branch(&tags, &mut items, shift, at).0;
    }
}

impl<T> Branch<T> {
    /// Its children were one part together and are parts of their own from now on: all of them are news.
    fn restamp(&mut self, at: u64) {
        self.sums.iter_mut().for_each(|sum| sum.changed_at = at);
    }
}

/// `sum` is that of the node, and is kept up to date; its stamp is the moment of this change.
fn upsert_node<T: Keyed, F: FnOnce(Option<&mut T>) -> Option<T>>(
    node: &mut Node<T>,
    sum: &mut Sum,
    shift: u32,
    hash: u32,
    key: &[u8],
    edit: F,
) {
    let at = sum.changed_at;
    match node {
        Node::Empty => {
            let Some(item) = edit(None) else { return };
            debug_assert_eq!(item.key(), key);
            sum.take_in(&item);
            *node = Node::Leaf(Arc::new(Leaf { tags: vec![hash], items: vec![item] }));
        }
        Node::Branch(branch) => {
            let branch = Arc::make_mut(branch);
            let shift = shift - BITS;
            let child = child_of(hash, shift);
            let was_light = sum.is_light();
            let before = branch.sums[child];
            branch.sums[child].changed_at = at;
            upsert_node(&mut branch.children[child], &mut branch.sums[child], shift, hash, key, edit);
            sum.follow(before, branch.sums[child]);
            if was_light && !sum.is_light() {
                branch.restamp(at);
            }
        }
        Node::Leaf(shared) => {
            let leaf = Arc::make_mut(shared);
            match leaf.locate(hash, key, shift) {
                Ok(place) => {
                    let item = &mut leaf.items[place];
                    sum.let_go(item);
                    if let Some(new) = edit(Some(item)) {
                        debug_assert_eq!(new.key(), key);
                        *item = new;
                    }
                    sum.take_in(item);
                }
                Err(_) if leaf.tags.len() >= LEAF_MAX && shift > 0 => {
                    divide(node, shift, at);
                    return upsert_node(node, sum, shift, hash, key, edit);
                }
                Err(place) => {
                    let Some(item) = edit(None) else { return };
                    debug_assert_eq!(item.key(), key);
                    sum.take_in(&item);
                    leaf.insert_at(place, hash, item);
                }
            }
            if !sum.is_light() && sum.len > 1 && shift > 0 {
                divide(node, shift, at);
            }
        }
    }
}

/// As [`upsert_node`]; nothing is stamped when there is no such key.
fn remove_node<T: Keyed>(node: &mut Node<T>, sum: &mut Sum, shift: u32, hash: u32, key: &[u8], at: u64) -> Option<T> {
    let removed = match node {
        Node::Empty => return None,
        Node::Leaf(shared) => {
            let place = shared.locate(hash, key, shift).ok()?;
            if shared.tags.len() == 1 {
                let item = shared.items[0].clone();
                sum.let_go(&item);
                *node = Node::Empty;
                item
            } else {
                let leaf = Arc::make_mut(shared);
                leaf.tags.remove(place);
                let item = leaf.items.remove(place);
                sum.let_go(&item);
                // Give back what a leaf that shrank no longer needs.
                let wanted = room(leaf.tags.len());
                if leaf.tags.capacity() > wanted + STEP {
                    leaf.tags.shrink_to(wanted);
                    leaf.items.shrink_to(wanted);
                }
                item
            }
        }
        Node::Branch(shared) => {
            let branch = Arc::make_mut(shared);
            let child = child_of(hash, shift - BITS);
            let before = branch.sums[child];
            let item = remove_node(&mut branch.children[child], &mut branch.sums[child], shift - BITS, hash, key, at)?;
            sum.follow(before, branch.sums[child]);
            let left = sum.len as usize;
            // One item alone is always a leaf: where parts are cut depends on it.
            if left == 1 || left <= LEAF_MERGE && sum.weight <= PART_WEIGHT as u64 / 2 {
                let (mut tags, mut items) = (Vec::with_capacity(left), Vec::with_capacity(left));
                for (tag, item) in Iter::over(node) {
                    tags.push(tag);
                    items.push(item.clone());
                }
                *node = build(&tags, &mut items.into_iter(), shift, at).0;
            }
            item
        }
    };
    sum.changed_at = at;
    Some(removed)
}

impl<T: Keyed> Trie<T> {
    /// An empty one; it owns no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of items with their hashes, which must be in strictly ascending order of (hash, key); None where they aren't.
    pub fn from_sorted(tags: Vec<u32>, items: Vec<T>, at: u64) -> Option<Self> {
        if !ascends(&tags, &items) {
            return None;
        }
        let (root, sum) = build(&tags, &mut items.into_iter(), HASH_BITS, at);
        Some(Self { root, sum })
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.sum.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sum.len == 0
    }

    /// The weight of all items.
    pub fn weight(&self) -> usize {
        self.sum.weight as usize
    }

    /// What follows changes it at this moment; moments never go back.
    pub fn stamp(&mut self, at: u64) {
        self.sum.changed_at = at;
    }

    /// The last moment it was told.
    pub fn changed_at(&self) -> u64 {
        self.sum.changed_at
    }

    /// The item of a key.
    pub fn get(&self, hash: u32, key: &[u8]) -> Option<&T> {
        let mut node = &self.root;
        let mut shift = HASH_BITS;
        loop {
            match node {
                Node::Empty => return None,
                Node::Leaf(leaf) => return leaf.locate(hash, key, shift).ok().map(|at| &leaf.items[at]),
                Node::Branch(branch) => {
                    shift -= BITS;
                    node = &branch.children[child_of(hash, shift)];
                }
            }
        }
    }

    /// Changes an item in place; a path shared with a view is copied first.
    pub fn edit<R>(&mut self, hash: u32, key: &[u8], edit: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut result = None;
        self.upsert(hash, key, |found| {
            result = found.map(edit);
            None
        });
        result
    }

    /// One descent for look-up, change and insert: `edit` sees the item or None, may change it in place, and may
    /// return an item of the same key that is put in its place. True when an item was added.
    pub fn upsert(&mut self, hash: u32, key: &[u8], edit: impl FnOnce(Option<&mut T>) -> Option<T>) -> bool {
        let before = self.sum.len;
        upsert_node(&mut self.root, &mut self.sum, HASH_BITS, hash, key, edit);
        self.sum.len > before
    }

    /// Puts an item in; the one it replaces, if any, comes back.
    pub fn insert(&mut self, hash: u32, key: &[u8], item: T) -> Option<T> {
        let mut old = None;
        self.upsert(hash, key, |found| match found {
            Some(place) => {
                old = Some(std::mem::replace(place, item));
                None
            }
            None => Some(item),
        });
        old
    }

    /// Takes an item out.
    pub fn remove(&mut self, hash: u32, key: &[u8]) -> Option<T> {
        let at = self.sum.changed_at;
        remove_node(&mut self.root, &mut self.sum, HASH_BITS, hash, key, at)
    }

    /// The n-th item in hash order.
    pub fn nth(&self, n: usize) -> Option<&T> {
        let mut node = &self.root;
        let mut n = n;
        loop {
            match node {
                Node::Empty => return None,
                Node::Leaf(leaf) => return leaf.items.get(n),
                Node::Branch(branch) => {
                    let child = branch.sums.iter().position(|sum| {
                        let here = n < sum.len as usize;
                        if !here {
                            n -= sum.len as usize;
                        }
                        here
                    })?;
                    node = &branch.children[child];
                }
            }
        }
    }

    /// All items in hash order, each with its hash.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter::over(&self.root)
    }

    /// The items whose hash is `hash` or greater, in order.
    pub fn iter_from(&self, hash: u32) -> Iter<'_, T> {
        let mut iter = Iter { above: Vec::new(), leaf: None, at: 0 };
        let mut node = &self.root;
        let mut shift = HASH_BITS;
        loop {
            match node {
                Node::Empty => return iter,
                Node::Leaf(leaf) => {
                    iter.at = leaf.tags.partition_point(|tag| *tag < hash);
                    iter.leaf = Some(leaf);
                    return iter;
                }
                Node::Branch(branch) => {
                    shift -= BITS;
                    let child = child_of(hash, shift);
                    iter.above.push((branch, child + 1));
                    node = &branch.children[child];
                }
            }
        }
    }
}

impl<T: Keyed> Trie<T> {
    /// Calls `each` for at least `count` items from hash `from` on, and for all that share a hash with the last of
    /// them; the hash to go on from, or None at the end.
    pub fn scan_page<'a>(&'a self, from: u32, count: usize, mut each: impl FnMut(&'a T)) -> Option<u32> {
        let mut last = None;
        for (seen, (hash, item)) in self.iter_from(from).enumerate() {
            if seen >= count && last != Some(hash) {
                return Some(hash);
            }
            last = Some(hash);
            each(item);
        }
        None
    }
}

/// A walk in hash order.
pub struct Iter<'a, T> {
    above: Vec<(&'a Branch<T>, usize)>,
    leaf: Option<&'a Leaf<T>>,
    at: usize,
}

impl<'a, T> Iter<'a, T> {
    fn over(node: &'a Node<T>) -> Self {
        let mut iter = Iter { above: Vec::new(), leaf: None, at: 0 };
        iter.enter(node);
        iter
    }

    fn enter(&mut self, node: &'a Node<T>) {
        match node {
            Node::Empty => self.leaf = None,
            Node::Leaf(leaf) => {
                self.leaf = Some(leaf);
                self.at = 0;
            }
            Node::Branch(branch) => {
                self.leaf = None;
                self.above.push((branch, 0));
            }
        }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (u32, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(leaf) = self.leaf {
                if let Some(item) = leaf.items.get(self.at) {
                    let tag = leaf.tags[self.at];
                    self.at += 1;
                    return Some((tag, item));
                }
                self.leaf = None;
            }
            let (branch, next) = self.above.last_mut()?;
            let branch: &'a Branch<T> = branch;
            if *next == FANOUT {
                self.above.pop();
                continue;
            }
            let child = &branch.children[*next];
            *next += 1;
            self.enter(child);
        }
    }
}
