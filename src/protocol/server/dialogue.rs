//! The rules of a session: which command may come when, and what is said to it.

use super::replies::{self, Side};
use super::{Event, FutureRelease, Options, write_capabilities};
use crate::protocol::wire::command::{BodyKind, Chunk, Fault, Mail, Recipient, Verb};
use crate::protocol::wire::later::ByMode;
use crate::protocol::wire::reply::Reply;

/// How far the session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// No EHLO or HELO yet.
    #[default]
    Fresh,
    /// Between transactions.
    Ready,
    /// A sender is accepted.
    Transaction,
    /// 354 was said.
    Data,
    /// A first BDAT was taken, the last one not yet.
    Chunks,
    /// QUIT or too many faults.
    Over,
}

/// What waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Mail,
    Recipient,
    Data,
    Chunk,
    End,
}

/// What follows a BDAT command.
#[derive(Clone, Copy, Debug)]
struct Coming {
    left: u64,
    last: bool,
    /// It is swallowed, and this is the answer then.
    refusal: Option<&'static Reply<'static>>,
}

/// A session's state, apart from the bytes.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    phase: Phase,
    due: Option<Due>,
    chunk: Option<Coming>,
    /// A message's first chunk begins.
    begins: bool,
    extended: bool,
    /// The transaction has SMTPUTF8: said by MAIL, counts once that is accepted.
    utf8: bool,
    /// The message may be binary: said by MAIL too.
    binary: bool,
    recipients: u32,
    faults: u32,
}

impl Dialogue {
    /// May it take more input?
    pub(super) fn is_listening(&self) -> bool {
        self.due.is_none() && self.phase != Phase::Over
    }

    pub(super) fn answer_due(&self) -> bool {
        self.due.is_some()
    }

    pub(super) fn in_data(&self) -> bool {
        self.phase == Phase::Data
    }

    /// May the message hold any octets?
    pub(super) fn is_binary(&self) -> bool {
        self.binary
    }

    /// Octets still to come of the chunk under way.
    pub(super) fn chunk_left(&self) -> Option<u64> {
        self.chunk.map(|chunk| chunk.left)
    }

    /// Is the chunk under way part of a message?
    pub(super) fn chunk_counts(&self) -> bool {
        self.chunk.is_some_and(|chunk| chunk.refusal.is_none())
    }

    /// That many octets of the chunk under way have come.
    pub(super) fn chunk_passed(&mut self, octets: u64) {
        if let Some(chunk) = &mut self.chunk {
            chunk.left -= octets;
        }
    }

    /// The chunk under way is complete, and if it counts, an answer is due: is it the message's last?
    pub(super) fn chunk_ended(&mut self) -> bool {
        let is_last = self.chunk.take().is_some_and(|chunk| chunk.last);
        self.due = Some(if is_last { Due::End } else { Due::Chunk });
        is_last
    }

    /// The chunk under way is complete, and was out of place.
    pub(super) fn chunk_swallowed(&mut self, options: &Options, out: &mut Vec<u8>) -> Option<Event<'static>> {
        let refusal = self.chunk.take().and_then(|chunk| chunk.refusal)?;
        self.fault(*refusal, options, out)
    }

    pub(super) fn extended(&self) -> bool {
        self.extended
    }

    /// The message is complete.
    pub(super) fn data_ended(&mut self) {
        self.due = Some(Due::End);
    }

    /// Takes the answer to what was due, and says what that was.
    pub(super) fn answered(&mut self, reply: Reply<'_>) -> Option<Due> {
        let due = self.due.take();
        match due {
            Some(Due::Mail) if reply.is_positive() => {
                self.phase = Phase::Transaction;
                self.recipients = 0;
            }
            Some(Due::Recipient) if reply.is_positive() => self.recipients += 1,
            Some(Due::Data) if reply.is_intermediate() => self.phase = Phase::Data,
            Some(Due::Chunk) if !reply.is_positive() => self.phase = Phase::Ready,
            Some(Due::End) => {
                self.phase = Phase::Ready;
                if reply.is_positive() {
                    self.faults = 0;
                }
            }
            _ => {}
        }
        due
    }

    /// The message that has just ended is answered later: its transaction is over, the next one may begin.
    pub(super) fn postponed(&mut self) {
        debug_assert_eq!(self.due, Some(Due::End), "only a message's end is answered later");
        self.due = None;
        self.phase = Phase::Ready;
    }

    /// Such an answer has come.
    pub(super) fn answered_late(&mut self, reply: Reply<'_>) {
        if reply.is_positive() {
            self.faults = 0;
        }
    }

    /// A line longer than any may be.
    pub(super) fn line_too_long(&mut self, options: &Options, out: &mut Vec<u8>) -> Option<Event<'static>> {
        self.fault(replies::LINE_LONG, options, out)
    }

    /// A command line with its LF.
    pub(super) fn line<'a>(
        &mut self,
        line: &'a [u8],
        options: &Options,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        let Some(text) = line.strip_suffix(b"\r\n") else {
            // What follows a bare LF may be a command that somebody smuggled into an argument: none of it is heard.
            self.phase = Phase::Over;
            say(replies::BARE, out);
            return Some(Event::Hangup);
        };
        if memchr::memchr2(b'\r', 0, text).is_some() {
            return self.fault(replies::BARE, options, out);
        }
        let (verb, arguments) = Verb::split(text);
        if line.len() > verb.line_max() {
            return self.fault(replies::LINE_LONG, options, out);
        }
        let takes_none = matches!(verb, Verb::Data | Verb::Rset | Verb::Quit);
        if takes_none && !arguments.is_empty() {
            return self.fault(replies::ARGUMENTS, options, out);
        }
        match verb {
            Verb::Ehlo | Verb::Helo => self.hello(arguments, verb == Verb::Ehlo, options, out),
            Verb::Mail => self.mail(arguments, options, out),
            Verb::Rcpt => self.recipient(arguments, options, out),
            Verb::Data => self.data(options, out),
            Verb::Bdat => self.chunk(arguments, out),
            Verb::Rset => {
                self.reset();
                say(replies::DONE, out);
                Some(Event::Reset)
            }
            Verb::Quit => {
                self.phase = Phase::Over;
                say(replies::BYE, out);
                Some(Event::Quit)
            }
            Verb::Noop => say(replies::DONE, out),
            Verb::Help => say(replies::HELP, out),
            Verb::Vrfy => say(replies::CANNOT_VERIFY, out),
            Verb::Expn | Verb::Unimplemented => self.fault(replies::UNIMPLEMENTED, options, out),
            Verb::Unknown => self.fault(replies::UNKNOWN, options, out),
        }
    }

    fn hello<'a>(
        &mut self,
        name: &'a [u8],
        extended: bool,
        options: &Options,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if name.is_empty() || name.iter().any(|&b| b < 32 || b == 127) {
            return self.fault(replies::HELLO_BAD, options, out);
        }
        self.extended = extended;
        self.phase = Phase::Ready;
        if extended {
            write_capabilities(options, out);
        } else {
            out.extend_from_slice(b"250 ");
            out.extend_from_slice(options.hostname.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Some(Event::Hello { name, extended })
    }

    fn mail<'a>(&mut self, arguments: &'a [u8], options: &Options, out: &mut Vec<u8>) -> Option<Event<'a>> {
        match self.phase {
            Phase::Ready => {}
            Phase::Fresh => return self.fault(replies::HELLO_FIRST, options, out),
            Phase::Chunks => return self.fault(replies::CHUNKED, options, out),
            _ => return self.fault(replies::NESTED, options, out),
        }
        let mail = match Mail::parse(arguments, self.extended) {
            Ok(mail) => mail,
            Err(fault) => return self.fault(replies::of(fault, Side::Mail), options, out),
        };
        let (hold, by) = (mail.parameters.hold, mail.parameters.by);
        match (hold, options.future_release) {
            (Some(_), None) => {
                return self.fault(replies::of(Fault::ParameterUnknown, Side::Mail), options, out);
            }
            (Some(hold), Some(offered)) if hold.release(offered.unix_now) > offered.latest() => {
                return say(replies::HOLD, out);
            }
            _ => {}
        }
        if by.is_some() && !options.deliver_by {
            return self.fault(replies::of(Fault::ParameterUnknown, Side::Mail), options, out);
        }
        let is_binary = mail.parameters.body == BodyKind::Binary;
        if is_binary && !options.binary {
            return self.fault(replies::of(Fault::ParameterUnknown, Side::Mail), options, out);
        }
        if let (Some(hold), Some(by), Some(FutureRelease { unix_now, .. })) =
            (hold, by, options.future_release)
            && by.mode == ByMode::Return
            && hold.release(unix_now) >= unix_now.saturating_add(by.seconds.unsigned_abs().into())
        {
            return say(replies::HELD_TOO_LONG, out);
        }
        // Not a fault: SIZE is there to ask before sending.
        if mail.parameters.size.is_some_and(|size| size > options.size_max) {
            return say(replies::SIZE, out);
        }
        (self.utf8, self.binary) = (mail.parameters.utf8, is_binary);
        self.due = Some(Due::Mail);
        Some(Event::Mail(mail))
    }

    fn recipient<'a>(
        &mut self,
        arguments: &'a [u8],
        options: &Options,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if self.phase != Phase::Transaction {
            return self.fault(self.out_of_transaction(), options, out);
        }
        let recipient = match Recipient::parse(arguments, self.extended, self.utf8) {
            Ok(recipient) => recipient,
            Err(fault) => return self.fault(replies::of(fault, Side::Recipient), options, out),
        };
        // Not a fault either: the client is to send the others the next time (RFC 5321 section 4.5.3.1.10).
        if self.recipients >= options.recipients_max {
            return say(replies::RECIPIENTS, out);
        }
        self.due = Some(Due::Recipient);
        Some(Event::Recipient(recipient))
    }

    fn data(&mut self, options: &Options, out: &mut Vec<u8>) -> Option<Event<'static>> {
        if self.phase != Phase::Transaction {
            return self.fault(self.out_of_transaction(), options, out);
        }
        if self.recipients == 0 {
            return self.fault(replies::RECIPIENT_FIRST, options, out);
        }
        if self.binary {
            return self.fault(replies::BDAT_ONLY, options, out);
        }
        self.due = Some(Due::Data);
        Some(Event::Data)
    }

    fn out_of_transaction(&self) -> Reply<'static> {
        if self.phase == Phase::Chunks { replies::CHUNKED } else { replies::MAIL_FIRST }
    }

    /// BDAT. Its octets come in any case, so one that is out of place is answered only behind them.
    fn chunk(&mut self, arguments: &[u8], out: &mut Vec<u8>) -> Option<Event<'static>> {
        let Some(Chunk { size, last }) = Chunk::parse(arguments) else {
            self.phase = Phase::Over;
            say(replies::CHUNK_BAD, out);
            return Some(Event::Hangup);
        };
        let refusal = match self.phase {
            Phase::Chunks => None,
            Phase::Transaction if self.recipients > 0 => {
                self.phase = Phase::Chunks;
                self.begins = true;
                None
            }
            Phase::Transaction => Some(&replies::RECIPIENT_FIRST),
            _ => Some(&replies::MAIL_FIRST),
        };
        self.chunk = Some(Coming { left: size, last, refusal });
        None
    }

    /// Has a message begun by BDAT since the last call?
    pub(super) fn take_begin(&mut self) -> bool {
        std::mem::take(&mut self.begins)
    }

    /// Ends the transaction, if there is one.
    fn reset(&mut self) {
        if matches!(self.phase, Phase::Transaction | Phase::Chunks) {
            self.phase = Phase::Ready;
        }
    }

    /// Refuses what breaks the protocol, and hangs up on a client that does so too often.
    fn fault(
        &mut self,
        reply: Reply<'static>,
        options: &Options,
        out: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        self.faults += 1;
        if self.faults <= options.faults_max {
            return say(reply, out);
        }
        self.phase = Phase::Over;
        say(replies::FAULTS, out);
        Some(Event::Hangup)
    }
}

/// Says something that is no event.
fn say(reply: Reply<'static>, out: &mut Vec<u8>) -> Option<Event<'static>> {
    reply.write(out);
    None
}
