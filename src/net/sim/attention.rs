//! What waits for a shard's next turn.

use std::collections::VecDeque;

use super::socket::SocketId;
use crate::handle::ListenerId;

#[derive(Debug, Default)]
pub(super) struct Attention {
    /// A turn would do something.
    pub(super) active: bool,
    /// Connections made to its listeners and not yet accepted.
    pub(super) accepts: VecDeque<(ListenerId, SocketId)>,
    /// Its sockets on which something changed; each at most once.
    pub(super) ready: VecDeque<SocketId>,
}
