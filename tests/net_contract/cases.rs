//! The promises, one by one.

use postlane::handle::{Buffers, ListenerId};
use postlane::net::{Cause, Event, Net};
use postlane::time::Instant;

use crate::ground::{FarState, Ground, Stage, pattern};

pub(crate) use crate::churn::any_mixture_keeps_every_promise;

const MIB: usize = 1024 * 1024;

pub(crate) fn accepts_receives_writes_and_closes<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (stream, far) = stage.accept_one();
    stage.ground.send(far, b"EHLO there\r\n");
    stage.until_received(stream, b"EHLO there\r\n");
    stage.net().write(stream, b"250 here\r\n");
    stage.until_far_received(far, b"250 here\r\n");
    stage.net().close(stream);
    assert_eq!(stage.until_closed(stream), Cause::Local);
    stage.until_far(far, FarState::Finished);
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (0, 0));
}

pub(crate) fn opens_and_is_told_of_the_peers_close<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let at = stage.ground.listen();
    let (stream, far) = stage.open_one(at);
    stage.net().write(stream, b"one ");
    stage.net().write(stream, b"two");
    stage.until_far_received(far, b"one two");
    stage.ground.send(far, b"221 bye\r\n");
    stage.ground.close(far);
    assert_eq!(stage.until_closed(stream), Cause::Peer);
    assert_eq!(stage.received(stream), b"221 bye\r\n");
    assert_eq!(stage.sent.get(&stream), None, "`Sent` is for bodies only");
}

pub(crate) fn a_held_stream_outlives_its_peers_end<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (stream, far) = stage.accept_one();
    stage.ground.send(far, b"all I have to say\r\n");
    stage.until_received(stream, b"all I have to say\r\n");
    stage.net().hold(stream, true);
    stage.ground.shutdown(far);
    stage.settle();
    assert_eq!(stage.ground.streams(), 1, "held");
    stage.net().write(stream, b"250 at last\r\n");
    stage.until_far_received(far, b"250 at last\r\n");
    stage.settle();
    assert_eq!(stage.ground.streams(), 1, "until it is not");
    stage.net().hold(stream, false);
    assert_eq!(stage.until_closed(stream), Cause::Peer);
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (0, 0));
}

pub(crate) fn a_large_body_of_extents_arrives_exactly<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(2_000, 16);
    let body = pattern(5 * MIB, 1);
    let extents = stage.extents_of(&body);
    let at = stage.ground.listen();
    let (stream, far) = stage.open_one(at);
    stage.net().write_body(stream, &extents);
    stage.net().mark(stream);
    stage.until_far_received(far, &body);
    stage.until("Sent", |stage| stage.sent.get(&stream) == Some(&1));
    stage.release_all(&extents);
    stage.net().close(stream);
    stage.until_closed(stream);
    assert_eq!((stage.sent[&stream], stage.ground.buffers_held()), (1, 0));
}

pub(crate) fn writes_and_bodies_leave_in_order<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let body = pattern(50_000, 2);
    let extents = stage.extents_of(&body);
    let at = stage.ground.listen();
    let (stream, far) = stage.open_one(at);
    let mut expected = Vec::new();
    for round in 0..20 {
        let line = format!("MAIL FROM:<{round}@example.net>\r\n");
        for piece in [line.as_bytes(), b"RCPT TO:<x@example.org>\r\n", b"DATA\r\n"] {
            stage.net().write(stream, piece);
            expected.extend(piece);
        }
        stage.net().write_body(stream, &extents);
        expected.extend(&body);
        stage.net().write(stream, b".\r\n");
        stage.net().write_body(stream, &[extents[0].slice(1..3)]);
        stage.net().mark(stream);
        expected.extend(b".\r\n");
        expected.extend(&body[1..3]);
        if round % 3 == 0 {
            stage.step();
        }
    }
    stage.until_far_received(far, &expected);
    stage.until("Sent", |stage| stage.sent.get(&stream) == Some(&20));
    stage.settle();
    stage.release_all(&extents);
}

/// Every mark passed is told before the end, and no other.
pub(crate) fn marks_tell_what_was_taken<G: Ground>() {
    for aborts in [true, false] {
        let mut stage = Stage::<G>::with_buffers(64, 16);
        let body = pattern(30_000, 8);
        let extents = stage.extents_of(&body);
        let (stream, far) = stage.accept_one();
        stage.ground.pause(far);
        let mut written = 0;
        let mut ends = Vec::new();
        while written < 24 * MIB {
            stage.net().write(stream, b"BDAT 30000 LAST\r\n");
            stage.net().write_body(stream, &extents);
            stage.net().mark(stream);
            written += 17 + body.len();
            ends.push(written);
            if ends.len() % 16 == 0 {
                stage.step();
            }
        }
        stage.settle();
        let told = stage.sent.get(&stream).copied().unwrap_or(0);
        assert!(told < ends.len(), "no kernel takes that much from a reader that does not read");
        if aborts {
            stage.net().abort(stream);
            assert_eq!(stage.until_closed(stream), Cause::Local);
            let told = stage.sent.get(&stream).copied().unwrap_or(0);
            stage.ground.resume(far);
            stage.until("the far end's end", |stage| stage.ground.state(far) != FarState::Open);
            let mut got = Vec::new();
            stage.ground.take_received(far, &mut got);
            assert_eq!(told, ends.partition_point(|&end| end <= got.len()), "{} came", got.len());
        } else {
            stage.ground.resume(far);
            stage.until("Sent", |stage| stage.sent.get(&stream) == Some(&ends.len()));
            stage.net().abort(stream);
            stage.until_closed(stream);
        }
        stage.release_all(&extents);
    }
}

/// A mark is told once what was written before it has left, if that is nothing, too.
pub(crate) fn a_mark_needs_no_body<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(64, 16);
    let (stream, far) = stage.accept_one();
    let told = |stage: &Stage<G>| stage.sent.get(&stream).copied().unwrap_or(0);
    for times in 1..=3 {
        stage.net().write(stream, b"250 ok\r\n");
        stage.net().mark(stream);
        stage.until("Sent", |stage| told(stage) == times);
    }
    // With nothing before it as well.
    stage.net().mark(stream);
    stage.until("Sent", |stage| told(stage) == 4);
    stage.until_far_received(far, &b"250 ok\r\n".repeat(3));
    // Not while the far end does not read.
    stage.ground.pause(far);
    let much = b"250 ok\r\n".repeat(100_000);
    (0..20).for_each(|_| stage.net().write(stream, &much));
    stage.net().mark(stream);
    for _ in 0..20 {
        stage.step();
    }
    assert_eq!(told(&stage), 4);
    stage.ground.resume(far);
    stage.until_far_received(far, &much.repeat(20));
    stage.until("Sent", |stage| told(stage) == 5);
}

/// Of what is written at once, the first mark is told of though the rest cannot leave: its answer may come by then.
pub(crate) fn a_mark_is_told_before_the_rest_has_left<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(64, 16);
    let (stream, far) = stage.accept_one();
    stage.ground.pause(far);
    let (first, rest) = (b"BDAT 0 LAST\r\n", pattern(16 * MIB, 3));
    stage.net().write(stream, first);
    stage.net().mark(stream);
    stage.net().write(stream, &rest);
    stage.net().mark(stream);
    let told = |stage: &Stage<G>| stage.sent.get(&stream).copied().unwrap_or(0);
    stage.until("the first Sent", |stage| told(stage) == 1);
    stage.settle();
    assert_eq!(told(&stage), 1, "no kernel takes that much from a reader that does not read");
    stage.ground.resume(far);
    stage.until_far_received(far, &[first.as_slice(), &rest].concat());
    stage.until("the second", |stage| told(stage) == 2);
}

pub(crate) fn close_flushes_first<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(800, 16);
    let body = pattern(2 * MIB, 3);
    let extents = stage.extents_of(&body);
    let (stream, far) = stage.accept_one();
    stage.ground.pause(far);
    stage.net().write_body(stream, &extents);
    stage.net().write(stream, b"the end");
    stage.net().close(stream);
    stage.net().write(stream, b"too late");
    for _ in 0..20 {
        stage.step();
    }
    stage.ground.resume(far);
    let expected = [&body[..], b"the end"].concat();
    stage.until_far_received(far, &expected);
    assert_eq!(stage.until_closed(stream), Cause::Local);
    stage.until_far(far, FarState::Finished);
    stage.release_all(&extents);
}

pub(crate) fn abort_drops_and_ends<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(2_000, 16);
    let body = pattern(16 * MIB, 4);
    let extents = stage.extents_of(&body);
    let (stream, far) = stage.accept_one();
    stage.ground.pause(far);
    stage.net().write_body(stream, &extents);
    stage.net().mark(stream);
    for _ in 0..20 {
        stage.step();
    }
    assert_eq!(stage.sent.get(&stream), None, "no kernel takes that much from a reader that does not read");
    stage.net().abort(stream);
    assert_eq!(stage.until_closed(stream), Cause::Local);
    stage.release_all(&extents);
    stage.ground.resume(far);
    stage.until("the far end's end", |stage| stage.ground.state(far) != FarState::Open);
    let mut got = Vec::new();
    stage.ground.take_received(far, &mut got);
    assert!(got.len() < body.len() && body.starts_with(&got), "a part, from the front");

    // Before it is even open.
    let at = stage.ground.listen();
    let stream = stage.net().open(at, None);
    stage.net().write(stream, b"never mind");
    stage.net().abort(stream);
    assert_eq!(stage.until_closed(stream), Cause::Local);
    assert!(!stage.opened.contains(&stream));
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (0, 0));
}

pub(crate) fn a_reset_by_the_peer_ends_the_stream<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (stream, far) = stage.accept_one();
    stage.ground.reset(far);
    assert_eq!(stage.until_closed(stream), Cause::Failed(libc::ECONNRESET));
    // While a body is on its way.
    let body = pattern(MIB, 5);
    let extents = stage.extents_of(&body);
    let at = stage.ground.listen();
    let (stream, far) = stage.open_one(at);
    stage.ground.pause(far);
    for _ in 0..16 {
        stage.net().write_body(stream, &extents);
        stage.step();
    }
    stage.ground.reset(far);
    let cause = stage.until_closed(stream);
    assert!(matches!(cause, Cause::Failed(libc::ECONNRESET | libc::EPIPE)), "{cause:?}");
    stage.release_all(&extents);
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (0, 0));
}

pub(crate) fn bytes_before_a_peers_end_are_received<G: Ground>() {
    let mut stage = Stage::<G>::new();
    for end_by_reset in [false, true] {
        let at = stage.ground.listen();
        let (stream, far) = stage.open_one(at);
        // The far end answers, then leaves with our bytes unread: a reset follows its answer.
        stage.ground.pause(far);
        stage.net().write(stream, b"MAIL FROM:<>\r\n");
        stage.settle();
        stage.ground.send(far, b"421 too busy\r\n");
        if end_by_reset {
            stage.until_received(stream, b"421 too busy\r\n");
            stage.ground.reset(far);
        } else {
            stage.ground.close(far);
        }
        stage.until_closed(stream);
        assert_eq!(stage.received(stream), b"421 too busy\r\n");
    }
}

pub(crate) fn an_answer_to_the_last_bytes_still_leaves<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (stream, far) = stage.accept_one();
    stage.ground.send(far, b"QUIT\r\n");
    stage.ground.shutdown(far);
    stage.until("asked", |stage| stage.received(stream) == b"QUIT\r\n");
    stage.net().write(stream, b"221 bye\r\n");
    stage.until_far_received(far, b"221 bye\r\n");
    assert_eq!(stage.until_closed(stream), Cause::Peer);
    stage.until_far(far, FarState::Finished);
}

pub(crate) fn a_refused_open_is_told<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let at = stage.ground.listen();
    stage.ground.unlisten(at);
    let stream = stage.net().open(at, None);
    stage.net().write(stream, b"nobody will read this");
    assert_eq!(stage.until_closed(stream), Cause::NotOpened(libc::ECONNREFUSED));
    assert!(!stage.opened.contains(&stream));
    assert_eq!(stage.ground.streams(), 0);
}

pub(crate) fn pause_stops_and_resume_continues<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(64, 8);
    let (stream, far) = stage.accept_one();
    stage.ground.send(far, b"first");
    stage.until_received(stream, b"first");
    stage.net().pause(stream);
    stage.settle();
    let bytes = pattern(MIB, 6);
    stage.ground.send(far, &bytes);
    stage.settle();
    assert_eq!(stage.received(stream), b"first", "nothing comes while paused");
    // Back and forth within one turn changes nothing.
    stage.net().resume(stream);
    stage.net().pause(stream);
    stage.settle();
    stage.net().resume(stream);
    let expected = [b"first", &bytes[..]].concat();
    stage.until_received(stream, &expected);
    stage.net().pause(stream);
    stage.net().resume(stream);
    stage.ground.send(far, b"last");
    let expected = [&expected[..], b"last"].concat();
    stage.until_received(stream, &expected);
    // A paused stream can be ended.
    stage.net().pause(stream);
    stage.net().write(stream, b"bye");
    stage.net().close(stream);
    stage.until_far_received(far, b"bye");
    assert_eq!(stage.until_closed(stream), Cause::Local);
}

pub(crate) fn a_slow_reader_holds_sent_back<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(2_000, 16);
    let body = pattern(16 * MIB, 7);
    let extents = stage.extents_of(&body);
    let (stream, far) = stage.accept_one();
    stage.ground.pause(far);
    stage.net().write_body(stream, &extents);
    stage.net().mark(stream);
    stage.settle();
    assert_eq!(stage.sent.get(&stream), None);
    stage.ground.resume(far);
    stage.until_far_received(far, &body);
    stage.until("Sent", |stage| stage.sent.get(&stream) == Some(&1));
    stage.release_all(&extents);
}

pub(crate) fn exhausted_buffers_pause_receiving_until_released<G: Ground>() {
    let mut stage = Stage::<G>::with_buffers(16, 8);
    stage.keep = true;
    let streams: Vec<_> = (0..4).map(|_| stage.accept_one()).collect();
    let bytes: Vec<_> = (0..4).map(|salt| pattern(200_000, salt)).collect();
    for (&(_, far), bytes) in streams.iter().zip(&bytes) {
        stage.ground.send(far, bytes);
    }
    stage.settle();
    let held: std::collections::HashSet<_> = stage.kept.iter().map(|extent| extent.buffer).collect();
    assert_eq!((held.len(), stage.net().free()), (stage.kept.len(), 0), "each is held by one receipt");
    assert!(
        stage.kept.len() == 16 || G::BYPASSES && stage.kept.len() > 16,
        "every buffer: {}",
        stage.kept.len()
    );
    let mut turns = 0;
    while streams.iter().zip(&bytes).any(|(&(stream, _), bytes)| stage.received(stream).len() < bytes.len()) {
        let kept = std::mem::take(&mut stage.kept);
        stage.release_all(&kept);
        stage.step();
        turns += 1;
        assert!(turns < 100_000);
    }
    for (&(stream, _), bytes) in streams.iter().zip(&bytes) {
        assert_eq!(stage.received(stream), bytes);
    }
    let kept = std::mem::take(&mut stage.kept);
    stage.release_all(&kept);
    assert_eq!(stage.ground.buffers_held(), 0);
}

pub(crate) fn slots_are_reused_and_names_are_not<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let mut names = std::collections::HashSet::new();
    let mut slots = std::collections::HashSet::new();
    for round in 0..50 {
        let (stream, far) = stage.accept_one();
        assert!(names.insert(stream), "{stream:?} named two streams");
        slots.insert(stream.slot);
        // Bytes and an end that arrive at the same time as ours.
        stage.ground.send(far, format!("left over from {round}").as_bytes());
        stage.net().write(stream, b"x");
        if round % 2 == 0 {
            stage.net().abort(stream);
        } else {
            stage.net().close(stream);
        }
        stage.until_closed(stream);
        stage.ground.close(far);
        if let Some(bytes) = stage.received.get(&stream) {
            assert!(
                format!("left over from {round}").as_bytes().starts_with(bytes),
                "another stream's bytes"
            );
        }
    }
    assert!(slots.len() <= 4, "slots are used again: {slots:?}");
}

pub(crate) fn a_slot_rests_until_its_end_was_read<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let at = stage.ground.listen();
    for _ in 0..10 {
        let (old, far) = stage.accept_one();
        stage.ground.close(far);
        let mut events = Vec::new();
        let ended = |event: &Event| matches!(event, Event::Closed { stream, .. } if *stream == old);
        for _ in 0..100_000 {
            events.clear();
            stage.ground.step(64, &mut events);
            if events.iter().any(ended) {
                break;
            }
        }
        assert!(events.iter().any(ended));
        // The reader of these events has not come to the end yet, and opens a stream while reading.
        let new = stage.net().open(at, None);
        assert_ne!(new.slot, old.slot);
        stage.note(&events);
        stage.net().abort(new);
        stage.until_closed(new);
    }
}

pub(crate) fn stale_names_do_nothing<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (old, far) = stage.accept_one();
    stage.ground.close(far);
    stage.until_closed(old);
    let (mut new, mut far) = stage.accept_one();
    for _ in 0..10 {
        if new.slot == old.slot {
            break;
        }
        (new, far) = stage.accept_one();
    }
    assert_eq!(new.slot, old.slot, "the slot is used again");
    stage.net().write(old, b"to the old one");
    stage.net().pause(old);
    stage.net().close(old);
    stage.net().abort(old);
    stage.net().resume(old);
    stage.net().write(new, b"to the new one");
    stage.until_far_received(far, b"to the new one");
    stage.ground.send(far, b"heard");
    stage.until_received(new, b"heard");
    assert!(!stage.closed.contains_key(&new));
}

pub(crate) fn unlisten_refuses_newcomers_and_keeps_streams<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let (stream, far) = stage.accept_one();
    stage.net().unlisten(ListenerId(3));
    stage.settle();
    let at = stage.listener;
    let newcomer = stage.net().open(at, None);
    assert_eq!(stage.until_closed(newcomer), Cause::NotOpened(libc::ECONNREFUSED));
    stage.ground.send(far, b"still here");
    stage.until_received(stream, b"still here");
    assert_eq!(stage.ground.listen_near(ListenerId(3), at.port()), at, "the address is free again");
    let (_, far) = stage.accept_one();
    stage.ground.close(far);
}

pub(crate) fn the_budget_of_events_is_kept<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let fars: Vec<_> = (0..20).map(|_| stage.accept_one().1).collect();
    fars.iter().for_each(|&far| stage.ground.send(far, b"all at once"));
    let mut events = Vec::new();
    let mut turns = 0;
    while stage.accepted.iter().any(|&stream| stage.received(stream).len() < b"all at once".len()) {
        events.clear();
        stage.ground.step(3, &mut events);
        assert!(events.len() <= 3, "{events:?}");
        stage.note(&events);
        turns += 1;
        assert!(turns < 100_000);
    }
    let before = stage.net().now();
    let after = stage.net().turn(Instant::default(), 1, &mut events);
    assert!(after >= before);
}

pub(crate) fn nothing_is_left_behind<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let at = stage.ground.listen();
    stage.accept_one();
    let mut rounds = 0;
    let mut fds = None;
    while rounds < 2_500 {
        let batch: Vec<_> = (0..4).map(|_| stage.net().open(at, None)).collect();
        for (nth, &stream) in batch.iter().enumerate() {
            stage.net().write(stream, b"hello");
            if nth == 3 {
                stage.net().close(stream);
            }
        }
        let mut fars = Vec::new();
        stage.until("all accepted and opened", |stage| {
            fars.extend(stage.ground.accept(at));
            fars.len() == 4 && batch[..3].iter().all(|stream| stage.opened.contains(stream))
        });
        stage.ground.close(fars[0]);
        stage.net().abort(batch[1]);
        stage.net().close(batch[2]);
        stage.step();
        fars.iter().for_each(|&far| stage.ground.close(far));
        for &stream in &batch {
            stage.until_closed(stream);
        }
        stage.opened.clear();
        stage.closed.clear();
        stage.received.clear();
        rounds += 1;
        if rounds == 100 {
            fds = Some(open_fds());
        }
    }
    assert_eq!((stage.ground.streams(), stage.ground.buffers_held()), (1, 0));
    let (before, after) = (fds.unwrap(), open_fds());
    // Other tests of this process open and close theirs meanwhile, but not thousands.
    assert!(after < before + 1_000, "file descriptors: {before} after 100 rounds, {after} after {rounds}");
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Beyond `opened_max`, which is 32 where there is one, an open fails, told by its event like every other failure.
pub(crate) fn beyond_opened_max_opens_fail<G: Ground>() {
    let mut stage = Stage::<G>::new();
    let at = stage.ground.listen();
    let held: Vec<_> = (0..32).map(|_| stage.open_one(at)).collect();
    let extra = stage.net().open(at, None);
    stage.net().write(extra, b"in vain");
    assert_eq!(stage.until_closed(extra), Cause::NotOpened(libc::EMFILE));
    stage.net().close(held[0].0);
    stage.until_closed(held[0].0);
    stage.open_one(at);
}
