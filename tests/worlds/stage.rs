//! Whole shards in a simulated world, and the one clock that drives them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postlane::disk::sim::Platter;
use postlane::dispatch::Dispatch;
use postlane::dispatch::options::{Listener, Options, Pool, Upstream};
use postlane::dispatch::owner::ShardBy;
use postlane::handle::{ListenerId, ShardId};
use postlane::net::Inlet;
use postlane::net::sim::{Faults, SimNet, World};
use postlane::observe::{Scoreboard, Stats, UpstreamStats};
use postlane::protocol::server;
use postlane::route::{Routes, Rule};
use postlane::shard::mailbox::mailboxes;
use postlane::shard::{Desks, Edition, Order, Orders, Shard};
use postlane::time::Instant;

use crate::disk::Keep;

/// Turns without any time passing after which something is going round in circles.
const TURNS_AT_ONCE_MAX: usize = 20_000;

/// What there was of disks that do not give back what they were given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decay {
    /// It is to be expected.
    pub(crate) is_on: bool,
    /// Bits that have flipped.
    pub(crate) flips: u64,
    /// Damages and torn writes that starts told of.
    pub(crate) reports: u64,
}

/// What the shards are told, and the network they live in.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) shards: u16,
    pub(crate) buffers: usize,
    pub(crate) shard_by: ShardBy,
    pub(crate) listener: Listener,
    pub(crate) pool: Pool,
    /// Further pools.
    pub(crate) more: Vec<Pool>,
    /// Which of them takes what; the first takes the rest.
    pub(crate) rules: Vec<Rule>,
    /// Messages are kept.
    pub(crate) keep: Option<Keep>,
    /// Starts so far.
    pub(crate) run: u64,
}

impl Setup {
    /// One shard, a quick network, and so many upstreams.
    pub(crate) fn new(seed: u64, upstreams: usize) -> Setup {
        Setup {
            seed,
            faults: Faults::default(),
            shards: 1,
            buffers: 256,
            shard_by: ShardBy::Address,
            listener: Listener {
                name: "apps".into(),
                trusted: ["127.0.0.0/8", "10.66.0.0/24"].map(|text| text.parse().unwrap()).to_vec(),
                server: server::Options { hostname: "out1.example.net".into(), ..Default::default() },
                sessions_max: 1000,
                idle_timeout: Duration::from_secs(300),
            },
            pool: Pool {
                reply_timeout: Duration::from_secs(60),
                upstreams: (0..upstreams)
                    .map(|n| Upstream::new(format!("mta{}", n + 1), upstream_address(n), 1))
                    .collect(),
                ..Pool::default()
            },
            more: Vec::new(),
            rules: Vec::new(),
            keep: None,
            run: 0,
        }
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        std::iter::once(&self.pool).chain(&self.more)
    }

    /// How many upstreams each pool has.
    fn fleets(&self) -> Vec<usize> {
        self.pools().map(|pool| pool.upstreams.len()).collect()
    }

    /// What that shard's dispatch is told.
    pub(crate) fn options(&self, shard: ShardId) -> Options {
        Options {
            shard,
            shards: self.shards,
            shard_by: self.shard_by,
            hostname: "out1.example.net".into(),
            epoch_ms: 1_700_000_000_000 + 1_000_003 * self.run,
            seed: self.seed.wrapping_add(u64::from(shard.0)),
            bounce_from: "MAILER-DAEMON@out1.example.net".into(),
            buffers: self.buffers,
            keep: self.keep.as_ref().map(|keep| keep.options.clone()).unwrap_or_default(),
            listeners: vec![self.listener.clone()],
            pools: self.pools().cloned().collect(),
            routes: Arc::new(Routes::new(self.rules.clone(), 0)),
            board: Arc::default(),
        }
    }
}

/// Where the n-th upstream listens.
pub(crate) fn upstream_address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 25))
}

/// Shards that a world has room for that starts now with more, now with fewer.
const SHARDS_MAX: usize = 4;

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) setup: Setup,
    pub(crate) shards: Vec<Shard<SimNet>>,
    pub(crate) stats: Arc<[Arc<Stats>]>,
    /// What was counted in earlier runs.
    past: Vec<Arc<[Arc<Stats>]>>,
    /// Where messages are kept.
    pub(crate) platter: Platter,
    /// Milliseconds since 1970 at the clock's zero.
    pub(crate) unix_at_zero_ms: i64,
    pub(crate) inlet: SocketAddr,
    orders: Arc<Orders>,
    pub(crate) desks: Vec<Arc<Desks>>,
    edition: u64,
    pub(crate) order: u64,
    pub(crate) decay: Decay,
    /// Messages found in the spool at all starts.
    pub(crate) found: u64,
}

impl Stage {
    pub(crate) fn new(setup: &Setup) -> Stage {
        let shards = if setup.keep.is_some() { SHARDS_MAX } else { usize::from(setup.shards) };
        let world = World::new(setup.seed, setup.faults.clone(), shards, setup.buffers);
        let faults = setup.keep.as_ref().map(|keep| keep.faults.clone()).unwrap_or_default();
        let mut stage = Stage {
            world,
            setup: setup.clone(),
            shards: Vec::new(),
            stats: Arc::default(),
            past: Vec::new(),
            platter: Platter::new(setup.seed, faults),
            unix_at_zero_ms: 1_700_000_000_000,
            inlet: SocketAddr::from(([127, 0, 0, 1], 2525)),
            orders: Arc::default(),
            desks: Vec::new(),
            edition: 0,
            order: 0,
            decay: Decay::default(),
            found: 0,
        };
        stage.start();
        stage
    }

    /// Starts the shards, with what the disk has.
    pub(crate) fn start(&mut self) {
        let fleets = self.setup.fleets();
        let shards = usize::from(self.setup.shards);
        self.orders = Arc::default();
        self.desks = (0..shards).map(|_| Arc::default()).collect();
        let stats: Arc<[Arc<Stats>]> = (0..shards).map(|_| Arc::new(Stats::new(1, &fleets))).collect();
        self.past.push(std::mem::replace(&mut self.stats, stats));
        let scoreboard = Arc::new(Scoreboard::new(shards, &fleets));
        let spools = self.recover();
        let all = mailboxes(self.setup.shards).into_iter().zip(spools).enumerate();
        let all = all.map(|(n, (mailbox, spool))| {
            let id = ShardId(n as u16);
            let options = self.setup.options(id);
            let mut dispatch = Dispatch::new(options, self.stats[n].clone(), self.unix_at_zero_ms);
            dispatch.set_scoreboard(scoreboard.clone());
            let mut net = self.world.net(id);
            if let Some(spool) = spool {
                net.use_disk(self.platter.clone());
                dispatch.set_spool(spool);
            }
            let mut shard = Shard::new(id, net, dispatch, mailbox, self.orders.clone(), self.stats.clone());
            shard.listen(ListenerId(0), self.inlet).expect("the address is free");
            shard.attend(self.desks[n].clone());
            shard
        });
        self.shards = all.collect();
        self.setup.run += 1;
        // From its first turn on a shard is woken when there is mail.
        self.shards.iter_mut().for_each(Shard::turn);
    }

    /// The next start has so much memory. To be said between a crash and that.
    pub(crate) fn set_buffers(&mut self, buffers: usize) {
        assert!(self.shards.is_empty(), "their buffers are in use");
        self.setup.buffers = buffers;
        self.world.set_buffers(SHARDS_MAX, buffers);
    }

    pub(crate) fn now(&self) -> Instant {
        self.world.now()
    }

    /// Gives the order, and lets every shard hear it.
    pub(crate) fn order(&mut self, order: Order) {
        self.orders.give(order);
        self.shards.iter_mut().for_each(Shard::turn);
    }

    /// Has the shards go by another setup: more upstreams, or some that are leaving.
    pub(crate) fn reload(&mut self, setup: &Setup) {
        let fleets = setup.fleets();
        let more = |stats: &Arc<Stats>| {
            let mut stats = Stats::clone(stats);
            for (pool, upstreams) in stats.pools.iter_mut().zip(&fleets) {
                pool.resize_with(*upstreams, || Arc::new(UpstreamStats::healthy()));
            }
            Arc::new(stats)
        };
        self.stats = self.stats.iter().map(more).collect();
        self.edition += 1;
        let scoreboard = Arc::new(Scoreboard::new(self.shards.len(), &fleets));
        for (n, desk) in self.desks.iter().enumerate() {
            let edition = Edition {
                options: setup.options(ShardId(n as u16)),
                stats: self.stats.clone(),
                scoreboard: scoreboard.clone(),
                listen: vec![Some(Inlet { address: self.inlet, past_kernel: false })],
            };
            desk.editions.offer(self.edition, edition);
        }
        self.shards.iter_mut().for_each(Shard::turn);
        assert!(self.desks.iter().all(|desk| desk.editions.answer(self.edition) == Some(Ok(()))));
    }

    /// Lets the shards turn until none has anything to do now.
    pub(crate) fn settle(&mut self) {
        for _ in 0..TURNS_AT_ONCE_MAX {
            let now = self.now();
            let mut runnable = self.world.runnable_shards();
            // Disks still answer those that are gone.
            runnable.retain(|shard| shard.index() < self.shards.len());
            if runnable.is_empty() {
                runnable = self
                    .shards
                    .iter()
                    .enumerate()
                    .filter(|(_, shard)| shard.next_deadline() <= now)
                    .map(|(n, _)| ShardId(n as u16))
                    .collect();
            }
            if runnable.is_empty() {
                return;
            }
            for shard in runnable {
                self.shards[shard.index()].turn();
            }
        }
        panic!("the shards never come to rest at {:?}", self.now());
    }

    /// When something happens by itself.
    pub(crate) fn next_due(&self) -> Instant {
        self.shards
            .iter()
            .map(Shard::next_deadline)
            .chain(self.world.next_due())
            .min()
            .unwrap_or(Instant::NEVER)
    }

    pub(crate) fn advance_to(&mut self, time: Instant) {
        self.world.advance_to(time.max(self.now()));
    }

    pub(crate) fn under_way(&self) -> usize {
        self.shards.iter().map(|shard| shard.dispatch().under_way()).sum()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.shards.iter().all(Shard::has_ended)
    }

    /// It takes no more mail.
    pub(crate) fn is_leaving(&self) -> bool {
        self.orders.get() != Order::Run
    }

    /// The sum of one counter over the shards and all their runs.
    pub(crate) fn sum(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        let past = self.past.iter().flat_map(|stats| stats.iter());
        past.chain(self.stats.iter()).map(|stats| of(stats)).sum()
    }

    /// Everything is over: nothing may be left of it anywhere.
    pub(crate) fn assert_nothing_left(&self) {
        for (n, shard) in self.shards.iter().enumerate() {
            assert!(shard.dispatch().is_empty(), "shard {n}: dispatch is not empty");
            assert_eq!(shard.net().buffers_held(), 0, "shard {n}: buffers held");
            assert_eq!(shard.net().streams(), 0, "shard {n}: streams");
            if let Some(usage) = shard.dispatch().spool().map(postlane::spool::Spool::usage) {
                assert_eq!((usage.messages, usage.live_bytes), (0, 0), "shard {n}: kept");
            }
            shard.dispatch().publish(self.now());
            let stats = &self.stats[n];
            assert_eq!(stats.listeners[0].sessions.get(), 0, "shard {n}: sessions counted");
            for (u, upstream) in stats.pools.iter().flatten().enumerate() {
                let gauges = [&upstream.idle, &upstream.busy, &upstream.opening, &upstream.in_flight];
                let gauges = gauges.map(|gauge| gauge.get());
                assert_eq!(gauges, [0; 4], "shard {n}, upstream {u}: idle, busy, opening, in flight");
            }
        }
    }
}
