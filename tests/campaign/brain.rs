//! Who chooses: Postlane's policies, an oracle, and HAProxy's way.

use std::time::Duration;

use postlane::balance::health::Rules;
use postlane::balance::{Ask, Care, Fleet, Heard, Pick, Policy, Tried, key};
use postlane::time::Instant;

use super::farm::{ROUND_TRIP, Upstream};
use super::scenario::{Mode, Nanos, SECOND};

/// Messages that an upstream is given at once at most: 8 links, and one more message behind the one on each.
pub(crate) const ROOM: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Policy(Policy),
    /// Knows the true mean of every upstream at every moment, and how many it has.
    Oracle,
    /// A TCP balancer: each session keeps to the upstream that had the fewest connections when it began.
    Haproxy,
}

impl Way {
    pub(crate) fn all() -> Vec<Way> {
        let mut all = vec![Way::Oracle];
        all.extend(Policy::ALL.map(Way::Policy));
        all.push(Way::Haproxy);
        all
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Way::Policy(policy) => policy.label(),
            Way::Oracle => "oracle",
            Way::Haproxy => "HAProxy, leastconn, sessions",
        }
    }
}

pub(crate) fn instant(now: Nanos) -> Instant {
    Instant::from_nanos(1_000 * SECOND + now)
}

/// The choosing, message by message.
pub(crate) enum Brain {
    Fleet(Box<Fleet>),
    Oracle,
}

/// As the configuration's defaults.
const RULES: Rules = Rules { eject_after: 5, eject_for: Duration::from_secs(10) };

impl Brain {
    pub(crate) fn new(way: Way, upstreams: &[Upstream], slow_start: Duration) -> Brain {
        match way {
            Way::Policy(policy) => {
                let identity = |i: usize| key(format!("mta{i}").as_bytes());
                let weights =
                    upstreams.iter().enumerate().map(|(i, upstream)| (upstream.weight, identity(i)));
                let mut fleet = Fleet::new(policy, weights);
                fleet.set_care(Care { slow_start, panic_below_permille: 300 });
                Brain::Fleet(Box::new(fleet))
            }
            Way::Oracle | Way::Haproxy => Brain::Oracle,
        }
    }

    pub(crate) fn pick(&mut self, tried: &Tried, upstreams: &[Upstream], now: Nanos, random: u64) -> Pick {
        match self {
            Brain::Fleet(fleet) => {
                let ask = Ask { tried, recipient: random, source: random, bytes: 10_000, waiting: 0, random };
                fleet.pick(&ask, instant(now))
            }
            Brain::Oracle => oracle(tried, upstreams, random),
        }
    }

    fn fleet(&mut self) -> Option<&mut Fleet> {
        match self {
            Brain::Fleet(fleet) => Some(fleet),
            Brain::Oracle => None,
        }
    }

    pub(crate) fn began(&mut self, upstream: usize) {
        self.fleet().into_iter().for_each(|fleet| fleet.began(upstream));
    }

    pub(crate) fn ended(&mut self, upstream: usize) {
        self.fleet().into_iter().for_each(|fleet| fleet.ended(upstream));
    }

    pub(crate) fn links(&mut self, upstream: usize, in_flight: usize, oldest: Option<Nanos>) {
        if let Some(fleet) = self.fleet() {
            let oldest = oldest.map_or(Instant::NEVER, instant);
            fleet.set_links(upstream, in_flight < ROOM, false, (oldest, 10_000));
        }
    }

    pub(crate) fn answered(&mut self, upstream: usize, nanos: Nanos, now: Nanos) {
        if let Some(fleet) = self.fleet() {
            fleet.heard(upstream, Heard::Mail, ROUND_TRIP, instant(now));
            let nanos = nanos.saturating_sub(ROUND_TRIP);
            fleet.heard(upstream, Heard::Done { bytes: 10_000 }, nanos, instant(now));
        }
    }

    /// `reached`: it failed although it could be reached.
    pub(crate) fn failed(&mut self, upstream: usize, reached: bool, now: Nanos) {
        if let Some(fleet) = self.fleet() {
            let now = instant(now);
            fleet.punish(upstream, now);
            let _ = match reached {
                true => fleet.failed(upstream, &RULES, now),
                false => fleet.unreached(upstream, &RULES, now),
            };
        }
    }

    /// What probes say of it.
    pub(crate) fn mark(&mut self, upstream: usize, is_down: bool, vouched: u8, now: Nanos) {
        if let Some(fleet) = self.fleet() {
            fleet.vouch(upstream, vouched, instant(now));
            fleet.mark(upstream, false, is_down, instant(now));
        }
    }

    pub(crate) fn is_ejected(&mut self, upstream: usize, now: Nanos) -> bool {
        self.fleet().is_some_and(|fleet| fleet.members()[upstream].health().is_ejected(instant(now)))
    }
}

/// The least that a message can be expected to take.
fn oracle(tried: &Tried, upstreams: &[Upstream], random: u64) -> Pick {
    let n = upstreams.len();
    let start = (random % n as u64) as usize;
    let untried = || (start..n).chain(0..start).filter(|i| !tried.contains(*i));
    let expected = |i: usize| {
        let upstream = &upstreams[i];
        let slower = match upstream.mode {
            Mode::Well => 1.0,
            Mode::Slow(times) => times,
            _ => return f64::INFINITY,
        };
        let ahead = (upstream.in_flight() + 1) as f64 / upstream.workers as f64;
        upstream.mean * slower * ahead.max(1.0)
    };
    let best = untried().min_by(|a, b| expected(*a).total_cmp(&expected(*b)));
    match best {
        None => Pick::Nobody,
        Some(i) if upstreams[i].in_flight() < ROOM => Pick::Now(i),
        Some(_) => Pick::Wait,
    }
}
