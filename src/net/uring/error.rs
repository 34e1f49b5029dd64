//! Why a shard's network could not start, in words that say what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A refusal of the operating system's, with its likely cause and remedy.
#[derive(Debug)]
pub enum Error {
    /// The kernel has no io_uring, or one older than Linux 6.1: what it lacks.
    KernelTooOld(&'static str),
    /// `kernel.io_uring_disabled` has this value.
    Disabled(u8),
    /// A security profile (seccomp, as containers have it) forbids io_uring.
    Forbidden(io::Error),
    /// Not enough memory, or not enough that may be locked.
    Memory(io::Error),
    /// The table of streams is larger than the limit of open files.
    TooFewFiles {
        /// Files one shard needs.
        needed: u64,
        /// Files the process may have open.
        limit: u64,
    },
    /// Somebody else listens there.
    PortInUse(SocketAddr),
    /// Ports below net.ipv4.ip_unprivileged_port_start need a privilege.
    PortPrivileged(SocketAddr),
    /// This machine does not have that address.
    NoSuchAddress(SocketAddr),
    /// Anything else: what was tried.
    Other(&'static str, io::Error),
}

impl Error {
    /// Setting up the ring failed.
    pub(super) fn of_setup(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM) => match disabled() {
                0 => Error::Forbidden(error),
                value => Error::Disabled(value),
            },
            Some(libc::ENOSYS | libc::EACCES) => Error::Forbidden(error),
            _ => Error::of_step("setting up a ring", "io_uring as of Linux 6.1", error),
        }
    }

    /// A registration or probe failed; `feature` is what the kernel would lack if it does not know it.
    pub(super) fn of_step(what: &'static str, feature: &'static str, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Error::Memory(error),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::KernelTooOld(feature),
            _ => Error::Other(what, error),
        }
    }

    /// Listening failed.
    pub(super) fn of_listen(address: SocketAddr, error: io::Error) -> io::Error {
        let kind = error.kind();
        let error = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::PortInUse(address),
            Some(libc::EACCES) => Error::PortPrivileged(address),
            Some(libc::EADDRNOTAVAIL) => Error::NoSuchAddress(address),
            _ => Error::Other("listening", error),
        };
        io::Error::new(kind, error)
    }
}

fn disabled() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::KernelTooOld(what) => {
                write!(f, "this kernel is too old: it lacks {what}. Linux 6.1 or later is needed")
            }
            Error::Disabled(1) => write!(
                f,
                "io_uring is disabled for ordinary users (kernel.io_uring_disabled = 1): run \
                 `sysctl -w kernel.io_uring_disabled=0`, or put this user into the group whose number is in \
                 kernel.io_uring_group"
            ),
            Error::Disabled(value) => write!(
                f,
                "io_uring is disabled on this machine (kernel.io_uring_disabled = {value}): run \
                 `sysctl -w kernel.io_uring_disabled=0`"
            ),
            Error::Forbidden(error) => write!(
                f,
                "io_uring is refused ({error}), most likely by a seccomp profile: allow io_uring_setup, \
                 io_uring_enter and io_uring_register in it (Docker: --security-opt seccomp=…; systemd: \
                 SystemCallFilter=@io-event)"
            ),
            Error::Memory(error) => write!(
                f,
                "not enough memory for the ring ({error}): raise the limit of locked memory (`ulimit -l`, \
                 systemd: LimitMEMLOCK=64M) or the memory of the control group, or run fewer shards"
            ),
            Error::TooFewFiles { needed, limit } => write!(
                f,
                "a shard needs room for {needed} open files and may have {limit}: raise the limit \
                 (`ulimit -n`, systemd: LimitNOFILE=), or allow fewer sessions"
            ),
            Error::PortInUse(address) => write!(
                f,
                "{address} is in use by another program (`ss -ltnp` shows which): stop it, or listen elsewhere"
            ),
            Error::PortPrivileged(address) => write!(
                f,
                "{address} needs a privilege: give the program CAP_NET_BIND_SERVICE (systemd: \
                 AmbientCapabilities=), lower net.ipv4.ip_unprivileged_port_start, or use a higher port"
            ),
            Error::NoSuchAddress(address) => {
                write!(f, "{} is no address of this machine (`ip addr` shows which are)", address.ip())
            }
            Error::Other(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Forbidden(error) | Error::Memory(error) | Error::Other(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn each_refusal_names_its_remedy() {
        let port: SocketAddr = "127.0.0.1:25".parse().expect("an address");
        for (words, remedy) in [
            (Error::Disabled(2).to_string(), "sysctl -w kernel.io_uring_disabled=0"),
            (Error::Disabled(1).to_string(), "kernel.io_uring_group"),
            (Error::of_setup(errno(libc::ENOSYS)).to_string(), "seccomp"),
            (Error::of_setup(errno(libc::ENOMEM)).to_string(), "LimitMEMLOCK"),
            (Error::of_setup(errno(libc::EINVAL)).to_string(), "Linux 6.1"),
            (Error::TooFewFiles { needed: 9, limit: 3 }.to_string(), "LimitNOFILE"),
            (Error::of_listen(port, errno(libc::EACCES)).to_string(), "CAP_NET_BIND_SERVICE"),
            (Error::of_listen(port, errno(libc::EADDRINUSE)).to_string(), "ss -ltnp"),
            (Error::of_listen(port, errno(libc::EADDRNOTAVAIL)).to_string(), "ip addr"),
        ] {
            assert!(words.contains(remedy), "{words}");
        }
    }
}
