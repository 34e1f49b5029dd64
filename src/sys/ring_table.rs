//! Where the shards find each other's rings, to wake one another.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::handle::ShardId;

const ABSENT: RawFd = -1;

/// One ring descriptor per shard, there while the shard's ring lives.
#[derive(Debug)]
pub struct RingTable(Box<[AtomicI32]>);

impl RingTable {
    /// A table for that many shards, none of them there yet.
    pub fn new(shards: usize) -> Arc<RingTable> {
        Arc::new(RingTable((0..shards).map(|_| AtomicI32::new(ABSENT)).collect()))
    }

    /// How many shards it is for.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// Is that shard's ring there?
    pub fn is_there(&self, shard: ShardId) -> bool {
        self.get(shard).is_some()
    }

    pub(crate) fn publish(&self, shard: ShardId, ring: RawFd) {
        self.0[shard.index()].store(ring, Ordering::Release);
    }

    pub(crate) fn withdraw(&self, shard: ShardId) {
        self.0[shard.index()].store(ABSENT, Ordering::Release);
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<RawFd> {
        Some(self.0.get(shard.index())?.load(Ordering::Acquire)).filter(|&fd| fd != ABSENT)
    }
}
