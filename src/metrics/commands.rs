//! Calls, time and failures per command, in arrays indexed by the command's dense number in the catalogue.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::Histogram;

/// What is counted for one command.
#[derive(Debug, Default)]
pub struct CommandStat {
    calls: AtomicU64,
    nanos: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    /// Made at the first call: most commands are never called.
    latency: OnceLock<Histogram>,
}

impl CommandStat {
    /// Calls that ran.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }
    /// Nanoseconds spent in them.
    pub fn nanos(&self) -> u64 {
        self.nanos.load(Relaxed)
    }
    /// Calls refused before they ran.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }
    /// Calls that ran and answered with an error.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
    /// The distribution of their time, if there was a call.
    pub fn latency(&self) -> Option<&Histogram> {
        self.latency.get().filter(|h| h.count() > 0)
    }
}

/// One [`CommandStat`] per command and subcommand.
#[derive(Debug)]
pub struct CommandStats {
    stats: Box<[CommandStat]>,
}

impl CommandStats {
    /// For `commands` commands.
    pub fn new(commands: usize) -> Self {
        Self { stats: (0..commands).map(|_| CommandStat::default()).collect() }
    }

    /// Counts `calls` calls that took `nanos` together: a run of the same command in a pipeline is one event.
    pub fn called(&self, index: usize, calls: u64, nanos: u64) {
        let Some(stat) = self.stats.get(index).filter(|_| calls > 0) else {
            return;
        };
        stat.calls.fetch_add(calls, Relaxed);
        stat.nanos.fetch_add(nanos, Relaxed);
        stat.latency.get_or_init(Histogram::new).record_many(nanos / calls, calls);
    }

    /// Counts a call that was refused (arity, permission, state).
    pub fn rejected(&self, index: usize) {
        if let Some(stat) = self.stats.get(index) {
            stat.rejected.fetch_add(1, Relaxed);
        }
    }

    /// Counts a call that answered with an error.
    pub fn failed(&self, index: usize) {
        if let Some(stat) = self.stats.get(index) {
            stat.failed.fetch_add(1, Relaxed);
        }
    }

    /// The counts of one command.
    pub fn get(&self, index: usize) -> Option<&CommandStat> {
        self.stats.get(index)
    }

    /// All counts, in order of index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &CommandStat)> {
        self.stats.iter().enumerate()
    }

    /// Calls of all commands together.
    pub fn total_calls(&self) -> u64 {
        self.stats.iter().map(CommandStat::calls).sum()
    }

    /// Back to zero.
    pub fn reset(&self) {
        for stat in &self.stats {
            for counter in [&stat.calls, &stat.nanos, &stat.rejected, &stat.failed] {
                counter.store(0, Relaxed);
            }
            if let Some(histogram) = stat.latency.get() {
                histogram.reset();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_as_its_calls_and_unknown_indexes_are_ignored() {
        let stats = CommandStats::new(2);
        stats.called(1, 16, 32_000);
        stats.called(1, 0, 5);
        stats.called(9, 1, 1);
        stats.rejected(0);
        stats.failed(1);
        let one = stats.get(1).unwrap();
        assert_eq!((one.calls(), one.nanos(), one.failed()), (16, 32_000, 1));
        assert!(one.latency().unwrap().quantile(0.99) >= 2000);
        assert!(stats.get(0).unwrap().latency().is_none());
        assert_eq!(stats.total_calls(), 16);
        stats.reset();
        assert_eq!(stats.total_calls(), 0);
        assert!(stats.get(1).unwrap().latency().is_none());
    }
}
