//! The sink's loop: connections, events, replies that are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::desk::{Desk, Step};
use super::dialogue::Dialogue;
use crate::sys::{self, Event, Poll};

const READ_BYTES: usize = 128 << 10;
/// Tokens of listeners have this bit; all others are a session's slot and generation.
pub(super) const LISTENER: u64 = 1 << 63;
/// How long a sink may sleep before it looks at its stop flag.
const NAP: Duration = Duration::from_millis(50);

struct Session {
    stream: TcpStream,
    dialogue: Dialogue,
    /// Replies the socket would not take yet.
    unsent: Vec<u8>,
    state: State,
    /// There may be more to read than was read.
    readable: bool,
    /// The peer has ended its side.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Talking,
    /// The final reply is due at some time; nothing is read meanwhile.
    Answering,
    /// What comes is read and ignored.
    Hung,
    /// Closes once everything is sent.
    Closing,
}

/// Sessions by slot; the generation tells a slot's tenants apart.
#[derive(Default)]
struct Slots {
    sessions: Vec<(u32, Option<Box<Session>>)>,
    free: Vec<u32>,
}

impl Slots {
    fn insert(&mut self, session: Session) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push((0, None));
            self.sessions.len() as u32 - 1
        });
        let (generation, place) = &mut self.sessions[slot as usize];
        *place = Some(Box::new(session));
        u64::from(*generation) << 32 | u64::from(slot)
    }

    fn take(&mut self, token: u64) -> Option<Box<Session>> {
        let (generation, place) = self.sessions.get_mut(token as u32 as usize)?;
        if u64::from(*generation) == token >> 32 { place.take() } else { None }
    }

    fn put_back(&mut self, token: u64, session: Box<Session>) {
        self.sessions[token as u32 as usize].1 = Some(session);
    }

    /// Frees the slot of a session that was taken and will not come back.
    fn release(&mut self, token: u64) {
        let generation = &mut self.sessions[token as u32 as usize].0;
        *generation = generation.wrapping_add(1) & 0x7FFF_FFFF;
        self.free.push(token as u32);
    }
}

/// The running loop.
pub(super) struct Server<'a> {
    poll: Poll,
    listeners: Vec<TcpListener>,
    /// Accepting stopped for want of descriptors: try again without being told.
    accept_again: bool,
    desk: Desk<'a>,
    slots: Slots,
    /// Final replies: when (nanoseconds since the start), to whom.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    latency: Duration,
    jitter: bool,
    started: Instant,
    buffer: Vec<u8>,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        poll: Poll,
        listeners: Vec<TcpListener>,
        desk: Desk<'a>,
        latency: Duration,
        jitter: bool,
    ) -> Self {
        Server {
            poll,
            listeners,
            accept_again: false,
            desk,
            slots: Slots::default(),
            due: BinaryHeap::new(),
            latency,
            jitter,
            started: Instant::now(),
            buffer: vec![0; READ_BYTES],
        }
    }

    /// Waits for something to happen, and does what it asks for.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let found = self.poll.wait(self.timeout())?;
        for index in 0..found {
            let event = self.poll.event(index);
            if event.token & LISTENER != 0 {
                self.accept((event.token & !LISTENER) as usize);
            } else {
                self.serve(event.token, Some(event));
            }
        }
        if self.accept_again {
            self.accept_again = false;
            (0..self.listeners.len()).for_each(|index| self.accept(index));
        }
        self.answer_due();
        self.desk.store.flush()
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn timeout(&self) -> Duration {
        match self.due.peek() {
            Some(Reverse((at, _))) => NAP.min(Duration::from_nanos(at.saturating_sub(self.now_ns()))),
            None => NAP,
        }
    }

    fn accept(&mut self, index: usize) {
        loop {
            match sys::accept(&self.listeners[index]) {
                Ok(Some(stream)) => self.welcome(stream),
                Ok(None) => return,
                Err(_) => {
                    self.accept_again = true;
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        self.desk.tally.connections.add(1);
        let session = Session {
            stream,
            dialogue: Dialogue::new(),
            unsent: Vec::new(),
            state: State::Talking,
            readable: false,
            ended: false,
        };
        let token = self.slots.insert(session);
        let Some(mut session) = self.slots.take(token) else {
            return;
        };
        let step = session.dialogue.greet(&mut self.desk);
        session.enter(step);
        let alive = self.poll.add(&session.stream, token).is_ok() && session.flush(&mut self.desk.out);
        self.settle(token, session, alive);
    }

    /// Gives a session its turn: reads, lets the dialogue answer, sends.
    fn serve(&mut self, token: u64, event: Option<Event>) {
        let Some(mut session) = self.slots.take(token) else {
            return;
        };
        if let Some(event) = event {
            session.readable |= event.readable;
            session.ended |= event.ended;
        }
        let alive = self.advance(token, &mut session);
        self.settle(token, session, alive);
    }

    fn settle(&mut self, token: u64, session: Box<Session>, alive: bool) {
        if alive && !(session.state == State::Closing && session.unsent.is_empty()) {
            self.slots.put_back(token, session);
        } else {
            drop(session);
            self.slots.release(token);
        }
    }

    fn advance(&mut self, token: u64, session: &mut Session) -> bool {
        loop {
            // What is answered 250 has been written down, should the process be killed right behind it.
            if self.desk.store.flush().is_err() || !session.flush(&mut self.desk.out) {
                return false;
            }
            let wants = matches!(session.state, State::Talking | State::Hung);
            if !wants || !session.readable || !session.unsent.is_empty() {
                return true;
            }
            let length = match session.stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    session.readable = false;
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            // A short read has emptied the socket: what comes later makes a new event.
            session.readable = length == self.buffer.len() || session.ended;
            if session.state == State::Talking {
                let step = session.dialogue.take(&self.buffer[..length], &mut self.desk);
                self.follow(token, session, step);
            }
        }
    }

    /// Goes where the dialogue says, answering at once where there is no latency.
    fn follow(&mut self, token: u64, session: &mut Session, mut step: Step) {
        while step == Step::Answer {
            if !self.latency.is_zero() {
                let mean = self.latency.as_nanos() as f64;
                let wait = if self.jitter { self.desk.dice.exponential(mean) } else { mean };
                self.due.push(Reverse((self.now_ns() + wait as u64, token)));
                break;
            }
            step = self.answer(session);
        }
        session.enter(step);
    }

    fn answer(&mut self, session: &mut Session) -> Step {
        match session.dialogue.answer(&mut self.desk) {
            Step::More => session.dialogue.take(&[], &mut self.desk),
            step => step,
        }
    }

    fn answer_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = self.now_ns();
        while let Some(Reverse((at, token))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            let Some(mut session) = self.slots.take(token) else {
                continue;
            };
            session.state = State::Talking;
            let step = self.answer(&mut session);
            self.follow(token, &mut session, step);
            let alive = self.advance(token, &mut session);
            self.settle(token, session, alive);
        }
    }
}

impl Session {
    fn enter(&mut self, step: Step) {
        self.state = match step {
            Step::More => State::Talking,
            Step::Answer => State::Answering,
            Step::Close => State::Closing,
            Step::Hang => State::Hung,
        };
    }

    /// Sends what there is to send, keeps what the socket does not take. False: the connection is gone.
    fn flush(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.unsent.is_empty() {
            self.unsent.append(out);
            std::mem::swap(&mut self.unsent, out);
        }
        let mut sent = 0;
        while sent < out.len() {
            match self.stream.write(&out[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    out.clear();
                    return false;
                }
            }
        }
        self.unsent.clear();
        self.unsent.extend_from_slice(&out[sent..]);
        out.clear();
        true
    }
}
