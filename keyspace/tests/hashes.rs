//! Hashes: what goldens can't show, because it hangs on chance or on what happens in between.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::Member;
use quorate_keyspace::Proto;

fn strings(reply: &str) -> Vec<String> {
    let lines: Vec<&str> = reply.split("\\r\\n").collect();
    lines.windows(2).filter(|two| two[0].starts_with('$')).map(|two| two[1].to_owned()).collect()
}

/// Ten fields, packed or as a table.
fn ten(table: bool) -> Member {
    let mut member = Member::default();
    if table {
        member.set("hash-max-listpack-entries", 2);
    }
    for n in 0..10 {
        member.run(&format!("HSET h field{n} value{n}"));
    }
    let encoding = if table { "$9\r\nhashtable\r\n" } else { "$8\r\nlistpack\r\n" };
    member.expect("OBJECT ENCODING h", encoding);
    member
}

/// Pearson's statistic against ten equal chances: with 9 degrees of freedom 40 is one in a hundred thousand.
fn chi_square(seen: &BTreeMap<String, u32>) -> f64 {
    let total: u32 = seen.values().sum();
    let expected = f64::from(total) / 10.0;
    seen.values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

#[test]
fn random_fields_are_fair() {
    for table in [false, true] {
        // One by one, with repeats, and two kinds of distinct ones: few of many and most of them.
        for (line, each) in [("HRANDFIELD h", 1), ("HRANDFIELD h -3", 3), ("HRANDFIELD h 2", 2), ("HRANDFIELD h 8", 8)]
        {
            let mut member = ten(table);
            let mut seen = BTreeMap::new();
            for seed in 0..2000 {
                member.seed = seed;
                let fields = strings(&member.run(line));
                assert_eq!(fields.len(), each);
                fields.into_iter().for_each(|field| *seen.entry(field).or_insert(0) += 1);
            }
            assert_eq!(seen.len(), 10, "{line}");
            let chi_square = chi_square(&seen);
            assert!(chi_square < 40.0, "{line} {table}: {chi_square} of {seen:?}");
        }
    }
}

#[test]
fn distinct_fields_are_distinct_and_keep_their_values() {
    for table in [false, true] {
        let mut member = ten(table);
        for count in 0..12 {
            for seed in 0..50 {
                member.seed = seed;
                let flat = strings(&member.run(&format!("HRANDFIELD h {count} WITHVALUES")));
                let fields: BTreeSet<&String> = flat.iter().step_by(2).collect();
                assert_eq!(fields.len(), count.min(10));
                assert_eq!(flat.len(), 2 * count.min(10));
                assert!(flat.chunks(2).all(|pair| pair[0].replace("field", "value") == pair[1]), "{flat:?}");
            }
        }
    }
}

#[test]
fn chance_is_the_seed_and_nothing_else() {
    for table in [false, true] {
        let mut member = ten(table);
        let mut other = member.restored();
        let mut rows = BTreeSet::new();
        for seed in 0..20 {
            (member.seed, other.seed) = (seed, seed);
            let row = member.run("HRANDFIELD h -50");
            assert_eq!(row, other.run("HRANDFIELD h -50"));
            // Inside of a transaction the seed is the entry's.
            let unit =
                member.unit(quorate_keyspace::UnitKind::Transaction, &[], &["HRANDFIELD h -50", "HRANDFIELD h 3"]);
            assert_eq!(member.apply(unit.clone()), other.apply(unit));
            rows.insert(row);
        }
        assert_eq!(rows.len(), 20);
    }
}

#[test]
fn a_reply_without_end_is_refused() {
    let mut member = ten(false);
    member.expect("HRANDFIELD h -4611686018427387904", "-ERR the reply would be longer than 512 MB\r\n");
    member.expect("HRANDFIELD h -100000000 WITHVALUES", "-ERR the reply would be longer than 512 MB\r\n");
    assert_eq!(strings(&member.run("HRANDFIELD h -1001")).len(), 1001);
}

#[test]
fn resp3_gives_pairs_and_maps() {
    let mut member = Member { proto: Proto::Resp3, ..Member::default() };
    member.run("HSET h a 1");
    member.expect("HRANDFIELD h -2 WITHVALUES", "*2\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    member.expect("HGETALL h", "%1\r\n$1\r\na\r\n$1\r\n1\r\n");
}

fn page(member: &mut Member, line: &str) -> (String, Vec<String>) {
    let mut found = strings(&member.run(line));
    let cursor = found.remove(0);
    (cursor, found)
}

#[test]
fn fields_that_stay_are_seen_by_a_scan_whatever_else_happens() {
    let mut member = Member::default();
    for n in 0..1000 {
        member.run(&format!("HSET h stay{n} {n}"));
    }
    let (mut cursor, mut seen, mut round) = ("0".to_owned(), BTreeMap::new(), 0);
    loop {
        let (next, flat) = page(&mut member, &format!("HSCAN h {cursor} COUNT 20"));
        assert!(flat.len() < 200, "a page of {}", flat.len());
        for pair in flat.chunks(2).filter(|pair| pair[0].starts_with("stay")) {
            assert_eq!(pair[0], format!("stay{}", pair[1]));
            *seen.entry(pair[0].clone()).or_insert(0) += 1;
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
        round += 1;
        for n in 0..30 {
            member.run(&format!("HSET h come{round}:{n} v"));
            member.run(&format!("HDEL h come{}:{n}", round / 2));
        }
        if round % 5 == 0 {
            member = member.restored();
        }
    }
    assert_eq!(seen.len(), 1000);
    assert!(seen.values().all(|times| *times == 1), "twice: {seen:?}");
    let (cursor, found) = page(&mut member, "HSCAN h 0 MATCH stay99? COUNT 100000");
    assert_eq!((cursor.as_str(), found.len()), ("0", 20));
    for stale in ["4294967296", "18446744073709551615"] {
        member.expect(&format!("HSCAN h {stale}"), "*2\r\n$1\r\n0\r\n*0\r\n");
    }
}

#[test]
fn many_fields_at_once_make_a_table_even_if_they_are_one() {
    let mut member = Member::default();
    member.set("hash-max-listpack-entries", 3);
    member.expect("HSET h a 1 a 2 a 3 a 4", ":1\r\n");
    member.expect("OBJECT ENCODING h", "$9\r\nhashtable\r\n");
    member.expect("HGETALL h", "*2\r\n$1\r\na\r\n$1\r\n4\r\n");
}

#[test]
fn an_error_leaves_no_empty_hash_behind() {
    let mut member = Member::default();
    member.run("HSET h f x");
    for line in ["HINCRBY new f x", "HINCRBYFLOAT new f nan", "HINCRBY h f 1", "HINCRBYFLOAT h f 1", "HSET new f"] {
        assert!(member.run(line).starts_with("-ERR"), "{line}");
    }
    member.expect("EXISTS new", ":0\r\n");
    member.expect("HGETALL h", "*2\r\n$1\r\nf\r\n$1\r\nx\r\n");
}
