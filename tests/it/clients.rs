//! Clients of different kinds see the same on every member: the `redis` crate and a raw socket here, redis-cli in
//! the tests beside Redis.

use crate::three_members;
use quorate_testkit::Value;
use quorate_testkit::resp::encode_into;
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

#[test]
fn a_pause_holds_commands_back_and_info_counts_those_who_wait() {
    let cluster = three_members();
    let member = &cluster.members[cluster.follower()];
    let blocked = |conn: &mut quorate_testkit::Conn| {
        let info = conn.cmd("INFO clients").unwrap();
        let text = info.as_text().expect("text");
        text.lines().find_map(|line| line.strip_prefix("blocked_clients:").map(str::to_owned)).expect("the field")
    };
    let mut control = member.conn();
    assert_eq!(control.cmd("CLIENT PAUSE 100000 WRITE").unwrap(), Value::ok());
    // Reads, and transactions of reads, go on.
    let mut reader = member.conn();
    for line in ["MULTI", "GET k", "PING"] {
        reader.cmd(line).unwrap();
    }
    assert_eq!(reader.cmd("EXEC").unwrap(), Value::Array(vec![Value::Null, Value::Simple("PONG".into())]));
    assert_eq!(blocked(&mut control), "0");
    // A write waits, and so does one that is to be queued.
    let (mut writer, mut queuer) = (member.conn(), member.conn());
    queuer.cmd("MULTI").unwrap();
    writer.send(&["SET", "k", "v"]).unwrap();
    queuer.send(&["SET", "q", "v"]).unwrap();
    quorate_testkit::wait_until("both wait", || (blocked(&mut control) == "2").then_some(()));
    assert_eq!(reader.cmd("GET k").unwrap(), Value::Null);
    assert_eq!(control.cmd("CLIENT UNPAUSE").unwrap(), Value::ok());
    assert_eq!(writer.read().unwrap(), Value::ok());
    assert_eq!(queuer.read().unwrap(), Value::Simple("QUEUED".into()));
    assert_eq!(blocked(&mut control), "0");
    // A pause of everything holds a PING back too, for as long as it lasts.
    let began = std::time::Instant::now();
    assert_eq!(control.cmd("CLIENT PAUSE 300 ALL").unwrap(), Value::ok());
    assert_eq!(reader.cmd("PING").unwrap(), Value::Simple("PONG".into()));
    assert!(began.elapsed().as_millis() >= 300, "PING waited {:?} only", began.elapsed());
}

#[test]
fn client_list_shows_the_command_that_runs() {
    let cluster = three_members();
    let mut conn = cluster.members[cluster.follower()].conn();
    conn.cmd("PING").unwrap();
    for (line, name) in [("CLIENT INFO", "client|info"), ("CLIENT LIST", "client|list")] {
        let reply = conn.cmd(line).unwrap();
        let text = reply.as_text().expect("text");
        // The request: *2 $6 CLIENT $4 LIST, with its line ends.
        for field in [format!("cmd={name}"), "qbuf=26".into(), "omem=0".into(), "resp=2".into()] {
            assert!(text.split_whitespace().any(|found| found == field), "{field} in {text}");
        }
    }
}

#[test]
fn a_pipeline_that_changes_between_writes_and_reads_is_not_one_entry_a_command() {
    let cluster = three_members();
    let member = &cluster.members[cluster.follower()];
    let applied = || member.status().expect("a status")["applied"].as_u64().expect("a position");
    let (mut conn, before) = (member.conn(), applied());
    let mut bytes = Vec::new();
    for n in 0..5000 {
        let n = n.to_string();
        encode_into(&["SET", "k", &n], &mut bytes);
        encode_into(&["GET", "k"], &mut bytes);
        encode_into(&["APPEND", "k", "x"], &mut bytes);
        encode_into(&["GET", "k"], &mut bytes);
    }
    conn.send_bytes(&bytes).unwrap();
    for n in 0..5000 {
        let replies = [(); 4].map(|()| conn.read().unwrap());
        let length = n.to_string().len() as i64 + 1;
        let (then, now) = (Value::bulk(n.to_string()), Value::bulk(format!("{n}x")));
        assert_eq!(replies, [Value::ok(), then, Value::Int(length), now]);
    }
    let entries = applied() - before;
    assert!(entries < 1000, "{entries} entries for 10000 writes, each with a read behind it");
}
