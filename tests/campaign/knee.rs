//! Upstreams that do not get faster by being given more at once, and one that returns to many shards.

use postlane::balance::Policy;

use super::links::{LONG, Result, Setup, play};
use super::ms;
use super::scenario::SECOND;

/// Where a knee shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Case {
    Serial,
    SerialWithSeeks,
    FarmOfFour,
    FarmOfFourWithSeeks,
    NoKnee,
}

impl Case {
    pub(crate) const ALL: [Case; 5] =
        [Case::Serial, Case::SerialWithSeeks, Case::FarmOfFour, Case::FarmOfFourWithSeeks, Case::NoKnee];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Case::Serial => "an upstream that serves serially",
            Case::SerialWithSeeks => "serially, and each more at once costs it a tenth",
            Case::FarmOfFour => "farm of 4 with a knee at 4",
            Case::FarmOfFourWithSeeks => "farm of 4 with a knee at 4, each more costs a tenth",
            Case::NoKnee => "farm of 4 without a knee",
        }
    }

    pub(crate) fn setup(self, adaptive: bool, seed: u64) -> Setup {
        let (upstreams, knee, thrash, busy) = match self {
            Case::Serial => (1, 1.0, 0.0, 0.8),
            Case::SerialWithSeeks => (1, 1.0, 0.1, 0.8),
            Case::FarmOfFour => (4, 4.0, 0.0, 0.9),
            Case::FarmOfFourWithSeeks => (4, 4.0, 0.1, 0.9),
            Case::NoKnee => (4, 8.0, 0.0, 0.9),
        };
        Setup {
            shards: 1,
            upstreams,
            links_per_shard: 8,
            knee,
            thrash,
            policy: Policy::LeastResponseTime,
            rate: busy * Setup::capacity(upstreams, knee),
            adaptive,
            dead: None,
            from: 20 * SECOND,
            end: LONG,
            seed,
        }
    }
}

/// The only upstream is dead for ten seconds and returns to eight shards.
pub(crate) fn return_to_eight(rate: f64, seed: u64) -> Result {
    play(Setup {
        shards: 8,
        upstreams: 1,
        links_per_shard: 8,
        knee: 64.0,
        thrash: 0.0,
        policy: Policy::LeastResponseTime,
        rate,
        adaptive: true,
        dead: Some((2 * SECOND, 12 * SECOND)),
        from: 0,
        end: 20 * SECOND,
        seed,
    })
}

/// Prints the cases side by side.
pub(crate) fn report(seed: u64) {
    println!(
        "\n{:<52} {:>10} {:>9} {:>9} {:>8} {:>7}",
        "links in use", "", "p50", "p99", "unserved", "limit"
    );
    for case in Case::ALL {
        for adaptive in [false, true] {
            let mut result = play(case.setup(adaptive, seed));
            let kind = if adaptive { "adaptive" } else { "fixed" };
            let (p50, p99) = (ms(result.percentile(0.5)), ms(result.percentile(0.99)));
            let (label, failed, limit) = (case.label(), result.failed, result.limit);
            println!("{label:<52} {kind:>10} {p50:>9.1} {p99:>9.1} {failed:>8} {limit:>7.1}");
        }
    }
    for rate in [1_000.0, 8_000.0] {
        let result = return_to_eight(rate, seed);
        let after =
            |n: usize| result.ready.iter().find(|(ready, _)| *ready >= n).map(|(_, after)| ms(*after));
        println!(
            "one returns to 8 shards at {rate} messages/s: {} links opening at once; ready: the first after {:?} ms, 32 after {:?} ms",
            result.opening_most,
            after(1),
            after(32)
        );
    }
}

/// Where more at once makes it worse, fewer links serve what all of them cannot.
#[test]
fn fewer_links_serve_more_where_more_at_once_is_worse() {
    for case in [Case::SerialWithSeeks, Case::FarmOfFourWithSeeks] {
        let mut fixed = play(case.setup(false, 1));
        let mut adaptive = play(case.setup(true, 1));
        let p99 = |result: &mut Result| ms(result.percentile(0.99));
        let (fixed, adaptive) = (p99(&mut fixed), p99(&mut adaptive));
        println!(
            "{}: p99 {fixed:.1} ms with all links, {adaptive:.1} ms with as many as are best",
            case.label()
        );
        assert!(adaptive < fixed / 2.0);
    }
}

/// Where it makes no difference to what is served, trials cost little.
#[test]
fn where_it_does_not_help_it_costs_little() {
    for case in [Case::Serial, Case::FarmOfFour, Case::NoKnee] {
        let (mut fixed, mut adaptive) = (play(case.setup(false, 1)), play(case.setup(true, 1)));
        let (fixed_p99, adaptive_p99) = (ms(fixed.percentile(0.99)), ms(adaptive.percentile(0.99)));
        println!(
            "{}: p99 {fixed_p99:.1} ms with all links, {adaptive_p99:.1} ms with {:.1}",
            case.label(),
            adaptive.limit
        );
        assert!(adaptive_p99 < fixed_p99 * 1.3, "{case:?}");
    }
}

/// Each shard calls once, a little later than the last, and then twice as often as was answered.
#[test]
fn a_return_to_eight_shards_is_no_storm() {
    for rate in [1_000.0, 8_000.0] {
        for seed in 1..=3 {
            let result = return_to_eight(rate, seed);
            let first = result.ready.first().expect("it is used again").1;
            println!(
                "{rate} messages/s: {} opening at once, first ready after {} ms",
                result.opening_most,
                ms(first)
            );
            assert!(result.opening_most <= 16, "{}", result.opening_most);
            assert!(ms(first) < 100.0);
        }
    }
}
