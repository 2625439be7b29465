//! How fast a checkpoint is written: so slowly that nobody feels it, and so fast that it is done in time.
//!
//! A checkpoint is on schedule while the part of it that is written is not below the part of its time that has gone by.
//! Time here is what the log has grown, so that a group with more writes has faster checkpoints, and falling behind makes
//! it faster still: the log can't outgrow it. Where little is written, clocks count instead. Nothing here looks at either;
//! whoever writes says what it sees.

use std::time::Duration;

use crate::config::Limits;

/// Work in one go: so much waits at most behind it for the processor and for the disk.
pub(crate) const STEP_BYTES: usize = 16 << 10;
/// The pause while a checkpoint is ahead of its schedule.
pub(crate) const REST: Duration = Duration::from_millis(4);
/// Even where nobody writes it is not slower than this.
const LEAST_RATE: u64 = 4 << 20;
/// States smaller than this don't make it faster.
const LEAST_STATE: u64 = 4 << 20;
/// So far behind its schedule it is no longer a work of the background.
const LATE: f64 = 0.1;

/// What there is to see in the middle of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The part of the work that is done, from 0 to 1.
    pub(crate) done: f64,
    /// Bytes of log since it began.
    pub(crate) log_bytes: u64,
    /// Time since it began.
    pub(crate) elapsed: Duration,
    /// Bytes of the whole state, as far as is known by now; zero: nothing is known yet.
    pub(crate) state_bytes: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, for a while.
    Rest,
    /// The next step.
    Work,
    /// The next step, before anything else: it falls behind.
    Hurry,
}

/// What comes next in a checkpoint.
pub(crate) fn next(limits: &Limits, seen: &Seen) -> Next {
    if seen.state_bytes == 0 {
        return Next::Work;
    }
    let state = seen.state_bytes.max(LEAST_STATE);
    // Half of what triggers the next one. And half of the state: what is written over meanwhile stays in memory for the
    // checkpoint until its chunk is written, and with a budget of half the state that is an eighth of it at most.
    let log = (limits.checkpoint_log_bytes / 2).min(state / 2).max(1);
    let time = limits.checkpoint_interval.as_secs_f64().min(2.0 * state as f64 / LEAST_RATE as f64) / 2.0;
    let due = (seen.log_bytes as f64 / log as f64).max(seen.elapsed.as_secs_f64() / time.max(1e-3));
    if seen.done > due {
        Next::Rest
    } else if seen.done + LATE < due {
        Next::Hurry
    } else {
        Next::Work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(done: f64, log_mib: u64, seconds: u64, state_mib: u64) -> Seen {
        let elapsed = Duration::from_secs(seconds);
        Seen { done, log_bytes: log_mib * MIB, elapsed, state_bytes: state_mib * MIB }
    }

    fn of(done: f64, log_mib: u64, seconds: u64, state_mib: u64) -> Next {
        next(&Limits::default(), &seen(done, log_mib, seconds, state_mib))
    }

    #[test]
    fn it_rests_while_it_is_ahead_and_hurries_when_it_falls_behind() {
        // 256 MiB of log trigger the next one: 128 are its time.
        assert_eq!(of(0.5, 60, 1, 1000), Next::Rest);
        assert_eq!(of(0.5, 66, 1, 1000), Next::Work);
        assert_eq!(of(0.5, 80, 1, 1000), Next::Hurry);
    }

    #[test]
    fn a_small_state_is_saved_before_half_of_it_is_written_over() {
        assert_eq!(of(0.5, 10, 1, 100), Next::Rest);
        assert_eq!(of(0.5, 26, 1, 100), Next::Work);
        assert_eq!(of(0.5, 31, 1, 100), Next::Hurry);
    }

    #[test]
    fn where_nobody_writes_it_goes_on_at_a_steady_rate() {
        assert_eq!(of(0.5, 0, 124, 1000), Next::Rest);
        assert_eq!(of(0.5, 0, 126, 1000), Next::Work);
        // However large: before the next one is due by time.
        assert_eq!(of(0.5, 0, 224, 100_000), Next::Rest);
        assert_eq!(of(0.5, 0, 226, 100_000), Next::Work);
    }

    #[test]
    fn limits_of_nothing_are_no_division_by_zero() {
        let limits = Limits { checkpoint_log_bytes: 0, checkpoint_interval: Duration::ZERO, ..Limits::default() };
        assert_eq!(next(&limits, &seen(0.5, 0, 0, 1)), Next::Rest);
        assert_eq!(next(&limits, &seen(0.5, 1, 1, 1)), Next::Hurry);
    }

    /// A disk that is slow enough never lets it rest; one that is not lets it end within its time, and not much earlier.
    #[test]
    fn the_log_grows_by_its_budget_and_no_more() {
        let limits = Limits::default();
        for (writes_mib_s, rate_mib_s, grown) in [(5, 150, 120..131), (18, 150, 120..131), (30, 50, 590..610)] {
            let (state, step_s) = (1000.0, 64.0 / 1024.0 / f64::from(rate_mib_s));
            let (mut time, mut done) = (0.0, 0.0);
            while done < state {
                let log_bytes = (time * f64::from(writes_mib_s) * MIB as f64) as u64;
                let elapsed = Duration::from_secs_f64(time);
                let seen = Seen { done: done / state, log_bytes, elapsed, state_bytes: 1000 * MIB };
                if next(&limits, &seen) == Next::Rest {
                    time += REST.as_secs_f64();
                } else {
                    (time, done) = (time + step_s, done + 64.0 / 1024.0);
                }
            }
            let log = (time * f64::from(writes_mib_s)) as i32;
            assert!(grown.contains(&log), "{writes_mib_s} MiB/s: the log has grown by {log} MiB");
        }
    }
}
