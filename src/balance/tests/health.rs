use std::time::Duration;

use super::*;
use crate::balance::health::Rules;

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
        assert!(fleet.failed(1, &rules(1, 100), at(0)));
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
    assert!(!fleet.failed(0, &rules, at(0)));
    assert!(fleet.failed(0, &rules, at(0)));
    assert_eq!(pick(&mut fleet, 50), Pick::Now(1));
    // Probation: one at a time.
    assert_eq!(pick(&mut fleet, 150), Pick::Now(0));
    fleet.began(0);
    assert_eq!(pick(&mut fleet, 150), Pick::Now(1));
    assert!(fleet.failed(0, &rules, at(150)));
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
        (0..2).for_each(|i| assert!(fleet.failed(i, &rules(1, 10_000), at(0))));
        assert!(matches!(fleet.pick(&ask(0), at(1)), Pick::Now(_)), "{policy:?}");
    }
}

#[test]
fn an_empty_fleet_has_nobody() {
    for policy in Policy::ALL {
        assert_eq!(weighted(policy, &[]).pick(&ask(0), at(0)), Pick::Nobody);
    }
}
