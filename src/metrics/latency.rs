//! The latency monitor: spikes of named events that reached `latency-monitor-threshold`, as LATENCY shows them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

const KEPT: usize = 160;

/// Spikes of one event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// `(unix seconds, milliseconds)`, oldest first; one sample a second at most, the worst of it.
    pub samples: VecDeque<(u64, u64)>,
    /// The worst ever.
    pub max_ms: u64,
}

/// The latency monitor.
#[derive(Debug, Default)]
pub struct LatencyMonitor {
    threshold_ms: AtomicU64,
    events: Mutex<BTreeMap<&'static str, Event>>,
}

impl LatencyMonitor {
    /// Sets `latency-monitor-threshold`; 0 is off.
    pub fn configure(&self, threshold_ms: u64) {
        self.threshold_ms.store(threshold_ms, Relaxed);
    }

    /// Keeps the event if it was slow enough.
    pub fn record(&self, event: &'static str, took_ms: u64, now_s: u64) {
        let threshold = self.threshold_ms.load(Relaxed);
        if threshold == 0 || took_ms < threshold {
            return;
        }
        let mut events = self.events.lock();
        let event = events.entry(event).or_default();
        event.max_ms = event.max_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((at, worst)) if *at == now_s => *worst = (*worst).max(took_ms),
            _ => event.samples.push_back((now_s, took_ms)),
        }
        if event.samples.len() > KEPT {
            event.samples.pop_front();
        }
    }

    /// All events, by name.
    pub fn events(&self) -> Vec<(&'static str, Event)> {
        self.events.lock().iter().map(|(name, event)| (*name, event.clone())).collect()
    }

    /// One event's spikes.
    pub fn event(&self, name: &str) -> Option<Event> {
        self.events.lock().get(name).cloned()
    }

    /// Forgets the named events, or all; answers how many there were.
    pub fn reset(&self, names: &[&str]) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        if names.is_empty() {
            events.clear();
        } else {
            events.retain(|name, _| !names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        }
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spikes_are_kept_and_the_worst_of_each_second() {
        let monitor = LatencyMonitor::default();
        monitor.record("command", 500, 1);
        monitor.configure(100);
        for (took, at) in [(99, 1), (100, 1), (300, 1), (200, 1), (150, 2)] {
            monitor.record("command", took, at);
        }
        let event = monitor.event("command").unwrap();
        assert_eq!(event.samples, [(1, 300), (2, 150)]);
        assert_eq!(event.max_ms, 300);
        assert_eq!(monitor.reset(&["other"]), 0);
        assert_eq!(monitor.reset(&[]), 1);
    }
}
