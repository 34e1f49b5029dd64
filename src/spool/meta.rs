//! What of a message goes before its octets: how it stands, the facts of its coming, the envelope.
//!
//! Two encodings, both self-delimiting: a [`State`], which changes and is a record's of its own, and the *facts*,
//! which never change and are kept in the index as they are on disk.

use std::net::IpAddr;

use super::remaining::Remaining;
use super::{Kept, MessageFacts};
use crate::handle::{MessageId, ShardId};
use crate::protocol::wire::data::{Form, Shape};
use crate::protocol::wire::later::{ByMode, DeliverBy, Hold};
use crate::protocol::{
    BodyKind, Enhanced, Envelope, Mail, MailParameters, Notify, Recipient, Reply, ReplyBuf, Return,
};

/// Octets of a reply's text that are kept.
const REPLY_TEXT_MAX: usize = 200;

/// How a message stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State<'a> {
    pub(super) attempts: u8,
    pub(super) flags: u8,
    pub(super) pool: u16,
    /// When it is to be tried next, in milliseconds since 1970.
    pub(super) due_unix_ms: u64,
    pub(super) remaining: Remaining,
    /// The last reply it was put off with, encoded.
    pub(super) reply: &'a [u8],
}

pub(super) fn encode_state(state: &State<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[state.attempts, state.flags]);
    out.extend_from_slice(&state.pool.to_le_bytes());
    out.extend_from_slice(&state.due_unix_ms.to_le_bytes());
    let words = state.remaining.words();
    out.extend_from_slice(&(words.len() as u16).to_le_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    put_bytes(state.reply, out);
}

/// The state at the front, and what follows it.
pub(super) fn decode_state(bytes: &[u8]) -> Option<(State<'_>, &[u8])> {
    let mut read = Reader(bytes);
    let [attempts, flags] = [read.byte()?, read.byte()?];
    let pool = read.u16()?;
    let due_unix_ms = read.u64()?;
    let words = (0..read.u16()?).map(|_| read.u64()).collect::<Option<Vec<u64>>>()?;
    let reply = read.bytes()?;
    Some((
        State { attempts, flags, pool, due_unix_ms, remaining: Remaining::of_words(&words), reply },
        read.0,
    ))
}

/// A reply as it is kept: codes and the text's beginning.
pub(super) fn encode_reply(reply: &Reply<'_>) -> Vec<u8> {
    let Enhanced(class, subject, detail) = reply.enhanced.unwrap_or(Enhanced(0, 0, 0));
    let mut out = Vec::with_capacity(7 + reply.text.len().min(REPLY_TEXT_MAX));
    out.extend_from_slice(&reply.code.to_le_bytes());
    out.push(class);
    out.extend_from_slice(&subject.to_le_bytes());
    out.extend_from_slice(&detail.to_le_bytes());
    out.extend_from_slice(&reply.text[..reply.text.len().min(REPLY_TEXT_MAX)]);
    out
}

pub(super) fn decode_reply(bytes: &[u8]) -> Option<ReplyBuf> {
    let mut read = Reader(bytes);
    let code = read.u16()?;
    let enhanced = Enhanced(read.byte()?, read.u16()?, read.u16()?);
    Some(Reply { code, enhanced: (enhanced.0 > 0).then_some(enhanced), text: read.0 }.to_buf())
}

/// Encodes what never changes of a message. Numbers are as short as they can be: all of it stays in memory.
pub(super) fn encode_facts(kept: &Kept<'_>, out: &mut Vec<u8>) {
    let plain = kept.shape.form == Form::Plain;
    let source = match kept.source {
        None => 0,
        Some(IpAddr::V4(_)) => 1,
        Some(IpAddr::V6(_)) => 2,
    };
    let bits = u8::from(plain) | u8::from(kept.shape.ends_line) << 1 | u8::from(kept.internal) << 2;
    out.push(bits | source << 3);
    let Kept { id, size, created_unix_ms, .. } = *kept;
    let numbers = [id.epoch_ms, id.shard.0.into(), id.number, created_unix_ms, size, kept.shape.dots];
    numbers.iter().for_each(|&number| put_number(number, out));
    out.extend_from_slice(&kept.source_key.to_le_bytes());
    match kept.source {
        None => {}
        Some(IpAddr::V4(address)) => out.extend_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
    }
    put_bytes(kept.listener.as_bytes(), out);
    encode_envelope(kept.envelope, out);
}

fn encode_envelope(envelope: &Envelope, out: &mut Vec<u8>) {
    let mail = envelope.mail();
    let body = match mail.body {
        BodyKind::SevenBit => 0,
        BodyKind::EightBit => 1,
        BodyKind::Binary => 2,
    };
    let ret = match mail.ret {
        None => 0,
        Some(Return::Full) => 1,
        Some(Return::Headers) => 2,
    };
    out.push(body | ret << 2 | u8::from(mail.utf8) << 4);
    put_bytes(envelope.sender(), out);
    put_number(mail.size.map_or(0, |size| size.saturating_add(1)), out);
    put_option(mail.envid, out);
    let held = u8::from(mail.hold.is_some()) << 3;
    match mail.by {
        None => out.push(held),
        Some(by) => {
            out.push(1 | u8::from(by.mode == ByMode::Return) << 1 | u8::from(by.trace) << 2 | held);
            out.extend_from_slice(&by.seconds.to_le_bytes());
        }
    }
    put_number(envelope.len() as u64, out);
    for recipient in (0..envelope.len()).map(|i| envelope.recipient(i)) {
        put_bytes(recipient.path, out);
        out.push(recipient.notify.map_or(0, |notify| {
            let Notify { never, success, failure, delay } = notify;
            1 | u8::from(never) << 1 | u8::from(success) << 2 | u8::from(failure) << 3 | u8::from(delay) << 4
        }));
        put_option(recipient.orcpt, out);
    }
    // Behind all that was there before it, where nobody looks who does not know of it.
    match mail.hold {
        None => {}
        Some(Hold::For(seconds)) => {
            out.push(0);
            put_number(seconds.into(), out);
        }
        Some(Hold::Until(unix)) => {
            out.push(1);
            put_number(unix, out);
        }
    }
}

/// The facts at the front, and the envelope's octets after them.
pub(super) fn decode_facts(bytes: &[u8]) -> Option<(MessageFacts<'_>, &[u8])> {
    let mut read = Reader(bytes);
    let bits = read.byte()?;
    let (epoch_ms, shard, number) = (read.number()?, read.number()?, read.number()?);
    let id = MessageId { epoch_ms, shard: ShardId(shard.try_into().ok()?), number };
    let (created_unix_ms, size, dots) = (read.number()?, read.number()?, read.number()?);
    let source_key = read.u64()?;
    let form = if bits & 1 != 0 { Form::Plain } else { Form::Stuffed };
    let source = match bits >> 3 {
        0 => None,
        1 => Some(IpAddr::from(read.array::<4>()?)),
        2 => Some(IpAddr::from(read.array::<16>()?)),
        _ => return None,
    };
    let listener = std::str::from_utf8(read.bytes()?).ok()?;
    let shape = Shape { form, dots, ends_line: bits & 2 != 0 };
    let internal = bits & 4 != 0;
    Some((MessageFacts { id, listener, source, source_key, size, shape, internal, created_unix_ms }, read.0))
}

/// An envelope as it is kept.
#[derive(Clone, Copy, Debug)]
pub struct EncodedEnvelope<'a>(pub(super) &'a [u8]);

impl EncodedEnvelope<'_> {
    /// Unpacks it. False: it is not whole (which its checksum says it is).
    pub fn decode(&self, into: &mut Envelope) -> bool {
        into.clear();
        decode_envelope(self.0, into).is_some()
    }

    /// By when it is wanted.
    pub fn by(&self) -> Option<DeliverBy> {
        let (mail, ..) = mail_of(&mut Reader(self.0))?;
        mail.parameters.by
    }

    /// From when on it may go.
    pub fn hold(&self) -> Option<Hold> {
        let mut read = Reader(self.0);
        let (_, recipients, is_held) = mail_of(&mut read)?;
        if !is_held {
            return None;
        }
        (0..recipients).try_for_each(|_| recipient_of(&mut read).map(drop))?;
        hold_of(&mut read)
    }

    /// How many recipients it has, those done with among them.
    pub fn recipients(&self) -> usize {
        mail_of(&mut Reader(self.0)).map_or(0, |(_, recipients, _)| recipients as usize)
    }
}

/// Sender and parameters, how many recipients follow, and whether until when it is held follows these.
fn mail_of<'a>(read: &mut Reader<'a>) -> Option<(Mail<'a>, u64, bool)> {
    let bits = read.byte()?;
    let body = match bits & 3 {
        0 => BodyKind::SevenBit,
        1 => BodyKind::EightBit,
        2 => BodyKind::Binary,
        _ => return None,
    };
    let ret = match bits >> 2 & 3 {
        0 => None,
        1 => Some(Return::Full),
        2 => Some(Return::Headers),
        _ => return None,
    };
    let utf8 = bits & 16 != 0;
    let path = read.bytes()?;
    let size = read.number()?.checked_sub(1);
    let envid = read.option()?;
    let bits = read.byte()?;
    let seconds = if bits & 1 != 0 { i32::from_le_bytes(read.array()?) } else { 0 };
    let mode = if bits & 2 != 0 { ByMode::Return } else { ByMode::Notify };
    let by = (bits & 1 != 0).then_some(DeliverBy { seconds, mode, trace: bits & 4 != 0 });
    let parameters = MailParameters { size, body, utf8, ret, envid, by, hold: None };
    Some((Mail { path, parameters }, read.number()?, bits & 8 != 0))
}

fn recipient_of<'a>(read: &mut Reader<'a>) -> Option<Recipient<'a>> {
    let path = read.bytes()?;
    let bits = read.byte()?;
    let bit = |n: u8| bits & 1 << n != 0;
    let notify = bit(0).then(|| Notify { never: bit(1), success: bit(2), failure: bit(3), delay: bit(4) });
    Some(Recipient { path, notify, orcpt: read.option()? })
}

fn hold_of(read: &mut Reader<'_>) -> Option<Hold> {
    match read.byte()? {
        0 => read.number()?.try_into().ok().map(Hold::For),
        1 => read.number().map(Hold::Until),
        _ => None,
    }
}

fn decode_envelope(bytes: &[u8], into: &mut Envelope) -> Option<()> {
    let mut read = Reader(bytes);
    let (mail, recipients, is_held) = mail_of(&mut read)?;
    into.set_sender(&mail);
    for _ in 0..recipients {
        into.push_recipient(&recipient_of(&mut read)?);
    }
    if is_held {
        into.set_hold(hold_of(&mut read)?);
    }
    Some(())
}

/// Seven bits to an octet, the low ones first; the top bit says that more follow.
fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Nothing is 0, something its length and one more.
fn put_option(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    put_number(bytes.map_or(0, |bytes| bytes.len() as u64 + 1), out);
    out.extend_from_slice(bytes.unwrap_or_default());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).ok()?)
    }

    fn option(&mut self) -> Option<Option<&'a [u8]>> {
        match self.number()?.checked_sub(1) {
            None => Some(None),
            Some(len) => self.take(usize::try_from(len).ok()?).map(Some),
        }
    }
}

#[cfg(test)]
#[path = "tests/meta.rs"]
mod tests;
