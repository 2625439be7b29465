//! What one change of a large value costs: `cargo bench -p quorate-keyspace --bench large`.
//!
//! A hash of ten million fields and a string of 256 MB, each changed right after a view was taken, when everything is
//! shared; and what the next checkpoint has to write for that. Then how long their removal takes. Prints figures; asserts
//! nothing.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures; nothing here is applied")]

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quorate_keyspace::{Keyspace, Proto, Stamp, UnitHead, UnitKind, encode_entry, encode_unit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FIELDS: usize = 10_000_000;
const STRING: usize = 256 << 20;
const ROUNDS: usize = 200;

fn entry(args: &[Vec<u8>]) -> BytesMut {
    let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
    let unit: Bytes = encode_unit(head, [(0u16, args)].into_iter());
    let mut out = BytesMut::new();
    encode_entry(Stamp { time_ms: 1, seed: 1 }, &[unit], &mut out);
    out
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// The median time of a command right after a view, and what a checkpoint of the last one writes.
fn after_a_view(keyspace: &mut Keyspace, what: &str, line: impl Fn(usize) -> String) {
    let mut times = Vec::new();
    let mut cost = (0, 0);
    for round in 0..ROUNDS {
        let view = keyspace.view();
        let entry = entry(&words(&line(round)));
        let begun = Instant::now();
        black_box(keyspace.apply(&entry, true)).expect("our own entry");
        times.push(begun.elapsed());
        let now = keyspace.view();
        let chunks = now.changes(view.revision()).flat_map(|change| change.chunks);
        let mut bytes = Vec::new();
        cost = (0, 0);
        for (id, _) in chunks.filter(|(_, at)| *at > view.revision()) {
            bytes.clear();
            now.encode(id, &mut bytes);
            cost = (cost.0 + 1, cost.1 + bytes.len());
        }
    }
    times.sort_unstable();
    let (median, worst) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("{what:44} median {median:>10.1?}  worst {worst:>10.1?}  {} chunks of {} bytes", cost.0, cost.1);
}

fn main() {
    let mut keyspace = Keyspace::new(1, [0x1234, 0x5678]);
    for from in (0..FIELDS).step_by(1000) {
        let mut args = words("HSET h");
        for n in from..from + 1000 {
            args.push(format!("field:{n}").into_bytes());
            args.push(format!("value:{n}").into_bytes());
        }
        keyspace.apply(&entry(&args), false).expect("our own entry");
    }
    let args = [b"SET".to_vec(), b"s".to_vec(), vec![b'x'; STRING]];
    keyspace.apply(&entry(&args), false).expect("our own entry");
    after_a_view(&mut keyspace, "HSET into 10 M fields, after a view", |n| format!("HSET h field:{} other", n * 7919));
    after_a_view(&mut keyspace, "HSET of a new field, after a view", |n| format!("HSET h new:{n} v"));
    after_a_view(&mut keyspace, "HDEL from 10 M fields, after a view", |n| format!("HDEL h field:{}", n * 104_729 + 1));
    after_a_view(&mut keyspace, "APPEND to 256 MB, after a view", |_| "APPEND s some-more".to_owned());
    after_a_view(&mut keyspace, "SETRANGE in 256 MB, after a view", |n| format!("SETRANGE s {} y", n * 1_000_003));
    after_a_view(&mut keyspace, "SETBIT in 256 MB, after a view", |n| format!("SETBIT s {} 1", n * 10_000_019));
    let begun = Instant::now();
    let chunks = keyspace.view().chunks().count();
    println!("{:44} {chunks} in {:.1?}", "a list of all chunks", begun.elapsed());
    let before = keyspace.view();
    let begun = Instant::now();
    assert_eq!(before.changes(before.revision()).count(), 0);
    println!("{:44} {:.1?}", "a look for changes where there are none", begun.elapsed());
    drop(before);
    remove(&mut keyspace, "DEL of 10 M fields", "DEL h");
    remove(&mut keyspace, "SET over 256 MB", "SET s short");
}

/// How long entries behind it wait for the removal of what nobody shares, and how long it takes to free it elsewhere.
fn remove(keyspace: &mut Keyspace, what: &str, line: &str) {
    let entry = entry(&words(line));
    let begun = Instant::now();
    black_box(keyspace.apply(&entry, true)).expect("our own entry");
    let garbage = keyspace.take_garbage();
    let applied = begun.elapsed();
    drop(garbage);
    println!("{what:44} {applied:.1?}, and {:.1?} to free it elsewhere", begun.elapsed() - applied);
}
