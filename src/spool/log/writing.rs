//! Writing: groups are gathered, and what comes of them is told.

use super::{EIO, ENOSPC, HOLD_BYTES, HOLD_GAP, HOLD_MESSAGES, HOLD_PART, Log, RESERVE, Read};
use super::{STATE_WAIT, STATES_MAX, STUCK, Trouble};
use crate::handle::{Buffers, Extent};
use crate::spool::group::{Frame, Group, Member, record_bytes_max};
use crate::spool::index::Life as Stage;
use crate::spool::record::{BLOCK, Life, SegmentHeader};
use crate::spool::segment::Segment;
use crate::spool::{Event, Shared};
use crate::time::Instant;

impl Log {
    /// Makes a group of what waits, if there is something to write and where. True: it is to be written.
    pub(in crate::spool) fn gather(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        buffers: &mut impl Buffers,
    ) -> bool {
        let states_due = !self.dirty.is_empty() && self.states_at() <= now;
        let something_due = !self.queue.is_empty() || !self.moves.is_empty() || states_due;
        // While messages wait for company all else waits with them, or there would be two syncs for one.
        let wanted = something_due && !self.holds(now) || self.dirty.len() >= STATES_MAX;
        self.blocked = false;
        if self.flying || !wanted || self.writing.is_pausing(now) {
            return false;
        }
        let (mut begun, waiting) = (false, self.queue.len());
        self.gather_states(shared, &mut begun);
        self.gather_moves(shared, &mut begun, buffers);
        self.gather_messages(shared, &mut begun);
        if begun {
            self.group.pad(BLOCK);
            self.flying = true;
            self.carried = waiting - self.queue.len();
            if self.carried > 0 {
                // A few stragglers behind a crowd do not say that it is gone.
                self.crowd = self.carried.max(self.crowd / 4 * 3);
            }
        } else if self.stuck_at() <= now {
            self.refuse_queue(ENOSPC, shared);
        }
        self.blocked = !begun;
        begun
    }

    /// Are messages to wait for company? Alone they never do; where many come at once, a sync is shared by more.
    pub(in crate::spool) fn holds(&self, now: Instant) -> bool {
        !self.queue.is_empty()
            && now < self.held_until()
            && self.queue.len() < HOLD_MESSAGES.min(self.sources / HOLD_PART)
            && self.queued_bytes < HOLD_BYTES
    }

    pub(in crate::spool) fn held_until(&self) -> Instant {
        self.hold_until.min(self.queue_last + HOLD_GAP)
    }

    /// When what waits, and has no room, is refused; with a file in the making not before it is known whether there is one.
    pub(in crate::spool) fn stuck_at(&self) -> Instant {
        let waits = !self.queue.is_empty() && self.creating.is_none();
        if waits { self.queue_since + STUCK } else { Instant::NEVER }
    }

    pub(in crate::spool) fn states_at(&self) -> Instant {
        self.dirty_since + STATE_WAIT
    }

    /// Finds room for so many octets in the group, beginning one or a segment if need be.
    pub(in crate::spool) fn room(&mut self, begun: &mut bool, bytes: u64, leave: usize) -> Option<Frame> {
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
        let is_declared = self.is_declared_free(next);
        self.segments.free.pop_front();
        self.begin_segment(next);
        *begun = true;
        if !is_declared {
            // Records over records that a replay may still look at: torn, they would pass for damage, or bring back
            // what is over. The header by itself is there or is not.
            self.group.close();
            return None;
        }
        Some(self.frame())
    }

    /// Does a replay leave out what is in that free segment? Some write on disk has to say so.
    fn is_declared_free(&self, at: u32) -> bool {
        let sequence = self.segments.get(at).sequence;
        sequence == 0 || sequence < self.tail_durable
    }

    pub(in crate::spool) fn begin_segment(&mut self, at: u32) {
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

    pub(in crate::spool) fn frame(&self) -> Frame {
        let sequence = self.head.map_or(0, |head| self.segments.get(head).sequence);
        let tail = self.segments.tail().unwrap_or(sequence);
        Frame { life: Life { log: self.number, sequence, salt: self.salt }, tail }
    }

    pub(in crate::spool) fn gather_states(&mut self, shared: &mut Shared, begun: &mut bool) {
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

    pub(in crate::spool) fn group_takes(&self, begun: bool, extents: usize) -> bool {
        !begun || self.group.takes(extents)
    }

    pub(in crate::spool) fn gather_moves(
        &mut self,
        shared: &mut Shared,
        begun: &mut bool,
        buffers: &mut impl Buffers,
    ) {
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

    pub(in crate::spool) fn gather_messages(&mut self, shared: &mut Shared, begun: &mut bool) {
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
    pub(in crate::spool) fn group(&self) -> &Group {
        &self.group
    }

    /// The write has been completed.
    pub(in crate::spool) fn written(
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
                shared.message_groups += u64::from(self.carried > 0);
                self.segments.get_mut(self.group.segment).end = self.group.at + self.group.bytes;
                self.tail_durable = self.tail_durable.max(self.group.tail);
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
    pub(in crate::spool) fn distrust(&mut self) {
        let at = self.group.segment;
        self.head = None;
        self.segments.get_mut(at).suspect = true;
        if self.group.at == 0 {
            // Nothing acknowledged lies in it, but what it held before may.
            self.segments.order.pop_back();
            self.segments.leaving.push_back(at);
        }
    }

    pub(in crate::spool) fn kept(&mut self, member: Member, shared: &mut Shared, buffers: &mut impl Buffers) {
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

    pub(in crate::spool) fn not_kept(
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
    pub(in crate::spool) fn moved(
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
    pub(in crate::spool) fn after_move(&mut self, slot: u32, shared: &mut Shared) {
        shared.index[slot].moving = false;
        if shared.index[slot].life == Stage::Kept {
            self.segments.link(slot, &mut shared.index);
        } else {
            self.let_go(slot, shared);
        }
    }

    /// Nothing of what waits can be kept.
    pub(in crate::spool) fn refuse_queue(&mut self, errno: i32, shared: &mut Shared) {
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
}
