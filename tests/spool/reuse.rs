//! A file that is used anew although no write on disk says yet that it is free, as no other can be had.

use std::time::Duration;

use postlane::disk::sim::{Faults, Platter};
use postlane::handle::{MessageId, ShardId};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Enhanced, Envelope, Reply};
use postlane::spool::{EntryId, Event, Kept, Options};
use postlane::sys::arena::Arenas;
use postlane::time::Instant;

use crate::letter;
use crate::shard::{BUFFERS, Shard};

const SEGMENT: u64 = 64 << 10;
/// Two such messages do not fit into a file, nor one of them and a note.
const BODY: usize = 60_000;
const LATER: Reply<'static> = Reply::new(451, Enhanced(4, 4, 1), "later");

struct Scene {
    shard: Shard,
    platter: Platter,
    now: Instant,
    faults: Faults,
}

impl Scene {
    /// A disk that has room for four files.
    fn new(seed: u64) -> Scene {
        let faults = Faults { capacity: 4 * SEGMENT, ..Faults::default() };
        let platter = Platter::new(seed, faults.clone());
        let now = Instant::from_nanos(1_000_000_000);
        let mut scene = Scene { shard: start(&platter, now).0, platter, now, faults };
        scene.settle();
        scene
    }

    /// What is asked for now is done, and nothing else yet.
    fn round(&mut self) {
        self.shard.ask(self.now, u64::MAX);
        self.now = self.now + Duration::from_millis(30);
        self.shard.complete(self.now, &mut |_, event| assert!(matches!(event, Event::Durable { .. })));
    }

    fn settle(&mut self) {
        (0..8).for_each(|_| self.round());
    }

    fn append(&mut self, number: u64) -> EntryId {
        let mut envelope = Envelope::default();
        letter::envelope(3, &mut envelope);
        let body = letter::place(&[number as u8; BODY], self.shard.disk.pool()).unwrap();
        let kept = Kept {
            id: MessageId { epoch_ms: 1, shard: ShardId(0), number },
            envelope: &envelope,
            remaining: &[0],
            head: b"",
            body: &body,
            shape: Shape::default(),
            internal: false,
            listener: "",
            source: None,
            source_key: 0,
            size: BODY as u64,
            created_unix_ms: 0,
            pool: 0,
            attempts: 0,
        };
        self.shard.spool.append(&kept, number, self.now, &self.shard.disk).unwrap()
    }

    fn note(&mut self, entry: EntryId) {
        self.shard.spool.defer(entry, 0, &LATER.to_buf(), self.now);
        self.now = self.now + Duration::from_millis(30);
    }
}

fn start(platter: &Platter, now: Instant) -> (Shard, postlane::spool::Report) {
    let arenas = Arenas::new(1, BUFFERS).unwrap();
    let options = Options { segment_bytes: SEGMENT, bytes_max: 64 * SEGMENT, ..Options::default() };
    platter.settle();
    Shard::start(options, platter, &arenas, now, 0)
}

/// Power is cut while what is new is written over what is over: nothing of that comes back, nor passes for damage.
#[test]
fn a_file_is_not_written_over_before_it_is_known_to_be_free() {
    let mut torn = 0;
    for (seed, rounds) in (0..12).flat_map(|seed| (0..3).map(move |rounds| (seed, rounds))) {
        let mut scene = Scene::new(seed);
        let kept = [1, 2].map(|number| {
            let entry = scene.append(number);
            scene.settle();
            entry
        });
        // The last two files are taken for a note: the first of them fails after one.
        scene.note(kept[0]);
        scene.settle();
        scene.note(kept[0]);
        scene.platter.set_faults(Faults { write_error: 1.0, ..scene.faults.clone() });
        scene.round();
        scene.platter.set_faults(scene.faults.clone());
        scene.settle();
        assert_eq!((scene.shard.spool.usage().failures, scene.shard.spool.usage().segments), (1, 4));
        // All is over. The file to go on in is one of those that have just become free.
        kept.iter().for_each(|entry| scene.shard.spool.done_all(*entry, scene.now));
        scene.settle();
        assert_eq!(scene.shard.spool.usage().messages, 0);
        scene.append(3);
        (0..rounds).for_each(|_| scene.round());
        scene.shard.ask(scene.now, u64::MAX);
        let Scene { shard, platter, now, .. } = scene;
        drop(shard);
        platter.cut_power();
        let (shard, report) = start(&platter, now);
        assert_eq!(report.damages, [], "seed {seed}, {rounds}");
        shard.spool.scan(0, usize::MAX, |facts| assert_eq!(facts.message.id.number, 3, "seed {seed}"));
        torn += report.torn;
    }
    assert!(torn > 0, "nothing was torn");
}
