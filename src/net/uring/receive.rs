//! Bytes in: one multishot request per stream, into buffers lent to the kernel.

use super::Uring;
use super::stream::Phase;
use super::tag::Op;
use crate::handle::Buffers;
use crate::net::{Cause, Event};
use crate::sys::ring::Completion;

/// This part of all buffers is lent to the kernel when all are free; when half are, half of it for each of them…
const LENT_PART: usize = 32;
/// …but at least so many.
const LENT_MIN: usize = 4;

impl Uring {
    pub(super) fn receive_if_wanted(&mut self, slot: u32) {
        let tag = self.streams.tag(Op::Receive, slot);
        let stream = self.streams.at(slot);
        if stream.wants_to_receive() && !stream.receiving && !stream.starved {
            stream.receiving = true;
            stream.outstanding += 1;
            self.ring.receive(stream.direct, tag);
        }
    }

    pub(super) fn cancel_receive(&mut self, slot: u32) {
        let tag = self.streams.tag(Op::Receive, slot);
        let stream = self.streams.at(slot);
        if stream.receiving && !std::mem::replace(&mut stream.cancelled, true) {
            self.ring.cancel(tag);
        }
    }

    pub(super) fn on_receive(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        if !completion.more {
            let stream = self.streams.at(slot);
            stream.outstanding -= 1;
            (stream.receiving, stream.cancelled) = (false, false);
        }
        let open = self.streams.at(slot).phase == Phase::Open;
        match (completion.result, completion.buffer) {
            (len @ 1.., Some(number)) => {
                let extent = self.lent.received(number, len as u32, &mut self.pool);
                if open {
                    if !completion.more {
                        self.receive_if_wanted(slot);
                    }
                    return Some(Event::Received { stream: self.streams.id(slot), extent });
                }
                self.pool.release(extent.buffer);
            }
            (_, Some(number)) => self.lent.given_back(number, &mut self.pool),
            _ => {}
        }
        if !open {
            return self.finish_if_over(slot);
        }
        if completion.result <= 0 {
            self.on_receive_ended(slot, -completion.result);
        }
        None
    }

    fn on_receive_ended(&mut self, slot: u32, errno: i32) {
        let stream = self.streams.at(slot);
        match (errno, stream.failed) {
            // Nobody waits for more of a stream that failed when sending, not even for buffers: its own unsent
            // bodies may be what holds them.
            (0 | libc::ENOBUFS | libc::ECANCELED, Some(failed)) => {
                self.begin_close(slot, Cause::Failed(failed))
            }
            (0, None) => {
                // Not at once: what is written in answer to this turn's events still leaves.
                stream.ending.get_or_insert(Cause::Peer);
                self.look_at(slot);
            }
            (libc::ENOBUFS, None) => {
                stream.starved = true;
                self.starved.push_back(slot);
            }
            (libc::ECANCELED | libc::EINTR | libc::EAGAIN, _) => self.receive_if_wanted(slot),
            (errno, _) => self.begin_close(slot, Cause::Failed(errno)),
        }
    }

    /// Lends the kernel what was released, and lets as many streams that waited for buffers receive again.
    pub(super) fn refill(&mut self) {
        // The fewer there are, the fewer may be filled before anybody can say that it is enough.
        let (free, all) = (self.pool.free(), self.pool.arenas().buffers_per_shard());
        let most = (free * free / all / LENT_PART).max(LENT_MIN);
        self.lent.refill(&mut self.pool, most);
        for _ in 0..self.lent.lent().min(self.starved.len()) {
            let Some(slot) = self.starved.pop_front() else {
                return;
            };
            // The slot may have another stream by now, which does not wait.
            if std::mem::take(&mut self.streams.at(slot).starved) {
                self.receive_if_wanted(slot);
            }
        }
    }
}
