//! An upstream link: we speak. RFC 5321 and RFC 2920, without I/O.

mod assembly;
mod capabilities;
mod script;

use assembly::Assembly;
use script::{Expected, Script};

pub use assembly::ReplyReader;
pub use capabilities::{Capabilities, Lack, Terms};

use super::envelope::Envelope;
use super::wire::reply::Reply;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// Greeting and EHLO (or HELO, where EHLO was refused by 5xx) are done.
    Ready,
    /// Greeting or hello was refused. No further event comes.
    Refused(Reply<'a>),
    /// The reply to MAIL.
    Mail(Reply<'a>),
    /// The reply to a RCPT: its position in the `recipients` given to `begin`.
    Recipient(u16, Reply<'a>),
    /// The reply to DATA. 354: the body is to be written, then `body_written` to be called (or `abandon`).
    /// Otherwise the transaction is over.
    Data(Reply<'a>),
    /// The reply to a message, the oldest whose reply is still due.
    Final(Reply<'a>),
    /// 421, to whatever was due: the link is to be dropped. No further event comes.
    Closing(Reply<'a>),
    /// This is not SMTP: the link is to be dropped. No further event comes.
    Broken(&'static str),
}

/// One upstream link. Feed it with [`receive`](Client::receive).
#[derive(Debug, Default)]
pub struct Client {
    assembly: Assembly,
    script: Script,
    capabilities: Capabilities,
}

impl Client {
    /// A link just opened, which awaits the greeting.
    pub fn new() -> Self {
        Client::default()
    }

    /// Takes from `input` up to and including the next event; returns octets consumed.
    ///
    /// Call it again with the rest until it returns no event; then all is consumed. Hellos are written to `out`,
    /// and so is what had to wait for a reply. Replies to RSET and QUIT are swallowed.
    pub fn receive<'a>(
        &'a mut self,
        input: &'a [u8],
        hostname: &str,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Event<'a>>) {
        let mut at = 0;
        while !self.script.is_over() {
            let expected = self.script.expected();
            let learning = expected == Expected::Ehlo;
            let capabilities = &mut self.capabilities;
            let learn = |line: &[u8]| {
                if learning {
                    capabilities.learn(line)
                }
            };
            let framed = match self.assembly.next(input, &mut at, learn) {
                Ok(Some(framed)) => framed,
                Ok(None) => return (at, None),
                Err(why) => return (at, Some(self.broken(why))),
            };
            let code = framed.code;
            let is_positive = code / 100 == 2;
            if code == 421 {
                self.script.end();
                return (at, Some(Event::Closing(self.assembly.reply(&framed, input))));
            }
            match expected {
                Expected::Nothing => return (at, Some(self.broken("a reply to nothing"))),
                Expected::Greeting if is_positive => {
                    self.script.greeted();
                    write_hello(b"EHLO ", hostname, out);
                    continue;
                }
                Expected::Ehlo if code / 100 == 5 => {
                    self.capabilities = Capabilities::default();
                    self.script.ehlo_refused();
                    write_hello(b"HELO ", hostname, out);
                    continue;
                }
                Expected::Ehlo | Expected::Helo if is_positive => {
                    self.script.ready();
                    return (at, Some(Event::Ready));
                }
                Expected::Greeting | Expected::Ehlo | Expected::Helo => self.script.end(),
                _ => {
                    self.script.settle(code, out);
                    if matches!(expected, Expected::Swallow | Expected::Quit) {
                        continue;
                    }
                }
            }
            let reply = self.assembly.reply(&framed, input);
            let event = match expected {
                Expected::Final => Event::Final(reply),
                Expected::Mail => Event::Mail(reply),
                Expected::Recipient(position) => Event::Recipient(position, reply),
                Expected::Data => Event::Data(reply),
                _ => Event::Refused(reply),
            };
            return (at, Some(event));
        }
        (input.len(), None)
    }

    /// What the upstream offers; known once `Ready`.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// What the upstream lacks to carry this message on these terms.
    pub fn lacks(&self, envelope: &Envelope, terms: impl Into<Terms>) -> Option<Lack> {
        self.capabilities.lacks(envelope, terms)
    }

    /// May `begin` be called: ready, and every earlier transaction has had its body written (its `Final` may still be
    /// due, and by BDAT its other replies too) or is over.
    pub fn can_begin(&self) -> bool {
        self.script.can_begin()
    }

    /// Starts a transaction on these terms: writes RSET if the last one was broken off, then
    /// MAIL, RCPT… and DATA in one go with PIPELINING, else the first command as soon as nothing is due.
    /// `recipients` are indexes into the envelope. `can_begin` must hold.
    pub fn begin(
        &mut self,
        envelope: &Envelope,
        recipients: &[u16],
        terms: impl Into<Terms>,
        out: &mut Vec<u8>,
    ) {
        self.script.begin(self.capabilities, envelope, recipients, terms.into(), false, out);
    }

    /// Starts a transaction whose message follows at once, plain and of exactly as many octets as `terms` says: writes RSET if the
    /// last one was broken off or refused, or went by BDAT and may yet be refused, then MAIL, RCPT… and `BDAT size LAST` in one go. Its events are `Mail`,
    /// `Recipient`… and `Final`, whatever each says, and it cannot be broken off. `can_begin` must hold, and
    /// `capabilities().takes_chunks()`.
    pub fn begin_chunked(
        &mut self,
        envelope: &Envelope,
        recipients: &[u16],
        terms: impl Into<Terms>,
        out: &mut Vec<u8>,
    ) {
        self.script.begin(self.capabilities, envelope, recipients, terms.into(), true, out);
    }

    /// After each `Mail` or `Recipient` event after which the transaction is to go on, with the arguments of
    /// `begin`: writes the next command when not pipelining; does nothing otherwise.
    pub fn advance(&mut self, envelope: &Envelope, recipients: &[u16], out: &mut Vec<u8>) {
        self.script.advance(self.capabilities, envelope, recipients, out);
    }

    /// Breaks off the transaction before DATA. True: it is over now, no event of it follows, and the next
    /// `begin` prefixes RSET. False: DATA is already under way, and its events will come.
    pub fn break_off(&mut self) -> bool {
        self.script.break_off()
    }

    /// After a 354 to DATA: the body, with its final dot, is written. The `Final` event is now expected.
    pub fn body_written(&mut self) {
        self.script.body_written();
    }

    /// After a 354 to DATA when no recipient was accepted (RFC 2920 section 3.1): writes the lone dot. The `Final`
    /// event still comes.
    pub fn abandon(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b".\r\n");
        self.script.body_written();
    }

    /// Says QUIT. Call it once; no `begin` may follow.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"QUIT\r\n");
        self.script.quit();
    }

    /// Ready, and nothing due.
    pub fn is_idle(&self) -> bool {
        self.script.is_idle()
    }

    fn broken(&mut self, why: &'static str) -> Event<'static> {
        self.script.end();
        Event::Broken(why)
    }
}

fn write_hello(verb: &[u8], hostname: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(verb);
    out.extend_from_slice(hostname.as_bytes());
    out.extend_from_slice(b"\r\n");
}
