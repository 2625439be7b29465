//! `quorate dev`: a group on this machine, to try things out on.
//!
//! Every member is a process of its own, the same binary run with `serve`, so that killing one is a real fault. This
//! process only starts them, watches them from outside through their admin HTTP, tells what happens, and stops them.
//! It holds no data and decides nothing about the group.

mod child;
mod dir;
mod story;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use self::child::Child;
use self::dir::{DevDir, Shape};
use self::story::Story;
use super::table::table;

/// Until every process answers and one leads; without that there is nothing to show.
const FIRST_START: Duration = Duration::from_secs(60);
/// Until all vote.
const VOTES: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
/// A member stops in good order within 10 s; then it is killed.
const STOP: Duration = Duration::from_secs(15);
/// A member that dies sooner than this after its start counts as one that cannot run.
const SHORT_LIFE: Duration = Duration::from_secs(3);
const SHORT_LIVES: u32 = 3;

/// Run a group on this machine, to try it out.
///
/// Members are processes of their own: kill one and see what happens. Stop all with Ctrl-C; the next start goes on
/// with the same data.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Number of members [default: 3, or as many as there were]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    members: Option<u16>,
    /// Client port of the first member; peers are 10000 above, admin HTTP 1000 above [default: 7001]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=55_000))]
    base_port: Option<u16>,
    /// Where the members keep their data
    #[arg(long, value_name = "DIR", default_value = "./quorate-dev")]
    dir: PathBuf,
    /// Leave a member that died dead
    #[arg(long)]
    no_restart: bool,
    /// Seconds until a member that died is started again
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    restart_after: u64,
    /// Delete the data of an earlier run first
    #[arg(long)]
    fresh: bool,
    /// Flags for every member, as 'quorate serve' takes them
    #[arg(last = true, value_name = "FLAGS")]
    serve_flags: Vec<String>,
}

/// What the main loop hears.
enum Message {
    /// Ctrl-C or SIGTERM.
    Stop,
    /// What a member's admin HTTP said, or that it did not.
    Seen(Box<watch::Seen>),
}

#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Reached,
    /// Told to stop meanwhile.
    Stopped,
    TooLong,
}

impl Dev {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (sender, messages) = channel();
        // Before any child exists: a signal must never end this process without its children.
        watch::signals(sender.clone())?;
        let wished = Shape { members: self.members, base_port: self.base_port };
        let dir = DevDir::open(&self.dir, wished, self.fresh)?;
        for slot in dir.slots() {
            slot.check_ports()?;
        }
        let mut group =
            Group { children: Vec::new(), story: Story::new(Instant::now()), dir, options: self, messages, sender };
        let result = group.live();
        group.stop();
        result
    }
}

struct Group {
    children: Vec<Child>,
    story: Story,
    dir: DevDir,
    options: Dev,
    messages: Receiver<Message>,
    sender: Sender<Message>,
}

impl Group {
    /// Starts everything and watches it until it is told to stop.
    fn live(&mut self) -> anyhow::Result<()> {
        if !self.start()? {
            return Ok(());
        }
        self.introduce();
        loop {
            match self.messages.recv_timeout(TICK) {
                Ok(Message::Stop) => return Ok(()),
                Ok(Message::Seen(seen)) => self.tell(|story, now| story.seen(&seen, now)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the watching threads are gone"),
            }
            self.look_after_children()?;
        }
    }

    /// False if it was told to stop meanwhile.
    fn start(&mut self) -> anyhow::Result<bool> {
        let slots = self.dir.slots();
        let is_new = slots.iter().all(|slot| !slot.has_identity());
        say(format_args!(
            "{} {} members in {}; connect with redis-cli -p {}",
            if is_new { "Starting a new group of" } else { "Starting again:" },
            slots.len(),
            self.options.dir.display(),
            slots[0].port
        ));
        for slot in slots.clone() {
            // On a directory that has an identity these flags say nothing.
            let origin = if is_new && slot.number == 1 {
                vec!["--bootstrap".to_owned()]
            } else {
                let others = slots.iter().filter(|other| other.number != slot.number);
                others.flat_map(|other| ["--join".to_owned(), other.admin_url()]).collect()
            };
            let mut arguments = slot.arguments();
            arguments.extend(origin);
            arguments.extend(self.options.serve_flags.iter().cloned());
            let child = Child::start(slot.clone(), arguments)?;
            say(format_args!("  member {}: process {}, port {}", slot.number, child.pid(), slot.port));
            watch::member(slot.number, slot.admin_url(), self.sender.clone())?;
            self.children.push(child);
            // One after the other, so that ids come in the order of the ports.
            if is_new && self.wait_until(FIRST_START, |story| story.answers(slot.number))? == Wait::Stopped {
                return Ok(false);
            }
        }
        let up = self.wait_until(FIRST_START, |story| {
            story.has_leader() && slots.iter().all(|slot| story.answers(slot.number))
        })?;
        match up {
            Wait::Reached => {}
            Wait::Stopped => return Ok(false),
            Wait::TooLong => {
                let logs: Vec<String> = slots.iter().map(dir::Slot::log_path).collect();
                bail!("the group did not come up within {} s; see {}", FIRST_START.as_secs(), logs.join(", "));
            }
        }
        self.wait_for_votes(slots.len())
    }

    /// Not all need to vote for the group to work, so this only delays the table, and nothing that happens meanwhile is
    /// an error any more. False if it was told to stop meanwhile.
    fn wait_for_votes(&mut self, all: usize) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let patient = |group: &mut Self| begun.elapsed() < VOTES && !group.children.iter_mut().any(|c| c.has_ended());
        while self.story.votes() < all && patient(self) {
            match self.messages.recv_timeout(TICK) {
                Ok(Message::Stop) => return Ok(false),
                Ok(Message::Seen(seen)) => drop(self.story.seen(&seen, Instant::now())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the watching threads are gone"),
            }
        }
        Ok(true)
    }

    /// A member that ends meanwhile has a reason that its user must see.
    fn wait_until(&mut self, patience: Duration, reached: impl Fn(&Story) -> bool) -> anyhow::Result<Wait> {
        let begun = Instant::now();
        while !reached(&self.story) {
            match self.messages.recv_timeout(TICK) {
                Ok(Message::Stop) => return Ok(Wait::Stopped),
                Ok(Message::Seen(seen)) => drop(self.story.seen(&seen, Instant::now())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the watching threads are gone"),
            }
            for child in &mut self.children {
                if let Some(end) = child.ended()? {
                    bail!("member {} {end}\n{}", child.slot.number, child.last_words());
                }
            }
            if begun.elapsed() > patience {
                return Ok(Wait::TooLong);
            }
        }
        Ok(Wait::Reached)
    }

    fn look_after_children(&mut self) -> anyhow::Result<()> {
        for index in 0..self.children.len() {
            let number = self.children[index].slot.number;
            if let Some(end) = self.children[index].ended()? {
                let child = &mut self.children[index];
                let lived = child.started.elapsed();
                child.short_lives = if lived < SHORT_LIFE { child.short_lives + 1 } else { 0 };
                let give_up = child.short_lives >= SHORT_LIVES;
                let pause = Duration::from_secs(self.options.restart_after);
                child.restart_at = (!self.options.no_restart && !give_up).then(|| Instant::now() + pause);
                let pid = child.pid();
                // Its end is told now. It is no error of the stop, later.
                child.failed = false;
                let log = child.slot.log_path();
                self.tell(|story, now| story.ended(number, pid, &end.to_string(), now));
                if give_up {
                    self.note(&format!("member {number} cannot run and is left alone; see {log}"));
                }
            }
            if self.children[index].restart_at.is_some_and(|at| Instant::now() >= at) {
                self.children[index].restart()?;
                let pid = self.children[index].pid();
                self.tell(|story, now| story.restarted(number, pid, now));
            }
        }
        Ok(())
    }

    /// The table, and what to do with it.
    fn introduce(&self) {
        let rows: Vec<Vec<String>> = self
            .children
            .iter()
            .map(|child| {
                vec![
                    self.story.name(child.slot.number),
                    child.pid().to_string(),
                    child.slot.client(),
                    child.slot.peer(),
                    child.slot.admin(),
                    self.story.role(child.slot.number),
                ]
            })
            .collect();
        let first = &self.children[0].slot;
        let victim = self.children.iter().find(|child| self.story.role(child.slot.number) == "leader");
        say(format_args!(""));
        say(format_args!("{}", table(&["member", "process", "clients", "peers", "admin", "role"], &rows)));
        say(format_args!("Connect:      redis-cli -p {}      (any member will do)", first.port));
        let admin = if first.admin_port() == 8001 { String::new() } else { format!(" --admin {}", first.admin_url()) };
        say(format_args!("Look:         quorate status{admin}"));
        if let Some(victim) = victim {
            let then = if self.options.no_restart {
                "it stays dead".to_owned()
            } else {
                format!("it is started again after {} s", self.options.restart_after)
            };
            say(format_args!("Break it:     kill -9 {}      ({then})", victim.pid()));
        }
        say(format_args!("Logs:         {}", first.log_path().replace("member-1.log", "member-*.log")));
        say(format_args!("Stop:         Ctrl-C\n"));
    }

    fn tell(&mut self, event: impl FnOnce(&mut Story, Instant) -> Vec<String>) {
        let lines = event(&mut self.story, Instant::now());
        lines.iter().for_each(|line| self.note(line));
    }

    fn note(&self, line: &str) {
        say(format_args!("{:>9.2} s  {line}", self.story.age().as_secs_f64()));
    }

    /// All members at once; those that do not stop are killed, and so are all on a second signal.
    fn stop(&mut self) {
        let running = |children: &mut Vec<Child>| children.iter_mut().any(|child| child.is_running());
        if !running(&mut self.children) {
            return;
        }
        say(format_args!("\nStopping…"));
        self.children.iter_mut().for_each(Child::terminate);
        let begun = Instant::now();
        while running(&mut self.children) {
            let impatient = matches!(self.messages.recv_timeout(TICK), Ok(Message::Stop));
            if impatient || begun.elapsed() > STOP {
                let why = if impatient { "Killing all" } else { "Not all have stopped: killing the rest" };
                say(format_args!("{why}."));
                self.children.iter_mut().for_each(Child::kill);
                return;
            }
        }
        let how = self.children.iter().filter(|child| child.failed).count();
        if how == 0 {
            say(format_args!("All have stopped. The data is in {}.", self.options.dir.display()));
        } else {
            say(format_args!("All have stopped, {how} with an error; see the logs."));
        }
    }
}

/// Prints a line, and lives on when nobody reads it.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The binary that runs: members are the same program.
fn this_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot tell which program this is")
}

#[cfg(test)]
mod tests;
