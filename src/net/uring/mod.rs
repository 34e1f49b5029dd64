//! Kernel TCP, with the system calls batched away: one io_uring per shard.
//!
//! Connections are accepted into direct descriptors by multishot requests, bytes received by multishot requests
//! into buffers lent to the kernel; what a turn wrote to a stream leaves as one send. A turn is one
//! `io_uring_enter`: it submits all that was asked for, has the completions worked out, and waits.
//!
//! Each completion gives at most one event, so that a turn's budget is kept by leaving completions where they
//! are. A stream's slot is used again only when all its requests have completed and its `Closed` was read; the
//! tag's generation is a second lock on that door.

mod accept;
mod close;
mod disk;
mod error;
mod open;
mod pace;
mod receive;
mod send;
mod stream;
mod tag;
mod turn;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;

pub use error::Error;

use accept::Listener;
use pace::Pace;
use stream::{Phase, Streams};
use tag::{Op, SLOT_BITS, Tag};

use crate::disk::uring::Files;
use crate::handle::{BufferId, Buffers, Extent, ListenerId, ShardId, StreamId};
use crate::net::{Cause, Event, Net};
use crate::sys::arena::Arenas;
use crate::sys::batch::Batch;
use crate::sys::buffer_ring::BufferRing;
use crate::sys::clock;
use crate::sys::files;
use crate::sys::name::Names;
use crate::sys::pool::Pool;
use crate::sys::ring::{Completion, Features, Ring};
use crate::sys::ring_table::RingTable;
use crate::time::Instant;

/// How a shard's network is made.
#[derive(Clone, Debug)]
pub struct UringOptions {
    /// Whose it is.
    pub shard: ShardId,
    /// The CPU the shard is pinned to: the kernel prefers its listeners for what that CPU takes in.
    pub cpu: Option<u32>,
    /// Most accepted streams at a time: a connection beyond is closed as soon as it is accepted, so this should be
    /// somewhat more than the sessions that are served.
    pub accepted_max: u32,
    /// Most opened streams at a time. Both numbers together must fit the limit of open files.
    pub opened_max: u32,
    /// Requests between two turns that need no extra system call.
    pub ring_entries: u32,
    /// Buffers lent to the kernel to receive into, a power of two; together about as large as the L2 cache.
    pub receive_buffers: u16,
    /// Use only what Linux 6.1 has, to see how the product does there.
    pub plain: bool,
}

impl Default for UringOptions {
    fn default() -> UringOptions {
        UringOptions {
            shard: ShardId(0),
            cpu: None,
            accepted_max: 8_192,
            opened_max: 2_048,
            ring_entries: 1_024,
            receive_buffers: 128,
            plain: false,
        }
    }
}

/// A file that wakes the ring when there is something to read.
struct Watched {
    file: RawFd,
    is_readable: bool,
    /// A request for it is under way.
    is_asked: bool,
}

/// A shard's network on its own ring. Made, used and dropped on the shard's thread.
pub struct Uring {
    options: UringOptions,
    // Dropped before what the kernel may be using: the buffers' ring and the pool.
    ring: Ring,
    lent: BufferRing,
    pool: Pool,
    rings: Arc<RingTable>,
    streams: Streams,
    /// Addresses the kernel reads or writes: one per stream…
    names: Names,
    /// …and those of one-shot accepts.
    caller_names: Names,
    listeners: Vec<Option<Listener>>,
    /// Places of the file table that are ours to fill, when opening.
    places: Vec<u32>,
    dirty: Vec<u32>,
    starved: VecDeque<u32>,
    /// Batches not in use. Boxed, as the kernel is shown where they are.
    #[allow(clippy::vec_box, reason = "a batch stays where it is while it is being sent")]
    batches: Vec<Box<Batch>>,
    /// Shards to be woken with the next enter.
    wakes: Vec<ShardId>,
    woken: bool,
    woken_by_shard: bool,
    /// Files that wake it.
    watched: Vec<Watched>,
    kick_failed: bool,
    /// Listeners that could not accept try again then.
    retry_at: Instant,
    /// Events that no completion stands for.
    events: VecDeque<Event>,
    completions: Vec<Completion>,
    /// The disk, if there is one.
    files: Option<Files>,
    /// Connections closed at once because there were `accepted_max` already.
    turned_away: u64,
    enters: u64,
    pace: Pace,
    /// Sends asked for since the last enter.
    sends: u32,
}

impl Uring {
    /// Sets the shard's ring up, on the calling thread, and makes it known in `rings`.
    ///
    /// # Errors
    /// What the operating system refuses, in words.
    ///
    /// # Panics
    /// If the shard's arena is in use, or `receive_buffers` is no power of two.
    pub fn new(options: UringOptions, arenas: Arc<Arenas>, rings: Arc<RingTable>) -> Result<Uring, Error> {
        let places = options.accepted_max + options.opened_max;
        assert!(places < 1 << (SLOT_BITS - 1), "more streams than can be named");
        let limit =
            files::raise_limit().map_err(|error| Error::Other("reading the limit of files", error))?;
        if u64::from(places) > limit {
            return Err(Error::TooFewFiles { needed: places.into(), limit });
        }
        // Every stream may have a receive and a send complete at once, and the kernel adds no more by itself.
        let completions = (places * 2).clamp(options.ring_entries * 2, 32_768);
        let mut ring =
            Ring::new(options.ring_entries, completions, options.plain).map_err(Error::of_setup)?;
        ring.register_files(options.accepted_max, options.opened_max).map_err(|error| {
            Error::of_step("registering the file table", "ranges of direct descriptors", error)
        })?;
        ring.features.peer_name = !options.plain && Self::probe_peer_name(&mut ring, options.accepted_max)?;
        let lent = ring
            .register_buffers(options.receive_buffers)
            .map_err(|error| Error::of_step("registering buffers", "rings of provided buffers", error))?;
        let pool = Pool::new(arenas, options.shard);
        rings.publish(options.shard, ring.descriptor());
        Ok(Uring {
            ring,
            lent,
            pool,
            rings,
            streams: Streams::default(),
            names: Names::default(),
            caller_names: Names::default(),
            listeners: Vec::new(),
            places: (options.accepted_max..places).rev().collect(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            batches: Vec::new(),
            wakes: Vec::new(),
            woken: false,
            woken_by_shard: false,
            watched: Vec::new(),
            kick_failed: false,
            retry_at: Instant::NEVER,
            events: VecDeque::new(),
            completions: Vec::new(),
            files: None,
            turned_away: 0,
            enters: 0,
            pace: Pace::new(clock::now()),
            sends: 0,
            options,
        })
    }

    fn probe_peer_name(ring: &mut Ring, place: u32) -> Result<bool, Error> {
        let probe = |ring: &mut Ring| -> io::Result<bool> {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            ring.install(place, &crate::sys::socket::caller(any, None)?)?;
            let works = ring.probe_peer_name(place)?;
            ring.uninstall(place)?;
            Ok(works)
        };
        probe(ring).map_err(|error| Error::of_step("trying the ring", "direct descriptors", error))
    }

    /// What of io_uring is in use.
    pub fn features(&self) -> Features {
        self.ring.features
    }

    /// Streams that exist: their `Closed` was not yet reported.
    pub fn streams(&self) -> usize {
        self.streams.live()
    }

    /// Buffers somebody holds a reference to.
    pub fn buffers_held(&self) -> usize {
        self.pool.held()
    }

    /// Most accepted streams at a time.
    pub fn accepted_max(&self) -> u32 {
        self.options.accepted_max
    }

    /// `io_uring_enter` calls made by turns so far.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Makes a file one of those that may be watched: its place among them.
    pub(super) fn add_watched(&mut self, file: RawFd) -> u32 {
        self.watched.push(Watched { file, is_readable: false, is_asked: false });
        self.watched.len() as u32 - 1
    }

    /// The next turn, or a later one, returns when the file at that place is readable. Once.
    pub(super) fn watch(&mut self, place: u32) {
        let watched = &mut self.watched[place as usize];
        if !std::mem::replace(&mut watched.is_asked, true) {
            let tag = Tag { op: Op::Watch, slot: place, generation: 0 };
            self.ring.watch(watched.file, tag.pack());
        }
    }

    /// Whether another shard has woken this one since the last asking.
    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken_by_shard)
    }

    /// With the next turn an AF_XDP socket sends what is in its ring.
    pub(super) fn kick(&mut self, socket: RawFd) {
        self.ring.kick(socket, Tag { op: Op::Kick, slot: 0, generation: 0 }.pack());
    }

    /// Whether a kick since the last asking has not sent all.
    pub(super) fn take_kick_failed(&mut self) -> bool {
        std::mem::take(&mut self.kick_failed)
    }

    /// Whether the file watched at that place has become readable since the last asking.
    pub(super) fn take_readable(&mut self, place: u32) -> bool {
        std::mem::take(&mut self.watched[place as usize].is_readable)
    }

    /// The shard's buffers, for a backend that fills them itself.
    pub(super) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// To be looked at when the next turn begins.
    fn look_at(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.streams.at(slot).dirty, true) {
            self.dirty.push(slot);
        }
    }
}

impl Buffers for Uring {
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

impl Net for Uring {
    fn turned_away(&self) -> u64 {
        self.turned_away
    }

    fn listen(&mut self, listener: ListenerId, address: SocketAddr) -> io::Result<SocketAddr> {
        self.start_listening(listener, address)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.stop_listening(listener);
    }

    fn open(&mut self, to: SocketAddr, source: Option<IpAddr>) -> StreamId {
        self.start_opening(to, source)
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) {
        self.queue(stream, bytes);
    }

    fn write_body(&mut self, stream: StreamId, extents: &[Extent]) {
        self.queue_body(stream, extents);
    }

    fn mark(&mut self, stream: StreamId) {
        self.queue_mark(stream);
    }

    fn pause(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.find(stream) {
            self.streams.at(slot).paused = true;
            self.cancel_receive(slot);
        }
    }

    fn resume(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.find(stream) {
            self.streams.at(slot).paused = false;
            self.receive_if_wanted(slot);
        }
    }

    fn hold(&mut self, stream: StreamId, held: bool) {
        if let Some(slot) = self.streams.find(stream) {
            self.streams.at(slot).held = held;
            if !held && self.streams.at(slot).ending.is_some() {
                self.look_at(slot);
            }
        }
    }

    fn close(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.find(stream)
            && !matches!(self.streams.at(slot).phase, Phase::Closing(_))
        {
            self.streams.at(slot).ending = Some(Cause::Local);
            self.look_at(slot);
        }
    }

    fn abort(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.find(stream) {
            self.begin_close(slot, Cause::Local);
        }
    }

    fn wake(&mut self, shard: ShardId) {
        assert_ne!(shard, self.options.shard, "a shard does not wake itself");
        if !self.wakes.contains(&shard) {
            self.wakes.push(shard);
        }
    }

    fn turn(&mut self, until: Instant, events_max: usize, events: &mut Vec<Event>) -> Instant {
        self.take_turn(until, events_max, events)
    }

    fn now(&self) -> Instant {
        clock::now()
    }
}
