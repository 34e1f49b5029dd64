//! What routers and hosts say about packets of ours that they could not pass on: ICMP and ICMPv6 errors, by a raw socket
//! (raw(7), RFC 3542 section 3.2).
//!
//! The kernel itself makes nothing of them, as it knows nothing of our connections (`tcp_v4_err`, net/ipv4/tcp_ipv4.c,
//! looks for a socket first): there is no exception in its tables to be read.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::socket;

// Not in libc: linux/icmp.h, linux/icmpv6.h.
const SOL_RAW: libc::c_int = 255;
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;
const DESTINATION_UNREACHABLE: u32 = 3;
const DESTINATION_UNREACHABLE_V6: u32 = 1;
const PACKET_TOO_BIG_V6: u32 = 2;

/// Enough of an error to see whose packet it is about: it quotes that one's headers first.
const ERROR_BYTES: usize = 256;

/// A socket that gets a copy of every such error that this machine gets.
#[derive(Debug)]
pub struct Errors {
    fd: OwnedFd,
    is_ipv4: bool,
}

impl Errors {
    /// Of that family.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where there is no such family.
    pub fn new(is_ipv4: bool) -> io::Result<Errors> {
        let (family, protocol) = match is_ipv4 {
            true => (libc::AF_INET, libc::IPPROTO_ICMP),
            false => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
        };
        let fd = socket::open(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol)?;
        // A bit for each type that is not wanted.
        if is_ipv4 {
            socket::set(&fd, SOL_RAW, ICMP_FILTER, &!(1_u32 << DESTINATION_UNREACHABLE))?;
        } else {
            let mut filter = [u32::MAX; 8];
            filter[0] &= !(1 << DESTINATION_UNREACHABLE_V6 | 1 << PACKET_TOO_BIG_V6);
            socket::set(&fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)?;
        }
        Ok(Errors { fd, is_ipv4 })
    }

    /// To be watched for readability.
    pub fn descriptor(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether they are of IPv4: those begin with their IP header, others with their own.
    pub fn is_ipv4(&self) -> bool {
        self.is_ipv4
    }

    /// The next one, if there is one, as far as its beginning is of interest.
    pub fn receive<'a>(&self, buffer: &'a mut [u8; ERROR_BYTES]) -> Option<&'a [u8]> {
        // SAFETY: the buffer is valid for writing and its length is given.
        let len = unsafe {
            libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        usize::try_from(len).ok().map(|len| &buffer[..len])
    }

    /// Room for one.
    pub fn buffer() -> [u8; ERROR_BYTES] {
        [0; ERROR_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A closed port of this machine's answers with an error, and nothing else is heard.
    #[test]
    fn an_error_is_heard_and_nothing_else() {
        for (is_ipv4, here) in [(true, "127.0.0.1:0"), (false, "[::1]:0")] {
            let errors = match Errors::new(is_ipv4) {
                Ok(errors) => errors,
                Err(error) => return eprintln!("skipped: no raw socket here ({error})"),
            };
            let Ok(closed) = UdpSocket::bind(here).and_then(|socket| socket.local_addr()) else { continue };
            let socket = UdpSocket::bind(here).expect("a port");
            socket.send_to(b"anybody there", closed).expect("it can be sent");
            let (mut buffer, from) = (Errors::buffer(), socket.local_addr().expect("it is bound").port());
            let quoted = |bytes: &[u8]| bytes.windows(2).any(|pair| pair == from.to_be_bytes());
            let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
            // Others may be talking to closed ports, too.
            while !errors.receive(&mut buffer).is_some_and(quoted) {
                assert!(std::time::Instant::now() < end, "no error was heard");
                std::thread::yield_now();
            }
        }
    }
}
