//! How an offer ends, and what that leads to: another upstream, another pool, or the delivery's own end.

use super::{Delivery, DeliveryId};
use crate::balance::Tried;
use crate::dispatch::Dispatch;
use crate::dispatch::message::{GroupId, Letter, Outcome, Place, Withdrawal, Word};
use crate::dispatch::streaming::lost_halfway;
use crate::dispatch::verdict::{Blame, Fault, Retry, ours, too_late};
use crate::limits::{EASE_EVERY, STALE_LINKS_MAX};
use crate::observe::FailedAt;
use crate::protocol::client::Capabilities;
use crate::protocol::wire::later::ByMode;
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;

impl Dispatch {
    /// The upstream, which offers that, took it for `accepted` of the recipients.
    pub(in crate::dispatch) fn taken(
        &mut self,
        pool: usize,
        id: DeliveryId,
        reply: ReplyBuf,
        offers: Capabilities,
    ) {
        let upstream = self.leave(pool, id);
        let by = place(pool, upstream);
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.note_relayed(&reply, by, offers);
        self.stats.pools[pool][upstream].delivered.add(u64::from(delivery.attempt.accepted));
        if delivery.attempt.refused.is_empty() {
            delivery.recipients.clear();
            // Those refused by an upstream that it was with before.
            let refused = std::mem::take(&mut delivery.refused);
            let relayed = std::mem::take(&mut delivery.relayed);
            self.end(id, Outcome { accepted: true, reply, by: Some(by), refused, relayed });
            return;
        }
        // Those put off go on to another upstream; those refused are reported with the rest.
        delivery.taken.get_or_insert((reply, by));
        delivery.recipients.clear();
        let mut put_off = None;
        for (recipient, fault) in std::mem::take(&mut delivery.attempt.refused) {
            if fault.retry == Retry::Never {
                delivery.refused.push(Word { recipient, reply: fault.reply, by: Some(by) });
            } else {
                delivery.recipients.push(recipient);
                put_off = Some(fault);
            }
        }
        match put_off {
            Some(fault) if delivery.is_gone => self.set_back(pool, id, fault.without_body()),
            Some(fault) => self.set_back(pool, id, fault),
            None => self.give_up(id, ours(0, "nothing is left to deliver"), None),
        }
    }

    /// The offer came to nothing.
    pub(in crate::dispatch) fn failed(
        &mut self,
        pool: usize,
        id: DeliveryId,
        mut fault: Fault,
        now: Instant,
    ) {
        let upstream = self.leave(pool, id);
        let delivery = &self.deliveries[id.0 as usize];
        if let Some(why) = delivery.withdrawn
            && (why == Withdrawal::Lost || fault.retry != Retry::Never)
        {
            let is_in_doubt = fault.retry == Retry::InDoubt && why == Withdrawal::TooLate;
            self.stats.in_doubt.add(u64::from(is_in_doubt));
            return self.give_up_withdrawn(id, why);
        }
        let stats = self.stats.pools[pool][upstream].clone();
        if fault.blame != Blame::Nobody {
            stats.failures(self.deliveries[id.0 as usize].attempt.failed_at()).add(1);
        }
        match fault.retry {
            Retry::Never => stats.bounced.add(1),
            Retry::Elsewhere | Retry::InDoubt => stats.deferred.add(1),
            Retry::FreshLink | Retry::Unable | Retry::Sooner | Retry::ByClient => {}
        }
        let is_pressure = fault.blame == Blame::Pressure && self.pools[pool].links[upstream].press();
        if is_pressure {
            stats.pressures.add(1);
            if self.deliveries[id.0 as usize].attempt.failed_at() == FailedAt::Open {
                // It was one link too many: any of those that stand will do.
                fault.retry = Retry::FreshLink;
            }
            self.ease_at = now + EASE_EVERY;
            self.refresh(pool, upstream);
        }
        let fleet = &mut self.pools[pool].fleet;
        if fault.blame != Blame::Nobody && !is_pressure {
            fleet.punish(upstream, now);
        }
        let rules = &self.options.pools[pool].health;
        let ejected = match fault.blame {
            Blame::Unreached => fleet.unreached(upstream, rules, now),
            Blame::Upstream | Blame::Pressure if !is_pressure => fleet.failed(upstream, rules, now),
            _ => None,
        };
        if ejected.is_some() {
            stats.ejections.add(1);
        }
        if fault.blame == Blame::Silence {
            self.fell_silent(pool, upstream, now);
        }
        if fault.retry == Retry::InDoubt {
            self.stats.in_doubt.add(1);
        }
        if self.deliveries[id.0 as usize].is_gone {
            fault = fault.without_body();
        }
        self.set_back(pool, id, fault);
    }

    /// Tries the delivery again where that is allowed, else ends it.
    pub(super) fn set_back(&mut self, pool: usize, id: DeliveryId, fault: Fault) {
        let delivery = &mut self.deliveries[id.0 as usize];
        let by = place(pool, delivery.attempt.upstream);
        match fault.retry {
            Retry::Never | Retry::ByClient => return self.give_up(id, fault.reply, Some(by)),
            Retry::FreshLink if delivery.stale_links < STALE_LINKS_MAX => delivery.stale_links += 1,
            Retry::Unable | Retry::Sooner => {
                delivery.tried.push(delivery.attempt.upstream);
                // A refusal for good only if none has said that it might take it later.
                delivery.last.get_or_insert((fault.reply, None));
                if delivery.tried.is_full() {
                    delivery.attempts = u8::MAX;
                }
            }
            Retry::FreshLink | Retry::Elsewhere | Retry::InDoubt => {
                delivery.tried.push(delivery.attempt.upstream);
                delivery.attempts += 1;
                delivery.last = Some((fault.reply, Some(by)));
            }
        }
        if delivery.attempts >= self.options.pools[pool].attempts {
            return self.exhausted(pool, id, ours(0, "no upstream took the message"));
        }
        self.wait_in(pool, id, true);
    }

    /// While no upstream of the pool is healthy: the next pool in its line of fallbacks that has one.
    pub(in crate::dispatch) fn better_pool(&self, pool: usize, now: Instant) -> Option<usize> {
        let fallback_of = |pool: &usize| self.options.pools[*pool].fallback;
        fallback_of(&pool)?;
        let mut line = std::iter::successors(Some(pool), fallback_of).take(self.pools.len());
        line.find(|pool| self.pools[*pool].fleet.has_healthy(now)).filter(|better| *better != pool)
    }

    /// The pool's upstreams would not take it: the fallback's may, else it ends with what was said last.
    pub(super) fn exhausted(&mut self, pool: usize, id: DeliveryId, reply: ReplyBuf) {
        if let Some(fallback) = self.options.pools[pool].fallback {
            return self.move_to(fallback, id);
        }
        let (reply, by) = self.deliveries[id.0 as usize].last.take().unwrap_or((reply, None));
        self.give_up(id, reply, by);
    }

    /// Into another pool's queue, where it has been nowhere yet.
    pub(super) fn move_to(&mut self, pool: usize, id: DeliveryId) {
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.tried = Tried::default();
        delivery.attempts = 0;
        self.pools[std::mem::replace(&mut delivery.pool, pool)].deliveries -= 1;
        self.pools[pool].deliveries += 1;
        self.stats.fallbacks.add(1);
        self.wait_in(pool, id, false);
    }

    /// Back into the queue without blame, from behind a transaction whose link is gone.
    pub(in crate::dispatch) fn unqueue(&mut self, pool: usize, id: DeliveryId) {
        self.leave(pool, id);
        match self.deliveries[id.0 as usize].withdrawn {
            Some(why) => self.give_up_withdrawn(id, why),
            None => self.wait_in(pool, id, true),
        }
    }

    /// Nobody is to get it any more.
    pub(in crate::dispatch) fn give_up_withdrawn(&mut self, id: DeliveryId, why: Withdrawal) {
        let reply = match why {
            Withdrawal::Lost => lost_halfway(),
            Withdrawal::TooLate => too_late(None),
        };
        self.give_up(id, reply, None);
    }

    /// Nobody takes it for the recipients that are left.
    pub(super) fn give_up(&mut self, id: DeliveryId, reply: ReplyBuf, by: Option<Place>) {
        let delivery = &mut self.deliveries[id.0 as usize];
        let mut refused = std::mem::take(&mut delivery.refused);
        let relayed = std::mem::take(&mut delivery.relayed);
        let taken = delivery.taken.take();
        if !delivery.whole || taken.is_some() {
            let word = |&recipient: &u16| Word { recipient, reply: reply.clone(), by };
            refused.extend(delivery.recipients.iter().map(word));
        }
        let outcome = match taken {
            Some((reply, by)) => Outcome { accepted: true, reply, by: Some(by), refused, relayed },
            None => Outcome { accepted: false, reply, by, refused, relayed },
        };
        self.end(id, outcome);
    }

    pub(super) fn end(&mut self, id: DeliveryId, outcome: Outcome) {
        let Delivery { message, group, slip, pool, mut recipients, .. } =
            self.deliveries.remove(id.0 as usize);
        self.pools[pool].deliveries -= 1;
        if message.streamed || message.returns_at().is_some() {
            self.withdrawable.remove(&group);
        }
        recipients.clear();
        self.spare_lists.push(recipients);
        let (GroupId { origin, transaction, pool }, shard) = (group, self.options.shard);
        match slip {
            None => self.outcomes.push_back((shard, transaction, pool, outcome)),
            Some(mut slip) => {
                *slip = Some(outcome);
                self.post(origin, Letter::Verdict { shard, transaction, message, pool, slip });
            }
        }
    }
}

impl Delivery {
    /// Notes those that an upstream has just taken and whose sender is to hear of it from us: it asked to hear of success,
    /// and the upstream does not offer DSN (RFC 3461 5.2.2); of each relay on the way; or of what is late, and the upstream
    /// does not heed time (RFC 2852 4.1.4).
    fn note_relayed(&mut self, reply: &ReplyBuf, by: Place, offers: Capabilities) {
        let Delivery { message, recipients, attempt, relayed, .. } = self;
        let is_timed = message
            .envelope
            .mail()
            .by
            .is_some_and(|by| by.trace || by.mode == ByMode::Notify && offers.deliver_by.is_none());
        if offers.dsn && !is_timed {
            return;
        }
        for &recipient in recipients.iter() {
            let notify = message.envelope.recipient(usize::from(recipient)).notify;
            let is_asked = !offers.dsn && notify.is_some_and(|notify| notify.success);
            if (is_asked || is_timed && notify.is_none_or(|notify| !notify.never))
                && attempt.refused.iter().all(|(refused, _)| *refused != recipient)
            {
                relayed.push(Word { recipient, reply: reply.clone(), by: Some(by) });
            }
        }
    }
}

fn place(pool: usize, upstream: usize) -> Place {
    Place { pool: pool as u16, upstream: upstream as u16 }
}
