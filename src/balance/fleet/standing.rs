//! What is held against a fleet's upstreams, by the control thread and by live mail.

use super::Fleet;
use crate::balance::health::{Cause, Rules};
use crate::time::Instant;

impl Fleet {
    /// Has it an upstream that nothing is held against?
    pub fn has_healthy(&self, now: Instant) -> bool {
        self.members.iter().any(|member| !member.health.is_out(now))
    }

    /// Are so few healthy that marks are ignored?
    pub fn panics(&self, now: Instant) -> bool {
        let standing = self.members.iter().filter(|member| !member.health.is_out(now)).count();
        let open = self.members.iter().filter(|member| !member.health.is_closed()).count();
        self.is_panic(standing, open)
    }

    pub(super) fn is_panic(&self, standing: usize, open: usize) -> bool {
        standing * 1000 < open * usize::from(self.care.panic_below_permille)
    }

    /// What the control thread says of one: whether it is closed, whether its probes find it down. True if it may be
    /// used again, which it could not before.
    pub fn mark(&mut self, upstream: usize, is_closed: bool, is_down: bool, now: Instant) -> bool {
        let member = &mut self.members[upstream];
        let is_back = member.health.set_marks(is_closed, is_down);
        if is_back {
            member.start_slowly(self.care.slow_start, self.picks, now);
        }
        self.seats.set_closed(upstream, is_closed);
        self.stale = true;
        is_back
    }

    /// How often probes have found one well although live mail had it ejected. True if that ends its ejection.
    pub fn vouch(&mut self, upstream: usize, vouched: u8, now: Instant) -> bool {
        let is_over = self.members[upstream].health.vouch(vouched, now);
        self.stale |= is_over;
        is_over
    }

    /// A transaction failed there: that never makes it look fast.
    pub fn punish(&mut self, upstream: usize, now: Instant) {
        let others = self.middle_of_others(upstream);
        let member = &mut self.members[upstream];
        member.times.punish(others, now);
        member.own_nanos = member.times.nanos();
        member.heard(true, now);
        self.weigh(upstream);
    }

    /// A failure by the upstream's own fault. Why that ejects it (anew), if it does: for failures in a row however
    /// the others are, for its share of failures only while at most half of the fleet is out.
    pub fn failed(&mut self, upstream: usize, rules: &Rules, now: Instant) -> Option<Cause> {
        self.fails(upstream, false, rules, now)
    }

    /// The same where it could not be reached or the link was lost: what a probe would see too.
    pub fn unreached(&mut self, upstream: usize, rules: &Rules, now: Instant) -> Option<Cause> {
        self.fails(upstream, true, rules, now)
    }

    fn fails(&mut self, upstream: usize, is_unreached: bool, rules: &Rules, now: Instant) -> Option<Cause> {
        self.stale = true;
        if self.members[upstream].health.failure(is_unreached, rules, now) {
            return Some(Cause::InARow);
        }
        let health = &self.members[upstream].health;
        let fails_beyond = !health.is_out(now) && health.fails_beyond(self.others_failing(upstream, now)?);
        if !fails_beyond || !self.can_spare_one(now) {
            return None;
        }
        self.members[upstream].health.eject_by_share(rules, now);
        Some(Cause::MoreThanOthers)
    }

    /// It answers nothing any more while others do. True if that ejects it (anew): only while at most half of the fleet
    /// is out.
    pub fn fell_silent(&mut self, upstream: usize, rules: &Rules, now: Instant) -> bool {
        let ejects = self.can_spare_one(now) && self.members[upstream].health.eject_silent(rules, now);
        self.stale |= ejects;
        self.weigh(upstream);
        ejects
    }

    /// Would at most half of those that could be used be out, if one more were?
    fn can_spare_one(&self, now: Instant) -> bool {
        let open = self.members.iter().filter(|member| !member.health.is_closed());
        let (all, out) =
            open.fold((0, 0), |(all, out), m| (all + 1, out + usize::from(m.health.is_out(now))));
        (out + 1) * 2 <= all
    }

    /// The middle share of failures of the other upstreams that are in use.
    fn others_failing(&self, upstream: usize, now: Instant) -> Option<f32> {
        let mut sample = [0.0f32; 16];
        let others = self.members.iter().enumerate().filter(|(i, _)| *i != upstream);
        let shares = others.filter(|(_, m)| !m.health.is_out(now)).filter_map(|(_, m)| m.health.failing());
        let mut n = 0;
        for (slot, share) in sample.iter_mut().zip(shares) {
            *slot = share;
            n += 1;
        }
        sample[..n].sort_unstable_by(f32::total_cmp);
        (n > 0).then(|| sample[n / 2])
    }

    /// The middle of the other upstreams' estimates, in nanoseconds; 0 if there are none.
    fn middle_of_others(&self, upstream: usize) -> f32 {
        // A small fixed sample: exact for usual fleets, near enough for large ones, and no allocation.
        let mut sample = [0.0f32; 16];
        let n = (self.members.len() - 1).min(sample.len());
        let others = self.members.iter().enumerate().filter(|(i, _)| *i != upstream);
        for (slot, (_, member)) in sample.iter_mut().zip(others) {
            *slot = member.times.nanos();
        }
        sample[..n].sort_unstable_by(f32::total_cmp);
        if n == 0 { 0.0 } else { sample[n / 2] }
    }
}
