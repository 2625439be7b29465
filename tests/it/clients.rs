//! Clients of different kinds see the same on every member: the `redis` crate and a raw socket here, redis-cli in
//! the tests beside Redis.

use crate::three_members;
use quorate_testkit::Value;
use redis::Commands;
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn crate_conn(addr: SocketAddr, protocol: &str) -> redis::Connection {
    let client = redis::Client::open(format!("redis://{addr}/?protocol={protocol}")).expect("an address");
    client.get_connection().expect("a connection")
}

#[test]
fn the_redis_crate_and_a_raw_socket_agree_on_leader_and_follower() {
    let cluster = three_members();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    for (number, protocol) in ["resp2", "resp3"].into_iter().enumerate() {
        for (writer, reader) in [(leader, follower), (follower, leader)] {
            let mut library = crate_conn(cluster.members[writer].client, protocol);
            let mut raw = cluster.members[reader].conn();
            let key = format!("key:{protocol}:{writer}");

            library.set::<_, _, ()>(&key, "value").expect("SET");
            assert_eq!(raw.call(&["GET", &key]).unwrap(), Value::bulk("value"));
            assert_eq!(library.incr::<_, _, i64>(format!("{key}:n"), 5).expect("INCRBY"), 5);
            assert_eq!(raw.call(&["INCR", &format!("{key}:n")]).unwrap(), Value::Int(6));
            assert_eq!(library.get::<_, i64>(format!("{key}:n")).expect("GET"), 6);

            let hash = format!("{key}:h");
            library.hset_multiple::<_, _, _, ()>(&hash, &[("a", "1"), ("b", "2")]).expect("HSET");
            let all = vec!["a", "1", "b", "2"].into_iter().map(Value::bulk).collect();
            assert_eq!(raw.call(&["HGETALL", &hash]).unwrap(), Value::Array(all));
            let fields: BTreeMap<String, i64> = library.hgetall(&hash).expect("HGETALL");
            assert_eq!(fields, BTreeMap::from([("a".into(), 1), ("b".into(), 2)]));

            let (first, second): (i64, i64) = redis::pipe()
                .atomic()
                .incr(format!("{key}:t"), 1)
                .incr(format!("{key}:t"), 1)
                .query(&mut library)
                .expect("a transaction");
            assert_eq!((first, second), (1, 2));
            assert_eq!(raw.call(&["GET", &format!("{key}:t")]).unwrap(), Value::bulk("2"));

            let scanned: Vec<String> = library
                .scan_match(format!("{key}*"))
                .expect("SCAN")
                .collect::<Result<_, _>>()
                .expect("keys as strings");
            let mut scanned = scanned;
            scanned.sort();
            assert_eq!(scanned, ["", ":h", ":n", ":t"].map(|end| format!("{key}{end}")));
            let wrong = redis::cmd("INCR").arg(&hash).query::<i64>(&mut library).expect_err("a hash is no number");
            assert!(wrong.to_string().contains("WRONGTYPE"), "{wrong}");
        }
        assert_eq!(cluster.members[follower].conn().cmd("DBSIZE").unwrap(), Value::Int(8 * (number as i64 + 1)));
    }
}

#[test]
fn expiry_looks_the_same_from_every_member() {
    let cluster = three_members();
    let mut conns: Vec<_> = cluster.members.iter().map(|member| member.conn()).collect();
    assert_eq!(conns[0].cmd("SET short v PX 300").unwrap(), Value::ok());
    assert_eq!(conns[0].cmd("SET long v EXAT 33177117420").unwrap(), Value::ok());
    for conn in &mut conns {
        assert_eq!(conn.cmd("EXPIRETIME long").unwrap(), Value::Int(33_177_117_420));
    }
    quorate_testkit::wait_until("the key has expired", || {
        (conns[1].cmd("GET short").unwrap() == Value::Null).then_some(())
    });
    for conn in &mut conns {
        assert_eq!(conn.cmd("EXISTS short").unwrap(), Value::Int(0), "expired for one is expired for all");
    }
    // And it is removed by itself, without anyone reading it.
    assert_eq!(conns[2].cmd("SET unread v PX 50").unwrap(), Value::ok());
    quorate_testkit::wait_until("the expired key is removed", || {
        (conns[0].cmd("DBSIZE").unwrap() == Value::Int(1)).then_some(())
    });
}
