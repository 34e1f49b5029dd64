//! Connections that the peer opens.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::segment::{ACK, OptionBytes, RST, SYN, Segment};
use super::super::{Answer, Backlog, Outgoing, Pair};
use super::world::World;
use super::{CLEAN, Wire, exchange, rough};
use crate::net::Cause;
use crate::time::Instant;

/// By the backlog, and by cookies alone.
const BACKLOGS: [usize; 2] = [16, 0];

#[test]
fn a_stream_arrives_whole_in_both_directions() {
    for (backlog, round_trip) in [(16, 200), (16, 100_000), (0, 200), (0, 100_000)] {
        let mut world = World::new(1, Wire { round_trip: Duration::from_micros(round_trip), ..CLEAN });
        world.accept(backlog);
        let body = world.write(300_000);
        world.until("all has arrived", |world| world.arrived.len() == body.len());
        assert!(world.arrived == body);
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
        world.accept(16);
        exchange(&mut world, seed);
        world.close_peer();
        world.until("its end is noticed", |world| world.connection.peer_has_finished());
        let now = world.now;
        world.connection.leave(now);
        world.until("it is over", |world| world.connection.is_over());
    }
}

/// What was agreed on holds, by the backlog and by a cookie: three losses in a row are found by SACK within a few round
/// trips, and large windows are understood.
#[test]
fn a_cookie_remembers_what_the_peer_said() {
    for backlog in BACKLOGS {
        let mut world = World::new(3, Wire { round_trip: Duration::from_millis(20), loss: 0.01, ..CLEAN });
        world.accept(backlog);
        let begun = world.now;
        let body = world.write(2_000_000);
        world.until("all has arrived", |world| world.arrived.len() == body.len());
        let took = world.now.since(begun);
        assert!(took < Duration::from_secs(10), "{backlog}: {took:?}");
        assert!(world.connection.sent_again() < 60, "{backlog}: {}", world.connection.sent_again());
    }
}

#[test]
fn an_answer_that_is_lost_comes_again_and_then_no_more() {
    let mut world = World::new(1, CLEAN);
    world.wire_loss(1.0);
    world.begin_peer(16);
    world.until("it is asked", |world| world.segments_out > 0);
    let half_open = |world: &World| world.backlog.as_ref().expect("it has one").len();
    world.pass(Duration::from_secs(5));
    assert!(world.segments_out >= 3 && half_open(&world) == 1, "{}", world.segments_out);
    world.is_cut = true;
    world.pass(Duration::from_secs(60));
    assert_eq!(half_open(&world), 0, "forgotten");
    assert!(world.segments_out <= 8 && !world.connection.is_open(), "{}", world.segments_out);
    world.is_cut = false;
    world.wire_loss(0.0);
    world.until("it is accepted all the same", |world| world.connection.is_open());
}

#[test]
fn a_peer_that_resets_ends_it() {
    let mut world = World::new(1, CLEAN);
    world.accept(16);
    world.abort_peer();
    world.until("reset", |world| world.connection.is_over());
    assert_eq!(world.connection.take_news().over, Some(Cause::Failed(libc::ECONNRESET)));
}

fn pair(n: u32) -> Pair {
    let [_, a, b, c] = n.to_be_bytes();
    Pair {
        local: SocketAddr::from(([10, 0, 0, 1], 25)),
        remote: SocketAddr::from(([192, a, b, c], 1_024 + n as u16 % 60_000)),
    }
}

fn segment(seq: u32, ack: u32, flags: u8) -> Segment<'static> {
    let bytes = {
        let mut bytes = [0; 60];
        let options = if flags & SYN != 0 { OptionBytes::of_syn(1_460, 7) } else { OptionBytes::NONE };
        let outgoing = Outgoing { seq, ack, flags, window: 1_000, options, start: 0, len: 0 };
        let len = outgoing.write_header(40_000, 25, &mut bytes);
        bytes[..len].to_vec()
    };
    Segment::parse(bytes.leak()).expect("a segment")
}

/// Ten thousand SYNs of nobody's: what is kept is bounded, and whoever is there gets through, before and after.
#[test]
fn a_flood_is_bounded_and_does_not_keep_others_out() {
    let mut backlog: Backlog<u8> = Backlog::new(64, Default::default());
    let mut now = Instant::from_nanos(1 << 40);
    let early = backlog.handle_syn(pair(1), &segment(7, 0, SYN), 0, (1_000, 1_460), now).expect("an answer");
    for n in 2..10_000 {
        let answer = backlog.handle_syn(pair(n), &segment(n, 0, SYN), 0, (n, 1_460), now).expect("one");
        assert_eq!((answer.ack, answer.flags), (n + 1, SYN | ACK));
        assert!(backlog.len() <= 64);
    }
    assert_eq!(backlog.cookies, (10_000 - 65, 0));
    let late = backlog.handle_syn(pair(0), &segment(99, 0, SYN), 0, (5, 1_460), now).expect("an answer");
    assert_ne!(late.seq, 5, "a cookie");
    now = now + Duration::from_millis(50);
    for (who, seq, answer) in [(1, 8, early), (0, 100, late)] {
        let ack = segment(seq, answer.seq.wrapping_add(1), ACK);
        let Answer::Connected(handshake) = backlog.handle_other(pair(who), &ack, now) else {
            panic!("it was there before the flood, or had a cookie: {who}")
        };
        assert_eq!((handshake.initial, handshake.peer_initial), (answer.seq, seq - 1));
        assert_eq!((handshake.mss, handshake.scale, handshake.sack_permitted), (1_460, Some(7), true));
    }
    assert_eq!(backlog.cookies.1, 1);
    // Nobody asks those again who flood, and their places are soon free.
    let mut asked = 0;
    while backlog.next_deadline() < now + Duration::from_secs(5) {
        now = backlog.next_deadline();
        asked += usize::from(backlog.handle_deadline(now).is_some());
    }
    assert!(asked <= 32, "{asked}");
    assert!(backlog.len() <= 32, "{}", backlog.len());
}

#[test]
fn cookies_are_for_one_peer_and_for_a_while() {
    let mut backlog: Backlog<u8> = Backlog::new(0, Default::default());
    let mut now = Instant::from_nanos(1 << 40);
    let answer = backlog.handle_syn(pair(1), &segment(7, 0, SYN), 0, (0, 1_460), now).expect("an answer");
    let mut connects = |who, seq, ack: u32, now| {
        let ack = segment(seq, ack.wrapping_add(1), ACK);
        matches!(backlog.handle_other(pair(who), &ack, now), Answer::Connected(_))
    };
    assert!(connects(1, 8, answer.seq, now));
    assert!(!connects(2, 8, answer.seq, now), "another peer's");
    assert!(!connects(1, 9, answer.seq, now), "another stream's");
    for bit in 0..32 {
        assert!(!connects(1, 8, answer.seq ^ (1 << bit), now), "bit {bit}");
    }
    now = now + Duration::from_secs(32);
    assert!(connects(1, 8, answer.seq, now));
    now = now + Duration::from_secs(33);
    assert!(!connects(1, 8, answer.seq, now), "too old");
}

#[test]
fn a_half_open_one_ends_by_its_peers_reset_and_begins_anew_by_its_syn() {
    let mut backlog: Backlog<u8> = Backlog::new(8, Default::default());
    let now = Instant::from_nanos(1 << 40);
    let syn = |backlog: &mut Backlog<u8>, seq, initial| {
        backlog.handle_syn(pair(1), &segment(seq, 0, SYN), 0, (initial, 1_460), now).expect("an answer").seq
    };
    assert_eq!(syn(&mut backlog, 7, 1_000), 1_000);
    assert_eq!(syn(&mut backlog, 7, 2_000), 1_000, "the same again");
    assert_eq!(syn(&mut backlog, 70, 3_000), 3_000, "another");
    assert_eq!(backlog.len(), 1);
    let wrong = backlog.handle_other(pair(1), &segment(71, 1_001, ACK), now);
    assert!(matches!(wrong, Answer::Stranger), "it acknowledges what was forgotten");
    for (seq, left) in [(9, 1), (71, 0)] {
        assert!(matches!(backlog.handle_other(pair(1), &segment(seq, 0, RST), now), Answer::Done));
        assert_eq!(backlog.len(), left, "only at the right place");
    }
    let none = backlog.handle_other(pair(1), &segment(71, 3_001, ACK), now);
    assert!(matches!(none, Answer::Stranger));
    syn(&mut backlog, 7, 1_000);
    backlog.forget_at(|local| local.port() == 25);
    assert_eq!(backlog.len(), 0);
}
