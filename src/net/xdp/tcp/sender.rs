//! The sending half: what is under way, what is lost, what may leave next.
//!
//! Places in the stream are counted from the SYN, which is at 0, in 64 bits; the wire's 32 are made from them. Loss is
//! found by time, from what was sent later and has arrived (RACK, RFC 8985, fed by SACK, RFC 2018), by a probe of the
//! tail, and last by waiting too long. A peer that says that something came twice (D-SACK, RFC 2883) has the window
//! given back that was taken for it.

use std::collections::VecDeque;
use std::time::Duration;

use super::cubic::Cubic;
use super::outbox::Outbox;
use super::rtt::RoundTrip;
use super::width::{Narrow, Width};
use crate::time::Instant;

/// Waits in vain before the peer counts as gone: with waits of at most half a minute, some two minutes.
const WAITS_MAX: u32 = 10;
/// Every second such wait with whole segments may mean that the path does not carry them (RFC 4821 section 7.7)…
const WAITS_OF_WHOLE_SEGMENTS: u32 = 2;
/// …and every sixth if such ones have arrived before: then they are rather lost as any are.
const WAITS_OF_PROVEN_SEGMENTS: u32 = 6;
/// What a peer takes that does not say (RFC 9293 section 3.7.1).
pub(super) const MSS_MIN: u32 = 536;
/// Arrivals behind a gap that mean a loss, to peers without SACK too (RFC 5681).
const DUPLICATES: u32 = 3;

/// Something under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    start: u64,
    end: u64,
    at: Instant,
    again: bool,
    has_arrived: bool,
    is_lost: bool,
}

impl Sent {
    fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// What is to leave next: a part of the stream, perhaps with its first or last control bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Undo {
    cubic: Cubic,
    again: u32,
}

#[derive(Debug, Default)]
pub(super) struct Sender {
    pub(super) outbox: Outbox,
    /// All before has arrived in order.
    pub(super) acknowledged: u64,
    /// All before has been sent at least once.
    pub(super) next: u64,
    /// The stream ends where the outbox does, with a FIN there.
    pub(super) finishing: bool,
    /// The peer takes nothing beyond.
    pub(super) edge: u64,
    /// The largest window it ever offered.
    window_max: u64,
    /// What the peer and the interface take of a segment.
    pub(super) mss: u32,
    /// And the path between.
    width: Width,
    /// The largest segment that has arrived, since the path was thought to be as it is.
    proven: u32,
    /// It was guessed to be narrow, and nobody has been told yet.
    pub(super) guessed: Option<Narrow>,
    pub(super) sack_permitted: bool,
    sent: VecDeque<Sent>,
    /// Bytes sent that have neither arrived nor are lost.
    under_way: u64,
    lost: u32,
    arrived_early: u32,
    duplicates: u32,
    pub(super) rtt: RoundTrip,
    cubic: Cubic,
    /// Of all that has arrived, what was sent last: when, where it ends, how long it took.
    newest: Option<(Instant, u64, Duration)>,
    /// The end of what has arrived, in order or not.
    furthest: u64,
    reorders: bool,
    /// Recovering from a loss until all before this has arrived.
    recovery: Option<u64>,
    /// It began with a wait in vain, so that the window is to grow again.
    is_slow: bool,
    undo: Option<Undo>,
    /// Waits in vain since something arrived, and since anything was heard.
    waits: u32,
    silent_waits: u32,
    retransmit_at: Option<Instant>,
    reorder_at: Option<Instant>,
    probe_at: Option<Instant>,
    /// What was under way when a probe of the tail was sent, until it has arrived.
    probed: Option<u64>,
    probe_due: bool,
    /// One byte beyond the peer's window is due, to ask whether it is still closed.
    ask_due: bool,
    ask_at: Option<Instant>,
    asks: u32,
    last_sent: Instant,
    /// Segments sent again.
    pub(super) again: u64,
}

impl Sender {
    /// As new, for a connection whose SYN is next.
    pub(super) fn reset(&mut self, mss: u32, rtt: RoundTrip, now: Instant) {
        let (mut outbox, mut sent) = (std::mem::take(&mut self.outbox), std::mem::take(&mut self.sent));
        outbox.reset(1);
        sent.clear();
        *self = Sender { outbox, sent, mss, rtt, edge: 1, last_sent: now, ..Sender::default() };
    }

    /// The SYN was sent and has arrived.
    pub(super) fn begin(&mut self) {
        (self.acknowledged, self.next, self.furthest) = (1, 1, 1);
    }

    /// Nothing that was written is still needed.
    pub(super) fn is_drained(&self) -> bool {
        self.acknowledged >= self.outbox.end()
    }

    /// The FIN was sent and has arrived.
    pub(super) fn has_finished(&self) -> bool {
        self.finishing && self.acknowledged > self.outbox.end()
    }

    /// The FIN was sent.
    pub(super) fn has_sent_fin(&self) -> bool {
        self.finishing && self.next > self.outbox.end()
    }

    pub(super) fn next_deadline(&self) -> Instant {
        let all = [self.retransmit_at, self.reorder_at, self.probe_at, self.ask_at];
        all.into_iter().flatten().min().unwrap_or(Instant::NEVER)
    }

    /// The peer acknowledges all before `to`, and what `sacks` say; `window_end`: where its window ends, if that is news.
    /// `is_bare`: the segment carried nothing and left the window as it was.
    pub(super) fn handle_acknowledgement(
        &mut self,
        to: u64,
        sacks: &[(u64, u64)],
        window_end: Option<u64>,
        is_bare: bool,
        now: Instant,
    ) {
        self.silent_waits = 0;
        if let Some(end) = window_end {
            if self.next >= self.edge && end > self.edge {
                (self.waits, self.retransmit_at) = (0, None);
            }
            self.window_max = self.window_max.max(end - to);
            if end > self.edge || end < self.edge && to >= self.acknowledged {
                self.edge = end;
                (self.ask_at, self.asks) = (None, 0);
            }
        }
        let mss = self.segment_max();
        let was_limited = self.under_way + u64::from(mss) > self.cubic.bytes(mss.into());
        let progress = to.saturating_sub(self.acknowledged);
        let mut sample = None;
        let mut arrived = self.take_acknowledged(to, now, &mut sample);
        let spurious = self.sack_permitted && self.is_duplicate(to, sacks);
        arrived += self.take_sacks(sacks, now, &mut sample);
        if let Some(took) = sample {
            self.rtt.sample(took);
        }
        if spurious {
            self.on_spurious();
        }
        if progress > 0 {
            (self.waits, self.duplicates) = (0, 0);
            self.retransmit_at = None;
            self.probe_at = None;
            self.probed = self.probed.filter(|&probed| probed > self.acknowledged);
        } else if is_bare && !self.sent.is_empty() {
            self.duplicates += 1;
        }
        if self.recovery.is_some_and(|until| self.acknowledged >= until) {
            self.recovery = None;
        }
        self.find_losses(progress, now);
        if (self.recovery.is_none() || self.is_slow) && arrived > 0 && was_limited {
            self.cubic.arrived(arrived as f64 / f64::from(mss), now, self.rtt.smoothed());
        }
        self.set_timers(now);
    }

    /// Forgets what lies before `to`; how many bytes of it have arrived only now.
    fn take_acknowledged(&mut self, to: u64, now: Instant, sample: &mut Option<Duration>) -> u64 {
        let mut arrived = 0;
        while let Some(front) = self.sent.front_mut().filter(|front| front.start < to) {
            let whole = front.end <= to;
            let len = if whole { front.len() } else { to - front.start };
            let sent = *front;
            if whole {
                self.sent.pop_front();
            } else {
                front.start = to;
            }
            if sent.has_arrived {
                self.arrived_early -= u32::from(whole);
                continue;
            }
            arrived += len;
            if !sent.is_lost {
                self.under_way -= len;
            } else if whole {
                self.lost -= 1;
            }
            if whole {
                self.on_arrived(sent, now, sample);
            }
        }
        if to > self.acknowledged {
            self.acknowledged = to;
            self.furthest = self.furthest.max(to);
            self.outbox.acknowledge(to.min(self.outbox.end()));
        }
        arrived
    }

    fn take_sacks(&mut self, sacks: &[(u64, u64)], now: Instant, sample: &mut Option<Duration>) -> u64 {
        let mut arrived = 0;
        let acknowledged = self.acknowledged;
        for &(start, end) in sacks.iter().filter(|(_, end)| *end > acknowledged) {
            for at in 0..self.sent.len() {
                let sent = &mut self.sent[at];
                if sent.start >= end {
                    break;
                }
                if sent.has_arrived || sent.start < start || sent.end > end {
                    continue;
                }
                sent.has_arrived = true;
                arrived += sent.len();
                if std::mem::take(&mut sent.is_lost) {
                    self.lost -= 1;
                } else {
                    self.under_way -= sent.len();
                }
                self.arrived_early += 1;
                let sent = *sent;
                self.on_arrived(sent, now, sample);
            }
        }
        arrived
    }

    fn on_arrived(&mut self, sent: Sent, now: Instant, sample: &mut Option<Duration>) {
        let took = now.since(sent.at);
        self.proven = self.proven.max(sent.len() as u32);
        if !sent.again {
            // Of several the one sent last: the others waited for it at the receiver.
            *sample = Some(sample.map_or(took, |other| other.min(took)));
            self.reorders |= sent.end < self.furthest && self.arrived_early > 0;
        }
        self.furthest = self.furthest.max(sent.end);
        // So soon, it was the first one that arrived.
        let is_doubtful = sent.again && took.as_nanos() < u128::from(self.rtt.shortest);
        if !is_doubtful && self.newest.is_none_or(|(at, end, _)| (at, end) < (sent.at, sent.end)) {
            self.newest = Some((sent.at, sent.end, took));
        }
    }

    /// The first block says what came twice (RFC 2883 section 4).
    fn is_duplicate(&self, to: u64, sacks: &[(u64, u64)]) -> bool {
        match *sacks {
            [first, ..] if first.1 <= to => true,
            [first, second, ..] => first.0 >= second.0 && first.1 <= second.1,
            _ => false,
        }
    }

    fn on_spurious(&mut self) {
        self.rtt.too_early();
        if let Some(undo) = self.undo.as_mut() {
            undo.again = undo.again.saturating_sub(1);
            if undo.again == 0 {
                self.cubic = undo.cubic;
                self.undo = None;
                self.recovery = None;
            }
        }
    }

    /// Marks what must be lost, and begins to recover if something new is.
    fn find_losses(&mut self, progress: u64, now: Instant) {
        self.reorder_at = None;
        let before = self.lost;
        if self.sack_permitted {
            if self.arrived_early > 0 || self.recovery.is_some() {
                self.find_by_time(now);
            }
        } else if self.duplicates == DUPLICATES || self.recovery.is_some() && progress > 0 {
            self.mark_lost(0);
        }
        if self.lost > before && self.recovery.is_none() {
            self.undo = Some(Undo { cubic: self.cubic, again: 0 });
            self.cubic.lost();
            (self.recovery, self.is_slow) = (Some(self.next), false);
        }
    }

    fn find_by_time(&mut self, now: Instant) {
        let Some((newest_at, newest_end, took)) = self.newest else { return };
        let is_sure = !self.reorders && (self.recovery.is_some() || self.arrived_early >= DUPLICATES);
        let slack = if is_sure {
            Duration::ZERO
        } else {
            Duration::from_nanos(self.rtt.shortest.min(1 << 40) / 4).min(self.rtt.smoothed())
        };
        let mut soonest = None;
        for at in 0..self.sent.len() {
            let sent = self.sent[at];
            if sent.has_arrived || sent.is_lost || (sent.at, sent.end) >= (newest_at, newest_end) {
                continue;
            }
            let due = sent.at + took + slack;
            if due <= now {
                self.mark_lost(at);
            } else {
                soonest = Some(soonest.map_or(due, |other: Instant| other.min(due)));
            }
        }
        self.reorder_at = soonest;
    }

    fn mark_lost(&mut self, at: usize) {
        if let Some(sent) = self.sent.get_mut(at).filter(|sent| !sent.is_lost && !sent.has_arrived) {
            sent.is_lost = true;
            self.lost += 1;
            self.under_way -= sent.len();
        }
    }

    fn set_timers(&mut self, now: Instant) {
        if self.sent.is_empty() {
            (self.retransmit_at, self.probe_at, self.reorder_at) = (None, None, None);
            let waits_for_window = self.outbox.end() > self.next || self.finishing && !self.has_sent_fin();
            if waits_for_window && self.next >= self.edge && self.acknowledged > 0 {
                self.ask_at.get_or_insert(now + self.rtt.wait(self.asks));
            }
            return;
        }
        self.retransmit_at.get_or_insert(now + self.rtt.wait(self.waits));
        let may_probe = self.sack_permitted
            && self.sent.len() > 1
            && self.recovery.is_none()
            && self.probed.is_none()
            && self.waits == 0;
        if !may_probe {
            self.probe_at = None;
        } else if self.probe_at.is_none() {
            let tail = self.rtt.tail_wait().map(|wait| now + wait);
            self.probe_at = tail.filter(|&at| Some(at) < self.retransmit_at);
        }
    }

    /// Time has passed. False: the peer has been silent for too long.
    pub(super) fn handle_deadline(&mut self, now: Instant) -> bool {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.reorder_at) {
            self.find_losses(0, now);
            self.set_timers(now);
        }
        if is_due(self.probe_at) {
            self.probe_at = None;
            self.probed = Some(self.next);
            self.probe_due = true;
            // The answer to the probe is waited for anew (RFC 8985 section 7.3): a wait in vain would close the window.
            self.retransmit_at = Some(now + self.rtt.wait(0));
        }
        if is_due(self.ask_at) {
            self.ask_at = None;
            self.asks += 1;
            self.ask_due = true;
        }
        if is_due(self.retransmit_at) {
            self.retransmit_at = None;
            if self.silent_waits >= WAITS_MAX {
                return false;
            }
            self.on_wait_in_vain(now);
            self.set_timers(now);
        }
        true
    }

    fn on_wait_in_vain(&mut self, now: Instant) {
        self.waits += 1;
        self.silent_waits += 1;
        if self.waits == 1 && self.recovery.is_none() {
            self.undo = Some(Undo { cubic: self.cubic, again: 0 });
        }
        // A closed window is no sign of a full path.
        if self.sent.front().is_some_and(|sent| sent.start < self.edge) {
            self.cubic.timed_out();
        }
        let mss = self.segment_max();
        let whole = self.sent.front().is_some_and(|sent| sent.len() >= u64::from(mss));
        let patience = if mss > self.proven { WAITS_OF_WHOLE_SEGMENTS } else { WAITS_OF_PROVEN_SEGMENTS };
        if whole && self.waits.is_multiple_of(patience) {
            self.proven = 0;
            self.guessed = self.width.guess(mss, now).or(self.guessed);
        }
        (0..self.sent.len()).for_each(|at| self.mark_lost(at));
        (self.recovery, self.is_slow) = (Some(self.next), true);
        (self.probed, self.probe_due, self.probe_at, self.reorder_at) = (None, false, None, None);
    }

    /// The path's neighbour was not known, and is now: what was sent in vain goes at once.
    pub(super) fn send_again_now(&mut self) {
        self.retransmit_at = None;
        (0..self.sent.len()).for_each(|at| self.mark_lost(at));
        (self.waits, self.recovery) = (0, None);
    }

    /// Most bytes of a segment.
    pub(super) fn segment_max(&self) -> u32 {
        self.mss.min(self.width.limit)
    }

    /// Of the path that much is known; packets have so many bytes before a segment's own.
    pub(super) fn follow_path(&mut self, headers: u32, known: Option<Narrow>, now: Instant) {
        self.width = Width::new(headers, known, now);
        self.cut(now);
    }

    /// A router says that the segment from `start` on was in a packet that is too large, and how large one may be. What
    /// that is if it can be so: the segment is under way (RFC 5927 section 7.1), and larger.
    pub(super) fn told(&mut self, start: u64, packet: u32, now: Instant) -> Option<Narrow> {
        let sent = self.sent.iter().find(|sent| sent.start == start && !sent.has_arrived)?;
        let narrow = self.width.told(packet, sent.len() as u32, now)?;
        self.cut(now);
        Some(narrow)
    }

    /// What is under way and does not fit is lost, though not because the path is full.
    fn cut(&mut self, now: Instant) {
        let limit = u64::from(self.segment_max());
        let before = self.lost;
        for at in 0..self.sent.len() {
            if self.sent[at].len() > limit {
                self.mark_lost(at);
            }
        }
        if self.lost > before {
            (self.waits, self.retransmit_at) = (0, None);
            self.set_timers(now);
        }
    }

    /// What leaves next, if anything may. It counts as sent.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Part> {
        let part = self.lost_part(now).or_else(|| self.new_part(now)).or_else(|| self.probe_part(now))?;
        self.last_sent = now;
        self.set_timers(now);
        Some(part)
    }

    fn may_send(&self, len: u64) -> bool {
        self.under_way == 0 || self.under_way + len <= self.cubic.bytes(self.segment_max().into())
    }

    fn lost_part(&mut self, now: Instant) -> Option<Part> {
        if self.lost == 0 {
            return None;
        }
        let at = self.sent.iter().position(|sent| sent.is_lost)?;
        let (mss, len) = (u64::from(self.segment_max()), self.sent[at].len());
        // The path has got narrower since it was sent.
        if len > mss && self.sent[at].start > 0 {
            let first = self.sent[at];
            let middle = first.start + mss;
            self.sent[at].end = middle;
            self.sent.insert(at + 1, Sent { start: middle, ..first });
            self.lost += 1;
        }
        if !self.may_send(self.sent[at].len()) {
            return None;
        }
        Some(self.send_again(at, now))
    }

    fn send_again(&mut self, at: usize, now: Instant) -> Part {
        let sent = &mut self.sent[at];
        if std::mem::take(&mut sent.is_lost) {
            self.lost -= 1;
            self.under_way += sent.len();
        }
        (sent.again, sent.at) = (true, now);
        self.again += 1;
        if let Some(undo) = self.undo.as_mut() {
            undo.again += 1;
        }
        Part { start: sent.start, end: sent.end }
    }

    fn new_part(&mut self, now: Instant) -> Option<Part> {
        if self.next == 0 {
            return Some(self.send(1, now));
        }
        if self.acknowledged == 0 {
            return None;
        }
        if self.sent.is_empty() {
            let rests = now.since(self.last_sent).as_nanos() / self.rtt.rest().as_nanos();
            if rests > 0 {
                self.cubic.rested(rests.min(u32::MAX.into()) as u32);
            }
        }
        self.width.widen(now);
        let (mss, end) = (u64::from(self.segment_max()), self.outbox.end());
        let waiting = end.saturating_sub(self.next);
        if waiting == 0 {
            // The FIN alone; it needs no room in a window.
            let owed = self.finishing && self.next == end;
            return owed.then(|| self.send(end + 1, now));
        }
        let wanted = waiting.min(mss);
        let room = self.edge.saturating_sub(self.next);
        if wanted > room {
            // Not a little at a time (RFC 9293 section 3.8.6.2.1), but what a closed window is asked with.
            let is_worth_it = room > 0 && 2 * room >= self.window_max;
            if !is_worth_it {
                let ask = std::mem::take(&mut self.ask_due);
                let end = self.next + room.max(u64::from(ask));
                return (ask || room > 0 && self.sent.is_empty()).then(|| self.send(end, now));
            }
        }
        let len = wanted.min(room);
        self.ask_due = false;
        if !self.may_send(len) {
            return None;
        }
        let fin = u64::from(self.finishing && self.next + len == end);
        Some(self.send(self.next + len + fin, now))
    }

    fn send(&mut self, end: u64, now: Instant) -> Part {
        let start = self.next;
        self.sent.push_back(Sent { start, end, at: now, again: false, has_arrived: false, is_lost: false });
        self.under_way += end - start;
        self.next = end;
        // The tail is another one now.
        self.probe_at = None;
        Part { start, end }
    }

    fn probe_part(&mut self, now: Instant) -> Option<Part> {
        if !std::mem::take(&mut self.probe_due) {
            return None;
        }
        let at = self.sent.iter().rposition(|sent| !sent.has_arrived)?;
        Some(self.send_again(at, now))
    }
}
