//! The rules of a session: which command may come when, and what is said to it.

use super::replies::{self, Side};
use super::{Event, Options, write_capabilities};
use crate::protocol::wire::command::{Mail, Recipient, Verb};
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
    /// QUIT or too many faults.
    Over,
}

/// What waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Mail,
    Recipient,
    Data,
    End,
}

/// A session's state, apart from the bytes.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    phase: Phase,
    due: Option<Due>,
    extended: bool,
    /// The transaction has SMTPUTF8: said by MAIL, counts once that is accepted.
    utf8: bool,
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
            _ => return self.fault(replies::NESTED, options, out),
        }
        let mail = match Mail::parse(arguments, self.extended) {
            Ok(mail) => mail,
            Err(fault) => return self.fault(replies::of(fault, Side::Mail), options, out),
        };
        // Not a fault: SIZE is there to ask before sending.
        if mail.parameters.size.is_some_and(|size| size > options.size_max) {
            return say(replies::SIZE, out);
        }
        self.utf8 = mail.parameters.utf8;
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
            return self.fault(replies::MAIL_FIRST, options, out);
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
            return self.fault(replies::MAIL_FIRST, options, out);
        }
        if self.recipients == 0 {
            return self.fault(replies::RECIPIENT_FIRST, options, out);
        }
        self.due = Some(Due::Data);
        Some(Event::Data)
    }

    /// Ends the transaction, if there is one.
    fn reset(&mut self) {
        if self.phase == Phase::Transaction {
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
