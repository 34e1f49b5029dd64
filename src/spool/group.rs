//! A group: what one write carries. Records are gathered here, then written and acknowledged together.

use super::index::Entry;
use super::meta::{self, State};
use super::record::{ALIGN, BLOCK, HEADER_BYTES, Header, Kind, Life};
use super::remaining::Remaining;
use super::{EntryId, Shared};
use crate::handle::{Extent, Part};
use crate::time::Instant;

/// Pieces to a write; the kernel takes no more than 1024 (UIO_MAXIOV).
const PIECES_MAX: usize = 1000;
/// A group that has this many octets takes no more records.
const BYTES_MAX: u64 = 4 << 20;
/// Memory for copied octets that a group keeps.
const STAGING_KEPT: usize = 1 << 20;

/// What a write is told about.
#[derive(Debug)]
pub(super) enum Member {
    /// A new message.
    Message { slot: u32, id: EntryId, token: u64 },
    /// A message moved from another segment, with the buffers it was read into and where it lies then.
    Moved { slot: u32, extents: Vec<Extent>, at: u32, meta_len: u32 },
    /// How a message stands; `over` if that it is.
    State { slot: u32, over: bool },
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// So many octets of the staging bytes.
    Staged(usize),
    Extent(Extent),
}

/// One write.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The segment's place in the log's table.
    pub(super) segment: u32,
    /// Where in the file it begins: at a block.
    pub(super) at: u64,
    /// Octets so far.
    pub(super) bytes: u64,
    /// Segments of a lower sequence are of no more use, it says.
    pub(super) tail: u64,
    /// It takes no records.
    is_closed: bool,
    pub(super) members: Vec<Member>,
    staging: Vec<u8>,
    pieces: Vec<Piece>,
    meta: Vec<u8>,
}

/// What the records of a group have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) life: Life,
    pub(super) tail: u64,
}

impl Group {
    pub(super) fn begin(&mut self, segment: u32, at: u64) {
        debug_assert!(at.is_multiple_of(BLOCK) && self.members.is_empty());
        (self.segment, self.at, self.bytes) = (segment, at, 0);
        self.is_closed = false;
        self.staging.clear();
        self.staging.shrink_to(STAGING_KEPT);
        self.pieces.clear();
    }

    /// Has it room for a record with so many extents?
    pub(super) fn takes(&self, extents: usize) -> bool {
        !self.is_closed
            && (self.members.is_empty()
                || self.pieces.len() + extents + 2 <= PIECES_MAX && self.bytes < BYTES_MAX)
    }

    /// Begins a segment: its first block.
    pub(super) fn put_segment_header(&mut self, header: &super::record::SegmentHeader) {
        self.tail = header.tail;
        let before = self.staging.len();
        header.encode(&mut self.staging);
        self.staged(before);
    }

    /// What is in it so far is all.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Adds a message's record: where it lies (in units of 8 octets) and how long its meta is.
    pub(super) fn put_message(
        &mut self,
        frame: Frame,
        entry: &Entry,
        head: &[u8],
        extents: &[Extent],
        clock: &Clock,
    ) -> (u32, u32) {
        self.meta.clear();
        meta::encode_state(&state_of(entry, clock), &mut self.meta);
        self.meta.extend_from_slice(&entry.facts);
        let (head_len, body_len) = (entry.head_len, entry.body_len);
        let place = self.put_header(frame, Kind::Message, entry, head_len, body_len);
        let before = self.staging.len();
        self.staging.extend_from_slice(head);
        self.staged(before);
        for &extent in extents.iter().filter(|extent| extent.len > 0) {
            self.pieces.push(Piece::Extent(extent));
            self.bytes += u64::from(extent.len);
        }
        self.pad(ALIGN);
        place
    }

    /// Adds how a message stands.
    pub(super) fn put_state(&mut self, frame: Frame, entry: &Entry, over: bool, clock: &Clock) {
        self.meta.clear();
        let mut state = state_of(entry, clock);
        if over {
            state = State { remaining: Remaining::NONE, reply: &[], ..state };
        }
        meta::encode_state(&state, &mut self.meta);
        self.put_header(frame, Kind::State, entry, 0, 0);
        self.pad(ALIGN);
    }

    /// Header and meta; where they lie and how long the meta is.
    fn put_header(
        &mut self,
        frame: Frame,
        kind: Kind,
        entry: &Entry,
        head_len: u32,
        body_len: u32,
    ) -> (u32, u32) {
        self.tail = frame.tail;
        let position = self.at + self.bytes;
        let meta_len = self.meta.len() as u32;
        let header = Header {
            kind,
            life: frame.life,
            position,
            group: (self.at / BLOCK) as u32,
            tail: frame.tail,
            number: entry.number,
            meta_len,
            head_len,
            body_len,
            meta_crc: crc32fast::hash(&self.meta),
            data_crc: if kind == Kind::Message { entry.data_crc } else { 0 },
        };
        let before = self.staging.len();
        self.staging.extend_from_slice(&header.encode());
        self.staging.extend_from_slice(&self.meta);
        self.staged(before);
        ((position / ALIGN) as u32, meta_len)
    }

    /// Fills up to a multiple of `align` with zeroes.
    pub(super) fn pad(&mut self, align: u64) {
        let missing = self.bytes.next_multiple_of(align) - self.bytes;
        let before = self.staging.len();
        self.staging.resize(before + missing as usize, 0);
        self.staged(before);
    }

    /// What was added to the staging bytes since `before` is a piece, or of the last one.
    fn staged(&mut self, before: usize) {
        let added = self.staging.len() - before;
        self.bytes += added as u64;
        match self.pieces.last_mut() {
            _ if added == 0 => {}
            Some(Piece::Staged(len)) => *len += added,
            _ => self.pieces.push(Piece::Staged(added)),
        }
    }

    /// What is to be written, in order.
    pub(super) fn parts(&self) -> Parts<'_> {
        Parts { staging: &self.staging, pieces: self.pieces.iter() }
    }
}

/// Octets that a record of an entry takes at most, whatever its state is when it is written.
pub(super) fn record_bytes_max(entry: &Entry) -> u64 {
    let state = 2 + 2 + 8 + 2 + entry.remaining.words().len().max(1) * 8 + 2 + 256;
    let payload = state + entry.facts.len() + entry.head_len as usize + entry.body_len as usize;
    (HEADER_BYTES + payload) as u64 + ALIGN
}

/// What ties the shard's clock to the calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Milliseconds since 1970 at the shard's clock's zero.
    pub(super) unix_at_zero_ms: u64,
}

impl Clock {
    pub(super) fn unix_ms(&self, at: Instant) -> u64 {
        self.unix_at_zero_ms.saturating_add(at.as_nanos() / 1_000_000)
    }

    /// The instant at which the calendar says that; the first there is if that was before.
    pub(super) fn instant(&self, unix_ms: u64) -> Instant {
        let ms = unix_ms.saturating_sub(self.unix_at_zero_ms);
        Instant::from_nanos(ms.saturating_mul(1_000_000))
    }
}

impl Shared {
    pub(super) fn clock(&self) -> Clock {
        Clock { unix_at_zero_ms: self.unix_at_zero_ms }
    }
}

fn state_of<'a>(entry: &'a Entry, clock: &Clock) -> State<'a> {
    State {
        attempts: entry.attempts,
        flags: entry.flags,
        pool: entry.pool,
        due_unix_ms: if entry.active { 0 } else { clock.unix_ms(entry.due) },
        remaining: entry.remaining.clone(),
        reply: entry.reply.as_deref().map(Vec::as_slice).unwrap_or_default(),
    }
}

/// The pieces of a write, in order.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    staging: &'a [u8],
    pieces: std::slice::Iter<'a, Piece>,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        match *self.pieces.next()? {
            Piece::Extent(extent) => Some(Part::Extent(extent)),
            Piece::Staged(len) => {
                let (bytes, rest) = self.staging.split_at(len);
                self.staging = rest;
                Some(Part::Bytes(bytes))
            }
        }
    }
}
