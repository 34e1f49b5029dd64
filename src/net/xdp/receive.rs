//! Frames in: to their streams, and to the shard's buffers.

use std::collections::VecDeque;
use std::time::Duration;

use super::frame::{self, Head, Packet};
use super::paths::Found;
use super::stream::Phase;
use super::tcp::reset_for;
use super::{Core, of_interface};
use crate::handle::{Buffers, Extent, ShardId, StreamId};
use crate::net::{Cause, Event, Net};
use crate::sys::arena::BUFFER_BYTES;
use crate::sys::pool::Pool;
use crate::time::Instant;

/// Resets owed at a time; strangers beyond get none.
const ANSWERS_MAX: usize = 64;
/// While answers go astray the interface is asked that seldom.
const DOUBT_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Takes a stream's bytes into the shard's buffers; how many. What is full becomes an event.
fn take(
    bytes: &[u8],
    stream: StreamId,
    receipt: &mut Option<Extent>,
    pool: &mut Pool,
    events: &mut VecDeque<Event>,
) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        let buffer = match *receipt {
            Some(extent) if ((extent.start + extent.len) as usize) < BUFFER_BYTES => extent.buffer,
            Some(extent) => {
                events.push_back(Event::Received { stream: of_interface(stream), extent });
                *receipt = None;
                continue;
            }
            None => match pool.alloc() {
                Some(buffer) => buffer,
                None => return done,
            },
        };
        let used = receipt.map_or(0, |extent| (extent.start + extent.len) as usize);
        let len = (bytes.len() - done).min(BUFFER_BYTES - used);
        let Some(piece) = pool.fill(buffer, &bytes[done..done + len]) else {
            debug_assert!(false, "there is room");
            return done;
        };
        *receipt = Some(receipt.map_or(piece, |extent| Extent { len: extent.len + piece.len, ..extent }));
        done += len;
    }
    done
}

impl Core {
    /// A frame has come by one of our queues, or from another shard; so many have looked for whose it is.
    pub(super) fn handle_frame(&mut self, bytes: &[u8], tried: u16, now: Instant) {
        let Some(packet) = frame::parse(bytes, self.shared.is_virtual) else {
            self.counts.strangers += 1;
            return;
        };
        match self.shared.division.owner(packet.to.port()) {
            Some(owner) if owner == self.shard => self.handle_packet(&packet, now),
            Some(owner) => {
                self.hand_over(owner, bytes, tried);
            }
            None if self.handle_client(&packet, now) => {}
            // A session's segments may come by any queue.
            None if self.is_spread_unknown() && tried + 1 < self.handover.shards() => {
                self.hand_over(ShardId((self.shard.0 + 1) % self.handover.shards()), bytes, tried + 1);
            }
            None => self.refuse(&packet),
        }
    }

    /// We do not know how the interface spreads what it receives, or it has done so otherwise.
    fn is_spread_unknown(&self) -> bool {
        self.rss.is_none() || self.rss != self.shared.rss
    }

    fn hand_over(&mut self, to: ShardId, bytes: &[u8], tried: u16) {
        self.counts.handed_over += 1;
        if self.handover.give(to, bytes, tried) {
            self.uring.wake(to);
        }
    }

    fn handle_packet(&mut self, packet: &Packet<'_>, now: Instant) {
        match self.stream_between(packet.to, packet.from) {
            Some(slot) => self.deliver(slot, packet, now),
            None => self.refuse(packet),
        }
    }

    /// Answers with a reset.
    pub(super) fn refuse(&mut self, packet: &Packet<'_>) {
        self.counts.strangers += 1;
        if self.answers.len() < ANSWERS_MAX
            && let Some(reset) = reset_for(&packet.segment)
        {
            self.answers.push((Head::new(packet.to, packet.from), packet.from_mac, reset));
        }
    }

    pub(super) fn deliver(&mut self, slot: u32, packet: &Packet<'_>, now: Instant) {
        self.counts.received += 1;
        let id = self.streams.id(slot);
        let Core { streams, uring, events, held, held_max, .. } = self;
        let one = streams.at(slot);
        let before = one.connection.held();
        one.connection.hold_at_most(before + held_max.saturating_sub(*held));
        let may_take = one.phase == Phase::Owned && !one.paused && !one.starved;
        let receipt = &mut one.receipt;
        let mut taker = |bytes: &[u8]| match may_take {
            true => take(bytes, id, receipt, uring.pool(), events),
            false => 0,
        };
        let was_open = one.connection.is_open();
        one.connection.handle_segment(&packet.segment, now, &mut taker);
        *held = *held + one.connection.held() - before;
        let is_answer = !was_open && one.connection.is_open();
        if is_answer && one.answers_by.is_some() && one.answers_by != self.arrived_by {
            self.handle_astray(now);
        }
        self.touch(slot);
    }

    /// The first answer to a stream came by another queue than planned: the interface may have been set otherwise.
    fn handle_astray(&mut self, now: Instant) {
        self.counts.astray += 1;
        if self.counts.astray == 1 || self.doubted + DOUBT_AGAIN_AFTER <= now {
            self.doubted = now;
            self.ask_spread();
        }
    }

    /// Asks the interface how it spreads what it receives. One that does not say is thought to do as before.
    fn ask_spread(&mut self) {
        if let Some(rss) = self.shared.spread_now() {
            self.rss = rss;
        }
    }

    /// What was waiting for its owner or for buffers is taken.
    pub(super) fn take_waiting(&mut self, slot: u32) {
        let id = self.streams.id(slot);
        let Core { streams, uring, events, held, .. } = self;
        let one = streams.at(slot);
        if one.phase != Phase::Owned || one.paused || !one.connection.has_waiting() {
            return;
        }
        let (receipt, before) = (&mut one.receipt, one.connection.held());
        one.connection.take_waiting(&mut |bytes| take(bytes, id, receipt, uring.pool(), events));
        *held = *held + one.connection.held() - before;
        self.touch(slot);
    }

    /// Streams that waited for buffers take what they can.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len() {
            if self.uring.free() == 0 {
                return;
            }
            let Some(slot) = self.starved.pop_front() else { return };
            if std::mem::take(&mut self.streams.at(slot).starved) {
                self.take_waiting(slot);
            }
        }
    }

    /// What came of all that arrived: events, and what is to leave in answer.
    pub(super) fn settle_touched(&mut self) {
        while let Some(slot) = self.touched.pop() {
            self.streams.at(slot).touched = false;
            self.settle(slot);
        }
    }

    fn settle(&mut self, slot: u32) {
        let stream = of_interface(self.streams.id(slot));
        let one = self.streams.at(slot);
        let news = one.connection.take_news();
        if let (Some(narrow), Some(head)) = (news.guessed, one.head) {
            self.paths.remember_narrow(head.remote().ip(), narrow);
        }
        let one = self.streams.at(slot);
        if one.phase == Phase::Owned {
            if news.opened {
                self.events.push_back(match (one.listener, one.head) {
                    (Some(listener), Some(head)) => Event::Accepted { listener, stream, peer: head.remote() },
                    _ => Event::Opened { stream },
                });
            }
            // A reply acknowledges what it answers, so that has been sent before it comes.
            let acknowledged = one.connection.acknowledged();
            self.tell_sent(slot, acknowledged);
            let one = self.streams.at(slot);
            if let Some(extent) = one.receipt.take() {
                self.events.push_back(Event::Received { stream, extent });
            }
            if one.connection.has_waiting() && !one.paused && !std::mem::replace(&mut one.starved, true) {
                self.starved.push_back(slot);
            }
            if let Some(cause) = news.over {
                return self.end(slot, cause);
            }
        }
        self.conclude(slot);
        // Acknowledgements may be due, or more may leave.
        self.mark(slot);
    }

    /// Says `Sent` of what has arrived, and ends what is to end then.
    pub(super) fn conclude(&mut self, slot: u32) {
        let one = self.streams.at(slot);
        if one.phase != Phase::Owned {
            return;
        }
        if one.connection.peer_has_finished() && !one.paused {
            // Not at once: what is written in answer to this turn's events still leaves.
            one.ending.get_or_insert(Cause::Peer);
        }
        let acknowledged = one.connection.acknowledged();
        self.tell_sent(slot, acknowledged);
    }

    /// Says `Sent` of the marks at `place` and before.
    pub(super) fn tell_sent(&mut self, slot: u32, place: u64) {
        let stream = of_interface(self.streams.id(slot));
        while let Some((marks, left_at)) = self.streams.at(slot).pass_marks(place) {
            self.events.push_back(Event::Sent { stream, marks, left_at });
        }
    }

    /// What the kernel's tables say now.
    pub(super) fn follow_news(&mut self) {
        let mut found = std::mem::take(&mut self.found);
        if self.paths.follow(&mut found) {
            self.ask_spread();
        }
        if self.paths.take_moved() {
            // What cannot be listened at stays the kernel's.
            let _ = self.settle_inlets();
        }
        for found in found.drain(..) {
            let hop = match found {
                Found::Here(hop) | Found::Nowhere(hop) => hop,
            };
            for slot in self.streams.slots() {
                if self.streams.get(slot).hop != Some(hop) {
                    continue;
                }
                let connection = &mut self.streams.at(slot).connection;
                match found {
                    Found::Here(_) => connection.send_again_now(),
                    Found::Nowhere(_) => connection.handle_unreachable(),
                }
                self.touch(slot);
            }
        }
        self.found = found;
    }
}
