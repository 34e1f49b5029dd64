//! What a fleet promises, policy by policy.

mod concurrency;
mod health;
mod response_time;
mod sharing;
mod stability;

use super::*;
use crate::time::Instant;

const MS: u64 = 1_000_000;
const NOWHERE: Tried = Tried { list: [0; Tried::MAX], len: 0 };

fn at(ms: u64) -> Instant {
    Instant::from_nanos((1_000_000 + ms) * MS)
}

fn ask(random: u64) -> Ask<'static> {
    let random = mix(random);
    Ask { tried: &NOWHERE, recipient: random, source: random, bytes: 10_000, waiting: 0, random }
}

/// SplitMix64: numbers that look random.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A fleet of these weights; the n-th upstream's identity is that of the n-th name.
fn weighted(policy: Policy, weights: &[u32]) -> Fleet {
    let identity = |n: usize| key(format!("mta{n}").as_bytes());
    Fleet::new(policy, weights.iter().enumerate().map(|(n, weight)| (*weight, identity(n))))
}

/// A fleet of equal weights that have been answering as quickly as this.
fn known(policy: Policy, estimates_ms: &[u64]) -> Fleet {
    let mut fleet = weighted(policy, &vec![1; estimates_ms.len()]);
    for (upstream, ms) in estimates_ms.iter().enumerate() {
        fleet.heard(upstream, Heard::Done { bytes: 0 }, ms * MS, at(0));
    }
    fleet
}

fn set_room(fleet: &mut Fleet, upstream: usize, has_room: bool) {
    fleet.set_links(upstream, has_room, false, (Instant::NEVER, 0));
}

/// Gives out `n` messages none of which ends; how many each upstream got.
fn spread(fleet: &mut Fleet, n: usize) -> Vec<u32> {
    for random in 0..n as u64 {
        let Pick::Now(i) = fleet.pick(&ask(random), at(0)) else { panic!("somebody must be picked") };
        fleet.began(i);
    }
    fleet.members().iter().map(Member::in_flight).collect()
}

/// Gives out `n` messages each of which ends at once.
fn turns(fleet: &mut Fleet, n: usize) -> Vec<u32> {
    let mut got = vec![0; fleet.members().len()];
    for random in 0..n as u64 {
        let Pick::Now(i) = fleet.pick(&ask(random), at(0)) else { panic!("somebody must be picked") };
        got[i] += 1;
    }
    got
}
