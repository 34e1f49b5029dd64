//! Which links of an upstream are idle, leased or to be opened: bookkeeping over handles, nothing else.

use crate::handle::LinkId;

/// The links of one shard to one upstream.
#[derive(Debug)]
pub struct Links {
    max: usize,
    total: usize,
    opening: usize,
    /// Free, the most recently used last: that is the warm one, and the others may grow old enough to go.
    idle: Vec<LinkId>,
    /// In a transaction and able to take one more behind it, the longest busy first.
    joinable: Vec<LinkId>,
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

impl Links {
    /// At most `max` links, all told.
    pub fn new(max: usize) -> Self {
        Links { max, total: 0, opening: 0, idle: Vec::with_capacity(max), joinable: Vec::with_capacity(max) }
    }

    /// Could a message be given to this upstream now?
    pub fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.total < self.max || !self.joinable.is_empty()
    }

    /// Would the next lease open a new link?
    pub fn must_open(&self) -> bool {
        self.idle.is_empty() && self.total < self.max
    }

    /// Leases a link: an idle one, else a new one, else a place behind a transaction.
    pub fn lease(&mut self) -> Option<Lease> {
        if let Some(link) = self.idle.pop() {
            return Some(Lease::Idle(link));
        }
        if self.total < self.max {
            self.total += 1;
            self.opening += 1;
            return Some(Lease::Open);
        }
        if self.joinable.is_empty() {
            return None;
        }
        Some(Lease::Join(self.joinable.remove(0)))
    }

    /// An opening link is ready.
    pub fn opened(&mut self) {
        self.opening -= 1;
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
        self.not_joinable(link);
        self.idle.retain(|&l| l != link);
    }

    /// A link is no more. `was_opening`: it never got ready.
    pub fn gone(&mut self, link: LinkId, was_opening: bool) {
        self.retire(link);
        self.total -= 1;
        self.opening -= usize::from(was_opening);
    }

    /// Idle, opening and all links.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.idle.len(), self.opening, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_before_new_before_joining() {
        let mut links = Links::new(2);
        assert_eq!(links.lease(), Some(Lease::Open));
        links.opened();
        links.joinable(LinkId(1));
        assert_eq!(links.lease(), Some(Lease::Open));
        assert_eq!(links.counts(), (0, 1, 2));
        assert_eq!(links.lease(), Some(Lease::Join(LinkId(1))));
        assert!(!links.has_room());
        links.opened();
        links.idle(LinkId(2));
        assert_eq!(links.lease(), Some(Lease::Idle(LinkId(2))));
        links.idle(LinkId(2));
        links.gone(LinkId(2), false);
        assert_eq!(links.lease(), Some(Lease::Open));
        links.gone(LinkId(3), true);
        assert_eq!(links.counts(), (0, 0, 1));
    }
}
