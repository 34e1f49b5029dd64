//! What a message costs in memory: on a disk that takes everything at once, so that nothing else is there.

use std::time::Duration;

use postlane::handle::{Buffers, MessageId, Part, ShardId};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Enhanced, Envelope, Mail, MailParameters, Recipient, Reply};
use postlane::spool::{EntryId, Event, Kept, Options, Request, Spool};
use postlane::sys::arena::Arenas;
use postlane::sys::pool::Pool;
use postlane::time::Instant;

use crate::letter;

const MESSAGES: u64 = 200_000;
const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// Longer than any message waits for company.
const PATIENCE: Duration = Duration::from_millis(10);

/// Carries out all that is asked for. Nothing is read.
fn settle(spool: &mut Spool, pool: &mut Pool, durable: &mut Vec<EntryId>) {
    loop {
        let (ticket, octets) = match spool.poll_request(NOW + PATIENCE, pool) {
            None => break,
            Some(Request::Write { ticket, parts, .. }) => {
                let len = |part: Part<'_>| match part {
                    Part::Bytes(bytes) => bytes.len() as u32,
                    Part::Extent(extent) => extent.len,
                };
                (ticket, parts.map(len).sum())
            }
            Some(Request::Create { ticket, .. } | Request::Remove { ticket, .. }) => (ticket, 0),
            Some(Request::Read { .. }) => panic!("nothing is to be read"),
        };
        spool.handle_completion(ticket, Ok(octets), NOW, pool);
    }
    while let Some(event) = spool.poll_event() {
        let Event::Durable { entry, .. } = event else { panic!("{event:?}") };
        durable.push(entry);
    }
}

fn keep(spool: &mut Spool, pool: &mut Pool) -> (Vec<EntryId>, u64) {
    let (mut envelope, mut durable, mut addresses) = (Envelope::default(), Vec::new(), 0);
    let body = pool.alloc().unwrap();
    let body = [pool.fill(body, &[b'x'; 900]).unwrap()];
    for number in 0..MESSAGES {
        envelope.clear();
        let (sender, path) = ("newsletter@sender.example", format!("recipient{number}@receiver.example"));
        envelope.set_sender(&Mail { path: sender.as_bytes(), parameters: MailParameters::default() });
        envelope.push_recipient(&Recipient { path: path.as_bytes(), notify: None, orcpt: None });
        addresses += (sender.len() + path.len()) as u64;
        let kept = Kept {
            id: MessageId { epoch_ms: 1_700_000_000_000, shard: ShardId(3), number },
            envelope: &envelope,
            remaining: &[0],
            head: &[b'h'; 120],
            body: &body,
            shape: Shape::default(),
            internal: false,
            listener: "submission",
            source: Some([10, 1, 2, 3].into()),
            source_key: number,
            size: 900,
            created_unix_ms: 1_700_000_000_000,
            pool: 0,
            attempts: 0,
        };
        spool.append(&kept, number, NOW, pool).unwrap();
        if number % 100 == 99 {
            settle(spool, pool, &mut durable);
        }
    }
    settle(spool, pool, &mut durable);
    pool.release(body[0].buffer);
    (durable, addresses)
}

/// Waiting in the due queue as well, and what is said of it is what the allocator says.
#[test]
fn an_entry_takes_at_most_200_octets_and_its_addresses() {
    let mut pool = Pool::new(Arenas::new(1, 16).unwrap(), ShardId(0));
    let mut spool = Spool::new(Options::default(), 0);
    settle(&mut spool, &mut pool, &mut Vec::new());
    let (mut durable, mut addresses) = (Vec::new(), 0);
    let taken = allocation_counter::measure(|| {
        (durable, addresses) = keep(&mut spool, &mut pool);
        assert_eq!(durable.len() as u64, MESSAGES);
        durable.iter().for_each(|&entry| spool.release(entry, NOW));
    });
    // The list of names is the test's own.
    let real = taken.bytes_current as u64 - (durable.capacity() * size_of::<EntryId>()) as u64;
    let each = (real - addresses) as f64 / MESSAGES as f64;
    let said = (spool.usage().index_bytes - addresses) as f64 / MESSAGES as f64;
    println!("{said:.1} octets an entry and its addresses are said to be in use, {each:.1} are");
    assert!(each <= 200.0, "{each}");
    // (The allocator is not asked for the sixteen octets that it keeps with each piece.)
    assert!((said - 16.0 - each).abs() < 25.0, "{said} said, {each} taken");
}

/// Full is full, and there is room again when something is done.
#[test]
fn what_is_bounded_stays_so() {
    let mut pool = Pool::new(Arenas::new(1, 16).unwrap(), ShardId(0));
    let options = Options { entries_max: MESSAGES as usize, ..Options::default() };
    let mut spool = Spool::new(options, 0);
    let (durable, _) = keep(&mut spool, &mut pool);
    let mut envelope = Envelope::default();
    envelope.push_recipient(&Recipient { path: b"one@more.example", notify: None, orcpt: None });
    let kept = letter::plain(0, &envelope, b"", &[]);
    assert_eq!(spool.append(&kept, 0, NOW, &pool), Err(postlane::spool::Refusal::Full));
    let later = Reply::new(451, Enhanced(4, 4, 1), "later").to_buf();
    spool.defer(durable[0], 0, &later, NOW);
    spool.done_all(durable[1], NOW);
    assert!(spool.append(&kept, 0, NOW, &pool).is_ok());
    assert_eq!(spool.entry(durable[0]).unwrap().reply(), Some(later));
    assert!(spool.entry(durable[1]).is_none());
}
