//! The admin service: answers [`Request`]s on any member, by itself or through the leader.
//!
//! It must never forward what a peer has forwarded to it, and never repeat a change whose outcome is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_raft::{GroupStatus, Member, MemberId, MemberStatus, Role, Service, Trouble};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{
    AddMember, AddedView, AddressView, ApiError, CheckView, MemberView, MembersView, ProgressView, Request, StatusView,
    WantedRole,
};
use super::backend::Backend;
use crate::metrics::text::Page;

/// How long a request waits for a leader to be known, and how often it looks.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);
const LEADER_POLL: Duration = Duration::from_millis(100);
/// A change of membership waits for a commit or two.
const CHANGE_PATIENCE: Duration = Duration::from_secs(20);
/// A check reads everything that every member holds; the leader itself gives it 15 minutes. One that is gone is noticed
/// long before.
const CHECK_PATIENCE: Duration = Duration::from_secs(15 * 60 + 30);
/// What a member is given to tell its status.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// A member that lacks more entries than this is called lagging.
const LAGGING_ENTRIES: u64 = 1000;
/// How often a request looks for the leader anew after one that no longer led.
const ATTEMPTS: usize = 3;

/// The admin service of one member.
pub struct AdminService {
    backend: Arc<dyn Backend>,
    stopping: AtomicBool,
    /// Two requests to take in the same address must not both see it absent.
    adding: tokio::sync::Mutex<()>,
}

/// An answer between peers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Err(ApiError),
}

impl AdminService {
    /// Over a member.
    pub fn new(backend: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { backend, stopping: AtomicBool::new(false), adding: tokio::sync::Mutex::new(()) })
    }

    /// From now on this member is not ready: an orderly stop has begun.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// An orderly stop has begun.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Answers a request from outside.
    pub async fn handle(&self, request: Request) -> Result<Value, ApiError> {
        if !request.needs_leader() {
            return self.here(request).await;
        }
        let members_only = request == Request::Members;
        let result = self.at_leader(request).await;
        match result {
            // Who the members are is known everywhere, and never asked for more urgently than when nobody leads.
            Err(_) if members_only => Ok(to_value(self.members_here(false).await)),
            result => result,
        }
    }

    async fn at_leader(&self, request: Request) -> Result<Value, ApiError> {
        let mut last = ApiError::no_leader();
        let patience = if request == Request::Members { LEADER_POLL } else { LEADER_PATIENCE };
        for _ in 0..ATTEMPTS {
            let leader = self.find_leader(patience).await?;
            let result = match leader {
                None => self.here(request.clone()).await,
                Some(leader) => {
                    let patience = if request == Request::Check { CHECK_PATIENCE } else { CHANGE_PATIENCE };
                    self.ask(leader, &request, patience).await
                }
            };
            match result {
                // Both say that nothing was done.
                Err(error) if matches!(error.code.as_str(), "not_leader" | "unreachable") => {
                    last = error;
                    tokio::time::sleep(LEADER_POLL).await;
                }
                result => return result,
            }
        }
        Err(last)
    }

    /// The leader to ask; `None` when this member leads.
    async fn find_leader(&self, patience: Duration) -> Result<Option<MemberId>, ApiError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let status = self.backend.status().await;
            if status.role == Role::Leader {
                return Ok(None);
            }
            if let Some(leader) = status.leader.filter(|leader| *leader != status.id) {
                return Ok(Some(leader));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ApiError::no_leader());
            }
            tokio::time::sleep(LEADER_POLL).await;
        }
    }

    /// Asks one other member, which answers by itself.
    pub(super) async fn ask(&self, to: MemberId, request: &Request, patience: Duration) -> Result<Value, ApiError> {
        let body = Bytes::from(serde_json::to_vec(request).map_err(internal)?);
        let answer = self.backend.call(to, body, patience).await?;
        match serde_json::from_slice(&answer).map_err(internal)? {
            Answer::Ok(value) => Ok(value),
            Answer::Err(error) => Err(error),
        }
    }

    /// Answers a peer. Never asks another member to do it.
    pub async fn handle_peer(&self, body: &[u8]) -> Bytes {
        let result = match serde_json::from_slice::<Request>(body) {
            Ok(request) => self.here(request).await,
            Err(error) => Err(ApiError::bad_request(
                format!("a peer asked for something unknown: {error}"),
                "the members may run versions that are too far apart",
            )),
        };
        let answer = match result {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Err(error),
        };
        Bytes::from(serde_json::to_vec(&answer).unwrap_or_default())
    }

    async fn here(&self, request: Request) -> Result<Value, ApiError> {
        match request {
            Request::Status => Ok(to_value(self.status().await)),
            Request::Members => {
                let status = self.backend.status().await;
                if status.role != Role::Leader {
                    return Err(ApiError::not_leader());
                }
                Ok(to_value(self.members_here(true).await))
            }
            Request::Add(add) => Ok(to_value(self.add(add).await?)),
            Request::Promote { id } => {
                self.backend.promote(id).await?;
                tracing::info!(member = id, "promotion asked for");
                Ok(json!({ "id": id }))
            }
            Request::Remove { id } => self.remove(id).await,
            Request::Transfer(to) => {
                let leader = self.backend.transfer(to.to).await?;
                tracing::info!(leader, "leadership handed over on request");
                Ok(json!({ "leader": leader }))
            }
            Request::Snapshot => {
                let index = self.backend.checkpoint().await?;
                Ok(json!({ "id": self.backend.status().await.id, "index": index }))
            }
            Request::Check => Ok(to_value(CheckView::from(self.backend.check().await?))),
            Request::Barrier => {
                self.backend.barrier().await?;
                Ok(Value::Null)
            }
        }
    }

    /// This member.
    pub async fn status(&self) -> StatusView {
        let status = self.backend.status().await;
        let local = self.backend.local();
        let addresses = local.addresses();
        StatusView {
            id: status.id,
            group: local.group(),
            role: status.role.as_str().to_owned(),
            leader: status.leader,
            term: status.term,
            applied: status.applied.unwrap_or(0),
            committed: status.committed.unwrap_or(0),
            last_log: status.last_log.unwrap_or(0),
            snapshot: status.checkpoint.unwrap_or(0),
            purged: status.purged.unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            client: addresses.client,
            peer: addresses.peer,
            admin: addresses.admin,
            uptime_seconds: local.started().elapsed().as_secs(),
            pid: std::process::id(),
            keys: local.keys(),
            failed: status.failed.or_else(|| local.disk_failure()),
        }
    }

    /// All members as this one sees them; with `ask`, each is asked what it has applied.
    async fn members_here(&self, ask: bool) -> MembersView {
        let status = self.backend.status().await;
        let applied = if ask { self.ask_applied(&status).await } else { BTreeMap::new() };
        let members = status.members.iter().map(|m| member_view(m, &status, applied.get(&m.id).copied())).collect();
        MembersView {
            members,
            leader: status.leader,
            term: status.term,
            group: self.backend.local().group(),
            // Its own removal is the last that it has heard of, and was not committed then as far as it knows.
            changing: status.membership_changing && !status.removed,
            removed: status.removed,
        }
    }

    async fn ask_applied(&self, status: &GroupStatus) -> BTreeMap<MemberId, u64> {
        let asked = status.members.iter().filter(|m| m.id != status.id && m.healthy != Some(false)).map(async |m| {
            let answer = self.ask(m.id, &Request::Status, STATUS_PATIENCE).await.ok()?;
            Some((m.id, answer.get("applied")?.as_u64()?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn add(&self, add: AddMember) -> Result<AddedView, ApiError> {
        for (what, address) in [("peer", &add.peer), ("client", &add.client), ("admin", &add.admin)] {
            check_address(what, address)?;
        }
        let _one_at_a_time = self.adding.lock().await;
        let status = self.backend.status().await;
        if status.role != Role::Leader {
            return Err(ApiError::not_leader());
        }
        if let Some(known) = status.members.iter().find(|m| m.member.peer == add.peer) {
            return self.known_address(known, &status, &add);
        }
        let voter = add.role == WantedRole::Voter;
        let member =
            Member { peer: add.peer, client: add.client, admin: add.admin, wants_vote: voter, ..Member::default() };
        let joined = self.backend.add_member(member, voter).await?;
        // That it was added every member tells.
        tracing::debug!(member = joined.id, voter, "a member was taken in");
        Ok(AddedView {
            id: joined.id,
            group: joined.cluster.to_string(),
            incarnation: joined.incarnation.to_string(),
            members: joined.members.iter().map(|(id, m)| address_view(*id, m)).collect(),
        })
    }

    /// Somebody with a known address asks to be taken in. If that member has never been heard, its answer was lost on
    /// the way, and it gets the same one again. Otherwise it has lost its disk, and with it what it had promised.
    fn known_address(
        &self,
        known: &MemberStatus,
        status: &GroupStatus,
        add: &AddMember,
    ) -> Result<AddedView, ApiError> {
        let never_heard = !known.voter && known.matched.unwrap_or(0) == 0 && known.id != status.id;
        let wants_the_same = known.member.wants_vote == (add.role == WantedRole::Voter);
        if never_heard && wants_the_same && known.member.client == add.client && known.member.admin == add.admin {
            return Ok(AddedView {
                id: known.id,
                group: self.backend.local().group(),
                incarnation: known.member.incarnation.to_string(),
                members: status.members.iter().map(|m| address_view(m.id, &m.member)).collect(),
            });
        }
        Err(ApiError::new(
            409,
            "address_in_use",
            format!("member {} already has the peer address {}", known.id, add.peer),
            format!(
                "if its disk is lost, remove it first (quorate member remove {}) and join again: it gets a new id",
                known.id
            ),
        ))
    }

    async fn remove(&self, id: MemberId) -> Result<Value, ApiError> {
        let status = self.backend.status().await;
        if status.role != Role::Leader {
            return Err(ApiError::not_leader());
        }
        removal_keeps_quorum(&status, id)?;
        self.backend.remove(id).await?;
        tracing::debug!(member = id, "a member was removed on request");
        Ok(json!({ "id": id }))
    }

    /// The Prometheus page.
    pub async fn metrics(&self) -> String {
        let mut page = Page::new();
        self.backend.local().metrics(&mut page);
        super::health::group_metrics(&mut page, &self.backend.status().await);
        page.finish()
    }
}

/// What goes out to peers as a service.
pub struct PeerFace(pub Arc<AdminService>);

impl Service for PeerFace {
    fn call(&self, _from: MemberId, body: Bytes) -> quorate_raft::BoxFuture<quorate_raft::Pieces> {
        let service = self.0.clone();
        Box::pin(async move { vec![service.handle_peer(&body).await] })
    }
}

fn member_view(member: &MemberStatus, status: &GroupStatus, asked: Option<u64>) -> MemberView {
    let here = member.id == status.id;
    let leads = status.role == Role::Leader;
    let lag = if here && leads { Some(0) } else { member.lag };
    let health = match member.healthy {
        _ if member.trouble == Some(Trouble::LostData) => "lost data",
        healthy if member.trouble == Some(Trouble::NoRoom) && (here || healthy != Some(false)) => "disk full",
        _ if here && status.removed => "removed",
        _ if here => "ok",
        Some(false) => "unreachable",
        Some(true) if member.snapshot.is_some() || lag.is_some_and(|lag| lag > LAGGING_ENTRIES) => "lagging",
        Some(true) => "ok",
        None => "unknown",
    };
    MemberView {
        id: member.id,
        role: member.role.as_str().to_owned(),
        voter: member.voter && !(here && status.removed),
        peer: member.member.peer.clone(),
        client: member.member.client.clone(),
        admin: member.member.admin.clone(),
        applied: if here { Some(status.applied.unwrap_or(0)) } else { asked },
        matched: if here && leads { status.last_log } else { member.matched },
        lag,
        health: health.to_owned(),
        progress: member.snapshot.map(|s| ProgressView {
            bytes: s.bytes_sent,
            total: (s.bytes_sent * s.chunks_total).checked_div(s.chunks_done).unwrap_or(0).max(s.bytes_sent),
        }),
    }
}

fn address_view(id: MemberId, member: &Member) -> AddressView {
    AddressView { id, peer: member.peer.clone(), client: member.client.clone(), admin: member.admin.clone() }
}

/// Refuses what would leave a group that can't decide anything any more.
fn removal_keeps_quorum(status: &GroupStatus, id: MemberId) -> Result<(), ApiError> {
    let Some(member) = status.members.iter().find(|m| m.id == id) else {
        return Err(quorate_raft::ChangeError::NoSuchMember(id).into());
    };
    if !member.voter {
        return Ok(());
    }
    let rest: Vec<&MemberStatus> = status.members.iter().filter(|m| m.voter && m.id != id).collect();
    if rest.is_empty() {
        return Err(ApiError::new(
            409,
            "would_lose_quorum",
            format!("member {id} is the only voter"),
            "add another voter first, or stop the process to end the group",
        ));
    }
    let alive = rest.iter().filter(|m| m.id == status.id || m.healthy != Some(false)).count();
    let needed = rest.len() / 2 + 1;
    if alive < needed {
        return Err(ApiError::new(
            409,
            "would_lose_quorum",
            format!("of the {} voters that would remain, {alive} can be reached and {needed} are needed", rest.len()),
            "bring the unreachable members back first, or remove one of them instead",
        ));
    }
    Ok(())
}

fn check_address(what: &str, address: &str) -> Result<(), ApiError> {
    let bad = |why: &str| {
        Err(ApiError::bad_request(
            format!("the {what} address {address:?} {why}"),
            "give host:port as the other members and the clients can reach it",
        ))
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return bad("has no port");
    };
    if port.parse::<u16>().map_or(true, |port| port == 0) {
        return bad("has no usable port");
    }
    if host.is_empty()
        || host.len() > 255
        || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]%".contains(&b))
    {
        return bad("has no usable host");
    }
    if matches!(host, "0.0.0.0" | "::" | "[::]") {
        return bad("says where to listen, not where to find it");
    }
    Ok(())
}

fn to_value<T: Serialize>(view: T) -> Value {
    serde_json::to_value(view).unwrap_or(Value::Null)
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(500, "internal", error.to_string(), "this is a bug, or the members' versions are too far apart")
}

#[cfg(test)]
#[path = "service_tests.rs"]
pub(crate) mod tests;
