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

/// Sends a body on a new stream; how long it took, and how many segments were sent again for it.
fn send(stage: &mut Stage<XdpGround>, at: std::net::SocketAddr) -> (Duration, u64) {
    let body = pattern(BODY_BYTES, 5);
    let before = stage.net().bypassed().sent_again;
    let (stream, far) = stage.open_one(at);
    assert!(stage.net().is_bypassed(stream));
    let begun = Instant::now();
    stage.net().write(stream, &body);
    stage.until_far_received(far, &body);
    let took = begun.elapsed();
    stage.net().abort(stream);
    stage.until_closed(stream);
    // Counted when the connection is over.
    stage.settle();
    (took, stage.net().bypassed().sent_again - before)
}

#[test]
fn what_routers_say_is_followed_and_remembered() {
    if_there_is(|| {
        for ipv6 in [false, true] {
            // A thread for each, as each stays in its network.
            let run = move || {
                let mut stage = stage(ipv6);
                let at = stage.ground.listen();
                let (took, again) = send(&mut stage, at);
                assert!((1..=20).contains(&again), "what was under way when it was said: {again}");
                assert!(took < Duration::from_secs(5), "{took:?}");
                let (_, again) = send(&mut stage, at);
                assert_eq!(again, 0, "the next stream knows it");
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
        let (took, again) = send(&mut stage, at);
        assert!(again > 0 && took < Duration::from_secs(10), "{again} again in {took:?}");
        let (_, again) = send(&mut stage, at);
        assert_eq!(again, 0, "the next stream knows it");
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
