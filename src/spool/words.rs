//! What the spool is told, and what it tells.

use std::net::IpAddr;
use std::time::Duration;

use super::group::Parts;
use super::meta::{self, EncodedEnvelope};
use super::remaining::Remaining;
use crate::handle::{Extent, FileId, MessageId, ShardId, Ticket};
use crate::protocol::wire::data::Shape;
use crate::protocol::{Envelope, ReplyBuf};
use crate::time::Instant;

/// How a shard's spool is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose it is; its own log has this number.
    pub shard: ShardId,
    /// How many shards there are: log `k` belongs to shard `k` modulo this.
    pub shards: u16,
    /// Octets of a log's file, a multiple of 4096. No message can be larger than one.
    pub segment_bytes: u64,
    /// Octets the log's files may take together; a few files more where nothing else makes room for what ends mail.
    pub bytes_max: u64,
    /// Messages kept at a time.
    pub entries_max: usize,
    /// Octets of memory for the index.
    pub index_bytes_max: usize,
    /// How long to wait after the first, second, … attempt; the last one repeats.
    pub retry: Vec<Duration>,
    /// A message older than this is given up after an attempt.
    pub max_age: Duration,
    /// Random, by process: what tells records from what looks like them in a message.
    pub salt: u64,
}

impl Default for Options {
    fn default() -> Options {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Options {
            shard: ShardId(0),
            shards: 1,
            segment_bytes: 64 << 20,
            bytes_max: 10 << 30,
            entries_max: 10_000_000,
            index_bytes_max: 4 << 30,
            retry: [1, 5, 15, 60, 120, 240].map(minutes).to_vec(),
            max_age: minutes(4 * 24 * 60),
            salt: 0,
        }
    }
}

/// A message's entry in its shard's index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EntryId {
    /// Its place.
    pub slot: u32,
    /// Tells the place's users apart.
    pub generation: u32,
}

/// Why a message is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no room: 452 4.3.1.
    Full,
    /// The disk fails: 451 4.3.0.
    Failing,
}

impl Refusal {
    /// What an errno amounts to: ENOSPC, EDQUOT and EFBIG say that there is no room.
    pub const fn of(errno: i32) -> Refusal {
        match errno {
            28 | 122 | 27 => Refusal::Full,
            _ => Refusal::Failing,
        }
    }
}

/// A message to be kept. The body's buffers must stay until it is durable or not kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Its name.
    pub id: MessageId,
    /// Who it is from and for.
    pub envelope: &'a Envelope,
    /// The recipients that are left, as indexes into the envelope.
    pub remaining: &'a [u16],
    /// What goes before the body.
    pub head: &'a [u8],
    /// The body, as it came.
    pub body: &'a [Extent],
    /// How it stands.
    pub shape: Shape,
    /// Made here: never bounced itself.
    pub internal: bool,
    /// The listener it came by.
    pub listener: &'a str,
    /// Where it came from.
    pub source: Option<IpAddr>,
    /// The key of that address, for picks by source.
    pub source_key: u64,
    /// Octets of the body.
    pub size: u64,
    /// When it came, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// By which pool it goes next.
    pub pool: u16,
    /// Attempts made so far.
    pub attempts: u8,
}

/// What never changes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageFacts<'a> {
    /// Its name.
    pub id: MessageId,
    /// The listener it came by.
    pub listener: &'a str,
    /// Where it came from.
    pub source: Option<IpAddr>,
    /// The key of that address.
    pub source_key: u64,
    /// Octets of the body.
    pub size: u64,
    /// How it stands.
    pub shape: Shape,
    /// Made here.
    pub internal: bool,
    /// When it came, in milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// What is known of an entry.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Which one.
    pub entry: EntryId,
    /// What never changes.
    pub message: MessageFacts<'a>,
    /// The envelope, to be unpacked.
    pub envelope: EncodedEnvelope<'a>,
    /// Octets that go before the body; a load brings them first.
    pub head_len: u32,
    /// Octets of the body.
    pub body_len: u32,
    /// Attempts made.
    pub attempts: u8,
    /// By which pool it goes next; [`NO_POOL`](super::NO_POOL) if this run has not tried it yet.
    pub pool: u16,
    /// When it is tried next; `None` while somebody is at it, or it is suspended.
    pub due: Option<Instant>,
    /// It is held back until it is resumed.
    pub suspended: bool,
    /// Somebody is at it.
    pub active: bool,
    /// It may not go before then (RFC 4865).
    pub held_until: Option<Instant>,
    /// Its sender was told of the delay.
    pub delay_warned: bool,
    /// Its sender was told that the time it gave is over (RFC 2852).
    pub late_told: bool,
    pub(super) remaining: &'a Remaining,
    pub(super) reply: Option<&'a [u8]>,
}

impl Facts<'_> {
    /// The recipients that are left, as indexes into the envelope, ascending.
    pub fn remaining(&self) -> impl Iterator<Item = u16> + '_ {
        self.remaining.iter()
    }

    /// The last reply it was put off with (the text's first 200 octets).
    pub fn reply(&self) -> Option<ReplyBuf> {
        self.reply.and_then(meta::decode_reply)
    }
}

/// What the hands are to do. Each has its completion told by [`Spool::handle_completion`].
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// Write these, durably, and complete with the octets written.
    Write {
        /// For the completion.
        ticket: Ticket,
        /// Where.
        file: FileId,
        /// From which octet on.
        at: u64,
        /// What.
        parts: Parts<'a>,
    },
    /// Fill these extents from there, and complete with the octets read.
    Read {
        /// For the completion.
        ticket: Ticket,
        /// Where.
        file: FileId,
        /// From which octet on.
        at: u64,
        /// Where to.
        extents: &'a [Extent],
    },
    /// Make a file of so many zeroes, durable with its name.
    Create {
        /// For the completion.
        ticket: Ticket,
        /// Which.
        file: FileId,
        /// How large.
        bytes: u64,
    },
    /// Remove a file, durably. It need not be there.
    Remove {
        /// For the completion.
        ticket: Ticket,
        /// Which.
        file: FileId,
    },
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The message is on disk. (Or it was over before it had to be.)
    Durable {
        /// Which.
        entry: EntryId,
        /// What `append` was given.
        token: u64,
    },
    /// It is not, and its entry is no more.
    NotKept {
        /// Which it was.
        entry: EntryId,
        /// What `append` was given.
        token: u64,
        /// Why.
        errno: i32,
    },
    /// Head and body lie in the extents given.
    Loaded {
        /// Which.
        entry: EntryId,
        /// What `load` was given.
        token: u64,
    },
    /// A part lies in the extents given.
    PartLoaded {
        /// Of which.
        entry: EntryId,
        /// What `load_part` was given.
        token: u64,
        /// The checksum of all octets as far as that.
        crc: u32,
    },
    /// It cannot be read now, says the disk. It is kept and active as before: to be released for another time.
    Unreadable {
        /// Which.
        entry: EntryId,
        /// What `load` was given.
        token: u64,
        /// What the disk said.
        errno: i32,
    },
    /// What is read back is not what was written, or it cannot be read for good. The entry is active; what is left
    /// to do is to be done with it. Put off, it will be found damaged again.
    Damaged {
        /// Which.
        entry: EntryId,
        /// What `load` was given; none if it was read for the spool's own needs.
        token: Option<u64>,
    },
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Messages kept.
    pub messages: u64,
    /// Octets of their records.
    pub live_bytes: u64,
    /// Octets of all files.
    pub bytes: u64,
    /// Files.
    pub segments: u64,
    /// Octets of memory for the index.
    pub index_bytes: u64,
    /// Writes completed so far: syncs, that is.
    pub groups: u64,
    /// Of these, those that carried new messages.
    pub message_groups: u64,
    /// Messages these carried.
    pub grouped_messages: u64,
    /// Writes that failed so far.
    pub failures: u64,
    /// Messages found damaged so far.
    pub damaged: u64,
}
