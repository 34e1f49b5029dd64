//! A histogram of durations with about 19 % wide buckets: four to each doubling, from 1 µs to 18 minutes.

use super::Counter;

const BUCKETS: usize = 120;

/// Recorded by one thread, read by any.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_nanos: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Counter::default()), sum_nanos: Counter::default() }
    }
}

impl Histogram {
    /// Records one duration.
    pub fn record(&self, nanos: u64) {
        self.buckets[index(nanos)].add(1);
        self.sum_nanos.add(nanos);
    }

    /// Adds what was recorded so far to `snapshot`.
    pub fn add_to(&self, snapshot: &mut Snapshot) {
        for (total, bucket) in snapshot.counts.iter_mut().zip(&self.buckets) {
            *total += bucket.get();
        }
        snapshot.sum_nanos += self.sum_nanos.get();
    }
}

/// The sum of several shards' histograms at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    counts: [u64; BUCKETS],
    /// Sum of all durations.
    pub sum_nanos: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { counts: [0; BUCKETS], sum_nanos: 0 }
    }
}

impl Snapshot {
    /// How many durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let counts = std::array::from_fn(|i| self.counts[i].wrapping_sub(earlier.counts[i]));
        Snapshot { counts, sum_nanos: self.sum_nanos.wrapping_sub(earlier.sum_nanos) }
    }

    /// An upper bound, within a bucket, of the `q` quantile (0 to 1) in nanoseconds; zero when empty.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return bound(i);
            }
        }
        0
    }

    /// `(upper bound in nanoseconds, durations up to it)` at each doubling: Prometheus buckets.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut seen = 0;
        self.counts.iter().enumerate().filter_map(move |(i, count)| {
            seen += count;
            (i % 4 == 3).then_some((bound(i), seen))
        })
    }
}

fn index(nanos: u64) -> usize {
    let v = nanos >> 10;
    if v < 4 {
        return v as usize;
    }
    let octave = 63 - v.leading_zeros() as usize;
    ((octave - 1) * 4 + ((v >> (octave - 2)) & 3) as usize).min(BUCKETS - 1)
}

/// The first duration, in nanoseconds, beyond bucket `i`.
fn bound(i: usize) -> u64 {
    let (octave, quarter) = (i / 4, (i % 4 + 1) as u64);
    let v = if octave == 0 { quarter } else { (4 + quarter) << (octave - 1) };
    v << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_within_its_bucket() {
        for shift in 0..40 {
            for nanos in [1u64 << shift, (1 << shift) + 1, (3 << shift) / 2, (1 << shift) - 1] {
                let i = index(nanos);
                if i == BUCKETS - 1 {
                    continue;
                }
                assert!(nanos < bound(i), "{nanos} in {i}");
                assert!(i == 0 || nanos >= bound(i - 1), "{nanos} in {i}");
            }
        }
    }

    #[test]
    fn quantiles_are_close() {
        let histogram = Histogram::default();
        (1..=1000u64).for_each(|ms| histogram.record(ms * 1_000_000));
        let mut snapshot = Snapshot::default();
        histogram.add_to(&mut snapshot);
        assert_eq!(snapshot.count(), 1000);
        let p50 = snapshot.quantile(0.5) as f64 / 1e6;
        assert!((500.0..620.0).contains(&p50), "{p50}");
        assert_eq!(snapshot.cumulative().last().map(|(_, n)| n), Some(1000));
        assert_eq!(snapshot.since(&snapshot.clone()).count(), 0);
    }
}
