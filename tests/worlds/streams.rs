//! Bodies larger than the memory for them: they leave while they arrive.

use std::time::Duration;

use crate::client::Habits;
use crate::dice::Dice;
use crate::focus::{MS, world};
use crate::message::{Fate, Message};
use crate::play::Play;
use crate::stage::Setup;
use crate::upstream::{Deed, Manner, Moment};

/// One MiB of buffers, and two links to an upstream.
fn tight(seed: u64, upstreams: usize) -> Setup {
    let mut setup = Setup::new(seed, upstreams);
    setup.buffers = 64;
    setup.pool.links_max = 2;
    setup.faults.window_bytes = 64 << 10;
    setup
}

fn streamed(play: &Play) -> u64 {
    play.stage.sum(|stats| stats.streamed.get())
}

fn out_of_buffers(play: &Play) -> u64 {
    play.stage.sum(|stats| stats.out_of_buffers.get())
}

#[test]
fn many_large_bodies_go_through_a_small_bound() {
    for (seed, chunking) in [(1, false), (2, true), (3, false), (4, true)] {
        let clients = 40;
        let mut play = world(&tight(seed, 3), vec![Manner::slow(5 * MS); 3]);
        let habits = Habits { chunking, ..Habits::plain(2) };
        play.add_clients(clients, &habits, 2, 500_000);
        play.serve_all();
        assert!(streamed(&play) > clients as u64, "{} of {clients} times two were streamed", streamed(&play));
        assert_eq!(out_of_buffers(&play), 0);
        let count = play.finish();
        play.all_are(Fate::Answered(250));
        assert_eq!((count.in_doubt, count.repeats), (0, 0), "{count:?}");
    }
}

/// As `many_large_bodies_go_through_a_small_bound`, where every body goes to several shards: no message may hold a link
/// that another one waits for, and the other way round.
#[test]
fn bodies_for_several_shards_do_not_lock_each_other_out() {
    for seed in 10..14 {
        let mut setup = tight(seed, 2);
        setup.shards = 3;
        setup.pool.links_max = 1;
        let mut play = world(&setup, vec![Manner::slow(3 * MS); 2]);
        let chunking = seed % 2 == 0;
        let clients = 24;
        play.add_clients(clients, &Habits { chunking, ..Habits::plain(1) }, 1, 400_000);
        for message in &mut play.messages {
            let n = message.number;
            message.recipients = (0..6).map(|r| format!("m{n}.r{r}@d{r}.example")).collect();
        }
        play.serve_all();
        assert!(streamed(&play) > 4, "{} of {clients} were streamed", streamed(&play));
        assert_eq!(out_of_buffers(&play), 0);
        play.finish();
        play.all_are(Fate::Answered(250));
        assert!(play.waited_most() < Duration::from_secs(60), "{:?}", play.waited_most());
    }
}

/// Chunks come unasked, from more clients than there are buffers: who has nothing here is not read, so all that is here
/// can go on. Nobody is refused, nobody hangs, and some buffers are left in every turn.
#[test]
fn chunks_that_come_unasked_wait_outside() {
    for (seed, chunk_octets) in [(14, None), (16, Some(100_000)), (18, Some(20_000)), (20, Some(3_000))] {
        for shards in [1, 2] {
            let mut setup = tight(seed, 2);
            setup.shards = shards;
            // Of what a client has sent most lies in the two kernels.
            setup.faults.window_bytes = 200 << 10;
            let mut play = world(&setup, vec![Manner::slow(5 * MS); 2]);
            let habits = Habits { chunking: true, chunk_octets, ..Habits::plain(1) };
            play.add_clients(70, &habits, 1, 300_000);
            let room = setup.buffers - postlane::limits::BUFFERS_RESERVED;
            play.run(Duration::from_secs(60), "chunks", |play| {
                let held = play.stage.shards.iter().map(|shard| shard.net().buffers_held()).max();
                assert!(held <= Some(room), "{held:?} of {} buffers are held", setup.buffers);
                play.clients.iter().all(|client| client.done)
            });
            let what = format!("chunks of {chunk_octets:?}, {shards} shards");
            assert_eq!(out_of_buffers(&play), 0, "{what}");
            assert!(streamed(&play) > 20, "{what}: {} were streamed", streamed(&play));
            let count = play.finish();
            play.all_are(Fate::Answered(250));
            assert_eq!((count.in_doubt, count.repeats), (0, 0), "{what}: {count:?}");
        }
    }
}

/// One body, far larger than all memory, through an upstream that reads slowly.
#[test]
fn the_upstreams_pace_is_the_clients() {
    let mut setup = tight(20, 1);
    setup.faults.window_bytes = 5_000;
    setup.faults.delay_max = 2 * MS;
    let mut play = world(&setup, vec![Manner::good()]);
    play.add_clients(1, &Habits::plain(1), 1, 3 << 20);
    play.serve_all();
    assert_eq!((streamed(&play), out_of_buffers(&play)), (1, 0));
    play.finish();
    play.all_are(Fate::Answered(250));
}

/// A link is lost in mid-body. What was gone is told as 451; no upstream has a half of it, none has it twice.
#[test]
fn a_link_lost_midway_is_the_clients_to_repeat() {
    for deed in [Deed::Drop, Deed::Reset, Deed::Leave, Deed::Defer] {
        let mut manner = Manner::good();
        manner.odds = vec![(Moment::Body, deed, 0.5)];
        let mut play = world(&tight(30, 2), vec![manner; 2]);
        play.add_clients(20, &Habits::plain(1), 1, 1 << 20);
        play.serve_all();
        let count = play.finish();
        println!("{deed:?}: {count:?}");
        assert!(count.deferred > 0 && count.accepted > 0, "{deed:?}: {count:?}");
        assert_eq!((count.rejected, count.unanswered, count.in_doubt), (0, 0, 0), "{deed:?}: {count:?}");
        assert_eq!(out_of_buffers(&play), 0);
        let finals = play.clients.iter().flat_map(|client| &client.finals);
        let other: Vec<_> =
            finals.filter(|(_, text)| !text.starts_with("250 ") && !text.starts_with("451 4.4.")).collect();
        assert!(other.is_empty(), "{other:?}");
    }
}

#[test]
fn an_upstreams_no_midway_is_passed_on() {
    let mut manner = Manner::good();
    manner.odds = vec![(Moment::Body, Deed::Refuse, 1.0)];
    let mut play = world(&tight(31, 1), vec![manner]);
    play.add_clients(4, &Habits::plain(1), 1, 3 << 20);
    play.serve_all();
    play.finish();
    play.all_are(Fate::Answered(554));
}

/// As long as all of it is still here, another upstream gets it.
#[test]
fn before_anything_is_gone_another_upstream_is_tried() {
    for (moment, deed) in
        [(Moment::Greeting, Deed::Refuse), (Moment::Mail, Deed::Defer), (Moment::Data, Deed::Drop)]
    {
        let mut setup = tight(32, 2);
        setup.pool.policy = postlane::balance::Policy::RoundRobin;
        let mut bad = Manner::good();
        bad.odds = vec![(moment, deed, 1.0)];
        let mut play = world(&setup, vec![bad, Manner::good()]);
        play.add_clients(12, &Habits::plain(1), 1, 1 << 20);
        play.serve_all();
        assert!(streamed(&play) > 6);
        assert_eq!(out_of_buffers(&play), 0);
        play.finish();
        play.all_are(Fate::Answered(250));
    }
}

/// Of clients that vanish in mid-body nothing is delivered; the others go on.
#[test]
fn a_client_that_vanishes_midway_leaves_nothing() {
    for seed in 40..44 {
        let mut setup = tight(seed, 2);
        setup.shards = 2;
        let mut play = world(&setup, vec![Manner::good(); 2]);
        let vanishing = Habits { vanish: 0.6, chunk_max: 60_000, pause: MS, ..Habits::plain(1) };
        play.add_clients(20, &vanishing, 1, 1 << 20);
        let before = play.messages.len();
        play.add_clients(10, &Habits::plain(1), 1, 400_000);
        for message in &mut play.messages {
            let n = message.number;
            message.recipients = (0..1 + n % 3).map(|r| format!("m{n}.r{r}@d{r}.example")).collect();
        }
        play.serve_all();
        play.finish();
        let steady = &play.messages[before..];
        assert!(steady.iter().all(|message| message.fate == Fate::Answered(250)));
    }
}

/// Clients that are gone when they have said all, while much of it is still to leave: upstreams have all of it, or nothing,
/// and a line with a dot alone ends nobody's.
#[test]
fn a_client_that_does_not_wait_is_delivered_for() {
    let (mut were_streamed, mut delivered) = (0, 0);
    for (seed, patience) in [(60, 20), (61, 60), (62, 150), (63, 400)] {
        let mut setup = tight(seed, 2);
        setup.shards = 2;
        setup.pool.links_max = 1;
        let mut play = world(&setup, vec![Manner::slow(20 * MS); 2]);
        let habits = Habits { chunking: true, patience: Some(patience * MS), ..Habits::plain(1) };
        play.add_clients(80, &habits, 1, 30_000);
        for message in &mut play.messages {
            let n = message.number;
            message.recipients = (0..4).map(|r| format!("m{n}.r{r}@d{r}.example")).collect();
        }
        play.serve_all();
        were_streamed += streamed(&play);
        delivered += play.finish().taken;
    }
    assert!(were_streamed > 40, "{were_streamed} were streamed");
    assert!(delivered > 20, "{delivered} were delivered");
}

/// A client that stalls in mid-body holds its link no longer than `idle_timeout`.
#[test]
fn a_client_that_stalls_midway_is_let_go() {
    let mut setup = tight(50, 1);
    setup.listener.idle_timeout = Duration::from_secs(20);
    setup.pool.links_max = 1;
    let mut play = world(&setup, vec![Manner::good()]);
    let stalls = Habits { stall: 1.0, chunk_max: 40_000, ..Habits::plain(1) };
    play.add_clients(3, &stalls, 1, 3 << 20);
    play.add_clients(6, &Habits::plain(1), 1, 500_000);
    play.pass(Duration::from_secs(60));
    play.clients[..3].iter_mut().for_each(crate::client::Client::give_up);
    play.serve_all();
    assert!(play.messages[3..].iter().all(|message| message.fate == Fate::Answered(250)));
    assert!(play.clients[..3].iter().all(|client| client.replies_421 > 0));
    play.finish();
}

/// What may not be sent on, found when the beginning has left: nobody gets it.
#[test]
fn a_bare_newline_midway_reaches_nobody() {
    for chunking in [false, true] {
        let mut play = world(&tight(60, 2), vec![Manner::good(); 2]);
        play.add_clients(8, &Habits { chunking, ..Habits::plain(1) }, 1, 2 << 20);
        let mut dice = Dice::new(3);
        for message in play.messages.iter_mut().filter(|message| message.number % 2 == 0) {
            let at = message.data.len() * dice.between(6, 10) / 10;
            let at = at + memchr::memmem::find(&message.data[at..], b"\r\n").map_or(0, |end| end + 2);
            message.data.splice(at..at, *b"x\ny\r\n");
            message.violation = true;
        }
        play.serve_all();
        assert_eq!(out_of_buffers(&play), 0);
        play.finish();
        let fate =
            |message: &Message| if message.violation { Fate::Answered(554) } else { Fate::Answered(250) };
        let wrong = play.messages.iter().find(|message| message.fate != fate(message));
        assert!(wrong.is_none(), "message {} is {:?}", wrong.unwrap().number, wrong.unwrap().fate);
    }
}

/// Groups of one message that end differently when its body is gone: the refused ones are bounced.
#[test]
fn groups_that_end_differently_are_told_apart() {
    let mut setup = tight(70, 1);
    setup.shards = 4;
    let mut manner = Manner::good();
    manner.refuses = Some("no");
    let mut play = world(&setup, vec![manner]);
    play.add_clients(6, &Habits::plain(1), 1, 1 << 20);
    for message in &mut play.messages {
        let n = message.number;
        message.recipients =
            (0..8).map(|r| format!("{}{n}.r{r}@d{r}.example", if r == 0 { "no" } else { "m" })).collect();
    }
    play.serve_all();
    assert!(streamed(&play) > 0);
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.bounces, count.in_doubt), (6, 0), "{count:?}");
}
