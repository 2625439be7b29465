//! MIGRATE to a genuine redis-server: it takes every kind of value that there is here, and each error of its is told.

use quorate_testkit::ports::PortBlock;
use quorate_testkit::{Cluster, ClusterOptions, Conn, RedisServer, Value};
use std::net::SocketAddr;

use crate::pair::BINARY;

/// Three members, of which a client asks a follower; and a Redis that takes keys.
struct Sides {
    cluster: Cluster,
    redis: RedisServer,
    _ports: PortBlock,
}

impl Sides {
    fn new() -> Sides {
        let mut ports = PortBlock::take();
        let redis = RedisServer::start(&mut ports, &[]);
        Sides { cluster: Cluster::start(ClusterOptions::new(BINARY).args("--write-timeout 60s")), redis, _ports: ports }
    }

    fn ours(&self) -> Conn {
        self.cluster.members[self.cluster.follower()].conn()
    }
}

fn migrate(conn: &mut Conn, to: SocketAddr, rest: &[&str]) -> Value {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let line = [&["MIGRATE", &host, &port], rest].concat();
    conn.call(&line).expect("a reply")
}

fn error(reply: &Value) -> &str {
    reply.error().unwrap_or_else(|| panic!("no error: {reply:?}"))
}

/// Bytes that no compression makes short.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A key of every form: the commands that make it.
fn values() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let mut all: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("empty", vec![b"".to_vec()]),
        ("text", vec![b"hello".to_vec()]),
        ("int", vec![b"-12345".to_vec()]),
        ("long-int", vec![i64::MAX.to_string().into_bytes()]),
        ("binary", vec![(0..=255).collect()]),
        ("even", vec![vec![b'a'; 100_000]]),
        ("large", vec![noise(40_000)]),
        ("larger-than-a-piece", vec![noise(3 << 19)]),
    ];
    for (_, words) in &mut all {
        words.insert(0, b"SET".to_vec());
    }
    let hash = |fields: usize, length: usize| {
        let pairs = (0..fields).flat_map(|n| [format!("field:{n}").into_bytes(), noise(length + n)]);
        std::iter::once(b"HSET".to_vec()).chain(pairs).collect()
    };
    all.extend([("small-hash", hash(3, 1)), ("hash-of-long-values", hash(3, 100)), ("large-hash", hash(5000, 20))]);
    all
}

fn fill(conn: &mut Conn) -> Vec<&'static str> {
    let values = values();
    for (key, words) in &values {
        let mut line = words.clone();
        line.insert(1, key.as_bytes().to_vec());
        assert!(conn.call(&line).expect("a reply").error().is_none(), "{key}");
    }
    values.into_iter().map(|(key, _)| key).collect()
}

fn value_of(conn: &mut Conn, key: &str) -> Vec<String> {
    let line: &[&str] = if key.contains("hash") { &["HGETALL", key] } else { &["GET", key] };
    let reply = conn.call(line).expect("a reply");
    assert!(reply.error().is_none() && reply != Value::Null, "{key}: {reply:?}");
    let mut items: Vec<String> = reply.items().chunks(2).map(|pair| format!("{pair:?}")).collect();
    if items.is_empty() {
        items.push(format!("{reply:?}"));
    }
    items.sort();
    items
}

#[test]
fn every_kind_of_value_arrives_as_it_was() {
    let sides = Sides::new();
    let (mut ours, mut redis) = (sides.ours(), sides.redis.conn());
    let keys = fill(&mut ours);
    let before: Vec<_> = keys.iter().map(|key| value_of(&mut ours, key)).collect();
    // A copy first: all stay.
    let all = [&["", "0", "60000", "COPY", "KEYS"], &keys[..]].concat();
    assert_eq!(migrate(&mut ours, sides.redis.addr, &all), Value::ok());
    for (key, before) in keys.iter().zip(&before) {
        assert_eq!(&value_of(&mut redis, key), before, "{key} there");
        assert_eq!(&value_of(&mut ours, key), before, "{key} here");
        let encoding = format!("OBJECT ENCODING {key}");
        assert_eq!(redis.cmd(&encoding).unwrap(), ours.cmd(&encoding).unwrap(), "{key}");
    }
    // They are there now: none is taken, none leaves.
    let reply = migrate(&mut ours, sides.redis.addr, &[&["", "0", "60000", "KEYS"], &keys[..]].concat());
    assert_eq!(
        error(&reply),
        "ERR Target instance replied with error: BUSYKEY Target key name already exists.",
        "of all of them once"
    );
    assert_eq!(ours.cmd("DBSIZE").unwrap(), Value::Int(keys.len() as i64));
    // Over what is there, one by one and all together.
    redis.cmd("SET text old").unwrap();
    assert_eq!(migrate(&mut ours, sides.redis.addr, &["text", "0", "60000", "REPLACE"]), Value::ok());
    assert_eq!(redis.cmd("GET text").unwrap(), Value::bulk("hello"));
    assert_eq!(ours.cmd("EXISTS text").unwrap(), Value::Int(0));
    let rest = [&["", "0", "60000", "REPLACE", "KEYS"], &keys[..]].concat();
    assert_eq!(migrate(&mut ours, sides.redis.addr, &rest), Value::ok(), "a key that is not there is passed over");
    assert_eq!(ours.cmd("DBSIZE").unwrap(), Value::Int(0));
    for (key, before) in keys.iter().zip(&before) {
        assert_eq!(&value_of(&mut redis, key), before, "{key} there");
    }
    assert_eq!(migrate(&mut ours, sides.redis.addr, &rest), Value::Simple("NOKEY".into()));
    // And back: Redis moves them to us.
    let target = sides.cluster.members[sides.cluster.leader()].client;
    assert_eq!(migrate(&mut redis, target, &rest), Value::ok());
    for (key, before) in keys.iter().zip(&before) {
        assert_eq!(&value_of(&mut ours, key), before, "{key} back here");
    }
    assert_eq!(redis.cmd("DBSIZE").unwrap(), Value::Int(0));
}

#[test]
fn time_to_live_database_and_many_keys_go_along() {
    let sides = Sides::new();
    let (mut ours, mut redis) = (sides.ours(), sides.redis.conn());
    ours.cmd("SELECT 3").unwrap();
    ours.cmd("SET a 1 PX 500000").unwrap();
    ours.cmd("HSET h f v").unwrap();
    ours.cmd("SET past x PXAT 1").unwrap();
    let reply = migrate(&mut ours, sides.redis.addr, &["", "5", "60000", "KEYS", "a", "past", "h", "nothing"]);
    assert_eq!(reply, Value::ok());
    assert_eq!(ours.cmd("DBSIZE").unwrap(), Value::Int(0));
    assert_eq!(redis.cmd("DBSIZE").unwrap(), Value::Int(0), "nothing in another database");
    redis.cmd("SELECT 5").unwrap();
    let left = redis.cmd("PTTL a").unwrap().as_int().expect("milliseconds");
    assert!((1..=500_000).contains(&left), "{left}");
    assert_eq!(redis.cmd("TTL h").unwrap(), Value::Int(-1));
    assert_eq!(redis.cmd("EXISTS past").unwrap(), Value::Int(0));
    // More than go in one piece.
    let keys: Vec<String> = (0..2000).map(|n| format!("key:{n}")).collect();
    let pairs: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "value"]).collect();
    assert_eq!(ours.call(&[&["MSET"], &pairs[..]].concat()).unwrap(), Value::ok());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let head = ["", "6", "60000", "KEYS"];
    redis.cmd("SELECT 6").unwrap();
    redis.cmd("SET key:7 theirs").unwrap();
    let reply = migrate(&mut ours, sides.redis.addr, &[&head, &keys[..]].concat());
    assert_eq!(error(&reply), "ERR Target instance replied with error: BUSYKEY Target key name already exists.");
    assert_eq!(redis.cmd("DBSIZE").unwrap(), Value::Int(2000));
    assert_eq!(redis.cmd("GET key:7").unwrap(), Value::bulk("theirs"));
    assert_eq!(ours.cmd("DBSIZE").unwrap(), Value::Int(1), "all that the target took are gone, the other is not");
    assert_eq!(ours.cmd("GET key:7").unwrap(), Value::bulk("value"));
}

#[test]
fn what_the_target_refuses_stays_here() {
    let sides = Sides::new();
    let mut ours = sides.ours();
    let mut redis = sides.redis.conn();
    assert_eq!(redis.cmd("CONFIG SET requirepass secret").unwrap(), Value::ok());
    ours.cmd("SET k v").unwrap();
    for (rest, text) in [
        (&["k", "0", "60000"][..], "NOAUTH"),
        (&["k", "0", "60000", "AUTH", "wrong"], "WRONGPASS"),
        (&["k", "0", "60000", "AUTH2", "nobody", "secret"], "WRONGPASS"),
        (&["k", "99", "60000", "AUTH", "secret"], "ERR DB index is out of range"),
        (&["k", "-1", "60000", "AUTH", "secret"], "ERR DB index is out of range"),
    ] {
        let reply = migrate(&mut ours, sides.redis.addr, rest);
        let head = format!("ERR Target instance replied with error: {text}");
        assert!(error(&reply).starts_with(&head), "{rest:?}: {reply:?}");
        assert_eq!(ours.cmd("GET k").unwrap(), Value::bulk("v"), "{rest:?}");
        assert_eq!(redis.cmd("DBSIZE").unwrap(), Value::Int(0), "{rest:?}: not into database 0 either");
    }
    ours.cmd("CONFIG SET slowlog-log-slower-than 0").unwrap();
    let reply = migrate(&mut ours, sides.redis.addr, &["k", "0", "60000", "COPY", "AUTH2", "default", "secret"]);
    assert_eq!(reply, Value::ok());
    assert_eq!(migrate(&mut ours, sides.redis.addr, &["k", "0", "60000", "AUTH", "secret", "REPLACE"]), Value::ok());
    assert_eq!(redis.cmd("GET k").unwrap(), Value::bulk("v"));
    assert_eq!(ours.cmd("EXISTS k").unwrap(), Value::Int(0));
    let log = format!("{:?}", ours.cmd("SLOWLOG GET 10").unwrap());
    assert!(log.contains("MIGRATE") && log.contains("(redacted)") && !log.contains("secret"), "{log}");
}
