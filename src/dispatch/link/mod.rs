//! The upstream side: transactions one after another on a link.
//!
//! A link carries a *current* delivery and at most one *next*. As soon as the current one's body is written, the
//! next one's MAIL, RCPT and DATA follow in the same send; its replies come behind the current one's final reply.
//!
//! Where CHUNKING is offered a message goes with its commands in one send, and its replies come as one: MAIL's,
//! each RCPT's, and the message's own. Once it is sent nothing can be taken back.

mod ending;
mod overdue;
mod parts;
mod replies;

use super::delivery::{Delivery, DeliveryId};
use super::verdict::{Phase, Trouble, judge};
use super::{Dispatch, Queued};
use crate::balance::Heard as Told;
use crate::handle::{Buffers, Extent, LinkId, StreamId};
use crate::limits::{CHUNK_SILENCE_MAX, LINGER};
use crate::observe::Stage;
use crate::protocol::client::{Client, Event};
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;

/// An upstream dialogue.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Option<StreamId>,
    pool: usize,
    upstream: usize,
    client: Client,
    /// It has been through greeting and hello.
    welcomed: bool,
    state: State,
    pub(super) current: Option<DeliveryId>,
    pub(super) next: Option<DeliveryId>,
    /// The next one's commands have been written.
    next_begun: bool,
    /// The next one's commands were written and it was taken away: nothing may follow the current one.
    bereft: bool,
    /// Transactions ended on it.
    served: u32,
    /// When it was asked for.
    asked_at: Instant,
    /// It has been idle.
    rested: bool,
    since: Instant,
    /// When the upstream last said something.
    heard_at: Instant,
    /// When the current one's final dot left.
    dot_at: Instant,
    /// Extents of the current body may still be in use.
    body_leaving: bool,
    /// The current one's final reply, come before all of its body had left.
    early: Option<ReplyBuf>,
    /// Why it is being closed, if something is to be held against it.
    trouble: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The stream is being opened.
    Opening,
    /// Greeting and hello.
    Greeting,
    Ready,
    /// Waiting for the stream's end.
    Closing,
}

/// Why we closed it.
#[derive(Debug)]
enum Ended {
    TimedOut,
    /// See [`Trouble::Overdue`].
    Overdue {
        all: bool,
    },
    Unwelcome(ReplyBuf),
}

/// A protocol event, free of the input it was read from.
enum Heard {
    Ready,
    Mail(ReplyBuf),
    Recipient(u16, ReplyBuf),
    Data(ReplyBuf),
    Final(ReplyBuf),
    Unwelcome(ReplyBuf),
    Broken,
}

impl Link {
    pub(super) fn opening(pool: usize, upstream: usize, current: DeliveryId, now: Instant) -> Link {
        Link {
            stream: None,
            pool,
            upstream,
            client: Client::new(),
            welcomed: false,
            state: State::Opening,
            current: Some(current),
            next: None,
            next_begun: false,
            bereft: false,
            served: 0,
            asked_at: now,
            rested: false,
            since: now,
            heard_at: now,
            dot_at: now,
            body_leaving: false,
            early: None,
            trouble: None,
        }
    }

    /// May the delivery go all at once, by BDAT?
    fn takes_whole(&self, delivery: &Delivery, now: Instant) -> bool {
        self.client.capabilities().takes_chunks()
            && now.since(self.heard_at) <= CHUNK_SILENCE_MAX
            && delivery.may_go_whole()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Ready && self.current.is_none()
    }
}

impl Dispatch {
    pub(super) fn link_opened(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        if link.state != State::Opening {
            return;
        }
        link.state = State::Greeting;
        let stats = &self.stats.pools[link.pool][link.upstream];
        stats.stage(Stage::Connect).record(now.nanos_since(link.since));
        // The time for opening goes on: it is until the link is ready, greeting and hello included.
        link.since = now;
    }

    pub(super) fn link_received(
        &mut self,
        id: LinkId,
        extent: Extent,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let len = extent.len as usize;
        let mut at = 0;
        while at < len {
            let from = self.out.len();
            let Some(link) = self.links.get_mut(id.0 as usize) else {
                break;
            };
            link.heard_at = now;
            if link.state == State::Closing {
                break;
            }
            let input = buffers.bytes(extent.slice(at..len));
            let (used, event) = link.client.receive(input, &self.options.hostname, &mut self.out);
            debug_assert!(used > 0, "the protocol takes something of any input");
            at += used;
            let heard = event.map(|event| match event {
                Event::Ready => Heard::Ready,
                Event::Mail(reply) => Heard::Mail(reply.to_buf()),
                Event::Recipient(i, reply) => Heard::Recipient(i, reply.to_buf()),
                Event::Data(reply) => Heard::Data(reply.to_buf()),
                Event::Final(reply) => Heard::Final(reply.to_buf()),
                Event::Refused(reply) | Event::Closing(reply) => Heard::Unwelcome(reply.to_buf()),
                Event::Broken(_) => Heard::Broken,
            });
            if let Some(stream) = link.stream {
                self.write_since(from, stream);
            }
            if let Some(heard) = heard {
                self.link_heard(id, heard, now);
            }
        }
        buffers.release(extent.buffer);
    }

    fn link_heard(&mut self, id: LinkId, heard: Heard, now: Instant) {
        self.await_reply(id, now);
        let link = &mut self.links[id.0 as usize];
        match heard {
            Heard::Ready => self.link_ready(id, now),
            Heard::Unwelcome(reply) => {
                link.trouble = Some(Ended::Unwelcome(reply));
                self.end_link(id, Queued::Close, now);
            }
            Heard::Broken => self.end_link(id, Queued::Abort, now),
            Heard::Mail(reply) => self.heard_mail(id, &reply, now),
            Heard::Recipient(i, reply) => self.heard_recipient(id, i, &reply, now),
            Heard::Data(reply) => self.heard_data(id, &reply, now),
            Heard::Final(reply) => {
                let current = link.current.and_then(|current| self.deliveries.get(current.0 as usize));
                if current.is_some_and(Delivery::is_midway) {
                    link.early = Some(reply);
                    self.end_link(id, Queued::Abort, now);
                } else if link.body_leaving {
                    // It need not take the rest; then the link is of no more use.
                    self.link_deadlines.set(id.0 as usize, now + LINGER);
                    link.early = Some(reply);
                } else {
                    self.heard_final(id, reply, now);
                }
            }
        }
    }

    fn link_ready(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        link.state = State::Ready;
        link.welcomed = true;
        let stats = &self.stats.pools[link.pool][link.upstream];
        stats.stage(Stage::Ehlo).record(now.nanos_since(link.since));
        stats.opened.add(1);
        let nanos = now.nanos_since(link.asked_at);
        self.pools[link.pool].fleet.heard(link.upstream, Told::Connected, nanos, now);
        self.pools[link.pool].links[link.upstream].opened();
        if link.current.is_some() {
            self.begin_on(id, now);
        } else {
            self.link_free(id, now);
        }
    }

    /// Starts the current delivery on a ready link.
    pub(super) fn begin_on(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let Some(current) = link.current else { return };
        let (pool, upstream) = (link.pool, link.upstream);
        let joinable = !self.deliveries[current.0 as usize].message.streamed;
        if joinable && !is_spent(link.served + 1, self.options.pools[pool].transactions_per_link) {
            self.pools[pool].links[upstream].joinable(id);
        }
        self.await_reply(id, now);
        self.refresh(pool, upstream);
        if !self.begin(id, current, now) {
            self.next_turn(id, now);
        }
    }

    /// The next reply may take so long; and no delivery is waited for beyond its own deadline.
    fn await_reply(&mut self, id: LinkId, now: Instant) {
        let link = &self.links[id.0 as usize];
        let current = link.current.and_then(|current| self.deliveries.get(current.0 as usize));
        let latest = current.map_or(Instant::NEVER, |delivery| delivery.deadline);
        let deadline = (now + self.options.pools[link.pool].reply_timeout).min(latest);
        self.link_deadlines.set(id.0 as usize, deadline);
    }

    /// Starts the next delivery's commands if the current one's body has been written.
    pub(super) fn begin_next(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let Some(next) = link.next else { return };
        if link.state != State::Ready || link.next_begun || !link.client.can_begin() {
            return;
        }
        let delivery = &self.deliveries[next.0 as usize];
        if self.options.pools[link.pool].chunking && link.takes_whole(delivery, now) {
            // In its own turn, then: one send too, and nothing of it before the current one's end is known.
            return;
        }
        link.next_begun = true;
        if !self.begin(id, next, now) {
            let link = &mut self.links[id.0 as usize];
            link.next = None;
            link.next_begun = false;
            self.pools[link.pool].links[link.upstream].joinable(id);
            self.refresh_of(id);
        }
    }

    /// Writes a delivery's commands. False if the upstream cannot carry it: it has gone elsewhere.
    fn begin(&mut self, id: LinkId, delivery_id: DeliveryId, now: Instant) -> bool {
        let link = &mut self.links[id.0 as usize];
        let delivery = &mut self.deliveries[delivery_id.0 as usize];
        let message = &delivery.message;
        let size = message.declared_size();
        if let Some(lack) = link.client.lacks(&message.envelope, size) {
            let pool = link.pool;
            let fault = judge(Trouble::Cannot(lack), Phase::Envelope { heard: false }, false);
            self.failed(pool, delivery_id, fault, now);
            return false;
        }
        delivery.attempt.begun_at = now;
        let from = self.out.len();
        let chunked = self.options.pools[link.pool].chunking && link.takes_whole(delivery, now);
        delivery.attempt.chunked = chunked;
        let recipients = &delivery.recipients;
        if chunked {
            link.client.begin_chunked(&message.envelope, recipients, size, &mut self.out);
        } else {
            link.client.begin(&message.envelope, recipients, size, &mut self.out);
        }
        let Some(stream) = link.stream else { return true };
        self.write_since(from, stream);
        if chunked {
            self.write_message(id, delivery_id, Form::Plain, now);
        }
        true
    }

    /// All of the body has left: from here on the upstream is being waited for.
    pub(super) fn link_sent(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        if !link.body_leaving {
            return;
        }
        link.body_leaving = false;
        link.dot_at = now;
        if let Some(current) = link.current {
            self.leg_part_left(current);
        }
        let link = &mut self.links[id.0 as usize];
        if let Some(reply) = link.early.take()
            && link.state == State::Ready
        {
            self.heard_final(id, reply, now);
        }
    }

    /// The current delivery is over: the next one's turn, or nobody's.
    fn next_turn(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        if link.bereft {
            return self.end_link(id, Queued::Abort, now);
        }
        link.current = link.next.take();
        let begun = std::mem::take(&mut link.next_begun);
        let per_link = self.options.pools[link.pool].transactions_per_link;
        let (spent, spent_next) = (is_spent(link.served, per_link), is_spent(link.served + 1, per_link));
        let (pool, upstream) = (link.pool, link.upstream);
        self.pools[pool].links[upstream].not_joinable(id);
        match link.current {
            None if spent => self.retire_link(id, now),
            None => self.link_free(id, now),
            Some(current) if begun => {
                // Its replies were queued behind the last one's: from here on they are its own time.
                self.deliveries[current.0 as usize].attempt.begun_at = now;
                if !spent_next && !self.deliveries[current.0 as usize].message.streamed {
                    self.pools[pool].links[upstream].joinable(id);
                }
                self.await_reply(id, now);
                self.refresh(pool, upstream);
            }
            Some(_) => self.begin_on(id, now),
        }
    }

    /// A ready link without a delivery.
    fn link_free(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        link.rested = true;
        let (pool, upstream) = (link.pool, link.upstream);
        let is_closed = self.pools[pool].fleet.members()[upstream].health().is_closed();
        let is_over = self.pools[pool].links[upstream].is_over();
        if is_closed || is_over || self.draining && self.deliveries.is_empty() {
            return self.retire_link(id, now);
        }
        self.pools[pool].links[upstream].idle(id);
        self.link_deadlines.set(id.0 as usize, now + self.options.pools[pool].idle_timeout);
        self.refresh(pool, upstream);
    }

    fn current_of(&mut self, id: LinkId) -> Option<(&mut Link, &mut Delivery)> {
        let link = self.links.get_mut(id.0 as usize)?;
        let delivery = self.deliveries.get_mut(link.current?.0 as usize)?;
        Some((link, delivery))
    }

    fn refresh_of(&mut self, id: LinkId) {
        let link = &self.links[id.0 as usize];
        let (pool, upstream) = (link.pool, link.upstream);
        self.refresh(pool, upstream);
    }
}

/// Has the link carried all the transactions it may?
fn is_spent(served: u32, per_link: u32) -> bool {
    per_link != 0 && served >= per_link
}
