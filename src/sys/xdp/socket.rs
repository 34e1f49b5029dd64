//! One AF_XDP socket on one queue of an interface: frames in, frames out, and the memory they lie in.
//!
//! Every frame is in one of these places: free here; with the kernel to receive into; received and being looked at;
//! with the kernel to be sent. Half of them receive, half send, so neither can starve the other.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::ring::{Consumer, Producer};
use super::umem::Umem;
use crate::sys::socket::{self, checked};

/// Bytes the kernel keeps before a received frame (XDP_PACKET_HEADROOM, linux/bpf.h).
const HEADROOM: u32 = 256;
/// The kernel sends so many frames a call where the driver does not take them itself (TX_BATCH_SIZE, net/xdp/xsk.c).
const FRAMES_PER_KICK: u32 = 32;
/// Calls in a row; what is left after them leaves with the next turn.
const KICKS_MAX: u32 = 64;
/// A queue whose last user has just gone is busy for a moment.
const BUSY: Duration = Duration::from_secs(3);

/// How frames get from the driver to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The driver receives into our memory and sends from it.
    ZeroCopy,
    /// The driver runs the program, and the kernel copies.
    Copy,
    /// The kernel runs the program and copies, whatever the driver.
    Generic,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy",
            Mode::Generic => "generic",
        })
    }
}

/// A socket with its rings and frames.
#[derive(Debug)]
pub struct Xsk {
    // Closed before the memory goes.
    fd: OwnedFd,
    receive: Consumer<libc::xdp_desc>,
    fill: Producer<u64>,
    transmit: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    umem: Umem,
    /// Frames to send from that nobody uses.
    free: Vec<u64>,
    frame_bytes: u32,
}

/// An option of the socket's that is a `T` of plain numbers.
fn get<T: Copy>(fd: &OwnedFd, option: libc::c_int, zero: T) -> io::Result<T> {
    let mut value = zero;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is valid for writing and its size is given; callers' types are plain numbers.
    checked(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, (&raw mut value).cast(), &raw mut len)
    })?;
    if len as usize == size_of::<T>() {
        Ok(value)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
    }
}

const NO_OFFSETS: libc::xdp_ring_offset =
    libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };

impl Xsk {
    /// A socket on that queue, with `entries` (a power of two) in each ring. Not yet bound.
    ///
    /// # Errors
    /// What the kernel refuses: `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` without AF_XDP, `ENOBUFS` or `ENOMEM`
    /// beyond the limit of locked memory.
    pub fn new(entries: u32, mtu: u32) -> io::Result<Xsk> {
        let fd = socket::open(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        // Ethernet header, VLAN tag.
        let frame_bytes = if mtu + 18 + HEADROOM <= 2_048 { 2_048 } else { 4_096 };
        let umem = Umem::new(entries * 2, frame_bytes)?;
        socket::set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration())?;
        let rings =
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
        for ring in rings {
            socket::set(&fd, libc::SOL_XDP, ring, &entries)?;
        }
        let zero = libc::xdp_mmap_offsets { rx: NO_OFFSETS, tx: NO_OFFSETS, fr: NO_OFFSETS, cr: NO_OFFSETS };
        let parts = get(&fd, libc::XDP_MMAP_OFFSETS, zero)?;
        let mut this = Xsk {
            receive: Consumer::map(&fd, libc::XDP_PGOFF_RX_RING as u64, &parts.rx, entries)?,
            fill: Producer::map(&fd, libc::XDP_UMEM_PGOFF_FILL_RING, &parts.fr, entries)?,
            transmit: Producer::map(&fd, libc::XDP_PGOFF_TX_RING as u64, &parts.tx, entries)?,
            completion: Consumer::map(&fd, libc::XDP_UMEM_PGOFF_COMPLETION_RING, &parts.cr, entries)?,
            umem,
            free: (u64::from(entries)..u64::from(entries) * 2)
                .rev()
                .map(|n| n * u64::from(frame_bytes))
                .collect(),
            frame_bytes,
            fd,
        };
        for frame in 0..u64::from(entries) {
            this.fill.push(frame * u64::from(frame_bytes));
        }
        this.fill.publish();
        Ok(this)
    }

    /// Binds it to a queue of an interface, by zero-copy or by copy. Waits a little if its last user has just gone.
    ///
    /// # Errors
    /// `EOPNOTSUPP` and others if that cannot be had there, `EBUSY` if the queue has a socket.
    pub fn bind(&mut self, interface: u32, queue: u32, zero_copy: bool) -> io::Result<()> {
        let how = if zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: how | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let begun = Instant::now();
        loop {
            // SAFETY: the address is valid for reading and its size is given.
            let bound = checked(unsafe {
                libc::bind(
                    self.fd.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
                )
            });
            match bound {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < BUSY => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other.map(drop),
            }
        }
    }

    /// Whether its memory is on huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.umem.is_huge
    }

    /// The NUMA node that its memory lies on, if the kernel says.
    pub fn node(&self) -> Option<u32> {
        self.umem.node
    }

    /// To be watched for readability.
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Frames are waiting to be looked at.
    pub fn has_received(&self) -> bool {
        !self.receive.is_empty()
    }

    /// Shows `look` the next frames, at most `max`; the kernel then may use their memory again.
    pub fn receive(&mut self, max: usize, mut look: impl FnMut(&[u8])) {
        let mut count = 0;
        while count < max {
            let Some(frame) = self.receive.pop() else { break };
            count += 1;
            // Larger frames come in pieces only to sockets that ask for it.
            look(self.umem.bytes(frame.addr, frame.len));
            let returned = self.fill.push(self.umem.frame_of(frame.addr));
            debug_assert!(returned, "as many frames as the ring has places");
        }
        if count > 0 {
            self.receive.release();
            self.fill.publish();
        }
        if self.fill.needs_wakeup() {
            // SAFETY: no memory is written: the length is zero.
            unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    std::ptr::null_mut(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                )
            };
        }
    }

    /// How many more frames can be sent now.
    pub fn room(&mut self) -> usize {
        if self.free.len() < 64 {
            self.reclaim();
        }
        self.free.len().min(self.transmit.free() as usize)
    }

    fn reclaim(&mut self) {
        while let Some(frame) = self.completion.pop() {
            self.free.push(self.umem.frame_of(frame));
        }
        self.completion.release();
    }

    /// Has `write` write a frame and say how long it is; it leaves with `flush`. False: there is no room.
    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.room() == 0 {
            return false;
        }
        let Some(frame) = self.free.pop() else { return false };
        let len = write(self.umem.frame(frame));
        debug_assert!(len <= self.frame_bytes as usize);
        let pushed = self.transmit.push(libc::xdp_desc { addr: frame, len: len as u32, options: 0 });
        debug_assert!(pushed, "there was room");
        true
    }

    /// Shows the kernel all frames written. True: it is to be told, by a send of nothing on the descriptor; for so few
    /// one such is enough.
    pub fn publish(&mut self) -> bool {
        if !self.transmit.publish() {
            return false;
        }
        if self.transmit.pending() <= FRAMES_PER_KICK {
            return self.transmit.needs_wakeup();
        }
        self.flush();
        false
    }

    /// Has all frames written leave. True: all have been taken from us; else there is a reason to try again soon.
    pub fn flush(&mut self) -> bool {
        self.transmit.publish();
        for _ in 0..KICKS_MAX {
            if self.transmit.pending() == 0 {
                return true;
            }
            if !self.transmit.needs_wakeup() {
                return true;
            }
            // SAFETY: no memory is read: the length is zero.
            let sent = checked(unsafe {
                libc::sendto(
                    self.fd.as_raw_fd(),
                    std::ptr::null(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null(),
                    0,
                )
            } as libc::c_int);
            match sent {
                Ok(_) => {}
                // More than one call's worth; or no memory for buffers until some have left.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => self.reclaim(),
                Err(_) => {
                    self.reclaim();
                    return self.transmit.pending() == 0;
                }
            }
        }
        self.transmit.pending() == 0
    }
}
