//! Moving estimates of response times, a stage at a time.
//!
//! A sample counts for more the longer nothing was heard before it: after half a second it is all that is known, amid
//! a stream of others it is one of many. Bad news is believed quicker than good (peak-sensitive, as in Finagle's
//! balancer).

use crate::time::Instant;

/// No upstream is taken to be faster than this, nanoseconds: below it, differences are noise.
pub(super) const FLOOR: f32 = 20e3;
/// Nor slower than this.
const CEILING: f32 = 60e9;
/// However often it fails, it is not taken to be slower than this many of the others.
const FAILURES_COST_MAX: f32 = 16.0;
/// How much of a worse / a better sample is believed at the least.
const RISE: f32 = 0.125;
const FALL: f32 = 0.0625;
/// Of a sample that is many times worse: something has happened.
const SHOCK: f32 = 0.5;
const SHOCK_FROM: f32 = 5.0;
/// After so much silence a sample is all there is to go by, nanoseconds.
const MEMORY: f32 = 500e6;

/// How much of a sample is believed.
fn share(sample: f32, expected: f32, silence_nanos: u64) -> f32 {
    let least = if sample > expected * SHOCK_FROM {
        SHOCK
    } else if sample > expected {
        RISE
    } else {
        FALL
    };
    least.max(silence_nanos as f32 / MEMORY).min(1.0)
}

/// One stage's response time, whatever the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    nanos: f32,
    at: Instant,
}

impl Estimate {
    /// Takes a sample in.
    pub fn observe(&mut self, sample_nanos: u64, now: Instant) {
        let sample = sample_nanos.max(1) as f32;
        self.nanos = match self.nanos == 0.0 {
            true => sample,
            false => self.nanos + (sample - self.nanos) * share(sample, self.nanos, now.nanos_since(self.at)),
        };
        self.at = now;
    }

    /// In nanoseconds; 0 while nothing is known.
    pub fn nanos(&self) -> f32 {
        self.nanos
    }
}

/// A stage whose time grows with the message: a line, `base + bytes × slope`, fitted as samples come (normalised
/// least mean squares: short messages teach it the base, long ones the slope).
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    base: f32,
    /// Nanoseconds per [`PIVOT`].
    slope: f32,
    at: Instant,
}

/// Messages around this length, in octets, tell of base and slope alike.
const PIVOT: f32 = 65_536.0;

impl Line {
    /// Takes in how long a message of `bytes` took.
    pub fn observe(&mut self, sample_nanos: u64, bytes: u64, now: Instant) {
        let sample = sample_nanos as f32;
        let x = bytes as f32 / PIVOT;
        let expected = self.base + self.slope * x;
        let share = match self.is_known() {
            true => share(sample, expected, now.nanos_since(self.at)),
            false => 1.0,
        };
        let step = (sample - expected) * share / (1.0 + x * x);
        self.base = (self.base + step).max(0.0);
        self.slope = (self.slope + step * x).max(0.0);
        self.at = now;
    }

    /// Of a message of nothing, in nanoseconds; 0 while nothing is known.
    pub fn base_nanos(&self) -> f32 {
        self.base
    }

    fn is_known(&self) -> bool {
        self.base + self.slope > 0.0
    }
}

/// All that is known of an upstream's response times.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseTimes {
    /// From opening a link until it is ready.
    pub connect: Estimate,
    /// From a transaction's first command until the reply to MAIL: the network and the listener.
    pub mail: Estimate,
    /// From there until the go-ahead for the body: what the upstream looks up.
    pub data: Estimate,
    /// From the body's first octet until the final reply: its disk, and the way there for long messages.
    pub body: Line,
}

impl ResponseTimes {
    /// A whole transaction with an empty message on a link that is ready, in nanoseconds; 0 while unknown.
    pub fn nanos(&self) -> f32 {
        match self.body.is_known() {
            true => (self.mail.nanos + self.data.nanos + self.body.base).max(FLOOR),
            false => 0.0,
        }
    }

    /// What each octet adds, in nanoseconds.
    pub fn nanos_per_byte(&self) -> f32 {
        self.body.slope / PIVOT
    }

    /// A failure: twice what it was, never better than the others, who take `others` nanoseconds. Many at once (all
    /// that was in flight when it died) do not add up without end.
    pub fn punish(&mut self, others: f32, now: Instant) {
        let all = self.nanos();
        let worse = (all * 2.0).min(all.max(others * FAILURES_COST_MAX)).max(others).clamp(FLOOR, CEILING);
        self.body.base += worse - all;
        self.body.at = now;
    }

    /// Somebody else's estimate of the whole, made just now: a sample at second hand.
    pub fn hear(&mut self, nanos: f32, now: Instant) {
        let all = self.nanos();
        let share = match self.body.is_known() {
            true => share(nanos, all, now.nanos_since(self.body.at)),
            false => 1.0,
        };
        self.body.base = (self.body.base + (nanos - all) * share).max(FLOOR / 2.0);
        self.body.at = now;
    }
}
