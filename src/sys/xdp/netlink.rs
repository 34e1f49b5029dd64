//! The kernel's tables of interfaces, addresses, routes and neighbours, asked for and followed (rtnetlink(7)).
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::socket;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An interface as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None`: it is no Ethernet interface.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// It is up, and so is what it is connected to.
    pub is_up: bool,
    /// Whose VLAN it is, if it is one.
    pub vlan: Option<Vlan>,
}

/// A tag before a packet's type in a frame (IEEE 802.1Q).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// What stands there instead of the packet's type: 0x8100, or 0x88a8 (802.1ad).
    pub protocol: u16,
    /// The VLAN's number.
    pub id: u16,
}

/// What an interface is that is a VLAN of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vlan {
    /// The other's number; `None`: it is in another network namespace.
    pub of: Option<u32>,
    /// What its frames bear there.
    pub tag: Tag,
}

/// How a packet gets somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The destination is this machine.
    pub is_local: bool,
    /// By which interface.
    pub interface: u32,
    /// To whom next; `None`: to the destination itself.
    pub gateway: Option<IpAddr>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Largest packet on the way, in bytes, where the table says.
    pub mtu: Option<u32>,
}

/// A neighbour as the kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// On which interface.
    pub interface: u32,
    /// Whose.
    pub address: IpAddr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
    /// It does not answer.
    pub has_failed: bool,
    /// The kernel would like to see whether it is still there.
    pub is_stale: bool,
}

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// That interface is otherwise, or gone.
    Interface(u32),
    /// An address came or went.
    Address,
    /// A route came or went.
    Route,
    /// A neighbour is known otherwise.
    Neighbour(Neighbour),
    /// More than could be told: everything may be otherwise.
    Everything,
}

// Not in libc: linux/rtnetlink.h, linux/neighbour.h.
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const NTF_USE: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_INCOMPLETE: u16 = 0x01;
const NUD_STALE: u16 = 0x04;
const NUD_FAILED: u16 = 0x20;
const NUD_NOARP: u16 = 0x40;
const RTN_LOCAL: u8 = 2;
const ARPHRD_ETHER: u16 = 1;
// linux/if_link.h
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const TAGGED: u16 = 0x8100;

const HEADER_BYTES: usize = 16;

/// A netlink socket, for requests or for news.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Netlink {
    /// For requests.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn new() -> io::Result<Netlink> {
        Self::open(0)
    }

    /// For news of interfaces, addresses, routes and neighbours.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn watch() -> io::Result<Netlink> {
        let groups = [
            libc::RTMGRP_LINK,
            libc::RTMGRP_NEIGH,
            libc::RTMGRP_IPV4_IFADDR,
            libc::RTMGRP_IPV6_IFADDR,
            libc::RTMGRP_IPV4_ROUTE,
            libc::RTMGRP_IPV6_ROUTE,
        ];
        Self::open(groups.into_iter().fold(0, |all, group| all | group as u32))
    }

    fn open(groups: u32) -> io::Result<Netlink> {
        let fd = socket::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        // SAFETY: all zeroes is a valid `sockaddr_nl`.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        // SAFETY: the address is valid for reading and its size is given.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        socket::checked(bound)?;
        Ok(Netlink { fd, buffer: vec![0; 64 << 10], sequence: 0 })
    }

    /// To be watched for readability.
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: the buffer is valid for writing and its length is given.
        checked(unsafe {
            libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), flags)
        })
    }

    /// Sends a request and shows `each` every message of the answer.
    fn ask(&mut self, mut request: Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let sequence = self.sequence;
        let message = request.finish(sequence);
        // SAFETY: the message is valid for reading and its length is given.
        checked(unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) })?;
        loop {
            let len = self.receive(0)?;
            let mut is_over = false;
            for message in Messages(&self.buffer[..len]).filter(|message| message.sequence == sequence) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => is_over = true,
                    libc::NLMSG_ERROR => {
                        is_over = true;
                        let code =
                            message.body.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                    }
                    _ => {
                        each(message.kind, message.body);
                        is_over |= !message.is_multi;
                    }
                }
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// The interface of that number.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn interface(&mut self, index: u32) -> io::Result<Interface> {
        let mut request = Request::new(libc::RTM_GETLINK, 0);
        request.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&[0; 8]);
        let mut found = None;
        self.ask(request, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                found = read_interface(body);
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// All interfaces that are VLANs of others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn vlans(&mut self) -> io::Result<Vec<Interface>> {
        let mut request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
        request.bytes(&[0; 16]);
        let mut all = Vec::new();
        self.ask(request, |_, body| {
            all.extend(read_interface(body).filter(|interface| interface.vlan.is_some()));
        })?;
        Ok(all)
    }

    /// All addresses of this machine, each with its interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let mut request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        request.bytes(&[0; 8]);
        let mut all = Vec::new();
        self.ask(request, |_, body| all.extend(read_address(body)))?;
        Ok(all)
    }

    /// All neighbours that are known or being looked for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let mut request = Request::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP);
        request.bytes(&[0; 12]);
        let mut all = Vec::new();
        self.ask(request, |kind, body| all.extend(read_neighbour(kind, body)))?;
        Ok(all)
    }

    /// How the kernel would send to that address, from `source` if given.
    ///
    /// # Errors
    /// `ENETUNREACH`, `EHOSTUNREACH` and others if it would not.
    pub fn route(&mut self, to: IpAddr, source: Option<IpAddr>) -> io::Result<Route> {
        let mut request = Request::new(libc::RTM_GETROUTE, 0);
        let source = source.filter(|source| source.is_ipv4() == to.is_ipv4());
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        request.bytes(&[family(to), bits(to), source.map_or(0, bits), 0, 0, 0, 0, 0]).bytes(&[0; 4]);
        request.address(libc::RTA_DST, to);
        if let Some(source) = source {
            request.address(libc::RTA_SRC, source);
        }
        let mut found = None;
        self.ask(request, |kind, body| {
            if kind == libc::RTM_NEWROUTE {
                found = read_route(body);
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    /// Has the kernel find a neighbour, or see whether it is still there. What comes of it is news.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` without CAP_NET_ADMIN.
    pub fn look_for(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_ACK);
        request.bytes(&[family(address), 0, 0, 0]).bytes(&interface.to_ne_bytes());
        request.bytes(&0_u16.to_ne_bytes()).bytes(&[NTF_USE, 0]);
        request.address(NDA_DST, address);
        self.ask(request, |_, _| {})
    }

    /// Shows `each` the news there are, without waiting.
    pub fn news(&mut self, mut each: impl FnMut(Change)) {
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(len) => Messages(&self.buffer[..len]).for_each(|message| {
                    let change = read_change(message.kind, message.body);
                    change.into_iter().for_each(&mut each);
                }),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => each(Change::Everything),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// The number of the interface of that name.
pub fn index_of(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a string that ends with zero.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|&index| index != 0)
}

/// A request under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: libc::c_int) -> Request {
        let mut message = vec![0; HEADER_BYTES];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        Request(message)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        self.bytes(&(4 + octets.len() as u16).to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(&octets);
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }
}

struct Message<'a> {
    kind: u16,
    is_multi: bool,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let message = self.0.get(..len).filter(|message| message.len() >= HEADER_BYTES)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            is_multi: i32::from(u16_at(message, 6)?) & libc::NLM_F_MULTI != 0,
            sequence: u32_at(message, 8)?,
            body: &message[HEADER_BYTES..],
        })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// Kind and value of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn read_interface(body: &[u8]) -> Option<Interface> {
    let is_ethernet = u16_at(body, 2)? == ARPHRD_ETHER;
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    let mut interface = Interface {
        index,
        name: String::new(),
        mac: None,
        mtu: 0,
        is_up: flags & running == running,
        vlan: None,
    };
    let (mut tag, mut of, mut is_elsewhere) = (None, None, false);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                interface.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS if is_ethernet => interface.mac = value.try_into().ok(),
            libc::IFLA_MTU => interface.mtu = u32_at(value, 0)?,
            libc::IFLA_LINK => of = u32_at(value, 0),
            libc::IFLA_LINK_NETNSID => is_elsewhere = true,
            libc::IFLA_LINKINFO => tag = read_tag(value),
            _ => {}
        }
    }
    interface.vlan = tag.map(|tag| Vlan { of: of.filter(|_| !is_elsewhere), tag });
    Some(interface)
}

/// The tag of an interface that is a VLAN.
fn read_tag(info: &[u8]) -> Option<Tag> {
    let of = |wanted: u16| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if of(IFLA_INFO_KIND)? != b"vlan\0" {
        return None;
    }
    let mut tag = Tag { protocol: TAGGED, id: 0 };
    for (kind, value) in attributes(of(IFLA_INFO_DATA)?) {
        match kind {
            IFLA_VLAN_ID => tag.id = u16_at(value, 0)?,
            IFLA_VLAN_PROTOCOL => tag.protocol = u16::from_be(u16_at(value, 0)?),
            _ => {}
        }
    }
    Some(tag)
}

fn read_address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(body, 4)?;
    let mut address = None;
    for (kind, value) in attributes(body.get(8..)?) {
        // On a point-to-point link the other one is the peer's.
        if kind == libc::IFA_LOCAL || kind == libc::IFA_ADDRESS && address.is_none() {
            address = read_ip(value);
        }
    }
    Some((index, address?))
}

fn read_neighbour(kind: u16, body: &[u8]) -> Option<Neighbour> {
    let interface = u32_at(body, 4)?;
    let state = u16_at(body, 8)?;
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            NDA_DST => address = read_ip(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    let is_known =
        kind == libc::RTM_NEWNEIGH && state & (NUD_INCOMPLETE | NUD_FAILED | NUD_NOARP) == 0 && state != 0;
    Some(Neighbour {
        interface,
        address: address?,
        mac: mac.filter(|_| is_known),
        has_failed: kind == libc::RTM_NEWNEIGH && state & NUD_FAILED != 0,
        is_stale: state & NUD_STALE != 0 || kind == libc::RTM_DELNEIGH,
    })
}

fn read_route(body: &[u8]) -> Option<Route> {
    let mut route =
        Route { is_local: *body.get(7)? == RTN_LOCAL, interface: 0, gateway: None, source: None, mtu: None };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_OIF => route.interface = u32_at(value, 0)?,
            libc::RTA_GATEWAY => route.gateway = read_ip(value),
            libc::RTA_PREFSRC => route.source = read_ip(value),
            libc::RTA_METRICS => {
                let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                route.mtu = mtu.and_then(|(_, value)| u32_at(value, 0));
            }
            RTA_VIA => route.gateway = read_ip(value.get(2..)?),
            _ => {}
        }
    }
    Some(route)
}

fn read_change(kind: u16, body: &[u8]) -> Option<Change> {
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Change::Interface(u32_at(body, 4)?)),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Change::Address),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Change::Route),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => Some(Change::Neighbour(read_neighbour(kind, body)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_known() {
        let mut netlink = Netlink::new().expect("netlink takes no rights");
        let index = index_of("lo").expect("every machine has it");
        let lo = netlink.interface(index).expect("it is there");
        assert_eq!((lo.name.as_str(), lo.mac), ("lo", None), "no Ethernet interface");
        assert!(
            netlink.addresses().expect("a dump").contains(&(index, "127.0.0.1".parse().expect("an address")))
        );
        let here = netlink.route("127.0.0.1".parse().expect("an address"), None).expect("a route");
        assert!(here.is_local && here.interface == index, "{here:?}");
        assert_eq!(index_of("there is no such"), None);
        let gone = netlink.interface(0x7fff_ffff).expect_err("no such number");
        assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
    }

    /// An attribute with its padding.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_vlan_is_told_from_other_interfaces_and_says_whose_it_is() {
        let link = |kind: &[u8], data: Vec<u8>, others: Vec<u8>| {
            let info = [attribute(IFLA_INFO_KIND, kind), attribute(IFLA_INFO_DATA, &data)].concat();
            // struct ifinfomsg: family, padding, type, index, flags, change.
            let mut body = vec![0, 0, 1, 0];
            body.extend(7_u32.to_ne_bytes());
            body.extend([0; 8]);
            body.extend(attribute(libc::IFLA_LINK, &3_u32.to_ne_bytes()));
            body.extend(attribute(libc::IFLA_LINKINFO, &info));
            body.extend(others);
            read_interface(&body).expect("it is whole").vlan
        };
        let id = || attribute(IFLA_VLAN_ID, &100_u16.to_ne_bytes());
        let vlan = |protocol, of| Some(Vlan { of, tag: Tag { protocol, id: 100 } });
        assert_eq!(link(b"vlan\0", id(), Vec::new()), vlan(0x8100, Some(3)));
        let outer = [id(), attribute(IFLA_VLAN_PROTOCOL, &[0x88, 0xa8])].concat();
        assert_eq!(link(b"vlan\0", outer, Vec::new()), vlan(0x88a8, Some(3)));
        let elsewhere = attribute(libc::IFLA_LINK_NETNSID, &[0; 4]);
        assert_eq!(link(b"vlan\0", id(), elsewhere), vlan(0x8100, None));
        assert_eq!(link(b"veth\0", id(), Vec::new()), None, "its link is its other end");
    }

    #[test]
    fn broken_messages_end_the_reading() {
        for len in 0..40 {
            let bytes = vec![len as u8; len];
            assert!(Messages(&bytes).count() <= 2);
            for read in [read_interface(&bytes).is_some(), read_route(&bytes).is_some()] {
                std::hint::black_box(read);
            }
            let _ = (read_address(&bytes), read_neighbour(libc::RTM_NEWNEIGH, &bytes));
            attributes(&bytes).take(100).for_each(drop);
        }
    }
}
