//! `quorate dev`: what a new user starts first.

use crate::BINARY;
use quorate_testkit::load::Load;
use quorate_testkit::ports::PortBlock;
use quorate_testkit::process::Process;
use quorate_testkit::{Conn, PATIENCE, Value, http, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;

struct Dev {
    process: Option<Process>,
    ports: PortBlock,
    dir: TempDir,
    starts: usize,
}

impl Dev {
    fn new() -> Dev {
        Dev { process: None, ports: PortBlock::take_base(), dir: tempfile::tempdir().expect("a folder"), starts: 0 }
    }

    fn start(&mut self, more: &[&str]) {
        self.starts += 1;
        let mut command = Command::new(BINARY);
        command.args(["dev", "--members", "3", "--base-port", &self.ports.first().to_string(), "--dir"]);
        command.arg(self.dir.path().join("group")).args(["--restart-after", "1"]).args(more);
        let output = self.dir.path().join(format!("output-{}", self.starts));
        self.process = Some(Process::spawn_group(command, &output).expect("it starts"));
        for at in 0..3 {
            wait_until("every member is ready", || {
                if let Some(status) = self.process().ended() {
                    panic!("the supervisor ended with {status}");
                }
                (http::get(self.admin(at), "/readyz").ok()?.status == 200).then_some(())
            });
        }
        wait_until("every member votes", || {
            let members = http::get(self.admin(0), "/v1/members").ok()?.json();
            let voters = members["members"].as_array()?.iter().filter(|member| member["voter"] == true);
            (voters.count() == 3 && self.leader().is_some()).then_some(())
        });
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running supervisor")
    }

    fn client(&self, at: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.first() + at))
    }

    fn admin(&self, at: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.first() + 1000 + at))
    }

    fn pid(&self, at: u16) -> Option<i32> {
        http::get(self.admin(at), "/v1/status").ok()?.json()["pid"].as_i64()?.try_into().ok()
    }

    fn leader(&self) -> Option<u16> {
        (0..3).find(|at| http::get(self.admin(*at), "/v1/status").is_ok_and(|answer| answer.json()["role"] == "leader"))
    }

    /// Ctrl-C: the terminal signals the whole group.
    fn interrupt(&mut self) -> String {
        self.process().signal(Signal::INT);
        let status = self.process().wait_end(PATIENCE).expect("it stops");
        let output = self.process().output();
        assert!(status.success(), "it ended with {status}: {output}");
        for at in 0..3 {
            assert!(Conn::open(self.client(at)).is_err(), "member {at} is gone with it");
        }
        self.process = None;
        output
    }
}

#[test]
fn a_killed_member_is_seen_and_started_again_and_ctrl_c_ends_all_with_the_data_kept() {
    let mut dev = Dev::new();
    dev.start(&[]);
    let introduction = dev.process().output();
    for at in 0..3 {
        let pid = dev.pid(at).expect("a process id").to_string();
        assert!(introduction.contains(&pid), "its table tells the process ids: {introduction}");
        assert!(introduction.contains(&dev.client(at).port().to_string()), "and where to connect: {introduction}");
    }
    assert!(introduction.contains("redis-cli -p"), "and how: {introduction}");

    let addrs: Vec<SocketAddr> = (0..3).map(|at| dev.client(at)).collect();
    let load = Load::start(10, &addrs);
    load.wait_progress(100);
    let leader = wait_until("somebody leads", || dev.leader());
    let killed = dev.pid(leader).expect("a process id");
    kill_process(Pid::from_raw(killed).expect("an id"), Signal::KILL).expect("it was there");
    load.wait_progress(100);
    wait_until("the member is started again", || dev.pid(leader).filter(|pid| *pid != killed));
    load.wait_progress(100);
    let books = load.stop();
    let said = dev.interrupt();
    assert!(said.len() > introduction.len(), "it tells what happened: {said}");

    dev.start(&[]);
    books.check(&mut Conn::open(dev.client(1)).expect("a connection"));
    dev.interrupt();

    dev.start(&["--fresh"]);
    let mut conn = Conn::open(dev.client(2)).expect("a connection");
    assert_eq!(conn.cmd("DBSIZE").unwrap(), Value::Int(0), "--fresh begins anew");
    dev.interrupt();
}

#[test]
fn a_member_is_left_dead_on_request() {
    let mut dev = Dev::new();
    dev.start(&["--no-restart"]);
    let leader = wait_until("somebody leads", || dev.leader());
    let killed = dev.pid(leader).expect("a process id");
    kill_process(Pid::from_raw(killed).expect("an id"), Signal::KILL).expect("it was there");
    wait_until("another leads", || dev.leader().filter(|now| *now != leader));
    let other = dev.client((leader + 1) % 3);
    for number in 1..=200 {
        assert_eq!(Conn::open(other).unwrap().cmd("INCR n").unwrap(), Value::Int(number));
    }
    assert_eq!(dev.pid(leader), None, "it stays dead");
    let said = dev.interrupt();
    assert!(said.contains("All have stopped. ") && !said.contains("with an error"), "its end was told before: {said}");
}

#[test]
fn the_command_line_shows_members_and_moves_the_leader() {
    let mut dev = Dev::new();
    dev.start(&[]);
    let admin = format!("http://{}", dev.admin(0));
    let run = |args: &[&str]| {
        let output = Command::new(BINARY).args(args).output().expect("it runs");
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        said
    };
    let list = run(&["member", "list", "--admin", &admin]);
    for at in 0..3 {
        assert!(list.contains(&dev.client(at).port().to_string()), "{list}");
    }
    let json: serde_json::Value = serde_json::from_str(&run(&["member", "list", "--json", "--admin", &admin])).unwrap();
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3), "{json}");
    let leader = wait_until("somebody leads", || dev.leader());
    let target = (leader + 1) % 3;
    let id = http::get(dev.admin(target), "/v1/status").unwrap().json()["id"].to_string();
    run(&["leader", "transfer", &id, "--admin", &admin]);
    wait_until("the chosen one leads", || (dev.leader()? == target).then_some(()));
    let status = run(&["status", "--admin", &admin]);
    assert!(status.contains("leader"), "{status}");
    let help = Command::new(BINARY).args(["serve", "--help"]).output().expect("it runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in ["--bootstrap", "--join", "--dir", "--port", "--config", "--check-config", "--requirepass"] {
        assert!(help.contains(flag), "{flag} is missing in --help");
    }
    dev.interrupt();
}
