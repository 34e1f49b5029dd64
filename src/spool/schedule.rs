//! When what is put off is tried again: per pool a queue by due time, lazily kept.
//!
//! An entry's place in its queue is not looked for when the entry changes: what comes up and is not due at that
//! tick any more is thrown away. So what is not due costs nothing, and a change costs one push.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::index::Index;
use crate::time::Instant;

/// What due times are counted in: a sixteenth of a second, so that 32 bits last for eight years.
const TICK_NANOS: u64 = 62_500_000;

/// The due queues.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    queues: Vec<Queue>,
    /// The queue that was served last.
    turn: usize,
    /// (Tick, slot): when a sender's time is over.
    deadlines: BinaryHeap<Reverse<(u32, u32)>>,
}

/// What waits for one pool.
#[derive(Debug)]
struct Queue {
    pool: u16,
    /// (Tick, slot), the earliest first.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// The tick in which an instant lies, the next one if it is not its start: never early.
fn tick(at: Instant) -> u32 {
    u32::try_from(at.as_nanos().div_ceil(TICK_NANOS)).unwrap_or(u32::MAX)
}

impl Schedule {
    /// Puts a waiting entry into its pool's queue.
    pub(super) fn push(&mut self, slot: u32, pool: u16, due: Instant) {
        let own = self.queues.iter().position(|queue| queue.pool == pool);
        let at = own.unwrap_or_else(|| self.new_queue(pool));
        self.queues[at].heap.push(Reverse((tick(due), slot)));
    }

    /// Notes when an entry's sender's time is over, whatever it waits for otherwise.
    pub(super) fn push_deadline(&mut self, slot: u32, at: Instant) {
        self.deadlines.push(Reverse((tick(at), slot)));
    }

    /// The next entry whose sender's time is over, if it still is as it was.
    pub(super) fn pop_deadline(&mut self, now: Instant) -> Option<u32> {
        if self.next_deadline() > now {
            return None;
        }
        self.deadlines.pop().map(|Reverse((_, slot))| slot)
    }

    /// When `pop_deadline` is worth calling next.
    pub(super) fn next_deadline(&self) -> Instant {
        let first = self.deadlines.peek();
        first.map_or(Instant::NEVER, |Reverse((at, _))| Instant::from_nanos(u64::from(*at) * TICK_NANOS))
    }

    /// Pools come and go: one of which nothing waits leaves its queue to the next.
    fn new_queue(&mut self, pool: u16) -> usize {
        let empty = self.queues.iter().position(|queue| queue.heap.is_empty());
        let at = empty.unwrap_or(self.queues.len());
        if at == self.queues.len() {
            self.queues.push(Queue { pool, heap: BinaryHeap::new() });
        }
        self.queues[at].pool = pool;
        at
    }

    /// The next entry that is due, of pools that may, each in its turn.
    pub(super) fn pop(
        &mut self,
        now: Instant,
        index: &Index,
        mut may: impl FnMut(u16) -> bool,
    ) -> Option<u32> {
        let count = self.queues.len();
        for step in 1..=count {
            let at = (self.turn + step) % count;
            self.drop_stale(at, index);
            let Queue { pool, heap } = &mut self.queues[at];
            let is_due =
                |Reverse((at, _)): &Reverse<(u32, u32)>| u64::from(*at) * TICK_NANOS <= now.as_nanos();
            if heap.peek().is_some_and(is_due) && may(*pool) {
                self.turn = at;
                return heap.pop().map(|Reverse((_, slot))| slot);
            }
        }
        None
    }

    /// When `pop` is worth calling next, for pools that may.
    pub(super) fn next(&self, mut may: impl FnMut(u16) -> bool) -> Instant {
        let queues = self.queues.iter().filter(|queue| may(queue.pool));
        let first = queues.filter_map(|queue| queue.heap.peek()).map(|Reverse((at, _))| *at).min();
        first.map_or(Instant::NEVER, |at| Instant::from_nanos(u64::from(at) * TICK_NANOS))
    }

    fn drop_stale(&mut self, at: usize, index: &Index) {
        let Queue { pool, heap } = &mut self.queues[at];
        while let Some(&Reverse((at, slot))) = heap.peek() {
            let entry = &index[slot];
            if entry.is_waiting() && entry.pool == *pool && tick(entry.due) == at {
                return;
            }
            heap.pop();
        }
    }

    /// Octets of memory.
    pub(super) fn bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.heap.capacity() * 8).sum::<usize>()
            + self.deadlines.capacity() * 8
    }
}

/// How long after its `attempts`-th attempt a message waits: the step of that number (the last one repeats), a
/// tenth more or less by its number, so that what came together does not come back together.
pub(super) fn wait(steps: &[Duration], attempts: u8, number: u64) -> Duration {
    let at = usize::from(attempts.saturating_sub(1)).min(steps.len().saturating_sub(1));
    let step = steps.get(at).copied().unwrap_or(Duration::from_secs(60));
    let mixed = (number ^ u64::from(attempts) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    step.mul_f64(0.9 + 0.2 * (mixed as f64 / f64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::index::{Entry, Life};

    const NANOS: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * NANOS)
    }

    fn waiting(index: &mut Index, pool: u16, due: Instant) -> u32 {
        index.insert(Entry { life: Life::Kept, pool, due, ..Entry::default() })
    }

    #[test]
    fn pools_take_turns_and_what_is_not_due_stays() {
        let (mut index, mut schedule) = (Index::default(), Schedule::default());
        for (pool, due) in [(0, 5), (0, 1), (0, 2), (2, 3), (2, 9)] {
            let slot = waiting(&mut index, pool, at(due));
            schedule.push(slot, pool, at(due));
        }
        assert_eq!(schedule.next(|_| true), at(1));
        assert_eq!(schedule.next(|pool| pool != 0), at(3));
        let mut got = Vec::new();
        while let Some(slot) = schedule.pop(at(5), &index, |_| true) {
            got.push((index[slot].pool, index[slot].due.as_nanos() / NANOS));
            index[slot].active = true;
        }
        assert_eq!(got, [(2, 3), (0, 1), (0, 2), (0, 5)]);
        assert_eq!(schedule.pop(at(9), &index, |pool| pool != 2), None);
        assert!(schedule.pop(at(9), &index, |_| true).is_some());
    }

    #[test]
    fn a_place_left_behind_is_not_believed() {
        let (mut index, mut schedule) = (Index::default(), Schedule::default());
        let slot = waiting(&mut index, 0, at(1));
        schedule.push(slot, 0, at(1));
        index[slot].due = at(7);
        schedule.push(slot, 0, at(7));
        assert_eq!(schedule.pop(at(6), &index, |_| true), None);
        assert_eq!(schedule.next(|_| true), at(7));
        assert_eq!(schedule.pop(at(7), &index, |_| true), Some(slot));
        index.remove(slot);
        assert_eq!(schedule.pop(at(99), &index, |_| true), None);
    }

    #[test]
    fn what_is_due_now_is_so_within_a_tick() {
        let (mut index, mut schedule) = (Index::default(), Schedule::default());
        let due = Instant::from_nanos(7 * NANOS + 1);
        let slot = waiting(&mut index, 0, due);
        schedule.push(slot, 0, due);
        let next = schedule.next(|_| true);
        assert!(next >= due && next.nanos_since(due) < TICK_NANOS);
        assert_eq!(schedule.pop(next, &index, |_| true), Some(slot));
    }

    #[test]
    fn steps_repeat_the_last_and_scatter_by_a_tenth() {
        let steps = [Duration::from_secs(60), Duration::from_secs(600)];
        for (attempts, step) in [(1, 60.0), (2, 600.0), (3, 600.0), (255, 600.0)] {
            let waits: Vec<f64> =
                (0..1_000).map(|number| wait(&steps, attempts, number).as_secs_f64() / step).collect();
            assert!(waits.iter().all(|&wait| (0.9..=1.1).contains(&wait)));
            assert!(waits.iter().any(|&wait| wait < 0.92) && waits.iter().any(|&wait| wait > 1.08));
        }
    }
}
