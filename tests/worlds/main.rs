//! Worlds in the simulator: whole shards with clients and upstreams that behave well and badly, in virtual time,
//! from one seed. `scripts/simulate.sh` plays as many as there is time for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod client;
mod dice;
mod disk;
mod focus;
mod in_flight;
mod kept;
mod kept_focus;
mod kept_world;
mod links;
mod message;
mod overdue;
mod play;
mod random_world;
mod sessions;
mod stage;
mod streams;
mod upstream;
mod ways;

use std::time::{Duration, Instant};

use play::Count;

/// Seeds that every run of the tests plays.
const SEEDS: u64 = 300;
/// And those that have found something before.
const KEPT: [u64; 1] = [100_500];

/// Plays one seed; says how to play it again if it fails.
fn play(seed: u64, trace: bool) -> Count {
    struct Hint(u64);
    impl Drop for Hint {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let seed = self.0;
                eprintln!("seed {seed} failed; to see it again:");
                eprintln!("  POSTLANE_SEED={seed} cargo test --test worlds replay -- --nocapture");
            }
        }
    }
    let _hint = Hint(seed);
    random_world::build(seed, trace).finish()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds() {
    let mut total = Count::default();
    for seed in (0..SEEDS).chain(KEPT) {
        total.add(&play(seed, false));
    }
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.accepted > total.messages / 3, "hardly any mail went through: {total:?}");
    assert!(total.relay_notices > 0, "nobody was told of a relay: {total:?}");
    assert!(total.fallen_back > 0 && total.routed > total.taken / 20, "routes and fallbacks: {total:?}");
    assert!(
        total.in_doubt > 0 && total.bounces > 0 && total.lost_links > 0 && total.streamed > 0,
        "{total:?}"
    );
}

/// The seed in `POSTLANE_SEED`, with a trace of everything said.
#[test]
fn replay() {
    if let Some(seed) = number("POSTLANE_SEED") {
        println!("{:?}", play(seed, true));
    }
}

/// The same seed is the same run.
#[test]
fn a_seed_is_a_run() {
    let (first, second) = (play(42, false), play(42, false));
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
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
        match std::panic::catch_unwind(|| play(seed, false)) {
            Ok(count) => total.add(&count),
            Err(_) => failed.push(seed),
        }
        seeds += 1;
    }
    println!("{seeds} seeds from {first} in {:?}: {total:?}", start.elapsed());
    assert!(failed.is_empty(), "failed: {failed:?}");
}
