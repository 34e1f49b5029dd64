//! One after the other; whoever has no room is passed over.

/// The first from the one after `last` on that can be had.
pub(super) fn pick(n: usize, last: usize, can_be_had: impl Fn(usize) -> bool) -> Option<usize> {
    let mut i = last;
    for _ in 0..n {
        i = if i + 1 < n { i + 1 } else { 0 };
        if can_be_had(i) {
            return Some(i);
        }
    }
    None
}
