//! Frames out: what was written, acknowledged, lost.

use std::time::Duration;

use super::stream::Phase;
use super::{Core, Queue, Xdp};
use crate::handle::{Buffers, StreamId};
use crate::net::{Cause, Event};
use crate::sys::clock;
use crate::time::Instant;

/// How long connections have to end in order when the shard goes.
const FAREWELL: Duration = Duration::from_millis(300);

impl Core {
    /// The slot of a stream that still takes writes, to be looked at when the next turn begins.
    pub(super) fn writable(&mut self, id: StreamId) -> Option<u32> {
        let slot = self.streams.find(id)?;
        if self.streams.get(slot).ending == Some(Cause::Local) {
            return None;
        }
        self.mark(slot);
        Some(slot)
    }

    /// Has all leave that may, of one stream. False: there was no room for it.
    fn flush(&mut self, slot: u32, sockets: &mut [Queue], now: Instant) -> bool {
        let Core { streams, paths, uring, counts, .. } = self;
        let one = streams.at(slot);
        let socket = &mut sockets[one.socket].socket;
        loop {
            if socket.room() == 0 {
                return false;
            }
            let Some(outgoing) = one.connection.poll(now) else { return true };
            let (Some(head), Some(hop)) = (&one.head, one.hop) else { return true };
            // Without a neighbour it is as lost, and goes again when there is one.
            let Some(to) = paths.mac_of(hop) else { continue };
            let (connection, ethernet, buffers) = (&one.connection, paths.ethernet(to), &*uring);
            socket.send(|frame| {
                head.write(&outgoing, ethernet, frame, |bytes| connection.copy(&outgoing, bytes, buffers))
            });
            counts.sent += 1;
        }
    }

    /// Looks at one stream before the wait: takes what waited, ends what is to end, sends what may leave.
    fn attend(&mut self, slot: u32, sockets: &mut [Queue], now: Instant) -> bool {
        self.take_waiting(slot);
        self.conclude(slot);
        let one = self.streams.at(slot);
        let never_opened = one.phase == Phase::Owned
            && one.ending == Some(Cause::Local)
            && !one.connection.is_open()
            && one.connection.has_nothing_to_send();
        if never_opened {
            one.connection.abort();
            self.end(slot, Cause::Local);
        }
        let one = self.streams.at(slot);
        let may_end = one.phase == Phase::Owned && one.connection.is_drained();
        if let Some(cause) = one.ending.filter(|&cause| may_end && (!one.held || cause != Cause::Peer)) {
            one.connection.leave(now);
            self.end(slot, cause);
        }
        if self.streams.get(slot).head.is_none() {
            return true;
        }
        let had_room = self.flush(slot, sockets, now);
        let one = self.streams.at(slot);
        one.note_left(now);
        if one.connection.is_over() {
            let news = one.connection.take_news();
            if let Some(cause) = news.over {
                self.end(slot, cause);
            }
            self.release(slot);
            self.remove_if_over(slot);
            return had_room;
        }
        self.deadlines.set(slot as usize, one.connection.next_deadline());
        had_room
    }
}

impl Xdp {
    /// Has all leave that may.
    pub(super) fn transmit(&mut self, now: Instant) {
        let Xdp { sockets, core } = self;
        core.is_congested = false;
        let mut dirty = std::mem::take(&mut core.dirty);
        for slot in dirty.drain(..) {
            core.streams.at(slot).dirty = false;
            if !core.attend(slot, sockets, now) {
                core.is_congested = true;
                core.mark(slot);
            }
        }
        // What was marked meanwhile comes next time; the memory is kept.
        if core.dirty.is_empty() {
            core.dirty = dirty;
        }
        if let Some(first) = sockets.first_mut() {
            for (head, to, answer) in core.answers.drain(..) {
                let ethernet = core.paths.ethernet(to);
                let had_room =
                    first.socket.send(|frame| head.write(&answer, ethernet, frame, |_: &mut [u8]| {}));
                core.counts.sent += u64::from(had_room);
            }
        }
        let missed = core.uring.take_kick_failed();
        for queue in sockets {
            if missed {
                core.is_congested |= !queue.socket.flush();
            } else if queue.socket.publish() {
                // Leaves with the turn's own system call.
                core.uring.kick(queue.socket.descriptor());
            }
        }
    }
}

impl Drop for Xdp {
    /// Waits a little for what was closed to end in order, and tells the peers of the rest that it is over.
    fn drop(&mut self) {
        let end = clock::now() + FAREWELL;
        let mut events = Vec::new();
        let is_ending =
            |core: &Core| core.streams.slots().any(|slot| core.streams.get(slot).connection.is_ending());
        while is_ending(&self.core) && clock::now() < end {
            self.take_turn(clock::now() + Duration::from_millis(5), 256, &mut events);
            for event in events.drain(..) {
                if let Event::Received { extent, .. } = event {
                    self.core.uring.release(extent.buffer);
                }
            }
        }
        for slot in self.core.streams.slots() {
            self.core.streams.at(slot).connection.abort();
            self.core.mark(slot);
        }
        self.transmit(clock::now());
        for queue in &mut self.sockets {
            queue.socket.flush();
        }
    }
}
