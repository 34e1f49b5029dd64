//! The listening side: from a SYN to a connection (RFC 9293 section 3.10.7, RFC 4987).
//!
//! What a SYN says is kept in a backlog until its sender has answered ours, which is sent again meanwhile. The backlog
//! is bounded. When it is full a SYN leaves nothing behind: what it said goes into the initial sequence number of the
//! answer, a cookie that comes back with the peer's acknowledgement.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::receiver::{SCALE, WINDOW_BYTES};
use super::segment::{ACK, OptionBytes, Outgoing, RST, SYN, Segment};
use super::sender::MSS_MIN;
use crate::time::{Deadlines, Instant};

/// An unanswered SYN is answered again after these waits, and forgotten after the last one.
const WAITS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// A cookie is good for one to two of these.
const COOKIE_PERIOD: Duration = Duration::from_secs(32);
/// Segment sizes that a cookie can tell apart; the largest not above the peer's counts.
const COOKIE_SIZES: [u16; 8] = [256, MSS_MIN as u16, 1_220, 1_300, 1_400, 1_440, 1_460, 8_940];
/// A cookie's lowest bits say what the peer's SYN said, the rest proves that we wrote it.
const COOKIE_FACTS_BITS: u32 = 8;
/// In the place of a cookie's window scale: there was none.
const NO_SCALE: u8 = 15;

/// Who speaks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

impl Hash for Pair {
    /// In few steps, as it is done for every segment.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u32::from(self.local.port()) << 16 | u32::from(self.remote.port());
        match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                state.write_u64(u64::from(u32::from(local)) << 32 | u64::from(u32::from(remote)));
            }
            (local, remote) => {
                for address in [local, remote] {
                    let IpAddr::V6(address) = address else { continue };
                    state.write_u128(address.into());
                }
            }
        }
        state.write_u32(ports);
    }
}

/// What both sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handshake {
    pub(crate) initial: u32,
    pub(crate) peer_initial: u32,
    /// Largest segment that the peer takes.
    pub(crate) mss: u16,
    /// By which the peer's windows are shifted; `None`: nobody's are.
    pub(crate) scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    /// How long the peer took to answer, where that is known.
    pub(crate) took: Option<Duration>,
}

impl Handshake {
    fn of_syn(initial: u32, segment: &Segment<'_>) -> Handshake {
        Handshake {
            initial,
            peer_initial: segment.seq,
            mss: segment.options.mss.unwrap_or(MSS_MIN as u16).max(64),
            scale: segment.options.scale,
            sack_permitted: segment.options.sack_permitted,
            took: None,
        }
    }

    /// Our answer to the SYN, if we take segments of that size.
    fn answer(&self, mss: u16) -> Outgoing {
        Outgoing {
            seq: self.initial,
            ack: self.peer_initial.wrapping_add(1),
            flags: SYN | ACK,
            window: WINDOW_BYTES.min(u16::MAX.into()) as u16,
            options: OptionBytes::of_answer(mss, self.scale.map(|_| SCALE), self.sack_permitted),
            start: 0,
            len: 0,
        }
    }

    /// It acknowledges our SYN, and its place is at the beginning of the peer's stream.
    fn is_completed_by(&self, segment: &Segment<'_>) -> bool {
        let ahead = segment.seq.wrapping_sub(self.peer_initial.wrapping_add(1));
        segment.ack == self.initial.wrapping_add(1) && ahead <= u16::MAX.into()
    }
}

/// A SYN that was answered.
#[derive(Clone, Copy, Debug)]
struct HalfOpen<W> {
    pair: Pair,
    handshake: Handshake,
    mss: u16,
    /// The way back to the peer.
    way: W,
    answered_at: Instant,
    answers: usize,
}

/// What became of a segment that belongs to no connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// There is a connection now; the segment is its first.
    Connected(Handshake),
    /// It was dealt with.
    Done,
    /// It is nobody's.
    Stranger,
}

/// SYNs that wait for their senders' acknowledgement. `W`: what the way back to a peer is written as.
#[derive(Debug)]
pub(crate) struct Backlog<W> {
    max: usize,
    all: Vec<Option<HalfOpen<W>>>,
    free: Vec<u32>,
    by_pair: HashMap<Pair, u32>,
    deadlines: Deadlines,
    /// For cookies. All shards have the same, as a peer's answer may come to another one.
    secret: RandomState,
    /// A cookie may come back until then.
    cookies_until: Instant,
    /// Cookies sent, and those that came back.
    pub(crate) cookies: (u64, u64),
}

impl<W: Copy> Backlog<W> {
    /// An empty one, for so many SYNs.
    pub(crate) fn new(max: usize, secret: RandomState) -> Backlog<W> {
        Backlog {
            max,
            all: Vec::new(),
            free: Vec::new(),
            by_pair: HashMap::new(),
            deadlines: Deadlines::default(),
            secret,
            cookies_until: Instant::default(),
            cookies: (0, 0),
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.by_pair.len()
    }

    /// Answers a SYN. `initial`: a sequence number to begin with; `mss`: the largest segment that we take. `None`: there
    /// is no answer to give.
    pub(crate) fn handle_syn(
        &mut self,
        pair: Pair,
        segment: &Segment<'_>,
        way: W,
        (initial, mss): (u32, u16),
        now: Instant,
    ) -> Option<Outgoing> {
        if let Some(&slot) = self.by_pair.get(&pair) {
            if let Some(known) = &self.all[slot as usize]
                && known.handshake.peer_initial == segment.seq
            {
                return Some(known.handshake.answer(known.mss));
            }
            // Its sender has begun anew.
            self.forget(slot);
        }
        let handshake = Handshake::of_syn(initial, segment);
        if self.by_pair.len() < self.max {
            self.keep(HalfOpen { pair, handshake, mss, way, answered_at: now, answers: 1 }, now);
            return Some(handshake.answer(mss));
        }
        let facts = Self::facts_of(&handshake)?;
        let initial = self.cookie(pair, segment.seq, facts, Self::period(now));
        self.cookies_until = now + 2 * COOKIE_PERIOD;
        self.cookies.0 += 1;
        Some(Handshake { initial, ..handshake }.answer(mss))
    }

    /// Takes in a segment that is no SYN and belongs to no connection.
    pub(crate) fn handle_other(&mut self, pair: Pair, segment: &Segment<'_>, now: Instant) -> Answer {
        let Some(&slot) = self.by_pair.get(&pair) else { return self.handle_cookie(pair, segment, now) };
        let Some(known) = self.all[slot as usize] else { return Answer::Stranger };
        if segment.has(RST) {
            if segment.seq == known.handshake.peer_initial.wrapping_add(1) {
                self.forget(slot);
            }
            return Answer::Done;
        }
        if !segment.has(ACK) || segment.has(SYN) || !known.handshake.is_completed_by(segment) {
            return Answer::Stranger;
        }
        self.forget(slot);
        let took = (known.answers == 1).then(|| now.since(known.answered_at));
        Answer::Connected(Handshake { took, ..known.handshake })
    }

    fn handle_cookie(&mut self, pair: Pair, segment: &Segment<'_>, now: Instant) -> Answer {
        if now >= self.cookies_until || !segment.has(ACK) || segment.has(SYN) || segment.has(RST) {
            return Answer::Stranger;
        }
        let (cookie, peer_initial) = (segment.ack.wrapping_sub(1), segment.seq.wrapping_sub(1));
        let (facts, period) = (cookie as u8, Self::period(now));
        let is_ours = [period, period.wrapping_sub(1)]
            .iter()
            .any(|&period| self.cookie(pair, peer_initial, facts, period) == cookie);
        if !is_ours {
            return Answer::Stranger;
        }
        self.cookies.1 += 1;
        let scale = facts >> 4;
        Answer::Connected(Handshake {
            initial: cookie,
            peer_initial,
            mss: COOKIE_SIZES[usize::from(facts & 7)],
            scale: (scale != NO_SCALE).then_some(scale),
            sack_permitted: facts & 8 != 0,
            took: None,
        })
    }

    fn period(now: Instant) -> u64 {
        now.as_nanos() / COOKIE_PERIOD.as_nanos() as u64
    }

    /// What a cookie says of the peer's SYN; `None`: it takes smaller segments than can be said.
    fn facts_of(handshake: &Handshake) -> Option<u8> {
        let size = COOKIE_SIZES.partition_point(|&size| size <= handshake.mss).checked_sub(1)?;
        let scale = handshake.scale.unwrap_or(NO_SCALE);
        Some(size as u8 | u8::from(handshake.sack_permitted) << 3 | scale << 4)
    }

    fn cookie(&self, pair: Pair, peer_initial: u32, facts: u8, period: u64) -> u32 {
        let proof = self.secret.hash_one((pair, peer_initial, facts, period)) as u32;
        proof << COOKIE_FACTS_BITS | u32::from(facts)
    }

    fn keep(&mut self, half_open: HalfOpen<W>, now: Instant) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        self.by_pair.insert(half_open.pair, slot);
        self.all[slot as usize] = Some(half_open);
        self.deadlines.set(slot as usize, now + WAITS[0]);
    }

    fn forget(&mut self, slot: u32) {
        if let Some(half_open) = self.all[slot as usize].take() {
            self.by_pair.remove(&half_open.pair);
            self.deadlines.set(slot as usize, Instant::NEVER);
            self.free.push(slot);
        }
    }

    /// Forgets those that are for an address that nobody listens at any more.
    pub(crate) fn forget_at(&mut self, is_gone: impl Fn(SocketAddr) -> bool) {
        for slot in 0..self.all.len() as u32 {
            if self.all[slot as usize].as_ref().is_some_and(|half_open| is_gone(half_open.pair.local)) {
                self.forget(slot);
            }
        }
    }

    /// When `handle_deadline` is to be called.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.deadlines.next()
    }

    /// Time has passed: an answer that is to be sent again, until there is none. While more than half of the places are
    /// taken none is, and they are given up sooner: most are of nobody who would answer.
    pub(crate) fn handle_deadline(&mut self, now: Instant) -> Option<(Pair, W, Outgoing)> {
        let is_pressed = self.len() > self.max / 2;
        while let Some(slot) = self.deadlines.pop_expired(now) {
            let Some(half_open) = self.all[slot].as_mut() else { continue };
            let waits = half_open.answers;
            if waits == WAITS.len() || is_pressed && waits > 1 {
                self.forget(slot as u32);
                continue;
            }
            half_open.answers += 1;
            let again = (half_open.pair, half_open.way, half_open.handshake.answer(half_open.mss));
            self.deadlines.set(slot, now + WAITS[waits]);
            if !is_pressed {
                return Some(again);
            }
        }
        None
    }
}
