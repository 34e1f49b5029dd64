//! The disk seam: the same contract for files on the ring and for those of the simulator, and the spool on real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postlane::disk::Disk;
use postlane::disk::sim::{Faults as DiskFaults, Platter};
use postlane::disk::store::Store;
use postlane::handle::{Buffers, Extent, FileId, MessageId, Part, ShardId};
use postlane::net::sim::{Faults, SimNet, World};
use postlane::net::uring::{Uring, UringOptions};
use postlane::net::{Event, Net};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Envelope, Mail, MailParameters, Recipient};
use postlane::spool::{Event as Told, Found, Kept, Options, Report, Request, Spool};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;

const FILE: FileId = FileId { log: 3, number: 7 };

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("postlane-disk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Hands whose completions can be waited for.
trait Hands {
    type Net: Net + Disk;
    fn net(&mut self) -> &mut Self::Net;
    fn wait(&mut self, ticket: u64) -> Result<u32, i32>;
}

struct Simulated {
    net: SimNet,
    world: World,
}

impl Hands for Simulated {
    type Net = SimNet;

    fn net(&mut self) -> &mut SimNet {
        &mut self.net
    }

    fn wait(&mut self, ticket: u64) -> Result<u32, i32> {
        let Simulated { net, world } = self;
        wait_for(ticket, |events| {
            if let Some(due) = world.next_due() {
                world.advance_to(due);
            }
            assert_eq!(world.runnable_shards(), [ShardId(0)]);
            net.turn(net.now(), 16, events);
        })
    }
}

impl Hands for Uring {
    type Net = Uring;

    fn net(&mut self) -> &mut Uring {
        self
    }

    fn wait(&mut self, ticket: u64) -> Result<u32, i32> {
        wait_for(ticket, |events| {
            let until = self.now() + Duration::from_millis(100);
            self.turn(until, 16, events);
        })
    }
}

fn uring(root: &Path) -> Uring {
    let arenas = Arenas::new(1, 512).unwrap();
    let options =
        UringOptions { accepted_max: 8, opened_max: 8, receive_buffers: 8, ..UringOptions::default() };
    let mut uring = Uring::new(options, arenas, RingTable::new(1)).unwrap();
    uring.use_spool(root.to_owned(), true);
    uring
}

fn wait_for(ticket: u64, mut turn: impl FnMut(&mut Vec<Event>)) -> Result<u32, i32> {
    for _ in 0..1_000 {
        let mut events = Vec::new();
        turn(&mut events);
        match events[..] {
            [] => {}
            [Event::Disk { ticket: which, result }] if which == ticket => return result,
            _ => panic!("{events:?}"),
        }
    }
    panic!("nothing completes");
}

/// Takes buffers for so many octets.
fn take(octets: usize, hands: &mut impl Buffers) -> Vec<Extent> {
    let (mut extents, mut left) = (Vec::new(), octets);
    while left > 0 {
        let extent = hands.take().unwrap();
        let len = left.min(extent.len as usize);
        extents.push(extent.slice(0..len));
        left -= len;
    }
    extents
}

fn bytes(extents: &[Extent], hands: &impl Buffers) -> Vec<u8> {
    extents.iter().flat_map(|&extent| hands.bytes(extent).to_vec()).collect()
}

/// What both backends do.
fn contract(hands: &mut impl Hands) {
    const SIZE: u64 = 3 << 20;
    let nothing = take(100, hands.net());
    hands.net().read_file(1, FILE, 0, &nothing);
    assert_eq!(hands.wait(1), Err(libc::ENOENT));
    hands.net().write_file(2, FILE, 0, [Part::Bytes(b"x")].into_iter());
    assert_eq!(hands.wait(2), Err(libc::ENOENT));
    hands.net().create_file(3, FILE, SIZE);
    assert_eq!(hands.wait(3), Ok(0));

    // What goes in comes out, in order, wherever its pieces lie.
    let from = take(40_000, hands.net());
    hands.net().read_file(4, FILE, SIZE - 40_000, &from);
    assert_eq!(hands.wait(4), Ok(40_000));
    assert!(bytes(&from, hands.net()).iter().all(|&byte| byte == 0), "a new file is zeroes");
    let mut expected = vec![0; 8];
    let pieces: Vec<Vec<u8>> = (0..1_500_u32).map(|n| n.to_le_bytes().repeat(1 + n as usize % 9)).collect();
    let mut parts = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let extent = from[n % 2].slice(n..n + n % 5);
        parts.extend([Part::Bytes(piece), Part::Extent(extent)]);
        expected.extend_from_slice(piece);
        expected.extend(vec![0; n % 5]);
    }
    let octets = expected.len() - 8;
    hands.net().write_file(5, FILE, 4_096, parts.into_iter());
    assert_eq!(hands.wait(5), Ok(octets as u32));
    let back = take(expected.len(), hands.net());
    hands.net().read_file(6, FILE, 4_088, &back);
    assert_eq!(hands.wait(6), Ok(expected.len() as u32));
    assert!(bytes(&back, hands.net()) == expected);

    // Beyond the end is an error, not less.
    hands.net().read_file(7, FILE, SIZE - 10, &back);
    assert_eq!(hands.wait(7), Err(libc::EIO));
    hands.net().remove_file(8, FILE);
    assert_eq!(hands.wait(8), Ok(0));
    hands.net().remove_file(9, FILE);
    assert_eq!(hands.wait(9), Err(libc::ENOENT));
    hands.net().read_file(10, FILE, 0, &back);
    assert_eq!(hands.wait(10), Err(libc::ENOENT));
}

#[test]
fn the_ring_keeps_the_contract() {
    let scratch = Scratch::new("contract");
    contract(&mut uring(&scratch.0));
}

#[test]
fn the_simulator_keeps_the_contract() {
    let world = World::new(1, Faults::default(), 1, 512);
    let mut net = world.net(ShardId(0));
    net.use_disk(Platter::new(1, DiskFaults::default()));
    contract(&mut Simulated { net, world });
}

/// As a start does that has much to send: the first reads of a file find it closed, each of them.
#[test]
fn many_read_a_file_that_nobody_has_open() {
    const READS: usize = 64;
    let scratch = Scratch::new("many");
    let mut hands = uring(&scratch.0);
    hands.create_file(1, FILE, 1 << 20);
    assert_eq!(hands.wait(1), Ok(0));
    let content: Vec<u8> = (0..READS as u8).flat_map(|n| [n; 4_096]).collect();
    hands.write_file(2, FILE, 0, [Part::Bytes(&content)].into_iter());
    assert_eq!(hands.wait(2), Ok(content.len() as u32));
    drop(hands);

    let mut hands = uring(&scratch.0);
    let into: Vec<Vec<Extent>> = (0..READS).map(|_| take(4_096, &mut hands)).collect();
    for (n, extents) in into.iter().enumerate() {
        hands.read_file(n as u64, FILE, n as u64 * 4_096, extents);
    }
    let mut results = vec![None; READS];
    for _ in 0..1_000 {
        let mut events = Vec::new();
        let until = hands.now() + Duration::from_millis(10);
        hands.turn(until, READS, &mut events);
        for event in events {
            let Event::Disk { ticket, result } = event else { panic!("{event:?}") };
            results[ticket as usize] = Some(result);
        }
        if results.iter().all(Option::is_some) {
            break;
        }
    }
    assert_eq!(results, vec![Some(Ok(4_096)); READS]);
    for (n, extents) in into.iter().enumerate() {
        assert!(bytes(extents, &hands) == [n as u8; 4_096], "{n}");
    }
}

/// Where no directory can be made every request fails, and says why.
#[test]
fn a_spool_that_is_none_fails_request_by_request() {
    let scratch = Scratch::new("none");
    let file = scratch.0.join("file");
    std::fs::write(&file, b"").unwrap();
    let mut hands = uring(&file);
    hands.create_file(1, FILE, 8_192);
    assert_eq!(hands.wait(1), Err(libc::ENOTDIR));
    hands.remove_file(2, FILE);
    assert_eq!(hands.wait(2), Err(libc::ENOTDIR));
}

/// Else what little room comes free on a full disk is taken by files that nobody uses.
#[test]
fn of_a_file_that_cannot_be_made_nothing_stays() {
    let scratch = Scratch::new("full");
    let mut hands = uring(&scratch.0);
    let other = FileId { number: 8, ..FILE };
    hands.create_file(1, other, 8_192);
    assert_eq!(hands.wait(1), Ok(0));
    let directory = scratch.0.join("03");
    std::os::unix::fs::symlink("/dev/full", directory.join("00000007.seg")).unwrap();
    hands.create_file(2, FILE, 8_192);
    assert_eq!(hands.wait(2), Err(libc::ENOSPC));
    let left: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["00000008.seg"]);
}

#[test]
fn a_spool_has_one_process() {
    let scratch = Scratch::new("lock");
    let held = Store::open(&scratch.0).unwrap();
    assert_eq!(Store::open(&scratch.0).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(Store::look(&scratch.0).files().unwrap().is_empty());
    drop(held);
    Store::open(&scratch.0).unwrap();
}

#[test]
fn what_is_damaged_is_set_aside() {
    let scratch = Scratch::new("aside");
    let store = Store::open(&scratch.0).unwrap();
    let mut hands = uring(&scratch.0);
    hands.create_file(1, FILE, 8_192);
    assert_eq!(hands.wait(1), Ok(0));
    hands.write_file(2, FILE, 4_096, [Part::Bytes(b"what is left")].into_iter());
    assert_eq!(hands.wait(2), Ok(12));
    let copy = store.set_aside(FILE, 4_101..4_108).unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), b"is left");
    assert_eq!(store.files().unwrap(), [(FILE, 8_192)], "the copy is no segment");
}

/// A shard's spool on real files.
struct Run {
    spool: Spool,
    hands: Uring,
    durable: HashMap<u64, bool>,
    loaded: Vec<u64>,
}

fn start(store: &Store) -> (Run, Report) {
    let options = Options { segment_bytes: 1 << 20, bytes_max: 64 << 20, salt: 9, ..Options::default() };
    let found: Vec<Found> =
        store.files().unwrap().into_iter().map(|(file, bytes)| Found { file, bytes }).collect();
    let hands = uring(store.root());
    let mut reader = store.reader();
    let mut read = |file, at, into: &mut [u8]| reader.read(file, at, into);
    let (spool, report) = Spool::recover(options, 1_700_000_000_000, hands.now(), &found, &mut read);
    (Run { spool, hands, durable: HashMap::new(), loaded: Vec::new() }, report)
}

impl Run {
    fn turn(&mut self) {
        let now = self.hands.now();
        while let Some(request) = self.spool.poll_request(now, &mut self.hands) {
            match request {
                Request::Write { ticket, file, at, parts } => self.hands.write_file(ticket, file, at, parts),
                Request::Read { ticket, file, at, extents } => {
                    self.hands.read_file(ticket, file, at, extents)
                }
                Request::Create { ticket, file, bytes } => self.hands.create_file(ticket, file, bytes),
                Request::Remove { ticket, file } => self.hands.remove_file(ticket, file),
            }
        }
        let mut events = Vec::new();
        let now = self.hands.turn(now + Duration::from_millis(20), 64, &mut events);
        for event in events {
            let Event::Disk { ticket, result } = event else { panic!("{event:?}") };
            self.spool.handle_completion(ticket, result, now, &mut self.hands);
        }
        while let Some(told) = self.spool.poll_event() {
            match told {
                Told::Durable { token, .. } => drop(self.durable.insert(token, true)),
                Told::Loaded { token, .. } => self.loaded.push(token),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Keeps a message of so many octets, all of them the number's lowest.
    fn keep(&mut self, number: u64, octets: usize) {
        let extents = take(octets, &mut self.hands);
        let mut envelope = Envelope::default();
        envelope.set_sender(&Mail { path: b"a@a.example", parameters: MailParameters::default() });
        envelope.push_recipient(&Recipient { path: b"b@b.example", notify: None, orcpt: None });
        let head = format!("Received: number {number}\r\n");
        let kept = Kept {
            id: MessageId { epoch_ms: 1, shard: ShardId(0), number },
            envelope: &envelope,
            remaining: &[0],
            head: head.as_bytes(),
            body: &extents,
            shape: Shape::default(),
            internal: false,
            listener: "apps",
            source: None,
            source_key: 0,
            size: octets as u64,
            created_unix_ms: 1_700_000_000_000,
            pool: 0,
            attempts: 0,
        };
        let now = self.hands.now();
        self.spool.append(&kept, number, now, &self.hands).unwrap();
        while !self.durable.contains_key(&number) && octets > 100_000 {
            self.turn();
        }
        if octets > 100_000 {
            extents.iter().for_each(|extent| self.hands.release(extent.buffer));
        }
    }
}

/// Messages told durable are there after the process is gone, whatever it was doing, and can be read back.
#[test]
fn real_files_keep_mail() {
    let scratch = Scratch::new("mail");
    let store = Store::open(&scratch.0).unwrap();
    let (mut run, report) = start(&store);
    assert_eq!(report, Report::default());
    for number in 0..120 {
        run.keep(number, if number % 40 == 39 { 300_000 } else { 700 });
        if number % 7 == 0 {
            run.turn();
        }
    }
    let durable: Vec<u64> = run.durable.keys().copied().collect();
    assert!(durable.len() >= 100);
    // The last ones are under way.
    drop(run);

    let (mut run, report) = start(&store);
    assert!(report.damages.is_empty(), "{report:?}");
    let mut found = HashMap::new();
    run.spool.scan(0, usize::MAX, |facts| {
        let octets = facts.head_len as usize + facts.body_len as usize;
        found.insert(facts.message.id.number, (facts.entry, octets, facts.message.size));
    });
    assert!(durable.iter().all(|number| found.contains_key(number)));
    let mut extents = HashMap::new();
    for (&number, &(entry, octets, size)) in &found {
        let into = take(octets, &mut run.hands);
        assert!(run.spool.load(entry, number, &into));
        while !run.loaded.contains(&number) {
            run.turn();
        }
        let head = format!("Received: number {number}\r\n");
        assert!(
            bytes(&into, &run.hands).starts_with(head.as_bytes())
                && octets as u64 == head.len() as u64 + size
        );
        into.iter().for_each(|extent| run.hands.release(extent.buffer));
        extents.insert(number, octets);
        let now = run.hands.now();
        run.spool.done_all(entry, now);
    }
    while !run.spool.is_settled() {
        run.turn();
    }
    drop(run);
    let (run, report) = start(&store);
    assert_eq!((report.messages, run.spool.usage().messages), (0, 0), "what is done stays so");
}
