//! What we know of each stream that goes by the interface, and the table of them.

use std::net::SocketAddr;

use super::frame::Head;
use super::paths::HopId;
use super::tcp::Connection;
use crate::handle::{Extent, StreamId};
use crate::net::Cause;

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

#[derive(Debug, Default)]
pub(super) struct Stream {
    generation: u32,
    pub(super) phase: Phase,
    pub(super) connection: Connection,
    /// None: it never had a way.
    pub(super) head: Option<Head>,
    pub(super) hop: Option<HopId>,
    /// The place among our sockets of the one that it sends by.
    pub(super) socket: usize,
    /// The next stream with the same local port.
    pub(super) next_of_port: Option<u32>,
    pub(super) paused: bool,
    pub(super) held: bool,
    /// In `dirty`: to be looked at when the next turn begins.
    pub(super) dirty: bool,
    /// In `touched`: to be looked at when all that arrived has been.
    pub(super) touched: bool,
    /// In `starved`: bytes wait for buffers.
    pub(super) starved: bool,
    /// A body was written since the backlog was last empty.
    pub(super) sent_owed: bool,
    /// To be closed for that cause once nothing is left to send.
    pub(super) ending: Option<Cause>,
    /// What arrived in this turn, so far.
    pub(super) receipt: Option<Extent>,
}

impl Stream {
    pub(super) fn is_between(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.head.is_some_and(|head| head.local() == local && head.remote() == remote)
    }
}

/// All of a shard's, by slot. Grows to the most that ever were at a time.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Vec<Stream>,
    free: Vec<u32>,
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
        let stream = &mut self.all[slot as usize];
        let generation = stream.generation.wrapping_add(1);
        let connection = std::mem::take(&mut stream.connection);
        *stream = Stream { generation, phase: Phase::Owned, connection, ..Stream::default() };
        self.owned += 1;
        slot
    }

    /// Its `Closed` has been reported. True: its connection is over as well, so that it is to be removed.
    pub(super) fn report(&mut self, slot: u32) -> bool {
        let stream = &mut self.all[slot as usize];
        stream.phase = Phase::Orphan;
        self.owned -= 1;
        stream.head.is_none() || stream.connection.is_over()
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

    pub(super) fn at(&mut self, slot: u32) -> &mut Stream {
        &mut self.all[slot as usize]
    }

    pub(super) fn get(&self, slot: u32) -> &Stream {
        &self.all[slot as usize]
    }

    /// The slot of that stream, if its owner still has it.
    pub(super) fn find(&self, id: StreamId) -> Option<u32> {
        let stream = self.all.get(id.slot as usize)?;
        (stream.generation == id.generation && stream.phase == Phase::Owned).then_some(id.slot)
    }

    /// The slots of all there are.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        let slots: Vec<u32> = (0..self.all.len() as u32)
            .filter(|&slot| self.all[slot as usize].phase != Phase::Vacant)
            .collect();
        slots.into_iter()
    }
}
