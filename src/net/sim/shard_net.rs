//! A shard's `Net` in the simulated world.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::fabric::{Fabric, Happening, Listening};
use super::socket::{Owner, SocketId};
use crate::disk::Disk;
use crate::disk::sim::{Drive, Platter};
use crate::handle::{BufferId, Buffers, Extent, FileId, ListenerId, Part, ShardId, StreamId, Ticket};
use crate::net::{Cause, Event, Net};
use crate::sys::arena::Arenas;
use crate::sys::pool::Pool;
use crate::time::Instant;

/// What a shard wrote and the window has not yet taken.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Body(Extent),
    Mark,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: SocketId,
    pub(super) backlog: VecDeque<Piece>,
    pub(super) opened: bool,
    pub(super) paused: bool,
    /// To be ended, for that cause, once the backlog is empty.
    pub(super) ending: Option<Cause>,
    /// The peer's FIN does not end it yet.
    pub(super) held: bool,
    /// In `dirty`.
    pub(super) dirty: bool,
}

impl Stream {
    /// We have not closed it. (The peer may have: an answer still leaves.)
    fn takes_writes(&self) -> bool {
        self.ending != Some(Cause::Local)
    }
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) stream: Option<Stream>,
}

/// One shard's hands in a [`World`](super::World). Its `turn` never waits and lets no time pass.
#[derive(Debug)]
pub struct SimNet {
    pub(super) fabric: Rc<RefCell<Fabric>>,
    pub(super) shard: ShardId,
    pub(super) pool: Pool,
    pub(super) slots: Vec<Slot>,
    pub(super) slots_free: Vec<u32>,
    /// Slots whose `Closed` was reported by the last turn: its user may only now be reading it.
    pub(super) slots_resting: Vec<u32>,
    /// Slots with something written or asked for since the last turn.
    pub(super) dirty: Vec<u32>,
    /// What happened and was not yet reported.
    pub(super) events: VecDeque<Event>,
    /// Bytes wait that no buffer was free for.
    pub(super) starved: bool,
    /// The disk, if there is one.
    pub(super) drive: Option<Drive>,
    /// Buffers that this turn may still fill: as many as a kernel would have been lent.
    pub(super) lent: usize,
}

impl SimNet {
    pub(super) fn new(fabric: Rc<RefCell<Fabric>>, arenas: Arc<Arenas>, shard: ShardId) -> SimNet {
        let mut pool = Pool::new(arenas, shard);
        pool.overwrite_freed();
        SimNet {
            fabric,
            shard,
            pool,
            slots: Vec::new(),
            slots_free: Vec::new(),
            slots_resting: Vec::new(),
            dirty: Vec::new(),
            events: VecDeque::new(),
            starved: false,
            drive: None,
            lent: 0,
        }
    }

    /// From here on it has a disk.
    pub fn use_disk(&mut self, platter: Platter) {
        self.drive = Some(Drive::new(platter));
    }

    /// Asks something of the disk; the shard has a turn when that is done.
    fn ask(&mut self, what: impl FnOnce(&mut Drive, Instant) -> Instant) {
        let mut fabric = self.fabric.borrow_mut();
        let drive = self.drive.as_mut().expect("a shard that asks for a disk was given one");
        let due = what(drive, fabric.now);
        fabric.at(due, Happening::Disk { shard: self.shard });
    }

    /// Streams that exist: opened or accepted, their `Closed` not yet reported.
    pub fn streams(&self) -> usize {
        self.slots.len() - self.slots_free.len() - self.slots_resting.len()
    }

    /// Buffers somebody holds a reference to.
    pub fn buffers_held(&self) -> usize {
        self.pool.held()
    }

    /// Bytes written that no window has had room for yet.
    pub fn unsent_bytes(&self) -> usize {
        let streams = self.slots.iter().filter_map(|slot| slot.stream.as_ref());
        let len = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Body(extent) => extent.len as usize,
            Piece::Mark => 0,
        };
        streams.flat_map(|stream| &stream.backlog).map(len).sum()
    }

    /// Lends as much as a kernel would have of an arena of this size.
    pub(super) fn lend(&mut self) {
        self.lent = (self.pool.arenas().buffers_per_shard() / 16).clamp(4, 128);
    }

    pub(super) fn activate(&self) {
        self.fabric.borrow_mut().shards[self.shard.index()].active = true;
    }

    pub(super) fn take_slot(&mut self) -> u32 {
        self.slots_free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        })
    }

    pub(super) fn put(&mut self, slot: u32, socket: SocketId, opened: bool) -> StreamId {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.stream = Some(Stream {
            socket,
            backlog: VecDeque::new(),
            opened,
            paused: false,
            ending: None,
            held: false,
            dirty: false,
        });
        StreamId { slot, generation: entry.generation }
    }

    pub(super) fn id(&self, slot: u32) -> StreamId {
        StreamId { slot, generation: self.slots[slot as usize].generation }
    }

    /// The stream of that name, if it still is, and is to be looked at in the next turn.
    pub(super) fn touch(&mut self, id: StreamId) -> Option<&mut Stream> {
        let entry = self.slots.get_mut(id.slot as usize).filter(|entry| entry.generation == id.generation)?;
        let stream = entry.stream.as_mut()?;
        if !std::mem::replace(&mut stream.dirty, true) {
            self.dirty.push(id.slot);
        }
        self.fabric.borrow_mut().shards[self.shard.index()].active = true;
        Some(stream)
    }
}

impl Buffers for SimNet {
    fn bytes(&self, extent: Extent) -> &[u8] {
        self.pool.bytes(extent)
    }

    fn retain(&mut self, buffer: BufferId) {
        self.pool.retain(buffer);
    }

    fn release(&mut self, buffer: BufferId) {
        self.pool.release(buffer);
        if self.pool.free() > 0 && std::mem::take(&mut self.starved) {
            self.activate();
        }
    }

    fn append(&mut self, tail: Extent, piece: Extent) -> Option<Extent> {
        self.pool.append(tail, piece)
    }

    fn free(&self) -> usize {
        self.pool.free()
    }

    fn take(&mut self) -> Option<Extent> {
        self.pool.take()
    }
}

impl Disk for SimNet {
    fn write_file<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
    ) {
        self.ask(|drive, now| drive.write(ticket, file, at, parts, now));
    }

    fn read_file(&mut self, ticket: Ticket, file: FileId, at: u64, extents: &[Extent]) {
        self.ask(|drive, now| drive.read(ticket, file, at, extents, now));
    }

    fn create_file(&mut self, ticket: Ticket, file: FileId, bytes: u64) {
        self.ask(|drive, now| drive.create(ticket, file, bytes, now));
    }

    fn remove_file(&mut self, ticket: Ticket, file: FileId) {
        self.ask(|drive, now| drive.remove(ticket, file, now));
    }
}

impl Net for SimNet {
    fn listen(&mut self, listener: ListenerId, mut address: SocketAddr) -> io::Result<SocketAddr> {
        let mut fabric = self.fabric.borrow_mut();
        if address.port() == 0 {
            address.set_port(fabric.port());
        }
        let in_use = || Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        match fabric.listeners.entry(address).or_insert_with(|| Listening::Shards(Vec::new())) {
            Listening::Peer(_) => in_use(),
            Listening::Shards(shards) if shards.iter().any(|&(shard, _)| shard == self.shard) => in_use(),
            Listening::Shards(shards) => {
                shards.push((self.shard, listener));
                Ok(address)
            }
        }
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let mut fabric = self.fabric.borrow_mut();
        let own = (self.shard, listener);
        fabric.listeners.retain(|_, listening| match listening {
            Listening::Peer(_) => true,
            Listening::Shards(shards) => {
                shards.retain(|&entry| entry != own);
                !shards.is_empty()
            }
        });
        // What the kernel had queued and nobody accepted is reset.
        let accepts = std::mem::take(&mut fabric.shards[self.shard.index()].accepts);
        let (gone, kept) = accepts.into_iter().partition(|&(at, _)| at == listener);
        fabric.shards[self.shard.index()].accepts = kept;
        let gone: VecDeque<(ListenerId, SocketId)> = gone;
        gone.into_iter().for_each(|(_, socket)| fabric.reset(socket));
    }

    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>) -> StreamId {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let slot = self.take_slot();
        let mut fabric = self.fabric.borrow_mut();
        let local = SocketAddr::new(source.unwrap_or(any), fabric.port());
        let socket = fabric.connect(Owner::Shard { shard: self.shard, slot: Some(slot) }, local, to);
        drop(fabric);
        self.put(slot, socket, false)
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(stream) = self.touch(stream).filter(|stream| stream.takes_writes()) {
            match stream.backlog.back_mut() {
                Some(Piece::Bytes(tail)) => tail.extend_from_slice(bytes),
                _ => stream.backlog.push_back(Piece::Bytes(bytes.to_vec())),
            }
        }
    }

    fn write_body(&mut self, stream: StreamId, extents: &[Extent]) {
        if let Some(stream) = self.touch(stream).filter(|stream| stream.takes_writes()) {
            stream.backlog.extend(extents.iter().filter(|extent| extent.len > 0).map(|&e| Piece::Body(e)));
        }
    }

    fn mark(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream).filter(|stream| stream.takes_writes()) {
            stream.backlog.push_back(Piece::Mark);
        }
    }

    fn pause(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.paused = true;
        }
    }

    fn resume(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.paused = false;
            let socket = stream.socket;
            self.fabric.borrow_mut().changed(socket);
        }
    }

    fn hold(&mut self, stream: StreamId, held: bool) {
        if let Some(stream) = self.touch(stream) {
            stream.held = held;
        }
    }

    fn close(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.ending = Some(Cause::Local);
        }
    }

    fn abort(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.ending = Some(Cause::Local);
            stream.backlog.clear();
        }
    }

    fn wake(&mut self, shard: ShardId) {
        assert_ne!(shard, self.shard, "a shard does not wake itself");
        self.fabric.borrow_mut().shards[shard.index()].active = true;
    }

    fn turn(&mut self, _until: Instant, events_max: usize, events: &mut Vec<Event>) -> Instant {
        self.take_turn(events_max, events)
    }

    fn now(&self) -> Instant {
        self.fabric.borrow().now
    }
}

impl Drop for SimNet {
    /// What the kernel does for a process that is gone.
    fn drop(&mut self) {
        if let Some(drive) = &mut self.drive {
            drive.abandon(self.pool.arenas());
        }
        // A test that fails inside the world need not fail here as well.
        let Ok(mut fabric) = self.fabric.try_borrow_mut() else {
            return;
        };
        let own = std::mem::take(&mut fabric.shards[self.shard.index()]);
        for listening in fabric.listeners.values_mut() {
            if let Listening::Shards(shards) = listening {
                shards.retain(|&(shard, _)| shard != self.shard);
            }
        }
        fabric.listeners.retain(|_, it| !matches!(it, Listening::Shards(shards) if shards.is_empty()));
        own.accepts.into_iter().for_each(|(_, socket)| fabric.reset(socket));
        let streams = self.slots.iter_mut().filter_map(|slot| slot.stream.take());
        streams.for_each(|stream| fabric.close(stream.socket));
    }
}
