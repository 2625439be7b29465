//! Clients that write under faults and keep books: what was acknowledged must be there at the end, what was
//! not may be.
//!
//! Every client owns a counter and a register that nobody else writes, and all share one counter. A client never
//! sends a request a second time by itself: an outcome that it doesn't know is booked as unknown and stays so.

use crate::cluster::Member;
use crate::resp::{Conn, Value};
use crate::{PATIENCE, wait_for};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The counter that all clients share.
pub const SHARED: &str = "load:shared";

/// What one client knows about its own keys.
#[derive(Debug, Default, Clone)]
pub struct Book {
    /// Increments that were acknowledged.
    pub acked: u64,
    /// Increments whose outcome is unknown.
    pub unknown: u64,
    /// The value of the last acknowledged SET; 0 before the first.
    pub last_set: u64,
    /// Values of SETs of unknown outcome that were sent after the last acknowledged one.
    pub later_sets: Vec<u64>,
    /// Values of earlier SETs that were given up on without any reply: a member that was paused may still find them
    /// in its socket when it goes on, and apply them late. That is allowed, since nobody was told anything.
    pub abandoned_sets: Vec<u64>,
    /// Increments of the shared counter: acknowledged and unknown.
    pub shared: (u64, u64),
    /// Replies that should never have come.
    pub wrong: Vec<String>,
    /// The longest time between two acknowledgements.
    pub longest_gap: Duration,
}

/// What came of one request.
enum Outcome {
    Reply(Value),
    /// A reply says that it is not known whether it happened.
    SaidUnknown,
    /// A reply says that it didn't happen.
    DidNotHappen,
    /// The connection went without a reply.
    Lost,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    clients: Vec<JoinHandle<Book>>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    addrs: Arc<Mutex<Vec<SocketAddr>>>,
}

/// Error prefixes that promise: it was not done, ask again.
const NOT_DONE: [&str; 5] = ["CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY"];

impl Load {
    /// Starts `count` clients, spread over `addrs`; a client goes on to the next address when one fails it.
    #[must_use]
    pub fn start(count: usize, addrs: &[SocketAddr]) -> Load {
        Load::start_with(count, addrs, Duration::from_secs(15))
    }

    /// [`Load::start`], where a client gives up on a reply after `patience`.
    #[must_use]
    pub fn start_with(count: usize, addrs: &[SocketAddr], patience: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let addrs = Arc::new(Mutex::new(addrs.to_vec()));
        let clients = (0..count)
            .map(|number| {
                let mut client =
                    Client { number, at: number, addrs: addrs.clone(), conn: None, patience, book: Book::default() };
                let (stop, acked) = (stop.clone(), acked.clone());
                std::thread::spawn(move || {
                    client.run(&stop, &acked);
                    client.book
                })
            })
            .collect();
        Load { clients, stop, acked, addrs }
    }

    /// Acknowledgements so far, of all clients.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(SeqCst)
    }

    /// From now on clients that must reconnect choose among these.
    ///
    /// # Panics
    /// When a client has panicked.
    pub fn set_addrs(&self, addrs: &[SocketAddr]) {
        *self.addrs.lock().expect("no client panics") = addrs.to_vec();
    }

    /// Waits until `count` more requests are acknowledged than now.
    ///
    /// # Panics
    /// When they never are: the group doesn't serve.
    pub fn wait_progress(&self, count: u64) {
        let target = self.acked() + count;
        let done = wait_for(PATIENCE, || (self.acked() >= target).then_some(()));
        assert!(done.is_some(), "clients got only {} of {count} acknowledgements", self.acked() + count - target);
    }

    /// Ends the clients and gives their books.
    ///
    /// # Panics
    /// When a client saw a reply that should never come.
    #[must_use]
    pub fn stop(self) -> Books {
        self.stop.store(true, SeqCst);
        let clients: Vec<Book> =
            self.clients.into_iter().map(|client| client.join().expect("a client of the load")).collect();
        let wrong: Vec<&String> = clients.iter().flat_map(|book| &book.wrong).take(5).collect();
        assert!(wrong.is_empty(), "replies that should never come: {wrong:#?}");
        Books { clients }
    }
}

struct Client {
    number: usize,
    at: usize,
    addrs: Arc<Mutex<Vec<SocketAddr>>>,
    conn: Option<Conn>,
    patience: Duration,
    book: Book,
}

impl Client {
    fn run(&mut self, stop: &AtomicBool, total: &AtomicU64) {
        let (counter, register) = (counter_key(self.number), register_key(self.number));
        let mut sequence = 0;
        let mut last_ack = Instant::now();
        while !stop.load(SeqCst) && self.book.wrong.len() < 5 {
            let before = self.book.acked + self.book.last_set + self.book.shared.0;
            self.increment(&counter);
            sequence += 1;
            self.set(&register, sequence);
            self.increment_shared();
            let after = self.book.acked + self.book.last_set + self.book.shared.0;
            if after > before {
                self.book.longest_gap = self.book.longest_gap.max(last_ack.elapsed());
                last_ack = Instant::now();
                total.fetch_add(1, SeqCst);
            }
        }
    }

    fn increment(&mut self, key: &str) {
        match self.request(&["INCR", key]) {
            Outcome::Reply(Value::Int(value)) => {
                let (low, high) = (self.book.acked + 1, self.book.acked + 1 + self.book.unknown);
                if value < low as i64 || value > high as i64 {
                    let number = self.number;
                    self.wrong(format!("client {number}: INCR {key} gave {value}, expected {low}..={high}"));
                }
                self.book.acked += 1;
            }
            Outcome::Reply(other) => self.wrong(format!("INCR {key}: {other:?}")),
            Outcome::SaidUnknown | Outcome::Lost => self.book.unknown += 1,
            Outcome::DidNotHappen => {}
        }
    }

    fn set(&mut self, key: &str, value: u64) {
        match self.request(&["SET", key, &value.to_string()]) {
            Outcome::Reply(reply) if reply == Value::ok() => {
                self.book.last_set = value;
                self.book.later_sets.clear();
            }
            Outcome::Reply(other) => self.wrong(format!("SET {key}: {other:?}")),
            Outcome::SaidUnknown => self.book.later_sets.push(value),
            Outcome::Lost => {
                self.book.later_sets.push(value);
                self.book.abandoned_sets.push(value);
            }
            Outcome::DidNotHappen => {}
        }
    }

    fn increment_shared(&mut self) {
        match self.request(&["INCR", SHARED]) {
            Outcome::Reply(Value::Int(_)) => self.book.shared.0 += 1,
            Outcome::Reply(other) => self.wrong(format!("INCR {SHARED}: {other:?}")),
            Outcome::SaidUnknown | Outcome::Lost => self.book.shared.1 += 1,
            Outcome::DidNotHappen => {}
        }
    }

    fn wrong(&mut self, what: String) {
        self.book.wrong.push(what);
    }

    fn request(&mut self, args: &[&str]) -> Outcome {
        if self.conn.is_none() {
            self.connect();
        }
        // What was never sent never happened.
        let Some(conn) = &mut self.conn else {
            return Outcome::DidNotHappen;
        };
        match conn.call(args) {
            Ok(Value::Error(text)) if text.starts_with("UNKNOWN ") => Outcome::SaidUnknown,
            Ok(Value::Error(text)) if NOT_DONE.iter().any(|prefix| text.starts_with(prefix)) => {
                std::thread::sleep(Duration::from_millis(10));
                Outcome::DidNotHappen
            }
            Ok(reply) => Outcome::Reply(reply),
            Err(_) => {
                self.conn = None;
                Outcome::Lost
            }
        }
    }

    fn connect(&mut self) {
        self.at += 1;
        let addr = {
            let addrs = self.addrs.lock().expect("no client panics");
            addrs[self.at % addrs.len()]
        };
        self.conn = Conn::open_with(addr, self.patience).ok();
        if self.conn.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The books of all clients.
#[derive(Debug)]
pub struct Books {
    /// One of each client.
    pub clients: Vec<Book>,
}

impl Books {
    /// Compares the books with what a member serves.
    ///
    /// # Panics
    /// When something acknowledged is missing, or something is there that nobody did.
    pub fn check(&self, conn: &mut Conn) {
        let mut faults = Vec::new();
        for (number, book) in self.clients.iter().enumerate() {
            let counter = read_number(conn, &counter_key(number));
            let (low, high) = (book.acked, book.acked + book.unknown);
            if counter < low || counter > high {
                faults.push(format!("client {number}: counter {counter}, expected {low}..={high}"));
            }
            let register = read_number(conn, &register_key(number));
            let known = register == book.last_set
                || book.later_sets.contains(&register)
                || book.abandoned_sets.contains(&register);
            if !known {
                let (last, later) = (book.last_set, &book.later_sets);
                faults.push(format!("client {number}: register {register}, expected {last} or one of {later:?}"));
            }
        }
        let shared = read_number(conn, SHARED);
        let low: u64 = self.clients.iter().map(|book| book.shared.0).sum();
        let high = low + self.clients.iter().map(|book| book.shared.1).sum::<u64>();
        if shared < low || shared > high {
            faults.push(format!("shared counter {shared}, expected {low}..={high}"));
        }
        assert!(faults.is_empty(), "the group and the clients' books disagree: {faults:#?}");
    }

    /// Compares them with what clients of a member see, and with what it holds itself: it must have caught up.
    ///
    /// # Panics
    /// As [`Self::check`].
    pub fn check_member(&self, member: &Member) {
        self.check(&mut member.conn());
        let mut own = member.conn();
        assert_eq!(own.cmd("READONLY").ok(), Some(Value::ok()), "its own state");
        self.check(&mut own);
    }

    /// Acknowledged requests of all clients.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.clients.iter().map(|book| book.acked + book.shared.0).sum()
    }

    /// Requests of unknown outcome of all clients.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.clients.iter().map(|book| book.unknown + book.shared.1).sum()
    }

    /// The longest time that any client waited between two acknowledgements.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.clients.iter().map(|book| book.longest_gap).max().unwrap_or_default()
    }
}

fn counter_key(number: usize) -> String {
    format!("load:{number}:counter")
}

fn register_key(number: usize) -> String {
    format!("load:{number}:register")
}

/// Reads a number, and asks again while the member says that it can't tell now.
fn read_number(conn: &mut Conn, key: &str) -> u64 {
    let value = wait_for(PATIENCE, || match conn.call(&["GET", key]) {
        Ok(Value::Error(_)) => None,
        other => Some(other),
    });
    match value.expect("a member answers GET") {
        Ok(Value::Null) => 0,
        Ok(value) => value.as_int().and_then(|value| value.try_into().ok()).unwrap_or(u64::MAX),
        Err(error) => panic!("GET {key}: {}", io_text(&error)),
    }
}

fn io_text(error: &io::Error) -> String {
    format!("{error} ({:?})", error.kind())
}
