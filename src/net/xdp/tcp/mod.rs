//! TCP (RFC 9293) without a socket: segments and time go in, segments to send and what became of the stream come out.
//!
//! Of our own, because the stacks there are copy what is sent through a buffer of theirs, have no sender that
//! understands SACK, and wait at least a second for what was lost. Here a body's bytes are read from where they lie when
//! a segment leaves. A connection is opened, or made of a handshake that a [`Backlog`] has led.

mod cubic;
mod outbox;
mod passive;
mod receiver;
mod rtt;
mod segment;
mod sender;
#[cfg(test)]
mod tests;
mod width;

use std::time::Duration;

use crate::handle::{Buffers, Extent};
use crate::net::Cause;
use crate::time::Instant;

pub(super) use passive::{Answer, Backlog, Handshake, Pair};
use receiver::{Arrival, Receiver, SCALE};
pub(super) use rtt::RoundTrip;
use segment::{ACK, FIN, OptionBytes, PSH, RST, SYN};
pub(super) use segment::{HEADER_BYTES, Outgoing, Segment};
use sender::{MSS_MIN, Sender};
pub(super) use width::Narrow;

/// An acknowledgement waits this long for something to go with (RFC 9293 section 3.8.6.3).
const ACK_DELAY: Duration = Duration::from_millis(20);
/// A connection that is silent for so long is asked whether it is still there…
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
/// …so often, before it counts as gone…
const KEEP_ALIVE_PROBES: u32 = 6;
/// …at these distances.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long a stream that nobody has any more waits for its peer's end.
const ORPHAN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the side that ended first remembers a connection, to acknowledge its peer's end again.
const REST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// SYN sent.
    #[default]
    Opening,
    Open,
    /// Both have finished, we first.
    Resting,
    Over,
}

/// What happened to a connection that its owner has not looked at yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    pub(super) opened: bool,
    /// The peer ended it, or it failed; nothing more will come of it.
    pub(super) over: Option<Cause>,
    /// The path seems to carry less than the interface.
    pub(super) guessed: Option<Narrow>,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    phase: Phase,
    sender: Sender,
    receiver: Receiver,
    initial: u32,
    peer_initial: u32,
    /// By which the peer's windows are shifted.
    scale: u8,
    /// What the interface can carry, less headers.
    mss: u16,
    /// The last segment that told the window: its place, and what it acknowledged.
    window_told: (u64, u64),
    ack_now: bool,
    ack_at: Option<Instant>,
    /// A reset is to leave, with this sequence number.
    reset_at: Option<u32>,
    /// A probe whether the peer is there.
    probe_due: bool,
    probes: u32,
    heard: Instant,
    /// Nobody has the stream any more: what comes of it is of no interest.
    is_orphan: bool,
    /// When an orphan, or a resting connection, is over.
    ends_at: Option<Instant>,
    news: News,
    sacks: Vec<(u64, u64)>,
}

impl Connection {
    /// Begins to connect, in place of whatever the connection was before.
    pub(super) fn open(&mut self, initial: u32, mss: u16, rtt: RoundTrip, now: Instant) {
        let (mut sender, mut receiver) =
            (std::mem::take(&mut self.sender), std::mem::take(&mut self.receiver));
        sender.reset(mss.into(), rtt, now);
        receiver.reset();
        let sacks = std::mem::take(&mut self.sacks);
        *self = Connection { sender, receiver, initial, mss, sacks, heard: now, ..Connection::default() };
    }

    /// Is open at once, by a handshake that the peer began. `mss`: what the interface can carry, less headers.
    pub(super) fn accept(&mut self, handshake: &Handshake, mss: u16, rtt: RoundTrip, now: Instant) {
        self.open(handshake.initial, mss, rtt, now);
        self.phase = Phase::Open;
        self.peer_initial = handshake.peer_initial;
        self.scale = handshake.scale.unwrap_or(0);
        self.sender.begin();
        self.sender.sack_permitted = handshake.sack_permitted;
        self.sender.mss = handshake.mss.min(mss).into();
        if let Some(took) = handshake.took {
            self.sender.rtt.sample(took);
        }
        self.window_told = (0, 1);
        self.news.opened = true;
    }

    /// Nothing more comes of it, not even a reset.
    pub(super) fn forget(&mut self) {
        self.end(None);
        self.reset_at = None;
    }

    /// It rests, and a SYN with that sequence number begins another one (RFC 9293 section 3.10.7.4).
    pub(super) fn makes_way_for(&self, seq: u32) -> bool {
        let next = self.peer_initial.wrapping_add(self.receiver.next as u32);
        self.phase == Phase::Resting && (seq.wrapping_sub(next) as i32) >= 0
    }

    /// Its packets have so many bytes before a segment's own, and of the path that much is known. After `open`.
    pub(super) fn follow_path(&mut self, headers: u32, known: Option<Narrow>, now: Instant) {
        self.sender.follow_path(headers, known, now);
    }

    /// A router says that the packet with the segment from `seq` on was too large, and how large one may be (0: it does
    /// not say). What the path carries, if that can be so and is news.
    pub(super) fn handle_too_big(&mut self, seq: u32, packet: u32, now: Instant) -> Option<Narrow> {
        if self.phase != Phase::Open {
            return None;
        }
        let start = Self::place(self.initial, seq, self.sender.acknowledged)?;
        self.sender.told(start, packet, now)
    }

    /// Somebody says that it cannot be reached. Only of a SYN that is under way: later it may be passing (RFC 5461).
    pub(super) fn handle_refusal(&mut self, seq: u32, errno: i32) {
        if self.phase == Phase::Opening && self.sender.next > 0 && seq == self.initial {
            self.end(Some(Cause::NotOpened(errno)));
        }
    }

    /// What has happened since it was last asked.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// It is of no use any more, not even to answer.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.reset_at.is_none()
    }

    /// It was closed, and its end has not arrived yet.
    pub(super) fn is_ending(&self) -> bool {
        self.phase == Phase::Open && self.is_orphan && !self.sender.has_finished()
    }

    /// All that was written has arrived.
    pub(super) fn is_drained(&self) -> bool {
        self.sender.is_drained() && self.phase != Phase::Opening
    }

    /// The peer has finished, and all it sent was taken.
    pub(super) fn peer_has_finished(&self) -> bool {
        self.receiver.is_over()
    }

    /// Bytes received that wait to be taken.
    pub(super) fn held(&self) -> usize {
        self.receiver.held()
    }

    /// So many may wait. Further ones count as lost.
    pub(super) fn hold_at_most(&mut self, bytes: usize) {
        self.receiver.held_max = bytes;
    }

    /// Nobody will take what waits.
    pub(super) fn drop_held(&mut self) {
        self.receiver.drop_held();
    }

    /// What was learnt of the path.
    pub(super) fn round_trip(&self) -> RoundTrip {
        self.sender.rtt
    }

    /// Segments that were sent again.
    pub(super) fn sent_again(&self) -> u64 {
        self.sender.again
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.sender.outbox.write(bytes);
    }

    /// Where the stream ends that was written so far.
    pub(super) fn written(&self) -> u64 {
        self.sender.outbox.end()
    }

    /// All before has arrived.
    pub(super) fn acknowledged(&self) -> u64 {
        self.sender.acknowledged
    }

    /// All before has been sent at least once.
    pub(super) fn sent(&self) -> u64 {
        self.sender.next
    }

    /// Extents must stay until what is written with them is `acknowledged`, or the connection is over.
    pub(super) fn write_body(&mut self, extent: Extent) {
        self.sender.outbox.write_body(extent);
    }

    /// Nothing more is written: a FIN follows what was.
    pub(super) fn finish(&mut self) {
        self.sender.finishing = true;
    }

    /// From now on nobody asks for what comes; it ends as soon as both sides have finished.
    pub(super) fn leave(&mut self, now: Instant) {
        self.finish();
        self.is_orphan = true;
        if self.phase != Phase::Over {
            self.ends_at = Some(now + ORPHAN_TIME_MAX);
            if self.receiver.has_waiting() {
                self.abort();
            }
        }
    }

    /// Nothing was written, or all of it has arrived.
    pub(super) fn has_nothing_to_send(&self) -> bool {
        self.sender.is_drained() || self.sender.outbox.end() == 1
    }

    /// Ends it with a reset; nothing that was written is read any more.
    pub(super) fn abort(&mut self) {
        if self.phase == Phase::Open {
            self.reset_at = Some(self.seq(self.sender.next));
        }
        self.end(None);
    }

    fn end(&mut self, cause: Option<Cause>) {
        self.phase = Phase::Over;
        (self.ack_now, self.ack_at, self.ends_at) = (false, None, None);
        if cause.is_some() && !self.is_orphan {
            self.news.over = cause;
        }
    }

    fn seq(&self, place: u64) -> u32 {
        self.initial.wrapping_add(place as u32)
    }

    /// A place in a stream from its sequence number, near a known place; `None`: before the stream.
    fn place(initial: u32, seq: u32, near: u64) -> Option<u64> {
        let distance = seq.wrapping_sub(initial.wrapping_add(near as u32)) as i32;
        near.checked_add_signed(distance.into())
    }

    /// A segment of this connection has come. `take` takes bytes of the stream, from the front, and says how many.
    pub(super) fn handle_segment(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        take: &mut impl FnMut(&[u8]) -> usize,
    ) {
        match self.phase {
            Phase::Opening => self.handle_opening(segment, now),
            Phase::Open => self.handle_open(segment, now, take),
            Phase::Resting if segment.has(FIN) => self.ack_now = true,
            Phase::Resting | Phase::Over => {}
        }
    }

    fn handle_opening(&mut self, segment: &Segment<'_>, now: Instant) {
        let acknowledged = Self::place(self.initial, segment.ack, 1);
        if segment.has(ACK) && acknowledged != Some(1) {
            // The peer remembers a connection that we do not.
            if !segment.has(RST) {
                self.reset_at = Some(segment.ack);
            }
            return;
        }
        if segment.has(RST) {
            if segment.has(ACK) {
                self.end(Some(Cause::NotOpened(libc::ECONNREFUSED)));
            }
            return;
        }
        if !segment.has(SYN) || !segment.has(ACK) || self.sender.next == 0 {
            return;
        }
        let options = segment.options;
        self.peer_initial = segment.seq;
        self.scale = options.scale.unwrap_or(0);
        self.sender.sack_permitted = options.sack_permitted;
        let theirs = options.mss.map_or(MSS_MIN, u32::from).max(64);
        self.sender.mss = theirs.min(self.mss.into());
        self.sender.handle_acknowledgement(1, &[], Some(1 + u64::from(segment.window)), false, now);
        self.window_told = (0, 1);
        self.phase = Phase::Open;
        self.heard = now;
        self.ack_now = true;
        self.news.opened = true;
    }

    fn handle_open(&mut self, segment: &Segment<'_>, now: Instant, take: &mut impl FnMut(&[u8]) -> usize) {
        let Some(start) = Self::place(self.peer_initial, segment.seq, self.receiver.next) else { return };
        let (next, window) = (self.receiver.next, u64::from(self.receiver.window()));
        let end = start + segment.sequence_len();
        let is_acceptable = if end == start {
            start >= next && start <= next + window
        } else {
            end > next && start < next + window
        };
        if segment.has(RST) {
            // RFC 5961 section 3.
            if start == next {
                self.end(Some(Cause::Failed(libc::ECONNRESET)));
            } else if is_acceptable {
                self.ack_now = true;
            }
            return;
        }
        self.heard = now;
        self.probes = 0;
        if segment.has(SYN) || !is_acceptable {
            self.ack_now = true;
            if !segment.payload.is_empty() && end <= next {
                self.receiver.handle(start, segment.payload, false, take);
            }
            return;
        }
        if !segment.has(ACK) || !self.handle_acknowledgement(segment, start, now) {
            return;
        }
        if self.is_orphan && !segment.payload.is_empty() && end > next {
            // Nobody will read it (RFC 2525 section 2.17).
            return self.abort();
        }
        if segment.sequence_len() > 0 {
            let arrival = self.receiver.handle(start, segment.payload, segment.has(FIN), take);
            let is_much = self.receiver.unacknowledged >= 2 * self.sender.mss;
            if arrival == Arrival::Odd || is_much || self.receiver.has_fin() {
                self.ack_now = true;
            } else {
                self.ack_at.get_or_insert(now + ACK_DELAY);
            }
        }
        self.finish_if_both_have(now);
    }

    /// False: the segment is to be dropped.
    fn handle_acknowledgement(&mut self, segment: &Segment<'_>, start: u64, now: Instant) -> bool {
        let sender = &self.sender;
        let Some(to) = Self::place(self.initial, segment.ack, sender.acknowledged) else { return false };
        if to > sender.next {
            self.ack_now = true;
            return false;
        }
        let is_news = to >= sender.acknowledged && (start, to) >= self.window_told;
        let window_end = to + (u64::from(segment.window) << self.scale);
        let is_bare = segment.sequence_len() == 0 && to == sender.acknowledged && window_end == sender.edge;
        if is_news {
            self.window_told = (start, to);
        }
        let mut sacks = std::mem::take(&mut self.sacks);
        sacks.clear();
        sacks.extend(segment.options.sacks().iter().filter_map(|&(from, until)| {
            let from = Self::place(self.initial, from, to)?;
            let until = Self::place(self.initial, until, to)?;
            (from < until && until <= self.sender.next).then_some((from, until))
        }));
        let to = to.max(self.sender.acknowledged);
        self.sender.handle_acknowledgement(to, &sacks, is_news.then_some(window_end), is_bare, now);
        self.sacks = sacks;
        true
    }

    fn finish_if_both_have(&mut self, now: Instant) {
        if !self.sender.has_finished() || !self.receiver.has_fin() || self.phase != Phase::Open {
            return;
        }
        if self.ack_now {
            // The peer's end is still to be acknowledged: ours came first.
            self.phase = Phase::Resting;
            self.ends_at = Some(now + REST);
        } else {
            self.end(None);
        }
    }

    /// Has `take` take what waited because it could not be taken.
    pub(super) fn take_waiting(&mut self, take: &mut impl FnMut(&[u8]) -> usize) {
        if self.receiver.has_waiting() && self.receiver.take_waiting(take) && self.phase == Phase::Open {
            self.ack_now = true;
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.receiver.has_waiting()
    }

    /// When `handle_deadline` is to be called.
    pub(super) fn next_deadline(&self) -> Instant {
        if self.phase == Phase::Over {
            return Instant::NEVER;
        }
        let keep_alive = if self.phase == Phase::Open && !self.is_orphan {
            self.heard + KEEP_ALIVE_AFTER + KEEP_ALIVE_EVERY * self.probes
        } else {
            Instant::NEVER
        };
        let own = [self.ack_at, self.ends_at].into_iter().flatten().min().unwrap_or(Instant::NEVER);
        own.min(keep_alive).min(self.sender.next_deadline())
    }

    /// Time has passed.
    pub(super) fn handle_deadline(&mut self, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        if self.ends_at.is_some_and(|at| at <= now) {
            return if self.phase == Phase::Open && !self.sender.has_finished() {
                self.abort()
            } else {
                self.end(None)
            };
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.ack_now = true;
        }
        let goes_on = self.sender.handle_deadline(now);
        self.news.guessed = self.sender.guessed.take().or(self.news.guessed);
        if !goes_on {
            let cause = match self.phase {
                Phase::Opening => Cause::NotOpened(libc::ETIMEDOUT),
                _ => Cause::Failed(libc::ETIMEDOUT),
            };
            return self.end(Some(cause));
        }
        let is_silent = self.heard + KEEP_ALIVE_AFTER + KEEP_ALIVE_EVERY * self.probes <= now;
        if self.phase == Phase::Open && !self.is_orphan && is_silent {
            if self.probes == KEEP_ALIVE_PROBES {
                return self.end(Some(Cause::Failed(libc::ETIMEDOUT)));
            }
            self.probes += 1;
            self.probe_due = true;
        }
    }

    /// It could not be reached at all: there is no such neighbour.
    pub(super) fn handle_unreachable(&mut self) {
        if self.phase == Phase::Opening {
            self.end(Some(Cause::NotOpened(libc::EHOSTUNREACH)));
        }
    }

    /// What was sent so far may not even have left.
    pub(super) fn send_again_now(&mut self) {
        if self.phase != Phase::Over {
            self.sender.send_again_now();
        }
    }

    /// The next segment that is to leave now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        if let Some(seq) = self.reset_at.take() {
            // To an acknowledgement of what we never sent: as its sequence numbers have it, without one of ours.
            let flags = if self.phase == Phase::Opening { RST } else { RST | ACK };
            return Some(self.outgoing(seq, flags, OptionBytes::NONE));
        }
        match self.phase {
            Phase::Over => None,
            Phase::Resting => std::mem::take(&mut self.ack_now).then(|| self.acknowledgement()),
            Phase::Opening => {
                let part = self.sender.poll(now)?;
                let mut syn = self.outgoing(self.seq(part.start), SYN, OptionBytes::of_syn(self.mss, SCALE));
                (syn.ack, syn.window) = (0, self.receiver.window().min(u16::MAX.into()) as u16);
                Some(syn)
            }
            Phase::Open => self.poll_open(now),
        }
    }

    fn poll_open(&mut self, now: Instant) -> Option<Outgoing> {
        let Some(part) = self.sender.poll(now) else {
            if std::mem::take(&mut self.probe_due) {
                // One before what is next: the peer must say what it has.
                let mut probe = self.acknowledgement();
                probe.seq = self.seq(self.sender.acknowledged.saturating_sub(1));
                return Some(probe);
            }
            return std::mem::take(&mut self.ack_now).then(|| self.acknowledgement());
        };
        let end = self.sender.outbox.end();
        let has_fin = part.end > end;
        let len = (part.end.min(end) - part.start) as usize;
        let mut flags = ACK;
        if has_fin {
            flags |= FIN;
        }
        if part.end >= end && len > 0 {
            flags |= PSH;
        }
        let options = self.sack_options((self.sender.segment_max() as usize).saturating_sub(len));
        Some(Outgoing { start: part.start, len, ..self.outgoing(self.seq(part.start), flags, options) })
    }

    fn acknowledgement(&mut self) -> Outgoing {
        let options = self.sack_options(usize::MAX);
        self.outgoing(self.seq(self.sender.next), ACK, options)
    }

    /// What came early is told as far as there is room for it.
    fn sack_options(&mut self, room: usize) -> OptionBytes {
        if !self.receiver.has_sacks() || !self.sender.sack_permitted || room < 28 {
            return OptionBytes::NONE;
        }
        self.receiver.sacks(&mut self.sacks);
        let mut blocks = [(0, 0); 3];
        let count = self.sacks.len().min(3);
        for (block, &(start, end)) in blocks.iter_mut().zip(&self.sacks) {
            let seq = |place: u64| self.peer_initial.wrapping_add(place as u32);
            *block = (seq(start), seq(end));
        }
        OptionBytes::of_sacks(&blocks[..count])
    }

    fn outgoing(&mut self, seq: u32, flags: u8, options: OptionBytes) -> Outgoing {
        let edge = self.receiver.edge.max(self.receiver.next + u64::from(self.receiver.window()));
        self.receiver.edge = edge;
        let window = (edge - self.receiver.next) >> SCALE;
        if flags & ACK != 0 {
            (self.ack_now, self.ack_at) = (false, None);
            self.receiver.unacknowledged = 0;
        }
        Outgoing {
            seq,
            ack: if flags & ACK == 0 { 0 } else { self.peer_initial.wrapping_add(self.receiver.next as u32) },
            flags,
            window: window.min(u16::MAX.into()) as u16,
            options,
            start: 0,
            len: 0,
        }
    }

    /// Copies the bytes that a segment of ours carries.
    pub(super) fn copy(&self, outgoing: &Outgoing, to: &mut [u8], buffers: &impl Buffers) {
        if outgoing.len > 0 {
            self.sender.outbox.copy(outgoing.start, to, buffers);
        }
    }
}

/// The reset that answers a segment of no connection of ours (RFC 9293 section 3.10.7.1); `None`: it is one itself.
pub(super) fn reset_for(segment: &Segment<'_>) -> Option<Outgoing> {
    if segment.has(RST) {
        return None;
    }
    let (seq, ack, flags) = if segment.has(ACK) {
        (segment.ack, 0, RST)
    } else {
        (0, segment.seq.wrapping_add(segment.sequence_len() as u32), RST | ACK)
    };
    Some(Outgoing { seq, ack, flags, window: 0, options: OptionBytes::NONE, start: 0, len: 0 })
}
