//! How long mail takes on paths that lose: messages of 10 KiB one after the other on one link, each answered.

use std::time::Duration;

use super::world::World;
use super::{CLEAN, Wire};

const MESSAGES: usize = 200;

/// Seconds for all messages.
fn seconds(seed: u64, wire: Wire) -> f64 {
    let mut world = World::new(seed, wire);
    world.connect();
    let begun = world.now;
    let mut arrived = 0;
    for round in 1..=MESSAGES {
        arrived += world.write(10_240).len();
        world.until("the message is there", |world| world.arrived.len() == arrived);
        world.answer(b"250 ok\r\n");
        world.until("and answered", |world| world.taken.len() == round * 8);
    }
    world.now.since(begun).as_secs_f64()
}

/// The median over some seeds.
fn median(wire: Wire) -> f64 {
    let mut all: Vec<f64> = (0..5).map(|seed| seconds(seed, wire)).collect();
    all.sort_by(f64::total_cmp);
    all[2]
}

/// A loss costs about a round trip, or the floor of the wait where that is longer; never a second.
#[test]
fn losses_cost_round_trips_not_seconds() {
    println!("seconds for {MESSAGES} messages of 10 KiB: no loss, 0.1 %, 1 %, 3 %");
    for round_trip in [200, 20_000, 100_000].map(Duration::from_micros) {
        // The way back loses nothing: how long the peer waits before it repeats itself is not ours to measure.
        let wire = |loss| Wire { round_trip, loss, ..CLEAN };
        let clean = median(wire(0.0));
        let lossy = [0.001, 0.01, 0.03].map(|loss| median(wire(loss)));
        println!(
            "{:>8.1} ms: {clean:7.2} {:7.2} {:7.2} {:7.2}",
            round_trip.as_secs_f64() * 1e3,
            lossy[0],
            lossy[1],
            lossy[2]
        );
        for (loss, took) in [0.001, 0.01, 0.03].into_iter().zip(lossy) {
            let losses = MESSAGES as f64 * 8.0 * loss;
            // Found, repeated, and the window smaller for a while.
            let each = (7.0 * round_trip.as_secs_f64()).max(0.06);
            assert!(took < clean + (losses + 3.0) * each, "{round_trip:?} {loss}: {took} after {clean}");
        }
    }
}

/// Of a tail that is lost the last segment is sent again, and what its arrival shows to be missing: nothing for nothing, and
/// no waiting in vain, which would have all of it sent again, slowly.
#[test]
fn a_lost_tail_costs_a_probe_and_what_is_missing() {
    for round_trip in [2_000, 20_000, 100_000].map(Duration::from_micros) {
        let mut world = World::new(7, Wire { round_trip, ..CLEAN });
        world.connect();
        for round in 1..=8 {
            let message = world.write(10_220);
            world.until("it is there", |world| world.arrived.len() == message.len() * round);
            world.until("and acknowledged", |world| world.connection.is_drained());
        }
        let (before, begun) = (world.arrived.len(), world.now);
        let head = world.write(4_380);
        world.pass(Duration::from_micros(1));
        world.is_cut = true;
        let tail = world.write(2_920);
        world.pass(Duration::from_micros(1));
        world.is_cut = false;
        let all = before + head.len() + tail.len();
        world.until("all is there", |world| world.arrived.len() == all);
        let took = world.now.since(begun);
        assert_eq!(world.connection.sent_again(), 2, "{round_trip:?}, in {took:?}");
        // The head and its acknowledgement (delayed by the peer), the probe's wait, the probe, the rest.
        assert!(took < 5 * round_trip + Duration::from_millis(15), "{round_trip:?}: {took:?}");
    }
}
