//! The trie against a sorted map, with hashes that collide on purpose.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_keyspace::trie::parts::{PART_WEIGHT, Part, Subtree};
use quorate_keyspace::trie::{Keyed, Trie};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    key: [u8; 2],
    value: u32,
}

impl Keyed for Pair {
    fn key(&self) -> &[u8] {
        &self.key
    }

    /// Some are heavy, so that a few make a part.
    fn weight(&self) -> usize {
        8 + self.value as usize % 7000
    }

    fn is_split(&self) -> bool {
        self.value % 5 == 1
    }
}

/// How hashes are spread: well, on few values (many items share one), or all below one deep path.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Well,
    Few,
    Deep,
}

fn hash(spread: Spread, key: u16) -> u32 {
    let mixed = u32::from(key).wrapping_mul(0x9e37_79b1);
    match spread {
        Spread::Well => mixed,
        Spread::Few => mixed & 0xc000_0003,
        Spread::Deep => 0xabcd_ef00 | mixed >> 26,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    Change(u16, u32),
    /// Insert or remove a whole run, so that leaves split and merge.
    Fill(u16, u16),
    Clear(u16, u16),
    View,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u16..600;
    prop_oneof![
        4 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        3 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        1 => (key.clone(), 0u16..200).prop_map(|(from, count)| Step::Fill(from, count)),
        1 => (key, 0u16..200).prop_map(|(from, count)| Step::Clear(from, count)),
        1 => Just(Step::View),
    ]
}

type Model = BTreeMap<(u32, [u8; 2]), u32>;

fn check(trie: &Trie<Pair>, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(trie.len(), model.len());
    let walked: Vec<_> = trie.iter().map(|(hash, pair)| ((hash, pair.key), pair.value)).collect();
    let expected: Vec<_> = model.iter().map(|(key, value)| (*key, *value)).collect();
    prop_assert_eq!(&walked, &expected);
    for (nth, ((hash, key), value)) in expected.iter().enumerate() {
        prop_assert_eq!(trie.nth(nth).map(|pair| pair.key), Some(*key));
        prop_assert_eq!(trie.get(*hash, key).map(|pair| pair.value), Some(*value));
    }
    prop_assert!(trie.nth(expected.len()).is_none());
    for from in expected.iter().step_by(37).map(|((hash, _), _)| *hash).chain([0, 1, u32::MAX]) {
        let rest: Vec<_> = trie.iter_from(from).map(|(hash, pair)| (hash, pair.key)).collect();
        let expected: Vec<_> = model.range((from, [0, 0])..).map(|(key, _)| *key).collect();
        prop_assert_eq!(rest, expected, "from {}", from);
    }
    check_parts(trie)
}

/// Where a part begins, how deep it is, and what it holds.
type Piece = (u32, u8, Vec<(u32, Pair)>);

fn cut(trie: &Trie<Pair>) -> Vec<Piece> {
    let items = |part: &Part<'_, Pair>| part.iter().map(|(hash, pair)| (hash, pair.clone())).collect();
    trie.parts().map(|part| (part.start(), part.depth(), items(&part))).collect()
}

/// Its parts are all of it, each of bounded weight, found by their start, and make it again.
fn check_parts(trie: &Trie<Pair>) -> Result<(), TestCaseError> {
    let parts = cut(trie);
    let all: Vec<_> = parts.iter().flat_map(|(_, _, items)| items.clone()).collect();
    let walked: Vec<_> = trie.iter().map(|(hash, pair)| (hash, pair.clone())).collect();
    prop_assert_eq!(all, walked);
    for (start, depth, items) in &parts {
        let weight: usize = items.iter().map(|(_, pair)| pair.weight()).sum();
        let one_hash = items.iter().all(|(hash, _)| *hash == items[0].0);
        prop_assert!(!items.is_empty() && (weight <= PART_WEIGHT || one_hash), "{} weighs {}", start, weight);
        let found = trie.part(*start);
        prop_assert_eq!(found.map(|part| (part.depth(), part.items())), Some((*depth, items.len())));
    }
    prop_assert_eq!(trie.last_start(), parts.last().map_or(0, |(start, ..)| *start));
    let total: usize = trie.iter().map(|(_, pair)| pair.weight()).sum();
    prop_assert_eq!(trie.weight(), total);
    let splits: Vec<_> = trie.splits().map(Pair::key).collect();
    let expected: Vec<_> = trie.iter().map(|(_, pair)| pair).filter(|pair| pair.is_split()).map(Pair::key).collect();
    prop_assert_eq!(splits, expected);

    let read = |without: usize| -> Option<Trie<Pair>> {
        let kept = parts.iter().enumerate().filter(|(nth, _)| *nth != without).map(|(_, part)| part);
        let subtrees = kept.map(|(start, depth, items)| {
            let (tags, items): (Vec<u32>, Vec<Pair>) = items.iter().cloned().unzip();
            Subtree::new(*start, *depth, &tags, items, 9).expect("a part")
        });
        Trie::assemble(subtrees.collect(), 9)
    };
    let again = read(usize::MAX).expect("all its parts");
    prop_assert_eq!(cut(&again), cut(trie));
    prop_assert_eq!(again.len(), trie.len());
    if !parts.is_empty() {
        prop_assert!(read(0).is_none_or(|less| less.len() < trie.len()));
    }
    Ok(())
}

/// A part that says the same moment in two views is the same.
fn check_stamps(one: &Trie<Pair>, later: &Trie<Pair>) -> Result<(), TestCaseError> {
    let old: BTreeMap<u32, (u64, Vec<Pair>)> = one
        .parts()
        .map(|part| (part.start(), (part.changed_at(), part.iter().map(|(_, pair)| pair.clone()).collect())))
        .collect();
    for part in later.parts() {
        if let Some((moment, items)) = old.get(&part.start())
            && *moment == part.changed_at()
        {
            let now: Vec<_> = part.iter().map(|(_, pair)| pair.clone()).collect();
            prop_assert_eq!(items, &now, "the part at {}", part.start());
        }
    }
    Ok(())
}

fn insert(trie: &mut Trie<Pair>, model: &mut Model, spread: Spread, key: u16, value: u32) -> Option<u32> {
    let (hash, key) = (hash(spread, key), key.to_be_bytes());
    model.insert((hash, key), value);
    trie.insert(hash, &key, Pair { key, value }).map(|pair| pair.value)
}

fn remove(trie: &mut Trie<Pair>, model: &mut Model, spread: Spread, key: u16) -> Result<(), TestCaseError> {
    let (hash, key) = (hash(spread, key), key.to_be_bytes());
    prop_assert_eq!(trie.remove(hash, &key).map(|pair| pair.value), model.remove(&(hash, key)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_is_a_sorted_map_and_its_views_never_change(
        spread in prop_oneof![Just(Spread::Well), Just(Spread::Few), Just(Spread::Deep)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut trie = Trie::new();
        let mut model = Model::new();
        let mut views: Vec<(Trie<Pair>, Model)> = Vec::new();
        for (moment, step) in steps.into_iter().enumerate() {
            trie.stamp(moment as u64);
            match step {
                Step::Insert(key, value) => {
                    let before = model.get(&(hash(spread, key), key.to_be_bytes())).copied();
                    prop_assert_eq!(insert(&mut trie, &mut model, spread, key, value), before);
                }
                Step::Remove(key) => remove(&mut trie, &mut model, spread, key)?,
                Step::Change(key, value) => {
                    let (hash, key) = (hash(spread, key), key.to_be_bytes());
                    let found = trie.edit(hash, &key, |pair| pair.value = value);
                    prop_assert_eq!(found.is_some(), model.contains_key(&(hash, key)));
                    if found.is_some() {
                        model.insert((hash, key), value);
                    }
                }
                Step::Fill(from, count) => {
                    (from..from + count).for_each(|key| { insert(&mut trie, &mut model, spread, key, 0); });
                }
                Step::Clear(from, count) => {
                    for key in from..from + count {
                        remove(&mut trie, &mut model, spread, key)?;
                    }
                }
                Step::View => views.push((trie.clone(), model.clone())),
            }
        }
        check(&trie, &model)?;
        for (view, model) in &views {
            check(view, model)?;
        }
        views.push((trie, model));
        for two in views.windows(2) {
            check_stamps(&two[0].0, &two[1].0)?;
        }
    }

    #[test]
    fn its_order_does_not_depend_on_history(
        spread in prop_oneof![Just(Spread::Well), Just(Spread::Few), Just(Spread::Deep)],
        keep in prop::collection::hash_set(0u16..2000, 0..400),
        gone in prop::collection::hash_set(0u16..2000, 0..400),
    ) {
        let (mut one, mut other, mut model) = (Trie::new(), Trie::new(), Model::new());
        for key in &gone {
            insert(&mut one, &mut model, spread, *key, 1);
        }
        for key in &keep {
            insert(&mut one, &mut model, spread, *key, 2);
        }
        for key in gone.difference(&keep) {
            remove(&mut one, &mut model, spread, *key)?;
        }
        for ((hash, key), value) in model.iter().rev() {
            other.insert(*hash, key, Pair { key: *key, value: *value });
        }
        check(&other, &model)?;
        let sorted = model.iter().map(|((hash, key), value)| (*hash, Pair { key: *key, value: *value })).unzip();
        let built = { let (tags, items) = sorted; Trie::from_sorted(tags, items, 0) };
        let built = built.expect("it is sorted");
        check(&built, &model)?;
        check(&one, &model)?;
        prop_assert_eq!(cut(&one), cut(&built), "where it is cut does not, either");
        prop_assert_eq!(cut(&other), cut(&built));
    }

    #[test]
    fn pages_of_a_scan_show_everything_that_stays(
        spread in prop_oneof![Just(Spread::Well), Just(Spread::Few), Just(Spread::Deep)],
        stays in prop::collection::hash_set(0u16..1000, 0..300),
        comes in prop::collection::vec((1000u16..2000, any::<bool>()), 0..300),
        count in 1usize..20,
    ) {
        let (mut trie, mut model) = (Trie::new(), Model::new());
        for key in &stays {
            insert(&mut trie, &mut model, spread, *key, 0);
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut others = comes.into_iter();
        let mut from = Some(0);
        while let Some(hash) = from {
            let mut twice = false;
            from = trie.scan_page(hash, count, |pair| twice |= !seen.insert(pair.key));
            prop_assert!(!twice, "an element of one stay was shown twice");
            for (key, add) in others.by_ref().take(count) {
                if add {
                    insert(&mut trie, &mut model, spread, key, 0);
                } else {
                    remove(&mut trie, &mut model, spread, key - 500)?;
                    insert(&mut trie, &mut model, spread, key - 500, 0);
                }
            }
        }
        for key in stays {
            prop_assert!(seen.contains(&key.to_be_bytes()), "key {key} was never shown");
        }
    }
}

#[test]
fn unsorted_items_are_refused() {
    let pair = |key| Pair { key, value: 0 };
    assert!(Trie::from_sorted(vec![2, 1], vec![pair([0, 0]), pair([0, 1])], 0).is_none());
    assert!(Trie::from_sorted(vec![1, 1], vec![pair([0, 1]), pair([0, 0])], 0).is_none());
    assert!(Trie::from_sorted(vec![1, 1], vec![pair([0, 1]), pair([0, 1])], 0).is_none());
    assert!(Trie::from_sorted(vec![1], vec![pair([0, 1]), pair([0, 2])], 0).is_none());
}
