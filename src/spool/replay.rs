//! After a start: the index from what is on disk.
//!
//! Segments are read oldest first, whole, and every checksum is looked at. What a later record says replaces what
//! an earlier one said. Nothing is written: a log goes on in a fresh segment, so that no block ever written is
//! written again, and with a leap of its numbers, so that none that cannot be read now meets its double later.
//!
//! **Damage** is what is not sound in a part of a segment whose writing was acknowledged. What a crash tore was
//! not: it lies in the newest segment's last write. (Each segment's header says as far as the one before it was
//! acknowledged.)

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::index::{Entry, Life as Stage, flag};
use super::log::Log;
use super::meta;
use super::record::{BLOCK, Header, Kind, Life, SegmentHeader};
use super::scan::{Fault, Record, Scan, life_of, scan};
use super::segment::Segment;
use super::{NO_POOL, Options, Spool};
use crate::handle::FileId;
use crate::protocol::Envelope;
use crate::time::Instant;

/// Octets read at a time.
const CHUNK: usize = 1 << 20;
/// Sequences left out after a start.
const SEQUENCE_LEAP: u64 = 1 << 16;
/// Message numbers left out after a start: more than fit a segment.
const NUMBER_LEAP: u64 = 1 << 32;

/// A file of a spool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Which.
    pub file: FileId,
    /// How large.
    pub bytes: u64,
}

/// Where segments are read from, waiting for it: at a start nothing else is to be done.
pub trait Source {
    /// Fills `into` from octet `at` of the file.
    ///
    /// # Errors
    /// The errno.
    fn read(&mut self, file: FileId, at: u64, into: &mut [u8]) -> Result<(), i32>;
}

impl<F: FnMut(FileId, u64, &mut [u8]) -> Result<(), i32>> Source for F {
    fn read(&mut self, file: FileId, at: u64, into: &mut [u8]) -> Result<(), i32> {
        self(file, at, into)
    }
}

/// Something that was acknowledged and is not sound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In which file.
    pub file: FileId,
    /// Where in it.
    pub range: Range<u64>,
    /// What it was, in words; with the message that is lost by it, where that is known.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, octets {} to {}: {}", self.file, self.range.start, self.range.end, self.what)
    }
}

/// What a replay came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Messages found.
    pub messages: u64,
    /// Files looked at.
    pub files: u64,
    /// Octets read.
    pub bytes: u64,
    /// Writes that a crash left unfinished; nothing of theirs was acknowledged.
    pub torn: u64,
    /// What is damaged. The rest lives.
    pub damages: Vec<Damage>,
}

/// A segment in the making.
struct Candidate {
    found: Found,
    header: Option<SegmentHeader>,
    life: Life,
}

/// A log's replay.
struct Replay<'a, S> {
    spool: &'a mut Spool,
    log: Log,
    source: &'a mut S,
    report: &'a mut Report,
    /// Slots by message number.
    slots: HashMap<u64, u32>,
    /// Damaged copies of messages that are sound elsewhere, by number: in which segment.
    copies: HashMap<u64, (u32, Header)>,
    bytes: Vec<u8>,
    tail: u64,
    now: Instant,
}

impl Spool {
    /// A spool of what is found on disk. Logs that are not the shard's by number are left out.
    pub fn recover(
        options: Options,
        unix_at_zero_ms: u64,
        now: Instant,
        found: &[Found],
        source: &mut impl Source,
    ) -> (Spool, Report) {
        let mut report = Report::default();
        let mut spool = Spool::new(options, unix_at_zero_ms);
        let shards = spool.options.shards.max(1);
        let own = spool.options.shard.0;
        let mut numbers: Vec<u16> = found.iter().map(|found| found.file.log).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers.into_iter().filter(|number| number % shards == own) {
            let files: Vec<Found> = found.iter().filter(|found| found.file.log == number).copied().collect();
            let log = Log::new(number, number == own, &spool.options);
            let mut replay = Replay {
                log,
                source,
                report: &mut report,
                slots: HashMap::new(),
                copies: HashMap::new(),
                bytes: Vec::new(),
                tail: 0,
                now,
                spool: &mut spool,
            };
            replay.run(&files);
            let log = replay.log;
            if log.own {
                spool.logs[0] = log;
            } else {
                spool.logs.push(log);
            }
        }
        report.messages = spool.shared.live as u64;
        (spool, report)
    }
}

impl<S: Source> Replay<'_, S> {
    fn run(&mut self, files: &[Found]) {
        let mut segments = Vec::new();
        for &found in files {
            self.report.files += 1;
            self.log.file_next = self.log.file_next.max(found.file.number.saturating_add(1));
            segments.extend(self.candidate(found));
        }
        segments.sort_by_key(|segment| segment.life.sequence);
        let newest_tail =
            segments.iter().filter_map(|segment| segment.header).map(|header| header.tail).max();
        self.tail = newest_tail.unwrap_or(0);
        let (mut number_max, mut damages) = (0, Vec::new());
        for at in 0..segments.len() {
            let segment = &segments[at];
            let next = segments.get(at + 1).and_then(|next| next.header);
            number_max = number_max.max(segment.header.map_or(0, |header| header.number_next));
            let place = self.log.segments.insert(Segment::new(
                segment.found.file.number,
                segment.found.bytes,
                segment.life.sequence,
            ));
            self.log.sequence_next = self.log.sequence_next.max(segment.life.sequence + 1);
            if segment.life.sequence < self.tail {
                self.log.segments.free.push_back(place);
                continue;
            }
            self.log.segments.order.push_back(place);
            self.segment(segment, next, at + 1 == segments.len(), place, &mut number_max, &mut damages);
        }
        self.log.sequence_next += SEQUENCE_LEAP;
        self.log.number_next = number_max.max(1) + NUMBER_LEAP;
        self.drop_before_tail();
        let in_use = |damage: &Damage| {
            let its = segments.iter().find(|segment| segment.found.file == damage.file);
            its.is_some_and(|segment| segment.life.sequence >= self.tail)
        };
        damages.retain(in_use);
        self.report.damages.append(&mut damages);
        self.log.tail_durable = self.tail;
        self.put_in_place();
    }

    /// What a file is by its first block; blank ones are taken at once.
    fn candidate(&mut self, found: Found) -> Option<Candidate> {
        let file = found.file;
        let mut block = vec![0; BLOCK as usize];
        let whole = found.bytes >= 2 * BLOCK && found.bytes.is_multiple_of(BLOCK);
        let read = whole.then(|| self.source.read(file, 0, &mut block));
        let blank = block.iter().all(|&byte| byte == 0);
        match (SegmentHeader::decode(&block), read) {
            // Its making was not finished.
            (_, None) => {
                let at = self.log.segments.insert(Segment::new(file.number, found.bytes, 0));
                self.log.segments.leaving.push_back(at);
                return None;
            }
            (Some(header), Some(Ok(()))) if header.life.log == file.log => {
                return Some(Candidate { found, header: Some(header), life: header.life });
            }
            _ => {}
        }
        let unreadable = self.read_all(found);
        if let Some(life) = life_of(&self.bytes, file.log).filter(|_| !blank || !unreadable.is_empty()) {
            self.damage(file, 0..BLOCK, "the segment's header; its records were found without it");
            return Some(Candidate { found, header: None, life });
        }
        if blank && unreadable.is_empty() {
            let at = self.log.segments.insert(Segment::new(file.number, found.bytes, 0));
            self.log.segments.free.push_back(at);
        } else {
            self.damage(file, 0..found.bytes, "no segment of this spool; it is left alone");
        }
        None
    }

    fn damage(&mut self, file: FileId, range: Range<u64>, what: &str) {
        self.report.damages.push(Damage { file, range, what: what.to_owned() });
    }

    /// Reads a whole file; what cannot be read is zero, and told.
    fn read_all(&mut self, found: Found) -> Vec<(Range<u64>, i32)> {
        let mut unreadable: Vec<(Range<u64>, i32)> = Vec::new();
        self.bytes.clear();
        self.bytes.resize(found.bytes as usize, 0);
        self.report.bytes += found.bytes;
        for (n, chunk) in self.bytes.chunks_mut(CHUNK).enumerate() {
            let from = (n * CHUNK) as u64;
            if self.source.read(found.file, from, chunk).is_ok() {
                continue;
            }
            for (m, block) in chunk.chunks_mut(BLOCK as usize).enumerate() {
                let at = from + m as u64 * BLOCK;
                if let Err(errno) = self.source.read(found.file, at, block) {
                    block.fill(0);
                    match unreadable.last_mut() {
                        Some((range, before)) if range.end == at && *before == errno => range.end += BLOCK,
                        _ => unreadable.push((at..at + BLOCK, errno)),
                    }
                }
            }
        }
        unreadable
    }

    /// Takes in one segment.
    fn segment(
        &mut self,
        segment: &Candidate,
        next: Option<SegmentHeader>,
        newest: bool,
        place: u32,
        number_max: &mut u64,
        damages: &mut Vec<Damage>,
    ) {
        let file = segment.found.file;
        let unreadable = self.read_all(segment.found);
        let bytes = std::mem::take(&mut self.bytes);
        let mut lost = Vec::new();
        let scan = scan(&bytes, segment.life, |record| {
            *number_max = (*number_max).max(record.header.number);
            self.tail = self.tail.max(record.header.tail);
            if record.is_damaged {
                lost.push((record.header.position, what_of(record)));
            }
            self.record(record, place);
        });
        self.bytes = bytes;
        let Scan { faults, last_group, end } = scan;
        // As far as the writing of this segment was acknowledged.
        let told = next.filter(|next| next.before == segment.life.sequence).map(|next| next.before_end);
        let acknowledged = told.unwrap_or(if newest { last_group } else { end });
        // That it was is known at least of all but the last write: there is one at a time, and none behind one that failed.
        let surely = told.unwrap_or(last_group);
        let mut faults = faults;
        let seen = faults.last().map_or(end, |(range, _)| range.end.max(end));
        if seen.next_multiple_of(BLOCK) < acknowledged {
            faults.push((seen..acknowledged, Fault::NoHeader));
        }
        let torn = faults.iter().any(|(range, _)| range.start >= acknowledged);
        self.report.torn += u64::from(torn);
        let kept = self.log.segments.get_mut(place);
        kept.end = if torn { acknowledged } else { end };
        // What came through of a torn write goes where its damage would be seen.
        kept.suspect |= torn;
        for (range, errno) in unreadable {
            self.log.segments.get_mut(place).suspect = true;
            let what = format!("cannot be read (errno {errno})");
            damages.push(Damage { file, range, what });
        }
        for (range, fault) in faults {
            if let Fault::Data(number) = fault
                && range.start >= surely
            {
                self.forget_torn(number, place, range.start);
            }
            if range.start < acknowledged {
                let known = lost.iter().find(|(at, _)| *at == range.start).and_then(|(_, what)| what.clone());
                damages.push(describe(file, range, fault, known));
            }
        }
    }

    /// A message of a torn write was not acknowledged; unless an earlier record has it, it is not there.
    fn forget_torn(&mut self, number: u64, place: u32, position: u64) {
        self.copies.remove(&number);
        let Some(&slot) = self.slots.get(&number) else { return };
        let entry = &self.spool.shared.index[slot];
        if entry.segment == place && u64::from(entry.at) * super::record::ALIGN == position {
            self.spool.shared.index.remove(slot);
            self.slots.remove(&number);
        }
    }

    fn record(&mut self, record: Record<'_>, place: u32) {
        let number = record.header.number;
        let Some((state, facts)) = meta::decode_state(record.meta) else { return };
        let known = self.slots.get(&number).copied();
        if record.header.kind == Kind::State {
            let Some(slot) = known else { return };
            if state.remaining.is_empty() {
                self.spool.shared.index.remove(slot);
                self.slots.remove(&number);
            } else {
                self.state(slot, state);
            }
            return;
        }
        if meta::decode_facts(facts).is_none() {
            return;
        }
        if let Some(slot) = known.filter(|_| record.is_damaged) {
            // It was moved; where it was it may still be sound.
            self.copies.insert(number, (place, record.header));
            return self.state(slot, state);
        }
        // (One that is damaged is found so again when it is due, and its sender is told.)
        let slot = known.unwrap_or_else(|| {
            let entry = Entry {
                facts: facts.into(),
                number,
                log: self.log.number,
                life: Stage::Kept,
                ..Entry::default()
            };
            self.spool.shared.index.insert(entry)
        });
        self.slots.insert(number, slot);
        self.spool.shared.index[slot].lies_at(place, &record.header);
        self.state(slot, state);
    }

    fn state(&mut self, slot: u32, state: meta::State<'_>) {
        let unix_now = self.spool.shared.clock().unix_ms(self.now);
        // A calendar that jumped must neither hold anything back for long nor make up for lost time.
        let wait_max = self.spool.options.retry.iter().max().copied().unwrap_or_default();
        let wait = Duration::from_millis(state.due_unix_ms.saturating_sub(unix_now)).min(wait_max);
        let reply = (!state.reply.is_empty()).then(|| state.reply.to_vec());
        let index = &mut self.spool.shared.index;
        index.set_reply(slot, reply);
        index.set_remaining(slot, state.remaining);
        let entry = &mut index[slot];
        // The pools of another run were others.
        (entry.attempts, entry.pool) = (state.attempts, NO_POOL);
        entry.flags = state.flags & flag::ALL;
        entry.due = self.now + wait;
    }

    /// Segments below the tail are of no more use; of their messages nothing can be left but by damage.
    fn drop_before_tail(&mut self) {
        let segments = &mut self.log.segments;
        while let Some(&oldest) = segments.order.front().filter(|&&at| segments.get(at).sequence < self.tail)
        {
            segments.order.pop_front();
            segments.free.push_back(oldest);
        }
        let (segments, index, tail) = (&self.log.segments, &mut self.spool.shared.index, self.tail);
        let is_in_use = |place: u32| segments.get(place).sequence >= tail;
        self.slots.retain(|number, slot| {
            if is_in_use(index[*slot].segment) {
                return true;
            }
            let copy = self.copies.get(number).filter(|(place, _)| is_in_use(*place));
            match copy {
                Some((place, header)) => index[*slot].lies_at(*place, header),
                None => index.remove(*slot),
            }
            copy.is_some()
        });
    }

    fn put_in_place(&mut self) {
        let mut slots: Vec<u32> = self.slots.values().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            let shared = &mut self.spool.shared;
            self.log.segments.occupy(slot, &mut shared.index);
            self.log.segments.link(slot, &mut shared.index);
            self.log.entries += 1;
            shared.live += 1;
            self.spool.recall_times(slot, self.now);
            self.spool.wait(slot);
        }
        self.log.reclaim();
    }
}

impl Entry {
    /// Its record is that one.
    fn lies_at(&mut self, segment: u32, header: &Header) {
        self.segment = segment;
        self.at = (header.position / super::record::ALIGN) as u32;
        (self.meta_len, self.head_len, self.body_len) = (header.meta_len, header.head_len, header.body_len);
        self.data_crc = header.data_crc;
    }
}

/// The message whose octets in that record are damaged.
fn what_of(record: Record<'_>) -> Option<String> {
    let (_, facts) = meta::decode_state(record.meta)?;
    let (facts, envelope) = meta::decode_facts(facts)?;
    let mut unpacked = Envelope::default();
    super::EncodedEnvelope(envelope).decode(&mut unpacked);
    let sender = String::from_utf8_lossy(unpacked.sender()).into_owned();
    Some(format!("message {} from <{sender}>, {} octets", facts.id, facts.size))
}

fn describe(file: FileId, range: Range<u64>, fault: Fault, known: Option<String>) -> Damage {
    let what = match fault {
        Fault::NoHeader => "records without a sound header".to_owned(),
        Fault::Meta(Kind::Message, number) => format!("the envelope of message number {number:#x}"),
        Fault::Meta(Kind::State, number) => {
            format!("a note on message number {number:#x}: it may be sent again")
        }
        Fault::Data(_) => format!("the octets of {}", known.unwrap_or_default()),
    };
    Damage { file, range, what }
}
