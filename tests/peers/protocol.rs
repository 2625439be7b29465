//! Bytes that are no well-formed requests: the same answer, and the connection closed at the same place.

use crate::pair::Pair;
use quorate_testkit::Conn;
use std::net::{Shutdown, SocketAddr};

/// None holds a zero byte in an inline request: Redis takes it for the end of what has come and waits, by chance of C.
/// Sent on a connection of its own; then the sending side is closed and everything that came is compared.
fn cases() -> Vec<Vec<u8>> {
    let mut cases: Vec<Vec<u8>> = [
        &b"PING\r\n"[..],
        b"PING\n",
        b"\r\n\r\n\nPING\r\n",
        b"ping \"a b\" \r\n",
        b"PING \"a\\x41\\n\"\r\n",
        b"PING 'it\\'s'\r\n",
        b"PING \"unbalanced\r\n",
        b"PING \"a\"b\r\nPING\r\n",
        b"   PING   \r\n",
        b"SET k v\r\nGET k\r\n",
        b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
        b"*0\r\nPING\r\n",
        b"*-1\r\nPING\r\n",
        b"*-10\r\nPING\r\n",
        b"*abc\r\nPING\r\n",
        b"*\r\nPING\r\n",
        b"*2147483648\r\nPING\r\n",
        b"*9223372036854775808\r\nPING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n:4\r\nPING\r\n",
        b"*1\r\n\xff\r\n",
        b"*1\r\n\x80\r\nPING\r\n",
        b"*1\r\n$-1\r\nPING\r\n",
        b"*1\r\n$abc\r\nPING\r\n",
        b"*1\r\n$\r\nPING\r\n",
        b"*1\r\n$536870913\r\nPING\r\n",
        b"*1\r\n$4x\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1 \r\n$4\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGxxPING\r\n",
        b"*1\r\n$0\r\n\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb\0\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*2\r\n$4\r\nPING\r\n",
        b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
        b"+OK\r\nPING\r\n",
        b"$4\r\nPING\r\n",
        b"\xff\xfe\xfd\r\nPING\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"*3\r\n$5\r\nMULTI\r\n$1\r\na\r\n$1\r\nb\r\nPING\r\n",
        b"*1\r\n$5\r\nMULTI\r\n*1\r\n$abc\r\n",
        b"CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n",
        b"CLIENT REPLY SKIP\r\nPING\r\nPING\r\n",
        b"MULTI\r\nSET k v\r\nCLIENT REPLY OFF\r\nPING\r\nGET k\r\nEXEC\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n",
        b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n",
        b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING\r\nPING\r\n",
        b"CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\n",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    // An inline request that never ends, one that is just short enough, and counts without end of line.
    cases.push(vec![b'a'; 70_000]);
    cases.push([&b"ECHO "[..], &[b'a'; 60_000], b"\r\n"].concat());
    cases.push([&b"*"[..], &[b'1'; 70_000]].concat());
    cases.push([&b"*1\r\n$"[..], &[b'1'; 70_000]].concat());
    // Replies of more bytes than wait in memory must not slip past CLIENT REPLY.
    cases.push(b"SETRANGE k 400000 x\r\nCLIENT REPLY OFF\r\nGET k\r\nGET k\r\nCLIENT REPLY ON\r\n".to_vec());
    let pipeline = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(500);
    cases.push(pipeline.into_bytes());
    cases
}

fn answer(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut conn = Conn::open(addr).expect("the server takes connections");
    // The server may have closed already, in the middle of what is sent.
    let _ = conn.send_bytes(bytes);
    let _ = conn.stream().shutdown(Shutdown::Write);
    match conn.read_to_end() {
        Ok(all) => all.escape_ascii().to_string(),
        Err(error) => format!("({error})"),
    }
}

#[test]
fn broken_requests_are_answered_as_redis_does() {
    let pair = Pair::with_ours();
    let mut differences = Vec::new();
    for bytes in cases() {
        let [genuine, ours] = pair.addrs().map(|addr| answer(addr, &bytes));
        if genuine != ours {
            let mut sent = bytes.escape_ascii().to_string();
            sent.truncate(120);
            differences.push(format!("{sent}\n    redis {genuine:.300}\n    ours  {ours:.300}"));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
