//! What a completion is about: packed into the request's 64-bit tag.

/// Bits for a slot: 16 million streams per shard.
pub(super) const SLOT_BITS: u32 = 24;

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    /// `slot` is the listener's place.
    Accept = 1,
    /// `slot` is the listener's place, `generation` which of its requests.
    AcceptOne,
    PeerName,
    Connect,
    Receive,
    Send,
    Close,
    /// Another shard woke us.
    Woken,
    /// We could not wake the shard `slot`.
    Wake,
    /// A file that is watched has something to read; `slot` is its place among them.
    Watch,
    /// An AF_XDP socket could not send all.
    Kick,
    /// `slot` is the file operation's.
    Disk,
    Ignored,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) op: Op,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Tag {
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.slot < 1 << SLOT_BITS);
        (self.op as u64) << 56 | u64::from(self.generation) << SLOT_BITS | u64::from(self.slot)
    }

    pub(super) fn unpack(tag: u64) -> Tag {
        let op = match (tag >> 56) as u8 {
            1 => Op::Accept,
            2 => Op::AcceptOne,
            3 => Op::PeerName,
            4 => Op::Connect,
            5 => Op::Receive,
            6 => Op::Send,
            7 => Op::Close,
            8 => Op::Woken,
            9 => Op::Wake,
            10 => Op::Watch,
            11 => Op::Kick,
            12 => Op::Disk,
            _ => Op::Ignored,
        };
        Tag { op, slot: tag as u32 & ((1 << SLOT_BITS) - 1), generation: (tag >> SLOT_BITS) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_packing() {
        for op in [
            Op::Accept,
            Op::AcceptOne,
            Op::PeerName,
            Op::Connect,
            Op::Receive,
            Op::Send,
            Op::Close,
            Op::Woken,
            Op::Wake,
            Op::Watch,
            Op::Kick,
            Op::Disk,
        ] {
            for (slot, generation) in [(0, 0), (5, u32::MAX), ((1 << SLOT_BITS) - 1, 1)] {
                let tag = Tag { op, slot, generation };
                assert_eq!(Tag::unpack(tag.pack()), tag);
            }
        }
        assert_eq!(Tag::unpack(crate::sys::ring::IGNORED).op, Op::Ignored);
    }
}
