use proptest::prelude::*;

use super::*;

/// A fleet of those upstreams (by number: their identities stay), with these weights.
fn of(policy: Policy, upstreams: &[(usize, u32)]) -> Fleet {
    Fleet::new(policy, upstreams.iter().map(|(n, weight)| (*weight, key(format!("mta{n}").as_bytes()))))
}

/// The number of the upstream each key goes to.
fn places(fleet: &mut Fleet, upstreams: &[(usize, u32)], keys: u64) -> Vec<usize> {
    let place = |n| match fleet.pick(&ask(n), at(0)) {
        Pick::Now(i) => upstreams[i].0,
        other => unreachable!("{other:?}"),
    };
    (0..keys).map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One goes: only its keys move, and none of the others'.
    #[test]
    fn a_changed_fleet_moves_only_its_share(
        weights in prop_oneof![prop::collection::vec(1u32..9, 2..20), prop::collection::vec(Just(1u32), 2..20)],
        gone in any::<prop::sample::Index>(),
    ) {
        let all: Vec<(usize, u32)> = weights.into_iter().enumerate().collect();
        let gone = gone.index(all.len());
        let rest: Vec<(usize, u32)> = all.iter().copied().filter(|(n, _)| *n != gone).collect();
        for policy in [Policy::RecipientHash, Policy::SourceHash] {
            let before = places(&mut of(policy, &all), &all, 2_000);
            let after = places(&mut of(policy, &rest), &rest, 2_000);
            for (before, after) in before.into_iter().zip(after) {
                prop_assert!(before == after || before == gone);
            }
        }
    }

    /// One is heavier than before: keys move to it and nowhere else.
    #[test]
    fn a_changed_weight_moves_keys_to_or_from_it_alone(
        weights in prop::collection::vec(1u32..9, 2..20),
        which in any::<prop::sample::Index>(),
    ) {
        let all: Vec<(usize, u32)> = weights.into_iter().enumerate().collect();
        let which = which.index(all.len());
        let mut heavier = all.clone();
        heavier[which].1 *= 2;
        let before = places(&mut of(Policy::SourceHash, &all), &all, 2_000);
        let after = places(&mut of(Policy::SourceHash, &heavier), &heavier, 2_000);
        for (before, after) in before.into_iter().zip(after) {
            prop_assert!(before == after || after == which);
        }
    }
}

/// An upstream that is ejected for a while leaves its keys to the others, and gets exactly these back.
#[test]
fn keys_come_home() {
    let all: Vec<(usize, u32)> = (0..8).map(|n| (n, 1)).collect();
    for policy in [Policy::RecipientHash, Policy::SourceHash] {
        let mut fleet = of(policy, &all);
        let before = places(&mut fleet, &all, 500);
        set_room(&mut fleet, 3, false);
        let without = places(&mut fleet, &all, 500);
        assert!(before.iter().zip(&without).all(|(before, now)| before == now || *before == 3));
        assert!(!without.contains(&3));
        set_room(&mut fleet, 3, true);
        assert_eq!(places(&mut fleet, &all, 500), before);
    }
}

/// A hot recipient spills over to the next upstream of its own, always the same.
#[test]
fn a_hot_key_spills_over() {
    let mut fleet = weighted(Policy::RecipientHash, &[1; 4]);
    let hot = Ask { recipient: mix(9), ..ask(0) };
    let mut order = Vec::new();
    for _ in 0..16 {
        let Pick::Now(i) = fleet.pick(&hot, at(0)) else { panic!("nobody is full") };
        fleet.began(i);
        order.push(i);
    }
    let got: Vec<u32> = fleet.members().iter().map(Member::in_flight).collect();
    // A quarter more than a fair share of 16 is 5, and its first choices have that.
    assert!(got.iter().all(|n| (1..=5).contains(n)), "{got:?}");
    assert_eq!(fleet.members()[order[0]].in_flight(), 5);
}

/// Names to keys for ever: other processes and later versions must agree.
#[test]
fn keys_are_stable_and_blind_to_case() {
    assert_eq!(key(b"User@Example.COM"), key(b"user@example.com"));
    assert_ne!(key(b"user@example.com"), key(b"user@example.net"));
    let (a, b): (u64, u64) = (key(b"mta1"), key(b"a@x.example"));
    assert_eq!((a, b), (KEYS.0, KEYS.1), "{a:#x} {b:#x}");
}

const KEYS: (u64, u64) = (0xeead_eb17_bbe2_9bb3, 0x8f0f_5d7b_75aa_2829);

/// One that is drained or leaves by a reload is as good as gone: its keys are where they would be without it, and no
/// other moves, then or when its place is given to somebody else.
#[test]
fn a_closed_one_is_as_good_as_gone() {
    let all: Vec<(usize, u32)> = (0..8).map(|n| (n, 1 + n as u32 % 3)).collect();
    let rest: Vec<(usize, u32)> = all.iter().copied().filter(|(n, _)| *n != 3).collect();
    for policy in [Policy::RecipientHash, Policy::SourceHash] {
        let mut fleet = of(policy, &all);
        let before = places(&mut fleet, &all, 2_000);
        fleet.mark(3, true, false, at(0));
        let without = places(&mut of(policy, &rest), &rest, 2_000);
        assert_eq!(places(&mut fleet, &all, 2_000), without);
        // Another weight for somebody else is another fleet; the closed one stays closed.
        let identity = |n: usize| key(format!("mta{n}").as_bytes());
        fleet.refit(policy, all.iter().map(|(n, weight)| (*weight, identity(*n))), |_| false, at(0));
        assert_eq!(places(&mut fleet, &all, 2_000), without);
        fleet.mark(3, false, false, at(0));
        assert_eq!(places(&mut fleet, &all, 2_000), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever else can be had or not, a key's upstream is one that can.
    #[test]
    fn keys_find_whoever_is_left(
        weights in prop::collection::vec(1u32..9, 2..40),
        left in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        for policy in [Policy::RecipientHash, Policy::SourceHash] {
            let mut fleet = weighted(policy, &weights);
            let left: Vec<usize> = left.iter().map(|left| left.index(weights.len())).collect();
            (0..weights.len()).for_each(|i| set_room(&mut fleet, i, left.contains(&i)));
            for n in 0..200 {
                let Pick::Now(i) = fleet.pick(&ask(n), at(0)) else { unreachable!("somebody has room") };
                prop_assert!(left.contains(&i));
            }
        }
    }
}
