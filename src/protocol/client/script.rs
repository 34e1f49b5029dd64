//! What was said to the upstream, and so which reply comes next.

use super::{Capabilities, Envelope};
use crate::protocol::wire::command::{Chunk, Mail, MailParameters};

/// Whose reply comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    Greeting,
    Ehlo,
    Helo,
    /// An earlier transaction's message.
    Final,
    /// RSET, or a command of a transaction broken off.
    Swallow,
    Mail,
    Recipient(u16),
    Data,
    Quit,
    Nothing,
}

/// How far the link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Greeting,
    Ehlo,
    Helo,
    Ready,
    Over,
}

/// The command of the transaction under way whose reply comes next, or that is to be said next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Mail,
    Recipient(u16),
    Data,
    /// 354 came: the body is being written.
    Body,
}

/// The transaction before its body is written.
#[derive(Clone, Copy, Debug)]
struct Transaction {
    stage: Stage,
    recipients: u16,
    /// Has the stage's command been said (or is it held)?
    said: bool,
    /// The message went with its commands, by BDAT: what follows the recipients' replies is its own.
    chunked: bool,
}

/// A link's state, apart from the bytes. Replies come in this order: the `Final` of an earlier message, those
/// to swallow, those of the transaction under way, that to QUIT.
#[derive(Debug, Default)]
pub(super) struct Script {
    phase: Phase,
    pipelining: bool,
    final_due: bool,
    swallow: u32,
    transaction: Option<Transaction>,
    /// RSET goes before the next transaction.
    reset: bool,
    quit: bool,
    /// Commands that wait for a reply to come first: one is said for each. Not used when pipelining.
    held: Vec<u8>,
}

impl Script {
    pub(super) fn greeted(&mut self) {
        self.phase = Phase::Ehlo;
    }

    pub(super) fn ehlo_refused(&mut self) {
        self.phase = Phase::Helo;
    }

    pub(super) fn ready(&mut self) {
        self.phase = Phase::Ready;
    }

    /// No reply matters any more.
    pub(super) fn end(&mut self) {
        *self = Script { phase: Phase::Over, ..Script::default() };
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(super) fn is_idle(&self) -> bool {
        self.can_begin() && !self.final_due && self.swallow == 0
    }

    pub(super) fn can_begin(&self) -> bool {
        self.phase == Phase::Ready && self.transaction.is_none() && !self.quit
    }

    pub(super) fn expected(&self) -> Expected {
        match self.phase {
            Phase::Greeting => return Expected::Greeting,
            Phase::Ehlo => return Expected::Ehlo,
            Phase::Helo => return Expected::Helo,
            Phase::Ready | Phase::Over => {}
        }
        if self.final_due {
            return Expected::Final;
        }
        if self.swallow > 0 {
            return Expected::Swallow;
        }
        match self.transaction {
            Some(Transaction { said: true, stage, .. }) => match stage {
                // An answer before the message's end.
                Stage::Body => Expected::Final,
                Stage::Mail => Expected::Mail,
                Stage::Recipient(position) => Expected::Recipient(position),
                _ if self.transaction.is_some_and(|transaction| transaction.chunked) => Expected::Final,
                _ => Expected::Data,
            },
            _ if self.quit => Expected::Quit,
            _ => Expected::Nothing,
        }
    }

    /// Takes the expected reply's code, once ready, and says what was held for it.
    pub(super) fn settle(&mut self, code: u16, out: &mut Vec<u8>) {
        match self.expected() {
            Expected::Final if self.final_due => self.final_due = false,
            Expected::Final => {
                self.transaction = None;
                // RFC 3030 section 2: where it stands after a refused chunk only RSET makes certain.
                self.reset = code / 100 != 2;
            }
            Expected::Swallow => self.swallow -= 1,
            Expected::Quit => self.end(),
            Expected::Data if code / 100 != 3 => {
                self.transaction = None;
                self.reset = true;
            }
            _ => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.next(self.pipelining);
                }
            }
        }
        self.say_held(out);
    }

    pub(super) fn begin(
        &mut self,
        capabilities: Capabilities,
        envelope: &Envelope,
        recipients: &[u16],
        size: u64,
        chunked: bool,
        out: &mut Vec<u8>,
    ) {
        assert!(self.can_begin(), "a transaction is begun only when can_begin");
        debug_assert!(!chunked || capabilities.takes_chunks(), "chunks are offered");
        assert!(recipients.len() <= usize::from(u16::MAX), "positions are u16");
        self.pipelining = capabilities.pipelining;
        let is_due = self.final_due || self.swallow > 0;
        let to = if self.pipelining { &mut *out } else { &mut self.held };
        if self.reset {
            to.extend_from_slice(b"RSET\r\n");
            self.reset = false;
            self.swallow += 1;
        }
        let parameters = MailParameters { size: Some(size), ..envelope.mail() };
        Mail { path: envelope.sender(), parameters }.write(capabilities.offered(), to);
        self.transaction = Some(Transaction {
            stage: Stage::Mail,
            recipients: recipients.len() as u16,
            said: true,
            chunked,
        });
        if self.pipelining {
            for &recipient in recipients {
                envelope.recipient(recipient.into()).write(capabilities.dsn, out);
            }
            if chunked {
                Chunk { size, last: true }.write(out);
            } else {
                out.extend_from_slice(b"DATA\r\n");
            }
        } else if !is_due {
            self.say_held(out);
        }
    }

    pub(super) fn advance(
        &mut self,
        capabilities: Capabilities,
        envelope: &Envelope,
        recipients: &[u16],
        out: &mut Vec<u8>,
    ) {
        let Some(transaction) = self.transaction.as_mut().filter(|transaction| !transaction.said) else {
            return;
        };
        match transaction.stage {
            Stage::Recipient(position) => {
                let recipient = recipients[usize::from(position)];
                envelope.recipient(recipient.into()).write(capabilities.dsn, out);
            }
            Stage::Data => out.extend_from_slice(b"DATA\r\n"),
            Stage::Mail | Stage::Body => return,
        }
        transaction.said = true;
    }

    pub(super) fn break_off(&mut self) -> bool {
        let Some(transaction) = self.transaction else {
            return true;
        };
        let data_said = transaction.said && matches!(transaction.stage, Stage::Data | Stage::Body);
        if self.pipelining || data_said {
            return false;
        }
        if self.held.is_empty() {
            self.swallow += u32::from(transaction.said);
            self.reset = true;
        } else {
            self.unsay();
        }
        self.transaction = None;
        true
    }

    pub(super) fn body_written(&mut self) {
        if self.transaction.take_if(|transaction| transaction.stage == Stage::Body).is_some() {
            self.final_due = true;
        }
    }

    pub(super) fn quit(&mut self) {
        if !self.held.is_empty() {
            self.unsay();
            self.transaction = None;
        }
        self.quit = true;
    }

    /// Says the next command held. Only called when nothing said is without its reply but what follows it.
    fn say_held(&mut self, out: &mut Vec<u8>) {
        if let Some(end) = memchr::memchr(b'\n', &self.held) {
            out.extend(self.held.drain(..=end));
        }
    }

    /// Takes back what `begin` held: MAIL was never said, and RSET may not have been.
    fn unsay(&mut self) {
        if self.held.starts_with(b"RSET") {
            self.swallow -= 1;
            self.reset = true;
        }
        self.held.clear();
    }
}

impl Transaction {
    /// Moves on to the next command after a reply. When pipelining, it has been said already.
    fn next(&mut self, pipelining: bool) {
        let first = match self.stage {
            Stage::Mail => 0,
            Stage::Recipient(position) => position + 1,
            Stage::Data | Stage::Body => {
                self.stage = Stage::Body;
                return;
            }
        };
        self.stage = if first < self.recipients { Stage::Recipient(first) } else { Stage::Data };
        self.said = pipelining;
    }
}
