//! Changes of the membership by a simulated operator: members come, get a vote, go, and are replaced when their disk is
//! lost. The operator asks the admin service of some machine over the network, as anybody would.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use quorate::admin::MemberView;
use quorate::admin::api::{MembersView, Request};
use tokio::time::sleep;

use crate::admin;
use crate::faults::ask;
use crate::machine::{ADMIN_PORT, Machine, PEER_PORT};
use crate::plan::Chance;
use crate::run::Run;
use crate::seen;
use crate::story::Kind;

const PATIENCE: Duration = Duration::from_secs(3);
const MOST_MACHINES: usize = 7;

/// One change: a member comes or goes, or the leader is asked to go.
pub fn change(run: &Arc<Run>, machine: &Arc<Machine>, chance: &mut Chance) {
    let machines = run.machines();
    let members = machines.iter().filter(|m| m.member_id().is_some()).count();
    match chance.below(5) {
        0 | 1 if machines.len() < MOST_MACHINES => {
            let new = run.add_machine();
            new.learner.store(chance.one_in(2), Relaxed);
            new.tell(Kind::Fault, "a new machine is to join");
            new.build();
        }
        2 => {
            let learners: Vec<_> = machines.iter().filter(|m| m.member_id().is_some() && !m.votes()).collect();
            let wanted = if learners.is_empty() { machine } else { chance.pick(&learners) };
            if let Some(id) = wanted.member_id() {
                ask(run, chance.pick(&machines), Request::Promote { id }, format!("member {id} is to get a vote"));
            }
        }
        // Whoever goes comes back under a new id, with an empty disk.
        _ if members > 2 => {
            if let Some(id) = machine.member_id() {
                tokio::spawn(renew(machine.clone(), id));
            }
        }
        _ => {}
    }
}

/// Whether the group survives that one of its disks is lost: none is being replaced, and so many vote that a majority
/// stays, by the newest word on the membership that is committed.
pub async fn can_spare_one(run: &Run) -> bool {
    let mut newest = None;
    for machine in run.machines() {
        if machine.ruined.load(Relaxed) {
            return false;
        }
        let Some(group) = machine.group().filter(|_| !machine.is_paused()) else { continue };
        let status = group.status().await;
        let voters = status.members.iter().filter(|member| member.voter).count();
        if !status.membership_changing {
            newest = newest.max(Some((status.committed, voters)));
        }
    }
    // Another one may have been lost while this was found out.
    newest.is_some_and(|(_, voters)| voters >= 3) && run.machines().iter().all(|machine| !machine.ruined.load(Relaxed))
}

/// A machine loses its disk and comes back with an empty one. One at a time: a group survives the loss of a minority.
pub async fn replace(run: &Arc<Run>, chance: &mut Chance) {
    if !can_spare_one(run).await {
        return;
    }
    let machines = run.machines();
    let machine = chance.pick(&machines).clone();
    machine.ruined.store(true, Relaxed);
    machine.kill(true);
    machine.empty_disk();
    machine.tell(Kind::Fault, "its disk is lost, it has an empty one");
    let after = chance.millis(100, 2000);
    tokio::spawn(async move {
        sleep(after).await;
        machine.start();
        tend(machine).await;
    });
}

/// Removes the member; once it is out its machine gets an empty disk and joins again.
async fn renew(machine: Arc<Machine>, id: u64) {
    if !can_spare_one(&machine.run).await || machine.tended.swap(true, Relaxed) {
        return;
    }
    // While it is out the group can't do without another one.
    machine.ruined.store(true, Relaxed);
    machine.tell(Kind::Fault, format!("member {id} is to be removed and to join again"));
    if remove(&machine, &|member| member.id == id).await {
        machine.kill(true);
        machine.empty_disk();
        machine.start();
        look_after(&machine).await;
    }
    machine.ruined.store(false, Relaxed);
    machine.tended.store(false, Relaxed);
}

/// True once the member is not in the group any more.
async fn remove(machine: &Arc<Machine>, which: &(dyn Fn(&MemberView) -> bool + Sync)) -> bool {
    let run = &machine.run;
    for attempt in 0..40 {
        let machines = run.machines();
        let asked = &machines[attempt % machines.len()];
        let Some(view) = members(run, asked.clone()).await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        let Some(member) = view.members.iter().find(|member| which(member)) else {
            // Only the leader's word counts: another member may not have heard yet.
            if view.leader.is_some() && asked.member_id() == view.leader && attempt > 0 {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let request = Request::Remove { id: member.id };
        let address = asked.address(ADMIN_PORT);
        let leads = view.leader == Some(member.id);
        let text = match on_operator(run, address, request).await {
            Ok(_) => {
                run.saw(if leads { seen::LEADERS_REMOVED } else { seen::REMOVED });
                return true;
            }
            Err(error) => error,
        };
        machine.tell(Kind::Raft, format!("member {} is not removed yet: {text}", member.id));
        sleep(Duration::from_millis(200)).await;
    }
    false
}

async fn members(run: &Run, asked: impl std::ops::Deref<Target = Machine>) -> Option<MembersView> {
    let value = on_operator(run, asked.address(ADMIN_PORT), Request::Members).await.ok()?;
    serde_json::from_value(value).ok()
}

async fn on_operator(run: &Run, address: String, request: Request) -> Result<serde_json::Value, String> {
    let task = run.operator().spawn(async move { admin::ask(&address, &request, PATIENCE).await });
    task.await.unwrap_or_else(|_| Err("the operator was interrupted".into()))
}

/// Sees to it that a machine serves until the run is over.
pub async fn supervise(machine: Arc<Machine>) {
    loop {
        tend(machine.clone()).await;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Looks after a machine until it serves as a member: starts what has ended, and replaces what can't come back.
pub async fn tend(machine: Arc<Machine>) {
    if machine.tended.swap(true, Relaxed) {
        return;
    }
    look_after(&machine).await;
    machine.tended.store(false, Relaxed);
}

/// It runs under an id that the group has removed, by the leader's own word. It may wait for ever then: nobody calls it.
async fn is_forgotten(machine: &Arc<Machine>) -> bool {
    let Some(id) = machine.member_id() else { return false };
    for asked in machine.run.machines().into_iter().filter(|other| other.number != machine.number) {
        let Some(view) = members(&machine.run, asked.clone()).await else { continue };
        if view.leader.is_some() && view.leader == asked.member_id() {
            return machine.member_id() == Some(id) && view.members.iter().all(|member| member.id != id);
        }
    }
    false
}

async fn look_after(machine: &Arc<Machine>) {
    let mut failures = 0;
    for round in 1..=300 {
        sleep(Duration::from_millis(100)).await;
        if machine.is_on() && machine.is_settled().await {
            machine.ruined.store(false, Relaxed);
            return;
        }
        if machine.is_on() {
            if round % 10 == 0 && is_forgotten(machine).await {
                machine
                    .tell(Kind::Fault, "it was removed before it had heard of anybody: the operator lets it join anew");
                machine.kill(true);
                machine.empty_disk();
                machine.start();
            }
            continue;
        }
        failures += 1;
        let hopeless = machine.failure().is_some_and(|why| machine.needs_replacement(&why));
        if hopeless && failures > 1 {
            machine.tell(Kind::Fault, "the operator replaces its disk");
            let peer = machine.address(PEER_PORT);
            // By its id from here on: what comes later at the same address is another member.
            let known = members(&machine.run, machine.other()).await;
            let id = known.and_then(|view| view.members.iter().find(|member| member.peer == peer).map(|m| m.id));
            if let Some(id) = id
                && remove(machine, &|member| member.id == id).await
            {
                // It may have been started meanwhile: no disk is taken out from under a process.
                machine.kill(true);
                machine.empty_disk();
            }
        }
        machine.start();
    }
}
