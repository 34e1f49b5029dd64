//! From a checked configuration to running shards.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::translate::shard_options;
use super::{Bound, GOODBYE, View};
use crate::config::{Config, Machine};
use crate::dispatch::options::Options;
use crate::dispatch::{Dispatch, Letter};
use crate::handle::{ListenerId, ShardId};
use crate::net::Net;
use crate::net::uring::{self, Uring, UringOptions};
use crate::observe::prometheus::Names;
use crate::observe::{Scoreboard, Stats};
use crate::shard::mailbox::{Mailbox, mailboxes};
use crate::shard::{Order, Orders, Shard};
use crate::sys::arena::{Arenas, BUFFER_BYTES};
use crate::sys::ring_table::RingTable;
use crate::sys::{clock, files};

/// How often the wall clock is compared with the shards' own.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(5);
/// Fewer buffers than this and a shard could not work.
const BUFFERS_MIN: u64 = 512;

/// What kept it from starting or going on.
#[derive(Debug)]
pub struct Failure {
    /// The exit code, as in sysexits(3).
    pub exit: u8,
    /// What, where, and what to do.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    pub(super) fn os(what: &str, why: &str, remedy: &str) -> Failure {
        Failure { exit: 71, message: format!("{what} cannot be started: {why}; {remedy}") }
    }

    pub(super) fn internal(why: &str) -> Failure {
        Failure { exit: 70, message: format!("internal error: {why}") }
    }

    pub(super) fn listen(what: &str, address: SocketAddr, error: &std::io::Error) -> Failure {
        let remedy = match error.raw_os_error() {
            // In words already, with the remedy.
            None => return Failure { exit: 71, message: format!("{what} cannot listen: {error}") },
            Some(libc::EADDRINUSE) => {
                "another program listens there: `ss -ltnp` names it; stop it or choose another port"
            }
            Some(libc::EADDRNOTAVAIL) => "this machine has no such address: `ip addr` lists those it has",
            Some(libc::EACCES | libc::EPERM) => {
                "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a systemd unit)"
            }
            Some(_) => "see the error for what to change",
        };
        Failure { exit: 71, message: format!("{what} cannot listen on {address}: {error}; {remedy}") }
    }
}

/// Shards at work.
#[derive(Debug)]
pub struct Running {
    /// What the control thread sees of them.
    pub view: Arc<View>,
    /// Where they listen.
    pub bound: Vec<Bound>,
    /// What the kernel lets them do, in words.
    pub features: String,
    /// The CPU of each.
    pub cpus: Vec<u32>,
    threads: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Running {
    /// Waits for the end of all shards.
    ///
    /// # Errors
    /// A shard that ended otherwise than by order.
    pub fn join(self) -> Result<(), Failure> {
        let ends = self.threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => Err(Failure::internal("a shard's thread panicked")),
        });
        ends.fold(Ok(()), Result::and)
    }
}

/// All that one shard's thread is given.
struct Seat {
    id: ShardId,
    cpu: u32,
    options: Options,
    uring: UringOptions,
    arenas: Arc<Arenas>,
    rings: Arc<RingTable>,
    mailbox: Mailbox<Letter>,
    orders: Arc<Orders>,
    stats: Arc<[Arc<Stats>]>,
    scoreboard: Arc<Scoreboard>,
    /// By listener, the addresses to listen on.
    listen: Vec<(ListenerId, SocketAddr)>,
}

/// What a shard says once it listens.
struct Ready {
    bound: Vec<(ListenerId, SocketAddr)>,
    features: String,
}

/// Starts a shard on each of its CPUs, listening.
///
/// # Errors
/// Whatever the kernel refused, with the remedy; nothing runs then.
pub fn launch(config: &Config, machine: &Machine) -> Result<Running, Failure> {
    let files_max = files::raise_limit()
        .map_err(|e| Failure::os("postlane", &e.to_string(), "see RLIMIT_NOFILE in getrlimit(2)"))?;
    for address in config.listeners.iter().flat_map(|listener| &listener.addresses) {
        // The shards share their ports (SO_REUSEPORT), and would share them with another instance too.
        TcpListener::bind(address).map_err(|error| Failure::listen("postlane", *address, &error))?;
    }
    let cpus = config.shard_cpus(machine);
    let shards =
        u16::try_from(cpus.len()).map_err(|_| Failure::internal("more shards than can be numbered"))?;
    let buffers = (config.memory / u64::from(shards) / BUFFER_BYTES as u64).max(BUFFERS_MIN) as usize;
    let arenas = Arenas::new(usize::from(shards), buffers).map_err(|e| {
        Failure::os("postlane", &e.to_string(), "lower `memory`, the bytes for message bodies")
    })?;
    let rings = RingTable::new(usize::from(shards));
    let fleets: Vec<usize> = config.pools.iter().map(|pool| pool.upstreams.len()).collect();
    let stats: Arc<[Arc<Stats>]> =
        (0..shards).map(|_| Arc::new(Stats::new(config.listeners.len(), &fleets))).collect();
    let scoreboard = Arc::new(Scoreboard::new(usize::from(shards), &fleets));
    let orders = Arc::new(Orders::default());
    let view =
        View { names: names(config), shards: stats.clone(), orders: orders.clone(), started: Instant::now() };
    let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut running = Running {
        view: Arc::new(view),
        bound: Vec::new(),
        features: String::new(),
        cpus,
        threads: Vec::new(),
    };
    let mut listen: Vec<(ListenerId, SocketAddr)> = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        listen.extend(listener.addresses.iter().map(|address| (ListenerId(index as u16), *address)));
    }
    for (index, mailbox) in mailboxes::<Letter>(shards).into_iter().enumerate() {
        let id = ShardId(index as u16);
        let cpu = running.cpus[index];
        let seat = Seat {
            id,
            cpu,
            options: shard_options(config, id, shards, epoch_ms),
            uring: uring_options(config, id, cpu, files_max),
            arenas: arenas.clone(),
            rings: rings.clone(),
            mailbox,
            orders: orders.clone(),
            stats: stats.clone(),
            scoreboard: scoreboard.clone(),
            listen: listen.clone(),
        };
        match start(seat) {
            Ok((thread, ready)) => {
                running.threads.push(thread);
                // A port of the kernel's choice is the same for all shards.
                listen.clone_from(&ready.bound);
                running.features = ready.features;
            }
            Err(failure) => {
                orders.give(Order::Stop);
                let _ = running.join();
                return Err(failure);
            }
        }
    }
    running.bound = listen
        .iter()
        .map(|(id, address)| Bound {
            name: config.listeners[usize::from(id.0)].name.clone(),
            address: *address,
        })
        .collect();
    Ok(running)
}

/// Starts one shard's thread and waits until it listens.
fn start(seat: Seat) -> Result<(JoinHandle<Result<(), Failure>>, Ready), Failure> {
    let (tell, told) = mpsc::channel();
    let name = format!("shard-{}", seat.id.0);
    let thread = Builder::new()
        .name(name)
        .spawn(move || match seat.sit_down() {
            Ok((shard, ready, orders)) => {
                let _ = tell.send(Ok(ready));
                work(shard, &orders);
                Ok(())
            }
            Err(failure) => {
                let _ = tell.send(Err(failure));
                Ok(())
            }
        })
        .map_err(|e| {
            Failure::os("a shard's thread", &e.to_string(), "raise the limit of processes (ulimit -u)")
        })?;
    match told.recv() {
        Ok(Ok(ready)) => Ok((thread, ready)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::internal("a shard ended before it began")),
    }
}

impl Seat {
    /// On the shard's own thread: the ring must be made by whoever uses it.
    fn sit_down(self) -> Result<(Shard<Uring>, Ready, Arc<Orders>), Failure> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu as usize }) {
            eprintln!(
                "postlane: shard {} could not be pinned to CPU {}; it runs unpinned",
                self.id.0, self.cpu
            );
        }
        let net = Uring::new(self.uring, self.arenas, self.rings)
            .map_err(|error: uring::Error| Failure { exit: 71, message: error.to_string() })?;
        let features = net.features().to_string();
        let mut dispatch = Dispatch::new(self.options, self.stats[self.id.index()].clone(), unix_at_zero());
        dispatch.set_scoreboard(self.scoreboard);
        let mut shard = Shard::new(self.id, net, dispatch, self.mailbox, self.orders.clone(), self.stats);
        let mut bound = Vec::new();
        for (listener, address) in self.listen {
            let at = shard
                .listen(listener, address)
                .map_err(|error| Failure::listen(&format!("shard {}", self.id.0), address, &error))?;
            bound.push((listener, at));
        }
        Ok((shard, Ready { bound, features }, self.orders))
    }
}

/// A shard's life.
fn work<N: Net>(mut shard: Shard<N>, orders: &Orders) {
    let mut look_at = shard.now();
    let mut stopped_at = None;
    loop {
        shard.turn();
        if shard.has_ended() {
            return;
        }
        if orders.get() == Order::Stop {
            let stopped_at = *stopped_at.get_or_insert_with(Instant::now);
            if stopped_at.elapsed() > GOODBYE {
                return;
            }
        }
        // The wall clock may be set; dates follow within seconds.
        if shard.now() >= look_at {
            look_at = shard.now() + WALL_CLOCK_EVERY;
            shard.set_unix_at_zero(unix_at_zero());
        }
    }
}

fn unix_at_zero() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    unix.as_secs() as i64 - (clock::now().as_nanos() / 1_000_000_000) as i64
}

fn names(config: &Config) -> Names {
    let pool = |pool: &crate::config::Pool| {
        (pool.name.clone(), pool.upstreams.iter().map(|upstream| upstream.name.clone()).collect())
    };
    Names {
        listeners: config.listeners.iter().map(|listener| listener.name.clone()).collect(),
        pools: config.pools.iter().map(pool).collect(),
    }
}

fn uring_options(config: &Config, shard: ShardId, cpu: u32, files_max: u64) -> UringOptions {
    let sessions: u64 = config.listeners.iter().map(|listener| u64::from(listener.max_sessions)).sum();
    let links: u64 =
        config.pools.iter().map(|pool| u64::from(pool.links_per_shard) * pool.upstreams.len() as u64).sum();
    // Some more, for those that are told that there are too many.
    let wanted = sessions + sessions / 16 + 64;
    let (accepted_max, opened_max) = (wanted.min(files_max - (links + 1).min(files_max / 2)), links + 1);
    if accepted_max < wanted && shard == ShardId(0) {
        eprintln!(
            "postlane: room for {accepted_max} sessions on each shard, not {wanted}: raise the limit of open files to \
             {} (`ulimit -n`, LimitNOFILE= in a systemd unit) or lower max_sessions",
            wanted + opened_max
        );
    }
    UringOptions {
        shard,
        cpu: Some(cpu),
        accepted_max: accepted_max.min(1 << 19) as u32,
        opened_max: opened_max.min(files_max / 2).min(1 << 18) as u32,
        ..UringOptions::default()
    }
}
