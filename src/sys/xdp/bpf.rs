//! bpf(2), as little of it as is needed: a map, a program, a link that attaches it to an interface.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::program::Instruction;

// Commands, map and program types, flags: uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// What a map maps.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum MapType {
    Hash = 1,
    #[cfg(test)]
    Array = 2,
    /// Queue to AF_XDP socket.
    Sockets = 17,
}

/// The union `bpf_attr`, as 64-bit words; fields are put at their offsets.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Attributes([u8; 144]);

impl Attributes {
    fn new() -> Self {
        Attributes([0; 144])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn name(mut self, offset: usize, name: &str) -> Self {
        let len = name.len().min(15);
        self.0[offset..offset + len].copy_from_slice(&name.as_bytes()[..len]);
        self
    }
}

/// # Safety
/// All that the attributes point to must be valid for what the command does with it.
unsafe fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<libc::c_int> {
    let size = size_of::<Attributes>();
    // SAFETY: the attributes are valid and of that size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.0.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn owned(result: io::Result<libc::c_int>) -> io::Result<OwnedFd> {
    // SAFETY: a descriptor just made by the kernel, owned by nobody else.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map. Its key and value sizes are those of `K` and `V`, plain bytes.
#[derive(Debug)]
pub(super) struct Map<const K: usize, const V: usize> {
    fd: OwnedFd,
}

impl<const K: usize, const V: usize> Map<K, V> {
    pub(super) fn new(kind: MapType, entries: u32, name: &str) -> io::Result<Self> {
        let mut attributes = Attributes::new()
            .u32(0, kind as u32)
            .u32(4, K as u32)
            .u32(8, V as u32)
            .u32(12, entries)
            .name(28, name);
        // SAFETY: nothing is pointed to.
        Ok(Map { fd: owned(unsafe { bpf(BPF_MAP_CREATE, &mut attributes) })? })
    }

    pub(super) fn set(&self, key: [u8; K], value: [u8; V]) -> io::Result<()> {
        let mut attributes = Attributes::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .u64(8, key.as_ptr() as u64)
            .u64(16, value.as_ptr() as u64);
        // SAFETY: key and value are valid for reading and of the map's sizes.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }

    pub(super) fn remove(&self, key: [u8; K]) -> io::Result<()> {
        let mut attributes = Attributes::new().u32(0, self.fd.as_raw_fd() as u32).u64(8, key.as_ptr() as u64);
        // SAFETY: the key is valid for reading and of the map's size.
        unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attributes) }.map(drop)
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// A loaded XDP program.
#[derive(Debug)]
pub(super) struct Program {
    fd: OwnedFd,
}

impl Program {
    /// Loads it. If the kernel's verifier refuses it, the error's text is the verifier's last words.
    pub(super) fn load(code: &[Instruction], name: &str) -> io::Result<Program> {
        Self::load_as(BPF_PROG_TYPE_XDP, code, name)
    }

    pub(super) fn load_as(kind: u32, code: &[Instruction], name: &str) -> io::Result<Program> {
        let license = c"Dual MIT/GPL";
        let mut log = vec![0_u8; 64 << 10];
        let attributes = |log: &mut [u8]| {
            Attributes::new()
                .u32(0, kind)
                .u32(4, code.len() as u32)
                .u64(8, code.as_ptr() as u64)
                .u64(16, license.as_ptr() as u64)
                .u32(24, u32::from(!log.is_empty()))
                .u32(28, log.len() as u32)
                .u64(32, if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 })
                .name(48, name)
        };
        // SAFETY: code and license are valid for reading, and no log is asked for.
        let first = unsafe { bpf(BPF_PROG_LOAD, &mut attributes(&mut [])) };
        let result = match first {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                // SAFETY: as before, and the log is valid for writing with its length given.
                unsafe { bpf(BPF_PROG_LOAD, &mut attributes(&mut log)) }.map_err(|error| {
                    let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
                    let last = text.lines().rfind(|line| !line.starts_with("processed"));
                    match last {
                        Some(words) if !words.is_empty() => {
                            io::Error::new(error.kind(), format!("{error}: {words}"))
                        }
                        _ => error,
                    }
                })
            }
            other => other,
        };
        Ok(Program { fd: owned(result)? })
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// A program's attachment to an interface: ends with its last descriptor, so at the latest with the process.
#[derive(Debug)]
pub(super) struct Link {
    _fd: OwnedFd,
}

impl Link {
    /// Attaches the program; `flags` are XDP_FLAGS_* (uapi/linux/if_link.h).
    pub(super) fn attach(program: &Program, interface: u32, flags: u32) -> io::Result<Link> {
        Self::attach_as(BPF_XDP, program, interface, flags)
    }

    pub(super) fn attach_as(kind: u32, program: &Program, interface: u32, flags: u32) -> io::Result<Link> {
        let mut attributes = Attributes::new()
            .u32(0, program.fd.as_raw_fd() as u32)
            .u32(4, interface)
            .u32(8, kind)
            .u32(12, flags);
        // SAFETY: nothing is pointed to.
        Ok(Link { _fd: owned(unsafe { bpf(BPF_LINK_CREATE, &mut attributes) })? })
    }
}

/// Runs a program over a frame without a network: its answer (an XDP_* action).
#[cfg(test)]
pub(super) fn test_run(program: &Program, frame: &[u8]) -> io::Result<u32> {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    let mut out = vec![0_u8; frame.len() + 512];
    let mut attributes = Attributes::new()
        .u32(0, program.descriptor() as u32)
        .u32(8, frame.len() as u32)
        .u32(12, out.len() as u32)
        .u64(16, frame.as_ptr() as u64)
        .u64(24, out.as_mut_ptr() as u64)
        .u32(32, 1);
    // SAFETY: the frame is valid for reading and the output for writing, with their lengths given.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }?;
    Ok(u32::from_ne_bytes(attributes.0[4..8].try_into().expect("four bytes")))
}
