//! The backups that this member takes of itself.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::histogram::{Counter, Gauge};
use super::text::Page;

/// What came of them.
#[derive(Debug)]
pub struct Backups {
    /// Those that were written and loaded.
    pub made: Counter,
    /// Those that could not be.
    pub failures: Counter,
    /// Unix seconds of the last good one; 0 if there was none.
    pub last_s: Gauge,
    /// Its bytes.
    pub last_bytes: Gauge,
    /// Milliseconds that it took.
    pub last_took_ms: Gauge,
    running: AtomicBool,
    last_failed: AtomicBool,
}

impl Backups {
    pub(super) fn new() -> Self {
        Self {
            made: Counter::new(),
            failures: Counter::new(),
            last_s: Gauge::new(),
            last_bytes: Gauge::new(),
            last_took_ms: Gauge::new(),
            running: AtomicBool::new(false),
            last_failed: AtomicBool::new(false),
        }
    }

    /// One is under way.
    pub fn begun(&self) {
        self.running.store(true, Relaxed);
    }

    /// It was written and loaded.
    pub fn done(&self, at_s: u64, bytes: u64, took: Duration) {
        self.made.inc();
        self.last_s.set(at_s);
        self.last_bytes.set(bytes);
        self.last_took_ms.set(took.as_millis() as u64);
        self.last_failed.store(false, Relaxed);
        self.running.store(false, Relaxed);
    }

    /// It could not be.
    pub fn failed(&self) {
        self.failures.inc();
        self.last_failed.store(true, Relaxed);
        self.running.store(false, Relaxed);
    }

    /// Whether one is under way.
    pub fn running(&self) -> bool {
        self.running.load(Relaxed)
    }

    /// Whether the last one failed.
    pub fn last_failed(&self) -> bool {
        self.last_failed.load(Relaxed)
    }

    pub(super) fn write(&self, page: &mut Page) {
        let gauge = |value: &Gauge| value.get() as f64;
        page.counter(
            "quorate_backups_total",
            "Backups that this member took of itself, and that were loaded",
            self.made.get(),
        );
        page.counter("quorate_backup_failures_total", "Backups that failed", self.failures.get());
        page.gauge("quorate_backup_running", "1 while a backup is taken", f64::from(self.running()));
        page.gauge("quorate_backup_last_time_seconds", "Unix time of the last good backup", gauge(&self.last_s));
        page.gauge("quorate_backup_last_bytes", "Bytes of the last good backup", gauge(&self.last_bytes));
    }
}
