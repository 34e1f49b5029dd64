//! One client session: what it still has to send, which replies it awaits, and for which message.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

use memchr::memchr;

use super::message::Kit;
use crate::stage::Stage;

/// A message under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    /// Whose time counts: when it was to start (open loop) or did (closed loop). Nanoseconds of the run.
    pub(super) from_ns: u64,
    /// Started after the warm-up.
    pub(super) measured: bool,
    /// Its size, as an index.
    pub(super) class: usize,
    pub(super) rcpts_sent: usize,
    pub(super) rcpts_accepted: usize,
    /// Where on its connection it ends, once all of it was given to be sent.
    pub(super) end: Option<u64>,
    /// The first reply that refused something.
    pub(super) refusal: Option<(Stage, u16)>,
}

/// A reply that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Greeting,
    Hello,
    Reset,
    Mail,
    Rcpt,
    Data,
    End,
    Quit,
}

/// Whether there is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// None; the next is tried at this time.
    Down {
        retry_ns: u64,
    },
    Connecting,
    Up,
}

/// Most pieces given to the socket at once.
const PIECES_MAX: usize = 32;

/// A piece of what is to be sent.
enum Piece {
    /// So many of the copied bytes.
    Copied(usize),
    /// A shared body: its class, and whether dots are stuffed.
    Body(usize, bool),
}

/// Bytes to send: commands, shared bodies, and what follows them. Sent in as few pieces as the socket takes.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// Copied bytes that are in `pieces`.
    placed: usize,
    /// Of all that is here.
    sent: usize,
    /// Bytes of bodies among it.
    bodies: usize,
    /// Bytes sent on this connection before.
    before: u64,
}

impl Outgoing {
    /// Where to put the next bytes.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Lets the body of `class` follow.
    pub(super) fn push_body(&mut self, class: usize, stuffed: bool, kit: &Kit) {
        self.place();
        self.pieces.push(Piece::Body(class, stuffed));
        self.bodies += body_bytes(kit, class, stuffed).len();
    }

    fn place(&mut self) {
        if self.bytes.len() > self.placed {
            self.pieces.push(Piece::Copied(self.bytes.len() - self.placed));
            self.placed = self.bytes.len();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.pieces.is_empty()
    }

    /// Bytes of this connection up to here, sent or not.
    pub(super) fn position(&self) -> u64 {
        self.before + (self.bytes.len() + self.bodies) as u64
    }

    /// Bytes of this connection that the socket has taken.
    pub(super) fn sent(&self) -> u64 {
        self.before + self.sent as u64
    }

    fn clear(&mut self) {
        self.before = self.position();
        self.bytes.clear();
        self.pieces.clear();
        (self.placed, self.sent, self.bodies) = (0, 0, 0);
    }

    /// Sends what the socket takes.
    fn flush(&mut self, kit: &Kit, stream: &mut TcpStream) -> io::Result<()> {
        self.place();
        let total = self.bytes.len() + self.bodies;
        while self.sent < total {
            let (mut skip, mut at) = (self.sent, 0);
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.pieces.len().min(PIECES_MAX));
            for piece in &self.pieces {
                let part = match *piece {
                    Piece::Copied(length) => {
                        at += length;
                        &self.bytes[at - length..at]
                    }
                    Piece::Body(class, stuffed) => body_bytes(kit, class, stuffed),
                };
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() && slices.len() < PIECES_MAX {
                    slices.push(IoSlice::new(&part[skipped..]));
                }
            }
            let written = match &slices[..] {
                [one] => stream.write(one),
                many => stream.write_vectored(many),
            };
            match written {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(())
    }
}

fn body_bytes(kit: &Kit, class: usize, stuffed: bool) -> &[u8] {
    let body = &kit.bodies[class];
    if stuffed { &body.stuffed } else { &body.plain }
}

/// A session over its consecutive connections.
pub(super) struct Session {
    pub(super) stream: Option<TcpStream>,
    pub(super) link: Link,
    /// Counts connections, so that events of an earlier one are not taken for this one's.
    pub(super) generation: u32,
    pub(super) awaited: VecDeque<Awaited>,
    /// The message whose MAIL, RCPT and DATA are under way (with BDAT: the whole).
    pub(super) opening: Option<Job>,
    /// With BDAT: those sent behind it.
    pub(super) behind: VecDeque<Job>,
    /// The message whose end was sent.
    pub(super) ending: Option<Job>,
    pub(super) out: Outgoing,
    /// An unfinished reply line.
    partial: Vec<u8>,
    pub(super) pipelining_offered: bool,
    pub(super) chunking_offered: bool,
    /// The server may still hold half a transaction.
    pub(super) must_reset: bool,
    /// Messages started on this connection.
    pub(super) messages: u64,
    /// Connections that failed in a row.
    pub(super) failures: u32,
    pub(super) readable: bool,
    pub(super) ended: bool,
    /// When something was last heard or asked.
    pub(super) active_ns: u64,
}

impl Session {
    pub(super) fn new() -> Self {
        Session {
            stream: None,
            link: Link::Down { retry_ns: 0 },
            generation: 0,
            awaited: VecDeque::new(),
            opening: None,
            behind: VecDeque::new(),
            ending: None,
            out: Outgoing::default(),
            partial: Vec::new(),
            pipelining_offered: false,
            chunking_offered: false,
            must_reset: false,
            messages: 0,
            failures: 0,
            readable: false,
            ended: false,
            active_ns: 0,
        }
    }

    /// The message whose answer comes has not been sent to its end.
    pub(super) fn is_answered_early(&self) -> bool {
        let job = self.ending.as_ref().or(self.opening.as_ref());
        job.and_then(|job| job.end).is_none_or(|end| end > self.out.sent())
    }

    /// Up, with nothing asked: free for a message.
    pub(super) fn is_idle(&self) -> bool {
        self.link == Link::Up && self.awaited.is_empty()
    }

    /// Forgets the connection, and gives back the messages it was to carry, each with whether all of it was sent.
    pub(super) fn disconnect(&mut self) -> Vec<(Job, bool)> {
        let sent = self.out.sent();
        let jobs = self.ending.take().into_iter().chain(self.opening.take()).chain(self.behind.drain(..));
        let jobs = jobs.map(|job| (job, job.end.is_some_and(|end| end <= sent))).collect();
        self.stream = None;
        self.generation = self.generation.wrapping_add(1);
        self.awaited.clear();
        self.out = Outgoing::default();
        self.partial.clear();
        self.must_reset = false;
        self.messages = 0;
        self.readable = false;
        self.ended = false;
        jobs
    }

    pub(super) fn flush(&mut self, kit: &Kit) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) if !self.out.is_empty() => self.out.flush(kit, stream),
            _ => Ok(()),
        }
    }

    /// Reads reply lines; `on_reply` gets the code of each whole reply, in order.
    ///
    /// # Errors
    /// `InvalidData` for what is not a reply.
    pub(super) fn take(
        &mut self,
        input: &[u8],
        mut on_reply: impl FnMut(&mut Self, u16) -> io::Result<()>,
    ) -> io::Result<()> {
        let gathered;
        let mut rest = input;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(input);
            gathered = std::mem::take(&mut self.partial);
            rest = &gathered;
        }
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let code = reply_code(line).ok_or_else(|| garbled(line))?;
            if self.awaited.front() == Some(&Awaited::Hello) {
                self.note_offer(line);
            }
            if line.get(3) != Some(&b'-') {
                on_reply(self, code)?;
            }
        }
        if rest.len() > 4096 {
            return Err(garbled(&rest[..64]));
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    fn note_offer(&mut self, line: &[u8]) {
        let word = line.get(4..).unwrap_or_default().trim_ascii();
        self.pipelining_offered |= word.eq_ignore_ascii_case(b"PIPELINING");
        self.chunking_offered |= word.eq_ignore_ascii_case(b"CHUNKING");
    }
}

fn garbled(line: &[u8]) -> io::Error {
    let shown = line.escape_ascii().to_string();
    io::Error::new(io::ErrorKind::InvalidData, format!("not an SMTP reply: {shown:.60}"))
}

fn reply_code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3)?;
    let valid = (b'2'..=b'5').contains(&digits[0]) && digits.iter().all(u8::is_ascii_digit);
    let ends = line.get(3).is_none_or(|byte| matches!(byte, b' ' | b'-' | b'\r'));
    (valid && ends).then(|| digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_however_they_are_cut() {
        let text = b"250-one\r\n250-PIPELINING\r\n250 CHUNKING\r\n354\r\n250 2.0.0 ok\r\n";
        for cut in 0..text.len() {
            let mut session = Session::new();
            session.awaited.push_back(Awaited::Hello);
            let mut codes = Vec::new();
            for piece in [&text[..cut], &text[cut..]] {
                let taken = session.take(piece, |session, code| {
                    session.awaited.pop_front();
                    codes.push(code);
                    Ok(())
                });
                taken.expect("all are replies");
            }
            assert_eq!(codes, [250, 354, 250]);
            assert!(session.pipelining_offered && session.chunking_offered);
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for text in [&b"hello\r\n"[..], b"2500 x\r\n", b"150 x\r\n", b"\r\n"] {
            let error = Session::new().take(text, |_, _| Ok(())).expect_err("must be refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
