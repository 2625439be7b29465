//! No read is stale: what one client was told, every read that begins later must know, on whichever member, while
//! leaders are handed over, killed and paused.

use crate::{BINARY, three_members};
use quorate_testkit::{Cluster, ClusterOptions, Conn, Value, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

const KEY: &str = "counter";

#[derive(Default)]
struct Known {
    /// The highest value that any client was told, by a write or by a read.
    highest: AtomicI64,
    writes: AtomicU64,
    reads: AtomicU64,
    stop: AtomicBool,
}

fn connect(addrs: &[SocketAddr], at: usize) -> Option<Conn> {
    let conn = Conn::open_with(addrs[at % addrs.len()], Duration::from_secs(15)).ok();
    if conn.is_none() {
        sleep(Duration::from_millis(10));
    }
    conn
}

fn writer(known: Arc<Known>, addrs: Vec<SocketAddr>, mut at: usize) {
    let mut conn = None;
    while !known.stop.load(SeqCst) {
        let Some(open) = &mut conn else {
            at += 1;
            conn = connect(&addrs, at);
            continue;
        };
        match open.call(&["INCR", KEY]) {
            Ok(Value::Int(value)) => {
                known.highest.fetch_max(value, SeqCst);
                known.writes.fetch_add(1, SeqCst);
            }
            Ok(_) => sleep(Duration::from_millis(5)),
            Err(_) => conn = None,
        }
    }
}

/// A reader stays with one member as long as it can. It gives the first stale read, if there was one.
fn reader(known: Arc<Known>, addrs: Vec<SocketAddr>, at: usize) -> Option<String> {
    let mut conn = None;
    while !known.stop.load(SeqCst) {
        let Some(open) = &mut conn else {
            conn = connect(&addrs, at);
            continue;
        };
        let before = known.highest.load(SeqCst);
        let value = match open.call(&["GET", KEY]) {
            Ok(Value::Null) => 0,
            Ok(Value::Bulk(bytes)) => match String::from_utf8_lossy(&bytes).parse() {
                Ok(value) => value,
                Err(_) => return Some(format!("member {at}: read {bytes:?}, which is no number")),
            },
            Ok(_) => {
                sleep(Duration::from_millis(5));
                continue;
            }
            Err(_) => {
                conn = None;
                continue;
            }
        };
        if value < before {
            return Some(format!("member {at}: read {value} after {before} was known"));
        }
        known.highest.fetch_max(value, SeqCst);
        known.reads.fetch_add(1, SeqCst);
    }
    None
}

struct Clients {
    known: Arc<Known>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<Option<String>>>,
}

impl Clients {
    fn start(addrs: &[SocketAddr]) -> Clients {
        let known = Arc::new(Known::default());
        let writers = (0..4).map(|at| {
            let (known, addrs) = (known.clone(), addrs.to_vec());
            std::thread::spawn(move || writer(known, addrs, at))
        });
        let writers = writers.collect();
        let readers = (0..6).map(|at| {
            let (known, addrs) = (known.clone(), addrs.to_vec());
            std::thread::spawn(move || reader(known, addrs, at % 3))
        });
        let readers = readers.collect();
        Clients { known, writers, readers }
    }

    fn wait_progress(&self) {
        let (writes, reads) = (self.known.writes.load(SeqCst) + 100, self.known.reads.load(SeqCst) + 100);
        quorate_testkit::wait_until("clients write and read", || {
            let done = self.known.writes.load(SeqCst) >= writes && self.known.reads.load(SeqCst) >= reads;
            (done || self.readers.iter().any(JoinHandle::is_finished)).then_some(())
        });
    }

    fn stop(self) {
        self.known.stop.store(true, SeqCst);
        for writer in self.writers {
            writer.join().expect("a writer");
        }
        let stale: Vec<String> =
            self.readers.into_iter().filter_map(|reader| reader.join().expect("a reader")).collect();
        assert!(stale.is_empty(), "stale reads: {stale:#?}");
    }
}

#[test]
fn no_read_is_stale_while_leadership_is_handed_around() {
    let cluster = three_members();
    let clients = Clients::start(&cluster.addrs());
    clients.wait_progress();
    for _ in 0..6 {
        let leader = cluster.leader();
        let _ = cluster.transfer_leader(Some((leader + 1) % 3));
        clients.wait_progress();
    }
    clients.stop();
}

#[test]
fn no_read_is_stale_while_leaders_are_killed() {
    let mut cluster = three_members();
    let clients = Clients::start(&cluster.addrs());
    clients.wait_progress();
    for _ in 0..4 {
        let leader = cluster.leader();
        cluster.members[leader].kill();
        clients.wait_progress();
        cluster.members[leader].start();
        cluster.wait_settled();
        clients.wait_progress();
    }
    clients.stop();
}

#[test]
fn a_leader_that_stood_still_answers_no_stale_read_when_it_goes_on() {
    let mut cluster = three_members();
    let clients = Clients::start(&cluster.addrs());
    clients.wait_progress();
    let mut answered = 0;
    for _ in 0..3 {
        let leader = cluster.leader();
        cluster.members[leader].pause();
        // Served by the others now. What is sent to the paused one waits in its sockets.
        clients.wait_progress();
        let mut waiting: Vec<(i64, Conn)> = Vec::new();
        for _ in 0..10 {
            let mut conn = cluster.members[leader].conn();
            let before = clients.known.highest.load(SeqCst);
            conn.send(&["GET", KEY]).expect("the socket takes it");
            waiting.push((before, conn));
            clients.wait_progress();
        }
        cluster.members[leader].resume();
        for (before, mut conn) in waiting {
            let Ok(value) = conn.read() else { continue };
            if value.error().is_none() {
                let value = if value == Value::Null { 0 } else { value.as_int().expect("a number") };
                assert!(value >= before, "read {value} although {before} was known before it was asked");
                answered += 1;
            }
        }
        cluster.wait_settled();
    }
    assert!(answered > 0, "no read that waited was answered");
    clients.stop();
}

#[test]
fn a_member_that_reads_its_own_state_shows_after_a_restart_what_it_showed_before() {
    let mut cluster = Cluster::start(ClusterOptions::new(BINARY).args("--read-mode local"));
    let follower = cluster.follower();
    let mut conn = cluster.members[follower].conn();
    for round in 0..4 {
        let value = round.to_string();
        assert_eq!(conn.call(&["SET", KEY, &value]).unwrap(), Value::ok());
        wait_until("the follower shows it", || (conn.call(&["GET", KEY]).ok()? == Value::bulk(&value)).then_some(()));
        cluster.members[follower].kill();
        cluster.members[follower].start();
        let shown = wait_until("it answers reads", || {
            conn = Conn::open(cluster.members[follower].client).ok()?;
            loop {
                match conn.call(&["GET", KEY]).ok()? {
                    Value::Error(text) => assert!(text.starts_with("LOADING "), "{text}"),
                    shown => return Some(shown),
                }
            }
        });
        assert_eq!(shown, Value::bulk(&value), "round {round}");
    }
}
