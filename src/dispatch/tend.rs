//! What changes from outside while mail flows: options by a reload, marks by the control thread; and what is looked
//! after now and then.

use std::collections::VecDeque;
use std::sync::Arc;

use super::options::{self, Options};
use super::{Dispatch, PoolState};
use crate::balance::board::Order;
use crate::balance::health::Cause;
use crate::balance::{Fleet, key};
use crate::handle::{Buffers, LinkId};
use crate::limits::{EASE_EVERY, LINKS_EVERY};
use crate::observe::{Part, Scoreboard, Stats};
use crate::pool::Links;
use crate::time::Instant;

impl PoolState {
    pub(super) fn new(pool: &options::Pool) -> PoolState {
        let mut fleet = Fleet::new(pool.policy, identities(pool));
        fleet.set_care(pool.care);
        PoolState {
            fleet,
            links: (0..pool.upstreams.len()).map(|place| Links::new(pool.links_max, place)).collect(),
            ages: pool.upstreams.iter().map(|_| VecDeque::new()).collect(),
            waiting: VecDeque::new(),
            repeats: VecDeque::new(),
            next_source: 0,
            look_at: Instant::default(),
            is_stirred: false,
            groups: 0,
            deliveries: 0,
        }
    }

    /// Do all upstreams that may get mail take binary messages?
    fn takes_binary(&self) -> bool {
        let mut open =
            self.links.iter().zip(self.fleet.members()).filter(|(_, member)| !member.health().is_closed());
        open.all(|(links, _)| links.takes_binary())
    }

    /// The pool's options have changed. Upstreams keep their links and what is known of them; a place that somebody
    /// else had is begun anew, and nothing of that one is left.
    fn refit(&mut self, pool: &options::Pool, before: &options::Pool, now: Instant) {
        let serial_before = |place: usize| before.upstreams.get(place).map(|upstream| upstream.serial);
        let is_new = |place: usize| serial_before(place) != Some(pool.upstreams[place].serial);
        self.fleet.set_care(pool.care);
        self.fleet.refit(pool.policy, identities(pool), is_new, now);
        for place in 0..pool.upstreams.len() {
            if place == self.links.len() {
                self.links.push(Links::new(pool.links_max, place));
                self.ages.push(VecDeque::new());
            } else if is_new(place) {
                debug_assert_eq!(self.links[place].counts(), (0, 0, 0), "its place was not free");
                self.links[place] = Links::new(pool.links_max, place);
                self.ages[place].clear();
            } else {
                self.links[place].set_max(pool.links_max);
            }
        }
    }
}

/// Each upstream's weight, and what stays the same of it when others come and go.
fn identities(pool: &options::Pool) -> impl Iterator<Item = (u32, u64)> {
    pool.upstreams.iter().map(|upstream| (upstream.mark.get().weight, key(upstream.name.as_bytes())))
}

impl Dispatch {
    /// Goes by other options from here on. Places mean what they meant, and there may be more of them. What is under
    /// way goes on.
    pub fn apply(
        &mut self,
        options: Options,
        stats: Arc<Stats>,
        scoreboard: Arc<Scoreboard>,
        now: Instant,
        buffers: &mut impl Buffers,
    ) {
        let before = std::mem::replace(&mut self.options, options);
        self.stats = stats;
        for (place, pool) in self.options.pools.iter().enumerate() {
            match before.pools.get(place) {
                Some(old) if old.serial == pool.serial => self.pools[place].refit(pool, old, now),
                Some(_) => self.pools[place] = PoolState::new(pool),
                None => self.pools.push(PoolState::new(pool)),
            }
        }
        self.refit_kept();
        self.set_scoreboard(scoreboard);
        self.tell_listeners(now);
        self.heed_marks(now);
        self.publish(now);
        self.settle(now, buffers);
    }

    /// Heeds what the control thread has said of upstreams since the last time.
    pub fn handle_marks(&mut self, now: Instant, buffers: &mut impl Buffers) {
        if self.options.board.news() != self.heard {
            self.heed_marks(now);
            self.settle(now, buffers);
        }
    }

    pub(super) fn heed_marks(&mut self, now: Instant) {
        self.heard = self.options.board.news();
        for pool in 0..self.pools.len() {
            let options = &self.options.pools[pool];
            let fleet = &mut self.pools[pool].fleet;
            let weights = options.upstreams.iter().map(|upstream| upstream.mark.get().weight);
            if weights.ne(fleet.members().iter().map(|member| member.weight())) {
                fleet.refit(options.policy, identities(options), |_| false, now);
            }
            for upstream in 0..options.upstreams.len() {
                self.heed_mark(pool, upstream, now);
            }
        }
    }

    fn heed_mark(&mut self, pool: usize, upstream: usize, now: Instant) {
        let options = &self.options.pools[pool].upstreams[upstream];
        let said = options.mark.get();
        let is_closed = options.is_leaving || said.order != Order::Enable;
        let fleet = &mut self.pools[pool].fleet;
        let is_vouched_for = fleet.vouch(upstream, said.vouched, now);
        if fleet.mark(upstream, is_closed, said.is_down, now) || is_vouched_for {
            let chance = self.random();
            self.pools[pool].links[upstream].returned(chance, now);
        }
        self.trim_links(pool, upstream, now);
        self.refresh(pool, upstream);
    }

    /// Retires idle links that there may not be: all where nothing new goes, else those beyond the bound.
    fn trim_links(&mut self, pool: usize, upstream: usize, now: Instant) {
        let is_closed = self.pools[pool].fleet.members()[upstream].health().is_closed();
        let idle: Vec<LinkId> = self.pools[pool].links[upstream].idle_links().to_vec();
        let (_, _, total) = self.pools[pool].links[upstream].counts();
        let beyond =
            if is_closed { idle.len() } else { total.saturating_sub(self.options.pools[pool].links_max) };
        idle.into_iter().take(beyond).for_each(|link| self.retire_link(link, now));
    }

    /// Brings up to date what listeners offer: the time that messages are held against, and BINARYMIME only while every
    /// upstream takes it and may be sent it.
    pub(super) fn tell_listeners(&mut self, now: Instant) {
        let mut pools = self.pools.iter().zip(&self.options.pools);
        let binary = pools.all(|(pool, options)| options.chunking && pool.takes_binary());
        self.options.listeners.iter_mut().for_each(|listener| listener.server.binary = binary);
        let unix_now = self.unix_seconds(now);
        let offers =
            self.options.listeners.iter_mut().filter_map(|listener| listener.server.future_release.as_mut());
        offers.for_each(|offer| offer.unix_now = unix_now);
    }

    /// Looks after what time alone changes. To be called several times a second.
    pub fn tend(&mut self, now: Instant) {
        self.tell_listeners(now);
        if self.ease_at > now {
            return;
        }
        self.ease_at = now + EASE_EVERY;
        for pool in 0..self.pools.len() {
            for upstream in 0..self.pools[pool].links.len() {
                self.pools[pool].links[upstream].ease();
                self.refresh(pool, upstream);
            }
        }
    }

    /// Has links seen what time alone changes, if it is time to.
    pub(super) fn look_at_links(&mut self, pool: usize, now: Instant) {
        if self.pools[pool].look_at > now {
            return;
        }
        self.pools[pool].look_at = now + LINKS_EVERY;
        for upstream in 0..self.pools[pool].links.len() {
            if self.pools[pool].links[upstream].look(now) {
                self.refresh(pool, upstream);
            }
        }
    }

    /// A message was taken, after so many nanoseconds in all: how many links the upstream is given at once goes by that.
    pub(super) fn learn(&mut self, pool: usize, upstream: usize, nanos: u64, bytes: u64, now: Instant) {
        let PoolState { fleet, links, .. } = &mut self.pools[pool];
        links[upstream].observe(nanos, bytes, fleet.members()[upstream].on_machine(), now);
    }

    /// A link came to nothing before it was ready.
    pub(super) fn not_opened(&mut self, pool: usize, upstream: usize, by_fault: bool, now: Instant) {
        let chance = self.random();
        self.pools[pool].links[upstream].not_opened(by_fault, chance, now);
    }

    /// Writes the gauges that are not kept as things happen.
    pub fn publish(&self, now: Instant) {
        for (pool, stats) in self.pools.iter().zip(&self.stats.pools) {
            for ((member, links), stats) in pool.fleet.members().iter().zip(&pool.links).zip(stats) {
                let (idle, opening, total) = links.counts();
                stats.idle.set(idle as u64);
                stats.opening.set(opening as u64);
                stats.busy.set((total - opening - idle) as u64);
                stats.limit.set(links.limit() as u64);
                stats.in_flight.set(u64::from(member.in_flight()));
                stats.healthy.set(u64::from(!member.health().is_ejected(now)));
                stats.ejected_for.set(match member.health().ejected_for(now) {
                    None => 0,
                    Some(Cause::InARow) => 1,
                    Some(Cause::MoreThanOthers) => 2,
                    Some(Cause::Silent) => 3,
                });
                let times = member.times();
                stats.estimate_nanos.set(times.nanos() as u64);
                stats.estimate(Part::Connect).set(times.connect.nanos() as u64);
                stats.estimate(Part::Mail).set(times.mail.nanos() as u64);
                stats.estimate(Part::Data).set(times.data.nanos() as u64);
                stats.estimate(Part::Eod).set(times.body.base_nanos() as u64);
            }
        }
        for (place, (pool, stats)) in self.pools.iter().zip(&self.stats.pool_stats).enumerate() {
            stats.panics.set(u64::from(pool.fleet.panics(now)));
            stats.falls_back.set(u64::from(self.better_pool(place, now).is_some()));
            stats.groups.set(pool.groups);
            stats.deliveries.set(pool.deliveries);
        }
        self.stats.under_way.set(self.under_way() as u64);
        self.publish_kept();
    }
}
