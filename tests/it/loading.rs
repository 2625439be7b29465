//! A member that comes back loads its data with the port open, and says so as Redis does.

use crate::BINARY;
use quorate_testkit::resp::{Conn, encode_into};
use quorate_testkit::{Cluster, ClusterOptions, Value, http, wait_for, wait_until};
use std::time::Duration;

const KEYS: usize = 150_000;

/// A group of one with data that takes a while to load, stopped in good order.
fn filled() -> Cluster {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    for batch in 0..KEYS / 1000 {
        let mut bytes = Vec::new();
        for n in 0..1000 {
            let (key, value) = (format!("key:{batch}:{n}"), format!("{:0>100}", n));
            encode_into(&["SET", key.as_str(), value.as_str()], &mut bytes);
        }
        conn.send_bytes(&bytes).unwrap();
        for _ in 0..1000 {
            assert_eq!(conn.read().unwrap(), Value::ok());
        }
    }
    let status = cluster.members[0].stop();
    assert!(status.success(), "{}", cluster.members[0].output());
    cluster
}

/// A connection to a member that is still loading.
fn early(cluster: &mut Cluster) -> Conn {
    cluster.members[0].start();
    let addr = cluster.members[0].client;
    wait_for(Duration::from_secs(20), || {
        let mut conn = Conn::open(addr).ok()?;
        let info = conn.cmd("INFO persistence").ok()?;
        assert!(format!("{info:?}").contains("loading:1"), "it was not seen loading: {info:?}");
        Some(conn)
    })
    .expect("the port is open")
}

fn info(conn: &mut Conn) -> String {
    conn.cmd("INFO persistence").unwrap().as_text().unwrap_or_default()
}

fn is_loading(value: &Value) -> bool {
    value.error() == Some("LOADING Redis is loading the dataset in memory")
}

#[test]
fn a_member_that_loads_answers_as_redis_does_and_then_serves_on_the_same_connection() {
    let mut cluster = filled();
    let mut conn = early(&mut cluster);
    // What Redis refuses, and what it runs.
    for line in ["GET key:1:1", "SET k v", "PING", "DBSIZE", "KEYS *", "EVAL 1 0", "NONSENSE"] {
        let reply = conn.cmd(line).unwrap();
        let unknown = reply.error().is_some_and(|error| error.starts_with("ERR unknown command"));
        assert!(is_loading(&reply) || unknown && matches!(line, "EVAL 1 0" | "NONSENSE"), "{line}: {reply:?}");
    }
    for line in ["CLIENT SETNAME early", "SELECT 2", "SELECT 0", "CONFIG SET slowlog-max-len 99", "MULTI", "DISCARD"] {
        assert_eq!(conn.cmd(line).unwrap(), Value::ok(), "{line}");
    }
    assert_eq!(conn.cmd("CONFIG GET maxclients").unwrap().items().len(), 2);
    assert_eq!(conn.cmd("ECHO hello").unwrap(), Value::bulk("hello"));
    for line in ["COMMAND COUNT", "TIME", "ROLE", "HELLO 2", "CLIENT LIST", "LASTSAVE", "SLOWLOG LEN", "MEMORY HELP"] {
        let reply = conn.cmd(line).unwrap();
        assert!(reply.error().is_none(), "{line}: {reply:?}");
    }
    // A transaction with something that needs data is lost, as in Redis.
    assert_eq!(conn.cmd("MULTI").unwrap(), Value::ok());
    assert!(is_loading(&conn.cmd("SET k v").unwrap()));
    assert!(conn.cmd("EXEC").unwrap().error().is_some_and(|error| error.starts_with("EXECABORT")));
    assert_eq!(conn.cmd("MULTI").unwrap(), Value::ok());
    assert_eq!(conn.cmd("EXEC").unwrap().items(), Vec::<Value>::new());
    assert_eq!(conn.cmd("WATCH key:1:1").unwrap(), Value::ok());
    let text = info(&mut conn);
    let names = ["start_time", "total_bytes", "loaded_bytes", "loaded_perc", "eta_seconds"];
    for name in names {
        assert!(text.contains(&format!("loading_{name}:")), "{name}: {text}");
    }
    assert!(text.contains("\nloading:1"), "all of this was seen while it loaded");
    let admin = cluster.members[0].admin;
    let ready = http::get(admin, "/readyz").unwrap();
    assert!(ready.status == 503 && ready.body.contains("loading"), "{} {}", ready.status, ready.body);
    assert_eq!(http::get(admin, "/livez").unwrap().status, 200);

    wait_until("it is loaded", || info(&mut conn).contains("\nloading:0").then_some(()));
    assert!(!info(&mut conn).contains("loading_eta_seconds"));
    cluster.members[0].wait_ready();
    assert_eq!(conn.cmd("DBSIZE").unwrap(), Value::Int(KEYS as i64));
    assert_eq!(conn.cmd("GET key:7:7").unwrap(), Value::bulk(format!("{:0>100}", 7)));
    assert_eq!(conn.cmd("CLIENT GETNAME").unwrap(), Value::bulk("early"));
    // What was watched before there was data counts as changed.
    for line in ["MULTI", "SET k lost", "EXEC"] {
        let reply = conn.cmd(line).unwrap();
        assert_eq!(reply == Value::Null, line == "EXEC", "{line}: {reply:?}");
    }
    assert_eq!(conn.cmd("SET k v").unwrap(), Value::ok());
    let output = cluster.members[0].output();
    assert!(output.contains("the checkpoint is loaded, its digests are right"), "{output}");
}

#[test]
fn a_stop_while_it_loads_is_quick_and_loses_nothing() {
    let mut cluster = filled();
    let mut conn = early(&mut cluster);
    let _ = conn.send(&["SHUTDOWN", "NOSAVE"]);
    let status = cluster.members[0].wait_end();
    assert!(status.success(), "{status}");
    assert!(cluster.members[0].output().contains("stopped before the data was loaded"));
    let _early = early(&mut cluster);
    let status = cluster.members[0].stop();
    assert!(status.success(), "SIGTERM: {status}");
    cluster.members[0].start();
    cluster.members[0].wait_ready();
    assert_eq!(cluster.members[0].conn().cmd("DBSIZE").unwrap(), Value::Int(KEYS as i64));
}

#[test]
fn a_process_that_waits_to_be_taken_in_says_so_and_can_be_stopped() {
    let mut cluster = Cluster::prepare(ClusterOptions::new(BINARY));
    // Nobody runs that could take it in.
    let nobody = cluster.ports.next_port();
    let command = cluster.members[0].command_mut();
    command.retain(|word| word != "--bootstrap");
    command.extend(["--join".to_owned(), format!("http://127.0.0.1:{nobody}")]);
    let member = &mut cluster.members[0];
    member.start();
    let lives = wait_until("it answers", || http::get(member.admin, "/livez").ok());
    assert_eq!((lives.status, lives.body.as_str()), (200, "ok\n"));
    let asked = http::get(member.admin, "/v1/status").expect("an answer");
    assert_eq!((asked.status, &asked.json()["code"]), (503, &"joining".into()), "{}", asked.body);
    let status = member.stop();
    assert!(status.success(), "{}", member.output());
}
