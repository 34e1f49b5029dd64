//! The least of estimate × (in flight + 1) / weight.
//!
//! An upstream whose oldest transaction has been out longer than its estimate is as slow as that: a hang shows
//! before any reply does. The best upstream may be full; waiting for it beats one whose cost is higher. One found
//! slow is tried again with a single live message when it is due.

use super::Member;
use super::estimate::FLOOR;
use crate::time::Instant;

/// At most one pick in so many goes to an upstream because it is due.
pub(super) const DUE_EVERY_PICKS: u32 = 256;
/// A fleet with hardly any mail tries a slow upstream again after this all the same.
const DUE_SILENCE_NANOS: u64 = 300_000_000_000;
/// Slower than the fastest by this factor is slow.
const SLOW: f32 = 2.0;

/// What the fleet has in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Common {
    /// The fastest upstream's estimate.
    pub(super) least: f32,
    /// Messages that wait for a place, and members without room.
    pub(super) waiting: u32,
    pub(super) full: u32,
    /// Picks since one was made because it was due.
    pub(super) picks: u32,
}

impl Common {
    /// Is an estimate of `nanos` slow in this fleet?
    pub(super) fn is_slow(&self, nanos: f32) -> bool {
        nanos > self.least * SLOW
    }
}

/// Is it this one's turn to be tried again, with nothing in flight anywhere?
pub(super) fn is_due(member: &Member, common: &Common, now: Instant) -> bool {
    let silence = now.nanos_since(member.heard_at);
    let patient = silence >= member.patience_nanos && member.times.nanos() > 0.0;
    let others_had_theirs = common.picks >= DUE_EVERY_PICKS || silence >= DUE_SILENCE_NANOS;
    member.in_flight + member.elsewhere == 0 && member.has_room && patient && others_had_theirs
}

/// Nanoseconds for an empty message, and for each octet. Where there is no room, those that wait come before one that
/// would wait too; the full share them.
pub(super) fn cost(member: &Member, common: &Common, now: Instant) -> (f32, f32) {
    let per_byte = member.times.nanos_per_byte();
    let known = member.times.nanos();
    let least = common.least.max(FLOOR);
    if member.due {
        return (0.0, 0.0);
    }
    let estimate = if known == 0.0 { least } else { known };
    let waited = match member.oldest == Instant::NEVER {
        true => 0.0,
        false => now.nanos_since(member.oldest) as f32 - member.oldest_bytes as f32 * per_byte,
    };
    let opening = if member.must_open { member.times.connect.nanos() } else { 0.0 };
    let before = if member.has_room { 0.0 } else { common.waiting as f32 / common.full.max(1) as f32 };
    let scale = (member.load() + before) * member.inverse;
    (estimate.max(waited) * scale + opening, per_byte * scale)
}
