//! How long clients wait when the leader is killed, and when it hands over.
//!
//! Clients are threads that block, as most real ones do. A gap is the time between two acknowledgements that one
//! client got; of each fault the longest gap of any client counts.

use quorate_testkit::{Cluster, Conn, Value, http, wait_until};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// What clients saw of a row of faults.
#[derive(Debug, Default)]
pub struct Gaps {
    pub longest: Vec<Duration>,
    /// Replies `-UNKNOWN`, other errors, and connections that broke.
    pub unknown: u64,
    pub errors: u64,
    pub broken: u64,
    pub first_error: Option<String>,
}

impl Gaps {
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.longest.clone();
        sorted.sort();
        let at = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(at).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Client {
    acks: AtomicU64,
    longest_ns: AtomicU64,
    unknown: AtomicU64,
    errors: AtomicU64,
    broken: AtomicU64,
}

struct Writers {
    clients: Vec<Arc<Client>>,
    threads: Vec<JoinHandle<Option<String>>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    fn start(count: usize, addrs: &[SocketAddr]) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<Arc<Client>> = (0..count).map(|_| Arc::default()).collect();
        let threads = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let (client, stop, addrs) = (client.clone(), stop.clone(), addrs.to_vec());
                std::thread::spawn(move || write(number, &client, &stop, &addrs))
            })
            .collect();
        Writers { clients, threads, stop }
    }

    /// From now on only gaps that end later count.
    fn begin_window(&self) -> Vec<u64> {
        self.clients.iter().for_each(|client| client.longest_ns.store(0, Relaxed));
        self.clients.iter().map(|client| client.acks.load(Relaxed)).collect()
    }

    /// Waits until every client has been acknowledged again, and a moment more for gaps that come later.
    fn end_window(&self, before: &[u64]) -> Duration {
        wait_until("every client is served again", || {
            let served = |(client, before): (&Arc<Client>, &u64)| client.acks.load(Relaxed) > before + 2;
            self.clients.iter().zip(before).all(served).then_some(())
        });
        sleep(Duration::from_millis(1500));
        let longest = self.clients.iter().map(|client| client.longest_ns.load(Relaxed)).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    fn stop(self, gaps: &mut Gaps) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            let error = thread.join().expect("a writing client");
            gaps.first_error = gaps.first_error.take().or(error);
        }
        let sum = |count: fn(&Client) -> &AtomicU64| -> u64 {
            self.clients.iter().map(|client| count(client).load(Relaxed)).sum()
        };
        gaps.unknown += sum(|client| &client.unknown);
        gaps.errors += sum(|client| &client.errors);
        gaps.broken += sum(|client| &client.broken);
    }
}

fn write(number: usize, client: &Client, stop: &AtomicBool, addrs: &[SocketAddr]) -> Option<String> {
    let key = format!("key:{number:012}");
    let value = "x".repeat(100);
    let mut at = number;
    let mut conn = None;
    let mut last_ack = Instant::now();
    let mut first_error = None;
    while !stop.load(Relaxed) {
        let Some(open) = &mut conn else {
            at += 1;
            conn = Conn::open_with(addrs[at % addrs.len()], Duration::from_secs(30)).ok();
            if conn.is_none() {
                sleep(Duration::from_millis(1));
            }
            continue;
        };
        match open.call(&["SET", &key, &value]) {
            Ok(Value::Simple(_)) => {
                let now = Instant::now();
                client.longest_ns.fetch_max((now - last_ack).as_nanos() as u64, Relaxed);
                last_ack = now;
                client.acks.fetch_add(1, Relaxed);
            }
            Ok(Value::Error(text)) if text.starts_with("UNKNOWN") => {
                client.unknown.fetch_add(1, Relaxed);
            }
            Ok(reply) => {
                client.errors.fetch_add(1, Relaxed);
                first_error.get_or_insert_with(|| format!("{reply:?}"));
                sleep(Duration::from_millis(1));
            }
            Err(_) => {
                client.broken.fetch_add(1, Relaxed);
                conn = None;
            }
        }
    }
    first_error
}

/// Kills the leader `kills` times under load. The second row is of the killed member's return.
pub fn kill_leader(cluster: &mut Cluster, clients: usize, kills: usize) -> (Gaps, Gaps) {
    let (mut killed, mut returned) = (Gaps::default(), Gaps::default());
    let writers = Writers::start(clients, &cluster.addrs());
    for number in 1..=kills {
        sleep(Duration::from_millis(700));
        let leader = cluster.leader();
        let before = writers.begin_window();
        cluster.members[leader].kill();
        killed.longest.push(writers.end_window(&before));
        let before = writers.begin_window();
        cluster.members[leader].start();
        cluster.wait_settled();
        returned.longest.push(writers.end_window(&before));
        let (gap, back) = (killed.longest[number - 1], returned.longest[number - 1]);
        println!("  kill {number}/{kills}: longest gap {gap:.0?}; while it came back {back:.0?}");
    }
    writers.stop(&mut killed);
    (killed, returned)
}

/// Hands leadership over `times` times under load.
pub fn hand_over(cluster: &Cluster, clients: usize, times: usize) -> io::Result<Gaps> {
    let mut gaps = Gaps::default();
    let writers = Writers::start(clients, &cluster.addrs());
    for number in 1..=times {
        sleep(Duration::from_millis(500));
        let leader = cluster.leader();
        let before = writers.begin_window();
        let answer = http::post(cluster.members[leader].admin, "/v1/leader", &json!({ "to": null }))?;
        assert!(answer.is_ok(), "hand-over refused: {} {}", answer.status, answer.body);
        gaps.longest.push(writers.end_window(&before));
        println!("  hand-over {number}/{times}: longest gap {:.1?}", gaps.longest[number - 1]);
    }
    writers.stop(&mut gaps);
    Ok(gaps)
}
