//! What an upstream's replies lead to.

use crate::balance::Heard as Told;
use crate::dispatch::verdict::{Phase, Trouble, judge};
use crate::dispatch::{Dispatch, Queued};
use crate::handle::LinkId;
use crate::observe::Stage;
use crate::protocol::wire::data::Form;
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;

impl Dispatch {
    pub(super) fn heard_mail(&mut self, id: LinkId, reply: &ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        delivery.attempt.heard = true;
        let waited = now.nanos_since(delivery.attempt.begun_at);
        let reply = reply.as_reply();
        let (pool, upstream) = (link.pool, link.upstream);
        let came_along = link.line.front().is_some_and(|ride| ride.came_along(now));
        if !reply.is_positive() {
            delivery.attempt.failed =
                Some(judge(Trouble::Said(reply), Phase::Envelope { heard: true }, false));
            if link.client.break_off() {
                self.current_failed(id, now);
            }
        } else {
            delivery.attempt.mail_nanos = waited;
            self.stats.pools[pool][upstream].stage(Stage::Mail).record(waited);
            if !came_along {
                self.pools[pool].fleet.heard(upstream, Told::Mail, waited, now);
            }
            self.advance(id);
        }
    }

    pub(super) fn heard_recipient(&mut self, id: LinkId, i: u16, reply: &ReplyBuf, now: Instant) {
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
    pub(super) fn advance(&mut self, id: LinkId) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        let current = link.line.front().map(|ride| ride.delivery);
        let Some(delivery) = current.and_then(|current| self.deliveries.get(current.0 as usize)) else {
            return;
        };
        link.client.advance(&delivery.message.envelope, &delivery.recipients, &mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
    }

    pub(super) fn heard_data(&mut self, id: LinkId, reply: &ReplyBuf, now: Instant) {
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
            let current = link.line.front().map(|current| current.delivery);
            let streamed = current.filter(|_| delivery.message.streamed);
            let since_mail = waited.saturating_sub(attempt.mail_nanos);
            self.stats.pools[pool][upstream].stage(Stage::Data).record(waited);
            self.pools[pool].fleet.heard(upstream, Told::Data, since_mail, now);
            match streamed {
                Some(current) => self.leg_goes_ahead(id, current, now),
                None => self.write_body(id, now),
            }
        }
    }

    pub(super) fn abandon(&mut self, id: LinkId) {
        let from = self.out.len();
        let link = &mut self.links[id.0 as usize];
        link.client.abandon(&mut self.out);
        if let Some(stream) = link.stream {
            self.write_since(from, stream);
        }
    }

    pub(super) fn write_body(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        link.client.body_written();
        self.write_message(id, 0, Form::Stuffed, now);
        self.begin_more(id, now);
    }

    /// Writes what goes before the body, and the body, of the `nth` on the link.
    pub(super) fn write_message(&mut self, id: LinkId, nth: usize, form: Form, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let Some(stream) = link.stream else { return };
        let ride = &mut link.line[nth];
        let delivery = &mut self.deliveries[ride.delivery.0 as usize];
        delivery.attempt.dotted = true;
        delivery.attempt.body_at = now;
        ride.sent_at = now;
        ride.leaving = true;
        let message = delivery.message.clone();
        let from = self.out.len();
        self.out.extend_from_slice(&message.head);
        self.write_since(from, stream);
        self.commands.push_back(Queued::WriteBody { stream, message, form });
    }

    pub(super) fn heard_final(&mut self, id: LinkId, reply: ReplyBuf, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        if delivery.attempt.failed.is_some() || delivery.attempt.accepted == 0 {
            self.current_failed(id, now);
        } else if reply.as_reply().is_positive() {
            let (pool, upstream) = (link.pool, link.upstream);
            let Some(current) = link.end_current() else { return };
            let waited = now.nanos_since(current.sent_at);
            let offers = link.client.capabilities();
            let bytes = delivery.timed_bytes();
            let nanos = now.nanos_since(delivery.attempt.body_since());
            let all = now.nanos_since(delivery.attempt.begun_at);
            if !current.came_along(now) {
                self.pools[pool].fleet.heard(upstream, Told::Done { bytes }, nanos, now);
                self.learn(pool, upstream, all, bytes, now);
            }
            if current.follows && current.whole.is_some() {
                self.pools[pool].links[upstream].followed(waited);
            }
            self.stats.pools[pool][upstream].stage(Stage::Eod).record(waited);
            self.taken(pool, current.delivery, reply, offers);
            self.next_turn(id, now);
        } else {
            delivery.attempt.failed = Some(judge(Trouble::Said(reply.as_reply()), Phase::Dotted, false));
            self.current_failed(id, now);
        }
    }

    /// The current delivery failed and the link lives on.
    pub(super) fn current_failed(&mut self, id: LinkId, now: Instant) {
        let Some((link, delivery)) = self.current_of(id) else {
            return;
        };
        let pool = link.pool;
        let attempt = &mut delivery.attempt;
        let fault = attempt.failed.take().or_else(|| attempt.worst_refusal().cloned());
        let fault = fault.unwrap_or_else(|| judge(Trouble::Lost, Phase::Envelope { heard: true }, false));
        let Some(current) = link.end_current() else { return };
        self.failed(pool, current.delivery, fault, now);
        self.next_turn(id, now);
    }
}
