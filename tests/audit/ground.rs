//! One shard on the loopback, with sinks behind it and the generator before it.

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
use postlane::shard::mailbox::mailboxes;
use postlane::shard::{Orders, Shard};
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
    stats: Arc<Stats>,
    sinks: Vec<sink::Handle>,
    stop: Arc<AtomicBool>,
    load: JoinHandle<load::LoadResult>,
    _spool: Option<Scratch>,
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
    pub(crate) fn new(mode: Mode, load: Load) -> Ground {
        let sinks: Vec<sink::Handle> = (0..SINKS)
            .map(|_| {
                let listen = vec!["127.0.0.1:0".parse().unwrap()];
                sink::spawn(sink::Options { listen, ..sink::Options::default() }).unwrap()
            })
            .collect();
        let stats = Arc::new(Stats::new(1, &[SINKS]));
        let arenas = Arenas::new(1, BUFFERS).unwrap();
        let mut net = Uring::new(UringOptions::default(), arenas, RingTable::new(1)).unwrap();
        let mut dispatch = Dispatch::new(options(mode, &sinks), stats.clone(), 1_700_000_000_000);
        let spool = (mode != Mode::Through).then(Scratch::new);
        if let Some(Scratch(root)) = &spool {
            net.use_spool(root.clone(), true);
            dispatch.set_spool(Spool::new(spool::Options::default(), 1_700_000_000_000));
        }
        let mailbox = mailboxes::<Letter>(1).remove(0);
        let all: Arc<[Arc<Stats>]> = Arc::new([stats.clone()]);
        let mut shard = Shard::new(ShardId(0), net, dispatch, mailbox, Arc::new(Orders::default()), all);
        let target = shard.listen(ListenerId(0), "127.0.0.1:0".parse().unwrap()).unwrap();
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
        Ground { shard, stats, sinks, stop, load, _spool: spool }
    }

    /// Turns until `count` more messages have been accepted; how many it was.
    pub(crate) fn take(&mut self, count: u64) -> u64 {
        let accepted = || self.stats.listeners[0].accepted.get();
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
        let arrived: u64 = self.sinks.drain(..).map(|sink| sink.stop().unwrap().0.messages).sum();
        assert!(arrived >= result.acknowledged, "{arrived} of {} messages arrived", result.acknowledged);
    }
}

fn options(mode: Mode, sinks: &[sink::Handle]) -> Options {
    let upstream =
        |(n, sink): (usize, &sink::Handle)| options::Upstream::new(format!("mta{n}"), sink.addresses()[0], 1);
    Options {
        shard: ShardId(0),
        shards: 1,
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
            upstreams: sinks.iter().enumerate().map(upstream).collect(),
            ..options::Pool::default()
        }],
        routes: std::sync::Arc::default(),
        board: Arc::default(),
    }
}
