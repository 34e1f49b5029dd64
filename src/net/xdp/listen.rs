//! Streams that others open to us over the interface.
//!
//! A listener is the kernel's too, at the same place: that has what comes by the loopback, by other interfaces and by
//! queues without a socket of ours. What comes by our queues never gets there.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;

use super::frame::{self, Head, Packet};
use super::paths::{HopId, Way};
use super::stream::Phase;
use super::tcp::{Answer, Handshake, Pair};
use super::{Core, NOBODY};
use crate::handle::ListenerId;
use crate::net::Net;
use crate::time::Instant;

/// Answers owed at a time to those who open; more SYNs are dropped, and will come again.
const ANSWERS_MAX: usize = 1_024;

/// Accepted streams by who speaks to whom. All have their local port in common, so a hash finds them: to the first of a
/// few, each of which knows the next.
#[derive(Debug)]
pub(super) struct Sessions {
    heads: Vec<u32>,
    secret: RandomState,
}

impl Sessions {
    /// For about so many.
    pub(super) fn new(count: usize) -> Sessions {
        Sessions { heads: vec![NOBODY; count.max(1).next_power_of_two()], secret: RandomState::new() }
    }

    fn bucket(&self, pair: Pair) -> usize {
        self.secret.hash_one(pair) as usize & (self.heads.len() - 1)
    }

    pub(super) fn head(&self, pair: Pair) -> Option<u32> {
        Some(self.heads[self.bucket(pair)]).filter(|&head| head != NOBODY)
    }

    /// Makes `head` the first one; the one that was.
    pub(super) fn set_head(&mut self, pair: Pair, head: Option<u32>) -> Option<u32> {
        let bucket = self.bucket(pair);
        let before = std::mem::replace(&mut self.heads[bucket], head.unwrap_or(NOBODY));
        Some(before).filter(|&before| before != NOBODY)
    }
}

impl Core {
    pub(super) fn listen(
        &mut self,
        listener: ListenerId,
        at: SocketAddr,
        may_bypass: bool,
    ) -> io::Result<SocketAddr> {
        let bound = self.uring.listen(listener, at)?;
        if self.watched.is_empty() {
            return Ok(bound);
        }
        let done = if may_bypass && self.shared.division.owner(bound.port()).is_some() {
            Err(io::Error::other(format!(
                "port {} is one of `[xdp] ports`, which connections to upstreams leave from: choose another, or other \
                 `[xdp] ports`",
                bound.port()
            )))
        } else {
            self.inlets.add_listener(listener, bound, may_bypass);
            self.settle_inlets()
        };
        if done.is_err() {
            self.unlisten(listener);
        }
        done.map(|()| bound)
    }

    pub(super) fn unlisten(&mut self, listener: ListenerId) {
        self.uring.unlisten(listener);
        self.inlets.remove_listener(listener);
        // Nothing is added, so nothing can be refused.
        let _ = self.settle_inlets();
        let inlets = &self.inlets;
        self.backlog.forget_at(|local| inlets.listener_at(local).is_none());
    }

    /// Listeners have changed, or the machine's addresses.
    pub(super) fn settle_inlets(&mut self) -> io::Result<()> {
        let Core { inlets, paths, shared, .. } = self;
        inlets.settle(paths.receivable(), |at| shared.join_inlet(at), |at| shared.leave_inlet(at))
    }

    /// A segment for none of the ports that we open from: from a client, or to one that we do not know any more. False: it
    /// is nobody's here.
    pub(super) fn handle_client(&mut self, packet: &Packet<'_>, now: Instant) -> bool {
        let known = self.stream_between(packet.to, packet.from);
        let is_syn = packet.segment.is_opening();
        if let Some(slot) = known.filter(|&slot| !is_syn || !self.makes_way(slot, packet)) {
            self.deliver(slot, packet, now);
            return true;
        }
        let Some(listener) = self.inlets.listener_at(packet.to) else { return false };
        if is_syn {
            self.handle_syn(packet, now);
            return true;
        }
        let pair = Pair { local: packet.to, remote: packet.from };
        match self.backlog.handle_other(pair, &packet.segment, now) {
            Answer::Connected(handshake) => self.accept(listener, packet, &handshake, now),
            Answer::Done => {}
            Answer::Stranger => return false,
        }
        true
    }

    fn handle_syn(&mut self, packet: &Packet<'_>, now: Instant) {
        if self.accepted >= self.accepted_max {
            self.counts.turned_away += 1;
            return self.refuse(packet);
        }
        if self.answers.len() >= ANSWERS_MAX {
            return;
        }
        let pair = Pair { local: packet.to, remote: packet.from };
        let initial = self.initial_sequence(packet.to, packet.from, now);
        let mss = self.mss_by(self.paths.mtu(), packet);
        let answer = self.backlog.handle_syn(pair, &packet.segment, packet.from_mac, (initial, mss), now);
        if let Some(answer) = answer {
            self.answers.push((Head::new(packet.to, packet.from), packet.from_mac, answer));
        }
    }

    fn mss_by(&self, mtu: u32, packet: &Packet<'_>) -> u16 {
        mtu.saturating_sub(frame::header_bytes(packet.from.is_ipv4())).min(u16::MAX.into()) as u16
    }

    /// A connection that only rests is no reason not to begin another one.
    fn makes_way(&mut self, slot: u32, packet: &Packet<'_>) -> bool {
        let one = self.streams.at(slot);
        let makes_way = one.phase != Phase::Owned && one.connection.makes_way_for(packet.segment.seq);
        if makes_way {
            self.forget(slot);
        }
        makes_way
    }

    fn forget(&mut self, slot: u32) {
        self.streams.at(slot).connection.forget();
        self.release(slot);
        self.remove_if_over(slot);
    }

    fn accept(&mut self, listener: ListenerId, packet: &Packet<'_>, handshake: &Handshake, now: Instant) {
        // Others may have come first since the SYN.
        if self.accepted >= self.accepted_max {
            self.counts.turned_away += 1;
            return self.refuse(packet);
        }
        let Some((hop, mtu)) = self.way_back(packet) else { return self.refuse(packet) };
        self.make_room();
        let (local, remote) = (packet.to, packet.from);
        let (mss, round_trip) = (self.mss_by(mtu, packet), self.paths.round_trip(remote.ip()));
        let narrow = self.paths.narrow(remote.ip());
        let slot = self.streams.add();
        let before = self.sessions.set_head(Pair { local, remote }, Some(slot));
        self.paths.join(hop);
        self.inlets.begin_session(local);
        self.accepted += 1;
        let stream = self.streams.at(slot);
        stream.listener = Some(listener);
        stream.head = Some(Head::new(local, remote));
        stream.hop = Some(hop);
        stream.socket = slot as usize % self.watched.len();
        stream.next_of_port = before;
        stream.connection.accept(handshake, mss, round_trip, now);
        stream.connection.follow_path(frame::header_bytes(remote.is_ipv4()), narrow, now);
        self.deliver(slot, packet, now);
    }

    /// As the kernel would send to the peer; where that is not by our interface, back to whom the segment came from.
    fn way_back(&mut self, packet: &Packet<'_>) -> Option<(HopId, u32)> {
        match self.paths.way(packet.from.ip(), Some(packet.to.ip())) {
            Way::Ours(path) => {
                self.paths.greet(path.hop, packet.from.ip(), packet.from_mac);
                Some((path.hop, path.mtu))
            }
            _ => Some((self.paths.hop_by(packet.from_mac)?, self.paths.mtu())),
        }
    }

    /// Its owner has forgotten an accepted stream whose connection is still ending, or rests.
    pub(super) fn add_rest(&mut self, slot: u32) {
        while let Some(&first) = self.rests.front()
            && self.streams.get(first).phase != Phase::Orphan
        {
            self.rests.pop_front();
        }
        self.rests.push_back(slot);
    }

    /// As many may rest as may live; beyond, the oldest do no longer.
    fn make_room(&mut self) {
        while self.rests.len() >= self.accepted_max {
            let Some(first) = self.rests.pop_front() else { return };
            let one = self.streams.get(first);
            if one.phase == Phase::Orphan && one.listener.is_some() {
                self.forget(first);
            }
        }
    }

    /// Answers that are to be sent again.
    pub(super) fn tend_backlog(&mut self, now: Instant) {
        while let Some((pair, mac, answer)) = self.backlog.handle_deadline(now) {
            if self.answers.len() < ANSWERS_MAX {
                self.answers.push((Head::new(pair.local, pair.remote), mac, answer));
            }
        }
    }
}
