//! The spool on a simulated disk, without the rest: everything told durable and not done is there after any crash,
//! octet by octet, and nothing done comes back. `scripts/simulate-spool.sh` plays as many worlds as there is time for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod dice;
mod letter;
mod memory;
mod reuse;
mod shard;
mod world;

use std::time::{Duration, Instant};

use world::{Character, Count, World};

/// Seeds that every run of the tests plays.
const SEEDS: u64 = 150;
/// And those that have found something before.
const KEPT: [u64; 1] = [9_005_995];

fn character(seed: u64) -> Character {
    let (errors, small, flips) = (seed & 1 != 0, seed & 2 != 0, seed & 4 != 0);
    let crash_every = [0, 40, 150, 500][(seed >> 3 & 3) as usize];
    Character { steps: 1_500, errors, small, flips, crash_every, cut: None }
}

/// Plays one seed; says how to play it again if it fails.
fn play(seed: u64) -> Count {
    struct Hint(u64);
    impl Drop for Hint {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let seed = self.0;
                eprintln!("seed {seed} failed; to see it again:");
                eprintln!("  POSTLANE_SEED={seed} cargo test --test spool replay -- --nocapture");
            }
        }
    }
    let _hint = Hint(seed);
    World::new(seed, character(seed)).play()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds() {
    let mut total = Count::default();
    for seed in (0..SEEDS).chain(KEPT) {
        total.add(&play(seed));
    }
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.durable > total.messages / 3, "hardly anything was kept: {total:?}");
    let seen = [
        total.torn,
        total.damages,
        total.lost,
        total.full,
        total.failing,
        total.not_kept,
        total.loads,
        total.damaged,
        total.unreadable,
    ];
    assert!(seen.iter().all(|&count| count > 0), "something never happens: {total:?}");
}

/// Power is cut with each request under way, and after each.
#[test]
fn every_cut() {
    for seed in [3, 4, 5] {
        for done in [false, true] {
            let mut at = 1;
            loop {
                let character =
                    Character { steps: 120, small: seed == 4, cut: Some((at, done)), ..Character::default() };
                let count = World::new(seed, character).play();
                if count.crashes == 0 {
                    break;
                }
                at += 1;
            }
            assert!(at > 50, "hardly any requests: {at}");
        }
    }
}

/// The seed in `POSTLANE_SEED`.
#[test]
fn replay() {
    if let Some(seed) = number("POSTLANE_SEED") {
        println!("{:?}", play(seed));
    }
}

/// The same seed is the same run.
#[test]
fn a_seed_is_a_run() {
    assert_eq!(play(47), play(47));
}

/// New seeds for `POSTLANE_SECONDS`, from `POSTLANE_FROM` on; all that fail are named.
#[test]
fn explore() {
    let Some(seconds) = number("POSTLANE_SECONDS") else {
        return;
    };
    let first = number("POSTLANE_FROM").unwrap_or(SEEDS);
    let (start, mut total, mut seeds) = (Instant::now(), Count::default(), 0);
    let mut failed = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let seed = first + seeds;
        match std::panic::catch_unwind(|| play(seed)) {
            Ok(count) => total.add(&count),
            Err(_) => failed.push(seed),
        }
        seeds += 1;
    }
    let took = start.elapsed();
    let rate = total.messages as f64 / took.as_secs_f64();
    println!("{seeds} seeds from {first} in {took:?}, {rate:.0} messages a second: {total:?}");
    assert!(failed.is_empty(), "failed: {failed:?}");
}
