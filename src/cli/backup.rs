//! `quorate backup`: a running group's data to a file, and the check of such a file.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Target;
use super::http::{self, Client, Problem};
use super::progress::Line;
use super::table::bytes;
use crate::admin::api::{ApiError, MembersView};
use crate::backup::{self, Existing, Facts, FileError, Saved};

/// Save the data of a running group to a file, or check such a file
///
/// The backup is taken of a follower, holds everything that was acknowledged before, and is loaded by a process of its
/// own before it gets its name. Until then it is called FILE.*.part, and that is what stays of one that was killed. It
/// holds the secret seed of the group's hashes: keep it as you keep the data.
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
        /// Give way to everything else on this machine, and be the first to end when its memory runs out
        #[arg(long)]
        give_way: bool,
    },
}

impl Backup {
    pub(super) fn run(&self) -> Result<(), Problem> {
        match (&self.action, &self.file) {
            (Some(Action::Verify { file, give_way }), _) => {
                if *give_way {
                    backup::give_way();
                }
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
        let path = after.map_or_else(|| "/v1/backup".to_owned(), |after| format!("/v1/backup?after={after}"));
        let mut line = Line::new();
        let saved = first_good(self.sources(asked, &members)?, file, &path, &mut line)?;
        line.show("loading it in a process of its own");
        let facts = saved.commit(Existing::Kept)?;
        line.end("");
        show(&facts, self.target.json, &format!("{} is written, synced, and was loaded.", file.display()));
        Ok(())
    }

    /// Who is asked, in this order: followers, the best first, and then the member that was named, for there may be none
    /// of them, or only members may reach their addresses.
    fn sources(&self, asked: Client, members: &MembersView) -> Result<Vec<(String, Client)>, Problem> {
        let mut followers: Vec<_> = members
            .members
            .iter()
            .filter(|member| Some(member.id) != members.leader && member.health == "ok" && !self.here)
            .collect();
        followers.sort_by_key(|member| std::cmp::Reverse((member.voter, member.applied)));
        let streaming = |base: &str| Client::streaming(base, self.target.token.clone());
        let mut sources = Vec::new();
        for member in followers {
            sources.push((format!("member {}", member.id), streaming(&format!("http://{}", member.admin))?));
        }
        if sources.iter().all(|(_, client)| client.base() != asked.base()) {
            sources.push((asked.base().to_owned(), streaming(asked.base())?));
        }
        Ok(sources)
    }
}

/// The stream of the first that gives it to its end, saved.
fn first_good(sources: Vec<(String, Client)>, file: &Path, path: &str, line: &mut Line) -> Result<Saved, Problem> {
    let mut last: Option<(String, Problem)> = None;
    for (from, client) in sources {
        if let Some((from, problem)) = last.take() {
            eprintln!("{from} gives no backup: {problem}");
        }
        let input = match client.stream(path) {
            Ok(input) => input,
            Err(problem) => {
                last = Some((from, problem));
                continue;
            }
        };
        let saved = backup::save(file, input, |chunks, of, size| {
            let percent = (chunks * 100).checked_div(of).unwrap_or(100);
            line.show(&format!("{percent:>3} % of a backup from {from}, {}", bytes(size)));
        });
        match saved {
            Ok(saved) => return Ok(saved),
            // What came is at fault, not the disk here.
            Err(FileError::Backup { source, .. }) => {
                line.end("");
                let words = format!("what {from} gave is no whole backup: {source}");
                let hint = "nothing of it was kept: take it again, once the members are well (quorate status)";
                last = Some((from, refused("broken_off", words, hint)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let nobody = || refused("no_member", "there is no member to ask".to_owned(), "give --admin URL of one that runs");
    Err(last.map_or_else(nobody, |(_, problem)| problem))
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
            FileError::Exists { .. } => ("exists", "the backup that was just taken is gone; choose another name"),
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
