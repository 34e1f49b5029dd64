//! The simulator as a ground, well-behaved and choppy.

use std::net::SocketAddr;

use postlane::handle::ShardId;
use postlane::net::sim::{Faults, PeerId, PeerState, SimNet, World};
use postlane::net::{Event, Net};
use postlane::time::Instant;

use crate::ground::{Far, FarState, Ground};

pub(crate) struct SimGround {
    world: World,
    net: SimNet,
    fars: Vec<PeerId>,
    ports: u16,
}

impl SimGround {
    fn new(buffers: usize, faults: Faults) -> SimGround {
        let world = World::new(7, faults, 1, buffers);
        SimGround { net: world.net(ShardId(0)), world, fars: Vec::new(), ports: 2600 }
    }

    fn add(&mut self, peer: PeerId) -> Far {
        self.fars.push(peer);
        Far(self.fars.len() - 1)
    }
}

impl Ground for SimGround {
    type Net = SimNet;

    fn with_buffers(buffers: usize, _lent_max: u16) -> Self {
        SimGround::new(buffers, Faults::default())
    }

    fn net(&mut self) -> &mut SimNet {
        &mut self.net
    }

    fn step(&mut self, events_max: usize, events: &mut Vec<Event>) {
        let before = events.len();
        self.net.turn(Instant::default(), events_max, events);
        if events.len() == before
            && self.world.runnable_shards().is_empty()
            && let Some(due) = self.world.next_due()
        {
            self.world.advance_to(due);
        }
    }

    fn quiet_steps(&self) -> usize {
        2_000
    }

    fn streams(&mut self) -> usize {
        self.net.streams()
    }

    fn buffers_held(&mut self) -> usize {
        self.net.buffers_held()
    }

    fn connect(&mut self, to: SocketAddr) -> Far {
        let peer = self.world.connect(to, "127.0.0.1:0".parse().unwrap());
        self.add(peer)
    }

    fn listen(&mut self) -> SocketAddr {
        self.ports += 1;
        let at = SocketAddr::from(([127, 0, 0, 1], self.ports));
        self.world.listen_peer(at).unwrap();
        at
    }

    fn unlisten(&mut self, at: SocketAddr) {
        self.world.unlisten_peer(at);
    }

    fn accept(&mut self, at: SocketAddr) -> Option<Far> {
        let peer = self.world.accept_peer(at)?;
        Some(self.add(peer))
    }

    fn send(&mut self, far: Far, bytes: &[u8]) {
        self.world.send(self.fars[far.0], bytes);
    }

    fn take_received(&mut self, far: Far, into: &mut Vec<u8>) {
        self.world.take_received(self.fars[far.0], into);
    }

    fn state(&mut self, far: Far) -> FarState {
        match self.world.peer_state(self.fars[far.0]) {
            PeerState::Connecting | PeerState::Open => FarState::Open,
            PeerState::Finished => FarState::Finished,
            PeerState::Failed(_) | PeerState::Closed => FarState::Failed,
        }
    }

    fn close(&mut self, far: Far) {
        self.world.close(self.fars[far.0]);
    }

    fn shutdown(&mut self, far: Far) {
        self.world.shutdown(self.fars[far.0]);
    }

    fn reset(&mut self, far: Far) {
        self.world.reset(self.fars[far.0]);
    }

    fn pause(&mut self, far: Far) {
        self.world.pause(self.fars[far.0]);
    }

    fn resume(&mut self, far: Far) {
        self.world.resume(self.fars[far.0]);
    }
}

/// The same, but bytes are cut and joined at random, delays vary and the window is small.
pub(crate) struct ChoppyGround(SimGround);

crate::ground::like!(ChoppyGround, SimGround, |buffers, _lent_max| SimGround::new(buffers, Faults::choppy()));
