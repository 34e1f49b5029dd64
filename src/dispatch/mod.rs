//! The life of a message: sessions paired with links, verdicts, repeats. Pure: facts go in by `handle_*`, what
//! is to be done comes out by [`Dispatch::poll_command`]; time is an argument.
//!
//! One `Dispatch` is one shard's. A *transaction* belongs to the shard that took the message; a *delivery* is a
//! group of its recipients on the shard that owns them. Groups and outcomes travel as [`Letter`]s.

mod date;
mod delivery;
mod form;
mod keep;
mod link;
mod lookout;
mod message;
pub mod notice;
pub mod options;
pub mod owner;
mod received;
mod router;
mod session;
mod streaming;
mod tend;
mod timely;
mod transaction;
mod verdict;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use slab::Slab;

use crate::balance::Fleet;
use crate::handle::{Buffers, Cause, Extent, LinkId, ShardId, StreamId};
use crate::limits::OVERDUE_LOOK;
use crate::observe::Stats;
use crate::pool::Links;
use crate::protocol::wire::data::Form;
use crate::time::{Deadlines, Instant};
use date::DateLine;
use delivery::Delivery;
pub use delivery::DeliveryId;
pub use form::{Piece, Pieces};
use keep::Keeping;
pub use keep::{Action, Answer, Mode, Options as KeepOptions, Order, Row, Selection, list_kept};
use link::Link;
use lookout::Lookout;
use message::Spares;
pub use message::{
    GroupId, LegId, Letter, Message, MessageId, Outcome, Place, Slip, TransactionId, Withdrawal, Word,
};
use options::Options;
use owner::{Owners, Way};
use router::Router;
use session::{Session, Talkers};
pub use streaming::Part;
use streaming::Queues;
pub use timely::Deadline;
use transaction::Transaction;

/// What the shard is to do, in this order.
#[derive(Debug)]
pub enum Command<'a> {
    /// Write these bytes.
    Write {
        /// Where.
        stream: StreamId,
        /// Valid until the next call; copied by the stream.
        bytes: &'a [u8],
    },
    /// Write the body's extents, and a mark; they stay until that is told by `Sent`, or `Closed`.
    WriteBody {
        /// Where.
        stream: StreamId,
        /// Whose body.
        message: Arc<Message>,
        /// In which form: as it is, or [`Message::converted`].
        form: Form,
    },
    /// Write a part of a streamed body, and a mark; its extents stay until that is told by `Sent`, or
    /// `Closed`.
    WritePart {
        /// Where.
        stream: StreamId,
        /// What.
        part: Arc<Part>,
        /// In which form.
        form: Form,
    },
    /// Have `handle_sent` called when all written so far has left.
    Mark(StreamId),
    /// Open a stream and tell `handle_opening` its id.
    Open {
        /// For which link.
        link: LinkId,
        /// Where to.
        address: SocketAddr,
        /// From where.
        source: Option<IpAddr>,
    },
    /// Stop receiving.
    Pause(StreamId),
    /// Receive again.
    Resume(StreamId),
    /// Outlive the peer's FIN, or not any more.
    Hold(StreamId, bool),
    /// Close after all written has left.
    Close(StreamId),
    /// Close now.
    Abort(StreamId),
    /// Put the letter into that shard's box.
    Post {
        /// Whose box.
        shard: ShardId,
        /// What.
        letter: Letter,
    },
}

/// A command as it is kept: bytes lie in `Dispatch::out`.
#[derive(Debug)]
enum Queued {
    Write { stream: StreamId, from: usize, to: usize },
    WriteBody { stream: StreamId, message: Arc<Message>, form: Form },
    WritePart { stream: StreamId, part: Arc<Part>, form: Form },
    Open { link: LinkId, address: SocketAddr, source: Option<IpAddr> },
    Mark(StreamId),
    Pause(StreamId),
    Resume(StreamId),
    Hold(StreamId, bool),
    Close(StreamId),
    Abort(StreamId),
    Post { shard: ShardId, letter: Letter },
}

/// Whose stream it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamOwner {
    Nobody,
    Session(u32),
    Link(LinkId),
}

/// Slips that are kept for the next messages.
const SLIPS_MAX: usize = 1024;

/// One pool on this shard.
#[derive(Debug)]
struct PoolState {
    fleet: Fleet,
    links: Vec<Links>,
    /// For each upstream its transactions in flight by age; those over are dropped when they come to the front.
    ages: Vec<VecDeque<(Instant, DeliveryId, u32)>>,
    /// New deliveries that no link has room for, oldest first; by their tickets it is known whether they still are.
    waiting: VecDeque<(DeliveryId, u32)>,
    /// Those that have been somewhere already.
    repeats: VecDeque<(DeliveryId, u32)>,
    next_source: usize,
    /// When links are looked at for what time alone changes.
    look_at: Instant,
    /// Something changed that may let a waiting delivery go: it is in `Dispatch::stirred`.
    is_stirred: bool,
    /// Groups that went there, of messages that this shard took, and that have not ended.
    groups: u64,
    /// Deliveries in it.
    deliveries: u64,
}

/// One shard's dispatch.
#[derive(Debug)]
pub struct Dispatch {
    options: Options,
    router: Router,
    stats: Arc<Stats>,
    sessions: Slab<Session>,
    session_deadlines: Deadlines,
    transactions: Slab<Transaction>,
    /// When the time that their senders gave them is over.
    transaction_deadlines: Deadlines,
    deliveries: Slab<Delivery>,
    /// Those that may be withdrawn.
    withdrawable: HashMap<GroupId, DeliveryId>,
    links: Slab<Link>,
    link_deadlines: Deadlines,
    pools: Vec<PoolState>,
    /// Those in which something has changed.
    stirred: Vec<usize>,
    streams: Vec<(u32, StreamOwner)>,
    commands: VecDeque<Queued>,
    out: Vec<u8>,
    /// Where the text of an answer is put together.
    text: Vec<u8>,
    /// Outcomes for this shard's own transactions, dealt with when the fact at hand has been.
    outcomes: VecDeque<(ShardId, TransactionId, u16, Outcome)>,
    /// Letters to oneself.
    inbox: VecDeque<Letter>,
    /// Streamed messages that something has changed for.
    flow: Vec<TransactionId>,
    /// Sessions that are not read because memory is short.
    queues: Queues,
    spares: Spares,
    spare_lists: Vec<Vec<u16>>,
    slips: Vec<Slip>,
    /// The groups of the message at hand.
    groups: Vec<Way>,
    /// For each shard and pool whether it is among them; all false in between.
    seen: Vec<bool>,
    date: DateLine,
    /// Milliseconds since 1970 at the clock's zero.
    unix_at_zero_ms: i64,
    numbers: u64,
    generation: u32,
    random: u64,
    /// The other shards, if there are any.
    lookout: Option<Lookout>,
    /// What the board said when marks were last heeded.
    heard: u64,
    /// When upstreams that asked for fewer links get one more again.
    ease_at: Instant,
    /// Sessions between MAIL and the final dot.
    receiving: usize,
    talkers: Talkers,
    keeping: Keeping,
    next_tick: Instant,
    /// When it is looked at the latest whether upstreams are overdue.
    overdue_look: Instant,
    draining: bool,
    stopping: bool,
}

impl Dispatch {
    /// A shard with nothing in it. `unix_at_zero_ms`: milliseconds since 1970 when the clock read zero.
    pub fn new(options: Options, stats: Arc<Stats>, unix_at_zero_ms: i64) -> Self {
        Dispatch {
            router: Router::new(
                Owners::new(options.shards, options.shard_by, &options.hostname).at(options.shard),
            ),
            pools: options.pools.iter().map(PoolState::new).collect(),
            heard: 0,
            ease_at: Instant::default(),
            random: options.seed | 1,
            stats,
            sessions: Slab::new(),
            session_deadlines: Deadlines::default(),
            transactions: Slab::new(),
            transaction_deadlines: Deadlines::default(),
            deliveries: Slab::new(),
            withdrawable: HashMap::new(),
            links: Slab::new(),
            link_deadlines: Deadlines::default(),
            stirred: Vec::new(),
            streams: Vec::new(),
            commands: VecDeque::new(),
            out: Vec::new(),
            text: Vec::new(),
            outcomes: VecDeque::new(),
            inbox: VecDeque::new(),
            flow: Vec::new(),
            queues: Queues::default(),
            spares: Spares::default(),
            spare_lists: Vec::new(),
            slips: Vec::new(),
            groups: Vec::new(),
            seen: Vec::new(),
            date: DateLine::default(),
            unix_at_zero_ms,
            numbers: 0,
            generation: 0,
            lookout: None,
            receiving: 0,
            talkers: Talkers::default(),
            keeping: Keeping::default(),
            next_tick: Instant::NEVER,
            overdue_look: Instant::NEVER,
            draining: false,
            stopping: false,
            options,
        }
    }

    /// The stream asked for by `Command::Open` has this id.
    pub fn handle_opening(&mut self, link: LinkId, stream: StreamId) {
        self.adopt(stream, StreamOwner::Link(link));
        if let Some(link) = self.links.get_mut(link.0 as usize) {
            link.stream = Some(stream);
        }
    }

    /// It is open.
    pub fn handle_opened(&mut self, stream: StreamId, now: Instant) {
        if let StreamOwner::Link(link) = self.owner_of(stream) {
            self.link_opened(link, now);
        }
    }

    /// Bytes came. Takes over the one reference to their buffer.
    pub fn handle_received(
        &mut self,
        stream: StreamId,
        extent: Extent,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        match self.owner_of(stream) {
            StreamOwner::Session(session) => self.session_received(session, extent, now, buffers),
            StreamOwner::Link(link) => self.link_received(link, extent, now, buffers),
            StreamOwner::Nobody => buffers.release(extent.buffer),
        }
        self.settle(now, buffers);
    }

    /// So many more of the marks and bodies written had left at `left_at`.
    pub fn handle_sent(
        &mut self,
        stream: StreamId,
        marks: u32,
        left_at: Instant,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        match self.owner_of(stream) {
            StreamOwner::Session(session) => self.session_sent(session, now, buffers),
            StreamOwner::Link(link) => self.link_sent(link, marks, left_at, now),
            StreamOwner::Nobody => {}
        }
        self.settle(now, buffers);
    }

    /// A stream is no more.
    pub fn handle_closed(
        &mut self,
        stream: StreamId,
        cause: Cause,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let owner = self.owner_of(stream);
        if owner != StreamOwner::Nobody {
            self.streams[stream.slot as usize].1 = StreamOwner::Nobody;
        }
        match owner {
            StreamOwner::Session(session) => self.session_closed(session, buffers),
            StreamOwner::Link(link) => self.link_closed(link, cause, now),
            StreamOwner::Nobody => {}
        }
        self.settle(now, buffers);
    }

    /// Mail from another shard.
    pub fn handle_letter(&mut self, letter: Letter, now: Instant, buffers: &mut impl Buffers) {
        self.take_letter(letter, now);
        self.settle(now, buffers);
    }

    fn take_letter(&mut self, letter: Letter, now: Instant) {
        match letter {
            Letter::Group { group, message, whole, slip } => {
                self.new_delivery(message, group, whole, Some(slip), now);
            }
            Letter::Verdict { shard, transaction, message, pool, mut slip } => {
                drop(message);
                self.outcomes.extend(slip.take().map(|outcome| (shard, transaction, pool, outcome)));
                if self.slips.len() < SLIPS_MAX {
                    self.slips.push(slip);
                }
            }
            Letter::Ready { shard, group, leg } => self.leg_ready(shard, group, leg),
            Letter::Part { group, leg, part } => self.leg_part(group, leg, part, now),
            Letter::PartSent { shard, group, number } => self.leg_sent(shard, group, number),
            Letter::Withdraw { group, why } => self.leg_withdrawn(group, why, now),
        }
    }

    /// Deals with all deadlines that have passed.
    pub fn handle_deadlines(&mut self, now: Instant, buffers: &mut impl Buffers) {
        while let Some(slot) = self.session_deadlines.pop_expired(now) {
            self.session_expired(slot as u32, now);
        }
        while let Some(slot) = self.link_deadlines.pop_expired(now) {
            self.link_expired(LinkId(slot as u32), now);
        }
        if self.overdue_look <= now {
            self.overdue_look = Instant::NEVER;
            self.look_for_overdue(now);
        }
        if self.next_tick <= now {
            self.next_tick = Instant::NEVER;
            (0..self.pools.len()).for_each(|pool| self.stir(pool));
            self.make_room(now, buffers);
            self.flow.append(&mut self.queues.parched);
        }
        while let Some(slot) = self.transaction_deadlines.pop_expired(now) {
            self.transaction_expired(slot as u32, now, buffers);
        }
        self.handle_kept_deadlines(now, buffers);
        self.settle(now, buffers);
    }

    /// When `handle_deadlines` is to be called at the latest.
    pub fn next_deadline(&self, now: Instant) -> Instant {
        let ours = self.next_tick.min(self.overdue_look).min(self.next_kept(now));
        let theirs = self.session_deadlines.next().min(self.link_deadlines.next());
        ours.min(theirs).min(self.transaction_deadlines.next())
    }

    /// The next thing to do; `None` when all is done. To be called until then after any `handle_*`.
    pub fn poll_command(&mut self) -> Option<Command<'_>> {
        // The stream may have ended since, and with it what was written to it, whose buffers receive again.
        while let Some(Queued::WriteBody { stream, .. } | Queued::WritePart { stream, .. }) =
            self.commands.front()
            && self.owner_of(*stream) == StreamOwner::Nobody
        {
            self.commands.pop_front();
        }
        let Some(queued) = self.commands.pop_front() else {
            self.out.clear();
            return None;
        };
        Some(match queued {
            Queued::Write { stream, from, to } => Command::Write { stream, bytes: &self.out[from..to] },
            Queued::WriteBody { stream, message, form } => Command::WriteBody { stream, message, form },
            Queued::WritePart { stream, part, form } => Command::WritePart { stream, part, form },
            Queued::Open { link, address, source } => Command::Open { link, address, source },
            Queued::Mark(stream) => Command::Mark(stream),
            Queued::Pause(stream) => Command::Pause(stream),
            Queued::Resume(stream) => Command::Resume(stream),
            Queued::Hold(stream, held) => Command::Hold(stream, held),
            Queued::Close(stream) => Command::Close(stream),
            Queued::Abort(stream) => Command::Abort(stream),
            Queued::Post { shard, letter } => Command::Post { shard, letter },
        })
    }

    /// Takes no new mail from now on: 421 to whoever brings some; what is under way finishes.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.dismiss_sessions(false, now);
    }

    /// Takes leave: of sessions even in mid-message, and of links. Only who waits for an answer still gets it.
    pub fn stop(&mut self, now: Instant) {
        self.draining = true;
        self.stopping = true;
        self.dismiss_sessions(true, now);
        self.close_links(now);
    }

    /// Messages being received, waiting or being sent.
    pub fn under_way(&self) -> usize {
        self.receiving + self.transactions.len() + self.deliveries.len()
    }

    /// Nothing left at all: no session, link, transaction or delivery.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.links.is_empty() && self.under_way() == 0 && self.disk_is_quiet()
    }

    /// Says goodbye to every idle link.
    fn close_links(&mut self, now: Instant) {
        let idle: Vec<u32> = self.links.iter().filter(|(_, l)| l.is_idle()).map(|(i, _)| i as u32).collect();
        idle.into_iter().for_each(|link| self.retire_link(LinkId(link), now));
    }

    /// Sets the wall clock: milliseconds since 1970 at the shard clock's zero.
    pub fn set_unix_at_zero_ms(&mut self, unix_at_zero_ms: i64) {
        self.unix_at_zero_ms = unix_at_zero_ms;
        self.tell_spool_the_time();
    }

    /// Deals with what the last fact brought about within the shard, until nothing is left.
    fn settle(&mut self, now: Instant, buffers: &mut impl Buffers) {
        loop {
            while let Some((shard, transaction, pool, outcome)) = self.outcomes.pop_front() {
                self.pools[usize::from(pool)].groups -= 1;
                let way = Way { shard, pool };
                self.leg_over(way, transaction);
                self.group_ended(transaction, way, outcome, now, buffers);
            }
            if self.settle_kept(now, buffers) {
                continue;
            }
            if let Some(letter) = self.inbox.pop_front() {
                self.take_letter(letter, now);
                continue;
            }
            if !self.flow.is_empty() {
                self.flow_on(now, buffers);
                continue;
            }
            if let Some(pool) = self.stirred.pop() {
                self.pools[pool].is_stirred = false;
                self.serve_waiting(pool, now);
                continue;
            }
            if !self.let_in_waiting(now, buffers) {
                break;
            }
        }
        if self.stopping && self.deliveries.is_empty() {
            self.close_links(now);
        }
        if !self.deliveries.is_empty() && self.overdue_look == Instant::NEVER {
            self.overdue_look = now + OVERDUE_LOOK;
        }
    }

    /// Something changed in the pool that may let a waiting delivery go.
    fn stir(&mut self, pool: usize) {
        if !std::mem::replace(&mut self.pools[pool].is_stirred, true) {
            self.stirred.push(pool);
        }
    }

    fn owner_of(&self, stream: StreamId) -> StreamOwner {
        match self.streams.get(stream.slot as usize) {
            Some(&(generation, owner)) if generation == stream.generation => owner,
            _ => StreamOwner::Nobody,
        }
    }

    fn adopt(&mut self, stream: StreamId, owner: StreamOwner) {
        let slot = stream.slot as usize;
        if slot >= self.streams.len() {
            self.streams.resize(slot + 1, (0, StreamOwner::Nobody));
        }
        self.streams[slot] = (stream.generation, owner);
    }

    /// Queues what was added to `out` since it was `from` long.
    fn write_since(&mut self, from: usize, stream: StreamId) {
        let to = self.out.len();
        if from == to {
            return;
        }
        if let Some(Queued::Write { stream: last, to: end, .. }) = self.commands.back_mut()
            && *last == stream
            && *end == from
        {
            *end = to;
            return;
        }
        self.commands.push_back(Queued::Write { stream, from, to });
    }

    /// xorshift64*: spreads ties, nothing more.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Tells the next user of a place from the last.
    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn unix_ms(&self, now: Instant) -> u64 {
        unix_ms(self.unix_at_zero_ms, now)
    }

    fn unix_seconds(&self, now: Instant) -> u64 {
        self.unix_ms(now) / 1000
    }
}

/// Milliseconds since 1970, from those at the clock's zero.
fn unix_ms(at_zero: i64, now: Instant) -> u64 {
    u64::try_from(at_zero.saturating_add((now.as_nanos() / 1_000_000) as i64)).unwrap_or(0)
}
