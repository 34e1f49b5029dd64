//! Delivery status notifications: what a sender is told of recipients. Made as RFC 6522 (multipart/report), RFC 3464
//! (the part for machines) and RFC 6533 (addresses in UTF-8) say, when RFC 3461's parameters ask for it.
//!
//! A notice is a message of its own, from `<>`, which is never the cause of another one.

mod human;
mod original;
mod status;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};
use std::net::IpAddr;

use super::date::Date;
use super::message::{Message, MessageId};
use super::verdict;
use crate::handle::{Buffers, Extent};
use crate::protocol::envelope::Envelope;
use crate::protocol::wire::command::{BodyKind, Mail, MailParameters, Notify, Recipient};
use crate::protocol::wire::data::Shape;
use crate::protocol::wire::reply::{Enhanced, Reply, ReplyBuf};
use original::Returned;

/// What a notice says of all its recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It was refused, and is not tried again.
    Failed,
    /// It was tried for as long as it is kept.
    Expired,
    /// It was tried for as long as the sender gave it (RFC 2852, mode R).
    Overdue,
    /// It has not been delivered yet.
    Delayed,
    /// An upstream that does not report successes has taken it (RFC 3461 5.2.2).
    Relayed,
    /// It is where it was to go.
    Delivered,
}

impl Kind {
    /// Is it to be sent for a recipient that came with this NOTIFY (RFC 3461 4.1)? With none, failures and delays are.
    /// `timed`: its sender has given a time, and wants to hear of all that becomes of it but what it does not want to hear
    /// of at all (RFC 2852 4.1.4).
    pub fn is_wanted(self, notify: Option<Notify>, timed: bool) -> bool {
        match self {
            Kind::Failed | Kind::Expired | Kind::Overdue => notify.is_none_or(|notify| notify.failure),
            Kind::Delayed => notify.is_none_or(|notify| notify.delay),
            Kind::Relayed if timed => notify.is_none_or(|notify| !notify.never),
            Kind::Relayed | Kind::Delivered => notify.is_some_and(|notify| notify.success),
        }
    }

    fn is_failure(self) -> bool {
        matches!(self, Kind::Failed | Kind::Expired | Kind::Overdue)
    }
}

/// What is said of one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its place in the envelope.
    pub recipient: u16,
    /// An upstream's words, or ours.
    pub reply: &'a ReplyBuf,
    /// The upstream, if one had to do with it.
    pub remote: Option<Remote<'a>>,
}

/// An upstream.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// As it is configured.
    pub name: &'a str,
    /// Where it is.
    pub address: IpAddr,
}

/// The message that a notice is about.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Its name.
    pub id: MessageId,
    /// From and to whom.
    pub envelope: &'a Envelope,
    /// What goes before the body.
    pub head: &'a [u8],
    /// The body as it came; nothing where it is not at hand.
    pub body: &'a [Extent],
    /// Octets of the body as it came.
    pub size: u64,
    /// How they stand.
    pub shape: Shape,
    /// It is a notice itself.
    pub internal: bool,
}

impl<'a> From<&'a Message> for Original<'a> {
    fn from(message: &'a Message) -> Self {
        let Message { id, envelope, head, body, size, shape, internal, beginning, .. } = message;
        // Of a streamed message nothing else may be left.
        let head = if beginning.is_empty() { head } else { beginning };
        Original { id: *id, envelope, head, body, size: *size, shape: *shape, internal: *internal }
    }
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Now.
    pub now: u64,
    /// When the message was taken.
    pub arrived: u64,
    /// When it was last tried.
    pub tried: Option<u64>,
    /// Until when it will be; for delays.
    pub until: Option<u64>,
}

/// Who tells, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// This host's name.
    pub hostname: &'a str,
    /// The mailbox that notices are from.
    pub from: &'a str,
    /// A message of more octets is not returned whole, only its header.
    pub returned_bytes_max: usize,
}

/// Writes into `out`, which is empty but for its id, a notice about `original`. False if nobody is to be told: its sender
/// is `<>`, it is a notice itself, or none of the recipients came with a NOTIFY that asks for this kind.
pub fn write(
    out: &mut Message,
    original: &Original<'_>,
    kind: Kind,
    told: &[Told<'_>],
    times: &Times,
    settings: &Settings<'_>,
    buffers: &impl Buffers,
) -> bool {
    let sender = original.envelope.sender();
    if sender.is_empty() || original.internal {
        return false;
    }
    let timed = original.envelope.mail().by.is_some();
    let said: Vec<Said<'_>> = told
        .iter()
        .map(|told| Said::new(original.envelope.recipient(usize::from(told.recipient)), told))
        .filter(|said| kind.is_wanted(said.recipient.notify, timed))
        .collect();
    if said.is_empty() {
        return false;
    }
    // Where 8-bit mail is what nobody took, an 8-bit notice would not be taken either.
    let is_ascii = said.iter().any(|said| matches!(said.reply.enhanced, Some(Enhanced(4 | 5, 6, 3 | 7 | 9))));
    let returned = Returned::copy(original, kind, is_ascii, settings.returned_bytes_max, buffers);
    let mut boundary = format!("={}=", out.id);
    while memchr::memmem::find(&returned.text, boundary.as_bytes()).is_some() {
        boundary.push('=');
    }
    let report = Report {
        original,
        kind,
        said: &said,
        times,
        settings,
        is_ascii,
        is_global: !is_ascii && said.iter().any(|said| said.is_global()),
    };
    let mut plain = Vec::new();
    report.write(&mut plain, out.id, &boundary, &returned).expect("writing to memory");
    let body = if plain.is_ascii() { BodyKind::SevenBit } else { BodyKind::EightBit };
    let parameters = MailParameters { utf8: !sender.is_ascii(), body, ..Default::default() };
    out.internal = true;
    out.envelope.set_sender(&Mail { path: b"", parameters });
    out.envelope.push_recipient(&Recipient { path: sender, notify: None, orcpt: None });
    out.head.clear();
    text::stuff(&plain, &mut out.head);
    out.head.extend_from_slice(b".\r\n");
    true
}

/// What is said of one recipient, its words apart from who said them.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    recipient: Recipient<'a>,
    reply: Reply<'a>,
    /// They are the upstream's own.
    is_theirs: bool,
    remote: Option<Remote<'a>>,
}

impl<'a> Said<'a> {
    fn new(recipient: Recipient<'a>, told: &Told<'a>) -> Self {
        let reply = told.reply.as_reply();
        let (reply, is_theirs) = match verdict::passed_on(reply) {
            Some(theirs) => (theirs, true),
            None => (reply, told.remote.is_some() && !reply.is_temporary()),
        };
        Said { recipient, reply, is_theirs, remote: told.remote }
    }

    /// The recipient's Status (RFC 3464 2.3.4).
    fn status(&self, kind: Kind) -> Enhanced {
        let class = match kind {
            Kind::Expired => return Enhanced(4, 4, 7),
            Kind::Overdue => return Enhanced(5, 4, 7),
            Kind::Failed => u8::try_from(self.reply.code / 100).unwrap_or(5).clamp(4, 5),
            Kind::Delayed => 4,
            Kind::Relayed | Kind::Delivered => 2,
        };
        self.reply.enhanced.filter(|enhanced| enhanced.0 == class).unwrap_or(Enhanced(class, 0, 0))
    }

    /// Does its address need RFC 6533?
    fn is_global(&self) -> bool {
        let original = self.recipient.orcpt.and_then(text::strip_utf8_type);
        !self.recipient.path.is_ascii() || original.is_some_and(|path| !text::decode_unitext(path).is_ascii())
    }
}

/// What a notice is put together from.
struct Report<'a> {
    original: &'a Original<'a>,
    kind: Kind,
    said: &'a [Said<'a>],
    times: &'a Times,
    settings: &'a Settings<'a>,
    /// Nothing beyond ASCII, whatever is lost by that.
    is_ascii: bool,
    /// The part for machines holds addresses in UTF-8.
    is_global: bool,
}

impl Report<'_> {
    fn write(&self, out: &mut Vec<u8>, id: MessageId, boundary: &str, returned: &Returned) -> io::Result<()> {
        let (mut human, mut status) = (Vec::new(), Vec::new());
        self.write_human(&mut human, returned)?;
        self.write_status(&mut status)?;
        let is_plain = human.is_ascii() && status.is_ascii() && returned.text.is_ascii();
        self.write_header(out, id, boundary, if is_plain { "7bit" } else { "8bit" })?;
        let status_type =
            if self.is_global { "message/global-delivery-status" } else { "message/delivery-status" };
        let parts: [(&str, &str, &[u8]); 3] = [
            ("Notification", "text/plain; charset=utf-8", &human),
            ("Delivery report", status_type, &status),
            (returned.description(), returned.media_type(), &returned.text),
        ];
        for (description, media_type, content) in parts {
            let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
            write!(out, "--{boundary}\r\nContent-Type: {media_type}\r\n")?;
            write!(
                out,
                "Content-Description: {description}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
            )?;
            out.extend_from_slice(content);
            // The line's end before a boundary belongs to that.
            out.extend_from_slice(b"\r\n");
        }
        write!(out, "--{boundary}--\r\n")
    }

    fn write_header(
        &self,
        out: &mut Vec<u8>,
        id: MessageId,
        boundary: &str,
        encoding: &str,
    ) -> io::Result<()> {
        let Settings { hostname, from, .. } = self.settings;
        write!(out, "Date: {}\r\nFrom: Mail Delivery System <{from}>\r\nTo: <", Date(self.times.now))?;
        out.extend_from_slice(self.original.envelope.sender());
        write!(out, ">\r\nSubject: {}\r\nMessage-ID: <{id}@{hostname}>\r\n", self.subject())?;
        write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        write!(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n")?;
        write!(out, "\tboundary=\"{boundary}\"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n")
    }
}
