//! Directories of members that don't run: a new group out of a backup, or out of what one member still has.
//!
//! The new group is made in a folder of its own inside the directory and synced; one rename then says that it is whole,
//! and only after that it is moved into its place. Broken off before, nothing has changed; broken off later, the next
//! call finishes it. What was there before is kept.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use quorate_keyspace::Keyspace;
use quorate_raft::{Member, NewGroup, Place, Survey, begin_group, survey};
use quorate_storage::backup::Reader;
use quorate_storage::checkpoint::CheckpointConfig;
use quorate_storage::disk::{Disk as _, OsDisk};
use quorate_storage::identity::DataDir;
use quorate_storage::wal::{Inspection, WalConfig};
use serde::Serialize;

use super::GROUP;
use super::identity::{self, Found, LOG_DIR, NEW_GROUP};
use super::rebuild::is_damage;
use crate::backup::{self, Facts};
use crate::engine::{self, Engine};
use crate::env::SystemEnv;
use crate::metrics::Metrics;
use crate::server::catalog;

const IDENTITY: &str = "IDENTITY";
const CHECKPOINT: &str = "checkpoint";
/// What makes a member of a directory, in the order in which it is moved: who it is comes last.
const PARTS: [&str; 3] = [LOG_DIR, CHECKPOINT, IDENTITY];

/// Says why a member must not start: its data was damaged. What is made of it by hand may.
const DAMAGED: &str = "group-1.damaged";

/// A group of one that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Its UUID.
    pub group: String,
    /// The id of its member.
    pub member: u64,
    /// Index of the last entry of the old log that is in it.
    pub index: u64,
    /// Where what was in the directory before is kept now.
    pub kept: Option<PathBuf>,
}

/// What a directory holds, and what can't be known from it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// UUID of the group.
    pub group: String,
    /// The member that it belongs to.
    pub member: u64,
    /// The last entry in its log.
    pub last_index: u64,
    /// That entry's term.
    pub last_term: u64,
    /// The last entry that is known here to be committed.
    pub committed: Option<u64>,
    /// What its checkpoint holds.
    pub checkpoint: Option<u64>,
    /// Why the log is not used, if it is damaged or gone: what is told of entries is what the checkpoint holds then.
    pub lost_log: Option<String>,
    /// Keys in all databases.
    pub keys: u64,
    /// Why the member had stopped itself for good, if it had.
    pub damaged: Option<String>,
    /// Members of the group: id, address for peers, whether it votes.
    pub members: Vec<(u64, String, bool)>,
}

fn place(dir: &Path) -> Place {
    Place {
        dir: dir.to_owned(),
        disk: Arc::new(OsDisk),
        wal: WalConfig::default(),
        checkpoint: CheckpointConfig::default(),
    }
}

/// Makes a new group of one out of a backup. The directory must not belong to a member.
///
/// # Errors
/// If the file can't be loaded, the directory is in use, or the disk says no; in words for an operator.
pub fn restore(file: &Path, dir: &Path) -> anyhow::Result<(Made, Facts)> {
    // Before anything is written: a file that can't be loaded must not become a group.
    let facts = backup::verify(file)?;
    let lock = DataDir::open(Arc::new(OsDisk), dir)?;
    // What a restore that was broken off has left is written anew.
    let ours = ["LOCK".to_owned(), format!("{NEW_GROUP}.part")];
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name) {
            bail!(
                "{} is not empty: there is {name} in it. Give a directory that is empty or does not exist",
                dir.display()
            );
        }
    }
    let open = || File::open(file).map(|file| BufReader::with_capacity(1 << 20, file));
    let mut reader = Reader::open(open()?)?;
    let head = reader.head().clone();
    let found = identity::of_new_group(1);
    let new = NewGroup {
        identity: found.identity(),
        member: Member::default(),
        at: (head.term, head.leader, head.index),
        gone: BTreeSet::new(),
        next_member: 2,
    };
    let chunks = std::iter::from_fn(|| reader.next_chunk().map_err(io::Error::other).transpose());
    let part = begin(dir, &new, &head.state, chunks)?;
    let (group, member) = (found.cluster.to_string(), found.member);
    let kept = finish(dir, &part, found)?;
    drop(lock);
    Ok((Made { group, member, index: head.index, kept }, facts))
}

/// Looks at the directory of a member that doesn't run, and tells what it holds.
///
/// # Errors
/// If it holds no member, or is in use or damaged; in words for an operator.
pub fn examine(dir: &Path) -> anyhow::Result<Report> {
    let (lock, found) = member_of(dir)?;
    Ok(report(dir, &found, &look(&lock, &found)?))
}

/// Makes a group of one out of what a member's directory holds.
///
/// # Errors
/// As [`examine`].
pub fn recover(dir: &Path) -> anyhow::Result<(Made, Report)> {
    let (lock, old) = member_of(dir)?;
    let survey = look(&lock, &old)?;
    let report = report(dir, &old, &survey);
    let found = identity::of_new_group(old.member);
    let others = survey.members.iter().map(|(id, ..)| *id).filter(|id| *id != old.member);
    let own = survey.members.iter().find(|(id, ..)| *id == old.member);
    let new = NewGroup {
        identity: found.identity(),
        member: own.map(|(_, member, _)| member.clone()).unwrap_or_default(),
        at: survey.last,
        gone: others.chain(survey.removed().iter().copied()).filter(|id| *id != old.member).collect(),
        next_member: survey.next_member(),
    };
    let view = &survey.view;
    let chunks = view.chunks().map(|(id, _)| {
        let mut bytes = Vec::new();
        view.encode(id, &mut bytes);
        Ok((id, bytes))
    });
    let part = begin(dir, &new, &view.header(), chunks)?;
    let (group, member) = (found.cluster.to_string(), found.member);
    let kept = finish(dir, &part, found)?;
    Ok((Made { group, member, index: report.last_index, kept }, report))
}

/// Ends a recovery that was broken off after its new group was whole. `None`: there was none.
///
/// # Errors
/// What the file system says.
pub fn resume(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !dir.join(NEW_GROUP).exists() {
        return Ok(None);
    }
    let _lock = DataDir::open(Arc::new(OsDisk), dir)?;
    Ok(Some(move_in(dir)?.unwrap_or_else(|| dir.to_owned())))
}

/// Why the member of a directory would not start, although log and checkpoint may be sound in themselves.
///
/// # Errors
/// If that can't be told: another version wrote it, or the disk does not answer.
pub fn problems(dir: &DataDir) -> anyhow::Result<Vec<String>> {
    let wrong = match log_problem(dir) {
        Err(error) if is_damage(&error) => Some(format!("{error:#}")),
        found => found?,
    };
    let nobody = "the file IDENTITY, which says whose directory it is, is missing".to_owned();
    let nobody = matches!(dir.identity(), Ok(None)).then_some(nobody);
    let marked = damage_noted(dir.path()).map(|words| format!("this member has stopped itself for good: {words}"));
    Ok(nobody.into_iter().chain(wrong).chain(marked).collect())
}

/// Why the log in a directory can't be that of its member: it is gone, or another's.
///
/// # Errors
/// As [`problems`], and if the directory does not say whose it is.
pub fn log_problem(dir: &DataDir) -> anyhow::Result<Option<String>> {
    let Some(found) = identity::read(dir)? else { return Ok(None) };
    match identity::check_log(dir, &found) {
        Err(error) if is_damage(&error) => Ok(Some(format!("{error:#}"))),
        checked => checked.map(|()| None),
    }
}

fn damage_noted(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join(DAMAGED)).ok().map(|words| words.trim().to_owned())
}

fn member_of(dir: &Path) -> anyhow::Result<(DataDir, Found)> {
    if !dir.exists() {
        bail!("there is no directory {}", dir.display());
    }
    let lock = DataDir::open(Arc::new(OsDisk), dir)?;
    let found = identity::read(&lock)?.with_context(|| format!("{} holds no member", dir.display()))?;
    Ok((lock, found))
}

/// Reads all that is there, and changes nothing of it.
fn look(dir: &DataDir, member: &Found) -> anyhow::Result<Survey> {
    let metrics = Arc::new(Metrics::new(catalog().names()));
    let engine = Arc::new(Engine::new(Keyspace::new(1, [0, 0]), Arc::new(SystemEnv), metrics));
    let (wrong, path) = (log_problem(dir)?, dir.path());
    let part = new_part(path)?;
    let copy = part.join(CHECKPOINT);
    let copied = copy_store(&path.join(CHECKPOINT), &copy)
        .with_context(|| format!("cannot copy the checkpoint to {}, to read it there", copy.display()));
    let found = copied.and_then(|()| {
        survey(&place(path), &copy, wrong, member.cluster, GROUP, engine).with_context(|| {
            format!(
                "what {} holds can't be recovered, and nothing was changed: look for another directory of the group",
                path.display()
            )
        })
    });
    fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    found?.with_context(|| format!("{} holds a member that never got anything from its group", path.display()))
}

/// Opening a store changes it, if only to make room for what comes next.
fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_store(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn report(dir: &Path, found: &Found, survey: &Survey) -> Report {
    let (last_term, _, last_index) = survey.last;
    Report {
        group: found.cluster.to_string(),
        member: found.member,
        last_index,
        last_term,
        committed: survey.committed,
        checkpoint: survey.checkpoint,
        lost_log: survey.lost_log.clone(),
        damaged: damage_noted(dir),
        keys: engine::keys_by_database(&*survey.view).iter().sum(),
        members: survey.members.iter().map(|(id, member, votes)| (*id, member.peer.clone(), *votes)).collect(),
    }
}

/// An empty folder for what is made here; nothing of it counts before it has another name.
fn new_part(dir: &Path) -> anyhow::Result<PathBuf> {
    let part = dir.join(format!("{NEW_GROUP}.part"));
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    fs::create_dir(&part).with_context(|| format!("cannot make {}", part.display()))?;
    Ok(part)
}

/// Writes the new group beside what is there.
fn begin(
    dir: &Path,
    new: &NewGroup,
    header: &[u8],
    chunks: impl Iterator<Item = io::Result<(u128, Vec<u8>)>>,
) -> anyhow::Result<PathBuf> {
    let part = new_part(dir)?;
    let begun = begin_group(&place(&part), GROUP, new, header, chunks);
    if begun.is_err() {
        // Most likely the disk is full: what is of no use must not keep it so.
        let _ = fs::remove_dir_all(&part);
    }
    begun.with_context(|| {
        format!("cannot write the new group to {}; what there was of it is removed", part.display())
    })?;
    Ok(part)
}

/// Says that the new group is whole, and moves it into its place.
fn finish(dir: &Path, part: &Path, found: Found) -> anyhow::Result<Option<PathBuf>> {
    let inner = DataDir::open(Arc::new(OsDisk), part)?;
    let salt = Inspection::salt(&OsDisk, &part.join(LOG_DIR))?;
    inner.save(&found.with_log(salt).stored())?;
    drop(inner);
    fs::rename(part, dir.join(NEW_GROUP)).context("cannot rename the new group")?;
    sync_dir(dir)?;
    move_in(dir)
}

fn move_in(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let new = dir.join(NEW_GROUP);
    let mut kept = None;
    for name in PARTS.into_iter().filter(|name| new.join(name).exists()) {
        let (from, to) = (new.join(name), dir.join(name));
        if to.exists() {
            let old = old_folder(dir, name)?;
            fs::rename(&to, old.join(name)).with_context(|| format!("cannot move {}", to.display()))?;
            sync_dir(&old)?;
            kept = Some(old);
        }
        fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        sync_dir(dir)?;
    }
    let damaged = dir.join(DAMAGED);
    if damaged.exists() {
        fs::rename(&damaged, old_folder(dir, DAMAGED)?.join(DAMAGED)).context("cannot move the note of the damage")?;
    }
    fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    sync_dir(dir)?;
    Ok(kept)
}

/// A folder for what was in the directory, that has no such part yet.
fn old_folder(dir: &Path, part: &str) -> anyhow::Result<PathBuf> {
    let mut names = (1..).map(|n| dir.join(format!("before-recovery-{n}")));
    let old = names.find(|old| !old.join(part).exists()).context("no name is left")?;
    fs::create_dir_all(&old).with_context(|| format!("cannot make {}", old.display()))?;
    Ok(old)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> anyhow::Result<()> {
    OsDisk.sync_dir(dir).with_context(|| format!("cannot sync {}", dir.display()))
}
