//! The bound on links in use, against upstreams that share what they have among all that is in flight.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::concurrency::Concurrency;

/// An upstream that works on so many messages at full speed, and shares that speed among more; shards that always have
/// more mail for it.
struct World {
    shards: Vec<Concurrency>,
    in_use: Vec<usize>,
    /// Shard, octets, when it began, and the work left, nanoseconds.
    running: Vec<(usize, u64, u64, f64)>,
    knee: f64,
    /// Nanoseconds of work for a message, whatever its length, and for each octet.
    work: f64,
    per_byte: f64,
    /// Each message's work is spread by so much (the standard deviation of its logarithm).
    spread: f64,
    sizes: Vec<u64>,
    /// One message in so many takes a hundred times as long; 0: none.
    stalls_every: u64,
    now: u64,
    chance: u64,
    done: u64,
    offered: usize,
}

impl World {
    fn new(shards: usize, most: usize, knee: f64) -> World {
        World {
            shards: (0..shards).map(|_| Concurrency::new(most, 3)).collect(),
            in_use: vec![0; shards],
            running: Vec::new(),
            knee,
            work: 5e6,
            per_byte: 0.0,
            spread: 0.5,
            sizes: vec![10_000],
            stalls_every: 0,
            now: 1_000_000_000_000,
            chance: 1,
            done: 0,
            offered: usize::MAX,
        }
    }

    fn next(&mut self) -> u64 {
        self.chance += 1;
        mix(self.chance)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn begin(&mut self, shard: usize) {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        let drawn = self.next() as usize % self.sizes.len();
        let bytes = self.sizes[drawn];
        let mut work = (self.work + self.per_byte * bytes as f64) * (self.spread * normal).exp();
        if self.stalls_every > 0 && self.next().is_multiple_of(self.stalls_every) {
            work *= 100.0;
        }
        self.running.push((shard, bytes, self.now, work));
        self.in_use[shard] += 1;
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + seconds * 1_000_000_000;
        let mut look_at = self.now;
        while self.now < end {
            if look_at <= self.now {
                look_at = self.now + 2_000_000;
                self.shards.iter_mut().for_each(|shard| _ = shard.look(Instant::from_nanos(self.now)));
            }
            for shard in 0..self.shards.len() {
                while self.in_use[shard] < self.shards[shard].allowed().min(self.offered) {
                    self.begin(shard);
                }
            }
            let speed = (self.knee / self.running.len() as f64).min(1.0);
            let least = self.running.iter().map(|running| running.3).fold(f64::INFINITY, f64::min);
            let step = (least / speed).min((look_at - self.now) as f64).max(1.0);
            self.now += step as u64;
            self.running.iter_mut().for_each(|running| running.3 -= step * speed);
            let load = self.running.len() as u32;
            let mut over = Vec::new();
            self.running.retain(|running| {
                let is_over = running.3 <= 0.5;
                over.extend(is_over.then_some((running.0, running.1, running.2)));
                !is_over
            });
            for (shard, bytes, began) in over {
                let nanos = self.now - began;
                let in_use = self.in_use[shard];
                self.shards[shard].observe(nanos, bytes, in_use, load, Instant::from_nanos(self.now));
                self.in_use[shard] -= 1;
                self.done += 1;
            }
        }
    }

    /// The mean limit of all shards together over so many seconds.
    fn mean_limit(&mut self, seconds: u64) -> f64 {
        let mut sum = 0;
        for _ in 0..seconds {
            self.run(1);
            sum += self.shards.iter().map(Concurrency::limit).sum::<usize>();
            assert!(self.shards.iter().all(|shard| shard.limit() >= 1 && shard.allowed() >= 1));
        }
        sum as f64 / seconds as f64
    }
}

/// Serving one after the other, eight at once are each eight times slower: one is enough.
#[test]
fn a_serial_upstream_gets_one_at_a_time() {
    let mut world = World::new(1, 8, 1.0);
    world.run(20);
    let limit = world.mean_limit(60);
    assert!(limit <= 1.5, "{limit}");
}

#[test]
fn it_settles_near_the_knee() {
    for (most, knee) in [(8, 2.0), (8, 4.0), (16, 4.0), (32, 12.0), (64, 24.0)] {
        let mut world = World::new(1, most, knee);
        world.run(60);
        let limit = world.mean_limit(60);
        println!("knee at {knee} of {most}: {limit}");
        assert!((knee * 0.9..=knee * 1.75).contains(&limit), "knee {knee} of {most}: {limit}");
    }
}

/// Without a knee all links are used, and trials cost next to nothing.
#[test]
fn without_a_knee_all_links_are_used() {
    for (most, spread) in [(2, 0.5), (8, 0.0), (8, 0.5), (8, 1.0), (32, 0.5)] {
        let mut world = World::new(1, most, 1e6);
        world.spread = spread;
        world.run(20);
        let before = world.done;
        let limit = world.mean_limit(60);
        let most = most as f64;
        let possible = 60.0 * most / (0.005 * (spread * spread / 2.0).exp());
        let share = (world.done - before) as f64 / possible;
        println!("{most} links, spread {spread}: limit {limit}, {share:.3} of what is possible");
        assert!(limit >= most * 0.9, "{limit} of {most}, spread {spread}");
        assert!(share > 0.9, "{share} of what is possible");
    }
}

#[test]
fn it_shrinks_and_grows_with_the_upstream() {
    let mut world = World::new(1, 8, 1e6);
    world.run(10);
    assert_eq!(world.shards[0].limit(), 8);
    world.knee = 1.0;
    world.run(20);
    let limit = world.mean_limit(20);
    assert!(limit <= 1.6, "{limit}");
    world.knee = 1e6;
    world.run(20);
    let limit = world.mean_limit(20);
    assert!(limit >= 7.5, "{limit}");
}

/// Ten times slower, whatever it has: nothing is gained by less.
#[test]
fn one_that_is_merely_slow_keeps_its_links() {
    let mut world = World::new(1, 8, 1e6);
    world.run(10);
    world.work *= 10.0;
    assert!(world.mean_limit(60) >= 7.5);
}

#[test]
fn single_slow_messages_change_nothing() {
    let mut world = World::new(1, 8, 1e6);
    world.stalls_every = 200;
    world.run(10);
    let limit = world.mean_limit(60);
    assert!(limit >= 7.0, "{limit}");
}

/// Long and short ones mixed: what is compared is alike.
#[test]
fn length_is_told_from_load() {
    let mut world = World::new(1, 8, 1e6);
    (world.sizes, world.per_byte) = (vec![2_000, 2_000, 100_000, 1_000_000, 5_000_000], 20.0);
    world.run(20);
    let limit = world.mean_limit(60);
    assert!(limit >= 7.0, "{limit}");
    world.knee = 1.0;
    world.run(100);
    let limit = world.mean_limit(100);
    assert!(limit <= 2.0, "{limit}");
}

/// All shards try at the same time, and find what one would.
#[test]
fn shards_find_the_knee_together() {
    let mut world = World::new(8, 8, 16.0);
    world.run(60);
    let limit = world.mean_limit(60);
    println!("8 shards, knee at 16 of 64: {limit}");
    assert!((14.0..=30.0).contains(&limit), "{limit}");
    world.knee = 1e6;
    world.run(100);
    let limit = world.mean_limit(20);
    assert!(limit >= 60.0, "{limit} of 64");
}

/// Where less is in flight than may be there is nothing to find out.
#[test]
fn an_idle_upstream_is_left_alone() {
    let mut world = World::new(1, 8, 1.0);
    world.offered = 3;
    world.run(20);
    assert_eq!(world.shards[0].limit(), 8);
    assert_eq!(world.shards[0].allowed(), 8, "no trial either");
}

#[test]
fn pressure_is_heeded_and_passes() {
    let mut limit = Concurrency::new(8, 0);
    limit.press(8);
    assert_eq!((limit.limit(), limit.allowed(), limit.standing_max()), (4, 4, 4));
    limit.press(1);
    assert_eq!(limit.limit(), 1);
    (0..20).for_each(|_| limit.ease());
    assert_eq!(limit.limit(), 8);
    limit.set_most(3);
    assert_eq!((limit.limit(), limit.standing_max()), (3, 3));
    limit.set_most(10);
    assert_eq!(limit.limit(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is seen, the bound is kept: at least one, at most as configured.
    #[test]
    fn within_bounds_whatever_is_seen(
        most in 1usize..70,
        seen in prop::collection::vec((1u64..1 << 40, 0u64..1 << 30, 0usize..80, 0u32..1000, 0u64..1 << 36), 1..400),
        presses in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut limit = Concurrency::new(most, most);
        let mut now = at(0);
        for (n, (nanos, bytes, in_use, load, passes)) in seen.iter().enumerate() {
            now = now + Duration::from_nanos(*passes);
            limit.look(now);
            let in_use = if in_use % 2 == 0 { limit.allowed() } else { *in_use };
            limit.observe(*nanos, *bytes, in_use, *load, now);
            if presses.iter().any(|press| press.index(seen.len()) == n) {
                limit.press(in_use);
            }
            prop_assert!((1..=most).contains(&limit.limit()), "{limit:?}");
            prop_assert!((1..=most).contains(&limit.allowed()), "{limit:?}");
            prop_assert!(limit.limit() <= limit.standing_max());
        }
    }
}
