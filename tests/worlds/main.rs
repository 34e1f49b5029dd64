//! Worlds in the simulator: whole shards with clients and upstreams that behave well and badly, in virtual time,
//! from one seed. `scripts/simulate.sh` plays as many as there is time for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod client;
mod decay;
mod dice;
mod disk;
mod focus;
mod in_flight;
mod kept;
mod kept_focus;
mod kept_large;
mod kept_world;
mod links;
mod message;
mod overdue;
mod play;
mod random_world;
#[path = "../seeds/mod.rs"]
mod seeds;
mod sessions;
mod stage;
mod streams;
mod timely;
mod upstream;
mod ways;

use play::Count;
use seeds::Seeds;

/// Seeds that every run of the tests plays.
const SEEDS: u64 = 300;
/// And those that have found something before.
const KEPT: [u64; 2] = [82_511, 100_500];

const WORLDS: Seeds<Count> = Seeds {
    variable: "POSTLANE_SEED",
    replay: "--test worlds replay",
    play: |seed, trace| random_world::build(seed, trace).finish(),
    add: Count::add,
};

#[test]
fn seeds() {
    let total = WORLDS.all((0..SEEDS).chain(KEPT));
    println!("{SEEDS} seeds: {total:?}");
    assert!(total.accepted > total.messages / 3, "hardly any mail went through: {total:?}");
    assert!(total.relay_notices > 0, "nobody was told of a relay: {total:?}");
    assert!(total.fallen_back > 0 && total.routed > total.taken / 20, "routes and fallbacks: {total:?}");
    assert!(
        total.in_doubt > 0 && total.bounces > 0 && total.lost_links > 0 && total.streamed > 0,
        "{total:?}"
    );
}

#[test]
fn replay() {
    WORLDS.replay();
}

#[test]
fn a_seed_is_a_run() {
    WORLDS.is_a_run(42);
}

#[test]
fn explore() {
    WORLDS.explore("POSTLANE_SECONDS", SEEDS);
}
