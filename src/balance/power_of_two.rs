//! Two drawn at random, and the less busy of them (for its weight): nearly as even as looking at all of them.

use super::scan::below;

/// Draws until two can be had, a few times at most; then takes what there is.
const DRAWS: u32 = 8;

pub(super) fn pick(
    n: usize,
    random: u64,
    can_be_had: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> f32,
) -> Option<usize> {
    let mut first = None;
    let mut chance = random;
    for _ in 0..DRAWS {
        let i = below(n, chance);
        chance =
            chance.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d).rotate_left(23);
        if Some(i) == first || !can_be_had(i) {
            continue;
        }
        match first {
            None => first = Some(i),
            Some(other) => return Some(if cost(i) < cost(other) { i } else { other }),
        }
    }
    // Hardly any can be had: the next one that can, unless the draw has found the only one.
    first.or_else(|| super::round_robin::pick(n, below(n, random), can_be_had))
}
