//! Messages to send: a header patched per message, a body prepared once per size.

use std::time::{SystemTime, UNIX_EPOCH};

use super::size::SizeMix;
use crate::text::civil;

/// Letters of a body line; with CRLF it takes 74 bytes.
const LINE_LETTERS: usize = 72;
const LINE: usize = LINE_LETTERS + 2;
/// Digits of a message's number in its header, and of a recipient's in its address.
const DIGITS: usize = 10;

/// The body of messages of one size.
pub(super) struct Body {
    /// As it is, for BDAT.
    pub(super) plain: Vec<u8>,
    /// Dot-stuffed (RFC 5321 4.5.2), for DATA.
    pub(super) stuffed: Vec<u8>,
}

/// What all messages of a run are made of.
pub(super) struct Kit {
    header: Vec<u8>,
    /// Where a message's number goes in the header.
    numbers: Vec<usize>,
    pub(super) bodies: Vec<Body>,
    domains: u64,
}

impl Kit {
    pub(super) fn new(sizes: &SizeMix, domains: usize, now: SystemTime) -> Self {
        let zeros = "0".repeat(DIGITS);
        let run = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = format!(
            "From: Load <load@bench.postlane.example>\r\n\
             To: undisclosed-recipients:;\r\n\
             Subject: Message {zeros} of a load test\r\n\
             Date: {}\r\n\
             Message-ID: <{zeros}.{:x}.{:x}@bench.postlane.example>\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\
             \r\n",
            date(run.as_secs()),
            run.as_nanos(),
            std::process::id(),
        );
        let numbers = header.match_indices(&zeros).map(|(at, _)| at).collect();
        let bodies = sizes.sizes().map(|size| Body::new(size.saturating_sub(header.len()))).collect();
        Kit { header: header.into_bytes(), numbers, bodies, domains: domains.max(1) as u64 }
    }

    pub(super) fn push_header(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.header);
        for at in &self.numbers {
            write_number(number, &mut out[start + at..][..DIGITS]);
        }
    }

    pub(super) fn push_mail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<load@bench.postlane.example>\r\n");
    }

    /// The recipient with this number over the whole run; domains take turns.
    pub(super) fn push_rcpt(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<r");
        let start = out.len();
        out.resize(start + DIGITS, b'0');
        write_number(number, &mut out[start..]);
        out.extend_from_slice(b"@d");
        out.extend_from_slice((number % self.domains).to_string().as_bytes());
        out.extend_from_slice(b".example>\r\n");
    }

    pub(super) fn push_bdat(&self, class: usize, out: &mut Vec<u8>) {
        let size = self.message_bytes(class);
        out.extend_from_slice(format!("BDAT {size} LAST\r\n").as_bytes());
    }

    /// Header and body, before dot-stuffing.
    pub(super) fn message_bytes(&self, class: usize) -> usize {
        self.header.len() + self.bodies[class].plain.len()
    }
}

impl Body {
    /// Exactly `size` bytes of lines that end in CRLF (none if not even one fits). Every 16th begins with a dot.
    fn new(size: usize) -> Self {
        let mut plain = Vec::with_capacity(size);
        let mut stuffed = Vec::with_capacity(size + size / (15 * LINE) + 1);
        let mut number = 0;
        let mut left = if size < 2 { 0 } else { size };
        while left > 0 {
            // The first line makes up for what full lines leave; one byte alone would not hold a line end.
            let line = match left % LINE {
                0 => LINE,
                1 => LINE + 1,
                short => short,
            };
            let start = plain.len();
            plain.extend((0..line - 2).map(|at| letter(number, at)));
            plain.extend_from_slice(b"\r\n");
            if plain[start] == b'.' {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(&plain[start..]);
            left -= line;
            number += 1;
        }
        Body { plain, stuffed }
    }
}

fn letter(line: usize, at: usize) -> u8 {
    match at {
        0 if line % 16 == 3 => b'.',
        at if at % 6 == 5 => b' ',
        at => b'a' + ((line * 7 + at * at) % 26) as u8,
    }
}

fn write_number(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// RFC 5322 3.3, in UTC.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    format!(
        "{}, {:02} {} {year} {:02}:{:02}:{:02} +0000",
        DAYS[(days % 7) as usize],
        day,
        MONTHS[month - 1],
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(date(1_767_225_599), "Wed, 31 Dec 2025 23:59:59 +0000");
    }

    #[test]
    fn messages_have_the_size_asked_for_and_proper_lines() {
        for size in [1024, 10_240, 10_241, 10_239, 102_400, 400] {
            let kit = Kit::new(&SizeMix::one(size), 3, UNIX_EPOCH);
            let mut message = Vec::new();
            kit.push_header(42, &mut message);
            let text = String::from_utf8(message.clone()).expect("ascii");
            assert!(
                text.contains("Subject: Message 0000000042 of") && text.contains("<0000000042."),
                "{text}"
            );
            message.extend_from_slice(&kit.bodies[0].plain);
            assert_eq!(message.len(), size);
            assert_eq!(kit.message_bytes(0), size);
            assert!(message.ends_with(b"\r\n"));
            let lines = kit.bodies[0].plain.split(|b| *b == b'\n').map(<[u8]>::len);
            assert!(lines.max().unwrap_or(0) <= LINE);
        }
    }

    #[test]
    fn stuffing_doubles_leading_dots_only() {
        let body = Body::new(74 * 40);
        let stuffed = String::from_utf8(body.stuffed).expect("ascii");
        let plain = String::from_utf8(body.plain).expect("ascii");
        assert_eq!(stuffed.matches("\r\n..").count(), 3);
        assert_eq!(stuffed.replace("\r\n..", "\r\n."), plain);
    }

    #[test]
    fn recipients_take_turns_through_the_domains() {
        let kit = Kit::new(&SizeMix::one(0), 2, UNIX_EPOCH);
        let mut out = Vec::new();
        (8..11).for_each(|number| kit.push_rcpt(number, &mut out));
        let text = String::from_utf8(out).expect("ascii");
        let expected = "RCPT TO:<r0000000008@d0.example>\r\nRCPT TO:<r0000000009@d1.example>\r\n\
                        RCPT TO:<r0000000010@d0.example>\r\n";
        assert_eq!(text, expected);
        assert!(kit.bodies[0].plain.is_empty());
    }
}
