//! Who has which place: listeners' addresses, pools and upstreams keep theirs for as long as anything of them is
//! left, so that what shards hold by number stays true over a reload. A place that nobody needs any more is given
//! to the next newcomer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::translate;
use crate::balance::board::{Board, Mark, Said};
use crate::config::{Backend, Config};
use crate::dispatch::options::{self, Options};
use crate::handle::ShardId;
use crate::net::Inlet;
use crate::observe::{
    ListenerName, ListenerStats, Names, PoolName, PoolStanding, PoolStats, Scoreboard, Standing, Stats,
    Totals, UpstreamName, UpstreamStats,
};
use crate::route::Routes;

/// How long an idle link of a pool that goes is kept: more mail may still wait for it.
const LEAVING_IDLE: Duration = Duration::from_secs(1);

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
    inlet: Inlet,
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
    pub(super) stats: Vec<Arc<PoolStats>>,
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
            let past_kernel = listener.backend == Backend::Xdp;
            let inlets = listener.addresses.iter().map(|&address| Inlet { address, past_kernel });
            inlets.for_each(|inlet| next.seat_listener(inlet, &options));
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

    fn seat_listener(&mut self, inlet: Inlet, options: &options::Listener) {
        let shared = self.listeners.iter().find(|seat| seat.is_live && seat.options.name == options.name);
        let stats = shared.map_or_else(|| each(self.shards), |seat| seat.stats.clone());
        let same = |seat: &ListenerSeat| seat.inlet == inlet && seat.options.name == options.name;
        if let Some(seat) = self.listeners.iter_mut().find(|seat| same(seat)) {
            (seat.is_live, seat.options) = (true, options.clone());
            return;
        }
        let seat = ListenerSeat { inlet, options: options.clone(), is_live: true, was_live: false, stats };
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
        let pool = |seat: &PoolSeat| {
            let upstreams = seat.upstreams.iter().map(|upstream| upstream_options(upstream, seat)).collect();
            let options = options::Pool { upstreams, ..seat.options.clone() };
            match seat.is_live {
                true => options,
                // What it was given it delivers; then no link keeps its place.
                false => options::Pool { idle_links: 0, idle_timeout: LEAVING_IDLE, ..options },
            }
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
    pub(super) fn listen(&self) -> Vec<Option<Inlet>> {
        self.listeners.iter().map(|seat| seat.is_live.then_some(seat.inlet)).collect()
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

    /// What all are called. `pool_standing`, `standing`: how a pool, an upstream stands.
    pub(super) fn names(
        &self,
        pool_standing: impl Fn(&PoolSeat) -> PoolStanding,
        standing: impl Fn(&UpstreamSeat) -> Standing,
    ) -> Names {
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
                standing: standing(upstream),
            });
            let upstreams = upstreams.collect();
            let (name, standing) = (pool.options.name.clone(), pool_standing(pool));
            names.pools.push(PoolName { name, place, standing, upstreams });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn config(upstreams: &[(&str, u16)], more: &str) -> Config {
        let machine = Machine {
            hostname: "box.example.net".to_owned(),
            cpus: vec![0, 1],
            isolated: Vec::new(),
            memory_bytes: 1 << 30,
        };
        let mut text =
            format!("[[listener]]\nname = 'in'\naddress = '127.0.0.1:2525'\n{more}[[pool]]\nname = 'farm'\n");
        for (name, port) in upstreams {
            text += &format!("[[pool.upstream]]\nname = '{name}'\naddress = '10.0.0.1:{port}'\n");
        }
        text += "[delivery]\nmode = 'through'\n";
        Config::parse("t.toml", &text, &machine).expect("a right configuration")
    }

    fn places(layout: &Layout) -> Vec<(String, u16, bool)> {
        let seats = layout.pools[0].upstreams.iter();
        seats.map(|seat| (seat.name.clone(), seat.address.port(), seat.is_live)).collect()
    }

    fn seat(name: &str, port: u16, is_live: bool) -> (String, u16, bool) {
        (name.to_owned(), port, is_live)
    }

    #[test]
    fn who_stays_keeps_place_counters_and_mark() {
        let before = Layout::new(&config(&[("a", 1), ("b", 2)], ""), 2);
        before.stats()[1].pools[0][1].delivered.add(7);
        before.pools[0].upstreams[1].mark.set(Said { weight: 9, ..before.pools[0].upstreams[1].mark.get() });
        let after = before.next(&config(&[("c", 3), ("b", 2)], ""));
        assert_eq!(places(&after), [seat("a", 1, false), seat("b", 2, true), seat("c", 3, true)]);
        assert_eq!(after.stats()[1].pools[0][1].delivered.get(), 7);
        assert_eq!(after.pools[0].upstreams[1].mark.get().weight, 9, "an operator's weight stays");
        let options = after.options(&translate::base(&config(&[("b", 2)], ""), 2, 0), ShardId(1));
        let leaving: Vec<bool> =
            options.pools[0].upstreams.iter().map(|upstream| upstream.is_leaving).collect();
        assert_eq!(leaving, [true, false, false]);
    }

    #[test]
    fn a_place_is_given_away_when_nothing_of_its_holder_is_left_and_the_shards_know() {
        let first = Layout::new(&config(&[("a", 1)], ""), 2);
        let second = first.next(&config(&[("b", 2)], ""));
        assert_eq!(places(&second).len(), 2, "not in the same reload that takes it away");
        second.stats()[0].pools[0][0].busy.set(1);
        let third = second.next(&config(&[("c", 3)], ""));
        assert_eq!(places(&third).len(), 3, "a link is left");
        third.stats()[0].pools[0][0].busy.set(0);
        let fourth = third.next(&config(&[("d", 4)], ""));
        assert_eq!(places(&fourth)[0], seat("d", 4, true));
        assert_ne!(fourth.pools[0].upstreams[0].serial, first.pools[0].upstreams[0].serial);
        // It comes back before it was gone: the same one.
        let fifth = fourth.next(&config(&[("c", 3)], ""));
        assert_eq!(places(&fifth)[2], seat("c", 3, true));
        assert_eq!(fifth.pools[0].upstreams[2].serial, third.pools[0].upstreams[2].serial);
    }

    #[test]
    fn many_changes_take_few_places() {
        let mut layout = Layout::new(&config(&[("u0", 1)], ""), 2);
        for n in 1..200 {
            layout = layout.next(&config(&[(&format!("u{n}"), 1), (&format!("v{}", n % 3), 2)], ""));
        }
        assert!(places(&layout).len() <= 8, "{}", places(&layout).len());
    }

    #[test]
    fn another_weight_is_not_told_before_the_edition_is_taken() {
        let before = Layout::new(&config(&[("a", 1)], ""), 1);
        let mark = before.pools[0].upstreams[0].mark.clone();
        mark.set(Said { is_down: true, ..mark.get() });
        let mut config = config(&[("a", 1)], "");
        config.pools[0].upstreams[0].weight = 5;
        let after = before.next(&config);
        assert_eq!(mark.get().weight, 1);
        assert_eq!(after.pools[0].upstreams[0].mark.get(), Said { weight: 5, ..mark.get() });
    }

    #[test]
    fn the_addresses_of_a_listener_come_and_go_by_themselves() {
        let two = "[[listener]]\nname = 'two'\naddress = ['127.0.0.1:1', '127.0.0.1:2']\n";
        let before = Layout::new(&config(&[("a", 1)], two), 1);
        assert_eq!(before.listen().len(), 3);
        before.stats()[0].listeners[1].sessions.set(4);
        assert_eq!(before.stats()[0].listeners[2].sessions.get(), 4, "one listener, one count");
        let after = before.next(&config(&[("a", 1)], &two.replace("1:1'", "1:3'")));
        let ports: Vec<Option<u16>> =
            after.listen().iter().map(|at| at.map(|at| at.address.port())).collect();
        assert_eq!(ports, [Some(2525), None, Some(2), Some(3)]);
        let names = after.names(|_| PoolStanding::default(), |_| Standing::default());
        assert_eq!(names.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["in", "two"]);
    }
}
