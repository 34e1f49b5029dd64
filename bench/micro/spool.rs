//! The spool on a real disk: what keeping a message costs, and how long a start takes.
//!
//! `cargo run --release --example spool -- append DIRECTORY [messages] [octets] [to a commit]` keeps messages and is
//! done with each at once; `fill` keeps them and leaves them; `replay` starts with what is there. CPU is the
//! process's, the kernel's workers for the ring among it, by `/proc/self/stat` (10 ms ticks).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant as Wall, SystemTime, UNIX_EPOCH};

use postlane::disk::Disk;
use postlane::disk::store::Store;
use postlane::handle::{Buffers, Extent, MessageId, ShardId};
use postlane::net::uring::{Uring, UringOptions};
use postlane::net::{Event, Net};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Envelope, Mail, MailParameters, Recipient};
use postlane::spool::{Event as Told, Found, Kept, Options, Report, Request, Spool};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, default: u64| arguments.get(at).map_or(default, |text| text.parse().expect("a number"));
    let (Some(what), Some(directory)) = (arguments.first(), arguments.get(1)) else {
        return println!("append|fill|replay DIRECTORY [messages] [octets] [to a commit]");
    };
    let directory = PathBuf::from(directory);
    let (messages, octets, batch) = (number(2, 100_000), number(3, 10 << 10), number(4, 100));
    match what.as_str() {
        "append" => keep(&directory, messages, octets, batch, true),
        "fill" => keep(&directory, messages, octets, batch, false),
        _ => {
            let (cpu, wall) = (cpu(), Wall::now());
            let (spool, report) = start(&Store::open(&directory).expect("the spool's directory"));
            let usage = spool.usage();
            println!(
                "{} messages, {} MiB in {} files, in {:.2?} ({:.2?} of CPU); index {} octets a message; {} damaged, {} torn",
                report.messages,
                report.bytes >> 20,
                report.files,
                wall.elapsed(),
                self::cpu() - cpu,
                usage.index_bytes / report.messages.max(1),
                report.damages.len(),
                report.torn,
            );
        }
    }
}

/// CPU time of the process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let after = stat.rsplit(')').next().expect("the command's name ends");
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn start(store: &Store) -> (Spool, Report) {
    let options = Options {
        bytes_max: 200 << 30,
        entries_max: 20_000_000,
        index_bytes_max: 16 << 30,
        salt: 0x5eed,
        ..Options::default()
    };
    let files = store.files().expect("the spool's directory can be read");
    let found: Vec<Found> = files.into_iter().map(|(file, bytes)| Found { file, bytes }).collect();
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let mut reader = store.reader();
    Spool::recover(options, unix_ms, postlane::sys::clock::now(), &found, &mut |file, at, into: &mut [u8]| {
        reader.read(file, at, into)
    })
}

struct Run {
    spool: Spool,
    hands: Uring,
    events: Vec<Event>,
    durable: u64,
}

impl Run {
    /// A turn: requests out, completions in.
    fn turn(&mut self, done: bool) {
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
        let until = now + Duration::from_millis(100);
        let now = self.hands.turn(until, 256, &mut self.events);
        for event in self.events.drain(..) {
            if let Event::Disk { ticket, result } = event {
                self.spool.handle_completion(ticket, result, now, &mut self.hands);
            }
        }
        while let Some(told) = self.spool.poll_event() {
            match told {
                Told::Durable { entry, .. } => {
                    self.durable += 1;
                    if done {
                        self.spool.done_all(entry, now);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn keep(directory: &Path, messages: u64, octets: u64, batch: u64, done: bool) {
    let store = Store::open(directory).expect("the spool's directory");
    let (spool, _) = start(&store);
    let arenas = Arenas::new(1, 4096).expect("memory");
    let mut hands = Uring::new(UringOptions::default(), arenas, RingTable::new(1)).expect("a ring");
    hands.use_spool(directory.to_owned(), true);
    let mut envelope = Envelope::default();
    let body: Vec<Vec<Extent>> = (0..batch).map(|_| take(octets, &mut hands)).collect();
    let mut run = Run { spool, hands, events: Vec::new(), durable: 0 };
    while run.spool.usage().segments < 3 {
        run.turn(done);
    }
    let (cpu_before, wall, before) = (cpu(), Wall::now(), run.spool.usage());
    let mut number = 0;
    while number < messages {
        let now = run.hands.now();
        for body in &body {
            number += 1;
            envelope.clear();
            envelope.set_sender(&Mail {
                path: b"somebody@sender.example",
                parameters: MailParameters::default(),
            });
            let path = format!("recipient{number}@receiver.example");
            envelope.push_recipient(&Recipient { path: path.as_bytes(), notify: None, orcpt: None });
            let kept = Kept {
                id: MessageId { epoch_ms: 1, shard: ShardId(0), number },
                envelope: &envelope,
                remaining: &[0],
                head: &[b'r'; 150],
                body,
                shape: Shape::default(),
                internal: false,
                listener: "apps",
                source: None,
                source_key: 0,
                size: octets,
                created_unix_ms: 1_700_000_000_000,
                pool: 0,
                attempts: 0,
            };
            run.spool.append(&kept, number, now, &run.hands).expect("there is room");
        }
        while run.durable < number {
            run.turn(done);
        }
    }
    let (cpu_used, took) = (cpu() - cpu_before, wall.elapsed());
    while !run.spool.is_settled() {
        run.turn(done);
    }
    let usage = run.spool.usage();
    let groups = usage.groups - before.groups;
    println!(
        "{number} messages of {octets} octets in {took:.2?}: {:.0}/s, {:.2} us of CPU each, {groups} syncs, {:.0} messages to one; {} files, index {} octets a message",
        number as f64 / took.as_secs_f64(),
        cpu_used.as_secs_f64() * 1e6 / number as f64,
        number as f64 / groups as f64,
        usage.segments,
        usage.index_bytes / usage.messages.max(1),
    );
}

fn take(octets: u64, hands: &mut Uring) -> Vec<Extent> {
    let (mut extents, mut left) = (Vec::new(), octets);
    while left > 0 {
        let extent = hands.take().expect("buffers enough");
        let len = left.min(extent.len.into());
        extents.push(extent.slice(0..len as usize));
        left -= len;
    }
    extents
}
