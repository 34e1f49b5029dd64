//! Operators' orders about kept messages: found by what they are, then told, sent at once, held, bounced or deleted. The
//! spool may hold millions: an order goes through it in steps, some in each turn.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Dispatch;
use super::lane_of;
use crate::limits::ORDER_STEP;
use crate::protocol::envelope::Envelope;
use crate::protocol::wire::address;
use crate::spool::{EntryId, Spool};
use crate::time::Instant;

/// Which kept messages; each condition narrows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// The message's id, as in the 250 and in `Received:`.
    pub id: Option<String>,
    /// A domain of a recipient that is left.
    pub domain: Option<String>,
    /// The sender's address; `<>`: the empty one.
    pub sender: Option<String>,
    /// The pool that is to take it.
    pub pool: Option<String>,
    /// Seconds since it was taken, at the least.
    pub older_than: Option<f64>,
}

/// What is to be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Only told.
    List,
    /// Tried at once.
    Flush,
    /// Held until resumed, also over a restart.
    Suspend,
    /// Held no longer.
    Resume,
    /// Given up: the sender gets a bounce.
    Bounce,
    /// Given up without a word.
    Delete,
}

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// What.
    pub action: Action,
    /// With which.
    #[serde(default)]
    pub selection: Selection,
    /// Rows told at the most.
    #[serde(default)]
    pub limit: usize,
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Messages that were meant.
    pub matched: u64,
    /// Of these, those it was done with: what is under way is left alone, but for being told.
    pub done: u64,
    /// Some of them.
    pub rows: Vec<Row>,
}

impl Answer {
    /// Adds another shard's.
    pub fn add(&mut self, other: Answer, limit: usize) {
        self.matched += other.matched;
        self.done += other.done;
        self.rows.extend(other.rows);
        self.rows.truncate(limit);
    }
}

/// A kept message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// `waiting`, `sending` or `suspended`.
    pub state: String,
    /// Who it is from.
    pub sender: String,
    /// Those that it is still for.
    pub recipients: Vec<String>,
    /// Octets as it came.
    pub size: u64,
    /// Seconds since it was taken.
    pub age: f64,
    /// Attempts so far.
    pub attempts: u32,
    /// Seconds until the next.
    pub due_in: Option<f64>,
    /// The pool it waits for, once that is known.
    pub pool: Option<String>,
    /// What was said last.
    pub reply: Option<String>,
}

/// An order on its way through the spool.
#[derive(Debug)]
pub(super) struct Errand {
    order: Order,
    /// Slots looked at.
    at: u32,
    answer: Answer,
    is_over: bool,
}

impl Dispatch {
    /// An order; its answer is ready some turns later. One at a time.
    pub fn handle_order(&mut self, order: Order) {
        let is_over = self.keeping.spool.is_none();
        self.keeping.errand = Some(Errand { order, at: 0, answer: Answer::default(), is_over });
    }

    /// The answer to the order, once.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.keeping.errand.take_if(|errand| errand.is_over).map(|errand| errand.answer)
    }

    /// Looks at some more messages.
    pub(super) fn run_errand(&mut self, now: Instant) {
        let Some(mut errand) = self.keeping.errand.take() else { return };
        let Some(mut spool) = self.keeping.spool.take() else { return };
        let until = errand.at.saturating_add(ORDER_STEP).min(spool.slots());
        let mut envelope = Envelope::default();
        for slot in errand.at..until {
            let Some(entry) = spool.entry_at(slot) else { continue };
            envelope.clear();
            if !self.is_meant(&errand.order.selection, &spool, entry, &mut envelope, now) {
                continue;
            }
            errand.answer.matched += 1;
            if errand.answer.rows.len() < errand.order.limit {
                errand.answer.rows.push(self.row(&spool, entry, &envelope, now));
            }
            errand.answer.done += u64::from(carry_out(errand.order.action, &mut spool, entry, now));
        }
        errand.at = until;
        errand.is_over = until == spool.slots();
        self.keeping.spool = Some(spool);
        self.keeping.errand = Some(errand);
    }

    fn is_meant(
        &self,
        selection: &Selection,
        spool: &Spool,
        entry: EntryId,
        envelope: &mut Envelope,
        now: Instant,
    ) -> bool {
        if selection.older_than.is_some_and(|age| spool.age(entry, now).as_secs_f64() < age) {
            return false;
        }
        if let Some(pool) = &selection.pool {
            let is_it = |place: &usize| lane_of(&self.options.pools, *place as u16) == spool.lane(entry);
            let place = (0..self.options.pools.len()).find(is_it);
            if place.is_none_or(|place| self.options.pools[place].name != *pool) {
                return false;
            }
        }
        let facts = spool.recall(entry, envelope);
        if selection.id.as_ref().is_some_and(|id| !facts.id.to_string().eq_ignore_ascii_case(id)) {
            return false;
        }
        if let Some(sender) = &selection.sender {
            let sender = if sender == "<>" { "" } else { sender };
            if !envelope.sender().eq_ignore_ascii_case(sender.as_bytes()) {
                return false;
            }
        }
        selection.domain.as_ref().is_none_or(|domain| {
            let left = (0..envelope.len() as u16).filter(|recipient| spool.is_left(entry, *recipient));
            let mut domains =
                left.map(|recipient| address::domain(envelope.recipient(usize::from(recipient)).path));
            domains.any(|other| other.eq_ignore_ascii_case(domain.as_bytes()))
        })
    }

    fn row(&self, spool: &Spool, entry: EntryId, envelope: &Envelope, now: Instant) -> Row {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut scratch = Envelope::default();
        let facts = spool.recall(entry, &mut scratch);
        let left = (0..envelope.len() as u16).filter(|recipient| spool.is_left(entry, *recipient));
        let lane = spool.lane(entry);
        let place =
            (0..self.options.pools.len()).find(|place| lane_of(&self.options.pools, *place as u16) == lane);
        let (is_active, is_suspended) = (spool.is_active(entry), spool.is_suspended(entry));
        let state = match (is_active, is_suspended) {
            (true, _) => "sending",
            (false, true) => "suspended",
            (false, false) => "waiting",
        };
        Row {
            id: facts.id.to_string(),
            state: state.to_owned(),
            sender: text(envelope.sender()),
            recipients: left.map(|recipient| text(envelope.recipient(usize::from(recipient)).path)).collect(),
            size: facts.size,
            age: spool.age(entry, now).as_secs_f64(),
            attempts: u32::from(spool.attempts(entry)),
            due_in: (state == "waiting").then(|| spool.due(entry).since(now).as_secs_f64()),
            pool: place.map(|place| self.options.pools[place].name.clone()),
            reply: spool.last_reply(entry).map(|reply| {
                let mut out = Vec::new();
                reply.as_reply().write(&mut out);
                text(&out).trim_end().to_owned()
            }),
        }
    }
}

/// False if it is under way: then it is left alone.
fn carry_out(action: Action, spool: &mut Spool, entry: EntryId, now: Instant) -> bool {
    if action == Action::List {
        return true;
    }
    if spool.is_active(entry) {
        return false;
    }
    match action {
        Action::List => {}
        Action::Flush => spool.flush(entry, now),
        Action::Suspend => spool.suspend(entry, now),
        Action::Resume => spool.resume(entry, now),
        Action::Bounce => spool.doom(entry, now),
        Action::Delete => spool.delete(entry, now),
    }
    true
}
