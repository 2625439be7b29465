//! Backups that a member takes of itself, every so often, into a directory, and how many of them stay.
//!
//! A failure is told, counted, and tried again; it never touches what the member serves. Only files whose names say that
//! this member of this group made them are ever removed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use quorate_raft::Group;

use super::{Facts, Source, save, utc};
use crate::config::Settings;
use crate::env::Env;
use crate::metrics::Metrics;

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A failed one is tried again after so long, or after the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(300);
/// How long it may take until this member has a state to give.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes backups as the settings say, for as long as the process runs.
pub fn start(group: Group, settings: Settings, env: Arc<dyn Env>, metrics: Arc<Metrics>) {
    let Some(dir) = settings.backup_dir() else { return };
    tokio::spawn(async move {
        let names = Names::new(&group, dir);
        let mut next = first(&names, &settings);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if next.since.elapsed() < next.wait {
                continue;
            }
            metrics.backups.begun();
            let begun = Instant::now();
            let made = take(&group, &names, &settings, &*env).await;
            let interval = settings.backup_interval();
            match made {
                Ok((path, facts)) => {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    tracing::info!(file = %path.display(), facts.keys, facts.bytes, facts.index, took_ms,
                        "a backup was written, and loaded by a process of its own");
                    metrics.backups.done(env.wall_ms() / 1000, facts.bytes, begun.elapsed());
                    next = Due::after(interval);
                }
                Err(error) => {
                    tracing::error!("the backup failed, and is tried again: {error:#}");
                    metrics.backups.failed();
                    next = Due::after(interval.min(RETRY));
                }
            }
        }
    });
}

/// When the next one is due.
struct Due {
    since: Instant,
    wait: Duration,
}

impl Due {
    fn after(wait: Duration) -> Self {
        Self { since: Instant::now(), wait }
    }
}

/// A member that was away for a while goes on with the rhythm that its last file shows.
fn first(names: &Names, settings: &Settings) -> Due {
    let age = names.all().last().and_then(|path| path.metadata().ok()?.modified().ok()?.elapsed().ok());
    Due::after(age.map_or(Duration::ZERO, |age| settings.backup_interval().saturating_sub(age)))
}

/// The files of one member.
#[derive(Clone)]
struct Names {
    dir: PathBuf,
    prefix: String,
}

impl Names {
    fn new(group: &Group, dir: PathBuf) -> Self {
        let group_id: String = group.cluster().to_string().chars().take(8).collect();
        Self { dir, prefix: format!("quorate-{group_id}-m{}-", group.member_id()) }
    }

    fn path(&self, taken_ms: u64, index: u64) -> PathBuf {
        let when: String = utc(taken_ms).chars().filter(|c| !matches!(c, '-' | ':')).collect();
        self.dir.join(format!("{}{when}-{index}.backup", self.prefix))
    }

    fn with(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let ours = |name: &str| name.starts_with(&self.prefix) && name.ends_with(ending);
        let mut found: Vec<PathBuf> =
            entries.filter(|entry| entry.file_name().to_str().is_some_and(ours)).map(|entry| entry.path()).collect();
        // The time in the name sorts.
        found.sort();
        found
    }

    /// Those that are whole, the oldest first.
    fn all(&self) -> Vec<PathBuf> {
        self.with(".backup")
    }

    /// Removes what was left half done, and all but the newest `keep`.
    fn tidy(&self, keep: usize) {
        let all = self.all();
        let old = &all[..all.len().saturating_sub(keep)];
        for path in self.with(".backup.part").iter().chain(old) {
            match fs::remove_file(path) {
                Ok(()) => tracing::info!(file = %path.display(), "an old backup was removed"),
                Err(error) => tracing::warn!(file = %path.display(), %error, "an old backup could not be removed"),
            }
        }
    }
}

async fn take(group: &Group, names: &Names, settings: &Settings, env: &dyn Env) -> anyhow::Result<(PathBuf, Facts)> {
    let state = group.capture(None, PATIENCE).await?;
    let (taken_ms, keep) = (env.wall_ms(), settings.backup_keep());
    let path = names.path(taken_ms, state.index);
    let source = Source::new(*group.cluster().as_bytes(), group.member_id(), taken_ms, state);
    let (job_names, job_path) = (names.clone(), path.clone());
    let facts = tokio::task::spawn_blocking(move || write(&job_names, &job_path, source, keep)).await??;
    Ok((path, facts))
}

/// Blocks.
fn write(names: &Names, path: &Path, source: Source, keep: usize) -> anyhow::Result<Facts> {
    fs::create_dir_all(&names.dir).with_context(|| format!("cannot make {}", names.dir.display()))?;
    names.tidy(usize::MAX);
    let facts = save(path, Paced(source.into_read()), |_, _, _| ())?.commit()?;
    names.tidy(keep);
    Ok(facts)
}

/// Rests as long as it works: the member has clients to serve.
struct Paced<R>(R);

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let begun = Instant::now();
        let read = self.0.read(buffer);
        std::thread::sleep(begun.elapsed());
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { dir: dir.path().to_owned(), prefix: "quorate-abcd0123-m2-".to_owned() };
        for (taken, index) in [(3_000_000, 7), (1_000_000, 5), (2_000_000, 6), (4_000_000, 8)] {
            fs::write(names.path(taken, index), "x").unwrap();
        }
        let others = ["quorate-abcd0123-m1-19700101T000000Z-1.backup", "quorate-ffff0123-m2-x.backup", "mine.backup"];
        for name in others {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::write(dir.path().join("quorate-abcd0123-m2-19700101T000000Z-9.backup.part"), "x").unwrap();
        names.tidy(2);
        let left: Vec<String> =
            names.all().iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
        assert_eq!(
            left,
            ["quorate-abcd0123-m2-19700101T005000Z-7.backup", "quorate-abcd0123-m2-19700101T010640Z-8.backup"]
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), left.len() + others.len());
    }
}
