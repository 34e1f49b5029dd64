//! A message's body comes in, and its answer goes out.

use super::{OUT_OF_MEMORY, SHUTTING_DOWN};
use crate::dispatch::message::{TransactionId, unshared};
use crate::dispatch::streaming::Line;
use crate::dispatch::{Dispatch, Queued};
use crate::handle::{Buffers, Extent};
use crate::limits::{BUFFERS_RESERVED, REPLIES_HELD_MAX};
use crate::observe::ListenerStats;
use crate::protocol::server::Violation;
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::{Enhanced, Reply};
use crate::time::Instant;

const CHUNK_OK: Reply<'static> = Reply::new(250, Enhanced(2, 0, 0), "Chunk taken");
const TOO_EAGER: Reply<'static> = Reply::new(421, Enhanced(4, 3, 1), "Out of memory, closing");

impl Dispatch {
    pub(super) fn session_body(&mut self, slot: u32, piece: Extent, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        if session.refusal.is_some() {
            return;
        }
        if buffers.free() <= BUFFERS_RESERVED {
            self.stats.out_of_buffers.add(1);
            return self.refuse_body(slot, OUT_OF_MEMORY, buffers);
        }
        if let Some(id) = session.streaming {
            self.stream_body(id, piece, buffers);
        } else if let Some(message) = &mut session.message {
            unshared(message).push_body(piece, buffers);
        }
    }

    /// A chunk that is not the last: refused, it ends the transaction.
    pub(super) fn session_chunk(
        &mut self,
        slot: u32,
        end: Result<u64, Violation>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        match self.sessions[slot as usize].refusal_of(end) {
            Some(reply) => {
                self.forget_message(slot, buffers);
                self.answer_final(slot, reply.as_reply(), now);
            }
            None => self.answer(slot, CHUNK_OK),
        }
    }

    pub(super) fn session_end(
        &mut self,
        slot: u32,
        end: Result<u64, Violation>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        if let Some(reply) = self.sessions[slot as usize].refusal_of(end) {
            self.forget_message(slot, buffers);
            self.answer_final(slot, reply.as_reply(), now);
            return;
        }
        let session = &mut self.sessions[slot as usize];
        if let Some(id) = session.streaming.take() {
            // It is not read before its answer.
            (session.held_back, session.line) = (false, Line::None);
            self.stream_complete(id, now);
            return self.await_verdict(slot, id, now);
        }
        let Some(mut message) = session.message.take() else {
            return;
        };
        unshared(&mut message).shape = session.server.shape();
        let mail_at = session.mail_at;
        self.receiving -= 1;
        if session.server.shape().form == Form::Plain {
            self.hold_replies(slot);
        }
        let message = self.complete_message(slot, message, now, buffers);
        let transaction = self.new_transaction(message, Some(slot), mail_at, now);
        self.await_verdict(slot, transaction, now);
        self.take_on(transaction, now, buffers);
    }

    fn await_verdict(&mut self, slot: u32, transaction: TransactionId, now: Instant) {
        let session = &mut self.sessions[slot as usize];
        let until = if session.held.is_empty() { Instant::NEVER } else { now + REPLIES_HELD_MAX };
        self.session_deadlines.set(slot as usize, until);
        session.waiting = Some(transaction);
        let stream = session.stream;
        self.list(slot);
        // A client that has said all it has to say may close its sending side, and still wants to hear.
        self.commands.push_back(Queued::Hold(stream, true));
    }

    /// The verdict on the message that the session waits for.
    pub(in crate::dispatch) fn session_verdict(
        &mut self,
        slot: u32,
        reply: Reply<'_>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let session = &mut self.sessions[slot as usize];
        if session.streaming.take().is_some() {
            // Its body is still coming: it is swallowed, and this said at its end.
            session.refusal = Some(reply.to_buf());
            return self.let_in(slot, now, buffers);
        }
        session.waiting = None;
        self.commands.push_back(Queued::Hold(session.stream, false));
        self.answer_final(slot, reply, now);
        if self.sessions[slot as usize].overrun {
            self.say_goodbye(slot, TOO_EAGER, now);
        }
        self.resume(slot, now, buffers);
    }

    /// Answers end of data, counts it, and in a drain takes leave.
    pub(super) fn answer_final(&mut self, slot: u32, reply: Reply<'_>, now: Instant) {
        self.answer(slot, reply);
        let session = &self.sessions[slot as usize];
        let listener = usize::from(session.listener.0);
        count(&self.stats.listeners[listener], &reply);
        // (One that is held back for want of memory is not silent by itself.)
        let idle_timeout = self.options.listeners[listener].idle_timeout;
        let until = if session.held_back { Instant::NEVER } else { now + idle_timeout };
        self.session_deadlines.set(slot as usize, until);
        if self.draining {
            self.say_goodbye(slot, SHUTTING_DOWN, now);
        }
    }

    pub(super) fn forget_message(&mut self, slot: u32, buffers: &mut impl Buffers) {
        if let Some(mut message) = self.sessions[slot as usize].message.take() {
            self.receiving -= 1;
            unshared(&mut message).release_body(buffers);
            self.spares.put(message);
        }
        let session = &mut self.sessions[slot as usize];
        session.refusal = None;
        if let Some(id) = session.streaming.take() {
            self.withdraw(id);
        }
        self.unhold(slot);
    }
}

fn count(stats: &ListenerStats, reply: &Reply<'_>) {
    match reply.code / 100 {
        2 => stats.accepted.add(1),
        4 => stats.deferred.add(1),
        _ => stats.rejected.add(1),
    }
}
