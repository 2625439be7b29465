//! Simulated clients: RESP over simulated TCP, as any client library speaks it. They time out, reconnect, follow
//! redirects, and write down what they did and saw. A write whose outcome is unknown is never sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate::resp::{Reply, encode_command, parse_reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::history::{Act, Cmd, Op, Outcome, Ret, key_name};
use crate::invariants::one_reply;
use crate::machine::CLIENT_PORT;
use crate::mutants::Mutant;
use crate::plan::Chance;
use crate::run::{May, Run};
use crate::seen;
use crate::story::{Kind, Lane};
use crate::workload;

/// A connection to one machine.
pub struct Connection {
    pub machine: usize,
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    pub async fn open(machine: usize, patience: Duration) -> Option<Self> {
        let address = format!("10.0.0.{machine}:{CLIENT_PORT}");
        let stream = timeout(patience, TcpStream::connect(address)).await.ok()?.ok()?;
        Some(Self { machine, stream, unread: BytesMut::new() })
    }

    pub async fn send(&mut self, commands: &[Vec<String>]) -> Result<(), String> {
        let mut out = BytesMut::new();
        for command in commands {
            encode_command(command, &mut out);
        }
        self.stream.write_all(&out).await.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    pub async fn reply(&mut self, patience: Duration) -> Result<Reply, String> {
        timeout(patience, self.next()).await.unwrap_or_else(|_| Err("no reply in time".into()))
    }

    async fn next(&mut self) -> Result<Reply, String> {
        loop {
            let bytes = Bytes::copy_from_slice(&self.unread);
            if let Some((reply, used)) = parse_reply(&bytes).map_err(|error| error.to_string())? {
                let _ = self.unread.split_to(used);
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.unread).await.map_err(|error| error.to_string())? == 0 {
                return Err("the connection was closed".into());
            }
        }
    }
}

/// What an error line says about what was done.
fn of_error(text: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(text).into_owned();
    let word = text.split(' ').next().unwrap_or_default();
    match word {
        "UNKNOWN" => Some(Outcome::Unknown(text)),
        "CLUSTERDOWN" | "MOVED" | "LOADING" | "EXECABORT" | "MISCONF" | "OOM" | "TRYAGAIN" | "MASTERDOWN" => {
            Some(Outcome::Failed(text))
        }
        _ => None,
    }
}

/// A reply as the model knows it; `None` if no correct server answers that.
fn of_reply(reply: &Reply) -> Option<Ret> {
    match reply {
        Reply::Null => Some(Ret::Nil),
        Reply::Simple(text) if &text[..] == b"OK" => Some(Ret::Done),
        Reply::Int(n) => Some(Ret::Int(*n)),
        Reply::Bulk(text) => Some(Ret::Text(String::from_utf8_lossy(text).into_owned())),
        _ => None,
    }
}

/// Makes the state larger before anything happens, by keys that nobody looks at: snapshots and checkpoints take longer.
pub async fn preload(run: &Arc<Run>) {
    const KEY_BYTES: usize = 1000;
    let commands = (0..run.plan.preload).map(|n| {
        let text = format!("{n};");
        vec!["SET".to_owned(), format!("large:{n}"), text.repeat(KEY_BYTES / text.len())]
    });
    let commands: Vec<Vec<String>> = commands.collect();
    let patience = Duration::from_secs(2);
    let sent = run.operator().spawn(async move {
        let mut connection = Connection::open(1, patience).await?;
        connection.send(&commands).await.ok()?;
        for _ in &commands {
            connection.reply(patience).await.ok()?;
        }
        Some(())
    });
    // Without them it is a run like others.
    let _ = sent.await;
}

/// A client with its task.
pub struct Client {
    pub number: usize,
    run: Arc<Run>,
    chance: Chance,
    connection: Option<Connection>,
    /// Where to connect next, if the last server said so.
    sent_to: Option<usize>,
    /// For reads of what one member has: a connection of its own, and its number.
    reader: Option<(u64, Connection)>,
    written: u64,
    /// A client of a script stays with one machine, and waits so long.
    home: Option<(usize, Duration)>,
}

impl Client {
    pub fn new(number: usize, run: Arc<Run>) -> Self {
        let chance = Chance::new(run.plan.seed.rotate_left(8) ^ number as u64);
        Self { number, run, chance, connection: None, sent_to: None, reader: None, written: 0, home: None }
    }

    pub fn for_script(number: usize, run: Arc<Run>, machine: usize, patience: Duration) -> Self {
        Self { home: Some((machine, patience)), ..Self::new(number, run) }
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.home = self.home.map(|(machine, _)| (machine, patience));
    }

    /// For scripts: connects if it has to, and asks once.
    pub async fn ask(&mut self, draft: workload::Draft) -> Outcome {
        if self.connection.is_none() {
            self.connect().await;
        }
        self.sent_to = None;
        self.one(draft).await
    }

    pub async fn work(mut self) {
        while !self.run.clients_stop() {
            let think = self.run.plan.think.as_micros() as u64;
            sleep(Duration::from_micros(self.chance.below(2 * think))).await;
            let may = self.connection.as_ref().map_or(May::All, |c| self.run.may(c.machine));
            // Whoever is kept from something stays where that matters.
            if self.connection.is_none() || may == May::All && self.chance.one_in(60) {
                self.connect().await;
                continue;
            }
            let only_reads = may != May::All;
            match self.chance.below(10) {
                _ if may == May::Nothing => {}
                0 | 1 if !only_reads => self.pipeline().await,
                2 if !only_reads => self.watched().await,
                3 => {
                    let (object, key) = workload::draw_local(&mut self.chance);
                    self.local_read(object, key).await;
                }
                _ => {
                    let op = workload::draw(&mut self.chance, &mut self.written, self.number, &self.run.plan);
                    if !only_reads || op.cmds.iter().all(|cmd| cmd.act.is_read()) {
                        self.with_another_try(op).await;
                    }
                }
            }
        }
    }

    /// What certainly failed may be sent again; with new texts, so that each tells what became of it.
    async fn with_another_try(&mut self, op: workload::Draft) {
        let again = workload::retold(&op, &mut self.chance, &mut self.written, self.number, &self.run.plan);
        let outcome = self.one(op).await;
        if !matches!(&outcome, Outcome::Failed(_)) || !self.chance.one_in(4) {
            return;
        }
        if self.connection.is_none() {
            self.connect().await;
        }
        // Schedules keep clients of some machines from some things.
        if self.connection.as_ref().is_some_and(|connection| self.run.may(connection.machine) == May::All) {
            self.run.saw(seen::SENT_AGAIN);
            self.one(again).await;
        }
    }

    async fn connect(&mut self) {
        let machine = self.somewhere();
        self.connection = Connection::open(machine, Duration::from_millis(500)).await;
    }

    fn somewhere(&mut self) -> usize {
        let count = self.run.machines().len() as u64;
        let home = self.home.map(|(machine, _)| machine);
        self.sent_to.take().or(home).unwrap_or_else(|| self.chance.between(1, count) as usize)
    }

    fn patience(&mut self) -> Duration {
        self.home.map_or_else(|| self.chance.millis(200, 4000), |(_, patience)| patience)
    }

    fn now(&self) -> u64 {
        self.run.story.now().as_nanos() as u64
    }

    fn begin(&self, draft: workload::Draft) -> Op {
        Op {
            client: self.number,
            machine: self.connection.as_ref().map_or(0, |connection| connection.machine),
            object: draft.object,
            cmds: draft.cmds,
            watched: None,
            transaction: draft.transaction,
            call: self.now(),
            ret: u64::MAX,
            outcome: Outcome::Unknown("not sent".into()),
        }
    }

    fn end(&mut self, mut op: Op, outcome: Outcome) {
        op.ret = self.now();
        if let Outcome::Failed(text) = &outcome
            && let Some(address) = text.strip_prefix("MOVED ").and_then(|rest| rest.split(' ').nth(1))
        {
            let machine = address.split(':').next().and_then(|ip| ip.rsplit('.').next()?.parse().ok());
            self.sent_to = machine;
            self.connection = None;
        }
        if matches!(&outcome, Outcome::Failed(text) if text.starts_with("LOADING")) {
            self.run.saw(seen::LOADING);
        }
        op.outcome = outcome;
        self.run.story.tell(Lane::Client(self.number), Kind::Op, op.to_string());
        self.run.history.lock().push(op);
    }

    fn odd(&self, reply: &Reply, to: &Op) {
        one_reply::odd(&self.run.story, self.number, reply, &to.to_string(), to.call);
    }

    /// Keeps a connection on which all is answered.
    fn keep(&mut self, connection: Connection, last: &Op) {
        one_reply::surplus(&self.run.story, self.number, &connection.unread, last.call);
        self.connection = Some(connection);
    }

    fn commands(op: &Op) -> Vec<Vec<String>> {
        let mut commands: Vec<Vec<String>> =
            op.cmds.iter().map(|cmd| cmd.act.command(&key_name(op.object, cmd.key))).collect();
        if op.transaction {
            commands.insert(0, vec!["MULTI".into()]);
            commands.push(vec!["EXEC".into()]);
        }
        commands
    }

    /// Now and then a client breaks its connection while both ends live. Not those of scripts.
    fn goes_away(&mut self) -> bool {
        self.home.is_none() && self.chance.one_in(200)
    }

    /// One operation, alone on the connection.
    pub async fn one(&mut self, draft: workload::Draft) -> Outcome {
        let op = self.begin(draft);
        let patience = self.patience();
        let Some(mut connection) = self.connection.take() else { return Outcome::Failed("no connection".into()) };
        let mut outcome = if op.transaction && self.run.plan.mutant == Some(Mutant::SplitExec) {
            self.in_parts(&mut connection, &op, patience).await
        } else {
            match connection.send(&Self::commands(&op)).await {
                Err(error) => Outcome::Unknown(error),
                Ok(()) if self.goes_away() => Outcome::Unknown("the client went away".into()),
                Ok(()) => self.outcome(&mut connection, &op, patience).await,
            }
        };
        if !matches!(&outcome, Outcome::Unknown(why) if !why.starts_with("UNKNOWN")) {
            self.keep(connection, &op);
        }
        if matches!(&outcome, Outcome::Unknown(_)) && !op.is_read() {
            match self.run.plan.mutant {
                Some(Mutant::RetriedAfterUnknown) => outcome = self.again(&op, patience).await,
                Some(Mutant::FailureThatHappened) => outcome = Outcome::Failed("a lie".into()),
                _ => {}
            }
        }
        self.end(op, outcome.clone());
        outcome
    }

    /// A read of what one member has, on a connection that says READONLY once and is kept.
    pub async fn local_read(&mut self, object: usize, key: u8) -> Outcome {
        let patience = self.patience();
        let elsewhere = self.run.plan.mutant == Some(Mutant::LocalReadsAnywhere);
        let kept = self.reader.take_if(|_| elsewhere).map(|(number, _)| number);
        if self.reader.is_none() || self.home.is_none() && self.chance.one_in(30) {
            let machine = self.somewhere();
            let Some(mut connection) = Connection::open(machine, Duration::from_millis(500)).await else {
                return Outcome::Failed("no connection".into());
            };
            let said = connection.send(&[vec!["READONLY".into()]]).await;
            match connection.reply(patience).await {
                Ok(Reply::Simple(_)) if said.is_ok() => {}
                _ => return Outcome::Failed("READONLY was not answered".into()),
            }
            self.reader = Some((kept.unwrap_or_else(|| self.run.next_connection()), connection));
        }
        let Some((number, mut connection)) = self.reader.take() else { return Outcome::Failed("no connection".into()) };
        let draft = workload::Draft { object, cmds: vec![Cmd { key, act: Act::Get }], transaction: false };
        let mut op = self.begin(draft);
        op.machine = connection.machine;
        let outcome = match connection.send(&Self::commands(&op)).await {
            Err(error) => Outcome::Unknown(error),
            Ok(()) => self.outcome(&mut connection, &op, patience).await,
        };
        if !matches!(outcome, Outcome::Unknown(_)) {
            self.reader = Some((number, connection));
        }
        op.ret = self.now();
        op.outcome = outcome.clone();
        self.run.story.tell(Lane::Client(self.number), Kind::Op, format!("READONLY {op}"));
        self.run.local_reads.lock().push((number, op));
        outcome
    }

    /// For a mutant: sends an operation of unknown outcome once more, as no client may.
    async fn again(&mut self, op: &Op, patience: Duration) -> Outcome {
        self.connect().await;
        let Some(mut connection) = self.connection.take() else { return Outcome::Unknown("no connection".into()) };
        if let Err(error) = connection.send(&Self::commands(op)).await {
            return Outcome::Unknown(error);
        }
        self.outcome(&mut connection, op, patience).await
    }

    /// For a mutant: the commands of a transaction one after the other.
    async fn in_parts(&mut self, connection: &mut Connection, op: &Op, patience: Duration) -> Outcome {
        let mut rets = Vec::new();
        for cmd in &op.cmds {
            let part = Op { cmds: vec![cmd.clone()], transaction: false, ..op.clone() };
            if let Err(error) = connection.send(&Self::commands(&part)).await {
                return Outcome::Unknown(error);
            }
            match self.outcome(connection, &part, patience).await {
                Outcome::Done(part) => rets.extend(part),
                first if rets.is_empty() => return first,
                _ => return Outcome::Unknown("half of it".into()),
            }
        }
        Outcome::Done(rets)
    }

    /// Reads all replies of one operation.
    async fn outcome(&mut self, connection: &mut Connection, op: &Op, patience: Duration) -> Outcome {
        let mut replies = Vec::new();
        for _ in 0..Self::commands(op).len() {
            match connection.reply(patience).await {
                Ok(reply) => replies.push(reply),
                Err(error) => return Outcome::Unknown(error),
            }
        }
        let Some(last) = replies.last() else { return Outcome::Unknown("nothing was asked".into()) };
        if let Some(error) = last.error() {
            return of_error(error).unwrap_or_else(|| {
                self.odd(last, op);
                Outcome::Unknown("an odd error".into())
            });
        }
        let parts = match (op.transaction, last) {
            (true, Reply::Null) => return Outcome::Aborted,
            (true, Reply::Array(parts)) => &parts[..],
            _ => std::slice::from_ref(last),
        };
        let rets: Option<Vec<Ret>> = parts.iter().map(of_reply).collect();
        match rets {
            Some(rets) if rets.len() == op.cmds.len() => Outcome::Done(rets),
            _ => {
                self.odd(last, op);
                Outcome::Unknown("an odd reply".into())
            }
        }
    }

    /// Several commands in one go, with echoes between them that show whether replies are in order.
    async fn pipeline(&mut self) {
        let count = self.chance.between(2, 6);
        let mut ops = Vec::new();
        for _ in 0..count {
            let draft = workload::draw(&mut self.chance, &mut self.written, self.number, &self.run.plan);
            ops.push((self.begin(draft), self.chance.next()));
        }
        let patience = self.patience();
        let Some(mut connection) = self.connection.take() else { return };
        let mut commands = Vec::new();
        for (op, echo) in &ops {
            commands.extend(Self::commands(op));
            commands.push(vec!["ECHO".into(), echo.to_string()]);
        }
        let mut lost = connection.send(&commands).await.err();
        let last = ops.last().map(|(op, _)| op.clone());
        for (op, echo) in ops {
            let outcome = match &lost {
                Some(why) => Outcome::Unknown(why.clone()),
                None => self.outcome(&mut connection, &op, patience).await,
            };
            if let Outcome::Unknown(why) = &outcome
                && !why.starts_with("UNKNOWN")
            {
                lost.get_or_insert_with(|| why.clone());
            }
            let asked = op.call;
            self.end(op, outcome);
            if lost.is_none() {
                match connection.reply(patience).await {
                    Ok(reply) => one_reply::echo(&self.run.story, self.number, &reply, &echo.to_string(), asked),
                    Err(why) => lost = Some(why),
                }
            }
        }
        if lost.is_none()
            && self.sent_to.is_none()
            && let Some(last) = last
        {
            self.keep(connection, &last);
        }
    }

    /// WATCH, a look, and a transaction that must only run if what was seen is still so.
    async fn watched(&mut self) {
        let Some(draft) = workload::draw_watched(&mut self.chance, &mut self.written, self.number, &self.run.plan)
        else {
            return;
        };
        let patience = self.patience();
        let object = draft.object;
        let look = workload::Draft { object, cmds: vec![Cmd { key: 0, act: Act::Get }], transaction: false };
        let look = self.begin(look);
        let Some(mut connection) = self.connection.take() else { return };
        let name = key_name(object, 0);
        let commands = [vec!["WATCH".to_owned(), name.clone()], vec!["GET".to_owned(), name]];
        if connection.send(&commands).await.is_err() {
            return;
        }
        match connection.reply(patience).await {
            Ok(Reply::Simple(_)) => {}
            _ => return,
        }
        let seen = self.outcome(&mut connection, &look, patience).await;
        self.end(look, seen.clone());
        let Outcome::Done(rets) = seen else { return };
        let mut op = self.begin(draft);
        op.machine = connection.machine;
        op.watched = Some((0, rets[0].clone()));
        let outcome = match connection.send(&Self::commands(&op)).await {
            Err(error) => Outcome::Unknown(error),
            Ok(()) => self.outcome(&mut connection, &op, patience).await,
        };
        if !matches!(&outcome, Outcome::Unknown(_)) && self.sent_to.is_none() {
            self.keep(connection, &op);
        }
        self.end(op, outcome);
    }

    /// After the faults: reads every object through one machine's port, and writes there, until it answers or the
    /// time is over. `Err`: what it said last.
    pub async fn last_look(&mut self, machine: usize, deadline: Duration) -> Result<(), String> {
        let mut last = "no connection".to_owned();
        for draft in workload::last_look(machine, self.run.plan.scenario.is_some()) {
            loop {
                if self.run.story.now() > deadline {
                    return Err(last);
                }
                if self.connection.is_none() {
                    let target = self.sent_to.take().unwrap_or(machine);
                    self.connection = Connection::open(target, Duration::from_millis(500)).await;
                }
                if self.connection.is_none() {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                match self.one(draft.clone()).await {
                    Outcome::Done(_) => break,
                    other => last = other.to_string(),
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
