//! The least of estimate × (in flight + 1) / weight.
//!
//! An upstream whose oldest transaction has been out longer than its estimate is as slow as that: a hang shows
//! before any reply does. The best upstream may be full; waiting for it beats one whose cost is higher.

use super::{Member, Pick};
use crate::time::Instant;

pub(super) fn pick(
    members: &[Member],
    eligible: impl Fn(usize, &Member) -> bool,
    now: Instant,
    random: u64,
) -> Pick {
    let n = members.len();
    if n == 0 {
        return Pick::Nobody;
    }
    // Shards that start at different places do not herd onto the same one of several equals.
    let start = (random % n as u64) as usize;
    let mut best: Option<(u128, usize)> = None;
    for i in (start..n).chain(0..start) {
        let member = &members[i];
        if !eligible(i, member) {
            continue;
        }
        let cost = cost(member, now);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, i));
        }
    }
    match best {
        Some((_, i)) if members[i].has_room => Pick::Now(i),
        Some(_) => Pick::Wait,
        None => Pick::Nobody,
    }
}

/// In nanoseconds, scaled by 2^16 so that weights divide without loss.
fn cost(member: &Member, now: Instant) -> u128 {
    let waited = if member.oldest == Instant::NEVER { 0 } else { now.nanos_since(member.oldest) };
    let nanos = member.estimate.nanos(now).max(waited);
    (u128::from(nanos) << 16) * u128::from(member.in_flight + 1) / u128::from(member.weight)
}
