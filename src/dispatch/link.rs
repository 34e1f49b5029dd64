//! The upstream side: transactions one after another on a link.
//!
//! A link carries a *current* delivery and at most one *next*. As soon as the current one's body is written, the
//! next one's MAIL, RCPT and DATA follow in the same send; its replies come behind the current one's final reply.
//!
//! Where CHUNKING is offered a message goes with its commands in one send, and its replies come as one: MAIL's,
//! each RCPT's, and the message's own. Once it is sent nothing can be taken back.

use super::delivery::{Delivery, DeliveryId};
use super::verdict::{Fault, Phase, Trouble, judge};
use super::{Dispatch, Queued};
use crate::balance::Heard as Told;
use crate::handle::{Buffers, Cause, Extent, LinkId, StreamId};
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
                if link.body_leaving {
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
        if !is_spent(link.served + 1, self.options.pools[pool].transactions_per_link) {
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
        let size = message.plain_size();
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

    fn heard_mail(&mut self, id: LinkId, reply: &ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        delivery.attempt.heard = true;
        let waited = now.nanos_since(delivery.attempt.begun_at);
        let reply = reply.as_reply();
        let (pool, upstream) = (link.pool, link.upstream);
        if !reply.is_positive() {
            delivery.attempt.failed =
                Some(judge(Trouble::Said(reply), Phase::Envelope { heard: true }, false));
            if link.client.break_off() {
                self.current_failed(id, now);
            }
        } else {
            delivery.attempt.mail_nanos = waited;
            self.stats.pools[pool][upstream].stage(Stage::Mail).record(waited);
            self.pools[pool].fleet.heard(upstream, Told::Mail, waited, now);
            self.advance(id);
        }
    }

    fn heard_recipient(&mut self, id: LinkId, i: u16, reply: &ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        let attempt = &mut delivery.attempt;
        let reply = reply.as_reply();
        if reply.is_positive() {
            attempt.accepted += 1;
        } else {
            let fault = judge(Trouble::SaidOfRecipient(reply), Phase::Envelope { heard: true }, false);
            attempt.refused.push((delivery.recipients[usize::from(i)], fault));
        }
        let last = usize::from(i) + 1 == delivery.recipients.len();
        let hopeless = delivery.whole && !attempt.refused.is_empty() || last && attempt.accepted == 0;
        if hopeless && link.client.break_off() {
            self.current_failed(id, now);
        } else {
            self.advance(id);
        }
    }

    /// Without PIPELINING: the next command.
    fn advance(&mut self, id: LinkId) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        let Some(delivery) = link.current.and_then(|current| self.deliveries.get(current.0 as usize)) else {
            return;
        };
        link.client.advance(&delivery.message.envelope, &delivery.recipients, &mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
    }

    fn heard_data(&mut self, id: LinkId, reply: &ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        let reply = reply.as_reply();
        let attempt = &mut delivery.attempt;
        let refused = attempt.failed.is_some() || attempt.accepted == 0;
        if !reply.is_intermediate() {
            if attempt.failed.is_none() && !refused {
                attempt.failed = Some(judge(Trouble::Said(reply), Phase::Envelope { heard: true }, false));
            }
            self.current_failed(id, now);
        } else if refused {
            // It waits for a body all the same (RFC 2920 3.1): an empty one, for nobody.
            self.abandon(id);
        } else if delivery.whole && !attempt.refused.is_empty() {
            // Some were refused, and the client will hear that nobody got it: only a closed link makes it so.
            self.end_link(id, Queued::Abort, now);
        } else {
            let waited = now.nanos_since(attempt.begun_at);
            let (pool, upstream) = (link.pool, link.upstream);
            let since_mail = waited.saturating_sub(attempt.mail_nanos);
            self.stats.pools[pool][upstream].stage(Stage::Data).record(waited);
            self.pools[pool].fleet.heard(upstream, Told::Data, since_mail, now);
            self.write_body(id, now);
        }
    }

    fn abandon(&mut self, id: LinkId) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        link.client.abandon(&mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
    }

    fn write_body(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let Some(current) = link.current else { return };
        link.client.body_written();
        self.write_message(id, current, Form::Stuffed, now);
        self.begin_next(id, now);
    }

    /// Writes what goes before the body, and the body.
    fn write_message(&mut self, id: LinkId, delivery_id: DeliveryId, form: Form, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let delivery = &mut self.deliveries[delivery_id.0 as usize];
        let Some(stream) = link.stream else { return };
        delivery.attempt.dotted = true;
        delivery.attempt.body_at = now;
        link.dot_at = now;
        let message = delivery.message.clone();
        link.body_leaving = !message.body.is_empty() || form != message.shape.form;
        let from = self.out.len();
        self.out.extend_from_slice(&message.head);
        let leaving = link.body_leaving;
        self.write_since(from, stream);
        if leaving {
            self.commands.push_back(Queued::WriteBody { stream, message, form });
        }
    }

    /// All of the body has left: from here on the upstream is being waited for.
    pub(super) fn link_sent(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        if !link.body_leaving {
            return;
        }
        link.body_leaving = false;
        link.dot_at = now;
        if let Some(reply) = link.early.take()
            && link.state == State::Ready
        {
            self.heard_final(id, reply, now);
        }
    }

    fn heard_final(&mut self, id: LinkId, reply: ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        if delivery.attempt.failed.is_some() || delivery.attempt.accepted == 0 {
            self.current_failed(id, now);
        } else if reply.as_reply().is_positive() {
            let (pool, upstream) = (link.pool, link.upstream);
            let waited = now.nanos_since(link.dot_at);
            let current = link.current.take();
            link.served += 1;
            let bytes = delivery.message.plain_size();
            let nanos = now.nanos_since(delivery.attempt.body_since());
            self.pools[pool].fleet.heard(upstream, Told::Done { bytes }, nanos, now);
            self.stats.pools[pool][upstream].stage(Stage::Eod).record(waited);
            if let Some(current) = current {
                self.taken(pool, current, reply);
            }
            self.next_turn(id, now);
        } else {
            delivery.attempt.failed = Some(judge(Trouble::Said(reply.as_reply()), Phase::Dotted, false));
            self.current_failed(id, now);
        }
    }

    /// The current delivery failed and the link lives on.
    fn current_failed(&mut self, id: LinkId, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        let pool = link.pool;
        let attempt = &mut delivery.attempt;
        let fault = attempt.failed.take().or_else(|| attempt.worst_refusal().cloned());
        let fault = fault.unwrap_or_else(|| judge(Trouble::Lost, Phase::Envelope { heard: true }, false));
        let Some(current) = link.current.take() else {
            return;
        };
        link.served += 1;
        self.failed(pool, current, fault, now);
        self.next_turn(id, now);
    }

    /// The current delivery is over: the next one's turn, or nobody's.
    fn next_turn(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
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
                if !spent_next {
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

    /// QUIT: the link takes no more and goes when that has left.
    pub(super) fn retire_link(&mut self, id: LinkId, now: Instant) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        link.client.quit(&mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
        self.end_link(id, Queued::Close, now);
    }

    /// Closes the link's stream; what is on it is dealt with at the stream's end.
    fn end_link(&mut self, id: LinkId, how: fn(StreamId) -> Queued, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let was_opening = matches!(link.state, State::Opening | State::Greeting);
        link.state = State::Closing;
        let (pool, upstream) = (link.pool, link.upstream);
        if let Some(stream) = link.stream {
            self.commands.push_back(how(stream));
        }
        let links = &mut self.pools[pool].links[upstream];
        links.retire(id);
        if was_opening {
            links.opened();
        }
        self.link_deadlines.set(id.0 as usize, now + LINGER);
        self.refresh(pool, upstream);
    }

    pub(super) fn link_expired(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(id.0 as usize) else {
            return;
        };
        match link.state {
            // It does not take what is left to send.
            State::Closing => self.commands.extend(link.stream.map(Queued::Abort)),
            State::Ready if link.current.is_none() => {
                let options = &self.options.pools[link.pool];
                let (idle, ..) = self.pools[link.pool].links[link.upstream].counts();
                if idle > options.idle_links {
                    self.retire_link(id, now);
                } else {
                    self.link_deadlines.set(id.0 as usize, now + options.idle_timeout);
                }
            }
            _ => {
                link.trouble = Some(Ended::TimedOut);
                self.end_link(id, Queued::Abort, now);
            }
        }
    }

    /// The stream is gone, and nothing written to it is in use any more.
    pub(super) fn link_closed(&mut self, id: LinkId, cause: Cause, now: Instant) {
        let mut link = self.links.remove(id.0 as usize);
        self.link_deadlines.set(id.0 as usize, Instant::NEVER);
        let (pool, upstream) = (link.pool, link.upstream);
        let was_opening = matches!(link.state, State::Opening | State::Greeting);
        self.pools[pool].links[upstream].gone(id, was_opening);
        let ours = link.state == State::Closing && link.trouble.is_none();
        if link.current.is_some() && !ours {
            let stats = &self.stats.pools[pool][upstream];
            if link.welcomed { stats.lost_links.add(1) } else { stats.connect_failures.add(1) }
        }
        if let Some(next) = link.next.take() {
            self.unqueue(pool, next);
        }
        if let Some(current) = link.current.take() {
            self.current_lost(&link, current, cause, now);
        }
        self.refresh(pool, upstream);
    }

    /// What the end of its link means for the delivery that was on it.
    fn current_lost(&mut self, link: &Link, current: DeliveryId, cause: Cause, now: Instant) {
        let delivery = &mut self.deliveries[current.0 as usize];
        let (attempt, recipients) = (&mut delivery.attempt, delivery.recipients.len());
        let phase = match (attempt.dotted, link.welcomed) {
            (true, _) if attempt.chunked => Phase::Whole { heard: attempt.heard },
            (true, _) => Phase::Dotted,
            (false, true) => Phase::Envelope { heard: attempt.heard },
            (false, false) => Phase::Opening,
        };
        let reused = link.served > 0 || link.rested;
        let fault = match (&link.early, &link.trouble, cause) {
            // It had answered before all of the body had left; that is its answer.
            (Some(reply), ..) if !reply.as_reply().is_positive() => {
                judge(Trouble::Said(reply.as_reply()), Phase::Dotted, reused)
            }
            (_, Some(Ended::Unwelcome(reply)), _) => {
                judge(Trouble::Unwelcome(reply.as_reply()), phase, reused)
            }
            (_, Some(Ended::TimedOut), _) if phase == Phase::Opening => {
                judge(Trouble::NotOpened, phase, reused)
            }
            (_, Some(Ended::TimedOut), _) => judge(Trouble::TimedOut, phase, reused),
            (_, None, Cause::NotOpened(_)) => judge(Trouble::NotOpened, phase, reused),
            (_, None, _) => {
                // Refused before the body was sent, or sent for nobody: that is what counts.
                let is_all = attempt.failed.is_some() || attempt.refused.len() == recipients;
                let counts = match phase {
                    Phase::Dotted => false,
                    Phase::Whole { .. } => is_all,
                    Phase::Opening | Phase::Envelope { .. } => true,
                };
                let mut refusal = || attempt.failed.take().or_else(|| attempt.worst_refusal().cloned());
                let refusal: Option<Fault> = counts.then(&mut refusal).flatten();
                refusal.unwrap_or_else(|| judge(Trouble::Lost, phase, reused))
            }
        };
        self.failed(link.pool, current, fault, now);
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
