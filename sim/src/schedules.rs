//! Faults of several steps, each for a moment that chance alone would seldom meet.

use std::sync::Arc;
use std::time::Duration;

use quorate::admin::api::{Request, TransferTo};
use tokio::time::sleep;

use crate::faults::{ask, set_links, start_after, tell};
use crate::machine::Machine;
use crate::plan::Chance;
use crate::run::{May, Run};
use crate::story::{Harm, Kind};

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

/// Has that machine ask for votes again and again until one of them leads, not for ever.
async fn asks_until_led(
    run: &Run,
    asks: &Machine,
    machines: &[Arc<Machine>],
    patience: Duration,
) -> Option<Arc<Machine>> {
    // Asked anew before the answers are there, it would begin anew.
    let round = run.plan.latency().1 * 4 + Duration::from_micros(2 * run.plan.tuning.sync_us + 1000);
    let until = run.story.now() + patience;
    while run.story.now() < until {
        if let Some(group) = asks.group() {
            group.ask_for_votes().await;
        }
        if let Some(leader) = somebody_leads(machines, round).await {
            return Some(leader);
        }
    }
    None
}

/// The leader gets lonely just when another one may ask for votes: because it has not heard of the leader for long, or
/// because its waiting time behind a restart ends. Those whose votes it needs have heard the leader last, and have
/// promised to vote for nobody else; perhaps they restart and have to remember that. Nothing is written meanwhile, so
/// that only the promise stands in the way, and whoever could not be answered does not ask; as soon as there is another
/// leader clients write there, and read from the old one.
pub async fn lease_end(run: &Arc<Run>, chance: &mut Chance) {
    let Some((leader, mut others)) = leader_and_others(run, chance) else { return };
    // Those whose clocks go fastest are the first to forget what they promised: they are the ones who are asked.
    others.sort_by_key(|machine| run.plan.clock_rate(machine.number));
    let (asks, lease) = (&others[0], run.plan.lease());
    let lonely = links_of(run, &leader);
    let what = chance.below(3);
    tell(run, format!("machine {} will ask for votes when machine {} is cut off ({what})", asks.number, leader.number));
    run.restrain(leader.number, May::Read, May::Nothing);
    sleep(part_of(lease, chance, 15, 30)).await;
    let apart = [(leader.number, asks.number), (asks.number, leader.number)];
    set_links(run, &apart, true);
    if what == 1 {
        asks.kill(false);
        start_after(asks, chance.millis(1, 3));
        sleep(part_of(lease, chance, 0, 12)).await;
    } else {
        sleep(part_of(lease, chance, 110, 140)).await;
    }
    set_links(run, &lonely, true);
    if what == 2 {
        for machine in &others[1..] {
            machine.kill(false);
            start_after(machine, chance.millis(AT_ONCE.0, AT_ONCE.1));
        }
    }
    let patience = part_of(lease, chance, 120, 200);
    let led = match what {
        1 => somebody_leads(&others, patience).await,
        _ => asks_until_led(run, asks, &others, patience).await,
    };
    if let Some(next) = led {
        tell(run, format!("machine {} leads while machine {} is cut off", next.number, leader.number));
        run.restrain(leader.number, May::Read, May::All);
        sleep(part_of(lease, chance, 50, 100)).await;
    }
    run.release();
    set_links(run, &lonely, false);
    tell(run, format!("machine {} is not cut off any more", leader.number));
}

/// The leader stands still until another one leads and was written to. Then reads come to its door, and it goes on: it
/// must look at its lease before it answers them, however lately it did before.
pub async fn sleep_through_election(run: &Arc<Run>, chance: &mut Chance) {
    let Some((leader, others)) = leader_and_others(run, chance) else { return };
    run.restrain(leader.number, May::Nothing, May::Nothing);
    sleep(part_of(run.plan.lease(), chance, 15, 30)).await;
    let longest = run.plan.lease() * 6;
    if !leader.pause() {
        return run.release();
    }
    leader.tell(Kind::Fault, "stands still until another one leads");
    leader.mark_harm(Harm::Pause, longest, "stands still");
    if let Some(next) = somebody_leads(&others, run.plan.lease() * 5).await {
        run.restrain(leader.number, May::Nothing, May::All);
        tell(run, format!("machine {} leads while machine {} stands still", next.number, leader.number));
        sleep(part_of(run.plan.lease(), chance, 15, 40)).await;
        run.restrain(leader.number, May::Read, May::All);
        sleep(part_of(run.plan.lease(), chance, 5, 40)).await;
    }
    if leader.resume() {
        leader.tell(Kind::Fault, "goes on");
    }
    run.release();
}

/// Leadership is handed over, and the old leader hears nothing from then on: it can't know that there is a new one.
pub async fn deaf_transfer(run: &Arc<Run>, chance: &mut Chance) {
    let Some((leader, others)) = leader_and_others(run, chance) else { return };
    let to = others[0].member_id();
    run.restrain(leader.number, May::Read, May::All);
    ask(run, &leader, Request::Transfer(TransferTo { to }), format!("leadership is to go to {to:?}"));
    sleep(chance.millis(2, 30 + 6 * run.plan.latency_ms.1)).await;
    let deaf: Vec<_> = links_of(run, &leader).into_iter().filter(|(_, to)| *to == leader.number).collect();
    tell(run, format!("machine {} hears nothing", leader.number));
    set_links(run, &deaf, true);
    sleep(part_of(run.plan.lease(), chance, 80, 150)).await;
    run.release();
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
