//! `quorate restore` and `quorate recover`: work on the directory of a member that doesn't run.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::http;
use crate::node::offline::{self, Made, Report};

/// Make a new group out of a backup
///
/// The new group has one member, a UUID of its own and all the data of the backup. Start it with quorate serve --dir
/// DIR; others then join it with --join.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    file: PathBuf,
    /// Data directory of the new member; it must be empty or not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Answer with JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (made, facts) = offline::restore(&self.file, &self.dir)?;
        if self.json {
            http::print_json(&json!({ "made": made, "backup": facts }));
            return Ok(());
        }
        println!("{} holds a new group now, with {} keys.\n", self.dir.display(), facts.keys);
        print!("{}", next_steps(&made, &self.dir));
        Ok(())
    }
}

/// Make a group of one out of what one member has, when the majority is gone for ever
///
/// Without --accept-data-loss it changes nothing, and tells what the directory holds and what can't be known from it.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// Data directory of a member that doesn't run
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Do it, knowing that writes that were acknowledged may be lost
    #[arg(long)]
    accept_data_loss: bool,
    /// Answer with JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        if let Some(kept) = offline::resume(&self.dir)? {
            if self.json {
                http::print_json(&json!({ "resumed": true, "kept": kept }));
            } else {
                println!(
                    "The recovery of {dir} that was broken off is finished. What was there before: {}",
                    kept.display()
                );
            }
            return Ok(());
        }
        if !self.accept_data_loss {
            let report = offline::examine(&self.dir)?;
            if self.json {
                http::print_json(&json!({ "found": report }));
            } else {
                print!("{}", words(&report, &self.dir));
            }
            bail!(
                "nothing was changed. If the majority is gone for ever and no other directory holds more, run it again \
                 with --accept-data-loss"
            );
        }
        let (made, report) = offline::recover(&self.dir)?;
        if self.json {
            http::print_json(&json!({ "found": report, "made": made }));
            return Ok(());
        }
        print!("{}", words(&report, &self.dir));
        println!("\n{dir} holds a new group of one now.\n");
        print!("{}", next_steps(&made, &self.dir));
        Ok(())
    }
}

/// What is known, and what is not.
fn words(report: &Report, dir: &Path) -> String {
    let (last, term) = (report.last_index, report.last_term);
    let number = |number: Option<u64>| number.map_or("nothing".to_owned(), |number| format!("entry {number}"));
    let mut out = format!("{} was member {} of the group {}.\n\n", dir.display(), report.member, report.group);
    match &report.lost_log {
        None => drop(writeln!(out, "  log         ends with entry {last} of term {term}")),
        Some(words) => drop(writeln!(out, "  log         DAMAGED, and not used: {words}")),
    }
    let _ = writeln!(out, "  committed   {} or more", number(report.committed));
    let _ = writeln!(out, "  checkpoint  {}", number(report.checkpoint));
    let _ = writeln!(out, "  data        {} keys", report.keys);
    if let Some(words) = &report.damaged {
        let _ = writeln!(out, "  DAMAGED     {words}");
    }
    for (id, peer, votes) in &report.members {
        let _ = writeln!(out, "  member {id}    {peer}{}", if *votes { "" } else { ", without a vote" });
    }
    if report.lost_log.is_some() {
        let _ = writeln!(
            out,
            "\nWhat would be lost: all that is only in the log, which is everything behind entry {last}. The log is kept as it\n\
             is; what of it is whole is told by quorate log verify --dir {}.",
            dir.display()
        );
    }
    out.push_str("\nWhat can't be known from it:\n");
    let _ = writeln!(
        out,
        "  - Whether the others acknowledged more to clients than what is here. All behind entry {last} is lost."
    );
    let committed = report.committed.unwrap_or(0);
    if committed < last {
        let _ = writeln!(
            out,
            "  - Whether the last {} entries ({} to {last}) were ever acknowledged. They are kept, and count as done.",
            last - committed,
            committed + 1
        );
    }
    let _ = writeln!(
        out,
        "  - Whether another directory that is left holds more. Run this for each of them, and recover the one whose\n    \
         log ends with the highest term, and among those with the highest entry (here: term {term}, entry {last})."
    );
    out.push_str(
        "  - Whether a majority of the old group runs somewhere after all. Then don't recover: it would go on, and the\n    \
         two would differ for ever.\n",
    );
    out
}

fn next_steps(made: &Made, dir: &Path) -> String {
    let dir = dir.display();
    let mut out = format!("  group   {}, member {}, up to entry {}\n", made.group, made.member, made.index);
    if let Some(kept) = &made.kept {
        let _ = writeln!(out, "  before  what was there is kept in {}: remove it when you are sure", kept.display());
    }
    let _ = writeln!(out, "  start   quorate serve --dir {dir} with the settings that it had or is to have");
    let _ = writeln!(
        out,
        "  others  start each with an empty directory and --join http://HOST:ADMIN-PORT; members of the old group, too"
    );
    out
}
