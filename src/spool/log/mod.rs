//! One log: what is to be written gathers while a write is under way, and is the next one.
//!
//! Every write is a group of records that begins at a block and is durable, as a whole, when its completion says
//! so. There is one at a time, so the order of the records is the order of their writing.
//!
//! **First in, first out.** A segment is used anew only when it is the oldest and nothing in it is live. So
//! whatever says that a message is over outlives the message's record.
//!
//! **After a failed write** nothing of its group is trusted. The segment takes no more and is emptied by and by; the
//! log goes on in a fresh one. A segment whose very first write failed is removed before another is begun, as what
//! it held before may still be there. A segment that no write on disk calls free yet is begun with its header alone.

mod space;
mod writing;

use std::collections::VecDeque;
use std::time::Duration;

use crate::handle::{Extent, FileId};
use crate::spool::group::Group;
use crate::spool::index::Life as Stage;
use crate::spool::record::BLOCK;
use crate::spool::segment::Segments;
use crate::spool::{EntryId, Options, Refusal, Shared};
use crate::time::Instant;

/// State records alone wait so long for company.
const STATE_WAIT: Duration = Duration::from_millis(20);
/// Or until there are so many.
const STATES_MAX: usize = 512;
/// A write with so many messages is a crowd's: the next one waits for more of it.
const CROWD: usize = 20;
/// But for no more than that part of what as many sessions can say: who is one of many hardly notices;
const HOLD_PART: usize = 12;
/// nor longer than this;
const HOLD_MAX: Duration = Duration::from_millis(20);
/// nor when for so long none has come;
const HOLD_GAP: Duration = Duration::from_millis(3);
/// nor when there are so many messages, or octets, that a sync more is cheap beside them.
const HOLD_MESSAGES: usize = 128;
const HOLD_BYTES: u64 = 2 << 20;
/// Free segments that new messages leave alone, for states and moves.
const RESERVE: usize = 2;
/// Messages that can neither be written nor refused at once are refused after this, unless a file is being made for them.
const STUCK: Duration = Duration::from_secs(2);
/// The first and the longest pause after something failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A message to be written.
pub(in crate::spool) struct Incoming<'a> {
    pub(in crate::spool) slot: u32,
    pub(in crate::spool) id: EntryId,
    pub(in crate::spool) token: u64,
    /// Octets of its record, at most.
    pub(in crate::spool) bytes: u64,
    pub(in crate::spool) head: &'a [u8],
    pub(in crate::spool) extents: &'a [Extent],
}

/// A message that waits to be written.
#[derive(Debug, Default)]
struct Pending {
    slot: u32,
    id: EntryId,
    token: u64,
    bytes: u64,
    head: Vec<u8>,
    extents: Vec<Extent>,
}

/// A message that was read to be moved.
#[derive(Debug)]
pub(in crate::spool) struct Read {
    pub(in crate::spool) slot: u32,
    pub(in crate::spool) extents: Vec<Extent>,
}

/// Something that fails again and again is tried again at longer and longer intervals.
#[derive(Debug, Default)]
pub(in crate::spool) struct Trouble {
    failures: u32,
    /// Not before then.
    retry_at: Instant,
    errno: i32,
}

impl Trouble {
    fn failed(&mut self, errno: i32, patience: u32, now: Instant) {
        self.failures += 1;
        self.errno = errno;
        let times = self.failures.saturating_sub(patience);
        let pause = (PAUSE_MIN * (1 << times.min(10))).min(PAUSE_MAX);
        self.retry_at = if times == 0 { now } else { now + pause };
    }

    fn is_pausing(&self, now: Instant) -> bool {
        now < self.retry_at
    }
}

/// One log.
#[derive(Debug)]
pub(in crate::spool) struct Log {
    pub(in crate::spool) number: u16,
    /// New messages go here.
    pub(in crate::spool) own: bool,
    pub(in crate::spool) segments: Segments,
    pub(in crate::spool) head: Option<u32>,
    pub(in crate::spool) sequence_next: u64,
    pub(in crate::spool) number_next: u64,
    /// The tail that the last completed write told: segments below it are of no use to any replay.
    pub(in crate::spool) tail_durable: u64,
    /// The next file's number.
    pub(in crate::spool) file_next: u32,
    salt: u64,
    /// Octets of a new file.
    segment_bytes: u64,
    /// Messages of this log that are in the index.
    pub(in crate::spool) entries: usize,
    queue: VecDeque<Pending>,
    queued_bytes: u64,
    queue_since: Instant,
    /// When the last one came.
    queue_last: Instant,
    spare: Vec<Pending>,
    /// Messages read back, to be written anew.
    pub(in crate::spool) moves: VecDeque<Read>,
    /// Messages being read, waiting in `moves` or being written anew; and their octets.
    pub(in crate::spool) moving: usize,
    pub(in crate::spool) moving_bytes: u64,
    /// No buffer was free for a move: not before then.
    pub(in crate::spool) move_at: Instant,
    dirty: Vec<u32>,
    dirty_since: Instant,
    group: Group,
    pub(in crate::spool) flying: bool,
    /// Messages in the last write.
    carried: usize,
    /// Messages in the last write that had some, and until when the next one may wait for more at the most.
    crowd: usize,
    hold_until: Instant,
    /// Sessions that messages come from, one each at a time.
    pub(in crate::spool) sources: usize,
    writing: Trouble,
    /// There was something to write and no room for it. Whatever makes room is told.
    blocked: bool,
    /// A file is being made: its number.
    creating: Option<u32>,
    create: Trouble,
    removing: bool,
    remove: Trouble,
}

impl Log {
    pub(in crate::spool) fn new(number: u16, own: bool, options: &Options) -> Log {
        Log {
            number,
            segment_bytes: options.segment_bytes,
            own,
            segments: Segments::default(),
            head: None,
            sequence_next: 1,
            number_next: 1,
            tail_durable: 0,
            file_next: 1,
            salt: options.salt,
            entries: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queue_since: Instant::NEVER,
            queue_last: Instant::default(),
            spare: Vec::new(),
            moves: VecDeque::new(),
            moving: 0,
            moving_bytes: 0,
            move_at: Instant::default(),
            dirty: Vec::new(),
            dirty_since: Instant::NEVER,
            group: Group::default(),
            flying: false,
            carried: 0,
            crowd: 0,
            hold_until: Instant::default(),
            sources: 0,
            writing: Trouble::default(),
            blocked: false,
            creating: None,
            create: Trouble::default(),
            removing: false,
            remove: Trouble::default(),
        }
    }

    pub(in crate::spool) fn file(&self, segment: u32) -> FileId {
        FileId { log: self.number, number: self.segments.get(segment).number }
    }

    // What is taken in.

    /// Is there room for a message whose record takes so many octets?
    pub(in crate::spool) fn admit(&self, bytes: u64, options: &Options, now: Instant) -> Result<(), Refusal> {
        let usable = self.segment_bytes - BLOCK;
        let files = self.files_max(options, now) as u64;
        // Something of what there is must stay free for moves to have an effect.
        let live_max = files.saturating_sub(RESERVE as u64) * usable / 8 * 7;
        if bytes > usable || self.segments.live_bytes + self.queued_bytes + bytes > live_max {
            return Err(self.full_or_failing(now));
        }
        if self.writing.is_pausing(now) && self.writing.failures > 1 {
            return Err(Refusal::Failing);
        }
        let room = self.head.map_or(0, |head| {
            let segment = self.segments.get(head);
            let flying = if self.flying && self.group.segment == head { self.group.bytes } else { 0 };
            segment.bytes.saturating_sub(segment.end + flying)
        });
        let free = self.segments.free.len().saturating_sub(RESERVE) as u64 * usable;
        if self.queued_bytes + bytes <= room + free
            || self.can_create(options, now)
            || self.creating.is_some()
        {
            return Ok(());
        }
        Err(self.full_or_failing(now))
    }

    fn full_or_failing(&self, now: Instant) -> Refusal {
        let no_space = matches!(self.create.errno, 0 | ENOSPC | EDQUOT | EFBIG);
        if self.create.is_pausing(now) && !no_space { Refusal::Failing } else { Refusal::Full }
    }

    /// Takes a message into the queue.
    pub(in crate::spool) fn enqueue(&mut self, incoming: Incoming<'_>, now: Instant) {
        let Incoming { slot, id, token, bytes, head, extents } = incoming;
        let mut pending = self.spare.pop().unwrap_or_default();
        (pending.slot, pending.id, pending.token, pending.bytes) = (slot, id, token, bytes);
        pending.head.extend_from_slice(head);
        pending.extents.extend_from_slice(extents);
        if self.queue.is_empty() {
            // Whoever comes long after the last write is not of the crowd that was in it.
            let is_of_a_crowd = self.crowd >= CROWD && now < self.queue_since + HOLD_MAX;
            self.hold_until = if is_of_a_crowd { now + HOLD_MAX } else { now };
            self.queue_since = now;
        }
        self.queue_last = now;
        self.queue.push_back(pending);
        self.queued_bytes += bytes;
        self.entries += 1;
    }

    fn dequeue(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.queued_bytes -= pending.bytes;
        Some(pending)
    }

    fn recycle(&mut self, mut pending: Pending) {
        const KEPT: usize = 1024;
        if self.spare.len() < KEPT {
            pending.head.clear();
            pending.extents.clear();
            self.spare.push(pending);
        }
    }

    /// The entry's state is to be written.
    pub(in crate::spool) fn mark_dirty(&mut self, slot: u32, shared: &mut Shared, now: Instant) {
        let entry = &mut shared.index[slot];
        if entry.life == Stage::Queued || std::mem::replace(&mut entry.dirty, true) {
            return;
        }
        if self.dirty.is_empty() {
            self.dirty_since = now;
        }
        self.dirty.push(slot);
    }

    /// The message is over: nobody is left. Its name means nobody from now on.
    pub(in crate::spool) fn finish(&mut self, slot: u32, shared: &mut Shared, now: Instant) {
        let entry = &shared.index[slot];
        let before = entry.life;
        if before == Stage::Kept && !entry.moving {
            self.segments.unlink(slot, &mut shared.index);
        }
        let entry = &mut shared.index[slot];
        entry.generation = entry.generation.wrapping_add(1);
        entry.life = Stage::Gone;
        shared.live -= 1;
        // One that waits to be written is found over when its turn comes.
        if before != Stage::Queued {
            self.mark_dirty(slot, shared, now);
        }
    }

    /// Lets go of an entry when its end is on disk and nobody is at it any more.
    fn let_go(&mut self, slot: u32, shared: &mut Shared) {
        let entry = &shared.index[slot];
        if entry.life == Stage::Gone && entry.over && !entry.moving && !entry.dirty {
            self.segments.vacate(slot, &mut shared.index);
            shared.index.remove(slot);
            self.entries -= 1;
        }
    }

    /// Is everything that was told it on disk, and nothing under way?
    pub(in crate::spool) fn is_settled(&self) -> bool {
        let still = self.flying || self.creating.is_some() || self.removing;
        !still && self.queue.is_empty() && self.dirty.is_empty() && self.moving == 0
    }

    /// When something is to be done that no completion brings about.
    pub(in crate::spool) fn next_deadline(&self, options: &Options, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        let mut at = |when: Instant| next = next.min(when);
        if self.blocked {
            at(self.stuck_at());
        }
        if !self.flying && !self.blocked {
            let held = if self.holds(now) { self.held_until() } else { Instant::default() };
            let earliest = self.writing.retry_at.max(held);
            if !self.dirty.is_empty() {
                at(self.states_at().max(earliest));
            }
            if !self.queue.is_empty() {
                at((self.queue_since + STUCK).max(self.writing.retry_at));
                if self.holds(now) {
                    at(held);
                }
            }
            if !self.moves.is_empty() {
                at(earliest);
            }
        }
        if self.create.is_pausing(now) {
            at(self.create.retry_at);
        }
        if !self.removing && !self.segments.leaving.is_empty() {
            at(self.remove.retry_at);
        }
        if self.move_at > now && self.victim(options, now).is_some() {
            at(self.move_at);
        }
        next
    }
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
