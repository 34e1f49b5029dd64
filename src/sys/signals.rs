//! TERM and INT as something to look for, not something that interrupts.
#![allow(unsafe_code)]

use std::ptr;

fn set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set, sigaddset is given valid signal numbers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        set
    }
}

/// Blocks them in this thread and in all it starts from now on.
pub fn block() {
    let set = set();
    // SAFETY: a valid set; the old mask is not asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

/// Takes one that has come, if any.
pub fn pending() -> bool {
    let set = set();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid set and timespec; the signal's details are not asked for.
    unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &now) > 0 }
}

/// Waits for one.
pub fn wait() {
    let set = set();
    // SAFETY: a valid set; the signal's details are not asked for. EINTR (a debugger) is waited out.
    unsafe { while libc::sigwaitinfo(&set, ptr::null_mut()) < 0 {} }
}

/// Asks a process that we started to end.
pub fn terminate(pid: u32) {
    // SAFETY: kill takes any numbers; the process is a child not yet waited for, so the number is its own.
    unsafe {
        libc::kill(pid as libc::pid_t, libc::SIGTERM);
    }
}
