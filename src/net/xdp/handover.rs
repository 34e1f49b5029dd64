//! Frames that arrived at a shard they are not for, on their way to the one they are for.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::handle::ShardId;

/// Frames that may be on their way from one shard to another; more are dropped, and will come again.
const FRAMES_MAX: usize = 1_024;

/// A frame, and how many shards have looked for whose it is.
type Passed = (Box<[u8]>, u16);

/// One shard's ends.
#[derive(Debug)]
pub struct Handover {
    to: Vec<Producer<Passed>>,
    from: Vec<Consumer<Passed>>,
}

/// The ends of `shards` shards, in their order.
pub fn handovers(shards: usize) -> Vec<Handover> {
    let mut all: Vec<Handover> = (0..shards).map(|_| Handover { to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..shards {
        for to in 0..shards {
            let (producer, consumer) = RingBuffer::new(if from == to { 1 } else { FRAMES_MAX });
            all[from].to.push(producer);
            all[to].from.push(consumer);
        }
    }
    all
}

impl Handover {
    /// How many there are.
    pub(super) fn shards(&self) -> u16 {
        self.to.len() as u16
    }

    /// Hands a frame to another shard, which is to be woken. False: it was dropped.
    pub(super) fn give(&mut self, shard: ShardId, frame: &[u8], tried: u16) -> bool {
        self.to.get_mut(shard.index()).is_some_and(|ring| ring.push((frame.into(), tried)).is_ok())
    }

    /// The next frame from another shard.
    pub(super) fn take(&mut self) -> Option<Passed> {
        self.from.iter_mut().find_map(|ring| ring.pop().ok())
    }
}
