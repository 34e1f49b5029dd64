//! A recipient keeps to its upstream, whatever else comes and goes, unless that one has more than its share of what
//! is in flight: then to its next (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018).

use super::Member;
use super::rendezvous::Seats;

/// Nobody has more than this times its fair share in flight, rounded up.
const BOUND: f64 = 1.25;

/// All that is in flight, and all the weight it can be shared by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whole {
    pub(super) in_flight: u64,
    pub(super) weight: u64,
}

/// Most that this one may have in flight when one more is given out.
pub(super) fn bound(member: &Member, whole: &Whole) -> u32 {
    let fair = (whole.in_flight + 1) as f64 * f64::from(member.weight) / whole.weight.max(1) as f64;
    (fair * BOUND).ceil() as u32
}

pub(super) fn pick(
    seats: &Seats,
    members: &[Member],
    whole: &Whole,
    key: u64,
    can_be_had: impl Fn(usize) -> bool,
) -> Option<usize> {
    let within = |i: usize| members[i].in_flight + members[i].elsewhere < bound(&members[i], whole);
    // Those that cannot be had may leave nobody within bounds: then the key's own choice.
    seats.winner(key, |i| can_be_had(i) && within(i)).or_else(|| seats.winner(key, can_be_had))
}
