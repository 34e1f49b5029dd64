//! Byte streams by completion. The seam that `uring`, `xdp` and `sim` stand behind.
//!
//! One [`Net`] belongs to one shard and one thread. Everything written in a turn to one stream leaves as one
//! send where the backend can. Calls never block and never fail in place: a fault is a [`Event::Closed`].
//! Calls that name a stream which has ended do nothing, so that nobody needs to know of an end before its event.
//!
//! **When the peer has finished sending** (FIN), what is written in answer to the events up to then still
//! leaves; as soon as nothing is left to send the stream ends with [`Cause::Peer`]. Only a stream that is held
//! ([`Net::hold`]) lives on until it is not. While a stream is paused its peer's end is not noticed, unless by a send that fails.
//!
//! **When the peer resets**, bytes that arrived before are received first, where they still can be.

pub mod sim;
pub mod uring;
pub mod xdp;

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::handle::{Buffers, Extent, ListenerId, ShardId, StreamId, Ticket};
use crate::time::Instant;

pub use crate::handle::Cause;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A listener has a new stream. It receives from now on.
    Accepted {
        /// Which listener.
        listener: ListenerId,
        /// The new stream.
        stream: StreamId,
        /// Who called.
        peer: SocketAddr,
    },
    /// What `open` asked for is there. It receives from now on.
    Opened {
        /// The stream `open` named.
        stream: StreamId,
    },
    /// Bytes came, in order. The receiver owns one reference to the buffer and must release it.
    Received {
        /// On which stream.
        stream: StreamId,
        /// Where they lie; never empty.
        extent: Extent,
    },
    /// All that was written before the oldest marks not yet told has been taken by the transport: no extent before
    /// them is in use any more. One event for all that were passed at a time, and had left at one. At its end a stream
    /// tells every mark that all had left before; one never told was not passed.
    Sent {
        /// On which stream.
        stream: StreamId,
        /// How many more marks have been passed; never 0.
        marks: u32,
        /// When it left, where the transport tells it only later; `None`: now.
        left_at: Option<Instant>,
    },
    /// The stream's last event, always exactly one: none of the extents written to it is in use any more.
    /// After `close` what had been written has left first (or the stream failed, as `cause` says).
    Closed {
        /// Which stream. Its slot may be used anew after this.
        stream: StreamId,
        /// Why.
        cause: Cause,
    },
    /// A request to the disk ([`crate::disk::Disk`]) has been completed.
    Disk {
        /// Which.
        ticket: Ticket,
        /// Octets, or the errno.
        result: Result<u32, i32>,
    },
}

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inlet {
    /// At which address and port.
    pub address: SocketAddr,
    /// What comes there by an interface that bypasses the kernel does; else the kernel has all of it.
    pub past_kernel: bool,
}

/// What a backend that bypasses the kernel has carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bypassed {
    /// TCP segments received for connections of ours.
    pub received: u64,
    /// Segments sent.
    pub sent: u64,
    /// Of these, sent again because they were lost.
    pub sent_again: u64,
    /// Frames that made no sense, or belonged to no connection.
    pub strangers: u64,
    /// Frames that arrived at a shard they were not for.
    pub handed_over: u64,
    /// Streams of which the first answer came by another queue than the interface's hash says.
    pub astray: u64,
    /// Clients that were not let in, because as many were already as may be.
    pub turned_away: u64,
    /// Cookies sent in place of SYNs remembered…
    pub cookies_sent: u64,
    /// …and those that came back.
    pub cookies_returned: u64,
}

/// A shard's hands towards the network. `Buffers` because received bytes lie in its arena.
pub trait Net: Buffers {
    /// Listens. Other shards listen on the same address at the same time (SO_REUSEPORT): port 0 is resolved by
    /// the first shard, the others are given its answer. Returns the bound address.
    fn listen(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr>;
    /// The same; what comes to that listener by an interface that bypasses the kernel does, for backends that have one.
    fn listen_past_kernel(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        self.listen(listener, address)
    }
    /// Stops accepting on that listener; streams already accepted live on.
    fn unlisten(&mut self, listener: ListenerId);
    /// Opens a stream. `Opened` or `Closed { NotOpened }` follows. `source` is the local address to send from.
    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>) -> StreamId;
    /// Writes a few bytes, copied; they leave with the next `turn`, behind all written before.
    fn write(&mut self, stream: StreamId, bytes: &[u8]);
    /// Writes extents, not copied (of any shard's arena); they must stay until a mark behind them is told by `Sent`,
    /// or `Closed`.
    fn write_body(&mut self, stream: StreamId, extents: &[Extent]);
    /// Has `Sent` tell when all written so far has been taken by the transport.
    fn mark(&mut self, stream: StreamId);
    /// Stops receiving, so that the peer's window closes. Events already under way may still come.
    fn pause(&mut self, stream: StreamId);
    /// Receives again.
    fn resume(&mut self, stream: StreamId);
    /// While a stream is held its peer's FIN does not end it: an answer that the peer waits for is still to come.
    /// Other ends do.
    fn hold(&mut self, stream: StreamId, held: bool);
    /// Ends the stream after all written has left; later writes are dropped. `Received` may still come until
    /// `Closed`. Bytes of the peer's that nobody received by then make the kernel send a reset (RFC 2525 2.17).
    fn close(&mut self, stream: StreamId);
    /// Ends it now; what has not left is dropped.
    fn abort(&mut self, stream: StreamId);
    /// Makes that shard's `turn` return (or its next one not wait). Callable for any shard but one's own.
    fn wake(&mut self, shard: ShardId);
    /// Submits all that was asked for, then waits until something completes, `wake` is called or `until` is
    /// reached (a `until` in the past: does not wait at all; `NEVER`: as long as it takes). Appends what happened
    /// to `events`, at most `events_max` of them. Returns the time of the return.
    fn turn(&mut self, until: Instant, events_max: usize, events: &mut Vec<Event>) -> Instant;
    /// Reads the clock.
    fn now(&self) -> Instant;
    /// Connections that the kernel had taken for us and that were closed at once, because as many were open as may be.
    fn turned_away(&self) -> u64 {
        0
    }
    /// What it has carried past the kernel since the start: nothing, for most.
    fn bypassed(&self) -> Bypassed {
        Bypassed::default()
    }
}
