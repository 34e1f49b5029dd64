//! Rendezvous hashing: each key draws a number for each upstream, and the least wins. An upstream that comes takes
//! from the others exactly the keys it wins, one that goes leaves exactly those it had (Thaler and Ravishankar 1998;
//! the weights as in Schindelhauer and Schomaker 2005).
//!
//! Numbers are drawn for places, not for keys: a key names a place of 2^16, whose winner is remembered once it has been
//! found. However many upstreams there are, a key then costs one look; and since a place's winner is found as a key's
//! would be, a changed fleet moves what it must and nothing else. That many places keep to the weights within a
//! fifth of a percent of all keys.

use std::cell::Cell;

use super::Member;

/// Bits of a place's number. The same for every fleet, or else a fleet that grows would move everything.
const PLACE_BITS: u32 = 16;
/// Nobody has looked yet who wins the place.
const UNKNOWN: u16 = u16::MAX;
/// A key whose upstream cannot be had looks at so many places more before all upstreams are compared.
const STEPS: u64 = 8;

/// Who takes part.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    /// By place; filled as they are asked for.
    winners: Vec<Cell<u16>>,
}

#[derive(Clone, Debug)]
struct Seat {
    seed: u64,
    inverse: f32,
    is_closed: bool,
}

impl Seats {
    /// `identities`: what stays the same of an upstream when others come and go.
    pub(super) fn new(members: &[Member], identities: &[u64]) -> Self {
        let seat = |(member, seed): (&Member, &u64)| Seat {
            seed: *seed,
            inverse: member.inverse,
            is_closed: member.health.is_closed(),
        };
        Seats {
            seats: members.iter().zip(identities).map(seat).collect(),
            winners: vec![Cell::new(UNKNOWN); 1 << PLACE_BITS],
        }
    }

    /// One that is closed is as good as gone: its keys are shared out as if it had never been.
    pub(super) fn set_closed(&mut self, member: usize, is_closed: bool) {
        if let Some(seat) = self.seats.get_mut(member).filter(|seat| seat.is_closed != is_closed) {
            seat.is_closed = is_closed;
            self.winners.fill(Cell::new(UNKNOWN));
        }
    }

    /// The winner of `key` among those that can be had: of the key's own place, or of its next ones.
    pub(super) fn winner(&self, key: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        let mut place = place_of(key);
        for step in 1..=STEPS {
            let winner = self.winner_of(place)?;
            if can_be_had(winner) {
                return Some(winner);
            }
            place = place_of(key.wrapping_add(step));
        }
        self.least(place, can_be_had)
    }

    fn winner_of(&self, place: usize) -> Option<usize> {
        let known = self.winners[place].get();
        if known != UNKNOWN {
            return Some(usize::from(known));
        }
        let winner = self.least(place, |_| true)?;
        self.winners[place].set(winner as u16);
        Some(winner)
    }

    /// The one that draws the least number for a place, of those that can be had.
    fn least(&self, place: usize, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = (f32::INFINITY, None);
        for (i, seat) in self.seats.iter().enumerate() {
            let number = (mix(place as u64 ^ seat.seed) >> 40) as f32 / (1u32 << 24) as f32;
            // -ln(1 - x) is never less than x: most need no logarithm.
            if number * seat.inverse < best.0 && !seat.is_closed && can_be_had(i) {
                let number = -(1.0 - number).ln() * seat.inverse;
                if number < best.0 {
                    best = (number, Some(i));
                }
            }
        }
        best.1
    }
}

/// Keys are hashes already, but those that follow one another are to name places that do not.
fn place_of(key: u64) -> usize {
    (mix(key) >> (64 - PLACE_BITS)) as usize
}

/// The finish of MurmurHash3: every bit of `n` reaches every bit of the result.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let n = (n ^ (n >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    n ^ (n >> 33)
}
