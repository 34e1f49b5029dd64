//! Space: which files there are, which are made and removed, and whose messages are moved.

use super::{ENOENT, Log, RESERVE, Trouble};
use crate::handle::FileId;
use crate::spool::Options;
use crate::spool::index::NIL;
use crate::spool::segment::Segment;
use crate::time::Instant;

impl Log {
    /// The files there may be.
    pub(in crate::spool) fn files_wanted(&self, options: &Options) -> usize {
        (options.bytes_max / self.segment_bytes).max(RESERVE as u64 + 3) as usize
    }

    /// The most files that can be used, as far as is known.
    pub(in crate::spool) fn files_max(&self, options: &Options, now: Instant) -> usize {
        let sound = self.segments.len() - self.segments.suspects();
        match (self.own, self.create.is_pausing(now)) {
            (_, true) => sound,
            (true, false) => self.files_wanted(options),
            (false, false) => sound.max(RESERVE) + RESERVE,
        }
    }

    /// The files that count as far as there is a most of them. A few that failed do not: others may be made before these
    /// are emptied. More of them do, or a disk that fails now and then would have more and more.
    fn counted(&self) -> usize {
        self.segments.len() - self.segments.suspects().min(RESERVE)
    }

    pub(in crate::spool) fn can_create(&self, options: &Options, now: Instant) -> bool {
        // That a message is over must always fit, so where nothing is free one more may be made. Only what failed
        // can bring a log there.
        let room = self.segments.free.is_empty() || self.counted() < self.files_max(options, now);
        !self.create.is_pausing(now) && room
    }

    /// The file to be made now, if one should.
    pub(in crate::spool) fn poll_create(&mut self, options: &Options, now: Instant) -> Option<FileId> {
        let wanted = if self.own { RESERVE + 1 } else { RESERVE * usize::from(self.entries > 0) };
        if self.segments.free.len() >= wanted || self.creating.is_some() || !self.can_create(options, now) {
            return None;
        }
        let number = self.file_next;
        self.file_next += 1;
        self.creating = Some(number);
        Some(FileId { log: self.number, number })
    }

    pub(in crate::spool) fn created(&mut self, result: Result<u32, i32>, now: Instant) {
        let Some(number) = self.creating.take() else { return };
        match result {
            Ok(_) => {
                self.create = Trouble::default();
                let at = self.segments.insert(Segment::new(number, self.segment_bytes, 0));
                // Nothing was in it, so it may go before the others.
                self.segments.free.push_front(at);
            }
            Err(errno) => self.create.failed(errno, 0, now),
        }
    }

    /// The file to be removed now, if one should.
    pub(in crate::spool) fn poll_remove(&mut self, options: &Options, now: Instant) -> Option<FileId> {
        if self.removing || self.remove.is_pausing(now) {
            return None;
        }
        let beyond = self.segments.len() > self.files_wanted(options);
        let most = RESERVE + if beyond { 1 } else { 2 + (self.segments.order.len() / 2).max(2) };
        // Never another than the oldest: what says that its messages are over may lie in the next one.
        if self.segments.leaving.is_empty()
            && let Some(&oldest) = self.segments.free.front()
            && (self.own && self.segments.free.len() > most
                || self.segments.get(oldest).bytes != self.segment_bytes)
        {
            self.segments.free.pop_front();
            self.segments.leaving.push_back(oldest);
        }
        self.retire();
        let at = *self.segments.leaving.front()?;
        self.removing = true;
        Some(self.file(at))
    }

    pub(in crate::spool) fn removed(&mut self, result: Result<u32, i32>, now: Instant) {
        self.removing = false;
        match result {
            Ok(_) | Err(ENOENT) => {
                self.remove = Trouble::default();
                if let Some(at) = self.segments.leaving.pop_front() {
                    self.segments.forget(at);
                }
            }
            Err(errno) => self.remove.failed(errno, 0, now),
        }
    }

    /// A log that is nobody's own and empty goes, its oldest file first.
    pub(in crate::spool) fn retire(&mut self) {
        let read = self.segments.order.iter().any(|&at| self.segments.get(at).readers > 0);
        let idle = self.entries == 0 && !self.flying && self.creating.is_none() && self.moving == 0 && !read;
        if !self.own && idle {
            self.head = None;
            let (free, order) = (&mut self.segments.free, &mut self.segments.order);
            self.segments.leaving.extend(free.drain(..).chain(order.drain(..)));
        }
    }

    /// Has everything of it gone?
    pub(in crate::spool) fn is_gone(&self) -> bool {
        !self.own && self.entries == 0 && self.segments.len() == 0 && self.creating.is_none()
    }

    /// Segments that nothing needs any more are free, the oldest first.
    pub(in crate::spool) fn reclaim(&mut self) {
        while let Some(&oldest) = self.segments.order.front() {
            let segment = self.segments.get_mut(oldest);
            let written = self.flying && self.group.segment == oldest;
            if Some(oldest) == self.head || segment.live > 0 || segment.readers > 0 || written {
                return;
            }
            self.segments.order.pop_front();
            self.segments.get_mut(oldest).suspect = false;
            self.segments.free.push_back(oldest);
        }
    }

    /// The segment whose messages are to be moved, if one's are.
    pub(in crate::spool) fn victim(&self, options: &Options, now: Instant) -> Option<u32> {
        let segments = &self.segments;
        let has_some = |at: &u32| Some(*at) != self.head && segments.get(*at).first != NIL;
        let suspect = segments.order.iter().copied().find(|at| segments.get(*at).suspect && has_some(at));
        if suspect.is_some() {
            return suspect;
        }
        let oldest = segments.order.front().copied().filter(has_some)?;
        let used = segments.used_bytes();
        let garbage = used.saturating_sub(segments.live_bytes);
        let files = self.files_max(options, now);
        let spare = segments.free.len() + files.saturating_sub(self.counted());
        let pressed = spare < RESERVE + 1 + files / 16;
        let worth = segments.order.len() >= 4 && garbage > used / 2 || pressed && garbage > used / 16;
        worth.then_some(oldest)
    }
}
