//! Sessions by what they may bring in, and those that are not read because memory is short.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dispatch::message::TransactionId;
use crate::handle::StreamId;
use crate::time::Instant;

/// A session that was just let in again is expected to bring so much within so long.
const PROMISED_BUFFERS: usize = 2;
const PROMISED_FOR: Duration = Duration::from_millis(20);

/// In which line a session stands that is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::dispatch) enum Line {
    #[default]
    None,
    /// Its message flows.
    Flowing,
    /// It has nothing here.
    Empty,
}

/// Places of sessions, each at most once. One stays in it though its session be over; the next one there is in it then.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<u32>,
    has: Vec<bool>,
}

impl Slots {
    pub(super) fn add(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.has.len() {
            self.has.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.has[at], true) {
            self.slots.push(slot);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn at(&self, at: usize) -> u32 {
        self.slots[at]
    }

    pub(super) fn clear(&mut self) {
        self.slots.drain(..).for_each(|slot| self.has[slot as usize] = false);
    }
}

/// Who may be read, and who waits for that, oldest first.
#[derive(Debug, Default)]
pub(in crate::dispatch) struct Queues {
    /// They are read (or were, when they were put here), and do not flow.
    pub(super) open: Slots,
    /// The same of those whose messages flow.
    pub(super) open_flows: Slots,
    flowing: VecDeque<(u32, StreamId)>,
    empty: VecDeque<(u32, StreamId)>,
    /// Until when those let in lately may not yet have brought anything.
    promised: VecDeque<Instant>,
    /// Streamed messages that flow.
    pub(super) flows: usize,
    /// Those of them that wait for buffers to be read into; until the next tick.
    pub(in crate::dispatch) parched: Vec<TransactionId>,
}

impl Queues {
    pub(super) fn someone_waits(&self) -> bool {
        self.someone_waits_flowing() || self.someone_waits_empty()
    }

    pub(super) fn someone_waits_flowing(&self) -> bool {
        !self.flowing.is_empty()
    }

    pub(super) fn someone_waits_empty(&self) -> bool {
        !self.empty.is_empty()
    }

    pub(super) fn push(&mut self, line: Line, slot: u32, stream: StreamId) {
        if let Some(line) = self.line(line) {
            line.push_back((slot, stream));
        }
    }

    pub(super) fn pop(&mut self, line: Line) -> Option<(u32, StreamId)> {
        self.line(line)?.pop_front()
    }

    fn line(&mut self, line: Line) -> Option<&mut VecDeque<(u32, StreamId)>> {
        match line {
            Line::None => None,
            Line::Flowing => Some(&mut self.flowing),
            Line::Empty => Some(&mut self.empty),
        }
    }

    /// One has been let in.
    pub(super) fn promise(&mut self, now: Instant) {
        self.promised.push_back(now + PROMISED_FOR);
    }

    pub(super) fn forget_promises(&mut self, now: Instant) {
        while self.promised.front().is_some_and(|until| *until <= now) {
            self.promised.pop_front();
        }
    }

    /// Buffers that those let in lately are expected to fill.
    pub(super) fn promised(&self) -> usize {
        self.promised.len() * PROMISED_BUFFERS
    }
}
