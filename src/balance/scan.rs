//! The least of many costs, fast: plain passes over arrays that the compiler turns into vector code.

/// Costs are kept in blocks of so many; what fills the last block up is infinite.
pub(super) const BLOCK: usize = 8;

/// What each member costs: a part that is the same for all messages, and a part per octet. Infinite: not to be had.
#[derive(Clone, Debug, Default)]
pub(super) struct Costs(Vec<Block>);

#[derive(Clone, Debug)]
struct Block {
    fixed: [f32; BLOCK],
    per_byte: [f32; BLOCK],
}

impl Costs {
    /// Of so many members, none to be had yet.
    pub(super) fn new(members: usize) -> Self {
        let block = Block { fixed: [f32::INFINITY; BLOCK], per_byte: [0.0; BLOCK] };
        Costs(vec![block; members.div_ceil(BLOCK)])
    }

    pub(super) fn set(&mut self, member: usize, fixed: f32, per_byte: f32) {
        let block = &mut self.0[member / BLOCK];
        block.fixed[member % BLOCK] = fixed;
        block.per_byte[member % BLOCK] = per_byte;
    }

    pub(super) fn set_fixed(&mut self, member: usize, fixed: f32) {
        self.0[member / BLOCK].fixed[member % BLOCK] = fixed;
    }

    /// The member that costs least; of several alike one that depends on `start`, each as likely if `start` is
    /// drawn evenly. `None` if none is to be had.
    pub(super) fn cheapest(&self, bytes: f32, start: usize) -> Option<usize> {
        let (first, start_lane) = (start / BLOCK, start % BLOCK);
        let (before, after) = self.0.split_at(first);
        let mut found = Found { least: [f32::INFINITY; BLOCK], place: [0; BLOCK] };
        found = found.look_at(after, first as u32, bytes);
        found = found.look_at(before, 0, bytes);
        let mut best = (f32::INFINITY, 0);
        for step in 0..BLOCK {
            let lane = (start_lane + step) % BLOCK;
            best = if found.least[lane] < best.0 { (found.least[lane], lane) } else { best };
        }
        (best.0 < f32::INFINITY).then(|| found.place[best.1] as usize * BLOCK + best.1)
    }
}

/// The least seen so far, a lane at a time, and in which blocks.
#[derive(Clone, Copy)]
struct Found {
    least: [f32; BLOCK],
    place: [u32; BLOCK],
}

impl Found {
    fn look_at(mut self, blocks: &[Block], first: u32, bytes: f32) -> Self {
        for (number, block) in (first..).zip(blocks) {
            for lane in 0..BLOCK {
                let cost = block.fixed[lane] + block.per_byte[lane] * bytes;
                let is_less = cost < self.least[lane];
                self.least[lane] = if is_less { cost } else { self.least[lane] };
                self.place[lane] = if is_less { number } else { self.place[lane] };
            }
        }
        self
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
        fn one_of_the_least(
            costs in prop::collection::vec(prop_oneof![4 => (0u8..6).prop_map(f32::from), 1 => Just(f32::INFINITY)], 1..40),
            start in 0usize..40,
            bytes in 0u16..3,
        ) {
            let start = start % costs.len();
            let mut scanned = Costs::new(costs.len());
            costs.iter().enumerate().for_each(|(i, cost)| scanned.set(i, *cost, (i % 3) as f32));
            let all: Vec<f32> =
                costs.iter().enumerate().map(|(i, cost)| cost + (i % 3) as f32 * f32::from(bytes)).collect();
            let least = all.iter().copied().fold(f32::INFINITY, f32::min);
            let found = scanned.cheapest(bytes.into(), start);
            prop_assert_eq!(found.is_some(), least.is_finite());
            prop_assert!(found.is_none_or(|i| all[i] == least));
            if all[start] == least && least.is_finite() {
                prop_assert_eq!(found, Some(start));
            }
        }
    }
}
