//! The rest of the machine: what the other shards have in flight, and how they find the upstreams.

use std::sync::Arc;

use super::Dispatch;
use crate::observe::{Figures, Scoreboard};
use crate::time::Instant;

/// This shard's view of the scoreboard.
#[derive(Debug)]
pub(super) struct Lookout {
    board: Arc<Scoreboard>,
    shard: usize,
    /// By pool, upstream and shard: the estimate seen last, so that each is news once.
    seen: Vec<Vec<f32>>,
}

impl Dispatch {
    /// Joins the other shards: from here on picks count the whole machine's transactions.
    pub fn set_scoreboard(&mut self, board: Arc<Scoreboard>) {
        let shards = board.shards();
        let seen = self.pools.iter().map(|pool| vec![0.0; pool.links.len() * shards]).collect();
        self.lookout = Some(Lookout { board, shard: self.options.shard.index(), seen });
    }

    /// Tells the others of one upstream.
    pub(super) fn show(&self, pool: usize, upstream: usize) {
        if let Some(lookout) = &self.lookout {
            let member = &self.pools[pool].fleet.members()[upstream];
            let figures = Figures { in_flight: member.in_flight(), estimate_nanos: member.own_nanos() };
            lookout.board.publish(lookout.shard, pool, upstream, figures);
        }
    }

    /// Takes in what the others have shown, if it is time to.
    pub(super) fn look_around(&mut self, pool: usize, now: Instant) {
        let Some(lookout) = &mut self.lookout else { return };
        let fleet = &mut self.pools[pool].fleet;
        let shards = lookout.board.shards();
        if shards == 1 || !fleet.wants_news(now) {
            return;
        }
        for upstream in 0..fleet.members().len() {
            let seen = &mut lookout.seen[pool][upstream * shards..][..shards];
            let (mut in_flight, mut news, mut sum) = (0, 0.0, 0.0);
            for (shard, seen) in seen.iter_mut().enumerate().filter(|(shard, _)| *shard != lookout.shard) {
                let figures = lookout.board.read(shard, pool, upstream);
                in_flight += figures.in_flight;
                if figures.estimate_nanos != *seen {
                    *seen = figures.estimate_nanos;
                    sum += figures.estimate_nanos;
                    news += 1.0;
                }
            }
            fleet.elsewhere(upstream, in_flight, (news > 0.0).then(|| sum / news), now);
        }
    }
}
