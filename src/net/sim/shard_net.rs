//! A shard's `Net` in the simulated world.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::fabric::{Fabric, Listening};
use super::socket::{Owner, Phase, SocketId};
use crate::handle::{BufferId, Buffers, Extent, ListenerId, ShardId, StreamId};
use crate::net::{Cause, Event, Net};
use crate::sys::arena::{Arenas, BUFFER_BYTES};
use crate::sys::pool::Pool;
use crate::time::Instant;

/// What a shard wrote and the window has not yet taken.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Body(Extent),
}

#[derive(Debug)]
struct Stream {
    socket: SocketId,
    backlog: VecDeque<Piece>,
    opened: bool,
    paused: bool,
    /// A body was written since the backlog was last empty.
    sent_owed: bool,
    /// To be ended, for that cause, once the backlog is empty.
    ending: Option<Cause>,
    /// In `dirty`.
    dirty: bool,
}

impl Stream {
    /// We have not closed it. (The peer may have: an answer still leaves.)
    fn takes_writes(&self) -> bool {
        self.ending != Some(Cause::Local)
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    stream: Option<Stream>,
}

/// One shard's hands in a [`World`](super::World). Its `turn` never waits and lets no time pass.
#[derive(Debug)]
pub struct SimNet {
    fabric: Rc<RefCell<Fabric>>,
    shard: ShardId,
    pool: Pool,
    slots: Vec<Slot>,
    slots_free: Vec<u32>,
    /// Slots whose `Closed` was reported by the last turn: its user may only now be reading it.
    slots_resting: Vec<u32>,
    /// Slots with something written or asked for since the last turn.
    dirty: Vec<u32>,
    /// What happened and was not yet reported.
    events: VecDeque<Event>,
    /// Bytes wait that no buffer was free for.
    starved: bool,
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
        }
    }

    /// Streams that exist: opened or accepted, their `Closed` not yet reported.
    pub fn streams(&self) -> usize {
        self.slots.len() - self.slots_free.len() - self.slots_resting.len()
    }

    /// Buffers somebody holds a reference to.
    pub fn buffers_held(&self) -> usize {
        self.pool.held()
    }

    fn activate(&self) {
        self.fabric.borrow_mut().shards[self.shard.index()].active = true;
    }

    fn take_slot(&mut self) -> u32 {
        self.slots_free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        })
    }

    fn put(&mut self, slot: u32, socket: SocketId, opened: bool) -> StreamId {
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.stream = Some(Stream {
            socket,
            backlog: VecDeque::new(),
            opened,
            paused: false,
            sent_owed: false,
            ending: None,
            dirty: false,
        });
        StreamId {
            slot,
            generation: entry.generation,
        }
    }

    fn id(&self, slot: u32) -> StreamId {
        StreamId {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    /// The stream of that name, if it still is, and is to be looked at in the next turn.
    fn touch(&mut self, id: StreamId) -> Option<&mut Stream> {
        let entry = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|entry| entry.generation == id.generation)?;
        let stream = entry.stream.as_mut()?;
        if !std::mem::replace(&mut stream.dirty, true) {
            self.dirty.push(id.slot);
        }
        self.fabric.borrow_mut().shards[self.shard.index()].active = true;
        Some(stream)
    }

    /// The stream is over: nothing it was given is in use any more.
    fn end(&mut self, slot: u32, cause: Cause) {
        let stream = self.id(slot);
        if let Some(ended) = self.slots[slot as usize].stream.take() {
            self.fabric.borrow_mut().close(ended.socket);
            self.events.push_back(Event::Closed { stream, cause });
        }
    }

    /// Gives the window what it has room for; then ends what is to end.
    fn flush(&mut self, slot: u32) {
        let id = self.id(slot);
        let Some(stream) = self.slots[slot as usize].stream.as_mut() else {
            return;
        };
        let mut fabric = self.fabric.borrow_mut();
        let Some(phase) = fabric.sockets.get(&stream.socket).map(|socket| socket.phase) else {
            return;
        };
        if let (Phase::Failed(errno), true) = (phase, stream.opened) {
            stream.backlog.clear();
            // What came before the reset is still to be received, unless nobody wants it.
            if stream.paused || stream.ending == Some(Cause::Local) {
                drop(fabric);
                return self.end(slot, Cause::Failed(errno));
            }
            return fabric.changed(stream.socket);
        }
        let room = fabric.room(stream.socket);
        let bytes = take_front(&mut stream.backlog, room, self.pool.arenas());
        if !bytes.is_empty() {
            fabric.transmit(stream.socket, bytes);
        }
        if stream.backlog.is_empty() {
            if std::mem::take(&mut stream.sent_owed) {
                self.events.push_back(Event::Sent { stream: id });
            }
            if let Some(cause) = stream.ending {
                drop(fabric);
                self.end(slot, cause);
            }
        }
    }

    fn accept(&mut self, events_max: usize) {
        while self.events.len() < events_max {
            let next = self.fabric.borrow_mut().shards[self.shard.index()]
                .accepts
                .pop_front();
            let Some((listener, socket)) = next else { break };
            let slot = self.take_slot();
            let stream = self.put(slot, socket, true);
            let mut fabric = self.fabric.borrow_mut();
            let entry = fabric
                .sockets
                .get_mut(&socket)
                .expect("a shard's socket lives until the shard closes it");
            entry.owner = Owner::Shard {
                shard: self.shard,
                slot: Some(slot),
            };
            let peer = entry.remote;
            fabric.changed(socket);
            self.events.push_back(Event::Accepted {
                listener,
                stream,
                peer,
            });
        }
    }

    /// Looks at each socket on which something changed, once; what finds no room stays in line. False: the
    /// budget ended first.
    fn attend(&mut self, events_max: usize) -> bool {
        self.starved = false;
        let count = self.fabric.borrow().shards[self.shard.index()].ready.len();
        for _ in 0..count {
            if self.events.len() >= events_max {
                return false;
            }
            let mut fabric = self.fabric.borrow_mut();
            let Some(id) = fabric.shards[self.shard.index()].ready.pop_front() else {
                break;
            };
            let Some(socket) = fabric.sockets.get_mut(&id) else {
                continue;
            };
            socket.queued = false;
            let (owner, phase) = (socket.owner, socket.phase);
            drop(fabric);
            let Owner::Shard { slot: Some(slot), .. } = owner else {
                continue;
            };
            self.attend_slot(slot, id, phase, events_max);
        }
        true
    }

    fn attend_slot(&mut self, slot: u32, socket: SocketId, phase: Phase, events_max: usize) {
        let id = self.id(slot);
        let Some(stream) = self.slots[slot as usize].stream.as_mut() else {
            return;
        };
        if !stream.opened {
            match phase {
                Phase::Connecting => return,
                Phase::Failed(errno) => return self.end(slot, Cause::NotOpened(errno)),
                Phase::Open => {
                    stream.opened = true;
                    self.events.push_back(Event::Opened { stream: id });
                }
            }
        }
        self.flush(slot);
        self.receive(slot, socket, events_max);
    }

    fn receive(&mut self, slot: u32, socket: SocketId, events_max: usize) {
        let stream = self.id(slot);
        loop {
            let Some(state) = self.slots[slot as usize]
                .stream
                .as_mut()
                .filter(|stream| !stream.paused)
            else {
                return;
            };
            let mut fabric = self.fabric.borrow_mut();
            let Some(end) = fabric.sockets.get(&socket) else {
                return;
            };
            let (waiting, fin, phase) = (end.inbox.len().min(BUFFER_BYTES), end.fin_in, end.phase);
            let short_receive = fabric.path(end.path).short_receive;
            if waiting == 0 {
                drop(fabric);
                if let Phase::Failed(errno) = phase {
                    self.end(slot, Cause::Failed(errno));
                } else if fin && state.ending.is_none() {
                    // Not at once: what the shard writes in answer to this turn's events still leaves.
                    state.ending = Some(Cause::Peer);
                    self.touch(stream);
                }
                return;
            }
            let buffer = if self.events.len() < events_max {
                self.pool.alloc()
            } else {
                None
            };
            let Some(buffer) = buffer else {
                if let (Phase::Failed(errno), 0) = (phase, self.pool.free()) {
                    // Its own unsent bodies may be what holds the buffers.
                    drop(fabric);
                    return self.end(slot, Cause::Failed(errno));
                }
                self.starved |= self.pool.free() == 0;
                fabric.changed(socket);
                return;
            };
            let mut bytes_max = waiting;
            if waiting > 1 && fabric.random.chance(short_receive) {
                bytes_max = 1 + fabric.random.index(waiting - 1);
            }
            let bytes = fabric.read(socket, bytes_max);
            let extent = self
                .pool
                .fill(buffer, &bytes)
                .expect("a fresh buffer takes BUFFER_BYTES");
            self.events.push_back(Event::Received { stream, extent });
        }
    }

    /// Hands out what happened; a closed stream's slot rests until the next turn.
    fn report(&mut self, events_max: usize, events: &mut Vec<Event>) {
        for event in self.events.drain(..events_max.min(self.events.len())) {
            if let Event::Closed { stream, .. } = event {
                self.slots_resting.push(stream.slot);
            }
            events.push(event);
        }
    }
}

/// Takes at most `bytes_max` bytes off the backlog; extents are read only now, as a kernel would.
fn take_front(backlog: &mut VecDeque<Piece>, bytes_max: usize, arenas: &Arenas) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes_max {
        let room = bytes_max - taken.len();
        match backlog.front_mut() {
            None => break,
            Some(Piece::Bytes(bytes)) if bytes.len() > room => taken.extend(bytes.drain(..room)),
            Some(Piece::Body(extent)) if extent.len as usize > room => {
                arenas.copy_out(extent.slice(0..room), &mut taken);
                *extent = extent.slice(room..extent.len as usize);
            }
            Some(Piece::Bytes(bytes)) => {
                taken.append(bytes);
                backlog.pop_front();
            }
            Some(Piece::Body(extent)) => {
                arenas.copy_out(*extent, &mut taken);
                backlog.pop_front();
            }
        }
    }
    taken
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
}

impl Net for SimNet {
    fn listen(&mut self, listener: ListenerId, mut address: SocketAddr) -> io::Result<SocketAddr> {
        let mut fabric = self.fabric.borrow_mut();
        if address.port() == 0 {
            address.set_port(fabric.port());
        }
        let in_use = || Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        match fabric
            .listeners
            .entry(address)
            .or_insert_with(|| Listening::Shards(Vec::new()))
        {
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
        let any: IpAddr = if to.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        let slot = self.take_slot();
        let mut fabric = self.fabric.borrow_mut();
        let local = SocketAddr::new(source.unwrap_or(any), fabric.port());
        let socket = fabric.connect(
            Owner::Shard {
                shard: self.shard,
                slot: Some(slot),
            },
            local,
            to,
        );
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
            stream.backlog.extend(
                extents
                    .iter()
                    .filter(|extent| extent.len > 0)
                    .map(|&e| Piece::Body(e)),
            );
            stream.sent_owed = true;
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

    fn close(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.ending = Some(Cause::Local);
        }
    }

    fn abort(&mut self, stream: StreamId) {
        if let Some(stream) = self.touch(stream) {
            stream.ending = Some(Cause::Local);
            stream.sent_owed = false;
            stream.backlog.clear();
        }
    }

    fn wake(&mut self, shard: ShardId) {
        assert_ne!(shard, self.shard, "a shard does not wake itself");
        self.fabric.borrow_mut().shards[shard.index()].active = true;
    }

    fn turn(&mut self, _until: Instant, events_max: usize, events: &mut Vec<Event>) -> Instant {
        self.fabric.borrow_mut().shards[self.shard.index()].active = false;
        self.slots_free.append(&mut self.slots_resting);
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(stream) = self.slots[slot as usize].stream.as_mut() {
                stream.dirty = false;
                self.flush(slot);
            }
        }
        self.accept(events_max);
        let attended = self.attend(events_max);
        self.report(events_max, events);
        let mut fabric = self.fabric.borrow_mut();
        let attention = &mut fabric.shards[self.shard.index()];
        // Only the lack of buffers may leave work lying: `release` tells of that.
        let left = !attention.accepts.is_empty()
            || !self.dirty.is_empty()
            || (!attention.ready.is_empty() && !self.starved);
        attention.active = left || !attended || !self.events.is_empty();
        fabric.now
    }

    fn now(&self) -> Instant {
        self.fabric.borrow().now
    }
}
