//! By chance, the heavier more often: Walker's alias method, one draw whatever the number of upstreams.

use super::Member;
use super::scan::below;

/// Draws again so often if it hits one that cannot be had; then takes the next that can.
const DRAWS: u32 = 8;

/// For each place the chance, of 2^32, to stay there, and where to go otherwise.
#[derive(Clone, Debug, Default)]
pub(super) struct Alias(Vec<(u64, u32)>);

impl Alias {
    pub(super) fn new(members: &[Member]) -> Self {
        let n = members.len() as u64;
        let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        // What each has, of `total`, on average: the light give the rest of their place to the heavy.
        let mut has: Vec<u64> = members.iter().map(|member| u64::from(member.weight) * n).collect();
        let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..has.len()).partition(|&i| has[i] < total);
        let mut places = vec![(1 << 32, 0); has.len()];
        while let (Some(i), Some(&j)) = (light.pop(), heavy.last()) {
            places[i] = (((u128::from(has[i]) << 32) / u128::from(total)) as u64, j as u32);
            has[j] -= total - has[i];
            if has[j] < total {
                heavy.pop();
                light.push(j);
            }
        }
        Alias(places)
    }

    fn draw(&self, random: u64) -> usize {
        let place = below(self.0.len(), random);
        let (stay, other) = self.0[place];
        if random.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 < stay { place } else { other as usize }
    }
}

pub(super) fn pick(alias: &Alias, random: u64, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
    let mut chance = random;
    for _ in 0..DRAWS {
        let i = alias.draw(chance);
        if can_be_had(i) {
            return Some(i);
        }
        chance =
            chance.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d).rotate_left(23);
    }
    super::round_robin::pick(alias.0.len(), below(alias.0.len(), random), can_be_had)
}
