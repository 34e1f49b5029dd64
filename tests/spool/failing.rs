//! A disk that fails a write now and then: files that failed are replaced before they are empty, but not without end.

use std::time::Duration;

use postlane::disk::sim::{Faults, Platter};
use postlane::protocol::Envelope;
use postlane::spool::{EntryId, Event, Options, Refusal};
use postlane::sys::arena::Arenas;
use postlane::time::Instant;

use crate::letter;
use crate::shard::{BUFFERS, Shard};

const SEGMENT: u64 = 64 << 10;
const FILES: u64 = 12;
/// Messages that stay: so many that files are not emptied for the garbage in them alone.
const MESSAGES: u64 = 40;
/// That may be there beside them.
const FAILED_MAX: u64 = 2;

struct Scene {
    shard: Shard,
    platter: Platter,
    now: Instant,
    number: u64,
    kept: Vec<EntryId>,
    not_kept: u64,
    files_most: u64,
}

impl Scene {
    fn new() -> Scene {
        let platter = Platter::new(1, Faults::default());
        let arenas = Arenas::new(1, BUFFERS).unwrap();
        let options = Options { segment_bytes: SEGMENT, bytes_max: FILES * SEGMENT, ..Options::default() };
        let now = Instant::from_nanos(1_000_000_000);
        let (shard, _) = Shard::start(options, &platter, &arenas, now, 0);
        Scene { shard, platter, now, number: 0, kept: Vec::new(), not_kept: 0, files_most: 0 }
    }

    fn append(&mut self, octets: usize) -> Result<EntryId, Refusal> {
        let mut envelope = Envelope::default();
        letter::envelope(0, &mut envelope);
        self.number += 1;
        let head = vec![b'h'; octets];
        let kept = letter::plain(self.number, &envelope, &head, &[]);
        self.shard.spool.append(&kept, self.number, self.now, &self.shard.disk)
    }

    /// What is asked for is done, again and again for a while.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.round();
        }
    }

    fn round(&mut self) {
        self.shard.ask(self.now, u64::MAX);
        self.now = self.now + Duration::from_millis(100);
        let Scene { shard, kept, not_kept, .. } = self;
        shard.complete(self.now, &mut |_, event| match event {
            Event::Durable { entry, .. } => kept.push(entry),
            Event::NotKept { .. } => *not_kept += 1,
            _ => panic!("{event:?}"),
        });
        self.files_most = self.files_most.max(self.platter.files().len() as u64);
    }
}

#[test]
fn no_more_and_more_files_replace_those_that_failed() {
    let mut scene = Scene::new();
    scene.settle();
    // Mail that stays.
    while scene.number < MESSAGES {
        scene.append(10_000).unwrap();
        scene.settle();
    }
    let stays = scene.kept.len();
    for time in 0..40 {
        scene.append(10).unwrap();
        scene.settle();
        scene.append(10).unwrap();
        scene.platter.set_faults(Faults { write_error: 1.0, ..Faults::default() });
        scene.round();
        scene.platter.set_faults(Faults::default());
        scene.settle();
        assert_eq!(scene.not_kept, time + 1);
        for entry in scene.kept.split_off(stays) {
            scene.shard.spool.done_all(entry, scene.now);
        }
        scene.settle();
    }
    let most = scene.files_most;
    assert!(most > FILES, "no file that failed was replaced: {most}");
    assert!(most <= FILES + FAILED_MAX, "{most} files where {FILES} may be");
    assert_eq!(scene.shard.spool.usage().messages, MESSAGES);
}
