//! Large values in pieces: what a checkpoint writes for one change does not grow with what stands beside it, and
//! whatever is written piece by piece comes back as it was.

mod common;

use std::collections::BTreeMap;

use common::{Member, fingerprint};
use proptest::prelude::*;
use quorate_keyspace::view::{Change, Restore};
use quorate_keyspace::{Keyspace, View};

/// A checkpoint, kept as the raft room keeps it: chunks that say another revision are written, those that are gone are
/// removed, and nothing else is looked at.
#[derive(Default)]
struct Checkpoint {
    header: Vec<u8>,
    /// The revision of the view that was written last, and of each chunk in it.
    revision: Option<u64>,
    book: BTreeMap<u128, u64>,
    chunks: BTreeMap<u128, Vec<u8>>,
}

/// What a checkpoint wrote.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    chunks: usize,
    bytes: usize,
    removed: usize,
    longest: usize,
    looked_at: usize,
}

impl Checkpoint {
    fn take(&mut self, view: &View) -> Cost {
        let book: BTreeMap<u128, u64> = view.chunks().collect();
        assert!(view.chunks().map(|(id, _)| id).eq(book.keys().copied()), "ids ascend, and each comes once");
        let changes: Vec<Change> = match self.revision {
            Some(revision) => view.changes(revision).collect(),
            None => vec![Change { ids: 0..=u128::MAX, chunks: view.chunks().collect() }],
        };
        assert!(changes.windows(2).all(|two| two[0].ids.end() < two[1].ids.start()), "stretches ascend");
        let mut cost = Cost::default();
        for Change { ids, chunks } in changes {
            assert!(chunks.iter().all(|(id, _)| ids.contains(id)));
            cost.looked_at += chunks.len();
            let old: Vec<u128> = self.book.range(ids).map(|(id, _)| *id).collect();
            for id in old.iter().filter(|old| chunks.binary_search_by_key(*old, |(id, _)| *id).is_err()) {
                self.chunks.remove(id);
                self.book.remove(id);
                cost.removed += 1;
            }
            for (id, revision) in chunks {
                if self.book.insert(id, revision) == Some(revision) {
                    continue;
                }
                let mut bytes = Vec::new();
                view.encode(id, &mut bytes);
                assert!(!bytes.is_empty(), "chunk {id:x} is listed and has no bytes");
                cost.chunks += 1;
                cost.bytes += bytes.len();
                cost.longest = cost.longest.max(bytes.len());
                self.chunks.insert(id, bytes);
            }
        }
        assert_eq!(self.book, book, "what is said to have changed is all that has");
        (self.revision, self.header) = (Some(view.revision()), view.header());
        cost
    }

    fn load(&self) -> Result<View, quorate_keyspace::Corrupt> {
        self.load_without(|_| false)
    }

    fn load_without(&self, lost: impl Fn(usize) -> bool) -> Result<View, quorate_keyspace::Corrupt> {
        let mut restore = Restore::new(&self.header)?;
        for (id, bytes) in self.chunks.iter().enumerate().filter(|(nth, _)| !lost(*nth)).map(|(_, chunk)| chunk) {
            restore.add(*id, bytes)?;
        }
        restore.finish()
    }
}

fn args(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// A hash of so many fields, set a thousand at a time.
fn fill_hash(member: &mut Member, key: &str, fields: usize) {
    for from in (0..fields).step_by(1000) {
        let mut words = args(&[b"HSET", key.as_bytes()]);
        for n in from..fields.min(from + 1000) {
            words.push(format!("field:{n}").into_bytes());
            words.push(format!("value:{n}").into_bytes());
        }
        member.run_args(&words);
    }
}

#[test]
fn one_field_of_a_large_hash_costs_one_piece() {
    let mut costs = Vec::new();
    for fields in [10_000, 200_000] {
        let mut member = Member::default();
        let mut checkpoint = Checkpoint::default();
        fill_hash(&mut member, "h", fields);
        let whole = checkpoint.take(&member.keyspace.view());
        assert!(whole.bytes > fields * 20 && whole.longest < 20_000, "{whole:?}");
        for (line, reply) in [("HSET h field:77 other", ":0"), ("HSET h another 1", ":1"), ("HDEL h field:5", ":1")] {
            assert!(member.run(line).starts_with(reply));
            let cost = checkpoint.take(&member.keyspace.view());
            assert!(
                cost.chunks <= 6 && cost.looked_at <= 6 && cost.bytes <= 34_000,
                "{line} with {fields} fields: {cost:?}"
            );
            costs.push(cost.chunks);
        }
        assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
    }
}

#[test]
fn one_byte_of_a_long_string_costs_one_piece() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    let megabytes = 64;
    member.run_args(&args(&[b"SET", b"s", &vec![b'x'; megabytes << 20]]));
    let whole = checkpoint.take(&member.keyspace.view());
    assert!(whole.bytes > megabytes << 20 && whole.longest < 20_000, "{whole:?}");
    for line in
        ["SETRANGE s 30000000 y", "APPEND s more", "SETBIT s 80000000 1", "BITFIELD s SET u32 999 7", "EXPIRE s 99"]
    {
        member.run(line);
        let cost = checkpoint.take(&member.keyspace.view());
        assert!(cost.chunks <= 3 && cost.looked_at <= 3 && cost.bytes < 34_000, "{line}: {cost:?}");
    }
    assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
    member.run("SET s short");
    let cost = checkpoint.take(&member.keyspace.view());
    assert_eq!((cost.chunks, cost.removed), (1, whole.chunks - 1), "its pieces are gone");
}

#[test]
fn a_command_that_changes_nothing_costs_nothing() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    fill_hash(&mut member, "large", 20_000);
    member.run("HSET table f 1 text abc long 12345678901234567890123456789012345678901234567890123456789012345");
    member.run("HSET packed f 1 text abc max 9223372036854775807");
    member.run_args(&args(&[b"SET", b"long", &vec![b'x'; 1 << 20]]));
    member.run("SET short abc");
    member.run("SETBIT bits 7 1");
    checkpoint.take(&member.keyspace.view());
    for (line, reply) in [
        ("HDEL large none", ":0"),
        ("HDEL large none1 none2 none3", ":0"),
        ("HSETNX large field:7 other", ":0"),
        ("HDEL table none", ":0"),
        ("HSETNX table f 2", ":0"),
        ("HINCRBY table text 1", "-ERR hash value is not an integer"),
        ("HINCRBYFLOAT table text 1", "-ERR hash value is not a float"),
        ("HDEL packed none", ":0"),
        ("HSETNX packed f 2", ":0"),
        ("HINCRBY packed text 1", "-ERR hash value is not an integer"),
        ("HINCRBY packed max 1", "-ERR increment or decrement would overflow"),
        ("HSET short f 1", "-WRONGTYPE"),
        ("HDEL short f", "-WRONGTYPE"),
        ("HDEL nobody f", ":0"),
        ("SETBIT bits 7 1", ":1"),
        ("SETNX short other", ":0"),
        ("SETNX long other", ":0"),
        ("SET none 1 XX", "$-1"),
        ("INCR short", "-ERR value is not an integer"),
        ("PERSIST large", ":0"),
        ("PERSIST short", ":0"),
        ("EXPIRE none 10", ":0"),
        ("DEL none", ":0"),
        ("GETDEL none", "$-1"),
        ("RENAMENX short long", ":0"),
        ("COPY short long", ":0"),
        ("BITFIELD long GET u8 0", "*1"),
        ("GETEX long", "$1048576"),
    ] {
        assert!(member.run(line).starts_with(reply), "{line}: {}", member.run(line));
        assert_eq!(checkpoint.take(&member.keyspace.view()), Cost::default(), "{line}");
    }
    for key in ["long", "short", "none"] {
        let length = member.run(&format!("STRLEN {key}"));
        assert_eq!(member.run_args(&args(&[b"SETRANGE", key.as_bytes(), b"1", b""])), length);
        assert_eq!(checkpoint.take(&member.keyspace.view()), Cost::default(), "SETRANGE {key}");
    }
    // To append nothing is a write (watchers of the key see it), but no piece of the string changes.
    member.run_args(&args(&[b"APPEND", b"long", b""]));
    assert_eq!(checkpoint.take(&member.keyspace.view()).chunks, 1);
    // One field of those that are named is there: that much is written.
    assert!(member.run("HDEL large none field:8").starts_with(":1"));
    let cost = checkpoint.take(&member.keyspace.view());
    assert!((1..=2).contains(&cost.chunks), "{cost:?}");
    assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
}

#[test]
fn a_slot_full_of_keys_is_kept_in_pieces_too() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    for n in 0..30_000 {
        member.run(&format!("SET {{tag}}{n} value-of-some-length"));
    }
    let whole = checkpoint.take(&member.keyspace.view());
    assert!(whole.chunks > 50 && whole.longest < 20_000, "{whole:?}");
    member.run("SET {tag}77 v");
    let cost = checkpoint.take(&member.keyspace.view());
    assert!(cost.chunks <= 4 && cost.bytes < 20_000, "{cost:?}");
    assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
}

#[test]
fn a_sparse_string_costs_what_was_written() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    member.expect("SETRANGE s 20000000 x", ":20000001\r\n");
    let cost = checkpoint.take(&member.keyspace.view());
    assert!(cost.bytes < 10_000, "{cost:?}");
    for keyspace in [member.keyspace.view(), checkpoint.load().unwrap()] {
        let mut member = Member { keyspace: Keyspace::from_view(&keyspace), ..Member::default() };
        member.expect("STRLEN s", ":20000001\r\n");
        member.expect("GETRANGE s 19999998 -1", "$3\r\n\0\0x\r\n");
        member.expect("BITCOUNT s", ":4\r\n");
        member.expect("BITPOS s 1", ":160000001\r\n");
        member.expect("GETBIT s 160000001", ":1\r\n");
    }
}

#[test]
fn a_value_that_moves_takes_its_pieces_along() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    fill_hash(&mut member, "h", 3000);
    member.run_args(&args(&[b"SET", b"s", &[b'x'; 50_000]]));
    let mut check = |member: &Member, what: &str| {
        let view = member.keyspace.view();
        let cost = checkpoint.take(&view);
        let restored = checkpoint.load().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(fingerprint(&restored), fingerprint(&view), "{what}");
        assert_eq!(fingerprint(&common::restore(&view)), fingerprint(&view), "{what}");
        cost
    };
    check(&member, "first");
    for line in [
        "RENAME h h2",
        "COPY h2 h",
        "HSET h2 x y",
        "RENAME h2 h",
        "RENAME s s2",
        "COPY s2 s",
        "APPEND s x",
        "SETRANGE s2 7 y",
        "RENAME s s2",
        "COPY h s REPLACE",
        "DEL s",
        "MOVE h 1",
        "SWAPDB 0 1",
        "HSET h z 1",
        "SWAPDB 0 2",
        "FLUSHDB",
        "SWAPDB 2 1",
    ] {
        assert!(!member.run(line).starts_with('-'), "{line}");
        check(&member, line);
    }
    member.run("SWAPDB 0 1");
    member.run("DEL s");
    member.run("FLUSHALL");
    let cost = check(&member, "the end");
    assert_eq!(cost.chunks, 0);
    assert!(checkpoint.chunks.is_empty(), "nothing of it stays behind");
}

#[test]
fn a_value_grows_past_one_piece_and_shrinks_back() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    member.set("hash-max-listpack-entries", 4);
    for round in 0..3 {
        for n in 0..2000 {
            member.run(&format!("HSET h f{n} {round}"));
            if n % 97 == 0 {
                checkpoint.take(&member.keyspace.view());
                assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
            }
        }
        assert!(checkpoint.chunks.len() > 1);
        for n in 0..1999 {
            member.run(&format!("HDEL h f{n}"));
            if n % 97 == 0 {
                checkpoint.take(&member.keyspace.view());
                assert_eq!(fingerprint(&checkpoint.load().unwrap()), fingerprint(&member.keyspace.view()));
            }
        }
        checkpoint.take(&member.keyspace.view());
        assert_eq!(checkpoint.chunks.len(), 1, "it stands with its key again");
    }
    member.run("PEXPIRE h 5");
    fill_hash(&mut member, "h", 3000);
    checkpoint.take(&member.keyspace.view());
    member.now_ms += 5;
    assert_eq!(member.expire_due(10), 1);
    checkpoint.take(&member.keyspace.view());
    assert!(checkpoint.chunks.is_empty());
}

#[test]
fn every_lost_or_foreign_piece_is_found() {
    let mut member = Member::default();
    let mut checkpoint = Checkpoint::default();
    fill_hash(&mut member, "{t}h", 3000);
    fill_hash(&mut member, "{t}other", 3000);
    member.run_args(&args(&[b"SET", b"{t}s", &[b'x'; 50_000]]));
    for n in 0..2000 {
        member.run(&format!("SET {{t}}{n} some-value-of-it"));
    }
    checkpoint.take(&member.keyspace.view());
    let count = checkpoint.chunks.len();
    assert!(count > 20, "{count}");
    for nth in 0..count {
        assert!(checkpoint.load_without(|at| at == nth).is_err(), "chunk {nth} of {count} may be missing");
    }
    assert!(checkpoint.load_without(|at| at >= count / 2).is_err());
    // A chunk of another one's number.
    let ids: Vec<u128> = checkpoint.chunks.keys().copied().collect();
    for two in ids.windows(2) {
        let (one, other) = (checkpoint.chunks[&two[0]].clone(), checkpoint.chunks[&two[1]].clone());
        checkpoint.chunks.insert(two[0], other);
        checkpoint.chunks.insert(two[1], one);
        assert!(checkpoint.load().is_err());
        let other = checkpoint.chunks.remove(&two[0]).unwrap();
        let one = checkpoint.chunks.insert(two[1], other).unwrap();
        checkpoint.chunks.insert(two[0], one);
    }
    checkpoint.load().unwrap();
}

#[test]
fn a_view_lets_go_of_slots_and_not_of_what_is_still_to_come() {
    let mut member = Member::default();
    for db in [0, 1] {
        member.db = db;
        fill_hash(&mut member, "{t}h", 3000);
        member.run_args(&args(&[b"SET", b"{t}s", &[b'x'; 50_000]]));
        for n in 0..1000 {
            member.run(&format!("SET {{t}}{n} some-value-of-it"));
            member.run(&format!("SET {n} some-value-of-it"));
        }
    }
    let (whole, mut going) = (member.keyspace.view(), member.keyspace.view());
    let encoded = |view: &View, id| {
        let mut bytes = Vec::new();
        view.encode(id, &mut bytes);
        bytes
    };
    let chunks: Vec<u128> = whole.chunks().map(|(id, _)| id).collect();
    for id in chunks {
        assert_eq!(encoded(&going, id), encoded(&whole, id), "{id:032x}");
        going.release(id);
    }
    going.release(u128::MAX);
    assert_eq!(going.chunks().count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Run(String, u64),
    Fields(u8, u16, u16, u16),
    Checkpoint,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop_oneof![(0..3u8).prop_map(|n| format!("{{t}}{n}")), (0..2u8).prop_map(|n| format!("k{n}"))];
    let offset = || prop_oneof![0..40_000u32, 0..400_000u32];
    let run = |line: String| Step::Run(line, 3);
    let size = || prop_oneof![4 => 1..40usize, 1 => 1..6000usize];
    prop_oneof![
        4 => (key(), 0..300u16, size()).prop_map(move |(k, f, n)| run(format!("HSET h{k} f{f} {}", "v".repeat(n)))),
        2 => (key(), 0..300u16).prop_map(move |(k, f)| run(format!("HDEL h{k} f{f}"))),
        2 => (0..5u8, 0..1000u16, 0..1500u16, 1..60u16).prop_map(|(k, f, n, v)| Step::Fields(k, f, n, v)),
        2 => (key(), 0..40_000usize).prop_map(move |(k, n)| run(format!("SET {k} {}", "s".repeat(n.max(1))))),
        2 => (key(), 1..9000usize).prop_map(move |(k, n)| run(format!("APPEND {k} {}", "a".repeat(n)))),
        3 => (key(), offset(), 1..30usize).prop_map(move |(k, o, n)| run(format!("SETRANGE {k} {o} {}", "r".repeat(n)))),
        1 => (key(), offset()).prop_map(move |(k, o)| run(format!("SETBIT {k} {o} 1"))),
        1 => (key(), offset()).prop_map(move |(k, o)| run(format!("BITFIELD {k} INCRBY u16 {o} 77 SET i8 {o} -1"))),
        1 => (key(), key()).prop_map(move |(a, b)| run(format!("BITOP XOR {a} {a} {b}"))),
        1 => (key(), key()).prop_map(move |(a, b)| run(format!("RENAME h{a} h{b}"))),
        1 => (key(), key()).prop_map(move |(a, b)| run(format!("COPY h{a} h{b} REPLACE"))),
        1 => (key(), key()).prop_map(move |(a, b)| run(format!("COPY {a} {b} REPLACE"))),
        1 => (key(), key()).prop_map(move |(a, b)| run(format!("RENAME {a} {b}"))),
        1 => (key(), prop_oneof![Just(""), Just("h")]).prop_map(move |(k, h)| run(format!("DEL {h}{k}"))),
        1 => (key(), 1..200u16, prop_oneof![Just(""), Just("h")])
            .prop_map(move |(k, t, h)| run(format!("PEXPIRE {h}{k} {t}"))),
        1 => (key(), prop_oneof![Just(""), Just("h")]).prop_map(move |(k, h)| run(format!("MOVE {h}{k} 1"))),
        1 => Just("SWAPDB 0 1".to_owned()).prop_map(run),
        1 => prop_oneof![9 => Just("DBSIZE"), 1 => Just("FLUSHDB")].prop_map(move |line| run(line.to_owned())),
        6 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
    ]
}

fn run(member: &mut Member, step: &Step) -> String {
    match step {
        Step::Run(line, pause) => {
            member.now_ms += pause;
            member.run(line)
        }
        Step::Fields(key, from, count, value) => {
            let mut words = args(&[b"HSET", if *key < 3 { b"h{t}" } else { b"hk" }]);
            words[1].extend_from_slice(key.to_string().as_bytes());
            for n in *from..from + count + 1 {
                words.push(format!("f{n}").into_bytes());
                words.push(vec![b'w'; usize::from(*value)]);
            }
            member.run_args(&words)
        }
        Step::Checkpoint | Step::Restart => String::new(),
    }
}

/// Everything a client can see of the large values.
fn seen(member: &mut Member) -> Vec<String> {
    let mut seen = vec![member.run("DBSIZE"), member.run("SCAN 0 COUNT 1000"), member.run("RANDOMKEY")];
    for key in ["{t}0", "{t}1", "{t}2", "k0", "k1", "k3", "k4"] {
        for line in ["GET", "BITCOUNT", "BITPOS", "GETRANGE", "OBJECT ENCODING", "DUMP", "PTTL"] {
            let rest = match line {
                "BITPOS" => " 1 100 -5",
                "GETRANGE" => " 7000 19000",
                _ => "",
            };
            seen.push(member.run(&format!("{line} {key}{rest}")));
        }
        for line in ["HLEN h", "HGETALL h", "HRANDFIELD h", "HSCAN h", "HGET h"] {
            let rest = match line {
                "HSCAN h" => " 0 COUNT 50",
                "HGET h" => " f7",
                _ => "",
            };
            seen.push(member.run(&format!("{line}{key}{rest}")));
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn checkpoints_of_changing_values_are_the_values(steps in prop::collection::vec(step(), 1..80)) {
        let mut member = Member::default();
        // One that never restarts, and takes no views.
        let mut quiet = Member::default();
        let mut checkpoint = Checkpoint::default();
        member.set("hash-max-listpack-entries", 8);
        quiet.set("hash-max-listpack-entries", 8);
        for step in &steps {
            prop_assert_eq!(run(&mut member, step), run(&mut quiet, step));
            if matches!(step, Step::Run(..) | Step::Fields(..)) {
                continue;
            }
            let view = member.keyspace.view();
            checkpoint.take(&view);
            let loaded = checkpoint.load().map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(fingerprint(&loaded), fingerprint(&view));
            prop_assert_eq!(fingerprint(&view), fingerprint(&quiet.keyspace.view()));
            if matches!(step, Step::Restart) {
                member.keyspace = Keyspace::from_view(&loaded);
                checkpoint.book = member.keyspace.view().chunks().collect();
                checkpoint.revision = Some(member.keyspace.view().revision());
                prop_assert!(checkpoint.book.keys().eq(checkpoint.chunks.keys()));
                prop_assert_eq!(seen(&mut member), seen(&mut quiet));
            }
        }
        prop_assert_eq!(seen(&mut member), seen(&mut quiet));
    }
}
