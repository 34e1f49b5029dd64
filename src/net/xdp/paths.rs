//! How to get to whom: the kernel's routes and neighbours, remembered and followed as they change.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::frame::Ethernet;
use super::interface::Interface;
use super::tcp::{Narrow, RoundTrip};
use crate::sys::xdp::netlink::{self, Change, Mac, Netlink};

/// Paths remembered; beyond it they are asked for anew.
const PATHS_MAX: usize = 16 << 10;

/// Neighbours known by their Ethernet address only.
const BY_MAC_MAX: usize = 1_024;

/// A neighbour's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HopId(u32);

/// Where a stream is to go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Through the kernel: not by our interface.
    Kernel,
    /// By our interface.
    Ours(Path),
    /// Nowhere: errno.
    Nowhere(i32),
}

/// A way by our interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) source: IpAddr,
    pub(super) hop: HopId,
    pub(super) mtu: u32,
}

#[derive(Debug)]
struct Hop {
    address: IpAddr,
    mac: Option<Mac>,
    /// Streams that go by it.
    users: u32,
    /// Segments could not leave as it was not known.
    is_awaited: bool,
}

/// What became of a hop that was awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Here(HopId),
    Nowhere(HopId),
}

/// One shard's knowledge of the network.
#[derive(Debug)]
pub(super) struct Paths {
    shared: Arc<Interface>,
    requests: Netlink,
    news: Netlink,
    interface: netlink::Interface,
    /// This machine's, but for the loopback's.
    addresses: Vec<IpAddr>,
    /// Those of them that frames for may be ours.
    receivable: Vec<IpAddr>,
    /// These are others since it was last asked.
    has_moved: bool,
    ways: HashMap<(IpAddr, Option<IpAddr>), Way>,
    hops: Vec<Hop>,
    by_address: HashMap<IpAddr, HopId>,
    /// Those of whom only that is known.
    by_mac: HashMap<Mac, HopId>,
    /// Kept over the lives of connections.
    round_trips: HashMap<IpAddr, RoundTrip>,
    /// To whom the way carries less than the interface, or once did.
    narrow: HashMap<IpAddr, Narrow>,
}

impl Paths {
    pub(super) fn new(shared: Arc<Interface>) -> io::Result<Paths> {
        let mut requests = Netlink::new()?;
        let mut this = Paths {
            // First, so that nothing is missed between the asking and the following.
            news: Netlink::watch()?,
            interface: requests.interface(shared.index())?,
            requests,
            shared,
            addresses: Vec::new(),
            receivable: Vec::new(),
            has_moved: false,
            ways: HashMap::new(),
            hops: Vec::new(),
            by_address: HashMap::new(),
            by_mac: HashMap::new(),
            round_trips: HashMap::new(),
            narrow: HashMap::new(),
        };
        this.read_addresses()?;
        Ok(this)
    }

    /// To be watched for readability.
    pub(super) fn descriptor(&self) -> std::os::fd::RawFd {
        self.news.descriptor()
    }

    /// How a frame gets from our interface to `to`, a neighbour.
    pub(super) fn ethernet(&self, to: Mac) -> Ethernet {
        Ethernet { from: self.interface.mac.unwrap_or_default(), to, tag: self.shared.tag() }
    }

    /// The largest packet that it carries, in bytes.
    pub(super) fn mtu(&self) -> u32 {
        self.interface.mtu
    }

    /// What clients by our interface may come to. Not the addresses of others on the same device, of which it is a VLAN
    /// or that are its VLANs: a NIC that takes tags off has their frames look like ours, and our answers would go astray.
    pub(super) fn receivable(&self) -> &[IpAddr] {
        &self.receivable
    }

    /// Whether `receivable` has changed since this was last asked.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// It is up, and so is what it is connected to.
    pub(super) fn is_up(&self) -> bool {
        self.interface.is_up
    }

    /// The neighbour's, if it is known by now; else it is looked for.
    pub(super) fn mac_of(&mut self, hop: HopId) -> Option<Mac> {
        let one = &mut self.hops[hop.0 as usize];
        if one.mac.is_none() && !one.is_awaited {
            one.is_awaited = true;
            let address = one.address;
            // It may be known to the kernel already, and then there is no news of it.
            self.look_for(hop, address);
        }
        self.hops[hop.0 as usize].mac
    }

    fn look_for(&mut self, hop: HopId, address: IpAddr) {
        let known = self.requests.neighbours().unwrap_or_default();
        let ours = |n: &&netlink::Neighbour| n.interface == self.interface.index && n.address == address;
        if let Some(mac) = known.iter().find(ours).and_then(|neighbour| neighbour.mac) {
            let one = &mut self.hops[hop.0 as usize];
            (one.mac, one.is_awaited) = (Some(mac), false);
        }
        // Without the right to ask, the connection's own time-out tells.
        let _ = self.requests.look_for(self.interface.index, address);
    }

    /// How to get to `to`, from `source` if given.
    pub(super) fn way(&mut self, to: IpAddr, source: Option<IpAddr>) -> Way {
        if let Some(&way) = self.ways.get(&(to, source)) {
            return way;
        }
        let way = self.find_way(to, source);
        if self.ways.len() >= PATHS_MAX {
            self.ways.clear();
        }
        if !matches!(way, Way::Nowhere(_)) {
            self.ways.insert((to, source), way);
        }
        way
    }

    fn find_way(&mut self, to: IpAddr, source: Option<IpAddr>) -> Way {
        if to.is_loopback() || source.is_some_and(|source| source.is_ipv4() != to.is_ipv4()) {
            return Way::Kernel;
        }
        let route = match self.requests.route(to, source) {
            Ok(route) => route,
            // The kernel says it best.
            Err(_) => return Way::Kernel,
        };
        if route.is_local || route.interface != self.interface.index {
            return Way::Kernel;
        }
        let Some(source) = source.or(route.source) else { return Way::Nowhere(libc::EADDRNOTAVAIL) };
        if !self.addresses.contains(&source) {
            // It may be so new that there was no time for the news of it.
            let _ = self.read_addresses();
            if !self.addresses.contains(&source) {
                return Way::Nowhere(libc::EADDRNOTAVAIL);
            }
        }
        let mtu = self.interface.mtu.min(route.mtu.filter(|&mtu| mtu > 0).unwrap_or(u32::MAX));
        Way::Ours(Path { source, hop: self.hop(route.gateway.unwrap_or(to)), mtu })
    }

    /// Who has just been heard from: no need to look for it.
    pub(super) fn greet(&mut self, hop: HopId, from: IpAddr, mac: Mac) {
        let one = &mut self.hops[hop.0 as usize];
        if one.address == from && !one.is_awaited {
            one.mac = Some(mac);
        }
    }

    /// The neighbour of that Ethernet address, whichever others it has. `None`: there are too many.
    pub(super) fn hop_by(&mut self, mac: Mac) -> Option<HopId> {
        if let Some(&known) = self.by_mac.get(&mac) {
            return Some(known);
        }
        if self.by_mac.len() >= BY_MAC_MAX {
            return None;
        }
        let address = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let hop = HopId(self.hops.len() as u32);
        self.hops.push(Hop { address, mac: Some(mac), users: 0, is_awaited: false });
        self.by_mac.insert(mac, hop);
        Some(hop)
    }

    fn hop(&mut self, address: IpAddr) -> HopId {
        if let Some(&known) = self.by_address.get(&address) {
            return known;
        }
        let new = Hop { address, mac: None, users: 0, is_awaited: false };
        // Clients come from anywhere: beyond so many, one that nobody uses makes way.
        let is_unused = |hop: &Hop| hop.users == 0 && !hop.address.is_unspecified();
        let is_full = self.by_address.len() >= PATHS_MAX;
        let unused = is_full.then(|| self.hops.iter().position(is_unused)).flatten();
        let place = unused.unwrap_or(self.hops.len());
        match self.hops.get_mut(place) {
            Some(old) => {
                self.by_address.remove(&old.address);
                self.ways.clear();
                *old = new;
            }
            None => self.hops.push(new),
        }
        self.by_address.insert(address, HopId(place as u32));
        HopId(place as u32)
    }

    pub(super) fn join(&mut self, hop: HopId) {
        self.hops[hop.0 as usize].users += 1;
    }

    pub(super) fn leave(&mut self, hop: HopId) {
        self.hops[hop.0 as usize].users -= 1;
    }

    /// What earlier connections to that address have learnt.
    pub(super) fn round_trip(&self, to: IpAddr) -> RoundTrip {
        self.round_trips.get(&to).copied().map(RoundTrip::of_earlier).unwrap_or_default()
    }

    pub(super) fn remember(&mut self, to: IpAddr, round_trip: RoundTrip) {
        if self.round_trips.len() >= PATHS_MAX {
            self.round_trips.clear();
        }
        self.round_trips.insert(to, round_trip);
    }

    /// How narrow the way to that address was last, if it ever was.
    pub(super) fn narrow(&self, to: IpAddr) -> Option<Narrow> {
        self.narrow.get(&to).copied()
    }

    pub(super) fn remember_narrow(&mut self, to: IpAddr, narrow: Narrow) {
        if self.narrow.len() >= PATHS_MAX {
            self.narrow.clear();
        }
        self.narrow.insert(to, narrow);
    }

    fn read_addresses(&mut self) -> io::Result<()> {
        let mut all = self.requests.addresses()?;
        all.retain(|(_, ip)| !ip.is_loopback());
        let vlans = self.requests.vlans()?;
        let device = self.shared.device_index();
        let is_vlan_of_it = |vlan: &netlink::Interface| vlan.vlan.is_some_and(|vlan| vlan.of == Some(device));
        let beside = vlans.iter().filter(|vlan| is_vlan_of_it(vlan)).map(|vlan| vlan.index).chain([device]);
        let beside: Vec<u32> = beside.filter(|&index| index != self.interface.index).collect();
        let now: Vec<IpAddr> = all.iter().map(|(_, ip)| *ip).collect();
        all.retain(|(index, _)| !beside.contains(index));
        for &gone in self.addresses.iter().filter(|address| !now.contains(address)) {
            self.shared.remove_address(gone);
        }
        for &new in now.iter().filter(|address| !self.addresses.contains(address)) {
            self.shared.add_address(new)?;
        }
        self.addresses = now;
        let receivable: Vec<IpAddr> = all.into_iter().map(|(_, ip)| ip).collect();
        self.has_moved |= receivable != self.receivable;
        self.receivable = receivable;
        Ok(())
    }

    /// Takes in what has changed; hops that were awaited and what became of them. True: the device may be another.
    pub(super) fn follow(&mut self, found: &mut Vec<Found>) -> bool {
        let mut changes = Vec::new();
        let device = self.shared.device_index();
        self.news.news(|change| changes.push(change));
        let is_of_device =
            |change: &Change| *change == Change::Interface(device) || *change == Change::Everything;
        let has_changed = changes.iter().any(is_of_device);
        for change in changes {
            match change {
                Change::Neighbour(neighbour) => found.extend(self.on_neighbour(&neighbour)),
                Change::Interface(index) if index != self.interface.index => {}
                Change::Route => self.ways.clear(),
                Change::Interface(_) | Change::Address | Change::Everything => {
                    self.ways.clear();
                    self.read_again(change, found);
                }
            }
        }
        has_changed
    }

    fn read_again(&mut self, change: Change, found: &mut Vec<Found>) {
        if let Ok(interface) = self.requests.interface(self.interface.index) {
            self.interface = interface;
        }
        // What cannot be read now stays as it is until the next news.
        let _ = self.read_addresses();
        if change == Change::Everything
            && let Ok(neighbours) = self.requests.neighbours()
        {
            found.extend(neighbours.iter().filter_map(|neighbour| self.on_neighbour(neighbour)));
        }
    }

    fn on_neighbour(&mut self, neighbour: &netlink::Neighbour) -> Option<Found> {
        if neighbour.interface != self.interface.index {
            return None;
        }
        let &hop = self.by_address.get(&neighbour.address)?;
        let one = &mut self.hops[hop.0 as usize];
        let was_awaited = one.is_awaited;
        if neighbour.mac.is_some() {
            one.mac = neighbour.mac;
            one.is_awaited = false;
        } else if neighbour.has_failed {
            one.mac = None;
            one.is_awaited = false;
        }
        if neighbour.is_stale && one.users > 0 {
            // The kernel sees none of our traffic, so it would forget whom we speak to.
            let _ = self.requests.look_for(self.interface.index, neighbour.address);
        }
        let is_known = neighbour.mac.is_some();
        match was_awaited {
            true if is_known => Some(Found::Here(hop)),
            true if neighbour.has_failed => Some(Found::Nowhere(hop)),
            _ => None,
        }
    }
}
