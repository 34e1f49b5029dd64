//! A moving estimate of a response time: quick to believe bad news, slower to believe good news, and fading
//! with silence so that an upstream once slow is tried again (peak EWMA, as in Finagle's balancer).

use crate::time::Instant;

/// How long silence takes to halve an estimate, roughly.
const FADE_NANOS: f64 = 10e9;
/// No upstream is taken to be faster than this: below it, differences are noise.
const FLOOR_NANOS: f64 = 20e3;
/// Nor slower than this, however often it failed.
const CEILING_NANOS: f64 = 60e9;
/// How much of a worse / a better sample is believed at once.
const RISE: f64 = 0.5;
const FALL: f64 = 1.0 / 16.0;
/// However often it fails, it is not taken to be slower than this many of the others.
const FAILURES_COST_MAX: f64 = 16.0;

/// One stage's response time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    nanos: f64,
    updated: Instant,
}

impl Estimate {
    /// Takes a sample in.
    pub fn observe(&mut self, sample_nanos: u64, now: Instant) {
        let sample = sample_nanos as f64;
        let current = self.faded(now);
        let share = if sample > current { RISE } else { FALL };
        self.nanos = if self.nanos == 0.0 { sample } else { current + (sample - current) * share };
        self.updated = now;
    }

    /// Forgets all that was, for this sample.
    pub fn restart(&mut self, sample_nanos: u64, now: Instant) {
        *self = Estimate { nanos: sample_nanos as f64, updated: now };
    }

    /// A failure: twice what it was, never better than the others, who take `others_nanos`. Many at once (all
    /// that was in flight when it died) do not add up without end, or it would be shunned for hours.
    pub fn punish(&mut self, others_nanos: u64, now: Instant) {
        let others = others_nanos as f64;
        let was = self.faded(now);
        self.nanos = (was * 2.0)
            .min(was.max(others * FAILURES_COST_MAX))
            .max(others)
            .clamp(FLOOR_NANOS, CEILING_NANOS);
        self.updated = now;
    }

    /// The estimate in nanoseconds, at least 20 µs.
    pub fn nanos(&self, now: Instant) -> u64 {
        self.faded(now).max(FLOOR_NANOS) as u64
    }

    fn faded(&self, now: Instant) -> f64 {
        // A rational stand-in for the exponential: no call, monotone, right at both ends.
        let x = now.nanos_since(self.updated) as f64 / FADE_NANOS;
        self.nanos / (1.0 + x + x * x / 2.0)
    }
}
