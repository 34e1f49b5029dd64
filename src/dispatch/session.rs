//! The downstream side: a session's dialogue turned into messages.

use std::net::SocketAddr;
use std::sync::Arc;

use super::message::{Message, TransactionId, unshared};
use super::{Dispatch, Queued, StreamOwner};
use crate::balance::key;
use crate::handle::{Buffers, Extent, ListenerId, StreamId};
use crate::limits::{
    APPEND_BYTES_MAX, BUFFERS_RESERVED, LINGER, PENDING_BYTES_MAX, PENDING_EXTENTS_MAX, REPLIES_BYTES_MAX,
};
use crate::observe::ListenerStats;
use crate::protocol::server::{Event, Server, Violation};
use crate::protocol::wire::reply::{Enhanced, Reply};
use crate::time::Instant;

/// A downstream dialogue.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: StreamId,
    pub(super) listener: ListenerId,
    pub(super) peer: SocketAddr,
    /// The peer address's key.
    source: u64,
    pub(super) server: Server,
    /// The name in its HELO or EHLO.
    pub(super) hello: Vec<u8>,
    trusted: bool,
    /// The message being received.
    message: Option<Arc<Message>>,
    /// Its body did not fit into memory: it is refused at its end.
    overflown: bool,
    mail_at: Instant,
    /// The message whose verdict it waits for.
    waiting: Option<TransactionId>,
    /// Input that came while an answer was due.
    pending: Vec<Extent>,
    paused: bool,
    /// Octets of replies written since it was last known to have taken all.
    said: usize,
    /// So many of them stand before a mark that it has not yet passed; 0: there is none.
    marked: usize,
    /// It has not taken enough of them: nothing more is taken from it until then.
    is_deaf: bool,
    /// Input that came while it waited had to be thrown away: it is sent away after its answer.
    overrun: bool,
    /// Its stream is being closed; what still comes is ignored.
    closing: bool,
}

/// What an event asks of dispatch, free of the input it was read from.
enum Ask {
    Nothing,
    Answer(Reply<'static>),
    Data,
    Body(std::ops::Range<usize>),
    Chunk(Result<u64, Violation>),
    End(Result<u64, Violation>),
    Forget,
    Close,
    /// New mail in a drain.
    Goodbye,
}

const MAIL_OK: Reply<'static> = Reply::new(250, Enhanced(2, 1, 0), "Ok");
const RCPT_OK: Reply<'static> = Reply::new(250, Enhanced(2, 1, 5), "Ok");
const CHUNK_OK: Reply<'static> = Reply::new(250, Enhanced(2, 0, 0), "Chunk taken");
const GO_AHEAD: Reply<'static> =
    Reply { code: 354, enhanced: None, text: b"End data with <CR><LF>.<CR><LF>" };
const RELAY_DENIED: Reply<'static> = Reply::new(550, Enhanced(5, 7, 1), "Relaying denied");
const SHUTTING_DOWN: Reply<'static> = Reply::new(421, Enhanced(4, 3, 2), "Shutting down, try another server");
const TOO_MANY_SESSIONS: Reply<'static> =
    Reply::new(421, Enhanced(4, 3, 2), "Too many sessions, try again later");
const SILENT_TOO_LONG: Reply<'static> = Reply::new(421, Enhanced(4, 4, 2), "Silent for too long, closing");
const TOO_EAGER: Reply<'static> = Reply::new(421, Enhanced(4, 3, 1), "Out of memory, closing");
const OUT_OF_MEMORY: Reply<'static> =
    Reply::new(452, Enhanced(4, 3, 1), "Out of memory for messages, try again later");

impl Session {
    /// The answer to a chunk or message that is not taken.
    fn refusal_of(&self, end: Result<u64, Violation>) -> Option<Reply<'static>> {
        match end {
            Err(violation) => Some(violation.reply()),
            Ok(_) => self.overflown.then_some(OUT_OF_MEMORY),
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
            overflown: false,
            mail_at: now,
            waiting: None,
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
        }
    }

    pub(super) fn session_received(
        &mut self,
        slot: u32,
        extent: Extent,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let session = &mut self.sessions[slot as usize];
        if session.closing {
            buffers.release(extent.buffer);
            return;
        }
        let idle_timeout = self.options.listeners[usize::from(session.listener.0)].idle_timeout;
        if session.waiting.is_none() {
            self.session_deadlines.set(slot as usize, now + idle_timeout);
        }
        if session.waiting.is_some() || session.is_deaf || !session.pending.is_empty() {
            return self.keep_for_later(slot, extent, buffers);
        }
        self.consume(slot, extent, now, buffers);
        buffers.release(extent.buffer);
    }

    /// Input that cannot be dealt with yet.
    fn keep_for_later(&mut self, slot: u32, extent: Extent, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        // What the session waits for comes by a link, and takes a buffer.
        session.overrun |= buffers.free() < BUFFERS_RESERVED / 2;
        if session.overrun {
            buffers.release(extent.buffer);
            session.pending.drain(..).for_each(|kept| buffers.release(kept.buffer));
        } else if let Some(last) = session.pending.last_mut()
            && extent.len <= APPEND_BYTES_MAX
            && let Some(grown) = buffers.append(*last, extent)
        {
            *last = grown;
            buffers.release(extent.buffer);
        } else {
            session.pending.push(extent);
        }
        let bytes: usize = session.pending.iter().map(|e| e.len as usize).sum();
        let much = bytes > PENDING_BYTES_MAX || session.pending.len() > PENDING_EXTENTS_MAX;
        if !session.paused && (much || buffers.free() <= BUFFERS_RESERVED) {
            session.paused = true;
            self.commands.push_back(Queued::Pause(session.stream));
        }
    }

    /// Feeds input to the protocol until it is used up or an answer has to be waited for.
    fn consume(&mut self, slot: u32, extent: Extent, now: Instant, buffers: &mut impl Buffers) {
        let len = extent.len as usize;
        let mut at = 0;
        // Not only as long as there are octets left: a message's end is told after its last one was taken.
        loop {
            let session = &mut self.sessions[slot as usize];
            if session.closing {
                return;
            }
            if session.waiting.is_some() || session.is_deaf {
                if at < len {
                    buffers.retain(extent.buffer);
                    session.pending.insert(0, extent.slice(at..len));
                }
                return;
            }
            let rest = extent.slice(at..len);
            let (used, ask) = self.step(slot, buffers.bytes(rest), now);
            at += used;
            if matches!(ask, Ask::Nothing) {
                debug_assert!(at == len, "without an event all input is taken");
                return;
            }
            self.carry_out(slot, rest, ask, now, buffers);
        }
    }

    /// One event of the protocol. Its replies are written here; what it needs of dispatch is returned.
    fn step(&mut self, slot: u32, input: &[u8], now: Instant) -> (usize, Ask) {
        let from = self.out.len();
        let session = &mut self.sessions[slot as usize];
        let options = &self.options.listeners[usize::from(session.listener.0)].server;
        let (used, event) = session.server.receive(input, options, &mut self.out);
        let ask = match event {
            None => Ask::Nothing,
            Some(Event::Hello { name, .. }) => {
                session.hello.clear();
                session.hello.extend_from_slice(name);
                Ask::Forget
            }
            Some(Event::Mail(_)) if self.draining => Ask::Goodbye,
            Some(Event::Mail(mail)) => {
                let message = session.message.get_or_insert_with(|| {
                    self.receiving += 1;
                    self.spares.take()
                });
                unshared(message).source = session.source;
                unshared(message).envelope.set_sender(&mail);
                session.mail_at = now;
                session.overflown = false;
                Ask::Answer(MAIL_OK)
            }
            Some(Event::Recipient(_)) if !session.trusted => Ask::Answer(RELAY_DENIED),
            Some(Event::Recipient(recipient)) => {
                if let Some(message) = &mut session.message {
                    unshared(message).envelope.push_recipient(&recipient);
                }
                Ask::Answer(RCPT_OK)
            }
            Some(Event::Data) => Ask::Data,
            Some(Event::Body(range)) => Ask::Body(range),
            Some(Event::Chunk(end)) => Ask::Chunk(end),
            Some(Event::End(end)) => Ask::End(end),
            Some(Event::Reset) => Ask::Forget,
            Some(Event::Quit | Event::Hangup) => Ask::Close,
        };
        self.write_to_session(slot, from);
        (used, ask)
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

    /// The client has taken what was written before the mark.
    pub(super) fn session_sent(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        session.said -= std::mem::take(&mut session.marked);
        if session.said > REPLIES_BYTES_MAX / 2 {
            session.marked = session.said;
            self.commands.push_back(Queued::Mark(session.stream));
        } else if std::mem::take(&mut session.is_deaf) {
            self.resume(slot, now, buffers);
        }
    }

    fn carry_out(&mut self, slot: u32, input: Extent, ask: Ask, now: Instant, buffers: &mut impl Buffers) {
        match ask {
            Ask::Nothing => {}
            Ask::Answer(reply) => self.answer(slot, reply),
            Ask::Data => {
                let room = buffers.free() > BUFFERS_RESERVED;
                if !room {
                    self.stats.out_of_buffers.add(1);
                }
                self.answer(slot, if room { GO_AHEAD } else { OUT_OF_MEMORY });
            }
            Ask::Body(range) => self.session_body(slot, input.slice(range), buffers),
            Ask::Chunk(end) => self.session_chunk(slot, end, now, buffers),
            Ask::End(end) => self.session_end(slot, end, now, buffers),
            Ask::Forget => self.forget_message(slot, buffers),
            Ask::Close => {
                self.forget_message(slot, buffers);
                self.close_session(slot, now);
            }
            Ask::Goodbye => self.say_goodbye(slot, SHUTTING_DOWN, now),
        }
    }

    fn session_body(&mut self, slot: u32, piece: Extent, buffers: &mut impl Buffers) {
        let session = &mut self.sessions[slot as usize];
        let Some(message) = &mut session.message else {
            return;
        };
        if session.overflown {
            return;
        }
        if buffers.free() <= BUFFERS_RESERVED {
            session.overflown = true;
            self.stats.out_of_buffers.add(1);
            unshared(message).release_body(buffers);
            return;
        }
        unshared(message).push_body(piece, buffers);
    }

    /// A chunk that is not the last: refused, it ends the transaction.
    fn session_chunk(
        &mut self,
        slot: u32,
        end: Result<u64, Violation>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        match self.sessions[slot as usize].refusal_of(end) {
            Some(reply) => {
                self.forget_message(slot, buffers);
                self.answer_final(slot, reply, now);
            }
            None => self.answer(slot, CHUNK_OK),
        }
    }

    fn session_end(
        &mut self,
        slot: u32,
        end: Result<u64, Violation>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        if let Some(reply) = self.sessions[slot as usize].refusal_of(end) {
            self.forget_message(slot, buffers);
            self.answer_final(slot, reply, now);
            return;
        }
        let session = &mut self.sessions[slot as usize];
        let Some(mut message) = session.message.take() else {
            return;
        };
        unshared(&mut message).shape = session.server.shape();
        let mail_at = session.mail_at;
        self.receiving -= 1;
        self.session_deadlines.set(slot as usize, Instant::NEVER);
        let message = self.complete_message(slot, message, now, buffers);
        let transaction = self.begin_transaction(message, Some(slot), mail_at, now);
        let session = &mut self.sessions[slot as usize];
        session.waiting = Some(transaction);
        // A client that has said all it has to say may close its sending side, and still wants to hear.
        self.commands.push_back(Queued::Hold(session.stream, true));
    }

    /// The verdict on the message that the session waits for.
    pub(super) fn session_verdict(
        &mut self,
        slot: u32,
        reply: Reply<'_>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let session = &mut self.sessions[slot as usize];
        session.waiting = None;
        self.commands.push_back(Queued::Hold(session.stream, false));
        self.answer_final(slot, reply, now);
        if self.sessions[slot as usize].overrun {
            self.say_goodbye(slot, TOO_EAGER, now);
        }
        self.resume(slot, now, buffers);
    }

    /// Goes on with the input that came in the meantime.
    fn resume(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        loop {
            let session = &mut self.sessions[slot as usize];
            if session.waiting.is_some() || session.is_deaf || session.closing || session.pending.is_empty() {
                break;
            }
            let extent = session.pending.remove(0);
            self.consume(slot, extent, now, buffers);
            buffers.release(extent.buffer);
        }
        let session = &mut self.sessions[slot as usize];
        let listens = session.pending.is_empty() && !session.is_deaf && !session.closing;
        if session.paused && listens {
            session.paused = false;
            self.commands.push_back(Queued::Resume(session.stream));
        }
    }

    /// Answers end of data, counts it, and in a drain takes leave.
    fn answer_final(&mut self, slot: u32, reply: Reply<'_>, now: Instant) {
        self.answer(slot, reply);
        let session = &self.sessions[slot as usize];
        let listener = usize::from(session.listener.0);
        count(&self.stats.listeners[listener], &reply);
        self.session_deadlines.set(slot as usize, now + self.options.listeners[listener].idle_timeout);
        if self.draining {
            self.say_goodbye(slot, SHUTTING_DOWN, now);
        }
    }

    fn answer(&mut self, slot: u32, reply: Reply<'_>) {
        let from = self.out.len();
        let session = &mut self.sessions[slot as usize];
        if session.closing {
            return;
        }
        session.server.answer(reply, &mut self.out);
        self.write_to_session(slot, from);
    }

    fn say_goodbye(&mut self, slot: u32, reply: Reply<'static>, now: Instant) {
        let session = &self.sessions[slot as usize];
        if session.closing {
            return;
        }
        let from = self.out.len();
        reply.write(&mut self.out);
        self.write_since(from, session.stream);
        self.close_session(slot, now);
    }

    fn close_session(&mut self, slot: u32, now: Instant) {
        let session = &mut self.sessions[slot as usize];
        if !session.closing {
            session.closing = true;
            self.commands.push_back(Queued::Close(session.stream));
            self.session_deadlines.set(slot as usize, now + LINGER);
        }
    }

    fn forget_message(&mut self, slot: u32, buffers: &mut impl Buffers) {
        if let Some(mut message) = self.sessions[slot as usize].message.take() {
            self.receiving -= 1;
            unshared(&mut message).release_body(buffers);
            self.spares.put(message);
        }
    }

    /// The stream is gone. A message already complete goes on without it.
    pub(super) fn session_closed(&mut self, slot: u32, buffers: &mut impl Buffers) {
        self.forget_message(slot, buffers);
        let session = self.sessions.remove(slot as usize);
        session.pending.iter().for_each(|extent| buffers.release(extent.buffer));
        if let Some(transaction) = session.waiting {
            self.abandon_transaction(transaction);
        }
        self.session_deadlines.set(slot as usize, Instant::NEVER);
        self.stats.listeners[usize::from(session.listener.0)].sessions.sub(1);
    }

    pub(super) fn session_expired(&mut self, slot: u32, now: Instant) {
        match self.sessions.get(slot as usize) {
            // It does not take our last words.
            Some(session) if session.closing => self.commands.push_back(Queued::Abort(session.stream)),
            Some(_) => self.say_goodbye(slot, SILENT_TOO_LONG, now),
            None => {}
        }
    }

    /// Takes leave of all sessions that do not wait for an answer; in `haste`, of those in mid-message too.
    pub(super) fn dismiss_sessions(&mut self, haste: bool, now: Instant) {
        let idle = |s: &Session| s.waiting.is_none() && (haste || s.message.is_none());
        let slots: Vec<u32> = self.sessions.iter().filter(|(_, s)| idle(s)).map(|(i, _)| i as u32).collect();
        slots.into_iter().for_each(|slot| self.say_goodbye(slot, SHUTTING_DOWN, now));
    }
}

fn count(stats: &ListenerStats, reply: &Reply<'_>) {
    match reply.code / 100 {
        2 => stats.accepted.add(1),
        4 => stats.deferred.add(1),
        _ => stats.rejected.add(1),
    }
}
