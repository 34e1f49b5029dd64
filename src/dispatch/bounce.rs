//! Delivery status notifications (RFC 3462, 3464): for messages whose groups ended differently.

use std::io::Write;

use super::message::{Message, MessageId};
use super::options::Options;
use crate::handle::Buffers;
use crate::limits::BOUNCE_HEADER_BYTES_MAX;
use crate::protocol::wire::command::{BodyKind, Mail, MailParameters, Recipient};
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::{Enhanced, ReplyBuf};

/// In a list of refusals: all recipients that are not named.
pub(super) const EVERYBODY: u16 = u16::MAX;

/// Of a reply's text in a bounce.
const REPLY_BYTES_MAX: usize = 400;

/// The worst of several refusals: a permanent one before a temporary one.
pub(super) fn worst(refused: &[(u16, ReplyBuf)]) -> ReplyBuf {
    let worst = refused.iter().map(|(_, reply)| reply).max_by_key(|reply| reply.as_reply().code / 100);
    worst.cloned().unwrap_or_else(|| super::verdict::ours(0, "no upstream took the message"))
}

/// Writes the bounce of `message` into `bounce`. False if nobody is to be told: the sender is `<>`, or asked not
/// to be (NOTIFY without FAILURE, RFC 3461 4.1).
pub(super) fn write(
    bounce: &mut Message,
    message: &Message,
    refused: &[(u16, ReplyBuf)],
    options: &Options,
    date: &[u8],
    buffers: &impl Buffers,
) -> bool {
    let wants =
        |index: &u16| message.envelope.recipient(usize::from(*index)).notify.is_none_or(|n| n.failure);
    let told: Vec<(u16, &ReplyBuf)> =
        refused.iter().map(|(index, reply)| (*index, reply)).filter(|(index, _)| wants(index)).collect();
    let sender = message.envelope.sender();
    if sender.is_empty() || told.is_empty() {
        return false;
    }
    bounce.internal = true;
    let mut header = Vec::new();
    write_header(&mut header, message, buffers);
    if message.shape.form == Form::Plain {
        stuff(&mut header);
    }
    // Addresses in UTF-8, an upstream's words or the original's header may be 8-bit; then it has to be said so.
    let utf8 = message.envelope.mail().utf8;
    let is_ascii =
        !utf8 && header.is_ascii() && told.iter().all(|(_, reply)| reply.as_reply().text.is_ascii());
    let body = if is_ascii { BodyKind::SevenBit } else { BodyKind::EightBit };
    bounce
        .envelope
        .set_sender(&Mail { path: b"", parameters: MailParameters { utf8, body, ..Default::default() } });
    bounce.envelope.push_recipient(&Recipient { path: sender, notify: None, orcpt: None });
    let parts =
        Parts { message, told: &told, header: &header, encoding: if is_ascii { "7bit" } else { "8bit" } };
    let mut text = std::mem::take(&mut bounce.head);
    parts.write(&mut text, &bounce.id, options, date).expect("writing to memory");
    bounce.head = text;
    true
}

/// What a bounce is put together from.
struct Parts<'a> {
    message: &'a Message,
    told: &'a [(u16, &'a ReplyBuf)],
    /// The original's.
    header: &'a [u8],
    encoding: &'static str,
}

impl Parts<'_> {
    fn write(
        &self,
        out: &mut Vec<u8>,
        id: &MessageId,
        options: &Options,
        date: &[u8],
    ) -> std::io::Result<()> {
        let Parts { message, encoding, .. } = self;
        let host = &options.hostname;
        let boundary = format!("={id}=");
        // RFC 6533 for addresses in UTF-8.
        let (status, headers) = if message.envelope.mail().utf8 {
            ("message/global-delivery-status", "message/global-headers")
        } else {
            ("message/delivery-status", "text/rfc822-headers")
        };
        let part = |kind: &str| {
            format!("--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n")
        };
        write!(out, "Date: ")?;
        out.write_all(date)?;
        write!(out, "\r\nFrom: Mail Delivery System <{}>\r\nTo: <", options.bounce_from)?;
        out.write_all(message.envelope.sender())?;
        write!(out, ">\r\nSubject: Undelivered mail returned to sender\r\nMessage-ID: <{id}@{host}>\r\n")?;
        write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        write!(
            out,
            "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n"
        )?;
        write!(out, "Content-Transfer-Encoding: {encoding}\r\n\r\n")?;
        write!(out, "{}", part("text/plain; charset=utf-8"))?;
        write!(out, "This is the mail system at {host}.\r\n\r\n")?;
        write!(
            out,
            "Your message {} could not be delivered to these recipients;\r\nothers have it:\r\n\r\n",
            message.id
        )?;
        for (index, reply) in self.told {
            write!(out, "  <")?;
            out.write_all(message.envelope.recipient(usize::from(*index)).path)?;
            write!(out, ">: {} ", reply.as_reply().code)?;
            write_text(out, reply);
        }
        write!(out, "\r\n{}", part(status))?;
        write!(out, "Reporting-MTA: dns; {host}\r\n")?;
        if let Some(envid) = message.envelope.mail().envid {
            write!(out, "Original-Envelope-Id: ")?;
            out.write_all(envid)?;
            write!(out, "\r\n")?;
        }
        for (index, reply) in self.told {
            write_status(out, &message.envelope.recipient(usize::from(*index)), reply)?;
        }
        write!(out, "\r\n{}", part(headers))?;
        out.write_all(self.header)?;
        write!(out, "\r\n--{boundary}--\r\n.\r\n")
    }
}

/// An upstream's words on one line, within bounds.
fn write_text(out: &mut Vec<u8>, reply: &ReplyBuf) {
    if let Some(enhanced) = reply.as_reply().enhanced {
        let _ = write!(out, "{enhanced} ");
    }
    let text = reply.as_reply().text.iter().take(REPLY_BYTES_MAX);
    out.extend(text.map(|&byte| if byte == b'\n' { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut Vec<u8>, recipient: &Recipient<'_>, reply: &ReplyBuf) -> std::io::Result<()> {
    let (code, enhanced) = (reply.as_reply().code, reply.as_reply().enhanced);
    let class = u8::try_from(code / 100).unwrap_or(5);
    let Enhanced(class, subject, detail) = enhanced.unwrap_or(Enhanced(class, 0, 0));
    write!(out, "\r\n")?;
    if let Some(orcpt) = recipient.orcpt {
        write!(out, "Original-Recipient: ")?;
        out.write_all(orcpt)?;
        write!(out, "\r\n")?;
    }
    write!(out, "Final-Recipient: rfc822; ")?;
    out.write_all(recipient.path)?;
    write!(
        out,
        "\r\nAction: failed\r\nStatus: {class}.{subject}.{detail}\r\nDiagnostic-Code: smtp; {code} "
    )?;
    write_text(out, reply);
    Ok(())
}

/// The original's header, up to a bound, with its dots stuffed.
fn write_header(out: &mut Vec<u8>, message: &Message, buffers: &impl Buffers) {
    let from = out.len();
    out.extend_from_slice(&message.head);
    let body = message.body.iter().map(|extent| buffers.bytes(*extent));
    for piece in std::iter::once(&message.beginning[..]).chain(body) {
        out.extend_from_slice(piece);
        if let Some(end) = memchr::memmem::find(&out[from..], b"\r\n\r\n") {
            out.truncate(from + end + 2);
            return;
        }
        if out.len() - from > BOUNCE_HEADER_BYTES_MAX {
            break;
        }
    }
    // No end in sight: whole lines up to the bound, and not the final dot of a message without a body.
    out.truncate(from + (out.len() - from).min(BOUNCE_HEADER_BYTES_MAX));
    let whole = memchr::memmem::rfind(&out[from..], b"\r\n").map_or(0, |end| end + 2);
    out.truncate(from + whole);
    if message.shape.form == Form::Stuffed && out[from..].ends_with(b"\r\n.\r\n") {
        out.truncate(out.len() - 3);
    }
}

/// Puts a dot before each dot that begins a line: what came by BDAT may hold anything, a line with a dot alone too.
fn stuff(text: &mut Vec<u8>) {
    let mut from = 0;
    while let Some(at) = memchr::memmem::find(&text[from..], b"\n.") {
        text.insert(from + at + 1, b'.');
        from += at + 3;
    }
}
