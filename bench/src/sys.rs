//! Every system call that the standard library has no safe name for, and all `unsafe` of this crate.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Most events taken by one wait.
const EVENTS_MAX: usize = 512;
/// Connections the kernel may hold for a listener before they are accepted.
const BACKLOG: libc::c_int = 4096;

/// An epoll instance with room for the events of one wait. Everything is edge-triggered.
pub(crate) struct Poll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// Something changed on the socket registered under `token`; at the least, that it can be written again.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    /// The peer has closed its side, or the connection is broken.
    pub(crate) ended: bool,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and then owned by nobody else.
        let fd = unsafe {
            let fd = checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Poll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX] })
    }

    /// Watches `socket` for both directions, edge-triggered, until it is closed.
    pub(crate) fn add(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` lives across the call, which only reads it; both descriptors are open.
        let done = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event)
        };
        checked(done).map(drop)
    }

    /// Waits at most `timeout` (to the nanosecond, so that schedules hold) and returns how many events there are.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let spec = libc::timespec {
            tv_sec: timeout.as_secs().min(3600) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: `events` has room for EVENTS_MAX entries, `spec` lives across the call, no signal mask is given.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS_MAX as libc::c_int,
                &spec,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match checked(found as libc::c_int) {
            Ok(found) => Ok(found as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The event at `index` of the last wait.
    pub(crate) fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        let (flags, token) = (event.events, event.u64);
        let ended = libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP;
        Event {
            token,
            readable: flags & (libc::EPOLLIN | ended) as u32 != 0,
            ended: flags & ended as u32 != 0,
        }
    }
}

/// A non-blocking listener whose connections inherit `TCP_NODELAY`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    set_nodelay(listener.as_raw_fd())?;
    // SAFETY: an open socket and two integers; listening again only changes the backlog.
    checked(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
    Ok(listener)
}

/// The next waiting connection, non-blocking already; `None` when there is none.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers are allowed and mean that the peer's address is not wanted.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    match checked(fd) {
        // SAFETY: the descriptor is new and nobody else's.
        Ok(fd) => Ok(Some(unsafe { TcpStream::from_raw_fd(fd) })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts a connection; it is established (or has failed, see [`TcpStream::take_error`]) once writable.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked and then owned by nobody else.
    let stream = unsafe {
        let fd = checked(libc::socket(family, kind, 0))?;
        TcpStream::from_raw_fd(fd)
    };
    set_nodelay(stream.as_raw_fd())?;
    match connect_socket(stream.as_raw_fd(), address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

fn connect_socket(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let done = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            let size = mem::size_of_val(&name) as libc::socklen_t;
            // SAFETY: `name` is a whole sockaddr_in of `size` bytes and lives across the call.
            unsafe { libc::connect(fd, (&raw const name).cast(), size) }
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            let size = mem::size_of_val(&name) as libc::socklen_t;
            // SAFETY: `name` is a whole sockaddr_in6 of `size` bytes and lives across the call.
            unsafe { libc::connect(fd, (&raw const name).cast(), size) }
        }
    };
    checked(done).map(drop)
}

fn set_nodelay(fd: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is the int `on`, `size` bytes long, alive across the call.
    checked(unsafe {
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), size)
    })
    .map(drop)
}

/// CPU time of a whole process in nanoseconds: all its threads, dead ones too (`clock_getcpuclockid(3)`).
pub(crate) fn cpu_time_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both out-pointers are to locals; the clock id is used only if the first call gave one.
    unsafe {
        let error = libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        checked(libc::clock_gettime(clock, &mut time))?;
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time of the calling thread in nanoseconds.
pub(crate) fn thread_cpu_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the out-pointer is to a local; this clock always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets this process open as many descriptors as the system allows it. Best effort: the limit tells by itself.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local, written by the first call and read by the second.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Lets the calling thread's waits end when they should, not up to 50 µs later (`PR_SET_TIMERSLACK`, prctl(2)).
pub(crate) fn fine_timers() {
    const SLACK_NS: libc::c_ulong = 1_000;
    // SAFETY: integers only; a refusal leaves the timers as coarse as they were.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0) };
}

/// Asks a child to end as ^C would.
pub(crate) fn interrupt(child: &std::process::Child) -> io::Result<()> {
    // SAFETY: two integers; a child not yet waited for keeps its pid, so it can be nobody else's.
    checked(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }).map(drop)
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
