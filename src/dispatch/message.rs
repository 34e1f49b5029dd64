//! What travels from a session to a link, within a shard and between them: envelope and body, shared, never
//! copied.

use std::net::IpAddr;
use std::sync::Arc;

use super::delivery::DeliveryId;
use super::owner::Way;
use super::streaming::Part;
use super::timely::Deadline;
pub use crate::handle::MessageId;
use crate::handle::{Buffers, Extent, ListenerId, ShardId};
use crate::limits::HEAD_KEPT_BYTES_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::wire::command::BodyKind;
use crate::protocol::wire::data::{Form, Shape};
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;

/// A message, complete once it is shared.
#[derive(Debug, Default)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// Who it is from and for.
    pub envelope: Envelope,
    /// For each recipient the shard that delivers it, and by which pool.
    pub ways: Vec<Way>,
    /// What goes before the body: our `Received:` line, or the whole of a notice.
    pub head: Vec<u8>,
    /// The body as it came, by DATA with its final dot. In the arena of the shard that took it.
    pub body: Vec<Extent>,
    /// The key of the address it came from, for picks by source.
    pub source: u64,
    /// It is on disk, or will be: it need not be delivered now.
    pub kept: bool,
    /// That address, and the listener that took it; a message made here has neither.
    pub origin: Option<IpAddr>,
    /// See `origin`.
    pub listener: Option<ListenerId>,
    /// From when on it may go.
    pub release: Instant,
    /// By when it is wanted, if its sender said so.
    pub deadline: Option<Deadline>,
    /// Octets of the body as it came.
    pub size: u64,
    /// How they stand.
    pub shape: Shape,
    /// It leaves while it is still arriving, or being read from the disk: its body goes in parts, and `body` stays empty.
    pub streamed: bool,
    /// Of a streamed message to several: our line and its header, plain, for a notice when the body is gone.
    pub beginning: Vec<u8>,
    /// Made here (a notice): nobody waits for an answer, and no notice is ever made of it.
    pub internal: bool,
}

impl Message {
    /// Octets of the message that upstreams are sent, without stuffed dots and final dot (RFC 1870 section 5).
    ///
    /// Of a streamed message: what was announced, or had come when it began to leave.
    pub fn plain_size(&self) -> u64 {
        let body = match self.shape.form {
            _ if self.is_arriving() => self.size.max(self.envelope.mail().size.unwrap_or(0)),
            Form::Stuffed => self.size.saturating_sub(self.shape.dots + b".\r\n".len() as u64),
            Form::Plain => self.size,
        };
        body + self.head.len() as u64
    }

    /// Is it sent before all of it is here? (What is kept is known, and read in parts.)
    fn is_arriving(&self) -> bool {
        self.streamed && !self.kept
    }

    /// The same as an upstream is told of it beforehand; 0: not known.
    pub fn declared_size(&self) -> u64 {
        if self.is_arriving() && self.envelope.mail().size.is_none() { 0 } else { self.plain_size() }
    }

    /// May it hold any octets (RFC 3030 section 3)? Then it goes by BDAT alone.
    pub fn is_binary(&self) -> bool {
        self.envelope.mail().body == BodyKind::Binary
    }

    /// Adds a piece of the body; the buffer is retained.
    pub(super) fn push_body(&mut self, piece: Extent, buffers: &mut impl Buffers) {
        self.size += u64::from(piece.len);
        append(&mut self.body, piece, buffers);
    }

    /// Lets go of the body's buffers.
    pub(super) fn release_body(&mut self, buffers: &mut impl Buffers) {
        self.body.drain(..).for_each(|extent| buffers.release(extent.buffer));
        self.size = 0;
    }

    fn clear(&mut self) {
        debug_assert!(self.body.is_empty(), "a body's buffers must be released first");
        self.envelope.clear();
        self.ways.clear();
        self.head.clear();
        self.head.shrink_to(HEAD_KEPT_BYTES_MAX);
        self.source = 0;
        self.origin = None;
        self.kept = false;
        (self.release, self.deadline) = (Instant::default(), None);
        self.listener = None;
        self.size = 0;
        self.shape = Shape::default();
        self.streamed = false;
        self.beginning.clear();
        self.internal = false;
    }
}

/// Adds a piece to a body; its buffer is retained. Small pieces are copied behind the last if they fit.
pub(super) fn append(body: &mut Vec<Extent>, piece: Extent, buffers: &mut impl Buffers) {
    if let Some(last) = body.last_mut() {
        if last.buffer == piece.buffer && last.start + last.len == piece.start {
            last.len += piece.len;
            return;
        }
        if piece.len <= crate::limits::APPEND_BYTES_MAX
            && let Some(grown) = buffers.append(*last, piece)
        {
            *last = grown;
            return;
        }
    }
    buffers.retain(piece.buffer);
    body.push(piece);
}

/// Messages that are not in use, kept for their allocations.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Arc<Message>>);

impl Spares {
    const MAX: usize = 1024;

    /// An empty message that nobody else holds.
    pub(super) fn take(&mut self) -> Arc<Message> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes one back; its body's buffers have been released. One that somebody still holds is let go.
    pub(super) fn put(&mut self, mut message: Arc<Message>) {
        if self.0.len() < Spares::MAX
            && let Some(inner) = Arc::get_mut(&mut message)
        {
            inner.clear();
            self.0.push(message);
        }
    }
}

/// The message as long as it is not shared yet: while it is received.
pub(super) fn unshared(message: &mut Arc<Message>) -> &mut Message {
    Arc::get_mut(message).expect("a message is shared only once it is complete")
}

/// A transaction's name on the shard that took it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransactionId {
    /// Its place there.
    pub slot: u32,
    /// Tells the place's users apart.
    pub generation: u32,
}

/// An upstream's place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its pool.
    pub pool: u16,
    /// Its number there.
    pub upstream: u16,
}

/// What was said of one recipient.
#[derive(Clone, Debug)]
pub struct Word {
    /// Its place in the envelope.
    pub recipient: u16,
    /// An upstream's words, or ours.
    pub reply: ReplyBuf,
    /// The upstream that had to do with it.
    pub by: Option<Place>,
}

/// What became of a group of recipients.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether an upstream took it for all recipients not in `refused`.
    pub accepted: bool,
    /// The upstream's words, or ours; for all recipients not in `refused`.
    pub reply: ReplyBuf,
    /// The upstream that had to do with that.
    pub by: Option<Place>,
    /// Recipients that fared otherwise.
    pub refused: Vec<Word>,
    /// Those of the accepted whose sender asked to hear of it (NOTIFY=SUCCESS), and whose upstream does not offer DSN: it
    /// falls to us to say so (RFC 3461 5.2.2).
    pub relayed: Vec<Word>,
}

/// A group of recipients: those of a transaction that one shard delivers by one pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupId {
    /// The shard that took the message.
    pub origin: ShardId,
    /// Its transaction there.
    pub transaction: TransactionId,
    /// By which pool.
    pub pool: u16,
}

/// Where a group of a streamed message stands, at the shard that delivers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegId {
    /// Its place there.
    pub delivery: DeliveryId,
    /// Tells this offer to an upstream from earlier and later ones.
    pub stamp: u32,
}

/// Where the outcome of a group is written that another shard delivers. It goes there empty and comes home filled in: so
/// letters are small, and none of them allocates.
pub type Slip = Box<Option<Outcome>>;

/// Mail between shards.
#[derive(Debug)]
pub enum Letter {
    /// "Deliver this to those of its recipients that you own and this pool takes."
    Group {
        /// Which they are, and who asks.
        group: GroupId,
        /// The message.
        message: Arc<Message>,
        /// Whether they are all the recipients there are.
        whole: bool,
        /// Empty.
        slip: Slip,
    },
    /// "This is what became of it."
    Verdict {
        /// Who delivered.
        shard: ShardId,
        /// The asker's transaction.
        transaction: TransactionId,
        /// The message goes home, so that its allocations can be used again.
        message: Arc<Message>,
        /// The pool that the group was sent to.
        pool: u16,
        /// What became of it.
        slip: Slip,
    },
    /// "The upstream waits for the body of this streamed message", from its start.
    Ready {
        /// Who delivers.
        shard: ShardId,
        /// For whom.
        group: GroupId,
        /// Where its parts are to go.
        leg: LegId,
    },
    /// "This part of it comes next."
    Part {
        /// For whom.
        group: GroupId,
        /// Where to.
        leg: LegId,
        /// The part.
        part: Arc<Part>,
    },
    /// "That part has been sent."
    PartSent {
        /// Who delivers.
        shard: ShardId,
        /// For whom.
        group: GroupId,
        /// Which part.
        number: u32,
    },
    /// "Nobody is to get it any more." The verdict follows all the same.
    Withdraw {
        /// For whom.
        group: GroupId,
        /// Why.
        why: Withdrawal,
    },
}

/// Why nobody is to get a message any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Withdrawal {
    /// No more of it comes.
    Lost,
    /// The time that its sender gave it is over. What an upstream may have all of goes on.
    TooLate,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each pair of shards there is a ring of them, and each goes from one CPU's cache to another's.
    #[test]
    fn a_letter_takes_half_a_cache_line() {
        assert_eq!(size_of::<Letter>(), 32);
    }
}
