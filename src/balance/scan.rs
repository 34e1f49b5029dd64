//! The least of many costs, fast: plain passes over arrays that the compiler turns into vector code.

/// Costs are kept in blocks of so many; what fills the last block up is infinite.
pub(super) const BLOCK: usize = 8;

/// What each member costs: a part that is the same for all messages, and a part per octet. Infinite: not to be had.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs {
    fixed: Vec<[f32; BLOCK]>,
    per_byte: Vec<[f32; BLOCK]>,
}

impl Costs {
    /// Of so many members, none to be had yet.
    pub(super) fn new(members: usize) -> Self {
        let blocks = members.div_ceil(BLOCK);
        Costs { fixed: vec![[f32::INFINITY; BLOCK]; blocks], per_byte: vec![[0.0; BLOCK]; blocks] }
    }

    pub(super) fn set(&mut self, member: usize, fixed: f32, per_byte: f32) {
        self.fixed[member / BLOCK][member % BLOCK] = fixed;
        self.per_byte[member / BLOCK][member % BLOCK] = per_byte;
    }

    fn block(&self, block: usize, bytes: f32) -> [f32; BLOCK] {
        let (fixed, per_byte) = (&self.fixed[block], &self.per_byte[block]);
        std::array::from_fn(|lane| fixed[lane] + per_byte[lane] * bytes)
    }

    /// The member that costs least; of several alike the first from `start` on. `None` if none is to be had.
    pub(super) fn cheapest(&self, bytes: f32, start: usize) -> Option<usize> {
        let mut lanes = [f32::INFINITY; BLOCK];
        for block in 0..self.fixed.len() {
            for (lane, cost) in lanes.iter_mut().zip(self.block(block, bytes)) {
                *lane = if cost < *lane { cost } else { *lane };
            }
        }
        let least = lanes.iter().fold(f32::INFINITY, |least, &lane| if lane < least { lane } else { least });
        if least == f32::INFINITY {
            return None;
        }
        let (first, lane) = (start / BLOCK, start % BLOCK);
        let later = u32::MAX << lane;
        let blocks = self.fixed.len();
        // The block of `start` is looked at twice: its members from there on first, those before it last.
        for step in 0..=blocks {
            let block = if first + step < blocks { first + step } else { first + step - blocks };
            let mut alike = self.alike(block, bytes, least);
            alike &= if step == 0 {
                later
            } else if step == blocks {
                !later
            } else {
                u32::MAX
            };
            if alike != 0 {
                return Some(block * BLOCK + alike.trailing_zeros() as usize);
            }
        }
        None
    }

    /// A bit for each of a block's members that costs exactly `least`.
    fn alike(&self, block: usize, bytes: f32, least: f32) -> u32 {
        let costs = self.block(block, bytes);
        (0..BLOCK).fold(0, |bits, lane| bits | u32::from(costs[lane] == least) << lane)
    }
}

/// A number below `n`, evenly, from a random one.
pub(super) fn below(n: usize, random: u64) -> usize {
    (((random >> 32) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_and_of_several_the_first_from_start(
            costs in prop::collection::vec(prop_oneof![4 => (0u8..6).prop_map(f32::from), 1 => Just(f32::INFINITY)], 1..40),
            start in 0usize..40,
            bytes in 0u16..3,
        ) {
            let start = start % costs.len();
            let mut scanned = Costs::new(costs.len());
            costs.iter().enumerate().for_each(|(i, cost)| scanned.set(i, *cost, (i % 3) as f32));
            let all: Vec<f32> = costs.iter().enumerate().map(|(i, cost)| cost + (i % 3) as f32 * f32::from(bytes)).collect();
            let least = all.iter().copied().fold(f32::INFINITY, f32::min);
            let round = (start..all.len()).chain(0..start);
            let expected = round.into_iter().find(|&i| all[i] == least && least.is_finite());
            prop_assert_eq!(scanned.cheapest(bytes.into(), start), expected);
        }
    }
}
