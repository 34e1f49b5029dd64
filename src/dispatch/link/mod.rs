//! The upstream side: transactions one after another on a link.
//!
//! A link carries a line of deliveries, in the order of their replies; the first is the *current* one. With DATA there
//! is at most one behind it: as soon as the current one's body is written, the next one's MAIL, RCPT and DATA follow in
//! the same send; its replies come behind the current one's final reply.
//!
//! Where CHUNKING is offered a message goes with its commands in one send, and its replies come as one: MAIL's,
//! each RCPT's, and the message's own. Once it is sent nothing can be taken back. Several are in flight at a time.

mod ending;
mod overdue;
mod parts;
mod replies;

use std::collections::VecDeque;

use super::delivery::{Delivery, DeliveryId};
use super::verdict::{Phase, Trouble, judge};
use super::{Dispatch, Queued, options};
use crate::balance::Heard as Told;
use crate::handle::{Buffers, Extent, LinkId, StreamId};
use crate::limits::{CHUNK_BYTES_IN_FLIGHT_MAX, CHUNK_SILENCE_MAX, CHUNKS_IN_FLIGHT_MAX, LINGER};
use crate::observe::Stage;
use crate::protocol::client::{Client, Event, Lack};
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
    /// What it carries, in the order of the replies.
    line: VecDeque<Ride>,
    /// How many of them have had their commands written.
    begun: usize,
    /// One of them was taken away with its commands written: nothing may follow those that are left.
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
    /// The current one's final reply, come before all of its body had left.
    early: Option<ReplyBuf>,
    /// Why it is being closed, if something is to be held against it.
    trouble: Option<Ended>,
}

/// A delivery on a link.
#[derive(Clone, Copy, Debug)]
struct Ride {
    delivery: DeliveryId,
    /// By BDAT: so many octets went with its commands.
    whole: Option<u64>,
    /// Its message is written and has not left to its end: the extents are still in use.
    leaving: bool,
    /// When its message's end left, or was written; when its turn to be answered came, if that was later.
    sent_at: Instant,
    /// It was written before the one in front of it was answered.
    follows: bool,
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
            line: VecDeque::from([Ride::new(current, now)]),
            begun: 0,
            bereft: false,
            served: 0,
            asked_at: now,
            rested: false,
            since: now,
            heard_at: now,
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
        self.state == State::Ready && self.line.is_empty()
    }

    /// May another transaction be put behind those that it carries?
    fn takes_more(&self, pool: &options::Pool, now: Instant) -> bool {
        let carried = self.served + self.line.len() as u32;
        if self.state != State::Ready || self.bereft || is_spent(carried, pool.transactions_per_link) {
            return false;
        }
        let octets: Option<u64> = self.line.iter().map(|ride| ride.whole).sum();
        let is_in_touch = now.since(self.heard_at) <= CHUNK_SILENCE_MAX;
        match octets {
            Some(octets) if pool.chunking && is_in_touch => {
                self.line.len() < CHUNKS_IN_FLIGHT_MAX && octets < CHUNK_BYTES_IN_FLIGHT_MAX
            }
            _ => self.line.len() < 2,
        }
    }

    /// Its place in the line.
    pub(super) fn place_of(&self, delivery: DeliveryId) -> Option<usize> {
        self.line.iter().position(|ride| ride.delivery == delivery)
    }

    /// Is it the current one, with a body that has not all left? Then none behind it has, either.
    pub(super) fn is_leaving(&self, nth: usize) -> bool {
        nth == 0 && self.line[0].leaving && self.early.is_none()
    }

    /// The current one has been answered to the end.
    fn end_current(&mut self) -> Option<Ride> {
        let current = self.line.pop_front()?;
        self.begun -= 1;
        self.served += 1;
        Some(current)
    }
}

impl Ride {
    fn new(delivery: DeliveryId, now: Instant) -> Ride {
        Ride { delivery, whole: None, leaving: false, sent_at: now, follows: false }
    }

    /// It was answered together with the one before it, which says nothing of how long the upstream takes.
    fn came_along(&self, now: Instant) -> bool {
        self.whole.is_some() && self.follows && self.sent_at == now
    }

    /// All of it is with an upstream that has not answered.
    fn is_in_doubt(&self) -> bool {
        self.whole.is_some() && !self.leaving
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
        if link.early.is_some() {
            // An answer to what is still to be sent is no answer to anything.
            return self.end_link(id, Queued::Abort, now);
        }
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
                let current = link.line.front();
                let delivery = current.and_then(|current| self.deliveries.get(current.delivery.0 as usize));
                if delivery.is_some_and(Delivery::is_midway) {
                    link.early = Some(reply);
                    self.end_link(id, Queued::Abort, now);
                } else if current.is_some_and(|current| current.leaving) {
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
        let takes_binary = link.client.capabilities().takes_binary();
        let links = &mut self.pools[link.pool].links[link.upstream];
        let is_news = links.takes_binary() != takes_binary;
        links.opened(takes_binary);
        if is_news {
            self.tell_listeners(now);
        }
        self.go_on(id, now);
    }

    /// Puts a delivery on a ready link.
    pub(super) fn join(&mut self, id: LinkId, delivery: DeliveryId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        link.line.push_back(Ride::new(delivery, now));
        if link.line.len() == 1 {
            return self.go_on(id, now);
        }
        self.begin_more(id, now);
        self.note_room(id, now);
    }

    /// A ready link has another current delivery, or none.
    fn go_on(&mut self, id: LinkId, now: Instant) {
        self.begin_more(id, now);
        let link = &self.links[id.0 as usize];
        if link.line.is_empty() && link.bereft {
            return self.end_link(id, Queued::Abort, now);
        }
        if link.line.is_empty() {
            let per_link = self.options.pools[link.pool].transactions_per_link;
            return if is_spent(link.served, per_link) {
                self.retire_link(id, now)
            } else {
                self.link_free(id, now)
            };
        }
        self.await_reply(id, now);
        self.note_room(id, now);
    }

    /// Tells the pool whether another delivery may be put on the link.
    fn note_room(&mut self, id: LinkId, now: Instant) {
        let link = &self.links[id.0 as usize];
        let (pool, upstream) = (link.pool, link.upstream);
        let current = link.line.front().and_then(|ride| self.deliveries.get(ride.delivery.0 as usize));
        // While a body still arrives nobody knows when the link will be free for the next.
        let is_flowing = current.is_some_and(|current| current.message.streamed && !current.attempt.dotted);
        let takes_more = !is_flowing && link.takes_more(&self.options.pools[pool], now);
        let is_departing = link.line.iter().all(|ride| ride.whole.is_some())
            && link.line.back().is_some_and(|ride| ride.leaving && ride.sent_at == now);
        let links = &mut self.pools[pool].links[upstream];
        links.not_joinable(id);
        if takes_more {
            links.joinable(id);
            if is_departing {
                links.departing(id, now);
            }
        }
        self.refresh(pool, upstream);
    }

    /// The next reply may take so long; and no delivery is waited for beyond its own deadline.
    fn await_reply(&mut self, id: LinkId, now: Instant) {
        let link = &self.links[id.0 as usize];
        let current = link.line.front().and_then(|current| self.deliveries.get(current.delivery.0 as usize));
        let latest = current.map_or(Instant::NEVER, |delivery| delivery.deadline);
        let deadline = (now + self.options.pools[link.pool].reply_timeout).min(latest);
        self.link_deadlines.set(id.0 as usize, deadline);
    }

    /// Starts those on the link that may follow what has been written.
    fn begin_more(&mut self, id: LinkId, now: Instant) {
        loop {
            let link = &mut self.links[id.0 as usize];
            let is_open = link.state == State::Ready && link.client.can_begin();
            if !is_open || link.begun == link.line.len() {
                return;
            }
            let nth = link.begun;
            if nth > 0 && self.is_in_parts_by_chunk(id, nth) {
                return;
            }
            if self.begin(id, nth, now) {
                self.links[id.0 as usize].begun += 1;
            }
        }
    }

    /// Would the next one's commands, or a streamed chunk that they would stand in, be in the way of each other?
    fn is_in_parts_by_chunk(&self, id: LinkId, nth: usize) -> bool {
        let line = &self.links[id.0 as usize].line;
        let is = |ride: &Ride| {
            let delivery = &self.deliveries[ride.delivery.0 as usize];
            delivery.message.streamed && delivery.message.is_binary() && !delivery.attempt.dotted
        };
        is(&line[0]) || is(&line[nth])
    }

    /// Writes the `nth` delivery's commands. False if the upstream cannot carry it: it has gone elsewhere.
    fn begin(&mut self, id: LinkId, nth: usize, now: Instant) -> bool {
        let link = &mut self.links[id.0 as usize];
        let delivery_id = link.line[nth].delivery;
        let delivery = &mut self.deliveries[delivery_id.0 as usize];
        let message = &delivery.message;
        let terms = message.terms(now);
        let (pool, uses_chunks) = (link.pool, self.options.pools[link.pool].chunking);
        let is_binary = message.is_binary();
        let lack = (is_binary && !uses_chunks).then_some(Lack::Binary);
        if let Some(lack) = lack.or_else(|| link.client.lacks(&message.envelope, terms)) {
            link.line.remove(nth);
            let fault = judge(Trouble::Cannot(lack), Phase::Envelope { heard: false }, false);
            self.failed(pool, delivery_id, fault, now);
            return false;
        }
        delivery.attempt.begun_at = now;
        let from = self.out.len();
        let chunked = is_binary || uses_chunks && link.takes_whole(delivery, now);
        delivery.attempt.chunked = chunked;
        link.line[nth].whole = chunked.then_some(terms.size);
        let recipients = &delivery.recipients;
        if chunked {
            link.client.begin_chunked(&message.envelope, recipients, terms, &mut self.out);
        } else {
            link.client.begin(&message.envelope, recipients, terms, &mut self.out);
        }
        let Some(stream) = link.stream else { return true };
        self.write_since(from, stream);
        if chunked && self.deliveries[delivery_id.0 as usize].message.streamed {
            self.leg_goes_ahead(id, delivery_id, now);
        } else if chunked {
            self.write_message(id, nth, Form::Plain, now);
        }
        true
    }

    /// So many more messages had left to their ends at `left_at`: from then on the upstream is being waited for.
    pub(super) fn link_sent(&mut self, id: LinkId, marks: u32, left_at: Instant, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        for ride in link.line.iter_mut().filter(|ride| ride.leaving).take(marks as usize) {
            ride.leaving = false;
            ride.sent_at = ride.sent_at.max(left_at);
        }
        if link.line.front().is_none_or(|current| current.leaving) {
            return;
        }
        if let Some(current) = link.line.front().map(|current| current.delivery) {
            self.leg_part_left(current);
        }
        let link = &mut self.links[id.0 as usize];
        if link.state == State::Ready
            && let Some(reply) = link.early.take()
        {
            self.heard_final(id, reply, now);
        }
    }

    /// The current delivery is over: the next one's turn, or nobody's.
    fn next_turn(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        if link.begun > 0
            && let Some(current) = link.line.front_mut()
        {
            // Its replies were queued behind the last one's: from here on they are its own time.
            current.sent_at = now;
            current.follows = true;
            self.deliveries[current.delivery.0 as usize].attempt.begun_at = now;
        }
        self.go_on(id, now);
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
        let delivery = self.deliveries.get_mut(link.line.front()?.delivery.0 as usize)?;
        Some((link, delivery))
    }
}

/// Has the link carried all the transactions it may?
fn is_spent(served: u32, per_link: u32) -> bool {
    per_link != 0 && served >= per_link
}
