//! What an upstream offers in its reply to EHLO, and what it thus cannot carry.

use crate::protocol::envelope::Envelope;
use crate::protocol::wire::command::{BodyKind, Offered};
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
}

impl Capabilities {
    /// What is missing to carry this message of `size` octets.
    pub fn lacks(&self, envelope: &Envelope, size: u64) -> Option<Lack> {
        let mail = envelope.mail();
        if mail.utf8 && !self.utf8 {
            Some(Lack::Utf8)
        } else if mail.body == BodyKind::EightBit && !self.eight_bit {
            Some(Lack::EightBit)
        } else if mail.body == BodyKind::Binary && !self.takes_binary() {
            Some(Lack::Binary)
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
            b"SIZE" => self.size = Some(decimal(arguments, 20).unwrap_or(0)),
            _ => {}
        }
    }

    /// MAIL's parameters among it.
    pub(super) fn offered(&self) -> Offered {
        let &Capabilities { size, eight_bit, binary, utf8, dsn, .. } = self;
        Offered { size: size.is_some(), eight_bit, binary, utf8, dsn }
    }
}
