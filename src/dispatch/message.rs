//! What travels from a session to a link, within a shard and between them: envelope and body, shared, never
//! copied.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::owner::Way;
use crate::handle::{Buffers, Extent, ListenerId, ShardId};
use crate::protocol::envelope::Envelope;
use crate::protocol::wire::data::{Form, Shape};
use crate::protocol::wire::reply::ReplyBuf;

/// A message's name: in the 250, in `Received:`, in every event. Unique across shards and restarts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MessageId {
    /// When the process started, in milliseconds since 1970.
    pub epoch_ms: u64,
    /// The shard that took it.
    pub shard: ShardId,
    /// Its number there.
    pub number: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:011X}.{:02X}.{:X}", self.epoch_ms, self.shard.0, self.number)
    }
}

/// A message, complete once it is shared.
#[derive(Debug, Default)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// Who it is from and for.
    pub envelope: Envelope,
    /// For each recipient the shard that delivers it, and by which pool.
    pub ways: Vec<Way>,
    /// What goes before the body: our `Received:` line, or the whole of a bounce.
    pub head: Vec<u8>,
    /// The body as it came, by DATA with its final dot. In the arena of the shard that took it.
    pub body: Vec<Extent>,
    /// The key of the address it came from, for picks by source.
    pub source: u64,
    /// That address, and the listener that took it; a message made here has neither.
    pub origin: Option<IpAddr>,
    /// See `origin`.
    pub listener: Option<ListenerId>,
    /// Octets of the body as it came.
    pub size: u64,
    /// How they stand.
    pub shape: Shape,
    /// Made here (a bounce): nobody waits for an answer, and it is never bounced itself.
    pub internal: bool,
}

impl Message {
    /// Octets of the message that upstreams are sent, without stuffed dots and final dot (RFC 1870 section 5).
    pub fn plain_size(&self) -> u64 {
        let body = match self.shape.form {
            Form::Stuffed => self.size.saturating_sub(self.shape.dots + b".\r\n".len() as u64),
            Form::Plain => self.size,
        };
        body + self.head.len() as u64
    }

    /// Adds a piece of the body; the buffer is retained. Small pieces are copied behind the last if they fit.
    pub(super) fn push_body(&mut self, piece: Extent, buffers: &mut impl Buffers) {
        self.size += u64::from(piece.len);
        if let Some(last) = self.body.last_mut() {
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
        self.body.push(piece);
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
        self.source = 0;
        self.origin = None;
        self.listener = None;
        self.size = 0;
        self.shape = Shape::default();
        self.internal = false;
    }
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionId {
    /// Its place there.
    pub slot: u32,
    /// Tells the place's users apart.
    pub generation: u32,
}

/// What became of a group of recipients.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether an upstream took it for all recipients not in `refused`.
    pub accepted: bool,
    /// The upstream's words, or ours; for all recipients not in `refused`.
    pub reply: ReplyBuf,
    /// Recipients (indexes into the envelope) that fared otherwise.
    pub refused: Vec<(u16, ReplyBuf)>,
}

/// Mail between shards.
#[derive(Debug)]
pub enum Letter {
    /// "Deliver this to those of its recipients that you own and this pool takes."
    Group {
        /// Who asks.
        origin: ShardId,
        /// Its transaction there.
        transaction: TransactionId,
        /// The message.
        message: Arc<Message>,
        /// By which pool.
        pool: u16,
        /// Whether they are all the recipients there are.
        whole: bool,
    },
    /// "This is what became of it."
    Verdict {
        /// The asker's transaction.
        transaction: TransactionId,
        /// The message goes home, so that its allocations can be used again.
        message: Arc<Message>,
        /// The way that the group was sent.
        way: Way,
        /// What became of it.
        outcome: Outcome,
    },
}
