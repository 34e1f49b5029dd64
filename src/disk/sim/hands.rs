//! A shard's disk and buffers without a network: for tests of the spool by itself.

use std::sync::Arc;

use super::drive::Drive;
use super::platter::Platter;
use crate::disk::Disk;
use crate::handle::{BufferId, Buffers, Extent, FileId, Part, ShardId, Ticket};
use crate::sys::arena::Arenas;
use crate::sys::pool::Pool;
use crate::time::Instant;

/// The hands.
#[derive(Debug)]
pub struct SimDisk {
    pool: Pool,
    drive: Drive,
    now: Instant,
}

impl SimDisk {
    /// With those buffers.
    pub fn new(platter: Platter, arenas: Arc<Arenas>, shard: ShardId) -> SimDisk {
        let mut pool = Pool::new(arenas, shard);
        pool.overwrite_freed();
        SimDisk { pool, drive: Drive::new(platter), now: Instant::default() }
    }

    /// From now on it is that late.
    pub fn advance_to(&mut self, now: Instant) {
        self.now = now;
    }

    /// The next request that has been completed by now.
    pub fn completed(&mut self) -> Option<(Ticket, Result<u32, i32>)> {
        self.drive.complete(self.now, self.pool.arenas())
    }

    /// The requests under way.
    pub fn drive(&self) -> &Drive {
        &self.drive
    }

    /// The buffers.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }
}

impl Drop for SimDisk {
    /// What a kernel does for a process that is gone.
    fn drop(&mut self) {
        self.drive.abandon(self.pool.arenas());
    }
}

impl Disk for SimDisk {
    fn write_file<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
    ) {
        self.drive.write(ticket, file, at, parts, self.now);
    }

    fn read_file(&mut self, ticket: Ticket, file: FileId, at: u64, extents: &[Extent]) {
        self.drive.read(ticket, file, at, extents, self.now);
    }

    fn create_file(&mut self, ticket: Ticket, file: FileId, bytes: u64) {
        self.drive.create(ticket, file, bytes, self.now);
    }

    fn remove_file(&mut self, ticket: Ticket, file: FileId) {
        self.drive.remove(ticket, file, self.now);
    }
}

impl Buffers for SimDisk {
    fn bytes(&self, extent: Extent) -> &[u8] {
        self.pool.bytes(extent)
    }

    fn retain(&mut self, buffer: BufferId) {
        self.pool.retain(buffer);
    }

    fn release(&mut self, buffer: BufferId) {
        self.pool.release(buffer);
    }

    fn append(&mut self, tail: Extent, piece: Extent) -> Option<Extent> {
        self.pool.append(tail, piece)
    }

    fn free(&self) -> usize {
        self.pool.free()
    }

    fn take(&mut self) -> Option<Extent> {
        self.pool.take()
    }
}
