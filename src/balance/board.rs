//! What the control thread says of upstreams: written by it, read by every shard, no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an operator has ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Use it.
    #[default]
    Enable,
    /// Give it nothing new; it is still probed.
    Drain,
    /// Give it nothing new, and leave it alone.
    Disable,
}

/// All that is said of one upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Its probes find it down.
    pub is_down: bool,
    /// By an operator.
    pub order: Order,
    /// Counts, around and around, how often probes have found it well while live mail had it ejected.
    pub vouched: u8,
    /// Its share.
    pub weight: u32,
}

/// One upstream's word.
#[derive(Debug)]
pub struct Mark(AtomicU64);

impl Mark {
    /// Up and enabled.
    pub fn new(weight: u32) -> Mark {
        Mark(AtomicU64::new(pack(Said { is_down: false, order: Order::Enable, vouched: 0, weight })))
    }

    /// The last that was said.
    pub fn get(&self) -> Said {
        let word = self.0.load(Ordering::Relaxed);
        Said {
            is_down: word & 1 != 0,
            order: match word >> 1 & 3 {
                0 => Order::Enable,
                1 => Order::Drain,
                _ => Order::Disable,
            },
            vouched: (word >> 8) as u8,
            weight: (word >> 32) as u32,
        }
    }

    /// For the control thread alone; it then tells the [`Board`].
    pub fn set(&self, said: Said) {
        self.0.store(pack(said), Ordering::Relaxed);
    }
}

fn pack(said: Said) -> u64 {
    u64::from(said.weight) << 32
        | u64::from(said.vouched) << 8
        | (said.order as u64) << 1
        | u64::from(said.is_down)
}

/// Says that some mark has changed, so that shards need not look at all of them in every turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Board(AtomicU64);

impl Board {
    /// Marks have been set.
    pub fn announce(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// How often marks have been set: a number that differs from the last one means news.
    pub fn news(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_said() {
        let mark = Mark::new(7);
        assert_eq!(mark.get(), Said { is_down: false, order: Order::Enable, vouched: 0, weight: 7 });
        for order in [Order::Enable, Order::Drain, Order::Disable] {
            for is_down in [false, true] {
                let said = Said { is_down, order, vouched: 255, weight: 65_535 };
                mark.set(said);
                assert_eq!(mark.get(), said);
            }
        }
    }
}
