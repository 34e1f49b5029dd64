//! From a fleet, a key, the time and a random number: a pick. Pure; one file per policy.

pub mod estimate;
pub mod health;
mod least_response_time;
mod round_robin;

use crate::time::Instant;
use estimate::Estimate;
use health::Health;

/// How a pool chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Estimate × (in flight + 1) / weight, the least.
    #[default]
    LeastResponseTime,
    /// One after the other, whatever they are like.
    RoundRobin,
}

/// One upstream of a fleet as a shard sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its share where response times are equal; at least 1.
    pub weight: u32,
    /// Transactions given to it and not yet ended.
    pub in_flight: u32,
    /// Whether its links could take one more now.
    pub has_room: bool,
    /// When the oldest transaction in flight began; `NEVER` if none is.
    pub oldest: Instant,
    /// Its response time.
    pub estimate: Estimate,
    /// Whether live traffic may go there.
    pub health: Health,
}

impl Member {
    /// A new upstream: nothing known, nothing held against it.
    pub fn new(weight: u32) -> Self {
        Member {
            weight: weight.max(1),
            in_flight: 0,
            has_room: true,
            oldest: Instant::NEVER,
            estimate: Estimate::default(),
            health: Health::default(),
        }
    }

    /// May a transaction be given to it, by its health alone?
    fn is_usable(&self, now: Instant) -> bool {
        self.health.admits(self.in_flight, now)
    }
}

/// The upstreams that a message has been to already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    list: [u16; Tried::MAX],
    len: u8,
}

impl Tried {
    /// Most attempts a message can have.
    pub const MAX: usize = 20;

    /// Remembers one; forgets nothing up to [`Tried::MAX`].
    pub fn push(&mut self, upstream: usize) {
        if !self.contains(upstream) && (self.len as usize) < Tried::MAX {
            self.list[self.len as usize] = upstream as u16;
            self.len += 1;
        }
    }

    /// No more can be remembered.
    pub fn is_full(&self) -> bool {
        usize::from(self.len) == Tried::MAX
    }

    /// Was it there?
    pub fn contains(&self, upstream: usize) -> bool {
        self.list[..self.len as usize].contains(&(upstream as u16))
    }
}

/// What a policy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pick {
    /// This one, now.
    Now(usize),
    /// The best one has no room: wait for it rather than take a worse one.
    Wait,
    /// There is none that has not been tried.
    Nobody,
}

/// The upstreams of one pool and what the policy remembers between picks.
#[derive(Clone, Debug)]
pub struct Fleet {
    policy: Policy,
    /// The upstreams, in configuration order.
    pub members: Vec<Member>,
    last: usize,
}

impl Fleet {
    /// A fleet of unknown upstreams with these weights.
    pub fn new(policy: Policy, weights: impl IntoIterator<Item = u32>) -> Self {
        Fleet { policy, members: weights.into_iter().map(Member::new).collect(), last: usize::MAX }
    }

    /// Has it an upstream that nothing is held against?
    pub fn has_healthy(&self, now: Instant) -> bool {
        self.members.iter().any(|member| !member.health.is_ejected(now))
    }

    /// Picks for a message that has been to `tried`. `random` spreads ties.
    ///
    /// Ejected upstreams are passed over while another is left; when none is, the marks are ignored, because
    /// trying is better than refusing mail outright. One whose ejection is over gets the next message, and no
    /// second one before that went well: what is known of it is from its bad times.
    pub fn pick(&mut self, tried: &Tried, now: Instant, random: u64) -> Pick {
        let mut someone_usable = false;
        for (i, member) in self.members.iter().enumerate().filter(|(i, _)| !tried.contains(*i)) {
            someone_usable |= !member.health.is_ejected(now);
            if member.has_room && member.health.awaits_trial(member.in_flight, now) {
                self.last = i;
                return Pick::Now(i);
            }
        }
        let eligible = |i: usize, m: &Member| !tried.contains(i) && (!someone_usable || m.is_usable(now));
        let pick = match self.policy {
            Policy::LeastResponseTime => least_response_time::pick(&self.members, eligible, now, random),
            Policy::RoundRobin => round_robin::pick(&self.members, eligible, self.last),
        };
        match pick {
            Pick::Now(i) => self.last = i,
            // Those on probation may have their one message under way: not nobody, only not yet.
            Pick::Nobody if someone_usable => return Pick::Wait,
            _ => {}
        }
        pick
    }

    /// The upstream took a message, that long after its final dot.
    pub fn succeeded(&mut self, upstream: usize, nanos: u64, now: Instant) {
        let member = &mut self.members[upstream];
        if member.health.success() {
            member.estimate.restart(nanos, now);
        } else {
            member.estimate.observe(nanos, now);
        }
    }

    /// It failed: that never makes it look fast.
    pub fn failed(&mut self, upstream: usize, now: Instant) {
        let others = self.median_of_others(upstream, now);
        self.members[upstream].estimate.punish(others, now);
    }

    /// The middle of the other upstreams' estimates, in nanoseconds; 0 if there are none.
    fn median_of_others(&self, upstream: usize, now: Instant) -> u64 {
        // A small fixed sample: exact for usual fleets, near enough for large ones, and no allocation.
        let mut sample = [0u64; 16];
        let others = self.members.iter().enumerate().filter(|(i, _)| *i != upstream);
        let n = (self.members.len() - 1).min(sample.len());
        for (slot, (_, member)) in sample.iter_mut().zip(others) {
            *slot = member.estimate.nanos(now);
        }
        sample[..n].sort_unstable();
        if n == 0 { 0 } else { sample[n / 2] }
    }
}

#[cfg(test)]
mod tests;
