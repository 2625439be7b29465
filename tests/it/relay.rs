//! Stands between two processes: passes on what they say, counts it, cuts it off, or holds it in the middle.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Passes connections on to an address, and can cut all that are open.
pub struct Relay {
    pub addr: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    passed: Mutex<Passed>,
    moved: Condvar,
}

#[derive(Default)]
struct Passed {
    bytes: u64,
    /// What comes beyond so many bytes waits.
    limit: Option<u64>,
    holding: bool,
}

impl Gate {
    fn pass(&self, bytes: usize) {
        let mut passed = self.passed.lock().unwrap();
        passed.bytes += bytes as u64;
        while passed.limit.is_some_and(|limit| passed.bytes > limit) {
            passed.holding = true;
            passed = self.moved.wait(passed).unwrap();
        }
        passed.holding = false;
    }
}

impl Relay {
    /// Listens on a port of this machine.
    pub fn start(port: u16, to: SocketAddr) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port of the block");
        let relay = Relay { addr: listener.local_addr().unwrap(), open: Arc::default(), gate: Arc::default() };
        let (open, gate) = (relay.open.clone(), relay.gate.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                open.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (from, into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let gate = gate.clone();
                    std::thread::spawn(move || pump(from, into, &gate));
                }
            }
        });
        relay
    }

    /// Bytes that went by, in both directions.
    pub fn passed(&self) -> u64 {
        self.gate.passed.lock().unwrap().bytes
    }

    /// Passes so many bytes more, and holds what comes then.
    pub fn hold_after(&self, bytes: u64) {
        let mut passed = self.gate.passed.lock().unwrap();
        passed.limit = Some(passed.bytes + bytes);
    }

    pub fn is_holding(&self) -> bool {
        self.gate.passed.lock().unwrap().holding
    }

    /// Passes everything again.
    pub fn go_on(&self) {
        self.gate.passed.lock().unwrap().limit = None;
        self.gate.moved.notify_all();
    }

    pub fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut into: TcpStream, gate: &Gate) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        gate.pass(read);
        if into.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}
