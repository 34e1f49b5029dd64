//! Rendezvous hashing: each key draws a number for each upstream, and the least wins. An upstream that comes takes
//! from the others exactly the keys it wins, one that goes leaves exactly those it had (Thaler and Ravishankar 1998;
//! the weights as in Schindelhauer and Schomaker 2005).

use super::Member;

/// Bits for a member's place in its fleet.
const PLACE: u64 = 0xffff;

/// Who takes part.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats {
    seeds: Vec<u64>,
    inverses: Vec<f32>,
    /// All weigh the same: numbers can be compared as they are.
    even: bool,
}

impl Seats {
    /// `identities`: what stays the same of an upstream when others come and go.
    pub(super) fn new(members: &[Member], identities: &[u64]) -> Self {
        Seats {
            seeds: identities.to_vec(),
            inverses: members.iter().map(|member| member.inverse).collect(),
            even: members.windows(2).all(|pair| pair[0].weight == pair[1].weight),
        }
    }

    /// The winner of `key` among those that can be had.
    pub(super) fn winner(&self, key: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        if self.even { self.least(key, can_be_had) } else { self.least_weighted(key, can_be_had) }
    }

    fn least(&self, key: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        let mut last = None;
        // The winner, or the next that can be had.
        loop {
            let floor = last.map_or(0, |number| number + 1);
            let numbers = self.seeds.iter().enumerate().map(|(i, seed)| {
                // The number's last bits make room for whose it is.
                let number = (draw(key, *seed) & !PLACE) | i as u64;
                if number >= floor { number } else { u64::MAX }
            });
            let winner = numbers.fold(u64::MAX, u64::min);
            if winner == u64::MAX {
                return None;
            }
            let place = (winner & PLACE) as usize;
            if can_be_had(place) {
                return Some(place);
            }
            last = Some(winner);
        }
    }

    fn least_weighted(&self, key: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = (f32::INFINITY, None);
        for (i, (seed, inverse)) in self.seeds.iter().zip(&self.inverses).enumerate() {
            let number = (draw(key, *seed) >> 40) as f32 / (1u32 << 24) as f32;
            // -ln(1 - x) is never less than x: most need no logarithm.
            if number * inverse < best.0 && can_be_had(i) {
                let number = -(1.0 - number).ln() * inverse;
                if number < best.0 {
                    best = (number, Some(i));
                }
            }
        }
        best.1
    }
}

/// The number a key draws for an upstream, even over its upper bits; both are hashes already.
fn draw(key: u64, seed: u64) -> u64 {
    let mixed = (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}
