//! The downstream side: a session's dialogue turned into messages.

mod body;
mod input;
mod owed;
mod talkers;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use super::message::{Message, TransactionId};
use super::streaming::Line;
use super::{Dispatch, Queued, StreamOwner};
use crate::balance::key;
use crate::handle::{Buffers, Extent, ListenerId, StreamId};
use crate::limits::{LINGER, REPLIES_BYTES_MAX, REPLIES_HELD_BYTES_MAX};
use crate::protocol::server::{Server, Violation};
use crate::protocol::wire::reply::{Enhanced, Reply, ReplyBuf};
use crate::time::Instant;
use owed::Owed;
pub(in crate::dispatch) use talkers::Talkers;

/// A downstream dialogue.
#[derive(Debug)]
pub(in crate::dispatch) struct Session {
    pub(in crate::dispatch) stream: StreamId,
    pub(in crate::dispatch) listener: ListenerId,
    pub(in crate::dispatch) peer: SocketAddr,
    /// The peer address's key.
    source: u64,
    pub(in crate::dispatch) server: Server,
    /// The name in its HELO or EHLO.
    pub(in crate::dispatch) hello: Vec<u8>,
    trusted: bool,
    /// The message being received.
    pub(in crate::dispatch) message: Option<Arc<Message>>,
    /// The message being received whose beginning is on its way already.
    pub(in crate::dispatch) streaming: Option<TransactionId>,
    /// The message being received comes to nothing: what is said at its end, or its next chunk's.
    pub(in crate::dispatch) refusal: Option<ReplyBuf>,
    /// Memory is short: it is not read for now.
    pub(in crate::dispatch) held_back: bool,
    /// In which line of `Dispatch::queues` it waits for room.
    pub(in crate::dispatch) line: Line,
    pub(in crate::dispatch) mail_at: Instant,
    /// The second in which it has ended a message.
    spoke_in: u64,
    /// What it is still to be told, the verdicts on its messages among it.
    owed: Owed,
    /// Input that came while no more could be taken.
    pub(in crate::dispatch) pending: Vec<Extent>,
    pub(in crate::dispatch) paused: bool,
    /// Octets of replies written since it was last known to have taken all.
    said: usize,
    /// So many of them stand before a mark that it has not yet passed; 0: there is none.
    marked: usize,
    /// It has not taken enough of them: nothing more is taken from it until then.
    pub(in crate::dispatch) is_deaf: bool,
    /// Input that came while it waited had to be thrown away: it is sent away when it would be heard again.
    overrun: bool,
    /// Its stream is being closed, as soon as it has been told all; what still comes is ignored.
    pub(in crate::dispatch) closing: bool,
}

const SHUTTING_DOWN: Reply<'static> = Reply::new(421, Enhanced(4, 3, 2), "Shutting down, try another server");
const TOO_MANY_SESSIONS: Reply<'static> =
    Reply::new(421, Enhanced(4, 3, 2), "Too many sessions, try again later");
const SILENT_TOO_LONG: Reply<'static> = Reply::new(421, Enhanced(4, 4, 2), "Silent for too long, closing");
pub(in crate::dispatch) const OUT_OF_MEMORY: Reply<'static> =
    Reply::new(452, Enhanced(4, 3, 1), "Out of memory for messages, try again later");

impl Session {
    /// It has sent a message, and has not been told what became of it.
    pub(in crate::dispatch) fn awaits_verdict(&self) -> bool {
        self.owed.awaits()
    }

    /// Nothing more is taken from it for now.
    fn is_busy(&self) -> bool {
        self.is_deaf || self.owed.is_full()
    }

    /// It is in the middle of a message.
    fn is_midway(&self) -> bool {
        self.message.is_some() || self.streaming.is_some()
    }

    /// The answer to a chunk or message that is not taken.
    fn refusal_of(&mut self, end: Result<u64, Violation>) -> Option<ReplyBuf> {
        let refusal = self.refusal.take();
        match end {
            Err(violation) => Some(violation.reply().to_buf()),
            Ok(_) => refusal,
        }
    }
}

impl Dispatch {
    /// A listener took a stream. `elsewhere`: that listener's sessions on the other shards.
    pub fn handle_accepted(
        &mut self,
        listener: ListenerId,
        stream: StreamId,
        peer: SocketAddr,
        elsewhere: u64,
        now: Instant,
    ) {
        let options = &self.options.listeners[usize::from(listener.0)];
        let stats = &self.stats.listeners[usize::from(listener.0)];
        let full = stats.sessions.get() + elsewhere >= options.sessions_max;
        stats.turned_away.add(u64::from(full));
        stats.sessions.add(1);
        stats.connections.add(1);
        let trusted = options.trusted.iter().any(|network| network.contains(peer.ip()));
        let slot = self.sessions.insert(Session {
            stream,
            listener,
            peer,
            source: key(peer.ip().to_string().as_bytes()),
            server: Server::default(),
            hello: Vec::new(),
            trusted,
            message: None,
            streaming: None,
            refusal: None,
            held_back: false,
            line: Line::None,
            mail_at: now,
            spoke_in: u64::MAX,
            owed: Owed::default(),
            pending: Vec::new(),
            paused: false,
            said: 0,
            marked: 0,
            is_deaf: false,
            overrun: false,
            closing: false,
        }) as u32;
        self.adopt(stream, StreamOwner::Session(slot));
        if full {
            self.say_goodbye(slot, TOO_MANY_SESSIONS, now);
        } else if self.draining {
            self.say_goodbye(slot, SHUTTING_DOWN, now);
        } else {
            let from = self.out.len();
            let options = &self.options.listeners[usize::from(listener.0)];
            self.sessions[slot as usize].server.greet(&options.server, &mut self.out);
            let idle_timeout = options.idle_timeout;
            self.write_since(from, stream);
            self.session_deadlines.set(slot as usize, now + idle_timeout);
            self.line_up(slot);
        }
    }

    /// Writes what was added to `out` since it was `from` long, or keeps it until what it comes behind is known.
    fn say(&mut self, slot: u32, from: usize) {
        let owed = &mut self.sessions[slot as usize].owed;
        if owed.awaits() {
            owed.push(&self.out[from..]);
            self.out.truncate(from);
        } else {
            self.write_to_session(slot, from);
        }
    }

    /// Writes what was added to `out` since it was `from` long; listens no more to a client that does not read.
    fn write_to_session(&mut self, slot: u32, from: usize) {
        let session = &mut self.sessions[slot as usize];
        let stream = session.stream;
        session.said += self.out.len() - from;
        let marks = session.said > REPLIES_BYTES_MAX / 2 && session.marked == 0;
        if marks {
            session.marked = session.said;
        }
        session.is_deaf |= session.said > REPLIES_BYTES_MAX;
        let pauses = session.is_deaf && !std::mem::replace(&mut session.paused, true);
        self.write_since(from, stream);
        if marks {
            self.commands.push_back(Queued::Mark(stream));
        }
        if pauses {
            self.commands.push_back(Queued::Pause(stream));
        }
    }

    fn answer(&mut self, slot: u32, reply: Reply<'_>) {
        let from = self.out.len();
        let session = &mut self.sessions[slot as usize];
        if session.closing {
            return;
        }
        session.server.answer(reply, &mut self.out);
        self.say(slot, from);
    }

    /// Keeps back the replies that were about to leave, to go with the answer to the message that came with their
    /// commands: one packet instead of two, and for the client one less to acknowledge.
    fn hold_replies(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        if let Some(&Queued::Write { stream, from, to }) = self.commands.back()
            && stream == session.stream
            && to - from <= REPLIES_HELD_BYTES_MAX
        {
            self.commands.pop_back();
            session.owed.push(&self.out[from..to]);
            session.said -= to - from;
        }
    }

    /// The answer takes long: what was kept back for it leaves.
    fn release_replies(&mut self, slot: u32) {
        let from = self.out.len();
        self.sessions[slot as usize].owed.release(&mut self.out);
        self.write_to_session(slot, from);
        self.session_deadlines.set(slot as usize, Instant::NEVER);
    }

    /// Says that and closes, when all that it comes behind has been said.
    fn say_goodbye(&mut self, slot: u32, reply: Reply<'static>, now: Instant) {
        if self.sessions[slot as usize].closing {
            return;
        }
        let from = self.out.len();
        reply.write(&mut self.out);
        self.say(slot, from);
        self.close_session(slot, now);
    }

    fn close_session(&mut self, slot: u32, now: Instant) {
        let session = &mut self.sessions[slot as usize];
        if !session.closing {
            session.closing = true;
            let streaming = session.streaming.take();
            streaming.into_iter().for_each(|id| self.withdraw(id));
            self.close_when_told(slot, now);
        }
    }

    /// Closes the stream of a session that is to be closed, if all has been said.
    fn close_when_told(&mut self, slot: u32, now: Instant) {
        let session = &self.sessions[slot as usize];
        if session.closing && !session.owed.awaits() {
            self.commands.push_back(Queued::Close(session.stream));
            self.session_deadlines.set(slot as usize, now + LINGER);
        }
    }

    /// The stream is gone. Messages already complete go on without it.
    pub(in crate::dispatch) fn session_closed(&mut self, slot: u32, buffers: &mut impl Buffers) {
        self.forget_message(slot, buffers);
        let session = self.sessions.remove(slot as usize);
        session.pending.iter().for_each(|extent| buffers.release(extent.buffer));
        session.owed.messages().for_each(|transaction| self.abandon_transaction(transaction));
        self.session_deadlines.set(slot as usize, Instant::NEVER);
        self.stats.listeners[usize::from(session.listener.0)].sessions.sub(1);
    }

    pub(in crate::dispatch) fn session_expired(&mut self, slot: u32, now: Instant) {
        match self.sessions.get(slot as usize) {
            Some(session) if session.owed.awaits() => self.release_replies(slot),
            // It does not take our last words.
            Some(session) if session.closing => self.commands.push_back(Queued::Abort(session.stream)),
            Some(_) => self.say_goodbye(slot, SILENT_TOO_LONG, now),
            None => {}
        }
    }

    /// Takes leave of all sessions that do not wait for an answer; in `haste`, of those in mid-message too.
    pub(in crate::dispatch) fn dismiss_sessions(&mut self, haste: bool, now: Instant) {
        let idle = |s: &Session| !s.owed.awaits() && (haste || !s.is_midway());
        let slots: Vec<u32> = self.sessions.iter().filter(|(_, s)| idle(s)).map(|(i, _)| i as u32).collect();
        slots.into_iter().for_each(|slot| self.say_goodbye(slot, SHUTTING_DOWN, now));
    }
}
