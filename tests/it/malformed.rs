//! Bytes that mean nothing, on all three ports: a clear error or a closed connection, and nobody else notices.

use crate::three_members;
use quorate_testkit::{Conn, Value};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// Bytes for any port, from nothing to long.
fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        b"\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        b"*1\r\n$-5\r\nPING\r\n".to_vec(),
        b"*2147483647\r\n".to_vec(),
        b"*1\r\n$99999999999\r\n".to_vec(),
        b"*1\r\n*1\r\n*1\r\n*1\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /v1/members HTTP/9.9\r\n\r\n".to_vec(),
        b"DELETE /v1/members/abc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        b"POST /v1/leader HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{\"to\"".to_vec(),
        b"POST /v1/leader HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        vec![b'x'; 300_000],
    ];
    // The same pseudo-random bytes each time, with different lengths and first bytes.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for length in [1, 3, 4, 7, 8, 16, 33, 100, 1000, 70_000] {
        let bytes = (0..length).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        all.push(bytes.collect());
    }
    all
}

/// Sends, ends the sending side, and reads until the other closes. Gives what came.
fn poke(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut conn = Conn::open_with(addr, Duration::from_secs(30)).expect("the port takes connections");
    // It may have closed already, in the middle of what is sent.
    let _ = conn.send_bytes(bytes);
    let _ = conn.stream().shutdown(Shutdown::Write);
    conn.read_to_end().unwrap_or_else(|error| panic!("{addr} neither answers nor closes: {error}"))
}

#[test]
fn malformed_bytes_on_all_three_ports_disturb_nobody() {
    let mut cluster = three_members();
    let mut bystanders: Vec<Conn> = cluster.members.iter().map(|member| member.conn()).collect();
    let states = |cluster: &quorate_testkit::Cluster| -> Vec<_> {
        let of = |member: &quorate_testkit::Member| {
            let status = member.status().expect("a status");
            (status["pid"].clone(), status["role"].clone(), status["term"].clone())
        };
        cluster.members.iter().map(of).collect()
    };
    let before = states(&cluster);
    let mut served = 0;
    for bytes in garbage() {
        served += 1;
        for (member, bystander) in cluster.members.iter().zip(&mut bystanders) {
            poke(member.client, &bytes);
            poke(member.peer, &bytes);
            poke(member.admin, &bytes);
            let reply = bystander.call(&["INCR", &member.client.to_string()]).unwrap();
            assert_eq!(reply, Value::Int(served), "a connection beside is served in order");
        }
    }
    assert_eq!(states(&cluster), before, "the same processes in the same roles and the same term");
    for member in &mut cluster.members {
        assert!(member.process().ended().is_none(), "the process runs");
        let output = member.output();
        assert!(!output.contains("panicked"), "{output}");
    }
}

#[test]
fn half_a_request_blocks_nobody_and_many_open_connections_cost_nothing() {
    let cluster = three_members();
    let member = &cluster.members[cluster.leader()];
    let mut half: Vec<Conn> = Vec::new();
    for addr in [member.client, member.peer, member.admin] {
        for bytes in [&b"*2\r\n$3\r\nGET\r\n$100\r\nabc"[..], b"GET / HTT", b"\x01", b""] {
            for _ in 0..20 {
                let mut conn = Conn::open(addr).expect("a connection");
                let _ = conn.send_bytes(bytes);
                half.push(conn);
            }
        }
    }
    let mut conn = member.conn();
    for number in 1..=50 {
        assert_eq!(conn.cmd("INCR n").unwrap(), Value::Int(number));
    }
    assert!(member.is_ready());
    assert_eq!(cluster.members[cluster.follower()].conn().cmd("GET n").unwrap(), Value::bulk("50"));
}

#[test]
fn a_broken_request_gets_an_error_that_says_what_is_wrong() {
    let cluster = three_members();
    let member = &cluster.members[cluster.follower()];
    for (sent, expected) in [
        (&b"*1\r\n$abc\r\n"[..], "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*2000000\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'\r\n"),
        (b"SET \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        assert_eq!(String::from_utf8_lossy(&poke(member.client, sent)), expected);
    }
    let answer = poke(member.admin, b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", answer.escape_ascii());
    // What a web page would send by way of a name that it has pointed here.
    let answer = poke(member.admin, b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 403"), "{}", answer.escape_ascii());
}
