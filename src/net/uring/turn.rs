//! A turn: submit, wait, read completions.

use std::time::Duration;

use super::Uring;
use super::tag::{Op, Tag};
use crate::handle::ShardId;
use crate::net::Event;
use crate::sys::clock;
use crate::sys::ring::{Completion, Wait};
use crate::time::Instant;

/// How long an idle drop waits for the kernel to let go of everything.
const FAREWELL: Duration = Duration::from_secs(2);

impl Uring {
    pub(super) fn take_turn(
        &mut self,
        until: Instant,
        events_max: usize,
        events: &mut Vec<Event>,
    ) -> Instant {
        self.streams.next_turn();
        let before = events.len();
        let limit = before + events_max;
        loop {
            self.prepare();
            self.report_own(limit, events);
            let may_wait = events.len() == before && !self.woken && !self.ring.has_completions();
            let wait = if may_wait { wait_until(until.min(self.retry_at)) } else { Wait::No };
            self.enters += 1;
            let gather = self.pace.gather(std::mem::take(&mut self.sends), self.streams.live() as u32);
            if let Err(error) = self.ring.enter(wait, gather) {
                // Every request is well-formed and the ring is ours: the kernel has no reason to refuse.
                panic!("io_uring_enter: {error}");
            }
            let completions = self.read_completions(limit, events);
            let now = clock::now();
            self.pace.count(completions, now);
            if now >= self.retry_at {
                self.retry_at = Instant::NEVER;
                self.retry_accepting();
            }
            if std::mem::take(&mut self.woken) || events.len() > before || now >= until {
                return now;
            }
        }
    }

    /// Asks for all that the calls since the last turn amount to.
    fn prepare(&mut self) {
        self.refill();
        for at in 0..self.dirty.len() {
            let slot = self.dirty[at];
            self.streams.at(slot).dirty = false;
            self.flush(slot);
        }
        self.dirty.clear();
        while let Some(shard) = self.wakes.pop() {
            // A shard whose ring is not there yet (or any more) looks at its mail when it starts (or never).
            if let Some(ring) = self.rings.get(shard) {
                let theirs = Tag { op: Op::Woken, slot: 0, generation: 0 };
                let ours = Tag { op: Op::Wake, slot: shard.0.into(), generation: 0 };
                self.ring.message(ring, theirs.pack(), ours.pack());
            }
        }
    }

    /// Events that no completion stands for.
    fn report_own(&mut self, limit: usize, events: &mut Vec<Event>) {
        while events.len() < limit {
            let Some(event) = self.events.pop_front() else {
                return;
            };
            if let Event::Closed { stream, .. } = event {
                self.streams.remove(stream.slot);
            }
            events.push(event);
        }
    }

    /// Returns how many it were.
    fn read_completions(&mut self, limit: usize, events: &mut Vec<Event>) -> usize {
        let mut count = 0;
        let mut completions = std::mem::take(&mut self.completions);
        // Each gives at most one event.
        while events.len() < limit {
            completions.clear();
            self.ring.take(limit - events.len(), &mut completions);
            if completions.is_empty() {
                break;
            }
            count += completions.len();
            events.extend(completions.iter().filter_map(|&completion| self.complete(completion)));
        }
        self.completions = completions;
        count
    }

    fn complete(&mut self, completion: Completion) -> Option<Event> {
        let tag = Tag::unpack(completion.tag);
        match tag.op {
            Op::Accept | Op::AcceptOne => return self.on_accept(tag, completion),
            Op::Woken => {
                (self.woken, self.woken_by_shard) = (true, true);
                return None;
            }
            Op::Wake => {
                // Its completions overflow, so it is awake; but it may look at its mail before ours is there.
                if completion.result == -libc::EOVERFLOW {
                    self.wakes.push(ShardId(tag.slot as u16));
                }
                return None;
            }
            Op::Watch => {
                self.woken = true;
                let watched = &mut self.watched[tag.slot as usize];
                (watched.is_readable, watched.is_asked) = (true, false);
                return None;
            }
            Op::Kick => {
                self.kick_failed = true;
                return None;
            }
            Op::Disk => return self.on_disk(tag.slot, completion),
            Op::Ignored => return None,
            Op::PeerName | Op::Connect | Op::Receive | Op::Send | Op::Close => {}
        }
        let slot = tag.slot;
        if self.streams.id(slot).generation != tag.generation {
            debug_assert!(false, "a completion of a stream that is over: {tag:?}");
            return None;
        }
        match tag.op {
            Op::PeerName => self.on_peer_name(slot, completion),
            Op::Connect => self.on_connect(slot, completion),
            Op::Receive => self.on_receive(slot, completion),
            Op::Send => self.on_send(slot, completion),
            _ => self.on_close(slot),
        }
    }
}

fn wait_until(until: Instant) -> Wait {
    if until == Instant::NEVER {
        return Wait::Forever;
    }
    match until.since(clock::now()) {
        Duration::ZERO => Wait::No,
        left => Wait::AtMost(left),
    }
}

impl Drop for Uring {
    /// Ends all streams and waits, for a bounded time, until the kernel uses none of their memory any more.
    fn drop(&mut self) {
        self.rings.withdraw(self.options.shard);
        let listeners: Vec<_> = self.listeners.iter().flatten().map(|listener| listener.id()).collect();
        listeners.into_iter().for_each(|id| self.stop_listening(id));
        let end = clock::now() + FAREWELL;
        let mut events = Vec::new();
        while !self.is_quiet() && clock::now() < end {
            for slot in self.streams.slots() {
                self.begin_close(slot, crate::net::Cause::Local);
            }
            events.clear();
            self.take_turn(clock::now() + Duration::from_millis(10), 1_024, &mut events);
        }
        if !self.is_quiet() {
            // Better to leak what the kernel may still write to than to let others have it.
            std::mem::forget(self.pool.arenas().clone());
            std::mem::forget(std::mem::take(&mut self.names));
            self.files.iter_mut().for_each(|files| files.leak());
            self.streams
                .slots()
                .into_iter()
                .for_each(|slot| std::mem::forget(self.streams.at(slot).flying.take()));
        }
    }
}

impl Uring {
    fn is_quiet(&self) -> bool {
        self.streams.live() == 0 && self.file_operations() == 0 && self.listeners.iter().all(Option::is_none)
    }
}
