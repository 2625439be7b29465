//! The keyspace's bytes against the golden files of each format version (`docs/formats.md` describes them): entries of
//! the log, and the header and chunks of a view.

mod common;
#[path = "../../tests/formats/mod.rs"]
mod golden;

use bytes::{Bytes, BytesMut};
use common::{Member, fingerprint};
use golden::Files;
use quorate_keyspace::view::Restore;
use quorate_keyspace::{
    Keyspace, Proto, Stamp, UnitHead, UnitKind, View, Watch, encode_entry, encode_expire_unit, encode_found_unit,
    encode_setting_unit, encode_unit,
};

const ENTRIES_V1: &str = include_str!("../../tests/formats/entries-v1.hex");
const VIEW_V2: &str = include_str!("../../tests/formats/view-v2.hex");

fn unit(kind: UnitKind, proto: Proto, watches: &[Watch], commands: &[(u16, &str)]) -> Bytes {
    let commands: Vec<(u16, Vec<Vec<u8>>)> = commands.iter().map(|(db, line)| (*db, common::words(line))).collect();
    encode_unit(UnitHead { kind, proto, watches }, commands.iter().map(|(db, args)| (*db, &args[..])))
}

/// Entries with every kind of unit.
fn entries() -> Files {
    let (batch, resp2) = (UnitKind::Batch, Proto::Resp2);
    let watch = Watch { db: 3, key: Bytes::from_static(b"watched"), revision: 0 };
    let long = "x".repeat(200);
    let hash: String = (0..40).map(|n| format!(" field{n} value{n}")).collect();
    let entries = [
        vec![encode_found_unit(16, [0x0102_0304_0506_0709, 0x1112_1314_1516_1718])],
        vec![encode_setting_unit("hash-max-listpack-entries", 32)],
        vec![
            unit(batch, resp2, &[], &[(0, "SET text hello"), (0, "SET number 12345"), (0, "APPEND text ,world")]),
            unit(batch, Proto::Resp3, &[], &[(5, "HSET small a 1 b 2"), (5, "SET gone soon PX 1000")]),
            unit(UnitKind::Transaction, resp2, &[watch], &[(0, &format!("SET long {long}")), (0, "INCR n")]),
        ],
        vec![unit(batch, resp2, &[], &[(0, &format!("HSET big{hash}")), (0, "SET lasting v PX 100000000")])],
        vec![encode_expire_unit([(5_u16, &b"gone"[..]), (0, b"absent")].into_iter())],
    ];
    let name = |at| format!("entry-{at}");
    let encode = |(at, units): (usize, &Vec<Bytes>)| {
        let mut out = BytesMut::new();
        let stamp = Stamp { time_ms: 1_700_000_000_000 + 2000 * at as u64, seed: 0x5eed_0000 + at as u64 };
        encode_entry(stamp, units, &mut out);
        (name(at), out.to_vec())
    };
    entries.iter().enumerate().map(encode).collect()
}

/// Values that are kept in pieces. Their bytes are zeros, which golden files leave out.
fn large() -> Files {
    let zeros = |count: usize| "\\x00".repeat(count);
    let fields: String = (0..10).map(|n| format!(" f{n} \"{}\"", zeros(2000))).collect();
    let commands = [
        (7, format!("SET long \"{}\"", zeros(20_000))),
        (7, "SETRANGE sparse 100000 x".to_owned()),
        (7, format!("HSET wide{fields}")),
    ];
    let commands: Vec<(u16, &str)> = commands.iter().map(|(db, line)| (*db, &line[..])).collect();
    let mut out = BytesMut::new();
    let unit = unit(UnitKind::Batch, Proto::Resp2, &[], &commands);
    encode_entry(Stamp { time_ms: 1_700_000_010_000, seed: 1 }, &[unit], &mut out);
    vec![("large".to_owned(), out.to_vec())]
}

fn apply(files: &Files) -> Keyspace {
    let mut keyspace = Keyspace::new(1, [0, 0]);
    for (name, entry) in files {
        keyspace.apply(entry, true).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    keyspace
}

fn view_files(view: &View) -> Files {
    let mut files = vec![("header".to_owned(), view.header())];
    for (chunk, _) in view.chunks() {
        let mut bytes = Vec::new();
        view.encode(chunk, &mut bytes);
        files.push((format!("chunk-{chunk:032x}"), bytes));
    }
    files
}

/// What clients see of the keyspace that these entries make.
fn check_contents(keyspace: Keyspace) {
    let mut member = Member::over(keyspace);
    member.now_ms = 1_700_000_020_000;
    for (db, line, reply) in [
        (0, "GET text", "$11\\r\\nhello,world\\r\\n"),
        (0, "GET number", "$5\\r\\n12345\\r\\n"),
        (0, "OBJECT ENCODING number", "$3\\r\\nint\\r\\n"),
        (0, "STRLEN long", ":200\\r\\n"),
        (0, "GET n", "$1\\r\\n1\\r\\n"),
        (0, "HGET big field39", "$7\\r\\nvalue39\\r\\n"),
        (0, "HLEN big", ":40\\r\\n"),
        (0, "OBJECT ENCODING big", "$9\\r\\nhashtable\\r\\n"),
        (0, "PEXPIRETIME lasting", ":1700100006000\\r\\n"),
        (0, "DBSIZE", ":6\\r\\n"),
        (5, "HGETALL small", "*4\\r\\n$1\\r\\na\\r\\n$1\\r\\n1\\r\\n$1\\r\\nb\\r\\n$1\\r\\n2\\r\\n"),
        (5, "DBSIZE", ":1\\r\\n"),
    ] {
        member.db = db;
        assert_eq!(member.run(line), reply, "{line}");
    }
}

#[test]
fn entries_of_version_one_are_applied_and_written_as_ever() {
    golden::check("the log's entries", ENTRIES_V1, &entries());
    check_contents(apply(&golden::parse(ENTRIES_V1)));
}

#[test]
fn a_view_of_version_two_is_restored_and_written_as_ever() {
    let now = apply(&[entries(), large()].concat());
    golden::check("a view", VIEW_V2, &view_files(&now.view()));

    let files = golden::parse(VIEW_V2);
    let mut restore = Restore::new(&files[0].1).unwrap();
    for (name, bytes) in &files[1..] {
        let chunk = u128::from_str_radix(name.strip_prefix("chunk-").unwrap(), 16).unwrap();
        restore.add(chunk, bytes).unwrap();
    }
    let restored = restore.finish().unwrap();
    golden::check("a view that was restored", VIEW_V2, &view_files(&restored));
    let mut member = Member::over(Keyspace::from_view(&restored));
    member.db = 7;
    for (line, reply) in
        [("STRLEN long", ":20000\r\n"), ("GETRANGE sparse 99999 -1", "$2\r\n\0x\r\n"), ("HLEN wide", ":10\r\n")]
    {
        member.expect(line, reply);
    }
    check_contents(member.keyspace);
    assert_eq!(fingerprint(&now.view()), fingerprint(&restored));
}

/// Another version's bytes are told from damage, and never read as if they were of this one.
#[test]
fn what_another_version_wrote_is_refused() {
    let mut member = Member::default();
    member.run("SET key value");
    let view = member.keyspace.view();
    let (id, _) = view.chunks().next().unwrap();
    let mut chunk = Vec::new();
    view.encode(id, &mut chunk);
    let of_version = |bytes: &[u8], version: u8| [&[version], &bytes[1..]].concat();
    let check = |what: &str, error: quorate_keyspace::Corrupt, found: u8, known: u8| {
        assert!(matches!(error, quorate_keyspace::Corrupt::Version { .. }), "{what}: {error}");
        let error = error.to_string();
        assert!(
            error.contains(&format!("version {found},")) && error.contains(&format!("reads {known} only")),
            "{error}"
        );
        assert!(error.contains("run the version of quorate that wrote it"), "{error}");
    };
    for version in [0, 1, 3, 255] {
        check("header", Restore::new(&of_version(&view.header(), version)).map(drop).unwrap_err(), version, 2);
        let mut restore = Restore::new(&view.header()).unwrap();
        check("chunk", restore.add(id, &of_version(&chunk, version)).unwrap_err(), version, 2);
    }
    let (_, entry) = entries().remove(0);
    for version in [0, 2] {
        let error = Keyspace::new(16, [0, 0]).apply(&of_version(&entry, version), true).unwrap_err();
        check("entry", error, version, 1);
    }
}
