//! The one line that is added to a message (RFC 5321 4.4), and the message's name.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::Dispatch;
use super::message::{Message, MessageId, unshared};
use super::router::Origin;
use crate::handle::Buffers;
use crate::time::Instant;

impl Dispatch {
    pub(super) fn new_message_id(&mut self) -> MessageId {
        self.numbers += 1;
        MessageId { epoch_ms: self.options.epoch_ms, shard: self.options.shard, number: self.numbers }
    }

    /// Names the message that the session has just ended, finds its recipients' ways, and writes its `Received:`
    /// line.
    pub(super) fn complete_message(
        &mut self,
        slot: u32,
        mut shared: Arc<Message>,
        now: Instant,
        buffers: &impl Buffers,
    ) -> Arc<Message> {
        let id = self.new_message_id();
        let unix = self.unix_seconds(now);
        let message = unshared(&mut shared);
        message.id = id;
        let session = &self.sessions[slot as usize];
        let origin = Origin {
            listener: Some(&self.options.listeners[usize::from(session.listener.0)].name),
            source: Some(session.peer.ip()),
        };
        (message.origin, message.listener) = (Some(session.peer.ip()), Some(session.listener));
        self.router.assign(message, &self.options.routes, origin, buffers);
        let Message { head, envelope, .. } = message;
        head.clear();
        head.extend_from_slice(b"Received: from ");
        head.extend_from_slice(&session.hello);
        let protocol = match (envelope.mail().utf8, session.server.extended()) {
            (true, _) => "UTF8SMTP", // RFC 6531 3.7.3
            (false, true) => "ESMTP",
            (false, false) => "SMTP",
        };
        head.extend_from_slice(b" ([");
        match session.peer.ip().to_canonical() {
            IpAddr::V4(ip) => write_ipv4(ip, head),
            IpAddr::V6(ip) => write!(head, "IPv6:{ip}").expect("writing to memory"),
        }
        for part in ["])\r\n\tby ", &self.options.hostname, " with ", protocol, " id "] {
            head.extend_from_slice(part.as_bytes());
        }
        id.write(head);
        // With several, naming one would tell the others of it.
        if envelope.len() == 1 {
            head.extend_from_slice(b"\r\n\tfor <");
            head.extend_from_slice(envelope.recipient(0).path);
            head.push(b'>');
        }
        head.extend_from_slice(b"; ");
        head.extend_from_slice(self.date.at(unix));
        head.extend_from_slice(b"\r\n");
        shared
    }
}

/// What `Display` writes, without its machinery: it is in every message.
fn write_ipv4(ip: Ipv4Addr, out: &mut Vec<u8>) {
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        let digits = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        let leading = if octet < 10 { 2 } else { usize::from(octet < 100) };
        out.extend_from_slice(&digits[leading..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_display_does() {
        for octet in 0..=255 {
            let ip = Ipv4Addr::new(octet, 255 - octet, 0, octet);
            let mut out = Vec::new();
            write_ipv4(ip, &mut out);
            assert_eq!(String::from_utf8(out).expect("digits and dots"), ip.to_string());
        }
    }
}
