//! What an upstream offers in its reply to EHLO, and what it thus cannot carry.

use crate::protocol::envelope::Envelope;
use crate::protocol::wire::command::{BodyKind, Offered};
use crate::protocol::wire::later::{ByMode, DeliverBy};
use crate::protocol::wire::text::{decimal, split_word, trim_end};

/// What an upstream offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub binary: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// SIZE (RFC 1870): most octets of a message; 0 if it names no fixed limit.
    pub size: Option<u64>,
    /// DELIVERBY (RFC 2852): least seconds that it takes for a message to come back after; 0 if it names none.
    pub deliver_by: Option<u32>,
}

/// What of a message is known only when it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Its octets; 0: not known.
    pub size: u64,
    /// What is left of the time that its sender gave it.
    pub by: Option<DeliverBy>,
}

impl From<u64> for Terms {
    fn from(size: u64) -> Terms {
        Terms { size, by: None }
    }
}

/// What an upstream lacks for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// The body may be 8-bit, and 8BITMIME is not offered.
    EightBit,
    /// The body may be binary, and BINARYMIME is not offered, or BDAT not to be used.
    Binary,
    /// MAIL had SMTPUTF8, and that is not offered.
    Utf8,
    /// The message is larger than it takes.
    Size,
    /// The message is to come back if it is not delivered in time, and that is not promised (RFC 2852 section 4).
    Time,
}

impl Capabilities {
    /// What is missing to carry this message on these terms.
    pub fn lacks(&self, envelope: &Envelope, terms: impl Into<Terms>) -> Option<Lack> {
        let Terms { size, by } = terms.into();
        let mail = envelope.mail();
        let keeps_time = |by: DeliverBy| {
            self.deliver_by.is_some_and(|least| by.seconds > 0 && i64::from(by.seconds) >= least.into())
        };
        if mail.utf8 && !self.utf8 {
            Some(Lack::Utf8)
        } else if mail.body == BodyKind::EightBit && !self.eight_bit {
            Some(Lack::EightBit)
        } else if mail.body == BodyKind::Binary && !self.takes_binary() {
            Some(Lack::Binary)
        } else if by.is_some_and(|by| by.mode == ByMode::Return && !keeps_time(by)) {
            Some(Lack::Time)
        } else {
            self.size.filter(|&max| max > 0 && size > max).map(|_| Lack::Size)
        }
    }

    /// May a message go with its commands by BDAT: several commands in one send, and CHUNKING?
    pub fn takes_chunks(&self) -> bool {
        self.pipelining && self.chunking
    }

    /// May a message be binary?
    pub fn takes_binary(&self) -> bool {
        self.binary && self.takes_chunks()
    }

    /// Takes in one line of the reply to EHLO (not its first).
    pub(super) fn learn(&mut self, line: &[u8]) {
        let (word, arguments) = split_word(trim_end(line));
        let mut keyword = [0; 20];
        let Some(upper) = keyword.get_mut(..word.len()) else {
            return;
        };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        match &*upper {
            b"PIPELINING" => self.pipelining = true,
            b"8BITMIME" => self.eight_bit = true,
            b"SMTPUTF8" => self.utf8 = true,
            b"DSN" => self.dsn = true,
            b"CHUNKING" => self.chunking = true,
            b"BINARYMIME" => self.binary = true,
            b"ENHANCEDSTATUSCODES" => self.enhanced = true,
            b"STARTTLS" => self.starttls = true,
            b"DELIVERBY" => {
                let least = arguments.split(|&b| b == b',').next().unwrap_or_default();
                self.deliver_by = Some(decimal(least, 9).unwrap_or(0) as u32);
            }
            b"SIZE" => self.size = Some(decimal(arguments, 20).unwrap_or(0)),
            _ => {}
        }
    }

    /// MAIL's parameters among it.
    pub(super) fn offered(&self) -> Offered {
        let &Capabilities { size, eight_bit, binary, utf8, dsn, deliver_by, .. } = self;
        let (size, deliver_by) = (size.is_some(), deliver_by.is_some());
        Offered { size, eight_bit, binary, utf8, dsn, deliver_by }
    }
}
