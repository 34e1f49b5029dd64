//! Files that are used anew although no write on disk says yet that they are free, as no others can be had: power is
//! cut while what is new is written over what is over.

use std::collections::BTreeSet;
use std::time::Duration;

use postlane::disk::sim::{Faults, Platter};
use postlane::protocol::{Enhanced, Envelope, Reply};
use postlane::spool::{EntryId, Event, Options, Report};
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
    /// Requests until the power is cut.
    left: u64,
    durable: BTreeSet<u64>,
    /// Over, as far as the spool was told; and that is on disk.
    ending: BTreeSet<u64>,
    over: BTreeSet<u64>,
}

impl Scene {
    /// A disk that has room for four files.
    fn new(seed: u64, left: u64) -> Scene {
        let faults = Faults { capacity: 4 * SEGMENT, ..Faults::default() };
        let platter = Platter::new(seed, faults.clone());
        let now = Instant::from_nanos(1_000_000_000);
        let shard = start(&platter, now).0;
        let [durable, ending, over] = Default::default();
        Scene { shard, platter, now, faults, left, durable, ending, over }
    }

    /// What is asked for now is done, and nothing else yet. None: the power is cut, with the last request under way.
    fn round(&mut self) -> Option<()> {
        self.left -= self.shard.ask(self.now, self.left);
        if self.left == 0 {
            return None;
        }
        self.now = self.now + Duration::from_millis(30);
        let durable = &mut self.durable;
        self.shard.complete(self.now, &mut |_, event| {
            let Event::Durable { token, .. } = event else { panic!("{event:?}") };
            durable.insert(token);
        });
        Some(())
    }

    fn settle(&mut self) -> Option<()> {
        (0..8).try_for_each(|_| self.round())
    }

    fn append(&mut self, number: u64) -> EntryId {
        let mut envelope = Envelope::default();
        letter::envelope(3, &mut envelope);
        let body = letter::place(&[number as u8; BODY], self.shard.disk.pool()).unwrap();
        let kept = letter::plain(number, &envelope, b"", &body);
        self.shard.spool.append(&kept, number, self.now, &self.shard.disk).unwrap()
    }

    fn note(&mut self, entry: EntryId) {
        self.shard.spool.defer(entry, 0, &LATER.to_buf(), self.now);
        self.now = self.now + Duration::from_millis(30);
    }

    /// Two messages, a write that fails, survivors that are moved from file to file, and a third message.
    fn play(&mut self) -> Option<()> {
        self.settle()?;
        let mut kept = Vec::new();
        for number in [1, 2] {
            kept.push(self.append(number));
            self.settle()?;
        }
        // The last two files are taken for a note: the first of them fails after one.
        self.note(kept[0]);
        self.settle()?;
        self.note(kept[0]);
        self.platter.set_faults(Faults { write_error: 1.0, ..self.faults.clone() });
        self.round()?;
        self.platter.set_faults(self.faults.clone());
        self.settle()?;
        kept.iter().for_each(|entry| self.shard.spool.done_all(*entry, self.now));
        self.ending.extend([1, 2]);
        self.settle()?;
        assert_eq!(self.shard.spool.usage().messages, 0);
        self.over.extend([1, 2]);
        self.append(3);
        self.settle()
    }
}

fn start(platter: &Platter, now: Instant) -> (Shard, Report) {
    let arenas = Arenas::new(1, BUFFERS).unwrap();
    let options = Options { segment_bytes: SEGMENT, bytes_max: 64 * SEGMENT, ..Options::default() };
    platter.settle();
    Shard::start(options, platter, &arenas, now, 0)
}

/// Wherever it is cut: what is over does not come back, nor pass for damage, and nothing is lost.
#[test]
fn a_file_is_not_written_over_before_it_is_known_to_be_free() {
    let mut torn = 0;
    for seed in 0..6 {
        for cut in 1.. {
            let mut scene = Scene::new(seed, cut);
            if scene.play().is_some() {
                assert!(cut > 20 && torn > 0, "{cut} requests, {torn} torn");
                break;
            }
            let Scene { shard, platter, now, durable, ending, over, .. } = scene;
            drop(shard);
            platter.cut_power();
            let (shard, report) = start(&platter, now);
            assert_eq!(report.damages, [], "seed {seed}, cut {cut}");
            let mut found = BTreeSet::new();
            shard.spool.scan(0, usize::MAX, |facts| {
                found.insert(facts.message.id.number);
            });
            assert!(found.is_disjoint(&over), "seed {seed}, cut {cut}: {found:?} of {over:?}");
            let lost = durable.iter().find(|number| !ending.contains(number) && !found.contains(number));
            assert_eq!(lost, None, "seed {seed}, cut {cut}");
            torn += report.torn;
        }
    }
}
