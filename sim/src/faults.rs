//! The nemesis: does to machines and network what the plan's faults say, at times that the seed says, and takes all of
//! it back in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::plan::{Chance, Fault};
use crate::run::Run;
use crate::story::{Kind, Lane};

pub async fn nemesis(run: Arc<Run>) {
    let mut chance = Chance::new(run.plan.seed.rotate_left(32) ^ 0x6e65_6d65_7369_73);
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

async fn strike(run: &Arc<Run>, fault: Fault, chance: &mut Chance) {
    let machines = run.machines();
    let machine = chance.pick(&machines).clone();
    match fault {
        Fault::Kill | Fault::PowerCut => {
            machine.kill(fault == Fault::PowerCut);
            let after = chance.millis(50, 2000);
            tokio::spawn(async move {
                sleep(after).await;
                machine.start();
            });
        }
        _ => run.story.tell(Lane::Run, Kind::Fault, format!("{fault:?} is to come")),
    }
}

/// Takes everything back.
pub async fn heal(run: &Arc<Run>) {
    for machine in run.machines() {
        machine.resume();
        machine.start();
    }
}
