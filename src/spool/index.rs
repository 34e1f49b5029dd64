//! The index: an entry for each message kept, in chunks, so that growing moves nothing.

use super::remaining::Remaining;
use crate::time::Instant;

/// Entries to a chunk.
const CHUNK: usize = 4096;
/// No slot.
pub(super) const NIL: u32 = u32::MAX;

/// Flags that are on disk as well.
pub(super) mod flag {
    pub(in crate::spool) const SUSPENDED: u8 = 1;
    pub(in crate::spool) const DELAY_WARNED: u8 = 2;
    /// An operator has let it go before its time.
    pub(in crate::spool) const RELEASED: u8 = 4;
    pub(in crate::spool) const LATE_TOLD: u8 = 8;
    pub(in crate::spool) const ALL: u8 = 15;
}

/// How far an entry's record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Life {
    /// The slot is not in use.
    #[default]
    Free,
    /// In the log's queue, not written yet.
    Queued,
    /// Being written.
    Flying,
    /// On disk.
    Kept,
    /// Over; that it is has to be on disk before its place may be used again.
    Gone,
}

/// Whether its sender has given a time by which it is wanted, and something is to be done then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timed {
    No,
    Yes,
    /// And it is in the queue for that.
    Queued,
}

/// One message. What is rarely looked at is behind the two boxes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Encoded facts and envelope.
    pub(super) facts: Box<[u8]>,
    /// The last reply it was put off with, encoded.
    #[allow(clippy::box_collection, reason = "few have one, and an entry is to be small")]
    pub(super) reply: Option<Box<Vec<u8>>>,
    pub(super) remaining: Remaining,
    pub(super) number: u64,
    pub(super) due: Instant,
    pub(super) generation: u32,
    /// Where its record is: the segment's place in the log's table, and how far in, in units of 8 octets.
    pub(super) segment: u32,
    pub(super) at: u32,
    pub(super) meta_len: u32,
    pub(super) head_len: u32,
    pub(super) body_len: u32,
    pub(super) data_crc: u32,
    /// Neighbours in its segment's list of messages that can be moved.
    pub(super) next: u32,
    pub(super) previous: u32,
    pub(super) log: u16,
    pub(super) pool: u16,
    pub(super) attempts: u8,
    pub(super) flags: u8,
    pub(super) life: Life,
    /// Somebody is at it; it is in no due queue.
    pub(super) active: bool,
    /// It waits for the time from which on it may go.
    pub(super) held: bool,
    pub(super) timed: Timed,
    /// Its state has changed since it was last written.
    pub(super) dirty: bool,
    /// Its record is on the way to another segment.
    pub(super) moving: bool,
    /// How often it could not be read to be moved.
    pub(super) unread: u8,
    /// Its record cannot be read back.
    pub(super) damaged: bool,
    /// And nobody was told, as somebody was at it when that was found.
    pub(super) untold: bool,
    /// Its end is on disk.
    pub(super) over: bool,
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        matches!(self.life, Life::Queued | Life::Flying | Life::Kept)
    }

    /// Waits for its time in a due queue.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_live() && !self.active && self.flags & flag::SUSPENDED == 0
    }

    pub(super) fn record_bytes(&self) -> u64 {
        super::record::record_bytes(self.meta_len, self.head_len, self.body_len)
    }

    /// Where head and body begin in the file.
    pub(super) fn data_at(&self) -> u64 {
        u64::from(self.at) * super::record::ALIGN
            + super::record::HEADER_BYTES as u64
            + u64::from(self.meta_len)
    }

    fn heap_bytes(&self) -> usize {
        self.facts.len()
            + self.reply.as_ref().map_or(0, |reply| size_of::<Vec<u8>>() + reply.capacity())
            + self.remaining.heap_bytes()
    }
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            facts: Box::default(),
            reply: None,
            remaining: Remaining::NONE,
            number: 0,
            due: Instant::NEVER,
            generation: 0,
            segment: NIL,
            at: 0,
            meta_len: 0,
            head_len: 0,
            body_len: 0,
            data_crc: 0,
            next: NIL,
            previous: NIL,
            log: 0,
            pool: 0,
            attempts: 0,
            flags: 0,
            life: Life::Free,
            active: false,
            held: false,
            timed: Timed::No,
            dirty: false,
            moving: false,
            unread: 0,
            damaged: false,
            untold: false,
            over: false,
        }
    }
}

/// All entries, by slot.
#[derive(Debug, Default)]
pub(super) struct Index {
    chunks: Vec<Box<[Entry]>>,
    free: Vec<u32>,
    /// Slots that were ever in use.
    used: u32,
    heap_bytes: usize,
}

impl Index {
    /// Takes a slot for an entry; its generation is the slot's.
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push(std::iter::repeat_with(Entry::default).take(CHUNK).collect());
            }
            self.used += 1;
            self.used - 1
        });
        self.heap_bytes += entry.heap_bytes();
        let place = &mut self[slot];
        *place = Entry { generation: place.generation, ..entry };
        slot
    }

    /// Gives a slot back; names of its last user mean nobody.
    pub(super) fn remove(&mut self, slot: u32) {
        let entry = &mut self[slot];
        let (generation, bytes) = (entry.generation, entry.heap_bytes());
        *entry = Entry { generation: generation.wrapping_add(1), ..Entry::default() };
        self.heap_bytes -= bytes;
        self.free.push(slot);
    }

    /// Replaces the last reply.
    pub(super) fn set_reply(&mut self, slot: u32, reply: Option<Vec<u8>>) {
        let before = self[slot].heap_bytes();
        self[slot].reply = reply.map(Box::new);
        self.heap_bytes = self.heap_bytes - before + self[slot].heap_bytes();
    }

    /// Replaces who is left, when a record says so.
    pub(super) fn set_remaining(&mut self, slot: u32, remaining: Remaining) {
        let before = self[slot].heap_bytes();
        self[slot].remaining = remaining;
        self.heap_bytes = self.heap_bytes - before + self[slot].heap_bytes();
    }

    /// Slots in use.
    pub(super) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// Slots that were ever in use: all lie below.
    pub(super) fn slots(&self) -> u32 {
        self.used
    }

    /// Octets of memory, near enough: a heap piece costs its owner sixteen more.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Entry>()
            + self.heap_bytes
            + self.len() * 16
            + self.free.capacity() * 4
    }

    // Lists of slots, threaded through the entries.

    pub(super) fn link(&mut self, first: &mut u32, slot: u32) {
        debug_assert!(self[slot].next == NIL && self[slot].previous == NIL && *first != slot);
        self[slot].next = *first;
        if *first != NIL {
            self[*first].previous = slot;
        }
        *first = slot;
    }

    pub(super) fn unlink(&mut self, first: &mut u32, slot: u32) {
        let (next, previous) = (self[slot].next, self[slot].previous);
        if previous != NIL {
            self[previous].next = next;
        } else if *first == slot {
            *first = next;
        } else {
            return;
        }
        if next != NIL {
            self[next].previous = previous;
        }
        (self[slot].next, self[slot].previous) = (NIL, NIL);
    }
}

impl std::ops::Index<u32> for Index {
    type Output = Entry;

    fn index(&self, slot: u32) -> &Entry {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

impl std::ops::IndexMut<u32> for Index {
    fn index_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}
