//! Faults of several steps, each for a moment that chance alone would seldom meet.

use std::sync::Arc;
use std::time::Duration;

use quorate::admin::api::{Request, TransferTo};
use tokio::time::sleep;

use crate::faults::{ask, set_links, start_after, tell};
use crate::machine::Machine;
use crate::plan::Chance;
use crate::run::{OnlyReads, Run};

/// A restart that takes no longer than a supervisor needs.
const AT_ONCE: (u64, u64) = (1, 15);
/// How often a schedule looks who leads.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Who leads, and the others that run; at least two of these.
fn leader_and_others(run: &Run, chance: &mut Chance) -> Option<(Arc<Machine>, Vec<Arc<Machine>>)> {
    let machines = run.machines();
    let leader = machines.iter().find(|machine| machine.group().is_some_and(|group| group.is_leader()))?.clone();
    let mut others: Vec<_> = machines.into_iter().filter(|m| m.number != leader.number && m.is_on()).collect();
    if others.len() < 2 {
        return None;
    }
    let first = chance.below(others.len() as u64) as usize;
    others.rotate_left(first);
    Some((leader, others))
}

/// All links of that machine, in both directions.
fn links_of(run: &Run, machine: &Machine) -> Vec<(usize, usize)> {
    let others = run.machines().into_iter().map(|other| other.number).filter(|other| *other != machine.number);
    others.flat_map(|other| [(machine.number, other), (other, machine.number)]).collect()
}

fn part_of(time: Duration, chance: &mut Chance, from_percent: u64, to_percent: u64) -> Duration {
    time * chance.between(from_percent, to_percent) as u32 / 100
}

/// Waits until one of them leads, not for ever.
async fn somebody_leads(machines: &[Arc<Machine>], patience: Duration) -> Option<Arc<Machine>> {
    let leads = |machine: &&Arc<Machine>| machine.group().is_some_and(|group| group.is_leader());
    for _ in 0..patience.as_micros() / LOOK_EVERY.as_micros() {
        if let Some(leader) = machines.iter().find(leads) {
            return Some(leader.clone());
        }
        sleep(LOOK_EVERY).await;
    }
    None
}

/// The leader gets lonely just when another one may ask for votes: because it has not heard of the leader for long, or
/// because its waiting time behind a restart ends. Those whose votes it needs have heard the leader last, and have
/// promised to vote for nobody else; perhaps they restart and have to remember that. Nothing is written meanwhile, so
/// that only the promise stands in the way; as soon as there is another leader clients write again.
pub async fn lease_end(run: &Arc<Run>, chance: &mut Chance) {
    let Some((leader, others)) = leader_and_others(run, chance) else { return };
    let (asks, lease) = (&others[0], run.plan.lease());
    let lonely = links_of(run, &leader);
    let what = chance.below(3);
    tell(run, format!("machine {} will ask for votes when machine {} is cut off ({what})", asks.number, leader.number));
    run.set_only_reads(OnlyReads::All);
    sleep(part_of(lease, chance, 15, 30)).await;
    let apart = [(leader.number, asks.number), (asks.number, leader.number)];
    set_links(run, &apart, true);
    if what == 1 {
        asks.kill(false);
        start_after(asks, chance.millis(1, 3));
        sleep(part_of(lease, chance, 0, 12)).await;
    } else {
        sleep(part_of(lease, chance, 110, 200)).await;
    }
    set_links(run, &lonely, true);
    if what == 2 {
        for machine in &others[1..] {
            machine.kill(false);
            start_after(machine, chance.millis(AT_ONCE.0, AT_ONCE.1));
        }
    }
    let led = somebody_leads(&others, part_of(lease, chance, 120, 200)).await;
    if led.is_some() {
        run.set_only_reads(OnlyReads::At(leader.number));
        sleep(part_of(lease, chance, 50, 100)).await;
    }
    run.set_only_reads(OnlyReads::Nobody);
    set_links(run, &lonely, false);
    tell(run, format!("machine {} is not cut off any more", leader.number));
}

/// Leadership is handed over, and the old leader hears nothing from then on: it can't know that there is a new one.
pub async fn deaf_transfer(run: &Arc<Run>, chance: &mut Chance) {
    let Some((leader, others)) = leader_and_others(run, chance) else { return };
    let to = others[0].member_id();
    run.set_only_reads(OnlyReads::At(leader.number));
    ask(run, &leader, Request::Transfer(TransferTo { to }), format!("leadership is to go to {to:?}"));
    sleep(chance.millis(2, 30 + 6 * run.plan.latency_ms.1)).await;
    let deaf: Vec<_> = links_of(run, &leader).into_iter().filter(|(_, to)| *to == leader.number).collect();
    tell(run, format!("machine {} hears nothing", leader.number));
    set_links(run, &deaf, true);
    sleep(part_of(run.plan.lease(), chance, 80, 150)).await;
    run.set_only_reads(OnlyReads::Nobody);
    set_links(run, &deaf, false);
    tell(run, format!("machine {} hears again", leader.number));
}

/// Somebody is elected, and at this moment those who voted for it restart. Then they hear the old leader only, which does
/// not know of the election, and have to remember that they are not his any more.
pub async fn turncoats(run: &Arc<Run>, chance: &mut Chance) {
    let Some((old, others)) = leader_and_others(run, chance) else { return };
    let lonely = links_of(run, &old);
    tell(run, format!("machine {} is cut off until another one leads, whose voters then restart", old.number));
    set_links(run, &lonely, true);
    let new = somebody_leads(&others, run.plan.lease() * 4).await;
    let Some(new) = new else { return set_links(run, &lonely, false) };
    let voters = others.iter().filter(|machine| machine.number != new.number);
    for machine in voters {
        machine.kill(chance.one_in(2));
        start_after(machine, chance.millis(AT_ONCE.0, AT_ONCE.1));
    }
    let away = links_of(run, &new);
    set_links(run, &lonely, false);
    set_links(run, &away, true);
    tell(run, format!("machine {} leads, and is cut off instead", new.number));
    sleep(part_of(run.plan.lease(), chance, 20, 100)).await;
    set_links(run, &away, false);
    tell(run, format!("machine {} is not cut off any more", new.number));
}
