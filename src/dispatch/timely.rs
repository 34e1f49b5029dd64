//! By when a message is wanted (DELIVERBY, RFC 2852): each transaction under way is looked at when its sender's time is
//! over. What is to come back then is taken from upstreams that are not committed to it; of what goes on its sender is
//! told. (What waits on disk is looked after by the spool.)

use super::Dispatch;
use super::delivery::DeliveryId;
use super::message::{GroupId, Letter, Message, TransactionId, Withdrawal};
use super::owner::Way;
use crate::handle::Buffers;
use crate::protocol::client::Terms;
use crate::protocol::wire::command::MailParameters;
use crate::protocol::wire::later::{ByMode, DeliverBy};
use crate::time::Instant;

/// What was left, at an instant, of the time that a sender gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    left_ms: i64,
    at: Instant,
}

impl Deadline {
    /// `left_ms`: milliseconds that were left at `at`; negative if it was over.
    pub fn new(left_ms: i64, at: Instant) -> Deadline {
        Deadline { left_ms, at }
    }

    /// When it is over; no earlier than it was counted from.
    pub fn instant(self) -> Instant {
        let left = u64::try_from(self.left_ms).unwrap_or(0);
        Instant::from_nanos(self.at.as_nanos().saturating_add(left.saturating_mul(1_000_000)))
    }

    /// Is it over?
    pub fn is_over(self, now: Instant) -> bool {
        self.left_ms(now) <= 0
    }

    /// Seconds that are left, rounded up; negative if it is over.
    pub fn seconds(self, now: Instant) -> i32 {
        let left = self.left_ms(now);
        let seconds = left.div_euclid(1000) + i64::from(left.rem_euclid(1000) > 0);
        i32::try_from(seconds).unwrap_or(if left < 0 { i32::MIN } else { i32::MAX })
    }

    fn left_ms(self, now: Instant) -> i64 {
        let gone = now.nanos_since(self.at) / 1_000_000;
        self.left_ms.saturating_sub_unsigned(gone)
    }
}

impl Message {
    /// Notes what its sender asks about time, from `now` on; `unix_ms`: what the calendar says then.
    pub(super) fn note_times(&mut self, asked: &MailParameters<'_>, now: Instant, unix_ms: u64) {
        self.release = asked.hold.map_or(Instant::default(), |hold| {
            let wait_ms = hold.release_ms(unix_ms).saturating_sub(unix_ms);
            Instant::from_nanos(now.as_nanos().saturating_add(wait_ms.saturating_mul(1_000_000)))
        });
        self.deadline = asked.by.map(|by| Deadline::new(i64::from(by.seconds) * 1000, now));
    }

    /// What an upstream is told of it beforehand.
    pub(super) fn terms(&self, now: Instant) -> Terms {
        let by = |(by, deadline): (DeliverBy, Deadline)| DeliverBy { seconds: deadline.seconds(now), ..by };
        Terms { size: self.declared_size(), by: self.envelope.mail().by.zip(self.deadline).map(by) }
    }

    /// When it is to come back, if it is.
    pub(super) fn returns_at(&self) -> Option<Instant> {
        let by = self.envelope.mail().by.filter(|by| by.mode == ByMode::Return);
        by.and(self.deadline).map(Deadline::instant)
    }

    /// Is it to come back, and that now?
    pub(super) fn is_too_late(&self, now: Instant) -> bool {
        self.returns_at().is_some_and(|at| at <= now)
    }

    /// Is it to be said that it is late?
    pub(super) fn is_late(&self, now: Instant) -> bool {
        let goes_on = self.envelope.mail().by.is_some_and(|by| by.mode == ByMode::Notify);
        goes_on && self.deadline.is_some_and(|deadline| deadline.is_over(now))
    }
}

impl Dispatch {
    /// Has the transaction looked at when its sender's time is over.
    pub(super) fn note_deadline(&mut self, id: TransactionId) {
        if let Some(deadline) = self.transactions[id.slot as usize].message.deadline {
            self.transaction_deadlines.set(id.slot as usize, deadline.instant());
        }
    }

    /// Its sender's time is over, or was that of one in the same place before it.
    pub(super) fn transaction_expired(&mut self, slot: u32, now: Instant, buffers: &mut impl Buffers) {
        let transaction =
            self.transactions.get(slot as usize).filter(|transaction| transaction.groups_left > 0);
        let Some(transaction) = transaction else { return };
        let (id, message) =
            (TransactionId { slot, generation: transaction.generation }, &transaction.message);
        if message.is_too_late(now) {
            self.call_back(id);
        } else if message.is_late(now) {
            self.tell_late(id, now, buffers);
        }
    }

    /// Takes the message from all that are not committed to it. (What has not been asked for yet ends when it is.)
    fn call_back(&mut self, id: TransactionId) {
        self.note_groups(id);
        for i in 0..self.groups.len() {
            let Way { shard, pool } = self.groups[i];
            let group = GroupId { origin: self.options.shard, transaction: id, pool };
            self.post(shard, Letter::Withdraw { group, why: Withdrawal::TooLate });
        }
    }

    /// Takes a delivery that is to come back off the link that it is on, unless an upstream may have it already. One whose
    /// body is leaving has no end there yet, and without the link gets none.
    pub(super) fn take_off(&mut self, id: DeliveryId, now: Instant) {
        let attempt = &self.deliveries[id.0 as usize].attempt;
        let Some(on) = attempt.on else { return };
        let link = &self.links[on.0 as usize];
        let Some(nth) = link.place_of(id) else { return };
        if !attempt.dotted || link.is_leaving(nth) {
            self.call_off(on.0, nth, id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn seconds_are_rounded_up_and_may_have_run_out() {
        let deadline = Deadline::new(2_000, at(500));
        let seconds: Vec<i32> =
            [0, 500, 501, 1_500, 2_499, 2_500, 2_501, 3_500].map(|ms| deadline.seconds(at(ms))).into();
        assert_eq!(seconds, [2, 2, 2, 1, 1, 0, 0, -1]);
        assert_eq!(
            (deadline.instant(), deadline.is_over(at(2_499)), deadline.is_over(at(2_500))),
            (at(2_500), false, true)
        );
        let over = Deadline::new(-5_000, at(500));
        assert_eq!((over.instant(), over.seconds(at(500)), over.seconds(at(1_499))), (at(500), -5, -5));
    }
}
