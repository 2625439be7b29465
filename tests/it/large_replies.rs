//! What the leader answers its own clients, it answers those of a follower, however long the replies are.

use quorate_testkit::resp::encode_into;
use quorate_testkit::{Conn, Value, wait_until};

use crate::three_members;

/// More than a frame between members may have.
const LARGE: usize = 100_000_000;
const MIDDLE: usize = 5 << 20;

/// Bytes of which no two stretches are alike.
fn patterned(len: usize, salt: u64) -> Vec<u8> {
    (0..).flat_map(|n: u64| (n ^ salt << 40).to_be_bytes()).take(len).collect()
}

/// Makes a string of that length through the log, in small writes that show where they belong.
fn set_large(conn: &mut Conn, key: &str) {
    let mut request = Vec::new();
    encode_into(&["SETRANGE", key, &(LARGE - 1).to_string(), "x"], &mut request);
    let places: Vec<usize> = (0..LARGE - 8).step_by(777_777).collect();
    for place in &places {
        let mark = (*place as u64).to_be_bytes();
        encode_into(&[&b"SETRANGE"[..], key.as_bytes(), place.to_string().as_bytes(), &mark], &mut request);
    }
    conn.send_bytes(&request).unwrap();
    for _ in 0..=places.len() {
        assert_eq!(conn.read().unwrap(), Value::Int(LARGE as i64));
    }
}

/// Without printing megabytes where they differ.
fn same(found: &[u8], expected: &[u8], what: &str) {
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    let begin = String::from_utf8_lossy(&found[..found.len().min(80)]).into_owned();
    assert!(
        differ.is_none() && found.len() == expected.len(),
        "{what}: {} bytes, expected {}; they differ from {differ:?} on; it begins with {begin}",
        found.len(),
        expected.len()
    );
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn a_follower_gives_the_replies_that_the_leader_gives() {
    let cluster = three_members();
    let mut here = cluster.members[cluster.leader()].conn();
    let mut there = cluster.members[cluster.follower()].conn();
    set_large(&mut here, "large");
    let expected = here.cmd_raw("GET large").unwrap();
    assert_eq!(expected.len(), LARGE + "$100000000\r\n\r\n".len());
    same(&there.cmd_raw("GET large").unwrap(), &expected, "GET of a large value");

    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    let mut all = format!("*{}\r\n", keys.len()).into_bytes();
    for (n, key) in keys.iter().enumerate() {
        let value = patterned(MIDDLE, n as u64);
        all.extend(bulk(&value));
        assert_eq!(here.call(&[b"SET", key.as_bytes(), &value]).unwrap(), Value::ok());
    }
    // With small ones between them, so that units end everywhere.
    let mut request = Vec::new();
    for key in &keys {
        encode_into(&["STRLEN", key], &mut request);
        encode_into(&["GET", key], &mut request);
        encode_into(&["EXISTS", key, "nothing"], &mut request);
    }
    there.send_bytes(&request).unwrap();
    for n in 0..keys.len() {
        assert_eq!(there.read().unwrap(), Value::Int(MIDDLE as i64));
        same(&there.read_raw().unwrap(), &bulk(&patterned(MIDDLE, n as u64)), "a GET of a pipeline");
        assert_eq!(there.read().unwrap(), Value::Int(1));
    }
    let line = format!("MGET {}", keys.join(" "));
    same(&here.cmd_raw(&line).unwrap(), &all, "MGET on the leader");
    same(&there.cmd_raw(&line).unwrap(), &all, "MGET through a follower");
    // A transaction that only reads.
    there.send_bytes(b"MULTI\r\nGET k1\r\nGET k2\r\nEXEC\r\n").unwrap();
    for expected in [Value::ok(), Value::Simple("QUEUED".into()), Value::Simple("QUEUED".into())] {
        assert_eq!(there.read().unwrap(), expected);
    }
    let both = [&b"*2\r\n"[..], &bulk(&patterned(MIDDLE, 1)), &bulk(&patterned(MIDDLE, 2))].concat();
    same(&there.read_raw().unwrap(), &both, "EXEC of reads");
}

#[test]
fn what_writes_answer_with_comes_through_a_follower() {
    let cluster = three_members();
    let mut here = cluster.members[cluster.leader()].conn();
    let mut there = cluster.members[cluster.follower()].conn();
    set_large(&mut here, "large");
    let large = here.cmd_raw("GET large").unwrap();
    same(&there.cmd_raw("GETSET large small").unwrap(), &large, "GETSET");
    assert_eq!(here.cmd("GET large").unwrap(), Value::bulk("small"));
    set_large(&mut here, "large");
    set_large(&mut there, "again");
    // A transaction whose reply is longer than anything in it.
    there.send_bytes(b"MULTI\r\nGETDEL large\r\nGET again\r\nDEL again\r\nEXEC\r\n").unwrap();
    assert_eq!(there.read().unwrap(), Value::ok());
    for _ in 0..3 {
        assert_eq!(there.read().unwrap(), Value::Simple("QUEUED".into()));
    }
    same(&there.read_raw().unwrap(), &[b"*3\r\n", &large[..], &large, b":1\r\n"].concat(), "EXEC of writes");
    set_large(&mut here, "large");
    same(&there.cmd_raw("GETDEL large").unwrap(), &large, "GETDEL");
    assert_eq!(here.cmd("DBSIZE").unwrap(), Value::Int(0));

    // Many of a pipeline.
    for conn in [&mut here, &mut there] {
        for n in 0..8 {
            let value = patterned(MIDDLE, n);
            assert_eq!(conn.call(&[b"SET", format!("k{n}").as_bytes(), &value]).unwrap(), Value::ok());
        }
        let mut request = Vec::new();
        for n in 0..8 {
            encode_into(&["SET", &format!("small{n}"), "1"], &mut request);
            encode_into(&["GET", &format!("k{n}")], &mut request);
            encode_into(&["SET", &format!("k{n}"), "2", "GET"], &mut request);
            encode_into(&["GETDEL", &format!("k{n}")], &mut request);
        }
        conn.send_bytes(&request).unwrap();
        for n in 0..8 {
            let value = bulk(&patterned(MIDDLE, n));
            assert_eq!(conn.read().unwrap(), Value::ok());
            same(&conn.read_raw().unwrap(), &value, "GET between writes");
            same(&conn.read_raw().unwrap(), &value, "SET with GET");
            assert_eq!(conn.read().unwrap(), Value::bulk("2"));
        }
    }
}

/// All replies of a unit are made in one go, and held together.
#[test]
fn large_values_are_not_answered_with_in_one_unit() {
    let cluster = three_members();
    let mut leader = cluster.members[cluster.leader()].conn();
    for at in [cluster.leader(), cluster.follower()] {
        let mut conn = cluster.members[at].conn();
        let mut units = |len: usize, command: &[&str]| {
            let key = |n: usize| format!("k{n}");
            for n in 0..20 {
                assert_eq!(leader.call(&[b"SET", key(n).as_bytes(), &patterned(len, n as u64)]).unwrap(), Value::ok());
            }
            // The hint is what the member itself holds, which may lag a little.
            assert_eq!(conn.cmd("READONLY").unwrap(), Value::ok());
            wait_until("the member has them", || {
                (conn.cmd("STRLEN k19").ok()? == Value::Int(len as i64)).then_some(())
            });
            assert_eq!(conn.cmd("READWRITE").unwrap(), Value::ok());
            let before: u64 = leader.info("raft", "raft_proposals").parse().unwrap();
            let mut request = Vec::new();
            for n in 0..20 {
                encode_into(&["SET", "other", "1"], &mut request);
                let line: Vec<String> = command.iter().map(|word| word.replace("KEY", &key(n))).collect();
                encode_into(&line, &mut request);
            }
            encode_into(&["SET", "last", "1"], &mut request);
            conn.send_bytes(&request).unwrap();
            for n in 0..20 {
                assert_eq!(conn.read().unwrap(), Value::ok());
                same(&conn.read_raw().unwrap(), &bulk(&patterned(len, n)), "a value");
            }
            assert_eq!(conn.read().unwrap(), Value::ok());
            leader.info("raft", "raft_proposals").parse::<u64>().unwrap() - before
        };
        for command in [&["GETDEL", "KEY"][..], &["GETEX", "KEY"], &["SET", "KEY", "1", "GET"], &["GET", "KEY"]] {
            let (small, large) = (units(10, command), units(300_000, command));
            // A read between two such runs is none of a write.
            assert!(small < 5 && large >= 10, "{command:?}: {small} units with small values, {large} with large ones");
        }
    }
}

#[test]
fn a_command_too_large_to_be_passed_on_is_refused_for_what_it_is() {
    let cluster = three_members();
    let mut there = cluster.members[cluster.follower()].conn();
    for len in [70 << 20, 90 << 20] {
        let reply = there.call(&[&b"SET"[..], b"k", &vec![b'x'; len]]).unwrap();
        assert!(reply.error().is_some_and(|text| text.starts_with("ERR the command is too large")), "{reply:?}");
    }
    assert_eq!(there.cmd("EXISTS k").unwrap(), Value::Int(0));
}
