//! An envelope: sender, recipients and their parameters.

use super::wire::command::{BodyKind, Mail, MailParameters, Notify, Recipient, Return};
use super::wire::later::{DeliverBy, Hold};

/// A piece of the arena.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    path: Span,
    notify: Option<Notify>,
    orcpt: Option<Span>,
}

/// Who sends to whom. Its bytes lie in one arena, which `clear` empties and keeps.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    arena: Vec<u8>,
    sender: Span,
    size: Option<u64>,
    body: BodyKind,
    utf8: bool,
    ret: Option<Return>,
    envid: Option<Span>,
    hold: Option<Hold>,
    by: Option<DeliverBy>,
    recipients: Vec<Entry>,
}

impl Envelope {
    /// Empties it and keeps its capacity.
    pub fn clear(&mut self) {
        let mut arena = std::mem::take(&mut self.arena);
        let mut recipients = std::mem::take(&mut self.recipients);
        arena.clear();
        recipients.clear();
        *self = Envelope { arena, recipients, ..Envelope::default() };
    }

    /// Sets sender and parameters.
    pub fn set_sender(&mut self, mail: &Mail<'_>) {
        let MailParameters { size, body, utf8, ret, envid, hold, by } = mail.parameters;
        self.sender = self.keep(mail.path);
        self.envid = envid.map(|envid| self.keep(envid));
        (self.size, self.body, self.utf8, self.ret) = (size, body, utf8, ret);
        (self.hold, self.by) = (hold, by);
    }

    /// Sets until when it is held.
    pub fn set_hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// Adds a recipient.
    pub fn push_recipient(&mut self, rcpt: &Recipient<'_>) {
        let path = self.keep(rcpt.path);
        let orcpt = rcpt.orcpt.map(|orcpt| self.keep(orcpt));
        self.recipients.push(Entry { path, notify: rcpt.notify, orcpt });
    }

    /// The reverse path without brackets; empty for `<>`.
    pub fn sender(&self) -> &[u8] {
        self.bytes(self.sender)
    }

    /// What came with MAIL.
    pub fn mail(&self) -> MailParameters<'_> {
        MailParameters {
            size: self.size,
            body: self.body,
            utf8: self.utf8,
            ret: self.ret,
            envid: self.envid.map(|envid| self.bytes(envid)),
            hold: self.hold,
            by: self.by,
        }
    }

    /// How many recipients.
    pub fn len(&self) -> usize {
        self.recipients.len()
    }

    /// Has it no recipient?
    pub fn is_empty(&self) -> bool {
        self.recipients.is_empty()
    }

    /// The recipient at `i`, which is below `len`.
    pub fn recipient(&self, i: usize) -> Recipient<'_> {
        let entry = self.recipients[i];
        Recipient {
            path: self.bytes(entry.path),
            notify: entry.notify,
            orcpt: entry.orcpt.map(|orcpt| self.bytes(orcpt)),
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.arena[span.start as usize..][..span.len as usize]
    }
}
