//! Upstreams that fall silent: what they may have taken waits for them, everything else goes elsewhere.

use std::time::Duration;

use postlane::balance::Policy;

use crate::client::Habits;
use crate::focus::{MS, world};
use crate::message::Fate;
use crate::play::Play;
use crate::stage::Setup;
use crate::upstream::{Deed, Manner, Moment};

/// Clients that waited longer than this for some answer.
fn waited(play: &Play, time: Duration) -> usize {
    play.clients.iter().filter(|client| client.waited_most > time).count()
}

#[test]
fn only_what_a_sleeping_upstream_may_have_taken_waits_for_it() {
    for policy in Policy::ALL {
        let mut setup = Setup::new(21, 4);
        setup.pool.policy = policy;
        setup.pool.links_max = 2;
        setup.pool.reply_timeout = Duration::from_secs(30);
        let mut play = world(&setup, vec![Manner::slow(4 * MS); 4]);
        play.add_clients(24, &Habits::plain(120), 120, 1_000);
        play.pass(300 * MS);
        play.upstreams[0].asleep = true;
        play.pass(Duration::from_secs(5));
        play.upstreams[0].asleep = false;
        play.serve_all();
        let (long, longest) = (waited(&play, Duration::from_secs(1)), play.waited_most());
        println!("{}: {long} waited over a second, the longest {longest:?}", policy.label());
        let count = play.finish();
        play.all_are(Fate::Answered(250));
        assert!(long <= setup.pool.links_max, "{}: {long} waited over a second", policy.label());
        assert!(longest < Duration::from_millis(5500), "{}: {longest:?}", policy.label());
        assert_eq!((count.in_doubt, count.repeats), (0, 0), "{}", policy.label());
    }
}

/// Accepts connections, or greets, or hears MAIL, and says no more.
#[test]
fn nothing_waits_for_an_upstream_that_has_not_been_sent_it() {
    for moment in [Moment::Greeting, Moment::Hello, Moment::Mail, Moment::Rcpt, Moment::Data] {
        let mut setup = Setup::new(22, 3);
        setup.pool.links_max = 3;
        // Links are opened all the time.
        setup.pool.transactions_per_link = 5;
        let mut play = world(&setup, vec![Manner::slow(3 * MS); 3]);
        play.add_clients(12, &Habits::plain(300), 300, 1_000);
        play.pass(300 * MS);
        play.upstreams[0].manner.odds = vec![(moment, Deed::Hang, 1.0)];
        play.serve_all();
        let longest = play.waited_most();
        println!("{moment:?}: the longest wait {longest:?}");
        let count = play.finish();
        play.all_are(Fate::Answered(250));
        assert!(longest < Duration::from_secs(1), "{moment:?}: {longest:?}");
        let overdue = play.stage.sum(|stats| stats.pools[0][0].overdue.get());
        assert!((1..100).contains(&overdue), "{moment:?}: {overdue} were taken away");
        assert_eq!((count.in_doubt, count.repeats), (0, 0), "{moment:?}");
    }
}

/// Where all are slow there is nowhere to go: everything waits, is taken once, and nothing is refused.
#[test]
fn a_farm_that_pauses_as_a_whole_is_waited_for() {
    for pause in [400 * MS, Duration::from_secs(3), Duration::from_secs(20)] {
        let mut setup = Setup::new(23, 3);
        setup.shards = 2;
        setup.pool.links_max = 3;
        let mut play = world(&setup, vec![Manner::slow(3 * MS); 3]);
        play.add_clients(24, &Habits::plain(200), 200, 1_000);
        play.pass(300 * MS);
        play.upstreams.iter_mut().for_each(|upstream| upstream.asleep = true);
        play.pass(pause);
        play.upstreams.iter_mut().for_each(|upstream| upstream.asleep = false);
        let lost = play.stage.sum(|stats| stats.pools[0].iter().map(|u| u.lost_links.get()).sum());
        play.serve_all();
        let longest = play.waited_most();
        println!("a pause of {pause:?}: the longest wait {longest:?}, {lost} links given up");
        let count = play.finish();
        play.all_are(Fate::Answered(250));
        assert_eq!((count.in_doubt, count.repeats), (0, 0), "{pause:?}");
        assert!(longest < pause + Duration::from_secs(2), "{pause:?}: {longest:?}");
    }
}

/// One message that every upstream takes long for is offered to each at most once, and is taken.
#[test]
fn a_slow_message_is_not_driven_away() {
    let mut setup = Setup::new(24, 4);
    setup.pool.attempts = 2;
    let slow_for = |manner: Manner| Manner { ponders: Some(("slow.", Duration::from_secs(3))), ..manner };
    let mut play = world(&setup, vec![slow_for(Manner::slow(2 * MS)); 4]);
    play.add_clients(8, &Habits::plain(200), 200, 1_000);
    let slow: Vec<usize> = (100..1_600).step_by(390).collect();
    for n in &slow {
        play.messages[*n].recipients = vec![format!("slow.m{n}@d1.example")];
    }
    play.serve_all();
    let longest = play.waited_most();
    println!("{} slow messages, the longest wait {longest:?}", slow.len());
    let count = play.finish();
    play.all_are(Fate::Answered(250));
    assert_eq!((count.in_doubt, count.repeats), (0, 0));
    assert!(longest < Duration::from_secs(6), "{longest:?}");
}
