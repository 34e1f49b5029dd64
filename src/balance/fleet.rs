//! The upstreams of one pool and what its policy remembers between picks.
//!
//! What an upstream costs changes with every transaction that begins or ends there, and is worked out then; what
//! changes by time alone (a hang, an ejection that ends) is looked at every half a millisecond. A pick itself only
//! compares.

use super::estimate::Line;
use super::health::{Cause, Rules};
use super::least_response_time::{self, Common};
use super::random::Alias;
use super::recipient_hash::Whole;
use super::rendezvous::Seats;
use super::scan::{Costs, below};
use super::{
    Ask, Member, Pick, Policy, Rest, power_of_two, random, recipient_hash, round_robin, source_hash,
};
use super::{least_connections, weighted_round_robin};
use crate::time::Instant;
use std::time::Duration;

/// What time alone changes is looked at so often.
const LOOK_NANOS: u64 = 500_000;
/// Weighted turns are counted anew from here on, so that small numbers stay exact.
const TURN_MAX: f64 = 64.0;

/// A part of a transaction that an upstream has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The link is ready: since it was asked for.
    Connected,
    /// The reply to MAIL: since the transaction's first command.
    Mail,
    /// The go-ahead for the body: since the reply to MAIL.
    Data,
    /// The final reply to so many octets: since the first of them was written.
    Done {
        /// The message's length.
        bytes: u64,
    },
}

/// How a fleet treats those who come back, and its own bad times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Care {
    /// How long one that was down takes to its full share; one that was ejected at most as long as that lasted.
    pub slow_start: Duration,
    /// With a smaller healthy part than this, in thousandths, marks are ignored.
    pub panic_below_permille: u16,
}

/// The upstreams of one pool.
#[derive(Clone, Debug)]
pub struct Fleet {
    policy: Policy,
    care: Care,
    members: Vec<Member>,
    costs: Costs,
    seats: Seats,
    alias: Alias,
    common: Common,
    whole: Whole,
    /// Members that nothing is held against.
    standing: usize,
    /// So few are healthy that marks are ignored.
    panics: bool,
    /// Members whose ejection is over and of whom nothing good is known yet.
    on_trial: usize,
    /// When all were looked at last, and whether that must be done before the next pick.
    looked_at: Instant,
    stale: bool,
    last: usize,
    /// Where the weighted turn is; counted anew at each look.
    turn: f64,
}

impl Fleet {
    /// A fleet of unknown upstreams: for each its weight, and the [`key`](super::key) of what stays the same of it when
    /// others come and go.
    pub fn new(policy: Policy, upstreams: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let (members, identities): (Vec<Member>, Vec<u64>) =
            upstreams.into_iter().map(|(weight, identity)| (Member::new(weight), identity)).unzip();
        let seats = match policy {
            Policy::RecipientHash | Policy::SourceHash => Seats::new(&members, &identities),
            _ => Seats::default(),
        };
        Fleet {
            policy,
            care: Care::default(),
            costs: Costs::new(members.len()),
            seats,
            alias: Alias::new(&members),
            common: Common::default(),
            whole: Whole::default(),
            standing: members.len(),
            panics: false,
            on_trial: 0,
            looked_at: Instant::default(),
            stale: true,
            last: members.len().saturating_sub(1),
            turn: 0.0,
            members,
        }
    }

    /// The upstreams, in configuration order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

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

    fn is_panic(&self, standing: usize, open: usize) -> bool {
        standing * 1000 < open * usize::from(self.care.panic_below_permille)
    }

    /// Sets how it treats those who come back.
    pub fn set_care(&mut self, care: Care) {
        (self.care, self.stale) = (care, true);
    }

    /// Another policy, other weights, more upstreams: as in [`Fleet::new`]. What is known of those that were there
    /// stays, but for the places of which `is_new` says that somebody else has them now; these start slowly.
    pub fn refit(
        &mut self,
        policy: Policy,
        upstreams: impl IntoIterator<Item = (u32, u64)>,
        is_new: impl Fn(usize) -> bool,
        now: Instant,
    ) {
        let mut next = Fleet { care: self.care, turn: self.turn, ..Fleet::new(policy, upstreams) };
        let mut members = std::mem::take(&mut self.members).into_iter();
        for (i, member) in next.members.iter_mut().enumerate() {
            match members.next() {
                Some(known) if !is_new(i) => member.inherit(known),
                _ => {
                    member.start_slowly(next.care.slow_start, now);
                    member.pass += self.turn;
                }
            }
        }
        let all = |member: &Member| u64::from(member.in_flight) + u64::from(member.elsewhere);
        for (i, member) in next.members.iter().enumerate() {
            next.seats.set_closed(i, member.health.is_closed());
        }
        next.whole.in_flight = next.members.iter().map(all).sum();
        *self = next;
    }

    /// What the control thread says of one: whether it is closed, whether its probes find it down. True if it may be
    /// used again, which it could not before.
    pub fn mark(&mut self, upstream: usize, is_closed: bool, is_down: bool, now: Instant) -> bool {
        let member = &mut self.members[upstream];
        let is_back = member.health.set_marks(is_closed, is_down);
        if is_back {
            member.start_slowly(self.care.slow_start, now);
        }
        self.seats.set_closed(upstream, is_closed);
        self.stale = true;
        is_back
    }

    /// Is it time for [`Fleet::elsewhere`]?
    pub fn wants_news(&self, now: Instant) -> bool {
        self.stale || now.nanos_since(self.looked_at) >= LOOK_NANOS
    }

    /// What the other shards have in flight there, and an estimate of its response time, in nanoseconds, if one of
    /// them has made one since the last time.
    pub fn elsewhere(&mut self, upstream: usize, in_flight: u32, estimate: Option<f32>, now: Instant) {
        let member = &mut self.members[upstream];
        self.whole.in_flight = self.whole.in_flight + u64::from(in_flight) - u64::from(member.elsewhere);
        member.elsewhere = in_flight;
        if let Some(nanos) = estimate {
            member.times.hear(nanos, now);
            member.heard(self.common.is_slow(nanos), now);
        }
        self.stale = true;
    }

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
            Some(i) if self.members[i].sits_out(ask.random, now) => {
                let mut tried = *ask.tried;
                tried.push(i);
                let others = Ask { tried: &tried, ..*ask };
                self.choose_among(&others, heed_marks).filter(|i| self.members[*i].has_room).or(choice)
            }
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
    fn counts(&self, i: usize) -> bool {
        let member = &self.members[i];
        member.has_room || self.policy == Policy::LeastResponseTime && member.rest == Rest::No
    }

    fn is_ranked(&self) -> bool {
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

    /// Looks at all of them.
    fn look(&mut self, now: Instant) {
        self.looked_at = now;
        self.stale = false;
        let (mut standing, mut open, mut on_trial, mut weight, mut least) = (0, 0, 0, 0, f32::INFINITY);
        let turn = std::mem::take(&mut self.turn);
        self.common.full = 0;
        for member in &mut self.members {
            member.pass -= turn;
            member.admitted = member.health.admits(member.in_flight, now);
            standing += usize::from(!member.health.is_out(now));
            open += usize::from(!member.health.is_closed());
            member.ramp = member.ramp.filter(|(_, to)| now < *to);
            on_trial += usize::from(member.health.awaits_trial(0, now));
            if member.admitted {
                weight += u64::from(member.weight);
                self.common.full += u32::from(!member.has_room);
                let nanos = member.times.nanos();
                least = if nanos > 0.0 && nanos < least { nanos } else { least };
            }
        }
        (self.standing, self.on_trial) = (standing, on_trial);
        self.panics = self.is_panic(standing, open);
        self.whole.weight = weight;
        self.common.least = if least.is_finite() { least } else { 0.0 };
        if self.is_ranked() {
            (0..self.members.len()).for_each(|i| self.weigh(i));
        }
    }

    /// Works out what one costs.
    fn weigh(&mut self, i: usize) {
        let now = self.looked_at;
        let member = &mut self.members[i];
        member.admitted = member.health.admits(member.in_flight, now);
        if !self.is_ranked() {
            return;
        }
        let member = &mut self.members[i];
        member.due = self.policy == Policy::LeastResponseTime
            && least_response_time::is_due(member, &self.common, now);
        let (fixed, per_byte) = match self.members[i].admitted && self.counts(i) {
            true => self.cost(i),
            false => (f32::INFINITY, 0.0),
        };
        self.costs.set(i, fixed, per_byte);
    }

    fn cost(&self, i: usize) -> (f32, f32) {
        let member = &self.members[i];
        match self.policy {
            Policy::LeastConnections => (least_connections::cost(member), 0.0),
            Policy::WeightedLeastConnections => (least_connections::weighted_cost(member), 0.0),
            Policy::WeightedRoundRobin => (weighted_round_robin::cost(member), 0.0),
            _ => least_response_time::cost(member, &self.common, self.looked_at),
        }
    }

    /// A transaction was given to it.
    pub fn began(&mut self, upstream: usize) {
        self.members[upstream].in_flight += 1;
        self.whole.in_flight += 1;
        self.weigh(upstream);
    }

    /// One is over there, however it ended.
    pub fn ended(&mut self, upstream: usize) {
        self.members[upstream].in_flight -= 1;
        self.whole.in_flight -= 1;
        self.weigh(upstream);
    }

    /// How its links are: whether one more transaction finds room, whether it must open a link for it, and since when
    /// the oldest in flight, of so many octets, has been out (`NEVER`: none is).
    pub fn set_links(&mut self, upstream: usize, has_room: bool, must_open: bool, oldest: (Instant, u64)) {
        let member = &mut self.members[upstream];
        member.has_room = has_room;
        member.must_open = must_open;
        (member.oldest, member.oldest_bytes) = oldest;
        self.weigh(upstream);
    }

    /// Whether it has no link and is left alone for the moment.
    pub fn set_rest(&mut self, upstream: usize, rest: Rest) {
        if std::mem::replace(&mut self.members[upstream].rest, rest) != rest {
            self.weigh(upstream);
        }
    }

    /// It answered, after so many nanoseconds.
    pub fn heard(&mut self, upstream: usize, what: Heard, nanos: u64, now: Instant) {
        let member = &mut self.members[upstream];
        match what {
            Heard::Connected => member.times.connect.observe(nanos, now),
            Heard::Mail => member.times.mail.observe(nanos, now),
            Heard::Data => member.times.data.observe(nanos, now),
            Heard::Done { bytes } => {
                if let Some(ejected) = member.health.success() {
                    member.start_slowly(self.care.slow_start.min(ejected), now);
                    // What is known of it is from its bad times.
                    member.times.body = Line::default();
                    self.stale = true;
                }
                member.times.body.observe(nanos, bytes, now);
                let nanos = member.times.nanos();
                member.own_nanos = nanos;
                let is_slow = self.common.is_slow(nanos);
                member.heard(is_slow, now);
            }
        }
        self.weigh(upstream);
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
        self.stale = true;
        if self.members[upstream].health.failure(rules, now) {
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
