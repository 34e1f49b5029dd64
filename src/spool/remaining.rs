//! Which recipients of a message are left: a bit for each, the first 64 without a heap's help.

/// The recipients left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Remaining {
    Few(u64),
    Many(Box<[u64]>),
}

impl Remaining {
    pub(super) const NONE: Remaining = Remaining::Few(0);

    pub(super) fn of(recipients: &[u16]) -> Remaining {
        let words = recipients.iter().max().map_or(0, |&last| usize::from(last) / 64 + 1);
        if words <= 1 {
            return Remaining::Few(recipients.iter().fold(0, |bits, n| bits | 1 << n));
        }
        let mut bits = vec![0u64; words];
        recipients.iter().for_each(|&n| bits[usize::from(n) / 64] |= 1 << (n % 64));
        Remaining::of_words(&bits)
    }

    /// From its words; leading ones that are zero do not count.
    pub(super) fn of_words(words: &[u64]) -> Remaining {
        let used = words.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
        match words[..used] {
            [] => Remaining::NONE,
            [one] => Remaining::Few(one),
            ref many => Remaining::Many(many.into()),
        }
    }

    pub(super) fn words(&self) -> &[u64] {
        match self {
            Remaining::Few(0) => &[],
            Remaining::Few(one) => std::slice::from_ref(one),
            Remaining::Many(many) => many,
        }
    }

    /// Takes one out. False: it was not in.
    pub(super) fn remove(&mut self, recipient: u16) -> bool {
        let words = match self {
            Remaining::Few(one) => std::slice::from_mut(one),
            Remaining::Many(many) => &mut many[..],
        };
        let Some(word) = words.get_mut(usize::from(recipient) / 64) else {
            return false;
        };
        let bit = 1 << (recipient % 64);
        let had = *word & bit != 0;
        *word &= !bit;
        had
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words().iter().all(|&word| word == 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.words().iter().enumerate().flat_map(|(at, &word)| {
            let bits = (0..64).filter(move |bit| word & 1 << bit != 0);
            bits.map(move |bit| (at * 64 + bit) as u16)
        })
    }

    /// Octets on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Remaining::Few(_) => 0,
            Remaining::Many(many) => many.len() * 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn like_a_set(all in prop::collection::btree_set(0..2_000u16, 0..50), gone in prop::collection::vec(0..2_000u16, 0..50)) {
            let list: Vec<u16> = all.iter().copied().collect();
            let (mut remaining, mut set): (Remaining, BTreeSet<u16>) = (Remaining::of(&list), all);
            for one in gone.into_iter().chain(list.iter().copied().step_by(2)) {
                prop_assert_eq!(remaining.remove(one), set.remove(&one));
                prop_assert!(remaining.iter().eq(set.iter().copied()));
                prop_assert_eq!(remaining.is_empty(), set.is_empty());
                let back = Remaining::of_words(remaining.words());
                prop_assert!(back.iter().eq(set.iter().copied()));
            }
        }
    }
}
