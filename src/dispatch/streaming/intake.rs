//! Memory, at the session: whose message is streamed, and whose bytes may come in.
//!
//! As long as there is plenty, bodies are received whole. When half of the buffers are in use, a message that holds more
//! than its share begins to leave; when only a quarter is left, every one does that is still arriving, and whoever has
//! nothing here is not read: not only before its body, for chunks come unasked (RFC 3030). That last quarter is for
//! messages that have their upstreams: what they take in leaves again, so they can always go on, and with every one that
//! ends there is room for the next.

use super::queues::Line;
use crate::dispatch::message::{Message, TransactionId, unshared};
use crate::dispatch::session::{OUT_OF_MEMORY, Session};
use crate::dispatch::{Dispatch, Queued};
use crate::handle::Buffers;
use crate::limits::{
    BUFFERS_RESERVED, NOTICE_HEADER_BYTES_MAX, ROUTE_HEADER_BYTES_MAX, STREAM_EXTENTS_MAX,
    STREAM_EXTENTS_MIN, WAITING_TICK,
};
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::Reply;
use crate::time::Instant;

/// What may come of others in the turn in which a session is held back, at the least.
const MARGIN_MIN: usize = 4;

impl Dispatch {
    /// So few are left that nobody but those that flow may take more.
    pub(in crate::dispatch) fn is_short(&self, free: usize) -> bool {
        free <= BUFFERS_RESERVED + (self.options.buffers / 4).max(2 * MARGIN_MIN)
    }

    /// So few are left that even those have to wait.
    pub(super) fn is_very_short(&self, free: usize) -> bool {
        free <= BUFFERS_RESERVED + (self.options.buffers / 16).max(MARGIN_MIN)
    }

    /// Extents that may be gathered of one flowing message while its last part is being sent.
    pub(super) fn gather_max(&self) -> usize {
        (self.options.buffers / 16 / self.queues.flows.max(1)).clamp(STREAM_EXTENTS_MIN, STREAM_EXTENTS_MAX)
    }

    /// The session has taken all that came: may more come?
    pub(in crate::dispatch) fn mind_memory(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &self.sessions[slot as usize];
        if session.closing {
            return;
        }
        let free = buffers.free();
        if !session.held_back && session.refusal.is_none() {
            self.list(slot);
            self.mind_message(slot, free, now, buffers);
        } else if self.is_short(free) && session.refusal.is_none() {
            // What was on its way when it was held back: with it, it is one of those that may come to flow.
            self.close_to(slot, now, buffers);
        }
        // All at once, for each might bring as much in the next turn as a turn may bring.
        if self.is_short(free) {
            self.close_to_bodies(now, buffers);
        }
        if self.is_very_short(free) {
            self.close_to_flows();
        }
    }

    /// The session's message has grown.
    fn mind_message(&mut self, slot: u32, free: usize, now: Instant, buffers: &mut impl Buffers) {
        let session = &self.sessions[slot as usize];
        let held = session.message.as_ref().map_or(0, |message| message.body.len());
        if let Some(id) = session.streaming {
            let gather_max = self.gather_max();
            let streaming = self.streaming(id);
            if streaming.is_some_and(|streaming| !streaming.flows || streaming.gathered() >= gather_max) {
                self.hold_back(slot);
            }
        } else if free <= self.options.buffers / 2 {
            let share = self.options.buffers / 2 / self.receiving.max(1);
            if held > share.max(1) {
                self.begin_stream(slot, now, buffers);
            }
        }
    }

    /// It may bring in what it has: so that it can be kept from that.
    pub(in crate::dispatch) fn list(&mut self, slot: u32) {
        if self.sessions[slot as usize].streaming.is_some() {
            self.queues.open_flows.add(slot);
        } else {
            self.queues.open.add(slot);
        }
    }

    /// A new session: behind those that wait, if any do.
    pub(in crate::dispatch) fn line_up(&mut self, slot: u32) {
        self.list(slot);
        if self.queues.someone_waits_empty() {
            self.hold_empty(slot);
        }
    }

    /// Nobody who does not flow may bring more: what is here goes on its way, whoever has nothing here waits.
    fn close_to_bodies(&mut self, now: Instant, buffers: &mut impl Buffers) {
        for at in 0..self.queues.open.len() {
            let slot = self.queues.open.at(at);
            let is_read = |session: &Session| !session.closing && !session.held_back;
            if self.sessions.get(slot as usize).is_some_and(is_read) {
                self.close_to(slot, now, buffers);
            }
        }
        self.queues.open.clear();
    }

    fn close_to(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &self.sessions[slot as usize];
        // (What is refused is thrown away as it comes; and those that flow are another matter.)
        if session.refusal.is_some() || session.streaming.is_some() {
            return;
        }
        if session.message.as_ref().is_some_and(|message| !message.body.is_empty()) {
            self.begin_stream(slot, now, buffers);
        } else if !session.held_back {
            self.hold_empty(slot);
        }
    }

    /// Not even those that flow may bring more for now.
    fn close_to_flows(&mut self) {
        for at in 0..self.queues.open_flows.len() {
            let slot = self.queues.open_flows.at(at);
            let Some(session) = self.sessions.get(slot as usize) else { continue };
            if session.streaming.is_some() && !session.held_back {
                self.hold_back(slot);
                self.queue(slot, Line::Flowing);
            }
        }
        self.queues.open_flows.clear();
    }

    /// What has come of the session's message goes on its way, and the rest follows.
    fn begin_stream(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        let Some(message) = &mut session.message else { return };
        let message = unshared(message);
        message.shape = session.server.shape();
        if message.is_binary() {
            // It leaves by BDAT, whose size is said beforehand: it must be whole by then.
            return self.refuse_body(slot, OUT_OF_MEMORY, buffers);
        }
        let is_held = message.release > now;
        if is_held || self.options.routes.wants_header() && !has_header(message, buffers) {
            // It may not go yet, or where it is to go cannot be known: when there is no room at all, it cannot be kept until
            // then.
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
        if !session.awaits_verdict() {
            self.session_deadlines.set(slot as usize, Instant::NEVER);
        }
    }

    /// It has nothing here, and is not read until there is room.
    fn hold_empty(&mut self, slot: u32) {
        self.hold_back(slot);
        self.queue(slot, Line::Empty);
    }

    /// What it was held back for is over: it is read as soon as there is room for anybody who has nothing here.
    pub(in crate::dispatch) fn unhold(&mut self, slot: u32) {
        self.queue(slot, Line::Empty);
    }

    /// Nothing of the session is left to be dealt with, nor does anything but memory keep it from being read.
    pub(in crate::dispatch) fn listen(&mut self, slot: u32, buffers: &impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        let listens =
            session.pending.is_empty() && !session.is_deaf && !session.closing && !session.held_back;
        if !listens || !session.paused {
            return;
        }
        if session.streaming.is_none() && session.refusal.is_none() && self.is_short(buffers.free()) {
            return self.hold_empty(slot);
        }
        self.sessions[slot as usize].paused = false;
        self.list(slot);
        let stream = self.sessions[slot as usize].stream;
        self.commands.push_back(Queued::Resume(stream));
    }

    /// Reads it again.
    pub(in crate::dispatch) fn let_in(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        session.line = Line::None;
        if std::mem::take(&mut session.held_back) && !session.closing {
            if !session.awaits_verdict() {
                let idle_timeout = self.options.listeners[usize::from(session.listener.0)].idle_timeout;
                self.session_deadlines.set(slot as usize, now + idle_timeout);
            }
            self.list(slot);
            self.resume(slot, now, buffers);
        }
    }

    fn queue(&mut self, slot: u32, line: Line) {
        let session = &mut self.sessions[slot as usize];
        if session.held_back && std::mem::replace(&mut session.line, line) != line {
            self.queues.push(line, slot, session.stream);
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
            self.queue(session, Line::Flowing);
        }
    }

    /// Those that flow could not go on even if all that they hold were let go of: bodies came faster than they could be
    /// stopped. Of those that wait for an upstream the youngest are refused, so that the others go on. To be called every
    /// tick while somebody waits.
    pub(in crate::dispatch) fn make_room(&mut self, now: Instant, buffers: &mut impl Buffers) {
        let free = buffers.free();
        if !self.queues.someone_waits_flowing() || !self.is_very_short(free) {
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
        if !self.is_very_short(free + held) {
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
        if !self.queues.someone_waits() {
            return false;
        }
        let mut is_any = false;
        self.queues.forget_promises(now);
        loop {
            let free = buffers.free().saturating_sub(self.queues.promised());
            let next = if self.is_very_short(free) {
                None
            } else if let Some(next) = self.queues.pop(Line::Flowing) {
                Some((next, Line::Flowing))
            } else if self.is_short(free) {
                None
            } else {
                self.queues.pop(Line::Empty).map(|next| (next, Line::Empty))
            };
            let Some(((slot, stream), line)) = next else { break };
            // It may have gone meanwhile, or stand in the other line.
            let stands = |s: &Session| s.stream == stream && s.line == line;
            if self.sessions.get(slot as usize).is_some_and(stands) {
                self.queues.promise(now);
                self.let_in(slot, now, buffers);
                is_any = true;
            }
        }
        if self.queues.someone_waits() {
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
pub(super) fn keep_header(message: &mut Message, buffers: &impl Buffers) {
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
