//! The end of an attempt at a kept message: who has it, who is told that they will not, and what is tried again.

use super::super::bounce::EVERYBODY;
use super::super::message::TransactionId;
use super::super::owner::Way;
use super::super::transaction::Transaction;
use super::super::verdict::ours;
use super::super::{Dispatch, bounce};
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
    failed: Vec<(u16, ReplyBuf)>,
    /// Put off.
    later: Vec<(u16, ReplyBuf)>,
}

impl Fates {
    fn of(transaction: &Transaction) -> Fates {
        let mut fates = Fates::default();
        let mut refused: Vec<&(u16, ReplyBuf)> = transaction.refused.iter().collect();
        refused.sort_by_key(|(recipient, _)| *recipient);
        let everybody = refused.last().filter(|(recipient, _)| *recipient == EVERYBODY);
        for (recipient, way) in (0u16..).zip(&transaction.message.ways) {
            if *way == Way::NOWHERE {
                continue;
            }
            let named = refused.binary_search_by_key(&recipient, |(recipient, _)| *recipient);
            match named.ok().map(|at| refused[at]).or(everybody.copied()) {
                None => fates.taken.push(recipient),
                Some((_, reply)) if reply.as_reply().is_permanent() => {
                    fates.failed.push((recipient, reply.clone()));
                }
                Some((_, reply)) => fates.later.push((recipient, reply.clone())),
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
        let Some(spool) = &mut self.keeping.spool else {
            return self.dispose(transaction, buffers);
        };
        if !fates.later.is_empty() && spool.is_expired(entry, now) {
            self.stats.spool.expired.add(1);
            fates.failed.append(&mut fates.later);
        }
        // Who is to be told of a failure is told from the disk: without room there, it is tried again later.
        if spool.is_refusing(now) {
            fates.later.append(&mut fates.failed);
        }
        self.report_failures(&transaction, &fates.failed, now, buffers);
        let settled = fates.taken.iter().copied().chain(fates.failed.iter().map(|(recipient, _)| *recipient));
        let settled: Vec<u16> = settled.collect();
        if let Some(spool) = &mut self.keeping.spool {
            spool.done(entry, &settled, now);
        }
        if !fates.later.is_empty() {
            self.try_later(entry, &transaction, &fates.later, now);
        }
        self.dispose(transaction, buffers);
    }

    fn report_failures(
        &mut self,
        transaction: &Transaction,
        failed: &[(u16, ReplyBuf)],
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        if failed.is_empty() {
            return;
        }
        if transaction.message.internal {
            self.stats.bounces_dropped.add(1);
        } else {
            self.bounce(&transaction.message, failed, now, buffers);
        }
    }

    fn try_later(
        &mut self,
        entry: EntryId,
        transaction: &Transaction,
        later: &[(u16, ReplyBuf)],
        now: Instant,
    ) {
        let reply = bounce::worst(later);
        let pool = transaction.message.ways[usize::from(later[0].0)].pool;
        let lane = lane_of(&self.options.pools, pool);
        if let Some(spool) = &mut self.keeping.spool {
            spool.defer(entry, lane, &reply, now);
        }
        self.stats.spool.deferred.add(1);
    }

    /// Nobody tries any more: a message that is too old when it is read back, or that an operator has given up on.
    pub(super) fn end_untried(
        &mut self,
        id: TransactionId,
        reply: ReplyBuf,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        self.transactions[id.slot as usize].refused.push((EVERYBODY, reply));
        self.end_attempt(id, now, buffers);
    }

    pub(super) fn leave_active(&mut self, transaction: &Transaction) {
        if transaction.entry.is_some() {
            let count = if transaction.is_again { &mut self.keeping.again } else { &mut self.keeping.fresh };
            *count -= 1;
        }
    }
}
