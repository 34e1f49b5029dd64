//! Upstreams that fall silent. What one may have taken has to wait for it, up to `reply_timeout`; everything else
//! that hangs on its links (openings, commands without an answer, what is queued behind a final dot) is nobody's yet,
//! and goes to another upstream as soon as the silence is far longer than the answers ever took.
//!
//! Nothing is taken away while no other upstream is well that the message has not been to: then all are slow, or it is
//! the message that is, and waiting is all there is to do.

use super::{Ended, Link, State};
use crate::dispatch::delivery::DeliveryId;
use crate::dispatch::{Dispatch, Queued};
use crate::handle::LinkId;
use crate::limits::{OVERDUE_MIN, OVERDUE_TIMES};
use crate::time::Instant;

/// What waits on a silent link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    /// The current delivery, of which nothing is committed.
    Current(DeliveryId),
    /// The last one, behind others that may be.
    Last(DeliveryId),
}

impl Dispatch {
    /// Takes from overdue upstreams what another can do sooner. To be called every [`crate::limits::OVERDUE_LOOK`].
    pub(in crate::dispatch) fn look_for_overdue(&mut self, now: Instant) {
        for slot in 0..self.links.capacity() {
            let Some(link) = self.links.get(slot) else { continue };
            let Some(waits) = self.waits_on(link, now) else { continue };
            let (pool, upstream) = (link.pool, link.upstream);
            let (Waits::Current(delivery) | Waits::Last(delivery)) = waits;
            if !self.has_another(pool, upstream, delivery, now) {
                continue;
            }
            self.stats.pools[pool][upstream].overdue.add(1);
            let id = LinkId(slot as u32);
            match waits {
                Waits::Current(_) => {
                    let all = self.is_silent(pool, upstream, now);
                    self.links[slot].trouble = Some(Ended::Overdue { all });
                    self.end_link(id, Queued::Abort, now);
                }
                Waits::Last(last) => self.take_last(id, last, now),
            }
        }
    }

    /// What waits on a link that is silent for too long.
    fn waits_on(&self, link: &Link, now: Instant) -> Option<Waits> {
        let front = link.line.front()?;
        let current = front.delivery;
        let times = self.pools[link.pool].fleet.members()[link.upstream].times();
        let delivery = &self.deliveries[current.0 as usize];
        let (waits, usual, since) = match link.state {
            State::Closing => return None,
            // It waits for the client.
            _ if delivery.is_midway() => return None,
            State::Opening | State::Greeting => {
                (Waits::Current(current), times.connect.nanos(), link.since.max(link.heard_at))
            }
            State::Ready if !delivery.attempt.dotted => {
                let since = link.heard_at.max(delivery.attempt.begun_at);
                (Waits::Current(current), times.nanos(), since)
            }
            State::Ready => {
                let bytes = delivery.timed_bytes() as f32;
                let usual = times.nanos() + times.nanos_per_byte() * bytes;
                // One that went whole, behind it, is committed too.
                let last = link.line.back().filter(|last| link.line.len() > 1 && last.whole.is_none())?;
                (Waits::Last(last.delivery), usual, link.heard_at.max(front.sent_at))
            }
        };
        // Of one that has never answered it is not known what is long.
        let is_overdue = usual > 0.0 && is_long(usual, since, now) && !front.leaving;
        is_overdue.then_some(waits)
    }

    /// Is there another upstream that the delivery has not been to, and that answers?
    fn has_another(&self, pool: usize, upstream: usize, delivery: DeliveryId, now: Instant) -> bool {
        let tried = &self.deliveries[delivery.0 as usize].tried;
        let state = &self.pools[pool];
        let others = state.fleet.members().iter().enumerate();
        others.filter(|(i, _)| *i != upstream && !tried.contains(*i)).any(|(i, member)| {
            let oldest = state.ages[i].front().map_or(now, |(since, ..)| *since);
            // It may have no room this very moment: one that answers will have.
            !is_long(member.times().nanos(), oldest, now) && !member.health().is_out(now)
        })
    }

    /// Has nothing been heard from the upstream on any link for too long?
    fn is_silent(&self, pool: usize, upstream: usize, now: Instant) -> bool {
        let usual = self.pools[pool].fleet.members()[upstream].times().nanos();
        let its = self.links.iter().filter(|(_, link)| link.pool == pool && link.upstream == upstream);
        its.map(|(_, link)| link.heard_at).max().is_none_or(|heard_at| is_long(usual, heard_at, now))
    }

    /// Takes the last delivery back. If its commands have been written, what is answered to them is not for anybody:
    /// the link ends with the one before.
    fn take_last(&mut self, id: LinkId, last: DeliveryId, now: Instant) {
        let link = &mut self.links[id.0 as usize];
        let (pool, upstream) = (link.pool, link.upstream);
        link.line.pop_back();
        if link.begun > link.line.len() {
            link.begun -= 1;
            link.bereft = true;
        }
        if self.is_silent(pool, upstream, now) {
            self.fell_silent(pool, upstream, now);
        }
        self.unqueue(pool, last);
        self.note_room(id, now);
    }

    /// Calls off the `nth` on the link, which nobody is committed to.
    pub(in crate::dispatch) fn call_off(&mut self, slot: u32, nth: usize, of: DeliveryId, now: Instant) {
        let id = LinkId(slot);
        let link = &mut self.links[slot as usize];
        let pool = link.pool;
        if link.state == State::Closing {
            // Its end is about to come.
        } else if nth >= link.begun {
            link.line.remove(nth);
            self.unqueue(pool, of);
        } else if nth == 0 {
            self.end_link(id, Queued::Abort, now);
        } else {
            self.take_last(id, of, now);
        }
    }

    /// It is left alone for a moment, if the others can do without it.
    pub(in crate::dispatch) fn fell_silent(&mut self, pool: usize, upstream: usize, now: Instant) {
        let rules = &self.options.pools[pool].health;
        if self.pools[pool].fleet.fell_silent(upstream, rules, now) {
            self.stats.pools[pool][upstream].ejections.add(1);
        }
    }
}

/// Is it far longer than `usual` nanoseconds since then?
fn is_long(usual: f32, since: Instant, now: Instant) -> bool {
    let silent = now.nanos_since(since) as f32;
    silent > usual * OVERDUE_TIMES && silent > OVERDUE_MIN.as_nanos() as f32
}
