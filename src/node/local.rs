//! What the admin service and INFO tell of this process beside its group.

use std::sync::Arc;
use std::time::Instant;

use quorate_raft::{Member, Node};

use crate::admin::Local;
use crate::engine::Engine;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::metrics::text::Page;
use crate::server::facts::StorageFacts;
use crate::session::registry::Clients;

/// See [`Local`].
pub(super) struct LocalFacts {
    pub(super) group: String,
    pub(super) addresses: Member,
    pub(super) started: Instant,
    pub(super) engine: Arc<Engine>,
    pub(super) clients: Arc<Clients>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) env: Arc<dyn Env>,
    pub(super) node: Node,
}

/// Log and checkpoint, as INFO shows them.
pub(super) fn storage_facts(_node: &Node) -> StorageFacts {
    StorageFacts::default()
}

impl Local for LocalFacts {
    fn group(&self) -> String {
        self.group.clone()
    }

    fn addresses(&self) -> Member {
        self.addresses.clone()
    }

    fn started(&self) -> Instant {
        self.started
    }

    fn keys(&self) -> u64 {
        self.engine.with(|keyspace| (0..keyspace.databases()).map(|db| keyspace.dbsize(db)).sum())
    }

    fn disk_failure(&self) -> Option<String> {
        None
    }

    fn metrics(&self, page: &mut Page) {
        self.metrics.clients.set(self.clients.count() as u64);
        self.metrics.write(page);
        let now = self.env.wall_ms();
        let databases = self.engine.with(|keyspace| {
            let all = 0..keyspace.databases();
            all.map(|db| (db, keyspace.keyspace_info(db, now))).filter(|(_, info)| info.keys > 0).collect::<Vec<_>>()
        });
        let label = |db: &u16| vec![("db", db.to_string())];
        let keys = databases.iter().map(|(db, info)| (label(db), info.keys as f64));
        page.gauges("quorate_db_keys", "Keys in a database", keys);
        let expiring = databases.iter().map(|(db, info)| (label(db), info.expires as f64));
        page.gauges("quorate_db_keys_expiring", "Keys of a database that have a time to live", expiring);
        let _ = &self.node;
    }
}
