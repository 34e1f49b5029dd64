//! What is held against an upstream: ejected for failures that live traffic met, in a row or many more than the
//! others have, and back on probation later; down by its probes; closed by an operator or a reload.

use std::time::Duration;

use crate::time::Instant;

/// When and for how long an upstream is ejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Failures in a row that eject it.
    pub eject_after: u32,
    /// The first ejection's length; each further one doubles it.
    pub eject_for: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { eject_after: 5, eject_for: Duration::from_secs(10) }
    }
}

/// No ejection is longer.
const EJECT_MAX: Duration = Duration::from_secs(300);

/// Transactions that a share of failures is taken over, and the fewest that it says anything about.
const SHARE_OVER: f32 = 64.0;
const SHARE_SEEN_MIN: u32 = 48;
/// So much larger than twice the others' an upstream's share of failures must be.
const SHARE_BEYOND: f32 = 0.2;
/// After so many without such an ejection, earlier ones are forgotten.
const FORGIVEN_AFTER: u32 = 2_000;

/// Why an upstream is ejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It failed again and again.
    InARow,
    /// Its share of failures is far beyond the others'.
    MoreThanOthers,
    /// It does not answer while the others do.
    Silent,
}

/// So many silences in a row eject it: one alone may be the message's fault. Of `eject_for` it is this part, the first
/// time.
const SILENCES_MIN: u32 = 2;
const SILENT_PART: u32 = 10;

/// One upstream's standing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    /// The last of these was that it could not be reached.
    is_unreached: bool,
    ejections: u32,
    ejected: Option<Ejected>,
    /// The share of failures among the last transactions, and how many it has been taken over.
    failing: f32,
    seen: u32,
    ejections_by_share: u32,
    silences: u32,
    is_down: bool,
    is_closed: bool,
    /// How often probes had found it well, as of the last word.
    vouched: u8,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    until: Instant,
    time: Duration,
    cause: Cause,
}

impl Health {
    /// A transaction went well: failures in a row are forgiven. How long it had been ejected, and why, if it had been.
    pub fn success(&mut self) -> Option<(Duration, Cause)> {
        self.count(0.0);
        (self.failures, self.ejections, self.silences) = (0, 0, 0);
        self.ejected.take().map(|ejected| (ejected.time, ejected.cause))
    }

    /// One failed by the upstream's fault, which could not even be reached or was. True if that ejects it (anew).
    pub fn failure(&mut self, is_unreached: bool, rules: &Rules, now: Instant) -> bool {
        self.count(1.0);
        self.is_unreached = is_unreached;
        self.failures = self.failures.saturating_add(1);
        if self.failures < rules.eject_after || self.is_ejected(now) {
            return false;
        }
        self.ejections += 1;
        self.eject(Cause::InARow, self.ejections, rules, now);
        true
    }

    /// Ejects it because it fails so much more than the others.
    pub(super) fn eject_by_share(&mut self, rules: &Rules, now: Instant) {
        self.ejections_by_share += 1;
        (self.failing, self.seen) = (0.0, 0);
        self.eject(Cause::MoreThanOthers, self.ejections_by_share, rules, now);
    }

    /// It does not answer, once more: it is left alone for a moment, longer each time. True if that ejects it (anew).
    pub(super) fn eject_silent(&mut self, rules: &Rules, now: Instant) -> bool {
        if self.is_out(now) {
            return false;
        }
        self.silences += 1;
        let Some(nth) = self.silences.checked_sub(SILENCES_MIN - 1).filter(|nth| *nth > 0) else {
            return false;
        };
        let rules = Rules { eject_for: rules.eject_for / SILENT_PART, ..*rules };
        self.eject(Cause::Silent, nth, &rules, now);
        true
    }

    fn eject(&mut self, cause: Cause, nth: u32, rules: &Rules, now: Instant) {
        let time = rules.eject_for.saturating_mul(1 << (nth - 1).min(10)).min(EJECT_MAX);
        self.ejected = Some(Ejected { until: now + time, time, cause });
    }

    fn count(&mut self, failure: f32) {
        self.seen = self.seen.saturating_add(1);
        if self.seen >= FORGIVEN_AFTER {
            self.ejections_by_share = 0;
        }
        self.failing += (failure - self.failing) / (self.seen as f32).min(SHARE_OVER);
    }

    /// The share of failures among its last transactions, if there were enough.
    pub(super) fn failing(&self) -> Option<f32> {
        (self.seen >= SHARE_SEEN_MIN).then_some(self.failing)
    }

    /// Does it fail far more than others, whose middle share is `others`?
    pub(super) fn fails_beyond(&self, others: f32) -> bool {
        self.failing().is_some_and(|share| share > 2.0 * others + SHARE_BEYOND)
    }

    /// How often probes have found it well although it is ejected. That ends an ejection whose reason a probe would
    /// see, and live mail tries it: true if so.
    pub(super) fn vouch(&mut self, vouched: u8, now: Instant) -> bool {
        let is_news = std::mem::replace(&mut self.vouched, vouched) != vouched;
        let is_visible = self.is_unreached && self.ejected_for(now) == Some(Cause::InARow);
        if let Some(ejected) = self.ejected.as_mut().filter(|_| is_news && is_visible) {
            ejected.until = now;
            return true;
        }
        false
    }

    /// What the control thread says. True if it may be used again, which it could not before.
    pub(super) fn set_marks(&mut self, is_closed: bool, is_down: bool) -> bool {
        let was_out = self.is_closed || self.is_down;
        (self.is_closed, self.is_down) = (is_closed, is_down);
        was_out && !(is_closed || is_down)
    }

    /// Is it ejected now?
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected.is_some_and(|ejected| now < ejected.until)
    }

    /// Why it is ejected, if it is now.
    pub fn ejected_for(&self, now: Instant) -> Option<Cause> {
        self.ejected.filter(|ejected| now < ejected.until).map(|ejected| ejected.cause)
    }

    /// May it get nothing at all, whatever becomes of the others?
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Is anything held against it?
    pub fn is_out(&self, now: Instant) -> bool {
        self.is_closed || self.is_down || self.is_ejected(now)
    }

    /// Is its ejection over, and nothing known yet of how it is now?
    pub(super) fn awaits_trial(&self, in_flight: u32, now: Instant) -> bool {
        let is_over = self.ejected.is_some_and(|ejected| now >= ejected.until);
        in_flight == 0 && is_over && !self.is_closed && !self.is_down
    }

    /// May one more transaction go there? After an ejection only one at a time, until one went well.
    pub(super) fn admits(&self, in_flight: u32, now: Instant) -> bool {
        match self.ejected {
            _ if self.is_closed || self.is_down => false,
            None => true,
            Some(ejected) => now >= ejected.until && in_flight == 0,
        }
    }
}
