//! Why kernel bypass could not start, in words that say what to do.

use std::fmt;
use std::io;

/// A refusal, with its likely cause and remedy.
#[derive(Debug)]
pub enum Error {
    /// There is no such interface.
    NoInterface(String),
    /// The interface cannot do it: what it is.
    NotEthernet(String),
    /// It is a VLAN of an interface that cannot be used: which, and why.
    Vlan(String, &'static str),
    /// bpf(2) or AF_XDP needs privileges.
    Privileges(&'static str, io::Error),
    /// The kernel was built without AF_XDP.
    NoAfXdp(io::Error),
    /// Another program is attached to the interface.
    Attached(io::Error),
    /// The driver cannot run the program.
    Driver(io::Error),
    /// The interface has no such queue.
    NoQueue(String, u32),
    /// Another socket has the queue.
    QueueInUse(u32),
    /// Not enough memory, or not enough that may be locked.
    Memory(io::Error),
    /// The mode that was asked for cannot be had: which, on which queue.
    Mode(&'static str, u32, io::Error),
    /// The kernel gives these ports to others.
    Ports(String),
    /// Anything else: what was tried.
    Other(&'static str, io::Error),
}

impl Error {
    pub(super) fn of_bpf(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM) => Error::Privileges("bpf(2)", error),
            Some(libc::ENOMEM) => Error::Memory(error),
            _ => Error::Other("loading the program", error),
        }
    }

    pub(super) fn of_attach(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM) => Error::Privileges("attaching the program", error),
            Some(libc::EBUSY | libc::EEXIST) => Error::Attached(error),
            Some(libc::EOPNOTSUPP | libc::EINVAL) => Error::Driver(error),
            _ => Error::Other("attaching the program", error),
        }
    }

    /// Making a socket failed.
    pub fn of_socket(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Privileges("an AF_XDP socket", error),
            Some(libc::EAFNOSUPPORT) => Error::NoAfXdp(error),
            Some(libc::ENOMEM | libc::ENOBUFS) => Error::Memory(error),
            _ => Error::Other("making an AF_XDP socket", error),
        }
    }

    /// Binding it failed; `mode` is what was asked for.
    pub fn of_bind(mode: &'static str, queue: u32, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Error::QueueInUse(queue),
            Some(libc::EPERM) => Error::Privileges("binding an AF_XDP socket", error),
            Some(libc::ENOMEM | libc::ENOBUFS) => Error::Memory(error),
            _ => Error::Mode(mode, queue, error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoInterface(name) => {
                write!(
                    f,
                    "there is no interface `{name}` (`ip link` lists those there are): correct `[xdp] interface`"
                )
            }
            Error::NotEthernet(name) => write!(f, "`{name}` is no Ethernet interface: choose one that is"),
            Error::Vlan(name, why) => write!(
                f,
                "`{name}` is a VLAN {why}: give it to `[xdp] interface` where that is not so, or write `backend = \"uring\"`"
            ),
            Error::Privileges(what, error) => write!(
                f,
                "{what} needs privileges ({error}): give the program CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (systemd: \
                 AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF), or write `backend = \"uring\"`"
            ),
            Error::NoAfXdp(error) => write!(
                f,
                "this kernel has no AF_XDP ({error}): it needs CONFIG_XDP_SOCKETS; or write `backend = \"uring\"`"
            ),
            Error::Attached(error) => write!(
                f,
                "another XDP program is attached to the interface ({error}): `ip link show` names it; `ip link set dev \
                 NAME xdp off`, or the end of the program that attached it, takes it off"
            ),
            Error::Driver(error) => write!(
                f,
                "the interface's driver cannot run XDP programs as it is set up ({error}): lower its MTU to 3498, switch \
                 off LRO (`ethtool -K NAME lro off`), use at most half of its queues; or write `mode = \"generic\"`"
            ),
            Error::NoQueue(name, queue) => write!(
                f,
                "`{name}` has no queue {queue} (`ethtool -l {name}` says how many it has): leave it out of `[xdp] queues`"
            ),
            Error::QueueInUse(queue) => write!(
                f,
                "queue {queue} has an AF_XDP socket of another program: stop that, or leave the queue out of `[xdp] queues`"
            ),
            Error::Memory(error) => write!(
                f,
                "not enough memory for frames ({error}): raise the limit of locked memory (`ulimit -l`, systemd: \
                 LimitMEMLOCK=infinity) or give the program CAP_IPC_LOCK, or use fewer queues"
            ),
            Error::Mode(mode, queue, error) => write!(
                f,
                "{mode} mode cannot be had on queue {queue} ({error}): write `mode = \"auto\"` for the best that can"
            ),
            Error::Ports(why) => f.write_str(why),
            Error::Other(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Privileges(_, error)
            | Error::NoAfXdp(error)
            | Error::Attached(error)
            | Error::Driver(error)
            | Error::Memory(error)
            | Error::Mode(_, _, error)
            | Error::Other(_, error) => Some(error),
            _ => None,
        }
    }
}
