//! Shards on queues of an interface that spreads as real ones do.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use postlane_hw::driver::Spread;
use postlane_hw::rss::Rss;

use super::{Interface, Queue, Xdp, XdpOptions, handovers};
use crate::handle::{Buffers, ShardId};
use crate::net::uring::{Uring, UringOptions};
use crate::net::{Bypassed, Event, Net};
use crate::sys::arena::Arenas;
use crate::sys::ring_table::RingTable;
use crate::sys::xdp::{emulator, netlink};

#[path = "../../../tests/network/mod.rs"]
mod network;

use network::{FAR_INTERFACE, INTERFACE, Network};

const STREAMS: usize = 16;
const SHARDS: usize = 2;

/// How the peer spreads.
fn spread() -> Spread {
    // Any key will do.
    let key = (0..40_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 19) as u8).collect();
    Spread { key, table: vec![0, 1], is_toeplitz: true }
}

fn rss() -> Rss {
    rss_of(spread())
}

fn rss_of(spread: Spread) -> Rss {
    Rss::new(spread.key, spread.table).expect("a key and a table")
}

/// The hash of the 12 bytes that it reads of an IPv4 packet.
fn hash_of(rss: &Rss, bytes: [u8; 12]) -> u32 {
    let address = |at: usize, port: usize| {
        let ip = IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        SocketAddr::new(ip, u16::from_be_bytes([bytes[port], bytes[port + 1]]))
    };
    rss.hash(address(0, 8), address(4, 10))
}

/// Opens streams on both shards, one after the other, and has each byte come back; what was counted. `chosen`: what is
/// thought of the peer's spreading; `told`: what is said when asked again.
fn echo_on_all(
    chosen: Option<Rss>,
    told: fn(&str) -> Option<Spread>,
) -> Result<Vec<(usize, Bypassed)>, String> {
    let network = Network::new(SHARDS as u32)?;
    let rss = rss();
    let spreading = network.far(|| {
        let index = netlink::index_of(FAR_INTERFACE).expect("it is there");
        emulator::spread(index, |bytes| hash_of(&rss, bytes))
    });
    let _spreading = spreading.map_err(|error| format!("no spreading by the peer: {error}"))?;
    let listener = network.far(|| TcpListener::bind(network.far_address())).expect("a port");
    let at = listener.local_addr().expect("it is bound");
    let options =
        XdpOptions { interface: INTERFACE.to_owned(), queues: None, mode: None, ports: 61_000..=65_535 };
    let (mut interface, shares) = Interface::open(&options, SHARDS).map_err(|error| error.to_string())?;
    (interface.rss, interface.ask_spread) = (chosen, told);
    let (interface, arenas) = (Arc::new(interface), Arenas::new(SHARDS, 128).expect("a small mapping"));
    let (rings, ready, done) = (RingTable::new(SHARDS), &Barrier::new(SHARDS), &AtomicUsize::new(0));
    let echo = move || {
        for _ in 0..SHARDS * STREAMS {
            let (mut stream, _) = listener.accept().expect("a caller");
            std::thread::spawn(move || {
                let mut buffer = [0; 1_000];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..len]).expect("it is still there");
                }
            });
        }
    };
    std::thread::spawn(echo);
    let counts = std::thread::scope(|scope| {
        let shards: Vec<_> = shares.into_iter().zip(handovers(SHARDS)).zip(0..).collect();
        let workers: Vec<_> = shards
            .into_iter()
            .map(|((queues, handover), shard)| {
                let (interface, arenas, rings) = (interface.clone(), arenas.clone(), rings.clone());
                scope.spawn(move || {
                    let options = UringOptions {
                        shard: ShardId(shard),
                        accepted_max: 8,
                        opened_max: 8,
                        receive_buffers: 8,
                        ..UringOptions::default()
                    };
                    let ring = Uring::new(options, arenas, rings).expect("a ring");
                    let queues: Vec<Queue> = queues;
                    let mut net =
                        Xdp::new(ring, ShardId(shard), interface, queues, handover, 64).expect("netlink");
                    ready.wait();
                    let received = play(&mut net, at, done);
                    (received, net.bypassed())
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("the shard ends well")).collect()
    });
    Ok(counts)
}

/// Until every shard is done, as one may need what comes by another's queue; the bytes that came back.
fn play(net: &mut Xdp, at: SocketAddr, done: &AtomicUsize) -> usize {
    net.open(at, None);
    let (mut received, mut events) = (0, Vec::new());
    let end = net.now() + Duration::from_secs(20);
    let mut is_done = false;
    while done.load(Ordering::Relaxed) < SHARDS && net.now() < end {
        let until = net.now() + Duration::from_millis(20);
        net.turn(until, 64, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Opened { stream } => net.write(stream, &[b'x'; 1_000]),
                Event::Received { extent, .. } => {
                    let before = received;
                    received += extent.len as usize;
                    net.release(extent.buffer);
                    if received / 1_000 > before / 1_000 && received < STREAMS * 1_000 {
                        net.open(at, None);
                    }
                }
                // Told by what is missing.
                other => eprintln!("{other:?}"),
            }
        }
        if received >= STREAMS * 1_000 && !std::mem::replace(&mut is_done, true) {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    received
}

/// With ports chosen by the interface's hash no segment comes to the wrong shard; without, about half of them do.
#[test]
fn answers_come_home_to_the_queue_that_asked() {
    let run = |rss: Option<Rss>, told: fn(&str) -> Option<Spread>| {
        // In a thread of its own: whoever makes a network stays in it.
        std::thread::spawn(move || echo_on_all(rss, told)).join().expect("it is played")
    };
    let chosen = match run(Some(rss()), |_| None) {
        Ok(counts) => counts,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    for (received, counts) in &chosen {
        assert_eq!(*received, STREAMS * 1_000, "{chosen:?}");
        assert!(counts.received >= 3 * STREAMS as u64, "{counts:?}");
        assert_eq!((counts.handed_over, counts.strangers, counts.sent_again), (0, 0, 0), "{chosen:?}");
        assert_eq!(counts.astray, 0, "{chosen:?}");
    }
    let any = run(None, |_| None).expect("it could be before");
    assert!(any.iter().any(|(_, counts)| counts.handed_over > 0), "the peer does spread: {any:?}");
    assert!(any.iter().all(|(_, counts)| counts.astray == 0), "nothing was planned: {any:?}");
    // The table is another one than was read at the start.
    let old = || rss_of(Spread { table: vec![1, 0], ..spread() });
    let told = run(Some(old()), |_| Some(spread())).expect("it could be before");
    for (received, counts) in &told {
        assert_eq!(
            (*received, counts.astray),
            (STREAMS * 1_000, 1),
            "asked after the first answer: {told:?}"
        );
    }
    let silent = run(Some(old()), |_| None).expect("it could be before");
    for (received, counts) in &silent {
        assert_eq!((*received, counts.astray), (STREAMS * 1_000, STREAMS as u64), "{silent:?}");
    }
}

/// News of the device have it asked how it spreads now.
#[test]
fn the_spread_is_read_again_when_the_interface_changes() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let case = || {
        let network = Network::new(1)?;
        let options =
            XdpOptions { interface: INTERFACE.to_owned(), queues: None, mode: None, ports: 61_000..=65_535 };
        let (mut interface, mut shares) = Interface::open(&options, 1).map_err(|error| error.to_string())?;
        interface.ask_spread = |name| {
            assert_eq!(name, INTERFACE);
            ASKED.fetch_add(1, Ordering::Relaxed);
            Some(spread())
        };
        let ring = Uring::new(
            UringOptions { receive_buffers: 8, ..UringOptions::default() },
            Arenas::new(1, 16).expect("a small mapping"),
            RingTable::new(1),
        );
        let (queues, handover) = (shares.remove(0), handovers(1).remove(0));
        let mut net = Xdp::new(ring.expect("a ring"), ShardId(0), Arc::new(interface), queues, handover, 8)
            .expect("netlink");
        assert_eq!((net.core.rss.clone(), ASKED.load(Ordering::Relaxed)), (None, 0), "a veth does not say");
        network.ip(&format!("link set {INTERFACE} txqueuelen 77"));
        let end = net.now() + Duration::from_secs(5);
        while net.core.rss.is_none() {
            assert!(net.now() < end, "it was not asked");
            let until = net.now() + Duration::from_millis(20);
            net.turn(until, 8, &mut Vec::new());
        }
        assert_eq!(net.core.rss, Some(rss()));
        Ok::<(), String>(())
    };
    if let Err(why) = std::thread::spawn(case).join().expect("it is played") {
        eprintln!("skipped: {why}");
    }
}
