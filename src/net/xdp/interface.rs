//! The interface, set up once for all shards: program attached, a socket bound to each queue, in the best mode there is.

use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use postlane_hw::driver::Spread;
use postlane_hw::rss::Rss;
use postlane_hw::{Drivers, Ethtool};

use super::inlets;
use super::ports::Division;
use super::reserve;
use crate::sys::numa;
use crate::sys::xdp::Error;
use crate::sys::xdp::attachment::Attachment;
use crate::sys::xdp::netlink::{self, Netlink, Tag};
use crate::sys::xdp::socket::{Mode, Xsk};

/// Places in each ring of a socket: the frames that may be under way in each direction.
const RING_ENTRIES: u32 = 2_048;

/// How kernel bypass is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpOptions {
    /// The interface's name; it may be a VLAN, whose frames then go by the interface that it is a VLAN of.
    pub interface: String,
    /// Queues to use; `None`: all there are.
    pub queues: Option<Vec<u32>>,
    /// The mode; `None`: the best that binds.
    pub mode: Option<Mode>,
    /// Local ports of the connections.
    pub ports: RangeInclusive<u16>,
}

/// What all shards share.
#[derive(Debug)]
pub struct Interface {
    attachment: Attachment,
    index: u32,
    name: String,
    device: Device,
    mode: Mode,
    queues: Vec<u32>,
    has_huge_pages: bool,
    /// NUMA nodes that frames lie on.
    nodes: Vec<u32>,
    /// Frames from other interfaces of this machine have partial checksums.
    pub(super) is_virtual: bool,
    /// How it spreads what it receives, if it says.
    pub(super) rss: Option<Rss>,
    /// Asks it.
    pub(super) ask_spread: fn(&str) -> Option<Spread>,
    pub(super) division: Division,
    inlets: inlets::Shared,
    /// For the cookies of all shards.
    pub(super) cookie_secret: RandomState,
}

/// What the frames go by: the interface itself, or the one that it is a VLAN of.
#[derive(Debug)]
struct Device {
    index: u32,
    name: String,
    mtu: u32,
    tag: Option<Tag>,
}

impl Device {
    fn of(link: &netlink::Interface, netlink: &mut Netlink) -> Result<Device, Error> {
        let whole = |link: &netlink::Interface, tag| Device {
            index: link.index,
            name: link.name.clone(),
            mtu: link.mtu,
            tag,
        };
        let Some(vlan) = link.vlan else { return Ok(whole(link, None)) };
        let refused = |why| Error::Vlan(link.name.clone(), why);
        let of = vlan.of.ok_or_else(|| refused("of an interface in another network namespace"))?;
        let below = netlink.interface(of).map_err(|error| Error::Other("asking for the interface", error))?;
        if below.vlan.is_some() {
            return Err(refused("within a VLAN"));
        }
        Ok(whole(&below, Some(vlan.tag)))
    }
}

/// One socket and the queue it is bound to.
#[derive(Debug)]
pub struct Queue {
    pub(super) number: u32,
    pub(super) socket: Xsk,
}

impl Interface {
    /// Sets it up for that many shards. Each queue's socket is for one of them; what they are given in order.
    ///
    /// # Errors
    /// What is refused, in words.
    pub fn open(options: &XdpOptions, shards: usize) -> Result<(Interface, Vec<Vec<Queue>>), Error> {
        Self::open_near(options, &vec![None; shards])
    }

    /// The same for shards of which the NUMA nodes may be known: the frames of a shard's queues lie there, and so do their
    /// rings.
    ///
    /// # Errors
    /// What is refused, in words.
    pub fn open_near(
        options: &XdpOptions,
        nodes: &[Option<u32>],
    ) -> Result<(Interface, Vec<Vec<Queue>>), Error> {
        let shards = nodes.len();
        let name = options.interface.as_str();
        let index = netlink::index_of(name).ok_or_else(|| Error::NoInterface(name.to_owned()))?;
        let unasked = |error| Error::Other("asking for the interface", error);
        let mut netlink = Netlink::new().map_err(unasked)?;
        let link = netlink.interface(index).map_err(unasked)?;
        if link.mac.is_none() {
            return Err(Error::NotEthernet(name.to_owned()));
        }
        let device = Device::of(&link, &mut netlink)?;
        reserve::check(&options.ports).map_err(Error::Ports)?;
        let facts = Ethtool.facts(&device.name);
        let there = facts.queues.map(|queues| queues.combined + queues.rx);
        let queues = match &options.queues {
            Some(queues) => queues.clone(),
            None => (0..there.unwrap_or(1).max(1)).collect(),
        };
        let bound = Self::best(options, &device, &queues, nodes);
        let (attachment, mode, sockets) = bound.map_err(|error| match error {
            Error::Mode(_, queue, _) if there.is_some_and(|there| queue >= there) => {
                Error::NoQueue(device.name.clone(), queue)
            }
            other => other,
        })?;
        for queue in &sockets {
            let steered = attachment.steer(queue.number, &queue.socket);
            steered.map_err(|error| Error::Other("steering a queue to its socket", error))?;
        }
        let has_huge_pages = sockets.iter().all(|queue| queue.socket.has_huge_pages());
        let mut frames_on: Vec<u32> = sockets.iter().filter_map(|queue| queue.socket.node()).collect();
        frames_on.sort_unstable();
        frames_on.dedup();
        let mut shares: Vec<Vec<Queue>> = (0..shards).map(|_| Vec::new()).collect();
        for (place, queue) in sockets.into_iter().enumerate() {
            shares[place % shards].push(queue);
        }
        let interface = Interface {
            attachment,
            index,
            name: name.to_owned(),
            device,
            mode,
            queues,
            has_huge_pages,
            nodes: frames_on,
            is_virtual: matches!(facts.driver.as_deref(), Some("veth" | "virtio_net")),
            rss: facts.spread.and_then(read_spread),
            ask_spread: |name| Ethtool.facts(name).spread,
            division: Division::new(options.ports.clone(), shards),
            inlets: inlets::Shared::default(),
            cookie_secret: RandomState::new(),
        };
        Ok((interface, shares))
    }

    /// Attaches and binds in the best mode that works, or in the one that is asked for.
    fn best(
        options: &XdpOptions,
        device: &Device,
        queues: &[u32],
        nodes: &[Option<u32>],
    ) -> Result<(Attachment, Mode, Vec<Queue>), Error> {
        let modes: &[Mode] = match options.mode {
            Some(Mode::ZeroCopy) => &[Mode::ZeroCopy],
            Some(Mode::Copy) => &[Mode::Copy],
            Some(Mode::Generic) => &[Mode::Generic],
            None => &[Mode::ZeroCopy, Mode::Copy, Mode::Generic],
        };
        let mut refusal = None;
        let mut native: Option<Attachment> = None;
        for &mode in modes {
            let wants_native = mode != Mode::Generic;
            let attached = match native.take() {
                Some(attachment) if wants_native => Ok(attachment),
                // Let go before the other sort is attached.
                other => {
                    drop(other);
                    Attachment::new(device.index, options.ports.clone(), device.tag, wants_native)
                }
            };
            let attachment = match attached {
                Ok(attachment) => attachment,
                // No driver, no mode of its own: there is still the generic one.
                Err(error @ Error::Driver(_)) => {
                    refusal.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Self::bind_all(device, queues, nodes, mode) {
                Ok(sockets) => return Ok((attachment, mode, sockets)),
                Err(error @ Error::Mode(..)) => refusal = Some(error),
                Err(error) => return Err(error),
            }
            native = Some(attachment).filter(Attachment::is_native);
        }
        Err(refusal
            .unwrap_or_else(|| Error::Other("binding", io::Error::from_raw_os_error(libc::EOPNOTSUPP))))
    }

    fn bind_all(
        device: &Device,
        queues: &[u32],
        nodes: &[Option<u32>],
        mode: Mode,
    ) -> Result<Vec<Queue>, Error> {
        let word = match mode {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy",
            Mode::Generic => "generic",
        };
        let bind = |(place, &number): (usize, &u32)| {
            let node = nodes[place % nodes.len()];
            let made = numa::on_node(node, || Xsk::new(RING_ENTRIES, device.mtu));
            let mut socket = made.map_err(Error::of_socket)?;
            let bound = socket.bind(device.index, number, mode == Mode::ZeroCopy);
            bound.map_err(|error| Error::of_bind(word, number, error))?;
            Ok(Queue { number, socket })
        };
        queues.iter().enumerate().map(bind).collect()
    }

    /// Its number in the kernel.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its queues that are used.
    pub fn queues(&self) -> &[u32] {
        &self.queues
    }

    /// The mode that was to be had.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The number of the device that its frames go by.
    pub(super) fn device_index(&self) -> u32 {
        self.device.index
    }

    /// How the interface spreads now what it receives. `None`: it does not say.
    pub(super) fn spread_now(&self) -> Option<Option<Rss>> {
        (self.ask_spread)(&self.device.name).map(read_spread)
    }

    /// What its frames bear on the device that they go by.
    pub(super) fn tag(&self) -> Option<Tag> {
        self.device.tag
    }

    /// Whether all frames lie on huge pages that were set aside.
    pub fn has_huge_pages(&self) -> bool {
        self.has_huge_pages
    }

    /// The NUMA nodes that frames lie on, as far as the kernel says.
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    pub(super) fn add_address(&self, address: IpAddr) -> io::Result<()> {
        self.attachment.add_address(address)
    }

    pub(super) fn join_inlet(&self, inlet: SocketAddr) -> io::Result<()> {
        self.inlets.join(inlet, &self.attachment)
    }

    pub(super) fn leave_inlet(&self, inlet: SocketAddr) {
        self.inlets.leave(inlet, &self.attachment);
    }

    pub(super) fn remove_address(&self, address: IpAddr) {
        self.attachment.remove_address(address);
    }
}

/// The hash that ports can be chosen by, if it is such a one.
fn read_spread(spread: Spread) -> Option<Rss> {
    spread.is_toeplitz.then(|| Rss::new(spread.key, spread.table)).flatten()
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues: Vec<String> = self.queues.iter().map(ToString::to_string).collect();
        let ports = if queues.len() == 1 { "queue" } else { "queues" };
        write!(f, "AF_XDP on {}", self.name)?;
        if let Some(tag) = self.device.tag {
            write!(f, " (VLAN {} of {})", tag.id, self.device.name)?;
        }
        write!(f, ", {ports} {}, {} mode", queues.join(","), self.mode)?;
        let pages = if self.has_huge_pages { "huge pages" } else { "ordinary pages" };
        write!(f, ", frames on {pages}")?;
        if !self.nodes.is_empty() && numa::has_several_nodes() {
            let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
            write!(f, " of node {}", nodes.join(" and "))?;
        }
        match &self.rss {
            Some(_) => write!(f, ", ports chosen by the interface's hash"),
            None if self.queues.len() > 1 => {
                write!(
                    f,
                    "; the interface does not say how it spreads what it receives: shards pass segments on"
                )
            }
            None => Ok(()),
        }
    }
}
