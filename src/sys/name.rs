//! Socket addresses as the kernel has them, at places that do not move while it uses them.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A `sockaddr_in` or `sockaddr_in6`, and room for its length.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Name {
    address: libc::sockaddr_in6,
    len: libc::socklen_t,
}

impl Name {
    pub(crate) const EMPTY: Name = Name {
        address: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
        len: size_of::<libc::sockaddr_in6>() as libc::socklen_t,
    };

    pub(crate) fn of(address: SocketAddr) -> Name {
        let mut name = Name::EMPTY;
        match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a `sockaddr_in` (16 bytes) fits where a `sockaddr_in6` (28) is, at no less alignment.
                unsafe { (&raw mut name.address).cast::<libc::sockaddr_in>().write(raw) };
                name.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                name.address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
            }
        }
        name
    }

    /// The address, IPv4 as IPv4 even where it came through an IPv6 socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.address.sin6_family) {
            libc::AF_INET => {
                // SAFETY: the family says that a `sockaddr_in` is here; it is shorter and no more aligned.
                let raw = unsafe { (&raw const self.address).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(self.address.sin6_addr.s6_addr);
                let port = u16::from_be(self.address.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddrV4::new(v4, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, self.address.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.address).cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.address).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    pub(crate) fn len_mut_ptr(&mut self) -> *mut libc::socklen_t {
        &raw mut self.len
    }
}

/// Names by number. They grow in number as needed, and none ever moves.
#[derive(Default)]
pub(crate) struct Names(Vec<Box<[Name; Names::CHUNK]>>);

impl Names {
    const CHUNK: usize = 128;

    pub(crate) fn at(&mut self, number: usize) -> &mut Name {
        while self.0.len() <= number / Self::CHUNK {
            self.0.push(Box::new([Name::EMPTY; Self::CHUNK]));
        }
        &mut self.0[number / Self::CHUNK][number % Self::CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:25", "255.1.2.3:65535", "[::1]:587", "[fe80::1%7]:25"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Name::of(address).address(), Some(address));
        }
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:9".parse().expect("an address");
        assert_eq!(Name::of(mapped).address(), "10.1.2.3:9".parse().ok());
        assert_eq!(Name::EMPTY.address(), None);
    }
}
