//! io_uring as a ground: the far ends are ordinary non-blocking sockets of this thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use postlane::handle::{Buffers, ListenerId, ShardId};
use postlane::net::uring::{Uring, UringOptions};
use postlane::net::{Event, Net};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;

use crate::ground::{Far, FarState, Ground};

pub(crate) struct FarEnd {
    pub(crate) stream: Option<TcpStream>,
    pending: Vec<u8>,
    received: Vec<u8>,
    paused: bool,
    closing: Option<Shutdown>,
    state: FarState,
}

impl FarEnd {
    fn new(stream: TcpStream) -> FarEnd {
        stream.set_nonblocking(true).unwrap();
        FarEnd {
            stream: Some(stream),
            pending: Vec::new(),
            received: Vec::new(),
            paused: false,
            closing: None,
            state: FarState::Open,
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
        self.pump();
    }

    pub(crate) fn take_received(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.received);
    }

    pub(crate) fn state(&mut self) -> FarState {
        self.pump();
        self.state
    }

    pub(crate) fn close(&mut self, how: Shutdown) {
        self.closing = Some(how);
        self.pump();
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Sends and reads what goes without waiting.
    fn pump(&mut self) {
        let Some(stream) = self.stream.as_mut() else {
            return;
        };
        while !self.pending.is_empty() {
            match stream.write(&self.pending) {
                Ok(len) => drop(self.pending.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.pending.clear(),
            }
        }
        let mut buffer = [0; 65_536];
        while !self.paused && self.state == FarState::Open {
            match stream.read(&mut buffer) {
                Ok(0) => self.state = FarState::Finished,
                Ok(len) => self.received.extend(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.state = FarState::Failed,
            }
        }
        if self.pending.is_empty() {
            match self.closing.take() {
                Some(Shutdown::Write) => drop(stream.shutdown(Shutdown::Write)),
                Some(_) => self.stream = None,
                None => {}
            }
        }
    }
}

/// Ordinary sockets as far ends, whatever is on the near side.
#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) fars: Vec<FarEnd>,
    /// Those whose socket is open.
    live: Vec<usize>,
    pub(crate) listeners: Vec<TcpListener>,
}

impl Sockets {
    pub(crate) fn add(&mut self, stream: TcpStream) -> Far {
        self.live.push(self.fars.len());
        self.fars.push(FarEnd::new(stream));
        Far(self.fars.len() - 1)
    }

    pub(crate) fn pump(&mut self) {
        self.live.retain(|&far| {
            self.fars[far].pump();
            self.fars[far].stream.is_some()
        });
    }

    pub(crate) fn listen(&mut self, at: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        self.listeners.push(listener);
        at
    }

    pub(crate) fn unlisten(&mut self, at: SocketAddr) {
        self.listeners.retain(|listener| listener.local_addr().unwrap() != at);
    }

    pub(crate) fn accept(&mut self, at: SocketAddr) -> Option<Far> {
        let listener = self.listeners.iter().find(|listener| listener.local_addr().unwrap() == at)?;
        let (stream, _) = listener.accept().ok()?;
        Some(self.add(stream))
    }

    pub(crate) fn reset(&mut self, far: Far) {
        if let Some(stream) = self.fars[far.0].stream.take() {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// What a ground of sockets does by them.
macro_rules! by_sockets {
    () => {
        fn quiet_steps(&self) -> usize {
            30
        }

        fn unlisten(&mut self, at: SocketAddr) {
            self.sockets.unlisten(at);
        }

        fn accept(&mut self, at: SocketAddr) -> Option<Far> {
            self.sockets.accept(at)
        }

        fn send(&mut self, far: Far, bytes: &[u8]) {
            self.sockets.fars[far.0].send(bytes);
        }

        fn take_received(&mut self, far: Far, into: &mut Vec<u8>) {
            self.sockets.fars[far.0].take_received(into);
        }

        fn state(&mut self, far: Far) -> FarState {
            self.sockets.fars[far.0].state()
        }

        fn close(&mut self, far: Far) {
            self.sockets.fars[far.0].close(Shutdown::Both);
        }

        fn shutdown(&mut self, far: Far) {
            self.sockets.fars[far.0].close(Shutdown::Write);
        }

        fn reset(&mut self, far: Far) {
            self.sockets.reset(far);
        }

        fn pause(&mut self, far: Far) {
            self.sockets.fars[far.0].set_paused(true);
        }

        fn resume(&mut self, far: Far) {
            self.sockets.fars[far.0].set_paused(false);
        }
    };
}

pub(crate) use by_sockets;

pub(crate) struct UringGround {
    net: Uring,
    sockets: Sockets,
}

impl UringGround {
    fn new(buffers: usize, receive_buffers: u16, plain: bool) -> UringGround {
        // Few streams, so that a leak of slots or of places in the file table soon shows.
        let options = UringOptions {
            accepted_max: 32,
            opened_max: 32,
            ring_entries: 32,
            receive_buffers,
            plain,
            ..Default::default()
        };
        let net = Uring::new(options, Arenas::new(1, buffers).unwrap(), RingTable::new(1)).unwrap();
        assert_ne!(net.features().peer_name, plain);
        UringGround { net, sockets: Sockets::default() }
    }
}

impl Ground for UringGround {
    type Net = Uring;

    fn with_buffers(buffers: usize, lent_max: u16) -> Self {
        UringGround::new(buffers, lent_max, false)
    }

    fn net(&mut self) -> &mut Uring {
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
        self.net.buffers_held()
    }

    fn listen(&mut self) -> SocketAddr {
        self.sockets.listen("127.0.0.1:0".parse().unwrap())
    }

    fn connect(&mut self, to: SocketAddr) -> Far {
        self.sockets.add(TcpStream::connect(to).unwrap())
    }

    by_sockets!();
}

/// The same, with only what Linux 6.1 has.
pub(crate) struct PlainGround(UringGround);

crate::ground::like!(PlainGround, UringGround, |buffers, lent_max| UringGround::new(buffers, lent_max, true));

/// Two shards in two threads: each wakes the other from a wait without end, over and over.
#[test]
fn shards_wake_each_other() {
    use postlane::time::Instant;
    const ROUNDS: u32 = 1_000;
    let (arenas, rings) = (Arenas::new(2, 16).unwrap(), RingTable::new(2));
    let ready = std::sync::Barrier::new(2);
    let turn = std::sync::atomic::AtomicU32::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for shard in 0..2_u16 {
            let (arenas, rings, ready, turn) = (arenas.clone(), rings.clone(), &ready, &turn);
            scope.spawn(move || {
                let options = UringOptions {
                    shard: ShardId(shard),
                    accepted_max: 4,
                    opened_max: 4,
                    receive_buffers: 4,
                    ..Default::default()
                };
                let mut net = Uring::new(options, arenas, rings).unwrap();
                ready.wait();
                let mut events = Vec::new();
                for round in 0..ROUNDS {
                    if round % 2 == u32::from(shard) {
                        turn.store(round + 1, order);
                        net.wake(ShardId(1 - shard));
                        net.turn(Instant::default(), 8, &mut events);
                    } else {
                        while turn.load(order) <= round {
                            net.turn(Instant::NEVER, 8, &mut events);
                        }
                    }
                }
                ready.wait();
                assert!(events.is_empty());
            });
        }
    });
    assert_eq!(turn.load(order), ROUNDS);
}

/// At the bound newcomers are closed at once, and when there is room again they are taken.
#[test]
fn beyond_accepted_max_newcomers_are_turned_away() {
    let mut stage = crate::ground::Stage::<UringGround>::new();
    let held: Vec<_> = (0..32).map(|_| stage.accept_one()).collect();
    let at = stage.listener;
    let extra = stage.ground.connect(at);
    stage.until("turned away", |stage| stage.ground.state(extra) != FarState::Open);
    assert_eq!((stage.ground.net.turned_away(), stage.accepted.len()), (1, 32));
    stage.make_way(held[0]);
}

#[test]
fn beyond_opened_max_opens_fail() {
    crate::cases::beyond_opened_max_opens_fail::<UringGround>();
}

/// The local address asked for is the one the far end sees.
#[test]
fn opens_from_the_source_address() {
    let mut stage = crate::ground::Stage::<UringGround>::new();
    let at = stage.ground.listen();
    stage.net().open(at, Some("127.0.0.7".parse().unwrap()));
    let mut far = None;
    stage.until("accepted", |stage| {
        far = stage.ground.accept(at);
        far.is_some()
    });
    let peer = stage.ground.sockets.fars[far.unwrap().0].stream.as_ref().unwrap().peer_addr().unwrap();
    assert_eq!(peer.ip().to_string(), "127.0.0.7");
    let stream = stage.net().open(at, Some("192.0.2.9".parse().unwrap()));
    assert_eq!(stage.until_closed(stream), postlane::net::Cause::NotOpened(libc::EADDRNOTAVAIL));
}

/// Callers are named by IPv6, and by IPv4 even where they came through an IPv6 socket.
#[test]
fn callers_are_named_in_both_families() {
    for (listen, call) in [("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1")] {
        for plain in [false, true] {
            let mut ground = UringGround::new(16, 4, plain);
            let at = ground.net.listen(ListenerId(5), listen.parse().unwrap()).unwrap();
            let caller = TcpStream::connect((call, at.port())).unwrap();
            let mut events = Vec::new();
            for _ in 0..10_000 {
                ground.step(8, &mut events);
                if !events.is_empty() {
                    break;
                }
            }
            let Some(&Event::Accepted { peer, listener, .. }) = events.first() else { panic!("{events:?}") };
            assert_eq!((peer, listener), (caller.local_addr().unwrap(), ListenerId(5)));
        }
    }
}

/// Once warm, relaying allocates nothing, and each turn is one system call.
#[test]
fn a_warm_relay_allocates_nothing_and_enters_once_per_turn() {
    let mut stage = crate::ground::Stage::<UringGround>::new();
    let at = stage.ground.listen();
    let (down, far_down) = stage.accept_one();
    let (up, far_up) = stage.open_one(at);
    stage.settle();
    let body = crate::ground::pattern(10_240, 3);
    let net = &mut stage.ground.net;
    let (mut events, mut held) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let (mut allocations, mut turns, mut enters) = (0, 0, 0);
    for round in 0..300 {
        let mut arrived = vec![0; body.len() + 2];
        let client = stage.ground.sockets.fars[far_down.0].stream.as_mut().unwrap();
        client.set_nonblocking(false).unwrap();
        client.write_all(&body).unwrap();
        let mut left = body.len();
        let mut sent = false;
        let enters_before = net.enters();
        let (count, turns_taken) = {
            let mut turns_taken = 0;
            let count = allocation_counter::measure(|| {
                while left > 0 || !sent {
                    events.clear();
                    let until = net.now() + Duration::from_secs(5);
                    net.turn(until, 32, &mut events);
                    turns_taken += 1;
                    for &event in &events {
                        match event {
                            Event::Received { stream, extent } if stream == down => {
                                net.write_body(up, &[extent]);
                                net.mark(up);
                                left -= extent.len as usize;
                                held.push(extent.buffer);
                                if left == 0 {
                                    net.write(up, b".\n");
                                }
                            }
                            Event::Sent { stream, .. } => {
                                assert_eq!(stream, up);
                                held.drain(..).for_each(|buffer| net.release(buffer));
                                sent = left == 0;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
            });
            (count.count_total, turns_taken)
        };
        if round >= 100 {
            allocations += count;
            turns += turns_taken;
            enters += net.enters() - enters_before;
        }
        let upstream = stage.ground.sockets.fars[far_up.0].stream.as_mut().unwrap();
        upstream.set_nonblocking(false).unwrap();
        upstream.read_exact(&mut arrived).unwrap();
        assert!(arrived.starts_with(&body) && arrived.ends_with(b".\n"));
    }
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![7_u8]))).count_total;
    assert_eq!((allocations, counted), (0, 1), "none, and the counter does count");
    assert_eq!(enters, turns, "a turn is one io_uring_enter");
}
