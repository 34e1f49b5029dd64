//! Operators' orders about kept messages: found by what they are, then told, sent at once, held, bounced or deleted. The
//! spool may hold millions: an order goes through it in steps, some in each turn.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Dispatch;
use super::super::options::Options;
use super::super::verdict::passed_on;
use super::{Keeping, pool_of};
use crate::limits::ORDER_STEP;
use crate::protocol::envelope::Envelope;
use crate::protocol::wire::address;
use crate::spool::{EntryId, Facts, Spool};
use crate::time::Instant;

/// Which kept messages; each condition narrows it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
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

impl Selection {
    /// Does it leave anything out?
    pub fn narrows(&self) -> bool {
        *self != Selection::default()
    }
}

/// What is to be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Only told.
    List,
    /// Tried at once, also what is held for a later time.
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
    /// `waiting`, `sending`, `suspended`, or `held`: until the time that its sender has set.
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
        let Some(mut errand) = self.keeping.errand.take_if(|errand| !errand.is_over) else { return };
        let mut meant = Vec::new();
        if let Some(spool) = &self.keeping.spool {
            let options = Some(&self.options);
            let mut envelope = Envelope::default();
            let next = spool.scan(errand.at, ORDER_STEP, |facts| {
                facts.envelope.decode(&mut envelope);
                let age = spool.age(facts.entry, now).unwrap_or_default();
                if !is_meant(&errand.order.selection, &facts, &envelope, options, age) {
                    return;
                }
                errand.answer.matched += 1;
                if errand.answer.rows.len() < errand.order.limit {
                    errand.answer.rows.push(row(&facts, &envelope, options, age, now));
                }
                meant.push((facts.entry, facts.active));
            });
            errand.at = next.unwrap_or(0);
            errand.is_over = next.is_none();
        }
        for (entry, is_active) in meant {
            errand.answer.done += u64::from(self.execute(errand.order.action, entry, is_active, now));
        }
        self.keeping.errand = Some(errand);
    }

    /// False if it is under way: then it is left alone.
    fn execute(&mut self, action: Action, entry: EntryId, is_active: bool, now: Instant) -> bool {
        let Keeping { spool: Some(spool), doomed, given_up, .. } = &mut self.keeping else { return false };
        match action {
            Action::List => {}
            _ if is_active => return false,
            Action::Flush => spool.flush(entry, now),
            Action::Suspend => spool.suspend(entry, now),
            Action::Resume => spool.resume(entry, now),
            Action::Delete => spool.done_all(entry, now),
            Action::Bounce => {
                if spool.seize(entry) {
                    doomed.push_back(entry);
                    given_up.insert(entry);
                }
            }
        }
        true
    }
}

/// What a spool has that nobody works on.
pub fn list_kept(spool: &Spool, selection: &Selection, limit: usize, now: Instant) -> Answer {
    let mut answer = Answer::default();
    let mut envelope = Envelope::default();
    spool.scan(0, usize::MAX, |facts| {
        facts.envelope.decode(&mut envelope);
        let age = spool.age(facts.entry, now).unwrap_or_default();
        if is_meant(selection, &facts, &envelope, None, age) {
            answer.matched += 1;
            if answer.rows.len() < limit {
                answer.rows.push(row(&facts, &envelope, None, age, now));
            }
        }
    });
    answer.done = answer.matched;
    answer
}

/// The name of the pool that a message waits for, if that is known.
fn pool_name<'a>(facts: &Facts<'_>, options: Option<&'a Options>) -> Option<&'a str> {
    let options = options?;
    Some(&options.pools[pool_of(options, facts.pool)?].name)
}

fn is_meant(
    selection: &Selection,
    facts: &Facts<'_>,
    envelope: &Envelope,
    options: Option<&Options>,
    age: Duration,
) -> bool {
    let Selection { id, domain, sender, pool, older_than } = selection;
    let is_sender = |sender: &String| {
        let sender = if sender == "<>" { "" } else { sender };
        envelope.sender().eq_ignore_ascii_case(sender.as_bytes())
    };
    let has_domain = |domain: &String| {
        let mut paths = facts.remaining().map(|recipient| envelope.recipient(usize::from(recipient)).path);
        paths.any(|path| address::domain(path).eq_ignore_ascii_case(domain.as_bytes()))
    };
    older_than.is_none_or(|least| age.as_secs_f64() >= least)
        && pool.as_ref().is_none_or(|name| pool_name(facts, options) == Some(name))
        && id.as_ref().is_none_or(|id| facts.message.id.to_string().eq_ignore_ascii_case(id))
        && sender.as_ref().is_none_or(is_sender)
        && domain.as_ref().is_none_or(has_domain)
}

fn row(
    facts: &Facts<'_>,
    envelope: &Envelope,
    options: Option<&Options>,
    age: Duration,
    now: Instant,
) -> Row {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = |recipient: u16| text(envelope.recipient(usize::from(recipient)).path);
    let state = match (facts.active, facts.suspended, facts.held_until.is_some()) {
        (true, ..) => "sending",
        (false, true, _) => "suspended",
        (false, false, true) => "held",
        (false, false, false) => "waiting",
    };
    Row {
        id: facts.message.id.to_string(),
        state: state.to_owned(),
        sender: text(envelope.sender()),
        recipients: facts.remaining().map(path).collect(),
        size: facts.message.size,
        age: age.as_secs_f64(),
        attempts: u32::from(facts.attempts),
        due_in: facts.due.map(|due| due.since(now).as_secs_f64()),
        pool: pool_name(facts, options).map(str::to_owned),
        reply: facts.reply().map(|reply| {
            let reply = reply.as_reply();
            let mut out = Vec::new();
            passed_on(reply).unwrap_or(reply).write(&mut out);
            text(&out).trim_end().to_owned()
        }),
    }
}
