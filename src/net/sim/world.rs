//! The world as a test sees it: time, peers, and what goes wrong.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::fabric::{Fabric, Listening};
use super::faults::Faults;
use super::shard_net::SimNet;
use super::socket::{Finish, Owner, Phase, Socket, SocketId};
use crate::handle::ShardId;
use crate::sys::arena::Arenas;
use crate::time::Instant;

/// A stream's end that the test plays: a client or an upstream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub(super) SocketId);

/// How a peer's stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// Not connected yet.
    Connecting,
    /// Both ways are open.
    Open,
    /// The other end closed in order; all it sent has been received.
    Finished,
    /// Refused, timed out or reset: errno.
    Failed(i32),
    /// The test has closed it.
    Closed,
}

/// The network between shards and peers. A handle: clones are the same world.
#[derive(Clone, Debug)]
pub struct World {
    fabric: Rc<RefCell<Fabric>>,
    arenas: Arc<Arenas>,
}

impl World {
    /// A world of `shards` shards with `buffers_per_shard` receive buffers each.
    ///
    /// # Panics
    /// If the buffers cannot be mapped.
    pub fn new(seed: u64, faults: Faults, shards: usize, buffers_per_shard: usize) -> World {
        let arenas =
            Arenas::new(shards, buffers_per_shard).expect("the simulated shards' buffers are mapped");
        World { fabric: Rc::new(RefCell::new(Fabric::new(seed, faults, shards))), arenas }
    }

    /// Shards that start from now on have so many buffers each.
    ///
    /// # Panics
    /// If the buffers cannot be mapped.
    pub fn set_buffers(&mut self, shards: usize, buffers_per_shard: usize) {
        self.arenas =
            Arenas::new(shards, buffers_per_shard).expect("the simulated shards' buffers are mapped");
    }

    /// That shard's `Net`.
    ///
    /// # Panics
    /// If the shard has one already that is still alive.
    pub fn net(&self, shard: ShardId) -> SimNet {
        SimNet::new(self.fabric.clone(), self.arenas.clone(), shard)
    }

    fn fabric(&self) -> RefMut<'_, Fabric> {
        self.fabric.borrow_mut()
    }

    // Time.

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.fabric.borrow().now
    }

    /// When the next packet arrives (or the kernel's next timer fires); `None`: nothing is under way.
    pub fn next_due(&self) -> Option<Instant> {
        self.fabric.borrow().next_due()
    }

    /// Lets time pass; everything due up to and including `time` happens, in order.
    ///
    /// # Panics
    /// If `time` is in the past.
    pub fn advance_to(&self, time: Instant) {
        self.fabric().advance_to(time);
    }

    /// The shards whose `turn` would do or report something now, in an order drawn from the seed.
    pub fn runnable_shards(&self) -> Vec<ShardId> {
        let mut fabric = self.fabric();
        let active = fabric.shards.iter().enumerate().filter(|(_, attention)| attention.active);
        let mut shards: Vec<ShardId> = active.map(|(index, _)| ShardId(index as u16)).collect();
        fabric.random.shuffle(&mut shards);
        shards
    }

    // What goes wrong.

    /// From now on, on every path without a character of its own.
    pub fn set_faults(&self, faults: Faults) {
        self.fabric().faults = faults;
    }

    /// Gives the path to `to` (an address connected to, both directions) a character of its own, or takes it
    /// back. Streams that exist are affected too.
    pub fn set_path(&self, to: SocketAddr, faults: Option<Faults>) {
        let mut fabric = self.fabric();
        match faults {
            Some(faults) => fabric.paths.insert(to, faults),
            None => fabric.paths.remove(&to),
        };
    }

    /// Whether connection attempts to `to` vanish without an answer.
    pub fn set_black_hole(&self, to: SocketAddr, vanishes: bool) {
        let mut fabric = self.fabric();
        if vanishes {
            fabric.black_holes.insert(to);
        } else {
            fabric.black_holes.remove(&to);
        }
    }

    // Peers.

    /// A client connects to `to`. Port 0 in `from`: any.
    pub fn connect(&self, to: SocketAddr, mut from: SocketAddr) -> PeerId {
        let mut fabric = self.fabric();
        if from.port() == 0 {
            from.set_port(fabric.port());
        }
        PeerId(fabric.connect(Owner::Peer, from, to))
    }

    /// An upstream listens.
    ///
    /// # Errors
    /// `EADDRINUSE` if somebody does already.
    pub fn listen_peer(&self, at: SocketAddr) -> io::Result<()> {
        let mut fabric = self.fabric();
        if fabric.listeners.contains_key(&at) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        fabric.listeners.insert(at, Listening::Peer(VecDeque::new()));
        Ok(())
    }

    /// The next stream somebody opened to that upstream.
    pub fn accept_peer(&self, at: SocketAddr) -> Option<PeerId> {
        match self.fabric().listeners.get_mut(&at)? {
            Listening::Peer(backlog) => backlog.pop_front().map(PeerId),
            Listening::Shards(_) => None,
        }
    }

    /// An upstream stops listening: attempts are refused, what it has not accepted is reset.
    pub fn unlisten_peer(&self, at: SocketAddr) {
        let mut fabric = self.fabric();
        if let Some(Listening::Peer(backlog)) = fabric.listeners.get(&at) {
            for socket in backlog.clone() {
                fabric.reset(socket);
            }
            fabric.listeners.remove(&at);
        }
    }

    /// Sends. What the window has no room for leaves as the other end reads. Nothing on a stream that ended.
    pub fn send(&self, peer: PeerId, bytes: &[u8]) {
        let mut fabric = self.fabric();
        if let Some(socket) = fabric.sockets.get_mut(&peer.0)
            && socket.finish_pending == Finish::No
            && !matches!(socket.phase, Phase::Failed(_))
        {
            socket.pending.extend(bytes);
            fabric.pump(peer.0);
        }
    }

    /// Moves what the peer has read to the end of `into`.
    pub fn take_received(&self, peer: PeerId, into: &mut Vec<u8>) {
        if let Some(socket) = self.fabric().sockets.get_mut(&peer.0) {
            into.append(&mut socket.received);
        }
    }

    /// Closes after all sent has left (a reset if the peer is paused with bytes unread, as kernels do). What
    /// arrives afterwards is answered with a reset.
    pub fn close(&self, peer: PeerId) {
        self.finish(peer, Finish::Close);
    }

    /// Closes only the sending way, after all sent has left; goes on reading.
    pub fn shutdown(&self, peer: PeerId) {
        self.finish(peer, Finish::HalfClose);
    }

    fn finish(&self, peer: PeerId, finish: Finish) {
        let mut fabric = self.fabric();
        if let Some(socket) = fabric.sockets.get_mut(&peer.0) {
            socket.finish_pending = finish;
            if socket.phase == Phase::Connecting && finish == Finish::Close {
                fabric.close(peer.0);
            } else {
                fabric.pump(peer.0);
            }
        }
    }

    /// Ends the stream at once with a reset.
    pub fn reset(&self, peer: PeerId) {
        self.fabric().reset(peer.0);
    }

    /// Stops reading, so that the window fills.
    pub fn pause(&self, peer: PeerId) {
        if let Some(socket) = self.fabric().sockets.get_mut(&peer.0) {
            socket.paused = true;
        }
    }

    /// Reads again.
    pub fn resume(&self, peer: PeerId) {
        let mut fabric = self.fabric();
        if let Some(socket) = fabric.sockets.get_mut(&peer.0) {
            socket.paused = false;
            fabric.pump(peer.0);
        }
    }

    /// How the peer's stream stands.
    pub fn peer_state(&self, peer: PeerId) -> PeerState {
        match self.fabric.borrow().sockets.get(&peer.0) {
            None => PeerState::Closed,
            Some(Socket { finish_pending: Finish::Close, .. }) => PeerState::Closed,
            Some(Socket { phase: Phase::Connecting, .. }) => PeerState::Connecting,
            Some(Socket { phase: Phase::Failed(errno), .. }) => PeerState::Failed(*errno),
            Some(socket) if socket.fin_in && socket.inbox.is_empty() => PeerState::Finished,
            Some(_) => PeerState::Open,
        }
    }

    /// The peer's own address and the other end's.
    pub fn peer_addresses(&self, peer: PeerId) -> Option<(SocketAddr, SocketAddr)> {
        self.fabric.borrow().sockets.get(&peer.0).map(|socket| (socket.local, socket.remote))
    }

    /// Ends of streams that exist, shards' and peers' (one that failed or finished exists until it is closed).
    pub fn sockets(&self) -> usize {
        self.fabric.borrow().sockets.len()
    }
}
