//! AF_XDP over a VLAN: its frames go by the interface below it, and bear its tag there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use postlane::handle::ListenerId;
use postlane::net::Net;
use postlane::net::xdp::{Interface, XdpOptions};
use postlane::sys::xdp::socket::Mode;

use crate::ground::{Ground, Stage, pattern};
use crate::network::{FAR_INTERFACE, INTERFACE, Network};
use crate::xdp::{XdpAccepts, XdpGround, if_there_is, options};
use crate::xdp_accepts::visit;

/// The VLAN at both ends: its number, and addresses that no other interface has.
const ID: u16 = 100;
pub(crate) const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 67, 0, 2));

fn name() -> String {
    format!("{INTERFACE}.{ID}")
}

fn over_vlan(mode: Option<Mode>) -> XdpOptions {
    XdpOptions { interface: name(), mode, ..options() }
}

/// Runs a case where the kernel has VLANs, and says so where it has none.
fn if_there_are_vlans(case: impl FnOnce()) {
    if_there_is(|| {
        // In a thread of its own: whoever makes a network stays in it.
        let made = std::thread::spawn(|| {
            let network = Network::new(1).unwrap();
            network.try_ip(&format!("link add link {INTERFACE} name probe type vlan id 1"))
        });
        match made.join().unwrap() {
            Ok(()) => case(),
            Err(why) => println!("skipped: there are no VLANs here: {why}"),
        }
    });
}

/// A veth with a VLAN on it. `takes_tags_off`: tags go beside frames, as a NIC gives them that has taken them off.
fn network(takes_tags_off: bool, kind: &str) -> Network {
    let network = Network::new(2).unwrap();
    let vlan = |interface: &str, host: u32| {
        [
            format!("link add link {interface} name {interface}.{ID} type vlan {kind}"),
            format!("addr add 10.67.0.{host}/24 dev {interface}.{ID}"),
            format!("addr add fd67::{host}/64 dev {interface}.{ID} nodad"),
            format!("link set {interface}.{ID} up"),
        ]
    };
    vlan(INTERFACE, 1).iter().for_each(|command| network.ip(command));
    vlan(FAR_INTERFACE, 2).iter().for_each(|command| network.run_far("ip", command).unwrap());
    if !takes_tags_off {
        for kind in ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"] {
            network.run_far("ethtool", &format!("-K {FAR_INTERFACE} {kind} off")).unwrap();
        }
    }
    network
}

/// A stream each way over the VLAN, and what the other end of it has counted.
fn carry(ground: XdpGround, at: &str) {
    let mut stage = Stage::on(ground);
    stage.ground.at = at.parse().unwrap();
    let at = stage.ground.listen();
    let body = pattern(300_000, 3);
    let (stream, far) = stage.open_one(at);
    assert!(stage.net().is_bypassed(stream));
    stage.net().write(stream, &body[..100_000]);
    stage.until_far_received(far, &body[..100_000]);
    stage.ground.send(far, &body);
    stage.until_received(stream, &body);
    stage.net().close(stream);
    stage.until_closed(stream);
    assert!(stage.net().bypassed().received > 100, "{:?}", stage.net().bypassed());
}

#[test]
fn streams_go_over_a_vlan_whether_its_tag_comes_in_the_frame_or_not() {
    if_there_are_vlans(|| {
        for mode in [Some(Mode::Copy), Some(Mode::Generic)] {
            for takes_tags_off in [false, true] {
                for at in ["10.67.0.2:0", "[fd67::2]:0"] {
                    // A thread for each, as each stays in its network.
                    let run = move || {
                        let network = network(takes_tags_off, "id 100");
                        let ground = XdpGround::on(network, &over_vlan(mode), 256, 16);
                        let shown = ground.shown();
                        let by = format!("AF_XDP on {} (VLAN {ID} of {INTERFACE}), queues 0,1", name());
                        assert!(shown.starts_with(&by) && shown.contains(", frames on "), "{shown}");
                        carry(ground, at);
                    };
                    std::thread::spawn(run).join().unwrap();
                }
            }
        }
    });
}

#[test]
fn a_vlan_of_the_other_sort_has_its_own_tag() {
    if_there_are_vlans(|| {
        let network = network(false, "protocol 802.1ad id 100");
        carry(XdpGround::on(network, &over_vlan(None), 256, 16), "10.67.0.2:0");
    });
}

/// The interface below is the kernel's as before, and so are other VLANs on it.
#[test]
fn what_is_not_the_vlans_stays_with_the_kernel() {
    if_there_are_vlans(|| {
        let network = network(false, "id 100");
        network.ip(&format!("link add link {INTERFACE} name other type vlan id 200"));
        let mut stage = Stage::on(XdpGround::on(network, &over_vlan(None), 64, 8));
        // By the interface below: the far end's ordinary address.
        let at = stage.ground.listen();
        let (stream, far) = stage.open_one(at);
        assert!(!stage.net().is_bypassed(stream));
        stage.ground.send(far, b"untagged");
        stage.until_received(stream, b"untagged");
    });
}

/// Where tags come beside frames those of VLAN and interface look alike: clients that come by the other one, to its
/// address, are the kernel's.
#[test]
fn clients_beside_the_vlan_are_served_by_the_kernel() {
    if_there_are_vlans(|| {
        for (options, addresses) in
            [(over_vlan(None), ["10.67.0.1", "10.66.0.1"]), (options(), ["10.66.0.1", "10.67.0.1"])]
        {
            // A thread for each, as each stays in its network.
            let run = move || {
                let mut stage = Stage::on(XdpAccepts::on(network(true, "id 100"), &options, 64, 8));
                let at = stage.net().listen_past_kernel(ListenerId(3), "[::]:0".parse().unwrap()).unwrap();
                for (ip, is_bypassed) in addresses.iter().zip([true, false]) {
                    visit(&mut stage, SocketAddr::new(ip.parse().unwrap(), at.port()), is_bypassed);
                }
            };
            std::thread::spawn(run).join().unwrap();
        }
    });
}

#[test]
fn vlans_that_cannot_be_are_refused_in_words() {
    if_there_are_vlans(|| {
        let network = network(false, "id 100");
        network.ip(&format!("link add link {INTERFACE}.{ID} name within type vlan id 5"));
        network.ip("link set within up");
        let refused = |interface: &str| {
            let options = XdpOptions { interface: interface.to_owned(), ..options() };
            Interface::open(&options, 1).map(drop).unwrap_err().to_string()
        };
        let within = refused("within");
        assert!(within.contains("`within` is a VLAN within a VLAN"), "{within}");
        let queue = XdpOptions { queues: Some(vec![9]), ..over_vlan(None) };
        let queue = Interface::open(&queue, 1).map(drop).unwrap_err().to_string();
        assert!(queue.contains(&format!("`{INTERFACE}` has no queue 9")), "{queue}");
    });
}
