use super::*;
use crate::balance::estimate::{Line, ResponseTimes};

#[test]
fn load_follows_speed() {
    let got = spread(&mut known(Policy::LeastResponseTime, &[1, 5, 50]), 112);
    assert_eq!(got.iter().sum::<u32>(), 112);
    assert!(
        (88..=96).contains(&got[0]) && (16..=20).contains(&got[1]) && (1..=3).contains(&got[2]),
        "{got:?}"
    );
}

#[test]
fn weights_share_equal_speed() {
    let mut fleet = weighted(Policy::LeastResponseTime, &[1, 3]);
    (0..2).for_each(|i| fleet.heard(i, Heard::Done { bytes: 0 }, 5 * MS, at(0)));
    let got = spread(&mut fleet, 400);
    assert!((99..=101).contains(&got[0]), "{got:?}");
}

#[test]
fn ties_are_spread_by_chance() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5, 5, 5]);
    let first: std::collections::HashSet<Pick> =
        (0..40).map(|random| fleet.pick(&ask(random), at(0))).collect();
    assert_eq!(first, (0..4).map(Pick::Now).collect());
}

#[test]
fn waiting_for_a_fast_one_beats_a_slow_one_but_not_for_ever() {
    let mut fleet = known(Policy::LeastResponseTime, &[1, 50]);
    (0..16).for_each(|_| fleet.began(0));
    fleet.set_links(0, false, false, (at(0), 0));
    assert_eq!(fleet.pick(&ask(0), at(1)), Pick::Wait);
    // It hangs: its oldest transaction tells, long before any reply.
    assert_eq!(fleet.pick(&ask(0), at(10)), Pick::Now(1));
}

#[test]
fn a_long_message_under_way_is_no_hang() {
    let mut fleet = weighted(Policy::LeastResponseTime, &[1, 1]);
    for upstream in 0..2 {
        for _ in 0..200 {
            fleet.heard(upstream, Heard::Done { bytes: 0 }, 5 * MS, at(0));
            fleet.heard(upstream, Heard::Done { bytes: 10 << 20 }, 105 * MS, at(0));
        }
    }
    (0..2).for_each(|_| fleet.began(1));
    fleet.began(0);
    fleet.set_links(0, true, false, (at(0), 10 << 20));
    assert_eq!(fleet.pick(&ask(0), at(50)), Pick::Now(0));
    // But one that takes three times what it should is.
    assert_eq!(fleet.pick(&ask(0), at(300)), Pick::Now(1));
}

#[test]
fn a_link_to_open_costs_its_opening() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5]);
    fleet.heard(0, Heard::Connected, 30 * MS, at(0));
    fleet.set_links(0, true, true, (Instant::NEVER, 0));
    (0..5).for_each(|_| fleet.began(1));
    assert_eq!(fleet.pick(&ask(0), at(0)), Pick::Now(1));
    fleet.began(1);
    fleet.began(1);
    assert_eq!(fleet.pick(&ask(0), at(0)), Pick::Now(0));
}

#[test]
fn a_failing_upstream_never_looks_fast() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5, 5]);
    // It answers "no" at once, again and again.
    (0..3).for_each(|_| fleet.punish(0, at(0)));
    let got = spread(&mut fleet, 60);
    assert!(got[0] < got[1] / 4, "{got:?}");
}

#[test]
fn the_unknown_are_as_good_as_the_best_and_get_no_flood() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5, 5]);
    let mut with_new = weighted(Policy::LeastResponseTime, &[1; 4]);
    (0..3).for_each(|i| with_new.heard(i, Heard::Done { bytes: 0 }, 5 * MS, at(0)));
    assert_eq!(spread(&mut with_new, 80), [20; 4]);
    assert_eq!(spread(&mut fleet, 60), [20; 3]);
}

/// One was slow and is quick again: live mail finds out, a message at a time, and less often while it stays slow.
#[test]
fn a_silent_upstream_is_tried_again_one_message_at_a_time() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 500]);
    let mut tries = Vec::new();
    // A message per millisecond for a minute; each ends before the next.
    for ms in 0..60_000 {
        let is_slow = ms < 30_000;
        let Pick::Now(i) = fleet.pick(&ask(ms), at(ms)) else { panic!("nobody is full") };
        fleet.began(i);
        fleet.ended(i);
        let nanos = if i == 1 && is_slow { 500 } else { 5 } * MS;
        fleet.heard(i, Heard::Done { bytes: 10_000 }, nanos, at(ms));
        if i == 1 {
            tries.push(ms);
        }
    }
    let while_slow = tries.iter().filter(|ms| **ms < 30_000).count();
    assert!((4..=8).contains(&while_slow), "{while_slow} tries while it was slow");
    let first = tries.iter().find(|ms| **ms >= 30_000).expect("tried again");
    assert!(*first < 39_000, "tried again after {} ms", first - 30_000);
    let later = tries.iter().filter(|ms| **ms >= 40_000).count();
    assert!((8_000..=12_000).contains(&later), "{later} of the last 20,000");
}

#[test]
fn bad_news_is_believed_quicker_than_good_and_silence_makes_both_weigh_more() {
    let mut times = ResponseTimes::default();
    let mut sample = |ms: u64, at_ms: u64| {
        times.body.observe(ms * MS, 0, at(at_ms));
        times.nanos() / MS as f32
    };
    assert_eq!(sample(100, 0), 100.0);
    assert!(sample(10, 1) > 90.0);
    assert!(sample(1000, 2) > 500.0, "a shock is believed at once");
    assert_eq!(sample(10, 10_000), 10.0, "after ten seconds of silence there is nothing else to go by");
}

#[test]
fn long_messages_do_not_make_an_upstream_look_slow() {
    let mut line = Line::default();
    let mut times = ResponseTimes::default();
    for n in 0..2_000u64 {
        // 5 ms, and 10 ms for each MiB.
        let bytes = if n % 3 == 0 { 10 << 20 } else { 1_000 * (1 + n % 40) };
        let nanos = 5 * MS + bytes * 10 * MS / (1 << 20);
        line.observe(nanos, bytes, at(n));
    }
    times.body = line;
    let base = times.nanos() / MS as f32;
    let per_mib = times.nanos_per_byte() * (1 << 20) as f32 / MS as f32;
    assert!((4.5..=6.0).contains(&base), "{base} ms");
    assert!((9.0..=11.0).contains(&per_mib), "{per_mib} ms per MiB");
}

/// A quick disk behind a slow line, and the other way round: which is better depends on the message.
#[test]
fn the_length_of_the_message_decides() {
    let mut fleet = weighted(Policy::LeastResponseTime, &[1, 1]);
    for n in 0..400 {
        for (upstream, base_ms, ms_per_mib) in [(0, 2, 100), (1, 20, 5)] {
            let bytes = if n % 2 == 0 { 2_000 } else { 4 << 20 };
            let nanos = base_ms * MS + bytes * ms_per_mib * MS / (1 << 20);
            fleet.heard(upstream, Heard::Done { bytes }, nanos, at(n));
        }
    }
    let pick = |bytes, fleet: &mut Fleet| fleet.pick(&Ask { bytes, ..ask(0) }, at(400));
    assert_eq!(pick(2_000, &mut fleet), Pick::Now(0));
    assert_eq!(pick(4 << 20, &mut fleet), Pick::Now(1));
}

#[test]
fn stages_are_told_apart() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5]);
    fleet.heard(0, Heard::Mail, 7 * MS, at(0));
    fleet.heard(0, Heard::Data, 2 * MS, at(0));
    let times = fleet.members()[0].times();
    assert_eq!((times.mail.nanos(), times.data.nanos()), (7e6, 2e6));
    assert_eq!(times.nanos(), 14e6);
    assert_eq!(fleet.pick(&ask(0), at(0)), Pick::Now(1));
}

#[test]
fn what_other_shards_have_in_flight_counts() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5]);
    fleet.elsewhere(0, 10, None, at(0));
    assert_eq!(spread(&mut fleet, 20), [5, 15]);
    fleet.elsewhere(0, 0, None, at(0));
    assert_eq!(spread(&mut fleet, 10), [15, 15]);
}

#[test]
fn what_other_shards_have_learnt_is_believed() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 5]);
    for ms in 0..4 {
        fleet.elsewhere(0, 0, Some(500e6), at(ms));
    }
    assert_eq!(fleet.pick(&ask(0), at(4)), Pick::Now(1));
    assert_eq!(fleet.members()[0].own_nanos(), 5e6, "hearsay is not passed on");
}

/// Waiting for the best one is no good when many wait: they are served first.
#[test]
fn those_that_wait_count_where_there_is_no_room() {
    let mut fleet = known(Policy::LeastResponseTime, &[5, 20]);
    fleet.began(0);
    set_room(&mut fleet, 0, false);
    let pick = |fleet: &mut Fleet, waiting| fleet.pick(&Ask { waiting, ..ask(0) }, at(1));
    assert_eq!(pick(&mut fleet, 0), Pick::Wait);
    assert_eq!(pick(&mut fleet, 1), Pick::Wait);
    set_room(&mut fleet, 0, false);
    assert_eq!(pick(&mut fleet, 10), Pick::Wait, "as of the last look");
    set_room(&mut fleet, 0, false);
    assert_eq!(pick(&mut fleet, 10), Pick::Now(1));
}
