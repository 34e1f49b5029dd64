//! Streams that we open: by the interface if the route goes there, else by the ring.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use super::frame::{self, Head};
use super::paths::{Path, Way};
use super::stream::{Phase, Streams};
use super::tcp::Pair;
use super::{Core, Queue, of_interface, of_ring};
use crate::handle::StreamId;
use crate::net::{Cause, Net};
use crate::sys::clock;
use crate::time::Instant;

impl Core {
    pub(super) fn open(&mut self, to: SocketAddr, source: Option<IpAddr>, sockets: &[Queue]) -> StreamId {
        let way = if sockets.is_empty() { Way::Kernel } else { self.paths.way(to.ip(), source) };
        let opened = match way {
            Way::Kernel => return of_ring(self.uring.open(to, source)),
            Way::Nowhere(errno) => Err(errno),
            Way::Ours(_) if self.streams.owned() - self.accepted >= self.opened_max => Err(libc::EMFILE),
            Way::Ours(path) => self.open_by(path, to, sockets),
        };
        let slot = opened.unwrap_or_else(|errno| {
            let slot = self.streams.add();
            self.end(slot, Cause::NotOpened(errno));
            slot
        });
        of_interface(self.streams.id(slot))
    }

    fn open_by(&mut self, path: Path, to: SocketAddr, sockets: &[Queue]) -> Result<u32, i32> {
        let now = clock::now();
        let is_ours = |queue: u32| sockets.iter().any(|socket| socket.number == queue);
        let Core { streams, ports, rss, .. } = self;
        let rss = rss.as_ref();
        // A port that leads elsewhere will do too.
        let is_free = |head: u32, port: u16| {
            let local = SocketAddr::new(path.source, port);
            Self::along(streams, Some(head)).all(|slot| !streams.get(slot).is_between(local, to))
        };
        let port = ports.find((path.source, to), rss, is_ours, is_free).ok_or(libc::EADDRNOTAVAIL)?;
        let local = SocketAddr::new(path.source, port);
        let queue = rss.map(|rss| rss.queue(to, local));
        let socket = queue.and_then(|queue| sockets.iter().position(|socket| socket.number == queue));
        let slot = self.streams.add();
        let before = self.set_first(Pair { local, remote: to }, Some(slot));
        let initial = self.initial_sequence(local, to, now);
        let mss = path.mtu.saturating_sub(frame::header_bytes(to.is_ipv4())).min(u16::MAX.into()) as u16;
        let (round_trip, narrow) = (self.paths.round_trip(to.ip()), self.paths.narrow(to.ip()));
        self.paths.join(path.hop);
        let stream = self.streams.at(slot);
        stream.head = Some(Head::new(local, to));
        stream.hop = Some(path.hop);
        stream.socket = socket.unwrap_or(slot as usize % sockets.len());
        stream.answers_by = queue;
        stream.next_of_port = before;
        stream.connection.open(initial, mss, round_trip, now);
        stream.connection.follow_path(frame::header_bytes(to.is_ipv4()), narrow, now);
        self.mark(slot);
        Ok(slot)
    }

    /// RFC 6528: a clock, and a secret function of who speaks to whom.
    pub(super) fn initial_sequence(&self, local: SocketAddr, remote: SocketAddr, now: Instant) -> u32 {
        let clock = (now.as_nanos() / 4_000) as u32;
        clock.wrapping_add(self.secret.hash_one((local, remote)) as u32)
    }

    /// Where the search for a stream begins: of those we open at their local ports, of those we accept at a hash.
    fn first(&self, pair: Pair) -> Option<u32> {
        match self.shared.division.owner(pair.local.port()) {
            Some(_) => self.ports.head(pair.local.port()),
            None => self.sessions.head(pair),
        }
    }

    fn set_first(&mut self, pair: Pair, first: Option<u32>) -> Option<u32> {
        match self.shared.division.owner(pair.local.port()) {
            Some(_) => self.ports.set_head(pair.local.port(), first),
            None => self.sessions.set_head(pair, first),
        }
    }

    /// The streams that are found together, from the first one on.
    fn along(streams: &Streams, head: Option<u32>) -> impl Iterator<Item = u32> {
        std::iter::successors(head, |&slot| streams.get(slot).next_of_port)
    }

    /// The stream that is between those two.
    pub(super) fn stream_between(&self, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let head = self.first(Pair { local, remote });
        Self::along(&self.streams, head).find(|&slot| self.streams.get(slot).is_between(local, remote))
    }

    /// When nobody has the stream and its connection is over, its slot is free.
    pub(super) fn remove_if_over(&mut self, slot: u32) {
        let one = self.streams.get(slot);
        if one.phase == Phase::Orphan && (one.head.is_none() || one.connection.is_over()) {
            self.release(slot);
            self.streams.remove(slot);
        }
    }

    /// The connection is over: its port is free, its neighbour less needed.
    pub(super) fn release(&mut self, slot: u32) {
        let stream = self.streams.at(slot);
        let (Some(head), Some(hop)) = (stream.head.take(), stream.hop.take()) else { return };
        let (next, round_trip) = (stream.next_of_port.take(), stream.connection.round_trip());
        self.counts.sent_again += stream.connection.sent_again();
        self.held -= stream.connection.held();
        stream.connection.drop_held();
        self.paths.remember(head.remote().ip(), round_trip);
        self.paths.leave(hop);
        let pair = Pair { local: head.local(), remote: head.remote() };
        self.deadlines.set(slot as usize, Instant::NEVER);
        if self.streams.get(slot).listener.is_some() && self.inlets.end_session(pair.local) {
            self.shared.leave_inlet(pair.local);
        }
        let first = self.first(pair);
        if first == Some(slot) {
            self.set_first(pair, next);
            return;
        }
        let before = Self::along(&self.streams, first)
            .find(|&before| self.streams.get(before).next_of_port == Some(slot));
        if let Some(before) = before {
            self.streams.at(before).next_of_port = next;
        }
    }
}
