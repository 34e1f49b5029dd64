//! The end of an attempt at a kept message: who has it, who is told that they will not, and what is tried again.

use super::super::Dispatch;
use super::super::message::{TransactionId, Word};
use super::super::notice::Kind;
use super::super::owner::Way;
use super::super::transaction::{EVERYBODY, Transaction, worst};
use super::lane_of;
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
    /// All groups of a kept message have ended.
    pub(in super::super) fn end_attempt(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.leave_active(&transaction);
        let Some(entry) = transaction.entry else {
            return self.dispose(transaction, buffers);
        };
        let mut fates = Fates::of(&transaction);
        let mut expired = Vec::new();
        let Some(spool) = &mut self.keeping.spool else {
            return self.dispose(transaction, buffers);
        };
        // A notice is told from the disk: without room there, it is made later.
        if spool.refuses(now).is_some() {
            fates.later.append(&mut fates.failed);
        } else if !fates.later.is_empty() && spool.is_expired(entry, now) {
            self.stats.spool.expired.add(1);
            expired.append(&mut fates.later);
        }
        if transaction.message.internal {
            self.stats.bounces_dropped.add(u64::from(!fates.failed.is_empty() || !expired.is_empty()));
        } else {
            self.notify(Kind::Failed, &transaction, &fates.failed, now, buffers);
            self.notify(Kind::Expired, &transaction, &expired, now, buffers);
            self.notify(Kind::Relayed, &transaction, &transaction.relayed, now, buffers);
        }
        let over = fates.failed.iter().chain(&expired).map(|word| word.recipient);
        fates.taken.extend(over);
        if let Some(spool) = &mut self.keeping.spool {
            spool.done(entry, &fates.taken, now);
        }
        if !fates.later.is_empty() {
            self.try_later(entry, &transaction, &fates.later, now, buffers);
        }
        self.dispose(transaction, buffers);
    }

    fn try_later(
        &mut self,
        entry: EntryId,
        transaction: &Transaction,
        later: &[Word],
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.stats.spool.deferred.add(1);
        let pool = transaction.message.ways[usize::from(later[0].recipient)].pool;
        let lane = lane_of(&self.options, pool);
        let Some(spool) = &mut self.keeping.spool else { return };
        let facts = spool.entry(entry);
        let is_told = facts.is_none_or(|facts| facts.delay_warned || facts.message.internal);
        let is_late = spool.age(entry, now).is_some_and(|age| age >= self.options.keep.delay_warning);
        spool.defer(entry, lane, &worst(later), now);
        if is_told || !is_late {
            return;
        }
        spool.set_delay_warned(entry, now);
        let asked = |word: &&Word| {
            let notify = transaction.message.envelope.recipient(usize::from(word.recipient)).notify;
            notify.is_some_and(|notify| notify.delay)
        };
        let late: Vec<Word> = later.iter().filter(asked).cloned().collect();
        self.notify(Kind::Delayed, transaction, &late, now, buffers);
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
