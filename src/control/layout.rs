//! Who has which place: listeners' addresses, pools and upstreams keep theirs for as long as anything of them is
//! left, so that what shards hold by number stays true over a reload. A place that nobody needs any more is given
//! to the next newcomer.

use std::net::SocketAddr;
use std::sync::Arc;

use super::translate;
use crate::balance::board::{Board, Mark, Said};
use crate::config::Config;
use crate::dispatch::options::{self, Options};
use crate::handle::ShardId;
use crate::observe::{
    ListenerName, ListenerStats, Names, PoolName, PoolStats, Scoreboard, Standing, Stats, Totals,
    UpstreamName, UpstreamStats,
};
use crate::route::Routes;

/// The places and who has them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    shards: u16,
    /// Counts newcomers, to tell a place's holders apart.
    serials: u64,
    totals: Vec<Arc<Totals>>,
    pub(super) board: Arc<Board>,
    listeners: Vec<ListenerSeat>,
    pub(super) pools: Vec<PoolSeat>,
    routes: Arc<Routes>,
}

/// One address of one listener.
#[derive(Clone, Debug)]
struct ListenerSeat {
    address: SocketAddr,
    options: options::Listener,
    is_live: bool,
    was_live: bool,
    /// By shard; the addresses of one listener share them.
    stats: Vec<Arc<ListenerStats>>,
}

/// A pool.
#[derive(Clone, Debug)]
pub(super) struct PoolSeat {
    pub(super) options: options::Pool,
    pub(super) is_live: bool,
    was_live: bool,
    stats: Vec<Arc<PoolStats>>,
    pub(super) upstreams: Vec<UpstreamSeat>,
}

/// An upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamSeat {
    pub(super) serial: u64,
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) mark: Arc<Mark>,
    /// As the configuration has it.
    weight: u32,
    pub(super) is_live: bool,
    /// In the layout before this one: then what shards show of it may be from before they knew that it goes.
    was_live: bool,
    pub(super) stats: Vec<Arc<UpstreamStats>>,
}

impl UpstreamSeat {
    /// It goes, and nothing of it is left.
    fn is_over(&self) -> bool {
        let left = |s: &Arc<UpstreamStats>| {
            [&s.in_flight, &s.idle, &s.busy, &s.opening].iter().any(|gauge| gauge.get() > 0)
        };
        !self.is_live && !self.stats.iter().any(left)
    }

    fn is_free(&self) -> bool {
        !self.was_live && self.is_over()
    }
}

impl PoolSeat {
    fn is_over(&self) -> bool {
        let left = |s: &Arc<PoolStats>| s.groups.get() > 0 || s.deliveries.get() > 0;
        !self.is_live && !self.stats.iter().any(left) && self.upstreams.iter().all(UpstreamSeat::is_over)
    }

    fn is_free(&self) -> bool {
        !self.was_live && self.is_over() && self.upstreams.iter().all(UpstreamSeat::is_free)
    }
}

impl Layout {
    /// Places for a first configuration.
    pub(super) fn new(config: &Config, shards: u16) -> Layout {
        let empty = Layout {
            shards,
            serials: 0,
            totals: each(shards),
            board: Arc::default(),
            listeners: Vec::new(),
            pools: Vec::new(),
            routes: Arc::default(),
        };
        empty.next(config)
    }

    /// The places for another configuration: who stays keeps its place, who goes stays until nothing of it is left.
    /// What shards show of that must be no older than the last edition they took.
    pub(super) fn next(&self, config: &Config) -> Layout {
        let mut next = self.clone();
        for seat in &mut next.listeners {
            seat.was_live = std::mem::take(&mut seat.is_live);
        }
        for pool in &mut next.pools {
            pool.was_live = std::mem::take(&mut pool.is_live);
            for upstream in &mut pool.upstreams {
                upstream.was_live = std::mem::take(&mut upstream.is_live);
            }
        }
        for listener in &config.listeners {
            let options = translate::listener_options(listener, config);
            listener.addresses.iter().for_each(|address| next.seat_listener(*address, &options));
        }
        for pool in &config.pools {
            next.seat_pool(pool);
        }
        for pool in &config.pools {
            let fallback = pool.fallback.as_deref().and_then(|name| next.place_of(name));
            if let Some(place) = next.place_of(&pool.name) {
                next.pools[place].options.fallback = fallback;
            }
        }
        next.routes = Arc::new(translate::routes(config, |name| next.place_of(name)));
        next
    }

    fn seat_listener(&mut self, address: SocketAddr, options: &options::Listener) {
        let shared = self.listeners.iter().find(|seat| seat.is_live && seat.options.name == options.name);
        let stats = shared.map_or_else(|| each(self.shards), |seat| seat.stats.clone());
        let same = |seat: &ListenerSeat| seat.address == address && seat.options.name == options.name;
        if let Some(seat) = self.listeners.iter_mut().find(|seat| same(seat)) {
            (seat.is_live, seat.options) = (true, options.clone());
            return;
        }
        let seat = ListenerSeat { address, options: options.clone(), is_live: true, was_live: false, stats };
        let is_free = |seat: &ListenerSeat| {
            !seat.is_live && !seat.was_live && seat.stats.iter().all(|stats| stats.sessions.get() == 0)
        };
        put(&mut self.listeners, seat, is_free);
    }

    fn seat_pool(&mut self, pool: &crate::config::Pool) {
        let mut options = translate::pool_options(pool);
        let place = match self.pools.iter().position(|seat| seat.options.name == pool.name) {
            Some(place) => place,
            None => {
                self.serials += 1;
                options.serial = self.serials;
                let seat = PoolSeat {
                    options: options.clone(),
                    is_live: true,
                    was_live: false,
                    stats: each(self.shards),
                    upstreams: Vec::new(),
                };
                put(&mut self.pools, seat, PoolSeat::is_free)
            }
        };
        let (shards, serials) = (self.shards, &mut self.serials);
        let seat = &mut self.pools[place];
        (options.serial, seat.is_live) = (seat.options.serial, true);
        seat.options = options;
        for upstream in &pool.upstreams {
            let same =
                |seat: &&mut UpstreamSeat| seat.name == upstream.name && seat.address == upstream.address;
            if let Some(seat) = seat.upstreams.iter_mut().find(same) {
                seat.is_live = true;
                if std::mem::replace(&mut seat.weight, upstream.weight) != upstream.weight {
                    // Another mark: the shards shall hear of it with everything else, when they take the edition.
                    let mark = Mark::new(upstream.weight);
                    mark.set(Said { weight: upstream.weight, ..seat.mark.get() });
                    seat.mark = Arc::new(mark);
                }
                continue;
            }
            *serials += 1;
            let newcomer = UpstreamSeat {
                serial: *serials,
                name: upstream.name.clone(),
                address: upstream.address,
                mark: Arc::new(Mark::new(upstream.weight)),
                weight: upstream.weight,
                is_live: true,
                was_live: false,
                stats: (0..shards).map(|_| Arc::new(UpstreamStats::healthy())).collect(),
            };
            put(&mut seat.upstreams, newcomer, UpstreamSeat::is_free);
        }
    }

    fn place_of(&self, pool: &str) -> Option<usize> {
        self.pools.iter().position(|seat| seat.is_live && seat.options.name == pool)
    }

    /// The place of a pool's upstream that is to stay.
    pub(super) fn find(&self, pool: &str, upstream: &str) -> Option<(usize, usize)> {
        let pool = self.place_of(pool)?;
        let seats = &self.pools[pool].upstreams;
        Some((pool, seats.iter().position(|seat| seat.is_live && seat.name == upstream)?))
    }

    /// One shard's options, completed from `base`.
    pub(super) fn options(&self, base: &Options, shard: ShardId) -> Options {
        let pool = |seat: &PoolSeat| options::Pool {
            upstreams: seat.upstreams.iter().map(|upstream| upstream_options(upstream, seat)).collect(),
            ..seat.options.clone()
        };
        Options {
            shard,
            seed: base.epoch_ms ^ (u64::from(shard.0) << 48),
            listeners: self.listeners.iter().map(|seat| seat.options.clone()).collect(),
            pools: self.pools.iter().map(pool).collect(),
            routes: self.routes.clone(),
            board: self.board.clone(),
            ..base.clone()
        }
    }

    /// By place, where to listen.
    pub(super) fn listen(&self) -> Vec<Option<SocketAddr>> {
        self.listeners.iter().map(|seat| seat.is_live.then_some(seat.address)).collect()
    }

    /// Every shard's counters.
    pub(super) fn stats(&self) -> Arc<[Arc<Stats>]> {
        let of_shard = |shard: usize| Stats {
            listeners: self.listeners.iter().map(|seat| seat.stats[shard].clone()).collect(),
            pools: self
                .pools
                .iter()
                .map(|pool| pool.upstreams.iter().map(|upstream| upstream.stats[shard].clone()).collect())
                .collect(),
            pool_stats: self.pools.iter().map(|pool| pool.stats[shard].clone()).collect(),
            totals: self.totals[shard].clone(),
        };
        (0..usize::from(self.shards)).map(|shard| Arc::new(of_shard(shard))).collect()
    }

    /// A scoreboard with a place for every upstream.
    pub(super) fn scoreboard(&self) -> Arc<Scoreboard> {
        let fleets: Vec<usize> = self.pools.iter().map(|pool| pool.upstreams.len()).collect();
        Arc::new(Scoreboard::new(usize::from(self.shards), &fleets))
    }

    /// What all are called. `standing`: how an upstream stands.
    pub(super) fn names(&self, standing: impl Fn(&PoolSeat, &UpstreamSeat) -> Standing) -> Names {
        let mut names = Names::default();
        for (place, seat) in self.listeners.iter().enumerate().filter(|(_, seat)| seat.is_live) {
            let name = &seat.options.name;
            if !names.listeners.iter().any(|listener: &ListenerName| listener.name == *name) {
                names.listeners.push(ListenerName { name: name.clone(), place });
            }
        }
        for (place, pool) in self.pools.iter().enumerate().filter(|(_, pool)| !pool.is_over()) {
            let shown = pool.upstreams.iter().enumerate().filter(|(_, upstream)| !upstream.is_over());
            let upstreams = shown.map(|(place, upstream)| UpstreamName {
                name: upstream.name.clone(),
                place,
                address: upstream.address,
                weight: upstream.mark.get().weight,
                standing: standing(pool, upstream),
            });
            let upstreams = upstreams.collect();
            names.pools.push(PoolName { name: pool.options.name.clone(), place, upstreams });
        }
        names
    }
}

fn upstream_options(seat: &UpstreamSeat, pool: &PoolSeat) -> options::Upstream {
    options::Upstream {
        name: seat.name.clone(),
        address: seat.address,
        serial: seat.serial,
        mark: seat.mark.clone(),
        // A pool that goes still delivers what it was given.
        is_leaving: !seat.is_live && pool.is_live,
    }
}

/// One for each shard.
fn each<T: Default>(shards: u16) -> Vec<Arc<T>> {
    (0..shards).map(|_| Arc::default()).collect()
}

/// Seats somebody at the first place that is free, or at a new one.
fn put<T>(seats: &mut Vec<T>, newcomer: T, is_free: impl Fn(&T) -> bool) -> usize {
    let place = seats.iter().position(is_free).unwrap_or(seats.len());
    match seats.get_mut(place) {
        Some(seat) => *seat = newcomer,
        None => seats.push(newcomer),
    }
    place
}
