//! What the log does to the keyspace: units, transactions, time, expiry, settings, whole databases.

mod common;

use bytes::{Bytes, BytesMut};
use common::{Member, fingerprint, shown};
use quorate_keyspace::{
    Keyspace, Moment, Proto, Stamp, UnitHead, UnitKind, encode_entry, encode_expire_unit, encode_setting_unit,
    encode_unit,
};

#[test]
fn a_unit_has_one_buffer_with_the_replies_of_its_commands_in_order() {
    let mut member = Member::default();
    let first = member.unit(UnitKind::Batch, &[], &["SET a 1", "INCR a", "GET a", "NOPE", "GET a b"]);
    let second = member.unit(UnitKind::Batch, &[], &["GET a"]);
    let entry = member.entry(&[first, second, encode_setting_unit("hash-max-listpack-entries", 3)]);
    let replies = member.keyspace.apply(&entry, true).unwrap();
    let replies: Vec<String> = replies.iter().map(|reply| shown(reply)).collect();
    assert_eq!(
        replies,
        [
            "+OK\\r\\n:2\\r\\n$1\\r\\n2\\r\\n-ERR unknown command \\'NOPE\\', with args beginning with: \\r\\n\
             -ERR wrong number of arguments for \\'get\\' command\\r\\n",
            "$1\\r\\n2\\r\\n",
            "+OK\\r\\n",
        ]
    );
}

#[test]
fn a_follower_without_replies_holds_the_same() {
    let (mut leader, mut follower) = (Member::default(), Member::default());
    for line in ["SET a 1 PX 100", "APPEND b xyz", "SET a 2 GET KEEPTTL", "GETDEL b", "INCRBYFLOAT f 1.5", "INCR f"] {
        let unit = leader.unit(UnitKind::Batch, &[], &[line]);
        let entry = leader.entry(&[unit]);
        assert_eq!(leader.keyspace.apply(&entry, true).unwrap().len(), 1);
        assert!(follower.keyspace.apply(&entry, false).unwrap().is_empty());
    }
    assert_eq!(fingerprint(&leader.keyspace.view()), fingerprint(&follower.keyspace.view()));
    assert_eq!(leader.keyspace.view().header(), follower.keyspace.view().header());
}

/// Whoever reads for another member holds one answer of bounded size at a time, whatever was asked.
#[test]
fn a_unit_of_reads_is_answered_as_far_as_there_is_enough() {
    let mut member = Member::default();
    for key in ["a", "b", "c"] {
        member.run(&format!("SETRANGE {key} 99999 x"));
    }
    let reply = "$100000\r\n".len() + 100_000 + 2;
    let moment = Moment::new(member.now_ms, 1);
    let gets: Vec<&str> = std::iter::repeat_n(["GET a", "GET b", "GET c", "EXISTS a"], 32).flatten().collect();
    let (mut at, mut answers) = (0, 0);
    while at < gets.len() {
        let unit = member.unit(UnitKind::Batch, &[], &gets[at..]);
        let (answered, replies) = member.keyspace.read_unit(&moment, &unit, 250_000).unwrap();
        assert!(answered >= 1 && replies.len() < 250_000 + reply, "{answered} answered with {} bytes", replies.len());
        at += answered as usize;
        answers += replies.len();
    }
    assert_eq!((at, answers), (128, 32 * (3 * reply + 4)));
    // One reply is never cut, and a transaction is one.
    let unit = member.unit(UnitKind::Batch, &[], &["GET a", "GET b"]);
    assert_eq!(member.keyspace.read_unit(&moment, &unit, 1).unwrap().1.len(), reply);
    let unit = member.unit(UnitKind::Transaction, &[], &["GET a", "GET b"]);
    let (answered, replies) = member.keyspace.read_unit(&moment, &unit, 1).unwrap();
    assert_eq!((answered, replies.len()), (2, 4 + 2 * reply));
}

#[test]
fn a_transaction_answers_with_one_array() {
    let mut member = Member::default();
    let reply = member.transaction(&[], &["SET a x", "INCR a", "GET a"]);
    assert_eq!(
        reply, "*3\\r\\n+OK\\r\\n-ERR value is not an integer or out of range\\r\\n$1\\r\\nx\\r\\n",
        "an error of one command stops no other"
    );
    assert_eq!(member.transaction(&[], &[]), "*0\\r\\n");
}

#[test]
fn a_transaction_whose_watched_key_changed_does_nothing() {
    let mut member = Member::default();
    member.run("SET a 1");
    for change in ["SET a 1", "APPEND a x", "DEL a", "PEXPIRE a 100000", "FLUSHALL"] {
        member.run("SET a 1");
        let watches = [member.watch("a"), member.watch("other")];
        assert!(member.transaction(&watches, &["GET a"]).starts_with("*1"), "nothing has changed yet");
        member.run(change);
        assert_eq!(member.transaction(&watches, &["SET b 1"]), "*-1\\r\\n", "after {change}");
        member.expect("GET b", "$-1\r\n");
    }
    member.proto = Proto::Resp3;
    let watches = [member.watch("new")];
    member.run("SET new 1");
    assert_eq!(member.transaction(&watches, &["SET b 1"]), "_\\r\\n", "a key that came to be");
}

#[test]
fn watches_compare_what_the_group_sees_not_what_was_removed() {
    let mut member = Member::default();
    member.run("SET a 1 PX 100");
    let (alive, absent) = (member.watch("a"), member.watch("b"));
    member.now_ms += 100;
    assert_eq!(member.transaction(std::slice::from_ref(&alive), &["GET b"]), "*-1\\r\\n", "it has ended by now");
    let ended = member.watch("a");
    assert_eq!(ended.revision, 0);
    member.expire_due(10);
    assert_eq!(member.transaction(&[ended, absent], &["GET b"]), "*1\\r\\n$-1\\r\\n", "removal of what had ended");
}

#[test]
fn time_never_goes_back() {
    let mut member = Member::default();
    member.run("SET a 1 PX 1000");
    member.now_ms += 5000;
    member.run("SET b 1");
    member.now_ms -= 5000;
    member.expect("GET a", "$-1\r\n");
    let unit = member.unit(UnitKind::Batch, &[], &["GET a", "SET c 1 PX 1000"]);
    assert_eq!(member.apply(unit), "$-1\\r\\n+OK\\r\\n");
    member.now_ms += 5999;
    member.expect("GET c", "$1\r\n1\r\n");
    member.now_ms += 1;
    member.expect("GET c", "$-1\r\n");
}

#[test]
fn a_key_past_due_is_gone_to_the_millisecond_for_reads_and_writes() {
    let mut member = Member::default();
    member.run("SET a 5 PX 100");
    member.now_ms += 99;
    member.expect("GET a", "$1\r\n5\r\n");
    member.now_ms += 1;
    member.expect("GET a", "$-1\r\n");
    member.expect("STRLEN a", ":0\r\n");
    assert_eq!(member.keyspace.dbsize(0), 1, "hidden, not yet removed");
    for (write, reply) in [
        ("INCR a", ":1\r\n"),
        ("APPEND a xy", ":2\r\n"),
        ("SETRANGE a 1 z", ":2\r\n"),
        ("GETSET a 1", "$-1\r\n"),
        ("GETDEL a", "$-1\r\n"),
        ("GETEX a PERSIST", "$-1\r\n"),
        ("SETNX a 1", ":1\r\n"),
        ("MSETNX a 1", ":1\r\n"),
        ("SET a 1 XX", "$-1\r\n"),
        ("SET a 1 NX GET", "$-1\r\n"),
    ] {
        member.run("SET a 5 PX 100");
        member.now_ms += 100;
        member.expect(write, reply);
        member.now_ms += 1_000_000;
        let left = member.run("GET a") != "$-1\\r\\n";
        assert_eq!(
            left,
            !write.contains("XX") && !write.starts_with("GETDEL") && !write.starts_with("GETEX"),
            "{write}"
        );
        member.run("FLUSHALL");
    }
    member.run("SET a 1 PX 100");
    member.now_ms += 100;
    member.run("SET a 2 KEEPTTL");
    member.now_ms += 100_000;
    member.expect("GET a", "$1\r\n2\r\n");
}

#[test]
fn what_a_read_hides_is_due_though_the_asker_has_a_slower_clock() {
    let mut member = Member::default();
    member.run("SET a v PX 1000");
    // A leader whose clock leapt ahead stamps an entry; the next leader's clock is right.
    let right = member.now_ms;
    member.now_ms += 600_000;
    member.run("SET b v");
    let due = member.keyspace.due(right, 10);
    assert_eq!(due, [(0, "a".into())]);
    member.now_ms = right;
    assert_eq!(member.expire_due(10), 1);
}

#[test]
fn due_keys_come_in_their_order_and_go_by_entries_only() {
    let mut member = Member::default();
    for (key, ttl) in [("a", 300), ("b", 100), ("c", 200), ("d", 100)] {
        member.run(&format!("SET {key} v PX {ttl}"));
    }
    member.db = 3;
    member.run("SET a v PX 50");
    member.db = 0;
    let begin = member.now_ms;
    assert!(member.keyspace.due(begin + 49, 10).is_empty());
    let due = |member: &Member, now| -> Vec<(u16, String)> {
        let keys = member.keyspace.due(now, 10).into_iter();
        keys.map(|(db, key)| (db, String::from_utf8(key.to_vec()).unwrap())).collect()
    };
    assert_eq!(due(&member, begin + 50), [(3, "a".into())]);
    let mut early = due(&member, begin + 100);
    early.sort();
    assert_eq!(early, [(0, "b".into()), (0, "d".into()), (3, "a".into())]);
    assert_eq!(due(&member, begin + 299).len(), 4);
    assert_eq!(member.keyspace.due(begin + 299, 2).len(), 2, "bounded");
    // Not yet due at the entry's time: the unit must not remove it, whatever the leader thought.
    member.now_ms = begin + 150;
    let unit = encode_expire_unit([(0u16, &b"a"[..]), (0, b"b"), (0, b"nope"), (99, b"b")].into_iter());
    assert_eq!(member.apply(unit), ":1\\r\\n");
    assert_eq!(member.keyspace.dbsize(0), 3);
    member.now_ms = begin + 300;
    while member.expire_due(2) > 0 {}
    assert_eq!((member.keyspace.dbsize(0), member.keyspace.dbsize(3)), (0, 0));
    assert!(member.keyspace.due(u64::MAX, 10).is_empty());
    assert_eq!(member.keyspace.expired_keys(), 5);
}

#[test]
fn the_expiry_index_follows_every_change() {
    let mut member = Member::default();
    let info = |member: &Member| member.keyspace.keyspace_info(0, member.now_ms);
    member.run("SET a 1 PX 1000");
    member.run("SET b 1 PX 3000");
    assert_eq!((info(&member).expires, info(&member).avg_ttl_ms), (2, 2000));
    member.run("INCR a");
    assert_eq!(info(&member).expires, 2, "a change of the value keeps it");
    member.run("SET a 1");
    assert_eq!(info(&member).expires, 1);
    member.run("GETEX b PX 500");
    assert_eq!((info(&member).expires, info(&member).avg_ttl_ms), (1, 500));
    member.run("SET b 2 KEEPTTL");
    assert_eq!(member.keyspace.due(member.now_ms + 499, 10).len(), 0);
    assert_eq!(member.keyspace.due(member.now_ms + 500, 10).len(), 1);
    member.run("GETEX b PERSIST");
    assert_eq!((info(&member).expires, member.keyspace.due(u64::MAX, 10).len()), (0, 0));
    member.run("SET c 1 PX 10");
    member.run("SWAPDB 0 1");
    assert_eq!(info(&member).expires, 0);
    assert_eq!(member.keyspace.keyspace_info(1, member.now_ms).expires, 1);
    member.run("FLUSHALL");
    assert!(member.keyspace.due(u64::MAX, 10).is_empty());
}

/// What is put under `big` by turns: a large value or a small one, a hash or a string.
fn fill_big(member: &mut Member, hash: bool, large: bool) {
    member.run("DEL big");
    let line = match (hash, large) {
        (true, _) => {
            let fields = if large { 1000 } else { 1 };
            format!("HSET big{}", (0..fields).map(|n| format!(" field:{n} v")).collect::<String>())
        }
        (false, _) => format!("SET big {}", "x".repeat(if large { 2 << 20 } else { 1 })),
    };
    assert!(!member.run(&line).starts_with('-'));
    member.keyspace.take_garbage();
}

#[test]
fn what_is_large_is_not_freed_where_entries_wait() {
    let ways = [
        "DEL big",
        "UNLINK big",
        "SET big v",
        "SETEX big 10 v",
        "RENAME other big",
        "COPY other big REPLACE",
        "BITOP NOT big other",
        "RESTORE big 0 \"\\x00\\x03bar\\x0a\\x00\\xe6\\xbeI`\\xeef\\xfd\\x17\" REPLACE",
        "PEXPIREAT big 1",
        "GETDEL big",
    ];
    let mut member = Member::default();
    for (hash, large) in [(true, true), (true, false), (false, true), (false, false)] {
        for line in ways.iter().filter(|line| !(hash && line.starts_with("GETDEL"))) {
            fill_big(&mut member, hash, large);
            member.expect("SET other v", "+OK\r\n");
            let reply = member.run(line);
            assert!(!reply.starts_with('-'), "{line}: {reply}");
            assert_eq!(member.keyspace.take_garbage().is_some(), large, "{line}, a hash: {hash}, large: {large}");
            assert!(member.keyspace.take_garbage().is_none());
        }
        // One that has ended is removed by the leader's word, or by the next write to it.
        for write in [None, Some("SETNX big v"), Some("APPEND big v"), Some("HSET big f v"), Some("DEL big")] {
            fill_big(&mut member, hash, large);
            member.expect("PEXPIRE big 5", ":1\r\n");
            member.now_ms += 10;
            match write {
                Some(line) => assert!(!member.run(line).starts_with('-'), "{line}"),
                None => assert_eq!(member.expire_due(10), 1),
            }
            assert_eq!(member.keyspace.take_garbage().is_some(), large, "{write:?}, a hash: {hash}, large: {large}");
        }
    }
}

#[test]
fn databases_are_apart_and_can_be_swapped_and_flushed() {
    let mut member = Member::default();
    member.expect("SET a zero", "+OK\r\n");
    member.db = 15;
    member.expect("GET a", "$-1\r\n");
    member.expect("SET a fifteen", "+OK\r\n");
    member.expect("SWAPDB 0 15", "+OK\r\n");
    member.expect("GET a", "$4\r\nzero\r\n");
    member.expect("SWAPDB 0 16", "-ERR DB index is out of range\r\n");
    member.expect("SWAPDB -1 0", "-ERR DB index is out of range\r\n");
    member.expect("SWAPDB x 0", "-ERR invalid first DB index\r\n");
    member.expect("SWAPDB 0 99999999999", "-ERR invalid second DB index\r\n");
    member.expect("FLUSHDB LATER", "-ERR syntax error\r\n");
    member.expect("FLUSHDB ASYNC SYNC", "-ERR syntax error\r\n");
    member.expect("DBSIZE", ":1\r\n");
    member.expect("FLUSHDB async", "+OK\r\n");
    assert!(member.keyspace.take_garbage().is_some(), "what was flushed can be dropped elsewhere");
    assert!(member.keyspace.take_garbage().is_none());
    member.expect("DBSIZE", ":0\r\n");
    member.db = 0;
    member.expect("GET a", "$7\r\nfifteen\r\n");
    member.expect("FLUSHALL SYNC", "+OK\r\n");
    member.expect("DBSIZE", ":0\r\n");
    member.db = 16;
    member.expect("GET a", "-ERR DB index is out of range\r\n");
    member.expect("SET a 1", "-ERR DB index is out of range\r\n");
}

#[test]
fn chunks_say_when_they_changed() {
    let mut member = Member::default();
    member.run("SET {one}a 1");
    member.run("SET {two}a 1");
    let before = member.keyspace.view();
    let changed = |member: &Member| -> Vec<u128> {
        let view = member.keyspace.view();
        view.chunks().filter(|(_, at)| *at > before.revision()).map(|(chunk, _)| chunk).collect()
    };
    assert!(changed(&member).is_empty());
    member.run("GET {one}a");
    member.run("DEL {one}nope");
    assert!(changed(&member).is_empty(), "what changed nothing changes no chunk");
    member.run("SET {one}a 2");
    let one = u128::from(quorate_keyspace::slot_of(b"one")) << 97;
    assert_eq!(changed(&member), [one]);
    member.run("SWAPDB 0 1");
    assert_eq!(changed(&member).len(), 2, "both chunks stand elsewhere now");
    assert!(changed(&member).iter().all(|chunk| chunk >> 112 == 1));
}

#[test]
fn a_view_never_changes() {
    let mut member = Member::default();
    for n in 0..500 {
        member.run(&format!("SET {{t}}key:{n} value:{n}"));
    }
    let view = member.keyspace.view();
    let before = fingerprint(&view);
    for n in 0..500 {
        member.run(&format!("SET {{t}}key:{n} other"));
        member.run(&format!("APPEND {{t}}key:{n} more"));
        member.run(&format!("SET {{t}}new:{n} other PX 100"));
    }
    for n in 0..250 {
        member.run(&format!("GETDEL {{t}}key:{n}"));
    }
    assert_eq!(fingerprint(&view), before);
    member.keyspace = Keyspace::from_view(&view);
    member.expect("GET {t}key:7", "$7\r\nvalue:7\r\n");
    member.expect("DBSIZE", ":500\r\n");
}

#[test]
fn damaged_entries_are_errors() {
    let mut member = Member::default();
    let unit = member.unit(UnitKind::Batch, &[], &["SET a 1"]);
    let entry = member.entry(&[unit]);
    for length in 0..entry.len() {
        assert!(Keyspace::new(1, [0, 0]).apply(&entry[..length], true).is_err(), "cut at {length}");
    }
    let mut longer = entry.to_vec();
    longer.push(0);
    assert!(Keyspace::new(1, [0, 0]).apply(&longer, true).is_err());
    let mut newer = entry.to_vec();
    newer[0] = 2;
    assert!(Keyspace::new(1, [0, 0]).apply(&newer, true).is_err());
    assert!(Keyspace::new(1, [0, 0]).apply(&[], true).is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_apply_panic(
        at in proptest::collection::vec((0usize..400, proptest::prelude::any::<u8>()), 1..6),
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
    ) {
        let mut member = Member::default();
        let watches = [member.watch("a")];
        let units = [
            member.unit(UnitKind::Transaction, &watches, &["SET a 1", "GET a"]),
            member.unit(UnitKind::Batch, &[], &["SETRANGE b 3 x", "LCS a b IDX", "FLUSHALL"]),
            encode_expire_unit([(0u16, &b"a"[..])].into_iter()),
            encode_setting_unit("hash-max-listpack-entries", 3),
        ];
        let mut entry = member.entry(&units);
        let _ = member.keyspace.apply(&noise, true);
        for (place, byte) in at {
            let place = place % entry.len();
            entry[place] = byte;
        }
        let _ = member.keyspace.apply(&entry, true);
    }
}

#[test]
fn a_reply_of_binary_bytes_comes_back_whole() {
    let mut keyspace = Keyspace::new(1, [0, 0]);
    let value: Vec<u8> = (0..=255).collect();
    let set = [Bytes::from_static(b"set"), Bytes::from_static(b"\0\r\n"), Bytes::from(value.clone())];
    let get = [Bytes::from_static(b"gEt"), Bytes::from_static(b"\0\r\n")];
    let head = UnitHead { kind: UnitKind::Batch, proto: Proto::Resp2, watches: &[] };
    let unit = encode_unit(head, [(0u16, &set[..]), (0, &get[..])].into_iter());
    let mut entry = BytesMut::new();
    encode_entry(Stamp { time_ms: 0, seed: 0 }, &[unit], &mut entry);
    let replies = keyspace.apply(&entry, true).unwrap();
    assert_eq!(replies[0], [&b"+OK\r\n$256\r\n"[..], &value, b"\r\n"].concat());
}
