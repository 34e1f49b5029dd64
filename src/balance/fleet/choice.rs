//! Whom a message goes to.

use super::Fleet;
use crate::balance::scan::below;
use crate::balance::{Ask, Member, Pick, Policy, Rest, least_connections, power_of_two};
use crate::balance::{random, recipient_hash, round_robin, source_hash, weighted_round_robin};
use crate::time::Instant;

/// So many that are just back are passed over for a message.
const NEXT_BEST_MAX: usize = 8;
/// Weighted turns are counted anew from here on, so that small numbers stay exact.
const TURN_MAX: f64 = 64.0;

impl Fleet {
    /// Picks for a message.
    ///
    /// Ejected upstreams are passed over while another is left; when none is, the marks are ignored, because
    /// trying is better than refusing mail outright. One whose ejection is over gets the next message, and no
    /// second one before that went well: what is known of it is from its bad times.
    pub fn pick(&mut self, ask: &Ask<'_>, now: Instant) -> Pick {
        if self.members.is_empty() {
            return Pick::Nobody;
        }
        self.common.waiting = ask.waiting;
        if self.wants_news(now) {
            self.look(now);
        }
        let heed_marks = match ask.tried.is_empty() {
            _ if self.panics => false,
            true => self.standing > 0,
            false => self.untried(ask).any(|i| !self.members[i].health.is_out(now)),
        };
        let on_trial = match self.on_trial > 0 {
            true => self.untried(ask).find(|i| self.awaits_trial(*i, now)),
            false => None,
        };
        if let Some(i) = on_trial {
            self.picked(i);
            return Pick::Now(i);
        }
        let choice = match ask.tried.is_empty() && heed_marks {
            true => self.choose(ask, |member| member.has_room && member.admitted),
            false => self.choose_among(ask, heed_marks),
        };
        let choice = match choice {
            Some(i) if self.sits_out(i, now) => self.next_best(i, ask, heed_marks, now).or(choice),
            _ => choice,
        };
        match choice {
            Some(i) if self.members[i].has_room => {
                self.picked(i);
                Pick::Now(i)
            }
            Some(_) => Pick::Wait,
            // Those on probation may have their one message under way, the others be full: not nobody, only not yet.
            // But one that nobody can reach at present is as good as tried.
            None if self.untried(ask).any(|i| self.members[i].rest != Rest::Shut) => Pick::Wait,
            None => Pick::Nobody,
        }
    }

    /// Instead of `first`, which is just back and has had its part: the best of the others that has not, and has room.
    fn next_best(&mut self, first: usize, ask: &Ask<'_>, heed_marks: bool, now: Instant) -> Option<usize> {
        let mut tried = *ask.tried;
        tried.push(first);
        for _ in 0..NEXT_BEST_MAX {
            let next = self.choose_among(&Ask { tried: &tried, ..*ask }, heed_marks)?;
            if !self.sits_out(next, now) {
                return Some(next).filter(|next| self.members[*next].has_room);
            }
            tried.push(next);
        }
        None
    }

    fn sits_out(&mut self, i: usize, now: Instant) -> bool {
        let member = &mut self.members[i];
        let fair = member.weight as f32 / self.whole.weight.max(1) as f32;
        member.sits_out(fair, self.picks, now)
    }

    fn untried<'a>(&'a self, ask: &'a Ask<'_>) -> impl Iterator<Item = usize> + 'a {
        (0..self.members.len()).filter(|i| !ask.tried.contains(*i) && !self.members[*i].health.is_closed())
    }

    fn awaits_trial(&self, i: usize, now: Instant) -> bool {
        let member = &self.members[i];
        member.has_room && member.health.awaits_trial(member.in_flight, now)
    }

    /// For a new message while somebody is well: the usual case.
    fn choose(&self, ask: &Ask<'_>, can_be_had: impl Fn(&Member) -> bool) -> Option<usize> {
        match self.is_ranked() {
            true => self.costs.cheapest(ask.bytes as f32, below(self.members.len(), ask.random)),
            false => self.draw(ask, |i| can_be_had(&self.members[i])),
        }
    }

    /// For one that has been somewhere, or when nobody is well.
    fn choose_among(&self, ask: &Ask<'_>, heed_marks: bool) -> Option<usize> {
        let may = |member: &Member| member.admitted || !heed_marks && !member.health.is_closed();
        let eligible = |i: usize| may(&self.members[i]) && !ask.tried.contains(i) && self.counts(i);
        if !self.is_ranked() {
            return self.draw(ask, eligible);
        }
        let start = below(self.members.len(), ask.random);
        let mut best = (f32::INFINITY, None);
        for i in (start..self.members.len()).chain(0..start).filter(|i| eligible(*i)) {
            let (fixed, per_byte) = self.cost(i);
            let cost = fixed + per_byte * ask.bytes as f32;
            if cost < best.0 {
                best = (cost, Some(i));
            }
        }
        best.1
    }

    /// Is it looked at although it may be full?
    pub(super) fn counts(&self, i: usize) -> bool {
        let member = &self.members[i];
        member.has_room || self.policy == Policy::LeastResponseTime && member.rest == Rest::No
    }

    pub(super) fn is_ranked(&self) -> bool {
        use Policy::*;
        matches!(
            self.policy,
            LeastResponseTime | WeightedRoundRobin | LeastConnections | WeightedLeastConnections
        )
    }

    /// The policies that do not compare all of them.
    fn draw(&self, ask: &Ask<'_>, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        let n = self.members.len();
        match self.policy {
            Policy::PowerOfTwo => power_of_two::pick(n, ask.random, can_be_had, |i| {
                least_connections::weighted_cost(&self.members[i])
            }),
            Policy::RecipientHash => {
                recipient_hash::pick(&self.seats, &self.members, &self.whole, ask.recipient, can_be_had)
            }
            Policy::SourceHash => source_hash::pick(&self.seats, ask.source, can_be_had),
            Policy::Random => random::pick(&self.alias, ask.random, can_be_had),
            _ => round_robin::pick(n, self.last, can_be_had),
        }
    }

    fn picked(&mut self, i: usize) {
        self.last = i;
        self.picks += 1;
        match self.policy {
            Policy::WeightedRoundRobin => {
                let member = &mut self.members[i];
                self.turn = weighted_round_robin::picked(member, self.turn);
                self.stale |= self.turn > TURN_MAX;
                // Whoever stays out while marks are ignored has no cost.
                if member.admitted {
                    self.costs.set_fixed(i, weighted_round_robin::cost(member));
                }
            }
            Policy::LeastResponseTime if self.members[i].due => {
                // One is being tried: the others that are due wait for their turn.
                self.common.picks = 0;
                self.stale = true;
            }
            _ => self.common.picks = self.common.picks.saturating_add(1),
        }
    }
}
