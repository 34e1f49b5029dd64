//! Sockets made by ordinary system calls: any, and of TCP listeners and those about to connect.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::name::Name;

/// Connections the kernel keeps for us until they are accepted (it caps this at net.core.somaxconn).
const BACKLOG: libc::c_int = 4096;

pub(super) fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket that no program started from here inherits.
pub(super) fn open(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor returned is new and owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(checked(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))?)) }
}

fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    open(family, libc::SOCK_STREAM, 0)
}

/// An option, as setsockopt(2) has it, that is a `T` of plain numbers.
pub(super) fn set<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the value is valid for reading and its size is given.
    checked(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let name = Name::of(address);
    // SAFETY: `name` is a valid address of the length given.
    checked(unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr(), name.len()) }).map(drop)
}

/// A listening socket that others may share the address with (SO_REUSEPORT); what it really is bound to.
/// With `cpu`, the kernel prefers it for connections whose packets that CPU takes in (socket(7)).
pub(crate) fn listener(address: SocketAddr, cpu: Option<u32>) -> io::Result<(OwnedFd, SocketAddr)> {
    let fd = stream_socket(address)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1)?;
    // Inherited by what it accepts.
    set(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1)?;
    if let Some(cpu) = cpu.and_then(|cpu| libc::c_int::try_from(cpu).ok()) {
        // Only a wish.
        let _ = set(&fd, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, &cpu);
    }
    bind(&fd, address)?;
    // SAFETY: no pointers.
    checked(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    let mut name = Name::EMPTY;
    // SAFETY: `name` is valid for writing, and its length is given.
    checked(unsafe { libc::getsockname(fd.as_raw_fd(), name.as_mut_ptr(), name.len_mut_ptr()) })?;
    let bound = name.address().unwrap_or(address);
    Ok((fd, SocketAddr::new(address.ip(), bound.port())))
}

/// Holds the address, without listening, so that others may listen there with SO_REUSEPORT and strangers may not.
///
/// # Errors
/// The address cannot be had: somebody else has it, it is not this machine's, or it takes rights.
pub fn reserve(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = stream_socket(address)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1)?;
    bind(&fd, address)?;
    Ok(fd)
}

/// Begins to connect, and does not wait: the stream is non-blocking and has a peer once it is there.
///
/// # Errors
/// It cannot even be begun.
pub fn call(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let stream = TcpStream::from(caller(to, source)?);
    stream.set_nonblocking(true)?;
    let name = Name::of(to);
    // SAFETY: `name` is a valid address of the length given; the descriptor is the stream's.
    match checked(unsafe { libc::connect(stream.as_raw_fd(), name.as_ptr(), name.len()) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

/// A socket to connect to `to` with, from the local address `source` and a port found when connecting.
pub(crate) fn caller(to: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let fd = stream_socket(to)?;
    set(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1)?;
    if let Some(source) = source {
        // So that the same port serves many upstreams (ip(7)).
        set(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)?;
        bind(&fd, SocketAddr::new(source, 0))?;
    }
    Ok(fd)
}
