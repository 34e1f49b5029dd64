//! AF_XDP as a ground: the far ends are ordinary sockets in another namespace, behind a veth.

use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use postlane::handle::{ListenerId, ShardId};
use postlane::net::uring::{Uring, UringOptions};
use postlane::net::xdp::{Interface, Queue, Xdp, XdpOptions, handovers};
use postlane::net::{Cause, Event, Net};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;
use postlane::sys::xdp::Error;
use postlane::sys::xdp::socket::Mode;
use postlane::time::Instant;

use crate::ground::{Far, FarState, Ground, Stage, pattern};
use crate::network::{INTERFACE, Network};
use crate::uring::{Sockets, by_sockets};

/// Runs a case where it can be, and says why where it cannot.
pub(crate) fn if_there_is(case: impl FnOnce()) {
    match XdpGround::absent() {
        None => case(),
        Some(why) => println!("skipped: {why}"),
    }
}

pub(crate) fn options() -> XdpOptions {
    XdpOptions { interface: INTERFACE.to_owned(), queues: None, mode: None, ports: 61_000..=65_535 }
}

/// One that opens: what a case wants to accept, it opens instead.
pub(crate) type XdpGround = XdpOn<true>;
/// One that accepts, over the interface.
pub(crate) type XdpAccepts = XdpOn<false>;

pub(crate) struct XdpOn<const OPENS: bool> {
    // Dropped before its network.
    net: Xdp,
    pub(crate) sockets: Sockets,
    pub(crate) network: Network,
    /// Where the far end listens.
    pub(crate) at: SocketAddr,
}

fn ring(shard: u16, arenas: &Arc<Arenas>, rings: &Arc<RingTable>, receive_buffers: u16) -> Uring {
    let options = UringOptions {
        shard: ShardId(shard),
        accepted_max: 32,
        opened_max: 32,
        ring_entries: 32,
        receive_buffers,
        ..Default::default()
    };
    Uring::new(options, arenas.clone(), rings.clone()).unwrap()
}

impl<const OPENS: bool> XdpOn<OPENS> {
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn on(network: Network, options: &XdpOptions, buffers: usize, receive_buffers: u16) -> Self {
        let (interface, mut shares) = Interface::open(options, 1).unwrap();
        // Those that the ring is lent are no use to the interface.
        let arenas = Arenas::new(1, buffers + usize::from(receive_buffers)).unwrap();
        let ring = ring(0, &arenas, &RingTable::new(1), receive_buffers);
        let (queues, handover) = (shares.remove(0), handovers(1).remove(0));
        let net = Xdp::new(ring, ShardId(0), Arc::new(interface), queues, handover, 32).unwrap();
        XdpOn { net, sockets: Sockets::default(), at: network.far_address(), network }
    }

    /// How the interface is shown.
    pub(crate) fn shown(&self) -> String {
        self.net.interface().to_string()
    }
}

impl<const OPENS: bool> Ground for XdpOn<OPENS> {
    type Net = Xdp;
    const OPENS: bool = OPENS;
    const BYPASSES: bool = true;

    fn listen_near(&mut self, listener: ListenerId, port: u16) -> SocketAddr {
        if OPENS {
            return self.net.listen(listener, SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        }
        let ip: IpAddr = if self.at.is_ipv6() { "fd66::1" } else { "10.66.0.1" }.parse().unwrap();
        self.net.listen_past_kernel(listener, SocketAddr::new(ip, port)).unwrap()
    }

    fn is_far(&self, ip: IpAddr) -> bool {
        ip.is_loopback()
            || ip == self.network.far_address().ip()
            || ip == self.network.far_address_ipv6().ip()
            || ip == crate::vlan::FAR
    }

    fn absent() -> Option<String> {
        // In a thread of its own: whoever makes a network stays in it.
        std::thread::spawn(|| {
            match Network::new(1).map(|network| (Interface::open(&options(), 1), network)) {
                Ok((Ok(_), _)) => None,
                Ok((Err(error @ (Error::Privileges(..) | Error::NoAfXdp(_))), _)) => Some(error.to_string()),
                Ok((Err(error), _)) => panic!("{error}"),
                Err(why) => Some(why),
            }
        })
        .join()
        .unwrap()
    }

    fn with_buffers(buffers: usize, lent_max: u16) -> Self {
        XdpOn::on(Network::new(2).unwrap(), &options(), buffers, lent_max)
    }

    fn net(&mut self) -> &mut Xdp {
        &mut self.net
    }

    fn step(&mut self, events_max: usize, events: &mut Vec<Event>) {
        self.sockets.pump();
        let until = self.net.now() + Duration::from_millis(1);
        self.net.turn(until, events_max, events);
    }

    fn streams(&mut self) -> usize {
        self.net.streams()
    }

    fn buffers_held(&mut self) -> usize {
        self.net.uring().buffers_held()
    }

    fn listen(&mut self) -> SocketAddr {
        self.network.last(|| self.sockets.listen(self.at))
    }

    /// Does not wait: it is this thread that would have to answer.
    fn connect(&mut self, to: SocketAddr) -> Far {
        let connect = || {
            let domain = if to.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
                _ => TcpStream::from(socket),
            }
        };
        let stream = if to.ip().is_loopback() { connect() } else { self.network.far(connect) };
        self.sockets.add(stream)
    }

    by_sockets!();
}

/// What is opened over the interface goes by it, and to the loopback by the ring.
#[test]
fn the_route_decides_which_way_a_stream_goes() {
    if_there_is(|| {
        for ipv6 in [false, true] {
            let mut stage = Stage::<XdpGround>::new();
            if ipv6 {
                stage.ground.at = stage.ground.network.far_address_ipv6();
            }
            let at = stage.ground.listen();
            let (stream, far) = stage.open_one(at);
            assert!(stage.net().is_bypassed(stream));
            stage.ground.send(far, b"220 over the interface\r\n");
            stage.until_received(stream, b"220 over the interface\r\n");
            let here = stage.ground.sockets.listen("127.0.0.1:0".parse().unwrap());
            let (stream, far) = stage.open_one(here);
            assert!(!stage.net().is_bypassed(stream));
            stage.ground.send(far, b"220 over the loopback\r\n");
            stage.until_received(stream, b"220 over the loopback\r\n");
        }
    });
}

#[test]
fn opens_from_the_source_address_and_from_no_foreign_one() {
    if_there_is(|| {
        let mut stage = Stage::<XdpGround>::new();
        stage.ground.network.ip(&format!("addr add 10.66.0.77/24 dev {INTERFACE}"));
        let at = stage.ground.listen();
        stage.net().open(at, Some("10.66.0.77".parse().unwrap()));
        let mut far = None;
        stage.until("accepted", |stage| {
            far = stage.ground.accept(at);
            far.is_some()
        });
        let peer = stage.ground.sockets.fars[far.unwrap().0].stream.as_ref().unwrap().peer_addr().unwrap();
        assert_eq!(peer.ip().to_string(), "10.66.0.77");
        assert!((61_000..=65_535).contains(&peer.port()), "{peer}");
        let stream = stage.net().open(at, Some("192.0.2.9".parse().unwrap()));
        assert_eq!(stage.until_closed(stream), Cause::NotOpened(libc::EADDRNOTAVAIL));
    });
}

/// `Sent` comes with the acknowledgement, however late that is looked at, and says when the bytes left.
#[test]
fn sent_tells_when_it_left() {
    if_there_is(|| {
        let mut stage = Stage::<XdpGround>::new();
        let at = stage.ground.listen();
        let (stream, _) = stage.open_one(at);
        let mut events = Vec::new();
        for bytes in [&b"MAIL"[..], b""] {
            let before = stage.net().now();
            stage.net().write(stream, bytes);
            stage.net().mark(stream);
            let after = stage.net().turn(Instant::default(), 64, &mut events);
            std::thread::sleep(Duration::from_millis(5));
            for _ in 0..5_000 {
                if !events.is_empty() {
                    break;
                }
                stage.ground.step(64, &mut events);
            }
            let [Event::Sent { stream: of, marks: 1, left_at }] = events[..] else { panic!("{events:?}") };
            assert_eq!(of, stream);
            let is_now = bytes.is_empty() && left_at.is_none();
            let told = left_at.is_some_and(|at| at >= before && at <= after);
            assert!(is_now || told, "{left_at:?} is not between {before:?} and {after:?}");
            events.clear();
        }
    });
}

/// A host that is not there is found out by the kernel's own asking for it.
#[test]
fn a_neighbour_that_is_not_there_is_told() {
    if_there_is(|| {
        let mut stage = Stage::<XdpGround>::new();
        let stream = stage.net().open("10.66.0.99:25".parse().unwrap(), None);
        assert_eq!(stage.until_closed(stream), Cause::NotOpened(libc::EHOSTUNREACH));
    });
}

#[test]
fn beyond_opened_max_opens_fail() {
    if_there_is(crate::cases::beyond_opened_max_opens_fail::<XdpGround>);
}

/// Every mode that there is on a veth works, and the one that was to be had is said.
#[test]
fn each_mode_works_or_is_refused() {
    if_there_is(|| {
        for (mode, had) in
            [(None, Mode::Copy), (Some(Mode::Copy), Mode::Copy), (Some(Mode::Generic), Mode::Generic)]
        {
            // A thread for each, as each stays in its network.
            let run = move || {
                let options = XdpOptions { mode, ..options() };
                let network = Network::new(2).unwrap();
                let ground = XdpGround::on(network, &options, 64, 8);
                assert_eq!(ground.net.interface().mode(), had);
                let mut ground = ground;
                let at = ground.listen();
                let stream = ground.net().open(at, None);
                let mut events = Vec::new();
                for _ in 0..5_000 {
                    ground.step(16, &mut events);
                    ground.accept(at);
                    if events.contains(&Event::Opened { stream }) {
                        return;
                    }
                }
                panic!("{mode:?}: {events:?}");
            };
            std::thread::spawn(run).join().unwrap();
        }
        std::thread::spawn(|| {
            let _network = Network::new(2).unwrap();
            let options = XdpOptions { mode: Some(Mode::ZeroCopy), ..options() };
            let error = Interface::open(&options, 1).map(drop).unwrap_err();
            assert!(error.to_string().contains("zero-copy mode cannot be had on queue 0"), "{error}");
        })
        .join()
        .unwrap();
    });
}

#[test]
fn refusals_name_their_remedies() {
    if_there_is(|| {
        let _network = Network::new(2).unwrap();
        let refused = |options: XdpOptions| Interface::open(&options, 1).map(drop).unwrap_err().to_string();
        let none = refused(XdpOptions { interface: "eth77".to_owned(), ..options() });
        assert!(none.contains("there is no interface `eth77`"), "{none}");
        let loopback = refused(XdpOptions { interface: "lo".to_owned(), ..options() });
        assert!(loopback.contains("no Ethernet interface"), "{loopback}");
        let ports = refused(XdpOptions { ports: 40_000..=40_999, ..options() });
        assert!(ports.contains("ip_local_reserved_ports=40000-40999"), "{ports}");
        let queue = refused(XdpOptions { queues: Some(vec![0, 7]), ..options() });
        assert!(queue.contains("has no queue 7"), "{queue}");
        let listener = std::net::TcpListener::bind("10.66.0.1:61500").unwrap();
        let used = refused(options());
        assert!(used.contains("port 61500") && used.contains("is in use"), "{used}");
        drop(listener);
        let held = Interface::open(&options(), 1).unwrap();
        let twice = refused(options());
        assert!(twice.contains("another XDP program is attached"), "{twice}");
        drop(held);
        Interface::open(&options(), 1).unwrap();
    });
}

/// What was attached goes with who attached it.
#[test]
fn the_program_is_gone_afterwards() {
    if_there_is(|| {
        let _network = Network::new(1).unwrap();
        let shown = || {
            let output = std::process::Command::new("ip").args(["link", "show", INTERFACE]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let held = Interface::open(&options(), 1).unwrap();
        assert!(shown().contains("prog/xdp"), "{}", shown());
        drop(held);
        // A program that is just being started still has our descriptors, until it is.
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while shown().contains("prog/xdp") {
            assert!(std::time::Instant::now() < end, "{}", shown());
            std::thread::yield_now();
        }
    });
}

/// The interface goes down and comes up again: streams live through it.
#[test]
fn streams_outlive_an_interface_that_goes_and_comes() {
    if_there_is(|| {
        let mut stage = Stage::<XdpGround>::new();
        let at = stage.ground.listen();
        let (stream, far) = stage.open_one(at);
        stage.net().write(stream, b"before ");
        stage.until_far_received(far, b"before ");
        stage.ground.network.ip(&format!("link set {INTERFACE} down"));
        stage.net().write(stream, b"meanwhile ");
        for _ in 0..100 {
            stage.step();
        }
        stage.ground.network.ip(&format!("link set {INTERFACE} up"));
        stage.net().write(stream, b"after");
        stage.until_far_received(far, b"meanwhile after");
    });
}

/// Loss on the way, in both directions, by the far kernel's packet filter.
#[test]
fn a_large_body_arrives_exactly_although_packets_are_lost() {
    if_there_is(|| {
        let mut stage = Stage::<XdpGround>::with_buffers(1_000, 16);
        let body = pattern(3 << 20, 7);
        let extents = stage.extents_of(&body);
        let filter = "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                      add chain inet t out { type filter hook output priority 0; }; \
                      add rule inet t in tcp dport 1024-65535 numgen random mod 100 < 2 drop; \
                      add rule inet t out tcp sport 1024-65535 numgen random mod 100 < 2 drop";
        let set = stage.ground.network.far(|| std::process::Command::new("nft").arg(filter).output());
        match set {
            Ok(output) if output.status.success() => {}
            other => {
                println!("skipped: nft(8) cannot lose packets here: {other:?}");
                return;
            }
        }
        let at = stage.ground.listen();
        let (stream, far) = stage.open_one(at);
        stage.net().write_body(stream, &extents);
        stage.net().mark(stream);
        stage.until_far_received(far, &body);
        stage.ground.send(far, &body[..500_000]);
        stage.until("received", |stage| stage.received(stream).len() >= 500_000);
        assert!(stage.received(stream) == &body[..500_000]);
        stage.net().close(stream);
        stage.until_closed(stream);
        assert!(stage.net().bypassed().sent_again > 0, "{:?}", stage.net().bypassed());
        stage.release_all(&extents);
    });
}

/// Two shards on two queues of an interface that spreads as it likes: what comes to the wrong one is passed on.
#[test]
fn shards_pass_on_what_is_not_theirs() {
    if_there_is(|| {
        let network = Network::new(2).unwrap();
        let mut sockets = Sockets::default();
        let at = network.far(|| sockets.listen(network.far_address()));
        let (interface, shares) = Interface::open(&options(), 2).unwrap();
        let (interface, arenas, rings) =
            (Arc::new(interface), Arenas::new(2, 128).unwrap(), RingTable::new(2));
        const STREAMS: usize = 16;
        let shards: Vec<_> = shares.into_iter().zip(handovers(2)).enumerate().collect();
        let ready = &std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            let workers: Vec<_> = shards
                .into_iter()
                .map(|(shard, (queues, handover)): (usize, (Vec<Queue>, _))| {
                    let (interface, arenas, rings) = (interface.clone(), arenas.clone(), rings.clone());
                    scope.spawn(move || {
                        let ring = ring(shard as u16, &arenas, &rings, 8);
                        let id = ShardId(shard as u16);
                        let mut net = Xdp::new(ring, id, interface, queues, handover, 32).unwrap();
                        ready.wait();
                        let streams: Vec<_> = (0..STREAMS).map(|_| net.open(at, None)).collect();
                        let (mut opened, mut received, mut events) = (0, 0, Vec::new());
                        let end = net.now() + Duration::from_secs(20);
                        while received < STREAMS * 100 && net.now() < end {
                            let until = net.now() + Duration::from_millis(50);
                            net.turn(until, 64, &mut events);
                            for event in events.drain(..) {
                                match event {
                                    Event::Opened { stream } => {
                                        opened += 1;
                                        net.write(stream, format!("{:<10}", shard).repeat(10).as_bytes());
                                    }
                                    Event::Received { extent, .. } => {
                                        received += extent.len as usize;
                                        postlane::handle::Buffers::release(&mut net, extent.buffer);
                                    }
                                    other => panic!("{other:?}"),
                                }
                            }
                        }
                        assert_eq!((opened, received), (STREAMS, STREAMS * 100), "shard {shard}");
                        // The other one may still need what comes by this one's queue.
                        ready.wait();
                        drop(streams);
                        net.bypassed()
                    })
                })
                .collect();
            ready.wait();
            // Echoes.
            let mut fars = Vec::new();
            let end = std::time::Instant::now() + Duration::from_secs(20);
            let mut echoed = 0;
            while echoed < 2 * STREAMS * 100 && std::time::Instant::now() < end {
                fars.extend(sockets.accept(at));
                sockets.pump();
                for &far in &fars {
                    let mut bytes = Vec::new();
                    sockets.fars[far.0].take_received(&mut bytes);
                    echoed += bytes.len();
                    sockets.fars[far.0].send(&bytes);
                }
                std::thread::yield_now();
            }
            ready.wait();
            let counts: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
            assert!(counts.iter().any(|counts| counts.handed_over > 0), "both queues were used: {counts:?}");
            assert!(counts.iter().all(|counts| counts.strangers == 0), "{counts:?}");
        });
        drop(network);
    });
}
