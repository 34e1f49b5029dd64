//! A streamed body on a link: part by part between 354 and the final dot. (A binary message's by BDAT, as one chunk of the
//! size that is known of what is kept: without its last part it is no message either.)

use std::sync::Arc;

use super::State;
use crate::dispatch::delivery::{Delivery, DeliveryId};
use crate::dispatch::{Dispatch, Part, Queued};
use crate::handle::LinkId;
use crate::protocol::wire::data::Form;
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
        let Some(ride) = link.line.front_mut().filter(|ride| ride.delivery == of) else { return };
        ride.leaving = true;
        ride.sent_at = now;
        let is_last = part.is_last;
        if is_last {
            delivery.attempt.dotted = true;
            delivery.attempt.body_at = now;
            delivery.last_part_bytes = part.size;
            if !delivery.attempt.chunked {
                link.client.body_written();
            }
        }
        let form = if delivery.attempt.chunked { Form::Plain } else { Form::Stuffed };
        self.write_since(from, stream);
        self.commands.push_back(Queued::WritePart { stream, part, form });
        self.await_reply(id, now);
        if is_last {
            self.restamp(of, Some(now));
            self.begin_more(id, now);
            self.note_room(id, now);
        }
    }
}
