//! What a seed decides before the run begins: how large everything is, what clients do, and which faults there are.
//!
//! Small thresholds make rare paths common. Everything here is drawn from the seed and from nothing else.

use std::time::Duration;

use crate::mutants::Mutant;
use crate::scenarios::{self, Scenario};

/// A small generator of its own, so that a plan does not depend on what the run draws.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.between(from * 1000, to * 1000))
    }
}

/// Sizes and times of every member of a run.
#[derive(Clone, Debug)]
pub struct Tuning {
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub write_timeout_ms: u64,
    pub read_mode: &'static str,
    pub follower_mode: &'static str,
    pub batch_units: usize,
    pub in_flight: usize,
    pub checkpoint_log_bytes: u64,
    pub checkpoint_interval: Duration,
    pub checkpoint_step_bytes: usize,
    pub keep_log_bytes: u64,
    pub snapshot_frame_bytes: usize,
    /// Bytes of a snapshot in a second; 0: as fast as it goes.
    pub snapshot_rate: u64,
    pub segment_bytes: u64,
    pub log_cache_bytes: usize,
    /// The longest time of a sync.
    pub sync_us: u64,
}

/// A kind of fault. A run draws some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Partition,
    Loss,
    Kill,
    KillSome,
    PowerCut,
    Pause,
    Clock,
    Transfer,
    OrderlyStop,
    SlowDisk,
    Membership,
    EmptyDisk,
    DiskTrouble,
    /// All power goes at once.
    Blackout,
    /// Clocks go too fast or too slow, the whole run long, by as much as the lease has to stand.
    Drift,
    /// Who asks for an election and who still promised not to vote meet at the end of a lease (`schedules.rs`).
    LeaseEnd,
    /// The leader stands still until another one leads, and finds reads at its door when it goes on (`schedules.rs`).
    Sleep,
    /// Leadership is handed over, and the old leader does not hear who has it.
    DeafTransfer,
    /// Whoever has just voted restarts, and hears the old leader first.
    Turncoats,
    /// All machines start again, one after the other.
    Rolling,
}

impl Fault {
    pub const ALL: [Fault; 20] = [
        Fault::Partition,
        Fault::Loss,
        Fault::Kill,
        Fault::KillSome,
        Fault::PowerCut,
        Fault::Pause,
        Fault::Clock,
        Fault::Transfer,
        Fault::OrderlyStop,
        Fault::SlowDisk,
        Fault::Membership,
        Fault::EmptyDisk,
        Fault::DiskTrouble,
        Fault::Blackout,
        Fault::Drift,
        Fault::LeaseEnd,
        Fault::Sleep,
        Fault::DeafTransfer,
        Fault::Turncoats,
        Fault::Rolling,
    ];
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub machines: usize,
    pub clients: usize,
    pub tuning: Tuning,
    /// Faults stop after this.
    pub duration: Duration,
    pub faults: Vec<Fault>,
    /// Where clocks drift: every other machine's as slow as may be, and the others' as fast.
    pub opposite_clocks: bool,
    /// A deliberate fault that the oracles have to find.
    pub mutant: Option<Mutant>,
    /// In place of the nemesis: a script.
    pub scenario: Option<Scenario>,
    /// The mean time between two faults.
    pub fault_every: Duration,
    pub latency_ms: (u64, u64),
    /// The mean time that a client thinks between two operations.
    pub think: Duration,
    /// Bytes that make texts longer.
    pub padding: usize,
    /// Keys of a kilobyte that are there from the beginning.
    pub preload: usize,
}

/// Two clocks may differ by a tenth: one may be so many millionths too slow, and the other so many too fast.
const MOST_DRIFT: u64 = 50_000;

impl Plan {
    /// How fast the clock of that machine goes, in millionths of true time.
    pub fn clock_rate(&self, machine: usize) -> u64 {
        if !self.faults.contains(&Fault::Drift) {
            return 1_000_000;
        }
        if self.opposite_clocks {
            return if machine % 2 == 1 { 1_000_000 - MOST_DRIFT } else { 1_000_000 + MOST_DRIFT };
        }
        let mut chance = Chance::new(self.seed.rotate_left(16) ^ machine as u64);
        let between = chance.between(1_000_000 - MOST_DRIFT, 1_000_000 + MOST_DRIFT);
        *chance.pick(&[1_000_000 - MOST_DRIFT, 1_000_000 + MOST_DRIFT, between])
    }

    /// How long a follower keeps its promise.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.tuning.election_ms * 3 / 2)
    }

    /// The shortest and the longest time of a packet on its way.
    pub fn latency(&self) -> (Duration, Duration) {
        let (from, to) = self.latency_ms;
        (Duration::from_micros(from * 1000 + 100), Duration::from_micros(to * 1000 + 200))
    }

    /// A script in place of all that was drawn.
    pub fn play(&mut self, name: &str) {
        if let Some(scenario) = scenarios::ALL.iter().find(|scenario| scenario.name == name) {
            *self = Self { mutant: self.mutant, ..scenario.plan() };
        }
    }

    /// Three machines without anything unusual, and no clients: where scripts begin.
    pub fn calm() -> Self {
        let mut plan = Self::of(1);
        plan.machines = 3;
        plan.clients = 0;
        plan.faults.clear();
        plan.latency_ms = (1, 3);
        plan.think = Duration::from_millis(10);
        plan.padding = 0;
        plan.preload = 0;
        plan.tuning = Tuning {
            heartbeat_ms: 25,
            election_ms: 120,
            write_timeout_ms: 2000,
            read_mode: "lease",
            follower_mode: "proxy",
            batch_units: 64,
            in_flight: 4,
            checkpoint_log_bytes: 1 << 30,
            checkpoint_interval: Duration::from_secs(900),
            checkpoint_step_bytes: 4 << 10,
            keep_log_bytes: 64 << 10,
            snapshot_frame_bytes: 4 << 10,
            snapshot_rate: 0,
            segment_bytes: 64 << 10,
            log_cache_bytes: 4 << 20,
            sync_us: 2000,
        };
        plan
    }

    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x51_6d_75_6c_61_74_6f_72);
        // An election timeout must be longer than a few round trips, here as anywhere.
        let latency_ms = *chance.pick(&[(0, 1), (1, 3), (1, 10), (5, 40)]);
        let heartbeat_ms = chance.between(20, 60).max(2 * latency_ms.1);
        let mut tuning = Tuning {
            heartbeat_ms,
            election_ms: heartbeat_ms * chance.between(4, 8),
            write_timeout_ms: *chance.pick(&[1000, 2000, 5000]),
            read_mode: chance.pick::<&str>(&["lease", "lease", "lease", "quorum"]),
            follower_mode: chance.pick::<&str>(&["proxy", "proxy", "proxy", "redirect"]),
            batch_units: *chance.pick(&[1, 4, 64, 4096]),
            in_flight: *chance.pick(&[1, 2, 4, 8]),
            checkpoint_log_bytes: *chance.pick(&[8 << 10, 32 << 10, 128 << 10, 1 << 30]),
            checkpoint_interval: *chance.pick(&[
                Duration::from_secs(1),
                Duration::from_secs(5),
                Duration::from_secs(900),
            ]),
            checkpoint_step_bytes: *chance.pick(&[1, 1 << 10, 64 << 10]),
            keep_log_bytes: *chance.pick(&[0, 4 << 10, 64 << 10]),
            snapshot_frame_bytes: *chance.pick(&[512, 4 << 10, 64 << 10]),
            snapshot_rate: 0,
            segment_bytes: *chance.pick(&[32 << 10, 64 << 10, 256 << 10]),
            log_cache_bytes: *chance.pick(&[1 << 10, 64 << 10, 4 << 20]),
            sync_us: *chance.pick(&[500, 2000, 8000]),
        };
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| chance.one_in(2)).collect();
        if chance.one_in(20) {
            faults.clear();
        }
        // Snapshots that take a while, so that something can happen to them.
        let preload = if chance.one_in(4) { 24 } else { 0 };
        if preload > 0 {
            tuning.snapshot_rate = chance.between(8 << 10, 64 << 10);
            tuning.snapshot_frame_bytes = *chance.pick(&[512, 4 << 10]);
        }
        Self {
            seed,
            machines: *chance.pick(&[1, 3, 3, 3, 4, 5, 5, 5]),
            clients: chance.between(4, 12) as usize,
            tuning,
            duration: Duration::from_secs(12),
            faults,
            opposite_clocks: false,
            mutant: None,
            scenario: None,
            fault_every: chance.millis(200, 1500),
            latency_ms,
            think: chance.millis(2, 40),
            padding: *chance.pick(&[0, 0, 400, 1500]),
            preload,
        }
    }
}
