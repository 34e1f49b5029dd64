//! Paths that carry less than the interface.

use std::time::Duration;

use super::world::World;
use super::{CLEAN, Wire};

/// Of the segments of a stream only those under way when it was said are sent again, and nobody waits in vain.
#[test]
fn what_a_router_says_is_followed_at_once() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    (world.packet_max, world.complains) = (1_400, true);
    let (begun, body) = (world.now, world.write(300_000));
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    assert!(world.arrived == body);
    assert!(world.connection.sent_again() <= 10, "{}", world.connection.sent_again());
    let took = world.now.since(begun);
    assert!(took < Duration::from_millis(10), "round trips, no waits: {took:?}");
}

#[test]
fn after_a_while_the_whole_is_tried_again() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    (world.packet_max, world.complains) = (1_400, true);
    let body = world.write(100_000);
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    world.packet_max = usize::MAX;
    let segments = |world: &mut World| {
        let before = (world.segments_out, world.arrived.len());
        world.write(146_000);
        world.until("all has arrived", |world| world.arrived.len() == before.1 + 146_000);
        world.segments_out - before.0
    };
    assert!(segments(&mut world) >= 108, "of at most 1360 bytes");
    world.pass(Duration::from_secs(601));
    assert!(segments(&mut world) < 105, "of 1460 bytes");
    // And if that is still too much it is found out again.
    world.packet_max = 1_400;
    segments(&mut world);
}

/// Only of a segment that is under way, and larger, can a router say that it does not fit (RFC 5927 section 7.1).
#[test]
fn nobody_is_believed_who_has_not_seen_a_segment() {
    let mut world = World::new(1, CLEAN);
    world.begin();
    let now = world.now;
    assert!(
        (0..=u32::MAX).step_by(9_999_991).all(|seq| world.connection.handle_too_big(seq, 576, now).is_none())
    );
    world.until("it is open", |world| world.connection.is_open());
    let body = world.write(200_000);
    for _ in 0..1_000 {
        world.pass(Duration::from_micros(1));
        let now = world.now;
        let arrived = world.connection.acknowledged() as u32;
        for seq in [0, arrived.wrapping_sub(1_460), arrived.wrapping_add(1 << 24)] {
            // An initial sequence number that nobody outside knows is missing in all of these.
            assert!(world.connection.handle_too_big(seq, 576, now).is_none());
        }
    }
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    assert_eq!(world.connection.sent_again(), 0);
}

/// Where nobody complains, two waits in vain are enough, and the next connection knows it from the beginning.
#[test]
fn a_black_hole_is_found_once() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.packet_max = 1_400;
    let (begun, body) = (world.now, world.write(300_000));
    world.until("all has arrived", |world| world.arrived.len() == body.len());
    assert!(world.arrived == body);
    let took = world.now.since(begun);
    assert!(took < Duration::from_millis(300), "{took:?}");
    let known = world.connection.take_news().guessed;
    assert!(known.is_some());
    let mut next = World::new(2, CLEAN);
    next.packet_max = 1_400;
    next.begin();
    next.connection.follow_path(40, known, next.now);
    let body = next.write(300_000);
    next.until("all has arrived", |world| world.arrived.len() == body.len());
    assert_eq!(next.connection.sent_again(), 0);
}

#[test]
fn an_outage_does_not_narrow_the_path_for_long() {
    let mut world = World::new(1, CLEAN);
    world.connect();
    world.write(50_000);
    world.is_cut = true;
    world.pass(Duration::from_secs(2));
    world.is_cut = false;
    world.until("all has arrived", |world| world.arrived.len() == 50_000);
    world.pass(Duration::from_secs(250));
    let before = world.segments_out;
    world.write(146_000);
    world.until("all has arrived", |world| world.arrived.len() == 196_000);
    assert!(world.segments_out - before < 105, "{}", world.segments_out - before);
}

/// A SYN that somebody says cannot be delivered ends the opening; a stream that is open lives through it.
#[test]
fn only_an_opening_is_ended_by_who_says_it_cannot_be_reached() {
    let mut world = World::new(1, CLEAN);
    world.begin();
    let now = world.now;
    let syn = world.connection.poll(now).expect("a SYN");
    world.connection.handle_refusal(syn.seq.wrapping_add(1), libc::EHOSTUNREACH);
    assert_eq!(world.connection.take_news().over, None, "it is about another one");
    world.connection.handle_refusal(syn.seq, libc::EHOSTUNREACH);
    let over = world.connection.take_news().over;
    assert_eq!(over, Some(crate::net::Cause::NotOpened(libc::EHOSTUNREACH)));
    let mut world = World::new(1, CLEAN);
    world.connect();
    (0..u32::MAX).step_by(9_999_991).for_each(|seq| world.connection.handle_refusal(seq, libc::EHOSTUNREACH));
    let body = world.write(10_000);
    world.until("all has arrived", |world| world.arrived.len() == body.len());
}

/// On a path that loses at random whole segments arrive, too: it is not taken for a narrow one.
#[test]
fn random_losses_are_no_narrow_path() {
    for seed in 0..20 {
        let mut world = World::new(seed, Wire { loss: 0.05, loss_back: 0.05, ..CLEAN });
        world.connect();
        let body = world.write(2_000_000);
        world.until("all has arrived", |world| world.arrived.len() == body.len());
        assert_eq!(world.connection.take_news().guessed, None, "seed {seed}");
    }
}
