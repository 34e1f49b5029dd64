//! Replies in the order that they are owed in (RFC 2920 section 3.2), where some are not known yet.

use crate::dispatch::message::TransactionId;
use crate::limits::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, OWED_BYTES_KEPT_MAX, OWED_BYTES_MAX};

/// What a session is still to be told: a text with holes, one for each message whose verdict is awaited. What stands before
/// the first hole may leave.
#[derive(Debug, Default)]
pub(super) struct Owed {
    text: Vec<u8>,
    /// In the order of the text, which is that of the messages.
    holes: Vec<Hole>,
}

#[derive(Debug)]
struct Hole {
    message: TransactionId,
    /// Octets of the message that are held.
    octets: u64,
    /// Its place in the text.
    at: usize,
}

impl Owed {
    /// Some message has no verdict yet.
    pub(super) fn awaits(&self) -> bool {
        !self.holes.is_empty()
    }

    /// Messages without a verdict.
    pub(super) fn messages(&self) -> impl Iterator<Item = TransactionId> {
        self.holes.iter().map(|hole| hole.message)
    }

    /// Nothing more is to be taken from the session until a verdict has come.
    pub(super) fn is_full(&self) -> bool {
        let octets = self.holes.iter().fold(0, |sum: u64, hole| sum.saturating_add(hole.octets));
        self.holes.len() >= IN_FLIGHT_MAX
            || octets >= IN_FLIGHT_BYTES_MAX
            || self.awaits() && self.text.len() >= OWED_BYTES_MAX
    }

    /// Something may leave.
    pub(super) fn has_ready(&self) -> bool {
        self.ready() > 0
    }

    fn ready(&self) -> usize {
        self.holes.first().map_or(self.text.len(), |hole| hole.at)
    }

    /// Text that comes behind all that is owed so far.
    pub(super) fn push(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    /// The reply to this message comes behind all that is owed so far. `octets`: what of it is held.
    pub(super) fn promise(&mut self, message: TransactionId, octets: u64) {
        self.holes.push(Hole { message, octets, at: self.text.len() });
    }

    /// That message's reply, as `write` writes it. What may leave is added to `out`.
    pub(super) fn keep_promise(
        &mut self,
        message: TransactionId,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(nth) = self.holes.iter().position(|hole| hole.message == message) else {
            debug_assert!(false, "a verdict that nobody waits for");
            return;
        };
        if nth == 0 {
            self.release(out);
            self.holes.remove(0);
            write(out);
            return self.release(out);
        }
        let from = out.len();
        write(out);
        let Hole { at, .. } = self.holes.remove(nth);
        self.text.splice(at..at, out[from..].iter().copied());
        let octets = out.len() - from;
        self.holes[nth..].iter_mut().for_each(|hole| hole.at += octets);
        out.truncate(from);
    }

    /// Adds what may leave to `out`.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        let ready = self.ready();
        if ready == 0 {
            return;
        }
        out.extend(self.text.drain(..ready));
        self.holes.iter_mut().for_each(|hole| hole.at -= ready);
        if self.text.is_empty() {
            self.text.shrink_to(OWED_BYTES_KEPT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> TransactionId {
        TransactionId { slot, generation: slot + 100 }
    }

    fn keep(owed: &mut Owed, message: u32, out: &mut Vec<u8>) {
        owed.keep_promise(id(message), out, |out| out.extend_from_slice(format!("[{message}]").as_bytes()));
    }

    /// In whichever order verdicts come: the text is the same, and what has left is what nothing stands before.
    #[test]
    fn the_order_is_that_of_the_promises() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for order in orders {
            let mut owed = Owed::default();
            let mut out = b"before ".to_vec();
            owed.push(b"a");
            (0..3).for_each(|message| {
                owed.promise(id(message), 1);
                owed.push(format!("b{message}").as_bytes());
            });
            owed.release(&mut out);
            assert_eq!(out, b"before a");
            let mut told = Vec::new();
            for message in order {
                keep(&mut owed, message, &mut out);
                told.push(message);
                let first_left = (0..3).find(|message| !told.contains(message)).unwrap_or(3);
                let left: String = (0..first_left).map(|message| format!("[{message}]b{message}")).collect();
                assert_eq!(String::from_utf8_lossy(&out), format!("before a{left}"), "{order:?}, {told:?}");
            }
            assert!(!owed.awaits() && !owed.has_ready());
        }
    }

    #[test]
    fn it_has_bounds() {
        let mut owed = Owed::default();
        owed.push(&[b'x'; OWED_BYTES_MAX]);
        assert!(!owed.is_full(), "it can leave");
        owed.release(&mut Vec::new());
        for message in 0..IN_FLIGHT_MAX as u32 {
            assert!(!owed.is_full());
            owed.promise(id(message), 1);
        }
        assert!(owed.is_full(), "by number");
        keep(&mut owed, 3, &mut Vec::new());
        assert!(!owed.is_full());
        owed.push(&[b'x'; OWED_BYTES_MAX]);
        assert!(owed.is_full(), "by text");
        (0..IN_FLIGHT_MAX as u32).filter(|message| *message != 3).for_each(|message| {
            keep(&mut owed, message, &mut Vec::new());
        });
        assert!(!owed.is_full() && owed.text.capacity() <= OWED_BYTES_KEPT_MAX);
        owed.promise(id(1), IN_FLIGHT_BYTES_MAX / 2);
        assert!(!owed.is_full());
        owed.promise(id(2), u64::MAX);
        assert!(owed.is_full(), "by octets");
    }
}
