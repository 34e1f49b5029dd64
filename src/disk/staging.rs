//! What one write carries, in one piece of memory that begins at a block: direct I/O wants that.

use crate::handle::Part;
use crate::sys::arena::Arenas;

/// What addresses and lengths of direct I/O are multiples of, wherever Linux runs.
const BLOCK: usize = 4096;
/// Memory that is kept for the next write.
const KEPT: usize = 8 << 20;

/// A write's octets. They stay where they are until `clear`.
#[derive(Debug, Default)]
pub(super) struct Staging {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Staging {
    /// Copies the parts, one behind the other.
    pub(super) fn fill<'a>(&mut self, parts: impl Iterator<Item = Part<'a>>, arenas: &Arenas) {
        self.memory.clear();
        self.make_room(1 << 20);
        for part in parts {
            match part {
                Part::Bytes(bytes) => {
                    self.make_room(bytes.len());
                    self.memory.extend_from_slice(bytes);
                }
                Part::Extent(extent) => {
                    self.make_room(extent.len as usize);
                    arenas.copy_out(extent, &mut self.memory);
                }
            }
        }
        self.len = self.memory.len() - self.start;
    }

    /// Room for so many octets more. Where they begin is at a block, also when all had to move.
    fn make_room(&mut self, more: usize) {
        if self.memory.capacity() - self.memory.len() >= more && !self.memory.is_empty() {
            return;
        }
        let filled = self.memory.len().saturating_sub(self.start);
        let enough = self.memory.capacity() >= BLOCK + filled + more;
        if self.memory.is_empty() && enough {
            self.start = self.memory.as_ptr().align_offset(BLOCK);
            return self.memory.resize(self.start, 0);
        }
        let mut larger: Vec<u8> = Vec::with_capacity((BLOCK + filled + more).next_power_of_two());
        let start = larger.as_ptr().align_offset(BLOCK);
        larger.resize(start, 0);
        larger.extend_from_slice(self.memory.get(self.start..).unwrap_or_default());
        (self.memory, self.start) = (larger, start);
    }

    /// The octets from `from` on.
    pub(super) fn rest(&self, from: usize) -> &[u8] {
        &self.memory[self.start + from..self.start + self.len]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Does it begin and end at a block?
    pub(super) fn is_whole(&self) -> bool {
        self.len.is_multiple_of(BLOCK)
    }

    /// Gives up memory that is more than the next write is likely to need.
    pub(super) fn shrink(&mut self) {
        if self.memory.capacity() > KEPT {
            *self = Staging::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_lie_in_order_and_begin_at_a_block() {
        let arenas = Arenas::new(1, 1).expect("a small mapping");
        let mut staging = Staging::default();
        for round in 0..4 {
            for total in [0, 10, 4096, 3 << 20, 12 << 20, 5_000] {
                let octets: Vec<u8> = (0..total).map(|n| (n * 7 + round) as u8).collect();
                staging.fill(octets.chunks(70_001).map(Part::Bytes), &arenas);
                assert!(staging.rest(0) == octets && staging.len() == total);
                assert_eq!(staging.rest(0).as_ptr().align_offset(BLOCK), 0);
                assert_eq!(staging.is_whole(), total % 4096 == 0);
            }
            staging.shrink();
        }
    }
}
