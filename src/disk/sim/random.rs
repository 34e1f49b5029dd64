//! The simulated worlds' source of chance: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
//! number generators", figure 13).

use std::ops::RangeInclusive;

#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly within the range (the modulo's bias does not matter here).
    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let span = high.saturating_sub(low);
        if span == 0 {
            return low;
        }
        low + if span == u64::MAX { self.next() } else { self.next() % (span + 1) }
    }

    /// An index below `len`.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        assert!(len > 0, "an index into nothing");
        self.within(0..=len as u64 - 1) as usize
    }

    /// True with that probability. Draws nothing for 0, so that an unused fault changes no run.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < probability
    }

    /// Puts the items into a random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}
