//! AF_XDP over a router to a link that carries less: who says so, who does not.

use std::time::{Duration, Instant};

use postlane::net::Net;

use crate::ground::{Ground, Stage, pattern};
use crate::network::Network;
use crate::xdp::{XdpGround, if_there_is, options};

const BODY_BYTES: usize = 400_000;

/// Behind a link that carries packets of 1,400 bytes.
fn stage(ipv6: bool) -> Stage<XdpGround> {
    let mut network = Network::new(2).unwrap();
    network.route_beyond(1_400);
    let at = network.beyond_address(ipv6);
    let mut stage = Stage::on(XdpGround::on(network, &options(), 256, 16));
    stage.ground.at = at;
    stage
}

/// Packets that were too large for the router to pass on.
fn too_large(stage: &Stage<XdpGround>, ipv6: bool) -> u64 {
    let read = |path: &str| stage.ground.network.far(|| std::fs::read_to_string(path).unwrap());
    if ipv6 {
        let all = read("/proc/thread-self/net/snmp6");
        let line = all.lines().find_map(|line| line.strip_prefix("Ip6FragFails")).unwrap();
        return line.trim().parse().unwrap();
    }
    let all = read("/proc/thread-self/net/snmp");
    let mut lines = all.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "FragFails").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// Sends a body on a new stream; how long it took, and how many packets of it were too large.
fn send(stage: &mut Stage<XdpGround>, at: std::net::SocketAddr, ipv6: bool) -> (Duration, u64) {
    let body = pattern(BODY_BYTES, 5);
    let before = too_large(stage, ipv6);
    let (stream, far) = stage.open_one(at);
    assert!(stage.net().is_bypassed(stream));
    let begun = Instant::now();
    stage.net().write(stream, &body);
    stage.until_far_received(far, &body);
    let took = begun.elapsed();
    stage.net().abort(stream);
    stage.until_closed(stream);
    (took, too_large(stage, ipv6) - before)
}

#[test]
fn what_routers_say_is_followed_and_remembered() {
    if_there_is(|| {
        for ipv6 in [false, true] {
            // A thread for each, as each stays in its network.
            let run = move || {
                let mut stage = stage(ipv6);
                let at = stage.ground.listen();
                let (took, too_large) = send(&mut stage, at, ipv6);
                assert!((1..=20).contains(&too_large), "what was under way when it was said: {too_large}");
                assert!(took < Duration::from_secs(5), "{took:?}");
                assert_eq!(send(&mut stage, at, ipv6).1, 0, "the next stream knows it");
            };
            std::thread::spawn(run).join().unwrap();
        }
    });
}

#[test]
fn a_path_where_nobody_says_anything_is_found_out() {
    if_there_is(|| {
        let mut stage = stage(false);
        let filter = "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                      add rule inet t in meta l4proto icmp drop";
        let set = std::process::Command::new("nft").arg(filter).output();
        match set {
            Ok(output) if output.status.success() => {}
            other => {
                println!("skipped: nft(8) cannot drop packets here: {other:?}");
                return;
            }
        }
        let at = stage.ground.listen();
        let (took, too_large) = send(&mut stage, at, false);
        assert!(too_large > 0 && took < Duration::from_secs(10), "{too_large} in {took:?}");
        assert_eq!(send(&mut stage, at, false).1, 0, "the next stream knows it");
    });
}

/// A router that has no way further says so, and the opening fails at once.
#[test]
fn what_cannot_be_reached_is_told_at_once() {
    if_there_is(|| {
        let mut stage = stage(false);
        stage.ground.network.ip("route add 10.69.0.0/24 via 10.66.0.2");
        let begun = Instant::now();
        let stream = stage.net().open("10.69.0.1:25".parse().unwrap(), None);
        let cause = stage.until_closed(stream);
        assert_eq!(cause, postlane::net::Cause::NotOpened(libc::ENETUNREACH));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}
