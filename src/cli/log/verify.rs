//! `quorate log verify`: whether a stopped member's directory is whole, and what is lost if it is not.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use quorate_raft::inspect::{self as raft, CheckpointFacts};
use quorate_storage::checkpoint::{CheckpointConfig, CheckpointError, CheckpointStore};
use quorate_storage::identity::DataDir;
use quorate_storage::wal::{Inspection, LostEntries};
use serde_json::json;
use uuid::Uuid;

use super::{From, GROUP, dump, lost, open, read_log};
use crate::cli::table::bytes;
use crate::node::offline;

/// Where the raft room keeps its checkpoints.
const CHECKPOINT_DIR: &str = "checkpoint";

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    source: From,
}

/// A checkpoint that was read through.
struct Checkpoint {
    epoch: u64,
    chunks: u64,
    bytes: u64,
    facts: CheckpointFacts,
}

/// All that was found.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    damage: Vec<String>,
    cost: Vec<String>,
}

impl Verify {
    /// False if something is damaged.
    pub(super) fn run(&self) -> anyhow::Result<bool> {
        let dir = open(&self.source.dir)?;
        let mut report = Report::default();
        // What is wrong with it is among the problems.
        let identity = dir.identity().ok().flatten();
        report.lines.push(match &identity {
            Some(identity) => format!("Directory of member {}", identity.member_id),
            None => "Directory of a member that is not known".to_owned(),
        });
        report.damage.extend(offline::problems(&dir)?);
        let log = read_log(&dir)?;
        report.take_log(&log);
        let store = dir.path().join(CHECKPOINT_DIR);
        let checkpoint = report.take_checkpoint(&store, read_checkpoint(&store))?;
        report.same_group(identity.map(|identity| identity.group_uuid), checkpoint.as_ref());
        report.compare(&dir, &log, checkpoint.as_ref());
        self.tell(&report);
        Ok(report.damage.is_empty())
    }

    fn tell(&self, report: &Report) {
        let sound = report.damage.is_empty();
        if self.source.json {
            let all = json!({ "sound": sound, "found": report.lines, "damage": report.damage, "cost": report.cost });
            println!("{}", serde_json::to_string_pretty(&all).unwrap_or_default());
            return;
        }
        report.lines.iter().for_each(|line| println!("{line}"));
        if sound {
            println!("Sound: a start of this member would go on with all of it.");
            return;
        }
        println!("DAMAGED:");
        report.damage.iter().for_each(|line| println!("  {line}"));
        println!("What it costs:");
        report.cost.iter().for_each(|line| println!("  {line}"));
    }
}

impl Report {
    fn take_log(&mut self, log: &Inspection) {
        self.lines.push(format!("Log: {} files in use, {} batches, {}", log.segments, log.batches, bytes(log.bytes)));
        for (id, group) in &log.groups {
            let entries = group.entries.map_or("no entries".to_owned(), |(first, last)| format!("{first} to {last}"));
            let purged = group.purged.as_ref().map_or(String::new(), |(upto, _)| format!(", purged up to {upto}"));
            self.lines.push(format!("  group {id}: entries {entries}{purged}"));
            if let Err(problem) = group.vote.clone().map(raft::vote).transpose() {
                self.damage.push(format!("the vote of group {id}: {problem}"));
            }
            for index in log.entries(*id) {
                if let Err(problem) = dump::check(log, *id, index) {
                    self.damage.push(format!("entry {index} of group {id}: {problem}"));
                }
            }
        }
        if let Some((path, offset)) = &log.torn {
            self.lines.push(format!(
                "  torn tail in {} at offset {offset}: a write that was never synced; the next start cuts it off. With \
                 appendfsync always it was never acknowledged, and nothing is lost by that",
                path.display()
            ));
        }
        self.damage.extend(log.damage.iter().map(ToString::to_string));
        if !log.damage.is_empty() {
            self.cost.extend(log.lost.iter().map(|(group, lost)| cost(*group, lost)));
            if log.lost.is_empty() {
                self.cost.push("what the damaged place held can't be told: entries, or a vote".to_owned());
            }
        }
    }

    fn take_checkpoint(
        &mut self,
        store: &Path,
        found: Result<Option<Checkpoint>, CheckpointError>,
    ) -> anyhow::Result<Option<Checkpoint>> {
        match found {
            Ok(None) => self.lines.push("Checkpoint: none yet".to_owned()),
            Ok(Some(checkpoint)) => {
                self.lines.push(format!(
                    "Checkpoint: epoch {}, everything up to entry {}, {} chunks, {}; its digest is right",
                    checkpoint.epoch,
                    checkpoint.facts.last.map_or(0, |last| last.index),
                    checkpoint.chunks,
                    bytes(checkpoint.bytes)
                ));
                return Ok(Some(checkpoint));
            }
            // Another version wrote it, or the disk does not answer: that is no damage, and nothing is to be rebuilt.
            Err(error) if !error.is_damage() => return Err(error).context(store.display().to_string()),
            Err(error) => {
                self.damage.push(format!("{}: {error}", store.display()));
                self.cost
                    .push("the checkpoint can't be used: what is in it and not in the log is lost here".to_owned());
            }
        }
        Ok(None)
    }

    /// The checkpoint is one of the group that the directory belongs to.
    fn same_group(&mut self, group: Option<[u8; 16]>, checkpoint: Option<&Checkpoint>) {
        let (Some(mine), Some(checkpoint)) = (group.map(Uuid::from_bytes), checkpoint) else { return };
        self.damage.extend(raft::of_another_group(checkpoint.facts.cluster, mine));
    }

    /// The log goes on where the checkpoint ends, or before; and what to do if anything is wrong.
    fn compare(&mut self, dir: &DataDir, log: &Inspection, checkpoint: Option<&Checkpoint>) {
        let purged = log.groups.get(&GROUP).and_then(|group| group.purged.as_ref()).map(|(upto, _)| *upto);
        let held = checkpoint.and_then(|checkpoint| checkpoint.facts.last).map(|last| last.index);
        self.damage.extend(raft::gap(purged, held));
        self.damage.extend(lost(dir, log, held));
        if !self.damage.is_empty() {
            self.cost.push(
                "this member must not go on under its id: it may have promised what it no longer knows. The group has \
                 everything as long as a majority of the others is sound: start it with --rebuild and --join to take it \
                 in anew"
                    .to_owned(),
            );
        }
    }
}

fn cost(group: u64, lost: &LostEntries) -> String {
    let range = match lost.to {
        Some(to) => format!("entries {} to {to}", lost.from),
        None => format!("entries from {} on", lost.from),
    };
    match lost.acknowledged.filter(|to| *to >= lost.from) {
        Some(to) => format!(
            "group {group}: {range} are in the damaged place or behind it; this member had acknowledged them up to {to}"
        ),
        None => {
            format!("group {group}: {range} are behind the damage, none of them surely acknowledged by this member")
        }
    }
}

fn read_checkpoint(path: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    if !path.join("db").exists() {
        return Ok(None);
    }
    let store = CheckpointStore::open(path, CheckpointConfig::default())?;
    let Some(loaded) = store.load(GROUP)? else { return Ok(None) };
    let corrupt = |what| CheckpointError::Corrupt { group: GROUP, what };
    let facts = raft::checkpoint(loaded.manifest.clone()).map_err(corrupt)?;
    let (epoch, chunks, bytes) = (loaded.epoch, loaded.chunk_count, loaded.bytes);
    for chunk in loaded.chunks {
        chunk?;
    }
    Ok(Some(Checkpoint { epoch, chunks, bytes, facts }))
}
