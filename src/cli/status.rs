//! `quorate status`: one member, and the group as it sees it.

use clap::Args;

use super::Target;
use super::http::{self, Problem};
use super::table::{bytes, duration, table};
use crate::admin::api::{MemberView, MembersView, StatusView};

/// Show a member and its group
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) target: Target,
}

impl Status {
    pub(super) fn run(&self) -> Result<(), Problem> {
        let client = self.target.client()?;
        let answer = client.get("/v1/status")?;
        if self.target.json {
            http::print_json(&answer);
            return Ok(());
        }
        let status: StatusView = http::view(&client, answer)?;
        let members = client.get("/v1/members").and_then(|answer| http::view::<MembersView>(&client, answer));
        let leader = status.leader.map_or("none is known".to_owned(), |id| format!("member {id}"));
        println!("Group {}, term {}, leader: {leader}\n", status.group, status.term);
        match members {
            Ok(members) => print!("{}", members_table(&members)),
            // The member itself answers, so what it says of itself is worth showing.
            Err(problem) => println!("  The members cannot be listed: {problem}"),
        }
        println!("\nMember {} ({}), asked at {}", status.id, status.role, client.base());
        println!("  version     {}, process {}, up {}", status.version, status.pid, duration(status.uptime_seconds));
        println!("  keys        {}", status.keys);
        println!(
            "  log         up to {}, committed {}, applied {}, checkpoint at {}",
            status.last_log, status.committed, status.applied, status.snapshot
        );
        if let Some(failed) = &status.failed {
            println!("  FAILED      {failed}");
        }
        Ok(())
    }
}

/// The members, one a line.
pub(super) fn members_table(view: &MembersView) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rows: Vec<Vec<String>> = view
        .members
        .iter()
        .map(|member| {
            vec![
                member.id.to_string(),
                member.role.clone(),
                if member.voter { "yes" } else { "no" }.to_owned(),
                health(member),
                number(member.applied),
                number(member.lag),
                member.client.clone(),
                member.peer.clone(),
                member.admin.clone(),
            ]
        })
        .collect();
    let mut text = table(&["member", "role", "vote", "health", "applied", "lag", "clients", "peers", "admin"], &rows);
    if view.removed {
        text.push_str(
            "  The member that was asked was removed from the group, and shows it as it was then: ask another one \
             (--admin).\n",
        );
    }
    if view.changing {
        text.push_str(
            "  The members are being changed: until that is done, a majority of the old voters is needed as well.\n",
        );
    }
    text
}

fn health(member: &MemberView) -> String {
    match &member.progress {
        Some(progress) if progress.total > 0 => {
            let percent = (progress.bytes.min(progress.total) * 100) / progress.total;
            format!("catching up: {percent} % of {}", bytes(progress.total))
        }
        Some(progress) => format!("catching up: {}", bytes(progress.bytes)),
        None => member.health.clone(),
    }
}
