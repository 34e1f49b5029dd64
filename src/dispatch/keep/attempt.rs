//! The end of an attempt at a kept message: who has it, who is told that they will not, and what is tried again.

use super::super::Dispatch;
use super::super::message::{TransactionId, Word};
use super::super::notice::Kind;
use super::super::owner::Way;
use super::super::transaction::{EVERYBODY, Transaction, worst};
use super::super::verdict::{ours, says_too_late};
use super::lane_of;
use super::telling::{Notice, Telling};
use crate::handle::Buffers;
use crate::protocol::wire::reply::ReplyBuf;
use crate::spool::EntryId;
use crate::time::Instant;

/// What became of the recipients of an attempt.
#[derive(Debug, Default)]
struct Fates {
    /// An upstream has taken it for them.
    taken: Vec<u16>,
    /// Refused for good.
    failed: Vec<Word>,
    /// Put off.
    later: Vec<Word>,
}

impl Fates {
    fn of(transaction: &Transaction) -> Fates {
        let mut fates = Fates::default();
        let mut refused: Vec<&Word> = transaction.refused.iter().collect();
        refused.sort_by_key(|word| word.recipient);
        let everybody = refused.last().filter(|word| word.recipient == EVERYBODY);
        for (recipient, way) in (0u16..).zip(&transaction.message.ways) {
            if *way == Way::NOWHERE {
                continue;
            }
            let named = refused.binary_search_by_key(&recipient, |word| word.recipient);
            match named.ok().map(|at| refused[at]).or(everybody.copied()) {
                None => fates.taken.push(recipient),
                Some(word) => {
                    let list = if word.reply.as_reply().is_permanent() {
                        &mut fates.failed
                    } else {
                        &mut fates.later
                    };
                    list.push(Word { recipient, ..word.clone() });
                }
            }
        }
        fates
    }
}

impl Dispatch {
    /// All groups of a kept message have ended. What is told of it has to be on disk before it is over.
    pub(in super::super) fn end_attempt(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let transaction = &self.transactions[id.slot as usize];
        let (Some(entry), Some(spool)) = (transaction.entry, &mut self.keeping.spool) else {
            return self.end_active(id, buffers);
        };
        if transaction.refused.is_empty() && transaction.relayed.is_empty() {
            spool.done_all(entry, now);
            return self.end_active(id, buffers);
        }
        let mut fates = Fates::of(transaction);
        let internal = transaction.message.internal;
        spool.done(entry, &fates.taken, now);
        let mut expired = Vec::new();
        // A notice is told from the disk: without room there, it is made later.
        if spool.refuses(now).is_some() {
            fates.later.append(&mut fates.failed);
        } else if !fates.later.is_empty() && spool.is_expired(entry, now) {
            self.stats.spool.expired.add(1);
            expired.append(&mut fates.later);
        }
        let relayed = std::mem::take(&mut self.transactions[id.slot as usize].relayed);
        self.notify(Kind::Relayed, id, &relayed, now, buffers);
        let mut telling = Telling { later: fates.later, ..Telling::default() };
        let mut notices = Vec::new();
        let (overdue, failed): (Vec<Word>, Vec<Word>) =
            fates.failed.into_iter().partition(|word| says_too_late(word.reply.as_reply()));
        self.stats.spool.expired.add(u64::from(!overdue.is_empty()));
        for (kind, mut words) in [(Kind::Failed, failed), (Kind::Expired, expired), (Kind::Overdue, overdue)]
        {
            if internal {
                self.stats.bounces_dropped.add(u64::from(!words.is_empty()));
                telling.told.append(&mut words);
                continue;
            }
            match self.notify(kind, id, &words, now, buffers) {
                Notice::Refused => telling.later.append(&mut words),
                notice => {
                    notices.push(notice);
                    telling.told.append(&mut words);
                }
            }
        }
        if !telling.told.is_empty() || !telling.later.is_empty() {
            self.transactions[id.slot as usize].telling = Some(Box::new(telling));
        }
        let waits = notices.into_iter().filter(|notice| self.wait_for(id, *notice)).count();
        if waits == 0 {
            self.finish_attempt(id, entry, now, buffers);
        }
    }

    /// The attempt is over, and so are all that were told of it.
    pub(super) fn finish_attempt(
        &mut self,
        id: TransactionId,
        entry: EntryId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        if let Some(telling) = self.transactions[id.slot as usize].telling.take() {
            let Telling { is_lost, told, mut later, .. } = *telling;
            if is_lost {
                later.extend(told);
            } else if let Some(spool) = &mut self.keeping.spool {
                let over: Vec<u16> = told.iter().map(|word| word.recipient).collect();
                spool.done(entry, &over, now);
            }
            if !later.is_empty() {
                self.try_later(entry, id, &later, now, buffers);
            }
        }
        self.end_active(id, buffers);
    }

    /// Nothing is left to do for it now.
    fn end_active(&mut self, id: TransactionId, buffers: &mut impl Buffers) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.leave_active(&transaction);
        self.dispose(transaction, buffers);
    }

    fn try_later(
        &mut self,
        entry: EntryId,
        id: TransactionId,
        later: &[Word],
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.stats.spool.deferred.add(1);
        let message = &self.transactions[id.slot as usize].message;
        let lane = lane_of(&self.options, message.ways[usize::from(later[0].recipient)].pool);
        let Some(spool) = &mut self.keeping.spool else { return };
        let facts = spool.entry(entry);
        if facts.as_ref().is_some_and(|facts| facts.held_until.is_some()) {
            // It was to end before it may go, and that could not be told: it has not been tried.
            return spool.release(entry, now);
        }
        let is_due = message.is_late(now) && facts.as_ref().is_some_and(|facts| !facts.late_told);
        let is_told = facts.is_none_or(|facts| facts.delay_warned || facts.message.internal);
        let is_late = spool.tried_for(entry, now).is_some_and(|age| age >= self.options.keep.delay_warning);
        spool.defer(entry, lane, &worst(later), now);
        if is_due {
            spool.set_late_told(entry, now);
        } else if is_told || !is_late {
            return;
        }
        spool.set_delay_warned(entry, now);
        // A time given by the sender is as good as having asked; that it is old here is told to whoever did.
        let asked = |word: &&Word| {
            let notify = message.envelope.recipient(usize::from(word.recipient)).notify;
            notify.map_or(is_due, |notify| notify.delay)
        };
        let late: Vec<Word> = later.iter().filter(asked).cloned().collect();
        self.notify(Kind::Delayed, id, &late, now, buffers);
    }

    /// Tells the sender of a kept message that it has not been delivered in the time given, once.
    pub(in super::super) fn tell_late(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let transaction = &self.transactions[id.slot as usize];
        let (Some(entry), Some(spool)) = (transaction.entry, &mut self.keeping.spool) else { return };
        if spool.entry(entry).is_none_or(|facts| facts.late_told) {
            return;
        }
        spool.set_late_told(entry, now);
        let message = &transaction.message;
        let left = (0u16..).zip(&message.ways).filter(|(_, way)| **way != Way::NOWHERE);
        let left =
            left.map(|(recipient, _)| recipient).filter(|recipient| !transaction.taken.contains(recipient));
        let wants = |recipient: &u16| {
            let notify = message.envelope.recipient(usize::from(*recipient)).notify;
            Kind::Delayed.is_wanted(notify, true)
        };
        let reply = ours(7, "not delivered yet, and the time that its sender gave it is over");
        let words: Vec<Word> =
            left.filter(wants).map(|recipient| Word { recipient, reply: reply.clone(), by: None }).collect();
        self.notify(Kind::Delayed, id, &words, now, buffers);
    }

    /// Nobody tries any more: a message that is too old when it is read back, or that an operator has given up on.
    pub(super) fn end_untried(
        &mut self,
        id: TransactionId,
        reply: ReplyBuf,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let word = Word { recipient: EVERYBODY, reply, by: None };
        self.transactions[id.slot as usize].refused.push(word);
        self.end_attempt(id, now, buffers);
    }

    pub(super) fn leave_active(&mut self, transaction: &Transaction) {
        if transaction.entry.is_some() {
            let count =
                if transaction.again.is_some() { &mut self.keeping.again } else { &mut self.keeping.fresh };
            *count -= 1;
        }
    }
}
