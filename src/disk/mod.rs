//! Files by completion: the seam between the spool and a disk. Rank 5, beside `net`, whose backends host it.
//!
//! Calls never block and never fail in place: what came of one is its completion, which comes out of the same
//! `turn` as the network's events. Requests may be carried out in any order, but for one thing the caller sees to:
//! it asks for nothing of a file that a request under way makes or removes.

pub mod sim;
mod staging;
pub mod store;
pub(crate) mod uring;

use crate::handle::{Extent, FileId, Part, Ticket};

/// A shard's hands towards its disk.
pub trait Disk {
    /// Writes the parts, one after the other, from octet `at` on. Completes when all of it is durable, with the
    /// octets written. Bytes are copied; extents must stay until then.
    fn write_file<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
    );
    /// Fills the extents, one after the other, from octet `at` on; completes with the octets read. Nobody may look
    /// at them until then.
    fn read_file(&mut self, ticket: Ticket, file: FileId, at: u64, extents: &[Extent]);
    /// Makes a file of so many zeroes, or makes it that if it is there; completes when that, and the name, is durable.
    /// Where it fails nothing of the file stays.
    fn create_file(&mut self, ticket: Ticket, file: FileId, bytes: u64);
    /// Removes a file; completes when that is durable. `ENOENT` if it is not there.
    fn remove_file(&mut self, ticket: Ticket, file: FileId);
}
