//! What there is and how it stands: shared by the control thread's tasks, and by whoever wants to look.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::layout::{Layout, PoolSeat, UpstreamSeat};
use crate::balance::board::{self, Said};
use crate::observe::status::{Status, status};
use crate::observe::{Bypass, Names, PoolStanding, PoolStats, Standing, State, Stats, UpstreamStats};
use crate::shard::Orders;

/// How long "lately" is.
const LATELY_SECONDS: usize = 10;

/// What the control thread's tasks share.
#[derive(Debug)]
pub struct View {
    /// What is wanted of the shards.
    pub orders: Arc<Orders>,
    started: Instant,
    bypass: Option<Bypass>,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layout: Layout,
    stats: Arc<[Arc<Stats>]>,
    /// Reloads applied.
    edition: u64,
    /// By an upstream's serial.
    watched: HashMap<u64, Watched>,
    /// By a pool's serial.
    pools: HashMap<u64, PoolStanding>,
    /// That answers come by other queues than they should was told.
    told_astray: bool,
}

/// What is known of an upstream beyond its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    standing: Standing,
    said: Option<Said>,
    /// What had been delivered there, second by second; the oldest first.
    delivered: VecDeque<u64>,
    pub(super) good_in_a_row: u32,
    pub(super) bad_in_a_row: u32,
}

impl View {
    pub(super) fn new(
        layout: Layout,
        stats: Arc<[Arc<Stats>]>,
        orders: Arc<Orders>,
        bypass: Option<Bypass>,
    ) -> View {
        let shared = Shared {
            layout,
            stats,
            edition: 0,
            watched: HashMap::new(),
            pools: HashMap::new(),
            told_astray: false,
        };
        let view = View { orders, started: Instant::now(), bypass, shared: Mutex::new(shared) };
        view.lock().welcome("it has been so since the start");
        view
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything added up.
    pub fn status(&self) -> Status {
        let (names, shards) = self.sheet();
        status(&names, &shards, self.started.elapsed().as_secs_f64(), unix_now())
    }

    /// What all are called, and every shard's counters.
    pub fn sheet(&self) -> (Names, Arc<[Arc<Stats>]>) {
        let shared = self.lock();
        let standing = |upstream: &UpstreamSeat| {
            shared.watched.get(&upstream.serial).map(|watched| watched.standing.clone()).unwrap_or_default()
        };
        let of_pool = |pool: &PoolSeat| shared.pools.get(&pool.options.serial).copied().unwrap_or_default();
        let names = shared.layout.names(of_pool, standing);
        (Names { edition: shared.edition, bypass: self.bypass.clone(), ..names }, shared.stats.clone())
    }

    /// Every shard's counters.
    pub fn shards(&self) -> Arc<[Arc<Stats>]> {
        self.lock().stats.clone()
    }

    pub(super) fn under_way(&self) -> u64 {
        self.shards().iter().map(|stats| stats.under_way.get()).sum()
    }

    /// Sees what has changed by itself, and tells of it.
    pub(super) fn look(&self) {
        let mut shared = self.lock();
        shared.look(None);
        if let Some(bypass) = &self.bypass
            && let shards = shared.stats.iter().filter(|stats| stats.astray() > 0).count()
            && shards > 0
            && !std::mem::replace(&mut shared.told_astray, true)
        {
            eprintln!(
                "postlane: answers to {shards} of {} shards come by other queues of {} than its hash says, so that shards \
                 pass them on to each other: compare `ethtool -x` (key, table) and `ethtool -n … rx-flow-hash tcp4` (it \
                 should be of addresses and ports, `sdfn`)",
                shared.stats.len(),
                bypass.interface
            );
        }
    }

    /// Notes what has been delivered. To be called every second.
    pub(super) fn note(&self) {
        self.lock().note();
    }

    /// Another layout is in force.
    pub(super) fn replace(&self, layout: Layout, stats: Arc<[Arc<Stats>]>) {
        let mut shared = self.lock();
        shared.edition += 1;
        (shared.layout, shared.stats) = (layout, stats);
        shared.welcome("a reload has brought it");
        // What was said while the shards were taking the edition was said to marks that may be no more.
        shared.repeat();
        shared.look(None);
    }

    /// An operator's order or weight for one upstream; its state then.
    ///
    /// # Errors
    /// There is no such upstream.
    pub(super) fn command(
        &self,
        pool: &str,
        upstream: &str,
        change: impl Fn(Said) -> Said,
    ) -> Result<State, String> {
        let mut shared = self.lock();
        let Some((pool_place, place)) = shared.layout.find(pool, upstream) else {
            return Err(format!("there is no upstream `{upstream}` in a pool `{pool}`"));
        };
        let seat = &shared.layout.pools[pool_place].upstreams[place];
        let (serial, said) = (seat.serial, seat.mark.get());
        let next = change(said);
        if next.weight != said.weight {
            eprintln!(
                "postlane: upstream {pool}/{upstream}: weight {} → {} by an operator",
                said.weight, next.weight
            );
        }
        shared.say(serial, next);
        shared.look(Some((serial, "by an operator".to_owned())));
        Ok(shared.watched.get(&serial).map(|watched| watched.standing.state).unwrap_or_default())
    }
}

impl Shared {
    /// Makes records of those that have none, and forgets those that are gone.
    fn welcome(&mut self, why: &str) {
        let seats = self.layout.pools.iter().flat_map(|pool| &pool.upstreams);
        let mut before = std::mem::take(&mut self.watched);
        let now = unix_now();
        for seat in seats {
            let fresh = || Watched {
                standing: Standing { since_unix: now, why: why.to_owned(), ..Standing::default() },
                ..Watched::default()
            };
            self.watched.insert(seat.serial, before.remove(&seat.serial).unwrap_or_else(fresh));
        }
        let pools: HashSet<u64> = self.layout.pools.iter().map(|pool| pool.options.serial).collect();
        self.pools.retain(|serial, _| pools.contains(serial));
    }

    fn note(&mut self) {
        for seat in self.layout.pools.iter().flat_map(|pool| &pool.upstreams) {
            let Some(watched) = self.watched.get_mut(&seat.serial) else { continue };
            let now = seat.stats.iter().map(|stats| stats.delivered.get()).sum::<u64>();
            let oldest = watched.delivered.front().copied().unwrap_or_default();
            watched.standing.lately = now.saturating_sub(oldest);
            watched.delivered.push_back(now);
            if watched.delivered.len() > LATELY_SECONDS {
                watched.delivered.pop_front();
            }
        }
    }

    fn seat(&self, serial: u64) -> Option<&UpstreamSeat> {
        self.layout.pools.iter().flat_map(|pool| &pool.upstreams).find(|seat| seat.serial == serial)
    }

    /// Does some shard have links to it?
    pub(super) fn has_links(&self, serial: u64) -> bool {
        let links = |stats: &Arc<UpstreamStats>| stats.idle.get() + stats.busy.get() > 0;
        self.seat(serial).is_some_and(|seat| seat.stats.iter().any(links))
    }

    /// Tells the shards.
    fn say(&mut self, serial: u64, said: Said) {
        if let Some(seat) = self.seat(serial) {
            seat.mark.set(said);
        }
        if let Some(watched) = self.watched.get_mut(&serial) {
            watched.said = Some(said);
        }
        self.layout.board.announce();
    }

    /// Says once more what was said, but for weights: those may be a reload's.
    fn repeat(&mut self) {
        for (serial, watched) in &self.watched {
            if let (Some(said), Some(seat)) = (watched.said, self.seat(*serial)) {
                seat.mark.set(Said { weight: seat.mark.get().weight, ..said });
            }
        }
        self.layout.board.announce();
    }

    /// A probe has ended. `rise`, `fall`: good, bad ones in a row that change its state.
    pub(super) fn probed(&mut self, serial: u64, result: Result<(), String>, rise: u32, fall: u32) {
        let Some(said) = self.seat(serial).map(|seat| seat.mark.get()) else { return };
        let Some(watched) = self.watched.get_mut(&serial) else { return };
        let why = match result {
            Ok(()) => {
                watched.standing.probes_good += 1;
                (watched.good_in_a_row, watched.bad_in_a_row) = (watched.good_in_a_row.saturating_add(1), 0);
                (said.is_down && watched.good_in_a_row >= rise)
                    .then(|| format!("{} probes in a row went well", watched.good_in_a_row))
            }
            Err(why) => {
                watched.standing.probes_bad += 1;
                (watched.good_in_a_row, watched.bad_in_a_row) = (0, watched.bad_in_a_row.saturating_add(1));
                (!said.is_down && watched.bad_in_a_row >= fall)
                    .then(|| format!("{} probes in a row failed, the last: {why}", watched.bad_in_a_row))
            }
        };
        // Live mail has left it out, and it looks well: where it could not be reached it may be tried again.
        let is_well = watched.good_in_a_row >= rise && self.is_ejected(serial);
        let vouched = said.vouched.wrapping_add(u8::from(is_well));
        if why.is_some() || is_well {
            self.say(serial, Said { is_down: said.is_down ^ why.is_some(), vouched, ..said });
        }
        if let Some(why) = why {
            self.look(Some((serial, why)));
        }
    }

    /// Has some shard ejected it?
    fn is_ejected(&self, serial: u64) -> bool {
        self.seat(serial).is_some_and(|seat| seat.stats.iter().any(|stats| stats.healthy.get() == 0))
    }

    /// It is not probed any more: what probes have said of it counts no longer.
    pub(super) fn unprobed(&mut self, serial: u64) {
        let Some(said) = self.seat(serial).map(|seat| seat.mark.get()).filter(|said| said.is_down) else {
            return;
        };
        self.say(serial, Said { is_down: false, ..said });
        self.look(Some((serial, "it is not probed any more".to_owned())));
    }

    /// Compares how upstreams stand with how they stood, and tells of each change. `because`: a reason for one.
    fn look(&mut self, because: Option<(u64, String)>) {
        for (pool, seat) in
            self.layout.pools.iter().flat_map(|pool| pool.upstreams.iter().map(move |u| (pool, u)))
        {
            let Some(watched) = self.watched.get_mut(&seat.serial) else { continue };
            let (state, why) = state_of(seat);
            let standing = &mut watched.standing;
            if state == standing.state {
                continue;
            }
            let given =
                because.as_ref().filter(|(serial, _)| *serial == seat.serial).map(|(_, why)| why.clone());
            let why = given.unwrap_or(why);
            let (pool, name, before) = (&pool.options.name, &seat.name, standing.state.label());
            eprintln!("postlane: upstream {pool}/{name}: {before} → {}: {why}", state.label());
            (standing.state, standing.why) = (state, why);
            standing.since_unix = unix_now();
            standing.entered[state as usize] += 1;
        }
        self.look_at_pools();
    }

    /// The same of pools as a whole.
    fn look_at_pools(&mut self) {
        let now = unix_now();
        for pool in self.layout.pools.iter().filter(|pool| pool.is_live) {
            let name = &pool.options.name;
            let some = |of: fn(&PoolStats) -> u64| pool.stats.iter().any(|stats| of(stats) > 0);
            let standing = self.pools.entry(pool.options.serial).or_default();
            let panics = some(|stats| stats.panics.get());
            if standing.panic.turn(panics, now) {
                let share = f64::from(pool.options.care.panic_below_permille) / 1000.0;
                match panics {
                    true => eprintln!(
                        "postlane: pool {name}: calm → panic: fewer than {share} of its upstreams are healthy, all get mail"
                    ),
                    false => eprintln!(
                        "postlane: pool {name}: panic → calm: at least {share} of its upstreams are healthy again"
                    ),
                }
            }
            let falls_back = some(|stats| stats.falls_back.get());
            if standing.fallback.turn(falls_back, now) {
                match falls_back {
                    true => eprintln!(
                        "postlane: pool {name}: own → fallback: none of its upstreams is healthy, its fallback takes its mail"
                    ),
                    false => {
                        eprintln!("postlane: pool {name}: fallback → own: an upstream is healthy again");
                    }
                }
            }
        }
    }
}

/// How an upstream stands, and a reason if none is known better.
fn state_of(seat: &UpstreamSeat) -> (State, String) {
    let said = seat.mark.get();
    if !seat.is_live {
        return (State::Leaving, "a reload has taken it out".to_owned());
    }
    match said.order {
        board::Order::Drain => return (State::Draining, "by an operator".to_owned()),
        board::Order::Disable => return (State::Disabled, "by an operator".to_owned()),
        board::Order::Enable => {}
    }
    if said.is_down {
        return (State::Down, "its probes fail".to_owned());
    }
    let ejected = seat.stats.iter().enumerate().find(|(_, stats)| stats.healthy.get() == 0);
    match ejected {
        Some((shard, stats)) => {
            let why = match stats.ejected_for.get() {
                2 => "it fails far more often than the others",
                3 => "it does not answer while the others do",
                _ => "live mail failed there again and again",
            };
            (State::Ejected, format!("{why} (shard {shard})"))
        }
        None => (State::Up, "its time out is over, live mail tries it".to_owned()),
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
