//! The nemesis: does to machines and network what the plan's faults say, at times that the seed says, and takes all of
//! it back in the end.
//!
//! It never harms more than the group has to survive: at most a minority of the disks is lost or damaged, and what an
//! operator would have to do about such a machine is done by the healing at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use madsim::net::NetSim;
use madsim::task::NodeId;
use quorate::admin::api::{Request, TransferTo};
use tokio::time::sleep;

use crate::admin;
use crate::disk_faults;
use crate::machine::{ADMIN_PORT, Machine};
use crate::plan::{Chance, Fault};
use crate::run::{CLIENTS, Run};
use crate::schedules;
use crate::story::{Harm, Kind, Lane};

/// How long the nemesis waits for an answer of the admin service.
const PATIENCE: Duration = Duration::from_secs(3);

pub async fn nemesis(run: Arc<Run>) {
    let mut chance = Chance::new(run.plan.seed.rotate_left(32) ^ 0x006e_656d_6573_6973);
    if run.plan.faults.is_empty() {
        return;
    }
    loop {
        let mean = run.plan.fault_every.as_micros() as u64;
        sleep(Duration::from_micros(chance.between(mean / 2, mean * 3 / 2))).await;
        let fault = *chance.pick(&run.plan.faults);
        strike(&run, fault, &mut chance).await;
    }
}

pub fn tell(run: &Run, text: impl Into<String>) {
    run.story.tell(Lane::Run, Kind::Fault, text);
}

/// The machine that leads, as far as anybody can see; else any.
fn leader_or_any(run: &Run, chance: &mut Chance) -> Arc<Machine> {
    let machines = run.machines();
    let leader = machines.iter().find(|machine| machine.group().is_some_and(|group| group.is_leader()));
    match leader {
        Some(leader) if chance.one_in(2) => leader.clone(),
        _ => chance.pick(&machines).clone(),
    }
}

async fn strike(run: &Arc<Run>, fault: Fault, chance: &mut Chance) {
    let machine = leader_or_any(run, chance);
    run.saw(&format!("{fault:?}"));
    match fault {
        Fault::Partition => partition(run, chance),
        Fault::Loss => slow_network(run, chance),
        Fault::Kill => down_for_a_while(&machine, chance),
        Fault::PowerCut => disk_faults::power_cut(vec![machine], chance),
        Fault::KillSome => {
            let all = chance.one_in(3);
            let some: Vec<_> = run.machines().into_iter().filter(|_| all || chance.one_in(2)).collect();
            let (without_power, killed) = some.into_iter().partition(|_| chance.one_in(2));
            disk_faults::power_cut(without_power, chance);
            killed.iter().for_each(|machine: &Arc<Machine>| down_for_a_while(machine, chance));
        }
        Fault::Pause => pause(&machine, chance),
        Fault::Clock => clock(&machine, chance),
        Fault::Transfer => transfer(run, &machine, chance),
        Fault::OrderlyStop => orderly_stop(machine, chance),
        Fault::SlowDisk => disk_faults::slow(&machine, chance),
        Fault::Membership => crate::membership::change(run, &machine, chance),
        Fault::EmptyDisk => crate::membership::replace(run, chance).await,
        Fault::DiskTrouble => disk_faults::trouble(run, &machine, chance).await,
        Fault::Rolling => rolling(run, chance),
        Fault::Blackout => {
            tell(run, "the power goes everywhere");
            disk_faults::power_cut(run.machines(), chance);
        }
        // It lasts as long as the run.
        Fault::Drift => {}
        Fault::LeaseEnd => schedules::lease_end(run, chance).await,
        Fault::Sleep => schedules::sleep_through_election(run, chance).await,
        Fault::Turncoats => schedules::turncoats(run, chance).await,
        Fault::DeafTransfer => schedules::deaf_transfer(run, chance).await,
    }
}

fn down_for_a_while(machine: &Arc<Machine>, chance: &mut Chance) {
    machine.kill(false);
    start_after(machine, chance.millis(20, 2500));
}

pub fn start_after(machine: &Arc<Machine>, after: Duration) {
    let machine = machine.clone();
    tokio::spawn(async move {
        sleep(after).await;
        machine.start();
    });
}

fn pause(machine: &Arc<Machine>, chance: &mut Chance) {
    let time = if chance.one_in(4) { chance.millis(1000, 4000) } else { chance.millis(50, 1000) };
    if machine.pause() {
        machine.tell(Kind::Fault, format!("stands still for {time:?}"));
        machine.mark_harm(Harm::Pause, time, "stands still");
        let machine = machine.clone();
        tokio::spawn(async move {
            sleep(time).await;
            if machine.resume() {
                machine.tell(Kind::Fault, "goes on");
            }
        });
    }
}

/// The wall clock jumps, forward or back, by milliseconds or by hours.
fn clock(machine: &Machine, chance: &mut Chance) {
    let far = *chance.pick(&[5_000u64, 200_000, 3_000_000, 3_600_000_000]);
    let by = chance.between(0, 2 * far) as i64 - far as i64;
    let skew = if chance.one_in(4) { 0 } else { by };
    machine.skew_us.store(skew, Relaxed);
    machine.tell(Kind::Fault, format!("its clock is {:.3} s off now", skew as f64 / 1e6));
    machine.mark_harm(Harm::Clock, Duration::MAX, format!("clock {:+.3} s", skew as f64 / 1e6));
}

fn transfer(run: &Run, machine: &Arc<Machine>, chance: &mut Chance) {
    let to = chance.pick(&run.machines()).member_id().filter(|_| chance.one_in(2));
    ask(run, machine, Request::Transfer(TransferTo { to }), format!("leadership is to go to {to:?}"));
}

/// Sends a request to the admin service of that machine, and tells what it answered.
pub fn ask(run: &Run, machine: &Arc<Machine>, request: Request, text: String) {
    tell(run, text.clone());
    let (story, address, node) = (run.story.clone(), machine.address(ADMIN_PORT), run.operator());
    let number = machine.number;
    node.spawn(async move {
        let answer = match admin::ask(&address, &request, PATIENCE).await {
            Ok(_) => "done".to_owned(),
            Err(error) => error,
        };
        story.tell(Lane::Run, Kind::Raft, format!("{text}: machine {number} answered: {answer}"));
    });
}

fn orderly_stop(machine: Arc<Machine>, chance: &mut Chance) {
    if !machine.is_on() {
        return;
    }
    let after = chance.millis(20, 1500);
    tokio::spawn(async move {
        stop_in_order(&machine).await;
        sleep(after).await;
        machine.start();
    });
}

async fn stop_in_order(machine: &Machine) {
    machine.tell(Kind::Fault, "is told to stop in good order");
    machine.ask_to_stop();
    let limit = machine.run.story.now() + Duration::from_secs(4);
    while machine.is_on() && machine.run.story.now() < limit {
        sleep(Duration::from_millis(10)).await;
    }
    // Whoever waits too long is killed, as by a supervisor.
    if !machine.run.is_healed() {
        machine.kill(false);
    }
}

/// One machine after the other starts again, each when the one before it is a member again, or after some time.
fn rolling(run: &Run, chance: &mut Chance) {
    tell(run, "all machines are to start again, one after the other");
    let order: Vec<_> =
        run.machines().into_iter().map(|machine| (machine, chance.one_in(2), chance.millis(10, 400))).collect();
    tokio::spawn(async move {
        for (machine, in_order, after) in order {
            if machine.run.is_healed() {
                return;
            }
            if in_order && machine.is_on() {
                stop_in_order(&machine).await;
            } else {
                machine.kill(false);
            }
            sleep(after).await;
            machine.start();
            for _ in 0..60 {
                sleep(Duration::from_millis(50)).await;
                if machine.run.is_healed() || machine.is_settled().await {
                    break;
                }
            }
        }
    });
}

fn set_link(from: NodeId, to: NodeId, cut: bool) {
    let net = NetSim::current();
    if cut { net.clog_link(from, to) } else { net.unclog_link(from, to) }
}

/// Cuts links between machines for a while, in one of several shapes.
fn partition(run: &Arc<Run>, chance: &mut Chance) {
    let machines = run.machines();
    if machines.len() < 2 {
        return;
    }
    let mut order: Vec<Arc<Machine>> = machines.clone();
    for at in (1..order.len()).rev() {
        order.swap(at, chance.below(at as u64 + 1) as usize);
    }
    let half = 1 + chance.below(order.len() as u64 - 1) as usize;
    let leader = leader_or_any(run, chance);
    let mut cut: Vec<(usize, usize)> = Vec::new();
    let both = |cut: &mut Vec<(usize, usize)>, a: &Machine, b: &Machine| {
        cut.extend([(a.number, b.number), (b.number, a.number)]);
    };
    let shape = match chance.below(7) {
        0 => {
            for a in &order[..half] {
                order[half..].iter().for_each(|b| both(&mut cut, a, b));
            }
            "two parts"
        }
        1 => {
            let away = |m: &&Arc<Machine>| m.number != leader.number;
            machines.iter().filter(away).for_each(|m| both(&mut cut, m, &leader));
            "one alone"
        }
        2 => {
            let away = |m: &&Arc<Machine>| m.number != leader.number;
            machines.iter().filter(away).for_each(|m| cut.push((leader.number, m.number)));
            "one is not heard"
        }
        3 => {
            let away = |m: &&Arc<Machine>| m.number != leader.number;
            machines.iter().filter(away).for_each(|m| cut.push((m.number, leader.number)));
            "one does not hear"
        }
        4 => {
            let bridge = order[0].number;
            for a in &order[1..half] {
                order[half..].iter().filter(|b| b.number != bridge).for_each(|b| both(&mut cut, a, b));
            }
            "a bridge"
        }
        5 => "clients",
        _ => {
            for (at, a) in order.iter().enumerate() {
                for b in &order[at + 1..] {
                    if chance.one_in(3) {
                        both(&mut cut, a, b);
                    }
                }
            }
            "some links"
        }
    };
    if shape == "clients" || chance.one_in(4) {
        for client in 1..=run.plan.clients {
            for machine in &machines {
                let (client, machine) = (CLIENTS + client, machine.number);
                match chance.below(12) {
                    0 => cut.push((client, machine)),
                    1 => cut.push((machine, client)),
                    4.. => {}
                    _ => cut.extend([(client, machine), (machine, client)]),
                }
            }
        }
    }
    let flaps = if chance.one_in(4) { chance.between(2, 6) } else { 1 };
    let time = chance.millis(100, 3000);
    tell(run, format!("network: {shape}, {} links cut for {time:?}, {flaps} times: {cut:?}", cut.len()));
    let lasts = if flaps > 1 { time * 4 / 3 } else { time };
    mark_cut(run, &cut, lasts, shape);
    let run = run.clone();
    tokio::spawn(async move {
        for _ in 0..flaps {
            set_links(&run, &cut, true);
            sleep(time / flaps as u32).await;
            set_links(&run, &cut, false);
            if flaps > 1 {
                sleep(time / flaps as u32 / 3).await;
            }
        }
        tell(&run, format!("network: {shape} is over"));
    });
}

/// The page shows a cut where it hurts: in the lane of each machine that does not hear another one.
pub fn mark_cut(run: &Run, links: &[(usize, usize)], lasts: Duration, text: &str) {
    run.story.mark_harm(Lane::Run, Harm::Network, lasts, format!("links cut: {text}"));
    for machine in run.machines() {
        let unheard = links.iter().filter(|(from, to)| *to == machine.number && *from < CLIENTS);
        let unheard = unheard.map(|(from, _)| from.to_string());
        let unheard: Vec<String> = unheard.collect();
        if !unheard.is_empty() {
            machine.mark_harm(Harm::Network, lasts, format!("does not hear {}", unheard.join(", ")));
        }
    }
}

pub fn set_links(run: &Run, links: &[(usize, usize)], cut: bool) {
    if cut && run.is_healed() {
        return;
    }
    for (from, to) in links {
        if let (Some(from), Some(to)) = (run.end_of_links(*from), run.end_of_links(*to)) {
            set_link(from, to, cut);
        }
    }
}

/// Packets get lost (and are sent again, for this is TCP), or take long.
fn slow_network(run: &Arc<Run>, chance: &mut Chance) {
    let loss = *chance.pick(&[0.02, 0.1, 0.3]);
    let slow = chance.between(1, 8);
    let time = chance.millis(200, 2500);
    tell(run, format!("network: {loss} of all packets are lost, latency times {slow}, for {time:?}"));
    network(run, loss, slow as u32);
    run.story.mark_harm(
        Lane::Run,
        Harm::Network,
        time,
        format!("{:.0} % of packets lost, {slow} times slower", loss * 100.0),
    );
    let run = run.clone();
    tokio::spawn(async move {
        sleep(time).await;
        network(&run, 0.0, 1);
        tell(&run, "network: as before");
    });
}

fn network(run: &Run, loss: f64, slow: u32) {
    let loss = if run.is_healed() { 0.0 } else { loss };
    let (from, to) = run.plan.latency();
    NetSim::current().update_config(|config| {
        config.packet_loss_rate = loss;
        config.send_latency = from..to * slow;
    });
}

/// Takes everything back, and does what an operator would do about machines that can't come back by themselves.
pub async fn heal(run: &Arc<Run>) {
    run.set_healed();
    network(run, 0.0, 1);
    let machines = run.machines();
    let ends = run.ends_of_links();
    for (a, b) in ends.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b))) {
        set_link(a, b, false);
    }
    for a in &machines {
        a.disk.lock().forget_faults();
        a.rows.lock().forget_faults();
        a.sync_us.store(a.tuning.sync_us, Relaxed);
        a.resume();
        // Whoever is being replaced is started by the operator who does it.
        if !a.tended.load(Relaxed) {
            a.start();
        }
    }
    for machine in &machines {
        tokio::spawn(crate::membership::supervise(machine.clone()));
    }
}
