//! What clients see of a member that loads its data: the port is open, INFO tells how far it is, and what needs data is
//! refused in Redis' words.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate_keyspace::Keyspace;
use quorate_keyspace::error::CmdError;
use quorate_raft::{GroupStatus, LoadProgress};

use super::shell::{Stop, StopRequest};
use crate::config::Settings;
use crate::engine::Engine;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::server::facts::{ClientFacts, ClientTotals, LoadingFacts, ServerFacts, StorageFacts};
use crate::server::{BoxFuture, ShellCx, ShutdownOptions};
use crate::session::registry::{Client, Clients, PauseKind};
use crate::session::{LOADING, ShellFactory};

/// What the views are made of.
pub(super) struct Parts {
    pub(super) engine: Arc<Engine>,
    pub(super) env: Arc<dyn Env>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: Settings,
    pub(super) clients: Arc<Clients>,
    pub(super) facts: ServerFacts,
    pub(super) stop: Arc<Stop>,
    pub(super) progress: Arc<LoadProgress>,
    /// Unix seconds.
    pub(super) since_s: u64,
}

/// Makes a view for each command, until the data is loaded.
pub(super) struct Early(pub(super) Arc<Parts>);

impl ShellFactory for Early {
    fn for_client(&self, client: Arc<Client>, db: u16) -> Box<dyn ShellCx> {
        Box::new(View { parts: self.0.clone(), client, db })
    }
}

struct View {
    parts: Arc<Parts>,
    client: Arc<Client>,
    db: u16,
}

fn not_yet<T: Send + 'static>() -> BoxFuture<'static, Result<T, CmdError>> {
    Box::pin(async { Err(LOADING) })
}

impl ShellCx for View {
    fn client(&self) -> ClientFacts {
        let client = &self.client;
        ClientFacts { id: client.id, db: self.db, name: client.view().name, addr: Some(client.addr) }
    }

    fn clients(&self) -> ClientTotals {
        self.parts.clients.totals()
    }

    fn server(&self) -> &ServerFacts {
        &self.parts.facts
    }

    fn group(&self) -> BoxFuture<'_, GroupStatus> {
        Box::pin(async { GroupStatus::loading(self.parts.facts.member) })
    }

    fn storage(&self) -> StorageFacts {
        let progress = &self.parts.progress;
        let loading = LoadingFacts {
            since_s: self.parts.since_s,
            total: progress.total.load(Relaxed),
            loaded: progress.loaded.load(Relaxed),
        };
        StorageFacts { loading: Some(loading), has_room: true, ..StorageFacts::default() }
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    fn now_us(&self) -> u64 {
        self.parts.env.wall_us()
    }

    fn random(&self) -> u64 {
        self.parts.env.random()
    }

    fn with_keyspace(&self, look: &mut dyn FnMut(&Keyspace)) {
        // Empty until all of it is loaded.
        self.parts.engine.with(|keyspace| look(keyspace));
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.parts.settings.get(name)
    }

    fn settings_matching(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        self.parts.settings.matching(patterns)
    }

    fn set_settings<'a>(&'a self, pairs: &'a [(&'a [u8], &'a [u8])]) -> BoxFuture<'a, Result<(), CmdError>> {
        Box::pin(async move {
            let settings = &self.parts.settings;
            let change = settings.plan(pairs).map_err(|error| CmdError::new(error.to_string()))?;
            if !change.replicated().is_empty() {
                return Err(LOADING);
            }
            settings.apply(&change).map_err(|error| CmdError::new(error.to_string()))
        })
    }

    fn rewrite_settings(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        Box::pin(async { self.parts.settings.rewrite().map_err(|error| CmdError::new(error.to_string())) })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        not_yet()
    }

    fn checkpoint_soon(&self) {}

    fn wait_replicated(&self, _voters: u64, _timeout: Option<Duration>) -> BoxFuture<'_, Result<u64, CmdError>> {
        not_yet()
    }

    fn sync_log(&self, _timeout: Option<Duration>) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn transfer_leader(&self, _to: Option<u64>) -> BoxFuture<'_, Result<(), CmdError>> {
        not_yet()
    }

    fn shutdown(&self, options: ShutdownOptions) -> BoxFuture<'_, Result<(), CmdError>> {
        // There is nothing to save yet.
        self.parts.stop.request(StopRequest { now: options.now });
        Box::pin(async { Ok(()) })
    }

    fn abort_shutdown(&self) -> bool {
        false
    }

    fn set_active_expire(&self, _on: bool) {}

    fn damage(&self, _db: u16, _key: &[u8]) -> bool {
        false
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.parts.clients.pause(PauseKind::All, time);
        Box::pin(tokio::time::sleep(time))
    }
}
