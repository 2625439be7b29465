//! Backups that a member takes of itself, every so often, into a directory, and how many of them stay.
//!
//! A failure is told, counted, and tried again; it never touches what the member serves. Only files whose names say that
//! this member of this group made them are ever removed, and never the one that was just written. Which of them is older
//! is told by the position in the log, never by a clock: that may have been wrong.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quorate_raft::Group;

use super::{Existing, Facts, Source, save, utc};
use crate::config::Settings;
use crate::env::Env;
use crate::metrics::Metrics;

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A failed one is tried again after so long, or after the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(300);
/// How long it may take until this member has a state to give.
const PATIENCE: Duration = Duration::from_secs(20);
/// Members that are started together take their first ones within so long of each other, and a quarter of the interval:
/// each is loaded by a process of its own, and not all at the same moment.
const SPREAD: Duration = Duration::from_secs(600);

/// Takes backups as the settings say, for as long as the process runs.
pub fn start(group: Group, settings: Settings, env: Arc<dyn Env>, metrics: Arc<Metrics>) {
    let Some(dir) = settings.backup_dir() else { return };
    tokio::spawn(async move {
        let names = Names::new(&group, dir);
        let mut rhythm = Rhythm::new(group.member_id(), Instant::now(), names.age_of_newest());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Asked each time: it may be changed while this waits.
            let interval = settings.backup_interval();
            let begun = Instant::now();
            if begun < rhythm.due(interval) {
                continue;
            }
            rhythm.begin(begun, interval);
            metrics.backups.begun();
            match take(&group, &names, &settings, &*env).await {
                Ok((path, facts)) => {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    tracing::info!(file = %path.display(), facts.keys, facts.bytes, facts.index, took_ms,
                        "a backup was written, and loaded by a process of its own");
                    metrics.backups.done(env.wall_ms() / 1000, facts.bytes, begun.elapsed());
                }
                Err(error) => {
                    tracing::error!("the backup failed, and is tried again: {error:#}");
                    metrics.backups.failed();
                    rhythm.failed = Some(Instant::now());
                }
            }
        }
    });
}

/// When the next one is due.
struct Rhythm {
    started: Instant,
    /// This member's share of [`SPREAD`].
    share: f64,
    /// When the last one was due that was begun.
    last: Option<Instant>,
    /// When that failed, if it did.
    failed: Option<Instant>,
}

impl Rhythm {
    /// A member that was away for a while goes on with the rhythm that its last file shows.
    fn new(member: u64, started: Instant, age: Option<Duration>) -> Self {
        // The golden ratio: ids that follow each other, however many, fall far apart.
        let share = (member as f64 * 0.618_033_988_75).fract();
        Self { started, share, last: age.and_then(|age| started.checked_sub(age)), failed: None }
    }

    fn due(&self, interval: Duration) -> Instant {
        if let Some(failed) = self.failed {
            return failed + interval.min(RETRY);
        }
        let first = self.started + SPREAD.min(interval / 4).mul_f64(self.share);
        self.last.map_or(first, |last| first.max(last + interval))
    }

    /// One is begun. The next is counted from when this one was due, unless that is long ago: looking now and then must
    /// not add up.
    fn begin(&mut self, now: Instant, interval: Duration) {
        let due = self.due(interval);
        self.last = Some(if now.duration_since(due) < 2 * LOOK_EVERY { due } else { now });
        self.failed = None;
    }
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

    /// The names of this member's files, and where they are.
    fn ours(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
        named.filter(|(name, _)| name.starts_with(&self.prefix))
    }

    /// Those that are whole, the oldest first: by the position in the log, which only grows. The time in a name is that of
    /// a clock, which may have been ahead.
    fn all(&self) -> Vec<PathBuf> {
        let age = |name: &str| {
            let (when, index) = name.strip_prefix(&self.prefix)?.strip_suffix(".backup")?.rsplit_once('-')?;
            Some((index.parse::<u64>().ok()?, when.to_owned()))
        };
        let mut found: Vec<_> = self.ours().filter_map(|(name, path)| Some((age(&name)?, path))).collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// For how long there has been the newest.
    fn age_of_newest(&self) -> Option<Duration> {
        self.all().last()?.metadata().ok()?.modified().ok()?.elapsed().ok()
    }

    /// Removes what was left half done.
    fn remove_parts(&self) {
        self.ours().filter(|(name, _)| name.ends_with(".part")).for_each(|(_, path)| remove(&path));
    }

    /// Removes all but the newest `keep`, of which the one that was just written is one.
    fn retain(&self, keep: usize, just: &Path) {
        let mut others = self.all();
        others.retain(|path| path != just);
        let old = &others[..others.len().saturating_sub(keep.saturating_sub(1))];
        old.iter().for_each(|path| remove(path));
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!(file = %path.display(), "an old backup was removed"),
        Err(error) => tracing::warn!(file = %path.display(), %error, "an old backup could not be removed"),
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
    names.remove_parts();
    // One of the same name is of the same member, position and second.
    let facts = save(path, Paced(source.into_read()), |_, _, _| ())?.commit(Existing::Replaced)?;
    names.retain(keep, path);
    if !path.is_file() {
        bail!("{} was written and is gone again: what else removes files there?", path.display());
    }
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

    const PREFIX: &str = "quorate-abcd0123-m2-";

    fn left(names: &Names) -> Vec<String> {
        names.all().iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect()
    }

    #[test]
    fn the_newest_stay_and_files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { dir: dir.path().to_owned(), prefix: PREFIX.to_owned() };
        for (taken, index) in [(3_000_000, 7), (1_000_000, 5), (2_000_000, 6), (4_000_000, 8)] {
            fs::write(names.path(taken, index), "x").unwrap();
        }
        let others = [
            "quorate-abcd0123-m1-19700101T000000Z-1.backup",
            "quorate-ffff0123-m2-x.backup",
            "quorate-abcd0123-m2-kept.backup",
            "mine.backup",
        ];
        for name in others {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        for part in ["9.backup.part", "9.backup.0f0f0f0f.part"] {
            fs::write(dir.path().join(format!("{PREFIX}19700101T000000Z-{part}")), "x").unwrap();
        }
        names.remove_parts();
        names.retain(2, &names.path(4_000_000, 8));
        let newest = ["quorate-abcd0123-m2-19700101T005000Z-7.backup", "quorate-abcd0123-m2-19700101T010640Z-8.backup"];
        assert_eq!(left(&names), newest);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), newest.len() + others.len());
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_make_what_is_new_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { dir: dir.path().to_owned(), prefix: PREFIX.to_owned() };
        let in_2036 = 2_095_000_000_000;
        for index in 90..100 {
            fs::write(names.path(in_2036 + index * 1000, index), "x").unwrap();
        }
        let just = names.path(1_763_697_401_000, 100);
        fs::write(&just, "x").unwrap();
        assert_eq!(names.all().last(), Some(&just));
        names.retain(2, &just);
        assert_eq!(names.all(), [names.path(in_2036 + 99_000, 99), just]);
        // Whatever the names say, what was just written stays.
        let just = names.path(1_763_697_402_000, 1);
        fs::write(&just, "x").unwrap();
        names.retain(1, &just);
        assert_eq!(names.all(), [just]);
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_interval_is_counted_from_when_the_last_was_due_and_what_is_set_counts_at_once() {
        let start = Instant::now() + 100 * HOUR;
        let mut rhythm = Rhythm::new(1, start, Some(HOUR));
        let due = start + 23 * HOUR;
        assert_eq!(rhythm.due(24 * HOUR), due);
        // It is looked a little later, and takes long: neither moves the next one.
        rhythm.begin(due + LOOK_EVERY, 24 * HOUR);
        assert_eq!(rhythm.due(24 * HOUR), due + 24 * HOUR);
        assert_eq!(rhythm.due(HOUR), due + HOUR, "a new interval counts from the same beginning");
        // One that comes much too late begins a new rhythm.
        rhythm.begin(due + 30 * HOUR, 24 * HOUR);
        assert_eq!(rhythm.due(24 * HOUR), due + 54 * HOUR);
        rhythm.failed = Some(due + 31 * HOUR);
        assert_eq!(rhythm.due(24 * HOUR), due + 31 * HOUR + RETRY);
    }

    #[test]
    fn members_that_are_started_together_begin_apart() {
        let start = Instant::now();
        let first = |member| Rhythm::new(member, start, None).due(24 * HOUR).duration_since(start);
        let mut firsts: Vec<Duration> = (1..=5).map(first).collect();
        firsts.sort();
        assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] > SPREAD / 12), "{firsts:?}");
        assert!(firsts[4] < SPREAD);
    }
}
