//! The slow log: the last commands that took longer than `slowlog-log-slower-than`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Redis keeps at most this many arguments of an entry …
const MAX_ARGS: usize = 32;
/// … and this many bytes of each.
const MAX_ARG_BYTES: usize = 128;

/// One slow command.
#[derive(Clone, Debug)]
pub struct SlowEntry {
    /// Rising, never reused while the process runs.
    pub id: u64,
    /// Unix seconds when it ran.
    pub at_s: u64,
    /// Microseconds it took.
    pub took_us: u64,
    /// Its arguments, cut short.
    pub args: Vec<Vec<u8>>,
    /// Who sent it.
    pub addr: String,
    /// Name of that connection.
    pub name: String,
}

/// The slow log.
#[derive(Debug)]
pub struct SlowLog {
    threshold_us: AtomicI64,
    max_len: AtomicU64,
    log: Mutex<(u64, VecDeque<SlowEntry>)>,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self { threshold_us: AtomicI64::new(10_000), max_len: AtomicU64::new(128), log: Mutex::default() }
    }
}

impl SlowLog {
    /// Sets `slowlog-log-slower-than` (microseconds; negative: off) and `slowlog-max-len`.
    pub fn configure(&self, threshold_us: i64, max_len: u64) {
        self.threshold_us.store(threshold_us, Relaxed);
        self.max_len.store(max_len, Relaxed);
        self.log.lock().1.truncate(max_len as usize);
    }

    /// Whether a command of that length is to be kept. Ask this before gathering what [`Self::push`] needs.
    pub fn wants(&self, took_us: u64) -> bool {
        let threshold = self.threshold_us.load(Relaxed);
        threshold >= 0 && took_us >= threshold as u64 && self.max_len.load(Relaxed) > 0
    }

    /// Keeps a command, and the number of those that ran with it as one.
    pub fn push<A: AsRef<[u8]>>(
        &self,
        at_s: u64,
        took_us: u64,
        (args, others): (&[A], usize),
        addr: String,
        name: String,
    ) {
        let mut args = shorten(args);
        if others > 0 {
            args.push(format!("... ({others} more commands)").into_bytes());
        }
        let mut log = self.log.lock();
        let id = log.0;
        log.0 += 1;
        log.1.push_front(SlowEntry { id, at_s, took_us, args, addr, name });
        let max = self.max_len.load(Relaxed) as usize;
        log.1.truncate(max);
    }

    /// The newest `count` entries, newest first.
    pub fn newest(&self, count: usize) -> Vec<SlowEntry> {
        self.log.lock().1.iter().take(count).cloned().collect()
    }

    /// How many are kept now.
    pub fn len(&self) -> usize {
        self.log.lock().1.len()
    }

    /// None is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all; ids go on.
    pub fn reset(&self) {
        self.log.lock().1.clear();
    }
}

fn shorten<A: AsRef<[u8]>>(args: &[A]) -> Vec<Vec<u8>> {
    let kept = if args.len() > MAX_ARGS { MAX_ARGS - 1 } else { args.len() };
    let mut out: Vec<Vec<u8>> = args[..kept]
        .iter()
        .map(|arg| {
            let arg = arg.as_ref();
            match arg.len().checked_sub(MAX_ARG_BYTES) {
                Some(more) if more > 0 => {
                    let mut cut = arg[..MAX_ARG_BYTES].to_vec();
                    cut.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                    cut
                }
                _ => arg.to_vec(),
            }
        })
        .collect();
    if kept < args.len() {
        out.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_counts_on_after_reset() {
        let log = SlowLog::default();
        assert!(!log.wants(9_999) && log.wants(10_000));
        log.configure(0, 2);
        assert!(log.wants(0));
        for i in 0..3u64 {
            log.push(i, i, (&["get", "k"], 0), String::new(), String::new());
        }
        assert_eq!(log.newest(10).iter().map(|e| e.id).collect::<Vec<_>>(), [2, 1]);
        log.reset();
        log.push(0, 0, (&["get"], 5), String::new(), String::new());
        assert_eq!(log.newest(1)[0].id, 3);
        assert_eq!(log.newest(1)[0].args, [&b"get"[..], b"... (5 more commands)"]);
        log.configure(-1, 2);
        assert!(!log.wants(u64::MAX));
    }

    #[test]
    fn long_commands_are_cut_as_redis_cuts_them() {
        let args: Vec<Vec<u8>> = (0..40).map(|i| vec![b'a'; if i == 1 { 200 } else { 3 }]).collect();
        let cut = shorten(&args);
        assert_eq!(cut.len(), 32);
        assert_eq!(cut[31], b"... (9 more arguments)");
        assert!(cut[1].ends_with(b"a... (72 more bytes)"));
    }
}
