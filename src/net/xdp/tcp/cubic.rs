//! How much may be under way: CUBIC (RFC 9438), with slow start from ten segments (RFC 6928).

use std::time::Duration;

use crate::time::Instant;

const SCALE: f64 = 0.4;
const DECREASE: f64 = 0.7;
const INITIAL_SEGMENTS: f64 = 10.0;

/// The congestion window, in segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    /// Where the window was when something was lost last.
    peak: f64,
    /// When it began to grow again, from where, and how long until it is at the peak.
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Instant,
    seconds_to_peak: f64,
    /// The level that the curve flattens at.
    level: f64,
    /// What Reno would have.
    reno: f64,
}

impl Default for Cubic {
    fn default() -> Self {
        Cubic { window: INITIAL_SEGMENTS, threshold: f64::MAX, peak: 0.0, epoch: None }
    }
}

impl Cubic {
    /// Bytes that may be under way.
    pub(super) fn bytes(&self, mss: u64) -> u64 {
        (self.window * mss as f64) as u64
    }

    /// So many segments have arrived, and the window was what held more back.
    pub(super) fn arrived(&mut self, segments: f64, now: Instant, round_trip: Duration) {
        if self.window < self.threshold {
            self.window = (self.window + segments).min(self.threshold.max(self.window));
            return;
        }
        let (window, peak) = (self.window, self.peak);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            began: now,
            seconds_to_peak: ((peak - window).max(0.0) / SCALE).cbrt(),
            level: peak.max(window),
            reno: window,
        });
        let seconds = now.since(epoch.began).as_secs_f64() + round_trip.as_secs_f64();
        let curve = SCALE * (seconds - epoch.seconds_to_peak).powi(3) + epoch.level;
        let gain = if epoch.reno < peak { 3.0 * (1.0 - DECREASE) / (1.0 + DECREASE) } else { 1.0 };
        epoch.reno += gain * segments / window;
        let target = curve.clamp(window, 1.5 * window);
        self.window += (target - window) / window * segments;
        self.window = self.window.max(epoch.reno);
    }

    /// Something was lost.
    pub(super) fn lost(&mut self) {
        // Others shall find room sooner when this window is shrinking (RFC 9438 section 4.7).
        let is_shrinking = self.window < self.peak;
        self.peak = if is_shrinking { self.window * (1.0 + DECREASE) / 2.0 } else { self.window };
        self.window = (self.window * DECREASE).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
    }

    /// Nothing came back for too long.
    pub(super) fn timed_out(&mut self) {
        self.lost();
        self.window = 1.0;
    }

    /// Silence, so many times as long as counts: what was known of the path grows old. It is halved for each of them, down to
    /// what a new connection begins with (RFC 2861 section 3, as Linux has it; RFC 5681 section 4.1 forgets all at the first).
    pub(super) fn rested(&mut self, rests: u32) {
        self.threshold = self.threshold.max(self.window * 0.75);
        let least = self.window.min(INITIAL_SEGMENTS);
        self.window = (self.window * 0.5_f64.powi(rests.min(64) as i32)).max(least);
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_fast_then_slowly_around_the_last_peak_then_fast() {
        let mut cubic = Cubic::default();
        let round_trip = Duration::from_millis(50);
        let mut now = Instant::from_nanos(0);
        let mut round = |cubic: &mut Cubic| {
            let before = cubic.window;
            (0..before as usize).for_each(|_| cubic.arrived(1.0, now, round_trip));
            now = now + round_trip;
            cubic.window - before
        };
        while cubic.window < 200.0 {
            let before = cubic.window;
            let grown = round(&mut cubic);
            assert!(grown > before * 0.9, "doubles in slow start");
        }
        cubic.lost();
        let peak = cubic.peak;
        assert!((cubic.window / peak - DECREASE).abs() < 0.01);
        let first = round(&mut cubic);
        let mut near = f64::MAX;
        while cubic.window < peak * 1.3 {
            let grown = round(&mut cubic);
            if (cubic.window / peak - 1.0).abs() < 0.02 {
                near = near.min(grown);
            }
        }
        let beyond = round(&mut cubic);
        assert!(near < first && near < beyond, "{first} {near} {beyond}");
        cubic.timed_out();
        assert_eq!(cubic.bytes(1_000), 1_000);
        cubic.rested(1);
        assert_eq!(cubic.bytes(1_000), 1_000, "less than a new connection's stays");
        cubic.window = 100.0;
        for (waits, left) in [(1, 50_000), (2, 12_500), (1, 10_000), (1_000, 10_000)] {
            cubic.rested(waits);
            assert_eq!(cubic.bytes(1_000), left);
        }
    }
}
