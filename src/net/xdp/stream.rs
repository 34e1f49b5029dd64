//! What we know of each stream that goes by the interface, and the table of them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::frame::Head;
use super::paths::HopId;
use super::tcp::Connection;
use crate::handle::{Extent, ListenerId, StreamId};
use crate::net::Cause;
use crate::time::Instant;

/// How far a stream is with its owner, and with its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    /// Nobody's.
    #[default]
    Vacant,
    /// Its owner has it.
    Owned,
    /// Its `Closed` waits to be reported.
    Ended,
    /// Its owner has forgotten it; its connection is still ending.
    Orphan,
}

/// A mark not yet told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Where it is in the stream.
    pub(super) place: u64,
    /// When all before it had been sent once.
    pub(super) left_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What its owner calls it.
    name: Option<StreamId>,
    pub(super) phase: Phase,
    pub(super) connection: Connection,
    /// Who accepted it; `None`: we opened it.
    pub(super) listener: Option<ListenerId>,
    /// None: it never had a way, or is over.
    pub(super) head: Option<Head>,
    pub(super) hop: Option<HopId>,
    /// The place among our sockets of the one that it sends by.
    pub(super) socket: usize,
    /// The queue by which answers are to come, if that could be known.
    pub(super) answers_by: Option<u32>,
    /// The next stream that is found where this one is.
    pub(super) next_of_port: Option<u32>,
    pub(super) paused: bool,
    pub(super) held: bool,
    /// In `dirty`: to be looked at when the next turn begins.
    pub(super) dirty: bool,
    /// In `touched`: to be looked at when all that arrived has been.
    pub(super) touched: bool,
    /// In `starved`: bytes wait for buffers.
    pub(super) starved: bool,
    /// In the order of their places.
    pub(super) marks: VecDeque<Mark>,
    /// To be closed for that cause once nothing is left to send.
    pub(super) ending: Option<Cause>,
    /// What arrived in this turn, so far.
    pub(super) receipt: Option<Extent>,
}

impl Stream {
    /// Remembers of marks that have just been sent when that was.
    pub(super) fn note_left(&mut self, now: Instant) {
        let sent = self.connection.sent();
        for mark in self.marks.iter_mut().filter(|mark| mark.left_at.is_none() && mark.place <= sent) {
            mark.left_at = Some(now);
        }
    }

    /// Takes the oldest marks at `place` and before that left at one time: how many, and when.
    pub(super) fn pass_marks(&mut self, place: u64) -> Option<(u32, Option<Instant>)> {
        let left_at = self.marks.pop_front_if(|mark| mark.place <= place)?.left_at;
        let mut passed = 1;
        while self.marks.pop_front_if(|mark| mark.place <= place && mark.left_at == left_at).is_some() {
            passed += 1;
        }
        Some((passed, left_at))
    }

    pub(super) fn is_between(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.head.is_some_and(|head| head.local() == local && head.remote() == remote)
    }
}

/// What an owner calls a stream. A stream outlives its name: its connection may take long to end.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    generation: u32,
    /// Whose it is.
    slot: Option<u32>,
}

/// All of a shard's, by slot. Grows to the most that ever were at a time.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Vec<Stream>,
    free: Vec<u32>,
    names: Vec<Name>,
    free_names: Vec<u32>,
    /// Their `Closed` was in the last turn's events, which may still be being read.
    resting: Vec<u32>,
    owned: usize,
}

impl Streams {
    /// Those whose `Closed` was not yet reported.
    pub(super) fn owned(&self) -> usize {
        self.owned
    }

    /// A new stream in a slot that is free. Its connection is whatever was there before.
    pub(super) fn add(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.all.push(Stream::default());
            (self.all.len() - 1) as u32
        });
        let place = self.free_names.pop().unwrap_or_else(|| {
            self.names.push(Name::default());
            (self.names.len() - 1) as u32
        });
        let name = &mut self.names[place as usize];
        *name = Name { generation: name.generation.wrapping_add(1), slot: Some(slot) };
        let name = Some(StreamId { slot: place, generation: name.generation });
        let stream = &mut self.all[slot as usize];
        let connection = std::mem::take(&mut stream.connection);
        *stream = Stream { name, phase: Phase::Owned, connection, ..Stream::default() };
        self.owned += 1;
        slot
    }

    /// The `Closed` of the stream of that name has been reported: the name is free from the next turn on. The slot.
    pub(super) fn report(&mut self, name: StreamId) -> Option<u32> {
        let slot = self.names[name.slot as usize].slot.take()?;
        self.resting.push(name.slot);
        self.all[slot as usize].phase = Phase::Orphan;
        self.owned -= 1;
        Some(slot)
    }

    /// The slot is nobody's.
    pub(super) fn remove(&mut self, slot: u32) {
        let stream = &mut self.all[slot as usize];
        debug_assert!(stream.phase == Phase::Orphan && stream.head.is_none());
        stream.phase = Phase::Vacant;
        self.free.push(slot);
    }

    /// What rested is free now.
    pub(super) fn next_turn(&mut self) {
        self.free_names.append(&mut self.resting);
    }

    /// What the owner of an owned stream calls it.
    pub(super) fn id(&self, slot: u32) -> StreamId {
        self.all[slot as usize].name.unwrap_or(StreamId { slot: 0, generation: 0 })
    }

    pub(super) fn at(&mut self, slot: u32) -> &mut Stream {
        &mut self.all[slot as usize]
    }

    pub(super) fn get(&self, slot: u32) -> &Stream {
        &self.all[slot as usize]
    }

    /// The slot of that stream, if its owner still has it.
    pub(super) fn find(&self, id: StreamId) -> Option<u32> {
        let name = self.names.get(id.slot as usize).filter(|name| name.generation == id.generation)?;
        name.slot.filter(|&slot| self.all[slot as usize].phase == Phase::Owned)
    }

    /// The slots of all there are.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let slots: Vec<u32> = (0..self.all.len() as u32)
            .filter(|&slot| self.all[slot as usize].phase != Phase::Vacant)
            .collect();
        slots.into_iter()
    }
}
