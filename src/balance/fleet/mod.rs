//! The upstreams of one pool and what its policy remembers between picks.
//!
//! What an upstream costs changes with every transaction that begins or ends there, and is worked out then; what
//! changes by time alone (a hang, an ejection that ends) is looked at every half a millisecond. A pick itself only
//! compares.

mod choice;
mod standing;

use std::time::Duration;

use super::estimate::Line;
use super::health::Cause;
use super::least_response_time::{self, Common};
use super::random::Alias;
use super::recipient_hash::Whole;
use super::rendezvous::Seats;
use super::scan::Costs;
use super::{Member, Policy, Rest, least_connections, weighted_round_robin};
use crate::time::Instant;

/// What time alone changes is looked at so often.
const LOOK_NANOS: u64 = 500_000;

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
    /// How long one that was down or ejected takes to its full share; one that had fallen silent at most as long as
    /// it was left alone for that.
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
    /// Picks so far.
    picks: u64,
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
            picks: 0,
            turn: 0.0,
            members,
        }
    }

    /// The upstreams, in configuration order.
    pub fn members(&self) -> &[Member] {
        &self.members
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
        let mut next =
            Fleet { care: self.care, turn: self.turn, picks: self.picks, ..Fleet::new(policy, upstreams) };
        let mut members = std::mem::take(&mut self.members).into_iter();
        for (i, member) in next.members.iter_mut().enumerate() {
            match members.next() {
                Some(known) if !is_new(i) => member.inherit(known),
                _ => {
                    member.start_slowly(next.care.slow_start, next.picks, now);
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
            member.ramp = member.ramp.filter(|ramp| now < ramp.to);
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
                if let Some((time, cause)) = member.health.success() {
                    let slowly = self.care.slow_start;
                    // A silence may have been a moment's.
                    let slowly = if cause == Cause::Silent { slowly.min(time) } else { slowly };
                    member.start_slowly(slowly, self.picks, now);
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
}
