//! What a member finds around it: clock, chance, disk, and the port of its admin service. The simulator brings its own.
//!
//! Whatever differs between a process and a simulated member goes through here; the member itself must not ask which of
//! the two it is.

use std::sync::Arc;

use quorate_raft::{BoxFuture, Group, Node, NodeConfig, NodeError, Spawner, StateMachine};
use quorate_storage::disk::Disk;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::admin::AdminService;
use crate::config::Settings;
use crate::engine::Engine;
use crate::env::Env;
use crate::metrics::Metrics;

/// The surroundings of one member.
pub trait World: Send + Sync + 'static {
    /// Clock and chance.
    fn env(&self) -> Arc<dyn Env>;
    /// Where the data directory is.
    fn disk(&self) -> Arc<dyn Disk>;
    /// Where consensus runs: the log's completions, peers, elections.
    fn consensus(&self) -> Spawner {
        Spawner::current()
    }
    /// Opens log and checkpoints, and listens for peers.
    fn open(&self, config: NodeConfig) -> BoxFuture<Result<Node, NodeError>> {
        Box::pin(Node::open(config))
    }
    /// What entries are applied to: the engine, or something that looks on.
    fn machine(&self, engine: Arc<Engine>) -> Arc<dyn StateMachine> {
        engine
    }
    /// Answers requests for the admin service until `stopped`.
    fn serve_admin(&self, port: TcpListener, admin: Arc<AdminService>, settings: &Settings, stopped: Arc<Notify>);
    /// Takes backups as the settings say.
    fn keep_backups(&self, _group: Group, _settings: Settings, _env: Arc<dyn Env>, _metrics: Arc<Metrics>) {}
    /// The member is up.
    fn up(&self, _node: &Node, _group: &Group) {}
}

/// A process of its own.
#[cfg(not(madsim))]
pub struct Process {
    consensus: Spawner,
}

#[cfg(not(madsim))]
impl Process {
    /// With consensus there.
    pub fn new(consensus: Spawner) -> Self {
        Self { consensus }
    }
}

#[cfg(not(madsim))]
impl World for Process {
    fn env(&self) -> Arc<dyn Env> {
        Arc::new(crate::env::SystemEnv)
    }

    fn consensus(&self) -> Spawner {
        self.consensus.clone()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(quorate_storage::disk::OsDisk)
    }

    fn keep_backups(&self, group: Group, settings: Settings, env: Arc<dyn Env>, metrics: Arc<Metrics>) {
        crate::backup::schedule::start(group, settings, env, metrics);
    }

    fn serve_admin(&self, port: TcpListener, admin: Arc<AdminService>, settings: &Settings, stopped: Arc<Notify>) {
        let bounds = crate::admin::http::HttpConfig::new(settings.admin_token().map(|token| token.to_string()));
        tokio::spawn(crate::admin::http::serve(port, admin, bounds, async move { stopped.notified().await }));
    }
}
