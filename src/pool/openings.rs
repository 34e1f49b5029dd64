//! How many links may be opening at once: one where none stands, and twice as many with each that succeeds. What fails
//! is tried again one at a time, after a while that grows; an upstream that is back is called by each shard a little
//! later than by the last.

use std::time::Duration;

use crate::balance::Rest;
use crate::time::Instant;

/// Failures in a row from which on the next opening has to wait: one alone may be chance.
const FAILURES_WAIT: u32 = 2;
/// The first wait, and the longest; each is shortened by chance to as little as half.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Shards call one that is back within this time.
const RETURN_WITHIN: Duration = Duration::from_millis(100);

/// The openings of one shard to one upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Openings {
    at_once: usize,
    failures: u32,
    /// None before this; `is_waiting` as of the last look at the clock.
    not_before: Instant,
    is_waiting: bool,
}

impl Openings {
    pub(super) fn new() -> Openings {
        Openings { at_once: 1, failures: 0, not_before: Instant::default(), is_waiting: false }
    }

    /// May one more open while so many do?
    pub(super) fn may_open(&self, opening: usize) -> bool {
        !self.is_waiting && opening < self.at_once
    }

    /// Whether it is left alone for the moment.
    pub(super) fn rest(&self) -> Rest {
        match (self.is_waiting, self.failures) {
            (false, _) => Rest::No,
            (true, 0) => Rest::Brief,
            (true, _) => Rest::Shut,
        }
    }

    /// No link stands any more.
    pub(super) fn none_stands(&mut self) {
        self.at_once = 1;
    }

    /// One has succeeded.
    pub(super) fn succeeded(&mut self) {
        (self.failures, self.is_waiting) = (0, false);
        self.at_once = self.at_once.saturating_mul(2);
    }

    /// One has failed. `chance`: any number.
    pub(super) fn failed(&mut self, chance: u64, now: Instant) {
        self.at_once = 1;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_WAIT {
            let longest = WAIT_MIN.saturating_mul(1 << (self.failures - FAILURES_WAIT).min(10)).min(WAIT_MAX);
            self.wait(longest / 2 + part(longest / 2, chance), now);
        }
    }

    /// It is back: what was held against it is forgotten.
    pub(super) fn returned(&mut self, chance: u64, now: Instant) {
        self.failures = 0;
        self.at_once = 1;
        self.wait(part(RETURN_WITHIN, chance), now);
    }

    fn wait(&mut self, time: Duration, now: Instant) {
        self.not_before = now + time;
        self.is_waiting = true;
    }

    /// Looks at the clock. True if a wait is over.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let is_over = self.is_waiting && now >= self.not_before;
        self.is_waiting &= !is_over;
        is_over
    }
}

/// Some part of the time, by chance.
fn part(time: Duration, chance: u64) -> Duration {
    let chance = chance.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    time.mul_f64(chance as f64 / f64::from(u32::MAX))
}
