//! Worlds with a spool built for one question each.

use std::time::Duration;

use postlane::disk::sim::Faults;
use postlane::dispatch::{Action, Mode, Order, Selection, list_kept};

use crate::client::Habits;
use crate::disk::Keep;
use crate::focus::{MS, world};
use crate::message::{Fate, Message};
use crate::play::Play;
use crate::stage::Setup;
use crate::upstream::{Deed, Manner, Moment, Taken, find};

fn keeping(seed: u64, mode: Mode, upstreams: usize) -> Setup {
    let mut setup = Setup::new(seed, upstreams);
    setup.keep = Some(Keep::plain(mode));
    setup
}

fn turns(play: &Play) -> u64 {
    play.stage.sum(|stats| stats.turns.get())
}

fn broken(errno: i32) -> Faults {
    Faults { broken: Some(errno), ..Faults::default() }
}

/// What is refused for want of a disk is answered in its turn, also to one that has sent the next message already.
#[test]
fn a_refusal_by_the_disk_waits_for_its_turn() {
    for chunking in [false, true] {
        let mut play = world(&keeping(60, Mode::Spool, 1), vec![Manner::good()]);
        play.pass(50 * MS);
        play.stage.platter.set_faults(broken(5));
        let habits = Habits { eager: true, chunking, chunk_max: 700, ..Habits::plain(20) };
        play.add_clients(4, &habits, 20, 3_000);
        play.serve_all();
        assert!(play.messages.iter().all(|message| matches!(message.fate, Fate::Answered(451 | 452))));
        let count = play.finish();
        assert_eq!((count.kept, count.taken), (0, 0), "{count:?}");
    }
}

/// A shard that has something to write and no disk sleeps until it is worth trying again.
#[test]
fn a_broken_disk_keeps_no_shard_awake() {
    for errno in [5, 28] {
        let mut play = world(&keeping(61, Mode::Spool, 1), vec![Manner::good()]);
        play.upstreams[0].manner.odds = vec![(Moment::Mail, Deed::Defer, 1.0)];
        play.add_clients(4, &Habits::plain(20), 20, 3_000);
        play.serve_all();
        play.all_are(Fate::Answered(250));
        play.stage.platter.set_faults(broken(errno));
        play.pass(Duration::from_secs(20));
        let before = turns(&play);
        play.pass(Duration::from_secs(20));
        let each = (turns(&play) - before) / 20;
        println!("errno {errno}: {each} turns a second");
        assert!(each < 400, "{each} turns a second");
        let count = play.finish();
        assert_eq!(count.taken, 80, "{count:?}");
    }
}

/// A message given up on is bounced soon, however long its next attempt is away.
#[test]
fn what_an_operator_gives_up_is_bounced_at_once() {
    let mut play = world(&keeping(62, Mode::Spool, 1), vec![Manner::good()]);
    play.upstreams[0].manner.puts_off = Some("m");
    play.add_clients(1, &Habits::plain(10), 10, 3_000);
    play.serve_all();
    play.pass(Duration::from_secs(30));
    assert_eq!(play.stage.kept(), 10);
    play.upstreams[0].manner.puts_off = None;
    let selection = Selection { domain: Some(domain(&play, 0)), ..Selection::default() };
    play.manage(Order { action: Action::Bounce, selection, limit: 10 });
    play.pass(500 * MS);
    assert!(!notices(&play).is_empty());
    play.finish();
}

/// So many messages have been tried and wait.
pub(crate) fn until_put_off(play: &mut Play, messages: u64) {
    for _ in 0..50 {
        if play.stage.sum(|stats| stats.spool.deferred.get()) == messages {
            return;
        }
        play.pass(10 * MS);
    }
    panic!("{} messages were put off", play.stage.sum(|stats| stats.spool.deferred.get()));
}

/// A bit of its body flips wherever it lies on the disk.
fn spoil(play: &Play, message: usize) {
    spoil_at(play, message, 0);
}

/// The same, so far within.
pub(crate) fn spoil_at(play: &Play, message: usize, at: usize) {
    flip(play, &play.messages[message].data[at..at + 400], 0, 0);
}

/// A bit of these octets flips wherever they lie on the disk: that one of the one so far within.
pub(crate) fn flip(play: &Play, needle: &[u8], within: u64, bit: u8) {
    let platter = &play.stage.platter;
    let mut flips = 0;
    for (file, bytes) in platter.files() {
        let mut content = vec![0; bytes as usize];
        platter.read(file, 0, &mut content).unwrap();
        if let Some(at) = find(&content, needle) {
            platter.flip(file, at as u64 + within, bit);
            flips += 1;
        }
    }
    assert!(flips > 0, "that is not on the disk");
}

pub(crate) fn notices(play: &Play) -> Vec<&Taken> {
    play.upstreams[0].taken.iter().filter(|taken| taken.mail.starts_with("<>")).collect()
}

pub(crate) fn tells_of_damage(notice: &Taken, message: usize) -> bool {
    let lines = format!("Final-Recipient: rfc822; m{message}.r0@");
    let says = |words: &str| find(&notice.data, words.as_bytes()).is_some();
    says(&lines) && says("\r\nAction: failed\r\nStatus: 5.3.0\r\n") && says("damaged on disk")
}

/// What was acknowledged and cannot be read back is not given up without a word, to those that want to hear one.
#[test]
fn a_damaged_message_is_told_to_its_sender() {
    let mut play = world(&keeping(65, Mode::Spool, 1), vec![Manner::good()]);
    play.upstreams[0].manner.puts_off = Some("m");
    play.add_clients(1, &Habits::plain(4), 4, 3_000);
    play.messages[1].notify = " NOTIFY=NEVER";
    play.messages[2].sender.clear();
    play.serve_all();
    play.all_are(Fate::Answered(250));
    until_put_off(&mut play, 4);
    (0..3).for_each(|message| spoil(&play, message));
    play.upstreams[0].manner.puts_off = None;
    play.pass(Duration::from_secs(20));
    let notices = notices(&play);
    assert_eq!(notices.len(), 1);
    assert!(tells_of_damage(notices[0], 0) && notices[0].recipients == ["m0@sender.example"]);
    assert_eq!((play.stage.kept(), play.upstreams[0].taken.len()), (0, 2));
    assert_eq!(play.stage.sum(|stats| stats.spool.damaged.get()), 3);
    play.finish();
}

/// Found by the spool itself, long before its next attempt.
#[test]
fn damage_is_told_when_it_is_found_in_moving() {
    let mut setup = keeping(66, Mode::Spool, 1);
    setup.keep.as_mut().unwrap().options.retry = vec![Duration::from_secs(3_600)];
    let mut play = world(&setup, vec![Manner::good()]);
    play.upstreams[0].manner.puts_off = Some("m0.");
    play.add_clients(1, &Habits::plain(1), 1, 3_000);
    play.serve_all();
    until_put_off(&mut play, 1);
    spoil(&play, 0);
    play.add_clients(4, &Habits::plain(200), 200, 3_000);
    play.serve_all();
    play.pass(Duration::from_secs(20));
    assert!(matches!(notices(&play)[..], [notice] if tells_of_damage(notice, 0)));
    assert_eq!((play.stage.kept(), play.stage.sum(|stats| stats.spool.damaged.get())), (0, 1));
    play.finish();
}

/// Found by a start: what its record says besides is sound, so it is known who is to be told.
#[test]
fn damage_is_told_when_it_is_found_by_a_start() {
    let mut play = world(&keeping(68, Mode::Spool, 1), vec![Manner::good()]);
    play.upstreams[0].manner.puts_off = Some("m");
    play.add_clients(1, &Habits::plain(8), 8, 3_000);
    play.serve_all();
    until_put_off(&mut play, 8);
    spoil(&play, 0);
    play.stage.decay.flips = 1;
    play.upstreams[0].manner.puts_off = None;
    play.crash(true);
    play.start(1);
    play.pass(Duration::from_secs(20));
    assert!(matches!(notices(&play)[..], [notice] if tells_of_damage(notice, 0)));
    assert_eq!((play.stage.decay.reports, play.stage.kept(), play.upstreams[0].taken.len()), (1, 0, 8));
    assert_eq!(play.stage.sum(|stats| stats.spool.damaged.get()), 1);
    play.finish();
}

/// Where the disk has no room for the notice, it is made when there is.
#[test]
fn damage_is_told_when_there_is_room() {
    let mut play = world(&keeping(67, Mode::Spool, 1), vec![Manner::good()]);
    play.upstreams[0].manner.puts_off = Some("m");
    play.add_clients(1, &Habits::plain(1), 1, 3_000);
    play.serve_all();
    until_put_off(&mut play, 1);
    spoil(&play, 0);
    play.upstreams[0].manner.puts_off = None;
    play.stage.platter.set_faults(Faults { write_error: 1.0, ..Faults::default() });
    let before = turns(&play);
    play.pass(Duration::from_secs(40));
    assert!(turns(&play) - before < 40 * 400, "{} turns", turns(&play) - before);
    assert_eq!((play.stage.kept(), notices(&play).len()), (1, 0));
    play.stage.platter.set_faults(Faults::default());
    play.pass(Duration::from_secs(120));
    assert!(matches!(notices(&play)[..], [notice] if tells_of_damage(notice, 0)));
    assert_eq!((play.stage.kept(), play.stage.sum(|stats| stats.spool.damaged.get())), (0, 1));
    play.finish();
}

/// One upstream that is away, and what was kept meanwhile is due.
fn away(seed: u64, max_age: Duration) -> Play {
    let mut setup = keeping(seed, Mode::Spool, 1);
    setup.pool.health.eject_for = 500 * MS;
    setup.pool.care.slow_start = Duration::ZERO;
    let keep = setup.keep.as_mut().unwrap();
    (keep.options.retry, keep.options.max_age) = (vec![Duration::from_secs(1)], max_age);
    let mut play = world(&setup, vec![Manner::good()]);
    play.upstreams[0].die(&play.stage.world);
    play.add_clients(2, &Habits::plain(10), 10, 3_000);
    play.serve_all();
    play.all_are(Fate::Answered(250));
    play
}

/// Mail for a pool without a healthy upstream waits for one, not for a time: it goes when there is one.
#[test]
fn what_is_due_goes_when_the_pool_is_back() {
    let mut play = away(65, Duration::from_secs(86_400));
    play.pass(Duration::from_secs(20));
    play.upstreams[0].rise(&play.stage.world);
    // An ejection that had grown lasts on.
    let (mut healthy, mut steps) = (0, 0);
    while play.stage.kept() > 0 {
        play.pass(50 * MS);
        let is_healthy = play.stage.sum(|stats| stats.pools[0][0].healthy.get()) > 0;
        healthy = if is_healthy { healthy + 1 } else { 0 };
        steps += 1;
        assert!(healthy <= 20 && steps < 2_000, "healthy for {healthy} of {steps} looks, and it still waits");
    }
    assert_eq!(play.finish().taken, 20);
}

/// But not for ever: what becomes too old meanwhile is ended.
#[test]
fn what_is_due_becomes_too_old_though_nobody_could_take_it() {
    let mut play = away(66, Duration::from_secs(60));
    play.pass(Duration::from_secs(120));
    let expired = play.stage.sum(|stats| stats.spool.expired.get());
    assert_eq!(expired, 20);
    play.upstreams[0].rise(&play.stage.world);
    play.finish();
}

fn domain(play: &Play, message: usize) -> String {
    play.messages[message].recipients[0].rsplit_once('@').unwrap().1.to_owned()
}

/// What all upstreams put off is kept and tried again; with a healthy fleet the disk has nothing to do.
#[test]
fn what_upstreams_put_off_is_kept() {
    let mut play = world(&keeping(63, Mode::ThroughThenSpool, 2), vec![Manner::good(); 2]);
    play.add_clients(8, &Habits::plain(20), 20, 3_000);
    play.serve_all();
    assert_eq!(play.stage.sum(|stats| stats.spool.kept.get()), 0);
    play.upstreams
        .iter_mut()
        .for_each(|upstream| upstream.manner.odds = vec![(Moment::Dot, Deed::Defer, 1.0)]);
    play.add_clients(8, &Habits::plain(20), 20, 3_000);
    play.serve_all();
    play.all_are(Fate::Answered(250));
    assert_eq!(play.stage.kept(), 160);
    let count = play.finish();
    assert_eq!((count.taken, count.kept, count.in_doubt), (320, 160, 0), "{count:?}");
}

/// One that hangs is waited for no longer than agreed; what it took in the end is not sent again.
#[test]
fn a_slow_fleet_is_not_waited_for() {
    let mut play =
        world(&keeping(64, Mode::ThroughThenSpool, 1), vec![Manner::slow(Duration::from_secs(20))]);
    play.add_clients(4, &Habits::plain(1), 1, 3_000);
    play.serve_all();
    play.all_are(Fate::Answered(250));
    assert!(play.waited_most() < 400 * MS, "{:?}", play.waited_most());
    let count = play.finish();
    assert_eq!((count.taken, count.kept), (4, 4), "{count:?}");
}

/// One upstream, and ten messages that senders have asked that of.
fn asking(seed: u64, ask: impl FnMut(&mut Message)) -> Play {
    let mut setup = keeping(seed, Mode::ThroughThenSpool, 1);
    crate::timely::offer(&mut setup);
    let mut play = world(&setup, vec![Manner { deliver_by: Some(0), ..Manner::good() }]);
    play.add_clients(1, &Habits::plain(10), 10, 3_000);
    play.messages.iter_mut().for_each(ask);
    play.serve_all();
    play.all_are(Fate::Answered(250));
    play
}

fn states(play: &mut Play) -> Vec<String> {
    let spools = play.stage.shards.iter().filter_map(|shard| shard.dispatch().spool());
    let rows = spools.flat_map(|spool| list_kept(spool, &Selection::default(), 100, play.now()).rows);
    rows.map(|row| row.state).collect()
}

/// Held over crashes, with the calendar put back in between, and sent at its time.
#[test]
fn what_is_held_goes_at_its_time() {
    let mut play = asking(67, |message| message.hold_for(60));
    let begun = play.now();
    for power in [false, true] {
        play.pass(Duration::from_secs(15));
        assert_eq!(states(&mut play), vec!["held"; 10]);
        play.crash(power);
        play.start(2);
    }
    play.pass(Duration::from_secs(29));
    assert_eq!((play.upstreams[0].taken.len(), states(&mut play)), (0, vec!["held".to_owned(); 10]));
    play.pass(Duration::from_secs(3));
    let taken = &play.upstreams[0].taken;
    let waited: Vec<Duration> = taken.iter().map(|taken| taken.at.since(begun)).collect();
    assert!(waited.len() == 10 && waited.iter().all(|waited| waited.as_secs() < 62), "{waited:?}");
    assert_eq!(play.finish().taken, 10);
}

/// An operator lets it go before its time, and that is not forgotten.
#[test]
fn what_is_held_goes_when_it_is_flushed() {
    let mut play = asking(68, |message| message.hold_for(3600));
    play.upstreams[0].die(&play.stage.world);
    play.pass(Duration::from_secs(10));
    play.manage(Order { action: Action::Flush, selection: Selection::default(), limit: 0 });
    play.pass(Duration::from_secs(1));
    play.crash(true);
    play.upstreams[0].rise(&play.stage.world);
    play.start(1);
    play.pass(Duration::from_secs(20));
    assert_eq!(play.upstreams[0].taken.len(), 10);
    play.finish();
}

/// A calendar that is put back holds nothing for longer than was asked for.
#[test]
fn what_is_held_for_a_time_is_held_no_longer_by_another_calendar() {
    let mut play = asking(69, |message| message.hold_for(60));
    play.pass(Duration::from_secs(10));
    play.stage.leap(-90_000);
    play.pass(Duration::from_secs(10));
    play.crash(true);
    play.start(1);
    play.pass(Duration::from_secs(55));
    assert_eq!(states(&mut play), vec!["held"; 10]);
    play.pass(Duration::from_secs(10));
    assert_eq!(play.finish().taken, 10);
}

/// What is too late and cannot be bounced for want of a disk is tried again by its steps.
#[test]
fn what_cannot_be_bounced_keeps_no_shard_awake() {
    let mut play = asking(70, |message| message.return_after(20));
    assert_eq!(play.upstreams[0].taken.len(), 10);
    play.upstreams[0].manner.odds = vec![(Moment::Mail, Deed::Defer, 1.0)];
    let first = play.messages.len();
    play.add_clients(1, &Habits::plain(10), 10, 3_000);
    play.messages[first..].iter_mut().for_each(|message| message.return_after(20));
    play.serve_all();
    play.stage.platter.set_faults(broken(28));
    play.pass(Duration::from_secs(60));
    let before = turns(&play);
    play.pass(Duration::from_secs(60));
    let each = (turns(&play) - before) / 60;
    assert!(each < 400, "{each} turns a second");
    play.stage.platter.set_faults(Faults::default());
    play.upstreams[0].manner.odds.clear();
    play.pass(Duration::from_secs(120));
    let bounces = play.upstreams[0].taken.iter().filter(|taken| taken.mail.starts_with("<>")).count();
    assert_eq!((play.stage.kept(), bounces), (0, 10));
    play.finish();
}
