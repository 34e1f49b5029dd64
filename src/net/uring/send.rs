//! Bytes out: what a turn wrote to a stream leaves as one send, one at a time per stream.

use super::Uring;
use super::stream::Phase;
use super::tag::Op;
use crate::handle::{Extent, StreamId};
use crate::net::{Cause, Event};
use crate::sys::batch::Batch;
use crate::sys::ring::Completion;

/// Empty batches kept for use again.
const BATCHES_KEPT: usize = 1_024;

/// The stream's batch to add to: idle streams own none.
#[allow(clippy::vec_box, reason = "a batch stays where it is while it is being sent")]
fn batch_in<'a>(queued: &'a mut Option<Box<Batch>>, unused: &mut Vec<Box<Batch>>) -> &'a mut Batch {
    queued.get_or_insert_with(|| unused.pop().unwrap_or_else(Batch::new))
}

fn sent_event(stream: StreamId, marks: u32) -> Option<Event> {
    (marks > 0).then_some(Event::Sent { stream, marks, left_at: None })
}

impl Uring {
    /// Queues copied bytes.
    pub(super) fn queue(&mut self, id: StreamId, bytes: &[u8]) {
        if let Some(slot) = self.marked_for_writing(id).filter(|_| !bytes.is_empty()) {
            batch_in(&mut self.streams.at(slot).queued, &mut self.batches).write(bytes);
        }
    }

    /// Queues extents.
    pub(super) fn queue_body(&mut self, id: StreamId, extents: &[Extent]) {
        if let Some(slot) = self.marked_for_writing(id).filter(|_| !extents.is_empty()) {
            let batch = batch_in(&mut self.streams.at(slot).queued, &mut self.batches);
            extents.iter().for_each(|&extent| batch.write_body(extent, self.pool.arenas()));
        }
    }

    /// Queues a mark.
    pub(super) fn queue_mark(&mut self, id: StreamId) {
        if let Some(slot) = self.marked_for_writing(id) {
            batch_in(&mut self.streams.at(slot).queued, &mut self.batches).mark();
        }
    }

    /// The slot of a stream that still takes writes, to be looked at when the next turn begins.
    fn marked_for_writing(&mut self, id: StreamId) -> Option<u32> {
        let slot = self.streams.find(id).filter(|&slot| self.streams.at(slot).takes_writes())?;
        self.look_at(slot);
        Some(slot)
    }

    pub(super) fn recycle(&mut self, batch: Option<Box<Batch>>) {
        if let Some(mut batch) = batch
            && self.batches.len() < BATCHES_KEPT
        {
            batch.clear();
            self.batches.push(batch);
        }
    }

    /// Sends what is queued, if nothing is being sent; ends what is to end.
    pub(super) fn flush(&mut self, slot: u32) {
        let tag = self.streams.tag(Op::Send, slot);
        let stream = self.streams.at(slot);
        if stream.phase == Phase::Opening && stream.queued.is_none() && stream.ending.is_some() {
            return self.begin_close(slot, Cause::Local);
        }
        if stream.phase != Phase::Open || stream.flying.is_some() {
            return;
        }
        if let Some(mut batch) = stream.queued.take() {
            batch.seal();
            if self.ring.send(stream.direct, &mut batch, tag) {
                stream.flying = Some(batch);
                stream.outstanding += 1;
                self.sends += 1;
                return;
            }
            // Marks with nothing before them.
            let marks = batch.take_passed();
            self.recycle(Some(batch));
            if marks > 0 {
                self.events.push_back(Event::Sent { stream: self.streams.id(slot), marks, left_at: None });
            }
        }
        // Nothing is left to send.
        let stream = self.streams.at(slot);
        if let Some(cause) = stream.ending.filter(|&cause| !stream.held || cause != Cause::Peer) {
            self.begin_close(slot, cause);
        }
    }

    pub(super) fn on_send(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        let (tag, id) = (self.streams.tag(Op::Send, slot), self.streams.id(slot));
        let stream = self.streams.at(slot);
        stream.outstanding -= 1;
        if stream.phase != Phase::Open {
            let mut batch = stream.flying.take();
            if let (Some(batch), Ok(sent)) = (&mut batch, usize::try_from(completion.result)) {
                batch.advance(sent);
                stream.passed += batch.take_passed();
            }
            self.recycle(batch);
            return self.finish_if_over(slot);
        }
        if completion.result < 0 {
            self.on_send_failed(slot, -completion.result);
            return None;
        }
        let sent = completion.result as usize;
        let mut marks = 0;
        if let Some(batch) = stream.flying.as_mut() {
            let all = batch.advance(sent);
            marks = batch.take_passed();
            if !all && self.ring.send(stream.direct, batch, tag) {
                stream.outstanding += 1;
                return sent_event(id, marks);
            }
        }
        let batch = stream.flying.take();
        if stream.queued.is_some() || stream.ending.is_some() {
            self.look_at(slot);
        }
        self.recycle(batch);
        sent_event(id, marks)
    }

    fn on_send_failed(&mut self, slot: u32, errno: i32) {
        let stream = self.streams.at(slot);
        let batches = [stream.flying.take(), stream.queued.take()];
        // After a reset what arrived before it is still there to be read, and then the receive ends as well.
        let ends_by_itself = matches!(errno, libc::EPIPE | libc::ECONNRESET | libc::ETIMEDOUT);
        if ends_by_itself && stream.receiving && !stream.cancelled && stream.ending != Some(Cause::Local) {
            stream.failed = Some(errno);
        } else {
            self.begin_close(slot, Cause::Failed(errno));
        }
        batches.into_iter().for_each(|batch| self.recycle(batch));
    }
}
