//! What senders ask about time: from when on a message may go (RFC 4865), and by when it is wanted (RFC 2852). Both are
//! counted from when it came, by the calendar.

use super::index::{Timed, flag};
use super::{EncodedEnvelope, EntryId, Spool, meta};
use crate::protocol::wire::later::{DeliverBy, Hold};
use crate::time::Instant;
use std::time::Duration;

/// Whether anything is to be done when a sender's time is over.
pub(super) fn timed(by: Option<DeliverBy>, flags: u8) -> Timed {
    if by.is_some() && flags & flag::LATE_TOLD == 0 { Timed::Yes } else { Timed::No }
}

impl Spool {
    /// When it came, and what its sender asked about time.
    fn asked(&self, slot: u32) -> Option<(u64, Option<Hold>, Option<DeliverBy>)> {
        let (message, envelope) = meta::decode_facts(&self.shared.index[slot].facts)?;
        let envelope = EncodedEnvelope(envelope);
        Some((message.created_unix_ms, envelope.hold(), envelope.by()))
    }

    /// It waits in its queues, if it waits for anything.
    pub(super) fn wait(&mut self, slot: u32) {
        let entry = &self.shared.index[slot];
        if !entry.is_waiting() {
            return;
        }
        self.schedule.push(slot, entry.pool, entry.due);
        if entry.timed == Timed::Yes
            && let Some(deadline) = self.deadline(slot)
        {
            self.shared.index[slot].timed = Timed::Queued;
            self.schedule.push_deadline(slot, deadline);
        }
    }

    /// After a start: what a sender asked is not forgotten. A calendar that has jumped holds nothing for longer than asked.
    pub(super) fn recall_times(&mut self, slot: u32, now: Instant) {
        let Some((_, hold, by)) = self.asked(slot) else { return };
        let entry = &mut self.shared.index[slot];
        entry.timed = timed(by, entry.flags);
        let Some(hold) = hold else { return };
        if let Some(release) = self.release_of(slot, now) {
            let most = match hold {
                Hold::For(seconds) => now + Duration::from_secs(seconds.into()),
                Hold::Until(_) => Instant::NEVER,
            };
            let entry = &mut self.shared.index[slot];
            (entry.held, entry.due) = (true, release.min(most));
        }
    }

    /// It is held for as long as it is put off the next time.
    pub fn hold(&mut self, id: EntryId) {
        if let Some(slot) = self.find(id) {
            self.shared.index[slot].held = true;
        }
    }

    /// From when on it may go, if that is still to come: it has not been tried, nor let go by an operator.
    fn release_of(&self, slot: u32, now: Instant) -> Option<Instant> {
        let entry = &self.shared.index[slot];
        if entry.attempts > 0 || entry.flags & flag::RELEASED != 0 {
            return None;
        }
        let (created, hold, _) = self.asked(slot)?;
        // What is less than a millisecond was left out when it came.
        let release = self.shared.clock().instant(hold?.release_ms(created).saturating_add(1));
        Some(release).filter(|release| *release > now)
    }

    /// When its sender's time is over, in milliseconds since 1970. (Never early, as above.)
    fn deadline_ms(&self, slot: u32) -> Option<u64> {
        let (created, _, by) = self.asked(slot)?;
        Some(created.saturating_add_signed(i64::from(by?.seconds) * 1000).saturating_add(1))
    }

    fn deadline(&self, slot: u32) -> Option<Instant> {
        Some(self.shared.clock().instant(self.deadline_ms(slot)?))
    }

    /// Milliseconds left of its sender's time, by the calendar; negative if it is over.
    pub fn time_left_ms(&self, id: EntryId, now: Instant) -> Option<i64> {
        let deadline = i64::try_from(self.deadline_ms(self.find(id)?)?).ok()?;
        Some(deadline.saturating_sub_unsigned(self.shared.clock().unix_ms(now)))
    }

    /// How long it has been tried: since it came, or since it may go.
    pub fn tried_for(&self, id: EntryId, now: Instant) -> Option<Duration> {
        let (created, hold, _) = self.asked(self.find(id)?)?;
        let since = hold.map_or(created, |hold| hold.release_ms(created).max(created));
        Some(Duration::from_millis(self.shared.clock().unix_ms(now).saturating_sub(since)))
    }

    /// Its sender has been told that its time is over.
    pub fn set_late_told(&mut self, id: EntryId, now: Instant) {
        if let Some(slot) = self.find(id) {
            let entry = &mut self.shared.index[slot];
            entry.flags |= flag::LATE_TOLD;
            entry.timed = Timed::No;
            self.changed(slot, now);
        }
    }

    /// The next that is due. What is held until a time by the calendar is not, as long as that says otherwise.
    pub(super) fn pop_due(&mut self, now: Instant, mut may: impl FnMut(u16) -> bool) -> Option<u32> {
        loop {
            let slot = self.schedule.pop(now, &self.shared.index, &mut may)?;
            if !self.shared.index[slot].held {
                return Some(slot);
            }
            let is_by_calendar = matches!(self.asked(slot), Some((_, Some(Hold::Until(_)), _)));
            match self.release_of(slot, now).filter(|_| is_by_calendar) {
                None => return Some(slot),
                Some(release) => {
                    self.shared.index[slot].due = release;
                    self.wait(slot);
                }
            }
        }
    }

    /// The next message that waits, and whose sender's time is over: it is active from now on.
    pub fn next_overdue(&mut self, now: Instant) -> Option<EntryId> {
        loop {
            let slot = self.schedule.pop_deadline(now)?;
            let entry = &mut self.shared.index[slot];
            if entry.timed != Timed::Queued {
                continue;
            }
            entry.timed = Timed::Yes;
            if !entry.is_waiting() {
                continue;
            }
            if self.deadline(slot).is_some_and(|deadline| deadline > now) {
                self.wait(slot);
                continue;
            }
            // (What is held stays so: it may not go yet. And what cannot be dealt with now comes up when it is due.)
            let entry = &mut self.shared.index[slot];
            (entry.active, entry.timed) = (true, Timed::No);
            return Some(EntryId { slot, generation: entry.generation });
        }
    }

    /// When `next_overdue` is worth calling next.
    pub fn next_overdue_at(&self) -> Instant {
        self.schedule.next_deadline()
    }
}
