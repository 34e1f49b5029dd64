//! The shard that took a message: groups out, outcomes in, one answer to the session.

use std::sync::Arc;

use super::Dispatch;
use super::keep::{Notice, Stage, Telling};
use super::message::{GroupId, Letter, Message, Outcome, Place, TransactionId, Word, unshared};
use super::notice::{self, Kind, Original, Remote, Settings, Times, Told};
use super::options::Options;
use super::owner::Way;
use super::router::Origin;
use super::streaming::Streaming;
use super::verdict::says_too_late;
use crate::handle::Buffers;
use crate::limits::NOTICE_RETURNED_BYTES_MAX;
use crate::protocol::wire::reply::{Enhanced, Reply, ReplyBuf};
use crate::spool::EntryId;
use crate::time::Instant;

/// In a list of refusals: all recipients that are not named.
pub(super) const EVERYBODY: u16 = u16::MAX;

/// A message that this shard took and whose groups have not all ended.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) generation: u32,
    pub(super) session: Option<u32>,
    pub(super) message: Arc<Message>,
    pub(super) groups_left: u16,
    /// None as long as it has not been sent.
    pub(super) groups: u16,
    /// The first group's words that was accepted.
    pub(super) accepted: Option<ReplyBuf>,
    /// Recipients refused, so far.
    pub(super) refused: Vec<Word>,
    /// Recipients accepted of which the sender is to hear, so far.
    pub(super) relayed: Vec<Word>,
    /// Where messages are kept, recipients that an upstream has taken it for, unless it is all of them.
    pub(super) taken: Vec<u16>,
    /// Where it is kept, or is being kept.
    pub(super) entry: Option<EntryId>,
    pub(super) stage: Stage,
    /// Its notices are being kept, and are to be before it is over.
    pub(super) telling: Option<Box<Telling>>,
    /// It is a notice, and what it tells of waits for it to be durable.
    pub(super) behalf: Option<TransactionId>,
    /// It was read back from where it is kept, and came then: seconds since 1970.
    pub(super) again: Option<u64>,
    pub(super) mail_at: Instant,
    pub(super) ended_at: Instant,
    /// Its body is still arriving, or has not all been sent.
    pub(super) streaming: Option<Box<Streaming>>,
}

impl Dispatch {
    /// Makes a transaction; it is not sent yet. `session`: who waits for the answer, if anybody does.
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
            relayed: Vec::new(),
            taken: Vec::new(),
            entry: None,
            stage: Stage::Sending,
            telling: None,
            behalf: None,
            again: None,
            mail_at,
            ended_at: now,
            streaming: None,
        });
        TransactionId { slot: slot as u32, generation }
    }

    /// The transaction, if it has not ended.
    pub(super) fn transaction(&self, id: TransactionId) -> Option<&Transaction> {
        self.transactions.get(id.slot as usize).filter(|transaction| transaction.generation == id.generation)
    }

    /// The same, to be changed.
    pub(super) fn transaction_mut(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        self.transactions.get_mut(id.slot as usize).filter(|t| t.generation == id.generation)
    }

    /// Sends the message's groups on their ways.
    pub(super) fn send_groups(&mut self, id: TransactionId, now: Instant) {
        self.count_groups(id);
        self.note_deadline(id);
        for i in 0..self.groups.len() {
            self.ask_group(id, self.groups[i], now);
        }
        let transaction = &self.transactions[id.slot as usize];
        if transaction.again.is_none() {
            self.stats.receive.record(transaction.ended_at.nanos_since(transaction.mail_at));
        }
    }

    /// Finds its groups (in `self.groups`); none of them has been asked for yet.
    pub(super) fn count_groups(&mut self, id: TransactionId) {
        self.note_groups(id);
        let groups = self.groups.len() as u16;
        let transaction = &mut self.transactions[id.slot as usize];
        (transaction.groups, transaction.groups_left) = (groups, groups);
    }

    /// Sends one of its groups on its way.
    pub(super) fn ask_group(&mut self, id: TransactionId, way: Way, now: Instant) {
        let transaction = &self.transactions[id.slot as usize];
        // Where what is put off can be kept, the refusal of one recipient need not be that of the message.
        let is_arriving = |streaming: &Streaming| !streaming.is_from_disk();
        let is_kept = self.is_keeping() && !transaction.streaming.as_deref().is_some_and(is_arriving);
        let (message, whole) = (transaction.message.clone(), transaction.groups == 1 && !is_kept);
        let (origin, Way { shard, pool }) = (self.options.shard, way);
        self.pools[usize::from(pool)].groups += 1;
        let group = GroupId { origin, transaction: id, pool };
        if shard == origin {
            self.new_delivery(message, group, whole, None, now);
        } else {
            let slip = self.slips.pop().unwrap_or_default();
            self.post(shard, Letter::Group { group, message, whole, slip });
        }
    }

    /// So many of its groups have never been asked for, and will not be.
    pub(super) fn forget_groups(
        &mut self,
        id: TransactionId,
        count: u16,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let slot = id.slot as usize;
        self.transactions[slot].groups_left -= count;
        if self.transactions[slot].groups_left == 0 {
            self.all_ended(id, now, buffers);
        }
    }

    /// The ways that recipients of the message go, each once.
    pub(super) fn note_groups(&mut self, id: TransactionId) {
        let Dispatch { transactions, groups, seen, .. } = self;
        let ways = &transactions[id.slot as usize].message.ways;
        groups.clear();
        if let [way] = ways[..] {
            debug_assert_ne!(way, Way::NOWHERE, "somebody is left");
            return groups.push(way);
        }
        let pools = self.pools.len();
        seen.resize(usize::from(self.options.shards) * pools, false);
        let place = |way: &Way| way.shard.index() * pools + usize::from(way.pool);
        for way in ways.iter().filter(|way| **way != Way::NOWHERE) {
            if !std::mem::replace(&mut seen[place(way)], true) {
                groups.push(*way);
            }
        }
        groups.iter().for_each(|way| seen[place(way)] = false);
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
            let before = transaction.taken.len();
            transaction.note_taken(way, &outcome.refused);
            // Whatever becomes of the others, these have it.
            if transaction.groups_left > 0 && transaction.stage == Stage::Sending {
                self.keeping.note_done(transaction.entry, &transaction.taken[before..], now);
            }
        }
        transaction.refused.extend(outcome.refused);
        transaction.relayed.extend(outcome.relayed);
        if outcome.accepted {
            transaction.accepted.get_or_insert(outcome.reply);
        } else if transaction.groups == 1 {
            // When there are other groups, each names all its refused recipients.
            transaction.refused.push(Word { recipient: EVERYBODY, reply: outcome.reply, by: outcome.by });
        }
        if transaction.groups_left == 0 {
            self.all_ended(id, now, buffers);
        }
    }

    /// All groups have ended. What is being written, or read, ends when the disk has answered.
    pub(super) fn all_ended(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let transaction = &self.transactions[id.slot as usize];
        if matches!(transaction.stage, Stage::Keeping | Stage::Loading) {
            return;
        }
        if transaction.entry.is_some() {
            self.blame_disk(id);
            self.end_attempt(id, now, buffers);
        } else if !self.keep_rest(id, now, buffers) {
            self.end_through(id, now, buffers);
        }
    }

    /// The upstreams have answered for the message, and the session, if there is one, is told what they said.
    pub(super) fn end_through(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let transaction = &mut self.transactions[id.slot as usize];
        transaction.leave_to_client();
        if transaction.accepted.is_some() && !transaction.message.internal {
            let refused = std::mem::take(&mut transaction.refused);
            let relayed = std::mem::take(&mut transaction.relayed);
            let are_late = refused.iter().all(|word| says_too_late(word.reply.as_reply()));
            let kind = if are_late { Kind::Overdue } else { Kind::Failed };
            let failed = self.notify(kind, id, &refused, now, buffers);
            self.notify(Kind::Relayed, id, &relayed, now, buffers);
            self.transactions[id.slot as usize].refused = refused;
            if self.wait_for(id, failed) {
                return;
            }
        }
        self.finish_through(id, now, buffers);
    }

    /// The same, when the notices are kept, where they are.
    pub(super) fn finish_through(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.stats.dispatch.record(now.nanos_since(transaction.ended_at));
        self.stats.total.record(now.nanos_since(transaction.mail_at));
        let internal = transaction.message.internal;
        if let Some(accepted) = &transaction.accepted {
            if let Some(session) = transaction.session {
                let mut text = std::mem::take(&mut self.text);
                accepted_text(accepted.as_reply(), &transaction, &mut text);
                let enhanced = Some(accepted.as_reply().enhanced.unwrap_or(Enhanced(2, 0, 0)));
                let reply = Reply { code: 250, enhanced, text: &text };
                self.session_verdict(session, id, reply, now, buffers);
                self.text = text;
            }
        } else if let Some(session) = transaction.session {
            let worst = worst(&transaction.refused);
            self.session_verdict(session, id, worst.as_reply(), now, buffers);
        }
        if internal && !transaction.refused.is_empty() {
            self.stats.bounces_dropped.add(1);
        }
        let behalf = transaction.behalf;
        self.dispose(transaction, buffers);
        if let Some(behalf) = behalf {
            self.told(behalf, true, now, buffers);
        }
    }

    /// Nothing is left to do for it.
    pub(super) fn dispose(&mut self, mut transaction: Transaction, buffers: &mut impl Buffers) {
        if let Some(streaming) = transaction.streaming.take() {
            self.end_streaming(*streaming, buffers);
        }
        // All groups have ended and with them every send: the buffers can receive again.
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

    /// Tells the sender of a message what became of some of its recipients, if there are any. What is told of a kept
    /// message's end is kept, or not told at all.
    pub(super) fn notify(
        &mut self,
        kind: Kind,
        of: TransactionId,
        words: &[Word],
        now: Instant,
        buffers: &mut impl Buffers,
    ) -> Notice {
        let transaction = &self.transactions[of.slot as usize];
        if words.is_empty() || transaction.message.internal {
            return Notice::Done;
        }
        let is_bounce = matches!(kind, Kind::Failed | Kind::Expired | Kind::Overdue);
        let is_its_end = transaction.entry.is_some() && is_bounce;
        let message = transaction.message.clone();
        let arrived = transaction.again.unwrap_or_else(|| self.unix_seconds(transaction.mail_at));
        let unix = self.unix_seconds(now);
        let released =
            message.envelope.mail().hold.map_or(arrived, |hold| hold.release(arrived).max(arrived));
        let until = (kind == Kind::Delayed).then(|| released + self.options.keep.max_age.as_secs());
        let times = Times { now: unix, arrived, tried: Some(unix), until };
        let id = self.new_message_id();
        let told: Vec<Told<'_>> = words.iter().map(|word| told(word, &self.options)).collect();
        let settings = Settings {
            hostname: &self.options.hostname,
            from: &self.options.bounce_from,
            returned_bytes_max: NOTICE_RETURNED_BYTES_MAX,
        };
        let original = Original::from(&*message);
        let mut shared = self.spares.take();
        let notice = unshared(&mut shared);
        notice.id = id;
        if !notice::write(notice, &original, kind, &told, &times, &settings, buffers) {
            self.stats.bounces_dropped.add(u64::from(is_bounce));
            self.spares.put(shared);
            return Notice::Done;
        }
        self.router.assign(notice, &self.options.routes, Origin::default(), buffers);
        let id = self.new_transaction(shared, None, now, now);
        if is_its_end {
            unshared(&mut self.transactions[id.slot as usize].message).kept = true;
            if self.keep(id, now, buffers).is_err() {
                let notice = self.transactions.remove(id.slot as usize);
                self.dispose(notice, buffers);
                return Notice::Refused;
            }
        } else {
            self.take_on(id, now, buffers);
        }
        let count = if is_bounce { &self.stats.bounces } else { &self.stats.relay_notices };
        count.add(1);
        if self.is_keeping() || is_its_end { Notice::Pending(id) } else { Notice::Done }
    }
}

impl Transaction {
    /// Of mail from `<>` nobody can be told that somebody it was put off for does not get it. So its client hears that, though
    /// others have it and are going to have it twice: what is put off is not lost.
    fn leave_to_client(&mut self) {
        let is_put_off = |word: &Word| word.reply.as_reply().is_temporary();
        let is_untold = self.message.envelope.sender().is_empty() && self.session.is_some();
        if is_untold && self.accepted.is_some() && self.refused.iter().any(is_put_off) {
            self.refused.retain(is_put_off);
            self.accepted = None;
        }
    }

    /// A group has ended, and an upstream has it for all but those refused.
    fn note_taken(&mut self, way: Way, refused: &[Word]) {
        let group = (0u16..).zip(&self.message.ways).filter(|(_, other)| **other == way);
        let is_taken = |recipient: &u16| refused.iter().all(|word| word.recipient != *recipient);
        self.taken.extend(group.map(|(recipient, _)| recipient).filter(is_taken));
    }
}

/// The same with the upstream's name, if it is still there.
fn told<'a>(word: &'a Word, options: &'a Options) -> Told<'a> {
    let upstream =
        |place: Place| options.pools.get(usize::from(place.pool))?.upstreams.get(usize::from(place.upstream));
    let remote = word.by.and_then(upstream);
    let remote = remote.map(|upstream| Remote { name: &upstream.name, address: upstream.address.ip() });
    Told { recipient: word.recipient, reply: &word.reply, remote }
}

/// The worst of several refusals: a permanent one before a temporary one.
pub(super) fn worst(refused: &[Word]) -> ReplyBuf {
    let worst = refused.iter().map(|word| &word.reply).max_by_key(|reply| reply.as_reply().code / 100);
    worst.cloned().unwrap_or_else(|| super::verdict::ours(0, "no upstream took the message"))
}

/// The upstream's text where one upstream answered for all, and always the message's id.
fn accepted_text(reply: Reply<'_>, transaction: &Transaction, text: &mut Vec<u8>) {
    text.clear();
    let id = transaction.message.id;
    if transaction.groups > 1 {
        text.extend_from_slice(b"Ok: accepted as ");
        id.write(text);
    } else {
        text.extend_from_slice(reply.text);
        text.extend_from_slice(b" (id ");
        id.write(text);
        text.push(b')');
    }
}
