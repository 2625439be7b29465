//! What server commands see of the running member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_keyspace::error::CmdError;
use quorate_keyspace::reply::{Proto, ReplyBuf};
use quorate_keyspace::{Keyspace, encode_setting_unit};
use quorate_raft::{ChangeError, Group, GroupStatus, Node};
use tokio::sync::Notify;

use super::local::LastCheckpoint;
use crate::config::{REPLICATED, Settings, specs};
use crate::engine::Engine;
use crate::env::Env;
use crate::executor::{Executor, ShellRunner};
use crate::metrics::Metrics;
use crate::server::facts::{ClientFacts, ClientTotals, ServerFacts, StorageFacts};
use crate::server::{BoxFuture, ShellCx, ShutdownOptions};
use crate::session::registry::{Client, Clients, PauseKind};
use crate::session::{ShellFactory, run_line};

/// How this member is to stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct StopRequest {
    /// Without handing leadership over.
    pub now: bool,
}

/// The wish that this member stops.
#[derive(Default)]
pub struct Stop {
    request: Mutex<Option<StopRequest>>,
    wake: Notify,
}

impl Stop {
    /// Asks for it.
    pub fn request(&self, request: StopRequest) {
        self.request.lock().get_or_insert(request);
        self.wake.notify_one();
    }

    /// Returns once somebody has asked.
    pub async fn requested(&self) {
        while self.request.lock().is_none() {
            self.wake.notified().await;
        }
    }

    /// How it was asked for.
    pub fn take(&self) -> StopRequest {
        self.request.lock().unwrap_or_default()
    }
}

/// How long CONFIG SET waits until this member has applied what the group has decided.
const APPLIED_HERE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What the views are made of.
pub(super) struct Parts {
    pub(super) node: Node,
    pub(super) group: Group,
    pub(super) engine: Arc<Engine>,
    pub(super) executor: Arc<Executor>,
    pub(super) env: Arc<dyn Env>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: Settings,
    pub(super) clients: Arc<Clients>,
    pub(super) facts: ServerFacts,
    pub(super) stop: Arc<Stop>,
    pub(super) last_checkpoint: Arc<LastCheckpoint>,
}

/// Makes a view for each command.
pub(super) struct Factory {
    parts: Parts,
    active_expire: AtomicBool,
}

impl Factory {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let factory = Arc::new(Self { parts, active_expire: AtomicBool::new(true) });
        factory.follow_settings();
        factory
    }

    /// Whether keys past due are to be removed by and by.
    pub(super) fn active_expire(&self) -> bool {
        self.active_expire.load(Ordering::Relaxed)
    }

    /// Settings that somebody keeps a copy of are copied again when they change.
    fn follow_settings(&self) {
        use crate::config::Id;
        let metrics = self.parts.metrics.clone();
        let slowlog = move |settings: &Settings| {
            let threshold = settings.slowlog_log_slower_than().map_or(-1, |time| time.as_micros() as i64);
            metrics.slowlog.configure(threshold, settings.slowlog_max_len() as u64);
            Ok(())
        };
        let _ = slowlog(&self.parts.settings);
        self.parts.settings.on_change(Id::SlowlogLogSlowerThan, slowlog.clone());
        self.parts.settings.on_change(Id::SlowlogMaxLen, slowlog);
        let metrics = self.parts.metrics.clone();
        let latency = move |settings: &Settings| {
            metrics.latency.configure(settings.latency_monitor_threshold_ms());
            Ok(())
        };
        let _ = latency(&self.parts.settings);
        self.parts.settings.on_change(Id::LatencyMonitorThreshold, latency);
        let node = self.parts.node.clone();
        self.parts.settings.on_change(Id::Appendfsync, move |settings| {
            node.set_sync_policy(super::sync_policy(settings));
            Ok(())
        });
        let executor = Arc::downgrade(&self.parts.executor);
        self.parts.settings.on_change(Id::WriteTimeout, move |settings| {
            if let Some(executor) = executor.upgrade() {
                executor.set_write_timeout(settings.write_timeout());
            }
            Ok(())
        });
    }
}

/// A factory behind an [`Arc`], so that views can share it.
#[derive(Clone)]
pub(super) struct Shell(pub(super) Arc<Factory>);

impl ShellFactory for Shell {
    fn for_client(&self, client: Arc<Client>, db: u16) -> Box<dyn ShellCx> {
        Box::new(View { factory: self.0.clone(), client: Some(client), db })
    }
}

impl ShellRunner for Shell {
    fn run(&self, proto: Proto, db: u16, args: Vec<Bytes>) -> quorate_raft::BoxFuture<Bytes> {
        let view = View { factory: self.0.clone(), client: None, db };
        Box::pin(async move {
            let mut out = ReplyBuf::new(proto);
            let args: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
            run_line(&view, &args, &mut out).await;
            out.take()
        })
    }
}

/// The member, seen by one command of one connection (`None`: of another member's).
struct View {
    factory: Arc<Factory>,
    client: Option<Arc<Client>>,
    db: u16,
}

impl View {
    fn parts(&self) -> &Parts {
        &self.factory.parts
    }

    /// A follower applies a moment after the leader has answered: who has set a setting must find it so here. Not for
    /// ever: another client may have set it again meanwhile.
    async fn until_applied(&self, name: &str, value: i64) {
        let applied = || self.parts().engine.with(|keyspace| keyspace.get_setting(name)) == Some(value);
        let wait = async {
            while !applied() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let _ = tokio::time::timeout(APPLIED_HERE, wait).await;
    }
}

fn refused(error: &ChangeError) -> CmdError {
    CmdError::new(format!("ERR {error}"))
}

/// A setting of the group, by the name that CONFIG uses.
fn replicated(name: &str) -> bool {
    specs().any(|spec| spec.has(REPLICATED) && (spec.name == name || spec.alias == name))
}

impl ShellCx for View {
    fn client(&self) -> ClientFacts {
        match &self.client {
            Some(client) => {
                ClientFacts { id: client.id, db: self.db, name: client.view().name, addr: Some(client.addr) }
            }
            None => ClientFacts { id: 0, db: self.db, name: String::new(), addr: None },
        }
    }

    fn clients(&self) -> ClientTotals {
        self.parts().clients.totals()
    }

    fn server(&self) -> &ServerFacts {
        &self.parts().facts
    }

    fn group(&self) -> BoxFuture<'_, GroupStatus> {
        Box::pin(self.parts().group.status())
    }

    fn storage(&self) -> StorageFacts {
        let parts = self.parts();
        super::local::storage_facts(&parts.node, &parts.last_checkpoint)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.parts().metrics
    }

    fn now_us(&self) -> u64 {
        self.parts().env.wall_us()
    }

    fn random(&self) -> u64 {
        self.parts().env.random()
    }

    fn with_keyspace(&self, look: &mut dyn FnMut(&Keyspace)) {
        self.parts().engine.with(|keyspace| look(keyspace));
    }

    fn setting(&self, name: &str) -> Option<String> {
        if replicated(name)
            && let Some(value) = self.parts().engine.with(|keyspace| keyspace.get_setting(name))
        {
            return Some(value.to_string());
        }
        self.parts().settings.get(name)
    }

    fn settings_matching(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let mut found = self.parts().settings.matching(patterns);
        for (name, value) in &mut found {
            if let Some(newest) = self.setting(name) {
                *value = newest;
            }
        }
        found
    }

    fn set_settings<'a>(&'a self, pairs: &'a [(&'a [u8], &'a [u8])]) -> BoxFuture<'a, Result<(), CmdError>> {
        Box::pin(async move {
            let settings = &self.parts().settings;
            let change = settings.plan(pairs).map_err(|error| CmdError::new(error.to_string()))?;
            for (name, text) in change.replicated() {
                let value = text.parse().map_err(|_| CmdError::NOT_INTEGER)?;
                let done = self.parts().executor.write(encode_setting_unit(name, value)).await;
                done.map_err(|error| CmdError::new(error.to_string()))?;
                self.until_applied(name, value).await;
                settings.set_replicated(name, text);
            }
            settings.apply(&change).map_err(|error| CmdError::new(error.to_string()))
        })
    }

    fn rewrite_settings(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        Box::pin(async { self.parts().settings.rewrite().map_err(|error| CmdError::new(error.to_string())) })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), CmdError>> {
        Box::pin(async { self.parts().group.checkpoint().await.map(|_| ()).map_err(|error| refused(&error)) })
    }

    fn checkpoint_soon(&self) {
        let group = self.parts().group.clone();
        tokio::spawn(async move { group.checkpoint_soon().await });
    }

    fn wait_replicated(&self, voters: u64, timeout: Option<Duration>) -> BoxFuture<'_, Result<u64, CmdError>> {
        let wanted = usize::try_from(voters).unwrap_or(usize::MAX);
        Box::pin(async move { Ok(self.parts().group.wait_synced(wanted, timeout).await as u64) })
    }

    fn sync_log(&self, timeout: Option<Duration>) -> BoxFuture<'_, bool> {
        let sync = async move { self.parts().node.sync_log().await.is_ok() };
        Box::pin(async move {
            match timeout {
                Some(timeout) => tokio::time::timeout(timeout, sync).await.unwrap_or(false),
                None => sync.await,
            }
        })
    }

    fn transfer_leader(&self, to: Option<u64>) -> BoxFuture<'_, Result<(), CmdError>> {
        Box::pin(async move { self.parts().group.transfer(to).await.map(|_| ()).map_err(|error| refused(&error)) })
    }

    fn shutdown(&self, options: ShutdownOptions) -> BoxFuture<'_, Result<(), CmdError>> {
        Box::pin(async move {
            if options.save == Some(true) && !options.force {
                self.checkpoint().await?;
            }
            self.parts().stop.request(StopRequest { now: options.now });
            Ok(())
        })
    }

    fn abort_shutdown(&self) -> bool {
        // A stop begins at once: there is never one that only waits.
        false
    }

    fn set_active_expire(&self, on: bool) {
        self.factory.active_expire.store(on, Ordering::Relaxed);
    }

    fn damage(&self, db: u16, key: &[u8]) -> bool {
        self.parts().engine.damage(db, key)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.parts().clients.pause(PauseKind::All, time);
        Box::pin(tokio::time::sleep(time))
    }
}
