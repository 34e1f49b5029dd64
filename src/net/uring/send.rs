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

impl Uring {
    /// Where to add what is written to that stream, if it takes any more. Marks the stream.
    pub(super) fn batch_of(&mut self, stream: StreamId) -> Option<&mut Batch> {
        let slot = self
            .streams
            .find(stream)
            .filter(|&slot| self.streams.at(slot).takes_writes())?;
        self.mark(slot);
        let batches = &mut self.batches;
        let queued = &mut self.streams.at(slot).queued;
        Some(queued.get_or_insert_with(|| batches.pop().unwrap_or_else(Batch::new)))
    }

    pub(super) fn queue_body(&mut self, id: StreamId, extents: &[Extent]) {
        let arenas = self.pool.arenas().clone();
        let Some(batch) = self.batch_of(id) else { return };
        extents
            .iter()
            .for_each(|&extent| batch.write_body(extent, &arenas));
        self.streams.at(id.slot).sent_owed = true;
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
                return;
            }
            self.recycle(Some(batch));
        }
        // Nothing is left to send. (A body of no bytes was sent, too.)
        let id = self.streams.id(slot);
        let stream = self.streams.at(slot);
        if std::mem::take(&mut stream.sent_owed) {
            self.events.push_back(Event::Sent { stream: id });
        }
        if let Some(cause) = stream.ending {
            self.begin_close(slot, cause);
        }
    }

    pub(super) fn on_send(&mut self, slot: u32, completion: Completion) -> Option<Event> {
        let (tag, id) = (self.streams.tag(Op::Send, slot), self.streams.id(slot));
        let stream = self.streams.at(slot);
        stream.outstanding -= 1;
        if stream.phase != Phase::Open {
            let batch = stream.flying.take();
            self.recycle(batch);
            return self.finish_if_over(slot);
        }
        if completion.result < 0 {
            self.on_send_failed(slot, -completion.result);
            return None;
        }
        let sent = completion.result as usize;
        if let Some(batch) = stream.flying.as_mut()
            && !batch.advance(sent)
            && self.ring.send(stream.direct, batch, tag)
        {
            stream.outstanding += 1;
            return None;
        }
        let batch = stream.flying.take();
        let all_sent = stream.queued.is_none();
        let owed = all_sent && std::mem::take(&mut stream.sent_owed);
        if !all_sent || stream.ending.is_some() {
            self.mark(slot);
        }
        self.recycle(batch);
        owed.then_some(Event::Sent { stream: id })
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
