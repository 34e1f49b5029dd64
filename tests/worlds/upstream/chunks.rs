//! What an upstream with CHUNKING does: takes a message by BDAT, and is strict about what follows a refusal.

use postlane::time::Instant;

use super::{Deed, Link, Moment, Phase, Upstream};

/// Octets of a chunk that are to come, and what is said to it if it is not taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    left: usize,
    refusal: Option<&'static str>,
}

impl Upstream {
    pub(super) fn bdat(&mut self, link: &mut Link, line: &str, now: Instant) {
        let words: Vec<&str> = line.split(' ').collect();
        let (size, is_last) = match words[..] {
            [_, size, "LAST"] => (size.parse().ok(), true),
            [_, size] => (size.parse().ok(), false),
            _ => (None, false),
        };
        let (Some(left), true) = (size, is_last && self.manner.chunking) else {
            self.breaches.push(format!("not offered, or no whole message: {line:?}"));
            return;
        };
        let refusal = match link.phase {
            Phase::Mail if !link.recipients.is_empty() => match self.fate(Moment::Data) {
                Some(Deed::Refuse) => Some("554 5.7.1 not by chunks"),
                Some(Deed::Defer) => Some("451 4.3.0 not now"),
                // After the chunk, which it reads all the same.
                Some(Deed::Babble) => Some("150 x"),
                Some(deed) => return self.commit(link, Moment::Data, deed, now),
                None => None,
            },
            Phase::Mail => Some("554 5.5.1 no valid recipients"),
            _ => Some("503 5.5.1 MAIL first"),
        };
        link.body_judged = false;
        link.chunk = Some(Chunk { left, refusal });
    }

    /// False: it needs more.
    pub(super) fn take_chunk(&mut self, link: &mut Link, chunk: Chunk, now: Instant) -> bool {
        let judged = std::mem::replace(&mut link.body_judged, true) || link.input.is_empty();
        if !judged
            && chunk.refusal.is_none()
            && let Some(deed @ (Deed::Leave | Deed::Hang | Deed::Drop | Deed::Reset)) =
                self.fate(Moment::Body)
        {
            self.commit(link, Moment::Body, deed, now);
            return false;
        }
        if link.input.len() < chunk.left {
            return false;
        }
        let data: Vec<u8> = link.input.drain(..chunk.left).collect();
        link.chunk = None;
        match chunk.refusal {
            // Until RSET nothing else is in order.
            Some(reply) => self.say(link, now, reply),
            None => {
                link.phase = Phase::Ready;
                self.end_message(link, stuffed(&data), now);
            }
        }
        true
    }
}

/// As it would have come by DATA, without the final `.CRLF`.
fn stuffed(data: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(data.len() + 64);
    let mut is_start = true;
    for &byte in data {
        if is_start && byte == b'.' {
            all.push(b'.');
        }
        is_start = byte == b'\n';
        all.push(byte);
    }
    all
}
