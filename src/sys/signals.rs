//! TERM, INT and HUP as something to look for, not something that interrupts.
#![allow(unsafe_code)]

use std::ptr;

const ENDING: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];
const HANGUP: [libc::c_int; 1] = [libc::SIGHUP];

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set, sigaddset is given valid signal numbers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

fn block_all(signals: &[libc::c_int]) {
    let set = set(signals);
    // SAFETY: a valid set; the old mask is not asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

fn take(signals: &[libc::c_int]) -> bool {
    let set = set(signals);
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid set and timespec; the signal's details are not asked for.
    unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &now) > 0 }
}

/// Blocks TERM and INT in this thread and in all it starts from now on.
pub fn block() {
    block_all(&ENDING);
}

/// Blocks HUP as well: for whoever looks for it.
pub fn block_hangup() {
    block_all(&HANGUP);
}

/// Takes a TERM or INT that has come, if any.
pub fn pending() -> bool {
    take(&ENDING)
}

/// Takes a HUP that has come, if any.
pub fn hangup_pending() -> bool {
    take(&HANGUP)
}

/// Waits for a TERM or INT.
pub fn wait() {
    let set = set(&ENDING);
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
