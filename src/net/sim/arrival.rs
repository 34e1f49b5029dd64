//! What packets and the kernel's timers do when their time comes.

use super::fabric::{Fabric, Happening, Listening};
use super::socket::{Owner, Phase, Socket, SocketId};

impl Fabric {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Syn { from } => self.on_syn(from),
            Happening::SynAck { to, from } => self.on_syn_ack(to, from),
            Happening::Refused { to, errno } => self.on_failure(to, errno, true),
            Happening::ConnectTimeout { at } => self.on_failure(at, libc::ETIMEDOUT, true),
            Happening::Reset { to } => self.on_failure(to, libc::ECONNRESET, false),
            Happening::Bytes { to, from, bytes } => self.on_bytes(to, from, &bytes),
            Happening::Disk { shard } => self.shards[shard.index()].active = true,
            Happening::Fin { to } => {
                if let Some(socket) = self.sockets.get_mut(&to) {
                    socket.fin_in = true;
                    self.changed(to);
                }
            }
            Happening::Room { to, bytes } => {
                if let Some(socket) = self.sockets.get_mut(&to) {
                    socket.in_flight = socket.in_flight.saturating_sub(bytes);
                    self.changed(to);
                }
            }
        }
    }

    fn on_syn(&mut self, from: SocketId) {
        let Some(caller) = self.sockets.get(&from) else {
            return;
        };
        let (caller_at, to) = (caller.local, caller.remote);
        if self.black_holes.contains(&to) {
            return;
        }
        let refuse = self.path(to).refuse;
        let refuse = self.random.chance(refuse);
        let owner = match self.listening_at(to).filter(|_| !refuse).map(|key| &self.listeners[&key]) {
            Some(Listening::Shards(shards)) => {
                let (shard, listener) = shards[self.random.index(shards.len())];
                Some((Owner::Shard { shard, slot: None }, Some((shard, listener))))
            }
            Some(Listening::Peer(_)) => Some((Owner::Peer, None)),
            None => None,
        };
        let Some((owner, shard)) = owner else {
            self.packet(to, from, 0.0, Happening::Refused { to: from, errno: libc::ECONNREFUSED });
            return;
        };
        let mut socket = Socket::new(owner, to, caller_at, to);
        (socket.phase, socket.other) = (Phase::Open, Some(from));
        let id = self.add(socket);
        self.packet(to, from, 0.0, Happening::SynAck { to: from, from: id });
        if let Some((shard, listener)) = shard {
            self.shards[shard.index()].accepts.push_back((listener, id));
            self.shards[shard.index()].active = true;
        } else if let Some(Listening::Peer(backlog)) =
            self.listening_at(to).and_then(|key| self.listeners.get_mut(&key))
        {
            backlog.push_back(id);
        }
    }

    fn on_syn_ack(&mut self, to: SocketId, from: SocketId) {
        match self.sockets.get_mut(&to) {
            Some(socket) if socket.phase == Phase::Connecting => {
                (socket.phase, socket.other) = (Phase::Open, Some(from));
                self.changed(to);
            }
            // It has given up meanwhile.
            _ => {
                if let Some(path) = self.sockets.get(&from).map(|socket| socket.path) {
                    self.packet(path, from, 0.0, Happening::Reset { to: from });
                }
            }
        }
    }

    fn on_failure(&mut self, to: SocketId, errno: i32, only_connecting: bool) {
        let Some(socket) = self.sockets.get_mut(&to) else {
            return;
        };
        let applies = match socket.phase {
            Phase::Connecting => true,
            Phase::Open => !only_connecting,
            Phase::Failed(_) => false,
        };
        if applies {
            socket.phase = Phase::Failed(errno);
            socket.pending.clear();
            self.changed(to);
        }
    }

    fn on_bytes(&mut self, to: SocketId, from: SocketId, bytes: &[u8]) {
        match self.sockets.get_mut(&to) {
            Some(socket) if socket.phase == Phase::Open => {
                socket.inbox.extend(bytes);
                self.changed(to);
            }
            Some(_) => {}
            // Data for a closed socket is answered with a reset (RFC 9293 section 3.10.7.1).
            None => {
                if let Some(path) = self.sockets.get(&from).map(|socket| socket.path) {
                    self.packet(path, from, 0.0, Happening::Reset { to: from });
                }
            }
        }
    }
}
