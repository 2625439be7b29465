//! What one client may hold of a member, and what is written down about clients: the limits, the slow log, the counts.

use crate::BINARY;
use quorate_testkit::{Cluster, ClusterOptions, Conn, Member, Value, wait_until};
use std::time::Duration;

fn one_member(args: &str) -> Cluster {
    Cluster::start(ClusterOptions::new(BINARY).members(1).args(args))
}

/// Sends the pieces until the other side closes. False: it took all of them.
fn is_closed_while_sending(conn: &mut Conn, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    for piece in pieces {
        if conn.send_bytes(&piece).is_err() {
            return true;
        }
    }
    false
}

fn bulk(bytes: usize) -> Vec<u8> {
    [format!("${bytes}\r\n").as_bytes(), &vec![b'x'; bytes], b"\r\n"].concat()
}

#[test]
fn a_request_without_an_end_is_closed_at_its_limit() {
    let cluster = one_member("--client-query-buffer-limit 1mb");
    let member = &cluster.members[0];
    let mut control = member.conn();

    let many_small = || std::iter::once(b"*100000\r\n".to_vec()).chain((0..50_000).map(|_| bulk(1000)));
    assert!(is_closed_while_sending(&mut member.conn(), many_small()), "50 MB of arguments");
    let large = std::iter::once(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n".to_vec()).chain((0..50).map(|_| vec![b'x'; 1 << 20]));
    let large = large.enumerate().map(|(at, piece)| if at == 1 { b"$52428800\r\n".to_vec() } else { piece });
    assert!(is_closed_while_sending(&mut member.conn(), large), "one argument of 50 MB");
    let queued = std::iter::once(b"*1\r\n$5\r\nMULTI\r\n".to_vec())
        .chain((0..100).map(|_| [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n".to_vec(), bulk(500_000)].concat()));
    assert!(is_closed_while_sending(&mut member.conn(), queued), "50 MB of commands that wait for EXEC");
    wait_until("all three are counted", || {
        (control.info("stats", "client_query_buffer_limit_disconnections") == "3").then_some(())
    });
    assert_eq!(member.output().matches("is over client-query-buffer-limit").count(), 3, "{}", member.output());

    // What is below it passes, and so does a pipeline of any length.
    let value = "v".repeat(1_000_000);
    for _ in 0..5 {
        control.send(&["SET", "k", &value]).unwrap();
    }
    for _ in 0..5 {
        assert_eq!(control.read().unwrap(), Value::ok());
    }
    assert_eq!(control.cmd("DBSIZE").unwrap(), Value::Int(1));
}

/// The lines of the slow log, oldest first.
fn slow_lines(conn: &mut Conn) -> Vec<String> {
    let entries = conn.cmd("SLOWLOG GET -1").unwrap().items();
    let line = |entry: &Value| -> String {
        entry.items()[3].items().iter().map(|arg| arg.as_text().expect("text")).collect::<Vec<_>>().join(" ")
    };
    entries.iter().rev().map(line).collect()
}

#[test]
fn the_slow_log_shows_no_secret_and_what_ran_as_one() {
    let cluster = one_member("--slowlog-log-slower-than 0");
    let mut conn = cluster.members[0].conn();
    for line in [
        "HELLO 2 SETNAME me AUTH default hunter2",
        "HELLO 2 AUTH hunter2",
        "AUTH hunter2",
        "AUTH default hunter2",
        "CONFIG SET timeout 0 requirepass hunter2",
        "CONFIG SET RequirePass '' masterauth hunter2",
        "SLOWLOG RESET",
    ] {
        conn.cmd(line).unwrap();
        if line.starts_with("CONFIG SET Req") {
            let shown = slow_lines(&mut conn);
            let expected = [
                "HELLO 2 SETNAME me AUTH (redacted) (redacted)",
                "HELLO 2 AUTH (redacted)",
                "AUTH (redacted)",
                "AUTH (redacted) (redacted)",
                "CONFIG SET timeout 0 requirepass (redacted)",
                "CONFIG SET RequirePass (redacted) masterauth (redacted)",
            ];
            assert_eq!(shown, expected);
        }
    }
    // One unit is one entry, shown by the command that is likely to be the slow one.
    for line in ["MULTI", "SET k v", "KEYS *", "PING", "GET k", "EXEC"] {
        conn.cmd(line).unwrap();
    }
    for line in ["GET k", "KEYS *", "GET k"] {
        conn.send(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    for _ in 0..3 {
        conn.read().unwrap();
    }
    let shown = slow_lines(&mut conn);
    let of_exec = shown.iter().position(|line| line == "SET k v ... (2 more commands)");
    assert!(of_exec.is_some(), "{shown:?}");
    assert!(shown.iter().any(|line| line.starts_with("KEYS *")), "{shown:?}");
    assert!(!shown.iter().any(|line| line.starts_with("EXEC")), "{shown:?}");
    // A transaction that did not run took no time.
    conn.cmd("SLOWLOG RESET").unwrap();
    conn.cmd("WATCH k").unwrap();
    cluster.members[0].conn().cmd("SET k changed").unwrap();
    for line in ["MULTI", "SET mine v", "EXEC"] {
        conn.cmd(line).unwrap();
    }
    assert!(!slow_lines(&mut conn).iter().any(|line| line.contains("mine")));
}

/// A client that asks for 64 MB and reads nothing: more than the sockets hold.
fn greedy(member: &Member) -> Conn {
    let mut conn = member.conn();
    for _ in 0..8 {
        conn.send(&["GET", "large"]).unwrap();
    }
    conn
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    let cluster = one_member("");
    let member = &cluster.members[0];
    let mut control = member.conn();
    assert_eq!(control.call(&["SET", "large", &"v".repeat(8 << 20)]).unwrap(), Value::ok());
    let clients = |control: &mut Conn| control.info("clients", "connected_clients");

    let stuck = greedy(member);
    wait_until("its replies wait", || {
        let list = control.cmd("CLIENT LIST").unwrap().as_text().expect("text");
        list.lines().any(|line| !line.contains("omem=0 ")).then_some(())
    });
    assert_eq!(control.info("stats", "client_output_buffer_limit_disconnections"), "0", "nothing bounds it yet");
    assert_eq!(control.cmd("CLIENT KILL TYPE normal SKIPME yes").unwrap(), Value::Int(1));
    drop(stuck);

    assert_eq!(control.cmd("CONFIG SET timeout 2").unwrap(), Value::ok());
    let seen = |control: &mut Conn| control.info("stats", "total_connections_received");
    let before = seen(&mut control);
    let _idle = greedy(member);
    wait_until("an idle one is closed", || {
        (seen(&mut control) != before && clients(&mut control) == "1").then_some(())
    });
    assert_eq!(control.info("stats", "client_output_buffer_limit_disconnections"), "0");

    assert_eq!(control.cmd("CONFIG SET timeout 0").unwrap(), Value::ok());
    assert_eq!(control.cmd("CONFIG SET client-output-buffer-limit 'normal 0 1mb 1'").unwrap(), Value::ok());
    let _slow = greedy(member);
    wait_until("one over the soft limit is closed", || {
        (control.info("stats", "client_output_buffer_limit_disconnections") == "1").then_some(())
    });
    wait_until("it is gone", || (clients(&mut control) == "1").then_some(()));
    assert!(member.output().contains("its replies are over client-output-buffer-limit"), "{}", member.output());

    // One that reads, however slowly, is served to the end: what waits shrinks below the limit in time.
    assert_eq!(
        control.cmd("CONFIG SET client-output-buffer-limit 'normal 0 1mb 3600' timeout 3600").unwrap(),
        Value::ok()
    );
    let mut reader = greedy(member);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(reader.read_raw().unwrap().len(), (8 << 20) + "$8388608\r\n\r\n".len());
    }
}

#[test]
fn refused_calls_are_counted_for_their_command() {
    let cluster = one_member("");
    let mut conn = cluster.members[0].conn();
    let rejected = |conn: &mut Conn, name: &str| {
        let line = conn.info("commandstats", &format!("cmdstat_{name}"));
        line.split(',').find_map(|field| field.strip_prefix("rejected_calls=")).expect("the field").to_owned()
    };
    assert!(conn.cmd("GET").unwrap().error().is_some());
    assert_eq!(rejected(&mut conn, "get"), "1");
    conn.cmd("MULTI").unwrap();
    assert!(conn.cmd("GET a b").unwrap().error().is_some());
    assert!(conn.cmd("EXEC").unwrap().error().is_some());
    assert_eq!(rejected(&mut conn, "get"), "2");
    assert!(conn.cmd("CONFIG GET").unwrap().error().is_some());
    assert_eq!(rejected(&mut conn, "config|get"), "1");
    assert!(conn.cmd("CONFIG nosuch").unwrap().error().is_some());
    assert!(conn.cmd("nosuch").unwrap().error().is_some());
}
