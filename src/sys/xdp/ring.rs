//! A ring shared with the kernel: one side adds entries, the other takes them (linux/if_xdp.h; documented in
//! Documentation/networking/af_xdp.rst). Each index is written by one side only and runs on without wrapping back.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the parts of a ring lie, and its entries.
#[derive(Debug)]
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Entries, less one: there is a power of two of them.
    mask: u32,
    /// What is to be unmapped in the end.
    mapping: Option<(NonNull<u8>, usize)>,
}

// SAFETY: the parts live as long as the mapping, which is owned; the indexes are atomic, and entries are touched by one
// side at a time, as the indexes say.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    /// Maps the ring of `socket` that lies at `offset`.
    fn map(socket: &OwnedFd, offset: u64, parts: &libc::xdp_ring_offset, count: u32) -> io::Result<Self> {
        let bytes = parts.desc as usize + count as usize * size_of::<T>();
        // SAFETY: a fresh shared mapping of the socket's ring, at an address of the kernel's choice.
        let mapped = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        let base = NonNull::new(mapped.cast::<u8>()).filter(|_| mapped != libc::MAP_FAILED);
        let base = base.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel's own offsets into the mapping, each aligned for its type.
        let at = |offset: u64| unsafe { base.add(offset as usize) };
        Ok(Shared {
            producer: at(parts.producer).cast(),
            consumer: at(parts.consumer).cast(),
            flags: at(parts.flags).cast(),
            entries: at(parts.desc).cast(),
            mask: count - 1,
            mapping: Some((base, bytes)),
        })
    }

    fn atomic(&self, which: NonNull<AtomicU32>) -> &AtomicU32 {
        // SAFETY: one of the parts, which live as long as `self`.
        unsafe { which.as_ref() }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked, so within the ring.
        unsafe { self.entries.add((index & self.mask) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        self.atomic(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if let Some((base, bytes)) = self.mapping {
            // SAFETY: the mapping that `map` made.
            unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
        }
    }
}

/// Our end of a ring that we add to.
#[derive(Debug)]
pub(super) struct Producer<T> {
    shared: Shared<T>,
    /// Entries written, of which `published` have been shown.
    written: u32,
    published: u32,
    /// The consumer's index when we last looked.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn map(
        socket: &OwnedFd,
        offset: u64,
        parts: &libc::xdp_ring_offset,
        count: u32,
    ) -> io::Result<Self> {
        Ok(Producer { shared: Shared::map(socket, offset, parts, count)?, written: 0, published: 0, seen: 0 })
    }

    /// Room for more.
    pub(super) fn free(&mut self) -> u32 {
        let capacity = self.shared.mask + 1;
        if self.written.wrapping_sub(self.seen) == capacity {
            self.seen = self.shared.atomic(self.shared.consumer).load(Ordering::Acquire);
        }
        capacity - self.written.wrapping_sub(self.seen)
    }

    /// Writes an entry, not shown until `publish`. False: there is no room.
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.free() == 0 {
            return false;
        }
        // SAFETY: the entry is free, so the consumer does not read it until the index has passed it.
        unsafe { self.shared.entry(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the other side what was written; false: nothing new was.
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.written {
            return false;
        }
        self.published = self.written;
        self.shared.atomic(self.shared.producer).store(self.written, Ordering::Release);
        true
    }

    /// Entries that the other side has not taken yet.
    pub(super) fn pending(&mut self) -> u32 {
        self.seen = self.shared.atomic(self.shared.consumer).load(Ordering::Acquire);
        self.written.wrapping_sub(self.seen)
    }

    /// The kernel sleeps on this ring, and wants to be told.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }
}

/// Our end of a ring that we take from.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    /// Entries taken, of which the other side has been told of `released`.
    taken: u32,
    released: u32,
    /// The producer's index when we last looked.
    seen: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(
        socket: &OwnedFd,
        offset: u64,
        parts: &libc::xdp_ring_offset,
        count: u32,
    ) -> io::Result<Self> {
        Ok(Consumer { shared: Shared::map(socket, offset, parts, count)?, taken: 0, released: 0, seen: 0 })
    }

    /// The next entry. Its place is free for the other side after `release`.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.taken == self.seen {
            self.seen = self.shared.atomic(self.shared.producer).load(Ordering::Acquire);
            if self.taken == self.seen {
                return None;
            }
        }
        // SAFETY: the producer has shown this entry, and writes there again only after `release`.
        let entry = unsafe { self.shared.entry(self.taken).read() };
        self.taken = self.taken.wrapping_add(1);
        Some(entry)
    }

    /// Gives back the places of all that was taken.
    pub(super) fn release(&mut self) {
        if self.released != self.taken {
            self.released = self.taken;
            self.shared.atomic(self.shared.consumer).store(self.taken, Ordering::Release);
        }
    }

    /// Whether there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.seen
            && self.shared.atomic(self.shared.producer).load(Ordering::Acquire) == self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring in ordinary memory, to stand between a producer and a consumer of this process.
    struct Memory {
        indexes: Box<[AtomicU32; 3]>,
        entries: Box<[u64]>,
    }

    impl Memory {
        fn new(count: usize, start: u32) -> Memory {
            let indexes = Box::new([AtomicU32::new(start), AtomicU32::new(start), AtomicU32::new(0)]);
            Memory { indexes, entries: vec![0; count].into() }
        }

        fn shared(&mut self) -> Shared<u64> {
            let entries = NonNull::new(self.entries.as_mut_ptr()).expect("a place");
            let [producer, consumer, flags] = &*self.indexes;
            let mask = self.entries.len() as u32 - 1;
            Shared {
                producer: producer.into(),
                consumer: consumer.into(),
                flags: flags.into(),
                entries,
                mask,
                mapping: None,
            }
        }

        fn ends(&mut self, start: u32) -> (Producer<u64>, Consumer<u64>) {
            (
                Producer { shared: self.shared(), written: start, published: start, seen: start },
                Consumer { shared: self.shared(), taken: start, released: start, seen: start },
            )
        }
    }

    #[test]
    fn entries_come_in_order_across_the_wrap_of_the_indexes() {
        let start = u32::MAX - 5;
        let mut memory = Memory::new(8, start);
        let (mut producer, mut consumer) = memory.ends(start);
        let (mut next_in, mut next_out) = (0, 0);
        for round in 0..100 {
            while producer.push(next_in) {
                next_in += 1;
            }
            assert_eq!(producer.free(), 0);
            assert!(round > 0 || consumer.pop().is_none(), "nothing is seen before it is shown");
            producer.publish();
            assert_eq!(producer.pending(), 8);
            for _ in 0..1 + round % 8 {
                assert_eq!(consumer.pop(), Some(next_out));
                next_out += 1;
            }
            assert_eq!(producer.free(), 0, "a place is free only when given back");
            consumer.release();
            // What is left is taken, too.
            while let Some(entry) = consumer.pop() {
                assert_eq!(entry, next_out);
                next_out += 1;
            }
            assert!(consumer.is_empty());
            consumer.release();
        }
        assert!(!producer.publish(), "nothing new");
    }

    #[test]
    fn two_threads_pass_a_million_entries() {
        let mut memory = Memory::new(64, 0);
        let (mut producer, mut consumer) = memory.ends(0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut next = 0;
                while next < 1_000_000 {
                    while next < 1_000_000 && producer.push(next) {
                        next += 1;
                    }
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut next = 0;
            while next < 1_000_000 {
                while let Some(entry) = consumer.pop() {
                    assert_eq!(entry, next);
                    next += 1;
                }
                consumer.release();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn the_wish_to_be_woken_is_seen() {
        let mut memory = Memory::new(2, 0);
        let (producer, _) = memory.ends(0);
        assert!(!producer.needs_wakeup());
        memory.indexes[2].store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
    }
}
