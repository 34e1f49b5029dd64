//! A recipient keeps to its upstream, whatever else comes and goes, unless that one has more than its share of what
//! is in flight: then to its next (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018).

use super::Member;
use super::rendezvous::Seats;

/// All that is in flight, and all the weight it can be shared by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whole {
    pub(super) in_flight: u64,
    pub(super) weight: u64,
}

/// May it have one more? Nobody has more than 5/4 of its fair share of all in flight, rounded up.
fn is_within(member: &Member, whole: &Whole) -> bool {
    let has = u64::from(member.in_flight + member.elsewhere);
    has * 4 * whole.weight < (whole.in_flight + 1) * 5 * u64::from(member.weight)
}

pub(super) fn pick(
    seats: &Seats,
    members: &[Member],
    whole: &Whole,
    key: u64,
    can_be_had: impl Fn(usize) -> bool,
) -> Option<usize> {
    let within = |i: usize| is_within(&members[i], whole);
    // Those that cannot be had may leave nobody within bounds: then the key's own choice.
    seats.winner(key, |i| can_be_had(i) && within(i)).or_else(|| seats.winner(key, can_be_had))
}
