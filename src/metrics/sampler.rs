//! Rates per second out of totals, over the last 1.6 s as Redis has them.

use parking_lot::Mutex;

const SAMPLES: usize = 16;

/// Remembers a few totals and tells the rate between them.
#[derive(Debug, Default)]
pub struct Sampler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<(u64, u64)>,
    rates: [u64; SAMPLES],
    next: usize,
}

impl Sampler {
    /// Takes the total at that time. Call it about every 100 ms.
    pub fn sample(&self, now_ms: u64, total: u64) {
        let mut state = self.0.lock();
        if let Some((then_ms, then)) = state.last {
            // A total that fell was reset; the clock is the caller's and may stand still.
            let rate = total.saturating_sub(then) * 1000 / now_ms.saturating_sub(then_ms).max(1);
            let slot = state.next;
            state.rates[slot] = rate;
            state.next = (slot + 1) % SAMPLES;
        }
        state.last = Some((now_ms, total));
    }

    /// The mean rate.
    pub fn per_second(&self) -> u64 {
        self.0.lock().rates.iter().sum::<u64>() / SAMPLES as u64
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.0.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_rate_and_survives_a_reset_total() {
        let sampler = Sampler::default();
        (0..=16).for_each(|i| sampler.sample(i * 100, i * 50));
        assert_eq!(sampler.per_second(), 500);
        sampler.sample(1700, 0);
        assert_eq!(sampler.per_second(), 500 * 15 / 16);
    }
}
