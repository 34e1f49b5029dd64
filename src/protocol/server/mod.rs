//! A downstream session: we are spoken to. RFC 5321, without I/O.

mod dialogue;
mod replies;

use std::ops::Range;

use dialogue::{Dialogue, Due};

use super::wire::command::{Mail, RCPT_LINE_MAX, Recipient};
use super::wire::data::{Form, Scanner, Shape, Survey, survey};
use super::wire::later::write_date;
use super::wire::reply::Reply;
use super::wire::text::{Cut, Lines, write_decimal};

/// What a listener offers and allows.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name in greeting and EHLO reply.
    pub hostname: String,
    /// A message's most octets, offered as SIZE; dot-stuffing and the final dot do not count.
    pub size_max: u64,
    /// Most accepted recipients of one message.
    pub recipients_max: u32,
    /// Messages may be held: FUTURERELEASE is offered (RFC 4865).
    pub future_release: Option<FutureRelease>,
    /// A message may say by when it is wanted: DELIVERBY is offered (RFC 2852).
    pub deliver_by: bool,
    /// Messages may be binary: BINARYMIME is offered (RFC 3030).
    pub binary: bool,
    /// Protocol errors, since the start or the last message taken, that are answered; the next one gets 421.
    pub faults_max: u32,
    /// How messages are looked at: [`survey`] as it was built for this processor.
    pub survey: Survey,
}

/// How long a message may be held.
#[derive(Clone, Copy, Debug)]
pub struct FutureRelease {
    /// Most seconds.
    pub seconds_max: u32,
    /// Seconds since 1970, kept right to a few of them: what HOLDUNTIL is measured against.
    pub unix_now: u64,
}

impl FutureRelease {
    fn latest(self) -> u64 {
        self.unix_now.saturating_add(self.seconds_max.into())
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hostname: "localhost".into(),
            size_max: 25 << 20,
            recipients_max: 100,
            future_release: None,
            deliver_by: false,
            binary: false,
            faults_max: 20,
            survey,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// EHLO (`extended`) or HELO. Already answered. Any transaction is over, as by `Reset`.
    Hello {
        /// How the client calls itself: printable, otherwise unchecked.
        name: &'a [u8],
        /// EHLO.
        extended: bool,
    },
    /// MAIL, to be answered.
    Mail(Mail<'a>),
    /// RCPT, to be answered.
    Recipient(Recipient<'a>),
    /// DATA, to be answered.
    Data,
    /// This part of `input` is message data as it came: after DATA dot-stuffed and in the end including the final
    /// `.CRLF`, after BDAT plain.
    Body(Range<usize>),
    /// A chunk that is not the message's last has come; the octets of all so far. To be answered. On a violation
    /// nothing of it may be forwarded, the answer is `violation.reply()`, and the transaction is over.
    Chunk(Result<u64, Violation>),
    /// The message is complete; its octets as they came, of [`Server::shape`]. To be answered. On a violation
    /// nothing of it may be forwarded, and the answer is `violation.reply()`. May be answered later
    /// ([`postpone`](Server::postpone)).
    End(Result<u64, Violation>),
    /// RSET. Already answered. The transaction is over.
    Reset,
    /// QUIT. Already answered; close once that has left.
    Quit,
    /// Too many faults (answered 421) or a bare LF in a command (answered 554); close once that has left.
    Hangup,
}

/// Why a message may not be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A bare CR, bare LF or NUL. Goes before `TooBig`.
    BareNewline,
    /// More than `size_max` octets.
    TooBig,
}

impl Violation {
    /// The answer to it.
    pub const fn reply(&self) -> Reply<'static> {
        match self {
            Violation::BareNewline => replies::BARE,
            Violation::TooBig => replies::SIZE,
        }
    }
}

/// One downstream session. Feed it with [`receive`](Server::receive).
#[derive(Debug, Default)]
pub struct Server {
    lines: Lines,
    /// The line put together from several receives that the current event may borrow from.
    line: Vec<u8>,
    dialogue: Dialogue,
    scanner: Scanner,
}

impl Server {
    /// Writes the greeting.
    pub fn greet(&mut self, options: &Options, out: &mut Vec<u8>) {
        out.extend_from_slice(b"220 ");
        out.extend_from_slice(options.hostname.as_bytes());
        out.extend_from_slice(b" ESMTP Postlane\r\n");
    }

    /// Takes from `input` up to and including the next event; returns octets consumed.
    ///
    /// Call it again with the rest until it returns no event: an event may come without a further octet being
    /// consumed. Without an event all of `input` is consumed, except while an answer is due: then nothing is,
    /// and the rest must be offered again after [`answer`](Server::answer). After `Quit` and `Hangup` all
    /// input is swallowed.
    pub fn receive<'a>(
        &'a mut self,
        input: &'a [u8],
        options: &Options,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Event<'a>>) {
        let Server { lines, line, dialogue, scanner } = self;
        // Only the first line of a call can have begun in an earlier one, so it is lent at most once.
        let mut carried = Some(line);
        let mut at = 0;
        while dialogue.is_listening() {
            if dialogue.in_data() {
                return receive_data(scanner, dialogue, input, at, options);
            }
            if let Some(left) = dialogue.chunk_left() {
                if dialogue.take_begin() {
                    *scanner = Scanner::of(Form::Plain);
                    scanner.allow_any(dialogue.is_binary());
                }
                if at == input.len() && left > 0 {
                    return (at, None);
                }
                let octets = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                let part = at..at + octets;
                at = part.end;
                match receive_chunk(scanner, dialogue, input, part, options, out) {
                    None => continue,
                    event => return (at, event),
                }
            }
            if at == input.len() {
                return (at, None);
            }
            let (next, cut) = lines.cut(input, at, RCPT_LINE_MAX);
            at = next;
            let event = match cut {
                Cut::Nothing => return (at, None),
                Cut::TooLong => dialogue.line_too_long(options, out),
                Cut::Input(range) => dialogue.line(&input[range], options, out),
                Cut::Carried => {
                    let line: &'a mut Vec<u8> = carried.take().expect("a call's first line alone is carried");
                    lines.move_to(line);
                    dialogue.line(line, options, out)
                }
            };
            if event.is_some() {
                return (at, event);
            }
        }
        (if dialogue.answer_due() { at } else { input.len() }, None)
    }

    /// Answers the last `Mail`, `Recipient`, `Data`, `Chunk` or `End`. A positive reply (to DATA: 354) moves on; after
    /// any other the session stays where it was, but after `End` the transaction is over in any case.
    pub fn answer(&mut self, reply: Reply<'_>, out: &mut Vec<u8>) {
        reply.write(out);
        if self.dialogue.answered(reply) == Some(Due::Data) && self.dialogue.in_data() {
            self.scanner = Scanner::default();
        }
    }

    /// The message that has just ended is answered later, by [`answer_late`](Server::answer_late): until then further
    /// commands are taken. In which order replies leave is the caller's to see to (RFC 2920 section 3.2).
    pub fn postpone(&mut self) {
        self.dialogue.postponed();
    }

    /// Answers an `End` that was put off.
    pub fn answer_late(&mut self, reply: Reply<'_>, out: &mut Vec<u8>) {
        reply.write(out);
        self.dialogue.answered_late(reply);
    }

    /// Is an answer due?
    pub fn answer_due(&self) -> bool {
        self.dialogue.answer_due()
    }

    /// Is message data being received?
    pub fn in_data(&self) -> bool {
        self.dialogue.in_data()
    }

    /// How the octets of the message stand, so far or, when it has just ended, all.
    pub fn shape(&self) -> Shape {
        self.scanner.shape()
    }

    /// Has the client said EHLO?
    pub fn extended(&self) -> bool {
        self.dialogue.extended()
    }
}

/// Message data: a `Body` for the rest of `input` that belongs to the message, and then its `End`.
fn receive_data<'a>(
    scanner: &mut Scanner,
    dialogue: &mut Dialogue,
    input: &[u8],
    at: usize,
    options: &Options,
) -> (usize, Option<Event<'a>>) {
    let end = at + if scanner.is_ended() { 0 } else { scanner.push_by(&input[at..], options.survey) };
    let violation = violation(scanner, options);
    if violation.is_none() && end > at {
        return (end, Some(Event::Body(at..end)));
    }
    if !scanner.is_ended() {
        return (end, None);
    }
    dialogue.data_ended();
    (end, Some(Event::End(violation.map_or(Ok(scanner.size()), Err))))
}

/// Part of a chunk: a `Body` for what belongs to a message, and then the chunk's end.
fn receive_chunk<'a>(
    scanner: &mut Scanner,
    dialogue: &mut Dialogue,
    input: &[u8],
    part: Range<usize>,
    options: &Options,
    out: &mut Vec<u8>,
) -> Option<Event<'a>> {
    let counts = dialogue.chunk_counts();
    if counts && !part.is_empty() {
        scanner.push_by(&input[part.clone()], options.survey);
    }
    let broken = violation(scanner, options);
    dialogue.chunk_passed(part.len() as u64);
    if counts && broken.is_none() && !part.is_empty() {
        return Some(Event::Body(part));
    }
    match dialogue.chunk_left() {
        Some(0) if !counts => dialogue.chunk_swallowed(options, out),
        Some(0) => {
            let is_last = dialogue.chunk_ended();
            let broken = broken.or((is_last && scanner.is_after_cr()).then_some(Violation::BareNewline));
            let end = broken.map_or(Ok(scanner.size()), Err);
            Some(if is_last { Event::End(end) } else { Event::Chunk(end) })
        }
        _ => None,
    }
}

fn violation(scanner: &Scanner, options: &Options) -> Option<Violation> {
    if scanner.is_bare() {
        Some(Violation::BareNewline)
    } else {
        scanner.is_beyond(options.size_max).then_some(Violation::TooBig)
    }
}

/// The reply to EHLO.
fn write_capabilities(options: &Options, out: &mut Vec<u8>) {
    out.extend_from_slice(b"250-");
    out.extend_from_slice(options.hostname.as_bytes());
    out.extend_from_slice(b"\r\n250-PIPELINING\r\n250-SIZE ");
    write_decimal(options.size_max, out);
    if let Some(future_release) = options.future_release {
        out.extend_from_slice(b"\r\n250-FUTURERELEASE ");
        write_decimal(future_release.seconds_max.into(), out);
        out.push(b' ');
        write_date(future_release.latest(), out);
    }
    if options.deliver_by {
        out.extend_from_slice(b"\r\n250-DELIVERBY");
    }
    if options.binary {
        out.extend_from_slice(b"\r\n250-BINARYMIME");
    }
    out.extend_from_slice(
        b"\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n",
    );
}
