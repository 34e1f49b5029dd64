//! The shard that took a message: groups out, outcomes in, one answer to the session.

use std::io::Write;
use std::sync::Arc;

use super::bounce;
use super::keep::Stage;
use super::message::{Letter, Message, Outcome, TransactionId, unshared};
use super::owner::Way;
use super::router::Origin;
use super::{Dispatch, Queued};
use crate::handle::Buffers;
use crate::protocol::wire::reply::{Enhanced, Reply, ReplyBuf};
use crate::spool::EntryId;
use crate::time::Instant;

/// A message that this shard took and whose groups have not all ended.
#[derive(Debug)]
pub(super) struct Transaction {
    generation: u32,
    pub(super) session: Option<u32>,
    pub(super) message: Arc<Message>,
    pub(super) groups_left: u16,
    /// None as long as it has not been sent.
    pub(super) groups: u16,
    /// The first group's words that was accepted.
    pub(super) accepted: Option<ReplyBuf>,
    /// Recipients refused, so far.
    pub(super) refused: Vec<(u16, ReplyBuf)>,
    /// Recipients that an upstream has taken it for, unless it is all of them.
    pub(super) taken: Vec<u16>,
    /// Where it is kept, or is being kept.
    pub(super) entry: Option<EntryId>,
    pub(super) stage: Stage,
    /// It was read back from where it is kept.
    pub(super) is_again: bool,
    mail_at: Instant,
    ended_at: Instant,
}

impl Dispatch {
    pub(super) fn new_transaction(
        &mut self,
        message: Arc<Message>,
        session: Option<u32>,
        mail_at: Instant,
        now: Instant,
    ) -> TransactionId {
        let generation = self.next_generation();
        let slot = self.transactions.insert(Transaction {
            generation,
            session,
            message,
            groups_left: 0,
            groups: 0,
            accepted: None,
            refused: Vec::new(),
            taken: Vec::new(),
            entry: None,
            stage: Stage::Sending,
            is_again: false,
            mail_at,
            ended_at: now,
        });
        TransactionId { slot: slot as u32, generation }
    }

    /// The transaction, if it has not ended.
    pub(super) fn transaction(&self, id: TransactionId) -> Option<&Transaction> {
        self.transactions.get(id.slot as usize).filter(|transaction| transaction.generation == id.generation)
    }

    /// Sends the message's groups on their ways.
    pub(super) fn send_groups(&mut self, id: TransactionId, now: Instant) {
        let message = self.transactions[id.slot as usize].message.clone();
        self.note_groups(&message);
        let groups = self.groups.len() as u16;
        let transaction = &mut self.transactions[id.slot as usize];
        (transaction.groups, transaction.groups_left) = (groups, groups);
        if !transaction.is_again {
            self.stats.receive.record(now.nanos_since(transaction.mail_at));
        }
        // Where what is put off can be kept, the refusal of one recipient need not be that of the message.
        let whole = groups == 1 && !self.is_keeping();
        let origin = self.options.shard;
        for i in 0..self.groups.len() {
            let Way { shard, pool } = self.groups[i];
            self.pools[usize::from(pool)].groups += 1;
            if shard == origin {
                self.new_delivery(message.clone(), origin, id, pool, whole, now);
            } else {
                let message = message.clone();
                let letter = Letter::Group { origin, transaction: id, message, pool, whole };
                self.stats.letters.add(1);
                self.commands.push_back(Queued::Post { shard, letter });
            }
        }
    }

    /// The ways that recipients of the message go, each once.
    fn note_groups(&mut self, message: &Message) {
        self.groups.clear();
        if let [way] = message.ways[..] {
            return self.groups.push(way);
        }
        let pools = self.pools.len();
        self.seen.resize(usize::from(self.options.shards) * pools, false);
        let place = |way: &Way| way.shard.index() * pools + usize::from(way.pool);
        for way in message.ways.iter().filter(|way| **way != Way::NOWHERE) {
            if !std::mem::replace(&mut self.seen[place(way)], true) {
                self.groups.push(*way);
            }
        }
        self.groups.iter().for_each(|way| self.seen[place(way)] = false);
    }

    /// One group has ended; when all have, the session is answered.
    pub(super) fn group_ended(
        &mut self,
        id: TransactionId,
        way: Way,
        outcome: Outcome,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let is_keeping = self.is_keeping();
        let slot = id.slot as usize;
        let Some(transaction) = self.transactions.get_mut(slot).filter(|t| t.generation == id.generation)
        else {
            debug_assert!(false, "an outcome for a transaction that is over");
            return;
        };
        transaction.groups_left -= 1;
        if is_keeping && outcome.accepted && (transaction.groups > 1 || !outcome.refused.is_empty()) {
            transaction.note_taken(way, &outcome.refused);
        }
        transaction.refused.extend(outcome.refused);
        if outcome.accepted {
            transaction.accepted.get_or_insert(outcome.reply);
        } else if transaction.groups == 1 {
            // When there are other groups, each names all its refused recipients.
            transaction.refused.push((bounce::EVERYBODY, outcome.reply));
        }
        if transaction.groups_left > 0 || transaction.stage == Stage::Keeping {
            return;
        }
        if transaction.entry.is_some() {
            self.end_attempt(id, now, buffers);
        } else if !self.keep_rest(id, now, buffers) {
            let transaction = self.transactions.remove(slot);
            self.end_through(transaction, now, buffers);
        }
    }

    /// The upstreams have answered for the message, and the session, if there is one, is told what they said.
    pub(super) fn end_through(&mut self, transaction: Transaction, now: Instant, buffers: &mut impl Buffers) {
        self.stats.dispatch.record(now.nanos_since(transaction.ended_at));
        self.stats.total.record(now.nanos_since(transaction.mail_at));
        let internal = transaction.message.internal;
        if let Some(accepted) = &transaction.accepted {
            if !transaction.refused.is_empty() && !internal {
                self.bounce(&transaction.message, &transaction.refused, now, buffers);
            }
            if let Some(session) = transaction.session {
                let mut text = std::mem::take(&mut self.text);
                accepted_text(accepted.as_reply(), &transaction, &mut text);
                let enhanced = Some(accepted.as_reply().enhanced.unwrap_or(Enhanced(2, 0, 0)));
                self.session_verdict(session, Reply { code: 250, enhanced, text: &text }, now, buffers);
                self.text = text;
            }
        } else if let Some(session) = transaction.session {
            let worst = bounce::worst(&transaction.refused);
            self.session_verdict(session, worst.as_reply(), now, buffers);
        }
        if internal && !transaction.refused.is_empty() {
            self.stats.bounces_dropped.add(1);
        }
        self.dispose(transaction, buffers);
    }

    /// All groups have ended and with them every send: the buffers can receive again.
    pub(super) fn dispose(&mut self, mut transaction: Transaction, buffers: &mut impl Buffers) {
        match Arc::get_mut(&mut transaction.message) {
            Some(message) => message.release_body(buffers),
            None => transaction.message.body.iter().for_each(|extent| buffers.release(extent.buffer)),
        }
        self.spares.put(transaction.message);
    }

    /// The session is gone; nobody waits for the answer any more.
    pub(super) fn abandon_transaction(&mut self, id: TransactionId) {
        if let Some(transaction) = self.transactions.get_mut(id.slot as usize)
            && transaction.generation == id.generation
        {
            transaction.session = None;
        }
    }

    /// Tells the sender of a message that some of its recipients were refused while others were not.
    pub(super) fn bounce(
        &mut self,
        message: &Message,
        refused: &[(u16, ReplyBuf)],
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let id = self.new_message_id();
        let unix = self.unix_seconds(now);
        let mut shared = self.spares.take();
        let bounce = unshared(&mut shared);
        bounce.id = id;
        let made = bounce::write(bounce, message, refused, &self.options, self.date.at(unix), buffers);
        if !made {
            self.stats.bounces_dropped.add(1);
            self.spares.put(shared);
            return;
        }
        self.router.assign(bounce, &self.options.routes, Origin::default(), buffers);
        self.stats.bounces.add(1);
        let id = self.new_transaction(shared, None, now, now);
        self.take_on(id, now, buffers);
    }
}

impl Transaction {
    /// A group has ended, and an upstream has it for all but those refused.
    fn note_taken(&mut self, way: Way, refused: &[(u16, ReplyBuf)]) {
        let group = (0u16..).zip(&self.message.ways).filter(|(_, other)| **other == way);
        let is_taken = |recipient: &u16| refused.iter().all(|(other, _)| other != recipient);
        self.taken.extend(group.map(|(recipient, _)| recipient).filter(is_taken));
    }
}

/// The upstream's text where one upstream answered for all, and always the message's id.
fn accepted_text(reply: Reply<'_>, transaction: &Transaction, text: &mut Vec<u8>) {
    text.clear();
    let id = transaction.message.id;
    let written = if transaction.groups > 1 {
        write!(text, "Ok: accepted as {id}")
    } else {
        text.extend_from_slice(reply.text);
        write!(text, " (id {id})")
    };
    written.expect("writing to memory");
}
