//! A turn: frames out, wait, frames in.

use std::time::Duration;

use super::{Core, Xdp, of_ring};
use crate::handle::StreamId;
use crate::net::{Event, Net};
use crate::sys::clock;
use crate::time::Instant;

/// When frames could not all leave, it is tried again after this.
const RETRY: Duration = Duration::from_micros(200);
/// Frames looked at in a turn and queue.
const FRAMES_PER_TURN: usize = 512;

/// A stream of the ring goes by another name outside.
fn renamed(event: Event) -> Event {
    match event {
        Event::Accepted { listener, stream, peer } => {
            Event::Accepted { listener, stream: of_ring(stream), peer }
        }
        Event::Opened { stream } => Event::Opened { stream: of_ring(stream) },
        Event::Received { stream, extent } => Event::Received { stream: of_ring(stream), extent },
        Event::Sent { stream, marks, left_at } => Event::Sent { stream: of_ring(stream), marks, left_at },
        Event::Closed { stream, cause } => Event::Closed { stream: of_ring(stream), cause },
        Event::Disk { .. } => event,
    }
}

impl Xdp {
    pub(super) fn take_turn(
        &mut self,
        until: Instant,
        events_max: usize,
        events: &mut Vec<Event>,
    ) -> Instant {
        let (begun, limit) = (events.len(), events.len() + events_max);
        self.core.streams.next_turn();
        self.core.feed_starved();
        loop {
            self.core.settle_touched();
            self.transmit(clock::now());
            self.core.report(limit, events);
            let wait_until = if events.len() > begun { Instant::default() } else { self.wait_until(until) };
            let core = &mut self.core;
            if wait_until > Instant::default() {
                core.uring.watch(core.news);
                core.errors.iter().for_each(|&(_, place)| core.uring.watch(place));
                core.watched.iter().for_each(|&place| core.uring.watch(place));
            }
            let mut from_ring = std::mem::take(&mut core.from_ring);
            let now = core.uring.turn(wait_until, limit - events.len(), &mut from_ring);
            events.extend(from_ring.drain(..).map(renamed));
            core.from_ring = from_ring;
            let was_woken = core.uring.take_woken();
            self.receive(now, limit - events.len());
            self.core.report(limit, events);
            // Acknowledgements alone are nobody's business but ours.
            if was_woken || events.len() > begun || now >= until || events_max == 0 {
                return now;
            }
        }
    }

    /// How long there is nothing to do if nothing happens.
    fn wait_until(&self, until: Instant) -> Instant {
        let core = &self.core;
        let has_more = !core.events.is_empty()
            || !core.dirty.is_empty() && !core.is_congested
            || self.sockets.iter().any(|queue| queue.socket.has_received());
        if has_more {
            return Instant::default();
        }
        // While the interface is down there is news to wait for.
        let may_retry = core.is_congested && core.paths.is_up();
        let retry = if may_retry { clock::now() + RETRY } else { Instant::NEVER };
        until.min(core.deadlines.next()).min(core.backlog.next_deadline()).min(retry)
    }

    /// Takes in what has arrived, and what time has brought.
    fn receive(&mut self, now: Instant, room: usize) {
        let Xdp { sockets, core } = self;
        for queue in sockets {
            // A frame brings an event or two; those that there is no room for wait in their ring.
            let max = FRAMES_PER_TURN.min(room.saturating_sub(core.events.len()));
            core.arrived_by = Some(queue.number);
            queue.socket.receive(max, |frame| core.handle_frame(frame, 0, now));
        }
        core.arrived_by = None;
        while let Some((frame, tried)) = core.handover.take() {
            core.handle_frame(&frame, tried, now);
        }
        if core.uring.take_readable(core.news) {
            core.follow_news();
        }
        core.hear_errors(now);
        while let Some(slot) = core.deadlines.pop_expired(now) {
            core.streams.at(slot as u32).connection.handle_deadline(now);
            core.touch(slot as u32);
        }
        core.tend_backlog(now);
        core.settle_touched();
    }
}

impl Core {
    pub(super) fn report(&mut self, limit: usize, events: &mut Vec<Event>) {
        while events.len() < limit {
            let Some(event) = self.events.pop_front() else { return };
            if let Event::Closed { stream, .. } = event
                && let Some(slot) = self.streams.report(StreamId { slot: stream.slot / 2, ..stream })
            {
                if self.streams.get(slot).listener.is_some() {
                    self.accepted -= 1;
                    self.add_rest(slot);
                }
                self.remove_if_over(slot);
            }
            events.push(event);
        }
    }
}
