//! What a client says, fed to the protocol as far as it can be dealt with now.

use super::SHUTTING_DOWN;
use crate::dispatch::message::unshared;
use crate::dispatch::{Dispatch, Queued, unix_ms};
use crate::handle::{Buffers, Extent};
use crate::limits::{
    APPEND_BYTES_MAX, BUFFERS_RESERVED, PENDING_BYTES_MAX, PENDING_EXTENTS_MAX, REPLIES_BYTES_MAX,
};
use crate::protocol::server::{Event, Violation};
use crate::protocol::wire::reply::{Enhanced, Reply};
use crate::time::Instant;

const MAIL_OK: Reply<'static> = Reply::new(250, Enhanced(2, 1, 0), "Ok");
const RCPT_OK: Reply<'static> = Reply::new(250, Enhanced(2, 1, 5), "Ok");
const GO_AHEAD: Reply<'static> =
    Reply { code: 354, enhanced: None, text: b"End data with <CR><LF>.<CR><LF>" };
const TOO_EAGER: Reply<'static> = Reply::new(421, Enhanced(4, 3, 1), "Out of memory, closing");
const RELAY_DENIED: Reply<'static> = Reply::new(550, Enhanced(5, 7, 1), "Relaying denied");

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

impl Dispatch {
    pub(in crate::dispatch) fn session_received(
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
        if !session.owed.awaits() && !session.held_back {
            self.session_deadlines.set(slot as usize, now + idle_timeout);
        }
        if session.is_busy() || !session.pending.is_empty() {
            return self.keep_for_later(slot, extent, buffers);
        }
        self.consume(slot, extent, now, buffers);
        buffers.release(extent.buffer);
    }

    /// Input that cannot be dealt with yet.
    pub(super) fn keep_for_later(&mut self, slot: u32, extent: Extent, buffers: &mut impl Buffers) {
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
        let (paused, stream) = (session.paused, session.stream);
        // (It would be the next to take what room is left, and cannot go on with what it has.)
        if !paused && (much || buffers.free() <= self.options.buffers / 2) {
            self.sessions[slot as usize].paused = true;
            self.commands.push_back(Queued::Pause(stream));
        }
    }

    /// Feeds input to the protocol until it is used up or a verdict has to be waited for.
    pub(super) fn consume(&mut self, slot: u32, extent: Extent, now: Instant, buffers: &mut impl Buffers) {
        let len = extent.len as usize;
        let mut at = 0;
        // Not only as long as there are octets left: a message's end is told after its last one was taken.
        loop {
            let session = &mut self.sessions[slot as usize];
            if session.closing {
                return;
            }
            if session.is_busy() {
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
                return self.mind_memory(slot, now, buffers);
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
                let message = unshared(message);
                message.source = session.source;
                message.envelope.set_sender(&mail);
                message.note_times(&mail.parameters, now, unix_ms(self.unix_at_zero_ms, now));
                session.mail_at = now;
                session.refusal = None;
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
        self.say(slot, from);
        (used, ask)
    }

    /// The client has taken what was written before the mark.
    pub(in crate::dispatch) fn session_sent(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
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
            Ask::Data => self.answer(slot, GO_AHEAD),
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

    /// Goes on with the input that came in the meantime; if some of it is gone, what follows is no use.
    pub(in crate::dispatch) fn resume(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        if self.sessions[slot as usize].overrun {
            return self.say_goodbye(slot, TOO_EAGER, now);
        }
        loop {
            let session = &mut self.sessions[slot as usize];
            if session.is_busy() || session.closing || session.pending.is_empty() {
                break;
            }
            let extent = session.pending.remove(0);
            self.consume(slot, extent, now, buffers);
            buffers.release(extent.buffer);
        }
        self.listen(slot, buffers);
    }
}
