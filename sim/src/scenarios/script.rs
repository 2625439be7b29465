//! The words that scripts are made of: cut these off, kill that one, wait for a leader, write, read.
//!
//! Whatever waits here waits for something that must come, and says what did not. No word of it looks into a member for
//! an answer that a client could get.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use madsim::net::NetSim;
use quorate::admin::api::{Request, TransferTo};
use quorate::resp::Reply;
use serde_json::Value;
use tokio::time::sleep;

use crate::admin;
use crate::client::{Client, Connection};
use crate::faults::mark_cut;
use crate::history::{Act, Cmd, Outcome, Ret};
use crate::machine::{ADMIN_PORT, Machine, Power};
use crate::run::Run;
use crate::story::{Harm, Kind, Lane, Mark};
use crate::workload::Draft;

use super::Ended;

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// An object for scripts: a text that is only ever appended to. There are three.
pub const NOTES: usize = crate::workload::SCRIPTED;
/// A key that expires.
pub const EXPIRING: usize = NOTES + 3;

/// `Err` with these words unless it holds.
pub fn expect(holds: bool, words: impl Into<String>) -> Ended {
    if holds { Ok(()) } else { Err(words.into()) }
}

/// The run, in the hands of a script.
#[derive(Clone)]
pub struct Stage {
    pub run: Arc<Run>,
    callers: Arc<AtomicUsize>,
}

impl Stage {
    pub fn new(run: Arc<Run>) -> Self {
        Self { run, callers: Arc::new(AtomicUsize::new(50)) }
    }

    fn tell(&self, text: impl Into<String>) {
        self.run.story.tell(Lane::Run, Kind::Fault, text);
    }

    pub fn machine(&self, number: usize) -> Result<Arc<Machine>, String> {
        self.run.machine(number).ok_or_else(|| format!("there is no machine {number}"))
    }

    pub fn numbers(&self) -> Vec<usize> {
        self.run.machines().iter().map(|machine| machine.number).collect()
    }

    /// All machines but this one.
    pub fn others(&self, than: usize) -> Vec<usize> {
        self.numbers().into_iter().filter(|number| *number != than).collect()
    }

    pub async fn wait(&self, ms: u64) {
        sleep(Duration::from_millis(ms)).await;
    }

    /// A new machine, as soon as the group of that leader has taken it in: it may not have heard so yet.
    pub async fn taken_in_by(&self, leader: usize) -> Result<(Arc<Machine>, quorate_raft::Group), String> {
        let group = self.machine(leader)?.group().ok_or("the leader does not serve")?;
        let members = group.members().len();
        let new = self.run.add_machine();
        new.build();
        self.until("it is taken in", || group.members().len() > members).await?;
        Ok((new, group))
    }

    /// Waits until it holds.
    pub async fn until(&self, words: &str, mut holds: impl FnMut() -> bool) -> Ended {
        let deadline = self.run.story.now() + PATIENCE;
        while !holds() {
            if self.run.story.now() > deadline {
                return Err(format!("waited {} s in vain: {words}", PATIENCE.as_secs()));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until one leads that can.
    pub async fn leader(&self) -> Result<usize, String> {
        self.leader_besides(0).await
    }

    /// Waits until another one leads: the latest of those that say so.
    pub async fn leader_besides(&self, not: usize) -> Result<usize, String> {
        let deadline = self.run.story.now() + PATIENCE;
        loop {
            let mut latest = None;
            for machine in self.run.machines().iter().filter(|machine| machine.number != not) {
                let runs = *machine.power.lock() == Power::On;
                let Some(group) = machine.group().filter(|group| runs && group.is_leader()) else { continue };
                latest = latest.max(Some((group.status().await.term, machine.number)));
            }
            match latest {
                Some((_, number)) => return Ok(number),
                None if self.run.story.now() > deadline => return Err("nobody leads".into()),
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Asks for leadership to go there, and waits until it has.
    pub async fn hand_over(&self, to: usize) -> Ended {
        let deadline = self.run.story.now() + PATIENCE;
        let leads = || self.machine(to).is_ok_and(|m| m.group().is_some_and(|group| group.is_leader()));
        while !leads() {
            if self.run.story.now() > deadline {
                return Err(format!("machine {to} did not get to lead"));
            }
            let leader = self.leader().await?;
            let id = self.id(to)?;
            let _ = self.admin(leader, Request::Transfer(TransferTo { to: Some(id) })).await;
            sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    /// The id of the member on that machine.
    pub fn id(&self, number: usize) -> Result<u64, String> {
        self.machine(number)?.member_id().ok_or_else(|| format!("machine {number} does not serve"))
    }

    /// Asks the admin service of that machine.
    pub async fn admin(&self, number: usize, request: Request) -> Result<Value, String> {
        let address = self.machine(number)?.address(ADMIN_PORT);
        let answer = admin::ask(&address, &request, Duration::from_secs(3)).await;
        let text = answer.as_ref().map_or_else(Clone::clone, |_| "done".to_owned());
        self.run.story.tell(Lane::Run, Kind::Raft, format!("{request:?}: machine {number} answered: {text}"));
        answer
    }

    /// Cuts all links between these and those, both ways.
    pub fn cut(&self, these: &[usize], those: &[usize]) -> Ended {
        let mut links = Vec::new();
        for a in these {
            for b in those {
                links.extend([(*a, *b), (*b, *a)]);
            }
        }
        self.tell(format!("the script cuts {these:?} off from {those:?}"));
        mark_cut(&self.run, &links, Duration::MAX, "by the script");
        self.set_links(&links, true)
    }

    fn set_links(&self, links: &[(usize, usize)], cut: bool) -> Ended {
        let net = NetSim::current();
        for (from, to) in links {
            let (from, to) = (self.machine(*from)?.node_id(), self.machine(*to)?.node_id());
            if cut { net.clog_link(from, to) } else { net.unclog_link(from, to) }
        }
        Ok(())
    }

    /// All links are as they ought to be again.
    pub fn mend(&self) -> Ended {
        let all = self.numbers();
        let links: Vec<_> = all.iter().flat_map(|a| self.others(*a).into_iter().map(move |b| (*a, b))).collect();
        self.tell("the script mends all links");
        for lane in all.iter().map(|number| Lane::Member(*number)).chain([Lane::Run]) {
            self.run.story.mark(lane, Mark::Over(Harm::Network));
        }
        self.set_links(&links, false)
    }

    pub fn kill(&self, number: usize) -> Ended {
        self.machine(number)?.kill(false);
        Ok(())
    }

    pub fn cut_power(&self, number: usize) -> Ended {
        self.machine(number)?.power_off();
        Ok(())
    }

    pub fn start(&self, number: usize) -> Ended {
        self.machine(number)?.start();
        Ok(())
    }

    /// It serves clients, and votes.
    pub async fn serves(&self, number: usize) -> Ended {
        let machine = self.machine(number)?;
        let served = self.until("it serves", || machine.is_on() && machine.votes()).await;
        served.map_err(|why| format!("machine {number}: {why}; it said last: {:?}", machine.failure()))
    }

    pub fn pause(&self, number: usize) -> Ended {
        let machine = self.machine(number)?;
        machine.tell(Kind::Fault, "stands still");
        machine.mark_harm(Harm::Pause, Duration::MAX, "stands still");
        expect(machine.pause(), format!("machine {number} could not be paused"))
    }

    pub fn resume(&self, number: usize) -> Ended {
        let machine = self.machine(number)?;
        machine.tell(Kind::Fault, "goes on");
        self.run.story.mark(Lane::Member(number), Mark::Over(Harm::Pause));
        expect(machine.resume(), format!("machine {number} could not be resumed"))
    }

    /// How often a machine's story has a line with these words.
    pub fn told(&self, number: usize, words: &str) -> usize {
        self.run.story.count(Lane::Member(number), words)
    }

    /// A client that stays with one machine.
    pub fn client(&self, machine: usize) -> Caller {
        let number = self.callers.fetch_add(1, Relaxed) + 1;
        let client = Client::for_script(number, self.run.clone(), machine, Duration::from_secs(6));
        Caller { client, run: self.run.clone(), number, written: 0 }
    }

    /// A bare connection.
    pub async fn connection(&self, machine: usize) -> Result<Connection, String> {
        let deadline = self.run.story.now() + PATIENCE;
        loop {
            match Connection::open(machine, Duration::from_millis(500)).await {
                Some(connection) => return Ok(connection),
                None if self.run.story.now() > deadline => {
                    return Err(format!("machine {machine} takes no connection"));
                }
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// Sends one command over a bare connection, and waits for the reply.
pub async fn say(connection: &mut Connection, words: &[&str]) -> Result<Reply, String> {
    let command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    connection.send(&[command]).await?;
    connection.reply(Duration::from_secs(6)).await
}

/// A client in the hands of a script. What it does and sees is judged by the oracles as well.
pub struct Caller {
    client: Client,
    run: Arc<Run>,
    number: usize,
    written: u64,
}

impl Caller {
    pub fn with_patience(mut self, ms: u64) -> Self {
        self.client.set_patience(Duration::from_millis(ms));
        self
    }

    /// One operation, once.
    pub async fn ask(&mut self, object: usize, act: Act) -> Outcome {
        self.client.ask(Draft { object, cmds: vec![Cmd { key: 0, act }], transaction: false }).await
    }

    pub async fn transaction(&mut self, object: usize, cmds: Vec<Cmd>) -> Outcome {
        self.client.ask(Draft { object, cmds, transaction: true }).await
    }

    /// What this member has, on a connection of its own.
    pub async fn local_read(&mut self, object: usize) -> Outcome {
        self.client.local_read(object, 0).await
    }

    /// A text that nobody else writes.
    pub fn text(&mut self) -> String {
        self.written += 1;
        format!("{}.{};", self.number, self.written)
    }

    /// Appends a text of its own, once.
    pub async fn try_write(&mut self, object: usize) -> (String, Outcome) {
        let text = self.text();
        let outcome = self.ask(object, Act::Append(text.clone())).await;
        (text, outcome)
    }

    /// Appends until it is acknowledged, each time something else. What was acknowledged.
    pub async fn write(&mut self, object: usize) -> Result<String, String> {
        let deadline = self.run.story.now() + PATIENCE;
        loop {
            match self.try_write(object).await {
                (text, Outcome::Done(_)) => return Ok(text),
                (_, last) if self.run.story.now() > deadline => {
                    return Err(format!("no write was acknowledged: {last}"));
                }
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Reads until there is an answer.
    pub async fn read(&mut self, object: usize) -> Result<String, String> {
        let deadline = self.run.story.now() + PATIENCE;
        loop {
            match self.ask(object, Act::Get).await {
                Outcome::Done(rets) => return Ok(text_of(&rets)),
                last if self.run.story.now() > deadline => return Err(format!("no read was answered: {last}")),
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Reads, and what was acknowledged must be in it.
    pub async fn must_find(&mut self, object: usize, texts: &[String]) -> Ended {
        let found = self.read(object).await?;
        let lost: Vec<_> = texts.iter().filter(|text| !found.contains(text.as_str())).collect();
        expect(lost.is_empty(), format!("acknowledged, and not there: {lost:?}; there is {found}"))
    }
}

/// The text of the first reply; empty for nothing.
pub fn text_of(rets: &[Ret]) -> String {
    match rets.first() {
        Some(Ret::Text(text)) => text.clone(),
        _ => String::new(),
    }
}
