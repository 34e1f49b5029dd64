//! A log's files, as the log sees them: which are in use, in what order, and what lies in them.

use std::collections::VecDeque;

use slab::Slab;

use super::index::{Index, NIL};

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) bytes: u64,
    pub(super) sequence: u64,
    /// As far as its writes were completed.
    pub(super) end: u64,
    /// Messages whose record lies here and whose end, if they are over, is not on disk yet.
    pub(super) live: u32,
    pub(super) live_bytes: u64,
    /// The messages of these that can be moved: a list through the index.
    pub(super) first: u32,
    /// Reads under way.
    pub(super) readers: u32,
    /// A write to it failed: it takes no more, and what lies in it is moved.
    pub(super) suspect: bool,
}

impl Segment {
    pub(super) fn new(number: u32, bytes: u64, sequence: u64) -> Segment {
        Segment {
            number,
            bytes,
            sequence,
            end: 0,
            live: 0,
            live_bytes: 0,
            first: NIL,
            readers: 0,
            suspect: false,
        }
    }
}

/// A log's files.
#[derive(Debug, Default)]
pub(super) struct Segments {
    table: Slab<Segment>,
    /// Those in use, by sequence, the oldest first.
    pub(super) order: VecDeque<u32>,
    /// Those that can be used anew, in the order they came free. The oldest goes first: what says that a message
    /// is over lies in no older file than the message, and so outlives it.
    pub(super) free: VecDeque<u32>,
    /// Those to be removed, in that order as well.
    pub(super) leaving: VecDeque<u32>,
    /// Octets of records of messages that are not over.
    pub(super) live_bytes: u64,
}

impl Segments {
    pub(super) fn insert(&mut self, segment: Segment) -> u32 {
        self.table.insert(segment) as u32
    }

    pub(super) fn forget(&mut self, at: u32) -> Segment {
        self.table.remove(at as usize)
    }

    pub(super) fn get(&self, at: u32) -> &Segment {
        &self.table[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Segment {
        &mut self.table[at as usize]
    }

    /// Files there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Those among them that failed.
    pub(super) fn suspects(&self) -> usize {
        self.table.iter().filter(|(_, segment)| segment.suspect).count()
    }

    /// Octets they take on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.table.iter().map(|(_, segment)| segment.bytes).sum()
    }

    /// Octets of those in use.
    pub(super) fn used_bytes(&self) -> u64 {
        self.order.iter().map(|&at| self.get(at).bytes).sum()
    }

    /// The sequence of the oldest in use.
    pub(super) fn tail(&self) -> Option<u64> {
        self.order.front().map(|&at| self.get(at).sequence)
    }

    /// The entry's record lies where the entry says.
    pub(super) fn occupy(&mut self, slot: u32, index: &mut Index) {
        let (at, bytes) = (index[slot].segment, index[slot].record_bytes());
        let segment = self.get_mut(at);
        segment.live += 1;
        segment.live_bytes += bytes;
        self.live_bytes += bytes;
    }

    /// It does no more.
    pub(super) fn vacate(&mut self, slot: u32, index: &mut Index) {
        let (at, bytes) = (index[slot].segment, index[slot].record_bytes());
        if at != NIL {
            let segment = self.get_mut(at);
            segment.live -= 1;
            segment.live_bytes -= bytes;
            self.live_bytes -= bytes;
            index[slot].segment = NIL;
        }
    }

    /// The entry can be moved from now on.
    pub(super) fn link(&mut self, slot: u32, index: &mut Index) {
        let at = index[slot].segment;
        index.link(&mut self.get_mut(at).first, slot);
    }

    /// It cannot.
    pub(super) fn unlink(&mut self, slot: u32, index: &mut Index) {
        let at = index[slot].segment;
        if at != NIL {
            index.unlink(&mut self.get_mut(at).first, slot);
        }
    }
}
