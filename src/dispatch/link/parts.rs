//! A streamed body on a link: part by part between 354 and the final dot.

use std::sync::Arc;

use super::{State, is_spent};
use crate::dispatch::delivery::{Delivery, DeliveryId};
use crate::dispatch::{Dispatch, Part, Queued};
use crate::handle::LinkId;
use crate::time::Instant;

impl Delivery {
    /// Its body has begun to be asked for, and its end has not been sent.
    pub(super) fn is_midway(&self) -> bool {
        self.attempt.flows_on.is_some() && !self.attempt.dotted
    }
}

impl Dispatch {
    /// Writes the next part; with the last one the link goes on as behind any body.
    pub(in crate::dispatch) fn write_part(
        &mut self,
        id: LinkId,
        of: DeliveryId,
        part: Arc<Part>,
        now: Instant,
    ) {
        let link = &mut self.links[id.0 as usize];
        let Some(stream) = link.stream.filter(|_| link.state == State::Ready) else { return };
        let delivery = &mut self.deliveries[of.0 as usize];
        let from = self.out.len();
        if part.number == 1 {
            self.out.extend_from_slice(&delivery.message.head);
        }
        link.body_leaving = true;
        let is_last = part.is_last;
        if is_last {
            delivery.attempt.dotted = true;
            delivery.attempt.body_at = now;
            delivery.last_part_bytes = part.size;
            link.dot_at = now;
            link.client.body_written();
        }
        self.write_since(from, stream);
        self.commands.push_back(Queued::WritePart { stream, part });
        self.await_reply(id, now);
        if is_last {
            let link = &self.links[id.0 as usize];
            let (pool, upstream, served) = (link.pool, link.upstream, link.served);
            if !is_spent(served + 1, self.options.pools[pool].transactions_per_link) && link.next.is_none() {
                self.pools[pool].links[upstream].joinable(id);
            }
            self.restamp(of, Some(now));
            self.begin_next(id, now);
        }
    }
}
