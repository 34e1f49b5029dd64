//! Which links of an upstream are idle, leased or to be opened: bookkeeping over handles, nothing else.

use crate::handle::LinkId;

/// The links of one shard to one upstream.
#[derive(Debug)]
pub struct Links {
    max: usize,
    /// The upstream has asked for fewer: no more than this for a while.
    eased: usize,
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
        Links {
            max,
            eased: max,
            total: 0,
            opening: 0,
            idle: Vec::with_capacity(max),
            joinable: Vec::with_capacity(max),
        }
    }

    /// At most `max` links from now on; those beyond it go when they are free.
    pub fn set_max(&mut self, max: usize) {
        if self.eased == self.max || self.eased > max {
            self.eased = max;
        }
        self.max = max;
    }

    /// How many there may be now.
    fn bound(&self) -> usize {
        self.max.min(self.eased)
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
            self.eased = (self.total / 2).max(1);
        }
        true
    }

    /// One more again, for the time in which nothing was asked for.
    pub fn ease(&mut self) {
        self.eased = (self.eased + 1).min(self.max);
    }

    /// There are more than there may be.
    pub fn is_over(&self) -> bool {
        self.total > self.bound()
    }

    /// The idle links, which are to be retired.
    pub fn idle_links(&self) -> &[LinkId] {
        &self.idle
    }

    /// Could a message be given to this upstream now?
    pub fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.total < self.bound() || !self.joinable.is_empty()
    }

    /// Would the next lease open a new link?
    pub fn must_open(&self) -> bool {
        self.idle.is_empty() && self.total < self.bound()
    }

    /// Leases a link: an idle one, else a new one, else a place behind a transaction.
    pub fn lease(&mut self) -> Option<Lease> {
        if let Some(link) = self.idle.pop() {
            return Some(Lease::Idle(link));
        }
        if self.total < self.bound() {
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
    fn pressure_halves_and_passes() {
        let mut links = Links::new(8);
        assert!(!links.press(), "there is none yet");
        (0..8).for_each(|_| assert_eq!(links.lease(), Some(Lease::Open)));
        (0..6).for_each(|_| links.opened());
        assert!(links.press());
        assert!(links.is_over() && !links.has_room());
        (0..5).for_each(|n| links.gone(LinkId(n), false));
        assert!(!links.is_over());
        assert_eq!(links.lease(), Some(Lease::Open));
        assert!(!links.must_open());
        links.ease();
        assert!(links.must_open());
        (0..9).for_each(|_| links.ease());
        links.set_max(3);
        assert!(links.is_over());
        links.set_max(9);
        assert!(links.must_open());
    }

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
