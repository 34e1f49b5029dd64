//! Ports before they are listened on.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

/// How long a port in use is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the address can be listened on. The sockets of a process that was killed stay open until the kernel has
/// taken its rings apart, some time after its end: that is waited for.
///
/// # Errors
/// What bind(2) says.
pub(super) fn try_port(address: SocketAddr) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && started.elapsed() < PATIENCE => {
                thread::sleep(PATIENCE / 100);
            }
            result => return result.map(drop),
        }
    }
}
