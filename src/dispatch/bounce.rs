//! Delivery status notifications (RFC 3462, 3464): for messages whose groups ended differently.

use std::io::Write;

use super::message::Message;
use super::options::Options;
use crate::handle::Buffers;
use crate::limits::BOUNCE_HEADER_BYTES_MAX;
use crate::protocol::wire::command::{Mail, MailParameters, Recipient};
use crate::protocol::wire::reply::{Enhanced, ReplyBuf};

/// In a list of refusals: all recipients that are not named.
pub(super) const EVERYBODY: u16 = u16::MAX;

/// The worst of several refusals: a permanent one before a temporary one.
pub(super) fn worst(refused: &[(u16, ReplyBuf)]) -> ReplyBuf {
    let worst = refused
        .iter()
        .map(|(_, reply)| reply)
        .max_by_key(|reply| reply.as_reply().code / 100);
    worst
        .cloned()
        .unwrap_or_else(|| super::verdict::ours(0, "no upstream took the message"))
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
    let wants = |index: &u16| {
        message
            .envelope
            .recipient(usize::from(*index))
            .notify
            .is_none_or(|n| n.failure)
    };
    let told: Vec<(u16, &ReplyBuf)> = refused
        .iter()
        .map(|(index, reply)| (*index, reply))
        .filter(|(index, _)| wants(index))
        .collect();
    let sender = message.envelope.sender();
    if sender.is_empty() || told.is_empty() {
        return false;
    }
    bounce.internal = true;
    let utf8 = message.envelope.mail().utf8;
    bounce.envelope.set_sender(&Mail {
        path: b"",
        parameters: MailParameters {
            utf8,
            ..Default::default()
        },
    });
    bounce.envelope.push_recipient(&Recipient {
        path: sender,
        notify: None,
        orcpt: None,
    });
    let mut text = std::mem::take(&mut bounce.head);
    write_parts(&mut text, bounce, message, &told, options, date, buffers).expect("writing to memory");
    bounce.head = text;
    true
}

fn write_parts(
    out: &mut Vec<u8>,
    bounce: &Message,
    message: &Message,
    told: &[(u16, &ReplyBuf)],
    options: &Options,
    date: &[u8],
    buffers: &impl Buffers,
) -> std::io::Result<()> {
    let (host, id) = (&options.hostname, bounce.id);
    let boundary = format!("={id}=");
    let kind = if message.envelope.mail().utf8 {
        "global-"
    } else {
        ""
    };
    write!(out, "Date: ")?;
    out.write_all(date)?;
    write!(
        out,
        "\r\nFrom: Mail Delivery System <{}>\r\nTo: <",
        options.bounce_from
    )?;
    out.write_all(message.envelope.sender())?;
    write!(
        out,
        ">\r\nSubject: Undelivered mail returned to sender\r\nMessage-ID: <{id}@{host}>\r\n"
    )?;
    write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
    write!(
        out,
        "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
    )?;
    write!(
        out,
        "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    )?;
    write!(out, "This is the mail system at {host}.\r\n\r\n")?;
    write!(
        out,
        "Your message {} could not be delivered to these recipients;\r\nothers have it:\r\n\r\n",
        message.id
    )?;
    for (index, reply) in told {
        let reply = reply.as_reply();
        write!(out, "  <")?;
        out.write_all(message.envelope.recipient(usize::from(*index)).path)?;
        write!(out, ">: {} ", reply.code)?;
        out.extend(
            reply
                .text
                .iter()
                .take(400)
                .map(|&b| if b == b'\n' { b' ' } else { b }),
        );
        write!(out, "\r\n")?;
    }
    write!(
        out,
        "\r\n--{boundary}\r\nContent-Type: message/{kind}delivery-status\r\n\r\n"
    )?;
    write!(out, "Reporting-MTA: dns; {host}\r\n")?;
    if let Some(envid) = message.envelope.mail().envid {
        write!(out, "Original-Envelope-Id: ")?;
        out.write_all(envid)?;
        write!(out, "\r\n")?;
    }
    for (index, reply) in told {
        write_status(out, &message.envelope.recipient(usize::from(*index)), reply)?;
    }
    let part = if kind.is_empty() {
        "text/rfc822-headers"
    } else {
        "message/global-headers"
    };
    write!(out, "\r\n--{boundary}\r\nContent-Type: {part}\r\n\r\n")?;
    write_header(out, message, buffers);
    write!(out, "\r\n--{boundary}--\r\n.\r\n")
}

fn write_status(out: &mut Vec<u8>, recipient: &Recipient<'_>, reply: &ReplyBuf) -> std::io::Result<()> {
    let reply = reply.as_reply();
    let class = u8::try_from(reply.code / 100).unwrap_or(5);
    let Enhanced(class, subject, detail) = reply.enhanced.unwrap_or(Enhanced(class, 0, 0));
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
        "\r\nAction: failed\r\nStatus: {class}.{subject}.{detail}\r\nDiagnostic-Code: smtp; {} ",
        reply.code
    )?;
    out.extend(
        reply
            .text
            .iter()
            .take(400)
            .map(|&b| if b == b'\n' { b' ' } else { b }),
    );
    write!(out, "\r\n")
}

/// The original's header, up to a bound, dots still stuffed as they came.
fn write_header(out: &mut Vec<u8>, message: &Message, buffers: &impl Buffers) {
    let from = out.len();
    out.extend_from_slice(&message.head);
    for extent in &message.body {
        out.extend_from_slice(buffers.bytes(*extent));
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
    if out[from..].ends_with(b"\r\n.\r\n") {
        out.truncate(out.len() - 3);
    }
}
