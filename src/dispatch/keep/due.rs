//! Kept messages whose time has come: read back and sent again, as many at a time as links and memory have room for.

use super::super::Dispatch;
use super::super::message::{TransactionId, unshared};
use super::super::owner::Way;
use super::super::router::Origin;
use super::{Stage, lane_of};
use crate::handle::{Buffers, Extent, ListenerId};
use crate::limits::{
    BUFFERS_RESERVED, DUE_PER_PASS, KEPT_ACTIVE_MAX, KEPT_ACTIVE_MIN, POSTPONED_MAX, WAITING_TICK,
};
use crate::spool::EntryId;
use crate::time::Instant;

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

    pub(super) fn has_room_for_fresh(&mut self, buffers: &impl Buffers) -> bool {
        // Itself is counted already.
        self.has_room(self.keeping.fresh - 1) && self.has_memory(buffers) && !self.draining
    }

    /// When something is due that can be taken up.
    pub(super) fn next_due(&self) -> Instant {
        match &self.keeping.spool {
            Some(spool) if !self.draining && self.has_room(self.keeping.again) => {
                spool.next_due_at().max(self.keeping.look_at)
            }
            _ => Instant::NEVER,
        }
    }

    /// Takes up what is due, as far as there is room.
    pub(in super::super) fn take_up_due(&mut self, now: Instant, buffers: &mut impl Buffers) {
        for _ in 0..DUE_PER_PASS {
            if self.next_due() > now {
                return;
            }
            if !self.has_memory(buffers) {
                break;
            }
            let Some(entry) = self.keeping.spool.as_mut().and_then(|spool| spool.next_due(now)) else {
                return;
            };
            if self.is_hopeless(entry, now) {
                self.postpone(entry, now);
            } else if !self.load(entry, now, buffers) {
                break;
            }
        }
        self.keeping.look_at = now + WAITING_TICK;
    }

    /// Whether the pool that is to take it has no upstream that could, nor has a fallback.
    fn is_hopeless(&self, entry: EntryId, now: Instant) -> bool {
        let Some(spool) = &self.keeping.spool else { return false };
        let lane = spool.lane(entry);
        let pool =
            (0..self.options.pools.len()).find(|pool| lane_of(&self.options.pools, *pool as u16) == lane);
        !spool.is_expired(entry, now) && pool.is_some_and(|pool| !self.may_deliver(pool, now))
    }

    fn may_deliver(&self, pool: usize, now: Instant) -> bool {
        self.pools[pool].fleet.has_healthy(now) || self.better_pool(pool, now).is_some()
    }

    /// Not an attempt: nothing was tried.
    fn postpone(&mut self, entry: EntryId, now: Instant) {
        let random = self.random();
        if let Some(spool) = &mut self.keeping.spool {
            let spread = POSTPONED_MAX / 4;
            let at = now + POSTPONED_MAX - spread + spread.mul_f64(random as f64 / u64::MAX as f64);
            spool.release(entry, at, now);
        }
    }

    /// Asks for its body. False if there is no memory for it now.
    fn load(&mut self, entry: EntryId, now: Instant, buffers: &mut impl Buffers) -> bool {
        let Some(spool) = &mut self.keeping.spool else { return false };
        let mut shared = self.spares.take();
        let message = unshared(&mut shared);
        let facts = spool.recall(entry, &mut message.envelope);
        let mut left = facts.head_len + facts.body_len;
        while left > 0 {
            let room = buffers.free() > BUFFERS_RESERVED;
            let Some(extent) = room.then(|| buffers.take()).flatten() else {
                message.release_body(buffers);
                spool.release(entry, now, now);
                self.spares.put(shared);
                return false;
            };
            let part = extent.slice(0..(extent.len as usize).min(left as usize));
            left -= u64::from(part.len);
            message.body.push(part);
        }
        message.id = facts.id;
        message.size = facts.body_len;
        message.shape = facts.shape;
        message.internal = facts.internal;
        message.source = facts.source_key;
        message.origin = facts.source;
        let name = facts.listener;
        let listener = self.options.listeners.iter().position(|listener| listener.name == name);
        message.listener = listener.map(|place| ListenerId(place as u16));
        let body: Vec<Extent> = message.body.clone();
        let id = self.new_transaction(shared, None, now, now);
        let transaction = &mut self.transactions[id.slot as usize];
        transaction.entry = Some(entry);
        transaction.stage = Stage::Loading;
        transaction.is_again = true;
        self.keeping.again += 1;
        if let Some(spool) = &mut self.keeping.spool {
            spool.load(entry, u64::from(id.slot) << 32 | u64::from(id.generation), &body);
        }
        true
    }

    /// Its head and body lie in the buffers given for them.
    pub(super) fn loaded(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let Some(transaction) = self.transactions.get_mut(id.slot as usize) else { return };
        transaction.stage = Stage::Sending;
        let (Some(entry), Some(spool)) = (transaction.entry, &self.keeping.spool) else { return };
        let message = unshared(&mut transaction.message);
        let mut head_left = spool.head_len(entry) as usize;
        message.head.clear();
        message.body.retain_mut(|extent| {
            let part = head_left.min(extent.len as usize);
            message.head.extend_from_slice(buffers.bytes(extent.slice(0..part)));
            head_left -= part;
            *extent = extent.slice(part..extent.len as usize);
            if extent.len == 0 {
                buffers.release(extent.buffer);
            }
            extent.len > 0
        });
        let listener =
            message.listener.map(|listener| &*self.options.listeners[usize::from(listener.0)].name);
        let origin = Origin { listener, source: message.origin };
        self.router.assign(message, &self.options.routes, origin, buffers);
        for (recipient, way) in (0u16..).zip(&mut message.ways) {
            if !spool.is_left(entry, recipient) {
                *way = Way::NOWHERE;
            }
        }
        if spool.is_expired(entry, now) {
            self.expire(id, now, buffers);
        } else if self.draining {
            self.put_back(id, now, buffers);
        } else {
            self.send_groups(id, now);
        }
    }

    /// It cannot be read, or is not what was written: the spool has set it aside.
    pub(super) fn damaged(&mut self, id: TransactionId, buffers: &mut impl Buffers) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.leave_active(&transaction);
        self.stats.spool.damaged.add(1);
        self.dispose(transaction, buffers);
    }

    /// Not now: it is due as soon as there is room.
    pub(super) fn put_back(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.leave_active(&transaction);
        if let (Some(entry), Some(spool)) = (transaction.entry, &mut self.keeping.spool) {
            spool.release(entry, now, now);
        }
        self.dispose(transaction, buffers);
    }
}
