//! How connections end, and what keeps them alive.

use std::time::Duration;

use smoltcp::socket::tcp::State;

use super::super::segment::{ACK, RST};
use super::super::{Segment, reset_for};
use super::world::World;
use super::{CLEAN, Wire};
use crate::net::Cause;

#[test]
fn nobody_answers() {
    let mut world = World::new(1, CLEAN);
    world.is_cut = true;
    world.begin();
    let begun = world.now;
    world.until("it gives up", |world| world.connection.is_over());
    assert_eq!(world.connection.take_news().over, Some(Cause::NotOpened(libc::ETIMEDOUT)));
    assert!(world.now.since(begun) > Duration::from_secs(60), "{:?}", world.now.since(begun));
}

#[test]
fn a_reset_refuses_and_ends() {
    let mut world = World::new(1, CLEAN);
    world.close_peer();
    world.begin();
    world.until("refused", |world| world.connection.is_over());
    assert_eq!(world.connection.take_news().over, Some(Cause::NotOpened(libc::ECONNREFUSED)));

    let mut world = World::new(2, CLEAN);
    world.connect();
    world.abort_peer();
    world.until("reset", |world| world.connection.is_over());
    assert_eq!(world.connection.take_news().over, Some(Cause::Failed(libc::ECONNRESET)));

    let mut world = World::new(3, CLEAN);
    world.connect();
    world.settle();
    world.connection.abort();
    world.until("the peer hears of it", |world| world.peer_state() == State::Closed);
    assert!(world.connection.is_over());
}

#[test]
fn the_peer_ends_first_and_then_we() {
    for lossy in [0.0, 0.2] {
        let mut world = World::new(5, Wire { loss: lossy, loss_back: lossy, ..CLEAN });
        world.connect();
        world.answer(b"221 bye\r\n");
        world.until("it is here", |world| world.taken == b"221 bye\r\n");
        world.close_peer();
        world.until("its end is noticed", |world| world.connection.peer_has_finished());
        world.write(5_000);
        world.until("what we still had to say has arrived", |world| {
            world.arrived.len() == 5_000 && world.connection.is_drained()
        });
        let now = world.now;
        world.connection.leave(now);
        world.until("over", |world| world.connection.is_over());
        assert_eq!(world.connection.take_news().over, None, "its owner has left");
        let rested = world.now.since(now);
        assert!(lossy > 0.0 || rested < Duration::from_millis(1), "the peer rests, not we: {rested:?}");
    }
}

#[test]
fn what_comes_after_we_left_is_refused() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    let now = world.now;
    world.connection.leave(now);
    world.answer(b"nobody reads this");
    world.until("over", |world| world.connection.is_over());
    world.until("the peer hears of it", |world| world.peer_state() == State::Closed);
}

#[test]
fn a_peer_that_does_not_read_holds_everything_back() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.peer_reads = false;
    let body = world.write(3_000_000);
    world.pass(Duration::from_secs(600));
    assert!(!world.connection.is_drained() && !world.connection.is_over(), "it answers, so it is waited for");
    let sent = world.segments_out;
    world.pass(Duration::from_secs(300));
    assert!(world.segments_out - sent < 40, "it is asked now and then: {}", world.segments_out - sent);
    world.peer_reads = true;
    let begun = world.now;
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    assert!(world.arrived == body);
    assert!(
        world.now.since(begun) < Duration::from_secs(1),
        "it goes on at once: {:?}",
        world.now.since(begun)
    );
}

#[test]
fn what_we_do_not_take_holds_the_peer_back() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.we_take = false;
    let answer: Vec<u8> = (0..900_000_u32).map(|n| (n >> 5) as u8).collect();
    world.answer(&answer);
    world.pass(Duration::from_secs(20));
    assert!(world.taken.is_empty() && world.connection.has_waiting());
    world.take_again();
    assert!(world.taken.len() >= 64 << 10 && world.taken.len() < answer.len(), "{}", world.taken.len());
    world.until("all is here", |world| world.taken.len() == answer.len());
    assert!(world.taken == answer);
}

#[test]
fn silence_is_asked_about() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    let sent = world.segments_out;
    world.pass(Duration::from_secs(1_000));
    let asked = world.segments_out - sent;
    assert!((10..20).contains(&asked) && world.connection.is_open(), "about once a minute: {asked}");
    world.is_cut = true;
    let begun = world.now;
    world.until("it counts as gone", |world| world.connection.is_over());
    assert_eq!(world.connection.take_news().over, Some(Cause::Failed(libc::ETIMEDOUT)));
    assert!(world.now.since(begun) < Duration::from_secs(180), "{:?}", world.now.since(begun));
}

#[test]
fn a_path_that_carries_less_is_found_out() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.packet_max = 1_300;
    let body = world.write(300_000);
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    assert!(world.arrived == body);
}

#[test]
fn stray_segments_are_answered_as_they_should_be() {
    let stray = |flags, payload: &'static [u8]| Segment {
        source: 25,
        destination: 61_000,
        seq: 1_000,
        ack: 2_000,
        flags,
        window: 0,
        options: Default::default(),
        payload,
    };
    let reset = reset_for(&stray(ACK, b"")).expect("an answer");
    assert_eq!((reset.seq, reset.flags), (2_000, RST));
    let reset = reset_for(&stray(0, b"abc")).expect("an answer");
    assert_eq!((reset.seq, reset.ack, reset.flags), (0, 1_003, RST | ACK));
    assert!(reset_for(&stray(RST, b"")).is_none());
}

/// What an attacker who does not see the stream can throw at it (RFC 5961).
#[test]
fn blind_resets_and_acknowledgements_do_nothing() {
    let mut world = World::new(9, CLEAN);
    world.connect();
    for seq in (0..64).map(|n: u32| n << 26) {
        for flags in [RST, RST | ACK, 0x02, 0x02 | ACK] {
            let segment = Segment {
                source: 25,
                destination: 61_000,
                seq,
                ack: seq ^ 0x5555_5555,
                flags,
                window: 9,
                options: Default::default(),
                payload: b"",
            };
            let now = world.now;
            world.connection.handle_segment(&segment, now, &mut |bytes: &[u8]| bytes.len());
        }
    }
    assert!(world.connection.is_open());
    let body = world.write(10_000);
    world.until("it goes on", |world| world.arrived.len() == body.len());
    assert!(world.arrived == body);
}
