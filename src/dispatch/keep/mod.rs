//! Messages that are kept: on disk before they are acknowledged, and from there tried again until each recipient is
//! delivered or bounced. To a transaction the spool is what a session is: somebody that waits for its end.
//!
//! In `spool` mode a message is kept first and sent when it is durable. In `through-then-spool` it is sent first; what
//! no upstream would take, or not in time, is kept with the recipients that are left. A transaction whose message is
//! being written ends only when the disk has answered: until then its body is in use.

mod attempt;
mod due;
mod orders;
mod telling;

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::time::Duration;

pub use orders::{Action, Answer, Order, Row, Selection, list_kept};

pub(super) use telling::{Notice, Telling};

use super::message::{TransactionId, unshared};
use super::options;
use super::owner::Way;
use super::transaction::Transaction;
use super::{Dispatch, PoolState};
use crate::handle::{Buffers, Ticket};
use crate::protocol::wire::reply::{Enhanced, Reply};
use crate::spool::{EntryId, Event, Kept, NO_POOL, Refusal, Request, Spool};
use crate::time::Instant;

/// Who answers for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The upstream.
    #[default]
    Through,
    /// The disk.
    Spool,
    /// The upstream, and the disk for what none would take in time.
    ThroughThenSpool,
}

/// How messages are kept.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who answers.
    pub mode: Mode,
    /// How long upstreams have before the disk answers.
    pub through_timeout: Duration,
    /// How old a message is when those that asked for it are told that it is late.
    pub delay_warning: Duration,
    /// The time to the next attempt after the first, the second, …; the last repeats.
    pub retry: Vec<Duration>,
    /// How long a message is tried.
    pub max_age: Duration,
}

const DISK_FULL: Reply<'static> = Reply::new(452, Enhanced(4, 3, 1), "The spool is full, try again later");
pub(super) const DAMAGED: Reply<'static> =
    Reply::new(554, Enhanced(5, 3, 0), "the message was damaged on disk");
pub(super) const UNREADABLE: Reply<'static> =
    Reply::new(451, Enhanced(4, 3, 0), "the message could not be read from the disk");
const DISK_FAILING: Reply<'static> =
    Reply::new(451, Enhanced(4, 3, 0), "The spool cannot be written, try again later");

/// What a shard knows of the messages that it keeps.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    spool: Option<Box<Spool>>,
    /// Transactions, and when they are to be kept if a client still waits for them then; in order.
    overdue: VecDeque<(Instant, TransactionId)>,
    /// Kept messages under way in their first attempt, and those read back.
    fresh: usize,
    again: usize,
    /// The most buffers that were ever free.
    buffers_most: usize,
    /// When it is next worth looking for what is due.
    look_at: Instant,
    /// The write that was begun last, and when.
    writing: (Ticket, Instant),
    /// Messages that the disk would not take, and whose sessions are to be told.
    refused: VecDeque<(TransactionId, Refusal)>,
    /// Recipients at hand.
    recipients: Vec<u16>,
    /// Messages that an operator has given up on and that are still to be read for their bounces.
    doomed: VecDeque<EntryId>,
    /// Those among what is under way.
    given_up: HashSet<EntryId>,
    /// How far those due at pools without a taker have been gone through for what is too old.
    swept: u32,
    /// An operator's order being carried out.
    errand: Option<orders::Errand>,
}

impl Keeping {
    pub(super) fn spool_mut(&mut self) -> Option<&mut Spool> {
        self.spool.as_deref_mut()
    }

    /// An upstream has a kept message for these.
    pub(super) fn note_done(&mut self, entry: Option<EntryId>, recipients: &[u16], now: Instant) {
        if let (Some(entry), Some(spool)) = (entry, &mut self.spool) {
            spool.done(entry, recipients, now);
        }
    }
}

/// What a transaction waits for besides its groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// Nothing.
    #[default]
    Sending,
    /// The disk's word that its message is durable.
    Keeping,
    /// Its body, which is being read.
    Loading,
    /// That its notices are durable.
    Telling,
}

/// What the disk cannot read now is due again after this.
pub(super) const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

impl Dispatch {
    /// Keeps messages here from now on. What was found in the spool at the start is in it.
    pub fn set_spool(&mut self, spool: Spool) {
        self.keeping.spool = Some(Box::new(spool));
    }

    pub(super) fn tell_spool_the_time(&mut self) {
        if let (Some(spool), Ok(ms)) = (&mut self.keeping.spool, u64::try_from(self.unix_at_zero_ms)) {
            spool.set_unix_at_zero_ms(ms);
        }
    }

    /// The spool, to be looked at.
    pub fn spool(&self) -> Option<&Spool> {
        self.keeping.spool.as_deref()
    }

    /// What the disk is to do next. To be called until `None` after any `handle_*`.
    pub fn poll_disk(&mut self, now: Instant, buffers: &mut impl Buffers) -> Option<Request<'_>> {
        let Keeping { spool, writing, .. } = &mut self.keeping;
        let request = spool.as_mut()?.poll_request(now, buffers)?;
        if let Request::Write { ticket, .. } = request {
            *writing = (ticket, now);
        }
        Some(request)
    }

    /// The disk has done what that ticket stood for, or failed: errno.
    pub fn handle_disk(
        &mut self,
        ticket: Ticket,
        result: Result<u32, i32>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let Keeping { spool, writing, .. } = &mut self.keeping;
        if let Some(spool) = spool {
            if writing.0 == ticket {
                self.stats.spool.sync.record(now.nanos_since(writing.1));
            }
            spool.handle_completion(ticket, result, now, buffers);
        }
        self.settle(now, buffers);
    }

    /// A transaction just made goes its way, as the mode wants it.
    pub(super) fn take_on(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let session = self.transactions[id.slot as usize].session;
        let mode = if self.is_keeping() { self.options.keep.mode } else { Mode::Through };
        let is_held = self.transactions[id.slot as usize].message.release > now;
        let is_first = match mode {
            Mode::Through => false,
            Mode::Spool => true,
            Mode::ThroughThenSpool => session.is_none() || is_held,
        };
        if is_first {
            unshared(&mut self.transactions[id.slot as usize].message).kept = true;
            match self.keep(id, now, buffers) {
                Ok(()) => return,
                // Nobody is there to be told: better sent than lost.
                Err(_) if session.is_none() => {}
                // The session is still at the message's end: it is answered when it has come to rest.
                Err(refusal) => return self.keeping.refused.push_back((id, refusal)),
            }
        } else if mode == Mode::ThroughThenSpool {
            self.note_overdue(now + self.options.keep.through_timeout, id);
        }
        self.send_groups(id, now);
    }

    /// Whether there is a place to keep messages in.
    pub(super) fn is_keeping(&self) -> bool {
        self.keeping.spool.is_some() && self.options.keep.mode != Mode::Through
    }

    /// Has the transaction's message written, with the recipients that nobody has taken yet.
    pub(super) fn keep(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) -> Result<(), Refusal> {
        let zero_ms = self.unix_at_zero_ms;
        let Keeping { spool: Some(spool), recipients, .. } = &mut self.keeping else {
            return Err(Refusal::Failing);
        };
        let transaction = &mut self.transactions[id.slot as usize];
        let message = &*transaction.message;
        recipients.clear();
        transaction.left(recipients);
        let pool = recipients.first().map_or(NO_POOL, |first| message.ways[usize::from(*first)].pool);
        let lane = lane_of(&self.options, pool);
        let listener =
            message.listener.and_then(|listener| self.options.listeners.get(usize::from(listener.0)));
        let kept = Kept {
            id: message.id,
            envelope: &message.envelope,
            remaining: recipients,
            head: &message.head,
            body: &message.body,
            size: message.size,
            shape: message.shape,
            internal: message.internal,
            listener: listener.map_or("", |listener| &listener.name),
            source: message.origin,
            source_key: message.source,
            created_unix_ms: super::unix_ms(zero_ms, transaction.mail_at),
            pool: lane,
            attempts: 0,
        };
        // By a connection for each message more come and go in a second than there are at a time.
        spool.set_sources(self.talkers.count().min(self.sessions.len()));
        transaction.entry = Some(spool.append(&kept, token_of(id), now, buffers)?);
        transaction.stage = Stage::Keeping;
        Ok(())
    }

    /// Deals with what the disk has brought, and with what is late or due.
    pub(super) fn settle_kept(&mut self, now: Instant, buffers: &mut impl Buffers) -> bool {
        let mut anything = false;
        while let Some((id, refusal)) = self.keeping.refused.pop_front() {
            anything = true;
            self.refused_by_disk(id, refusal, now, buffers);
        }
        while let Some(event) = self.keeping.spool.as_mut().and_then(|spool| spool.poll_event()) {
            anything = true;
            self.kept_event(event, now, buffers);
        }
        anything
    }

    fn kept_event(&mut self, event: Event, now: Instant, buffers: &mut impl Buffers) {
        let (token, fact) = match event {
            Event::Durable { token, .. } => (token, Stage::Keeping),
            Event::NotKept { token, errno, .. } => {
                return self.not_kept(transaction_of(token), Refusal::of(errno), now, buffers);
            }
            Event::Loaded { token, .. } => (token, Stage::Loading),
            Event::PartLoaded { token, crc, .. } => {
                return self.part_loaded(transaction_of(token), crc, now, buffers);
            }
            Event::Unreadable { token, .. } => return self.unread(transaction_of(token), now, buffers),
            Event::Damaged { entry, token } => {
                return self.damaged(entry, token.map(transaction_of), now, buffers);
            }
        };
        let id = transaction_of(token);
        debug_assert_eq!(
            self.transaction(id).map(|t| t.stage),
            Some(fact),
            "the disk answers what was asked"
        );
        match fact {
            Stage::Keeping => self.durable(id, now, buffers),
            Stage::Loading => self.loaded(id, now, buffers),
            Stage::Sending | Stage::Telling => {}
        }
    }

    /// The message is on disk: the client need not wait any longer.
    fn durable(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) {
        let Some(transaction) = self.transactions.get_mut(id.slot as usize) else { return };
        transaction.stage = Stage::Sending;
        let behalf = transaction.behalf.take();
        let (is_unsent, has_ended) = (transaction.groups == 0, transaction.groups_left == 0);
        let session = transaction.session.take();
        self.keeping.fresh += 1;
        if let Some(session) = session {
            let mut text = std::mem::take(&mut self.text);
            text.clear();
            let name = self.transactions[id.slot as usize].message.id;
            write!(text, "Ok: kept as {name}").expect("writing to memory");
            let reply = Reply { code: 250, enhanced: Some(Enhanced(2, 0, 0)), text: &text };
            self.session_verdict(session, id, reply, now, buffers);
            self.text = text;
        }
        self.stats.spool.kept.add(1);
        if let Some(behalf) = behalf {
            self.told(behalf, true, now, buffers);
        }
        self.note_deadline(id);
        if is_unsent && self.wait_for_release(id, now, buffers) {
            return;
        }
        match (is_unsent, has_ended) {
            (true, _) if self.has_room_for_fresh(buffers) => self.send_groups(id, now),
            (true, _) => self.put_back(id, now, buffers),
            (false, true) => self.end_attempt(id, now, buffers),
            (false, false) => {}
        }
    }

    /// A message that is to go later only (RFC 4865) waits on disk until then.
    pub(super) fn wait_for_release(
        &mut self,
        id: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) -> bool {
        let Transaction { message, entry, .. } = &self.transactions[id.slot as usize];
        let release = message.release;
        if release <= now {
            return false;
        }
        if let (Some(entry), Some(spool)) = (*entry, &mut self.keeping.spool) {
            spool.hold(entry);
        }
        self.put_back(id, release, buffers);
        true
    }

    /// It could not be written. Who waits is told, unless an upstream may still answer.
    fn not_kept(&mut self, id: TransactionId, refusal: Refusal, now: Instant, buffers: &mut impl Buffers) {
        let Some(transaction) = self.transactions.get_mut(id.slot as usize) else { return };
        transaction.entry = None;
        transaction.stage = Stage::Sending;
        if let Some(behalf) = transaction.behalf.take() {
            return self.notice_not_kept(id, behalf, now, buffers);
        }
        match (transaction.groups, transaction.groups_left, transaction.session) {
            // Made here: better sent than lost. (Of a client that is gone it has not been taken, and may have to be held.)
            (0, _, None) if transaction.message.internal => self.send_groups(id, now),
            (0, ..) => self.refused_by_disk(id, refusal, now, buffers),
            (_, 0, _) => self.end_unkept(id, refusal, now, buffers),
            _ => {}
        }
    }

    /// A notice could not be written. Where what it tells of is on disk, it is made anew later; else it is sent, and
    /// waited for.
    fn notice_not_kept(
        &mut self,
        id: TransactionId,
        behalf: TransactionId,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        if self.transaction(behalf).is_some_and(|transaction| transaction.entry.is_some()) {
            let notice = self.transactions.remove(id.slot as usize);
            self.dispose(notice, buffers);
            self.told(behalf, false, now, buffers);
        } else {
            self.transactions[id.slot as usize].behalf = Some(behalf);
            self.send_groups(id, now);
        }
    }

    /// All groups of a message that could not be kept have ended, and some recipients were put off.
    fn end_unkept(&mut self, id: TransactionId, refusal: Refusal, now: Instant, buffers: &mut impl Buffers) {
        if self.transactions[id.slot as usize].accepted.is_some() {
            return self.end_through(id, now, buffers);
        }
        self.refused_by_disk(id, refusal, now, buffers);
    }

    /// The disk does not take the message, and nobody else has taken it.
    fn refused_by_disk(
        &mut self,
        id: TransactionId,
        refusal: Refusal,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let transaction = self.transactions.remove(id.slot as usize);
        self.stats.spool.refused.add(1);
        if let Some(session) = transaction.session {
            let reply = match refusal {
                Refusal::Full => DISK_FULL,
                Refusal::Failing => DISK_FAILING,
            };
            self.session_verdict(session, id, reply, now, buffers);
        }
        self.dispose(transaction, buffers);
    }

    /// All groups have ended while a client waits: what was put off is kept. False if there is nothing to keep.
    pub(super) fn keep_rest(&mut self, id: TransactionId, now: Instant, buffers: &mut impl Buffers) -> bool {
        let transaction = &self.transactions[id.slot as usize];
        let is_wanted = self.options.keep.mode == Mode::ThroughThenSpool
            && transaction.session.is_some()
            && transaction.streaming.is_none()
            && transaction.refused.iter().any(|word| word.reply.as_reply().is_temporary());
        if !is_wanted || self.keeping.spool.is_none() {
            return false;
        }
        match self.keep(id, now, buffers) {
            Ok(()) => {}
            Err(refusal) => self.end_unkept(id, refusal, now, buffers),
        }
        true
    }

    fn note_overdue(&mut self, at: Instant, id: TransactionId) {
        // What has ended in the meantime goes first: the list stays as short as what is under way.
        while self.keeping.overdue.front().is_some_and(|(_, first)| self.transaction(*first).is_none()) {
            self.keeping.overdue.pop_front();
        }
        self.keeping.overdue.push_back((at, id));
    }

    /// Keeps the messages whose clients have waited for an upstream long enough.
    pub(super) fn keep_overdue(&mut self, now: Instant, buffers: &mut impl Buffers) {
        while let Some(&(at, id)) = self.keeping.overdue.front() {
            let waits = self
                .transaction(id)
                .is_some_and(|t| t.session.is_some() && t.entry.is_none() && t.groups_left > 0);
            if at > now && waits {
                break;
            }
            self.keeping.overdue.pop_front();
            if waits {
                // Where the disk refuses, the client waits on for an upstream.
                let _ = self.keep(id, now, buffers);
            }
        }
    }

    /// When something kept, late or due has to be looked at.
    pub(super) fn next_kept(&self, now: Instant) -> Instant {
        let Some(spool) = &self.keeping.spool else { return Instant::NEVER };
        let overdue = self.keeping.overdue.front().map_or(Instant::NEVER, |(at, _)| *at);
        let order = if self.keeping.errand.is_some() { Instant::default() } else { Instant::NEVER };
        let takes = self.may_take_up() && self.keeping.look_at <= now;
        let doomed =
            if takes && !self.keeping.doomed.is_empty() { Instant::default() } else { Instant::NEVER };
        let look_at = if self.may_take_up() && !takes { self.keeping.look_at } else { Instant::NEVER };
        let late = if takes { spool.next_overdue_at() } else { Instant::NEVER };
        overdue.min(spool.next_deadline(now, |_| takes)).min(order).min(look_at).min(doomed).min(late)
    }

    pub(super) fn handle_kept_deadlines(&mut self, now: Instant, buffers: &mut impl Buffers) {
        if self.keeping.spool.is_none() {
            return;
        }
        self.keep_overdue(now, buffers);
        self.run_errand(now);
        self.take_up_due(now, buffers);
    }

    /// Brings the numbers up to date.
    pub(super) fn publish_kept(&self) {
        let Some(spool) = &self.keeping.spool else { return };
        let (usage, stats) = (spool.usage(), &self.stats.spool);
        stats.messages.set(usage.messages);
        stats.bytes.set(usage.live_bytes);
        stats.file_bytes.set(usage.bytes);
        stats.index_bytes.set(usage.index_bytes);
        stats.active.set((self.keeping.fresh + self.keeping.again) as u64);
        stats.syncs.set(usage.groups);
        stats.message_syncs.set(usage.message_groups);
        stats.synced.set(usage.grouped_messages);
        stats.sync_failures.set(usage.failures);
        stats.damaged.set(usage.damaged);
    }

    /// Takes the steps and bounds of the options in force.
    pub(super) fn refit_kept(&mut self) {
        let keep = &self.options.keep;
        if let Some(spool) = &mut self.keeping.spool {
            spool.set_retry(keep.retry.clone(), keep.max_age);
        }
    }

    /// Nothing is being written or read.
    pub(super) fn disk_is_quiet(&self) -> bool {
        self.keeping.spool.as_ref().is_none_or(|spool| spool.is_settled())
    }
}

/// What the spool knows a pool by: places change hands.
fn lane_of(options: &options::Options, pool: u16) -> u16 {
    options.pools.get(usize::from(pool)).map_or(NO_POOL, |pool| (pool.serial % u64::from(NO_POOL)) as u16)
}

/// The place of the pool that a lane stands for.
fn pool_of(options: &options::Options, lane: u16) -> Option<usize> {
    (0..options.pools.len()).find(|place| lane_of(options, *place as u16) == lane)
}

/// Whether the pool, or one in its line of fallbacks, has an upstream that is healthy.
fn has_taker(pools: &[PoolState], options: &options::Options, pool: usize, now: Instant) -> bool {
    let fallback_of = |pool: &usize| options.pools[*pool].fallback;
    let mut line = std::iter::successors(Some(pool), fallback_of).take(pools.len());
    line.any(|pool| pools[pool].fleet.has_healthy(now))
}

pub(super) fn token_of(id: TransactionId) -> u64 {
    u64::from(id.slot) << 32 | u64::from(id.generation)
}

fn transaction_of(token: u64) -> TransactionId {
    TransactionId { slot: (token >> 32) as u32, generation: token as u32 }
}

impl Transaction {
    /// Recipients of this transaction that nobody has taken.
    fn left(&self, recipients: &mut Vec<u16>) {
        let all = 0..self.message.ways.len() as u16;
        recipients.extend(all.filter(|recipient| {
            self.message.ways[usize::from(*recipient)] != Way::NOWHERE && !self.taken.contains(recipient)
        }));
    }
}
