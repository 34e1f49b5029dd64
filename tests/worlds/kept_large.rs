//! Kept messages that are larger than the memory for them: they leave while they are read.

use std::time::Duration;

use postlane::disk::sim;
use postlane::dispatch::Mode;
use postlane::net::sim::Faults;

use crate::client::Habits;
use crate::disk::Keep;
use crate::focus::{MS, world};
use crate::kept_focus::{flip, notices, spoil_at, tells_of_damage, until_put_off};
use crate::message::Fate;
use crate::play::Play;
use crate::stage::Setup;
use crate::upstream::{Deed, Manner, Moment};

/// Two MiB of buffers and more, until it is less.
const BUFFERS: usize = 512;
/// 1.5 MiB.
const LARGE: usize = 96 * (16 << 10);

fn large_setup(seed: u64) -> Setup {
    let mut keep = Keep::plain(Mode::Spool);
    (keep.segment_bytes, keep.bytes_max) = (4 << 20, 64 << 20);
    Setup { buffers: BUFFERS, keep: Some(keep), ..Setup::new(seed, 1) }
}

/// One upstream, and messages of that size that it put off, on disk.
fn put_off(seed: u64, messages: usize, len: usize, chunking: bool) -> Play {
    let setup = large_setup(seed);
    let mut play = world(&setup, vec![Manner { puts_off: Some("m"), ..Manner::good() }]);
    play.add_clients(1, &Habits { chunking, ..Habits::plain(messages) }, messages, len);
    play.serve_all();
    play.all_are(Fate::Answered(250));
    assert_eq!(play.stage.kept(), messages as u64);
    play
}

/// The same, started again with that much less memory.
fn with_less(seed: u64, buffers: usize, chunking: bool) -> Play {
    let mut play = put_off(seed, 1, LARGE, chunking);
    start_with(&mut play, buffers);
    play
}

fn start_with(play: &mut Play, buffers: usize) {
    play.crash(false);
    play.stage.set_buffers(buffers);
    play.start(1);
    play.upstreams[0].manner.puts_off = None;
}

fn held_most(play: &Play) -> usize {
    play.stage.shards.iter().map(|shard| shard.net().buffers_held()).max().unwrap_or(0)
}

/// What does not fit into all the memory there is goes all the same, in either form.
#[test]
fn a_message_larger_than_memory_leaves_in_parts() {
    for (seed, chunking) in [(1, false), (2, true)] {
        let mut play = with_less(seed, 48, chunking);
        play.run(Duration::from_secs(60), "a large message waits for memory", |play| {
            assert!(held_most(play) < 24, "{} buffers are held", held_most(play));
            play.stage.kept() == 0
        });
        let count = play.finish();
        assert_eq!((count.taken, count.repeats, count.in_doubt), (1, 0, 0), "{count:?}");
    }
}

/// One message for groups of several shards: all of it is read once for all.
#[test]
fn its_groups_share_the_parts() {
    let mut play = put_off(3, 1, 0, false);
    let first = play.messages.len();
    play.add_clients(1, &Habits::plain(1), 1, LARGE);
    play.messages[first].recipients = (0..6).map(|r| format!("m{first}.r{r}@d{r}.example")).collect();
    play.serve_all();
    play.all_are(Fate::Answered(250));
    play.crash(true);
    play.stage.set_buffers(48);
    play.start(4);
    play.upstreams[0].manner.puts_off = None;
    let count = play.finish();
    assert_eq!((count.repeats, count.in_doubt), (0, 0), "{count:?}");
    assert!(count.taken > 3 && in_parts(&play) >= 1, "{count:?}");
}

/// What goes by BDAT alone goes so in parts, too: without the last octets of its chunk nobody has it.
#[test]
fn a_binary_one_leaves_in_parts_by_chunk() {
    for damaged in [false, true] {
        let mut play = put_off(4, 0, 0, false);
        (play.upstreams[0].manner.chunking, play.upstreams[0].manner.binary) = (true, true);
        play.upstreams[0].manner.puts_off = None;
        play.add_clients(1, &Habits::plain(1), 1, 300);
        play.serve_all();
        play.pass(500 * MS);
        play.upstreams[0].manner.puts_off = Some("m1");
        play.add_clients(1, &Habits { chunking: true, ..Habits::plain(1) }, 1, LARGE);
        play.messages[1].parameters = " BODY=BINARYMIME".into();
        play.serve_all();
        play.all_are(Fate::Answered(250));
        until_put_off(&mut play, 1);
        if damaged {
            let needle = play.messages[1].unstuffed();
            flip(&play, &needle[LARGE / 2..][..400], 0, 0);
        }
        play.upstreams[0].manner.puts_off = None;
        play.pass(Duration::from_secs(300));
        assert_eq!((play.stage.kept(), notices(&play).len()), (0, usize::from(damaged)));
        let count = play.finish();
        assert_eq!((count.taken, count.repeats, count.in_doubt), (2, 0, 0), "{count:?}");
        assert!(in_parts(&play) > 0);
    }
}

fn in_parts(play: &Play) -> u64 {
    play.stage.sum(|stats| stats.spool.in_parts.get())
}

/// A bit is wrong in what is read first, or last: no upstream has it, though much had been sent; its sender is told.
#[test]
fn a_damaged_one_reaches_nobody() {
    for (seed, chunking) in [(10, false), (11, true)] {
        for at in [0, 40_000, LARGE / 2, LARGE] {
            let mut play = put_off(seed, 1, LARGE, chunking);
            let sent = play.messages[0].data.clone();
            if chunking {
                play.messages[0].data = play.messages[0].unstuffed();
            }
            let at = at.min(play.messages[0].data.len() - 400);
            until_put_off(&mut play, 1);
            spoil_at(&play, 0, at);
            play.messages[0].data = sent;
            play.upstreams[0].manner.puts_off = None;
            play.pass(Duration::from_secs(600));
            assert!(matches!(notices(&play)[..], [notice] if tells_of_damage(notice, 0)), "at {at}");
            assert_eq!((play.stage.kept(), play.upstreams[0].taken.len()), (0, 1), "at {at}");
            assert_eq!(play.stage.sum(|stats| stats.spool.damaged.get()), 1);
            play.finish();
        }
    }
}

/// A bit makes a line with a dot alone: what follows it is no commands.
#[test]
fn damage_that_looks_like_its_end_ends_nothing() {
    let mut play = put_off(12, 0, 0, false);
    play.add_clients(1, &Habits::plain(1), 1, LARGE);
    let line = b"\r\n,\r\nMAIL FROM:<x@sender.example>\r\nRCPT TO:<smuggled@d0.example>\r\nDATA\r\nboo\r\n";
    let at = LARGE / 2 + memchr::memmem::find(&play.messages[0].data[LARGE / 2..], b"\r\n").unwrap();
    play.messages[0].data.splice(at..at + 2, line.iter().copied());
    play.serve_all();
    until_put_off(&mut play, 1);
    // From ',' to '.'.
    flip(&play, &line[..20], 2, 1);
    play.upstreams[0].manner.puts_off = None;
    play.pass(Duration::from_secs(600));
    assert!(matches!(notices(&play)[..], [notice] if tells_of_damage(notice, 0)));
    assert_eq!((play.stage.kept(), play.upstreams[0].taken.len()), (0, 1));
    play.finish();
}

/// What the disk cannot read for a while, in the middle of it or from the start, is tried again until it can.
#[test]
fn a_disk_that_cannot_read_for_a_while_delays_it() {
    for (seed, from, often) in [(20, 0, 1.0), (21, 30, 1.0), (22, 0, 0.3)] {
        let mut play = put_off(seed, 1, LARGE, false);
        start_with(&mut play, 48);
        // Slow enough for the disk to fail in mid-body.
        play.pass(from * MS);
        play.stage.platter.set_faults(sim::Faults { read_error: often, ..sim::Faults::default() });
        play.pass(Duration::from_secs(20));
        play.stage.platter.set_faults(sim::Faults::default());
        play.run(Duration::from_secs(300), "a message that can be read again", |play| play.stage.kept() == 0);
        let count = play.finish();
        assert_eq!((count.taken, count.bounces, count.in_doubt), (1, 0, 0), "{count:?}");
    }
}

/// Whatever an upstream does midway, no other has half of it, and it is tried again.
#[test]
fn a_link_lost_midway_is_a_cause_to_try_again() {
    for deed in [Deed::Drop, Deed::Reset, Deed::Leave, Deed::Defer] {
        let mut play = put_off(30, 6, LARGE / 2, false);
        start_with(&mut play, 48);
        play.upstreams[0].manner.odds = vec![(Moment::Body, deed, 0.5)];
        play.pass(Duration::from_secs(60));
        let count = play.finish();
        assert_eq!((count.taken, count.repeats, count.in_doubt), (6, 0, 0), "{deed:?}: {count:?}");
        assert!(in_parts(&play) >= 6, "{deed:?}");
    }
}

/// Other mail has all the memory that kept mail may have, for long: what is due goes all the same, by and by.
#[test]
fn other_mail_that_fills_memory_delays_nothing_for_ever() {
    let mut play = put_off(40, 20, 30_000, false);
    let large = play.messages.len();
    play.add_clients(1, &Habits::plain(1), 1, LARGE / 2);
    play.serve_all();
    play.stage.setup.pool.reply_timeout = Duration::from_secs(600);
    play.stage.setup.pool.links_max = 64;
    start_with(&mut play, 64);
    play.upstreams[0].manner.puts_off = Some("m");
    play.upstreams[0].manner.ponders = Some(("slow", Duration::from_secs(400)));
    play.add_clients(8, &Habits::plain(1), 1, 45_000);
    for message in &mut play.messages[large + 1..] {
        message.recipients = vec![format!("slow{}.r0@d1.example", message.number)];
    }
    play.serve_all();
    play.pass(Duration::from_secs(10));
    let held = held_most(&play);
    assert!(held > 64 / 3, "{held} buffers are held");
    play.upstreams[0].manner.puts_off = None;
    play.run(Duration::from_secs(200), "what is kept while memory is short", |play| {
        let taken = |n: usize| {
            let to = &play.messages[n].recipients[0];
            play.upstreams[0].taken.iter().any(|taken| taken.recipients.contains(to))
        };
        (0..=large).all(taken)
    });
    assert!(held_most(&play) > 64 / 4, "memory is free again");
    play.pass(Duration::from_secs(700));
    play.finish();
}

/// What is to come back when its time is over comes back though its body is leaving: without its end nobody has it.
#[test]
fn a_body_that_is_leaving_is_called_back_when_its_time_is_over() {
    for (seed, len, parts) in [(50, 300_000, false), (51, LARGE, true)] {
        let mut setup = large_setup(seed);
        crate::timely::offer(&mut setup);
        let mut play = world(&setup, vec![Manner { deliver_by: Some(0), ..Manner::good() }]);
        play.upstreams[0].die(&play.stage.world);
        play.add_clients(1, &Habits::plain(1), 1, len);
        play.messages[0].return_after(30);
        play.serve_all();
        play.all_are(Fate::Answered(250));
        let slow = Faults { window_bytes: 500, delay_min: 50 * MS, delay_max: 50 * MS, ..Faults::default() };
        play.stage.world.set_faults(slow);
        play.pass(Duration::from_secs(5));
        play.upstreams[0].rise(&play.stage.world);
        play.pass(Duration::from_secs(20));
        assert_eq!((play.upstreams[0].mails.len(), in_parts(&play) > 0), (1, parts), "its body is leaving");
        play.pass(Duration::from_secs(60));
        assert_eq!((play.stage.kept(), notices(&play).len(), play.upstreams[0].taken.len()), (0, 1, 1));
        let count = play.finish();
        assert_eq!((count.in_doubt, count.overdue), (0, 1), "{count:?}");
    }
}
