//! One deadline for each slot of a table, cheap to move: moving it later touches no heap.
//!
//! The heap's entries outlive the slot's users: when one comes up, the slot's real deadline is looked at and the entry
//! goes back in if that is later. So a session that speaks all the time costs one heap operation per time-out period, and
//! connections that come and go cost none at all. A deadline that comes earlier leaves an entry behind that stands for
//! nothing; when these are more than the slots, they are thrown out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Instant;

/// Deadlines by slot.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    slots: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: Instant,
    /// The earliest entry in the heap that stands for this slot.
    armed: Instant,
}

impl Deadlines {
    /// Sets the slot's deadline; `NEVER` clears it.
    pub fn set(&mut self, slot: usize, deadline: Instant) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Entry { deadline: Instant::NEVER, armed: Instant::NEVER });
        }
        let entry = &mut self.slots[slot];
        entry.deadline = deadline;
        if deadline < entry.armed {
            entry.armed = deadline;
            self.heap.push(Reverse((deadline, slot as u32)));
            if self.heap.len() > 2 * self.slots.len() {
                let armed = (0..).zip(&self.slots).filter(|(_, entry)| entry.armed != Instant::NEVER);
                self.heap.clear();
                self.heap.extend(armed.map(|(slot, entry)| Reverse((entry.armed, slot))));
            }
        }
    }

    /// A slot whose deadline has passed; it then has none.
    pub fn pop_expired(&mut self, now: Instant) -> Option<usize> {
        while let Some(&Reverse((at, slot))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let entry = &mut self.slots[slot as usize];
            if at != entry.armed {
                continue;
            }
            entry.armed = Instant::NEVER;
            let deadline = entry.deadline;
            if deadline <= now {
                entry.deadline = Instant::NEVER;
                return Some(slot as usize);
            }
            if deadline != Instant::NEVER {
                self.set(slot as usize, deadline);
            }
        }
        None
    }

    /// When `pop_expired` is worth calling next.
    pub fn next(&self) -> Instant {
        self.heap.peek().map_or(Instant::NEVER, |Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(n: u64) -> Instant {
        Instant::from_nanos(n)
    }

    #[test]
    fn a_busy_slot_costs_one_entry() {
        let mut deadlines = Deadlines::default();
        for n in 0..1000 {
            deadlines.set(3, at(n + 500));
        }
        assert_eq!(deadlines.heap.len(), 1);
        assert_eq!(deadlines.pop_expired(at(600)), None);
        assert_eq!(deadlines.pop_expired(at(1499)), Some(3));
        assert_eq!(deadlines.pop_expired(at(9999)), None);
    }

    #[test]
    fn deadlines_that_come_ever_earlier_leave_no_trail() {
        let mut deadlines = Deadlines::default();
        deadlines.set(2, at(7000));
        for n in 0..1000 {
            deadlines.set(3, at(5000 - n));
            deadlines.set(3, Instant::NEVER);
        }
        deadlines.set(1, at(6000));
        assert!(deadlines.heap.len() <= 2 * deadlines.slots.len(), "{} entries", deadlines.heap.len());
        let expired: Vec<usize> = std::iter::from_fn(|| deadlines.pop_expired(at(9999))).collect();
        assert_eq!(expired, [1, 2]);
    }

    proptest! {
        /// Against a plain table: the same slots expire at the same steps, whatever is set when.
        #[test]
        fn same_as_a_plain_table(steps in prop::collection::vec((0usize..6, 0u64..50, 0u64..8), 1..200)) {
            let mut deadlines = Deadlines::default();
            let mut table = [Instant::NEVER; 6];
            let mut now = 0;
            for (slot, ahead, step) in steps {
                let deadline = if ahead == 0 { Instant::NEVER } else { at(now + ahead) };
                deadlines.set(slot, deadline);
                table[slot] = deadline;
                now += step;
                let mut expired: Vec<usize> = std::iter::from_fn(|| deadlines.pop_expired(at(now))).collect();
                expired.sort_unstable();
                let due: Vec<usize> = (0..6).filter(|&s| table[s] <= at(now)).collect();
                due.iter().for_each(|&s| table[s] = Instant::NEVER);
                prop_assert_eq!(expired, due);
                let earliest = table.iter().min().copied().unwrap_or(Instant::NEVER);
                prop_assert!(deadlines.next() <= earliest);
            }
        }
    }
}
