//! Clients that a world plays: they send messages one after another, well or badly behaved.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use postlane::net::sim::{PeerId, PeerState, World};
use postlane::time::Instant;

use crate::dice::Dice;
use crate::message::{Fate, Message};

/// How a client is.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// MAIL, RCPT and DATA in one go; `eager`: the next ones right behind the final dot.
    pub(crate) pipelining: bool,
    /// Messages go by BDAT, in one to three chunks.
    pub(crate) chunking: bool,
    /// Or in as many as it takes of so many octets each.
    pub(crate) chunk_octets: Option<usize>,
    pub(crate) eager: bool,
    pub(crate) messages_per_session: usize,
    /// The most bytes sent at once, and the pause after them.
    pub(crate) chunk_max: usize,
    pub(crate) pause: Duration,
    /// Per session: that it vanishes somewhere in the middle.
    pub(crate) vanish: f64,
    /// Per session: that it falls silent for good after some command.
    pub(crate) stall: f64,
    /// Per message: a RSET and a new start before it.
    pub(crate) reset: f64,
    /// It is gone when it has said all and waited for an answer for so long.
    pub(crate) patience: Option<Duration>,
    pub(crate) says_quit: bool,
    /// Never reads what it is told, and goes on asking.
    pub(crate) reads: bool,
}

impl Habits {
    pub(crate) fn plain(messages_per_session: usize) -> Habits {
        Habits {
            pipelining: true,
            chunking: false,
            chunk_octets: None,
            eager: false,
            messages_per_session,
            chunk_max: usize::MAX,
            pause: Duration::ZERO,
            vanish: 0.0,
            stall: 0.0,
            reset: 0.0,
            patience: None,
            says_quit: true,
            reads: true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Greeting,
    Other,
    Mail(usize),
    Data(usize),
    Final(usize),
}

struct Op {
    bytes: Vec<u8>,
    what: What,
    /// Only when nothing is waited for.
    sync: bool,
}

pub(crate) struct Client {
    pub(crate) done: bool,
    /// Longest wait for an answer.
    pub(crate) waited_most: Duration,
    /// Times of positive answers to final dots.
    pub(crate) answered: Vec<Instant>,
    pub(crate) replies_421: usize,
    /// Replies to final dots with their text.
    pub(crate) finals: Vec<(usize, String)>,
    name: usize,
    to: SocketAddr,
    habits: Habits,
    dice: Dice,
    messages: VecDeque<usize>,
    sessions_left: usize,
    peer: Option<PeerId>,
    ops: VecDeque<Op>,
    due: VecDeque<What>,
    input: Vec<u8>,
    out: VecDeque<u8>,
    sent: usize,
    queued: usize,
    /// Where in the session's bytes a final dot ends.
    dots: VecDeque<(usize, usize)>,
    send_at: Instant,
    vanish_at: Option<usize>,
    stall_at: Option<usize>,
    waiting_since: Instant,
    start_at: Instant,
    trace: bool,
}

impl Client {
    pub(crate) fn new(
        name: usize,
        to: SocketAddr,
        habits: Habits,
        messages: impl IntoIterator<Item = usize>,
        start_at: Instant,
        dice: Dice,
        trace: bool,
    ) -> Client {
        let messages: VecDeque<usize> = messages.into_iter().collect();
        Client {
            done: messages.is_empty(),
            waited_most: Duration::ZERO,
            answered: Vec::new(),
            replies_421: 0,
            finals: Vec::new(),
            name,
            to,
            sessions_left: messages.len() * 2 + 5,
            habits,
            dice,
            messages,
            peer: None,
            ops: VecDeque::new(),
            due: VecDeque::new(),
            input: Vec::new(),
            out: VecDeque::new(),
            sent: 0,
            queued: 0,
            dots: VecDeque::new(),
            send_at: start_at,
            vanish_at: None,
            stall_at: None,
            waiting_since: start_at,
            start_at,
            trace,
        }
    }

    /// When it acts by itself.
    pub(crate) fn wake(&self) -> Instant {
        if self.done {
            Instant::NEVER
        } else if self.peer.is_none() {
            self.start_at
        } else if !self.out.is_empty() && !self.is_stalled() {
            self.send_at
        } else {
            self.leaves_at()
        }
    }

    /// When it does not wait for a verdict any longer.
    fn leaves_at(&self) -> Instant {
        let waits = self.out.is_empty() && matches!(self.due.back(), Some(What::Final(_)));
        let patience = self.habits.patience.filter(|_| waits);
        patience.map_or(Instant::NEVER, |patience| self.waiting_since + patience)
    }

    /// Starts no further session.
    pub(crate) fn give_up(&mut self) {
        self.sessions_left = 0;
        self.done |= self.peer.is_none();
    }

    /// In words, for whoever looks for a fault.
    pub(crate) fn state(&self, world: &World) -> String {
        let ops: Vec<What> = self.ops.iter().map(|op| op.what).collect();
        format!(
            "c{}: {:?}, sent {}, {} to send, stalls {:?}, waits for {:?}, then {ops:?}, messages {:?}",
            self.name,
            self.peer.map(|peer| world.peer_state(peer)),
            self.sent,
            self.out.len(),
            self.stall_at,
            self.due,
            self.messages
        )
    }

    fn is_stalled(&self) -> bool {
        self.stall_at.is_some_and(|at| self.sent >= at)
    }

    pub(crate) fn step(&mut self, world: &World, messages: &mut [Message]) -> bool {
        let now = world.now();
        if self.done || self.peer.is_none() && self.start_at > now {
            return false;
        }
        let Some(peer) = self.peer else {
            self.begin_session(world, messages);
            return true;
        };
        let before = self.input.len();
        world.take_received(peer, &mut self.input);
        let mut acted = self.input.len() > before;
        while let Some((code, text)) = self.take_reply() {
            self.on_reply(code, text, now, messages);
        }
        match world.peer_state(peer) {
            PeerState::Connecting => return acted,
            PeerState::Open => {}
            PeerState::Finished | PeerState::Failed(_) | PeerState::Closed => {
                world.close(peer);
                self.session_lost(now);
                return true;
            }
        }
        self.queue_ops(now, messages);
        if self.ops.is_empty() && self.out.is_empty() && self.due.is_empty() {
            world.close(peer);
            self.session_lost(now);
            return true;
        }
        acted |= self.send(peer, world, messages);
        if self.leaves_at() <= now {
            world.reset(peer);
            self.session_lost(now);
            return true;
        }
        if !self.due.is_empty() {
            self.waited_most = self.waited_most.max(now.since(self.waiting_since));
        }
        acted
    }

    fn begin_session(&mut self, world: &World, messages: &[Message]) {
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        let peer = world.connect(self.to, from);
        self.peer = Some(peer);
        if !self.habits.reads {
            world.pause(peer);
        }
        self.sessions_left -= 1;
        let op = |bytes: &str, what, sync| Op { bytes: bytes.as_bytes().to_vec(), what, sync };
        self.due = VecDeque::from([What::Greeting]);
        self.waiting_since = world.now();
        self.ops.push_back(op(&format!("EHLO c{}.example\r\n", self.name), What::Other, true));
        for at in 0..self.habits.messages_per_session.min(self.messages.len()) {
            let message = &messages[self.messages[at]];
            let mail = format!("MAIL FROM:<{}>{}\r\n", message.sender, message.parameters);
            let (pipelining, eager) = (self.habits.pipelining, self.habits.eager && at > 0);
            if self.dice.chance(self.habits.reset) {
                let start = format!("{mail}RCPT TO:<forgotten@d1.example>\r\n");
                for line in start.split_inclusive('\n') {
                    self.ops.push_back(op(line, What::Other, true));
                }
                self.ops.push_back(op("RSET\r\n", What::Other, true));
            }
            self.ops.push_back(op(&mail, What::Mail(message.number), !eager || !pipelining));
            for recipient in &message.recipients {
                let line = format!("RCPT TO:<{recipient}>{}\r\n", message.notify);
                self.ops.push_back(op(&line, What::Other, !pipelining));
            }
            if self.habits.chunking {
                let plain = message.unstuffed();
                let octets = self.habits.chunk_octets.filter(|_| !message.violation);
                let chunks = if message.violation { 1 } else { self.dice.between(1, 3) };
                let chunks = octets.map_or(chunks, |octets| plain.len() / octets + 1);
                let each = octets.unwrap_or(plain.len() / chunks);
                for at in 1..chunks {
                    let mut bytes = format!("BDAT {each}\r\n").into_bytes();
                    bytes.extend_from_slice(&plain[(at - 1) * each..at * each]);
                    self.ops.push_back(Op { bytes, what: What::Other, sync: !pipelining });
                }
                let rest = &plain[(chunks - 1) * each..];
                let mut bytes = format!("BDAT {} LAST\r\n", rest.len()).into_bytes();
                bytes.extend_from_slice(rest);
                self.ops.push_back(Op { bytes, what: What::Final(message.number), sync: !pipelining });
                continue;
            }
            self.ops.push_back(op("DATA\r\n", What::Data(message.number), !pipelining));
            let mut body = message.data.clone();
            body.extend_from_slice(b".\r\n");
            self.ops.push_back(Op { bytes: body, what: What::Final(message.number), sync: true });
        }
        if self.habits.says_quit {
            let sync = !self.habits.eager;
            self.ops.push_back(op("QUIT\r\n", What::Other, sync));
        }
        let bytes: usize = self.ops.iter().map(|op| op.bytes.len()).sum();
        let vanish = self.dice.chance(self.habits.vanish);
        self.vanish_at = vanish.then(|| self.dice.between(1, bytes));
        let stall = self.dice.chance(self.habits.stall);
        self.stall_at = stall.then(|| self.dice.between(1, bytes));
    }

    fn session_lost(&mut self, now: Instant) {
        self.peer = None;
        self.ops.clear();
        self.due.clear();
        self.input.clear();
        self.out.clear();
        self.dots.clear();
        (self.sent, self.queued) = (0, 0);
        self.start_at = now + Duration::from_millis(self.dice.between(1, 50) as u64);
        self.done = self.messages.is_empty() || self.sessions_left == 0;
    }

    /// Moves on what may be said now.
    fn queue_ops(&mut self, now: Instant, messages: &mut [Message]) {
        while let Some(op) = self.ops.front() {
            if op.sync && !(self.due.is_empty() && self.out.is_empty()) {
                break;
            }
            let Some(op) = self.ops.pop_front() else { break };
            self.queued += op.bytes.len();
            if let What::Final(message) = op.what {
                debug_assert_eq!(messages[message].fate, Fate::Unsent);
                self.dots.push_back((self.queued, message));
            }
            if let What::Mail(message) = op.what {
                messages[message].asked.mailed_at = now;
            }
            self.out.extend(op.bytes);
            self.due.push_back(op.what);
        }
    }

    fn send(&mut self, peer: PeerId, world: &World, messages: &mut [Message]) -> bool {
        let now = world.now();
        if self.out.is_empty() || self.send_at > now || self.is_stalled() {
            return false;
        }
        let mut len = self.out.len().min(self.habits.chunk_max);
        if len > 1 && self.habits.chunk_max < usize::MAX {
            len = self.dice.between(1, len);
        }
        let vanishes = self.vanish_at.is_some_and(|at| at <= self.sent + len);
        if let Some(at) = self.vanish_at {
            len = len.min(at - self.sent);
        }
        if let Some(at) = self.stall_at {
            len = len.min(at - self.sent);
        }
        let bytes: Vec<u8> = self.out.drain(..len).collect();
        if self.trace {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            println!("{:>12} c{} -> {text:?}", now.as_nanos(), self.name);
        }
        world.send(peer, &bytes);
        self.sent += len;
        self.send_at = now + self.habits.pause;
        self.waiting_since = now;
        while let Some((_, message)) = self.dots.pop_front_if(|(at, _)| *at <= self.sent) {
            messages[message].fate = Fate::Unanswered;
            self.messages.retain(|m| *m != message);
        }
        if vanishes {
            if self.trace {
                println!("{:>12} c{} vanishes", now.as_nanos(), self.name);
            }
            if self.dice.chance(0.5) {
                world.reset(peer);
            } else {
                world.close(peer);
            }
            self.session_lost(now);
        }
        true
    }

    fn take_reply(&mut self) -> Option<(u16, String)> {
        let mut from = 0;
        loop {
            let end = from + self.input[from..].windows(2).position(|w| w == b"\r\n")? + 2;
            let line = &self.input[from..end];
            assert!(
                line.len() >= 5 && line[..3].iter().all(u8::is_ascii_digit),
                "c{}: not a reply: {:?}",
                self.name,
                String::from_utf8_lossy(line)
            );
            from = end;
            if line[3] == b' ' {
                break;
            }
        }
        let text = String::from_utf8_lossy(&self.input[..from]).into_owned();
        self.input.drain(..from);
        Some((text[..3].parse().expect("three digits"), text))
    }

    fn on_reply(&mut self, code: u16, text: String, now: Instant, messages: &mut [Message]) {
        if self.trace {
            println!("{:>12} c{} <- {text:?}", now.as_nanos(), self.name);
        }
        self.waited_most = self.waited_most.max(now.since(self.waiting_since));
        self.waiting_since = now;
        if code == 421 {
            self.replies_421 += 1;
            // It answers nothing in particular, and the end follows.
            return;
        }
        let Some(what) = self.due.pop_front() else {
            panic!("c{}: an answer to nothing: {text:?}", self.name);
        };
        match what {
            What::Data(message) if code != 354 => {
                messages[message].fate = Fate::Answered(code);
                self.messages.retain(|m| *m != message);
                self.finals.push((message, text));
                // The body's turn would be next.
                if let Some(op) = self.ops.front_mut() {
                    debug_assert_eq!(op.what, What::Final(message));
                    *op = Op { bytes: b"RSET\r\n".to_vec(), what: What::Other, sync: true };
                }
            }
            What::Final(message) => {
                messages[message].fate = Fate::Answered(code);
                messages[message].answered_at = now;
                messages[message].disk_refused = text.contains("spool");
                if code == 250 {
                    self.answered.push(now);
                }
                self.finals.push((message, text));
            }
            What::Mail(message) => messages[message].asked.taken_on_at = Some(now),
            What::Greeting | What::Other | What::Data(_) => {}
        }
    }
}
