//! What we know of each stream, and the table of them.

use super::tag::{Op, SLOT_BITS, Tag};
use crate::handle::{ListenerId, StreamId};
use crate::net::Cause;
use crate::sys::batch::Batch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nobody's.
    Vacant,
    /// Accepted; its peer's address is being asked for.
    Naming {
        listener: ListenerId,
    },
    Opening,
    Open,
    /// Its place in the file table is being emptied; over once nothing is outstanding.
    Closing(Cause),
}

pub(super) struct Stream {
    generation: u32,
    pub(super) phase: Phase,
    /// Its place in the ring's file table.
    pub(super) direct: u32,
    /// Requests whose last completion is still to come.
    pub(super) outstanding: u32,
    /// A multishot receive is under way…
    pub(super) receiving: bool,
    /// …and has been cancelled.
    pub(super) cancelled: bool,
    /// In `starved`: receives again when there are buffers.
    pub(super) starved: bool,
    pub(super) paused: bool,
    /// In `dirty`: to be looked at when the next turn begins.
    pub(super) dirty: bool,
    /// Marks passed and not yet told, of a stream that is closing.
    pub(super) passed: u32,
    /// No event has named it, so none shall.
    pub(super) unheard: bool,
    /// To be closed for that cause once nothing is left to send.
    pub(super) ending: Option<Cause>,
    /// The peer's FIN does not end it yet.
    pub(super) held: bool,
    /// Sending failed so; what arrived before is still being received.
    pub(super) failed: Option<i32>,
    /// What was written since the last send.
    pub(super) queued: Option<Box<Batch>>,
    /// What the kernel is sending.
    pub(super) flying: Option<Box<Batch>>,
}

impl Stream {
    fn vacant() -> Stream {
        Stream {
            generation: 0,
            phase: Phase::Vacant,
            direct: 0,
            outstanding: 0,
            receiving: false,
            cancelled: false,
            starved: false,
            paused: false,
            dirty: false,
            passed: 0,
            unheard: false,
            ending: None,
            held: false,
            failed: None,
            queued: None,
            flying: None,
        }
    }

    /// Something may still be written to it.
    pub(super) fn takes_writes(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Opening)
            && self.ending != Some(Cause::Local)
            && self.failed.is_none()
    }

    /// It should be receiving if it can.
    pub(super) fn wants_to_receive(&self) -> bool {
        self.phase == Phase::Open && !self.paused && self.ending != Some(Cause::Peer)
    }
}

/// All streams of a shard, by slot. Grows to the most that ever were at a time.
#[derive(Default)]
pub(super) struct Streams {
    all: Vec<Stream>,
    free: Vec<u32>,
    /// Their `Closed` was in the last turn's events, which may still be being read.
    resting: Vec<u32>,
}

impl Streams {
    pub(super) fn live(&self) -> usize {
        self.all.len() - self.free.len() - self.resting.len()
    }

    /// A new stream in a slot that is free.
    pub(super) fn add(&mut self, phase: Phase, direct: u32) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.all.push(Stream::vacant());
            (self.all.len() - 1) as u32
        });
        assert!(slot < 1 << SLOT_BITS, "more streams than can be named");
        let stream = &mut self.all[slot as usize];
        let generation = stream.generation.wrapping_add(1);
        *stream = Stream { generation, phase, direct, ..Stream::vacant() };
        slot
    }

    /// The slot is nobody's, and free from the next turn on.
    pub(super) fn remove(&mut self, slot: u32) {
        self.all[slot as usize].phase = Phase::Vacant;
        self.resting.push(slot);
    }

    /// What rested is free now.
    pub(super) fn next_turn(&mut self) {
        self.free.append(&mut self.resting);
    }

    pub(super) fn id(&self, slot: u32) -> StreamId {
        StreamId { slot, generation: self.all[slot as usize].generation }
    }

    pub(super) fn tag(&self, op: Op, slot: u32) -> u64 {
        Tag { op, slot, generation: self.all[slot as usize].generation }.pack()
    }

    pub(super) fn at(&mut self, slot: u32) -> &mut Stream {
        &mut self.all[slot as usize]
    }

    /// The slot of that stream, if it still is.
    pub(super) fn find(&self, id: StreamId) -> Option<u32> {
        let stream = self.all.get(id.slot as usize)?;
        (stream.generation == id.generation && stream.phase != Phase::Vacant).then_some(id.slot)
    }

    /// The slots of all there are.
    pub(super) fn slots(&self) -> Vec<u32> {
        (0..self.all.len() as u32).filter(|&slot| self.all[slot as usize].phase != Phase::Vacant).collect()
    }
}
