//! Each recipient's way: the shard that its address hashes to, and the pool that the routes name.

use std::net::IpAddr;

use super::message::Message;
use super::owner::{Owners, Way};
use crate::handle::{Buffers, Extent};
use crate::limits::ROUTE_HEADER_BYTES_MAX;
use crate::protocol::wire::address;
use crate::route::{Facts, Routes};

/// Where a message came from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin<'a> {
    /// The listener's name; none took what was made here.
    pub(super) listener: Option<&'a str>,
    /// The client's address.
    pub(super) source: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Router {
    owners: Owners,
    /// The header block of the message at hand.
    header: Vec<u8>,
}

impl Router {
    pub(super) fn new(owners: Owners) -> Router {
        Router { owners, header: Vec::new() }
    }

    /// Notes each recipient's way in the message.
    pub(super) fn assign(
        &mut self,
        message: &mut Message,
        routes: &Routes,
        origin: Origin<'_>,
        buffers: &impl Buffers,
    ) {
        self.header.clear();
        if routes.wants_header() {
            copy_header(&mut self.header, message, buffers);
        }
        let Message { envelope, ways, .. } = message;
        let facts = Facts {
            sender_domain: address::domain(envelope.sender()),
            listener: origin.listener,
            source: origin.source,
            header: &self.header,
        };
        let about_it = routes.message(&facts);
        ways.clear();
        ways.extend((0..envelope.len()).map(|i| {
            let path = envelope.recipient(i).path;
            Way { shard: self.owners.of(path), pool: routes.pick(about_it, address::domain(path), &facts) }
        }));
    }
}

/// As much of the message's header as lies within the bound. What was made here has it all in its head.
fn copy_header(out: &mut Vec<u8>, message: &Message, buffers: &impl Buffers) {
    let head = if message.internal { &message.head[..] } else { &[] };
    let pieces = message.body.iter().map(|extent: &Extent| buffers.bytes(*extent));
    for piece in std::iter::once(head).chain(pieces) {
        let seen = out.len().saturating_sub(3);
        let room = ROUTE_HEADER_BYTES_MAX - out.len();
        out.extend_from_slice(&piece[..piece.len().min(room)]);
        if let Some(end) = memchr::memmem::find(&out[seen..], b"\r\n\r\n") {
            out.truncate(seen + end + 2);
            return;
        }
        if out.len() == ROUTE_HEADER_BYTES_MAX {
            return;
        }
    }
}
