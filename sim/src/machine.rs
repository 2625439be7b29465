//! One machine: a disk that outlives its processes, a clock, and at most one process of the server on it.
//!
//! A power cut loses what the disk had not made durable; the end of a process alone loses nothing.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::task::NodeId;
use parking_lot::Mutex;
use quorate::config::Settings;
use quorate::node::{self, Start, Stop, StopRequest};
use quorate_raft::{Group, Node};
use quorate_storage::checkpoint::MemRows;
use quorate_storage::disk::Disk;
use quorate_storage::memdisk::MemDisk;
use quorate_storage::wal::Wal;

use crate::invariants::survival;
use crate::mutants::Mutant;
use crate::plan::Tuning;
use crate::run::Run;
use crate::seen;
use crate::story::{Harm, Kind, Lane, Mark};
use crate::world::SimWorld;

/// The ports of every machine.
pub const CLIENT_PORT: u16 = 7001;
pub const PEER_PORT: u16 = 17001;
pub const ADMIN_PORT: u16 = 8001;

/// What can be asked of a running member without going over the network. Oracles only.
#[derive(Clone)]
pub struct Live {
    pub group: Group,
    #[allow(dead_code, reason = "keeps the node's handle for oracles")]
    pub node: Node,
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Off,
    On,
    /// Its process stands still.
    Paused,
}

/// A machine of the simulated group.
pub struct Machine {
    pub number: usize,
    pub run: Arc<Run>,
    pub tuning: Tuning,
    pub disk: Mutex<MemDisk>,
    pub rows: Mutex<MemRows>,
    pub wal: Mutex<Option<Wal>>,
    pub live: Mutex<Option<Live>>,
    pub power: Mutex<Power>,
    pub skew_us: Arc<AtomicI64>,
    /// How long a sync of the log takes.
    pub sync_us: AtomicU64,
    /// The first start of the first machine begins the group.
    begins: AtomicBool,
    /// Its disk was harmed beyond what a member has to survive; an operator has to replace it.
    pub ruined: AtomicBool,
    /// Its disk has broken its promises once: a write or a sync has failed, or a bit has turned.
    pub faulty_disk: AtomicBool,
    /// A bit on its disk has turned, and was not found yet.
    pub flipped: AtomicBool,
    /// It joins without a vote.
    pub learner: AtomicBool,
    pub stop: Mutex<Arc<Stop>>,
    lives: AtomicU64,
    /// An operator looks after it.
    pub tended: AtomicBool,
    node: Mutex<Option<NodeId>>,
    failure: Mutex<Option<String>>,
}

impl Machine {
    pub fn new(number: usize, run: Arc<Run>, tuning: Tuning) -> Arc<Self> {
        let sync_us = tuning.sync_us;
        Arc::new(Self {
            number,
            run,
            tuning,
            disk: Mutex::new(MemDisk::new()),
            rows: Mutex::new(MemRows::new()),
            wal: Mutex::new(None),
            live: Mutex::new(None),
            power: Mutex::new(Power::Off),
            skew_us: Arc::new(AtomicI64::new(0)),
            sync_us: AtomicU64::new(sync_us),
            begins: AtomicBool::new(number == 1),
            ruined: AtomicBool::new(false),
            faulty_disk: AtomicBool::new(false),
            flipped: AtomicBool::new(false),
            learner: AtomicBool::new(false),
            stop: Mutex::new(Arc::new(Stop::default())),
            lives: AtomicU64::new(0),
            tended: AtomicBool::new(false),
            node: Mutex::new(None),
            failure: Mutex::new(None),
        })
    }

    pub fn ip(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, self.number as u8])
    }

    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.ip())
    }

    /// The run's deliberate fault is this one.
    pub fn has(&self, mutant: Mutant) -> bool {
        self.run.plan.mutant == Some(mutant)
    }

    pub fn tell(&self, kind: Kind, text: impl Into<String>) {
        self.run.story.tell(Lane::Member(self.number), kind, text);
    }

    /// It is harmed for a while.
    pub fn mark_harm(&self, harm: Harm, lasts: Duration, text: impl Into<String>) {
        self.run.story.mark_harm(Lane::Member(self.number), harm, lasts, text);
    }

    fn mark(&self, mark: Mark) {
        self.run.story.mark(Lane::Member(self.number), mark);
    }

    pub fn node_id(&self) -> NodeId {
        self.node.lock().expect("a machine that was built")
    }

    /// Its place in the network, if it has one yet.
    pub fn built(&self) -> Option<NodeId> {
        *self.node.lock()
    }

    /// Lets go of what its last process held.
    pub fn forget_process(&self) {
        *self.live.lock() = None;
        *self.wal.lock() = None;
    }

    pub fn member_id(&self) -> Option<u64> {
        self.live.lock().as_ref().map(|live| live.group.member_id())
    }

    pub fn group(&self) -> Option<Group> {
        self.live.lock().as_ref().map(|live| live.group.clone())
    }

    /// Counts the processes that ran on this machine.
    pub fn life(&self) -> u64 {
        self.lives.load(Relaxed)
    }

    pub fn is_on(&self) -> bool {
        *self.power.lock() != Power::Off
    }

    pub fn is_paused(&self) -> bool {
        *self.power.lock() == Power::Paused
    }

    pub fn sync_time(&self) -> Duration {
        let most = self.sync_us.load(Relaxed).max(1);
        Duration::from_micros(madsim::rand::random::<u64>() % most)
    }

    pub fn note_failure(&self, why: &str) {
        self.failure.lock().get_or_insert_with(|| why.to_owned());
    }

    /// Why its last process ended by itself, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Puts the machine into the network and starts its process.
    pub fn build(self: &Arc<Self>) {
        *self.power.lock() = Power::On;
        // What the network keeps must not keep the machine.
        let machine = Arc::downgrade(self);
        let node = Handle::current()
            .create_node()
            .name(format!("machine-{}", self.number))
            .ip(self.ip())
            .init(move || {
                let machine = machine.upgrade();
                async move {
                    if let Some(machine) = machine {
                        process(machine).await;
                    }
                }
            })
            .build();
        let rate = self.run.plan.clock_rate(self.number);
        quorate_raft::set_clock_rate(node.id(), rate);
        if rate != 1_000_000 {
            let percent = rate as f64 / 10_000.0 - 100.0;
            self.tell(Kind::Fault, format!("its clock goes {percent:+.1} % too fast"));
        }
        *self.node.lock() = Some(node.id());
    }

    /// Starts a process on the disk as it is.
    pub fn start(&self) {
        if self.is_on() {
            return;
        }
        *self.power.lock() = Power::On;
        *self.failure.lock() = None;
        *self.stop.lock() = Arc::new(Stop::default());
        let handle = Handle::current();
        // What ended by itself still holds its ports.
        handle.kill(self.node_id());
        handle.restart(self.node_id());
    }

    /// The process ends at once. With `power_cut` the disk loses what was not durable.
    pub fn kill(&self, power_cut: bool) {
        if !self.is_on() {
            return;
        }
        let handle = Handle::current();
        // A paused task that is dropped by the kill itself would meet the executor's own lock.
        handle.resume(self.node_id());
        handle.kill(self.node_id());
        self.tell(Kind::Life, if power_cut { "power cut" } else { "killed" });
        self.mark(Mark::Ends { killed: true });
        self.went_down(power_cut);
    }

    /// The power goes, whether a process runs or not.
    pub fn power_off(&self) {
        if self.is_on() {
            return self.kill(true);
        }
        self.tell(Kind::Life, "power cut");
        self.went_down(true);
    }

    fn went_down(&self, power_cut: bool) {
        *self.power.lock() = Power::Off;
        self.forget_process();
        let (mut disk, mut rows) = (self.disk.lock(), self.rows.lock());
        if power_cut {
            let seed = madsim::rand::random();
            let before = (disk.fingerprint(), rows.fingerprint());
            *disk = disk.crash(seed);
            *rows = rows.crash(seed.rotate_left(17));
            self.run.saw(seen::POWER_CUTS);
            if before != (disk.fingerprint(), rows.fingerprint()) {
                self.run.saw(seen::LOSSES);
            }
        } else {
            *disk = disk.restart();
            rows.restart();
        }
    }

    /// The power of its disk went, and somebody has to do the rest.
    pub fn has_no_power(&self) -> bool {
        self.disk.lock().is_off() || self.rows.lock().is_off()
    }

    /// Everything stands still but time.
    pub fn pause(&self) -> bool {
        self.change_power(Power::On, Power::Paused, |handle, node| handle.pause(node))
    }

    pub fn resume(&self) -> bool {
        self.change_power(Power::Paused, Power::On, |handle, node| handle.resume(node))
    }

    fn change_power(&self, from: Power, to: Power, act: impl FnOnce(&Handle, NodeId)) -> bool {
        let mut power = self.power.lock();
        if *power != from {
            return false;
        }
        *power = to;
        act(&Handle::current(), self.node_id());
        true
    }

    /// Asks for an orderly stop, as SIGTERM does.
    pub fn ask_to_stop(&self) {
        self.stop.lock().request(StopRequest::default());
    }

    /// An empty disk in place of the old one.
    pub fn empty_disk(&self) {
        self.begins.store(false, Relaxed);
        self.run.oracles.elections.forget(self.number);
        self.faulty_disk.store(false, Relaxed);
        self.flipped.store(false, Relaxed);
        *self.disk.lock() = MemDisk::new();
        *self.rows.lock() = MemRows::new();
    }

    /// Another machine of the group: one that runs, if there is any.
    pub fn other(&self) -> Arc<Machine> {
        let machines = self.run.machines();
        let others = || machines.iter().filter(|other| other.number != self.number);
        others().find(|other| other.is_on()).or_else(|| others().next()).unwrap_or(&machines[0]).clone()
    }

    /// Bytes on its disk.
    pub fn used_bytes(&self) -> u64 {
        let disk = self.disk.lock();
        let dir = Path::new("/data/wal");
        let names = disk.list(dir).unwrap_or_default();
        names.iter().map(|name| disk.contents(&dir.join(name)).map_or(0, |bytes| bytes.len() as u64)).sum()
    }

    /// It votes in the group that it knows.
    pub fn votes(&self) -> bool {
        self.group().is_some_and(|group| {
            let me = group.member_id();
            group.members().iter().any(|(id, _, votes)| *id == me && *votes)
        })
    }

    /// It votes, or is the learner that it wants to be, and that is committed. Before, the voters without it may still
    /// be needed, and one of them may be where the next disk is lost.
    pub async fn is_settled(&self) -> bool {
        let Some(group) = self.group() else { return false };
        let status = group.status().await;
        let content = |voter: bool| voter || self.learner.load(Relaxed);
        !status.membership_changing && status.members.iter().any(|m| m.id == status.id && content(m.voter))
    }

    /// What its process said when it ended leaves an operator no other choice than an empty disk and another id.
    pub fn needs_replacement(&self, why: &str) -> bool {
        let words = ["corrupt", "is gone", "is lost", "does not read back", "in use", "already has the peer address"];
        words.iter().any(|word| why.contains(word))
    }

    fn settings(&self) -> Settings {
        let tuning = &self.tuning;
        let pairs = [
            ("port", CLIENT_PORT.to_string()),
            ("bind", self.ip().to_string()),
            ("protected-mode", "no".into()),
            ("peer", self.address(PEER_PORT)),
            ("admin", self.address(ADMIN_PORT)),
            ("secret", "between us".into()),
            ("admin-token", "token".into()),
            ("dir", "/data".into()),
            ("databases", "1".into()),
            ("join-as", if self.learner.load(Relaxed) { "learner" } else { "voter" }.into()),
            ("heartbeat-ms", tuning.heartbeat_ms.to_string()),
            ("election-timeout-ms", tuning.election_ms.to_string()),
            ("write-timeout", tuning.write_timeout_ms.to_string()),
            ("read-mode", if self.has(Mutant::LocalReads) { "local" } else { tuning.read_mode }.to_owned()),
            ("follower-mode", tuning.follower_mode.to_owned()),
            ("shutdown-timeout", "3".into()),
            ("enable-debug-command", "yes".into()),
        ];
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Settings::of(&pairs).unwrap_or_else(|error| panic!("the settings of the simulation are not valid: {error}"))
    }
}

/// A whole life of a process.
async fn process(machine: Arc<Machine>) {
    machine.lives.fetch_add(1, Relaxed);
    machine.tell(Kind::Life, "starts");
    machine.mark(Mark::Starts);
    let world = SimWorld { machine: machine.clone(), tuning: machine.tuning.clone() };
    let start = if machine.begins.load(Relaxed) {
        Start::Bootstrap
    } else {
        let others = machine.run.machines().into_iter().filter(|other| other.number != machine.number);
        Start::Join(others.map(|other| format!("http://{}", other.address(ADMIN_PORT))).collect())
    };
    let stop = machine.stop.lock().clone();
    let text = match node::serve(machine.settings(), start, &world, stop).await {
        Ok(()) => "stopped in good order".to_owned(),
        Err(error) => {
            let words = format!("{error:#}");
            machine.note_failure(&words);
            survival::ended(&machine, &words);
            if survival::is_damage(&words) && machine.flipped.swap(false, Relaxed) {
                machine.run.saw(seen::FLIPS_FOUND);
            }
            format!("ended by itself: {words}")
        }
    };
    machine.tell(Kind::Life, text);
    machine.mark(Mark::Ends { killed: false });
    machine.went_down(false);
}
