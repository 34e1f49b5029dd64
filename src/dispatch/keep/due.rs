//! Kept messages whose time has come: read back and sent again, as many at a time as links and memory have room for.

use std::sync::Arc;

use super::super::Dispatch;
use super::super::message::{Message, TransactionId, unshared};
use super::super::owner::Way;
use super::super::router::Origin;
use super::super::streaming::Streaming;
use super::super::timely::Deadline;
use super::super::verdict::{ours, too_late};
use super::{DAMAGED, Keeping, Stage, UNREADABLE_PAUSE, has_taker, pool_of, token_of};
use crate::handle::{Buffers, ListenerId};
use crate::limits::{
    BUFFERS_RESERVED, DUE_PER_PASS, KEPT_ACTIVE_MAX, KEPT_ACTIVE_MIN, NOTICE_HEADER_BYTES_MAX,
    ROUTE_HEADER_BYTES_MAX, STUCK_LOOK, STUCK_STEP, WAITING_TICK,
};
use crate::protocol::wire::reply::{Enhanced, Reply};
use crate::spool::{EntryId, Spool};
use crate::time::Instant;

const GIVEN_UP: Reply<'static> = Reply::new(554, Enhanced(5, 0, 0), "the operator has given the message up");
/// A message of so large a part of all buffers is read back whole, and one of so few whatever there is.
const WHOLE_PART: usize = 16;
const WHOLE_MIN: usize = 6;
/// Messages read back that may be under way though memory is short.
const ACTIVE_WHEN_SHORT: usize = 4;

/// What the index knows of a kept message: all but its octets.
struct Recalled {
    entry: EntryId,
    message: Arc<Message>,
    /// Octets of head and body, and of the head alone.
    bytes: u64,
    head_bytes: u64,
    /// When it came: seconds since 1970.
    taken_at: u64,
}

impl Dispatch {
    /// Kept messages that may be under way at a time: some for every link, so that none waits for the disk.
    fn active_max(&self) -> usize {
        let links: usize = self.options.pools.iter().map(|pool| pool.links_max * pool.upstreams.len()).sum();
        (2 * links).clamp(KEPT_ACTIVE_MIN, KEPT_ACTIVE_MAX)
    }

    /// Neither new mail nor mail tried again may take more than three quarters: each gets its turn.
    fn has_room(&self, of_its_kind: usize) -> bool {
        let most = self.active_max();
        of_its_kind < most / 4 * 3 && self.keeping.fresh + self.keeping.again < most
    }

    /// Bodies of kept messages leave two thirds of the buffers to mail that is coming in.
    fn has_memory(&mut self, buffers: &impl Buffers) -> bool {
        let free = buffers.free();
        self.keeping.buffers_most = self.keeping.buffers_most.max(free);
        free > self.keeping.buffers_most / 3 * 2
    }

    /// Where mail that is coming in takes so much for long, a few go all the same: in parts, if they are not small.
    fn may_read_back(&mut self, buffers: &impl Buffers) -> bool {
        self.has_memory(buffers) || self.keeping.again < ACTIVE_WHEN_SHORT
    }

    pub(super) fn has_room_for_fresh(&mut self, buffers: &impl Buffers) -> bool {
        // Itself is counted already.
        self.has_room(self.keeping.fresh - 1) && self.has_memory(buffers) && !self.draining
    }

    /// Whether something that is due could be taken up.
    pub(super) fn may_take_up(&self) -> bool {
        !self.draining && self.has_room(self.keeping.again)
    }

    /// Takes up what is due, as far as there is room.
    pub(super) fn take_up_due(&mut self, now: Instant, buffers: &mut impl Buffers) {
        if self.keeping.look_at > now {
            return;
        }
        self.find_overdue(now);
        for _ in 0..DUE_PER_PASS {
            if !self.may_take_up() {
                return;
            }
            let doomed = self.keeping.doomed.front().copied();
            let has_memory = self.may_read_back(buffers);
            let Some(spool) = self.keeping.spool.as_mut().filter(|_| has_memory) else { break };
            if let Some(entry) = doomed {
                if !self.load(entry, now, buffers) {
                    break;
                }
                self.keeping.doomed.pop_front();
                continue;
            }
            let (pools, options) = (&self.pools, &self.options);
            let mut is_stuck = false;
            let may = |lane| {
                let has_taker =
                    pool_of(options, lane).is_none_or(|pool| has_taker(pools, options, pool, now));
                is_stuck |= !has_taker;
                has_taker
            };
            let Some(entry) = spool.next_due(now, may) else {
                if is_stuck {
                    self.keeping.look_at = now + STUCK_LOOK;
                    self.find_expired(now);
                }
                return;
            };
            if !self.load(entry, now, buffers) {
                if let Some(spool) = &mut self.keeping.spool {
                    spool.release(entry, now);
                }
                break;
            }
        }
        self.keeping.look_at = now + WAITING_TICK;
    }

    /// What waits on disk and whose sender's time is over goes first: it comes back, or its sender is told.
    fn find_overdue(&mut self, now: Instant) {
        let Keeping { spool: Some(spool), doomed, .. } = &mut self.keeping else { return };
        doomed.extend(std::iter::from_fn(|| spool.next_overdue(now)).take(DUE_PER_PASS));
    }

    /// What is due at pools without a healthy upstream stays where it is, but not for ever: what is too old in the
    /// meantime is ended, found by going through all in steps.
    fn find_expired(&mut self, now: Instant) {
        let Keeping { spool: Some(spool), swept, doomed, .. } = &mut self.keeping else { return };
        let mut expired = Vec::new();
        let next = spool.scan(*swept, STUCK_STEP, |facts| {
            if facts.due.is_some_and(|due| due <= now) && spool.is_expired(facts.entry, now) {
                expired.push(facts.entry);
            }
        });
        *swept = next.unwrap_or(0);
        expired.retain(|entry| spool.seize(*entry));
        doomed.extend(expired);
    }

    /// Asks for its body, or, where that is large beside the memory there is, for the beginning. False if there is no
    /// memory for it now.
    fn load(&mut self, entry: EntryId, now: Instant, buffers: &mut impl Buffers) -> bool {
        if self.keeping.spool.as_ref().is_some_and(|spool| spool.is_damaged(entry)) {
            self.damaged(entry, None, now, buffers);
            return true;
        }
        let Some(mut recalled) = self.recall(entry) else { return true };
        let message = unshared(&mut recalled.message);
        let share = if self.has_memory(buffers) { self.options.buffers / WHOLE_PART } else { 0 };
        let mut left = recalled.bytes;
        while left > 0 && message.body.len() < share.max(WHOLE_MIN) {
            let room = buffers.free() > BUFFERS_RESERVED;
            let Some(extent) = room.then(|| buffers.take()).flatten() else { break };
            let part = extent.slice(0..u64::from(extent.len).min(left) as usize);
            left -= u64::from(part.len);
            message.body.push(part);
        }
        let in_parts = left > 0;
        if in_parts && !self.keep_beginning(&mut recalled, buffers) {
            unshared(&mut recalled.message).release_body(buffers);
            self.spares.put(recalled.message);
            return false;
        }
        let message = &recalled.message;
        let extents = message.body.clone();
        let flow =
            in_parts.then(|| Streaming::of_kept(recalled.bytes, message.shape.form, message.is_binary()));
        let id = self.begin_again(recalled, now);
        let transaction = &mut self.transactions[id.slot as usize];
        (transaction.stage, transaction.streaming) = (Stage::Loading, flow.map(Box::new));
        let token = token_of(id);
        let is_asked = self.keeping.spool.as_mut().is_some_and(|spool| match in_parts {
            false => spool.load(entry, token, &extents),
            true => spool.load_part(entry, token, 0, 0, &extents),
        });
        if !is_asked {
            self.put_back(id, now, buffers);
        }
        true
    }

    /// Of the buffers for a message that goes in parts those for what has to be known before it goes: what comes before
    /// the body, and the header. False: there are not enough.
    fn keep_beginning(&self, recalled: &mut Recalled, buffers: &mut impl Buffers) -> bool {
        let wants_header = self.options.routes.wants_header();
        let header = if wants_header { ROUTE_HEADER_BYTES_MAX } else { NOTICE_HEADER_BYTES_MAX };
        let mut wanted = recalled.head_bytes + header as u64;
        let body = &mut unshared(&mut recalled.message).body;
        let enough = body.iter().position(|extent| {
            wanted = wanted.saturating_sub(u64::from(extent.len));
            wanted == 0
        });
        let Some(last) = enough else { return false };
        body.drain(last + 1..).for_each(|extent| buffers.release(extent.buffer));
        true
    }

    /// Whatever is known of it without the disk; nothing if it is over.
    fn recall(&mut self, entry: EntryId) -> Option<Recalled> {
        let facts = self.keeping.spool.as_ref()?.entry(entry)?;
        let mut shared = self.spares.take();
        let message = unshared(&mut shared);
        facts.envelope.decode(&mut message.envelope);
        let head_bytes = u64::from(facts.head_len);
        let bytes = head_bytes + u64::from(facts.body_len);
        let facts = facts.message;
        message.id = facts.id;
        message.size = facts.size;
        message.shape = facts.shape;
        message.internal = facts.internal;
        message.kept = true;
        message.source = facts.source_key;
        message.origin = facts.source;
        let listener = self.options.listeners.iter().position(|listener| listener.name == facts.listener);
        message.listener = listener.map(|place| ListenerId(place as u16));
        Some(Recalled { entry, message: shared, bytes, head_bytes, taken_at: facts.created_unix_ms / 1000 })
    }

    fn begin_again(&mut self, recalled: Recalled, now: Instant) -> TransactionId {
        let id = self.new_transaction(recalled.message, None, now, now);
        let transaction = &mut self.transactions[id.slot as usize];
        (transaction.entry, transaction.again) = (Some(recalled.entry), Some(recalled.taken_at));
        self.keeping.again += 1;
        id
    }

    /// Its head and body lie in the buffers given for them.
    pub(in super::super) fn loaded(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let Some(transaction) = self.transactions.get_mut(id.slot as usize) else { return };
        transaction.stage = Stage::Sending;
        let (Some(entry), Some(spool)) = (transaction.entry, &self.keeping.spool) else { return };
        let Some(facts) = spool.entry(entry) else { return };
        let message = unshared(&mut transaction.message);
        split_head(message, facts.head_len as usize, buffers);
        message.deadline = spool.time_left_ms(entry, now).map(|left_ms| Deadline::new(left_ms, now));
        message.release = facts.held_until.unwrap_or_default();
        let (is_too_late, is_late) = (message.is_too_late(now), message.is_late(now));
        let (last, is_expired) = (facts.reply(), spool.is_expired(entry, now));
        self.find_ways(id, entry, buffers);
        if self.keeping.given_up.remove(&entry) {
            self.end_untried(id, GIVEN_UP.to_buf(), now, buffers);
        } else if is_too_late {
            self.end_untried(id, too_late(last), now, buffers);
        } else if is_expired {
            self.end_untried(id, last.unwrap_or_else(|| ours(7, "nobody took it in time")), now, buffers);
        } else if self.draining {
            self.put_back(id, now, buffers);
        } else {
            if is_late {
                self.tell_late(id, now, buffers);
            }
            if self.wait_for_release(id, now, buffers) {
                return;
            }
            if self.transactions[id.slot as usize].streaming.is_some() {
                self.flow_from_disk(id, now, buffers);
            } else {
                self.send_groups(id, now);
            }
        }
    }

    /// Finds the ways of its recipients that are left.
    fn find_ways(&mut self, id: TransactionId, entry: EntryId, buffers: &impl Buffers) {
        let Some(facts) = self.keeping.spool.as_ref().and_then(|spool| spool.entry(entry)) else { return };
        let message = unshared(&mut self.transactions[id.slot as usize].message);
        let listener =
            message.listener.map(|listener| &*self.options.listeners[usize::from(listener.0)].name);
        let origin = Origin { listener, source: message.origin };
        self.router.assign(message, &self.options.routes, origin, buffers);
        let mut left = facts.remaining().peekable();
        for (recipient, way) in (0u16..).zip(&mut message.ways) {
            if left.next_if_eq(&recipient).is_none() {
                *way = Way::NOWHERE;
            }
        }
    }

    /// It cannot be read, or is not what was written: its sender is told, as far as is known of what.
    pub(in super::super) fn damaged(
        &mut self,
        entry: EntryId,
        id: Option<TransactionId>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.keeping.given_up.remove(&entry);
        let id = match id {
            Some(id) => id,
            None => match self.recall(entry) {
                Some(recalled) => self.begin_again(recalled, now),
                None => return,
            },
        };
        let transaction = &mut self.transactions[id.slot as usize];
        transaction.stage = Stage::Sending;
        unshared(&mut transaction.message).release_body(buffers);
        self.find_ways(id, entry, buffers);
        self.end_untried(id, DAMAGED.to_buf(), now, buffers);
    }

    /// The disk could not read it; it may another time, but is not waited for longer than an upstream would be.
    pub(in super::super) fn put_back_unread(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let Some(transaction) = self.transaction(id) else { return };
        let expired = |spool: &Spool, entry| spool.is_expired(entry, now);
        let entry =
            transaction.entry.filter(|entry| self.keeping.spool.as_ref().is_some_and(|s| expired(s, *entry)));
        match entry {
            Some(entry) => self.damaged(entry, Some(id), now, buffers),
            None => self.put_back(id, now + UNREADABLE_PAUSE, buffers),
        }
    }

    /// Not now: it is due then, and taken up as soon as there is room.
    pub(super) fn put_back(&mut self, id: TransactionId, due: Instant, buffers: &mut impl Buffers) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.leave_active(&transaction);
        if let (Some(entry), Some(spool)) = (transaction.entry, &mut self.keeping.spool) {
            spool.release(entry, due);
        }
        self.dispose(transaction, buffers);
    }
}

/// What was read back into one list of extents: the head, and then the body.
fn split_head(message: &mut Message, head_len: usize, buffers: &mut impl Buffers) {
    let mut left = head_len;
    message.head.clear();
    let Message { head, body, .. } = message;
    body.retain_mut(|extent| {
        let part = left.min(extent.len as usize);
        head.extend_from_slice(buffers.bytes(extent.slice(0..part)));
        left -= part;
        *extent = extent.slice(part..extent.len as usize);
        if extent.len == 0 {
            buffers.release(extent.buffer);
        }
        extent.len > 0
    });
}
