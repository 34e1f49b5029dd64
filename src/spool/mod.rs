//! The spool: messages kept on disk until they are delivered or given up. Rank 2, pure: it asks for reads and
//! writes and does none.
//!
//! A log per shard, in segments of a fixed size, appended to by groups: what comes while a write is under way is
//! the next write, so thousands of messages share a sync. How a message stands later on is a record too. The index
//! in memory has an entry for each message; bodies are read back when they are due.
//!
//! [`Spool::poll_request`] says what the hands are to do, [`Spool::handle_completion`] takes what came of it,
//! [`Spool::poll_event`] tells what that means.

mod group;
mod index;
mod log;
mod meta;
mod reading;
mod record;
mod remaining;
mod replay;
mod scan;
mod schedule;
mod segment;
mod times;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use crate::handle::{Buffers, Extent};
use crate::protocol::ReplyBuf;
use crate::time::Instant;
pub use group::Parts;
use index::{Entry, Index, Life, flag};
use log::Log;
pub use meta::EncodedEnvelope;
use reading::Reading;
use remaining::Remaining;
pub use replay::{Damage, Found, Report, Source};
use schedule::Schedule;
pub use words::{EntryId, Event, Facts, Kept, MessageFacts, Options, Refusal, Request, Usage};

/// No pool that is known: what an entry goes by that was found at the start.
pub const NO_POOL: u16 = u16::MAX;

/// What all of a shard's logs work on.
#[derive(Debug)]
struct Shared {
    index: Index,
    events: VecDeque<Event>,
    unix_at_zero_ms: u64,
    /// Messages that are not over.
    live: usize,
    groups: u64,
    message_groups: u64,
    messages: u64,
    failures: u64,
    damaged: u64,
}

/// A shard's spool.
#[derive(Debug)]
pub struct Spool {
    options: Options,
    /// The shard's own one first.
    logs: Vec<Log>,
    shared: Shared,
    schedule: Schedule,
    reads: Slab<Reading>,
    reads_next: VecDeque<usize>,
    /// Where an entry's facts are put together.
    facts: Vec<u8>,
}

impl Spool {
    /// An empty one. `unix_at_zero_ms`: milliseconds since 1970 when the shard's clock was zero.
    pub fn new(options: Options, unix_at_zero_ms: u64) -> Spool {
        assert!(options.segment_bytes.is_multiple_of(record::BLOCK), "segments are whole blocks");
        let own = Log::new(options.shard.0, true, &options);
        let shared = Shared {
            index: Index::default(),
            events: VecDeque::new(),
            unix_at_zero_ms,
            live: 0,
            groups: 0,
            message_groups: 0,
            messages: 0,
            failures: 0,
            damaged: 0,
        };
        Spool {
            options,
            logs: vec![own],
            shared,
            schedule: Schedule::default(),
            reads: Slab::new(),
            reads_next: VecDeque::new(),
            facts: Vec::new(),
        }
    }

    /// Tells the wall clock: milliseconds since 1970 when the shard's clock was zero.
    pub fn set_unix_at_zero_ms(&mut self, unix_at_zero_ms: u64) {
        self.shared.unix_at_zero_ms = unix_at_zero_ms;
    }

    /// Takes other steps and another age.
    pub fn set_retry(&mut self, retry: Vec<Duration>, max_age: Duration) {
        (self.options.retry, self.options.max_age) = (retry, max_age);
    }

    /// Messages come from so many sessions at present: how much company one that is to be written has to expect.
    pub fn set_sources(&mut self, sources: usize) {
        self.logs[0].sources = sources;
    }

    /// Keeps a message; `Durable` or `NotKept` follows. It is active: nobody else is given it.
    ///
    /// # Errors
    /// Why it cannot be kept now; nothing has been done then.
    pub fn append(
        &mut self,
        kept: &Kept<'_>,
        token: u64,
        now: Instant,
        buffers: &impl Buffers,
    ) -> Result<EntryId, Refusal> {
        let body_len = kept.body.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
        let body_len = u32::try_from(body_len).map_err(|_| Refusal::Full)?;
        let head_len = u32::try_from(kept.head.len()).map_err(|_| Refusal::Full)?;
        self.facts.clear();
        meta::encode_facts(kept, &mut self.facts);
        let log = &mut self.logs[0];
        let mut entry = Entry {
            facts: Box::from(&self.facts[..]),
            remaining: Remaining::of(kept.remaining),
            number: log.number_next,
            due: now,
            head_len,
            body_len,
            log: log.number,
            pool: kept.pool,
            attempts: kept.attempts,
            life: Life::Queued,
            timed: times::timed(kept.envelope.mail().by, 0),
            active: true,
            ..Entry::default()
        };
        let bytes = group::record_bytes_max(&entry);
        let index_bytes = self.shared.index.bytes() + self.schedule.bytes();
        if self.shared.live >= self.options.entries_max || index_bytes >= self.options.index_bytes_max {
            return Err(Refusal::Full);
        }
        log.admit(bytes, &self.options, now)?;
        entry.data_crc = data_crc(kept.head, kept.body, buffers);
        log.number_next += 1;
        let slot = self.shared.index.insert(entry);
        self.shared.live += 1;
        let id = EntryId { slot, generation: self.shared.index[slot].generation };
        let (head, extents) = (kept.head, kept.body);
        self.logs[0].enqueue(log::Incoming { slot, id, token, bytes, head, extents }, now);
        Ok(id)
    }

    /// Whether a message of no size would be refused now.
    pub fn refuses(&self, now: Instant) -> Option<Refusal> {
        self.logs[0].admit(0, &self.options, now).err()
    }

    /// The slot of a message that is not over.
    fn find(&self, id: EntryId) -> Option<u32> {
        let known = id.slot < self.shared.index.slots();
        let entry = known.then(|| &self.shared.index[id.slot])?;
        (entry.generation == id.generation && entry.is_live()).then_some(id.slot)
    }

    fn log_of(&mut self, slot: u32) -> usize {
        let number = self.shared.index[slot].log;
        self.logs.iter().position(|log| log.number == number).expect("an entry's log outlives it")
    }

    fn changed(&mut self, slot: u32, now: Instant) {
        let log = self.log_of(slot);
        self.logs[log].mark_dirty(slot, &mut self.shared, now);
    }

    /// These recipients are done with: delivered or given up. With none left the entry is no more.
    pub fn done(&mut self, id: EntryId, recipients: &[u16], now: Instant) {
        let Some(slot) = self.find(id) else { return };
        let remaining = &mut self.shared.index[slot].remaining;
        let some = recipients.iter().filter(|&&one| remaining.remove(one)).count() > 0;
        if remaining.is_empty() {
            let log = self.log_of(slot);
            self.logs[log].finish(slot, &mut self.shared, now);
        } else if some {
            self.changed(slot, now);
        }
    }

    /// All recipients are done with.
    pub fn done_all(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id) {
            self.shared.index.set_remaining(slot, Remaining::NONE);
            let log = self.log_of(slot);
            self.logs[log].finish(slot, &mut self.shared, now);
        }
    }

    /// An attempt has ended: what is left waits as long as the steps say, and goes by that pool then. When.
    pub fn defer(&mut self, id: EntryId, pool: u16, reply: &ReplyBuf, now: Instant) -> Instant {
        let Some(slot) = self.find(id) else { return now };
        let entry = &mut self.shared.index[slot];
        entry.attempts = entry.attempts.saturating_add(1);
        entry.pool = pool;
        let due = now + schedule::wait(&self.options.retry, entry.attempts, entry.number);
        self.shared.index.set_reply(slot, Some(meta::encode_reply(&reply.as_reply())));
        self.changed(slot, now);
        self.put_off(slot, due);
        due
    }

    /// What is left waits until `due`; no attempt is counted.
    pub fn release(&mut self, id: EntryId, due: Instant) {
        if let Some(slot) = self.find(id) {
            self.put_off(slot, due);
        }
    }

    fn put_off(&mut self, slot: u32, due: Instant) {
        let entry = &mut self.shared.index[slot];
        entry.due = if entry.held { due.max(entry.due) } else { due };
        if std::mem::take(&mut entry.untold) {
            let id = EntryId { slot, generation: entry.generation };
            return self.shared.events.push_back(Event::Damaged { entry: id, token: None });
        }
        entry.active = false;
        self.wait(slot);
    }

    /// Is it too old to be tried again?
    pub fn is_expired(&self, id: EntryId, now: Instant) -> bool {
        self.tried_for(id, now).is_some_and(|age| age > self.options.max_age)
    }

    /// How long ago it came, by the calendar.
    pub fn age(&self, id: EntryId, now: Instant) -> Option<Duration> {
        let slot = self.find(id)?;
        let created_unix_ms = meta::decode_facts(&self.shared.index[slot].facts)?.0.created_unix_ms;
        let unix_ms = self.shared.clock().unix_ms(now);
        Some(Duration::from_millis(unix_ms.saturating_sub(created_unix_ms)))
    }

    /// Its sender has been told of the delay.
    pub fn set_delay_warned(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id) {
            self.shared.index[slot].flags |= flag::DELAY_WARNED;
            self.changed(slot, now);
        }
    }

    /// The next message that is due, of a pool that may; it is active from now on. Pools take turns.
    pub fn next_due(&mut self, now: Instant, may: impl FnMut(u16) -> bool) -> Option<EntryId> {
        let slot = self.pop_due(now, may)?;
        let entry = &mut self.shared.index[slot];
        (entry.active, entry.held) = (true, false);
        Some(EntryId { slot, generation: entry.generation })
    }

    /// What is known of it; `None` if it is over.
    pub fn entry(&self, id: EntryId) -> Option<Facts<'_>> {
        self.facts(self.find(id)?)
    }

    fn facts(&self, slot: u32) -> Option<Facts<'_>> {
        let entry = &self.shared.index[slot];
        let (message, envelope) = meta::decode_facts(&entry.facts)?;
        Some(Facts {
            entry: EntryId { slot, generation: entry.generation },
            message,
            envelope: EncodedEnvelope(envelope),
            head_len: entry.head_len,
            body_len: entry.body_len,
            attempts: entry.attempts,
            pool: entry.pool,
            due: entry.is_waiting().then_some(entry.due),
            suspended: entry.flags & flag::SUSPENDED != 0,
            active: entry.active,
            held_until: entry.held.then_some(entry.due),
            delay_warned: entry.flags & flag::DELAY_WARNED != 0,
            late_told: entry.flags & flag::LATE_TOLD != 0,
            remaining: &entry.remaining,
            reply: entry.reply.as_deref().map(Vec::as_slice),
        })
    }

    /// Shows up to `count` messages from place `from` on; the place to go on from, `None` at the end.
    pub fn scan(&self, from: u32, count: usize, mut show: impl FnMut(Facts<'_>)) -> Option<u32> {
        let mut shown = 0;
        for slot in from..self.shared.index.slots() {
            if shown == count {
                return Some(slot);
            }
            if self.shared.index[slot].is_live()
                && let Some(facts) = self.facts(slot)
            {
                show(facts);
                shown += 1;
            }
        }
        None
    }

    /// Holds it back until it is resumed; an attempt under way goes on.
    pub fn suspend(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id) {
            self.shared.index[slot].flags |= flag::SUSPENDED;
            self.changed(slot, now);
        }
    }

    /// Lets it go on when it is due.
    pub fn resume(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id) {
            self.shared.index[slot].flags &= !flag::SUSPENDED;
            self.changed(slot, now);
            self.wait(slot);
        }
    }

    /// It is due now, if nobody is at it; also what is held until later.
    pub fn flush(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id).filter(|&slot| !self.shared.index[slot].active) {
            let entry = &mut self.shared.index[slot];
            if std::mem::take(&mut entry.held) {
                entry.flags |= flag::RELEASED;
                self.changed(slot, now);
            }
            self.put_off(slot, now);
        }
    }

    /// Takes a message that nobody is at and that is not due, to be ended: it is active from now on.
    pub fn seize(&mut self, id: EntryId) -> bool {
        match self.find(id) {
            Some(slot) => !std::mem::replace(&mut self.shared.index[slot].active, true),
            None => false,
        }
    }

    /// What is there, and how much.
    pub fn usage(&self) -> Usage {
        let sum = |of: fn(&Log) -> u64| self.logs.iter().map(of).sum();
        Usage {
            messages: self.shared.live as u64,
            live_bytes: sum(|log| log.segments.live_bytes),
            bytes: sum(|log| log.segments.bytes()),
            segments: sum(|log| log.segments.len() as u64),
            index_bytes: (self.shared.index.bytes() + self.schedule.bytes()) as u64,
            groups: self.shared.groups,
            message_groups: self.shared.message_groups,
            grouped_messages: self.shared.messages,
            failures: self.shared.failures,
            damaged: self.shared.damaged,
        }
    }

    /// Is everything told written, and nothing under way?
    pub fn is_settled(&self) -> bool {
        self.reads.is_empty() && self.logs.iter().all(Log::is_settled)
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// When [`poll_request`](Self::poll_request), or [`next_due`](Self::next_due) with that `may`, is worth calling
    /// if nothing completes before.
    pub fn next_deadline(&self, now: Instant, may: impl FnMut(u16) -> bool) -> Instant {
        let logs = self.logs.iter().map(|log| log.next_deadline(&self.options, now));
        logs.fold(self.schedule.next(may), Instant::min)
    }
}

/// The checksum of a message's octets.
fn data_crc(head: &[u8], body: &[Extent], buffers: &impl Buffers) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    body.iter().for_each(|&extent| hasher.update(buffers.bytes(extent)));
    hasher.finalize()
}

/// The same, of these octets behind others that have that one.
fn data_crc_after(crc: u32, extents: &[Extent], buffers: &impl Buffers) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    extents.iter().for_each(|&extent| hasher.update(buffers.bytes(extent)));
    hasher.finalize()
}
