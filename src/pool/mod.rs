//! Which links of an upstream are idle, leased or to be opened: bookkeeping over handles, nothing else.

mod company;
mod openings;

use crate::balance::Rest;
use crate::balance::concurrency::Concurrency;
use crate::handle::LinkId;
use crate::time::Instant;
use company::Company;
use openings::Openings;

/// The links of one shard to one upstream.
#[derive(Debug)]
pub struct Links {
    /// How many may be in use, and how many may stand.
    concurrency: Concurrency,
    openings: Openings,
    total: usize,
    opening: usize,
    /// Of no more use, and not gone yet.
    retired: usize,
    /// Free, the most recently used last: that is the warm one, and the others may grow old enough to go.
    idle: Vec<LinkId>,
    /// In a transaction and able to take one more behind it, the longest busy first.
    joinable: Vec<LinkId>,
    /// The link that a whole message was written to last, and when: more of that turn would leave in the same send.
    departing: Option<(LinkId, Instant)>,
    company: Company,
    /// The upstream takes binary messages: so it said last.
    binary: bool,
}

/// How a message gets onto a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// This link is free and now leased.
    Idle(LinkId),
    /// Open a new one; it is counted already.
    Open,
    /// Queue behind the transaction on this link: its commands leave together with that one's final dot.
    Join(LinkId),
}

/// What a link was when its stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Was {
    /// Not ready yet.
    Opening,
    /// Ready.
    Standing,
    /// Retired before.
    Retired,
}

impl Links {
    /// At most `max` links, all told, to the upstream at that place of its pool.
    pub fn new(max: usize, upstream: usize) -> Self {
        Links {
            concurrency: Concurrency::new(max, upstream),
            openings: Openings::new(),
            total: 0,
            opening: 0,
            retired: 0,
            idle: Vec::with_capacity(max),
            joinable: Vec::with_capacity(max),
            departing: None,
            company: Company::new(),
            binary: false,
        }
    }

    /// At most `max` links from now on; those beyond it go when they are free.
    pub fn set_max(&mut self, max: usize) {
        self.concurrency.set_most(max);
    }

    /// Opening or in a transaction.
    fn in_use(&self) -> usize {
        self.total - self.retired - self.idle.len()
    }

    /// May one more be in use, opened for it if need be?
    fn may_use_one_more(&self) -> bool {
        self.in_use() < self.concurrency.allowed()
    }

    fn may_open(&self) -> bool {
        self.total < self.concurrency.standing_max() && self.openings.may_open(self.opening)
    }

    /// May a message queue behind another? Not while more links are in use than may be: these are to become free.
    fn may_join(&self) -> bool {
        !self.joinable.is_empty() && self.in_use() <= self.concurrency.allowed()
    }

    /// The upstream asks for fewer links: half as many as there are. False if no link stands that it could mean: then
    /// it will have none at all.
    pub fn press(&mut self) -> bool {
        let standing = self.total - self.opening;
        if standing == 0 {
            return false;
        }
        // Several answers at once ask for the same; what was asked for before is still to come.
        if !self.is_over() {
            self.concurrency.press(self.total);
        }
        true
    }

    /// One more again, for the time in which nothing was asked for.
    pub fn ease(&mut self) {
        self.concurrency.ease();
    }

    /// There are more than there may be.
    pub fn is_over(&self) -> bool {
        self.total > self.concurrency.standing_max()
    }

    /// How many may be in use, as found.
    pub fn limit(&self) -> usize {
        self.concurrency.limit()
    }

    /// A message of so many octets was taken by one of the links after so many nanoseconds, while the whole machine had
    /// `load` messages in flight there.
    pub fn observe(&mut self, nanos: u64, bytes: u64, load: u32, now: Instant) {
        let in_use = self.in_use();
        self.concurrency.observe(nanos, bytes, in_use, load, now);
    }

    /// What time alone changes. True if there may be room now that there was not, or the other way round.
    pub fn look(&mut self, now: Instant) -> bool {
        let may_open = self.openings.look(now);
        self.concurrency.look(now) || may_open
    }

    /// The upstream can be used again. `chance`: any number, another one in each shard.
    pub fn returned(&mut self, chance: u64, now: Instant) {
        self.openings.returned(chance, now);
    }

    /// Whether none stands and none may be opened for the moment.
    pub fn rest(&self) -> Rest {
        if self.total == self.retired { self.openings.rest() } else { Rest::No }
    }

    /// The idle links, which are to be retired.
    pub fn idle_links(&self) -> &[LinkId] {
        &self.idle
    }

    /// Could a message be given to this upstream now?
    pub fn has_room(&self) -> bool {
        self.may_use_one_more() && (!self.idle.is_empty() || self.may_open()) || self.may_join()
    }

    /// Would the next lease open a new link?
    pub fn must_open(&self) -> bool {
        self.idle.is_empty() && self.may_use_one_more() && self.may_open()
    }

    /// A whole message has been written to this link, which takes more.
    pub fn departing(&mut self, link: LinkId, now: Instant) {
        self.departing = Some((link, now));
    }

    /// A message was answered so many nanoseconds after the one that it had been behind.
    pub fn followed(&mut self, nanos: u64) {
        self.company.heard(nanos);
    }

    /// The link that others of this turn leave by, if it is good to join them.
    fn company(&mut self, now: Instant) -> Option<LinkId> {
        let (link, at) = self.departing?;
        if at != now || !self.may_join() {
            return None;
        }
        let place = self.joinable.iter().rposition(|other| *other == link)?;
        self.company.is_welcome().then(|| self.joinable.remove(place))
    }

    /// Leases a link: for a message that may go whole that of others of its turn where that is good; an idle one, else a
    /// new one, else a place behind a transaction.
    pub fn lease(&mut self, is_whole: bool, now: Instant) -> Option<Lease> {
        if is_whole && let Some(link) = self.company(now) {
            return Some(Lease::Join(link));
        }
        if self.may_use_one_more() {
            if let Some(link) = self.idle.pop() {
                return Some(Lease::Idle(link));
            }
            if self.may_open() {
                self.total += 1;
                self.opening += 1;
                return Some(Lease::Open);
            }
        }
        self.may_join().then(|| Lease::Join(self.joinable.remove(0)))
    }

    /// An opening link is ready. `binary`: the upstream takes binary messages.
    pub fn opened(&mut self, binary: bool) {
        self.binary = binary;
        self.opening -= 1;
        self.openings.succeeded();
    }

    /// Does the upstream take binary messages, as far as is known?
    pub fn takes_binary(&self) -> bool {
        self.binary
    }

    /// An opening link is given up. `by_fault`: the upstream's. `chance`: any number.
    pub fn not_opened(&mut self, by_fault: bool, chance: u64, now: Instant) {
        self.opening -= 1;
        if by_fault {
            self.openings.failed(chance, now);
        }
    }

    /// A link in a transaction has room for one more behind it.
    pub fn joinable(&mut self, link: LinkId) {
        debug_assert!(!self.joinable.contains(&link));
        self.joinable.push(link);
    }

    /// A link's last transaction is over.
    pub fn idle(&mut self, link: LinkId) {
        self.not_joinable(link);
        debug_assert!(!self.idle.contains(&link));
        self.idle.push(link);
    }

    /// Nothing more may be queued on this link.
    pub fn not_joinable(&mut self, link: LinkId) {
        self.joinable.retain(|&l| l != link);
    }

    /// A link takes no more transactions, whatever it was doing; it still counts until it is `gone`.
    pub fn retire(&mut self, link: LinkId) {
        self.forget(link);
        self.retired += 1;
    }

    /// A link is no more.
    pub fn gone(&mut self, link: LinkId, was: Was) {
        self.forget(link);
        self.total -= 1;
        self.retired -= usize::from(was == Was::Retired);
        if self.total == 0 {
            self.openings.none_stands();
        }
    }

    fn forget(&mut self, link: LinkId) {
        self.not_joinable(link);
        self.idle.retain(|&l| l != link);
    }

    /// Idle, opening and all links.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.idle.len(), self.opening, self.total)
    }
}

#[cfg(test)]
mod tests;
