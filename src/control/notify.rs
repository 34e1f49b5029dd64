//! Telling systemd (sd_notify(3)): a datagram to the socket it names, nothing where it names none.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::sys::clock;

/// Mail is taken from now on.
pub(super) fn ready(status: &str) {
    send(&format!("READY=1\nSTATUS=taking mail, {status}\nMAINPID={}", std::process::id()));
}

/// A reload has begun; [`ready`] says that it is over.
pub(super) fn reloading() {
    let monotonic_usec = clock::now().as_nanos() / 1_000;
    send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}"));
}

/// No new mail is taken.
pub(super) fn stopping() {
    send("STOPPING=1\nSTATUS=draining");
}

fn send(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    // Who starts us may be gone; mail goes on all the same.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(text.as_bytes(), &address);
    }
}
