//! The memory bytes are received into: one arena per shard, all mapped before the shards start.
//!
//! Every shard may read what it was handed of any arena; only the owner's [`Pool`](super::pool::Pool) writes.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::numa;
use crate::handle::{BufferId, Extent, ShardId};

/// Bytes in one buffer: what one receive can fill. A larger one makes bodies cheaper only beyond L2.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Transparent huge pages come in this size on x86-64 and (with 4 KiB pages) on aarch64.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// All shards' arenas. Pages are touched only when first used, so an arena costs address space until then.
#[derive(Debug)]
pub struct Arenas {
    base: NonNull<u8>,
    bytes_mapped: usize,
    arena_bytes: usize,
    buffers_per_shard: usize,
    claimed: Box<[AtomicBool]>,
}

// SAFETY: the mapping lives as long as `Arenas`, is not moved, and is only reached through raw pointers whose
// users follow the rule of the seam: a byte is written by its owner before it is handed on, and not again while
// anybody holds a reference to its buffer.
unsafe impl Send for Arenas {}
// SAFETY: as above; the struct's own fields are never written after `new`, but for the atomic claims.
unsafe impl Sync for Arenas {}

impl Arenas {
    /// Maps `shards` arenas of `buffers_per_shard` buffers of [`BUFFER_BYTES`] each.
    ///
    /// # Errors
    /// What mmap(2) says: `ENOMEM` if the address space or the overcommit limit does not allow it; `EINVAL` if
    /// there would be nothing to map or more than can be numbered.
    pub fn new(shards: usize, buffers_per_shard: usize) -> io::Result<Arc<Arenas>> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        if shards == 0 || shards > usize::from(u16::MAX) || buffers_per_shard == 0 {
            return Err(invalid());
        }
        u32::try_from(buffers_per_shard).map_err(|_| invalid())?;
        // Each arena starts on a huge page of its own, so that no two shards share one.
        let arena_bytes = buffers_per_shard
            .checked_mul(BUFFER_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE_BYTES))
            .ok_or_else(invalid)?;
        let bytes_mapped = arena_bytes
            .checked_mul(shards)
            .and_then(|bytes| bytes.checked_add(HUGE_PAGE_BYTES))
            .ok_or_else(invalid)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; no other memory is affected.
        let mapped = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes_mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Only a wish: without huge pages everything works, a little slower.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(mapped, bytes_mapped, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(mapped.cast()).ok_or_else(invalid)?;
        let claimed = (0..shards).map(|_| AtomicBool::new(false)).collect();
        Ok(Arc::new(Arenas { base, bytes_mapped, arena_bytes, buffers_per_shard, claimed }))
    }

    /// How many shards have an arena here.
    pub fn shards(&self) -> usize {
        self.claimed.len()
    }

    /// How many buffers each shard has.
    pub fn buffers_per_shard(&self) -> usize {
        self.buffers_per_shard
    }

    /// Has that shard's arena lie on the NUMA node of the CPU that the caller runs on, as far as it is not in use yet.
    ///
    /// # Errors
    /// What getcpu(2) and mbind(2) say: `ENOSYS` or `EPERM` where that is not to be had.
    pub fn settle(&self, shard: ShardId) -> io::Result<()> {
        let first = self.buffer(BufferId { arena: shard, index: 0 });
        // Each begins and ends with a huge page.
        numa::prefer(first, self.arena_bytes, numa::here()?)
    }

    /// Makes the caller the one owner of that shard's arena.
    ///
    /// # Panics
    /// If it has an owner already: two would hand out the same buffers.
    pub(super) fn claim(&self, shard: ShardId) {
        let before = self.claimed[shard.index()].swap(true, Ordering::AcqRel);
        assert!(!before, "arena {} has an owner already", shard.0);
    }

    /// Gives the arena up, for another owner to claim.
    pub(super) fn disclaim(&self, shard: ShardId) {
        self.claimed[shard.index()].store(false, Ordering::Release);
    }

    /// Where a buffer starts.
    pub(super) fn buffer(&self, buffer: BufferId) -> *mut u8 {
        let (arena, index) = (buffer.arena.index(), buffer.index as usize);
        assert!(arena < self.claimed.len() && index < self.buffers_per_shard, "no such buffer: {buffer:?}");
        let aligned = self.base.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `new` mapped a huge page more than the arenas need, so that aligning up, and then any
        // buffer's offset (checked above), stays within the mapping.
        unsafe { self.base.as_ptr().add(aligned + arena * self.arena_bytes + index * BUFFER_BYTES) }
    }

    /// Where an extent's first byte is, of any shard's arena: for the kernel to send from.
    pub(crate) fn pointer(&self, extent: Extent) -> *const u8 {
        let end = extent.start as usize + extent.len as usize;
        assert!(end <= BUFFER_BYTES, "extent beyond its buffer: {extent:?}");
        // SAFETY: within the buffer, as just checked.
        unsafe { self.buffer(extent.buffer).add(extent.start as usize) }
    }

    /// Copies an extent of any shard's arena out. The caller must have been handed the extent, and its holder
    /// must still keep it: that is what keeps its owner from writing meanwhile.
    pub(crate) fn copy_out(&self, extent: Extent, into: &mut Vec<u8>) {
        let from = self.pointer(extent);
        // SAFETY: `pointer` checked the bounds; by the rule above nobody writes these bytes now.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(from, extent.len as usize) });
    }

    /// Copies bytes into an extent, of the same length, that the caller owns and nobody looks at meanwhile: what a
    /// read from a disk does.
    pub(crate) fn copy_in(&self, extent: Extent, bytes: &[u8]) {
        assert_eq!(extent.len as usize, bytes.len(), "a read fills what it was given");
        let to = self.pointer(extent).cast_mut();
        // SAFETY: `pointer` checked the bounds; by the rule above nobody reads or writes these bytes now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

impl Drop for Arenas {
    fn drop(&mut self) {
        // SAFETY: the mapping `new` made, and nothing borrows from it without holding the `Arc`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes_mapped) };
    }
}
