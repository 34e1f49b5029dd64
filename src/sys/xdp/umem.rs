//! The memory that frames lie in, shared with the kernel: equal frames, numbered.
//!
//! A frame is either ours (free or being written), or the kernel's (in the fill ring to receive into, or in the
//! transmit ring to be sent). [`socket`](super::socket) keeps them apart; only it touches a frame's bytes.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

use crate::sys::numa;

/// Huge pages of the ordinary size, on x86-64 and (with 4 KiB pages) aarch64.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping cut into frames.
#[derive(Debug)]
pub(super) struct Umem {
    base: NonNull<u8>,
    bytes: usize,
    frame_bytes: u32,
    /// Whether it lies on huge pages that were reserved for such use.
    pub(super) is_huge: bool,
    /// The NUMA node that it lies on, if the kernel says.
    pub(super) node: Option<u32>,
}

// SAFETY: the mapping is owned, and reached only through `&self` and `&mut self`.
unsafe impl Send for Umem {}

impl Umem {
    /// Maps memory for that many frames: on huge pages when the machine has reserved some, else on ordinary ones; of the
    /// node that the caller's new pages come from.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub(super) fn new(frames: u32, frame_bytes: u32) -> io::Result<Umem> {
        let bytes = (frames as usize * frame_bytes as usize).next_multiple_of(HUGE_PAGE_BYTES);
        let map = |flags: libc::c_int| {
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; no other memory is affected.
            unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | flags,
                    -1,
                    0,
                )
            }
        };
        let mut mapped = map(libc::MAP_HUGETLB);
        let is_huge = mapped != libc::MAP_FAILED;
        if !is_huge {
            mapped = map(0);
        }
        let base = NonNull::new(mapped.cast()).filter(|_| mapped != libc::MAP_FAILED);
        let base = base.ok_or_else(io::Error::last_os_error)?;
        // All of it is there by now, and so came from one place.
        Ok(Umem { base, bytes, frame_bytes, is_huge, node: numa::node_of_page(base.as_ptr()) })
    }

    /// Where the kernel is told that it is.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.base.as_ptr() as u64,
            len: self.bytes as u64,
            chunk_size: self.frame_bytes,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// The frame that an address within the mapping lies in, by its first byte.
    pub(super) fn frame_of(&self, address: u64) -> u64 {
        address - address % u64::from(self.frame_bytes)
    }

    /// `len` bytes at an address the kernel gave us. The caller must own the frame.
    pub(super) fn bytes(&self, address: u64, len: u32) -> &[u8] {
        self.check(address, len as usize);
        // SAFETY: within the mapping, as checked; the frame is ours, so the kernel does not write to it, and we do
        // so only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(address as usize), len as usize) }
    }

    /// All of a frame, to be written. The caller must own it.
    pub(super) fn frame(&mut self, frame: u64) -> &mut [u8] {
        self.check(frame, self.frame_bytes as usize);
        // SAFETY: within the mapping, as checked; the frame is ours and `&mut self` makes this the only reference.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr().add(frame as usize), self.frame_bytes as usize)
        }
    }

    fn check(&self, address: u64, len: usize) {
        let end = usize::try_from(address).ok().and_then(|start| start.checked_add(len));
        assert!(end.is_some_and(|end| end <= self.bytes), "beyond the mapping: {address} + {len}");
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: the mapping `new` made. The socket that had it registered is closed before (`Xsk`'s field order);
        // the kernel has its own reference to the pages until it is done with them.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's list of counts says of that, in pages.
    fn huge_pages(what: &str) -> u64 {
        let all = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = all.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        line.and_then(|pages| pages.trim().parse().ok()).unwrap_or(0)
    }

    #[test]
    fn frames_lie_on_the_node_that_is_asked_for_and_on_huge_pages_where_there_are() {
        let online = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
        let last = online.trim().rsplit(['-', ',']).next().and_then(|node| node.parse().ok());
        let Some(last) = last else {
            return eprintln!("skipped: this machine does not say what nodes it has");
        };
        for node in 0..=last {
            let umem = numa::on_node(Some(node), || Umem::new(8, 2_048)).expect("a small mapping");
            let Some(lies_on) = umem.node else {
                return eprintln!("skipped: this kernel does not say where a page lies (get_mempolicy)");
            };
            assert_eq!(lies_on, node, "of {online}");
            if huge_pages("HugePages_Free") == 0 && !umem.is_huge {
                eprintln!("skipped: this machine has set no huge pages aside");
                continue;
            }
            assert!(umem.is_huge);
        }
    }

    #[test]
    fn frames_do_not_overlap() {
        let mut umem = Umem::new(8, 2_048).expect("a small mapping");
        for frame in 0..8 {
            umem.frame(frame * 2_048).fill(frame as u8 + 1);
        }
        for frame in 0..8 {
            assert!(umem.bytes(frame * 2_048, 2_048).iter().all(|&byte| byte == frame as u8 + 1));
        }
        assert_eq!(umem.frame_of(3 * 2_048 + 256), 3 * 2_048);
    }
}
