//! A shard's turn in the simulated world: what was written leaves, what arrived is told.

use std::collections::VecDeque;

use super::shard_net::{Piece, SimNet};
use super::socket::{Owner, Phase, SocketId};
use crate::handle::Buffers;
use crate::net::{Cause, Event};
use crate::sys::arena::{Arenas, BUFFER_BYTES};
use crate::time::Instant;

impl SimNet {
    pub(super) fn take_turn(&mut self, events_max: usize, events: &mut Vec<Event>) -> Instant {
        self.fabric.borrow_mut().shards[self.shard.index()].active = false;
        self.slots_free.append(&mut self.slots_resting);
        self.lend();
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(stream) = self.slots[slot as usize].stream.as_mut() {
                stream.dirty = false;
                self.flush(slot);
            }
        }
        self.complete_files(events_max);
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
        let (bytes, marks) = take_front(&mut stream.backlog, room, self.pool.arenas());
        if !bytes.is_empty() {
            fabric.transmit(stream.socket, bytes);
        }
        if marks > 0 {
            self.events.push_back(Event::Sent { stream: id, marks, left_at: None });
        }
        if stream.backlog.is_empty()
            && let Some(cause) = stream.ending.filter(|&cause| !stream.held || cause != Cause::Peer)
        {
            drop(fabric);
            self.end(slot, cause);
        }
    }

    fn complete_files(&mut self, events_max: usize) {
        let now = self.fabric.borrow().now;
        while self.events.len() < events_max
            && let Some(drive) = &mut self.drive
            && let Some((ticket, result)) = drive.complete(now, self.pool.arenas())
        {
            self.events.push_back(Event::Disk { ticket, result });
        }
    }

    fn accept(&mut self, events_max: usize) {
        while self.events.len() < events_max {
            let next = self.fabric.borrow_mut().shards[self.shard.index()].accepts.pop_front();
            let Some((listener, socket)) = next else { break };
            let slot = self.take_slot();
            let stream = self.put(slot, socket, true);
            let mut fabric = self.fabric.borrow_mut();
            let entry =
                fabric.sockets.get_mut(&socket).expect("a shard's socket lives until the shard closes it");
            entry.owner = Owner::Shard { shard: self.shard, slot: Some(slot) };
            let peer = entry.remote;
            fabric.changed(socket);
            self.events.push_back(Event::Accepted { listener, stream, peer });
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
            let Some(state) = self.slots[slot as usize].stream.as_mut().filter(|stream| !stream.paused)
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
            let may_take = self.events.len() < events_max && self.lent > 0;
            let buffer = if may_take { self.pool.alloc() } else { None };
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
            self.lent -= 1;
            let mut bytes_max = waiting;
            if waiting > 1 && fabric.random.chance(short_receive) {
                bytes_max = 1 + fabric.random.index(waiting - 1);
            }
            let bytes = fabric.read(socket, bytes_max);
            let extent = self.pool.fill(buffer, &bytes).expect("a fresh buffer takes BUFFER_BYTES");
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

/// Takes at most `bytes_max` bytes off the backlog, and the marks then passed; extents are read only now, as a kernel
/// would.
fn take_front(backlog: &mut VecDeque<Piece>, bytes_max: usize, arenas: &Arenas) -> (Vec<u8>, u32) {
    let (mut taken, mut marks) = (Vec::new(), 0);
    loop {
        let room = bytes_max - taken.len();
        match backlog.front_mut() {
            None => break,
            Some(Piece::Mark) => {
                marks += 1;
                backlog.pop_front();
            }
            Some(_) if room == 0 => break,
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
    (taken, marks)
}
