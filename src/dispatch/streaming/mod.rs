//! Bodies that leave while they are still arriving, for when memory is short: constant memory, however large they are.
//!
//! A streamed message's body goes in [`Part`]s, one at a time: while a part is being sent to every group's upstream (a
//! *leg*), what arrives is gathered for the next one. A part is let go of when all legs have sent it; the slowest sets
//! the pace, for the session is not read while much has been gathered, and so the client's TCP window closes.
//!
//! Until the first part is let go of all of the body that has left is still here, and a leg that loses its upstream
//! finds another one and begins anew. From then on only the client has all of it: whatever happens to a leg becomes its
//! recipients' outcome (`Fault::without_body`). A message that ended within its first part is kept until the end.
//!
//! Legs are asked for one after another, in one order for all messages, so that no two messages with several of them
//! can each hold a link that the other one waits for.
//!
//! - `intake`: at the session; who is streamed, and who may be read when memory is short.
//! - `leg`: at the link, on the shard that delivers.
//! - `source`: of a kept message, at the disk that it is read from.
//! - here: the transaction between them.

mod intake;
mod leg;
mod part;
mod queues;
mod source;

use std::sync::Arc;

pub use part::Part;
pub(super) use queues::{Line, Queues};

use super::message::{GroupId, LegId, Letter, Message, TransactionId, Withdrawal};
use super::owner::Way;
use super::verdict::ours;
use super::{Dispatch, Queued};
use crate::handle::{Buffers, Extent, ShardId};
use crate::protocol::wire::data::Shape;
use crate::protocol::wire::reply::ReplyBuf;
use crate::time::Instant;
use source::Source;

/// What a transaction has whose message is streamed.
#[derive(Debug)]
pub(super) struct Streaming {
    legs: Vec<Leg>,
    /// On its way to the legs, if it has a number.
    part: Arc<Part>,
    /// What came since.
    filling: Arc<Part>,
    /// The number of the last part.
    number: u32,
    /// Some of the body has been let go of.
    is_gone: bool,
    /// The session has sent all.
    is_complete: bool,
    /// Nobody is to get it any more.
    is_withdrawn: bool,
    /// All legs have what they need: it flows.
    flows: bool,
    /// How its octets stand, as far as they have come. (The session that knew it may be gone.)
    shape: Shape,
    /// Of the body's dots those in earlier parts.
    dots: u64,
    /// It comes from the disk, not from a session.
    source: Option<Box<Source>>,
}

/// A group of a streamed message.
#[derive(Debug)]
struct Leg {
    way: Way,
    state: LegState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LegState {
    /// Not yet asked for.
    Due,
    /// It looks for an upstream that goes ahead.
    Asked,
    /// It wants the next part.
    Ready(LegId),
    Sending(LegId),
    Sent(LegId),
    Over,
}

impl Streaming {
    fn new(legs: Vec<Leg>, filling: Part) -> Streaming {
        Streaming {
            legs,
            part: Arc::default(),
            shape: filling.shape,
            filling: Arc::new(filling),
            number: 0,
            is_gone: false,
            is_complete: false,
            is_withdrawn: false,
            flows: false,
            dots: 0,
            source: None,
        }
    }

    /// Extents that have come since the last part.
    fn gathered(&self) -> usize {
        self.filling.extents.len()
    }

    fn has_part(&self) -> bool {
        self.part.number > 0
    }

    fn leg(&mut self, way: Way) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.way == way)
    }

    fn is_waiting_for_legs(&self) -> bool {
        self.legs.iter().any(|leg| matches!(leg.state, LegState::Due | LegState::Asked))
    }
}

/// Lets go of a part's buffers. A leg that is over may still hold the list, but never the buffers.
fn release_part(part: &mut Arc<Part>, buffers: &mut impl Buffers) {
    match Arc::get_mut(part) {
        Some(part) => part.release(buffers),
        None => {
            part.extents.iter().for_each(|extent| buffers.release(extent.buffer));
            *part = Arc::default();
        }
    }
}

/// The part as long as no leg has it.
fn unsent(part: &mut Arc<Part>) -> &mut Part {
    Arc::get_mut(part).expect("a part is shared only once it is on its way")
}

impl Dispatch {
    /// Begins a message whose body is still arriving: `body` is what has come of it. Its buffers are taken over.
    pub(super) fn begin_streamed(
        &mut self,
        message: Arc<Message>,
        body: Vec<Extent>,
        session: u32,
        mail_at: Instant,
        now: Instant,
    ) -> TransactionId {
        let (size, shape) = (message.size, message.shape);
        let id = self.new_transaction(message, Some(session), mail_at, now);
        let filling = Part { extents: body, size, shape, starts_line: true, ..Part::default() };
        let legs = self.begin_legs(id);
        self.transactions[id.slot as usize].streaming = Some(Box::new(Streaming::new(legs, filling)));
        self.stats.streamed.add(1);
        self.flow.push(id);
        id
    }

    /// A leg for each group, in the order in which they are asked for.
    fn begin_legs(&mut self, id: TransactionId) -> Vec<Leg> {
        self.count_groups(id);
        self.note_deadline(id);
        let mut ways = self.groups.clone();
        ways.sort_unstable_by_key(|way| (way.shard, way.pool));
        ways.into_iter().map(|way| Leg { way, state: LegState::Due }).collect()
    }

    fn streaming(&mut self, id: TransactionId) -> Option<&mut Streaming> {
        self.transaction_mut(id)?.streaming.as_deref_mut()
    }

    /// More of the body has come.
    pub(super) fn stream_body(
        &mut self,
        id: TransactionId,
        piece: Extent,
        shape: Shape,
        buffers: &mut impl Buffers,
    ) {
        if let Some(streaming) = self.streaming(id).filter(|streaming| !streaming.is_withdrawn) {
            streaming.shape = shape;
            unsent(&mut streaming.filling).push(piece, buffers);
            self.flow.push(id);
        }
    }

    /// All of the body has come; it waits for its verdict now.
    pub(super) fn stream_complete(&mut self, id: TransactionId, shape: Shape, now: Instant) {
        if let Some(transaction) = self.transaction_mut(id) {
            transaction.ended_at = now;
            let nanos = now.nanos_since(transaction.mail_at);
            self.stats.receive.record(nanos);
        }
        if let Some(streaming) = self.streaming(id) {
            (streaming.is_complete, streaming.shape) = (true, shape);
            self.flow.push(id);
        }
    }

    /// Nobody is to get it: the client is gone, or has sent what may not be sent on. Nobody waits for an answer.
    pub(super) fn withdraw(&mut self, id: TransactionId) {
        self.abandon_transaction(id);
        if let Some(streaming) = self.streaming(id) {
            streaming.is_withdrawn = true;
            self.flow.push(id);
        }
    }

    /// A leg's upstream goes ahead.
    pub(super) fn leg_ready(&mut self, shard: ShardId, group: GroupId, leg: LegId) {
        let way = Way { shard, pool: group.pool };
        let Some(streaming) = self.streaming(group.transaction) else { return };
        // It may have lost an upstream that it had got the first part to; but what is gone is gone.
        let is_late = streaming.is_gone || streaming.is_withdrawn;
        if let Some(found) = streaming.leg(way) {
            found.state = if is_late { LegState::Over } else { LegState::Ready(leg) };
        }
        if is_late {
            self.post(shard, Letter::Withdraw { group, why: Withdrawal::Lost });
        }
        self.flow.push(group.transaction);
    }

    /// A leg has sent a part.
    pub(super) fn leg_sent(&mut self, shard: ShardId, group: GroupId, number: u32) {
        let Some(streaming) = self.streaming(group.transaction) else { return };
        let is_it = streaming.part.number == number;
        if let Some(leg) = streaming.leg(Way { shard, pool: group.pool })
            && let LegState::Sending(id) = leg.state
            && is_it
        {
            leg.state = LegState::Sent(id);
        }
        self.flow.push(group.transaction);
    }

    /// A leg has come to its outcome.
    pub(super) fn leg_over(&mut self, way: Way, id: TransactionId) {
        if let Some(leg) = self.streaming(id).and_then(|streaming| streaming.leg(way)) {
            leg.state = LegState::Over;
            self.flow.push(id);
        }
    }

    /// Moves on all streamed messages that something has changed for.
    pub(super) fn flow_on(&mut self, now: Instant, buffers: &mut impl Buffers) {
        while let Some(id) = self.flow.pop() {
            let Some(streaming) = self.streaming(id) else { continue };
            if streaming.is_withdrawn {
                self.flow_back(id, now, buffers);
                continue;
            }
            self.ask_next(id, now);
            self.send_next(id, buffers);
            self.read_on(id, now, buffers);
            self.mind_flow(id);
        }
    }

    /// Asks for the next leg, if none is being asked for.
    fn ask_next(&mut self, id: TransactionId, now: Instant) {
        let Some(streaming) = self.streaming(id) else { return };
        if streaming.legs.iter().any(|leg| leg.state == LegState::Asked) {
            return;
        }
        if let Some(leg) = streaming.legs.iter_mut().find(|leg| leg.state == LegState::Due) {
            leg.state = LegState::Asked;
            let way = leg.way;
            self.ask_group(id, way, now);
        }
    }

    /// Lets go of a part that all legs have sent; sends the next one.
    fn send_next(&mut self, id: TransactionId, buffers: &mut impl Buffers) {
        let origin = self.options.shard;
        let Some(streaming) = self.streaming(id) else { return };
        if streaming.has_part() {
            let is_sent = |leg: &Leg| matches!(leg.state, LegState::Sent(_) | LegState::Over);
            let is_kept = streaming.part.is_last && streaming.number == 1;
            if streaming.legs.iter().all(is_sent) && !is_kept {
                streaming.is_gone = true;
                release_part(&mut streaming.part, buffers);
                for leg in &mut streaming.legs {
                    if let LegState::Sent(id) = leg.state {
                        leg.state = LegState::Ready(id);
                    }
                }
            }
        }
        let is_over = streaming.legs.iter().all(|leg| leg.state == LegState::Over);
        if !streaming.has_part() && !streaming.is_waiting_for_legs() && !is_over {
            streaming.cut();
        }
        if !streaming.has_part() || streaming.is_waiting_for_legs() && !streaming.flows {
            return;
        }
        if !std::mem::replace(&mut streaming.flows, true) {
            self.queues.flows += 1;
        }
        for i in 0..self.streaming(id).map_or(0, |streaming| streaming.legs.len()) {
            let Some(streaming) = self.streaming(id) else { return };
            let part = streaming.part.clone();
            let leg = &mut streaming.legs[i];
            if let LegState::Ready(place) = leg.state {
                leg.state = LegState::Sending(place);
                let Way { shard, pool } = leg.way;
                let group = GroupId { origin, transaction: id, pool };
                self.post(shard, Letter::Part { group, leg: place, part });
            }
        }
    }

    /// Withdrawn: tells the legs, and lets go of what none of them sends.
    fn flow_back(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let origin = self.options.shard;
        let Some(streaming) = self.streaming(id) else { return };
        release_part(&mut streaming.filling, buffers);
        let mut told = Vec::new();
        let mut unasked = 0;
        for leg in &mut streaming.legs {
            match std::mem::replace(&mut leg.state, LegState::Over) {
                LegState::Over => {}
                LegState::Due => unasked += 1,
                _ => told.push(leg.way),
            }
        }
        if told.is_empty() && unasked == 0 {
            return;
        }
        for Way { shard, pool } in told {
            let group = GroupId { origin, transaction: id, pool };
            self.post(shard, Letter::Withdraw { group, why: Withdrawal::Lost });
        }
        self.forget_groups(id, unasked, now, buffers);
    }

    /// The transaction is over, and with it all sending: lets go of what is left of the body.
    pub(super) fn end_streaming(&mut self, mut streaming: Streaming, buffers: &mut impl Buffers) {
        self.queues.flows -= usize::from(streaming.flows);
        for part in [&mut streaming.part, &mut streaming.filling] {
            release_part(part, buffers);
        }
        if let Some(source) = &mut streaming.source {
            source.release(buffers);
        }
    }

    /// Puts the letter into that shard's box, or one's own.
    pub(super) fn post(&mut self, shard: ShardId, letter: Letter) {
        if shard == self.options.shard {
            self.inbox.push_back(letter);
        } else {
            self.stats.letters.add(1);
            self.commands.push_back(Queued::Post { shard, letter });
        }
    }
}

impl Streaming {
    /// Makes what has been gathered the next part, if there is anything to send.
    fn cut(&mut self) {
        if self.filling.extents.is_empty() && !self.is_complete {
            return;
        }
        self.number += 1;
        let (number, is_last, dots, shape) = (self.number, self.is_complete, self.dots, self.shape);
        let part = unsent(&mut self.filling);
        (part.number, part.is_last) = (number, is_last);
        part.shape = Shape { dots: shape.dots - dots, ..shape };
        self.dots = shape.dots;
        std::mem::swap(&mut self.part, &mut self.filling);
        let next = unsent(&mut self.filling);
        next.starts_line = shape.ends_line;
    }
}

/// What recipients are told whose part of a streamed message came to nothing through no fault of theirs.
pub(super) fn lost_halfway() -> ReplyBuf {
    ours(2, "the message was lost on the way to the upstream")
}
