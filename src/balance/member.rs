//! One upstream of a fleet as a shard sees it.

use super::Rest;
use super::estimate::ResponseTimes;
use super::health::Health;
use crate::time::Instant;
use std::time::Duration;

/// How long an upstream that was found slow is left alone before live mail tries it again; doubles each time it is
/// still slow.
const PATIENCE_MIN_NANOS: u64 = 500_000_000;
const PATIENCE_MAX_NANOS: u64 = 8_000_000_000;

/// One that is just back and not chosen for a while does not make up for more than so many picks.
const CREDIT_MAX: f32 = 4.0;

/// On its way to its full share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    from: Instant,
    pub(super) to: Instant,
    credit: f32,
    /// The fleet's picks when that was counted.
    picks: u64,
}

/// One upstream.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its share where all else is equal; at least 1.
    pub(super) weight: u32,
    /// 1 / weight.
    pub(super) inverse: f32,
    /// This shard's transactions given to it and not yet ended.
    pub(super) in_flight: u32,
    /// The other shards'.
    pub(super) elsewhere: u32,
    pub(super) has_room: bool,
    /// It has no link and is left alone for the moment.
    pub(super) rest: Rest,
    /// The next transaction would need a new link.
    pub(super) must_open: bool,
    /// When the oldest transaction in flight began; `NEVER` if none is.
    pub(super) oldest: Instant,
    /// And how long its message is.
    pub(super) oldest_bytes: u64,
    pub(super) times: ResponseTimes,
    /// The last estimate made from an answer to this shard.
    pub(super) own_nanos: f32,
    pub(super) health: Health,
    /// Health lets a transaction go there.
    pub(super) admitted: bool,
    /// It is its turn to be tried again.
    pub(super) due: bool,
    /// When it last ended a transaction.
    pub(super) heard_at: Instant,
    pub(super) patience_nanos: u64,
    /// Its place in the order of weighted turns.
    pub(super) pass: f64,
    /// It came back a while ago.
    pub(super) ramp: Option<Ramp>,
}

impl Member {
    /// A new upstream: nothing known, nothing held against it.
    pub(super) fn new(weight: u32) -> Self {
        let weight = weight.max(1);
        Member {
            weight,
            inverse: 1.0 / weight as f32,
            in_flight: 0,
            elsewhere: 0,
            has_room: true,
            rest: Rest::No,
            must_open: false,
            oldest: Instant::NEVER,
            oldest_bytes: 0,
            times: ResponseTimes::default(),
            own_nanos: 0.0,
            health: Health::default(),
            admitted: true,
            due: false,
            heard_at: Instant::default(),
            patience_nanos: PATIENCE_MIN_NANOS,
            pass: 0.5 / f64::from(weight),
            ramp: None,
        }
    }

    /// Its share where all else is equal.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// This shard's transactions given to it and not yet ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What is known of its response times.
    pub fn times(&self) -> &ResponseTimes {
        &self.times
    }

    /// The last estimate made from an answer to this shard itself, nanoseconds; 0: none yet.
    pub fn own_nanos(&self) -> f32 {
        self.own_nanos
    }

    /// Whether live traffic may go there.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Transactions in flight on the whole machine.
    pub fn on_machine(&self) -> u32 {
        self.in_flight + self.elsewhere
    }

    /// And one more.
    pub(super) fn load(&self) -> f32 {
        (self.on_machine() + 1) as f32
    }

    /// What is known of another goes over to this one, but for the weight.
    pub(super) fn inherit(&mut self, other: Member) {
        *self = Member { weight: self.weight, inverse: self.inverse, ..other };
    }

    /// From here on its share grows, and is whole after `time`. `picks`: the fleet's so far.
    pub(super) fn start_slowly(&mut self, time: Duration, picks: u64, now: Instant) {
        let ramp = Ramp { from: now, to: now + time, credit: 1.0, picks };
        self.ramp = (!time.is_zero()).then_some(ramp);
    }

    /// Just back, it has no more than a growing part of its fair share of the fleet's picks, at first a twentieth: each
    /// pick is that much credit, and one of its own costs 1.
    pub(super) fn sits_out(&mut self, fair: f32, picks: u64, now: Instant) -> bool {
        let Some(ramp) = &mut self.ramp else { return false };
        let part = now.nanos_since(ramp.from) as f32 / ramp.to.nanos_since(ramp.from).max(1) as f32;
        let since = (picks - std::mem::replace(&mut ramp.picks, picks)) as f32;
        ramp.credit = (ramp.credit + since * fair * part.max(0.05)).min(CREDIT_MAX);
        if ramp.credit < 1.0 {
            return true;
        }
        ramp.credit -= 1.0;
        false
    }

    /// A transaction ended there after some silence.
    pub(super) fn heard(&mut self, is_slow: bool, now: Instant) {
        let was_tried = now.nanos_since(self.heard_at) >= self.patience_nanos;
        if !is_slow {
            self.patience_nanos = PATIENCE_MIN_NANOS;
        } else if was_tried {
            self.patience_nanos = (self.patience_nanos * 2).min(PATIENCE_MAX_NANOS);
        }
        self.heard_at = now;
    }
}
