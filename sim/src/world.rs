//! What a member finds around it here: a disk and a checkpoint store in memory that outlive its process, a clock that
//! may be wrong, chance from the seed, and a small face of the admin service in place of axum's.
//!
//! Nothing of the server is written anew: this is only what `quorate::node::World` asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate::admin::AdminService;
use quorate::config::Settings;
use quorate::engine::Engine;
use quorate::env::Env;
use quorate::node::World;
use quorate_raft::{BoxFuture, Event, Group, Limits, Node, NodeConfig, NodeError, StateMachine, Stores};
use quorate_storage::checkpoint::{CheckpointStore, Rows};
use quorate_storage::disk::Disk;
use quorate_storage::wal::{Wal, WalConfig, WalDriver};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::admin;
use crate::invariants::state_machine::Onlooker;
use crate::machine::{Live, Machine};
use crate::mutants::{LyingDisk, LyingRows, Mutant};
use crate::plan::Tuning;
use crate::seen;
use crate::story::{Kind, Lane, Mark, Story};

/// A clock that is off by some microseconds and goes too fast or too slow, and the run's chance.
pub struct SimEnv {
    pub skew_us: Arc<AtomicI64>,
    story: Story,
    /// Millionths of true time.
    rate: u64,
}

impl Env for SimEnv {
    fn wall_us(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let since = self.story.now().as_micros() as i64;
        let drift = since * (self.rate as i64 - 1_000_000) / 1_000_000;
        now.saturating_add_signed(self.skew_us.load(Relaxed) + drift)
    }

    fn random(&self) -> u64 {
        madsim::rand::random()
    }
}

/// The surroundings of one life of one machine.
pub struct SimWorld {
    pub machine: Arc<Machine>,
    pub tuning: Tuning,
}

impl World for SimWorld {
    fn env(&self) -> Arc<dyn Env> {
        let machine = &self.machine;
        Arc::new(SimEnv {
            skew_us: machine.skew_us.clone(),
            story: machine.run.story.clone(),
            rate: machine.run.plan.clock_rate(machine.number),
        })
    }

    fn disk(&self) -> Arc<dyn Disk> {
        let disk = self.machine.disk.lock().clone();
        if self.machine.has(Mutant::AckBeforeFsync) { Arc::new(LyingDisk(disk)) } else { Arc::new(disk) }
    }

    fn open(&self, mut config: NodeConfig) -> BoxFuture<Result<Node, NodeError>> {
        let (machine, tuning) = (self.machine.clone(), self.tuning.clone());
        Box::pin(async move {
            config.limits = Limits {
                batch_units: tuning.batch_units,
                in_flight: tuning.in_flight,
                checkpoint_log_bytes: tuning.checkpoint_log_bytes,
                checkpoint_interval: tuning.checkpoint_interval,
                checkpoint_step_bytes: tuning.checkpoint_step_bytes,
                keep_log_bytes: tuning.keep_log_bytes,
                snapshot_frame_bytes: tuning.snapshot_frame_bytes,
                snapshot_rate: tuning.snapshot_rate,
                ..config.limits
            };
            let wal_config = WalConfig {
                segment_bytes: tuning.segment_bytes,
                cache_bytes: tuning.log_cache_bytes,
                spare_segments: 1,
                salt: Some(madsim::rand::random()),
                ..config.wal.clone()
            };
            let work = Arc::new(Notify::new());
            let wake = work.clone();
            let opened = Wal::open_manual(
                config.disk.clone(),
                &config.dir.join("wal"),
                wal_config,
                Box::new(move || wake.notify_one()),
            );
            let (wal, driver, recovered) = opened.map_err(|error| NodeError::Storage(error.to_string()))?;
            if let Some((file, offset)) = recovered.cut {
                machine.run.saw(seen::TORN_TAILS);
                machine.tell(Kind::Life, format!("cut a torn tail of its log off: {file} at {offset}"));
            }
            let (vote, story) = (wal.group(1).vote(), &machine.run.story);
            machine.run.oracles.elections.wakes(machine.number, vote.as_deref(), story);
            *machine.wal.lock() = Some(wal.clone());
            tokio::spawn(drive(machine.clone(), wal.clone(), driver, work));
            let rows = machine.rows.lock().clone();
            let rows: Arc<dyn Rows> =
                if machine.has(Mutant::CheckpointNotDurable) { Arc::new(LyingRows(rows)) } else { Arc::new(rows) };
            let checkpoints = CheckpointStore::over(rows);
            Node::open_with(config, Stores { wal, checkpoints }).await
        })
    }

    fn machine(&self, engine: Arc<Engine>) -> Arc<dyn StateMachine> {
        Arc::new(Onlooker::new(engine, self.machine.clone()))
    }

    fn serve_admin(&self, port: TcpListener, admin: Arc<AdminService>, _settings: &Settings, _stopped: Arc<Notify>) {
        tokio::spawn(admin::serve(port, admin));
    }

    fn up(&self, node: &Node, group: &Group) {
        let machine = self.machine.clone();
        machine.tell(Kind::Life, format!("serves as member {}", group.member_id()));
        machine.run.story.mark(Lane::Member(machine.number), Mark::Serves);
        *machine.live.lock() = Some(Live { group: group.clone(), node: node.clone() });
        tokio::spawn(watch(machine, group.clone()));
    }
}

/// In place of the log's thread: writes what waits, after the time that a disk takes.
async fn drive(machine: Arc<Machine>, wal: Wal, mut driver: WalDriver, work: Arc<Notify>) {
    let idle_after = Duration::from_millis(50);
    while wal.failed().is_none() {
        if timeout(idle_after, work.notified()).await.is_err() {
            driver.idle();
            continue;
        }
        sleep(machine.sync_time()).await;
        while driver.run_once() {}
        if let Some(vote) = wal.group(1).vote().filter(|_| wal.failed().is_none()) {
            machine.run.oracles.elections.voted(machine.number, &vote, &machine.run.story);
        }
    }
}

async fn watch(machine: Arc<Machine>, group: Group) {
    let mut events = group.events();
    let lane = Lane::Member(machine.number);
    let life = (machine.number, machine.life());
    // A group's first leader leads before anybody can listen.
    if group.is_leader() {
        let term = group.status().await.term;
        machine.run.story.mark(lane, Mark::Leads(term));
        machine.run.oracles.elections.leads((term, group.member_id()), life, &machine.run.story);
    }
    while let Some(event) = events.next().await {
        let story = &machine.run.story;
        if let Event::BecameLeader { term } | Event::LostLeadership { term } | Event::LeaderIs { term, .. } = &event {
            machine.run.oracles.elections.acts(machine.number, *term, story);
        }
        match &event {
            Event::BecameLeader { term } => {
                story.mark(lane, Mark::Leads(*term));
                machine.run.oracles.elections.leads((*term, group.member_id()), life, story);
                machine.run.oracles.logs.lock().leads(&machine, (*term, group.member_id()), story);
            }
            Event::Failed(why) => machine.note_failure(why),
            Event::SnapshotInstalled { .. } => machine.run.saw(seen::SNAPSHOTS),
            Event::MemberAdded { .. } if group.is_leader() => machine.run.saw(seen::ADDED),
            Event::MemberPromoted { .. } if group.is_leader() => machine.run.saw(seen::PROMOTED),
            Event::LostLeadership { .. } => story.mark(lane, Mark::LeadsNoMore),
            _ => {}
        }
        let text = match event {
            Event::BecameLeader { term } => format!("leads in term {term}"),
            Event::LostLeadership { term } => format!("leads no more, term {term}"),
            Event::LeaderIs { leader, term } => match leader {
                Some(leader) => format!("follows member {leader} in term {term}"),
                None => format!("knows no leader in term {term}"),
            },
            Event::MemberAdded { id, .. } => format!("member {id} added"),
            Event::MemberPromoted { id } => format!("member {id} votes now"),
            Event::MemberRemoved { id } => format!("member {id} removed"),
            Event::SnapshotSent { to, bytes } => format!("sent a snapshot of {bytes} bytes to member {to}"),
            Event::SnapshotInstalled { index, bytes } => format!("installed a snapshot up to {index}, {bytes} bytes"),
            Event::Checkpoint { index } => format!("checkpoint up to {index}"),
            Event::Removed => "was removed from the group".to_owned(),
            Event::Refused { by, reason } => format!("refused by member {by}: {reason}"),
            Event::Failed(why) => format!("failed: {why}"),
        };
        story.tell(lane, Kind::Raft, text);
    }
}
