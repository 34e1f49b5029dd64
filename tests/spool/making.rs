//! A burst outruns the files: a message waits for the one that is being made, however long that takes.

use std::time::Duration;

use postlane::handle::{Part, ShardId, Ticket};
use postlane::protocol::Envelope;
use postlane::spool::{Event, Options, Refusal, Request, Spool};
use postlane::sys::arena::Arenas;
use postlane::sys::pool::Pool;
use postlane::time::Instant;

use crate::letter;

const ENOSPC: i32 = 28;

/// A disk that is done with everything at once, but for files to be made.
struct Scene {
    spool: Spool,
    pool: Pool,
    now: Instant,
    making: Option<Ticket>,
    taken: u64,
    kept: u64,
    not_kept: u64,
}

impl Scene {
    /// A burst has filled all files there are, and another is being made.
    fn outrun() -> Scene {
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let mut scene = Scene {
            spool: Spool::new(options, 0),
            pool: Pool::new(Arenas::new(1, 16).unwrap(), ShardId(0)),
            now: Instant::from_nanos(1_000_000_000),
            making: None,
            taken: 0,
            kept: 0,
            not_kept: 0,
        };
        while scene.carry_out() {
            scene.made(Ok(0));
        }
        while scene.kept == scene.taken {
            scene.append().unwrap();
            scene.carry_out();
        }
        scene
    }

    fn append(&mut self) -> Result<(), Refusal> {
        let mut envelope = Envelope::default();
        letter::envelope(0, &mut envelope);
        let kept = letter::plain(self.taken, &envelope, &[b'h'; 10_000], &[]);
        self.spool.append(&kept, self.taken, self.now, &self.pool)?;
        self.taken += 1;
        Ok(())
    }

    /// Does all that is asked for now. True: a file is being made.
    fn carry_out(&mut self) -> bool {
        while let Some(request) = self.spool.poll_request(self.now, &mut self.pool) {
            let (ticket, octets) = match request {
                Request::Create { ticket, .. } => {
                    assert_eq!(self.making.replace(ticket), None);
                    continue;
                }
                Request::Write { ticket, parts, .. } => {
                    let len = |part: Part<'_>| match part {
                        Part::Bytes(bytes) => bytes.len() as u32,
                        Part::Extent(extent) => extent.len,
                    };
                    (ticket, parts.map(len).sum())
                }
                Request::Read { .. } | Request::Remove { .. } => panic!("nothing is to be read or removed"),
            };
            self.spool.handle_completion(ticket, Ok(octets), self.now, &mut self.pool);
        }
        while let Some(event) = self.spool.poll_event() {
            match event {
                Event::Durable { .. } => self.kept += 1,
                Event::NotKept { errno, .. } => {
                    assert_eq!(errno, ENOSPC);
                    self.not_kept += 1;
                }
                _ => panic!("{event:?}"),
            }
        }
        self.making.is_some()
    }

    fn made(&mut self, result: Result<u32, i32>) {
        let ticket = self.making.take().unwrap();
        self.spool.handle_completion(ticket, result, self.now, &mut self.pool);
    }

    /// Time passes, and nothing is to be done meanwhile.
    fn wait(&mut self) {
        assert!(self.spool.next_deadline(self.now, |_| true) > self.now + Duration::from_secs(30));
        for _ in 0..30 {
            self.now = self.now + Duration::from_secs(1);
            assert!(self.carry_out());
            assert_eq!((self.taken - self.kept, self.not_kept), (1, 0));
        }
    }
}

#[test]
fn a_file_in_the_making_is_waited_for() {
    let mut scene = Scene::outrun();
    scene.wait();
    scene.made(Ok(0));
    scene.carry_out();
    assert_eq!((scene.kept, scene.not_kept), (scene.taken, 0));
}

#[test]
fn when_it_cannot_be_made_nothing_is_waited_for_any_longer() {
    let mut scene = Scene::outrun();
    scene.wait();
    scene.made(Err(ENOSPC));
    assert!(!scene.carry_out());
    assert_eq!((scene.kept, scene.not_kept), (scene.taken - 1, 1));
    assert_eq!(scene.append(), Err(Refusal::Full));
}
