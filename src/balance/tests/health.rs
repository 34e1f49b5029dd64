use std::time::Duration;

use super::*;
use crate::balance::health::{Cause, Rules};

fn rules(eject_after: u32, eject_for_ms: u64) -> Rules {
    Rules { eject_after, eject_for: Duration::from_millis(eject_for_ms) }
}

#[test]
fn the_tried_are_not_picked_again() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 2]);
        let mut tried = Tried::default();
        tried.push(0);
        for random in 0..20 {
            assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(random) }, at(0)), Pick::Now(1), "{policy:?}");
        }
        tried.push(1);
        assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(0) }, at(0)), Pick::Nobody, "{policy:?}");
    }
}

#[test]
fn the_full_are_waited_for_only_when_nobody_else_is_left() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 1, 1]);
        set_room(&mut fleet, 0, false);
        if policy != Policy::LeastResponseTime {
            for random in 0..20 {
                let pick = fleet.pick(&ask(random), at(0));
                assert!(matches!(pick, Pick::Now(1 | 2)), "{policy:?} {pick:?}");
            }
        }
        (0..3).for_each(|i| set_room(&mut fleet, i, false));
        assert_eq!(fleet.pick(&ask(0), at(0)), Pick::Wait, "{policy:?}");
    }
}

#[test]
fn the_ejected_are_passed_over_and_come_back_one_message_at_a_time() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 1, 1]);
        assert_eq!(fleet.failed(1, &rules(1, 100), at(0)), Some(Cause::InARow));
        for random in 0..50 {
            let pick = fleet.pick(&ask(random), at(1));
            assert!(matches!(pick, Pick::Now(0 | 2)), "{policy:?} {pick:?}");
        }
        // The only one left has failed already, and the one on probation has its message under way.
        fleet.began(1);
        let mut tried = Tried::default();
        tried.push(0);
        tried.push(2);
        assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(0) }, at(150)), Pick::Wait, "{policy:?}");
        fleet.ended(1);
        assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(0) }, at(160)), Pick::Now(1), "{policy:?}");
    }
}

#[test]
fn failures_eject_for_longer_each_time_and_one_success_forgives() {
    let rules = rules(2, 100);
    let mut fleet = known(Policy::LeastResponseTime, &[1, 5]);
    let pick = |fleet: &mut Fleet, ms| fleet.pick(&ask(0), at(ms));
    assert_eq!(fleet.failed(0, &rules, at(0)), None);
    assert_eq!(fleet.failed(0, &rules, at(0)), Some(Cause::InARow));
    assert_eq!(pick(&mut fleet, 50), Pick::Now(1));
    // Probation: one at a time.
    assert_eq!(pick(&mut fleet, 150), Pick::Now(0));
    fleet.began(0);
    assert_eq!(pick(&mut fleet, 150), Pick::Now(1));
    assert_eq!(fleet.failed(0, &rules, at(150)), Some(Cause::InARow));
    fleet.ended(0);
    assert_eq!(pick(&mut fleet, 300), Pick::Now(1));
    assert_eq!(pick(&mut fleet, 360), Pick::Now(0));
    fleet.heard(0, Heard::Done { bytes: 0 }, MS, at(360));
    fleet.began(0);
    assert_eq!(pick(&mut fleet, 360), Pick::Now(0));
}

#[test]
fn one_that_died_with_much_in_flight_is_soon_back() {
    let mut fleet = known(Policy::LeastResponseTime, &[1, 5]);
    for _ in 0..32 {
        fleet.punish(0, at(0));
        fleet.failed(0, &rules(5, 1000), at(0));
    }
    assert_eq!(fleet.members()[0].times().nanos(), 80e6);
    assert_eq!(fleet.pick(&ask(0), at(500)), Pick::Now(1));
    // The first message after its ejection tells.
    assert_eq!(fleet.pick(&ask(0), at(1000)), Pick::Now(0));
    fleet.heard(0, Heard::Done { bytes: 0 }, MS, at(1001));
    assert_eq!(fleet.members()[0].times().nanos(), 1e6);
}

#[test]
fn when_all_are_ejected_the_marks_are_ignored() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 5]);
        (0..2).for_each(|i| assert!(fleet.failed(i, &rules(1, 10_000), at(0)).is_some()));
        assert!(matches!(fleet.pick(&ask(0), at(1)), Pick::Now(_)), "{policy:?}");
    }
}

#[test]
fn an_empty_fleet_has_nobody() {
    for policy in Policy::ALL {
        assert_eq!(weighted(policy, &[]).pick(&ask(0), at(0)), Pick::Nobody);
    }
}

#[test]
fn closed_ones_get_nothing_and_those_down_only_when_all_are() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 1, 1]);
        fleet.mark(0, true, false, at(0));
        fleet.mark(1, false, true, at(0));
        assert_eq!(turns(&mut fleet, 20), [0, 0, 20], "{policy:?}");
        fleet.mark(2, false, true, at(0));
        assert!(!fleet.has_healthy(at(0)));
        assert_eq!(
            turns(&mut fleet, 20)[0],
            0,
            "{policy:?}: trying beats refusing, but not where it is closed"
        );
        (1..3).for_each(|i| _ = fleet.mark(i, true, false, at(0)));
        assert_eq!(fleet.pick(&ask(0), at(0)), Pick::Nobody, "{policy:?}");
    }
}

#[test]
fn in_panic_the_marks_are_ignored() {
    let care = Care { slow_start: Duration::ZERO, panic_below_permille: 500 };
    let mut fleet = known(Policy::RoundRobin, &[1, 1, 1, 1]);
    fleet.set_care(care);
    (0..2).for_each(|i| _ = fleet.mark(i, false, true, at(0)));
    assert_eq!(turns(&mut fleet, 8), [0, 0, 4, 4], "half is enough");
    fleet.mark(2, false, true, at(0));
    assert_eq!(turns(&mut fleet, 8), [2, 2, 2, 2]);
    // One that is closed counts neither way.
    fleet.mark(0, true, false, at(0));
    fleet.mark(2, false, false, at(0));
    assert_eq!(turns(&mut fleet, 8), [0, 0, 4, 4]);
}

#[test]
fn one_that_comes_back_starts_slowly() {
    for policy in [Policy::LeastResponseTime, Policy::RoundRobin, Policy::Random, Policy::LeastConnections] {
        let mut fleet = known(policy, &[1, 1]);
        fleet.set_care(Care { slow_start: Duration::from_secs(10), panic_below_permille: 0 });
        fleet.mark(0, false, true, at(0));
        fleet.mark(0, false, false, at(0));
        let share = |fleet: &mut Fleet, ms: u64| {
            let took = |random: u64, fleet: &mut Fleet| fleet.pick(&ask(random), at(ms)) == Pick::Now(0);
            (0..2_000).filter(|random| took(*random, fleet)).count()
        };
        let (first, half, whole) =
            (share(&mut fleet, 1), share(&mut fleet, 5_000), share(&mut fleet, 10_001));
        assert!((20..150).contains(&first), "{policy:?} {first}");
        assert!(half * 5 > first * 6 && half < 1_100, "{policy:?} {half}");
        assert!(whole > 900, "{policy:?} {whole}");
    }
}

#[test]
fn one_that_fails_far_more_than_the_others_is_ejected_while_half_are_left() {
    let rules = rules(100, 1_000);
    let mut fleet = known(Policy::RoundRobin, &[1, 1, 1, 1]);
    let fail = |fleet: &mut Fleet, i: usize| fleet.failed(i, &rules, at(0));
    let succeed = |fleet: &mut Fleet, i: usize| fleet.heard(i, Heard::Done { bytes: 0 }, MS, at(0));
    let round = |fleet: &mut Fleet, bad: &[usize]| -> Vec<usize> {
        (0..4).for_each(|i| succeed(fleet, i));
        bad.iter().copied().filter(|i| fail(fleet, *i) == Some(Cause::MoreThanOthers)).collect()
    };
    // All fail alike: nobody is worse than the others.
    for _ in 0..200 {
        assert!(round(&mut fleet, &[0, 1, 2, 3]).is_empty());
    }
    (0..200).for_each(|_| assert!(round(&mut fleet, &[]).is_empty()));
    // Every second one fails, never two in a row.
    let out: Vec<usize> = (0..200).flat_map(|_| round(&mut fleet, &[0, 1])).collect();
    assert_eq!(out.iter().filter(|i| **i == 0).count().min(1), 1);
    assert!(!fleet.members()[2].health().is_ejected(at(0)));
    let left = fleet.members().iter().filter(|member| !member.health().is_out(at(0))).count();
    assert!(left >= 2, "{left}");
}

#[test]
fn a_refit_keeps_what_is_known_of_those_who_stay() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 1]);
        let _ = fleet.failed(0, &rules(1, 10_000), at(0));
        fleet.began(1);
        let names = (0..3).map(|n| (5, key(format!("mta{n}").as_bytes())));
        fleet.refit(policy, names, |_| false, at(0));
        assert!(fleet.members()[0].health().is_ejected(at(0)));
        assert_eq!((fleet.members()[1].in_flight(), fleet.members()[1].weight()), (1, 5));
        fleet.ended(1);
        assert_eq!(turns(&mut fleet, 50)[0], 0, "{policy:?}");
        // Somebody else at the first place.
        let names = (0..3).map(|n| (5, key(format!("mta{n}x").as_bytes())));
        fleet.refit(policy, names, |i| i == 0, at(0));
        assert!(turns(&mut fleet, 200)[0] > 0, "{policy:?}");
    }
}

/// What a probe would have seen too is over when probes say so; what it would not is not.
#[test]
fn a_probe_shortens_an_ejection_that_it_can_judge() {
    let rules = rules(3, 60_000);
    let mut fleet = known(Policy::RoundRobin, &[1, 1]);
    (0..3).for_each(|_| _ = fleet.unreached(0, &rules, at(0)));
    assert!(fleet.members()[0].health().is_ejected(at(100)));
    assert!(!fleet.vouch(0, 0, at(100)), "no news");
    assert!(fleet.vouch(0, 1, at(100)));
    // One message tries it.
    assert_eq!(fleet.pick(&ask(0), at(101)), Pick::Now(0));
    fleet.began(0);
    assert_eq!(turns(&mut fleet, 5), [0, 5]);
    // It fails again: a longer ejection, which further good probes end, too.
    assert_eq!(fleet.unreached(0, &rules, at(102)), Some(Cause::InARow));
    fleet.ended(0);
    assert!(!fleet.vouch(0, 1, at(103)));
    assert!(fleet.vouch(0, 2, at(103)));
    // It takes mail and refuses it: it looks well to probes, and that says nothing.
    fleet.heard(0, Heard::Done { bytes: 0 }, MS, at(104));
    (0..3).for_each(|_| _ = fleet.failed(0, &rules, at(105)));
    assert!(!fleet.vouch(0, 3, at(106)));
    assert!(fleet.members()[0].health().is_ejected(at(107)));
}

/// The time that is configured, however short the ejection was.
#[test]
fn one_that_was_ejected_starts_slowly_for_as_long_as_configured() {
    let mut fleet = known(Policy::RoundRobin, &[1, 1]);
    fleet.set_care(Care { slow_start: Duration::from_secs(30), panic_below_permille: 0 });
    assert_eq!(fleet.failed(0, &rules(1, 1_000), at(0)), Some(Cause::InARow));
    assert_eq!(fleet.pick(&ask(0), at(1_001)), Pick::Now(0), "it is tried");
    fleet.began(0);
    fleet.ended(0);
    fleet.heard(0, Heard::Done { bytes: 0 }, MS, at(1_002));
    let share = |fleet: &mut Fleet, ms: u64| {
        let took = |random: u64, fleet: &mut Fleet| fleet.pick(&ask(random), at(ms)) == Pick::Now(0);
        (0..2_000).filter(|random| took(*random, fleet)).count()
    };
    let shares = [1_003, 11_002, 16_002, 31_003].map(|ms| share(&mut fleet, ms));
    let expected = [0.05, 1.0 / 3.0, 0.5, 1.0].map(|part| part * 1_000.0);
    for (share, expected) in shares.into_iter().zip(expected) {
        assert!((share as f64) < expected * 1.3 + 60.0 && share as f64 > expected * 0.6, "{shares:?}");
    }
}

/// One that nobody can reach at present is passed over; if it is the only one, nobody is to be waited for.
#[test]
fn one_that_is_shut_is_not_waited_for() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 5]);
        set_room(&mut fleet, 0, false);
        fleet.set_rest(0, Rest::Shut);
        assert_eq!(turns(&mut fleet, 20), [0, 20], "{policy:?}");
        let mut tried = Tried::default();
        tried.push(1);
        assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(0) }, at(0)), Pick::Nobody, "{policy:?}");
        // One that is only about to be called is waited for, where there is no other.
        fleet.set_rest(0, Rest::Brief);
        assert_eq!(fleet.pick(&Ask { tried: &tried, ..ask(0) }, at(0)), Pick::Wait, "{policy:?}");
        assert_eq!(turns(&mut fleet, 20), [0, 20], "{policy:?}");
        fleet.set_rest(0, Rest::No);
        set_room(&mut fleet, 0, true);
        assert!(turns(&mut fleet, 400)[0] > 0, "{policy:?}");
    }
}

#[test]
fn two_silences_in_a_row_eject_for_a_moment_and_an_answer_forgives() {
    let rules = rules(5, 1_000);
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 1, 1, 1]);
        assert!(!fleet.fell_silent(0, &rules, at(0)), "{policy:?}: one may be the message's fault");
        assert!(fleet.fell_silent(0, &rules, at(1)), "{policy:?}");
        assert!(!fleet.fell_silent(0, &rules, at(2)), "{policy:?}: it is out already");
        assert_eq!(fleet.members()[0].health().ejected_for(at(100)), Some(Cause::Silent));
        for random in 0..50 {
            let pick = fleet.pick(&ask(random), at(50));
            assert!(matches!(pick, Pick::Now(1..=3)), "{policy:?} {pick:?}");
        }
        // A tenth of `eject_for`, then one message; longer the next time.
        assert_eq!(fleet.pick(&ask(0), at(102)), Pick::Now(0), "{policy:?}");
        assert!(fleet.fell_silent(0, &rules, at(102)), "{policy:?}");
        assert!(fleet.members()[0].health().is_ejected(at(301)));
        assert!(!fleet.members()[0].health().is_ejected(at(303)));
        fleet.heard(0, Heard::Done { bytes: 0 }, MS, at(303));
        assert!(!fleet.fell_silent(0, &rules, at(304)), "{policy:?}: forgiven");
    }
}

#[test]
fn silence_takes_out_at_most_half() {
    let rules = rules(5, 1_000);
    let mut fleet = known(Policy::LeastResponseTime, &[1, 1, 1, 1]);
    let silent = |fleet: &mut Fleet, i| (0..3).any(|_| fleet.fell_silent(i, &rules, at(0)));
    assert_eq!([0, 1, 2, 3].map(|i| silent(&mut fleet, i)), [true, true, false, false]);
    assert!(!fleet.panics(at(0)));
    fleet.set_care(Care { slow_start: Duration::ZERO, panic_below_permille: 600 });
    assert!(fleet.panics(at(0)), "half is less than 600 of 1000");
}
