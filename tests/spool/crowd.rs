//! When messages are written: one by itself at once, those of a crowd with what comes right behind them.

use std::time::Duration;

use postlane::disk::sim::{Faults, Platter};
use postlane::protocol::{Enhanced, Envelope, Reply};
use postlane::spool::{EntryId, Event, Options};
use postlane::sys::arena::Arenas;
use postlane::time::Instant;

use crate::letter;
use crate::shard::{BUFFERS, Shard};

const WRITE: Duration = Duration::from_millis(2);
/// No crowd is waited for longer.
const HOLD: Duration = Duration::from_millis(20);
/// Sessions that the crowd is of.
const SOURCES: usize = 1200;
const STEP: Duration = Duration::from_micros(100);

struct Scene {
    shard: Shard,
    now: Instant,
    number: u64,
    kept: Vec<EntryId>,
}

impl Scene {
    fn new() -> Scene {
        let platter = Platter::new(1, Faults { delay_max: STEP / 2, ..Faults::default() });
        let arenas = Arenas::new(1, BUFFERS).unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let now = Instant::from_nanos(1_000_000_000);
        let (shard, _) = Shard::start(options, &platter, &arenas, now, 0);
        let mut scene = Scene { shard, now, number: 0, kept: Vec::new() };
        scene.shard.spool.set_sources(SOURCES);
        // The files are made, and one is begun.
        scene.settle();
        scene.append(1);
        scene.settle();
        scene.kept.clear();
        scene
    }

    fn settle(&mut self) {
        while self.ask() > 0 {
            self.complete(STEP);
        }
    }

    fn append(&mut self, count: u64) {
        let mut envelope = Envelope::default();
        letter::envelope(0, &mut envelope);
        for _ in 0..count {
            self.number += 1;
            let kept = letter::plain(self.number, &envelope, b"head", &[]);
            self.shard.spool.append(&kept, self.number, self.now, &self.shard.disk).unwrap();
        }
    }

    fn ask(&mut self) -> u64 {
        self.shard.ask(self.now, u64::MAX)
    }

    /// What was asked for is done after so long; messages told durable by that.
    fn complete(&mut self, after: Duration) -> usize {
        self.now = self.now + after;
        let before = self.kept.len();
        let kept = &mut self.kept;
        self.shard.complete(self.now, &mut |_, event| {
            let Event::Durable { entry, .. } = event else { panic!("{event:?}") };
            kept.push(entry);
        });
        self.kept.len() - before
    }

    /// A crowd is on disk, and so many came just before.
    fn crowd(meanwhile: u64) -> Scene {
        let mut scene = Scene::new();
        scene.append(40);
        assert_eq!(scene.ask(), 1);
        scene.now = scene.now + (WRITE - STEP);
        scene.append(meanwhile);
        assert_eq!(scene.complete(STEP), 40);
        scene
    }

    fn deadline(&self) -> Instant {
        self.shard.spool.next_deadline(self.now, |_| true)
    }
}

#[test]
fn a_message_by_itself_waits_for_nothing() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.append(1);
        assert_eq!(scene.ask(), 1);
        scene.append(3);
        assert_eq!((scene.complete(WRITE), scene.ask(), scene.complete(WRITE)), (1, 1, 3));
    }
    // Nor does one that comes when a crowd is gone.
    let mut scene = Scene::crowd(0);
    scene.now = scene.now + HOLD;
    scene.append(1);
    assert_eq!(scene.ask(), 1);
}

#[test]
fn a_crowd_is_waited_for_while_it_comes() {
    for (step, landing) in [(STEP, 20), (Duration::from_millis(1), 20)] {
        let mut scene = Scene::crowd(landing);
        let began = scene.now;
        let mut waiting = landing;
        // For no more than a twelfth of those who are at it, and no longer than the longest.
        while waiting < SOURCES as u64 / 12 && scene.now.since(began) < HOLD - STEP {
            assert_eq!(scene.ask(), 0, "{waiting} after {:?}", scene.now.since(began));
            assert!(scene.deadline() > scene.now && scene.deadline() <= began + HOLD);
            scene.append(1);
            waiting += 1;
            scene.now = scene.now + step;
        }
        assert_eq!((scene.ask(), scene.complete(WRITE)), (1, waiting as usize));
    }
}

#[test]
fn stragglers_do_not_end_it_but_silence_does() {
    let mut scene = Scene::crowd(0);
    for _ in 0..2 {
        scene.append(1);
        assert_eq!(scene.ask(), 0);
        scene.now = scene.deadline();
        assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 1));
    }
    for _ in 0..10 {
        scene.append(1);
        scene.now = scene.now + HOLD;
        assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 1));
    }
    scene.append(1);
    assert_eq!(scene.ask(), 1);
}

#[test]
fn few_sessions_are_not_waited_for() {
    let mut scene = Scene::crowd(20);
    scene.shard.spool.set_sources(64);
    assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 20));
}

#[test]
fn no_crowd_is_waited_for_that_does_not_come() {
    let mut scene = Scene::crowd(20);
    scene.append(1);
    assert_eq!(scene.ask(), 0);
    let deadline = scene.deadline();
    assert!(deadline.since(scene.now) <= HOLD / 5, "{:?}", deadline.since(scene.now));
    // What else is due waits with it.
    scene.shard.spool.done_all(scene.kept[0], scene.now);
    let before = scene.shard.spool.usage().groups;
    scene.now = deadline;
    assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 21));
    assert!(scene.shard.spool.is_settled() && scene.shard.spool.usage().groups == before + 1);
}

#[test]
fn a_large_crowd_goes_at_once_and_notes_ride_along() {
    let mut scene = Scene::crowd(200);
    let later = Reply::new(451, Enhanced(4, 4, 1), "later").to_buf();
    scene.shard.spool.defer(scene.kept[0], 0, &later, scene.now);
    scene.shard.spool.done_all(scene.kept[1], scene.now);
    let before = scene.shard.spool.usage();
    assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 200));
    assert!(scene.shard.spool.is_settled());
    let after = scene.shard.spool.usage();
    assert_eq!((after.groups - before.groups, after.message_groups - before.message_groups), (1, 1));
    assert_eq!(after.grouped_messages - before.grouped_messages, 200);
    // By themselves they wait for company a while, and are no messages.
    scene.shard.spool.done_all(scene.kept[2], scene.now);
    assert_eq!(scene.ask(), 0);
    scene.now = scene.deadline();
    assert_eq!((scene.ask(), scene.complete(WRITE)), (1, 0));
    let usage = scene.shard.spool.usage();
    assert_eq!((usage.groups, usage.message_groups), (after.groups + 1, after.message_groups));
}
