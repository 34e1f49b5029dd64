//! The spool on a simulated disk, without the rest: everything told durable and not done is there after any crash,
//! octet by octet, and nothing done comes back. `scripts/simulate-spool.sh` plays as many worlds as there is time for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod crowd;
mod dice;
mod failing;
mod letter;
mod making;
mod memory;
mod reuse;
#[path = "../seeds/mod.rs"]
mod seeds;
mod shard;
mod world;

use seeds::Seeds;
use world::{Character, Count, World};

/// Seeds that every run of the tests plays.
const SEEDS: u64 = 150;

fn character(seed: u64) -> Character {
    let (errors, small, flips) = (seed & 1 != 0, seed & 2 != 0, seed & 4 != 0);
    let crash_every = [0, 40, 150, 500][(seed >> 3 & 3) as usize];
    Character { steps: 1_500, errors, small, flips, crash_every, cut: None }
}

const WORLDS: Seeds<Count> = Seeds {
    variable: "POSTLANE_SEED",
    replay: "--test spool replay",
    play: |seed, _| World::new(seed, character(seed)).play(),
    add: Count::add,
};

#[test]
fn seeds() {
    let total = WORLDS.all(0..SEEDS);
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

#[test]
fn replay() {
    WORLDS.replay();
}

#[test]
fn a_seed_is_a_run() {
    WORLDS.is_a_run(47);
}

#[test]
fn explore() {
    if let Some((total, took)) = WORLDS.explore("POSTLANE_SECONDS", SEEDS) {
        println!("{:.0} messages a second", total.messages as f64 / took.as_secs_f64());
    }
}
