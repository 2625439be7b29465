//! The three costs that every write pays, each alone: parsing its bytes, applying its entry, and a proposal through
//! the log of a group of one on the real disk. `cargo bench --bench micro`.

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate::engine::Engine;
use quorate::env::SystemEnv;
use quorate::metrics::Metrics;
use quorate::resp::{Limits, Parser, encode_command};
use quorate_keyspace::entry::{Stamp, encode_entry};
use quorate_keyspace::{Keyspace, Moment, Proto, UnitHead, UnitKind, encode_found_unit, encode_unit};
use quorate_raft::{Group, Identity, Member, Node, NodeConfig, Start};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const SEED: [u64; 2] = [11, 22];
const BATCH: u64 = 256;

fn key(number: u64) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

fn set(number: u64) -> [Vec<u8>; 3] {
    [b"SET".to_vec(), key(number), vec![b'v'; 100]]
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let mut pipeline = BytesMut::new();
    for number in 0..BATCH {
        encode_command(&set(number), &mut pipeline);
    }
    let pipeline = pipeline.freeze();
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("a pipeline of 256 SETs", |bencher| {
        let fresh = || (Parser::new(), BytesMut::from(&pipeline[..]));
        bencher.iter_batched(
            fresh,
            |(mut parser, mut buffer)| {
                while let Ok(Some(command)) = parser.next(&mut buffer, &Limits::DEFAULT) {
                    black_box(&command);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn unit(commands: &[Vec<Vec<u8>>]) -> Bytes {
    let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
    encode_unit(head, commands.iter().map(|args| (0, &args[..])))
}

fn entry(units: &[Bytes]) -> Bytes {
    let mut out = BytesMut::new();
    encode_entry(Stamp { time_ms: 1_700_000_000_000, seed: 5 }, units, &mut out);
    out.freeze()
}

/// A keyspace with 100,000 keys.
fn filled() -> Keyspace {
    let mut keyspace = Keyspace::new(16, SEED);
    for chunk in 0..100 {
        let commands: Vec<Vec<Vec<u8>>> =
            (chunk * 1000..chunk * 1000 + 1000).map(|number| set(number).into()).collect();
        keyspace.apply(&entry(&[unit(&commands)]), false).expect("an entry of ours");
    }
    keyspace
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH));
    // Spread over the keys, as real ones are.
    let numbers = || (0..BATCH).map(|number| number * 7919 % 100_000);
    let sets: Vec<Bytes> = numbers().map(|number| unit(&[set(number).into()])).collect();
    let incrs: Vec<Bytes> =
        (0..BATCH).map(|number| unit(&[vec![b"INCR".to_vec(), format!("counter:{number}").into_bytes()]])).collect();
    for (name, units) in [("256 SETs", &sets), ("256 INCRs", &incrs)] {
        let entry = entry(units);
        for (whose, want_replies) in [("with replies", true), ("on a follower", false)] {
            let mut keyspace = filled();
            group.bench_function(format!("{name} {whose}"), |bencher| {
                bencher.iter(|| black_box(keyspace.apply(&entry, want_replies)));
            });
        }
    }
    let keyspace = filled();
    let gets: Vec<Vec<Vec<u8>>> = numbers().map(|number| vec![b"GET".to_vec(), key(number)]).collect();
    let gets = unit(&gets);
    group.bench_function("256 GETs", |bencher| {
        bencher.iter(|| black_box(keyspace.read_unit(&Moment::new(1_700_000_000_000, 1), &gets, usize::MAX)));
    });
    group.finish();
}

async fn group_of_one(dir: &std::path::Path) -> (Node, Group) {
    let identity = Identity { cluster: Uuid::new_v4(), member: 1, incarnation: Uuid::new_v4() };
    let config = NodeConfig::new(identity, dir, "127.0.0.1:0");
    let node = Node::open(config).await.expect("a node");
    let peer = node.peer_addr().to_string();
    let me = Member { peer, incarnation: identity.incarnation, wants_vote: true, ..Member::default() };
    let engine = Engine::new(Keyspace::new(16, SEED), Arc::new(SystemEnv), Arc::new(Metrics::new(Vec::new())));
    let group = node.open_group(0, Arc::new(engine), Start::Bootstrap(me)).await.expect("a group");
    group.wait_leader(Duration::from_secs(30)).await.expect("it leads itself");
    group.propose(encode_found_unit(16, SEED)).await.expect("the first entry");
    (node, group)
}

fn propose(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (node, group) = runtime.block_on(group_of_one(dir.path()));
    let mut benchmarks = criterion.benchmark_group("propose");
    for at_once in [1_u64, 50, 800] {
        let units: Vec<Bytes> = (0..at_once).map(|number| unit(&[set(number).into()])).collect();
        benchmarks.throughput(Throughput::Elements(at_once));
        benchmarks.bench_function(format!("{at_once} at once, on the real disk"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let proposals = units.iter().map(|unit| group.propose(unit.clone()));
                    for outcome in futures_util::future::join_all(proposals).await {
                        outcome.expect("acknowledged");
                    }
                });
            });
        });
    }
    benchmarks.finish();
    runtime.block_on(node.shutdown(Duration::from_secs(10)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(4));
    targets = parse, apply, propose
}
criterion_main!(benches);
