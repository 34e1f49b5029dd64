//! Shards on the loopback, with sinks behind them and the generator before them; the first one is watched.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postlane::balance::Policy;
use postlane::dispatch::options::{self, Options};
use postlane::dispatch::{Dispatch, KeepOptions, Letter, Mode, owner};
use postlane::handle::{ListenerId, ShardId};
use postlane::net::uring::{Uring, UringOptions};
use postlane::observe::Stats;
use postlane::protocol::server;
use postlane::shard::mailbox::{Mailbox, mailboxes};
use postlane::shard::{Order, Orders, Shard};
use postlane::spool::{self, Spool};
use postlane::sys::arena::Arenas;
use postlane::sys::ring_table::RingTable;
use postlane_bench::load::{self, Exchange};
use postlane_bench::{progress, sink};

/// Sessions at the same time.
const SESSIONS: usize = 64;
/// Upstreams.
const SINKS: usize = 3;
/// Nothing takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients send, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) exchange: Exchange,
    /// Unanswered messages of a client.
    pub(crate) in_flight: usize,
    pub(crate) size: &'static str,
    pub(crate) recipients: usize,
}

pub(crate) struct Ground {
    shard: Shard<Uring>,
    /// The other shards, on threads of their own.
    others: Vec<JoinHandle<()>>,
    shared: Shared,
    sinks: Vec<sink::Handle>,
    stop: Arc<AtomicBool>,
    load: JoinHandle<load::LoadResult>,
    _spool: Option<Scratch>,
}

/// What shards have in common.
#[derive(Clone)]
struct Shared {
    arenas: Arc<Arenas>,
    rings: Arc<RingTable>,
    stats: Arc<[Arc<Stats>]>,
    orders: Arc<Orders>,
    upstreams: Arc<[SocketAddr]>,
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postlane-audit-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Of memory for bodies: never short.
const BUFFERS: usize = 4_096;

impl Ground {
    pub(crate) fn new(mode: Mode, shards: u16, load: Load) -> Ground {
        let sinks: Vec<sink::Handle> = (0..SINKS)
            .map(|_| {
                let listen = vec!["127.0.0.1:0".parse().unwrap()];
                sink::spawn(sink::Options { listen, ..sink::Options::default() }).unwrap()
            })
            .collect();
        let shared = Shared::new(shards, &sinks);
        let mut boxes = mailboxes::<Letter>(shards).into_iter();
        let spool = (mode != Mode::Through).then(Scratch::new);
        let (first, at) = (boxes.next().unwrap(), "127.0.0.1:0".parse().unwrap());
        let (shard, target) = shared.shard(mode, ShardId(0), first, at, spool.as_ref());
        let others = (1..).zip(boxes).map(|(id, mailbox)| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let (mut shard, _) = shared.shard(mode, ShardId(id), mailbox, target, None);
                while !shard.has_ended() {
                    shard.turn();
                }
            })
        });
        let others = others.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let load = {
            let stop = stop.clone();
            let options = load::Options {
                sessions: SESSIONS,
                size: load.size.parse().unwrap(),
                recipients: load.recipients,
                exchange: load.exchange,
                in_flight: load.in_flight,
                ..load::Options::to(target)
            };
            std::thread::spawn(move || load::run(&options, &stop, &mut progress::Line::new()).unwrap())
        };
        Ground { shard, others, shared, sinks, stop, load, _spool: spool }
    }

    /// Turns until `count` more messages have been accepted; how many it was.
    pub(crate) fn take(&mut self, count: u64) -> u64 {
        let accepted = || self.shared.stats[0].listeners[0].accepted.get();
        let before = accepted();
        let deadline = Instant::now() + PATIENCE;
        while accepted() < before + count {
            assert!(Instant::now() < deadline && !self.load.is_finished(), "no more messages come");
            self.shard.turn();
        }
        accepted() - before
    }

    /// `io_uring_enter` calls so far.
    pub(crate) fn enters(&self) -> u64 {
        self.shard.net().enters()
    }

    /// Letters that it has sent to other shards so far.
    pub(crate) fn letters(&self) -> u64 {
        self.shared.stats[0].letters.get()
    }

    /// What the spool has and has done.
    pub(crate) fn usage(&self) -> spool::Usage {
        self.shard.dispatch().spool().map(Spool::usage).unwrap_or_default()
    }

    /// Lets the generator finish; all that was acknowledged must have arrived.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while !self.load.is_finished() {
            assert!(Instant::now() < deadline, "the generator does not end");
            self.shard.turn();
        }
        let result = self.load.join().unwrap();
        self.shared.orders.give(Order::Stop);
        while !(self.shard.has_ended() && self.others.iter().all(JoinHandle::is_finished)) {
            assert!(Instant::now() < deadline, "a shard does not end");
            self.shard.turn();
        }
        self.others.drain(..).for_each(|shard| shard.join().unwrap());
        let arrived: u64 = self.sinks.drain(..).map(|sink| sink.stop().unwrap().0.messages).sum();
        assert!(arrived >= result.acknowledged, "{arrived} of {} messages arrived", result.acknowledged);
    }
}

impl Shared {
    fn new(shards: u16, sinks: &[sink::Handle]) -> Shared {
        let shards = usize::from(shards);
        Shared {
            arenas: Arenas::new(shards, BUFFERS).unwrap(),
            rings: RingTable::new(shards),
            stats: (0..shards).map(|_| Arc::new(Stats::new(1, &[SINKS]))).collect(),
            orders: Arc::default(),
            upstreams: sinks.iter().map(|sink| sink.addresses()[0]).collect(),
        }
    }

    /// One of them, and where it listens.
    fn shard(
        &self,
        mode: Mode,
        id: ShardId,
        mailbox: Mailbox<Letter>,
        at: SocketAddr,
        spool: Option<&Scratch>,
    ) -> (Shard<Uring>, SocketAddr) {
        let uring = UringOptions { shard: id, ..UringOptions::default() };
        let mut net = Uring::new(uring, self.arenas.clone(), self.rings.clone()).unwrap();
        let options = options(mode, id, self.stats.len() as u16, &self.upstreams);
        let mut dispatch = Dispatch::new(options, self.stats[id.index()].clone(), 1_700_000_000_000);
        if let Some(Scratch(root)) = spool {
            net.use_spool(root.clone(), true);
            dispatch.set_spool(Spool::new(spool::Options::default(), 1_700_000_000_000));
        }
        let mut shard = Shard::new(id, net, dispatch, mailbox, self.orders.clone(), self.stats.clone());
        let bound = shard.listen(ListenerId(0), at).unwrap();
        (shard, bound)
    }
}

fn options(mode: Mode, shard: ShardId, shards: u16, upstreams: &[SocketAddr]) -> Options {
    let upstream =
        |(n, address): (usize, &SocketAddr)| options::Upstream::new(format!("mta{n}"), *address, 1);
    Options {
        shard,
        shards,
        shard_by: owner::ShardBy::Address,
        hostname: "lane.test".into(),
        epoch_ms: 1_700_000_000_000,
        seed: 1,
        bounce_from: "MAILER-DAEMON@lane.test".into(),
        buffers: BUFFERS - usize::from(UringOptions::default().receive_buffers),
        keep: KeepOptions {
            mode,
            through_timeout: PATIENCE,
            delay_warning: PATIENCE,
            retry: vec![PATIENCE],
            max_age: 100 * PATIENCE,
        },
        listeners: vec![options::Listener {
            name: "lane".into(),
            trusted: vec!["127.0.0.0/8".parse().unwrap()],
            server: server::Options { hostname: "lane.test".into(), ..server::Options::default() },
            sessions_max: 1_000,
            idle_timeout: PATIENCE,
        }],
        pools: vec![options::Pool {
            policy: Policy::LeastResponseTime,
            links_max: 32,
            idle_links: 32,
            idle_timeout: PATIENCE,
            transactions_per_link: 0,
            source_addresses: Vec::new(),
            connect_timeout: PATIENCE,
            reply_timeout: PATIENCE,
            attempts: 3,
            chunking: true,
            fallback: None,
            upstreams: upstreams.iter().enumerate().map(upstream).collect(),
            ..options::Pool::default()
        }],
        routes: std::sync::Arc::default(),
        board: Arc::default(),
    }
}
