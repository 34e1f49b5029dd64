use proptest::prelude::*;

use super::*;

/// Within one hundredth of all messages, and one message.
fn assert_shares(got: &[u32], weights: &[u32]) -> Result<(), TestCaseError> {
    let (n, total) = (got.iter().sum::<u32>(), weights.iter().sum::<u32>());
    for (got, weight) in got.iter().zip(weights) {
        let fair = f64::from(n) * f64::from(*weight) / f64::from(total);
        let off = (f64::from(*got) - fair).abs();
        prop_assert!(off <= f64::from(n) * 0.01 + 1.0, "{got} instead of {fair} of {n}");
    }
    Ok(())
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![1u32..10, 1u32..=1000], 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn weighted_turns_follow_the_weights(weights in weights()) {
        assert_shares(&turns(&mut weighted(Policy::WeightedRoundRobin, &weights), 20_000), &weights)?;
    }

    #[test]
    fn chance_follows_the_weights(weights in weights()) {
        assert_shares(&turns(&mut weighted(Policy::Random, &weights), 60_000), &weights)?;
    }

    #[test]
    fn keys_follow_the_weights(weights in weights()) {
        assert_shares(&turns(&mut weighted(Policy::SourceHash, &weights), 400_000), &weights)?;
    }

    #[test]
    fn load_follows_the_weights(weights in weights()) {
        for policy in [Policy::WeightedLeastConnections, Policy::LeastResponseTime] {
            assert_shares(&spread(&mut weighted(policy, &weights), 5_000), &weights)?;
        }
    }

    /// The most and the fewest turns any upstream has had never differ from the weight's by more than about one.
    #[test]
    fn weighted_turns_are_smooth(weights in prop::collection::vec(1u32..20, 2..8)) {
        let mut fleet = weighted(Policy::WeightedRoundRobin, &weights);
        let total: u32 = weights.iter().sum();
        let mut got = vec![0u32; weights.len()];
        for n in 1..=500 {
            let Pick::Now(i) = fleet.pick(&ask(n), at(0)) else { unreachable!("nobody is full") };
            got[i] += 1;
            for (got, weight) in got.iter().zip(&weights) {
                let fair = n as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(*got) - fair).abs() < 2.0, "{got} instead of {fair} after {n}");
            }
        }
    }

    #[test]
    fn bounded_load_is_never_exceeded(
        weights in prop::collection::vec(1u32..8, 1..12),
        keys in prop::collection::vec((0u64..4, any::<bool>()), 1..400),
    ) {
        let mut fleet = weighted(Policy::RecipientHash, &weights);
        let total: u32 = weights.iter().sum();
        let (mut given, mut in_flight) = (Vec::new(), 0u32);
        // Few and popular recipients; about a third of the messages end on the way.
        for (n, (recipient, ends)) in keys.iter().enumerate() {
            let asked = Ask { recipient: mix(*recipient), ..ask(n as u64) };
            let Pick::Now(i) = fleet.pick(&asked, at(0)) else { unreachable!("nobody is full") };
            fleet.began(i);
            given.push(i);
            in_flight += 1;
            let fair = f64::from(in_flight) * f64::from(weights[i]) / f64::from(total);
            let has = fleet.members()[i].in_flight();
            prop_assert!(f64::from(has) <= (fair * 1.25).ceil(), "{has} where {fair} is fair");
            if *ends && n % 3 == 0 {
                fleet.ended(given.swap_remove(n % given.len()));
                in_flight -= 1;
            }
        }
    }
}

#[test]
fn round_robin_takes_turns_and_passes_over_the_full() {
    let mut fleet = known(Policy::RoundRobin, &[1, 1, 1]);
    let turn = |fleet: &mut Fleet| fleet.pick(&ask(7), at(0));
    assert_eq!([turn(&mut fleet), turn(&mut fleet), turn(&mut fleet)], [0, 1, 2].map(Pick::Now));
    set_room(&mut fleet, 0, false);
    assert_eq!(turn(&mut fleet), Pick::Now(1));
}

#[test]
fn fewest_in_flight() {
    let mut fleet = known(Policy::LeastConnections, &[1, 50, 7]);
    assert_eq!(spread(&mut fleet, 30), [10, 10, 10]);
    (0..3).for_each(|_| fleet.ended(1));
    assert_eq!((0..5).map(|n| fleet.pick(&ask(n), at(0))).collect::<Vec<_>>(), [Pick::Now(1); 5]);
}

#[test]
fn of_two_the_less_busy() {
    let got = spread(&mut weighted(Policy::PowerOfTwo, &[1; 16]), 1_600);
    assert!(got.iter().all(|n| (92..=108).contains(n)), "much more even than chance alone: {got:?}");
    // Two of sixteen can be had: it finds them.
    let mut fleet = weighted(Policy::PowerOfTwo, &[1; 16]);
    (0..16).filter(|i| i % 8 != 3).for_each(|i| set_room(&mut fleet, i, false));
    for n in 0..200 {
        assert!(matches!(fleet.pick(&ask(n), at(0)), Pick::Now(3 | 11)));
    }
}

/// While mail flows, everybody who is well gets some.
#[test]
fn nobody_starves() {
    for policy in Policy::ALL {
        let mut fleet = known(policy, &[1, 3, 40, 2000]);
        let mut got = [0; 4];
        let mut under_way = std::collections::VecDeque::new();
        for ms in 0..60_000 {
            while let Some((end, i)) = under_way.front().copied()
                && end <= ms
            {
                under_way.pop_front();
                fleet.ended(i);
                fleet.heard(i, Heard::Done { bytes: 1000 }, [1, 3, 40, 2000][i] * MS, at(ms));
            }
            let Pick::Now(i) = fleet.pick(&ask(ms), at(ms)) else { panic!("nobody is full") };
            fleet.began(i);
            got[i] += 1;
            under_way.push_back((ms + [1, 3, 40, 2000][i], i));
            under_way.make_contiguous().sort_unstable();
        }
        assert!(got.iter().all(|n| *n >= 5), "{policy:?}: {got:?}");
    }
}
