//! A group of a streamed message at the shard that delivers it: parts to the link, and word back.

use std::sync::Arc;

use super::Part;
use crate::dispatch::delivery::DeliveryId;
use crate::dispatch::message::{GroupId, LegId, Letter, Withdrawal};
use crate::dispatch::{Dispatch, Queued};
use crate::handle::LinkId;
use crate::limits::MESSAGE_TIME_MAX;
use crate::time::Instant;

impl Dispatch {
    /// 354 came: the upstream waits for the body.
    pub(in crate::dispatch) fn leg_goes_ahead(&mut self, link: LinkId, id: DeliveryId, now: Instant) {
        let delivery = &mut self.deliveries[id.0 as usize];
        if delivery.withdrawn.is_some() {
            return self.cut_link(link, now);
        }
        delivery.attempt.flows_on = Some(link);
        let group = delivery.group;
        let leg = LegId { delivery: id, stamp: self.restamp(id, None) };
        // How long the client takes is its session's affair.
        self.link_deadlines.set(link.0 as usize, Instant::NEVER);
        self.post(group.origin, Letter::Ready { shard: self.options.shard, group, leg });
    }

    /// The next part.
    pub(in crate::dispatch) fn leg_part(
        &mut self,
        group: GroupId,
        leg: LegId,
        part: Arc<Part>,
        now: Instant,
    ) {
        let Some(delivery) = self.deliveries.get_mut(leg.delivery.0 as usize) else { return };
        // It may have lost its link meanwhile; then it asks for the part again, from another.
        let is_its = delivery.group == group && delivery.attempt.stamp() == leg.stamp;
        let Some(link) = delivery.attempt.flows_on.filter(|_| is_its && delivery.message.streamed) else {
            return;
        };
        delivery.is_gone |= part.number > 1;
        delivery.deadline = now + MESSAGE_TIME_MAX;
        delivery.part = Some(part.clone());
        self.write_part(link, leg.delivery, part, now);
    }

    /// All that was written to the link has left: of a streamed message the part at hand.
    pub(in crate::dispatch) fn leg_part_left(&mut self, id: DeliveryId) {
        let delivery = &mut self.deliveries[id.0 as usize];
        let Some(part) = delivery.part.take() else { return };
        delivery.is_gone |= delivery.whole && !(part.is_last && part.number == 1);
        let (group, number) = (delivery.group, part.number);
        if let Some(link) = delivery.attempt.flows_on.filter(|_| !part.is_last) {
            self.link_deadlines.set(link.0 as usize, Instant::NEVER);
        }
        drop(part);
        self.post(group.origin, Letter::PartSent { shard: self.options.shard, group, number });
    }

    /// Nobody is to get it any more.
    pub(in crate::dispatch) fn leg_withdrawn(&mut self, group: GroupId, why: Withdrawal, now: Instant) {
        let Some(&id) = self.withdrawable.get(&group) else { return };
        let delivery = &mut self.deliveries[id.0 as usize];
        delivery.withdrawn = Some(why);
        if delivery.ticket > 0 {
            return self.give_up_withdrawn(id, why);
        }
        match (why, delivery.attempt.flows_on) {
            (Withdrawal::TooLate, _) => self.take_off(id, now),
            (Withdrawal::Lost, Some(link)) => self.cut_link(link, now),
            // On its way to a link, and cut off there as soon as its body would be due.
            (Withdrawal::Lost, None) => {}
        }
    }

    fn cut_link(&mut self, link: LinkId, now: Instant) {
        self.end_link(link, Queued::Abort, now);
    }
}
