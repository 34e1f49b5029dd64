//! What only the simulator promises: the same seed, the same run; any cutting keeps the order of bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use postlane::handle::{Buffers, ListenerId, ShardId, StreamId};
use postlane::net::sim::{Faults, PeerId, PeerState, SimNet, World};
use postlane::net::{Cause, Event, Net};
use postlane::time::Instant;
use proptest::prelude::*;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Echo shards: every event is logged, every byte sent back from where it lies.
struct Echo {
    world: World,
    nets: Vec<SimNet>,
    log: Vec<(ShardId, Instant, Event)>,
    lent: HashMap<(ShardId, StreamId), Vec<postlane::handle::BufferId>>,
}

impl Echo {
    fn new(seed: u64, faults: Faults, shards: u16, buffers: usize) -> Echo {
        let world = World::new(seed, faults, shards.into(), buffers);
        let mut nets: Vec<SimNet> = (0..shards).map(|shard| world.net(ShardId(shard))).collect();
        for net in &mut nets {
            net.listen(ListenerId(0), "0.0.0.0:25".parse().unwrap()).unwrap();
        }
        Echo { world, nets, log: Vec::new(), lent: HashMap::new() }
    }

    /// Lets everything happen that is due within `limit` of virtual time.
    fn run(&mut self, limit: Duration) {
        let end = self.world.now() + limit;
        loop {
            for shard in self.world.runnable_shards() {
                self.turn(shard);
            }
            if !self.world.runnable_shards().is_empty() {
                continue;
            }
            match self.world.next_due() {
                Some(due) if due <= end => self.world.advance_to(due),
                _ => return,
            }
        }
    }

    fn turn(&mut self, shard: ShardId) {
        let net = &mut self.nets[shard.index()];
        let mut events = Vec::new();
        let now = net.turn(Instant::NEVER, 7, &mut events);
        for event in events {
            self.log.push((shard, now, event));
            match event {
                Event::Received { stream, extent } => {
                    net.write_body(stream, &[extent]);
                    net.mark(stream);
                    self.lent.entry((shard, stream)).or_default().push(extent.buffer);
                }
                Event::Sent { stream, marks, .. } => {
                    let lent = self.lent.get_mut(&(shard, stream)).unwrap();
                    lent.drain(..marks as usize).for_each(|buffer| net.release(buffer));
                }
                Event::Closed { stream, .. } => {
                    let done = self.lent.remove(&(shard, stream)).unwrap_or_default();
                    done.into_iter().for_each(|buffer| net.release(buffer));
                }
                Event::Accepted { .. } | Event::Opened { .. } | Event::Disk { .. } => {}
            }
        }
    }
}

fn faults() -> impl Strategy<Value = Faults> {
    (0.0..1.0, 0.0..1.0, 0.0..1.0, 1usize..5_000, 0u64..3_000).prop_map(
        |(split, merge, short_receive, window_bytes, delay)| Faults {
            delay_min: Duration::ZERO,
            delay_max: Duration::from_micros(delay),
            split,
            merge,
            short_receive,
            window_bytes,
            ..Faults::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_cutting_keeps_the_order_of_bytes(
        seed: u64,
        faults in faults(),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..2_000), 1..20),
        buffers in 1usize..6,
    ) {
        let mut echo = Echo::new(seed, faults, 2, buffers);
        let peers: Vec<PeerId> = (0..3).map(|_| echo.world.connect(at(25), at(0))).collect();
        for chunk in &chunks {
            for &peer in &peers {
                echo.world.send(peer, chunk);
            }
            echo.run(Duration::from_micros(200));
        }
        let sent = chunks.concat();
        peers.iter().for_each(|&peer| echo.world.shutdown(peer));
        echo.run(Duration::from_secs(100));
        for &peer in &peers {
            let mut received = Vec::new();
            echo.world.take_received(peer, &mut received);
            prop_assert_eq!(&received, &sent);
            prop_assert_eq!(echo.world.peer_state(peer), PeerState::Finished);
            echo.world.close(peer);
        }
        for net in &echo.nets {
            prop_assert_eq!((net.streams(), net.buffers_held()), (0, 0));
        }
        prop_assert_eq!(echo.world.sockets(), 0);
    }

    #[test]
    fn losses_end_streams_exactly_once_and_leave_nothing(seed: u64, loss in 0.0..0.2f64) {
        let faults = Faults { reset: loss, refuse: loss, ..Faults::choppy() };
        let mut echo = Echo::new(seed, faults, 2, 4);
        let peers: Vec<PeerId> = (0..8).map(|_| echo.world.connect(at(25), at(0))).collect();
        peers.iter().for_each(|&peer| echo.world.send(peer, &[b'x'; 30_000]));
        peers.iter().for_each(|&peer| echo.world.shutdown(peer));
        echo.run(Duration::from_secs(200));
        peers.iter().for_each(|&peer| echo.world.close(peer));
        echo.run(Duration::from_secs(200));
        let ends = |wanted: fn(&Event) -> bool| echo.log.iter().filter(|(.., event)| wanted(event)).count();
        let accepted = ends(|event| matches!(event, Event::Accepted { .. }));
        prop_assert_eq!(accepted, ends(|event| matches!(event, Event::Closed { .. })));
        for net in &echo.nets {
            prop_assert_eq!((net.streams(), net.buffers_held()), (0, 0));
        }
        prop_assert_eq!(echo.world.sockets(), 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let faults = Faults { reset: 0.01, refuse: 0.1, ..Faults::choppy() };
        let mut echo = Echo::new(seed, faults, 3, 8);
        let peers: Vec<PeerId> = (0..20).map(|_| echo.world.connect(at(25), at(0))).collect();
        peers.iter().for_each(|&peer| echo.world.send(peer, &[b'y'; 10_000]));
        echo.run(Duration::from_secs(10));
        format!("{:?}", echo.log)
    };
    assert!(run(1) == run(1));
    assert!(run(1) != run(2), "the seed matters");
}

#[test]
fn connections_are_spread_over_the_shards() {
    let mut echo = Echo::new(3, Faults::default(), 4, 8);
    for _ in 0..200 {
        echo.world.connect(at(25), at(0));
    }
    echo.run(Duration::from_secs(1));
    for net in &echo.nets {
        assert!((25..100).contains(&net.streams()), "{}", net.streams());
    }
}

#[test]
fn a_black_hole_times_out_in_virtual_time() {
    let world = World::new(1, Faults::default(), 1, 4);
    let mut net = world.net(ShardId(0));
    world.listen_peer(at(2600)).unwrap();
    world.set_black_hole(at(2600), true);
    let start = world.now();
    let stream = net.open(at(2600), None);
    let mut events = Vec::new();
    while events.is_empty() {
        net.turn(Instant::NEVER, 8, &mut events);
        if events.is_empty() {
            world.advance_to(world.next_due().unwrap());
        }
    }
    assert_eq!(events, [Event::Closed { stream, cause: Cause::NotOpened(libc::ETIMEDOUT) }]);
    assert_eq!(world.now().since(start), Duration::from_secs(127));
    assert_eq!(world.accept_peer(at(2600)), None);
}

#[test]
fn wake_makes_the_other_shard_runnable() {
    let world = World::new(1, Faults::default(), 2, 4);
    let (mut a, mut b) = (world.net(ShardId(0)), world.net(ShardId(1)));
    assert_eq!(world.runnable_shards(), []);
    a.wake(ShardId(1));
    assert_eq!(world.runnable_shards(), [ShardId(1)]);
    let mut events = Vec::new();
    b.turn(Instant::NEVER, 8, &mut events);
    assert_eq!((world.runnable_shards(), events), (vec![], vec![]));
}

#[test]
fn a_body_freed_too_early_shows() {
    let mut echo = Echo::new(1, Faults::default(), 1, 4);
    let peer = echo.world.connect(at(25), at(0));
    echo.world.send(peer, b"a body");
    let net = &mut echo.nets[0];
    let mut events = Vec::new();
    while !events.iter().any(|event| matches!(event, Event::Received { .. })) {
        net.turn(Instant::NEVER, 8, &mut events);
        echo.world.advance_to(echo.world.next_due().unwrap());
    }
    let Some(&Event::Received { stream, extent }) = events.last() else { panic!("{events:?}") };
    net.write_body(stream, &[extent]);
    net.release(extent.buffer);
    echo.run(Duration::from_secs(1));
    let mut received = Vec::new();
    echo.world.take_received(peer, &mut received);
    assert_eq!(received, [0xdb; 6]);
}

#[test]
fn a_shard_that_is_gone_leaves_its_peers_an_end() {
    let mut echo = Echo::new(1, Faults::default(), 1, 4);
    let peer = echo.world.connect(at(25), at(0));
    echo.run(Duration::from_secs(1));
    echo.nets.clear();
    echo.run(Duration::from_secs(1));
    assert_eq!(echo.world.peer_state(peer), PeerState::Finished);
    let late = echo.world.connect(at(25), at(0));
    echo.run(Duration::from_secs(1));
    assert_eq!(echo.world.peer_state(late), PeerState::Failed(libc::ECONNREFUSED));
    // It can come again.
    echo.nets.push(echo.world.net(ShardId(0)));
    echo.nets[0].listen(ListenerId(0), at(25)).unwrap();
    let peer = echo.world.connect(at(25), at(0));
    echo.run(Duration::from_secs(1));
    assert_eq!((echo.world.peer_state(peer), echo.nets[0].streams()), (PeerState::Open, 1));
}
