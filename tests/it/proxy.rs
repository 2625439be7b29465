//! A member that doesn't lead serves a plain client through the leader: order and transactions are kept, replies
//! never reach the wrong client, and an outcome that isn't known is told as such.

use crate::three_members;
use quorate_testkit::load::Load;
use quorate_testkit::resp::encode_into;
use quorate_testkit::{Conn, Value, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[test]
fn a_pipeline_through_a_follower_keeps_its_order() {
    let cluster = three_members();
    let mut conn = cluster.members[cluster.follower()].conn();
    let mut request = Vec::new();
    for number in 1..=2000 {
        encode_into(&["INCR", "n"], &mut request);
        if number % 10 == 0 {
            encode_into(&["GET", "n"], &mut request);
            encode_into(&["ECHO", &number.to_string()], &mut request);
        }
    }
    conn.send_bytes(&request).unwrap();
    for number in 1..=2000 {
        assert_eq!(conn.read().unwrap(), Value::Int(number));
        if number % 10 == 0 {
            assert_eq!(conn.read().unwrap(), Value::bulk(number.to_string()), "a read sees the writes before it");
            assert_eq!(conn.read().unwrap(), Value::bulk(number.to_string()), "what needs no leader waits its turn");
        }
    }
}

#[test]
fn replies_of_many_clients_behind_one_proxy_are_never_mixed_up() {
    let cluster = three_members();
    let addr = cluster.members[cluster.follower()].client;
    let clients: Vec<_> = (0..16)
        .map(|client| {
            std::thread::spawn(move || {
                let mut conn = Conn::open(addr).unwrap();
                for round in 0..60 {
                    let mine = format!("{client}:{round}");
                    let key = format!("key:{client}");
                    let mut request = Vec::new();
                    encode_into(&["SET", &key, &mine], &mut request);
                    encode_into(&["GET", &key], &mut request);
                    encode_into(&["MULTI"], &mut request);
                    encode_into(&["GET", &key], &mut request);
                    encode_into(&["APPEND", &key, "x"], &mut request);
                    encode_into(&["EXEC"], &mut request);
                    encode_into(&["GET", &key], &mut request);
                    conn.send_bytes(&request).unwrap();
                    assert_eq!(conn.read().unwrap(), Value::ok());
                    assert_eq!(conn.read().unwrap(), Value::bulk(&mine));
                    assert_eq!(conn.read().unwrap(), Value::ok());
                    assert_eq!(conn.read().unwrap(), Value::Simple("QUEUED".into()));
                    assert_eq!(conn.read().unwrap(), Value::Simple("QUEUED".into()));
                    let length = mine.len() as i64 + 1;
                    let expected = Value::Array(vec![Value::bulk(&mine), Value::Int(length)]);
                    assert_eq!(conn.read().unwrap(), expected);
                    assert_eq!(conn.read().unwrap(), Value::bulk(format!("{mine}x")));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client saw only its own replies");
    }
}

#[test]
fn transactions_from_all_members_stay_whole() {
    let cluster = three_members();
    let clients: Vec<_> = (0..9)
        .map(|client| {
            let addr = cluster.members[client % 3].client;
            std::thread::spawn(move || {
                let mut conn = Conn::open(addr).unwrap();
                for _ in 0..40 {
                    for line in ["MULTI", "INCR a", "INCR b", "HINCRBY h f 1"] {
                        conn.cmd(line).unwrap();
                    }
                    match conn.cmd("EXEC").unwrap() {
                        Value::Array(items) => assert!(items.windows(2).all(|pair| pair[0] == pair[1]), "{items:?}"),
                        other => panic!("EXEC: {other:?}"),
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every transaction saw all three at the same count");
    }
    for member in &cluster.members {
        assert_eq!(member.conn().cmd("MGET a b").unwrap(), Value::Array(vec![Value::bulk("360"), Value::bulk("360")]));
    }
}

#[test]
fn watch_on_one_member_sees_a_change_through_another() {
    let cluster = three_members();
    for watcher in 0..3 {
        let writer = (watcher + 1) % 3;
        let (mut watching, mut writing) = (cluster.members[watcher].conn(), cluster.members[writer].conn());
        let key = format!("key:{watcher}");
        assert_eq!(watching.call(&["SET", &key, "1"]).unwrap(), Value::ok());
        assert_eq!(watching.call(&["WATCH", &key]).unwrap(), Value::ok());
        assert_eq!(writing.call(&["SET", &key, "2"]).unwrap(), Value::ok());
        watching.cmd("MULTI").unwrap();
        watching.call(&["SET", &key, "3"]).unwrap();
        assert_eq!(watching.cmd("EXEC").unwrap(), Value::Null, "the key was changed");
        assert_eq!(writing.call(&["GET", &key]).unwrap(), Value::bulk("2"));
    }
}

#[test]
fn watch_stays_right_when_the_leader_changes() {
    let cluster = three_members();
    let mut clients: Vec<Conn> = cluster.members.iter().map(|member| member.conn()).collect();
    for (at, conn) in clients.iter_mut().enumerate() {
        conn.call(&["SET", &format!("kept:{at}"), "1"]).unwrap();
        conn.call(&["SET", &format!("changed:{at}"), "1"]).unwrap();
    }
    let mut watchers: Vec<[Conn; 2]> = cluster.members.iter().map(|member| [member.conn(), member.conn()]).collect();
    for (at, [kept, changed]) in watchers.iter_mut().enumerate() {
        assert_eq!(kept.call(&["WATCH", &format!("kept:{at}"), "absent"]).unwrap(), Value::ok());
        assert_eq!(changed.call(&["WATCH", &format!("changed:{at}")]).unwrap(), Value::ok());
    }
    let leader = cluster.leader();
    cluster.transfer_leader(Some((leader + 1) % 3));
    for (at, conn) in clients.iter_mut().enumerate() {
        conn.call(&["SET", &format!("changed:{at}"), "1"]).unwrap();
    }
    for (at, [kept, changed]) in watchers.iter_mut().enumerate() {
        for conn in [&mut *kept, &mut *changed] {
            conn.cmd("MULTI").unwrap();
            conn.cmd("PING").unwrap();
            conn.call(&["INCR", &format!("ran:{at}")]).unwrap();
        }
        let ran = Value::Array(vec![Value::Simple("PONG".into()), Value::Int(1)]);
        assert_eq!(kept.cmd("EXEC").unwrap(), ran, "member {at}: nothing it watched has changed");
        assert_eq!(changed.cmd("EXEC").unwrap(), Value::Null, "member {at}: what it watched was written");
    }
}

/// Increments by WATCH, GET and SET; gives how many were done, or how many outcomes are unknown.
fn optimistic(addr: SocketAddr, stop: &AtomicBool, done: &AtomicU64, unknown: &AtomicU64) {
    let mut conn = Conn::open(addr).unwrap();
    while !stop.load(SeqCst) {
        if conn.cmd("WATCH n").unwrap() != Value::ok() {
            continue;
        }
        let value = match conn.cmd("GET n").unwrap() {
            Value::Null => 0,
            Value::Error(_) => {
                conn.cmd("UNWATCH").unwrap();
                continue;
            }
            value => value.as_int().expect("a number"),
        };
        conn.cmd("MULTI").unwrap();
        conn.call(&["SET", "n", &(value + 1).to_string()]).unwrap();
        match conn.cmd("EXEC").unwrap() {
            Value::Array(items) => {
                assert_eq!(items, [Value::ok()]);
                done.fetch_add(1, SeqCst);
            }
            Value::Null => {}
            Value::Error(text) if text.starts_with("UNKNOWN") => {
                unknown.fetch_add(1, SeqCst);
            }
            Value::Error(_) => {}
            other => panic!("EXEC: {other:?}"),
        }
    }
}

#[test]
fn optimistic_increments_on_all_members_lose_nothing_while_leaders_change() {
    let cluster = three_members();
    let (stop, done, unknown) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let addr = cluster.members[client % 3].client;
            let (stop, done, unknown) = (stop.clone(), done.clone(), unknown.clone());
            std::thread::spawn(move || optimistic(addr, &stop, &done, &unknown))
        })
        .collect();
    for round in 1..=4 {
        wait_until("clients get on", || (done.load(SeqCst) > round * 50).then_some(()));
        let leader = cluster.leader();
        cluster.transfer_leader(Some((leader + 1) % 3));
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.join().expect("a client, whose connection stayed open all the time");
    }
    let value = cluster.members[0].conn().cmd("GET n").unwrap().as_int().expect("a number") as u64;
    let (done, unknown) = (done.load(SeqCst), unknown.load(SeqCst));
    assert!(value >= done && value <= done + unknown, "{value}, with {done} done and {unknown} unknown");
}

#[test]
fn a_connection_to_a_follower_outlives_the_leader() {
    let mut cluster = three_members();
    let leader = cluster.leader();
    let follower = cluster.follower();
    let mut conn = cluster.members[follower].conn();
    assert_eq!(conn.cmd("SELECT 3").unwrap(), Value::ok());
    assert_eq!(conn.cmd("SET k 1").unwrap(), Value::ok());
    assert_eq!(conn.cmd("CLIENT SETNAME me").unwrap(), Value::ok());
    cluster.members[leader].kill();
    // Nothing was under way: this is sent into the election, certainly not done yet, and so waits and succeeds.
    assert_eq!(conn.cmd("INCR k").unwrap(), Value::Int(2));
    assert_eq!(conn.cmd("CLIENT GETNAME").unwrap(), Value::bulk("me"));
    assert_eq!(conn.cmd("GET k").unwrap(), Value::bulk("2"), "still in database 3");
}

#[test]
fn a_write_whose_outcome_is_not_known_is_told_as_unknown() {
    let mut cluster = three_members();
    let mut tries = 0;
    let (mut conn, reply) = loop {
        tries += 1;
        assert!(tries <= 10, "a leader cut off from the others never took a write");
        let leader = cluster.leader();
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        let mut conn = cluster.members[leader].conn();
        wait_until("a first value", || (conn.cmd("SET k before").ok()? == Value::ok()).then_some(()));
        for at in &others {
            cluster.members[*at].pause();
        }
        // It is in the leader's log and may yet be committed: neither success nor failure can be told.
        let reply = conn.cmd("SET k after").unwrap();
        for at in &others {
            cluster.members[*at].resume();
        }
        // On a machine with too much to do it led no more when the write came, and says for certain that nothing happened.
        if !reply.error().is_some_and(|text| text.starts_with("CLUSTERDOWN ")) {
            break (conn, reply);
        }
        assert_eq!(
            wait_until("a leader", || conn.cmd("GET k").ok().filter(|r| r.error().is_none())),
            Value::bulk("before")
        );
    };
    assert!(reply.error().is_some_and(|text| text.starts_with("UNKNOWN ")), "{reply:?}");
    // It may take effect late, but once it has, it has for everybody.
    let ask = |at: usize| {
        let mut conn = cluster.members[at].conn();
        wait_until("the member serves again", || conn.cmd("GET k").ok().filter(|reply| reply.error().is_none()))
    };
    let values: Vec<Value> = (0..6).map(|number| ask(number % 3)).collect();
    let (before, after) = (Value::bulk("before"), Value::bulk("after"));
    assert!(values.iter().all(|value| [&before, &after].contains(&value)), "{values:?}");
    let first_after = values.iter().position(|value| *value == after).unwrap_or(values.len());
    assert!(!values[first_after..].contains(&before), "what was seen is never unseen: {values:?}");
    // Whatever comes behind it in the log settles it.
    wait_until("another write", || (conn.cmd("SET settled yes").ok()? == Value::ok()).then_some(()));
    let settled: Vec<Value> = (0..3).map(ask).collect();
    assert!(settled.windows(2).all(|pair| pair[0] == pair[1]), "all members tell the same: {settled:?}");
}

#[test]
fn clients_of_a_planned_hand_over_see_no_error() {
    let cluster = three_members();
    let load = Load::start(20, &cluster.addrs());
    load.wait_progress(200);
    for _ in 0..6 {
        let leader = cluster.leader();
        cluster.transfer_leader(Some((leader + 1) % 3));
        load.wait_progress(100);
    }
    let books = load.stop();
    assert_eq!(books.unknown(), 0, "a hand-over leaves no outcome unknown");
    books.check(&mut cluster.members[0].conn());
}

#[test]
fn a_redirecting_member_names_the_leader_and_reads_on_request() {
    let cluster = three_members();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut conn = cluster.members[follower].conn();
    assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
    assert_eq!(conn.cmd("CONFIG SET follower-mode redirect").unwrap(), Value::ok());
    let moved = conn.cmd("GET k").unwrap();
    // 7629 is the slot of "k".
    assert_eq!(moved.error(), Some(format!("MOVED 7629 {}", cluster.members[leader].client).as_str()));
    assert!(conn.cmd("SET k w").unwrap().error().is_some_and(|text| text.starts_with("MOVED 7629 ")));
    for line in ["MEMORY USAGE k", "WATCH k", "WATCH k other", "OBJECT ENCODING k"] {
        let reply = conn.cmd(line).unwrap();
        assert!(reply.error().is_some_and(|text| text.starts_with("MOVED 7629 ")), "{line}: {reply:?}");
    }
    // It is a cluster in whatever it says, though it was started as none.
    let text = |value: Value| value.as_text().expect("text");
    assert!(text(conn.cmd("INFO server").unwrap()).contains("redis_mode:cluster"));
    assert!(text(conn.cmd("INFO cluster").unwrap()).contains("cluster_enabled:1"));
    assert_eq!(conn.cmd("CLUSTER SLOTS").unwrap().items().len(), 1);
    assert_eq!(conn.cmd("MULTI").unwrap(), Value::ok());
    assert!(conn.cmd("MEMORY USAGE k").unwrap().error().is_some_and(|text| text.starts_with("MOVED 7629 ")));
    assert!(conn.cmd("EXEC").unwrap().error().is_some_and(|text| text.starts_with("EXECABORT")));
    assert_eq!(conn.cmd("READONLY").unwrap(), Value::ok());
    wait_until("the follower has applied the write", || (conn.cmd("GET k").ok()? == Value::bulk("v")).then_some(()));
    assert!(conn.cmd("SET k w").unwrap().error().is_some_and(|text| text.starts_with("MOVED ")), "writes go on");
    assert_eq!(conn.cmd("READWRITE").unwrap(), Value::ok());
    assert!(conn.cmd("GET k").unwrap().error().is_some_and(|text| text.starts_with("MOVED ")));
    assert_eq!(conn.cmd("CONFIG SET follower-mode proxy").unwrap(), Value::ok());
    assert!(text(conn.cmd("INFO cluster").unwrap()).contains("cluster_enabled:0"));
    assert!(conn.cmd("CLUSTER SLOTS").unwrap().error().is_some());
    assert_eq!(conn.cmd("GET k").unwrap(), Value::bulk("v"));
}

#[test]
fn who_sets_a_setting_of_the_group_finds_it_set() {
    let cluster = three_members();
    let mut conn = cluster.members[cluster.follower()].conn();
    for value in 100..150 {
        let set = format!("CONFIG SET hash-max-listpack-value {value} hash-max-listpack-entries {value}");
        assert_eq!(conn.cmd(&set).unwrap(), Value::ok());
        for name in ["hash-max-listpack-value", "hash-max-listpack-entries"] {
            let shown = conn.cmd(&format!("CONFIG GET {name}")).unwrap();
            assert_eq!(shown.items()[1], Value::bulk(value.to_string()), "{name}");
        }
    }
}
