//! The ring of buffers the kernel receives into (`IORING_REGISTER_PBUF_RING`, io_uring_register(2)).
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::arena::BUFFER_BYTES;
use super::pool::Pool;
use crate::handle::Extent;

/// The kernel's name of our one group of buffers.
pub(crate) const GROUP: u16 = 0;

/// Buffers lent to the kernel. It takes them first-in-first-out, so that all of them are the working set: they
/// should together be about as large as the L2 cache.
pub(crate) struct BufferRing {
    base: NonNull<BufRingEntry>,
    entries: u16,
    tail: u16,
    /// The pool's buffer under each of the ring's own numbers.
    buffers: Box<[u32]>,
    /// Numbers that are not in use.
    numbers: Vec<u16>,
}

impl BufferRing {
    /// Registers an empty ring of `entries` (a power of two).
    pub(super) fn register(ring: &IoUring, entries: u16) -> io::Result<BufferRing> {
        assert!(entries.is_power_of_two());
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        // SAFETY: a fresh anonymous mapping, page-aligned as the kernel wants it.
        let mapped = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let this = BufferRing {
            base,
            entries,
            tail: 0,
            buffers: vec![0; entries.into()].into(),
            numbers: (0..entries).rev().collect(),
        };
        // SAFETY: the mapping holds `entries` entries, and outlives the kernel's use of it: `Uring` drops its
        // ring, once nothing is under way any more, before this.
        unsafe { ring.submitter().register_buf_ring_with_flags(base.as_ptr() as u64, entries, GROUP, 0)? };
        Ok(this)
    }

    /// Buffers the kernel has.
    pub(crate) fn lent(&self) -> usize {
        usize::from(self.entries) - self.numbers.len()
    }

    /// Lends the kernel what the pool has, until it has `most` or the ring is full.
    pub(crate) fn refill(&mut self, pool: &mut Pool, most: usize) {
        let before = self.tail;
        while self.lent() < most
            && let Some(&number) = self.numbers.last()
        {
            let Some((index, address)) = pool.lend() else {
                break;
            };
            self.numbers.pop();
            self.buffers[usize::from(number)] = index;
            // SAFETY: within the mapping; the kernel does not read an entry before the tail has passed it.
            let entry = unsafe { &mut *self.base.as_ptr().add(usize::from(self.tail % self.entries)) };
            entry.set_addr(address as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(number);
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            // SAFETY: the tail's place is in the first entry (uapi/linux/io_uring.h, io_uring_buf_ring), aligned,
            // and from now on only accessed atomically, by the kernel too.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.base.as_ptr()).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// The kernel has received `len` bytes into the buffer it knows by that number.
    pub(crate) fn received(&mut self, number: u16, len: u32, pool: &mut Pool) -> Extent {
        self.numbers.push(number);
        pool.arrived(self.buffers[usize::from(number)], len)
    }

    /// The kernel has given back that buffer with nothing in it.
    pub(crate) fn given_back(&mut self, number: u16, pool: &mut Pool) {
        self.numbers.push(number);
        pool.returned(self.buffers[usize::from(number)]);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let bytes = usize::from(self.entries) * size_of::<BufRingEntry>();
        // SAFETY: the mapping `register` made.
        unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
    }
}
