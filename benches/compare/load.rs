//! The load: many connections on one thread, closed loop, nothing allocated per request.
//!
//! One thread with an event queue drives all connections, so that on a small machine the load takes little from
//! the servers, and the same from both sides. A connection sends one round (its pipeline, and `WAIT 1` behind
//! writes where asked), reads all its replies, notes the time, and sends the next.

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub const VALUE_BYTES: usize = 100;
const WAIT: &[u8] = b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n";
const GET_HEAD: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\n";
const SET_HEAD: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\n";

/// What one workload asks for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub clients: usize,
    pub pipeline: usize,
    pub writes_percent: u64,
    /// `WAIT 1` behind every round that wrote.
    pub wait: bool,
    pub keys: Keys,
}

/// Which keys are used.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// Any of so many.
    Random(u64),
    /// Each of so many once; then the load ends.
    Each(u64),
}

/// What was seen in the measured time.
#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    /// The same with those of the unmeasured time before.
    pub requests_with_warm: u64,
    pub elapsed: Duration,
    /// Nanoseconds of each request: the time of its round.
    pub latency: Histogram<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1e6
    }
}

struct Client {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Box<[u8]>,
    filled: usize,
    missing: usize,
    requests: usize,
    waits: bool,
    sent_at: Instant,
    idle: bool,
}

struct Shared {
    plan: Plan,
    value: Vec<u8>,
    random: u64,
    next_key: u64,
    requests: u64,
    warm_requests: u64,
    latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

/// Runs a plan against `addr`: first unmeasured for `warm`, then measured for `length`.
pub fn run(addr: SocketAddr, plan: Plan, warm: Duration, length: Duration) -> io::Result<Outcome> {
    run_until(addr, plan, warm, |measured| measured >= length)
}

/// Like [`run`], until `enough` says so of the measured time.
pub fn run_until(
    addr: SocketAddr,
    plan: Plan,
    warm: Duration,
    enough: impl Fn(Duration) -> bool,
) -> io::Result<Outcome> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut shared = Shared::new(plan)?;
    let mut clients = Vec::with_capacity(plan.clients);
    for number in 0..plan.clients {
        let mut client = Client::connect(addr)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut client.stream, Token(number), interest)?;
        clients.push(client);
    }
    let mut started = Instant::now();
    let mut measuring = false;
    for client in &mut clients {
        client.next_round(&mut shared)?;
    }
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            clients[event.token().0].ready(&mut shared)?;
        }
        let now = Instant::now();
        if !measuring && now - started >= warm {
            measuring = true;
            started = now;
            shared.forget();
        }
        let over = match plan.keys {
            Keys::Each(_) => clients.iter().all(|client| client.idle),
            Keys::Random(_) => measuring && enough(now - started),
        };
        if over {
            return Ok(Outcome {
                requests: shared.requests,
                requests_with_warm: shared.warm_requests + shared.requests,
                elapsed: now - started,
                latency: shared.latency,
                errors: shared.errors,
                first_error: shared.first_error,
            });
        }
    }
}

/// Writes each of `keys` keys once.
pub fn fill(addr: SocketAddr, keys: u64) -> io::Result<Outcome> {
    let plan = Plan { clients: 16, pipeline: 64, writes_percent: 100, wait: false, keys: Keys::Each(keys) };
    run(addr, plan, Duration::ZERO, Duration::ZERO)
}

impl Shared {
    fn new(plan: Plan) -> io::Result<Shared> {
        Ok(Shared {
            plan,
            value: (0..VALUE_BYTES).map(|at| b'a' + (at * 7 % 26) as u8).collect(),
            random: 0x9E37_79B9_7F4A_7C15,
            next_key: 0,
            requests: 0,
            warm_requests: 0,
            latency: Histogram::new_with_bounds(1_000, 120_000_000_000, 3).map_err(io::Error::other)?,
            errors: 0,
            first_error: None,
        })
    }

    fn forget(&mut self) {
        self.warm_requests = self.requests;
        self.requests = 0;
        self.errors = 0;
        self.latency.reset();
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn key(&mut self) -> Option<u64> {
        match self.plan.keys {
            Keys::Random(count) => Some(self.random() % count),
            Keys::Each(count) => {
                self.next_key += 1;
                (self.next_key <= count).then_some(self.next_key - 1)
            }
        }
    }
}

impl Client {
    fn connect(addr: SocketAddr) -> io::Result<Client> {
        let stream = std::net::TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream: TcpStream::from_std(stream),
            out: Vec::with_capacity(64 * (VALUE_BYTES + 64)),
            written: 0,
            input: vec![0; 64 * 1024].into_boxed_slice(),
            filled: 0,
            missing: 0,
            requests: 0,
            waits: false,
            sent_at: Instant::now(),
            idle: false,
        })
    }

    fn next_round(&mut self, shared: &mut Shared) -> io::Result<()> {
        self.out.clear();
        self.written = 0;
        self.requests = 0;
        let mut writes = false;
        for _ in 0..shared.plan.pipeline {
            let Some(key) = shared.key() else { break };
            let write = match shared.plan.writes_percent {
                0 => false,
                100 => true,
                percent => (shared.random() >> 32) % 100 < percent,
            };
            self.out.extend_from_slice(if write { SET_HEAD } else { GET_HEAD });
            push_key(&mut self.out, key);
            if write {
                self.out.extend_from_slice(b"$100\r\n");
                self.out.extend_from_slice(&shared.value);
                self.out.extend_from_slice(b"\r\n");
                writes = true;
            }
            self.requests += 1;
        }
        if self.requests == 0 {
            self.idle = true;
            return Ok(());
        }
        self.waits = writes && shared.plan.wait;
        if self.waits {
            self.out.extend_from_slice(WAIT);
        }
        self.missing = self.requests + usize::from(self.waits);
        self.sent_at = Instant::now();
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ready(&mut self, shared: &mut Shared) -> io::Result<()> {
        self.flush()?;
        loop {
            let room = self.input.len() - self.filled;
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.filled += count;
                    self.take_replies(shared);
                    if self.missing == 0 && !self.idle {
                        let taken = self.sent_at.elapsed().as_nanos() as u64;
                        shared.latency.saturating_record_n(taken, self.requests as u64);
                        shared.requests += self.requests as u64;
                        self.next_round(shared)?;
                    }
                    // A short read has emptied the socket; the next event comes when there is more.
                    if count < room {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts the complete replies in the input and keeps the rest. Only the kinds that these workloads can
    /// get: lines and bulk strings.
    fn take_replies(&mut self, shared: &mut Shared) {
        let mut at = 0;
        while self.missing > 0 {
            let input = &self.input[at..self.filled];
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                break;
            };
            let mut length = end + 1;
            match input[0] {
                b'$' if input[1] != b'-' => {
                    let digits = &input[1..end - 1];
                    let body = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
                    length += body + 2;
                    if length > input.len() {
                        break;
                    }
                }
                b'-' => note_error(shared, &input[..end]),
                b':' if self.waits && self.missing == 1 && input[1] == b'0' => {
                    note_error(shared, b"WAIT 1 was answered with 0");
                }
                _ => {}
            }
            at += length;
            self.missing -= 1;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
    }
}

fn note_error(shared: &mut Shared, line: &[u8]) {
    shared.errors += 1;
    if shared.first_error.is_none() {
        shared.first_error = Some(line.escape_ascii().to_string());
    }
}

/// `key:` and twelve digits: 16 bytes.
fn push_key(out: &mut Vec<u8>, key: u64) {
    let mut text = *b"key:000000000000\r\n";
    let mut rest = key;
    for digit in text[4..16].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text);
}
