//! What a key costs in memory and time: `cargo bench -p quorate-keyspace --bench measure`.
//!
//! One million keys of 16 bytes with values of 100, set through `apply` in entries of 64 commands, as the proposer
//! makes them under load. Prints figures; asserts nothing, for they are the machine's. Time is that of this thread on
//! a processor, so what else runs disturbs the caches only.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use quorate_keyspace::{
    Args, Keyspace, Proto, ReplyBuf, Restore, Stamp, UnitHead, UnitKind, encode_entry, encode_unit, spec,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: usize = 1_000_000;
const BATCH: usize = 64;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).map_or(0, |pages| pages * 4096)
}

/// Nanoseconds this thread has run.
fn spent_ns() -> u64 {
    // The kernel brings the figure up to date when the thread gives way.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn key(n: usize) -> Bytes {
    // Spread over the whole range, so that the order of keys is not that of memory.
    Bytes::from(format!("key:{:012}", n.wrapping_mul(7_368_787) % KEYS))
}

fn entry(commands: &[Vec<Bytes>]) -> BytesMut {
    let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
    let units: Vec<Bytes> =
        commands.iter().map(|args| encode_unit(head, [(0u16, args.as_slice())].into_iter())).collect();
    let mut out = BytesMut::new();
    encode_entry(Stamp { time_ms: 1, seed: 1 }, &units, &mut out);
    out
}

fn entries(command: impl Fn(usize) -> Vec<Bytes>) -> impl Iterator<Item = BytesMut> {
    (0..KEYS).step_by(BATCH).map(move |from| {
        let commands: Vec<_> = (from..KEYS.min(from + BATCH)).map(&command).collect();
        entry(&commands)
    })
}

fn apply_all(keyspace: &mut Keyspace, what: &str, command: impl Fn(usize) -> Vec<Bytes>) {
    let entries: Vec<BytesMut> = entries(command).collect();
    for (role, want_replies) in [("leader", true), ("follower", false)] {
        let begun = spent_ns();
        for entry in &entries {
            black_box(keyspace.apply(entry, want_replies)).expect("our own entry");
        }
        println!("{what:28} {role:9} {:6} ns", (spent_ns() - begun) / KEYS as u64);
    }
}

fn main() {
    let mut keyspace = Keyspace::new(16, [3, 5]);
    let value = Bytes::from(vec![b'x'; 100]);
    let longer = Bytes::from(vec![b'x'; 101]);
    let set = |n| vec![Bytes::from_static(b"SET"), key(n), Bytes::from(vec![b'x'; 100])];
    let empty = resident_bytes();
    for entry in entries(set) {
        keyspace.apply(&entry, true).expect("our own entry");
    }
    println!("{:28} {:16} B a key", "memory", (resident_bytes() - empty) / KEYS);
    apply_all(&mut keyspace, "SET, same length", set);
    apply_all(&mut keyspace, "SET, other length", |n| {
        let value = if n % 2 == 0 { &value } else { &longer };
        vec![Bytes::from_static(b"SET"), key(n + 1), value.clone()]
    });
    let begun = spent_ns();
    let mut views = Vec::new();
    views.resize_with(1000, || keyspace.view());
    println!("{:28} {:16} ns", "view", (spent_ns() - begun) / 1000);
    let view = keyspace.view();
    views.clear();
    apply_all(&mut keyspace, "SET, under a view", set);
    let begun = spent_ns();
    let encode = |chunk| {
        let mut bytes = Vec::new();
        view.encode(chunk, &mut bytes);
        (chunk, bytes)
    };
    let chunks: Vec<(u128, Vec<u8>)> = view.chunks().map(|(chunk, _)| encode(chunk)).collect();
    let size: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("{:28} {:16} ms, {} MB", "encode a view", (spent_ns() - begun) / 1_000_000, size >> 20);
    let begun = spent_ns();
    let mut restore = Restore::new(&view.header()).expect("our own header");
    chunks.iter().for_each(|(chunk, bytes)| restore.add(*chunk, bytes).expect("our own chunk"));
    let restored = Keyspace::from_view(&restore.finish().expect("all chunks"));
    println!("{:28} {:16} ms, {} keys", "restore it", (spent_ns() - begun) / 1_000_000, restored.dbsize(0));
    drop(restored);
    drop(view);
    apply_all(&mut keyspace, "INCR on 100 keys", |n| {
        vec![Bytes::from_static(b"INCR"), Bytes::from(format!("counter:{}", n % 100))]
    });
    apply_all(&mut keyspace, "HSET of 100 hashes", |n| {
        let (hash, field) = (Bytes::from(format!("hash:{}", n % 100)), Bytes::from(format!("f{}", n / 100 % 50)));
        vec![Bytes::from_static(b"HSET"), hash, field, Bytes::from_static(b"value")]
    });
    apply_all(&mut keyspace, "SET, 10,000 keys", |n| set(n % 10_000));
    get_all(&keyspace, "GET", (0..KEYS).map(key).collect());
    get_all(&keyspace, "GET, 10,000 keys", (0..KEYS).map(|n| key(n % 10_000)).collect());
}

fn get_all(keyspace: &Keyspace, what: &str, keys: Vec<Bytes>) {
    let get = spec::lookup(b"get").expect("the table");
    let mut out = ReplyBuf::new(Proto::Resp2);
    let begun = spent_ns();
    for (n, key) in keys.iter().enumerate() {
        keyspace.read(1, 0, 0, get, Args::new(&[b"GET", key], 1), &mut out);
        if n % BATCH == 0 {
            drop(black_box(out.take()));
        }
    }
    println!("{what:28} {:16} ns", (spent_ns() - begun) / KEYS as u64);
}
