//! Keys of any type: what goldens can't show, because it hangs on time, chance, or what happens in between.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Member, words};
use quorate_keyspace::Args;

/// The strings of a reply, in their order.
fn strings(reply: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = reply.split("\\r\\n");
    while let Some(line) = lines.next() {
        if line.starts_with('$') && line != "$-1" {
            found.push(lines.next().expect("the string").to_owned());
        }
    }
    found
}

/// A page of SCAN: the next cursor and the keys.
fn page(member: &mut Member, line: &str) -> (String, Vec<String>) {
    let mut found = strings(&member.run(line));
    let cursor = found.remove(0);
    (cursor, found)
}

fn scan_all(member: &mut Member, options: &str) -> Vec<String> {
    let (mut cursor, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let (next, keys) = page(member, &format!("SCAN {cursor} {options}"));
        all.extend(keys);
        cursor = next;
        if cursor == "0" {
            return all;
        }
    }
}

#[test]
fn a_scan_of_a_quiet_database_names_each_key_once() {
    let mut member = Member::default();
    for n in 0..1000 {
        member.expect(&format!("SET key:{n} v"), "+OK\r\n");
    }
    for n in 0..50 {
        member.expect(&format!("HSET {{one}}{n} f v"), ":1\r\n");
    }
    for options in ["", "COUNT 1", "COUNT 7", "COUNT 100000", "MATCH *"] {
        let all = scan_all(&mut member, options);
        assert_eq!(all.len(), 1050, "{options}");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1050, "{options}");
    }
    assert_eq!(scan_all(&mut member, "MATCH key:1??").len(), 100);
    assert_eq!(scan_all(&mut member, "TYPE hash COUNT 3").len(), 50);
    assert_eq!(scan_all(&mut member, "TYPE string MATCH *9 COUNT 30").len(), 100);
}

#[test]
fn a_page_of_a_scan_is_about_as_long_as_asked_for() {
    let mut member = Member::default();
    for n in 0..1000 {
        // All in one slot, so that pages are cut inside of it.
        member.expect(&format!("SET {{t}}{n} v"), "+OK\r\n");
    }
    for count in [1, 10, 100] {
        let (cursor, keys) = page(&mut member, &format!("SCAN 0 COUNT {count}"));
        assert_ne!(cursor, "0");
        assert!((count..count + 70).contains(&keys.len()), "{count}: {}", keys.len());
    }
}

#[test]
fn keys_that_stay_are_seen_by_a_scan_whatever_else_happens() {
    let mut member = Member::default();
    for n in 0..500 {
        member.run(&format!("SET stay:{n} v"));
        member.run(&format!("SET {{t}}stay:{n} v"));
    }
    let (mut cursor, mut seen, mut round) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let (next, keys) = page(&mut member, &format!("SCAN {cursor} COUNT 20"));
        seen.extend(keys.into_iter().filter(|key| key.contains("stay")));
        cursor = next;
        if cursor == "0" {
            break;
        }
        round += 1;
        for n in 0..40 {
            member.run(&format!("SET {{t}}come:{round}:{n} v"));
            member.run(&format!("SET come:{round}:{n} v"));
            member.run(&format!("DEL {{t}}come:{}:{n}", round / 2));
        }
        // Another member takes over in the middle: its pages go on where these ended.
        if round % 7 == 0 {
            member = member.restored();
        }
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn a_stale_cursor_is_no_error() {
    let mut member = Member::default();
    member.run("SET k v");
    for cursor in ["1", "4294967295", "70368744177664", "9223372036854775807", "18446744073709551615", "-1", "+0"] {
        assert!(member.run(&format!("SCAN {cursor}")).starts_with("*2"), "{cursor}");
    }
}

#[test]
fn randomkey_is_fair_and_passes_over_what_has_ended() {
    let mut member = Member::default();
    for n in 0..10 {
        member.run(&format!("SET live:{n} v"));
    }
    let mut seen = BTreeMap::new();
    for seed in 0..2000 {
        member.seed = seed;
        *seen.entry(member.run("RANDOMKEY")).or_insert(0_u32) += 1;
    }
    assert_eq!(seen.len(), 10);
    assert!(seen.values().all(|count| (120..280).contains(count)), "{seen:?}");

    for n in 0..990 {
        member.run(&format!("SET ended:{n} v PX 10"));
    }
    member.now_ms += 10;
    for seed in 0..200 {
        member.seed = seed;
        assert!(member.run("RANDOMKEY").contains("live:"));
    }
    member.run("DEL live:0 live:1 live:2 live:3 live:4 live:5 live:6 live:7 live:8 live:9");
    member.expect("RANDOMKEY", "$-1\r\n");
}

#[test]
fn a_key_ends_to_the_millisecond_for_every_read() {
    let mut member = Member::default();
    for line in ["SET s v", "HSET h f v"] {
        member.run(line);
    }
    member.expect("PEXPIRE s 1500", ":1\r\n");
    member.expect("EXPIRE h 1", ":1\r\n");
    member.expect("PEXPIRE h 1500", ":1\r\n");
    member.expect("PTTL s", ":1500\r\n");
    member.expect("TTL s", ":2\r\n");
    member.now_ms += 1;
    member.expect("TTL s", ":1\r\n");
    member.now_ms += 1498;
    member.expect("EXISTS s h", ":2\r\n");
    member.expect("PTTL s", ":1\r\n");
    member.expect("TTL s", ":0\r\n");
    member.now_ms += 1;
    let gone = [
        ("EXISTS s h", ":0\r\n"),
        ("TOUCH s h", ":0\r\n"),
        ("TYPE s", "+none\r\n"),
        ("GET s", "$-1\r\n"),
        ("HGETALL h", "*0\r\n"),
        ("HGET h f", "$-1\r\n"),
        ("HLEN h", ":0\r\n"),
        ("HSCAN h 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ("TTL s", ":-2\r\n"),
        ("PTTL s", ":-2\r\n"),
        ("PEXPIRETIME s", ":-2\r\n"),
        ("DUMP s", "$-1\r\n"),
        ("OBJECT ENCODING h", "$-1\r\n"),
        ("KEYS *", "*0\r\n"),
        ("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ("RANDOMKEY", "$-1\r\n"),
    ];
    for (line, reply) in gone {
        member.expect(line, reply);
    }
    // Reads removed nothing.
    member.expect("DBSIZE", ":2\r\n");
    assert_eq!(member.expire_due(10), 2);
    member.expect("DBSIZE", ":0\r\n");
}

#[test]
fn a_write_finds_no_key_that_has_ended() {
    let wrote = [
        ("DEL k", ":0\r\n"),
        ("UNLINK k", ":0\r\n"),
        ("EXPIRE k 10", ":0\r\n"),
        ("PERSIST k", ":0\r\n"),
        ("RENAME k other", "-ERR no such key\r\n"),
        ("RENAMENX k other", "-ERR no such key\r\n"),
        ("COPY k other", ":0\r\n"),
        ("MOVE k 1", ":0\r\n"),
        ("RENAMENX live k", ":1\r\n"),
        ("COPY live k", ":1\r\n"),
        ("HDEL k f", ":0\r\n"),
        ("HSET k g 1", ":1\r\n"),
        ("HSETNX k f 1", ":1\r\n"),
        ("HINCRBY k f 1", ":1\r\n"),
        ("HINCRBYFLOAT k f 1.5", "$3\r\n1.5\r\n"),
    ];
    for (line, reply) in wrote {
        let mut member = Member::default();
        member.run("SET live v");
        member.run("HSET k f 41");
        member.run("PEXPIRE k 5");
        member.now_ms += 5;
        member.expect(line, reply);
        let ttl = member.run("PTTL k");
        assert!(["-1", "-2"].iter().any(|none| ttl.contains(none)), "{line} kept the old end: {ttl}");
    }
    let mut member = Member::default();
    member.run("SET k v");
    member.db = 1;
    member.run("SET k w PX 5");
    member.now_ms += 5;
    member.db = 0;
    member.expect("MOVE k 1", ":1\r\n");
    member.db = 1;
    member.expect("GET k", "$1\r\nv\r\n");
    member.expect("TTL k", ":-1\r\n");
}

#[test]
fn what_a_watch_sees() {
    let changes = [
        ("EXPIRE k 100", true),
        ("EXPIRE k 100 GT", false),
        ("EXPIRE other 100", false),
        ("PERSIST k", false),
        ("DEL k", true),
        ("RENAME k k2", true),
        ("RENAME k k", false),
        ("RENAME other2 k", true),
        ("RENAMENX other2 k", false),
        ("COPY k k2", false),
        ("COPY other2 k", false),
        ("COPY other2 k REPLACE", true),
        ("MOVE k 1", true),
        ("TOUCH k", false),
        ("HSET k a 1", true),
        ("HDEL k nope", false),
        ("HSETNX k f 1", false),
        ("HINCRBY k f x", false),
        ("EXPIRE k -1", true),
    ];
    for (line, seen) in changes {
        let mut member = Member::default();
        member.run("HSET k f v");
        member.run("HSET other2 f v");
        let watch = member.watch("k");
        member.run(line);
        let reply = member.transaction(&[watch], &["EXISTS k"]);
        assert_eq!(reply == "*-1\\r\\n", seen, "{line}: {reply}");
    }
}

#[test]
fn a_copy_and_its_source_go_their_own_ways() {
    let mut member = Member::default();
    for n in 0..300 {
        member.run(&format!("HSET h f{n} v"));
    }
    member.run("COPY h i");
    member.run("HSET i f0 changed new v");
    member.run("HDEL h f1");
    member.expect("HGET h f0", "$1\r\nv\r\n");
    member.expect("HLEN h", ":299\r\n");
    member.expect("HLEN i", ":301\r\n");
    member.expect("HEXISTS i f1", ":1\r\n");
}

#[test]
fn idle_time_counts_from_the_last_write() {
    let mut member = Member::default();
    member.run("SET k v");
    member.now_ms += 5_000;
    member.run("TTL k");
    member.run("EXISTS k");
    member.expect("OBJECT IDLETIME k", ":5\r\n");
    member.run("SET k w");
    member.expect("OBJECT IDLETIME k", ":0\r\n");
    let payload = "\"\\x00\\x03bar\\x0a\\x00\\xe6\\xbe\\x49\\x60\\xee\\x66\\xfd\\x17\"";
    member.expect(&format!("RESTORE r 0 {payload} IDLETIME 1000"), "+OK\r\n");
    member.expect("OBJECT IDLETIME r", ":1000\r\n");
}

/// The payload that DUMP answers.
fn dump(member: &Member, key: &str) -> Vec<u8> {
    let mut out = quorate_keyspace::ReplyBuf::new(member.proto);
    let command = quorate_keyspace::spec::lookup(b"dump").expect("a command");
    member.keyspace.read(member.now_ms, 0, 0, command, Args::new(&[b"dump", key.as_bytes()], 1), &mut out);
    let reply = out.take();
    let head = reply.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    reply[head..reply.len() - 2].to_vec()
}

fn restore(member: &mut Member, payload: Vec<u8>) -> String {
    let mut restore = words("RESTORE back 0 payload REPLACE");
    restore[3] = payload;
    member.run_args(&restore)
}

#[test]
fn a_payload_unpacks_to_no_more_than_a_string_may_have() {
    let mut member = Member::default();
    member.run(&format!("SET s {}", "x".repeat(2 << 20)));
    member.run(&format!("HSET h one {0} two {0}", "x".repeat(1 << 20)));
    for key in ["s", "h"] {
        let payload = dump(&member, key);
        assert!(payload.len() < 1 << 15, "{key} is compressed");
        member.set("proto-max-bulk-len", 2 << 20);
        assert_eq!(restore(&mut member, payload.clone()), "+OK\\r\\n", "{key}");
        member.set("proto-max-bulk-len", (2 << 20) - 1);
        assert_eq!(restore(&mut member, payload), "-ERR Bad data format\\r\\n", "{key}");
    }
    member.expect("HLEN back", ":2\r\n");
}

#[test]
fn dumps_are_taken_back() {
    let mut member = Member::default();
    let long = "x".repeat(5_000);
    member.run(&format!("SET s {long}"));
    member.run("HSET small a 1 b two");
    for n in 0..200 {
        member.run(&format!("HSET big field:{n} value:{n}"));
    }
    for key in ["s", "small", "big"] {
        let payload = dump(&member, key);
        assert_eq!(restore(&mut member, payload), "+OK\\r\\n");
        let what = if key == "s" { "GET" } else { "HGETALL" };
        assert_eq!(member.run(&format!("{what} back")), member.run(&format!("{what} {key}")));
        assert_eq!(member.run("OBJECT ENCODING back"), member.run(&format!("OBJECT ENCODING {key}")));
    }
    // The limits of the group decide what a hash becomes, not the payload.
    member.set("hash-max-listpack-entries", 1);
    let small = "\"\\x10\\x16\\x16\\x00\\x00\\x00\\x04\\x00\\x81a\\x02\\x01\\x01\\x81b\\x02\\x85hello\\x06\\xff\\x0a\\x00\\xe8\\xc5\\xfe\\x99\\xee\\x07\\x95]\"";
    member.expect(&format!("RESTORE table 0 {small}"), "+OK\r\n");
    member.expect("OBJECT ENCODING table", "$9\r\nhashtable\r\n");
    member.expect("HGET table b", "$5\r\nhello\r\n");
}
