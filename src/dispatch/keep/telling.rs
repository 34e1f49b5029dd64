//! Notices that have to be on disk before what they tell of is over: until then nobody else knows of it.

use super::super::Dispatch;
use super::super::message::{TransactionId, Word};
use super::Stage;
use crate::handle::Buffers;
use crate::time::Instant;

/// What a transaction has that waits for its notices.
#[derive(Debug, Default)]
pub(in super::super) struct Telling {
    /// Notices that are neither on disk yet nor over.
    pub(super) waits: u16,
    /// One could not be kept.
    pub(super) is_lost: bool,
    /// Recipients that the notices are about.
    pub(super) told: Vec<Word>,
    /// Recipients to be tried again.
    pub(super) later: Vec<Word>,
}

/// What came of a notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Notice {
    /// There is nothing to tell, or nobody to be told; or nothing is kept, and it is on its way.
    Done,
    /// It is being written, or sent where it cannot be.
    Pending(TransactionId),
    /// The disk does not take it, so that it does not exist.
    Refused,
}

impl Dispatch {
    /// The transaction ends when that notice is on disk, or over. False if it need not wait.
    pub(in super::super) fn wait_for(&mut self, id: TransactionId, notice: Notice) -> bool {
        let Notice::Pending(notice) = notice else { return false };
        self.transactions[notice.slot as usize].behalf = Some(id);
        let transaction = &mut self.transactions[id.slot as usize];
        transaction.stage = Stage::Telling;
        transaction.telling.get_or_insert_default().waits += 1;
        true
    }

    /// A notice is on disk or over, or is not and will not be.
    pub(in super::super) fn told(
        &mut self,
        id: TransactionId,
        is_kept: bool,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let Some(transaction) = self.transaction_mut(id) else { return };
        let Some(telling) = &mut transaction.telling else { return };
        telling.waits -= 1;
        telling.is_lost |= !is_kept;
        match (telling.waits, transaction.entry) {
            (0, Some(entry)) => self.finish_attempt(id, entry, now, buffers),
            (0, None) => self.finish_through(id, now, buffers),
            _ => {}
        }
    }
}
