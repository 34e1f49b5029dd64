//! How many links an upstream works on at once: as many as it does best with.
//!
//! Found by experiment, not by watching: many in flight and long response times come together whichever of them is the
//! cause. So now and then, when all that may be in use is in use, the upstream is given half of that for a while. If it
//! then answers twice as fast, the other half had only been waiting there, and it gets fewer from then on; if it
//! answers no faster, nobody had waited, and it gets more. What counts is the elasticity of the response time to the
//! load, Δln(time) / Δln(load): 0 below the knee, 1 far beyond it.
//!
//! One shard's half would hardly show in a machine of many. So experiments go by the clock, which all shards share, and
//! the load is the whole machine's. One upstream after another has its turn, so that a pool never halves at once.
//!
//! Times are compared as logarithms, message by message of about the same length: a single slow one has little say.

use crate::time::Instant;

/// Lengths are told apart by powers of this: 16 KiB, 256 KiB, 4 MiB.
const CLASSES: usize = 4;
const CLASS_FIRST_BITS: u32 = 14;
const CLASS_BITS: u32 = 4;
/// An experiment is cut into slots of at least two to the power of this many nanoseconds (17 ms), at most of this many
/// (a minute), and no shorter than four response times.
const SLOT_BITS_MIN: u32 = 24;
const SLOT_BITS_MAX: u32 = 36;
const SLOT_TIMES: f32 = 4.0;
/// Every so many slots, the last of them are a trial; less often, up to this many times, while nothing changes.
const CYCLE: u64 = 8;
const TRIAL: u64 = 2;
const PATIENCE_MAX: u64 = 8;
const PATIENCE_AT_MOST_MAX: u64 = 16;
/// From so many on what a side has seen is halved.
const TALLY_MAX: f32 = 512.0;
/// Pairs of times, times the squared contrast of the loads, from which a result is believed: times of service that vary
/// by half of themselves then leave the elasticity uncertain by a seventh.
const ENOUGH: f32 = 12.0;
/// A mean response time so much longer or shorter than at the last result: things have changed.
const CHANGED: f32 = 2.0;
/// Messages that the mean is taken over.
const MEAN_OVER: f32 = 128.0;
/// Loads less different than this, logarithms, tell nothing.
const CONTRAST_MIN: f32 = 0.05;
/// The load in a trial is at most this part of the usual one, or the other way round.
const LESS: f32 = 0.8;
/// From this elasticity on there are too many; from this one on the trial's number is the better one.
const FEWER_FROM: f32 = 0.35;
const TRIAL_IS_BETTER_FROM: f32 = 0.8;
/// Below this elasticity there may be more; below this one there is no sign of a knee.
const MORE_BELOW: f32 = 0.2;
const NO_KNEE_BELOW: f32 = 0.12;

/// Response times of one side of an experiment, as logarithms by class of length; and the load meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    classes: [(f32, f32); CLASSES],
    load: f32,
    count: f32,
}

impl Tally {
    fn add(&mut self, nanos: u64, bytes: u64, load: u32) {
        let class = (64 - (bytes >> CLASS_FIRST_BITS).leading_zeros()).div_ceil(CLASS_BITS) as usize;
        let (sum, count) = &mut self.classes[class.min(CLASSES - 1)];
        *sum += (nanos.max(1) as f32).ln();
        *count += 1.0;
        self.load += load.max(1) as f32;
        self.count += 1.0;
        if self.count >= TALLY_MAX {
            self.fade();
        }
    }

    /// What is older counts for less.
    fn fade(&mut self) {
        for (sum, count) in &mut self.classes {
            (*sum, *count) = (*sum / 2.0, *count / 2.0);
        }
        (self.load, self.count) = (self.load / 2.0, self.count / 2.0);
    }

    fn mean_load(&self) -> f32 {
        self.load / self.count
    }
}

/// The elasticity between two sides, if both have seen enough of each other's like.
fn elasticity(a: &Tally, b: &Tally) -> Option<f32> {
    let contrast = (a.mean_load() / b.mean_load()).ln();
    let (mut pairs, mut sum) = (0.0, 0.0);
    for ((sum_a, count_a), (sum_b, count_b)) in a.classes.iter().zip(&b.classes) {
        if *count_a > 0.0 && *count_b > 0.0 {
            let weight = count_a * count_b / (count_a + count_b);
            sum += weight * (sum_a / count_a - sum_b / count_b);
            pairs += weight;
        }
    }
    // Not a number where one side has seen nothing at all.
    let is_enough = contrast.abs() >= CONTRAST_MIN && pairs * contrast * contrast >= ENOUGH;
    is_enough.then(|| sum / pairs / contrast)
}

/// What is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Usual,
    /// Half of it; where one is all there is, that one, while the other shards have less.
    Down,
    /// Two where one is all there is.
    Up,
}

/// How one experiment ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Fewer,
    None,
    More,
}

/// One shard's bound on the links to one upstream that are in use at once.
#[derive(Clone, Debug)]
pub struct Concurrency {
    /// As configured.
    most: usize,
    /// As found.
    limit: usize,
    /// As the upstream asked for.
    pressed: usize,
    /// Whose turn it is.
    turn: u64,
    slot_bits: u32,
    /// The mean response time outside trials, nanoseconds.
    nanos: f32,
    side: Side,
    /// When that began.
    since: Instant,
    usual: Tally,
    trial: Tally,
    /// The side that the trial's tally is of.
    tried: Side,
    patience: u64,
    last: Option<Step>,
    /// The mean response time at the last result.
    nanos_then: f32,
}

impl Concurrency {
    /// At most `most` links, at least one. `turn`: the upstream's place among those of its pool.
    pub fn new(most: usize, turn: usize) -> Concurrency {
        let most = most.max(1);
        Concurrency {
            most,
            limit: most,
            pressed: most,
            turn: turn as u64,
            slot_bits: SLOT_BITS_MIN,
            nanos: 0.0,
            side: Side::Usual,
            since: Instant::default(),
            usual: Tally::default(),
            trial: Tally::default(),
            tried: Side::Down,
            patience: 1,
            last: None,
            nanos_then: 0.0,
        }
    }

    /// At most so many from now on.
    pub fn set_most(&mut self, most: usize) {
        let most = most.max(1);
        let follow = |now: usize, before: usize| if now == before { most } else { now.min(most) };
        (self.limit, self.pressed) = (follow(self.limit, self.most), follow(self.pressed, self.most));
        self.most = most;
    }

    /// The bound that has been found, experiments left aside.
    pub fn limit(&self) -> usize {
        self.limit.min(self.pressed)
    }

    /// So many links may be in use now.
    pub fn allowed(&self) -> usize {
        let limit = self.limit();
        match self.side {
            Side::Usual => limit,
            Side::Down => (limit / 2).max(1),
            Side::Up => (limit + 1).min(self.most).min(self.pressed),
        }
    }

    /// So many links may stand, idle ones included.
    pub fn standing_max(&self) -> usize {
        self.pressed
    }

    /// The upstream, which has so many links, asks for fewer: half as many.
    pub fn press(&mut self, links: usize) {
        self.pressed = (links / 2).clamp(1, self.most);
    }

    /// One more again, for the time in which nothing was asked for.
    pub fn ease(&mut self) {
        self.pressed = (self.pressed + 1).min(self.most);
    }

    /// Begins and ends trials by the clock. True if what is allowed has changed.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.nanos > self.nanos_then * CHANGED || self.nanos_then > self.nanos * CHANGED {
            self.begin_anew();
        }
        let slot = (now.as_nanos() >> self.slot_bits).wrapping_add(self.turn.wrapping_mul(5));
        let cycle = CYCLE * self.patience;
        let is_last = |slots: u64| slot % slots >= slots - TRIAL;
        let is_one = self.limit() == 1;
        let side = match self.side {
            // There is something to find out only where the bound is what bounds.
            Side::Usual if self.usual.count == 0.0 || self.most == 1 => Side::Usual,
            _ if is_last(cycle) => Side::Down,
            _ if is_one && is_last(cycle / 2) => Side::Up,
            _ => Side::Usual,
        };
        if side == self.side {
            return false;
        }
        let before = self.allowed();
        if self.side != Side::Usual {
            self.judge();
        }
        (self.side, self.since) = (side, now);
        self.allowed() != before
    }

    /// A message of so many octets was taken after so many nanoseconds, one of `in_use` links' that were in use; `load`:
    /// all that is in flight there, on the whole machine.
    pub fn observe(&mut self, nanos: u64, bytes: u64, in_use: usize, load: u32, now: Instant) {
        if self.side == Side::Usual {
            self.follow(nanos);
        }
        let began_before = now.nanos_since(self.since) < nanos;
        if in_use != self.allowed() || began_before {
            return;
        }
        if self.side == Side::Usual {
            self.usual.add(nanos, bytes, load);
        } else if self.shows(load) && (self.tried == self.side || self.trial.count == 0.0) {
            self.tried = self.side;
            self.trial.add(nanos, bytes, load);
        }
    }

    /// Is so little, or so much, in flight on the whole machine that the trial shows? It does not if the other shards
    /// do not try.
    fn shows(&self, load: u32) -> bool {
        let (load, usual) = (load as f32, self.usual.mean_load());
        if self.side == Side::Up { load * LESS > usual } else { load < usual * LESS }
    }

    /// Slots are as long as the mean response time wants them.
    fn follow(&mut self, nanos: u64) {
        let sample = nanos as f32;
        self.nanos += if self.nanos == 0.0 { sample } else { (sample - self.nanos) / MEAN_OVER };
        let wanted = self.nanos * SLOT_TIMES;
        let slot = (1u64 << self.slot_bits) as f32;
        if wanted > slot && self.slot_bits < SLOT_BITS_MAX {
            self.slot_bits += 1;
        } else if wanted * 2.5 < slot && self.slot_bits > SLOT_BITS_MIN {
            self.slot_bits -= 1;
        }
    }

    /// What was seen before says nothing of now.
    fn begin_anew(&mut self) {
        (self.usual, self.trial) = (Tally::default(), Tally::default());
        self.nanos_then = self.nanos;
        self.patience = 1;
    }

    /// Takes the consequence of what has been seen, once it is enough.
    fn judge(&mut self) {
        let Some(elasticity) = elasticity(&self.usual, &self.trial) else { return };
        let patience = self.patience;
        self.begin_anew();
        let step = match elasticity {
            e if e >= FEWER_FROM => Step::Fewer,
            e if e < MORE_BELOW => Step::More,
            _ => Step::None,
        };
        let limit = self.limit();
        let quarter = (limit / 4).max(1);
        // Long strides while they lead on in the same direction.
        let strides = self.last.is_none_or(|last| last == step);
        let next = match step {
            Step::Fewer if strides && elasticity >= TRIAL_IS_BETTER_FROM => limit / 2,
            Step::Fewer => limit - quarter,
            Step::None => limit,
            Step::More if strides && elasticity < NO_KNEE_BELOW => limit + (limit / 2).max(1),
            Step::More => limit + quarter,
        };
        let next = next.clamp(1, self.most);
        self.patience = match next != limit && strides {
            true => (patience / 2).max(1),
            // Where all may be used there is nothing to gain, and a change for the worse shows by itself.
            false if next == self.most => (patience * 2).min(PATIENCE_AT_MOST_MAX),
            false => (patience * 2).min(PATIENCE_MAX),
        };
        self.last = Some(step);
        // While it is pressed, "more" can only be as before.
        self.limit = if step == Step::Fewer { next } else { next.max(self.limit) };
    }
}
