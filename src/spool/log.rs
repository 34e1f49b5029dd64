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
//! it held before may still be there.

use std::collections::VecDeque;
use std::time::Duration;

use super::group::{Frame, Group, Member, record_bytes_max};
use super::index::Life as Stage;
use super::record::{BLOCK, Life, SegmentHeader};
use super::segment::{Segment, Segments};
use super::{EntryId, Event, Options, Refusal, Shared};
use crate::handle::{Buffers, Extent, FileId};
use crate::time::Instant;

/// State records alone wait so long for company.
const STATE_WAIT: Duration = Duration::from_millis(20);
/// Or until there are so many.
const STATES_MAX: usize = 512;
/// Free segments that new messages leave alone, for states and moves.
const RESERVE: usize = 2;
/// Messages that can neither be written nor refused at once are refused after this.
const STUCK: Duration = Duration::from_secs(2);
/// The first and the longest pause after something failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

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
pub(super) struct Read {
    pub(super) slot: u32,
    pub(super) extents: Vec<Extent>,
}

/// Something that fails again and again is tried again at longer and longer intervals.
#[derive(Debug, Default)]
pub(super) struct Trouble {
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
pub(super) struct Log {
    pub(super) number: u16,
    /// New messages go here.
    pub(super) own: bool,
    pub(super) segments: Segments,
    pub(super) head: Option<u32>,
    pub(super) sequence_next: u64,
    pub(super) number_next: u64,
    /// The next file's number.
    pub(super) file_next: u32,
    salt: u64,
    /// Octets of a new file.
    segment_bytes: u64,
    /// Messages of this log that are in the index.
    pub(super) entries: usize,
    queue: VecDeque<Pending>,
    queued_bytes: u64,
    queue_since: Instant,
    spare: Vec<Pending>,
    /// Messages read back, to be written anew.
    pub(super) moves: VecDeque<Read>,
    /// Messages being read, waiting in `moves` or being written anew; and their octets.
    pub(super) moving: usize,
    pub(super) moving_bytes: u64,
    /// No buffer was free for a move: not before then.
    pub(super) move_at: Instant,
    dirty: Vec<u32>,
    dirty_since: Instant,
    group: Group,
    pub(super) flying: bool,
    writing: Trouble,
    /// A file is being made: its number.
    creating: Option<u32>,
    create: Trouble,
    removing: bool,
    remove: Trouble,
}

impl Log {
    pub(super) fn new(number: u16, own: bool, options: &Options) -> Log {
        Log {
            number,
            segment_bytes: options.segment_bytes,
            own,
            segments: Segments::default(),
            head: None,
            sequence_next: 1,
            number_next: 1,
            file_next: 1,
            salt: options.salt,
            entries: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queue_since: Instant::NEVER,
            spare: Vec::new(),
            moves: VecDeque::new(),
            moving: 0,
            moving_bytes: 0,
            move_at: Instant::default(),
            dirty: Vec::new(),
            dirty_since: Instant::NEVER,
            group: Group::default(),
            flying: false,
            writing: Trouble::default(),
            creating: None,
            create: Trouble::default(),
            removing: false,
            remove: Trouble::default(),
        }
    }

    pub(super) fn file(&self, segment: u32) -> FileId {
        FileId { log: self.number, number: self.segments.get(segment).number }
    }

    // What is taken in.

    /// Is there room for a message whose record takes so many octets?
    pub(super) fn admit(&self, bytes: u64, options: &Options, now: Instant) -> Result<(), Refusal> {
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
    pub(super) fn enqueue(
        &mut self,
        slot: u32,
        id: EntryId,
        token: u64,
        head: &[u8],
        extents: &[Extent],
        bytes: u64,
        now: Instant,
    ) {
        let mut pending = self.spare.pop().unwrap_or_default();
        (pending.slot, pending.id, pending.token, pending.bytes) = (slot, id, token, bytes);
        pending.head.extend_from_slice(head);
        pending.extents.extend_from_slice(extents);
        if self.queue.is_empty() {
            self.queue_since = now;
        }
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
    pub(super) fn mark_dirty(&mut self, slot: u32, shared: &mut Shared, now: Instant) {
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
    pub(super) fn finish(&mut self, slot: u32, shared: &mut Shared, now: Instant) {
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

    // Space.

    /// The files there may be.
    fn files_wanted(&self, options: &Options) -> usize {
        (options.bytes_max / self.segment_bytes).max(RESERVE as u64 + 3) as usize
    }

    /// The most files there can be, as far as is known. Those that failed do not count.
    fn files_max(&self, options: &Options, now: Instant) -> usize {
        let sound = self.segments.len() - self.segments.suspects();
        match (self.own, self.create.is_pausing(now)) {
            (_, true) => sound,
            (true, false) => self.files_wanted(options),
            (false, false) => sound.max(RESERVE) + RESERVE,
        }
    }

    fn can_create(&self, options: &Options, now: Instant) -> bool {
        // That a message is over must always fit, so where nothing is free one more may be made. Only what failed
        // can bring a log there.
        let sound = self.segments.len() - self.segments.suspects();
        let room = sound < self.files_max(options, now) || self.segments.free.is_empty();
        !self.create.is_pausing(now) && room
    }

    /// The file to be made now, if one should.
    pub(super) fn poll_create(&mut self, options: &Options, now: Instant) -> Option<FileId> {
        let wanted = if self.own { RESERVE + 1 } else { RESERVE * usize::from(self.entries > 0) };
        let enough = self.segments.free.len() >= wanted;
        if enough || self.creating.is_some() || !self.can_create(options, now) {
            return None;
        }
        let number = self.file_next;
        self.file_next += 1;
        self.creating = Some(number);
        Some(FileId { log: self.number, number })
    }

    pub(super) fn created(&mut self, result: Result<u32, i32>, now: Instant) {
        let Some(number) = self.creating.take() else { return };
        match result {
            Ok(_) => {
                self.create = Trouble::default();
                let at = self.segments.insert(Segment::new(number, self.segment_bytes, 0));
                // Nothing was in it, so it may go before the others.
                self.segments.free.push_front(at);
            }
            Err(errno) => self.create.failed(errno, 0, now),
        }
    }

    /// The file to be removed now, if one should.
    pub(super) fn poll_remove(&mut self, options: &Options, now: Instant) -> Option<FileId> {
        if self.removing || self.remove.is_pausing(now) {
            return None;
        }
        let beyond = self.segments.len() > self.files_wanted(options);
        let most = RESERVE + if beyond { 1 } else { 2 + (self.segments.order.len() / 2).max(2) };
        // Never another than the oldest: what says that its messages are over may lie in the next one.
        if self.segments.leaving.is_empty()
            && let Some(&oldest) = self.segments.free.front()
            && (self.own && self.segments.free.len() > most
                || self.segments.get(oldest).bytes != self.segment_bytes)
        {
            self.segments.free.pop_front();
            self.segments.leaving.push_back(oldest);
        }
        self.retire();
        let at = *self.segments.leaving.front()?;
        self.removing = true;
        Some(self.file(at))
    }

    pub(super) fn removed(&mut self, result: Result<u32, i32>, now: Instant) {
        self.removing = false;
        match result {
            Ok(_) | Err(ENOENT) => {
                self.remove = Trouble::default();
                if let Some(at) = self.segments.leaving.pop_front() {
                    self.segments.forget(at);
                }
            }
            Err(errno) => self.remove.failed(errno, 0, now),
        }
    }

    /// A log that is nobody's own and empty goes, its oldest file first.
    fn retire(&mut self) {
        let read = self.segments.order.iter().any(|&at| self.segments.get(at).readers > 0);
        let idle = self.entries == 0 && !self.flying && self.creating.is_none() && self.moving == 0 && !read;
        if !self.own && idle {
            self.head = None;
            let (free, order) = (&mut self.segments.free, &mut self.segments.order);
            self.segments.leaving.extend(free.drain(..).chain(order.drain(..)));
        }
    }

    /// Has everything of it gone?
    pub(super) fn is_gone(&self) -> bool {
        !self.own && self.entries == 0 && self.segments.len() == 0 && self.creating.is_none()
    }

    /// Segments that nothing needs any more are free, the oldest first.
    pub(super) fn reclaim(&mut self) {
        while let Some(&oldest) = self.segments.order.front() {
            let segment = self.segments.get_mut(oldest);
            let written = self.flying && self.group.segment == oldest;
            if Some(oldest) == self.head || segment.live > 0 || segment.readers > 0 || written {
                return;
            }
            self.segments.order.pop_front();
            self.segments.free.push_back(oldest);
        }
    }

    /// The segment whose messages are to be moved, if one's are.
    pub(super) fn victim(&self, options: &Options, now: Instant) -> Option<u32> {
        let segments = &self.segments;
        let has_some = |at: &u32| Some(*at) != self.head && segments.get(*at).first != super::index::NIL;
        let suspect = segments.order.iter().copied().find(|at| segments.get(*at).suspect && has_some(at));
        if suspect.is_some() {
            return suspect;
        }
        let oldest = segments.order.front().copied().filter(has_some)?;
        let used = segments.used_bytes();
        let garbage = used.saturating_sub(segments.live_bytes);
        let files = self.files_max(options, now);
        let spare = segments.free.len() + files.saturating_sub(segments.len() - segments.suspects());
        let pressed = spare < RESERVE + 1 + files / 16;
        let worth = segments.order.len() >= 4 && garbage > used / 2 || pressed && garbage > used / 16;
        worth.then_some(oldest)
    }

    // Writing.

    /// Makes a group of what waits, if there is something to write and where. True: it is to be written.
    pub(super) fn gather(&mut self, shared: &mut Shared, now: Instant, buffers: &mut impl Buffers) -> bool {
        let states_due = self.dirty.len() >= STATES_MAX || !self.dirty.is_empty() && self.states_at() <= now;
        let wanted = !self.queue.is_empty() || !self.moves.is_empty() || states_due;
        if self.flying || !wanted || self.writing.is_pausing(now) {
            return false;
        }
        let mut begun = false;
        self.gather_states(shared, &mut begun);
        self.gather_moves(shared, &mut begun, buffers);
        self.gather_messages(shared, &mut begun);
        if begun {
            self.group.pad(BLOCK);
            self.flying = true;
        } else if !self.queue.is_empty() && self.queue_since + STUCK <= now {
            self.refuse_queue(ENOSPC, shared);
        }
        begun
    }

    fn states_at(&self) -> Instant {
        self.dirty_since + STATE_WAIT
    }

    /// Finds room for so many octets in the group, beginning one or a segment if need be.
    fn room(&mut self, begun: &mut bool, bytes: u64, leave: usize) -> Option<Frame> {
        if let Some(head) = self.head {
            let segment = self.segments.get(head);
            let at = if *begun { self.group.at + self.group.bytes } else { segment.end };
            // What pads the group up to a block fits, as segments are whole blocks.
            if at + bytes <= segment.bytes {
                if !std::mem::replace(begun, true) {
                    self.group.begin(head, segment.end);
                }
                return Some(self.frame());
            }
        }
        if *begun || self.segments.free.len() <= leave || !self.segments.leaving.is_empty() {
            return None;
        }
        let next = *self.segments.free.front()?;
        if self.segments.get(next).bytes != self.segment_bytes {
            // Of a time with another size: it goes first.
            return None;
        }
        self.segments.free.pop_front();
        self.begin_segment(next);
        *begun = true;
        Some(self.frame())
    }

    fn begin_segment(&mut self, at: u32) {
        let before = self.segments.order.back().map(|&last| self.segments.get(last));
        let (before, before_end) = before.map_or((0, 0), |last| (last.sequence, last.end));
        let life = Life { log: self.number, sequence: self.sequence_next, salt: self.salt };
        self.sequence_next += 1;
        let segment = self.segments.get_mut(at);
        *segment = Segment::new(segment.number, segment.bytes, life.sequence);
        self.segments.order.push_back(at);
        self.head = Some(at);
        self.group.begin(at, 0);
        let tail = self.segments.tail().unwrap_or(life.sequence);
        let number_next = self.number_next;
        self.group.put_segment_header(&SegmentHeader { life, tail, before, before_end, number_next });
    }

    fn frame(&self) -> Frame {
        let sequence = self.head.map_or(0, |head| self.segments.get(head).sequence);
        let tail = self.segments.tail().unwrap_or(sequence);
        Frame { life: Life { log: self.number, sequence, salt: self.salt }, tail }
    }

    fn gather_states(&mut self, shared: &mut Shared, begun: &mut bool) {
        while let Some(&slot) = self.dirty.last() {
            let bytes = record_bytes_max(&shared.index[slot]);
            let bytes =
                bytes - u64::from(shared.index[slot].body_len) - u64::from(shared.index[slot].head_len);
            if !self.group_takes(*begun, 0) {
                return;
            }
            let Some(frame) = self.room(begun, bytes, 0) else { return };
            self.dirty.pop();
            let clock = shared.clock();
            let entry = &mut shared.index[slot];
            entry.dirty = false;
            let over = entry.life == Stage::Gone;
            self.group.put_state(frame, entry, over, &clock);
            self.group.members.push(Member::State { slot, over });
        }
    }

    fn group_takes(&self, begun: bool, extents: usize) -> bool {
        !begun || self.group.takes(extents)
    }

    fn gather_moves(&mut self, shared: &mut Shared, begun: &mut bool, buffers: &mut impl Buffers) {
        while let Some(read) = self.moves.front() {
            let (slot, pieces) = (read.slot, read.extents.len());
            if shared.index[slot].life != Stage::Kept {
                // Over meanwhile; written now it would come to life again.
                let extents = self.moves.pop_front().map(|read| read.extents).unwrap_or_default();
                self.moved(slot, extents, shared, buffers);
                self.after_move(slot, shared);
                continue;
            }
            if !self.group_takes(*begun, pieces) {
                return;
            }
            let Some(frame) = self.room(begun, record_bytes_max(&shared.index[slot]), 0) else { return };
            let Some(Read { slot, extents }) = self.moves.pop_front() else { return };
            let clock = shared.clock();
            let (at, meta_len) = self.group.put_message(frame, &shared.index[slot], &[], &extents, &clock);
            self.group.members.push(Member::Moved { slot, extents, at, meta_len });
        }
    }

    fn gather_messages(&mut self, shared: &mut Shared, begun: &mut bool) {
        while let Some(front) = self.queue.front() {
            let (slot, pieces) = (front.slot, front.extents.len());
            if shared.index[slot].life == Stage::Gone {
                // Over before it was written: no need to.
                if let Some(pending) = self.dequeue() {
                    shared.events.push_back(Event::Durable { entry: pending.id, token: pending.token });
                    shared.index.remove(slot);
                    self.entries -= 1;
                    self.recycle(pending);
                }
                continue;
            }
            if !self.group_takes(*begun, pieces) {
                return;
            }
            let Some(frame) = self.room(begun, record_bytes_max(&shared.index[slot]), RESERVE) else {
                return;
            };
            let Some(pending) = self.dequeue() else { return };
            let clock = shared.clock();
            let entry = &mut shared.index[slot];
            let (at, meta_len) =
                self.group.put_message(frame, entry, &pending.head, &pending.extents, &clock);
            entry.life = Stage::Flying;
            (entry.at, entry.meta_len) = (at, meta_len);
            let member = Member::Message { slot, id: pending.id, token: pending.token };
            self.group.members.push(member);
            self.recycle(pending);
        }
    }

    /// What the write carries, where to.
    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// The write has been completed.
    pub(super) fn written(
        &mut self,
        result: Result<u32, i32>,
        shared: &mut Shared,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.flying = false;
        let whole = match result {
            Ok(octets) if u64::from(octets) == self.group.bytes => Ok(()),
            Ok(_) => Err(EIO),
            Err(errno) => Err(errno),
        };
        let mut members = std::mem::take(&mut self.group.members);
        match whole {
            Ok(()) => {
                self.writing = Trouble::default();
                self.queue_since = now;
                shared.groups += 1;
                self.segments.get_mut(self.group.segment).end = self.group.at + self.group.bytes;
                members.drain(..).for_each(|member| self.kept(member, shared, buffers));
            }
            Err(errno) => {
                shared.failures += 1;
                self.writing.failed(errno, 1, now);
                self.distrust();
                members.drain(..).for_each(|member| self.not_kept(member, errno, shared, now, buffers));
                if self.writing.failures > 1 {
                    self.refuse_queue(errno, shared);
                }
            }
        }
        self.group.members = members;
        self.reclaim();
    }

    /// The head takes no more.
    fn distrust(&mut self) {
        let at = self.group.segment;
        self.head = None;
        self.segments.get_mut(at).suspect = true;
        if self.group.at == 0 {
            // Nothing acknowledged lies in it, but what it held before may.
            self.segments.order.pop_back();
            self.segments.leaving.push_back(at);
        }
    }

    fn kept(&mut self, member: Member, shared: &mut Shared, buffers: &mut impl Buffers) {
        match member {
            Member::Message { slot, id, token } => {
                shared.index[slot].segment = self.group.segment;
                self.segments.occupy(slot, &mut shared.index);
                if shared.index[slot].life == Stage::Flying {
                    shared.index[slot].life = Stage::Kept;
                    self.segments.link(slot, &mut shared.index);
                }
                shared.messages += 1;
                shared.events.push_back(Event::Durable { entry: id, token });
            }
            Member::Moved { slot, extents, at, meta_len } => {
                self.moved(slot, extents, shared, buffers);
                self.segments.vacate(slot, &mut shared.index);
                let entry = &mut shared.index[slot];
                (entry.segment, entry.at, entry.meta_len) = (self.group.segment, at, meta_len);
                self.segments.occupy(slot, &mut shared.index);
                self.after_move(slot, shared);
            }
            Member::State { slot, over } => {
                shared.index[slot].over |= over;
                self.let_go(slot, shared);
            }
        }
    }

    fn not_kept(
        &mut self,
        member: Member,
        errno: i32,
        shared: &mut Shared,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        match member {
            Member::Message { slot, id, token } => {
                shared.events.push_back(Event::NotKept { entry: id, token, errno });
                if shared.index[slot].life == Stage::Flying {
                    // It may be on disk all the same: that it is over has to be said.
                    self.finish(slot, shared, now);
                }
            }
            Member::Moved { slot, extents, .. } => {
                self.moved(slot, extents, shared, buffers);
                self.after_move(slot, shared);
            }
            Member::State { slot, .. } => self.mark_dirty(slot, shared, now),
        }
    }

    /// The buffers of a move are not needed any more.
    pub(super) fn moved(
        &mut self,
        slot: u32,
        extents: Vec<Extent>,
        shared: &Shared,
        buffers: &mut impl Buffers,
    ) {
        let entry = &shared.index[slot];
        self.moving -= 1;
        self.moving_bytes -= u64::from(entry.head_len) + u64::from(entry.body_len);
        extents.iter().for_each(|extent| buffers.release(extent.buffer));
    }

    /// A move has ended, one way or the other.
    pub(super) fn after_move(&mut self, slot: u32, shared: &mut Shared) {
        shared.index[slot].moving = false;
        if shared.index[slot].life == Stage::Kept {
            self.segments.link(slot, &mut shared.index);
        } else {
            self.let_go(slot, shared);
        }
    }

    /// Nothing of what waits can be kept.
    fn refuse_queue(&mut self, errno: i32, shared: &mut Shared) {
        while let Some(pending) = self.dequeue() {
            let event = if shared.index[pending.slot].life == Stage::Gone {
                Event::Durable { entry: pending.id, token: pending.token }
            } else {
                shared.live -= 1;
                Event::NotKept { entry: pending.id, token: pending.token, errno }
            };
            shared.events.push_back(event);
            shared.index.remove(pending.slot);
            self.entries -= 1;
            self.recycle(pending);
        }
    }

    /// Is everything that was told it on disk, and nothing under way?
    pub(super) fn is_settled(&self) -> bool {
        let still = self.flying || self.creating.is_some() || self.removing;
        !still && self.queue.is_empty() && self.dirty.is_empty() && self.moving == 0
    }

    /// When something is to be done that no completion brings about.
    pub(super) fn next_deadline(&self, options: &Options, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        let mut at = |when: Instant| next = next.min(when);
        if !self.flying {
            if !self.dirty.is_empty() {
                at(self.states_at().max(self.writing.retry_at));
            }
            if !self.queue.is_empty() {
                at((self.queue_since + STUCK).max(self.writing.retry_at));
            }
            if !self.moves.is_empty() {
                at(self.writing.retry_at);
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
