//! How long an answer takes, and so when one is missed (RFC 6298), with a floor of its own.
//!
//! RFC 6298 asks for at least a second, Linux for 200 ms: against peers that delay their acknowledgements. Here the
//! floor starts at 20 ms, and doubles, up to 200 ms, each time a peer says that a segment was sent again for nothing.

use std::time::Duration;

const MILLI: u64 = 1_000_000;
const FLOOR_MIN: u64 = 20 * MILLI;
const FLOOR_MAX: u64 = 200 * MILLI;
/// Before anything is known.
const INITIAL: u64 = 1_000 * MILLI;
/// Waits do not grow beyond this.
const WAIT_MAX: u64 = 30_000 * MILLI;

/// What is known of a path's round trips, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrip {
    smoothed: Option<u64>,
    variation: u64,
    pub(crate) shortest: u64,
    floor: u64,
}

impl Default for RoundTrip {
    fn default() -> Self {
        RoundTrip { smoothed: None, variation: 0, shortest: u64::MAX, floor: FLOOR_MIN }
    }
}

impl RoundTrip {
    /// What an earlier connection has learnt, for a new one's first wait.
    pub(crate) fn of_earlier(earlier: RoundTrip) -> RoundTrip {
        RoundTrip { shortest: u64::MAX, ..earlier }
    }

    /// A segment that was sent once took so long to be acknowledged.
    pub(super) fn sample(&mut self, took: Duration) {
        let took = took.as_nanos() as u64;
        self.shortest = self.shortest.min(took.max(1));
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(took), took / 2);
            return;
        };
        self.variation = (3 * self.variation + smoothed.abs_diff(took)) / 4;
        self.smoothed = Some((7 * smoothed + took) / 8);
    }

    /// A segment was sent again though it had arrived.
    pub(super) fn too_early(&mut self) {
        self.floor = (self.floor * 2).min(FLOOR_MAX);
    }

    pub(super) fn smoothed(&self) -> Duration {
        Duration::from_nanos(self.smoothed.unwrap_or(0))
    }

    /// An acknowledgement that has not come after this long, the wait having been in vain `times` times, is missed.
    pub(super) fn wait(&self, times: u32) -> Duration {
        let wait = match self.smoothed {
            None => INITIAL,
            Some(smoothed) => (smoothed + 4 * self.variation).max(2 * smoothed) + self.floor,
        };
        Duration::from_nanos(wait.saturating_mul(1 << times.min(16)).min(WAIT_MAX))
    }

    /// A silence of so long counts: Linux's wait, whose floor is longer. Mail comes and goes; what carries it does not change
    /// with that.
    pub(super) fn rest(&self) -> Duration {
        self.wait(0) + Duration::from_nanos(FLOOR_MAX)
    }

    /// When the last of several segments is not acknowledged after this long, sending it again asks what is missing
    /// (RFC 8985 section 7): of several a peer does not delay the acknowledgement.
    pub(super) fn tail_wait(&self) -> Option<Duration> {
        Some(Duration::from_nanos(2 * self.smoothed? + self.floor / 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_round_trip_and_the_peers_complaints() {
        let mut rtt = RoundTrip::default();
        assert_eq!(rtt.wait(0), Duration::from_secs(1));
        assert_eq!(rtt.tail_wait(), None);
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(100));
        }
        let wait = rtt.wait(0);
        assert!(rtt.rest() > Duration::from_millis(200) && rtt.rest() < Duration::from_millis(250));
        assert!(wait > Duration::from_millis(20) && wait < Duration::from_millis(21), "{wait:?}");
        assert!(rtt.tail_wait() < Some(wait));
        assert_eq!(rtt.wait(3), wait * 8);
        assert_eq!(rtt.wait(40), Duration::from_nanos(WAIT_MAX));
        (0..10).for_each(|_| rtt.too_early());
        assert!(rtt.wait(0) > Duration::from_millis(200) && rtt.wait(0) < Duration::from_millis(201));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(100));
        }
        assert!(rtt.wait(0) > Duration::from_millis(390) && rtt.wait(0) < Duration::from_millis(410));
    }
}
