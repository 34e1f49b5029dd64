//! One end of a simulated connection: what a kernel's socket would hold.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::handle::ShardId;
use crate::time::Instant;

/// Never reused within a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SocketId(pub(super) u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A shard's stream; its slot, once the shard has accepted it.
    Shard {
        shard: ShardId,
        slot: Option<u32>,
    },
    Peer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Connecting,
    Open,
    /// Reset, refused or timed out: errno.
    Failed(i32),
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) owner: Owner,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The address that was connected to: names the path.
    pub(super) path: SocketAddr,
    /// The other end, once there is one.
    pub(super) other: Option<SocketId>,
    pub(super) phase: Phase,
    /// Arrived and not yet read.
    pub(super) inbox: VecDeque<u8>,
    /// The other end's FIN has arrived; it stands behind the inbox.
    pub(super) fin_in: bool,
    /// Sent, and not yet known to be read by the other end.
    pub(super) in_flight: usize,
    /// When the last packet towards this socket arrives: none overtakes it.
    pub(super) arrival_last: Instant,
    /// In its shard's `ready` queue.
    pub(super) queued: bool,
    /// A peer's bytes that wait for room in the window, and what shall happen behind them.
    pub(super) pending: VecDeque<u8>,
    pub(super) finish_pending: Finish,
    pub(super) fin_out: bool,
    /// What a peer has read and the test has not yet taken.
    pub(super) received: Vec<u8>,
    /// A peer that does not read for now.
    pub(super) paused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finish {
    No,
    /// Send FIN, go on reading.
    HalfClose,
    /// Close.
    Close,
}

impl Socket {
    pub(super) fn new(owner: Owner, local: SocketAddr, remote: SocketAddr, path: SocketAddr) -> Socket {
        Socket {
            owner,
            local,
            remote,
            path,
            other: None,
            phase: Phase::Connecting,
            inbox: VecDeque::new(),
            fin_in: false,
            in_flight: 0,
            arrival_last: Instant::default(),
            queued: false,
            pending: VecDeque::new(),
            finish_pending: Finish::No,
            fin_out: false,
            received: Vec::new(),
            paused: false,
        }
    }
}
