//! One member, put together: data directory, group, sessions, admin, and the way up and down.
//!
//! This is the only place that knows all the rooms. It holds no logic of theirs.

mod identity;
mod keeper;
mod loading;
mod local;
pub mod offline;
mod rebuild;
mod shell;
#[cfg(not(madsim))]
mod threads;
mod world;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, bail};
use quorate_keyspace::Keyspace;
use quorate_raft::{BoxFuture, Event, Group, Limits, Member, Node, NodeConfig, NodeError, RaftTimings, StateMachine};
use quorate_storage::checkpoint::CheckpointConfig;
use quorate_storage::disk::Disk;
use quorate_storage::identity::DataDir;
use quorate_storage::wal::{SyncPolicy, WalConfig};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::admin::backend::PEER_SERVICE;
use crate::admin::service::PeerFace;
use crate::admin::{AdminService, LiveBackend, waiting};
use crate::config::{Appendfsync, Settings};
use crate::engine::Engine;
use crate::env::Env;
use crate::executor::Executor;
use crate::metrics::Metrics;
use crate::server::catalog;
use crate::server::facts::{ServerFacts, node_id};
use crate::session::registry::Clients;
use crate::session::{self, Listener, Loaded, Shared};
use local::LastCheckpoint;
pub use shell::{Stop, StopRequest};
#[cfg(not(madsim))]
use threads::Threads;
#[cfg(not(madsim))]
pub use world::Process;
pub use world::World;

/// How often one start begins to rebuild: a second time, if whoever was asked first did not know better.
const REBUILDS: u32 = 3;
/// Until a port that is closed is free again.
const DOORS_CLOSE: std::time::Duration = std::time::Duration::from_millis(100);
/// A new member is called at once; after so long, something is wrong.
const CALL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// The only group of a node, until there is sharding.
const GROUP: u64 = 1;

/// How a member comes into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new group of one, unless the directory holds a member already.
    Bootstrap,
    /// Ask the group behind these admin addresses, unless the directory holds a member already.
    Join(Vec<String>),
    /// As `Join`; and if what the directory holds is damaged, as a new member, with the old one removed.
    Rebuild(Vec<String>),
    /// What the directory holds.
    Resume,
}

/// Runs one member until it is told to stop. An error is for the operator: it says what to do.
#[cfg(not(madsim))]
pub fn run(settings: Settings, start: Start, leash: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let threads = Threads::start(settings.io_threads()).context("cannot start the threads")?;
    let consensus = threads.consensus();
    let result = threads.sessions().block_on(async move {
        let stop = Arc::new(Stop::default());
        let signals = tokio::spawn(wait_for_signals(stop.clone(), leash));
        let result = serve(settings, start, &Process::new(consensus), stop).await;
        signals.abort();
        result
    });
    threads.end();
    result
}

/// Turns signals, and the end of the parent process where there is a leash, into a request to stop.
#[cfg(not(madsim))]
async fn wait_for_signals(stop: Arc<Stop>, leash: impl Future<Output = ()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals: stop this member with SHUTDOWN");
        return;
    };
    let why = tokio::select! {
        biased;
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
        () = leash => "the process that started it has gone",
    };
    tracing::info!(why, "stopping");
    stop.request(StopRequest::default());
}

/// A running member.
struct Running {
    node: Node,
    group: Group,
    admin: Arc<AdminService>,
    listeners: Vec<Listener>,
    clients: Arc<Clients>,
    settings: Settings,
    admin_stop: Arc<Notify>,
    // Held for as long as the member runs: two processes on one directory would ruin it.
    _dir: DataDir,
}

/// Runs one member: consensus where the world says, everything else in this runtime.
pub async fn serve(settings: Settings, start: Start, world: &dyn World, stop: Arc<Stop>) -> anyhow::Result<()> {
    let mut tries = 0;
    let up = loop {
        let error = match bring_up(&settings, start.clone(), world, stop.clone()).await {
            Ok(up) => break up,
            Err(error) => error,
        };
        let Start::Rebuild(urls) = &start else { return Err(rebuild::advise(error)) };
        tries += 1;
        if tries > REBUILDS || !(rebuild::is_damage(&error) || rebuild::is_forgotten(&error)) {
            return Err(error);
        }
        let (why, me) = (format!("{error:#}"), addresses(&settings));
        tokio::select! {
            biased;
            () = stop.requested() => break None,
            rebuilt = rebuild::rebuild(&settings, urls, &me, &why) => rebuilt?,
        }
    };
    let Some(running) = up else {
        tracing::info!("stopped before the data was loaded");
        return Ok(());
    };
    let failed = tokio::select! {
        biased;
        () = stop.requested() => None,
        reason = running.group.failed() => Some(reason),
    };
    if let Some(reason) = failed {
        // Nothing may be acknowledged any more, and nothing is to be saved: the disk or the state can't be trusted.
        return Err(rebuild::advise_stopped(&reason));
    }
    running.bring_down(stop.take()).await;
    Ok(())
}

/// Where this member is reached.
fn addresses(settings: &Settings) -> Member {
    Member {
        peer: settings.advertise_peer(),
        client: settings.advertise_client(),
        admin: settings.advertise_admin(),
        ..Member::default()
    }
}

/// `None`: it was told to stop before it was taken in, or before its data was loaded.
#[expect(clippy::too_many_lines, reason = "the one place where the rooms are put together, in the order that matters")]
async fn bring_up(
    settings: &Settings,
    start: Start,
    world: &dyn World,
    stop: Arc<Stop>,
) -> anyhow::Result<Option<Running>> {
    let started = Instant::now();
    let env = world.env();
    settings.check().map_err(anyhow::Error::new)?;
    let path = settings.dir();
    let dir = DataDir::open(world.disk(), &path)?;
    let me = addresses(settings);
    // The ports are opened before anything is promised to a group.
    let client_ports = bind_clients(settings).await?;
    let admin_port = bind(&settings.admin(), "the admin port", "admin").await?;
    let found = tokio::select! {
        biased;
        () = stop.requested() => return Ok(None),
        found = identity::find_or_make(&dir, settings, start, &me, &*env) => found?,
        never = waiting::answer(&admin_port) => match never {},
    };
    let mut doors = Doors {
        client_ports,
        admin_port: Some(admin_port),
        listeners: Vec::new(),
        admin_stop: Arc::new(Notify::new()),
    };
    let metrics = Arc::new(Metrics::new(catalog().names()));
    let keyspace = Keyspace::new(settings.databases(), [0, 0]);
    let engine = Arc::new(Engine::new(keyspace, env.clone(), metrics.clone()));
    let clients = Arc::new(Clients::default());
    let facts = server_facts(settings, &found, started, &path, &*env);
    let config = node_config(settings, &found, &path, world.disk());
    let early = loading::Early(Arc::new(loading::Parts {
        engine: engine.clone(),
        env: env.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
        clients: clients.clone(),
        facts: facts.clone(),
        stop: stop.clone(),
        progress: config.progress.clone(),
        since_s: env.wall_ms() / 1000,
    }));
    let shared = Arc::new(Shared {
        env: env.clone(),
        loaded: OnceLock::new(),
        clients: clients.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
        early: Arc::new(early),
    });
    let local = Arc::new(local::LocalFacts {
        group: found.cluster.to_string(),
        addresses: me.clone(),
        started,
        engine: engine.clone(),
        clients: clients.clone(),
        metrics: metrics.clone(),
        env: env.clone(),
        node: OnceLock::new(),
    });
    let backend = Arc::new(LiveBackend::new(found.member, local.clone()));
    let admin = AdminService::new(backend.clone());
    if found.comes_back() {
        // Its clients are told that it loads, and whoever watches it that it lives.
        doors.open(&shared, &admin, world, settings);
    }
    let (node, machine, begin) = (world.open(config), world.machine(engine.clone()), found.start(me));
    let mut opening = world.consensus().spawn(open(node, machine, begin));
    let opened = tokio::select! {
        biased;
        opened = &mut opening => opened.context("consensus did not start")?,
        () = stop.requested() => {
            opening.abort();
            return Ok(None);
        }
    };
    let (node, group) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            doors.close(&clients).await;
            return Err(error.into());
        }
    };
    identity::settle(&dir, &found, node.log_salt())?;

    let executor =
        Executor::new(node.clone(), group.clone(), engine.clone(), metrics.clone(), settings.write_timeout());
    let last_checkpoint = Arc::new(LastCheckpoint::default());
    let shell = shell::Factory::new(shell::Parts {
        node: node.clone(),
        group: group.clone(),
        engine,
        executor: executor.clone(),
        env: env.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
        clients: clients.clone(),
        facts,
        stop,
        last_checkpoint: last_checkpoint.clone(),
    });
    executor.set_shell(Arc::new(shell::Shell(shell.clone())));
    let _ = local.node.set(node.clone());
    backend.open(node.clone(), group.clone());
    node.serve(PEER_SERVICE, Arc::new(PeerFace(admin.clone())));
    tokio::spawn(narrate(group.clone(), last_checkpoint, env.clone()));
    tokio::spawn(expect_a_call(group.clone(), settings.advertise_peer()));
    if found.begins_group() {
        // Before any client is served: the settings of the beginning must not come after a client's own.
        keeper::found(&executor, settings, &*env).await;
    }
    keeper::start(executor.clone(), settings.clone(), shell.clone(), env.clone(), metrics.clone());
    world.keep_backups(group.clone(), settings.clone(), env, metrics);
    let _ = shared.loaded.set(Loaded { executor, shell: Arc::new(shell::Shell(shell)) });
    doors.open(&shared, &admin, world, settings);
    world.up(&node, &group);
    tracing::info!(
        member = found.member,
        group = %found.cluster,
        clients = %settings.advertise_client(),
        peers = %node.peer_addr(),
        admin = %settings.admin(),
        dir = %path.display(),
        "ready"
    );
    let Doors { listeners, admin_stop, .. } = doors;
    Ok(Some(Running { node, group, admin, listeners, clients, settings: settings.clone(), admin_stop, _dir: dir }))
}

/// Opens the node and its group.
async fn open(
    node: BoxFuture<Result<Node, NodeError>>,
    machine: Arc<dyn StateMachine>,
    start: quorate_raft::Start,
) -> Result<(Node, Group), NodeError> {
    let node = node.await?;
    match node.open_group(GROUP, machine, start).await {
        Ok(group) => Ok((node, group)),
        Err(error) => {
            // Its port must be free for whoever tries next.
            node.kill().await;
            Err(error)
        }
    }
}

/// The ports for clients and for the admin service: bound early, opened once there is something to say.
struct Doors {
    client_ports: Vec<TcpListener>,
    admin_port: Option<TcpListener>,
    listeners: Vec<Listener>,
    admin_stop: Arc<Notify>,
}

impl Doors {
    /// Serves on them; those that are open stay so.
    fn open(&mut self, shared: &Arc<Shared>, admin: &Arc<AdminService>, world: &dyn World, settings: &Settings) {
        let ports = self.client_ports.drain(..);
        self.listeners.extend(ports.map(|port| session::listen(shared.clone(), port)));
        if let Some(port) = self.admin_port.take() {
            world.serve_admin(port, admin.clone(), settings, self.admin_stop.clone());
        }
    }

    /// Closes what is open, for good: this start has failed, and the next one wants the ports.
    async fn close(&self, clients: &Clients) {
        self.listeners.iter().for_each(Listener::stop);
        clients.list().iter().for_each(|client| client.kill());
        self.admin_stop.notify_one();
        tokio::time::sleep(DOORS_CLOSE).await;
    }
}

impl Running {
    /// The orderly way down: no new clients, leadership handed over, what runs is finished, a checkpoint, the end.
    async fn bring_down(self, request: StopRequest) {
        let patience = self.settings.shutdown_timeout();
        let began = Instant::now();
        self.admin.set_stopping();
        for listener in &self.listeners {
            listener.stop();
        }
        if !request.now
            && self.group.is_leader()
            && self.group.members().iter().filter(|(_, _, votes)| *votes).count() > 1
        {
            match self.group.transfer(None).await {
                Ok(to) => tracing::info!(to, "leadership handed over"),
                Err(error) => tracing::warn!(%error, "leadership could not be handed over"),
            }
        }
        for client in self.clients.list() {
            client.kill();
        }
        let drained = async {
            while self.clients.count() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(patience / 4, drained).await;
        self.admin_stop.notify_one();
        self.node.shutdown(patience.saturating_sub(began.elapsed())).await;
        tracing::info!("stopped");
    }
}

fn node_config(settings: &Settings, found: &identity::Found, path: &Path, disk: Arc<dyn Disk>) -> NodeConfig {
    let (election_min, election_max) = settings.election_timeout();
    let mut config = NodeConfig::new(found.identity(), path, settings.peer());
    config.disk = disk;
    config.secret = settings.secret().to_string();
    config.timings = RaftTimings { heartbeat: settings.heartbeat(), election_min, election_max };
    config.wal = WalConfig {
        segment_bytes: settings.segment_bytes(),
        cache_bytes: settings.log_cache_bytes(),
        sync: sync_policy(settings),
        ..WalConfig::default()
    };
    config.checkpoint =
        CheckpointConfig { cache_bytes: settings.checkpoint_cache_bytes(), ..CheckpointConfig::default() };
    config.limits = Limits {
        checkpoint_log_bytes: settings.checkpoint_log_bytes(),
        checkpoint_interval: settings.checkpoint_interval(),
        keep_log_bytes: settings.keep_log_bytes(),
        check_interval: settings.check_interval(),
        snapshot_rate: settings.snapshot_rate(),
        ..Limits::default()
    };
    config
}

fn sync_policy(settings: &Settings) -> SyncPolicy {
    match settings.appendfsync() {
        Appendfsync::Always => SyncPolicy::Always,
        Appendfsync::Everysec => SyncPolicy::EverySecond,
        Appendfsync::No => SyncPolicy::Never,
    }
}

async fn bind_clients(settings: &Settings) -> anyhow::Result<Vec<TcpListener>> {
    let mut ports = Vec::new();
    let mut last = None;
    for (host, optional) in settings.bind() {
        let addr = if host.contains(':') {
            format!("[{host}]:{}", settings.port())
        } else {
            format!("{host}:{}", settings.port())
        };
        match bind(&addr, "the client port", "port").await {
            Ok(port) => ports.push(port),
            Err(error) if optional => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (ports.is_empty(), last) {
        (true, Some(error)) => Err(error),
        (true, None) => bail!("'bind' names no address: set it, for instance to 127.0.0.1"),
        (false, _) => Ok(ports),
    }
}

async fn bind(addr: &str, what: &str, setting: &str) -> anyhow::Result<TcpListener> {
    listen(addr).await.with_context(|| {
        format!("cannot listen on {addr}, {what}: if another program uses it, choose another with --{setting}")
    })
}

/// Listens there. An IPv6 port takes IPv6 only, as Redis does it: `bind * -::*` names both kinds.
#[cfg(not(madsim))]
async fn listen(addr: &str) -> std::io::Result<TcpListener> {
    let Ok(v6) = addr.parse::<std::net::SocketAddrV6>() else {
        return TcpListener::bind(addr).await;
    };
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&v6.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The simulated network is IPv4 only.
#[cfg(madsim)]
async fn listen(addr: &str) -> std::io::Result<TcpListener> {
    TcpListener::bind(addr).await
}

fn server_facts(
    settings: &Settings,
    found: &identity::Found,
    started: Instant,
    path: &Path,
    env: &dyn Env,
) -> ServerFacts {
    let hex = |numbers: [u64; 3]| {
        let mut text: String = numbers.iter().map(|n| format!("{n:016x}")).collect();
        text.truncate(40);
        text
    };
    ServerFacts {
        node_id: node_id(&found.cluster.to_string(), found.member),
        run_id: hex([env.random(), env.random(), env.random()]),
        started,
        group: found.cluster.to_string(),
        member: found.member,
        port: settings.port(),
        dir: path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string(),
        executable: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        config_file: settings.file().map(|path| path.display().to_string()).unwrap_or_default(),
        databases: settings.databases(),
    }
}

/// Says so when the group doesn't call a new member: it can do nothing about it itself.
async fn expect_a_call(group: Group, peer: String) {
    loop {
        tokio::time::sleep(CALL_PATIENCE).await;
        if !group.members().is_empty() {
            return;
        }
        tracing::warn!(
            member = group.member_id(),
            peer,
            "no member of the group has called this one yet: can they reach it at this address (advertise-peer)? If it \
             was removed meanwhile, stop it, empty its directory, and let it join again"
        );
    }
}

/// One line per event that an operator cares about.
async fn narrate(group: Group, last_checkpoint: Arc<LastCheckpoint>, env: Arc<dyn Env>) {
    let mut events = group.events();
    while let Some(event) = events.next().await {
        match event {
            Event::BecameLeader { term } => tracing::info!(term, "this member leads"),
            Event::LostLeadership { term } => tracing::warn!(term, "this member leads no more"),
            Event::LeaderIs { leader: Some(leader), term } => tracing::info!(leader, term, "following"),
            Event::LeaderIs { leader: None, term } => tracing::warn!(term, "no leader is known"),
            Event::MemberAdded { id, member } => tracing::info!(id, peer = member.peer, "member added"),
            Event::MemberPromoted { id } => tracing::info!(id, "member votes now"),
            Event::MemberRemoved { id } => tracing::info!(id, "member removed"),
            Event::SnapshotSent { to, bytes } => tracing::info!(to, bytes, "snapshot sent"),
            Event::SnapshotInstalled { index, bytes } => tracing::info!(index, bytes, "snapshot installed"),
            Event::Checkpoint { index } => {
                last_checkpoint.note(env.wall_ms() / 1000);
                tracing::info!(index, "checkpoint");
            }
            Event::Removed => tracing::warn!(
                "this member was removed from its group and gets nothing any more: stop it; to take part again it needs \
                 an empty directory and --join"
            ),
            Event::Refused { by, reason } => tracing::error!(by, "refused by another member: {reason}"),
            Event::Failed(reason) => tracing::error!("{reason}"),
        }
    }
}
