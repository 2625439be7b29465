//! MIGRATE between groups, and to targets that break off, are silent, or talk nonsense. Here the test itself is such a
//! target, so it decides what happens between two words of the conversation. No key may be lost, and what the client is
//! told must hold.

use crate::{BINARY, three_members};
use quorate_testkit::resp::encode;
use quorate_testkit::{Cluster, ClusterOptions, Conn, PATIENCE, Value, wait_until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A target in the test's own hands.
struct Target(TcpListener);

impl Target {
    fn new() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener that does not wait");
        Target(listener)
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The connection of a member, greeted.
    fn accept(&self) -> Peer {
        let stream = wait_until("a member connects to the target", || self.0.accept().ok()).0;
        stream.set_nonblocking(false).expect("a stream that waits");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let mut peer = Peer(BufReader::new(stream));
        assert_eq!(peer.command()[0], b"SELECT");
        peer.say("+OK\r\n");
        peer
    }
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    fn length(&mut self) -> usize {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end()[1..].parse().unwrap_or_else(|_| panic!("a length: {line}"))
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        let words = self.length();
        let mut word = || {
            let length = self.length();
            let mut bytes = vec![0; length + 2];
            self.0.read_exact(&mut bytes).expect("a word");
            bytes.truncate(length);
            bytes
        };
        (0..words).map(|_| word()).collect()
    }

    /// The key of the next RESTORE, and its time to live.
    fn restore(&mut self) -> (String, u64) {
        let words = self.command();
        assert_eq!(words[0], b"RESTORE");
        let text = |at: usize| String::from_utf8(words[at].clone()).expect("text");
        (text(1), text(2).parse().expect("a number"))
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("the member listens");
    }

    /// What the member does next is to close, not to send.
    fn ends(mut self) {
        assert_eq!(self.0.read(&mut [0; 1]).expect("the end"), 0);
    }
}

fn line<'a>(host: &'a str, port: &'a str, rest: &[&'a str]) -> Vec<u8> {
    encode(&[&["MIGRATE", host, port], rest].concat())
}

/// Sends the command, and does not wait for its reply.
fn begin(conn: &mut Conn, to: SocketAddr, rest: &[&str]) {
    conn.send_bytes(&line(&to.ip().to_string(), &to.port().to_string(), rest)).expect("it is sent");
}

fn migrate(conn: &mut Conn, to: SocketAddr, rest: &[&str]) -> Value {
    begin(conn, to, rest);
    conn.read().expect("a reply")
}

fn error_begins(reply: &Value, text: &str) {
    assert!(reply.error().is_some_and(|line| line.starts_with(text)), "not {text}: {reply:?}");
}

const LOST: &str = "IOERR error or timeout reading to target instance";

#[test]
fn keys_move_from_group_to_group() {
    let (from, to) = (three_members(), three_members());
    let (source, target) = (&from.members[from.follower()], &to.members[to.follower()]);
    let (mut here, mut there) = (source.conn(), target.conn());
    assert_eq!(here.cmd("SET s hello PX 500000").unwrap(), Value::ok());
    let mut hash = vec!["HSET".to_owned(), "h".into()];
    hash.extend((0..3000).flat_map(|n| [format!("field:{n}"), "v".repeat(n % 100)]));
    assert_eq!(here.call(&hash).unwrap(), Value::Int(3000));
    let digest = |conn: &mut Conn| {
        let mut fields: Vec<String> =
            conn.cmd("HGETALL h").unwrap().items().chunks(2).map(|f| format!("{f:?}")).collect();
        fields.sort();
        fields
    };
    let before = digest(&mut here);
    assert_eq!(migrate(&mut here, target.client, &["", "2", "30000", "KEYS", "s", "h", "nothing"]), Value::ok());
    assert_eq!(here.cmd("DBSIZE").unwrap(), Value::Int(0));
    there.cmd("SELECT 2").unwrap();
    assert_eq!(there.cmd("GET s").unwrap(), Value::bulk("hello"));
    let left = there.cmd("PTTL s").unwrap().as_int().expect("milliseconds");
    assert!((1..=500_000).contains(&left), "{left}");
    assert_eq!(digest(&mut there), before);
    // And back, from a connection that otherwise reads what its own member has.
    assert_eq!(there.cmd("READONLY").unwrap(), Value::ok());
    assert_eq!(migrate(&mut there, source.client, &["h", "0", "30000"]), Value::ok());
    assert_eq!(digest(&mut here), before);
    assert_eq!(there.cmd("READWRITE").unwrap(), Value::ok());
    assert_eq!(there.cmd("KEYS *").unwrap(), Value::Array(vec![Value::bulk("s")]));
}

#[test]
fn a_member_that_is_its_own_target_answers() {
    let cluster = three_members();
    for member in &cluster.members {
        let mut conn = member.conn();
        conn.cmd("SET k v").unwrap();
        error_begins(
            &migrate(&mut conn, member.client, &["k", "0", "30000"]),
            "ERR Target instance replied with error: BUSYKEY",
        );
        assert_eq!(migrate(&mut conn, member.client, &["k", "0", "30000", "COPY", "REPLACE"]), Value::ok());
        // What is replaced here is not what was sent any more.
        error_begins(&migrate(&mut conn, member.client, &["k", "0", "30000", "REPLACE"]), "TRYAGAIN ");
        assert_eq!(conn.cmd("GET k").unwrap(), Value::bulk("v"));
        assert_eq!(migrate(&mut conn, member.client, &["k", "1", "30000", "REPLACE"]), Value::ok());
        assert_eq!(conn.cmd("GET k").unwrap(), Value::Null);
        conn.cmd("SELECT 1").unwrap();
        assert_eq!(conn.cmd("GET k").unwrap(), Value::bulk("v"));
    }
}

#[test]
fn a_key_that_changes_while_it_is_sent_stays() {
    let cluster = three_members();
    let mut conn = cluster.members[cluster.follower()].conn();
    let mut other = cluster.members[cluster.leader()].conn();
    let target = Target::new();
    for change in ["SET b 2", "APPEND b x", "PEXPIRE b 100000", "DEL b", "FLUSHALL"] {
        conn.cmd("MSET a 1 b 1").unwrap();
        begin(&mut conn, target.addr(), &["", "0", "60000", "KEYS", "a", "b"]);
        let mut peer = target.accept();
        assert_eq!([peer.restore(), peer.restore()], [("a".into(), 0), ("b".into(), 0)]);
        other.cmd(change).unwrap();
        let now = other.cmd("MGET a b").unwrap();
        peer.say("+OK\r\n+OK\r\n");
        error_begins(&conn.read().unwrap(), "TRYAGAIN A key was changed here while it was sent: none was removed");
        assert_eq!(conn.cmd("MGET a b").unwrap(), now, "after {change}");
        peer.ends();
    }
    // As it was before, but written anew: that is no change that a target could miss, and still one.
    conn.cmd("SET a 1").unwrap();
    begin(&mut conn, target.addr(), &["a", "0", "60000"]);
    let mut peer = target.accept();
    peer.restore();
    other.cmd("SET a 1").unwrap();
    // Other keys don't matter.
    other.cmd("SET c 1").unwrap();
    peer.say("-ERR no\r\n");
    error_begins(&conn.read().unwrap(), "ERR Target instance replied with error: ERR no");
    assert_eq!(conn.cmd("GET a").unwrap(), Value::bulk("1"));
}

#[test]
fn a_key_whose_time_is_over_meanwhile_is_no_obstacle() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    let mut other = cluster.members[0].conn();
    let target = Target::new();
    conn.cmd("SET lasting 1").unwrap();
    conn.cmd("SET short 1 PX 300").unwrap();
    begin(&mut conn, target.addr(), &["", "0", "60000", "KEYS", "lasting", "short"]);
    let mut peer = target.accept();
    assert_eq!(peer.restore(), ("lasting".into(), 0));
    let (key, left) = peer.restore();
    assert!(key == "short" && (1..=300).contains(&left), "{key} {left}");
    // The member has begun to count before it sent this.
    std::thread::sleep(Duration::from_millis(left + 1));
    wait_until("its time is over", || (other.cmd("EXISTS short").unwrap() == Value::Int(0)).then_some(()));
    peer.say("+OK\r\n+OK\r\n");
    assert_eq!(conn.read().unwrap(), Value::ok());
    assert_eq!(conn.cmd("DBSIZE").unwrap(), Value::Int(0));
}

#[test]
fn copies_of_many_keys_are_of_one_moment() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    let mut other = cluster.members[0].conn();
    let keys: Vec<String> = (0..1000).map(|n| format!("key:{n}")).collect();
    let pairs: Vec<&str> = keys.iter().flat_map(|key| [key.as_str(), "value"]).collect();
    conn.call(&[&["MSET"], &pairs[..]].concat()).unwrap();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let rest = [&["", "0", "60000", "COPY", "KEYS"], &keys[..]].concat();
    let target = Target::new();
    for (change, expected) in [("SET key:3 other", "TRYAGAIN "), ("SET another other", "")] {
        begin(&mut conn, target.addr(), &rest);
        let mut peer = target.accept();
        let mut came = 0;
        while came < keys.len() {
            // As many as go in one piece: then the member waits for the answers.
            let piece = (keys.len() - came).min(512);
            for key in &keys[came..came + piece] {
                assert_eq!(peer.restore().0, *key);
            }
            if came == 0 {
                other.cmd(change).unwrap();
            }
            came += piece;
            peer.say(&"+OK\r\n".repeat(piece));
        }
        let reply = conn.read().unwrap();
        match expected {
            "" => assert_eq!(reply, Value::ok()),
            text => error_begins(&reply, text),
        }
        assert_eq!(conn.cmd("EXISTS key:3 key:999").unwrap(), Value::Int(2));
    }
}

#[test]
fn what_a_target_has_not_acknowledged_stays() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let mut conn = cluster.members[0].conn();
    let target = Target::new();
    let rest = ["", "0", "60000", "KEYS", "a", "b", "c"];
    for (words, reply, left) in [
        // It breaks off.
        ("+OK\r\n", LOST, vec!["b", "c"]),
        ("", LOST, vec!["a", "b", "c"]),
        ("+OK\r\n+OK", LOST, vec!["b", "c"]),
        // It takes some.
        ("-BUSYKEY no\r\n+OK\r\n-OOM no\r\n", "ERR Target instance replied with error: BUSYKEY no", vec!["a", "c"]),
        ("+OK\r\n-BUSYKEY no\r\n", "ERR Target instance replied with error: BUSYKEY no", vec!["b", "c"]),
        // It is no server that takes keys.
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "ERR Target instance replied with error: HTTP/1.1", vec!["a", "b", "c"]),
        ("$2\r\nOK\r\n", "ERR Target instance replied with error: $2", vec!["a", "b", "c"]),
        (":1\r\n+OK\r\n+OK\r\n", "ERR Target instance replied with error: :1", vec!["a", "b", "c"]),
        ("+OK\r\n+OK\r\n+OK\r\n", "", vec![]),
    ] {
        conn.cmd("MSET a 1 b 2 c 3").unwrap();
        begin(&mut conn, target.addr(), &rest);
        let mut peer = target.accept();
        (0..3).for_each(|_| drop(peer.restore()));
        peer.say(words);
        drop(peer);
        match (conn.read().unwrap(), reply) {
            (told, "") => assert_eq!(told, Value::ok()),
            (told, text) => error_begins(&told, text),
        }
        let mut keys: Vec<String> = conn.cmd("KEYS *").unwrap().items().iter().filter_map(Value::as_text).collect();
        keys.sort();
        assert_eq!(keys, left, "after {words:?}");
    }
    // With COPY nothing leaves, whatever is said.
    conn.cmd("MSET a 1 b 2 c 3").unwrap();
    begin(&mut conn, target.addr(), &[&["", "0", "60000", "COPY"], &rest[3..]].concat());
    let mut peer = target.accept();
    (0..3).for_each(|_| drop(peer.restore()));
    peer.say("+OK\r\n-ERR no\r\n+OK\r\n");
    error_begins(&conn.read().unwrap(), "ERR Target instance replied with error: ERR no");
    assert_eq!(conn.cmd("DBSIZE").unwrap(), Value::Int(3));
}

#[test]
fn a_target_that_is_silent_or_away_is_given_up() {
    let cluster = three_members();
    let mut conn = cluster.members[cluster.follower()].conn();
    conn.cmd("SET k v").unwrap();
    let target = Target::new();
    let silent = migrate(&mut conn, target.addr(), &["k", "0", "50"]);
    assert_eq!(silent.error(), Some(LOST), "it accepts and never answers");
    begin(&mut conn, target.addr(), &["k", "0", "50"]);
    let nothing = conn.read().unwrap();
    assert_eq!(nothing.error(), Some(LOST));
    let gone = target.addr();
    drop(target);
    let refused = migrate(&mut conn, gone, &["k", "0", "5000"]);
    assert_eq!(refused.error(), Some("IOERR error or timeout writing to target instance"));
    conn.send_bytes(&line("no.such.host.invalid", "1", &["k", "0", "5000"])).unwrap();
    let unknown = conn.read().unwrap();
    assert_eq!(unknown.error(), Some("IOERR error or timeout connecting to the client"));
    assert_eq!(conn.cmd("GET k").unwrap(), Value::bulk("v"));
}

#[test]
fn a_client_that_is_killed_meanwhile_leaves_its_keys() {
    let cluster = Cluster::start(ClusterOptions::new(BINARY).members(1));
    let (mut conn, mut other) = (cluster.members[0].conn(), cluster.members[0].conn());
    conn.cmd("SET k v").unwrap();
    let id = conn.cmd("CLIENT ID").unwrap().as_int().expect("an id");
    let target = Target::new();
    begin(&mut conn, target.addr(), &["k", "0", "2000000000"]);
    let mut peer = target.accept();
    peer.restore();
    assert_eq!(other.cmd(&format!("CLIENT KILL ID {id}")).unwrap(), Value::Int(1));
    peer.ends();
    assert!(conn.read().is_err(), "it was closed");
    assert_eq!(other.cmd("GET k").unwrap(), Value::bulk("v"));
}

#[test]
fn a_removal_of_unknown_outcome_is_told_as_such() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--write-timeout 2s"));
    let leader = cluster.leader();
    let mut conn = cluster.members[leader].conn();
    conn.cmd("SET k v").unwrap();
    let target = Target::new();
    begin(&mut conn, target.addr(), &["k", "0", "60000"]);
    let mut peer = target.accept();
    peer.restore();
    let others: Vec<usize> = cluster.running().into_iter().filter(|at| *at != leader).collect();
    others.iter().for_each(|at| cluster.members[*at].pause());
    peer.say("+OK\r\n");
    let told = conn.read().unwrap();
    others.iter().for_each(|at| cluster.members[*at].resume());
    let line = told.error().unwrap_or_else(|| panic!("no error: {told:?}"));
    // A leader that has noticed in time that it is alone has not handed it to the log.
    let is_unknown = line.starts_with("UNKNOWN The target has the keys");
    assert!(is_unknown || line.starts_with("CLUSTERDOWN The target has copies, and no key was removed here"), "{line}");
    let now = wait_until("the group answers again", || {
        let reply = conn.cmd("GET k").ok()?;
        reply.error().is_none().then_some(reply)
    });
    assert!(now == Value::bulk("v") || is_unknown && now == Value::Null, "{line}, and then {now:?}");
}
