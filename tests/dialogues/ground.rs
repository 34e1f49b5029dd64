//! Where a script is played: in the simulator, over the loopback's TCP on io_uring, or past the kernel over a veth.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use postlane::dispatch::{Dispatch, Letter};
use postlane::handle::{ListenerId, ShardId};
use postlane::net::sim::{PeerId, PeerState};
use postlane::net::uring::{Uring, UringOptions};
use postlane::net::xdp::{Interface, Xdp, XdpOptions, handovers};
use postlane::net::{Inlet, Net};
use postlane::observe::Stats;
use postlane::shard::mailbox::{Mailbox, mailboxes};
use postlane::shard::{Order, Orders, Shard};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;
use postlane::sys::xdp::Error;

use crate::network::{INTERFACE, Network};
use crate::stage::{Setup, Stage, upstream_address};

/// One stream's end that the script plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End(usize);

pub(crate) trait Ground: Sized {
    /// Where clients call from.
    const CLIENT: &str = "127.0.0.1";
    fn new(setup: &Setup) -> Self;
    fn connect(&mut self) -> End;
    fn accept(&mut self, upstream: usize) -> Option<End>;
    fn listen(&mut self, upstream: usize, listens: bool);
    fn vanish(&mut self, upstream: usize);
    fn send(&mut self, end: End, bytes: &[u8]);
    /// What has come since the last call, as one packet.
    fn receive(&mut self, end: End) -> Vec<u8>;
    /// The other end has closed or reset it.
    fn is_over(&mut self, end: End) -> bool;
    fn close(&mut self, end: End);
    fn reset(&mut self, end: End);
    /// Lets something happen. False: nothing does any more, or nothing soon.
    fn step(&mut self, patience: Duration) -> bool;
    fn wait(&mut self, time: Duration);
    fn sum(&self, of: &dyn Fn(&Stats) -> u64) -> u64;
    fn order(&mut self, order: Order);
    /// All has ended and nothing is left.
    fn end(self);
}

pub(crate) struct SimGround {
    stage: Stage,
    ends: Vec<PeerId>,
}

impl SimGround {
    fn add(&mut self, peer: PeerId) -> End {
        self.ends.push(peer);
        End(self.ends.len() - 1)
    }
}

impl Ground for SimGround {
    fn new(setup: &Setup) -> SimGround {
        let stage = Stage::new(setup);
        for n in 0..setup.pool.upstreams.len() {
            stage.world.listen_peer(upstream_address(n)).unwrap();
        }
        SimGround { stage, ends: Vec::new() }
    }

    fn connect(&mut self) -> End {
        let peer = self.stage.world.connect(self.stage.inlet, "127.0.0.1:0".parse().unwrap());
        self.add(peer)
    }

    fn accept(&mut self, upstream: usize) -> Option<End> {
        let peer = self.stage.world.accept_peer(upstream_address(upstream))?;
        Some(self.add(peer))
    }

    fn listen(&mut self, upstream: usize, listens: bool) {
        let at = upstream_address(upstream);
        if listens {
            self.stage.world.listen_peer(at).unwrap();
        } else {
            self.stage.world.unlisten_peer(at);
        }
    }

    fn vanish(&mut self, upstream: usize) {
        self.stage.world.set_black_hole(upstream_address(upstream), true);
    }

    fn send(&mut self, end: End, bytes: &[u8]) {
        self.stage.world.send(self.ends[end.0], bytes);
    }

    fn receive(&mut self, end: End) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stage.world.take_received(self.ends[end.0], &mut bytes);
        bytes
    }

    fn is_over(&mut self, end: End) -> bool {
        !matches!(self.stage.world.peer_state(self.ends[end.0]), PeerState::Open | PeerState::Connecting)
    }

    fn close(&mut self, end: End) {
        self.stage.world.close(self.ends[end.0]);
    }

    fn reset(&mut self, end: End) {
        self.stage.world.reset(self.ends[end.0]);
    }

    fn step(&mut self, patience: Duration) -> bool {
        self.stage.settle();
        let due = self.stage.next_due();
        if due > self.stage.now() + patience {
            return false;
        }
        self.stage.advance_to(due);
        self.stage.settle();
        true
    }

    fn wait(&mut self, time: Duration) {
        let end = self.stage.now() + time;
        self.stage.settle();
        while self.stage.next_due() <= end {
            let due = self.stage.next_due();
            self.stage.advance_to(due);
            self.stage.settle();
        }
        self.stage.advance_to(end);
        self.stage.settle();
    }

    fn sum(&self, of: &dyn Fn(&Stats) -> u64) -> u64 {
        self.stage.sum(of)
    }

    fn order(&mut self, order: Order) {
        self.stage.order(order);
    }

    fn end(mut self) {
        for peer in std::mem::take(&mut self.ends) {
            self.stage.world.close(peer);
        }
        self.stage.order(Order::Stop);
        self.wait(Duration::from_secs(60));
        assert!(self.stage.has_ended(), "the shards do not end");
        self.stage.assert_nothing_left();
    }
}

/// The shards on threads of their own, everybody else on this one; upstreams behind a veth if the kernel is bypassed.
pub(crate) struct SystemGround<const LEGS: u8> {
    network: Option<Network>,
    inlet: SocketAddr,
    shards: Vec<JoinHandle<()>>,
    orders: Arc<Orders>,
    stats: Arc<[Arc<Stats>]>,
    upstreams: Vec<(SocketAddr, Option<TcpListener>)>,
    ends: Vec<Option<TcpStream>>,
    waited: Duration,
}

pub(crate) type UringGround = SystemGround<0>;
/// To upstreams past the kernel.
pub(crate) type XdpGround = SystemGround<1>;
/// And from clients.
pub(crate) type XdpBothGround = SystemGround<2>;

const GLANCE: Duration = Duration::from_millis(1);

impl XdpGround {
    /// Why there is no such ground here, if there is none.
    pub(crate) fn absent() -> Option<String> {
        // In a thread of its own: whoever makes a network stays in it.
        let open = || match Network::new(1).map(|network| (Interface::open(&bypass(), 1), network)) {
            Ok((Ok(_), _)) => None,
            Ok((Err(error @ (Error::Privileges(..) | Error::NoAfXdp(_))), _)) => Some(error.to_string()),
            Ok((Err(error), _)) => panic!("{error}"),
            Err(why) => Some(why),
        };
        std::thread::spawn(open).join().unwrap()
    }
}

fn bypass() -> XdpOptions {
    XdpOptions { interface: INTERFACE.to_owned(), queues: None, mode: None, ports: 61_000..=65_535 }
}

/// A shard's life, on its own thread.
fn live<N: Net + postlane::disk::Disk>(
    net: N,
    seat: Seat,
    inlet: SocketAddr,
    tell: &mpsc::Sender<SocketAddr>,
) -> N {
    let Seat { id, dispatch, mailbox, orders, stats } = seat;
    let mut shard = Shard::new(id, net, dispatch, mailbox, orders, stats);
    let inlet = Inlet { address: inlet, past_kernel: !inlet.ip().is_loopback() };
    tell.send(shard.listen_at(ListenerId(0), inlet).unwrap()).unwrap();
    while !shard.has_ended() {
        shard.turn();
    }
    shard.into_net()
}

struct Seat {
    id: ShardId,
    dispatch: Dispatch,
    mailbox: Mailbox<Letter>,
    orders: Arc<Orders>,
    stats: Arc<[Arc<Stats>]>,
}

impl<const LEGS: u8> SystemGround<LEGS> {
    fn add(&mut self, stream: TcpStream) -> End {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        self.ends.push(Some(stream));
        End(self.ends.len() - 1)
    }
}

fn listener(at: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// At the far end, if there is one.
fn listen_at(network: Option<&Network>, at: Option<SocketAddr>) -> TcpListener {
    match network {
        Some(network) => network.far(|| listener(at.unwrap_or(network.far_address()))),
        None => listener(at.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))),
    }
}

impl<const LEGS: u8> Ground for SystemGround<LEGS> {
    const CLIENT: &str = if LEGS > 1 { "10.66.0.2" } else { "127.0.0.1" };

    fn new(setup: &Setup) -> Self {
        let mut setup = setup.clone();
        let mut upstreams = Vec::new();
        let network = (LEGS > 0).then(|| Network::new(2).unwrap());
        let mut shares = Vec::new();
        if LEGS > 0 {
            let shards = usize::from(setup.shards);
            let (interface, queues) = Interface::open(&bypass(), shards).unwrap();
            let interface = Arc::new(interface);
            shares.extend(queues.into_iter().zip(handovers(shards)).map(|share| (interface.clone(), share)));
        }
        let mut shares = shares.into_iter();
        for upstream in &mut setup.pool.upstreams {
            let listener = listen_at(network.as_ref(), None);
            upstream.address = listener.local_addr().unwrap();
            upstreams.push((upstream.address, Some(listener)));
        }
        let shards = usize::from(setup.shards);
        let arenas = Arenas::new(shards, setup.buffers + 32).unwrap();
        let rings = RingTable::new(shards);
        let orders = Arc::new(Orders::default());
        let stats: Arc<[Arc<Stats>]> =
            (0..shards).map(|_| Arc::new(Stats::new(1, &[setup.pool.upstreams.len()]))).collect();
        let near = if LEGS > 1 { [10, 66, 0, 1] } else { [127, 0, 0, 1] };
        let mut inlet = SocketAddr::from((near, 0));
        let mut threads = Vec::new();
        for (n, mailbox) in mailboxes(setup.shards).into_iter().enumerate() {
            let id = ShardId(n as u16);
            let dispatch = Dispatch::new(setup.options(id), stats[n].clone(), 1_700_000_000_000);
            let (arenas, rings) = (arenas.clone(), rings.clone());
            let seat = Seat { id, dispatch, mailbox, orders: orders.clone(), stats: stats.clone() };
            let share = shares.next();
            let (tell, told) = mpsc::channel();
            threads.push(std::thread::spawn(move || {
                let options = UringOptions {
                    shard: id,
                    accepted_max: 32,
                    opened_max: 32,
                    ring_entries: 64,
                    receive_buffers: 32,
                    ..UringOptions::default()
                };
                let ring = Uring::new(options, arenas, rings).unwrap();
                let (streams, held) = match share {
                    Some((interface, (queues, handover))) => {
                        let net = Xdp::new(ring, id, interface, queues, handover, 32).unwrap();
                        let net = live(net, seat, inlet, &tell);
                        (net.streams(), net.uring().buffers_held())
                    }
                    None => {
                        let net = live(ring, seat, inlet, &tell);
                        (net.streams(), net.buffers_held())
                    }
                };
                assert_eq!(streams, 0, "streams are left");
                assert_eq!(held, 0, "buffers are held");
            }));
            inlet = told.recv().expect("the shard listens");
        }
        SystemGround {
            network,
            inlet,
            shards: threads,
            orders,
            stats,
            upstreams,
            ends: Vec::new(),
            waited: Duration::ZERO,
        }
    }

    fn connect(&mut self) -> End {
        let connect = || TcpStream::connect(self.inlet).unwrap();
        let stream = match &self.network {
            Some(network) if LEGS > 1 => network.far(connect),
            _ => connect(),
        };
        self.add(stream)
    }

    fn accept(&mut self, upstream: usize) -> Option<End> {
        let (stream, _) = self.upstreams[upstream].1.as_ref()?.accept().ok()?;
        Some(self.add(stream))
    }

    fn listen(&mut self, upstream: usize, listens: bool) {
        let (at, current) = &mut self.upstreams[upstream];
        *current = None;
        if listens {
            *current = Some(listen_at(self.network.as_ref(), Some(*at)));
        }
    }

    fn vanish(&mut self, _upstream: usize) {
        unreachable!("scripts that need it are for the simulator");
    }

    fn send(&mut self, end: End, mut bytes: &[u8]) {
        let Some(stream) = &mut self.ends[end.0] else { return };
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(GLANCE),
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, end: End) -> Vec<u8> {
        let Some(stream) = &mut self.ends[end.0] else { return Vec::new() };
        let mut buffer = vec![0; 1 << 16];
        let len = stream.read(&mut buffer).unwrap_or(0);
        buffer.truncate(len);
        if len > 0 {
            self.waited = Duration::ZERO;
        }
        buffer
    }

    fn is_over(&mut self, end: End) -> bool {
        let Some(stream) = &mut self.ends[end.0] else { return true };
        match stream.peek(&mut [0]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    fn close(&mut self, end: End) {
        self.ends[end.0] = None;
    }

    fn reset(&mut self, end: End) {
        let Some(stream) = self.ends[end.0].take() else { return };
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn step(&mut self, patience: Duration) -> bool {
        std::thread::sleep(GLANCE);
        self.waited += GLANCE;
        let goes_on = self.waited < patience * 3;
        if !goes_on {
            self.waited = Duration::ZERO;
        }
        goes_on
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn sum(&self, of: &dyn Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(|stats| of(stats)).sum()
    }

    fn order(&mut self, order: Order) {
        self.orders.give(order);
        // A shard looks up ten times a second.
        std::thread::sleep(Duration::from_millis(150));
    }

    fn end(self) {
        drop(self.ends);
        self.orders.give(Order::Stop);
        self.shards.into_iter().for_each(|shard| shard.join().expect("the shard ends well"));
    }
}
