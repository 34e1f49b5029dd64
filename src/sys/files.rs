//! Files: how many may be open, and what the standard library does not do with them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Raises the soft limit of open files to the hard one, and returns it.
///
/// # Errors
/// What getrlimit(2) says. That raising fails is no error: the limit as it is, is returned.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: `raised` is a valid limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

/// Takes possession of a descriptor that a completion brought.
pub(crate) fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel just opened it for the request that the completion is of; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Lets the cache forget a file, as far as it is clean, so that what is read next is what is on the disk.
///
/// # Errors
/// What posix_fadvise(2) says.
pub fn forget_cached(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; nothing else is given.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
