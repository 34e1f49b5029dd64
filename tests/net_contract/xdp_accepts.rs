//! What only the accepting side over an interface has to keep.

use std::net::SocketAddr;
use std::time::Duration;

use postlane::handle::ListenerId;
use postlane::net::{Cause, Net};

use crate::ground::{FarState, Ground, Stage, pattern};
use crate::xdp::{XdpAccepts, if_there_is};

/// A client comes, is served, and goes.
pub(crate) fn visit(stage: &mut Stage<XdpAccepts>, at: SocketAddr, is_bypassed: bool) {
    let before = stage.accepted.len();
    let far = stage.ground.connect(at);
    stage.until("accepted", |stage| stage.accepted.len() > before);
    let stream = stage.accepted[before];
    assert_eq!(stage.net().is_bypassed(stream), is_bypassed, "{at}");
    stage.net().write(stream, b"220 box.example.net ESMTP\r\n");
    stage.until_far_received(far, b"220 box.example.net ESMTP\r\n");
    stage.ground.send(far, b"QUIT\r\n");
    stage.until_received(stream, b"QUIT\r\n");
    stage.net().close(stream);
    stage.until_far(far, FarState::Finished);
    stage.ground.close(far);
    stage.until_closed(stream);
}

/// Clients over the interface go past the kernel, by IPv4 and IPv6, and those on this machine by it: at one listener.
#[test]
fn one_listener_has_both_kinds_of_clients() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        let wild = stage.net().listen_past_kernel(ListenerId(3), "[::]:0".parse().unwrap()).unwrap();
        for (ip, is_bypassed) in [("10.66.0.1", true), ("fd66::1", true), ("127.0.0.1", false)] {
            visit(&mut stage, SocketAddr::new(ip.parse().unwrap(), wild.port()), is_bypassed);
        }
        assert!(stage.net().bypassed().received >= 6, "{:?}", stage.net().bypassed());
    });
}

/// At the bound newcomers are refused, and when there is room again they are taken.
#[test]
fn beyond_accepted_max_newcomers_are_refused() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        let held: Vec<_> = (0..32).map(|_| stage.accept_one()).collect();
        let at = stage.listener;
        let extra = stage.ground.connect(at);
        stage.until("refused", |stage| stage.ground.state(extra) == FarState::Failed);
        assert_eq!((stage.net().bypassed().turned_away, stage.accepted.len()), (1, 32));
        // What we open has a bound of its own.
        let far = stage.ground.listen();
        stage.open_one(far);
        stage.make_way(held[0]);
    });
}

/// Many more come and go than may be there at a time: those that rest make way.
#[test]
fn sessions_come_and_go_by_the_hundred() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        for round in 0..500 {
            let (stream, far) = stage.accept_one();
            stage.net().write(stream, b"221 bye\r\n");
            // Half the time we end first, so that we rest.
            if round % 2 == 0 {
                stage.net().close(stream);
            } else {
                stage.ground.close(far);
            }
            stage.until_closed(stream);
            stage.ground.close(far);
        }
        assert_eq!((stage.net().bypassed().turned_away, stage.ground.streams()), (0, 0));
    });
}

/// A segment for a session that there is not is answered by a reset; one that a client sends to a port nobody listens
/// at is the kernel's to refuse.
#[test]
fn nobody_is_left_waiting_for_an_answer() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        let (stream, far) = stage.accept_one();
        // Its end is lost on the way, with the whole interface.
        stage.ground.network().run_far("ip", "link set xdpfar down").unwrap();
        stage.net().abort(stream);
        assert_eq!(stage.until_closed(stream), Cause::Local);
        for _ in 0..50 {
            stage.step();
        }
        stage.ground.network().run_far("ip", "link set xdpfar up").unwrap();
        stage.ground.send(far, b"are you there?\r\n");
        stage.until("told that nobody is", |stage| stage.ground.state(far) == FarState::Failed);
        assert!(stage.net().bypassed().strangers > 0);
        let mut at = stage.listener;
        at.set_port(9);
        let nowhere = stage.ground.connect(at);
        stage.until("refused", |stage| stage.ground.state(nowhere) == FarState::Failed);
    });
}

/// A listener that goes leaves its sessions, and no more: then the kernel has the address again.
#[test]
fn the_kernel_has_an_address_again_when_its_last_session_has_ended() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        let (stream, far) = stage.accept_one();
        let at = stage.listener;
        stage.net().unlisten(ListenerId(3));
        stage.settle();
        let refused = stage.ground.connect(at);
        stage.until("refused, by us", |stage| stage.ground.state(refused) == FarState::Failed);
        stage.ground.send(far, b"still here");
        stage.until_received(stream, b"still here");
        stage.ground.close(far);
        stage.until_closed(stream);
        // Until the far end has acknowledged ours.
        stage.settle();
        // Somebody else's from now on.
        let kernel = std::net::TcpListener::bind(at).unwrap();
        kernel.set_nonblocking(true).unwrap();
        let other = stage.ground.connect(at);
        stage.until("the kernel has it", |_| kernel.accept().is_ok());
        stage.until_far(other, FarState::Finished);
    });
}

/// SYNs of nobody's: thousands of them, by a raw socket with foreign addresses. Sessions go on, and others are let in.
#[test]
fn a_flood_of_syns_keeps_nobody_out() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        // Answers to them must go somewhere, and nobody there may refuse them.
        stage.ground.network().ip("route add 198.18.0.0/15 via 10.66.0.2");
        let (early, early_far) = stage.accept_one();
        let raw = stage.ground.network().far(raw_socket);
        let at = stage.listener;
        for n in 0..6_000_u32 {
            send_syn(&raw, n, at);
            if n % 50 == 0 {
                stage.step();
            }
        }
        let (half_open, counts) = (stage.net().half_open(), stage.net().bypassed());
        assert!(half_open == 2_048 && counts.cookies_sent > 1_000, "{half_open} {counts:?}");
        assert_eq!(counts.cookies_returned, 0);
        let body = pattern(100_000, 3);
        stage.ground.send(early_far, &body);
        stage.until_received(early, &body);
        let before = stage.net().bypassed().cookies_sent;
        let (late, far) = stage.accept_one();
        let after = stage.net().bypassed();
        assert!(after.cookies_sent > before && after.cookies_returned == 1, "by a cookie: {after:?}");
        stage.net().write(late, &body);
        stage.until_far_received(far, &body);
        stage.ground.send(far, &body);
        stage.until_received(late, &body);
        assert_eq!(stage.accepted.len(), 2, "nobody else was there");
    });
}

fn raw_socket() -> socket2::Socket {
    let protocol = socket2::Protocol::from(libc::IPPROTO_RAW);
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::from(libc::SOCK_RAW), Some(protocol)).unwrap()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// A SYN from one of 131,072 addresses that are not there.
fn send_syn(raw: &socket2::Socket, n: u32, to: SocketAddr) {
    let SocketAddr::V4(at) = to else { panic!("IPv4") };
    let from = (0xc612_0000 + n % 0x2_0000).to_be_bytes();
    let mut tcp = vec![0; 20];
    tcp[0..2].copy_from_slice(&(1_024 + (n % 50_000) as u16).to_be_bytes());
    tcp[2..4].copy_from_slice(&at.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&(n.wrapping_mul(2_654_435_761)).to_be_bytes());
    (tcp[12], tcp[13]) = (5 << 4, 0x02);
    tcp[14..16].copy_from_slice(&1_024_u16.to_be_bytes());
    tcp.extend([2, 4, 5, 0xb4, 4, 2, 3, 3]);
    tcp.truncate(20);
    let pseudo = [&from[..], &at.ip().octets(), &[0, 6], &20_u16.to_be_bytes(), &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from);
    packet.extend(at.ip().octets());
    packet.extend(&tcp);
    // A full queue of the far end's loses some.
    let _ = raw.send_to(&packet, &to.into());
}

/// A client that begins and does not go on is asked again, and a moment later too.
#[test]
fn half_open_ones_are_asked_again() {
    if_there_is(|| {
        let mut stage = Stage::<XdpAccepts>::new();
        stage.ground.network().ip("route add 198.18.0.0/15 via 10.66.0.2");
        let raw = stage.ground.network().far(raw_socket);
        let at = stage.listener;
        let begun = stage.net().now();
        for n in 0..20 {
            send_syn(&raw, n, at);
            stage.step();
        }
        stage.until("answered", |stage| stage.net().bypassed().sent >= 20);
        let counts = stage.net().bypassed();
        assert_eq!((stage.net().half_open(), counts.cookies_sent, counts.sent), (20, 0, 20));
        stage.until("and again", |stage| stage.net().bypassed().sent >= 40);
        assert!(stage.net().now().since(begun) >= Duration::from_secs(1));
        assert!(stage.accepted.is_empty());
    });
}
