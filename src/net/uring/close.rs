//! The end of a stream.

use super::Uring;
use super::stream::Phase;
use super::tag::Op;
use crate::net::{Cause, Event};

impl Uring {
    /// Closes the stream now: ends what is under way and empties its place in the file table, in that order.
    /// What is not sent is dropped.
    pub(super) fn begin_close(&mut self, slot: u32, cause: Cause) {
        let (send, connect, close) = (
            self.streams.tag(Op::Send, slot),
            self.streams.tag(Op::Connect, slot),
            self.streams.tag(Op::Close, slot),
        );
        let stream = self.streams.at(slot);
        let phase = stream.phase;
        if matches!(phase, Phase::Closing(_) | Phase::Vacant) {
            return;
        }
        stream.phase = Phase::Closing(cause);
        let (queued, direct, sending) = (stream.queued.take(), stream.direct, stream.flying.is_some());
        let connecting = phase == Phase::Opening && stream.outstanding > 0;
        stream.outstanding += 1;
        self.recycle(queued);
        // The file is really closed with its last request, so none may stay.
        self.cancel_receive(slot);
        if sending {
            self.ring.cancel(send);
        }
        if connecting {
            self.ring.cancel(connect);
        }
        self.ring.close(direct, close);
    }

    pub(super) fn on_close(&mut self, slot: u32) -> Option<Event> {
        self.streams.at(slot).outstanding -= 1;
        self.finish_if_over(slot)
    }

    /// When nothing is outstanding any more, a closing stream is over.
    pub(super) fn finish_if_over(&mut self, slot: u32) -> Option<Event> {
        let id = self.streams.id(slot);
        let stream = self.streams.at(slot);
        let Phase::Closing(cause) = stream.phase else {
            return None;
        };
        if stream.outstanding > 0 {
            return None;
        }
        let (direct, unheard) = (stream.direct, stream.unheard);
        if direct >= self.options.accepted_max {
            self.places.push(direct);
        }
        let closed = Event::Closed { stream: id, cause };
        match std::mem::take(&mut stream.passed) {
            0 => {}
            marks => {
                // A completion gives one event: both leave with the next ones that none stands for.
                self.events.extend([Event::Sent { stream: id, marks, left_at: None }, closed]);
                return None;
            }
        }
        self.streams.remove(slot);
        (!unheard).then_some(closed)
    }
}
