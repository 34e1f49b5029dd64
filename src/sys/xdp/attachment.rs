//! An interface with the program attached to it: shared by all sockets on it, and gone with the process.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use super::bpf::{Link, Map, MapType, Program};
use super::error::Error;
use super::netlink::Tag;
use super::program::{self, Maps};
use super::socket::Xsk;

// uapi/linux/if_link.h
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Most addresses that are ours.
const ADDRESSES_MAX: u32 = 4_096;
/// Most addresses and ports that are listened at.
const INLETS_MAX: u32 = 16_384;
/// Most queues of an interface.
const QUEUES_MAX: u32 = 1_024;

/// The program, its maps, and its hold on the interface.
#[derive(Debug)]
pub struct Attachment {
    _link: Link,
    _program: Program,
    addresses: Map<16, 4>,
    inlets: Map<20, 4>,
    sockets: Map<4, 4>,
    is_native: bool,
}

impl Attachment {
    /// Attaches the program to the interface of that index: in the driver if `native`, else in front of the kernel's stack.
    /// `tag`: what the frames of a VLAN bear that are ours.
    ///
    /// # Errors
    /// What the kernel refuses, in words.
    pub fn new(
        interface: u32,
        ports: RangeInclusive<u16>,
        tag: Option<Tag>,
        native: bool,
    ) -> Result<Attachment, Error> {
        let addresses = Map::new(MapType::Hash, ADDRESSES_MAX, "postlane_ours").map_err(Error::of_bpf)?;
        let sockets = Map::new(MapType::Sockets, QUEUES_MAX, "postlane_xsks").map_err(Error::of_bpf)?;
        let inlets = Map::new(MapType::Hash, INLETS_MAX, "postlane_inlets").map_err(Error::of_bpf)?;
        let maps = Maps {
            addresses: addresses.descriptor(),
            inlets: inlets.descriptor(),
            sockets: sockets.descriptor(),
        };
        let code = program::steer(&maps, ports, tag);
        let program = Program::load(&code, "postlane").map_err(Error::of_bpf)?;
        let flags = if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        let link = Link::attach(&program, interface, flags).map_err(Error::of_attach)?;
        Ok(Attachment { _link: link, _program: program, addresses, inlets, sockets, is_native: native })
    }

    /// Whether the driver runs the program.
    pub fn is_native(&self) -> bool {
        self.is_native
    }

    /// From now on segments for our ports at this address are ours.
    ///
    /// # Errors
    /// `E2BIG` beyond 4,096 addresses.
    pub fn add_address(&self, address: IpAddr) -> io::Result<()> {
        self.addresses.set(key(address), [1; 4])
    }

    /// Not any more.
    pub fn remove_address(&self, address: IpAddr) {
        // It was not there: as well.
        let _ = self.addresses.remove(key(address));
    }

    /// From now on segments for this address and port are ours, where their queue has a socket.
    ///
    /// # Errors
    /// `E2BIG` beyond 16,384 of them.
    pub fn add_inlet(&self, inlet: SocketAddr) -> io::Result<()> {
        self.inlets.set(inlet_key(inlet), [1; 4])
    }

    /// Not any more.
    pub fn remove_inlet(&self, inlet: SocketAddr) {
        // It was not there: as well.
        let _ = self.inlets.remove(inlet_key(inlet));
    }

    /// What arrives by that queue goes to that (bound) socket from now on, until it is closed.
    ///
    /// # Errors
    /// What bpf(2) says; `E2BIG` beyond 1,024 queues.
    pub fn steer(&self, queue: u32, socket: &Xsk) -> io::Result<()> {
        self.sockets.set(queue.to_ne_bytes(), socket.descriptor().as_raw_fd().to_ne_bytes())
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn inlet_key(inlet: SocketAddr) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..2].copy_from_slice(&inlet.port().to_be_bytes());
    bytes[4..].copy_from_slice(&key(inlet.ip()));
    bytes
}
