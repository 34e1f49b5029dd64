//! What was said to the upstream, and so which reply comes next.

use std::collections::VecDeque;

use super::{Capabilities, Envelope, Terms};
use crate::protocol::wire::command::{Chunk, Mail, MailParameters};

/// Whose reply comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    Greeting,
    Ehlo,
    Helo,
    /// A message.
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

/// Of a transaction, the command whose reply comes next, or that is to be said next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Mail,
    Recipient(u16),
    Data,
    /// 354 came: the body is being written.
    Body,
    /// The message is written, and its reply due.
    Final,
}

/// A transaction whose replies have not all come.
#[derive(Clone, Copy, Debug)]
struct Transaction {
    /// Replies before its own that nobody asks for: to RSET, or to a command of one broken off.
    swallow: u32,
    stage: Stage,
    recipients: u16,
    /// Has the stage's command been said (or is it held)?
    said: bool,
    /// The message went with its commands, by BDAT: what follows the recipients' replies is its own.
    chunked: bool,
}

/// A link's state, apart from the bytes. Replies come in the transactions' order, then those to swallow, then that to
/// QUIT.
#[derive(Debug, Default)]
pub(super) struct Script {
    phase: Phase,
    pipelining: bool,
    /// All but the last have been written with their messages.
    line: VecDeque<Transaction>,
    /// Replies behind all of those that nobody asks for.
    swallow: u32,
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
        self.can_begin() && self.line.is_empty() && self.swallow == 0
    }

    pub(super) fn can_begin(&self) -> bool {
        let is_written = |last: &Transaction| last.chunked || last.stage == Stage::Final;
        self.phase == Phase::Ready && self.line.back().is_none_or(is_written) && !self.quit
    }

    pub(super) fn expected(&self) -> Expected {
        match self.phase {
            Phase::Greeting => return Expected::Greeting,
            Phase::Ehlo => return Expected::Ehlo,
            Phase::Helo => return Expected::Helo,
            Phase::Ready | Phase::Over => {}
        }
        match self.line.front() {
            Some(Transaction { swallow: 1.., .. }) => Expected::Swallow,
            Some(Transaction { said: true, stage, .. }) => match stage {
                // An answer before the message's end.
                Stage::Body => Expected::Final,
                Stage::Mail => Expected::Mail,
                Stage::Recipient(position) => Expected::Recipient(*position),
                Stage::Final => Expected::Final,
                Stage::Data => Expected::Data,
            },
            // A transaction that is still to say something is the last, and what comes before it has come.
            None if self.swallow > 0 => Expected::Swallow,
            _ if self.quit => Expected::Quit,
            _ => Expected::Nothing,
        }
    }

    /// Takes the expected reply's code, once ready, and says what was held for it.
    pub(super) fn settle(&mut self, code: u16, out: &mut Vec<u8>) {
        match (self.expected(), self.line.front_mut()) {
            (Expected::Swallow, Some(transaction)) => transaction.swallow -= 1,
            (Expected::Swallow, None) => self.swallow -= 1,
            (Expected::Final, Some(transaction)) => {
                // RFC 3030 section 2: where it stands after a refused chunk only RSET makes certain. Whatever
                // follows one in flight begins with it anyway.
                let must_reset = transaction.chunked && code / 100 != 2;
                self.line.pop_front();
                self.reset |= must_reset && self.line.is_empty();
            }
            (Expected::Data, Some(_)) if code / 100 != 3 => {
                self.line.pop_front();
                self.reset = true;
            }
            (Expected::Quit, _) => self.end(),
            (_, Some(transaction)) => transaction.next(self.pipelining),
            (_, None) => {}
        }
        self.say_held(out);
    }

    pub(super) fn begin(
        &mut self,
        capabilities: Capabilities,
        envelope: &Envelope,
        recipients: &[u16],
        terms: Terms,
        chunked: bool,
        out: &mut Vec<u8>,
    ) {
        assert!(self.can_begin(), "a transaction is begun only when can_begin");
        debug_assert!(!chunked || capabilities.takes_chunks(), "chunks are offered");
        assert!(recipients.len() <= usize::from(u16::MAX), "positions are u16");
        self.pipelining = capabilities.pipelining;
        let is_due = !self.line.is_empty() || self.swallow > 0;
        // What becomes of a chunk in flight is not known: if it is refused, MAIL without RSET would be a nested one.
        let is_uncertain = self.line.back().is_some_and(|last| last.chunked);
        let to = if self.pipelining { &mut *out } else { &mut self.held };
        let mut swallow = std::mem::take(&mut self.swallow);
        if self.reset || is_uncertain {
            to.extend_from_slice(b"RSET\r\n");
            self.reset = false;
            swallow += 1;
        }
        let Terms { size, by } = terms;
        let parameters = MailParameters { size: Some(size), by, ..envelope.mail() };
        Mail { path: envelope.sender(), parameters }.write(capabilities.offered(), to);
        self.line.push_back(Transaction {
            swallow,
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
        let Some(transaction) = self.line.back_mut().filter(|transaction| !transaction.said) else {
            return;
        };
        match transaction.stage {
            Stage::Recipient(position) => {
                let recipient = recipients[usize::from(position)];
                envelope.recipient(recipient.into()).write(capabilities.dsn, out);
            }
            Stage::Data => out.extend_from_slice(b"DATA\r\n"),
            Stage::Mail | Stage::Body | Stage::Final => return,
        }
        transaction.said = true;
    }

    pub(super) fn break_off(&mut self) -> bool {
        let Some(transaction) = self.line.back().copied() else {
            return true;
        };
        let data_said =
            transaction.said && matches!(transaction.stage, Stage::Data | Stage::Body | Stage::Final);
        if self.pipelining || data_said {
            return false;
        }
        if self.held.is_empty() {
            self.line.pop_back();
            self.swallow = transaction.swallow + u32::from(transaction.said);
            self.reset = true;
        } else {
            self.unsay();
        }
        true
    }

    pub(super) fn body_written(&mut self) {
        if let Some(last) = self.line.back_mut().filter(|last| last.stage == Stage::Body) {
            (last.stage, last.said) = (Stage::Final, true);
        }
    }

    pub(super) fn quit(&mut self) {
        if !self.held.is_empty() {
            self.unsay();
        }
        self.quit = true;
    }

    /// Says the next command held. Only called when nothing said is without its reply but what follows it.
    fn say_held(&mut self, out: &mut Vec<u8>) {
        if let Some(end) = memchr::memchr(b'\n', &self.held) {
            out.extend(self.held.drain(..=end));
        }
    }

    /// Takes back what `begin` held, and the transaction: MAIL was never said, and RSET may not have been.
    fn unsay(&mut self) {
        self.swallow = self.line.pop_back().map_or(0, |last| last.swallow);
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
            Stage::Data | Stage::Body | Stage::Final => {
                self.stage = Stage::Body;
                return;
            }
        };
        self.stage = match (first < self.recipients, self.chunked) {
            (true, _) => Stage::Recipient(first),
            (false, true) => Stage::Final,
            (false, false) => Stage::Data,
        };
        self.said = pipelining;
    }
}
