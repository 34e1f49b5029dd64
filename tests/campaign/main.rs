//! Campaigns in virtual time: every policy under every trouble, beside an oracle that knows the true response times
//! and beside HAProxy's way. The short form runs with the tests; `scripts/campaign.sh` plays all of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod brain;
mod dice;
mod farm;
mod haproxy;
mod knee;
mod links;
mod outcome;
mod play;
mod report;
mod scenario;

use brain::Way;
use outcome::Outcome;
use postlane::balance::Policy;
use scenario::{MS, Nanos, SECOND, Scenario};

const LRT: Way = Way::Policy(Policy::LeastResponseTime);

fn run(way: Way, scenario: Scenario, fleet: usize, rate: Option<f64>, seed: u64) -> Outcome {
    match way {
        Way::Haproxy => haproxy::play(scenario, fleet, rate, seed),
        _ => play::play(way, scenario, fleet, rate, seed),
    }
}

fn ms(nanos: Nanos) -> f64 {
    nanos as f64 / MS as f64
}

/// Least response time is as good as an oracle, within a fifth.
#[test]
fn one_ten_times_slower_costs_no_more_than_a_fifth() {
    for (fleet, seeds) in [(4, 3), (16, 1), (64, 1)] {
        for seed in 1..=seeds {
            let mut ours = run(LRT, Scenario::Slows, fleet, None, seed);
            let mut best = run(Way::Oracle, Scenario::Slows, fleet, None, seed);
            let (ours_p99, best_p99) = (ms(ours.percentile(0.99)), ms(best.percentile(0.99)));
            println!("{fleet} upstreams, seed {seed}: p99 {ours_p99:.2} ms, oracle {best_p99:.2} ms");
            assert!(ours_p99 <= best_p99 * 1.2, "{fleet} upstreams, seed {seed}");
            assert_eq!(ours.failure_share(), 0.0);
        }
    }
}

/// The goals tell good from bad: round robin is far from both.
#[test]
fn round_robin_meets_neither_goal() {
    let turns = Way::Policy(Policy::RoundRobin);
    let mut best = run(Way::Oracle, Scenario::Slows, 4, None, 1);
    assert!(run(turns, Scenario::Slows, 4, None, 1).percentile(0.99) > best.percentile(0.99) * 3);
    assert!(run(turns, Scenario::NeverAnswers, 4, Some(1000.0), 1).given_after(0, SECOND) > 10);
}

/// A hang is seen by what is not answered.
#[test]
fn a_hang_is_noticed_within_a_tenth_of_a_second() {
    for fleet in [4, 8] {
        for seed in 1..=5 {
            let ours = run(LRT, Scenario::NeverAnswers, fleet, Some(1000.0), seed);
            // Its messages time out after five seconds: what comes then is another matter.
            let late = ours.given_after(100 * MS, 4 * SECOND + 800 * MS);
            let all = ours.given_after(0, 4 * SECOND);
            println!(
                "{fleet} upstreams, seed {seed}: {all} messages given to the hanging one, {late} of them late"
            );
            assert_eq!(late, 0, "{fleet} upstreams, seed {seed}");
        }
    }
}

/// The slow one still gets some, and so does everybody else.
#[test]
fn nobody_starves() {
    for (fleet, scenario) in [(4, Scenario::Slows), (16, Scenario::Slows), (8, Scenario::Larger)] {
        let ours = run(LRT, scenario, fleet, None, 1);
        println!("{fleet} upstreams, {}: the fewest in ten seconds: {}", scenario.label(), ours.fewest());
        assert!(ours.fewest() >= 2, "{fleet} upstreams, {scenario:?}");
    }
}

/// An upstream that probes find well again need not sit out its ejection; and `slow_start` is what it says.
#[test]
fn probes_bring_it_back_and_slow_start_takes_its_time() {
    let back = |slow_start: u64| {
        let slow_start = std::time::Duration::from_secs(slow_start);
        let ours = play::play_with(LRT, Scenario::HalfVanish, 4, None, 1, slow_start);
        let after = ours.returned_after().expect("it returns");
        println!("half of them vanish, slow_start {slow_start:?}: back after {:.1} s", ms(after) / 1e3);
        after
    };
    // Two good probes, at worst nearly ten seconds.
    let at_once = back(0);
    assert!(at_once <= 10 * SECOND + 500 * MS, "{at_once}");
    let slowly = back(20);
    assert!((at_once + 10 * SECOND..at_once + 20 * SECOND).contains(&slowly), "{slowly}");
}

/// Whatever happens, once it is over everybody gets a fair share again.
#[test]
fn all_return() {
    for scenario in Scenario::ALL.into_iter().filter(|scenario| *scenario != Scenario::Larger) {
        let ours = run(LRT, scenario, 4, None, 1);
        let after = ours.returned_after().expect("it returns");
        println!("{}: back after {:.0} ms", scenario.label(), ms(after));
        // An ejection that was renewed lasts twenty seconds.
        assert!(after <= 21 * SECOND, "{scenario:?}: {after}");
    }
}

/// The table of returns and of links alone: for `POSTLANE_RETURNS=1`.
#[test]
fn returns() {
    if std::env::var_os("POSTLANE_RETURNS").is_some() {
        report::returns(1);
        knee::report(1);
    }
}

/// The whole campaign: for `POSTLANE_CAMPAIGN=1`, with `POSTLANE_SEED`.
#[test]
fn campaign() {
    if std::env::var_os("POSTLANE_CAMPAIGN").is_some() {
        let seed = std::env::var("POSTLANE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        report::campaign(seed);
    }
}
