//! Clients that send whole transactions one behind the other, and do not wait for what became of those before.

use std::time::Duration;

use postlane::balance::Policy;
use postlane::limits::IN_FLIGHT_MAX;

use crate::client::Habits;
use crate::focus::{MS, world};
use crate::message::Fate;
use crate::play::Play;
use crate::stage::{Setup, upstream_address};
use crate::upstream::{Deed, Manner, Moment};

/// By BDAT, all in one go.
fn eager(messages: usize) -> Habits {
    Habits { chunking: true, eager: true, ..Habits::plain(messages) }
}

/// What is under way at the most: a message counts twice, and the one that is being received once.
fn serve(play: &mut Play) -> usize {
    let mut most = 0;
    play.run(Duration::from_secs(3600), "the clients", |play| {
        most = most.max(play.stage.under_way());
        play.clients.iter().all(|client| client.done)
    });
    most
}

#[test]
fn several_are_under_way_at_once_and_not_more() {
    let messages = 40;
    let took = |habits: &Habits| {
        let setup = Setup::new(1, 2);
        let mut play = world(&setup, vec![Manner { chunking: true, ..Manner::slow(100 * MS) }; 2]);
        play.add_clients(1, habits, messages, 2_000);
        let begin = play.now();
        let most = serve(&mut play);
        let took = play.now().since(begin);
        play.finish();
        play.all_are(Fate::Answered(250));
        (took, most)
    };
    let (one_by_one, _) = took(&Habits { eager: false, ..eager(messages) });
    let (at_once, most) = took(&eager(messages));
    println!(
        "{messages} messages of one session: {one_by_one:?} one by one, {at_once:?} at once, {most} under way"
    );
    assert!(at_once * 6 < one_by_one, "{at_once:?} against {one_by_one:?}");
    assert!((2 * IN_FLIGHT_MAX..=2 * IN_FLIGHT_MAX + 1).contains(&most), "{most} under way");
}

/// Some are refused, some put off, some go elsewhere first: every reply is that of its message.
#[test]
fn each_hears_of_its_own() {
    for seed in 0..30 {
        let mut setup = Setup::new(100 + seed, 3);
        setup.pool.policy = Policy::RoundRobin;
        setup.shards = 1 + (seed % 3) as u16;
        let deeds = [
            (Moment::Rcpt, Deed::Refuse, 0.2),
            (Moment::Dot, Deed::Defer, 0.2),
            (Moment::Dot, Deed::Drop, 0.1),
        ];
        let manner = |ms| Manner { chunking: true, odds: deeds.to_vec(), ..Manner::slow(ms * MS) };
        let mut play = world(&setup, vec![manner(1), manner(20), manner(70)]);
        play.add_clients(4, &eager(30), 30, 1_500);
        play.add_clients(2, &Habits { chunking: false, ..eager(30) }, 30, 1_500);
        play.add_clients(2, &Habits { says_quit: false, ..eager(7) }, 30, 1_500);
        play.serve_all();
        let count = play.finish();
        assert!(count.accepted > 100 && count.rejected > 10, "{count:?}");
        assert_eq!(count.unanswered, 0, "{count:?}");
    }
}

/// The client is gone somewhere in the middle: what was complete goes on, nothing of the rest is sent.
#[test]
fn a_client_that_vanishes_with_several_under_way() {
    let mut unanswered = 0;
    for seed in 0..60 {
        let mut setup = Setup::new(200 + seed, 2);
        setup.shards = 1 + (seed % 2) as u16;
        let mut play = world(&setup, vec![Manner { chunking: seed % 3 > 0, ..Manner::slow(10 * MS) }; 2]);
        let chunk_max = if seed % 2 == 0 { 700 } else { usize::MAX };
        play.add_clients(3, &Habits { vanish: 0.9, chunk_max, pause: MS, ..eager(6) }, 12, 3_000);
        play.serve_all();
        let count = play.finish();
        assert_eq!((count.repeats, count.in_doubt), (0, 0), "{count:?}");
        unanswered += count.unanswered;
    }
    assert!(unanswered > 60, "{unanswered} went without a hearing");
}

/// Memory has the same bounds, whoever sends without waiting; small bodies and large ones, from more than there is room for.
#[test]
fn those_who_do_not_wait_bring_no_more_than_there_is_room_for() {
    for (seed, len, each) in [(300, 30_000, 12), (301, 4_000, 60), (302, 150_000, 4), (303, 600_000, 2)] {
        for shards in [1, 2] {
            let mut setup = Setup::new(seed, 2);
            setup.shards = shards;
            setup.buffers = 64;
            setup.pool.links_max = 2;
            setup.faults.window_bytes = 200 << 10;
            let mut play = world(&setup, vec![Manner { chunking: seed % 2 == 0, ..Manner::slow(5 * MS) }; 2]);
            play.add_clients(50, &eager(each), each, len);
            let room = setup.buffers - postlane::limits::BUFFERS_RESERVED;
            play.run(Duration::from_secs(600), "bodies", |play| {
                let held = play.stage.shards.iter().map(|shard| shard.net().buffers_held()).max();
                assert!(held <= Some(room), "{held:?} of {} buffers are held", setup.buffers);
                play.clients.iter().all(|client| client.done)
            });
            let what = format!("{each} of {len} octets, {shards} shards");
            assert_eq!(play.stage.sum(|stats| stats.out_of_buffers.get()), 0, "{what}");
            let count = play.finish();
            play.all_are(Fate::Answered(250));
            assert_eq!((count.in_doubt, count.repeats), (0, 0), "{what}: {count:?}");
        }
    }
}

/// A drain lets what is under way come to its end, and says goodbye behind it.
#[test]
fn a_drain_answers_what_is_under_way() {
    for chunking in [false, true] {
        let setup = Setup::new(400, 1);
        let mut play = world(&setup, vec![Manner { chunking, ..Manner::slow(200 * MS) }]);
        play.add_clients(3, &Habits { says_quit: false, ..eager(30) }, 30, 1_000);
        play.pass(100 * MS);
        play.clients.iter_mut().for_each(crate::client::Client::give_up);
        play.stage.order(postlane::shard::Order::Drain);
        play.serve_all();
        let count = play.finish();
        assert!(play.clients.iter().all(|client| client.replies_421 == 1));
        assert!(count.accepted as usize >= 3 * IN_FLIGHT_MAX, "{count:?}");
        // Whatever the upstream has was acknowledged.
        assert_eq!(count.taken, count.accepted, "{count:?}");
    }
}

/// BINARYMIME is offered as long as such messages can go: not when BDAT is no longer to be used, whatever links stand.
#[test]
fn binary_messages_are_not_asked_for_where_chunks_are_switched_off() {
    let mut setup = Setup::new(500, 1);
    let mut play = world(&setup, vec![Manner::good()]);
    let at = upstream_address(0);
    play.upstreams[0].die(&play.stage.world);
    play.stage.world.listen_peer(at).unwrap();
    play.add_clients(1, &Habits::plain(1), 1, 40);
    play.pass(5 * MS);
    let upstream = play.stage.world.accept_peer(at).expect("it is called");
    for text in ["220 a\r\n", "250-a\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"] {
        play.stage.world.send(upstream, text.as_bytes());
        play.pass(5 * MS);
    }
    play.stage.world.send(upstream, "250 2.0.0 ok\r\n".repeat(3).as_bytes());
    play.pass(5 * MS);
    play.all_are(Fate::Answered(250));
    assert!(offers(&mut play).contains("250-BINARYMIME\r\n"));
    setup.pool.chunking = false;
    play.stage.reload(&setup);
    assert!(!offers(&mut play).contains("BINARYMIME"));
}

/// What a client hears that says EHLO.
fn offers(play: &mut Play) -> String {
    let client = play.stage.world.connect(play.stage.inlet, ([127, 0, 0, 1], 0).into());
    play.stage.world.send(client, b"EHLO c.example\r\n");
    play.pass(5 * MS);
    let mut heard = Vec::new();
    play.stage.world.take_received(client, &mut heard);
    String::from_utf8(heard).unwrap()
}
