//! Worlds in which messages are kept: crashes, starts with what the disk has, operators' orders; and what must be true
//! of the disk.

use std::time::Duration;

use postlane::disk::sim::Faults;
use postlane::dispatch::{Action, Order};
use postlane::time::Instant;

use crate::message::Message;
use crate::play::Play;
use crate::stage::Stage;
use crate::upstream::Taken;

impl Stage {
    /// The wall clock leaps.
    pub(crate) fn leap(&mut self, seconds: i64) {
        self.unix_at_zero_ms += seconds * 1000;
        self.shards.iter_mut().for_each(|shard| shard.set_unix_at_zero_ms(self.unix_at_zero_ms));
    }

    /// Messages kept by all shards.
    pub(crate) fn kept(&self) -> u64 {
        let spools = self.shards.iter().filter_map(|shard| shard.dispatch().spool());
        spools.map(|spool| spool.usage().messages).sum()
    }

    /// The files of each log take no more than they may. Where the disk has failed two that did may be there beside their
    /// successors, and a third for notes where nothing was free.
    pub(crate) fn check_disk(&self, has_failed: bool) {
        let Some(keep) = &self.setup.keep else { return };
        let files = self.platter.files();
        // A file that is no segment any more is left alone.
        let decayed = self.decay.flips * keep.segment_bytes;
        let failed = if has_failed { 3 * keep.segment_bytes } else { 0 } + decayed;
        for log in 0..=u16::MAX {
            if files.iter().all(|(file, _)| file.log < log) {
                break;
            }
            let bytes: u64 = files.iter().filter(|(file, _)| file.log == log).map(|(_, bytes)| bytes).sum();
            assert!(bytes <= keep.bytes_max + failed, "log {log} takes {bytes} octets of {}", keep.bytes_max);
        }
    }
}

impl Play {
    /// All shards have stopped, and there is more to come.
    pub(crate) fn is_to_start_again(&self) -> bool {
        let is_over = !self.stage.shards.is_empty() && self.stage.has_ended();
        is_over && self.stage.setup.keep.is_some() && !self.is_ending
    }

    pub(crate) fn crash(&mut self, power: bool) {
        self.stage.check_disk(self.has_failing_disk);
        if !self.stage.shards.is_empty() {
            self.crashes.push(self.now());
        }
        self.stage.shards.clear();
        if power {
            self.stage.platter.cut_power();
        }
    }

    pub(crate) fn start(&mut self, shards: u16) {
        if !self.stage.shards.is_empty() && !self.stage.has_ended() {
            return;
        }
        self.stage.shards.clear();
        self.stage.setup.shards = shards;
        self.stage.start();
    }

    /// Was there a crash in between, or so shortly before that bytes were still under way?
    pub(crate) fn has_crashed(&self, from: Instant, to: Instant) -> bool {
        let under_way = Duration::from_millis(200);
        self.crashes.iter().any(|crash| *crash + under_way >= from && *crash <= to)
    }

    /// Did everything go in between, before what came of the earlier one can have been on disk?
    pub(crate) fn is_forgotten(&self, earlier: &Taken, later: &Taken) -> bool {
        let until = if self.has_failing_disk { Instant::NEVER } else { earlier.settled_by };
        self.has_crashed(earlier.since.min(later.since), later.at.min(until))
    }

    /// Gives all shards the order; notes what it deleted.
    pub(crate) fn manage(&mut self, order: Order) {
        if order.action == Action::Flush {
            self.flushes.push(self.now());
        }
        self.stage.order += 1;
        let number = self.stage.order;
        for desk in &self.stage.desks {
            desk.orders.offer(number, order.clone());
        }
        let mut answers = 0;
        for _ in 0..100 {
            for n in 0..self.stage.shards.len() {
                self.stage.shards[n].turn();
                let Some(answer) = self.stage.desks[n].orders.answer(number) else { continue };
                answers += 1;
                let rows = answer.rows.iter().filter(|row| row.state != "sending");
                let over = rows.filter(|_| order.action == Action::Delete);
                self.deleted.extend(over.flat_map(|row| row.recipients.iter().cloned()));
            }
        }
        assert_eq!(answers, self.stage.shards.len(), "an order without an answer");
    }

    /// Is it an operator's doing that nobody has it for that recipient, or heard that nobody has?
    pub(crate) fn is_deleted(&self, recipient: &str, message: &Message) -> bool {
        self.deleted.contains(recipient) || self.deleted.contains(&message.sender)
    }

    /// Everything is well again: all that is kept goes, and soon.
    pub(crate) fn empty_spools(&mut self) {
        if self.stage.shards.is_empty() {
            self.start(self.stage.setup.shards);
        }
        self.stage.platter.set_faults(Faults::default());
        self.stage.world.set_faults(postlane::net::sim::Faults::default());
        for upstream in &mut self.upstreams {
            upstream.manner.odds.clear();
            upstream.wake_up(self.stage.world.now());
            if !upstream.up {
                upstream.rise(&self.stage.world);
            }
        }
        let what = "an order that a stop overtakes";
        self.run(Duration::from_secs(600), what, |play| !play.stage.is_leaving());
        self.manage(Order { action: Action::Resume, selection: Default::default(), limit: 0 });
        self.run(Duration::from_secs(300), "the spool does not empty", |play| {
            play.stage.kept() == 0 && play.stage.under_way() == 0
        });
        self.stage.check_disk(self.has_failing_disk);
        self.is_ending = true;
    }
}
