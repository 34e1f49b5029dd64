//! The interface, set up once for all shards: program attached, a socket bound to each queue, in the best mode there is.

use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use postlane_hw::rss::Rss;
use postlane_hw::{Drivers, Ethtool};

use super::inlets;
use super::ports::Division;
use super::reserve;
use crate::sys::xdp::Error;
use crate::sys::xdp::attachment::Attachment;
use crate::sys::xdp::netlink::{self, Netlink};
use crate::sys::xdp::socket::{Mode, Xsk};

/// Places in each ring of a socket: the frames that may be under way in each direction.
const RING_ENTRIES: u32 = 2_048;

/// How kernel bypass is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpOptions {
    /// The interface's name.
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
    mode: Mode,
    queues: Vec<u32>,
    has_huge_pages: bool,
    /// Frames from other interfaces of this machine have partial checksums.
    pub(super) is_virtual: bool,
    pub(super) rss: Option<Rss>,
    pub(super) division: Division,
    inlets: inlets::Shared,
    /// For the cookies of all shards.
    pub(super) cookie_secret: RandomState,
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
        let name = options.interface.as_str();
        let index = netlink::index_of(name).ok_or_else(|| Error::NoInterface(name.to_owned()))?;
        let asked = Netlink::new().and_then(|mut netlink| netlink.interface(index));
        let link = asked.map_err(|error| Error::Other("asking for the interface", error))?;
        if link.mac.is_none() {
            return Err(Error::NotEthernet(name.to_owned()));
        }
        reserve::check(&options.ports).map_err(Error::Ports)?;
        let facts = Ethtool.facts(name);
        let there = facts.queues.map(|queues| queues.combined + queues.rx);
        let queues = match &options.queues {
            Some(queues) => queues.clone(),
            None => (0..there.unwrap_or(1).max(1)).collect(),
        };
        let bound = Self::best(options, index, &queues, link.mtu);
        let (attachment, mode, sockets) = bound.map_err(|error| match error {
            Error::Mode(_, queue, _) if there.is_some_and(|there| queue >= there) => {
                Error::NoQueue(name.to_owned(), queue)
            }
            other => other,
        })?;
        for queue in &sockets {
            let steered = attachment.steer(queue.number, &queue.socket);
            steered.map_err(|error| Error::Other("steering a queue to its socket", error))?;
        }
        let has_huge_pages = sockets.iter().all(|queue| queue.socket.has_huge_pages());
        let mut shares: Vec<Vec<Queue>> = (0..shards).map(|_| Vec::new()).collect();
        for (place, queue) in sockets.into_iter().enumerate() {
            shares[place % shards].push(queue);
        }
        let interface = Interface {
            attachment,
            index,
            name: name.to_owned(),
            mode,
            queues,
            has_huge_pages,
            is_virtual: matches!(facts.driver.as_deref(), Some("veth" | "virtio_net")),
            rss: facts.spread.filter(|spread| spread.is_toeplitz).and_then(|s| Rss::new(s.key, s.table)),
            division: Division::new(options.ports.clone(), shards),
            inlets: inlets::Shared::default(),
            cookie_secret: RandomState::new(),
        };
        Ok((interface, shares))
    }

    /// Attaches and binds in the best mode that works, or in the one that is asked for.
    fn best(
        options: &XdpOptions,
        index: u32,
        queues: &[u32],
        mtu: u32,
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
                    Attachment::new(index, options.ports.clone(), wants_native)
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
            match Self::bind_all(index, queues, mtu, mode) {
                Ok(sockets) => return Ok((attachment, mode, sockets)),
                Err(error @ Error::Mode(..)) => refusal = Some(error),
                Err(error) => return Err(error),
            }
            native = Some(attachment).filter(Attachment::is_native);
        }
        Err(refusal
            .unwrap_or_else(|| Error::Other("binding", io::Error::from_raw_os_error(libc::EOPNOTSUPP))))
    }

    fn bind_all(index: u32, queues: &[u32], mtu: u32, mode: Mode) -> Result<Vec<Queue>, Error> {
        let word = match mode {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy",
            Mode::Generic => "generic",
        };
        let bind = |&number: &u32| {
            let mut socket = Xsk::new(RING_ENTRIES, mtu).map_err(Error::of_socket)?;
            let bound = socket.bind(index, number, mode == Mode::ZeroCopy);
            bound.map_err(|error| Error::of_bind(word, number, error))?;
            Ok(Queue { number, socket })
        };
        queues.iter().map(bind).collect()
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

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues: Vec<String> = self.queues.iter().map(ToString::to_string).collect();
        let ports = if queues.len() == 1 { "queue" } else { "queues" };
        write!(f, "AF_XDP on {}, {ports} {}, {} mode", self.name, queues.join(","), self.mode)?;
        if self.has_huge_pages {
            write!(f, ", huge pages")?;
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
