//! How many links an upstream is given, and how they are opened.

use std::time::Duration;

use crate::client::Habits;
use crate::focus::{MS, world};
use crate::message::Fate;
use crate::play::Play;
use crate::stage::Setup;
use crate::upstream::Manner;

fn limit(play: &Play) -> u64 {
    play.stage.shards[0].dispatch().publish(play.now());
    play.stage.stats[0].pools[0][0].limit.get()
}

/// The mean over so many seconds.
fn mean_limit(play: &mut Play, seconds: u32) -> f64 {
    let mut sum = 0;
    for _ in 0..seconds {
        play.pass(Duration::from_secs(1));
        sum += limit(play);
    }
    sum as f64 / f64::from(seconds)
}

/// What an upstream does one after the other is brought to it by one link; when it can do more at once, by more.
#[test]
fn links_in_use_follow_what_the_upstream_does_best_with() {
    let mut play = world(&Setup::new(31, 1), vec![Manner { serial: true, ..Manner::slow(5 * MS) }]);
    play.add_clients(24, &Habits::plain(1_500), 1_500, 500);
    play.pass(20 * MS);
    assert_eq!(limit(&play), 8);
    play.pass(Duration::from_secs(20));
    let serial = mean_limit(&mut play, 5);
    play.upstreams[0].manner.serial = false;
    play.pass(Duration::from_secs(20));
    let free = mean_limit(&mut play, 2);
    println!("links in use at once: {serial:.1} while it serves serially, {free:.1} when it does not");
    assert!(serial <= 2.0 && free >= 6.0, "{serial} {free}");
    play.serve_all();
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.in_doubt, count.repeats), (0, 0), "{count:?}");
}

/// An upstream that is back is called once by each shard, and only then by more and more links.
#[test]
fn many_shards_open_one_link_each_at_first() {
    let mut setup = Setup::new(32, 1);
    setup.shards = 8;
    let manner = Manner { delay_min: 50 * MS, delay_max: 50 * MS, ..Manner::good() };
    let mut play = world(&setup, vec![manner]);
    play.upstreams[0].die(&play.stage.world);
    play.add_clients(100, &Habits { pause: 100 * MS, ..Habits::plain(200) }, 200, 500);
    play.pass(Duration::from_secs(3));
    play.upstreams[0].rise(&play.stage.world);
    // Openings wait for a second at the longest; each takes a tenth of one.
    let mut calls = vec![0];
    while play.upstreams[0].taken.is_empty() {
        play.pass(10 * MS);
        calls.push(play.upstreams[0].connections);
        assert!(calls.len() < 150, "it is not used");
    }
    println!("calls until it has taken a message: {calls:?}");
    assert!(calls.iter().all(|calls| *calls <= 16), "{calls:?}");
    play.serve_all();
    println!("links in the end: {}", play.upstreams[0].links_most);
    assert!(play.upstreams[0].links_most > 24, "{}", play.upstreams[0].links_most);
    let count = play.finish();
    assert!(count.deferred > 0 && count.accepted > 5_000 && count.in_doubt == 0, "{count:?}");
}
