//! A new edition of a shard's options: laid down by the control thread, taken at the top of a turn.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::dispatch::options::Options;
use crate::observe::{Scoreboard, Stats};

/// All that a reload changes for one shard.
#[derive(Debug)]
pub struct Edition {
    /// Counts up.
    pub number: u64,
    /// What dispatch goes by.
    pub options: Options,
    /// Every shard's counters, places as in `options`.
    pub stats: Arc<[Arc<Stats>]>,
    /// What the shards tell each other, places as in `options`.
    pub scoreboard: Arc<Scoreboard>,
    /// By listener, where it listens; `None`: no more.
    pub listen: Vec<Option<SocketAddr>>,
}

/// The table between the control thread and one shard.
#[derive(Debug, Default)]
pub struct Desk {
    /// The number of the last edition laid down: all that a shard looks at while there is nothing new.
    offered: AtomicU64,
    edition: Mutex<Option<Box<Edition>>>,
    /// The number of the last edition answered, and the answer.
    answered: AtomicU64,
    refusal: Mutex<Option<String>>,
}

impl Desk {
    /// Lays an edition down. One not taken yet is replaced.
    pub fn offer(&self, edition: Edition) {
        let number = edition.number;
        *self.edition.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(edition));
        self.offered.store(number, Ordering::Release);
    }

    /// The shard's answer to that edition, if it has come: why it could not be applied, if it could not.
    pub fn answer(&self, number: u64) -> Option<Result<(), String>> {
        if self.answered.load(Ordering::Acquire) < number {
            return None;
        }
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(refusal.map_or(Ok(()), Err))
    }

    /// For the shard: an edition later than `taken`.
    pub(super) fn take(&self, taken: u64) -> Option<Box<Edition>> {
        if self.offered.load(Ordering::Acquire) == taken {
            return None;
        }
        self.edition.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For the shard: what became of it.
    pub(super) fn reply(&self, number: u64, result: Result<(), String>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = result.err();
        self.answered.store(number, Ordering::Release);
    }
}
