//! A new edition of a shard's options: laid down by the control thread, taken at the top of a turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::dispatch;
use crate::dispatch::options::Options;
use crate::net::Inlet;
use crate::observe::{Scoreboard, Stats};

/// All that a reload changes for one shard.
#[derive(Debug)]
pub struct Edition {
    /// What dispatch goes by.
    pub options: Options,
    /// Every shard's counters, places as in `options`.
    pub stats: Arc<[Arc<Stats>]>,
    /// What the shards tell each other, places as in `options`.
    pub scoreboard: Arc<Scoreboard>,
    /// By listener, where it listens; `None`: no more.
    pub listen: Vec<Option<Inlet>>,
}

/// The table between the control thread and one shard: the one lays something down, the other takes it at the top of a
/// turn and answers. Each laid down has a number, which counts up.
#[derive(Debug)]
pub struct Desk<T, A> {
    /// The number of the last one laid down: all that a shard looks at while there is nothing new.
    offered: AtomicU64,
    paper: Mutex<Option<Box<T>>>,
    /// The number of the last one answered, and the answer.
    answered: AtomicU64,
    answer: Mutex<Option<A>>,
}

impl<T, A> Default for Desk<T, A> {
    fn default() -> Self {
        Desk {
            offered: AtomicU64::new(0),
            paper: Mutex::new(None),
            answered: AtomicU64::new(0),
            answer: Mutex::new(None),
        }
    }
}

impl<T, A> Desk<T, A> {
    /// Lays something down. What was not taken yet is replaced.
    pub fn offer(&self, number: u64, paper: T) {
        *self.paper.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(paper));
        self.offered.store(number, Ordering::Release);
    }

    /// The shard's answer to that number, if it has come; once.
    pub fn answer(&self, number: u64) -> Option<A> {
        if self.answered.load(Ordering::Acquire) < number {
            return None;
        }
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For the shard: what was laid down later than `taken`, and its number.
    pub(super) fn take(&self, taken: u64) -> Option<(u64, Box<T>)> {
        let number = self.offered.load(Ordering::Acquire);
        if number == taken {
            return None;
        }
        let paper = self.paper.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some((number, paper))
    }

    /// For the shard: what became of it.
    pub(super) fn reply(&self, number: u64, answer: A) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.answered.store(number, Ordering::Release);
    }
}

/// Where editions lie; the answer says why one could not be applied.
type EditionDesk = Desk<Edition, Result<(), String>>;
/// Where orders about kept messages lie.
type OrderDesk = Desk<dispatch::Order, dispatch::Answer>;

/// A shard's desks.
#[derive(Debug, Default)]
pub struct Desks {
    /// For editions.
    pub editions: EditionDesk,
    /// For orders.
    pub orders: OrderDesk,
}
