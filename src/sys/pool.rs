//! A shard's own buffers: who holds which, by plain counts. One implementation for every backend.
//!
//! A buffer is in one of three places: *free* (here), *lent* (with the kernel, to receive into) or *held*
//! (counted references). The free list is last-in-first-out, so that the warm buffers are used again first.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::arena::{Arenas, BUFFER_BYTES};
use crate::handle::{BufferId, Buffers, Extent, ShardId};
use crate::limits::BUFFERS_RESERVED;

/// What `references` says of a buffer that is with the kernel.
const LENT: u32 = u32::MAX;
/// What a freed buffer is overwritten with where [`Pool::overwrite_freed`] was asked for.
const FREED: u8 = 0xdb;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// 0: free. [`LENT`]: with the kernel. Else held that many times.
    references: u32,
    /// Bytes from the buffer's start that are written and stay as they are while it is held.
    used: u32,
}

/// The owner of one shard's arena.
#[derive(Debug)]
pub struct Pool {
    arenas: Arc<Arenas>,
    shard: ShardId,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    lent: usize,
    overwrite_freed: bool,
}

impl Pool {
    /// Takes possession of `shard`'s arena; all buffers are free.
    ///
    /// # Panics
    /// If that arena has an owner already.
    pub fn new(arenas: Arc<Arenas>, shard: ShardId) -> Pool {
        arenas.claim(shard);
        let count = arenas.buffers_per_shard();
        let numbers = 0..u32::try_from(count).expect("Arenas::new checked that buffers can be numbered");
        Pool {
            shard,
            slots: vec![Slot::default(); count].into(),
            free: numbers.rev().collect(),
            lent: 0,
            overwrite_freed: false,
            arenas,
        }
    }

    /// From now on freed buffers are overwritten, so that a use after release shows. For the simulator.
    pub fn overwrite_freed(&mut self) {
        self.overwrite_freed = true;
    }

    /// All shards' arenas.
    pub fn arenas(&self) -> &Arc<Arenas> {
        &self.arenas
    }

    /// Buffers somebody holds a reference to.
    pub fn held(&self) -> usize {
        self.slots.len() - self.free.len() - self.lent
    }

    /// A fresh, empty buffer with one reference, to be filled by [`fill`](Self::fill). `None`: all are in use.
    pub fn alloc(&mut self) -> Option<BufferId> {
        let index = self.free.pop()?;
        self.slots[index as usize] = Slot { references: 1, used: 0 };
        Some(BufferId { arena: self.shard, index })
    }

    /// Writes behind what the held buffer has; where the bytes lie now. `None`: there is not enough room.
    pub fn fill(&mut self, buffer: BufferId, bytes: &[u8]) -> Option<Extent> {
        let start = self.held_slot(buffer).used;
        let len = u32::try_from(bytes.len()).ok()?;
        if start as usize + bytes.len() > BUFFER_BYTES {
            return None;
        }
        // SAFETY: source is valid; the destination is beyond `used`, so that no extent covers it, and within
        // the buffer, which this pool owns and, being held, has not lent to the kernel.
        unsafe {
            let to = self.arenas.buffer(buffer).add(start as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.slots[buffer.index as usize].used = start + len;
        Some(Extent { buffer, start, len })
    }

    /// Lends a free buffer to the kernel: its number and address. It is neither free nor held until
    /// [`arrived`](Self::arrived) or [`returned`](Self::returned).
    pub(crate) fn lend(&mut self) -> Option<(u32, *mut u8)> {
        let index = self.free.pop()?;
        self.slots[index as usize] = Slot { references: LENT, used: 0 };
        self.lent += 1;
        Some((index, self.arenas.buffer(BufferId { arena: self.shard, index })))
    }

    /// The kernel put `len` bytes into a lent buffer and let go of it: now held, with one reference.
    pub(crate) fn arrived(&mut self, index: u32, len: u32) -> Extent {
        assert!(len as usize <= BUFFER_BYTES);
        self.take_back(index, Slot { references: 1, used: len });
        Extent { buffer: BufferId { arena: self.shard, index }, start: 0, len }
    }

    /// The kernel let go of a lent buffer without using it.
    pub(crate) fn returned(&mut self, index: u32) {
        self.take_back(index, Slot::default());
        self.free.push(index);
    }

    fn take_back(&mut self, index: u32, slot: Slot) {
        assert_eq!(self.slots[index as usize].references, LENT, "buffer {index} was not with the kernel");
        self.lent -= 1;
        self.slots[index as usize] = slot;
    }

    fn held_slot(&self, buffer: BufferId) -> Slot {
        assert_eq!(buffer.arena, self.shard, "a buffer of another shard");
        let slot = self.slots[buffer.index as usize];
        assert!(slot.references != 0 && slot.references != LENT, "nobody holds buffer {}", buffer.index);
        slot
    }
}

impl Buffers for Pool {
    fn bytes(&self, extent: Extent) -> &[u8] {
        if extent.buffer.arena != self.shard {
            // SAFETY: another shard handed it to us, and by the seam's rule holds the buffer, whose received part
            // nothing writes, until we are done with it. `pointer` checks that it lies within the arenas.
            return unsafe { std::slice::from_raw_parts(self.arenas.pointer(extent), extent.len as usize) };
        }
        let used = self.held_slot(extent.buffer).used;
        assert!(extent.start <= used && extent.len <= used - extent.start, "beyond what was received");
        // SAFETY: within the part of a held buffer that is written, which nothing writes again while it is
        // held: `fill` writes behind it, the kernel only into lent buffers. Freeing takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.arenas.pointer(extent), extent.len as usize) }
    }

    fn retain(&mut self, buffer: BufferId) {
        self.held_slot(buffer);
        self.slots[buffer.index as usize].references += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        self.held_slot(buffer);
        let slot = &mut self.slots[buffer.index as usize];
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        if self.overwrite_freed {
            let used = slot.used as usize;
            // SAFETY: nobody holds the buffer any more and the kernel does not have it.
            unsafe { self.arenas.buffer(buffer).write_bytes(FREED, used) };
        }
        self.free.push(buffer.index);
    }

    fn append(&mut self, tail: Extent, piece: Extent) -> Option<Extent> {
        let used = self.held_slot(tail.buffer).used;
        let piece_used = self.held_slot(piece.buffer).used;
        assert!(piece.start + piece.len <= piece_used, "beyond what was received");
        if tail.start + tail.len != used || used as usize + piece.len as usize > BUFFER_BYTES {
            return None;
        }
        // SAFETY: the source is in the written part of a held buffer, the destination behind the written part
        // of a held buffer (so they cannot overlap even in the same one) and within it.
        unsafe {
            let to = self.arenas.buffer(tail.buffer).add(used as usize);
            std::ptr::copy_nonoverlapping(self.arenas.pointer(piece), to, piece.len as usize);
        }
        self.slots[tail.buffer.index as usize].used = used + piece.len;
        Some(Extent { len: tail.len + piece.len, ..tail })
    }

    fn free(&self) -> usize {
        self.free.len()
    }

    fn take(&mut self) -> Option<Extent> {
        if self.free.len() <= (self.slots.len() / 8).max(BUFFERS_RESERVED) {
            return None;
        }
        let buffer = self.alloc()?;
        // All of it counts as written, and is: an arena is mapped zeroed.
        self.slots[buffer.index as usize].used = BUFFER_BYTES as u32;
        Some(Extent { buffer, start: 0, len: BUFFER_BYTES as u32 })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.arenas.disclaim(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(buffers: usize) -> Pool {
        Pool::new(Arenas::new(2, buffers).expect("a small mapping"), ShardId(1))
    }

    #[test]
    fn a_buffer_is_free_again_when_its_last_reference_goes() {
        let mut pool = pool(2);
        let buffer = pool.alloc().expect("free");
        let extent = pool.fill(buffer, b"hello").expect("room");
        pool.retain(buffer);
        pool.release(buffer);
        assert_eq!((pool.bytes(extent), pool.free(), pool.held()), (&b"hello"[..], 1, 1));
        pool.release(buffer);
        assert_eq!((pool.free(), pool.held()), (2, 0));
        assert_eq!(pool.alloc(), Some(buffer), "the warm one comes back first");
    }

    #[test]
    fn append_grows_only_the_last_extent_of_a_buffer_with_room() {
        let mut pool = pool(3);
        let (a, b) = (pool.alloc().expect("free"), pool.alloc().expect("free"));
        let first = pool.fill(a, b"one ").expect("room");
        let second = pool.fill(a, b"two ").expect("room");
        let piece = pool.fill(b, b"three").expect("room");
        assert_eq!(pool.append(first, piece), None, "something lies behind it");
        let grown = pool.append(second, piece.slice(0..3)).expect("the last");
        assert_eq!(pool.bytes(grown), b"two thr");
        let all = pool.append(grown, grown).expect("of itself");
        assert_eq!(pool.bytes(all), b"two thrtwo thr");
        let big = pool.alloc().expect("free");
        let full = pool.fill(big, &[7; BUFFER_BYTES - 4]).expect("room");
        assert_eq!(pool.append(full, piece), None, "five bytes into four");
        let brimful = pool.append(full, piece.slice(0..4)).expect("just fits");
        assert_eq!(brimful.len as usize, BUFFER_BYTES);
    }

    #[test]
    fn lent_buffers_are_neither_free_nor_held() {
        let mut pool = pool(2);
        let (index, _) = pool.lend().expect("free");
        assert_eq!((pool.free(), pool.held()), (1, 0));
        let extent = pool.arrived(index, 10);
        assert_eq!((pool.free(), pool.held()), (1, 1));
        pool.release(extent.buffer);
        let (index, _) = pool.lend().expect("free");
        pool.returned(index);
        assert_eq!((pool.free(), pool.held()), (2, 0));
    }

    #[test]
    fn a_buffer_is_taken_whole_and_the_last_ones_are_not() {
        let mut pool = pool(BUFFERS_RESERVED + 2);
        let taken: Vec<Extent> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((taken.len(), pool.free()), (2, BUFFERS_RESERVED));
        assert_eq!(pool.bytes(taken[0]).len(), BUFFER_BYTES);
        pool.release(taken[0].buffer);
        assert!(pool.take().is_some());
    }

    #[test]
    #[should_panic(expected = "nobody holds")]
    fn using_a_released_buffer_is_caught() {
        let mut pool = pool(1);
        let buffer = pool.alloc().expect("free");
        let extent = pool.fill(buffer, b"x").expect("room");
        pool.release(buffer);
        pool.bytes(extent);
    }

    #[test]
    #[should_panic(expected = "owner already")]
    fn an_arena_has_one_owner() {
        let arenas = Arenas::new(1, 1).expect("a small mapping");
        let _first = Pool::new(arenas.clone(), ShardId(0));
        let _second = Pool::new(arenas, ShardId(0));
    }

    #[test]
    fn arenas_do_not_overlap() {
        let arenas = Arenas::new(3, 5).expect("a small mapping");
        let mut pools: Vec<Pool> = (0..3).map(|n| Pool::new(arenas.clone(), ShardId(n))).collect();
        let mut extents = Vec::new();
        for (n, pool) in pools.iter_mut().enumerate() {
            for b in 0..5 {
                let buffer = pool.alloc().expect("free");
                extents
                    .push((pool.fill(buffer, &[(n * 5 + b) as u8; BUFFER_BYTES]).expect("room"), n * 5 + b));
            }
        }
        for (extent, expected) in extents {
            let mut copy = Vec::new();
            arenas.copy_out(extent, &mut copy);
            assert!(copy.len() == BUFFER_BYTES && copy.iter().all(|&b| usize::from(b) == expected));
        }
    }
}
