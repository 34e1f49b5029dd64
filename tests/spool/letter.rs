//! A message of a world: its octets follow from its number.

use postlane::handle::{Extent, MessageId, ShardId};
use postlane::protocol::wire::data::Shape;
use postlane::protocol::{Envelope, Mail, MailParameters, Recipient};
use postlane::spool::Kept;
use postlane::sys::pool::Pool;

/// How a message stands, as far as it has to survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// A bit for each recipient left.
    pub(crate) remaining: u128,
    pub(crate) attempts: u8,
    pub(crate) suspended: bool,
}

/// A message's name in the world.
pub(crate) fn id(number: u64) -> MessageId {
    MessageId { epoch_ms: 77, shard: ShardId(9), number }
}

/// A message with one recipient, and nothing told of it but what it is.
pub(crate) fn plain<'a>(number: u64, envelope: &'a Envelope, head: &'a [u8], body: &'a [Extent]) -> Kept<'a> {
    let octets = head.len() as u64 + body.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
    Kept {
        id: MessageId { epoch_ms: 1, shard: ShardId(0), number },
        envelope,
        remaining: &[0],
        head,
        body,
        shape: Shape::default(),
        internal: false,
        listener: "",
        source: None,
        source_key: 0,
        size: octets,
        created_unix_ms: 0,
        pool: 0,
        attempts: 0,
    }
}

fn mix(number: u64) -> u64 {
    let z = (number ^ 0x1234_5678_9abc_def0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z ^ z >> 29
}

pub(crate) fn recipients(number: u64) -> u16 {
    match mix(number) % 40 {
        0 => 100,
        1 => 65,
        n => 1 + (n % 3) as u16,
    }
}

fn head_len(number: u64) -> usize {
    (mix(number) >> 8) as usize % 90
}

fn body_len(number: u64) -> usize {
    let n = mix(number) >> 16;
    match n % 64 {
        0 => 0,
        1 => 16_000 + (n >> 8) as usize % 20_000,
        2..6 => (n >> 8) as usize % 5_000,
        _ => (n >> 8) as usize % 500,
    }
}

/// Head and body.
pub(crate) fn octets(number: u64, into: &mut Vec<u8>) -> usize {
    let (head, body) = (head_len(number), body_len(number));
    into.clear();
    let mut word = mix(number);
    // Some look like records: they must never be taken for any.
    if word.is_multiple_of(7) && body >= 8 {
        into.resize(head, b'h');
        into.extend_from_slice(b"PlRc\x01\x01\0\0");
    }
    while into.len() < head + body {
        word = word.rotate_left(11).wrapping_add(0x9e37_79b9_7f4a_7c15);
        into.extend_from_slice(&word.to_le_bytes());
    }
    into.truncate(head + body);
    head
}

pub(crate) fn envelope(number: u64, into: &mut Envelope) {
    into.clear();
    let sender = format!("s{number}@a.example");
    into.set_sender(&Mail { path: sender.as_bytes(), parameters: MailParameters::default() });
    for n in 0..recipients(number) {
        let path = format!("r{n}.{number}@b.example");
        into.push_recipient(&Recipient { path: path.as_bytes(), notify: None, orcpt: None });
    }
}

/// Puts a body into buffers, in pieces. None: there are not enough.
pub(crate) fn place(body: &[u8], pool: &mut Pool) -> Option<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    for piece in body.chunks(9_000) {
        let Some(buffer) = pool.alloc() else {
            release(&extents, pool);
            return None;
        };
        extents.push(pool.fill(buffer, piece)?);
    }
    Some(extents)
}

/// Lets go of buffers.
pub(crate) fn release(extents: &[Extent], pool: &mut Pool) {
    use postlane::handle::Buffers;
    extents.iter().for_each(|extent| pool.release(extent.buffer));
}
