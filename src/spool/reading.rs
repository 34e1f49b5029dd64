//! Reading back: messages that are due, and those that are moved to another segment.

use super::index::{Life, NIL};
use super::log::{Log, Read};
use super::{EntryId, Event, Request, Shared, Spool, data_crc_after};
use crate::handle::{Buffers, Extent, FileId, Ticket};
use crate::time::Instant;

/// Moves under way in a log: messages and octets.
const MOVES_MAX: usize = 64;
const MOVE_BYTES_MAX: u64 = 4 << 20;
/// When no buffer was free for a move it waits so long.
const MOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// What cannot be read is tried so often.
const TRIES: u8 = 3;

/// A message that is to be moved and that the disk cannot read is tried again after this, and so often.
const UNREAD_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
const UNREAD_MAX: u8 = 200;
const EIO: i32 = 5;

/// A read under way, or about to be.
#[derive(Debug)]
pub(super) struct Reading {
    log: u16,
    segment: u32,
    file: FileId,
    at: u64,
    bytes: u64,
    crc: u32,
    /// It is a part, and that was the checksum of all before it.
    part_after: Option<u32>,
    slot: u32,
    /// What `load` was told; none: to be moved.
    load: Option<(EntryId, u64)>,
    extents: Vec<Extent>,
    tries: u8,
}

/// What a ticket is for; its lower half says which.
mod kind {
    pub(super) const WRITE: u64 = 1 << 32;
    pub(super) const CREATE: u64 = 2 << 32;
    pub(super) const REMOVE: u64 = 3 << 32;
    pub(super) const READ: u64 = 4 << 32;
    pub(super) const MASK: u64 = 7 << 32;
}

impl Spool {
    /// Reads a message back: its head and then its body, into extents that together have exactly that many octets.
    /// `Loaded` or `Damaged` follows. False: there is no such message on disk.
    pub fn load(&mut self, id: EntryId, token: u64, extents: &[Extent]) -> bool {
        let Some(slot) = self.find(id).filter(|&slot| self.shared.index[slot].life == Life::Kept) else {
            return false;
        };
        let at = self.log_of(slot);
        let reading = self.reading(at, slot, Some((id, token)), extents.to_vec());
        debug_assert_eq!(reading.bytes, octets(extents));
        self.read(at, reading);
        true
    }

    /// Reads some of a message back: the octets of head and body from `from` on, as many as there is room for. `crc`: the
    /// checksum of those before, 0 if there are none. `PartLoaded` or `Unreadable` follows; what is read is checked against
    /// the checksum of all by [`Spool::is_sound`] alone, at its end. False: there is no such message on disk.
    pub fn load_part(&mut self, id: EntryId, token: u64, from: u64, crc: u32, extents: &[Extent]) -> bool {
        let Some(slot) = self.find(id).filter(|&slot| self.shared.index[slot].life == Life::Kept) else {
            return false;
        };
        let at = self.log_of(slot);
        let whole = self.reading(at, slot, Some((id, token)), extents.to_vec());
        let bytes = octets(extents);
        debug_assert!(from + bytes <= whole.bytes);
        self.read(at, Reading { at: whole.at + from, bytes, part_after: Some(crc), ..whole });
        true
    }

    /// Is a message whose octets have that checksum what was written?
    pub fn is_sound(&self, id: EntryId, crc: u32) -> bool {
        self.find(id).is_some_and(|slot| self.shared.index[slot].data_crc == crc)
    }

    /// What was read of it in parts is not what was written. True: that has been so several times, and it is damaged.
    /// False: it may be read right another time.
    pub fn mistrust(&mut self, id: EntryId) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let entry = &mut self.shared.index[slot];
        entry.unread = entry.unread.saturating_add(1);
        if entry.unread < TRIES && !entry.damaged {
            return false;
        }
        entry.untold = false;
        self.shared.note_damage(slot);
        true
    }

    /// Has it been found damaged?
    pub fn is_damaged(&self, id: EntryId) -> bool {
        self.find(id).is_some_and(|slot| self.shared.index[slot].damaged)
    }

    /// A read of all of a message.
    fn reading(&self, log: usize, slot: u32, load: Option<(EntryId, u64)>, extents: Vec<Extent>) -> Reading {
        let log = &self.logs[log];
        let entry = &self.shared.index[slot];
        Reading {
            log: log.number,
            segment: entry.segment,
            file: log.file(entry.segment),
            at: entry.data_at(),
            bytes: u64::from(entry.head_len) + u64::from(entry.body_len),
            crc: entry.data_crc,
            part_after: None,
            slot,
            load,
            extents,
            tries: 0,
        }
    }

    fn read(&mut self, log: usize, reading: Reading) {
        self.logs[log].segments.get_mut(reading.segment).readers += 1;
        let key = self.reads.insert(reading);
        self.reads_next.push_back(key);
    }

    /// What is to be done next, if anything. To be called until there is nothing, at the end of each turn.
    pub fn poll_request(&mut self, now: Instant, buffers: &mut impl Buffers) -> Option<Request<'_>> {
        for at in 0..self.logs.len() {
            if self.logs[at].gather(&mut self.shared, now, buffers) {
                let log = &self.logs[at];
                let group = log.group();
                return Some(Request::Write {
                    ticket: kind::WRITE | u64::from(log.number),
                    file: log.file(group.segment),
                    at: group.at,
                    parts: group.parts(),
                });
            }
            let log = &mut self.logs[at];
            let number = u64::from(log.number);
            if let Some(file) = log.poll_create(&self.options, now) {
                let bytes = self.options.segment_bytes;
                return Some(Request::Create { ticket: kind::CREATE | number, file, bytes });
            }
            if let Some(file) = log.poll_remove(&self.options, now) {
                return Some(Request::Remove { ticket: kind::REMOVE | number, file });
            }
            self.start_moves(at, now, buffers);
        }
        while let Some(key) = self.reads_next.pop_front() {
            let reading = &self.reads[key];
            if reading.bytes == 0 {
                // There is nothing to read; not even to be asked for.
                self.handle_read(key, Ok(0), now, buffers);
                continue;
            }
            let reading = &self.reads[key];
            let (ticket, file, at) = (kind::READ | key as u64, reading.file, reading.at);
            return Some(Request::Read { ticket, file, at, extents: &self.reads[key].extents });
        }
        None
    }

    /// A request has been completed: its octets, or the errno.
    pub fn handle_completion(
        &mut self,
        ticket: Ticket,
        result: Result<u32, i32>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let which = ticket & !kind::MASK;
        if ticket & kind::MASK == kind::READ {
            return self.handle_read(which as usize, result, now, buffers);
        }
        let Some(at) = self.logs.iter().position(|log| u64::from(log.number) == which) else { return };
        let log = &mut self.logs[at];
        match ticket & kind::MASK {
            kind::WRITE => log.written(result, &mut self.shared, now, buffers),
            kind::CREATE => log.created(result, now),
            _ => log.removed(result, now),
        }
        if self.logs[at].is_gone() {
            self.logs.remove(at);
        }
    }

    fn handle_read(
        &mut self,
        key: usize,
        result: Result<u32, i32>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let reading = &mut self.reads[key];
        let read =
            result.and_then(|octets| if u64::from(octets) == reading.bytes { Ok(()) } else { Err(EIO) });
        let crc = match read {
            Ok(()) => data_crc_after(reading.part_after.unwrap_or(0), &reading.extents, buffers),
            Err(_) => 0,
        };
        let sound = read.is_ok() && (reading.part_after.is_some() || crc == reading.crc);
        reading.tries += 1;
        let wanted = match reading.load {
            Some((id, _)) => self.shared.index[id.slot].generation == id.generation,
            None => self.shared.index[reading.slot].life == Life::Kept,
        };
        if !sound && wanted && reading.tries < TRIES {
            return self.reads_next.push_back(key);
        }
        let reading = self.reads.remove(key);
        let at = self.logs.iter().position(|log| log.number == reading.log);
        let at = at.expect("a log outlives its reads");
        self.logs[at].segments.get_mut(reading.segment).readers -= 1;
        match (reading.load, read) {
            (Some((entry, token)), Ok(())) if reading.part_after.is_some() => {
                self.shared.events.push_back(Event::PartLoaded { entry, token, crc });
            }
            (Some((entry, token)), Ok(())) if sound => {
                self.shared.events.push_back(Event::Loaded { entry, token });
            }
            // What could not be read for long to be moved is no better now.
            (Some((entry, token)), Err(errno))
                if !wanted || reading.part_after.is_some() || !self.shared.index[entry.slot].damaged =>
            {
                self.shared.events.push_back(Event::Unreadable { entry, token, errno });
            }
            (Some((entry, token)), _) => {
                if wanted {
                    self.shared.note_damage(entry.slot);
                    self.shared.index[entry.slot].untold = false;
                }
                self.shared.events.push_back(Event::Damaged { entry, token: Some(token) });
            }
            (None, _) if sound || !wanted => {
                self.logs[at].moves.push_back(Read { slot: reading.slot, extents: reading.extents });
            }
            (None, _) => self.not_moved(at, reading, read.is_err(), now, buffers),
        }
        self.logs[at].reclaim();
    }

    /// A message that was to be moved cannot be read. It stays where it is. If the disk said so it may say otherwise
    /// later; else, or when it has said so for long, the message is told of; if somebody is at it, when they put it off:
    /// an attempt with what was read before may still end well.
    fn not_moved(
        &mut self,
        at: usize,
        reading: Reading,
        again: bool,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let slot = reading.slot;
        let log = &mut self.logs[at];
        log.moved(slot, reading.extents, &self.shared, buffers);
        let entry = &mut self.shared.index[slot];
        entry.unread = entry.unread.saturating_add(1);
        if again && entry.unread < UNREAD_MAX {
            log.move_at = now + UNREAD_PAUSE;
            return log.after_move(slot, &mut self.shared);
        }
        entry.moving = false;
        entry.untold = std::mem::replace(&mut entry.active, true);
        let (untold, entry) = (entry.untold, EntryId { slot, generation: entry.generation });
        self.shared.note_damage(slot);
        if !untold {
            self.shared.events.push_back(Event::Damaged { entry, token: None });
        }
    }

    /// Has survivors read that are to be moved, as far as there are buffers.
    fn start_moves(&mut self, at: usize, now: Instant, buffers: &mut impl Buffers) {
        loop {
            let log: &mut Log = &mut self.logs[at];
            if now < log.move_at || log.moving >= MOVES_MAX || log.moving_bytes >= MOVE_BYTES_MAX {
                return;
            }
            let Some(victim) = log.victim(&self.options, now) else { return };
            let slot = log.segments.get(victim).first;
            debug_assert_ne!(slot, NIL);
            let entry = &self.shared.index[slot];
            let bytes = u64::from(entry.head_len) + u64::from(entry.body_len);
            let Some(extents) = take(bytes, buffers) else {
                log.move_at = now + MOVE_PAUSE;
                return;
            };
            log.segments.unlink(slot, &mut self.shared.index);
            self.shared.index[slot].moving = true;
            log.moving += 1;
            log.moving_bytes += bytes;
            let reading = self.reading(at, slot, None, extents);
            self.read(at, reading);
        }
    }
}

impl Shared {
    fn note_damage(&mut self, slot: u32) {
        let entry = &mut self.index[slot];
        self.damaged += u64::from(!std::mem::replace(&mut entry.damaged, true));
    }
}

fn octets(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.len)).sum()
}

/// Buffers for so many octets, or none at all.
fn take(bytes: u64, buffers: &mut impl Buffers) -> Option<Vec<Extent>> {
    let (mut extents, mut left): (Vec<Extent>, u64) = (Vec::new(), bytes);
    while left > 0 {
        let Some(extent) = buffers.take() else {
            extents.iter().for_each(|extent| buffers.release(extent.buffer));
            return None;
        };
        let len = u64::from(extent.len).min(left);
        extents.push(extent.slice(0..len as usize));
        left -= len;
    }
    Some(extents)
}
