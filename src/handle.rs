//! The small words every room shares: shards, streams, buffers, extents. Rank 0.
//!
//! An [`Extent`] is a piece of a received buffer. Pure rooms pass extents about and never hold the bytes;
//! [`Buffers`] is how they look at them, keep them and let them go.

use std::fmt;

/// A shard's number, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

impl ShardId {
    /// As an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A listener's number: its place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ListenerId(pub u16);

/// A byte stream of this shard's `net`. `slot` is small and reused; `generation` tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId {
    /// Index into tables by stream.
    pub slot: u32,
    /// Differs each time the slot is used anew.
    pub generation: u32,
}

/// Why a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// We closed or aborted it.
    Local,
    /// The peer closed it in order (FIN).
    Peer,
    /// The peer or the network reset it, or it failed otherwise: errno.
    Failed(i32),
    /// It could not be opened: errno (ECONNREFUSED, ETIMEDOUT, EADDRNOTAVAIL, …).
    NotOpened(i32),
}

/// A link's place in its shard's table of links.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkId(pub u32);

/// One buffer of one shard's arena. Only the shard `arena` may retain or release it; any shard that was
/// handed it may read it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BufferId {
    /// The shard whose arena it lies in.
    pub arena: ShardId,
    /// Its number within that arena.
    pub index: u32,
}

/// A piece of a buffer: `len` bytes from `start`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Which buffer.
    pub buffer: BufferId,
    /// First byte, from the buffer's start.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

impl Extent {
    /// The part of this extent that `range` (relative to its start) names.
    pub fn slice(self, range: std::ops::Range<usize>) -> Extent {
        debug_assert!(range.start <= range.end && range.end <= self.len as usize);
        Extent {
            buffer: self.buffer,
            start: self.start + range.start as u32,
            len: (range.end - range.start) as u32,
        }
    }
}

/// The shard's own received buffers, reference-counted without atomics: one shard, one thread.
///
/// A buffer arrives from `net` with one reference. Whoever keeps an extent retains its buffer once and
/// releases it once; at zero it goes back to receive again.
pub trait Buffers {
    /// The bytes of an extent of this shard's arena, or of another's that was handed over by it and is held there.
    fn bytes(&self, extent: Extent) -> &[u8];
    /// One more reference.
    fn retain(&mut self, buffer: BufferId);
    /// One reference less.
    fn release(&mut self, buffer: BufferId);
    /// Copies `piece` behind `tail` if there is room in `tail`'s buffer and nothing else has claimed it; the
    /// grown extent. Keeps bodies that trickle in from holding a buffer per packet.
    fn append(&mut self, tail: Extent, piece: Extent) -> Option<Extent>;
    /// Buffers that are neither held nor with the kernel: how much more can be kept.
    fn free(&self) -> usize;
    /// A whole buffer of one's own, with one reference, to be filled by a read. `None` when few are left: what
    /// arrives goes first. What lies in it until it is filled is of no meaning.
    fn take(&mut self) -> Option<Extent>;
}

/// A message's name: in the 250, in `Received:`, in every event. Unique across shards and restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId {
    /// When the process started, in milliseconds since 1970.
    pub epoch_ms: u64,
    /// The shard that took it.
    pub shard: ShardId,
    /// Its number there.
    pub number: u64,
}

impl MessageId {
    /// Appends its text, the same that `Display` gives: this way costs a tenth, and every message needs it twice.
    pub fn write(self, out: &mut Vec<u8>) {
        // Sixteen, four and sixteen digits, and a dot before each.
        let mut text = [0; 39];
        let mut at = text.len();
        let mut field = |mut value: u64, digits_min: usize| {
            let end = at;
            while value > 0 || end - at < digits_min {
                at -= 1;
                text[at] = b"0123456789ABCDEF"[value as usize % 16];
                value /= 16;
            }
            at -= 1;
            text[at] = b'.';
        };
        field(self.number, 1);
        field(self.shard.0.into(), 2);
        field(self.epoch_ms, 11);
        out.extend_from_slice(&text[at + 1..]);
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:011X}.{:02X}.{:X}", self.epoch_ms, self.shard.0, self.number)
    }
}

/// A file of the spool: `<spool>/<log>/<number>.seg`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId {
    /// The log's number: its directory.
    pub log: u16,
    /// The file's number there, from 1.
    pub number: u32,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}/{:08}.seg", self.log, self.number)
    }
}

/// Names a request to the disk until its completion.
pub type Ticket = u64;

/// A piece of what is written to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// These bytes, which are copied.
    Bytes(&'a [u8]),
    /// A piece of a buffer, which is not: it must stay until the completion.
    Extent(Extent),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_display_does() {
        let ids = [(0, 0, 0), (0x19A_0000_0000, 1, 7), (u64::MAX, u16::MAX, u64::MAX), (1, 0xAB, 0x1_0000)];
        for (epoch_ms, shard, number) in ids {
            let id = MessageId { epoch_ms, shard: ShardId(shard), number };
            let mut out = Vec::new();
            id.write(&mut out);
            assert_eq!(String::from_utf8(out).expect("hexadecimal"), id.to_string());
        }
    }
}
