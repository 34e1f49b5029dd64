//! The part for machines: RFC 3464, with RFC 6533 for addresses in UTF-8, and what RFC 2852 and RFC 4865 add.

use std::io::{self, Write};
use std::net::IpAddr;

use super::{Kind, Remote, Report, Said, text};
use crate::dispatch::date::Date;
use crate::protocol::wire::reply::Reply;

/// Lines are folded beyond, in octets.
const WIDTH: usize = 78;

impl Report<'_> {
    pub(super) fn write_status(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let Report { original, times, settings, .. } = self;
        write!(out, "Reporting-MTA: dns; {}\r\n", settings.hostname)?;
        if let Some(envid) = original.envelope.mail().envid {
            write!(out, "Original-Envelope-Id: {}\r\n", text::decode_xtext(envid))?;
        }
        write!(out, "Arrival-Date: {}\r\n", Date(times.arrived))?;
        let asked = original.envelope.mail();
        if let Some(by) = asked.by {
            let until = times.arrived.saturating_add_signed(by.seconds.into());
            write!(out, "Deliver-By-Date: {}\r\n", Date(until))?;
        }
        if let Some(hold) = asked.hold {
            out.extend_from_slice(b"Future-Release-Request: ");
            hold.write_request(out);
            out.extend_from_slice(b"\r\n");
        }
        self.said.iter().try_for_each(|said| self.write_recipient(out, said))
    }

    fn write_recipient(&self, out: &mut Vec<u8>, said: &Said<'_>) -> io::Result<()> {
        out.extend_from_slice(b"\r\n");
        if let Some(orcpt) = said.recipient.orcpt {
            match text::strip_utf8_type(orcpt) {
                Some(address) => {
                    let address = text::decode_unitext(address);
                    write!(out, "Original-Recipient: utf-8; {}\r\n", self.address(address.as_bytes()))?;
                }
                None => {
                    let orcpt = text::decode_xtext(orcpt);
                    let (kind, address) = orcpt.split_once(';').unwrap_or(("rfc822", &orcpt));
                    write!(out, "Original-Recipient: {kind}; {address}\r\n")?;
                }
            }
        }
        let path = said.recipient.path;
        let kind = if path.is_ascii() { "rfc822" } else { "utf-8" };
        write!(out, "Final-Recipient: {kind}; {}\r\n", self.address(path))?;
        let action = match self.kind {
            Kind::Failed | Kind::Expired | Kind::Overdue => "failed",
            Kind::Delayed => "delayed",
            Kind::Relayed => "relayed",
            Kind::Delivered => "delivered",
        };
        write!(out, "Action: {action}\r\nStatus: {}\r\n", said.status(self.kind))?;
        if let Some(Remote { name, address }) = said.remote {
            match address.to_canonical() {
                IpAddr::V4(ip) => write!(out, "Remote-MTA: dns; [{ip}] ({name})\r\n")?,
                IpAddr::V6(ip) => write!(out, "Remote-MTA: dns; [IPv6:{ip}] ({name})\r\n")?,
            }
        }
        let whose = if said.is_theirs { "smtp" } else { "x-postlane" };
        let mut words = self.words(said.reply);
        if !self.is_global {
            words = text::ascii(&words);
        }
        text::fold_field(out, &format!("Diagnostic-Code: {whose}; {words}"), WIDTH);
        if let Some(tried) = self.times.tried {
            write!(out, "Last-Attempt-Date: {}\r\n", Date(tried))?;
        }
        write!(out, "Final-Log-ID: {}\r\n", self.original.id)?;
        match self.times.until.filter(|_| self.kind == Kind::Delayed) {
            Some(until) => write!(out, "Will-Retry-Until: {}\r\n", Date(until)),
            None => Ok(()),
        }
    }

    /// A reply on one line, within bounds.
    pub(super) fn words(&self, reply: Reply<'_>) -> String {
        let text = self.printable(reply.text);
        match reply.enhanced {
            Some(enhanced) => format!("{} {enhanced} {text}", reply.code),
            None => format!("{} {text}", reply.code),
        }
    }

    pub(super) fn printable(&self, words: &[u8]) -> String {
        let text = text::printable(words);
        if self.is_ascii { text::ascii(&text) } else { text }
    }

    /// An address: in UTF-8 where that may be, else in RFC 6533's way to write it in ASCII.
    pub(super) fn address(&self, path: &[u8]) -> String {
        let text = String::from_utf8_lossy(path);
        if self.is_ascii { text::encode_unitext(&text) } else { text.into_owned() }
    }
}
