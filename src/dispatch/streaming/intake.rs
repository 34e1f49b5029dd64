//! Memory, at the session: whose message is streamed, and whose bytes may come in.
//!
//! As long as there is plenty, bodies are received whole. When half of the buffers are in use, a message that holds more
//! than its share begins to leave; when only a quarter is left, every one does that is still arriving, and whoever has
//! nothing here yet waits before it sends. That last quarter is for messages that have their upstreams: what they take
//! in leaves again, so they can always go on, and with every one that ends there is room for the next.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dispatch::message::{Message, TransactionId, unshared};
use crate::dispatch::session::OUT_OF_MEMORY;
use crate::dispatch::{Dispatch, Queued};
use crate::handle::{Buffers, StreamId};
use crate::limits::{
    BUFFERS_RESERVED, NOTICE_HEADER_BYTES_MAX, ROUTE_HEADER_BYTES_MAX, STREAM_EXTENTS_MAX,
    STREAM_EXTENTS_MIN, WAITING_TICK,
};
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::Reply;
use crate::time::Instant;

/// What may come of others in the turn in which a session is held back, at the least.
const MARGIN_MIN: usize = 4;
/// A session that was just let in again is expected to bring so much within so long.
const PROMISED_BUFFERS: usize = 2;
const PROMISED_FOR: Duration = Duration::from_millis(20);

/// Sessions by what they may bring in, and those that are not read because memory is short, oldest first.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Queues {
    /// They may send their bodies (or might have, when they were put here).
    open: Vec<u32>,
    /// The same of those whose messages flow.
    open_flows: Vec<u32>,
    /// They are not read; their messages flow.
    flowing: VecDeque<(u32, StreamId)>,
    /// They are not read, and have nothing here yet.
    empty: VecDeque<(u32, StreamId)>,
    /// Until when those let in lately may not yet have brought anything.
    promised: VecDeque<Instant>,
    /// Streamed messages that flow.
    pub(super) flows: usize,
    /// Parts let go of so far, and at the last tick.
    pub(super) parts_released: u64,
    parts_released_before: u64,
}

impl Dispatch {
    /// So few are left that nobody but those that flow may take more.
    pub(in crate::dispatch) fn is_short(&self, free: usize) -> bool {
        free <= BUFFERS_RESERVED + (self.options.buffers / 4).max(2 * MARGIN_MIN)
    }

    /// So few are left that even those have to wait.
    fn is_very_short(&self, free: usize) -> bool {
        free <= BUFFERS_RESERVED + (self.options.buffers / 16).max(MARGIN_MIN)
    }

    /// There is no room for one more message that waits for a link, behind those that flow and need it themselves.
    pub(in crate::dispatch) fn is_crowded(&self, free: usize) -> bool {
        self.queues.flows > 0 && self.is_very_short(free)
    }

    /// Extents that may be gathered of one flowing message while its last part is being sent.
    fn gather_max(&self) -> usize {
        (self.options.buffers / 16 / self.queues.flows.max(1)).clamp(STREAM_EXTENTS_MIN, STREAM_EXTENTS_MAX)
    }

    /// The session has taken all that came, and its message goes on: may more come?
    pub(in crate::dispatch) fn mind_memory(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &self.sessions[slot as usize];
        if session.closing || session.refusal.is_some() || session.held_back || !session.server.in_body() {
            return;
        }
        self.list(slot);
        let session = &self.sessions[slot as usize];
        let (streaming, held) = (session.streaming, session.message.as_ref().map_or(0, |m| m.body.len()));
        let free = buffers.free();
        let gather_max = self.gather_max();
        let share = self.options.buffers / 2 / self.receiving.max(1);
        if let Some(streaming) = streaming.and_then(|id| self.streaming(id)) {
            if !streaming.flows || streaming.gathered() >= gather_max {
                self.hold_back(slot);
            }
        } else if held > share.max(1) && free <= self.options.buffers / 2 {
            self.begin_stream(slot, now, buffers);
        }
        // All at once, for each might bring as much in the next turn as a turn may bring.
        if self.is_short(free) {
            self.close_to_bodies(now, buffers);
        }
        if self.is_very_short(free) {
            self.close_to_flows();
        }
    }

    /// It may bring in what it has: so that it can be kept from that.
    fn list(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        if session.streaming.is_some() {
            if !std::mem::replace(&mut session.listed_as_flow, true) {
                self.queues.open_flows.push(slot);
            }
        } else if !std::mem::replace(&mut session.listed, true) {
            self.queues.open.push(slot);
        }
    }

    /// Nobody who does not flow may bring more: what is here goes on its way, whoever has nothing here waits.
    fn close_to_bodies(&mut self, now: Instant, buffers: &mut impl Buffers) {
        let mut open = std::mem::take(&mut self.queues.open);
        for slot in open.drain(..) {
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            session.listed = false;
            let is_receiving = session.server.in_body() && !session.closing && !session.held_back;
            let Some(message) =
                session.message.as_ref().filter(|_| is_receiving && session.refusal.is_none())
            else {
                continue;
            };
            if message.body.is_empty() {
                self.queues.empty.push_back((slot, session.stream));
                self.hold_back(slot);
            } else {
                self.begin_stream(slot, now, buffers);
            }
        }
        self.queues.open = open;
    }

    /// Not even those that flow may bring more for now.
    fn close_to_flows(&mut self) {
        let mut open = std::mem::take(&mut self.queues.open_flows);
        for slot in open.drain(..) {
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            session.listed_as_flow = false;
            if session.streaming.is_some() && !session.held_back {
                self.hold_back(slot);
                self.queue_flowing(slot);
            }
        }
        self.queues.open_flows = open;
    }

    /// What has come of the session's message goes on its way, and the rest follows.
    fn begin_stream(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        let Some(message) = &mut session.message else { return };
        let message = unshared(message);
        message.shape = session.server.shape();
        if self.options.routes.wants_header() && !has_header(message, buffers) {
            // Where it is to go cannot be known yet; when there is no room at all, it cannot be kept until then.
            if self.is_very_short(buffers.free()) {
                self.refuse_body(slot, OUT_OF_MEMORY, buffers);
            }
            return;
        }
        let Some(message) = self.sessions[slot as usize].message.take() else { return };
        self.receiving -= 1;
        let mut message = self.complete_message(slot, message, now, buffers);
        let inner = unshared(&mut message);
        inner.streamed = true;
        if inner.envelope.len() > 1 {
            keep_header(inner, buffers);
        }
        let body = std::mem::take(&mut inner.body);
        let mail_at = self.sessions[slot as usize].mail_at;
        let id = self.begin_streamed(message, body, slot, mail_at, now);
        self.sessions[slot as usize].streaming = Some(id);
        self.hold_back(slot);
    }

    /// Its body is not taken: what is here is let go of, what comes is thrown away, and this is said at its end.
    pub(in crate::dispatch) fn refuse_body(
        &mut self,
        slot: u32,
        reply: Reply<'_>,
        buffers: &mut impl Buffers,
    ) {
        let session = &mut self.sessions[slot as usize];
        session.refusal = Some(reply.to_buf());
        if let Some(message) = &mut session.message {
            unshared(message).release_body(buffers);
        }
        if let Some(id) = session.streaming.take() {
            self.withdraw(id);
        }
    }

    /// Reads the session no more.
    fn hold_back(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        session.held_back = true;
        if !std::mem::replace(&mut session.paused, true) {
            self.commands.push_back(Queued::Pause(session.stream));
        }
        // It is not the client that is silent now.
        self.session_deadlines.set(slot as usize, Instant::NEVER);
    }

    /// It need not be held back any more; what it has sent is dealt with already.
    pub(in crate::dispatch) fn unhold(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        let listens = session.pending.is_empty() && !session.is_deaf && !session.closing;
        if std::mem::take(&mut session.held_back) && listens && std::mem::take(&mut session.paused) {
            self.commands.push_back(Queued::Resume(session.stream));
        }
    }

    /// Reads it again.
    pub(in crate::dispatch) fn let_in(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        if std::mem::take(&mut session.held_back) {
            let idle_timeout = self.options.listeners[usize::from(session.listener.0)].idle_timeout;
            self.session_deadlines.set(slot as usize, now + idle_timeout);
            self.list(slot);
            self.resume(slot, now, buffers);
        }
    }

    fn queue_flowing(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        if session.held_back && !std::mem::replace(&mut session.queued, true) {
            self.queues.flowing.push_back((slot, session.stream));
        }
    }

    /// A streamed message has moved on: does it flow, and may its session be read?
    pub(super) fn mind_flow(&mut self, id: TransactionId) {
        let gather_max = self.gather_max();
        let transaction = self.transactions.get(id.slot as usize);
        let Some(session) = transaction.and_then(|transaction| transaction.session) else { return };
        let Some(streaming) = self.streaming(id) else { return };
        let has_room = streaming.flows && streaming.gathered() < gather_max;
        if has_room && self.sessions[session as usize].streaming == Some(id) {
            self.queue_flowing(session);
        }
    }

    /// Those that flow cannot go on, and it is not what they hold themselves that is in their way: bodies came faster than
    /// they could be stopped. Of those that wait for an upstream the youngest are refused, so that the others go on. To be
    /// called every tick while somebody waits.
    pub(in crate::dispatch) fn make_room(&mut self, now: Instant, buffers: &mut impl Buffers) {
        let released = self.queues.parts_released;
        let goes_on = std::mem::replace(&mut self.queues.parts_released_before, released) != released;
        if goes_on || self.queues.flowing.is_empty() || !self.is_very_short(buffers.free()) {
            return;
        }
        let (mut held, mut waiting) = (0, Vec::new());
        for (slot, transaction) in &self.transactions {
            let Some(streaming) = &transaction.streaming else { continue };
            let extents = streaming.part.extents.len() + streaming.filling.extents.len();
            match transaction.session {
                _ if streaming.flows => held += extents,
                Some(session) if extents > 0 => waiting.push((transaction.mail_at, slot, session, extents)),
                _ => {}
            }
        }
        if held > self.options.buffers / 16 {
            return;
        }
        waiting.sort_unstable();
        let mut wanted = (self.options.buffers / 16).max(MARGIN_MIN);
        while let Some((_, slot, session, extents)) = waiting.pop().filter(|_| wanted > 0) {
            let generation = self.transactions[slot].generation;
            let id = TransactionId { slot: slot as u32, generation };
            // (One that has sent all needs no more room; its turn comes.)
            if self.sessions[session as usize].streaming == Some(id) {
                self.stats.out_of_buffers.add(1);
                self.refuse_body(session, OUT_OF_MEMORY, buffers);
                self.let_in(session, now, buffers);
                wanted = wanted.saturating_sub(extents);
            }
        }
    }

    /// Lets in as many of those that wait as there is room for.
    /// False: for nobody.
    pub(in crate::dispatch) fn let_in_waiting(&mut self, now: Instant, buffers: &mut impl Buffers) -> bool {
        if self.queues.flowing.is_empty() && self.queues.empty.is_empty() {
            return false;
        }
        let mut is_any = false;
        while self.queues.promised.front().is_some_and(|until| *until <= now) {
            self.queues.promised.pop_front();
        }
        loop {
            let promised = self.queues.promised.len() * PROMISED_BUFFERS;
            let free = buffers.free().saturating_sub(promised);
            let next = if self.is_very_short(free) {
                None
            } else if let Some(next) = self.queues.flowing.pop_front() {
                Some(next)
            } else if self.is_short(free) {
                None
            } else {
                self.queues.empty.pop_front()
            };
            let Some((slot, stream)) = next else { break };
            // It may have gone meanwhile.
            if let Some(session) = self.sessions.get_mut(slot as usize).filter(|s| s.stream == stream) {
                session.queued = false;
                self.queues.promised.push_back(now + PROMISED_FOR);
                self.let_in(slot, now, buffers);
                is_any = true;
            }
        }
        let someone_waits = !self.queues.flowing.is_empty() || !self.queues.empty.is_empty();
        if someone_waits {
            self.next_tick = self.next_tick.min(now + WAITING_TICK);
        }
        is_any
    }
}

/// Has all of the header come that routes look at?
fn has_header(message: &Message, buffers: &impl Buffers) -> bool {
    let mut header = Vec::new();
    for extent in &message.body {
        header.extend_from_slice(buffers.bytes(*extent));
        if header.len() >= ROUTE_HEADER_BYTES_MAX {
            return true;
        }
    }
    memchr::memmem::find(&header, b"\r\n\r\n").is_some()
}

/// Of a message with several recipients some may be refused when its body is gone: their notice has our line and its
/// header, plain, as far as it has come.
fn keep_header(message: &mut Message, buffers: &impl Buffers) {
    let Message { head, beginning, body, shape, .. } = message;
    let mut header = Vec::new();
    for extent in body {
        let room = NOTICE_HEADER_BYTES_MAX.saturating_sub(header.len());
        let bytes = buffers.bytes(*extent);
        header.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    let end = memchr::memmem::find(&header, b"\r\n\r\n").or_else(|| memchr::memmem::rfind(&header, b"\r\n"));
    header.truncate(end.map_or(0, |end| end + 2));
    beginning.clear();
    beginning.extend_from_slice(head);
    for line in header.split_inclusive(|&byte| byte == b'\n') {
        let is_stuffed = shape.form == Form::Stuffed && line.starts_with(b".");
        beginning.extend_from_slice(&line[usize::from(is_stuffed)..]);
    }
}
