//! How many sessions say messages at present; those that are merely open do not count.

use crate::time::Instant;

/// Of one shard. A session counts if it has ended a message in this second or the one before.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Talkers {
    second: u64,
    now: usize,
    before: usize,
}

impl Talkers {
    /// A session has said a message. `last`: the second in which it did so before, kept by the session.
    pub(super) fn note(&mut self, last: &mut u64, now: Instant) {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            self.before = if second == self.second + 1 { self.now } else { 0 };
            (self.second, self.now) = (second, 0);
        }
        self.now += usize::from(std::mem::replace(last, second) != second);
    }

    pub(in crate::dispatch) fn count(&self) -> usize {
        self.now.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_who_has_spoken_lately() {
        let (mut talkers, mut sessions) = (Talkers::default(), [u64::MAX; 100]);
        let mut say = |talkers: &mut Talkers, who: usize, millis: u64| {
            talkers.note(&mut sessions[who], Instant::default() + Duration::from_millis(millis));
            talkers.count()
        };
        for round in 0..3 {
            (0..100).for_each(|who| _ = say(&mut talkers, who, 5_000 + round));
            assert_eq!(talkers.count(), 100);
        }
        assert_eq!(say(&mut talkers, 0, 6_000), 100, "the others have had no time yet");
        assert_eq!(say(&mut talkers, 1, 7_000), 1);
        assert_eq!(say(&mut talkers, 1, 9_500), 1, "long after");
    }
}
