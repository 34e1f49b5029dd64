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
        Event::Sent { stream, marks } => Event::Sent { stream: of_ring(stream), marks },
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
        let limit = events.len() + events_max;
        self.core.streams.next_turn();
        self.core.feed_starved();
        let before = clock::now();
        self.core.settle_touched();
        self.transmit(before);
        self.core.report(limit, events);
        let core = &mut self.core;
        let has_more = !core.events.is_empty()
            || !core.dirty.is_empty() && !core.is_congested
            || events.len() + events_max > limit
            || self.sockets.iter().any(|queue| queue.socket.has_received());
        let wait_until = if has_more {
            Instant::default()
        } else {
            let retry = if core.is_congested { before + RETRY } else { Instant::NEVER };
            until.min(core.deadlines.next()).min(retry)
        };
        let mut from_ring = std::mem::take(&mut core.from_ring);
        let now = core.uring.turn(wait_until, limit - events.len(), &mut from_ring);
        events.extend(from_ring.drain(..).map(renamed));
        core.from_ring = from_ring;
        self.receive(now, limit.saturating_sub(events.len()));
        self.core.report(limit, events);
        now
    }

    /// Takes in what has arrived, and what time has brought.
    fn receive(&mut self, now: Instant, room: usize) {
        let Xdp { sockets, core } = self;
        for queue in sockets {
            // A frame brings an event or two; those that there is no room for wait in their ring.
            let max = FRAMES_PER_TURN.min(room.saturating_sub(core.events.len()));
            queue.socket.receive(max, |frame| {
                core.handle_frame(frame, now);
                true
            });
        }
        while let Some(frame) = core.handover.take() {
            core.handle_frame(&frame, now);
        }
        if core.uring.take_readable(core.news) {
            core.follow_news();
        }
        while let Some(slot) = core.deadlines.pop_expired(now) {
            core.streams.at(slot as u32).connection.handle_deadline(now);
            core.touch(slot as u32);
        }
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
                self.remove_if_over(slot);
            }
            events.push(event);
        }
    }
}
