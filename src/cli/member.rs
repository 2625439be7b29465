//! `quorate member`: who is in the group.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Target;
use super::http::{self, Client, Problem};
use super::progress;
use super::status::members_table;
use crate::admin::api::{AddMember, AddedView, MembersView, WantedRole};

/// List, add, remove and promote members
#[derive(Debug, Args)]
pub(super) struct MemberCommand {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the members, how far each is, and how it is doing
    List,
    /// Give a new member its place, before it is started
    ///
    /// 'quorate serve --join URL' does this by itself; adding it first shows the new member's progress here.
    Add(Add),
    /// Give a learner a vote, once it has caught up
    Promote {
        /// Its id
        id: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a member out for good; its id is never used again
    Remove {
        /// Its id
        id: u64,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// Where clients will reach it
    #[arg(value_name = "HOST:PORT")]
    client: String,
    /// Where the other members will reach it [default: the same host, port + 10000]
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<String>,
    /// Where its admin HTTP will be [default: the same host, port + 1000]
    #[arg(long = "admin-address", value_name = "HOST:PORT")]
    admin_address: Option<String>,
    /// It is to get the log without a vote
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct Wait {
    /// Do not wait until it has caught up
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

impl Wait {
    fn follow(&self, client: &Client, id: u64, votes: bool, runs: bool) -> Result<(), Problem> {
        if self.no_wait { Ok(()) } else { progress::follow(client, id, votes, runs, Duration::from_secs(self.wait)) }
    }
}

impl MemberCommand {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let client = self.target.client()?;
        let json = self.target.json;
        match &self.action {
            Action::List => {
                let answer = client.get("/v1/members")?;
                if json {
                    http::print_json(&answer);
                } else {
                    print!("{}", members_table(&http::view::<MembersView>(&client, answer)?));
                }
            }
            Action::Add(add) => add.run(&client, json)?,
            Action::Promote { id, wait } => {
                let answer = client.post(&format!("/v1/members/{id}/promote"), &serde_json::json!({}))?;
                wait.follow(&client, *id, true, true)?;
                done(json, &answer, &format!("Member {id} votes."));
            }
            Action::Remove { id } => {
                let answer = client.delete(&format!("/v1/members/{id}"))?;
                let text = format!(
                    "Member {id} is no longer in the group. Stop it and delete its data directory; to take the machine \
                     in again, start it with an empty directory and --join."
                );
                done(json, &answer, &text);
            }
        }
        Ok(())
    }
}

fn done(json: bool, answer: &serde_json::Value, text: &str) {
    if json { http::print_json(answer) } else { println!("{text}") }
}

impl Add {
    fn run(&self, client: &Client, json: bool) -> Result<(), Problem> {
        let beside = |given: &Option<String>, offset: u16| match given {
            Some(address) => Ok(address.clone()),
            None => beside(&self.client, offset).ok_or_else(|| Problem::Url {
                url: self.client.clone(),
                why: "it must be HOST:PORT, and the ports beside it must exist",
            }),
        };
        let wish = AddMember {
            peer: beside(&self.peer, 10_000)?,
            client: self.client.clone(),
            admin: beside(&self.admin_address, 1_000)?,
            role: if self.learner { WantedRole::Learner } else { WantedRole::Voter },
        };
        let answer = client.post("/v1/members", &wish)?;
        let added: AddedView = http::view(client, answer.clone())?;
        if !json {
            println!("Member {} has its place in the group. If it does not run yet, start it:\n", added.id);
            println!("  {}\n", start_command(&wish, client.base()));
        }
        self.wait.follow(client, added.id, !self.learner, false)?;
        if json {
            http::print_json(&answer);
        }
        Ok(())
    }
}

fn beside(address: &str, offset: u16) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(offset)?;
    Some(format!("{host}:{port}"))
}

fn start_command(wish: &AddMember, admin: &str) -> String {
    let port = wish.client.rsplit_once(':').map_or("", |(_, port)| port);
    let role = if wish.role == WantedRole::Learner { " --join-as learner" } else { "" };
    format!("quorate serve --dir DIR --port {port} --peer {} --admin {} --join {admin}{role}", wish.peer, wish.admin)
}
