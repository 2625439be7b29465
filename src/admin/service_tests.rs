//! A group of fakes that call each other directly: who answers what, and how often it is passed on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use parking_lot::Mutex;
use quorate_keyspace::Keyspace;
use quorate_raft::{CallError, Capture, ChangeError, CheckReport, Held, HistogramSnapshot, Joined, ReadError};
use uuid::Uuid;

use super::super::backend::{BoxFuture, Local};
use super::*;
use crate::backup::Source;
use crate::engine::KeyspaceView;

/// What the fakes of one group share.
#[derive(Default)]
pub(crate) struct World {
    services: Mutex<BTreeMap<MemberId, Arc<AdminService>>>,
    leader: AtomicU64,
    members: Mutex<Vec<MemberStatus>>,
    calls: AtomicUsize,
    changes: Mutex<Vec<String>>,
}

pub(crate) struct Fake {
    id: MemberId,
    /// Whom this member believes to lead; 0: nobody; `u64::MAX`: who does.
    believes: AtomicU64,
    world: Arc<World>,
}

const TRUTH: u64 = u64::MAX;
pub(crate) const CLUSTER: Uuid = Uuid::from_u128(7);

pub(crate) fn member(id: MemberId, voter: bool) -> MemberStatus {
    MemberStatus {
        id,
        member: Member {
            peer: format!("127.0.0.1:{}", 17000 + id),
            client: format!("127.0.0.1:{}", 7000 + id),
            admin: format!("127.0.0.1:{}", 8000 + id),
            wants_vote: voter,
            incarnation: Uuid::from_u128(u128::from(id)),
        },
        voter,
        role: if voter { Role::Follower } else { Role::Learner },
        matched: Some(90),
        lag: Some(10),
        last_ack_age: Some(Duration::from_millis(3)),
        healthy: Some(true),
        snapshot: None,
        trouble: None,
    }
}

/// A group in which nothing happens, as its member of that id sees it.
pub(crate) fn quiet_status(id: MemberId) -> GroupStatus {
    GroupStatus {
        term: 3,
        last_log: Some(100),
        committed: Some(100),
        applied: Some(100),
        checkpoint: Some(40),
        purged: Some(30),
        log_bytes: 4096,
        commit_us: HistogramSnapshot { buckets: vec![1, 0, 2], count: 3, sum: 5 },
        ..GroupStatus::loading(id)
    }
}

pub(crate) fn group(voters: u64) -> (Arc<World>, Vec<Arc<AdminService>>) {
    let world = Arc::new(World::default());
    world.leader.store(1, SeqCst);
    *world.members.lock() = (1..=voters).map(|id| member(id, true)).collect();
    let services = (1..=voters).map(|id| join_world(&world, id, TRUTH)).collect();
    (world, services)
}

fn join_world(world: &Arc<World>, id: MemberId, believes: u64) -> Arc<AdminService> {
    let service = AdminService::new(Arc::new(Fake { id, believes: AtomicU64::new(believes), world: world.clone() }));
    world.services.lock().insert(id, service.clone());
    service
}

impl Fake {
    fn leads(&self) -> bool {
        self.world.leader.load(SeqCst) == self.id
    }

    fn change(&self, what: String) -> Result<(), ChangeError> {
        if !self.leads() {
            return Err(ChangeError::NotLeader { leader: None });
        }
        self.world.changes.lock().push(what);
        Ok(())
    }
}

impl Local for Fake {
    fn group(&self) -> String {
        CLUSTER.to_string()
    }
    fn addresses(&self) -> Member {
        member(self.id, true).member
    }
    fn now_ms(&self) -> u64 {
        1000
    }
    fn started(&self) -> Instant {
        Instant::now()
    }
    fn keys(&self) -> u64 {
        5
    }
    fn disk_failure(&self) -> Option<String> {
        None
    }
    fn metrics(&self, page: &mut Page) {
        page.gauge("quorate_clients", "Client connections open now.", 1.0);
    }
}

impl Backend for Fake {
    fn local(&self) -> &dyn Local {
        self
    }

    fn status(&self) -> BoxFuture<'_, GroupStatus> {
        let leader = match self.believes.load(SeqCst) {
            TRUTH => self.world.leader.load(SeqCst),
            belief => belief,
        };
        let mut members = self.world.members.lock().clone();
        for m in &mut members {
            if m.id == leader {
                m.role = Role::Leader;
            }
        }
        let role = if self.leads() { Role::Leader } else { Role::Follower };
        let status = GroupStatus {
            role,
            leader: (leader != 0).then_some(leader),
            applied: Some(100 - self.id),
            lease: self.leads(),
            members,
            ..quiet_status(self.id)
        };
        Box::pin(async move { status })
    }

    fn add_member(&self, new: Member, voter: bool) -> BoxFuture<'_, Result<Joined, ChangeError>> {
        Box::pin(async move {
            self.change(format!("add {}", new.peer))?;
            let mut members = self.world.members.lock();
            let id = members.iter().map(|m| m.id).max().unwrap_or(0) + 1;
            let incarnation = Uuid::from_u128(u128::from(id));
            let added = Member { incarnation, ..new };
            members.push(MemberStatus {
                member: added,
                voter: false,
                role: Role::Learner,
                matched: None,
                healthy: None,
                ..member(id, voter)
            });
            let all = members.iter().map(|m| (m.id, m.member.clone())).collect();
            Ok(Joined { id, cluster: CLUSTER, incarnation, members: all })
        })
    }

    fn promote(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move { self.change(format!("promote {id}")) })
    }

    fn remove(&self, id: MemberId) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move { self.change(format!("remove {id}")) })
    }

    fn transfer(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<MemberId, ChangeError>> {
        Box::pin(async move {
            self.change(format!("transfer {to:?}"))?;
            let to = to.unwrap_or(2);
            self.world.leader.store(to, SeqCst);
            Ok(to)
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<u64, ChangeError>> {
        Box::pin(async { Ok(100) })
    }

    fn check(&self) -> BoxFuture<'_, Result<CheckReport, ChangeError>> {
        Box::pin(async move {
            self.change("check".into())?;
            Ok(CheckReport { index: 100, members: vec![(1, Held::Same)], digest: "00".into() })
        })
    }

    fn backup(&self, after: Option<u64>) -> BoxFuture<'_, Result<Source, ChangeError>> {
        Box::pin(async move {
            if after.is_some_and(|after| after > 100) {
                return Err(ChangeError::Refused("not so far yet".into()));
            }
            let view = Arc::new(KeyspaceView(Keyspace::new(1, [1, 2]).view()));
            let state = Capture { index: 100, term: 3, leader: 1, view };
            Ok(Source::new(*CLUSTER.as_bytes(), self.id, self.now_ms(), state))
        })
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        let leads = self.leads();
        Box::pin(async move { if leads { Ok(()) } else { Err(ReadError::NotLeader { leader: None }) } })
    }

    fn call(&self, to: MemberId, body: Bytes, _patience: Duration) -> BoxFuture<'_, Result<Bytes, CallError>> {
        self.world.calls.fetch_add(1, SeqCst);
        let service = self.world.services.lock().get(&to).cloned();
        Box::pin(async move {
            let service = service.ok_or_else(|| CallError::NotSent("no such member".into()))?;
            Ok(service.handle_peer(&body).await)
        })
    }
}

fn add(port: u16) -> AddMember {
    let address = |offset: u16| format!("127.0.0.1:{}", port + offset);
    AddMember { peer: address(10_000), client: address(0), admin: address(1000), role: WantedRole::Voter }
}

async fn members(service: &AdminService) -> MembersView {
    serde_json::from_value(service.handle(Request::Members).await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_member_answers_what_the_leader_knows() {
    let (_world, services) = group(3);
    for service in &services {
        let view = members(service).await;
        assert_eq!((view.leader, view.term, view.group.as_str()), (Some(1), 3, CLUSTER.to_string().as_str()));
        let roles: Vec<&str> = view.members.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["leader", "follower", "follower"]);
        let applied: Vec<Option<u64>> = view.members.iter().map(|m| m.applied).collect();
        assert_eq!(applied, [Some(99), Some(98), Some(97)], "each was asked");
        assert_eq!(view.members[0].lag, Some(0));
        assert_eq!(view.members[1].lag, Some(10));
        assert!(view.members.iter().all(|m| m.health == "ok"));
    }
}

#[tokio::test]
async fn without_a_leader_the_members_are_still_told_and_changes_are_refused() {
    let (world, services) = group(3);
    world.leader.store(0, SeqCst);
    let view = members(&services[1]).await;
    assert_eq!((view.leader, view.members.len()), (None, 3));
    let error = services[1].handle(Request::Promote { id: 3 }).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (503, "no_leader"));
}

#[tokio::test]
async fn members_that_believe_each_other_to_lead_do_not_ask_in_circles() {
    let (world, _) = group(3);
    world.leader.store(3, SeqCst);
    world.services.lock().clear();
    let one = join_world(&world, 1, 2);
    join_world(&world, 2, 1);
    let error = one.handle(Request::Remove { id: 3 }).await.unwrap_err();
    assert_eq!(error.code, "not_leader");
    assert_eq!(world.calls.load(SeqCst), ATTEMPTS, "one hop each");
    assert!(world.changes.lock().is_empty());
}

#[tokio::test]
async fn a_member_is_taken_in_once_however_often_it_asks() {
    let (world, services) = group(3);
    let ask = async |at: usize, add: AddMember| services[at].handle(Request::Add(add)).await;
    let first: AddedView = serde_json::from_value(ask(1, add(7004)).await.unwrap()).unwrap();
    assert_eq!((first.id, first.members.len()), (4, 4));
    let again: AddedView = serde_json::from_value(ask(2, add(7004)).await.unwrap()).unwrap();
    assert_eq!(again, first);
    assert_eq!(world.changes.lock().len(), 1);

    // Once it has been heard, the same address can only be a member that lost its disk.
    world.members.lock()[3].matched = Some(50);
    let error = ask(0, add(7004)).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (409, "address_in_use"));
    assert!(error.hint.contains("member remove 4"), "{}", error.hint);
    let error = ask(0, add(7001)).await.unwrap_err();
    assert_eq!(error.code, "address_in_use");
}

#[tokio::test]
async fn addresses_that_nobody_could_reach_are_refused() {
    let (world, services) = group(1);
    for bad in
        ["", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", ":7000", "0.0.0.0:7000", "[::]:7000", "a b:7000", "a\r\n:1"]
    {
        let add = AddMember { peer: bad.to_owned(), ..add(7004) };
        assert_eq!(services[0].handle(Request::Add(add)).await.unwrap_err().code, "bad_request", "{bad:?}");
    }
    assert!(world.changes.lock().is_empty());
    let add = AddMember { peer: "[::1]:17004".to_owned(), ..add(7004) };
    services[0].handle(Request::Add(add)).await.unwrap();
}

#[tokio::test]
async fn a_removal_that_would_cost_the_quorum_is_refused_with_the_reason() {
    let (world, services) = group(3);
    world.members.lock()[2].healthy = Some(false);
    let error = services[1].handle(Request::Remove { id: 2 }).await.unwrap_err();
    assert_eq!(error.code, "would_lose_quorum");
    assert!(
        error.message.contains("2 voters that would remain, 1 can be reached and 2 are needed"),
        "{}",
        error.message
    );
    services[1].handle(Request::Remove { id: 3 }).await.unwrap();
    assert_eq!(*world.changes.lock(), ["remove 3"]);

    let (_world, services) = group(1);
    assert_eq!(services[0].handle(Request::Remove { id: 1 }).await.unwrap_err().code, "would_lose_quorum");
    assert_eq!(services[0].handle(Request::Remove { id: 9 }).await.unwrap_err().status, 404);
}

#[tokio::test]
async fn leadership_moves_on_request_and_the_next_request_finds_the_new_leader() {
    let (world, services) = group(3);
    let to = services[2].handle(Request::Transfer(super::super::api::TransferTo { to: Some(2) })).await.unwrap();
    assert_eq!(to, json!({"leader": 2}));
    services[2].handle(Request::Promote { id: 3 }).await.unwrap();
    assert_eq!(*world.changes.lock(), ["transfer Some(2)", "promote 3"]);
}

#[tokio::test]
async fn readiness_follows_the_leader_and_an_orderly_stop() {
    let (world, services) = group(3);
    for service in &services {
        let report = service.readyz(true, &[]).await;
        assert!(report.healthy, "{}", report.text);
        assert!(report.text.contains("[+]read ok\n"));
    }
    services[1].set_stopping();
    assert!(!services[1].readyz(false, &[]).await.healthy);
    assert!(services[1].livez(false, &[]).await.healthy);
    world.leader.store(0, SeqCst);
    let report = services[2].readyz(true, &[]).await;
    assert!(report.text.contains("[-]leader failed: no leader is known\n"), "{}", report.text);
    let excluded = ["leader".to_owned(), "read".to_owned()];
    assert!(services[2].readyz(true, &excluded).await.healthy);
}

#[tokio::test]
async fn garbage_from_a_peer_is_answered_not_obeyed() {
    let (world, services) = group(1);
    for garbage in [&b""[..], b"{}", b"{\"op\":\"explode\"}", &[0xff; 100]] {
        let answer: Answer = serde_json::from_slice(&services[0].handle_peer(garbage).await).unwrap();
        assert!(matches!(answer, Answer::Err(error) if error.code == "bad_request"));
    }
    assert!(world.changes.lock().is_empty());
}

#[tokio::test]
async fn the_metrics_page_has_the_group_and_its_peers() {
    let (_world, services) = group(2);
    let page = services[0].metrics().await;
    for line in [
        "quorate_raft_is_leader 1",
        "quorate_raft_peer_lag_entries{peer=\"2\"} 10",
        "quorate_raft_commit_seconds_bucket{le=\"0\"} 1",
        "quorate_raft_commit_seconds_bucket{le=\"0.000003\"} 3",
        "quorate_raft_commit_seconds_count 3",
        "quorate_clients 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[test]
fn what_is_wrong_with_a_member_is_its_health() {
    let status = GroupStatus { role: Role::Leader, ..quiet_status(1) };
    let health = |id, trouble, healthy| {
        member_view(&MemberStatus { trouble, healthy, lag: Some(0), ..member(id, true) }, &status, None).health
    };
    assert_eq!(health(2, Some(Trouble::LostData), Some(false)), "lost data");
    assert_eq!(health(2, Some(Trouble::NoRoom), Some(true)), "disk full");
    assert_eq!(health(2, Some(Trouble::NoRoom), Some(false)), "unreachable");
    assert_eq!(health(2, None, Some(true)), "ok");
    assert_eq!(health(1, Some(Trouble::NoRoom), Some(true)), "disk full");
    assert_eq!(health(1, None, Some(true)), "ok");
}
