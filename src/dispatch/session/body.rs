//! A message's body comes in, and its answer goes out.

use super::{OUT_OF_MEMORY, SHUTTING_DOWN, Session};
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
/// Of a streamed message nobody knows how much is held: it is waited for.
const STREAMED: u64 = u64::MAX;

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
            let shape = session.server.shape();
            self.stream_body(id, piece, shape, buffers);
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
            let shape = session.server.shape();
            self.stream_complete(id, shape, now);
            return self.await_verdict(slot, id, STREAMED, now);
        }
        let Some(mut message) = session.message.take() else {
            return;
        };
        unshared(&mut message).shape = session.server.shape();
        let (mail_at, octets) = (session.mail_at, message.size);
        self.receiving -= 1;
        if session.server.shape().form == Form::Plain && !session.owed.awaits() {
            self.hold_replies(slot);
        }
        let message = self.complete_message(slot, message, now, buffers);
        let transaction = self.new_transaction(message, Some(slot), mail_at, now);
        self.await_verdict(slot, transaction, octets, now);
        self.take_on(transaction, now, buffers);
    }

    /// The message has ended. Others may follow before its verdict. `octets`: what of it is held.
    fn await_verdict(&mut self, slot: u32, transaction: TransactionId, octets: u64, now: Instant) {
        let session = &mut self.sessions[slot as usize];
        self.talkers.note(&mut session.spoke_in, now);
        session.server.postpone();
        if !session.owed.awaits() {
            let until = if session.owed.has_ready() { now + REPLIES_HELD_MAX } else { Instant::NEVER };
            self.session_deadlines.set(slot as usize, until);
            // A client that has said all it has to say may close its sending side, and still wants to hear.
            self.commands.push_back(Queued::Hold(session.stream, true));
        }
        session.owed.promise(transaction, octets);
        self.list(slot);
    }

    /// The verdict on one of the session's messages.
    pub(in crate::dispatch) fn session_verdict(
        &mut self,
        slot: u32,
        id: TransactionId,
        reply: Reply<'_>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let session = &mut self.sessions[slot as usize];
        if session.streaming == Some(id) {
            // Its body is still coming: it is swallowed, and this said at its end.
            session.streaming = None;
            session.refusal = Some(reply.to_buf());
            return self.let_in(slot, now, buffers);
        }
        let (from, Session { server, owed, stream, .. }) = (self.out.len(), session);
        owed.keep_promise(id, &mut self.out, |out| server.answer_late(reply, out));
        let (stream, is_told) = (*stream, !owed.awaits());
        self.write_to_session(slot, from);
        if is_told {
            self.commands.push_back(Queued::Hold(stream, false));
        }
        self.note_answer(slot, &reply, now);
        self.resume(slot, now, buffers);
    }

    /// Refuses a message at its end, or at a chunk's.
    fn answer_final(&mut self, slot: u32, reply: Reply<'_>, now: Instant) {
        self.answer(slot, reply);
        self.note_answer(slot, &reply, now);
    }

    /// Counts the answer to a message; when there is none left to be given, the client's time runs again, and in a drain
    /// leave is taken.
    fn note_answer(&mut self, slot: u32, reply: &Reply<'_>, now: Instant) {
        let session = &self.sessions[slot as usize];
        let listener = usize::from(session.listener.0);
        count(&self.stats.listeners[listener], reply);
        if session.owed.awaits() {
            if !session.owed.has_ready() {
                self.session_deadlines.set(slot as usize, Instant::NEVER);
            }
            return;
        }
        if session.closing {
            return self.close_when_told(slot, now);
        }
        // (One that is held back for want of memory is not silent by itself.)
        let idle_timeout = self.options.listeners[listener].idle_timeout;
        let until = if session.held_back { Instant::NEVER } else { now + idle_timeout };
        let leaves = self.stopping || self.draining && !session.is_midway();
        self.session_deadlines.set(slot as usize, until);
        if leaves {
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
