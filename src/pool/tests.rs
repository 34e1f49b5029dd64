use std::time::Duration;

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000_000 + ms * 1_000_000)
}

/// For a message that goes by itself.
fn lease(links: &mut Links) -> Option<Lease> {
    links.lease(false, at(0))
}

/// Links of which so many stand, all of them in use.
fn standing(max: usize, n: usize) -> Links {
    let mut links = Links::new(max, 0);
    for _ in 0..n {
        assert_eq!(lease(&mut links), Some(Lease::Open));
        links.opened(false);
    }
    links
}

#[test]
fn pressure_halves_and_passes() {
    let mut links = Links::new(8, 0);
    assert_eq!(lease(&mut links), Some(Lease::Open));
    assert!(!links.press(), "none stands yet");
    links.opened(false);
    for _ in 0..5 {
        assert_eq!(lease(&mut links), Some(Lease::Open));
        links.opened(false);
    }
    assert_eq!((lease(&mut links), lease(&mut links)), (Some(Lease::Open), Some(Lease::Open)));
    assert!(links.press());
    assert!(links.is_over() && !links.has_room());
    (0..5).for_each(|n| links.gone(LinkId(n), Was::Standing));
    assert!(!links.is_over());
    assert_eq!(lease(&mut links), Some(Lease::Open));
    assert!(!links.must_open());
    links.ease();
    assert!(links.must_open());
    (0..9).for_each(|_| links.ease());
    links.set_max(3);
    assert!(links.is_over());
    links.set_max(9);
    assert!(links.must_open());
}

#[test]
fn idle_before_new_before_joining() {
    let mut links = Links::new(2, 0);
    assert_eq!(lease(&mut links), Some(Lease::Open));
    links.opened(false);
    links.joinable(LinkId(1));
    assert_eq!(lease(&mut links), Some(Lease::Open));
    assert_eq!(links.counts(), (0, 1, 2));
    assert_eq!(lease(&mut links), Some(Lease::Join(LinkId(1))));
    assert!(!links.has_room());
    links.opened(false);
    links.idle(LinkId(2));
    assert_eq!(lease(&mut links), Some(Lease::Idle(LinkId(2))));
    links.idle(LinkId(2));
    links.gone(LinkId(2), Was::Standing);
    assert_eq!(lease(&mut links), Some(Lease::Open));
    links.not_opened(false, 0, at(0));
    links.gone(LinkId(3), Was::Opening);
    assert_eq!(links.counts(), (0, 0, 1));
}

/// One at first; each that succeeds makes room for two more.
#[test]
fn openings_double() {
    let mut links = Links::new(64, 0);
    let mut rounds = Vec::new();
    let mut stands = 0;
    while stands < 64 {
        let opening =
            std::iter::from_fn(|| lease(&mut links)).take_while(|lease| *lease == Lease::Open).count();
        (0..opening).for_each(|_| links.opened(false));
        rounds.push(opening);
        stands += opening;
    }
    assert_eq!(rounds, [1, 2, 8, 53]);
    // When none is left it begins anew.
    (0..64).for_each(|n| links.gone(LinkId(n), Was::Standing));
    assert_eq!((lease(&mut links), lease(&mut links)), (Some(Lease::Open), None));
}

#[test]
fn openings_that_fail_wait_longer_and_longer_but_not_for_ever() {
    let mut links = Links::new(8, 0);
    let mut now = at(0);
    let mut waits = Vec::new();
    for n in 0..12 {
        assert_eq!((lease(&mut links), lease(&mut links)), (Some(Lease::Open), None), "one at a time");
        links.not_opened(true, 7, now);
        links.gone(LinkId(n), Was::Opening);
        let failed_at = now;
        while !links.has_room() {
            assert_eq!(links.rest(), Rest::Shut);
            now = now + Duration::from_millis(1);
            links.look(now);
        }
        waits.push(now.since(failed_at).as_millis());
    }
    assert_eq!(waits[0], 0, "one failure alone may be chance");
    assert!((25..=51).contains(&waits[1]) && (50..=101).contains(&waits[2]), "{waits:?}");
    assert!(waits[6..].iter().all(|ms| (500..=1001).contains(ms)), "{waits:?}");
    // One that succeeds makes up for all.
    assert_eq!(lease(&mut links), Some(Lease::Open));
    links.opened(false);
    assert_eq!(links.rest(), Rest::No);
    assert_eq!(
        [lease(&mut links), lease(&mut links), lease(&mut links)],
        [Some(Lease::Open), Some(Lease::Open), None]
    );
}

/// Shards call an upstream that is back at different times, within a tenth of a second.
#[test]
fn shards_return_one_after_the_other() {
    let opens_after = |chance: u64| {
        let mut links = Links::new(8, 0);
        links.returned(chance, at(0));
        assert_eq!((links.has_room(), links.rest()), (false, Rest::Brief));
        let ms = (0..200).find(|ms| links.look(at(*ms))).expect("within a moment");
        assert!(links.has_room());
        ms
    };
    let mut times: Vec<u64> = (1..=8).map(opens_after).collect();
    times.sort_unstable();
    assert!(times[7] <= 100, "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "{times:?}");
}

/// Links beyond what may be in use stay, and nothing queues behind the messages on them.
#[test]
fn a_lower_limit_closes_nothing() {
    let mut links = standing(8, 8);
    (0..8).for_each(|n| links.joinable(LinkId(n)));
    // Eight at once take eight times as long as one.
    let mut now = at(0);
    for _ in 0..20_000 {
        let in_use = links.in_use() as u64;
        now = now + Duration::from_millis(5);
        links.look(now);
        links.observe(in_use * 5_000_000, 1_000, in_use as u32, now);
        while links.in_use() > links.concurrency.allowed() {
            let link = (0..8).map(LinkId).find(|link| !links.idle.contains(link)).expect("some are in use");
            links.idle(link);
        }
        while links.may_use_one_more() {
            assert!(matches!(lease(&mut links), Some(Lease::Idle(_))));
        }
    }
    assert_eq!(links.limit(), 1);
    assert_eq!(links.counts().2, 8);
    assert!(!links.is_over());
}

/// Messages of a turn leave together, as long as that costs them nothing; those of another turn have left.
#[test]
fn company_of_the_same_turn() {
    let mut links = standing(4, 3);
    (0..3).for_each(|n| links.idle(LinkId(n)));
    let mut joins = |cost: u64, turn: u64| {
        assert_eq!(links.lease(true, at(turn)), Some(Lease::Idle(LinkId(2))), "the first of a turn");
        links.joinable(LinkId(2));
        links.departing(LinkId(2), at(turn));
        assert_ne!(links.lease(false, at(turn)), Some(Lease::Join(LinkId(2))), "one that cannot go whole");
        links.idle(LinkId(1));
        let joins = links.lease(true, at(turn)) == Some(Lease::Join(LinkId(2)));
        if joins {
            links.followed(cost);
        }
        links.idle.clear();
        links.joinable.clear();
        (0..3).for_each(|n| links.idle(LinkId(n)));
        joins
    };
    let count = (0..100).filter(|turn| joins(1_000, 100 + turn)).count();
    assert!(count > 60, "it was free, and {count} of 100 joined");
    let count = (0..400).filter(|turn| joins(9_000_000, 300 + turn)).count();
    assert!(count < 40, "it was dear, and {count} of 400 joined");
}
