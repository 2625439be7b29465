//! All connections of this member: what CLIENT LIST shows, what CLIENT KILL reaches, and CLIENT PAUSE.
//!
//! A session owns its state; the registry holds only what others may look at or ask for. Locks are held for a copy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_keyspace::reply::Proto;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::server::facts::ClientTotals;

/// What others may see of a connection. Written by its session, once per batch of commands.
#[derive(Clone, Debug)]
pub struct ClientView {
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: String,
    /// CLIENT SETINFO LIB-VER.
    pub lib_ver: String,
    /// Selected database.
    pub db: u16,
    /// RESP version.
    pub proto: Proto,
    /// Commands queued in MULTI; `None` outside.
    pub multi: Option<usize>,
    /// Watched keys.
    pub watching: usize,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH.
    pub no_touch: bool,
    /// READONLY was sent.
    pub read_only: bool,
    /// The last command, `client|list` for a subcommand.
    pub last_command: &'static str,
    /// Bytes waiting in the input buffer.
    pub input_bytes: u64,
    /// Bytes of replies that wait to be sent, when they are many.
    pub output_bytes: u64,
    /// When the last command came.
    pub active: Instant,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Never reused while the process runs.
    pub id: u64,
    /// The other end.
    pub addr: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
    view: Mutex<ClientView>,
    killed: AtomicBool,
    wake: Notify,
}

impl Client {
    /// A copy of what others may see.
    pub fn view(&self) -> ClientView {
        self.view.lock().clone()
    }

    /// Changes what others may see.
    pub fn update<T>(&self, change: impl FnOnce(&mut ClientView) -> T) -> T {
        change(&mut self.view.lock())
    }

    /// Asks the session to close the connection.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// The session was asked to close.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Returns once the session was asked to close.
    pub async fn killed(&self) {
        while !self.is_killed() {
            self.wake.notified().await;
        }
    }

    /// One line of CLIENT LIST, in Redis' form, without the newline.
    pub fn line(&self, now: Instant) -> String {
        let view = self.view();
        let mut flags = String::new();
        if view.multi.is_some() {
            flags.push('x');
        }
        if view.read_only {
            flags.push('r');
        }
        if view.no_evict {
            flags.push('e');
        }
        if view.no_touch {
            flags.push('T');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let proto = match view.proto {
            Proto::Resp2 => 2,
            Proto::Resp3 => 3,
        };
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={} \
             qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={} events=r cmd={} \
             user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.addr,
            self.local,
            view.name,
            now.duration_since(self.since).as_secs(),
            now.duration_since(view.active).as_secs(),
            flags,
            view.db,
            view.multi.map_or(-1, |queued| queued as i64),
            view.input_bytes,
            view.output_bytes,
            view.input_bytes + view.output_bytes,
            view.last_command,
            proto,
            view.lib_name,
            view.lib_ver,
        )
    }
}

/// Which commands CLIENT PAUSE holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseKind {
    /// Only writes.
    Write,
    /// Everything.
    All,
}

/// Counts a connection for as long as it is held back, also when its wait is given up.
struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All connections of this member.
#[derive(Debug, Default)]
pub struct Clients {
    next_id: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    pause: Mutex<Option<(PauseKind, Instant)>>,
    /// Whether `pause` may hold one: what every command looks at.
    has_pause: AtomicBool,
    unpaused: Notify,
    /// Connections that a pause holds back now.
    held_back: AtomicU64,
    /// Connections accepted since the start (INFO `total_connections_received`).
    pub accepted: AtomicU64,
    /// Connections refused for `maxclients` (INFO `rejected_connections`).
    pub rejected: AtomicU64,
}

impl Clients {
    /// Takes a new connection in.
    pub fn open(&self, addr: SocketAddr, local: SocketAddr) -> Arc<Client> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let client = Arc::new(Client {
            id,
            addr,
            local,
            since: now,
            view: Mutex::new(ClientView {
                name: String::new(),
                lib_name: String::new(),
                lib_ver: String::new(),
                db: 0,
                proto: Proto::Resp2,
                multi: None,
                watching: 0,
                no_evict: false,
                no_touch: false,
                read_only: false,
                last_command: "NULL",
                input_bytes: 0,
                output_bytes: 0,
                active: now,
            }),
            killed: AtomicBool::new(false),
            wake: Notify::new(),
        });
        self.open.lock().insert(id, client.clone());
        client
    }

    /// Forgets a connection that has closed.
    pub fn close(&self, id: u64) {
        self.open.lock().remove(&id);
    }

    /// The connections, oldest first.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.open.lock().values().cloned().collect()
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Counts for INFO.
    pub fn totals(&self) -> ClientTotals {
        let mut totals = ClientTotals { blocked: self.held_back.load(Ordering::Relaxed), ..ClientTotals::default() };
        for client in self.open.lock().values() {
            let view = client.view.lock();
            totals.connected += 1;
            totals.watching += u64::from(view.watching > 0);
            totals.max_input = totals.max_input.max(view.input_bytes);
            totals.max_output = totals.max_output.max(view.output_bytes);
        }
        totals
    }

    /// CLIENT PAUSE: the later end and the stricter kind win, as in Redis.
    pub fn pause(&self, kind: PauseKind, time: Duration) {
        let now = Instant::now();
        let mut pause = self.pause.lock();
        let (mut new_kind, mut until) = (kind, now + time);
        if let Some((old_kind, old_until)) = *pause
            && old_until > now
        {
            until = until.max(old_until);
            if old_kind == PauseKind::All {
                new_kind = PauseKind::All;
            }
        }
        *pause = Some((new_kind, until));
        self.has_pause.store(true, Ordering::SeqCst);
    }

    /// CLIENT UNPAUSE.
    pub fn unpause(&self) {
        let mut pause = self.pause.lock();
        *pause = None;
        self.has_pause.store(false, Ordering::SeqCst);
        drop(pause);
        self.unpaused.notify_waiters();
    }

    /// False: no pause is in force.
    pub fn has_pause(&self) -> bool {
        self.has_pause.load(Ordering::SeqCst)
    }

    /// The pause in force, if any.
    pub fn paused(&self) -> Option<(PauseKind, Instant)> {
        let mut pause = self.pause.lock();
        if pause.is_some_and(|(_, until)| until <= Instant::now()) {
            *pause = None;
            self.has_pause.store(false, Ordering::SeqCst);
        }
        *pause
    }

    /// Returns when commands (`write`: that may write) may run.
    pub async fn may_run(&self, write: bool) {
        loop {
            let woken = self.unpaused.notified();
            match self.paused() {
                Some((kind, until)) if write || kind == PauseKind::All => {
                    let _held = Held::new(&self.held_back);
                    tokio::select! {
                        biased;
                        () = woken => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                _ => return,
            }
        }
    }
}
