//! What a sink counts: written by its one thread, read by anybody at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::stage::Stage;
use crate::text::grouped;

/// Reply codes are 200 to 599.
const CODES: usize = 400;
const CODE_MIN: u16 = 200;

/// What a sink has seen and answered so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Messages taken: those answered 250 after the end of data.
    pub messages: u64,
    /// Recipients of the messages taken.
    pub recipients: u64,
    /// Bytes of the messages taken, as they came (dot-stuffing included, the final dot not).
    pub bytes: u64,
    /// Replies by stage and code.
    pub replies: BTreeMap<Stage, BTreeMap<u16, u64>>,
    /// Connections closed by a drop rule, by stage.
    pub dropped: BTreeMap<Stage, u64>,
    /// Connections left unanswered by a hang rule, by stage.
    pub hung: BTreeMap<Stage, u64>,
    /// Commands that came before the reply to the one before, though PIPELINING was not offered.
    pub pipelined_unoffered: u64,
    /// Messages answered 451 because they could not be stored.
    pub store_errors: u64,
}

impl Counts {
    /// Replies with `code` at `stage`.
    pub fn replies(&self, stage: Stage, code: u16) -> u64 {
        self.replies.get(&stage).and_then(|codes| codes.get(&code)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "connections  {:>14}", grouped(self.connections))?;
        writeln!(f, "messages     {:>14}", grouped(self.messages))?;
        writeln!(f, "recipients   {:>14}", grouped(self.recipients))?;
        writeln!(f, "bytes        {:>14}", grouped(self.bytes))?;
        for (stage, codes) in &self.replies {
            for (code, count) in codes {
                writeln!(f, "{stage:<8} {code} {:>14}", grouped(*count))?;
            }
        }
        for (what, stages) in [("dropped", &self.dropped), ("hung", &self.hung)] {
            for (stage, count) in stages {
                writeln!(f, "{what} at {stage:<8} {:>8}", grouped(*count))?;
            }
        }
        if self.pipelined_unoffered > 0 {
            writeln!(f, "pipelined though not offered {}", grouped(self.pipelined_unoffered))?;
        }
        if self.store_errors > 0 {
            writeln!(f, "not stored   {:>14}", grouped(self.store_errors))?;
        }
        Ok(())
    }
}

/// The live form of [`Counts`]. One thread writes, so an addition needs no locked instruction.
pub(super) struct Tally {
    pub(super) connections: Cell,
    pub(super) messages: Cell,
    pub(super) recipients: Cell,
    pub(super) bytes: Cell,
    pub(super) pipelined_unoffered: Cell,
    pub(super) store_errors: Cell,
    dropped: [Cell; Stage::ALL.len()],
    hung: [Cell; Stage::ALL.len()],
    replies: Box<[Cell]>,
}

/// A counter with a single writer.
#[derive(Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Tally {
            connections: Cell::default(),
            messages: Cell::default(),
            recipients: Cell::default(),
            bytes: Cell::default(),
            pipelined_unoffered: Cell::default(),
            store_errors: Cell::default(),
            dropped: Default::default(),
            hung: Default::default(),
            replies: (0..Stage::ALL.len() * CODES).map(|_| Cell::default()).collect(),
        }
    }

    pub(super) fn reply(&self, stage: Stage, code: u16) {
        self.replies[stage as usize * CODES + usize::from(code - CODE_MIN)].add(1);
    }

    pub(super) fn dropped(&self, stage: Stage) {
        self.dropped[stage as usize].add(1);
    }

    pub(super) fn hung(&self, stage: Stage) {
        self.hung[stage as usize].add(1);
    }

    pub(super) fn snapshot(&self) -> Counts {
        let by_stage = |cells: &[Cell]| {
            let counts = Stage::ALL.into_iter().zip(cells.iter().map(Cell::get));
            counts.filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
        };
        let codes = |stage: Stage| {
            let cells = &self.replies[stage as usize * CODES..][..CODES];
            let counts = (CODE_MIN..).zip(cells.iter().map(Cell::get));
            counts.filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
        };
        let replies = Stage::ALL.into_iter().map(|stage| (stage, codes(stage)));
        Counts {
            connections: self.connections.get(),
            messages: self.messages.get(),
            recipients: self.recipients.get(),
            bytes: self.bytes.get(),
            replies: replies.filter(|(_, codes)| !codes.is_empty()).collect(),
            dropped: by_stage(&self.dropped),
            hung: by_stage(&self.hung),
            pipelined_unoffered: self.pipelined_unoffered.get(),
            store_errors: self.store_errors.get(),
        }
    }
}
