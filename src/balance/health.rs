//! What live traffic says of an upstream's health: ejected after failures in a row, back on probation later.

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

/// One upstream's standing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
}

impl Health {
    /// A transaction or an opening went well: all is forgiven. True if it had been ejected.
    pub fn success(&mut self) -> bool {
        let returned = self.ejected_until.is_some();
        *self = Health::default();
        returned
    }

    /// One failed by the upstream's fault. True if that ejects it (anew).
    pub fn failure(&mut self, rules: &Rules, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < rules.eject_after || self.is_ejected(now) {
            return false;
        }
        let time = rules.eject_for.saturating_mul(1 << self.ejections.min(10)).min(EJECT_MAX);
        self.ejections += 1;
        self.ejected_until = Some(now + time);
        true
    }

    /// Is it out of the fleet now?
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Is its ejection over, and nothing known yet of how it is now?
    pub(super) fn awaits_trial(&self, in_flight: u32, now: Instant) -> bool {
        in_flight == 0 && self.ejected_until.is_some_and(|until| now >= until)
    }

    /// May one more transaction go there? After an ejection only one at a time, until one went well.
    pub(super) fn admits(&self, in_flight: u32, now: Instant) -> bool {
        match self.ejected_until {
            None => true,
            Some(until) => now >= until && in_flight == 0,
        }
    }
}
