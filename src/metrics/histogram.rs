//! Counters, gauges and histograms as plain atomics.
//!
//! Recording is one or two relaxed additions and never allocates, so it may stand on the path of every command.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows (until CONFIG RESETSTAT).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    /// Back to zero.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// A gauge at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// Raises it to `n` if it is lower.
    pub fn raise(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Values above `2^TOP` share the last bucket. As nanoseconds that is 18 minutes.
const TOP: u32 = 40;
/// Four buckets to each power of two: a percentile is off by at most a quarter.
const BUCKETS: usize = (TOP as usize) * 4;

const fn bucket_of(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    let index = (exponent as usize - 1) * 4 + ((value >> (exponent - 2)) & 3) as usize;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The largest value of a bucket.
const fn upper_bound(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let exponent = (bucket / 4 + 1) as u32;
    let quarter = (bucket % 4) as u64;
    (1u64 << exponent) + ((quarter + 1) << (exponent - 2)) - 1
}

/// A histogram with fixed buckets, four to each power of two.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram (1.3 KB).
    pub fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one value.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts `n` events of `value` each, at the cost of one.
    pub fn record_many(&self, value: u64, n: u64) {
        self.buckets[bucket_of(value)].fetch_add(n, Relaxed);
        self.count.fetch_add(n, Relaxed);
        self.sum.fetch_add(value.saturating_mul(n), Relaxed);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// The value below which that share (0–1) of all lies, rounded up to its bucket's end; 0 if empty.
    pub fn quantile(&self, share: f64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = ((total as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if total > 0 && seen >= wanted {
                return upper_bound(bucket);
            }
        }
        0
    }

    /// How many values were below `2^exponent`.
    pub fn below_power(&self, exponent: u32) -> u64 {
        let end = if exponent < 2 { 1usize << exponent } else { (exponent as usize - 1) * 4 };
        self.buckets[..end.min(BUCKETS)].iter().map(|b| b.load(Relaxed)).sum()
    }

    /// Back to empty.
    pub fn reset(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
        self.count.store(0, Relaxed);
        self.sum.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_without_gap() {
        for bucket in 0..BUCKETS - 1 {
            let end = upper_bound(bucket);
            assert_eq!(bucket_of(end), bucket, "end of {bucket}");
            assert_eq!(bucket_of(end + 1), bucket + 1, "start after {bucket}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_quarter() {
        let histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=10_000u64).for_each(|v| histogram.record(v * 1000));
        for share in [0.5, 0.9, 0.99] {
            let exact = share * 10_000_000.0;
            let got = histogram.quantile(share) as f64;
            assert!(got >= exact && got <= exact * 1.26, "{share}: {got} against {exact}");
        }
    }

    #[test]
    fn powers_count_what_is_below_them() {
        let histogram = Histogram::new();
        for value in [0, 1, 2, 3, 4, 7, 8, 1023, 1024] {
            histogram.record(value);
        }
        let below: Vec<u64> = [0, 1, 2, 3, 4, 10, 11].map(|e| histogram.below_power(e)).to_vec();
        assert_eq!(below, [1, 2, 4, 6, 7, 8, 9]);
        assert_eq!(histogram.below_power(63), 9);
    }
}
