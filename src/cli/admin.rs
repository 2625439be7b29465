//! `quorate leader`, `quorate snapshot` and `quorate check`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Target;
use super::http::{self, Problem};
use crate::admin::api::{ApiError, CheckView, MembersView, TransferTo};

/// See and move leadership
#[derive(Debug, Args)]
pub(super) struct LeaderCommand {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(subcommand)]
    action: Option<Leadership>,
}

#[derive(Debug, Subcommand)]
enum Leadership {
    /// Hand leadership over, to a member or to the one that is most up to date
    Transfer {
        /// Who is to lead
        id: Option<u64>,
    },
}

impl LeaderCommand {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let client = self.target.client()?;
        if let Some(Leadership::Transfer { id }) = &self.action {
            let answer = client.post("/v1/leader", &TransferTo { to: *id })?;
            if self.target.json {
                http::print_json(&answer);
                return Ok(());
            }
        }
        let members: MembersView = http::view(&client, client.get("/v1/members")?)?;
        if self.target.json {
            http::print_json(&json!({ "leader": members.leader, "term": members.term }));
            return Ok(());
        }
        match members.leader.and_then(|id| members.members.iter().find(|member| member.id == id)) {
            Some(leader) => println!("Member {} leads in term {}: {}", leader.id, members.term, leader.client),
            None => println!("No leader is known in term {}.", members.term),
        }
        Ok(())
    }
}

/// Take a checkpoint on a member now
#[derive(Debug, Args)]
pub(super) struct Snapshot {
    #[command(flatten)]
    pub(super) target: Target,
}

impl Snapshot {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let answer = self.target.patient_client()?.post("/v1/snapshot", &json!({}))?;
        if self.target.json {
            http::print_json(&answer);
        } else {
            println!("The checkpoint is on disk.");
        }
        Ok(())
    }
}

/// Compare what all members hold, now
///
/// Every member computes a digest of its data at the same position of the log. One that differs from a majority of the
/// voters stops. The group does this by itself every now and then (check-interval).
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    pub(super) target: Target,
}

impl Check {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let client = self.target.patient_client()?;
        let answer = client.post("/v1/check", &json!({}))?;
        if self.target.json {
            http::print_json(&answer);
        }
        let view: CheckView = http::view(&client, answer)?;
        if !self.target.json {
            println!("Compared at entry {} of the log.\n", view.index);
            for member in &view.members {
                let reason = member.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                println!("  member {}  {}{reason}", member.id, member.result);
            }
        }
        if view.same {
            return Ok(());
        }
        Err(Problem::Refused(ApiError::new(
            0,
            "not_the_same",
            "not all members are known to hold the same",
            "one that differs was told to stop: remove it, empty its directory and let it join again; ask again for those \
             that are unknown",
        )))
    }
}
