//! The simulated kernel and wire: sockets, packets on their way, the virtual clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attention::Attention;
use super::faults::Faults;
use super::socket::{Finish, Owner, Phase, Socket, SocketId};
use crate::disk::sim::random::Random;
use crate::handle::{ListenerId, ShardId};
use crate::time::Instant;

const EPHEMERAL_PORT_MIN: u16 = 32_768;

/// Who accepts at an address.
#[derive(Debug)]
pub(super) enum Listening {
    Shards(Vec<(ShardId, ListenerId)>),
    Peer(VecDeque<SocketId>),
}

/// A packet, or a timer of the kernel's.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Happening {
    Syn {
        from: SocketId,
    },
    SynAck {
        to: SocketId,
        from: SocketId,
    },
    Refused {
        to: SocketId,
        errno: i32,
    },
    ConnectTimeout {
        at: SocketId,
    },
    Bytes {
        to: SocketId,
        from: SocketId,
        bytes: Vec<u8>,
    },
    Fin {
        to: SocketId,
    },
    Reset {
        to: SocketId,
    },
    /// A request to that shard's disk has been completed.
    Disk {
        shard: ShardId,
    },
    /// The other end has read that many bytes.
    Room {
        to: SocketId,
        bytes: usize,
    },
}

#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) paths: BTreeMap<SocketAddr, Faults>,
    pub(super) black_holes: BTreeSet<SocketAddr>,
    pub(super) listeners: BTreeMap<SocketAddr, Listening>,
    pub(super) sockets: BTreeMap<SocketId, Socket>,
    pub(super) shards: Vec<Attention>,
    /// By time, then by the order of their making.
    due: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    made: u64,
    sockets_made: u64,
    port_next: u16,
}

impl Fabric {
    pub(super) fn new(seed: u64, faults: Faults, shards: usize) -> Fabric {
        Fabric {
            now: Instant::from_nanos(1_000_000_000),
            random: Random::new(seed),
            faults,
            paths: BTreeMap::new(),
            black_holes: BTreeSet::new(),
            listeners: BTreeMap::new(),
            sockets: BTreeMap::new(),
            shards: (0..shards).map(|_| Attention::default()).collect(),
            due: BinaryHeap::new(),
            made: 0,
            sockets_made: 0,
            port_next: EPHEMERAL_PORT_MIN,
        }
    }

    // Time.

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn advance_to(&mut self, time: Instant) {
        assert!(time >= self.now, "time does not go back");
        while self.next_due().is_some_and(|at| at <= time) {
            let Some(Reverse((at, _, happening))) = self.due.pop() else {
                break;
            };
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = time;
    }

    pub(super) fn at(&mut self, at: Instant, happening: Happening) {
        self.made += 1;
        self.due.push(Reverse((at, self.made, happening)));
    }

    // Paths and addresses.

    pub(super) fn path(&self, path: SocketAddr) -> &Faults {
        self.paths.get(&path).unwrap_or(&self.faults)
    }

    fn draw_delay(&mut self, path: SocketAddr) -> std::time::Duration {
        let faults = self.path(path);
        let range = faults.delay_min.as_nanos() as u64..=faults.delay_max.as_nanos() as u64;
        std::time::Duration::from_nanos(self.random.within(range))
    }

    pub(super) fn port(&mut self) -> u16 {
        let port = self.port_next;
        self.port_next = self.port_next.checked_add(1).unwrap_or(EPHEMERAL_PORT_MIN);
        port
    }

    /// The key under which somebody listens at that address: itself, or the wildcard with its port.
    pub(super) fn listening_at(&self, to: SocketAddr) -> Option<SocketAddr> {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        [to, SocketAddr::new(any, to.port())].into_iter().find(|key| self.listeners.contains_key(key))
    }

    // Sockets.

    pub(super) fn add(&mut self, socket: Socket) -> SocketId {
        self.sockets_made += 1;
        let id = SocketId(self.sockets_made);
        self.sockets.insert(id, socket);
        id
    }

    pub(super) fn connect(&mut self, owner: Owner, local: SocketAddr, to: SocketAddr) -> SocketId {
        let id = self.add(Socket::new(owner, local, to, to));
        let timeout = self.now + self.path(to).connect_timeout;
        let arrival = self.now + self.draw_delay(to);
        self.at(arrival, Happening::Syn { from: id });
        self.at(timeout, Happening::ConnectTimeout { at: id });
        id
    }

    /// Bytes the window has room for now.
    pub(super) fn room(&self, id: SocketId) -> usize {
        match self.sockets.get(&id) {
            Some(socket) if socket.phase == Phase::Open => {
                self.path(socket.path).window_bytes.max(1).saturating_sub(socket.in_flight)
            }
            _ => 0,
        }
    }

    /// Sends bytes the window has room for, cut into packets as the path's character says.
    pub(super) fn transmit(&mut self, id: SocketId, mut bytes: Vec<u8>) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let (Some(other), path) = (socket.other, socket.path) else {
            return;
        };
        socket.in_flight += bytes.len();
        let split = self.path(path).split;
        while !bytes.is_empty() {
            let rest = if bytes.len() > 1 && self.random.chance(split) {
                bytes.split_off(1 + self.random.index(bytes.len() - 1))
            } else {
                Vec::new()
            };
            let (reset, merge) = (self.path(path).reset, self.path(path).merge);
            if self.random.chance(reset) {
                self.packet(path, other, 0.0, Happening::Reset { to: other });
                self.packet(path, id, 0.0, Happening::Reset { to: id });
                return;
            }
            self.packet(path, other, merge, Happening::Bytes { to: other, from: id, bytes });
            bytes = rest;
        }
    }

    /// Puts a packet on the wire towards `to`, behind all others on their way there.
    pub(super) fn packet(&mut self, path: SocketAddr, to: SocketId, merge: f64, happening: Happening) {
        let mut arrival = self.now + self.draw_delay(path);
        let merge = self.random.chance(merge);
        if let Some(socket) = self.sockets.get_mut(&to) {
            if merge && socket.arrival_last > self.now {
                arrival = socket.arrival_last;
            }
            arrival = arrival.max(socket.arrival_last).max(self.now);
            socket.arrival_last = arrival;
        }
        self.at(arrival, happening);
    }

    /// Takes arrived bytes out of a socket, and tells the other end that there is room again.
    pub(super) fn read(&mut self, id: SocketId, bytes_max: usize) -> Vec<u8> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Vec::new();
        };
        let taken: Vec<u8> = socket.inbox.drain(..bytes_max.min(socket.inbox.len())).collect();
        if let (Some(other), path, false) = (socket.other, socket.path, taken.is_empty()) {
            self.packet(path, other, 0.0, Happening::Room { to: other, bytes: taken.len() });
        }
        taken
    }

    pub(super) fn send_fin(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if socket.phase != Phase::Open || std::mem::replace(&mut socket.fin_out, true) {
            return;
        }
        if let (Some(other), path) = (socket.other, socket.path) {
            self.packet(path, other, 0.0, Happening::Fin { to: other });
        }
    }

    /// close(2): FIN, or a reset if bytes lie unread (as Linux does, after RFC 2525 section 2.17).
    pub(super) fn close(&mut self, id: SocketId) {
        match self.sockets.get(&id) {
            Some(socket) if socket.inbox.is_empty() => self.send_fin(id),
            Some(_) => self.send_reset(id),
            None => return,
        }
        self.sockets.remove(&id);
    }

    /// Ends a socket at once with a reset to the other end.
    pub(super) fn reset(&mut self, id: SocketId) {
        self.send_reset(id);
        self.sockets.remove(&id);
    }

    fn send_reset(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        if let (Some(other), path) = (socket.other, socket.path) {
            self.packet(path, other, 0.0, Happening::Reset { to: other });
        }
    }

    /// Something changed on that socket: tell its shard, or let the peer do what it does by itself.
    pub(super) fn changed(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        match socket.owner {
            Owner::Shard { shard, slot: Some(_) } => {
                let attention = &mut self.shards[shard.index()];
                attention.active = true;
                if !std::mem::replace(&mut socket.queued, true) {
                    attention.ready.push_back(id);
                }
            }
            Owner::Shard { slot: None, .. } => {}
            Owner::Peer => self.pump(id),
        }
    }

    /// A peer reads what has come (unless paused) and sends what there is room for.
    pub(super) fn pump(&mut self, id: SocketId) {
        if self.sockets.get(&id).is_some_and(|socket| !socket.paused) {
            let bytes = self.read(id, usize::MAX);
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.received.extend(bytes);
            }
        }
        let room = self.room(id);
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let sending: Vec<u8> = socket.pending.drain(..room.min(socket.pending.len())).collect();
        let all_left = socket.pending.is_empty() && socket.phase != Phase::Connecting;
        let finish = if all_left { socket.finish_pending } else { Finish::No };
        if !sending.is_empty() {
            self.transmit(id, sending);
        }
        match finish {
            Finish::No => {}
            Finish::HalfClose => self.send_fin(id),
            Finish::Close => self.close(id),
        }
    }
}
