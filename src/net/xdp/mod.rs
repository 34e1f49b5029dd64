//! Kernel bypass: streams that are opened over one interface, by us or to us, go past the kernel by AF_XDP, with TCP in
//! user space; all others (loopback, other interfaces) by the io_uring within.
//!
//! A turn: what was written leaves as frames, the ring waits (for its own completions, and for frames to arrive), what
//! arrived is taken in. A stream's events of a turn are put together: one `Received` for all that came in order.

mod frame;
mod handover;
mod inlets;
mod interface;
mod listen;
mod notice;
mod open;
mod paths;
mod ports;
mod receive;
mod reserve;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod transmit;
mod turn;

use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use postlane_hw::rss::Rss;

pub use handover::{Handover, handovers};
pub use interface::{Interface, Queue, XdpOptions};

use frame::Head;
use inlets::Inlets;
use listen::Sessions;
use paths::{Found, Paths};
use ports::Ports;
use stream::{Mark, Phase, Streams};
use tcp::{Backlog, Outgoing};

use crate::disk::Disk;
use crate::handle::{BufferId, Buffers, Extent, FileId, ListenerId, Part, ShardId, StreamId, Ticket};
use crate::net::uring::Uring;
use crate::net::{Bypassed, Cause, Event, Net};
use crate::sys::arena::BUFFER_BYTES;
use crate::sys::xdp::errors::Errors;
use crate::sys::xdp::netlink::Mac;
use crate::time::{Deadlines, Instant};

/// In the place of a slot.
const NOBODY: u32 = u32::MAX;
/// Those who have begun to open a stream to us, and are remembered while they do; beyond it by cookies.
const HALF_OPEN_MAX: usize = 2_048;

/// What streams hold that nobody takes (they are paused, or there are no buffers) may come to this part of the memory
/// for bodies, beside it, …
const HELD_PART: usize = 4;
/// …or to this, if that is more.
const HELD_MIN: usize = 4 << 20;

/// A shard's network: its part of the interface, and a ring.
pub struct Xdp {
    // Closed before the ring that watches them.
    sockets: Vec<Queue>,
    core: Core,
}

/// All but the sockets, so that both can be used at once.
struct Core {
    uring: Uring,
    shard: ShardId,
    shared: Arc<Interface>,
    paths: Paths,
    ports: Ports,
    /// How the interface spreads what it receives, as far as this shard knows.
    rss: Option<Rss>,
    /// When it was asked last because an answer had gone astray.
    doubted: Instant,
    /// The queue by which the frames came that are looked at; `None`: another shard's.
    arrived_by: Option<u32>,
    handover: Handover,
    streams: Streams,
    /// Most streams that may be opened at a time…
    opened_max: usize,
    /// …and accepted; those that are.
    accepted_max: usize,
    accepted: usize,
    inlets: Inlets,
    backlog: Backlog<Mac>,
    sessions: Sessions,
    /// Accepted streams that nobody has any more, the oldest first.
    rests: VecDeque<u32>,
    /// Bytes that wait in connections to be taken, and how many may.
    held: usize,
    held_max: usize,
    deadlines: Deadlines,
    dirty: Vec<u32>,
    touched: Vec<u32>,
    starved: VecDeque<u32>,
    events: VecDeque<Event>,
    /// Answers to segments that belong to no connection: resets, and the first words to those who open.
    answers: Vec<(Head, Mac, Outgoing)>,
    /// The ring's events, before they are renamed.
    from_ring: Vec<Event>,
    found: Vec<Found>,
    /// For initial sequence numbers.
    secret: RandomState,
    counts: Bypassed,
    /// There was no room for all that was to leave.
    is_congested: bool,
    /// Which of the ring's watched files brings news of the network.
    news: u32,
    /// And which are our sockets, in their order.
    watched: Vec<u32>,
    /// Where others complain of packets of ours, and which of the watched files that is.
    errors: Vec<(Errors, u32)>,
}

/// Streams of the ring have even slots, those of the interface odd ones.
fn of_ring(stream: StreamId) -> StreamId {
    StreamId { slot: stream.slot * 2, ..stream }
}

fn of_interface(stream: StreamId) -> StreamId {
    StreamId { slot: stream.slot * 2 + 1, ..stream }
}

/// Whose a stream is, by its own name there.
enum Owner {
    Ring(StreamId),
    Interface(StreamId),
}

fn owner(stream: StreamId) -> Owner {
    let inner = StreamId { slot: stream.slot / 2, ..stream };
    if stream.slot.is_multiple_of(2) { Owner::Ring(inner) } else { Owner::Interface(inner) }
}

impl Xdp {
    /// A shard's network, of its ring and its share of the interface; made on the shard's thread. At most `opened_max`
    /// streams are opened over the interface at a time, and as many accepted as on the ring.
    ///
    /// # Errors
    /// What the kernel refuses when asked for its routes and neighbours, and for ICMP.
    pub fn new(
        mut uring: Uring,
        shard: ShardId,
        shared: Arc<Interface>,
        sockets: Vec<Queue>,
        handover: Handover,
        opened_max: u32,
    ) -> io::Result<Xdp> {
        let paths = Paths::new(shared.clone())?;
        let arena = uring.pool().arenas().buffers_per_shard() * BUFFER_BYTES;
        let held_max = (arena / HELD_PART).max(HELD_MIN);
        let (cookie_secret, accepted_max) = (shared.cookie_secret.clone(), uring.accepted_max());
        let news = uring.add_watched(paths.descriptor());
        let watched = sockets.iter().map(|queue| uring.add_watched(queue.socket.descriptor())).collect();
        let errors = notice::listen(|errors| uring.add_watched(errors.descriptor()))?;
        let core = Core {
            ports: Ports::new(&shared.division, shard),
            rss: shared.rss.clone(),
            doubted: Instant::default(),
            arrived_by: None,
            uring,
            shard,
            shared,
            paths,
            handover,
            streams: Streams::default(),
            opened_max: opened_max as usize,
            accepted_max: accepted_max as usize,
            accepted: 0,
            inlets: Inlets::default(),
            backlog: Backlog::new(HALF_OPEN_MAX, cookie_secret),
            sessions: Sessions::new(accepted_max as usize),
            rests: VecDeque::new(),
            held: 0,
            held_max,
            deadlines: Deadlines::default(),
            dirty: Vec::new(),
            touched: Vec::new(),
            starved: VecDeque::new(),
            events: VecDeque::new(),
            answers: Vec::new(),
            from_ring: Vec::new(),
            found: Vec::new(),
            secret: RandomState::new(),
            counts: Bypassed::default(),
            is_congested: false,
            news,
            watched,
            errors,
        };
        Ok(Xdp { sockets, core })
    }

    /// The ring within.
    pub fn uring(&self) -> &Uring {
        &self.core.uring
    }

    /// The interface that it shares with the other shards.
    pub fn interface(&self) -> &Interface {
        &self.core.shared
    }

    /// Streams that exist: their `Closed` was not yet reported.
    pub fn streams(&self) -> usize {
        self.core.uring.streams() + self.core.streams.owned()
    }

    /// SYNs that are remembered for now.
    pub fn half_open(&self) -> usize {
        self.core.backlog.len()
    }

    /// Whether a stream goes by the interface.
    pub fn is_bypassed(&self, stream: StreamId) -> bool {
        matches!(owner(stream), Owner::Interface(_))
    }
}

impl Core {
    /// To be looked at when the next turn begins.
    fn mark(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.streams.at(slot).dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// To be looked at when all that arrived has been.
    fn touch(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.streams.at(slot).touched, true) {
            self.touched.push(slot);
        }
    }

    /// The stream ends for its owner.
    fn end(&mut self, slot: u32, cause: Cause) {
        let stream = self.streams.id(slot);
        let one = self.streams.at(slot);
        if one.phase != Phase::Owned {
            return;
        }
        one.phase = Phase::Ended;
        if let Some(extent) = one.receipt.take() {
            self.events.push_back(Event::Received { stream: of_interface(stream), extent });
        }
        // Whether it arrived is not known: it may have.
        let sent = one.connection.sent();
        self.tell_sent(slot, sent);
        self.events.push_back(Event::Closed { stream: of_interface(stream), cause });
        self.mark(slot);
    }
}

impl Buffers for Xdp {
    fn bytes(&self, extent: Extent) -> &[u8] {
        self.core.uring.bytes(extent)
    }

    fn retain(&mut self, buffer: BufferId) {
        self.core.uring.retain(buffer);
    }

    fn release(&mut self, buffer: BufferId) {
        self.core.uring.release(buffer);
    }

    fn append(&mut self, tail: Extent, piece: Extent) -> Option<Extent> {
        self.core.uring.append(tail, piece)
    }

    fn free(&self) -> usize {
        self.core.uring.free()
    }

    fn take(&mut self) -> Option<Extent> {
        self.core.uring.take()
    }
}

/// The ring within has the disk.
impl Disk for Xdp {
    fn write_file<'a>(
        &mut self,
        ticket: Ticket,
        file: FileId,
        at: u64,
        parts: impl Iterator<Item = Part<'a>>,
    ) {
        self.core.uring.write_file(ticket, file, at, parts);
    }

    fn read_file(&mut self, ticket: Ticket, file: FileId, at: u64, extents: &[Extent]) {
        self.core.uring.read_file(ticket, file, at, extents);
    }

    fn create_file(&mut self, ticket: Ticket, file: FileId, bytes: u64) {
        self.core.uring.create_file(ticket, file, bytes);
    }

    fn remove_file(&mut self, ticket: Ticket, file: FileId) {
        self.core.uring.remove_file(ticket, file);
    }
}

impl Net for Xdp {
    fn listen(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        self.core.listen(listener, address, false)
    }

    fn listen_past_kernel(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        self.core.listen(listener, address, true)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.core.unlisten(listener);
    }

    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>) -> StreamId {
        self.core.open(to, source, &self.sockets)
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.write(stream, bytes),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.writable(stream) {
                    self.core.streams.at(slot).connection.write(bytes);
                }
            }
        }
    }

    fn write_body(&mut self, stream: StreamId, extents: &[Extent]) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.write_body(stream, extents),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.writable(stream) {
                    let one = self.core.streams.at(slot);
                    extents.iter().for_each(|&extent| one.connection.write_body(extent));
                }
            }
        }
    }

    fn mark(&mut self, stream: StreamId) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.mark(stream),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.writable(stream) {
                    let one = self.core.streams.at(slot);
                    one.marks.push_back(Mark { place: one.connection.written(), left_at: None });
                }
            }
        }
    }

    fn pause(&mut self, stream: StreamId) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.pause(stream),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.streams.find(stream) {
                    self.core.streams.at(slot).paused = true;
                }
            }
        }
    }

    fn resume(&mut self, stream: StreamId) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.resume(stream),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.streams.find(stream) {
                    self.core.streams.at(slot).paused = false;
                    self.core.mark(slot);
                }
            }
        }
    }

    fn hold(&mut self, stream: StreamId, held: bool) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.hold(stream, held),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.streams.find(stream) {
                    self.core.streams.at(slot).held = held;
                    self.core.mark(slot);
                }
            }
        }
    }

    fn close(&mut self, stream: StreamId) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.close(stream),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.streams.find(stream) {
                    let one = self.core.streams.at(slot);
                    one.ending = Some(Cause::Local);
                    one.connection.finish();
                    self.core.mark(slot);
                }
            }
        }
    }

    fn abort(&mut self, stream: StreamId) {
        match owner(stream) {
            Owner::Ring(stream) => self.core.uring.abort(stream),
            Owner::Interface(stream) => {
                if let Some(slot) = self.core.streams.find(stream) {
                    self.core.streams.at(slot).connection.abort();
                    self.core.end(slot, Cause::Local);
                }
            }
        }
    }

    fn wake(&mut self, shard: ShardId) {
        self.core.uring.wake(shard);
    }

    fn turn(&mut self, until: Instant, events_max: usize, events: &mut Vec<Event>) -> Instant {
        self.take_turn(until, events_max, events)
    }

    fn now(&self) -> Instant {
        self.core.uring.now()
    }

    fn turned_away(&self) -> u64 {
        self.core.uring.turned_away()
    }

    fn bypassed(&self) -> Bypassed {
        let (cookies_sent, cookies_returned) = self.core.backlog.cookies;
        Bypassed { cookies_sent, cookies_returned, ..self.core.counts }
    }
}
