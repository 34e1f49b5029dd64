//! Connections against a TCP that others wrote (smoltcp), over a wire that delays, loses, repeats and reorders, in
//! virtual time from a seed.

mod ends;
mod loss;
mod passive;
mod path;
mod world;

use std::time::Duration;

use world::{Wire, World};

const CLEAN: Wire = Wire {
    round_trip: Duration::from_micros(200),
    loss: 0.0,
    loss_back: 0.0,
    repeats: 0.0,
    jitter: Duration::ZERO,
};

/// Each seed another mixture of delay, loss, repetition and disorder.
fn rough(seed: u64) -> Wire {
    Wire {
        round_trip: Duration::from_micros([200, 3_000, 40_000][seed as usize % 3]),
        loss: [0.001, 0.02, 0.1][seed as usize / 3 % 3],
        loss_back: [0.1, 0.001, 0.02][seed as usize / 3 % 3],
        repeats: 0.02,
        jitter: Duration::from_micros([0, 100, 5_000][seed as usize / 9 % 3]),
    }
}

/// Something goes each way, and arrives whole.
fn exchange(world: &mut World, seed: u64) {
    let body = world.write(200_000);
    world.answer(&body[..50_000]);
    world.until("both have all", |world| world.arrived.len() == body.len() && world.taken.len() == 50_000);
    assert!(world.arrived == body && world.taken == body[..50_000], "seed {seed}");
}

#[test]
fn a_stream_arrives_whole_in_both_directions() {
    for wire in [CLEAN, Wire { round_trip: Duration::from_millis(100), ..CLEAN }] {
        let mut world = World::new(1, wire);
        world.connect();
        let body = world.write(3_000_000);
        world.until("all has arrived", |world| world.arrived.len() == body.len());
        assert!(world.arrived == body);
        world.until("all is acknowledged", |world| world.connection.is_drained());
        let reply: Vec<u8> = (0..700_000_u32).map(|n| (n >> 3) as u8).collect();
        world.answer(&reply);
        world.until("the answer is here", |world| world.taken.len() == reply.len());
        assert!(world.taken == reply);
        assert_eq!(world.connection.sent_again(), 0, "nothing was lost, so nothing is sent twice");
    }
}

#[test]
fn whatever_the_wire_does_the_stream_arrives_whole() {
    for seed in 0..60 {
        let mut world = World::new(seed, rough(seed));
        world.connect();
        exchange(&mut world, seed);
        world.connection.finish();
        world.until("it is acknowledged", |world| world.connection.is_drained());
        let now = world.now;
        world.connection.leave(now);
        world.close_peer();
        world.until("it is over", |world| world.connection.is_over());
    }
}

#[test]
fn acknowledgements_ride_with_what_is_sent() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.settle();
    let before = world.segments_out;
    for round in 0..100 {
        world.write(1_000);
        world.until("it is there", |world| world.arrived.len() == (round + 1) * 1_000);
        world.answer(b"250 2.0.0 taken\r\n");
        world.until("the answer is here", |world| world.taken.len() == (round + 1) * 17);
    }
    assert_eq!(world.segments_out - before, 100, "one segment for each message");
}
