//! What every shard tells the others of each upstream: how much it has in flight there, and its estimate of the
//! response time. Each shard writes its own cache lines and reads the others'; no lock, no line that two write.
//!
//! Both figures are one word, so a reader sees a pair that was published together, and relaxed order is enough: the
//! figures say nothing of any other memory. `tests/scoreboard.rs` checks this file against loom's model of memory.

use super::atomics::{AtomicU64, Ordering};

/// Words in a line. x86 fetches cache lines in pairs, and 128 bytes are a line elsewhere.
const LINE: usize = 16;
/// Bytes that no two shards write to.
pub const LINE_BYTES: usize = LINE * 8;

#[derive(Debug)]
#[repr(align(128))]
struct Line([AtomicU64; LINE]);

/// All shards' figures of all upstreams.
#[derive(Debug)]
pub struct Scoreboard {
    shards: usize,
    /// For each pool the number of its first upstream.
    pools: Vec<usize>,
    lines_per_shard: usize,
    lines: Vec<Line>,
}

/// One shard's figures of one upstream.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figures {
    /// Transactions it has in flight there.
    pub in_flight: u32,
    /// Its last estimate made from an answer of its own, nanoseconds; 0: none yet.
    pub estimate_nanos: f32,
}

impl Scoreboard {
    /// For so many shards, and pools of so many upstreams.
    pub fn new(shards: usize, pools: &[usize]) -> Self {
        let mut upstreams = 0;
        let first = |n: &usize| {
            upstreams += n;
            upstreams - n
        };
        let pools = pools.iter().map(first).collect();
        let lines_per_shard = Scoreboard::lines_per_shard(upstreams);
        let line = |_| Line(std::array::from_fn(|_| AtomicU64::new(0)));
        Scoreboard {
            shards,
            pools,
            lines_per_shard,
            lines: (0..shards * lines_per_shard).map(line).collect(),
        }
    }

    /// Lines of [`LINE_BYTES`] that each shard has for so many upstreams, of all pools.
    pub const fn lines_per_shard(upstreams: usize) -> usize {
        upstreams.div_ceil(LINE)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// For the shard itself only.
    pub fn publish(&self, shard: usize, pool: usize, upstream: usize, figures: Figures) {
        let word = u64::from(figures.in_flight) << 32 | u64::from(figures.estimate_nanos.to_bits());
        self.word(shard, pool, upstream).store(word, Ordering::Relaxed);
    }

    /// The last that shard has published, as far as has been heard here; zeros before the first.
    pub fn read(&self, shard: usize, pool: usize, upstream: usize) -> Figures {
        let word = self.word(shard, pool, upstream).load(Ordering::Relaxed);
        Figures { in_flight: (word >> 32) as u32, estimate_nanos: f32::from_bits(word as u32) }
    }

    fn word(&self, shard: usize, pool: usize, upstream: usize) -> &AtomicU64 {
        let place = self.pools[pool] + upstream;
        &self.lines[shard * self.lines_per_shard + place / LINE].0[place % LINE]
    }
}
