//! Kept messages that are too large to be read back whole: their bodies leave while they are read from the disk, by the
//! same parts and legs as those that leave while they arrive. The next part is read while one is being sent.
//!
//! The checksum is of all of a message, so what is read first is sent before it is known to be what was written. But
//! nothing is sent that ends the message before all of it has been read and found right: else links are cut, and no
//! upstream has it. What would end it earlier (in the form for DATA a line with a dot alone) or let other commands through
//! is looked for on the way.

use std::sync::Arc;

use super::super::Dispatch;
use super::super::keep::Stage;
use super::super::message::{TransactionId, Word};
use super::super::transaction::{EVERYBODY, Transaction};
use super::{LegState, Streaming, lost_halfway, unsent};
use crate::dispatch::keep::{DAMAGED, UNREADABLE, token_of};
use crate::handle::{Buffers, Extent};
use crate::limits::{BUFFERS_RESERVED, STREAM_EXTENTS_MIN, WAITING_TICK};
use crate::protocol::wire::data::{Form, Scanner};
use crate::time::Instant;

/// Where a body comes from that lies on the disk.
#[derive(Debug)]
pub(super) struct Source {
    scanner: Scanner,
    /// Octets of head and body, and those that have been read; with their checksum.
    bytes: u64,
    read: u64,
    crc: u32,
    /// Where the next part is being read to.
    reading: Vec<Extent>,
    trouble: Option<Trouble>,
}

/// Why no more of it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    /// The disk may read it another time.
    Unreadable,
    Damaged,
}

impl Source {
    /// Looks at what has been read. False if that cannot be what was written.
    fn take_in(&mut self, extents: &[Extent], buffers: &impl Buffers) -> bool {
        let scanner = &mut self.scanner;
        let are_taken =
            extents.iter().all(|extent| scanner.push(buffers.bytes(*extent)) == extent.len as usize);
        are_taken && !scanner.is_bare() && (self.read == self.bytes || !scanner.is_ended())
    }

    fn note_read(&mut self, octets: u64, crc: u32) {
        self.read += octets;
        self.crc = crc;
    }

    pub(super) fn release(&mut self, buffers: &mut impl Buffers) {
        self.reading.drain(..).for_each(|extent| buffers.release(extent.buffer));
    }
}

impl Streaming {
    /// Of a message of so many octets, head and body, that is going to be read in parts.
    pub(in crate::dispatch) fn of_kept(bytes: u64, form: Form, is_binary: bool) -> Streaming {
        let mut scanner = Scanner::of(form);
        scanner.allow_any(is_binary);
        let source = Source { scanner, bytes, read: 0, crc: 0, reading: Vec::new(), trouble: None };
        Streaming { source: Some(Box::new(source)), ..Streaming::new(Vec::new(), Default::default()) }
    }

    pub(in crate::dispatch) fn is_from_disk(&self) -> bool {
        self.source.is_some()
    }

    /// Is more of it to be read now: is somebody there that wants it, and nothing here?
    fn wants_more(&self) -> bool {
        let is_wanted = self.legs.iter().any(|leg| leg.state != LegState::Over);
        let is_hungry = |source: &Source| source.reading.is_empty() && source.read < source.bytes;
        self.flows
            && is_wanted
            && self.filling.extents.is_empty()
            && self.source.as_deref().is_some_and(is_hungry)
    }
}

impl Dispatch {
    fn source(&mut self, id: TransactionId) -> Option<&mut Source> {
        self.streaming(id)?.source.as_deref_mut()
    }

    /// The message's beginning has been read: it is sent, and more is read as that leaves.
    pub(in crate::dispatch) fn flow_from_disk(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let Transaction { message, streaming: Some(streaming), .. } =
            &mut self.transactions[id.slot as usize]
        else {
            return;
        };
        let Some(source) = &mut streaming.source else { return };
        if !source.take_in(&message.body, buffers) {
            return self.misread(id, now, buffers);
        }
        streaming.shape = source.scanner.shape();
        let message = super::super::message::unshared(message);
        message.streamed = true;
        super::intake::keep_header(message, buffers);
        let extents = std::mem::take(&mut message.body);
        let filling = unsent(&mut streaming.filling);
        filling.size = extents.iter().map(|extent| u64::from(extent.len)).sum();
        (filling.extents, filling.starts_line) = (extents, true);
        let legs = self.begin_legs(id);
        if let Some(streaming) = self.streaming(id) {
            streaming.legs = legs;
        }
        self.stats.spool.in_parts.add(1);
        self.flow.push(id);
    }

    /// Reads the next part, if it is time to.
    pub(super) fn read_on(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let most = self.gather_max();
        let Some(streaming) = self.streaming(id).filter(|streaming| streaming.wants_more()) else { return };
        let Some(source) = &streaming.source else { return };
        let (from, crc) = (source.read, source.crc);
        let mut left = source.bytes - from;
        let mut extents = Vec::new();
        while left > 0 && extents.len() < most {
            let free = buffers.free();
            let may = free > BUFFERS_RESERVED && extents.len() < STREAM_EXTENTS_MIN;
            let Some(extent) = (may || !self.is_very_short(free)).then(|| buffers.take()).flatten() else {
                break;
            };
            let len = u64::from(extent.len).min(left);
            extents.push(extent.slice(0..len as usize));
            left -= len;
        }
        if extents.is_empty() {
            self.queues.parched.push(id);
            self.next_tick = self.next_tick.min(now + WAITING_TICK);
            return;
        }
        let transaction = &mut self.transactions[id.slot as usize];
        let is_asked = transaction.entry.is_some_and(|entry| {
            let spool = self.keeping.spool_mut();
            spool.is_some_and(|spool| spool.load_part(entry, token_of(id), from, crc, &extents))
        });
        if is_asked {
            transaction.stage = Stage::Loading;
        }
        if let Some(source) = self.source(id) {
            source.reading = extents;
        }
        if !is_asked {
            self.unread(id, now, buffers);
        }
    }

    /// Some of it lies in the buffers given for that.
    pub(in crate::dispatch) fn part_loaded(
        &mut self,
        id: TransactionId,
        crc: u32,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let Some(transaction) = self.transactions.get_mut(id.slot as usize) else { return };
        let (entry, is_over) = (transaction.entry, transaction.groups_left == 0);
        let Some(streaming) = &mut transaction.streaming else { return };
        let Some(source) = &mut streaming.source else { return };
        if !transaction.message.streamed {
            let body = &transaction.message.body;
            source.note_read(body.iter().map(|extent| u64::from(extent.len)).sum(), crc);
            return self.loaded(id, now, buffers);
        }
        transaction.stage = Stage::Sending;
        if is_over {
            source.release(buffers);
            return self.all_ended(id, now, buffers);
        }
        let extents = std::mem::take(&mut source.reading);
        let size = extents.iter().map(|extent| u64::from(extent.len)).sum();
        source.note_read(size, crc);
        let is_all = source.read == source.bytes;
        let is_right = source.take_in(&extents, buffers);
        streaming.shape = source.scanner.shape();
        let filling = unsent(&mut streaming.filling);
        (filling.extents, filling.size) = (extents, size);
        streaming.is_complete = is_all;
        let spool = self.keeping.spool_mut();
        let is_sound = || entry.zip(spool).is_some_and(|(entry, spool)| spool.is_sound(entry, crc));
        if is_right && (!is_all || is_sound()) {
            self.flow.push(id);
        } else {
            self.misread(id, now, buffers);
        }
    }

    /// What was read is not what was written.
    fn misread(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let Some(entry) = self.transactions[id.slot as usize].entry else { return };
        let is_damaged = self.keeping.spool_mut().is_some_and(|spool| spool.mistrust(entry));
        if is_damaged && !self.transactions[id.slot as usize].message.streamed {
            return self.damaged(entry, Some(id), now, buffers);
        }
        let trouble = if is_damaged { Trouble::Damaged } else { Trouble::Unreadable };
        self.no_more_comes(id, trouble, now, buffers);
    }

    /// The disk cannot read what it was asked for.
    pub(in crate::dispatch) fn unread(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.no_more_comes(id, Trouble::Unreadable, now, buffers);
    }

    fn no_more_comes(&mut self, id: TransactionId, why: Trouble, now: Instant, buffers: &mut impl Buffers) {
        let transaction = &mut self.transactions[id.slot as usize];
        transaction.stage = Stage::Sending;
        if !transaction.message.streamed {
            return self.put_back_unread(id, now, buffers);
        }
        let is_over = transaction.groups_left == 0;
        if let Some(streaming) = &mut transaction.streaming {
            streaming.is_withdrawn = true;
            if let Some(source) = &mut streaming.source {
                source.trouble = Some(why);
                source.release(buffers);
            }
        }
        if is_over {
            return self.all_ended(id, now, buffers);
        }
        self.flow.push(id);
    }

    /// All groups have ended. Those whose links were cut because of the disk are told that.
    pub(in crate::dispatch) fn blame_disk(&mut self, id: TransactionId) {
        let transaction = &mut self.transactions[id.slot as usize];
        let source = transaction.streaming.as_mut().and_then(|streaming| streaming.source.as_mut());
        let refused = &mut transaction.refused;
        match source.and_then(|source| source.trouble) {
            None => {}
            Some(Trouble::Unreadable) => {
                let lost = lost_halfway();
                let theirs = refused.iter_mut().filter(|word| word.reply.as_reply() == lost.as_reply());
                theirs.for_each(|word| word.reply = UNREADABLE.to_buf());
            }
            Some(Trouble::Damaged) => {
                refused.retain(|word| word.reply.as_reply().is_permanent());
                if refused.iter().all(|word| word.recipient != EVERYBODY) {
                    refused.push(Word { recipient: EVERYBODY, reply: DAMAGED.to_buf(), by: None });
                }
                // What was read of it is not to be returned to anybody.
                if let Some(message) = Arc::get_mut(&mut transaction.message) {
                    message.head.clear();
                    message.beginning.clear();
                }
            }
        }
    }
}
