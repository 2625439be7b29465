//! A group of real `quorate serve` processes in temporary folders.

use crate::http::{self, Answer};
use crate::ports::PortBlock;
use crate::process::Process;
use crate::resp::Conn;
use crate::{PATIENCE, wait_for, wait_until};
use rustix::process::Signal;
use serde_json::{Value as Json, json};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;

/// How to start a group.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The built server.
    pub binary: PathBuf,
    /// How many members.
    pub members: usize,
    /// More arguments of `quorate serve`, the same for every member.
    pub args: Vec<String>,
    /// The admin token, told to every member and used by this side.
    pub admin_token: Option<String>,
}

impl ClusterOptions {
    /// Three members with default settings.
    #[must_use]
    pub fn new(binary: impl AsRef<Path>) -> ClusterOptions {
        ClusterOptions { binary: binary.as_ref().to_path_buf(), members: 3, args: Vec::new(), admin_token: None }
    }

    /// That many members.
    #[must_use]
    pub fn members(mut self, members: usize) -> ClusterOptions {
        self.members = members;
        self
    }

    /// More arguments for every member, split at blanks.
    #[must_use]
    pub fn args(mut self, args: &str) -> ClusterOptions {
        self.args.extend(args.split_whitespace().map(str::to_owned));
        self
    }
}

impl ClusterOptions {
    /// The admin port asks for this token.
    #[must_use]
    pub fn admin_token(mut self, token: &str) -> ClusterOptions {
        self.args.extend(["--admin-token".to_owned(), token.to_owned()]);
        self.admin_token = Some(token.to_owned());
        self
    }
}

/// One member: its folder, its addresses, and its process while it runs.
#[derive(Debug)]
pub struct Member {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where peers connect.
    pub peer: SocketAddr,
    /// Where the admin HTTP listens.
    pub admin: SocketAddr,
    /// The data folder.
    pub dir: PathBuf,
    process: Option<Process>,
    command: Vec<String>,
    binary: PathBuf,
    admin_token: Option<String>,
}

impl Member {
    /// Describes a member that isn't started yet; `origin` are the flags that say where its group comes from.
    #[must_use]
    pub fn new(binary: &Path, dir: PathBuf, ports: &mut PortBlock, origin: &[String], args: &[String]) -> Member {
        let [client, peer, admin] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], ports.next_port())));
        let mut command = ["serve", "--exit-with-parent", "--dir"].map(str::to_owned).to_vec();
        command.push(dir.display().to_string());
        command.extend(["--port".to_owned(), client.port().to_string()]);
        command.extend(["--peer".to_owned(), peer.to_string()]);
        command.extend(["--admin".to_owned(), admin.to_string()]);
        command.extend(origin.iter().cloned());
        command.extend(args.iter().cloned());
        let binary = binary.to_path_buf();
        Member { client, peer, admin, dir, process: None, command, binary, admin_token: None }
    }

    /// Starts the process (again), with the same arguments each time.
    ///
    /// # Panics
    /// When it runs already or can't be started.
    pub fn start(&mut self) {
        assert!(!self.is_running(), "the member at {} runs already", self.client);
        let output = self.dir.with_extension("output");
        let process = Process::spawn(&self.binary, &self.command, &output);
        self.process = Some(process.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display())));
    }

    /// Starts it through another program, which gets the server and its arguments behind its own.
    pub fn start_through(&mut self, program: &Path, args: &[&str]) {
        let server = std::mem::replace(&mut self.binary, program.to_path_buf());
        self.command.insert(0, server.display().to_string());
        self.command.splice(0..0, args.iter().map(|arg| (*arg).to_owned()));
    }

    /// The arguments it is started with.
    pub fn command_mut(&mut self) -> &mut Vec<String> {
        &mut self.command
    }

    /// Whether its process was started and not ended by us.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    ///
    /// # Panics
    /// When it isn't running.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running member")
    }

    /// What it printed, over all its starts.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.with_extension("output")).unwrap_or_default()).into_owned()
    }

    /// Whether `/readyz` says that it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        http::get(self.admin, "/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// When it never does, or its process ends instead.
    pub fn wait_ready(&mut self) {
        let admin = self.admin;
        wait_until(&format!("the member at {admin} is ready"), || {
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()
            {
                panic!("the member at {admin} ended with {status} instead of getting ready");
            }
            self.is_ready().then_some(())
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGSTOP: the process stays, with its connections, and does nothing.
    pub fn pause(&mut self) {
        let process = self.process();
        process.signal(Signal::STOP);
        // Its threads stand still a moment after the call is back.
        wait_until("the process stands still", || process.is_stopped().then_some(()));
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.process().signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it doesn't end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running member");
        process.signal(Signal::TERM);
        process.wait_end(PATIENCE).expect("a member ends after SIGTERM")
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// When it doesn't.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running member");
        process.wait_end(PATIENCE).unwrap_or_else(|| panic!("the member at {} never ended", self.client))
    }

    /// A new client connection.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn conn(&self) -> Conn {
        Conn::open(self.client).unwrap_or_else(|error| panic!("no connection to {}: {error}", self.client))
    }

    /// A GET of its admin port, with the token if there is one.
    ///
    /// # Errors
    /// As [`http::get`].
    pub fn ask(&self, path: &str) -> io::Result<Answer> {
        let bearer = self.admin_token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        http::request(self.admin, "GET", path, None, &headers, Duration::from_secs(10))
    }

    /// `GET /v1/status`; `None` when it doesn't answer well.
    #[must_use]
    pub fn status(&self) -> Option<Json> {
        self.ask("/v1/status").ok().filter(Answer::is_ok).map(|answer| answer.json())
    }

    /// `GET /v1/members`; `None` when it doesn't answer well.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Json>> {
        let answer = self.ask("/v1/members").ok().filter(Answer::is_ok)?;
        answer.json()["members"].as_array().cloned()
    }

    /// The id that the group gave it.
    ///
    /// # Panics
    /// When it doesn't tell.
    #[must_use]
    pub fn id(&self) -> u64 {
        wait_until("the member tells its id", || self.status()?["id"].as_u64())
    }

    /// `http://…` of its admin port.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }
}

/// A group of members; dropped, all its processes are killed and its folders removed.
#[derive(Debug)]
pub struct Cluster {
    /// The members, in the order in which they were started first.
    pub members: Vec<Member>,
    /// Ports for more processes of the same test.
    pub ports: PortBlock,
    options: ClusterOptions,
    root: TempDir,
}

impl Cluster {
    /// Starts the first member with `--bootstrap`, lets the others join, and waits until all are ready voters.
    ///
    /// # Panics
    /// When that doesn't come to be.
    #[must_use]
    pub fn start(options: ClusterOptions) -> Cluster {
        let mut cluster = Cluster::prepare(options);
        cluster.members[0].start();
        cluster.members[0].wait_ready();
        for at in 1..cluster.options.members {
            cluster.add_member();
            cluster.members[at].start();
            cluster.members[at].wait_ready();
        }
        cluster.wait_settled();
        cluster
    }

    /// A group of one that isn't started.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[must_use]
    pub fn prepare(options: ClusterOptions) -> Cluster {
        let root = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a temporary folder");
        let mut ports = PortBlock::take();
        let origin = ["--bootstrap".to_owned()];
        let mut first = Member::new(&options.binary, root.path().join("m1"), &mut ports, &origin, &options.args);
        first.admin_token.clone_from(&options.admin_token);
        Cluster { members: vec![first], ports, options, root }
    }

    /// Describes one more member, which will join through those that run; it isn't started. Gives its place.
    pub fn add_member(&mut self) -> usize {
        let mut origin = vec![];
        for member in self.members.iter().filter(|member| member.is_running()) {
            origin.extend(["--join".to_owned(), member.admin_url()]);
        }
        let dir = self.root.path().join(format!("m{}", self.members.len() + 1));
        let mut member = Member::new(&self.options.binary, dir, &mut self.ports, &origin, &self.options.args);
        member.admin_token.clone_from(&self.options.admin_token);
        self.members.push(member);
        self.members.len() - 1
    }

    /// The folder that holds everything of this group.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Client addresses of all members, running or not.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The places of the running members.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| self.members[*at].is_running()).collect()
    }

    /// The place of the leader, if a majority of the running members agree about one that leads itself.
    #[must_use]
    pub fn find_leader(&self) -> Option<usize> {
        let running = self.running();
        let mut votes = vec![0; self.members.len()];
        let mut ids = vec![None; self.members.len()];
        let mut named = Vec::new();
        for at in running.iter().copied() {
            let Some(status) = self.members[at].status() else {
                continue;
            };
            ids[at] = status["id"].as_u64();
            named.push(status["leader"].as_u64());
            if status["role"] == "leader" {
                votes[at] += 1;
            }
        }
        let leader = (0..votes.len()).find(|at| votes[*at] > 0)?;
        let agreeing = named.iter().filter(|name| name.is_some() && **name == ids[leader]).count();
        (votes.iter().sum::<usize>() == 1 && agreeing * 2 > running.len()).then_some(leader)
    }

    /// Waits for a leader.
    ///
    /// # Panics
    /// When there never is one.
    #[must_use]
    pub fn leader(&self) -> usize {
        wait_until("the group has a leader", || self.find_leader())
    }

    /// The place of a running member that doesn't lead.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        self.running().into_iter().find(|at| *at != leader).expect("a follower")
    }

    /// Waits until the running members all serve, all are voters, and none lags far.
    ///
    /// # Panics
    /// When that doesn't come to be.
    pub fn wait_settled(&mut self) {
        for at in self.running() {
            self.members[at].wait_ready();
        }
        let expected = self.running().len();
        wait_until("every running member is a voter and healthy, and no change is under way", || {
            let leader = self.find_leader()?;
            let view = self.members[leader].ask("/v1/members").ok()?.json();
            let members = view["members"].as_array().filter(|_| view["changing"] == false)?;
            let well = |member: &&Json| {
                member["voter"] == true && member["lag"].as_u64().unwrap_or(0) < 100 && is_healthy(member)
            };
            (members.iter().filter(well).count() >= expected).then_some(())
        });
    }

    /// Hands leadership to the member at `to`, or to any, and waits until it has gone. A member that has just started
    /// can't take it yet: then it is asked again.
    ///
    /// # Panics
    /// When it never goes.
    pub fn transfer_leader(&self, to: Option<usize>) -> usize {
        let from = self.leader();
        let id = to.map(|at| self.members[at].id());
        let mut asked = None;
        let handed_over = wait_for(PATIENCE, || {
            let leader = self.find_leader()?;
            if leader != from && (to.is_none() || to == Some(leader)) {
                return Some(leader);
            }
            let answer = http::post(self.members[leader].admin, "/v1/leader", &json!({ "to": id })).ok()?;
            let done = answer.is_ok();
            asked = Some(answer);
            // What is told as done is done: the next look must find it, without asking again.
            done.then(|| self.leader())
        });
        match handed_over {
            Some(leader) => leader,
            None => panic!("leadership never moved, the last answer: {asked:?}"),
        }
    }

    /// Waits until every running member has applied what the leader has applied by now.
    ///
    /// # Panics
    /// When a member stays behind.
    pub fn wait_caught_up(&self) {
        let caught_up = wait_for(PATIENCE, || {
            let leader = self.find_leader()?;
            let target = self.members[leader].status()?["applied"].as_u64()?;
            let reached = |at: &usize| {
                let applied = self.members[*at].status().and_then(|status| status["applied"].as_u64());
                applied.is_some_and(|applied| applied >= target)
            };
            self.running().iter().all(reached).then_some(())
        });
        assert!(caught_up.is_some(), "a running member never caught up with the leader");
    }
}

/// Whether a row of `/v1/members` tells of no trouble.
#[must_use]
pub fn is_healthy(member: &Json) -> bool {
    member["health"] == "ok"
}
