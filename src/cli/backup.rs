//! `quorate backup`: a running group's data to a file, and the check of such a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Target;
use super::http::{self, Client, Problem};
use super::progress::Line;
use super::table::bytes;
use crate::admin::api::{ApiError, MembersView};
use crate::backup::{self, Facts, FileError};

/// Save the data of a running group to a file, or check such a file
///
/// The backup is taken of a follower, holds everything that was acknowledged before, and is loaded by a process of its
/// own before it gets its name. It holds the secret seed of the group's hashes: keep it as you keep the data.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Backup {
    #[command(flatten)]
    pub(super) target: Target,
    #[command(subcommand)]
    action: Option<Action>,
    /// The file to write
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Take it of the member at --admin, even if it leads
    #[arg(long)]
    here: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a backup: every byte, and that its data can be loaded
    Verify {
        /// The file
        file: PathBuf,
    },
}

impl Backup {
    pub(super) fn run(&self) -> Result<(), Problem> {
        match (&self.action, &self.file) {
            (Some(Action::Verify { file }), _) => {
                let facts = backup::verify(file)?;
                show(&facts, self.target.json, &format!("{} is whole and can be loaded.", file.display()));
                Ok(())
            }
            (None, Some(file)) => self.take(file),
            // clap asks for one of them.
            (None, None) => Ok(()),
        }
    }

    fn take(&self, file: &Path) -> Result<(), Problem> {
        if file.exists() {
            return Err(refused("exists", format!("{} exists already", file.display()), "choose another name"));
        }
        let asked = self.target.client()?;
        let members: MembersView = http::view(&asked, asked.get("/v1/members")?)?;
        let after = members.members.iter().filter_map(|member| member.applied).max();
        let (from, input) = self.open(&asked, &members, after)?;
        let mut line = Line::new();
        let saved = backup::save(file, input, |chunks, of, size| {
            let percent = (chunks * 100).checked_div(of).unwrap_or(100);
            line.show(&format!("{percent:>3} % of a backup from {from}, {}", bytes(size)));
        })?;
        line.show("loading it in a process of its own");
        let facts = saved.commit()?;
        line.end("");
        show(&facts, self.target.json, &format!("{} is written, synced, and was loaded.", file.display()));
        Ok(())
    }

    /// The stream of the best follower; of the member that was named, where there is none or it does not answer.
    fn open(
        &self,
        asked: &Client,
        members: &MembersView,
        after: Option<u64>,
    ) -> Result<(String, impl Read + use<>), Problem> {
        let path = after.map_or_else(|| "/v1/backup".to_owned(), |after| format!("/v1/backup?after={after}"));
        let mut followers: Vec<_> = members
            .members
            .iter()
            .filter(|member| Some(member.id) != members.leader && member.health == "ok" && !self.here)
            .collect();
        followers.sort_by_key(|member| std::cmp::Reverse((member.voter, member.applied)));
        for member in followers {
            let client = Client::streaming(&format!("http://{}", member.admin), self.target.token.clone())?;
            match client.stream(&path) {
                Ok(input) => return Ok((format!("member {}", member.id), input)),
                // Its address may be one that only members reach.
                Err(problem) => eprintln!("member {} gives no backup: {problem}", member.id),
            }
        }
        let client = Client::streaming(asked.base(), self.target.token.clone())?;
        Ok((asked.base().to_owned(), client.stream(&path)?))
    }
}

fn refused(code: &str, message: String, hint: &str) -> Problem {
    Problem::Refused(ApiError::new(0, code, message, hint))
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let (code, hint) = match &error {
            FileError::Backup { .. } | FileError::Unloadable { .. } => {
                ("bad_backup", "use an older backup, or take another one: this file cannot be restored")
            }
            FileError::Io { .. } => ("file", "check the path, the permissions and the room on the disk"),
            FileError::Rehearsal { .. } => ("rehearsal", "the file was removed; take the backup again"),
        };
        refused(code, error.to_string(), hint)
    }
}

fn show(facts: &Facts, json: bool, words: &str) {
    if json {
        http::print_json(&json!(facts));
        return;
    }
    let Facts { group, member, program, index, term, databases, .. } = facts;
    let filled = databases.iter().filter(|keys| **keys > 0).count();
    println!("{words}\n");
    println!("  group     {group}, given by member {member}, {program}");
    println!("  position  entry {index} of the log, term {term}");
    println!("  taken     {}", backup::utc(facts.taken_ms));
    println!("  data      {} keys in {filled} of {} databases", facts.keys, databases.len());
    println!("  file      {} bytes, sha-256 {} (without its end frame)", facts.bytes, facts.sha256);
}
