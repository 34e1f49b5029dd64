//! How busy the ring is, and so how long a wait gathers completions before it returns.
//!
//! A shard that wakes for each completion pays for a switch of contexts each time. When many come, it waits a
//! little for several (Linux 6.12): measured at 64 sessions half the switches, and a tenth to a fifth of the CPU
//! time of a message. When few come, each is served at once.

use std::time::Duration;

use crate::sys::ring::Gather;
use crate::time::Instant;

/// Completions are counted over this long.
const WINDOW: Duration = Duration::from_millis(1);
/// As many in a window are many: some 6,000 messages a second.
const MANY: u32 = 100;
/// The longest that one waits for others.
const MICROS: u32 = 200;
/// One of so many streams must have something before a wait ends early: with few streams there is no more to come.
const STREAMS_PER_COMPLETION: u32 = 8;
/// More at once would leave the cache.
const COMPLETIONS_MAX: u32 = 64;

/// Counts completions.
#[derive(Debug)]
pub(super) struct Pace {
    window_ends: Instant,
    count: u32,
    /// Of the window before.
    last: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { window_ends: now + WINDOW, count: 0, last: 0 }
    }

    /// So many completions were read.
    pub(super) fn count(&mut self, completions: usize, now: Instant) {
        self.count += completions as u32;
        if now >= self.window_ends {
            // What came in a long silence came slowly.
            let is_stale = now >= self.window_ends + WINDOW;
            self.last = if is_stale { 0 } else { self.count };
            self.count = 0;
            self.window_ends = now + WINDOW;
        }
    }

    /// What the next wait is to gather: beyond `sends`, which complete as they are submitted, some of `streams`.
    pub(super) fn gather(&self, sends: u32, streams: u32) -> Option<Gather> {
        let wanted = (streams / STREAMS_PER_COMPLETION).min(COMPLETIONS_MAX);
        (self.last >= MANY && wanted > 1).then_some(Gather { completions: sends + wanted, micros: MICROS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_only_when_many_come() {
        let at = |micros: u64| Instant::from_nanos(micros * 1_000);
        let mut pace = Pace::new(at(0));
        let mut run = |from: u64, each: usize| {
            (0..40).for_each(|turn| pace.count(each, at(from + turn * 100)));
            pace.gather(3, 128)
        };
        assert_eq!(run(0, 5), None, "fifty in a millisecond are few");
        let gather = Gather { completions: 3 + 16, micros: MICROS };
        assert_eq!(run(4_000, 20), Some(gather));
        assert_eq!(run(8_000, 1), None, "it has become quiet");
        assert_eq!(run(12_000, 20), Some(gather));
        pace.count(150, at(30_000));
        assert_eq!(pace.gather(3, 128), None, "many, but after a long silence");
    }

    #[test]
    fn few_streams_are_not_waited_for() {
        let mut pace = Pace::new(Instant::from_nanos(0));
        pace.count(1_000, Instant::from_nanos(1_000_000));
        assert_eq!(pace.gather(0, 15), None);
        assert_eq!(pace.gather(0, 16).map(|gather| gather.completions), Some(2));
        assert_eq!(pace.gather(0, 100_000).map(|gather| gather.completions), Some(COMPLETIONS_MAX));
    }
}
