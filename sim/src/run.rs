//! One run: a plan, machines, clients, faults, the end in which all heals, and the oracles.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle, Runtime};
use madsim::task::NodeId;
use parking_lot::Mutex;
use quorate_raft::Role;
use tokio::time::sleep;

use crate::client::{self, Client};
use crate::faults;
use crate::history::Op;
use crate::invariants::{
    Oracles, calm, convergence, definite_errors, durability, expiry, linearizability, read_freshness, transactions,
};
use crate::machine::Machine;
use crate::mutants::Mutant;
use crate::plan::{Fault, Plan};
use crate::seen::Seen;
use crate::story::{Event, Kind, Lane, Mark, Story, Told, Violation, fingerprint};

/// No assertion of the server, or of what it stands on, fails.
pub const NO_PANIC: &str = "no panic";

/// Client n is number `CLIENTS + n` where links have numbers at their ends; below are machines.
pub const CLIENTS: usize = 1000;

/// What all parts of a run share.
pub struct Run {
    pub plan: Plan,
    pub story: Story,
    pub history: Mutex<Vec<Op>>,
    /// Reads of what one member has, with the number of the connection.
    pub local_reads: Mutex<Vec<(u64, Op)>>,
    connections: AtomicU64,
    pub oracles: Oracles,
    machines: Mutex<Vec<Arc<Machine>>>,
    client_nodes: Mutex<Vec<NodeId>>,
    seen: Mutex<Seen>,
    clients_stop: AtomicBool,
    healed: AtomicBool,
    restraint: Mutex<Option<Restraint>>,
    operator: NodeHandle,
}

/// What clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    All,
    Read,
    Nothing,
}

/// What clients are kept from for a while. Whoever waits for an answer that can't come would not ask when it matters.
#[derive(Clone, Copy, Debug)]
struct Restraint {
    machine: usize,
    /// Those who are connected to that machine.
    there: May,
    elsewhere: May,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub events: Vec<Event>,
    pub violations: Vec<Violation>,
    pub fingerprint: u64,
    pub figures: Figures,
    /// For the page that draws the run.
    pub marks: Vec<(Duration, Lane, Mark)>,
    pub ops: Vec<Op>,
}

/// How much happened.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub done: usize,
    pub unknown: usize,
    pub failed: usize,
    pub applied: usize,
    pub leaders: usize,
    pub not_judged: usize,
    pub seen: Seen,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.applied += other.applied;
        self.leaders += other.leaders;
        self.not_judged += other.not_judged;
        self.seen.add(&other.seen);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, unknown, failed, applied, leaders, not_judged, seen } = self;
        write!(f, "{done} operations done, {failed} failed, {unknown} of unknown outcome; {applied} entries, ")?;
        write!(f, "{leaders} leaders, {not_judged} objects not judged; {seen}")
    }
}

impl Run {
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        self.machines.lock().clone()
    }

    pub fn machine(&self, number: usize) -> Option<Arc<Machine>> {
        self.machines.lock().get(number.checked_sub(1)?).cloned()
    }

    /// Counts something that the swarm is for.
    pub fn saw(&self, what: &str) {
        self.seen.lock().note(what);
    }

    /// Who is at the end of links with that number.
    pub fn end_of_links(&self, number: usize) -> Option<NodeId> {
        match number.checked_sub(CLIENTS + 1) {
            Some(client) => self.client_nodes.lock().get(client).copied(),
            None => Some(self.machine(number)?.node_id()),
        }
    }

    /// All who are at an end of links.
    pub fn ends_of_links(&self) -> Vec<NodeId> {
        let clients = self.client_nodes.lock().clone();
        self.machines().iter().map(|machine| machine.node_id()).chain(clients).collect()
    }

    /// A number that no connection had before.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Where the operator sits.
    pub fn operator(&self) -> &NodeHandle {
        &self.operator
    }

    /// From now on nothing is broken any more.
    pub fn set_healed(&self) {
        self.healed.store(true, Relaxed);
    }

    pub fn is_healed(&self) -> bool {
        self.healed.load(Relaxed)
    }

    /// Until it is said anew, clients may ask that machine for no more than this, and the others for no more than that.
    pub fn restrain(&self, machine: usize, there: May, elsewhere: May) {
        *self.restraint.lock() = Some(Restraint { machine, there, elsewhere });
    }

    pub fn release(&self) {
        *self.restraint.lock() = None;
    }

    /// What a client that is connected to that machine may ask for now.
    pub fn may(&self, machine: usize) -> May {
        match *self.restraint.lock() {
            Some(restraint) if !self.is_healed() => {
                if restraint.machine == machine {
                    restraint.there
                } else {
                    restraint.elsewhere
                }
            }
            _ => May::All,
        }
    }

    pub fn clients_stop(&self) -> bool {
        self.clients_stop.load(Relaxed)
    }

    /// Another machine, with an empty disk and no process yet.
    pub fn add_machine(self: &Arc<Self>) -> Arc<Machine> {
        let mut machines = self.machines.lock();
        let machine = Machine::new(machines.len() + 1, self.clone(), self.plan.tuning.clone());
        machines.push(machine.clone());
        machine
    }
}

/// Runs a plan in a thread of its own: the standard library's hash maps are seeded once per thread.
pub fn run(plan: Plan) -> Report {
    let thread = std::thread::Builder::new().name(format!("seed {}", plan.seed)).stack_size(8 << 20);
    let spawned = thread.spawn(move || here(plan));
    spawned.map(std::thread::JoinHandle::join).expect("a thread can be started").expect("no panic")
}

fn here(plan: Plan) -> Report {
    let seed = plan.seed;
    quorate_storage::mutants::set(plan.mutant.and_then(Mutant::inside));
    let mut config = madsim::Config::default();
    let (from, to) = plan.latency();
    config.net.send_latency = from..to;
    let mut runtime = Runtime::with_seed_and_config(seed, config);
    runtime.set_time_limit(Duration::from_secs(300));
    let caught = |work: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let kept = Arc::new(Mutex::new(None));
    // On a machine of its own: what it has started can be ended.
    let director = runtime.create_node().name("director").build();
    let mut done = None;
    let outcome = caught(&mut || {
        let (plan, kept) = (plan.clone(), kept.clone());
        done = runtime.block_on(director.spawn(whole(plan, kept))).ok();
    });
    let run: Option<Arc<Run>> = kept.lock().take();
    if let (Err(panic), Some(run)) = (outcome, &run) {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        run.story.broken_at_end(NO_PANIC, words);
    }
    let Told { events, marks, violations } = run.as_ref().map(|run| run.story.take()).unwrap_or_default();
    let (figures, ops) = done.unwrap_or_default();
    if let Some(run) = run {
        let _ = caught(&mut || runtime.block_on(let_go(&run, director.id())));
    }
    Report { seed, fingerprint: fingerprint(&events), events, violations, figures, marks, ops }
}

/// Ends whatever still runs. A run and its machines know each other, and what sleeps keeps madsim's clock, which wakes
/// it: left as they are they would stay in memory.
async fn let_go(run: &Run, director: NodeId) {
    let handle = Handle::current();
    let machines = std::mem::take(&mut *run.machines.lock());
    for node in machines.iter().filter_map(|machine| machine.built()).chain([run.operator.id(), director]) {
        handle.resume(node);
        handle.kill(node);
    }
    sleep(Duration::from_millis(1)).await;
    machines.iter().for_each(|machine| machine.forget_process());
}

async fn whole(plan: Plan, kept: Arc<Mutex<Option<Arc<Run>>>>) -> (Figures, Vec<Op>) {
    let story = Story::begin();
    story.tell(Lane::Run, Kind::Note, format!("{plan:?}"));
    let run = Arc::new(Run {
        story: story.clone(),
        history: Mutex::default(),
        local_reads: Mutex::default(),
        connections: AtomicU64::new(0),
        oracles: Oracles::default(),
        machines: Mutex::default(),
        client_nodes: Mutex::default(),
        seen: Mutex::default(),
        clients_stop: AtomicBool::new(false),
        healed: AtomicBool::new(false),
        restraint: Mutex::default(),
        operator: Handle::current().create_node().name("operator").ip([10, 0, 3, 1].into()).build(),
        plan,
    });
    *kept.lock() = Some(run.clone());
    begin(&run).await;
    let watcher = tokio::spawn(look_on(run.clone()));
    let mut tasks = Vec::new();
    for number in 1..=run.plan.clients {
        let client = Client::new(number, run.clone());
        let ip = [10, 0, 1, number as u8];
        let node = Handle::current().create_node().name(format!("client-{number}")).ip(ip.into()).build();
        run.client_nodes.lock().push(node.id());
        tasks.push(node.spawn(client.work()));
    }
    match run.plan.scenario {
        Some(scenario) => scenario.play(&run).await,
        None => {
            let nemesis = tokio::spawn(faults::nemesis(run.clone()));
            sleep(run.plan.duration).await;
            nemesis.abort();
        }
    }
    faults::heal(&run).await;
    story.tell(Lane::Run, Kind::Note, "faults are over");
    sleep(Duration::from_millis(500)).await;
    run.clients_stop.store(true, Relaxed);
    for task in tasks {
        let _ = task.await;
    }
    end(&run).await;
    watcher.abort();
    judge(&run)
}

/// The first machine begins the group, the others join it.
async fn begin(run: &Arc<Run>) {
    for _ in 0..run.plan.machines {
        run.add_machine();
    }
    for machine in run.machines() {
        machine.build();
        sleep(Duration::from_millis(20)).await;
    }
    let deadline = run.story.now() + convergence::TOGETHER;
    loop {
        sleep(Duration::from_millis(50)).await;
        let ready = run.machines().iter().all(|machine| {
            machine.group().is_some_and(|group| {
                let members = group.members();
                members.len() == run.plan.machines && members.iter().all(|(.., votes)| *votes)
            })
        });
        if ready {
            break;
        }
        if run.story.now() > deadline {
            run.story.broken(convergence::NAME, "the group did not come together in time, without any fault");
            break;
        }
    }
    run.story.tell(Lane::Run, Kind::Note, "the group is together");
    client::preload(run).await;
}

/// The oracles that look into members while the run goes.
async fn look_on(run: Arc<Run>) {
    loop {
        sleep(Duration::from_millis(100)).await;
        look(&run).await;
    }
}

async fn look(run: &Run) {
    for machine in run.machines() {
        let Some(group) = machine.group() else { continue };
        let changes = run.oracles.logs.lock().changes(&machine);
        let status = group.status().await;
        run.oracles.known_members.look(&machine, &status, &run.story);
        if let Some(committed) = status.committed {
            let mut logs = run.oracles.logs.lock();
            let mut members = run.oracles.members.lock();
            if status.role == Role::Leader {
                members.under_way(machine.number, &changes, committed, (status.term, status.id), &run.story);
            }
            logs.look(&machine, committed, &run.oracles.elections, &mut members, &run.story);
        }
    }
}

/// Everything is healed: the group has to come back.
async fn end(run: &Arc<Run>) {
    let deadline = run.story.now() + convergence::BACK;
    let mut looks = Vec::new();
    for machine in run.machines() {
        let number = machine.number;
        let mut client = Client::new(100 + number, run.clone());
        let ip = [10, 0, 2, number as u8];
        let node = Handle::current().create_node().name(format!("last-{number}")).ip(ip.into()).build();
        looks.push((number, node.spawn(async move { client.last_look(number, deadline).await })));
    }
    for (number, look) in looks {
        if let Ok(Err(last)) = look.await {
            let text = format!("machine {number} did not serve in time after the faults; it said last: {last}");
            run.story.broken(convergence::NAME, text);
            return;
        }
    }
    while let Err(why) = converged(run).await {
        if run.story.now() > deadline {
            run.story.broken(convergence::NAME, format!("the members still differ after the faults: {why}"));
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    look(run).await;
}

async fn converged(run: &Run) -> Result<(), String> {
    let mut applied = None;
    for machine in run.machines() {
        let Some(group) = machine.group() else {
            return Err(format!("machine {} does not run: {}", machine.number, machine.failure().unwrap_or_default()));
        };
        let here = group.status().await.applied;
        let first = *applied.get_or_insert(here);
        if first != here {
            return Err(format!("applied is {first:?} and {here:?}"));
        }
    }
    Ok(())
}

/// The oracles that need the whole history.
fn judge(run: &Run) -> (Figures, Vec<Op>) {
    let mut ops = std::mem::take(&mut *run.history.lock());
    let local_reads = std::mem::take(&mut *run.local_reads.lock());
    read_freshness::check(&ops, &run.story);
    read_freshness::check_local(&local_reads, &ops, &run.story);
    durability::check(&ops, &run.story);
    transactions::check(&ops, &run.story);
    let not_judged = linearizability::check(&ops, &run.story);
    run.oracles.members.lock().check(&run.oracles.elections.reigns(), &run.story);
    ops.extend(local_reads.into_iter().map(|(_, op)| op));
    definite_errors::check(&ops, &run.story);
    let wrong = [Fault::Clock, Fault::Drift].iter().any(|fault| run.plan.faults.contains(fault));
    let right = run.plan.scenario.is_none() && !wrong;
    expiry::check(&ops, right, &run.story);
    if run.plan.scenario.is_none() && run.plan.faults.is_empty() {
        calm::check(&ops, run.oracles.elections.count(), &run.story);
    }
    let count = |wanted: fn(&crate::history::Outcome) -> bool| ops.iter().filter(|op| wanted(&op.outcome)).count();
    use crate::history::Outcome;
    let figures = Figures {
        done: count(|o| matches!(o, Outcome::Done(_) | Outcome::Aborted)),
        unknown: count(|o| matches!(o, Outcome::Unknown(_))),
        failed: count(|o| matches!(o, Outcome::Failed(_))),
        applied: run.oracles.states.lock().len(),
        leaders: run.oracles.elections.count(),
        not_judged,
        seen: run.seen.lock().clone(),
    };
    (figures, ops)
}
