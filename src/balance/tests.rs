use std::time::Duration;

use super::health::Rules;
use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos((1_000_000 + ms) * MS)
}

fn fleet(policy: Policy, estimates_ms: &[u64]) -> Fleet {
    let mut fleet = Fleet::new(policy, estimates_ms.iter().map(|_| 1));
    for (member, ms) in fleet.members.iter_mut().zip(estimates_ms) {
        member.estimate.observe(ms * MS, at(0));
    }
    fleet
}

/// Gives out `n` messages none of which ends; how many each upstream got.
fn spread(fleet: &mut Fleet, n: usize) -> Vec<u32> {
    for random in 0..n as u64 {
        let Pick::Now(i) = fleet.pick(&Tried::default(), at(0), random) else {
            panic!("somebody must be picked")
        };
        fleet.members[i].in_flight += 1;
    }
    fleet.members.iter().map(|m| m.in_flight).collect()
}

#[test]
fn load_follows_speed() {
    let got = spread(&mut fleet(Policy::LeastResponseTime, &[1, 5, 50]), 112);
    assert_eq!(got.iter().sum::<u32>(), 112);
    assert!(
        (88..=96).contains(&got[0]) && (16..=20).contains(&got[1]) && (1..=3).contains(&got[2]),
        "{got:?}"
    );
}

#[test]
fn weights_share_equal_speed() {
    let mut fleet = fleet(Policy::LeastResponseTime, &[5, 5]);
    fleet.members[1].weight = 3;
    let got = spread(&mut fleet, 400);
    assert!((99..=101).contains(&got[0]), "{got:?}");
}

#[test]
fn ties_are_spread_by_chance() {
    let mut fleet = fleet(Policy::LeastResponseTime, &[5, 5, 5, 5]);
    let first: std::collections::HashSet<_> = (0..8)
        .map(|random| match fleet.pick(&Tried::default(), at(0), random) {
            Pick::Now(i) => i,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(first.len(), 4);
}

#[test]
fn round_robin_takes_turns_and_passes_over_the_full() {
    let mut fleet = fleet(Policy::RoundRobin, &[1, 1, 1]);
    let turn = |fleet: &mut Fleet| fleet.pick(&Tried::default(), at(0), 7);
    assert_eq!(
        [turn(&mut fleet), turn(&mut fleet), turn(&mut fleet)],
        [Pick::Now(0), Pick::Now(1), Pick::Now(2)]
    );
    fleet.members[0].has_room = false;
    assert_eq!(turn(&mut fleet), Pick::Now(1));
    fleet.members.iter_mut().for_each(|m| m.has_room = false);
    assert_eq!(turn(&mut fleet), Pick::Wait);
}

#[test]
fn waiting_for_a_fast_one_beats_a_slow_one_but_not_for_ever() {
    let mut fleet = fleet(Policy::LeastResponseTime, &[1, 50]);
    fleet.members[0].in_flight = 16;
    fleet.members[0].has_room = false;
    fleet.members[0].oldest = at(0);
    assert_eq!(fleet.pick(&Tried::default(), at(1), 0), Pick::Wait);
    // It hangs: its oldest transaction tells, long before any reply.
    assert_eq!(fleet.pick(&Tried::default(), at(10), 0), Pick::Now(1));
}

#[test]
fn the_tried_are_not_picked_again() {
    let mut fleet = fleet(Policy::LeastResponseTime, &[1, 2]);
    let mut tried = Tried::default();
    tried.push(0);
    assert_eq!(fleet.pick(&tried, at(0), 0), Pick::Now(1));
    tried.push(1);
    assert_eq!(fleet.pick(&tried, at(0), 0), Pick::Nobody);
}

#[test]
fn failures_eject_for_longer_each_time_and_one_success_forgives() {
    let rules = Rules { eject_after: 2, eject_for: Duration::from_millis(100) };
    let mut fleet = fleet(Policy::LeastResponseTime, &[1, 5]);
    assert!(!fleet.members[0].health.failure(&rules, at(0)));
    assert!(fleet.members[0].health.failure(&rules, at(0)));
    assert_eq!(fleet.pick(&Tried::default(), at(50), 0), Pick::Now(1));
    // Probation: one at a time.
    assert_eq!(fleet.pick(&Tried::default(), at(150), 0), Pick::Now(0));
    fleet.members[0].in_flight = 1;
    assert_eq!(fleet.pick(&Tried::default(), at(150), 0), Pick::Now(1));
    assert!(fleet.members[0].health.failure(&rules, at(150)));
    fleet.members[0].in_flight = 0;
    assert_eq!(fleet.pick(&Tried::default(), at(300), 0), Pick::Now(1));
    assert_eq!(fleet.pick(&Tried::default(), at(360), 0), Pick::Now(0));
    assert!(fleet.members[0].health.success());
    fleet.members[0].in_flight = 1;
    assert_eq!(fleet.pick(&Tried::default(), at(360), 0), Pick::Now(0));
}

#[test]
fn when_all_are_ejected_the_marks_are_ignored() {
    let rules = Rules { eject_after: 1, eject_for: Duration::from_secs(10) };
    let mut fleet = fleet(Policy::LeastResponseTime, &[1, 5]);
    fleet.members.iter_mut().for_each(|m| assert!(m.health.failure(&rules, at(0))));
    assert_eq!(fleet.pick(&Tried::default(), at(1), 0), Pick::Now(0));
}

#[test]
fn a_failing_upstream_never_looks_fast() {
    let mut fleet = fleet(Policy::LeastResponseTime, &[5, 5, 5]);
    // It answers "no" at once, again and again.
    for _ in 0..3 {
        fleet.failed(0, at(0));
    }
    let got = spread(&mut fleet, 60);
    assert!(got[0] < got[1] / 4, "{got:?}");
}

#[test]
fn one_that_died_with_much_in_flight_is_soon_back() {
    let rules = Rules { eject_after: 5, eject_for: Duration::from_secs(1) };
    let mut fleet = fleet(Policy::LeastResponseTime, &[1, 5]);
    for _ in 0..32 {
        fleet.failed(0, at(0));
        fleet.members[0].health.failure(&rules, at(0));
    }
    assert_eq!(fleet.members[0].estimate.nanos(at(0)), 80 * MS);
    assert_eq!(fleet.pick(&Tried::default(), at(500), 0), Pick::Now(1));
    // The first message after its ejection tells.
    assert_eq!(fleet.pick(&Tried::default(), at(1000), 0), Pick::Now(0));
    fleet.succeeded(0, MS, at(1001));
    assert_eq!(fleet.members[0].estimate.nanos(at(1001)), MS);
}

#[test]
fn silence_fades_an_estimate() {
    let mut estimate = estimate::Estimate::default();
    estimate.observe(1000 * MS, at(0));
    assert_eq!(estimate.nanos(at(0)), 1000 * MS);
    assert!(estimate.nanos(at(10_000)) < 450 * MS);
    assert!(estimate.nanos(at(300_000)) < 5 * MS);
    estimate.observe(MS, at(0));
    assert!(estimate.nanos(at(0)) > 900 * MS, "good news is believed slowly");
    estimate.observe(2000 * MS, at(0));
    assert!(estimate.nanos(at(0)) > 1400 * MS, "bad news at once");
}
